package registrar_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"
	"pgregory.net/rapid"

	"github.com/herald-nats/herald/pkg/audit"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/keystore"
	"github.com/herald-nats/herald/pkg/ledger"
	"github.com/herald-nats/herald/pkg/ledger/ledgertest"
	"github.com/herald-nats/herald/pkg/ledger/memory"
	"github.com/herald-nats/herald/pkg/registrar"
	"github.com/herald-nats/herald/pkg/trust"
)

// turningWorld is a platform in which a role's key is replaced: servers and issuers that hear late
// or not at all, registrars that fail and see what is old, and records that come late.
type turningWorld struct {
	t       testing.TB
	p       *ledgertest.Platform
	store   *memory.Decisions
	faults  *ledgertest.Faults
	account ident.AccountKey
	servers []uint64            // the base version that each holds
	keys    map[uint64][]string // of the role, by base version
	issuers []*modelIssuer
	rotors  []*modelRotor
	live    []modelCredential
	rushed  bool // an emergency came: who is cut off by it is so on purpose
}

type modelIssuer struct {
	region ident.Region
	writer ident.UserKey
	chain  int
	n      uint64
	at     *ledger.Document // by which it issues
	cut    bool             // its region is cut off
	queue  []audit.Block    // not read yet
}

type modelRotor struct {
	*registrar.Rotor
	known *ledger.Projection
	read  time.Time
	late  []ledger.Rotation // as it saw them a while ago
}

type modelCredential struct {
	key     string
	expires time.Time
}

const (
	modelLife   = time.Hour
	modelMargin = 5 * time.Minute
)

func newTurningWorld(t testing.TB, seed uint64) *turningWorld {
	p := ledgertest.NewPlatform(t, "turning", time.Unix(1790000000, 0))
	w := &turningWorld{t: t, p: p, store: new(memory.Decisions), account: p.Account(t, "CHAT"), servers: []uint64{1, 1, 1}, keys: map[uint64][]string{}}
	w.faults = ledgertest.NewFaults(seed, 12)
	public := p.Public(t, 1, 1)
	d := &ledger.Document{Public: public, Policy: p.Policy(t), Names: ledger.DefaultNameRules()}
	for i, r := range public.Regions {
		d.Servers = append(d.Servers, ledger.Servers{Region: r.Name, Names: []ident.Name{must(ident.ParseName(fmt.Sprintf("server-%d", i)))}})
	}
	decider := p.Decider(w.store, 0)
	if _, err := decider.PutDocument(t.Context(), must(d.Sign(p.Signer(0), p.Now()))); err != nil {
		t.Fatal(err)
	}
	c := jwt.NewAccountClaims(w.account.String())
	c.Name = "CHAT"
	s := jwt.NewUserScope()
	s.Key, s.Role = public.Accounts[0].Roles[0].Key.String(), "member"
	s.Template.Pub.Allow.Add("chat.>")
	c.SigningKeys.AddScopedSigner(s)
	if _, err := decider.PutBase(t.Context(), w.account, ledger.Base{JWT: must(trust.SignAccount(c, 1, p.Signing[0], p.Now()))}, 0, p.Now()); err != nil {
		t.Fatal(err)
	}
	w.keys[1] = []string{s.Key}
	for i, r := range public.Regions {
		k := must(ident.ParseUserKey(p.Key(t, keystore.User, fmt.Sprintf("issuer %d", i)).Public()))
		w.issuers = append(w.issuers, &modelIssuer{region: r.Name, writer: k})
	}
	for i := range 2 {
		known := ledger.NewProjection(nil)
		r := &modelRotor{known: known, read: p.Now()}
		store := w.faults.Decisions(w.store)
		r.Rotor = &registrar.Rotor{
			Decider: func() *ledger.Decider {
				d := p.Decider(store, i)
				d.Decided = func(e ledger.Entry) { known.Apply(e) }
				return d
			},
			Signer: p.Signing[i], Document: func() *ledger.Document { d, _ := known.Document(); return d }, Ledger: known, Operator: p.Operator,
			Confirm: w.confirm, Writers: &registrar.Writers{Issues: func(s string) bool { return s == "issuer" }},
			Read: func(string) time.Time { return r.read }, Margin: modelMargin, Least: 3 * audit.HeadEvery,
			Log: slog.New(slog.NewTextHandler(io.Discard, nil)), Now: p.Now,
		}
		w.rotors = append(w.rotors, r)
		w.learns(r)
	}
	for _, i := range w.issuers {
		w.takesOver(i)
	}
	return w
}

// document is the one that is stored.
func (w *turningWorld) document() *ledger.Document {
	token, _, err := w.store.Get(context.Background(), ledger.PlatformKey())
	if err != nil {
		w.t.Fatal(err)
	}
	e, err := w.p.Opener().Open(ledger.PlatformKey().String(), token)
	if err != nil {
		w.t.Fatal(err)
	}
	return e.Body.(*ledger.Document) //nolint:forcetypeassert // it was opened as one
}

// base gives the version that is stored, and notes its keys.
func (w *turningWorld) base() (uint64, ledger.Entry) {
	key := ledger.BaseKey(w.account)
	token, _, err := w.store.Get(context.Background(), key)
	if err != nil {
		w.t.Fatal(err)
	}
	e, err := w.p.Opener().Open(key.String(), token)
	if err != nil {
		w.t.Fatal(err)
	}
	c := must(w.p.Operator.VerifyAccount(e.Body.(ledger.Base).JWT)) //nolint:forcetypeassert // it was opened as one
	for k, s := range c.SigningKeys {
		if u, ok := s.(*jwt.UserScope); !ok || !slices.Equal(u.Template.Pub.Allow, jwt.StringList{"chat.>"}) || u.Key != k {
			w.t.Fatalf("key %s has other rights: %+v", k, s)
		}
	}
	w.keys[e.Version] = c.SigningKeys.Keys()
	return e.Version, e
}

// learns is what a registrar hears of the ledger.
func (w *turningWorld) learns(r *modelRotor) {
	_, b := w.base()
	r.known.Apply(b)
	token, _, _ := w.store.Get(context.Background(), ledger.PlatformKey())
	e, err := w.p.Opener().Open(ledger.PlatformKey().String(), token)
	if err != nil {
		w.t.Fatal(err)
	}
	r.known.Apply(e)
}

// confirm is what servers say.
func (w *turningWorld) confirm(context.Context, []ident.AccountKey, []string, bool) (registrar.Report, error) {
	newest := slices.Max(w.servers)
	rep := registrar.Report{Accounts: []registrar.Standing{{Account: w.account, Version: newest, Servers: len(w.servers)}}}
	for i, v := range w.servers {
		rep.Servers = append(rep.Servers, registrar.Server{Name: fmt.Sprintf("server-%d", i)})
		if v == newest {
			rep.Accounts[0].InLine++
		} else {
			rep.Behind = append(rep.Behind, registrar.Behind{Server: fmt.Sprintf("server-%d", i), Why: "it was away"})
		}
	}
	return rep, nil
}

// writes is a block of an issuer, which registrars read in its order.
func (w *turningWorld) writes(i *modelIssuer, content ...audit.Record) {
	i.n++
	h := audit.Head{Region: i.region, Writer: i.writer, Chain: fmt.Sprint("chain", i.chain), N: i.n, At: w.p.Now().UnixMilli()}
	if i.n == 1 {
		h.JWT = "issuer"
	}
	i.queue = append(i.queue, audit.Block{Head: h, Content: content})
}

// takesOver has an issuer work by the document that there is, and say so.
func (w *turningWorld) takesOver(i *modelIssuer) {
	i.at = w.document()
	w.writes(i, audit.Record{What: audit.Use, At: w.p.Now().UnixMilli(), Version: i.at.Public.Version.Rank()})
}

func (w *turningWorld) issues(i *modelIssuer) {
	role := i.at.Public.Accounts[0].Roles[0]
	now := w.p.Now()
	c := modelCredential{role.Key.String(), now.Add(modelLife)}
	w.live = append(w.live, c)
	w.writes(i, audit.Record{What: audit.Issue, At: now.UnixMilli(), Account: w.account, Role: role.Name, Issued: now.Unix(), Expires: c.expires.Unix()})
}

// reads has a registrar read all records of regions that can be read.
func (w *turningWorld) reads() {
	cut := false
	for _, i := range w.issuers {
		if i.cut {
			cut = true
			continue
		}
		for _, b := range i.queue {
			for _, r := range w.rotors {
				r.Writers.Took(b, w.p.Now())
			}
		}
		i.queue = nil
	}
	for _, r := range w.rotors {
		if !cut {
			r.read = w.p.Now()
		}
	}
}

// holds is what must be so at every moment: nobody has a credential that a server refuses.
func (w *turningWorld) holds() {
	w.t.Helper()
	w.base()
	w.live = slices.DeleteFunc(w.live, func(c modelCredential) bool { return !c.expires.After(w.p.Now()) })
	if w.rushed {
		return
	}
	for _, c := range w.live {
		for i, v := range w.servers {
			if !slices.Contains(w.keys[v], c.key) {
				w.t.Fatalf("server %d refuses a credential that lives for %s: %v", i, c.expires.Sub(w.p.Now()), w.document().Rotations)
			}
		}
	}
}

func (w *turningWorld) step(r *modelRotor) { w.steps(r, r.Document().Rotations) }

func (w *turningWorld) steps(r *modelRotor, all []ledger.Rotation) {
	for _, rot := range all {
		if err := r.Step(context.Background(), rot); err != nil && !errors.Is(err, ledger.ErrUnavailable) && !errors.Is(err, ledger.ErrConflict) &&
			!errors.Is(err, ledger.ErrOld) && !errors.Is(err, ledger.ErrLost) {
			w.t.Fatal(err)
		}
	}
}

// round is a while in which everybody hears of everything, and registrars do what they can.
func (w *turningWorld) round() {
	w.reads()
	for _, r := range w.rotors {
		w.learns(r)
		w.step(r)
	}
	for s := range w.servers {
		w.servers[s], _ = w.base()
	}
}

// TestRotorKeepsWhoHasACredential: whatever fails and whoever is late, no server drops a key under
// which a credential lives, nobody issues by a key that a server lacks, and all of it comes to an end.
func TestRotorKeepsWhoHasACredential(t *testing.T) {
	checks := 0
	rapid.Check(t, func(rt *rapid.T) {
		if checks++; checks > 20 && os.Getenv("HERALD_LONG") == "" {
			return // each verifies a thousand signatures
		}
		w := newTurningWorld(t, rapid.Uint64().Draw(rt, "seed"))
		decider := w.p.Decider(w.store, 0)
		begun := 0
		operate := func(f func(*ledger.Document) (*ledger.Document, error)) {
			_, err := decider.ChangeDocument(context.Background(), w.p.Signer(0), f, w.p.Now())
			if err != nil && !errors.Is(err, ledger.ErrRotating) && !errors.Is(err, ledger.ErrNotRotating) {
				t.Fatal(err)
			}
		}
		chat, member := ledgertest.Label(t, "CHAT"), ledgertest.Label(t, "member")
		begin := func(drop bool) {
			begun++
			to := w.p.Account(t, fmt.Sprint("key ", begun))
			operate(func(d *ledger.Document) (*ledger.Document, error) {
				return d.Begin(ledger.Rotation{Account: chat, Role: member, To: to, Progress: ledger.Progress{By: "test"}}, drop, w.p.Now())
			})
		}
		begin(false)
		for range rapid.IntRange(10, 100).Draw(rt, "events") {
			i := w.issuers[rapid.IntRange(0, len(w.issuers)-1).Draw(rt, "issuer")]
			r := w.rotors[rapid.IntRange(0, len(w.rotors)-1).Draw(rt, "registrar")]
			switch rapid.IntRange(0, 15).Draw(rt, "event") {
			case 0, 1:
				w.issues(i)
			case 2:
				if !i.cut {
					w.takesOver(i)
				}
			case 3:
				i.cut = !i.cut
			case 4: // it crashes, and starts again when it can read
				if !i.cut {
					i.chain, i.n = i.chain+1, 0
					w.takesOver(i)
				}
			case 5:
				for s := range w.servers {
					w.servers[s], _ = w.base()
				}
			case 6:
				w.servers[rapid.IntRange(0, len(w.servers)-1).Draw(rt, "server")], _ = w.base()
			case 7, 8:
				w.reads()
			case 9:
				r.late = r.Document().Rotations
				w.learns(r)
			case 10: // one that looked a while ago
				w.steps(r, r.late)
				w.step(r)
			case 11, 12: // a while in which nothing fails but what has failed before
				for range 3 {
					w.round()
				}
			case 13:
				w.p.Advance(time.Duration(rapid.IntRange(1, 40).Draw(rt, "minutes")) * time.Minute)
				for _, i := range w.issuers { // all say that they live
					w.writes(i)
				}
			case 14:
				if rapid.IntRange(0, 2).Draw(rt, "undo") == 0 {
					operate(func(d *ledger.Document) (*ledger.Document, error) { return d.Undo(chat, member, w.p.Now()) })
				}
			case 15:
				begin(false)
			}
			w.holds()
		}
		if rapid.IntRange(0, 3).Draw(rt, "emergency") == 0 {
			w.rushed = true
			begin(true)
		}
		// All is well again.
		w.faults.Heal()
		for left := 80; left > 0 && len(w.document().Rotations) > 0; left-- {
			w.p.Advance(20 * time.Minute) // whoever crashed may have issued something for 12 hours
			for _, i := range w.issuers {
				i.cut = false
				w.takesOver(i)
			}
			w.round()
			w.holds()
		}
		d := w.document()
		if len(d.Rotations) != 0 {
			t.Fatalf("it does not end: %+v", d.Rotations)
		}
		v, _ := w.base()
		if role := d.Public.Accounts[0].Roles[0]; len(w.keys[v]) != 1 || w.keys[v][0] != role.Key.String() || len(role.Keys()) != 1 {
			t.Fatalf("the account has %v, the document %+v", w.keys[v], role)
		}
	})
}

// TestRotorWaits: an issuer that is not heard to have gone over, and a region whose records cannot
// be read, hold the former key for as long as that lasts.
func TestRotorWaits(t *testing.T) {
	for _, what := range []string{"it does not go over", "its region is cut off"} {
		w := newTurningWorld(t, 1)
		w.faults.Heal()
		decider, chat, member := w.p.Decider(w.store, 0), ledgertest.Label(t, "CHAT"), ledgertest.Label(t, "member")
		if _, err := decider.ChangeDocument(t.Context(), w.p.Signer(0), func(d *ledger.Document) (*ledger.Document, error) {
			return d.Begin(ledger.Rotation{Account: chat, Role: member, To: w.p.Account(t, "another")}, false, w.p.Now())
		}, w.p.Now()); err != nil {
			t.Fatal(err)
		}
		late := w.issuers[1]
		while := func(over bool) {
			for range 8 {
				w.p.Advance(10 * time.Minute)
				for _, i := range w.issuers {
					if over || i != late {
						w.takesOver(i)
					}
					w.writes(i)
				}
				w.round()
				w.issues(late)
				w.holds()
			}
		}
		stage := func() ledger.Stage { _, r := w.document().Rotation(chat, member); return r.Stage }
		while(false)
		if stage() != ledger.StageAdd {
			t.Errorf("%s: %s", what, stage())
		}
		w.takesOver(late)
		w.reads()
		w.step(w.rotors[0])
		if stage() != ledger.StageIssue {
			t.Fatalf("%s: %s", what, stage())
		}
		if late.cut = what == "its region is cut off"; late.cut {
			// The one that was heard of ends in order; another starts there that nobody has heard of.
			end := audit.Head{Region: late.region, Writer: late.writer, Chain: "chain0", N: late.n + 1, At: w.p.Now().UnixMilli(), End: true}
			for _, r := range w.rotors {
				r.Writers.Took(audit.Block{Head: end}, w.p.Now())
			}
			late.chain, late.n = 1, 0
		}
		while(false)
		if stage() != ledger.StageIssue {
			t.Errorf("%s: %s", what, stage())
		}
		late.cut = false
		while(true)
		while(true)
		if stage() != "" {
			t.Errorf("%s: in the end: %s", what, stage())
		}
	}
}

// TestWriters: who has not said by which document it issues is waited for, unless it is dead.
func TestWriters(t *testing.T) {
	w := newTurningWorld(t, 1)
	w.faults.Heal()
	const second = 1<<32 + 2 // the rank of the second document
	by := func() (time.Time, string) {
		until, waiting := w.rotors[0].Writers.By(w.account, ledgertest.Label(t, "member"), second, time.Hour, w.p.Now())
		return until, strings.Join(waiting, "; ")
	}
	w.reads()
	if _, waiting := by(); strings.Count(waiting, "older platform document") != 2 {
		t.Errorf("%s", waiting)
	}
	a, b := w.issuers[0], w.issuers[1]
	w.issues(a)
	first := w.p.Now()
	w.writes(a, audit.Record{What: audit.Use, At: 1, Version: second})
	w.issues(a) // by the new one: of no account
	w.p.Advance(4 * time.Minute)
	w.writes(a)
	w.reads()
	if until, waiting := by(); !until.Equal(first.Add(modelLife)) || !strings.Contains(waiting, b.writer.String()) || !strings.Contains(waiting, "has not been heard of since") {
		t.Errorf("%s %s", until, waiting)
	}
	// Silent while the other of its region is heard: it is dead, and what it may have issued ends.
	c := &modelIssuer{region: b.region, writer: a.writer, chain: 7}
	w.issuers = append(w.issuers, c)
	w.p.Advance(15 * time.Minute)
	w.writes(c, audit.Record{What: audit.Use, At: 1, Version: second})
	w.reads()
	if until, waiting := by(); waiting != "" || !until.Equal(first.Add(audit.HeadEvery+time.Hour)) {
		t.Errorf("%s %s", until, waiting)
	}
	// One that ended in order said all that it had to.
	b.queue = append(b.queue, audit.Block{Head: audit.Head{Region: b.region, Writer: b.writer, Chain: "chain0", N: b.n + 1, At: w.p.Now().UnixMilli(), End: true}})
	w.reads()
	if until, waiting := by(); waiting != "" || !until.Equal(first.Add(modelLife)) {
		t.Errorf("%s %s", until, waiting)
	}
	// Where records may be lost, what was issued then is waited for; what is dated ahead is not
	// believed, and neither is what lives for ever.
	now := w.p.Now()
	lost := audit.Head{Region: a.region, Writer: b.writer, Chain: "another", N: 4, At: now.UnixMilli()}
	role := ledgertest.Label(t, "member")
	w.rotors[0].Writers.Took(audit.Block{Head: lost, Content: []audit.Record{
		{What: audit.Issue, At: 1, Account: w.account, Role: role, Issued: now.Add(time.Hour).Unix(), Expires: now.Add(2 * time.Hour).Unix()},
		{What: audit.Issue, At: 1, Account: w.account, Role: role, Issued: 1, Expires: 1 << 62},
		{What: audit.Use, At: 1, Version: second - 1},
	}}, now)
	if until, _ := by(); !until.Equal(first.Add(modelLife)) {
		t.Errorf("%s", until)
	}
	lost.N = 6
	w.rotors[0].Writers.Took(audit.Block{Head: lost}, now)
	if until, _ := by(); until.Unix() != now.Add(time.Hour).Unix() {
		t.Errorf("a gap: %s", until)
	}
	w.p.Advance(time.Minute)
	lost.N, lost.At, lost.Dropped = 7, w.p.Now().UnixMilli(), 3
	w.rotors[0].Writers.Took(audit.Block{Head: lost}, w.p.Now())
	if until, _ := by(); until.Unix() != w.p.Now().Add(time.Hour).Unix() {
		t.Errorf("records that were given up: %s", until)
	}
}

// TestWritersAreBounded: whatever a stolen issuer writes, what is kept of it is bounded, and nobody
// is forgotten for it.
func TestWritersAreBounded(t *testing.T) {
	w := newTurningWorld(t, 1)
	known := w.rotors[0].Writers
	role, now := ledgertest.Label(t, "member"), w.p.Now()
	i := w.issuers[0]
	record := audit.Record{What: audit.Issue, At: 1, Account: w.account, Role: role, Issued: now.Unix(), Expires: now.Add(time.Hour).Unix()}
	for n := range 6000 {
		rank := audit.Record{What: audit.Use, At: 1, Version: uint64(n + 1)} //nolint:gosec // small
		known.Took(audit.Block{Head: audit.Head{Region: i.region, Writer: i.writer, Chain: fmt.Sprint(n), N: 1, At: now.UnixMilli()}, Content: []audit.Record{rank, record}}, now)
	}
	until, waiting := known.By(w.account, role, 1<<40, time.Hour, now)
	if len(waiting) > 21 || !until.After(now.Add(time.Hour)) {
		t.Errorf("%d are named, until %s", len(waiting), until)
	}
	if chains, ranks := known.Kept(w.account, role); chains > 5000 || ranks > 200 {
		t.Errorf("%d chains and %d ranks are kept", chains, ranks)
	}
}

// Which key an issuer's folder has counts also when the issuer has ended, in order or not: it starts
// from that folder again. Without it a key went while the only issuer of its region was being started.
func TestWritersKeepWhatAFolderHas(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	w := &registrar.Writers{Issues: func(string) bool { return true }}
	sgp, ams := must(ident.ParseRegion("sgp")), must(ident.ParseRegion("ams"))
	x, y := must(ident.ParseUserKey(newKey(keystore.User).Public())), must(ident.ParseUserKey(newKey(keystore.User).Public()))
	block := func(in ident.Region, writer ident.UserKey, chain, keeps string, end bool, at time.Time) {
		b := audit.Block{Head: audit.Head{Region: in, Writer: writer, Chain: chain, N: 1, At: at.UnixMilli(), End: end}}
		b.Content = []audit.Record{{What: audit.Use, At: at.UnixMilli(), Key: keeps, Version: 7}}
		w.Took(b, at)
	}
	if got := w.Lack(sgp, "new", now); len(got) != 1 || !strings.Contains(got[0], "no issuer of sgp") {
		t.Errorf("nobody: %q", got)
	}
	block(sgp, x, "x1", "old", false, now)
	block(ams, y, "y1", "old", false, now)
	for what, change := range map[string]func(){
		"it runs": func() {}, "it ended": func() { block(sgp, x, "x1", "old", true, now.Add(time.Second)) },
		"it was silent for an hour, and others were not": func() { block(sgp, y, "y2", "new", false, now.Add(time.Hour)) },
	} {
		change()
		if got := w.Lack(sgp, "new", now); len(got) != 1 || !strings.Contains(got[0], x.String()) {
			t.Errorf("%s: %q", what, got)
		}
	}
	block(sgp, x, "x2", "new", false, now.Add(time.Hour))
	if got := w.Lack(sgp, "new", now); len(got) != 0 {
		t.Errorf("it has it: %q", got)
	}
	// One that was not heard of since the rotation began is nobody to wait for.
	block(sgp, y, "y3", "old", false, now.Add(time.Hour))
	if got := w.Lack(sgp, "new", now.Add(2*time.Hour)); len(got) != 1 || !strings.Contains(got[0], "no issuer of sgp") {
		t.Errorf("all of before: %q", got)
	}
}
