package plan

import (
	"crypto/sha256"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nkeys"
	"pgregory.net/rapid"

	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/keystore"
	"github.com/herald-nats/herald/pkg/ledger"
	"github.com/herald-nats/herald/pkg/trust"
)

// tb is what a test and a property have in common.
type tb interface {
	Helper()
	Fatal(...any)
}

// key is the public nkey of something with a name.
func key(name string) string {
	sum := sha256.Sum256([]byte(name))
	pub, err := nkeys.Encode(nkeys.PrefixByteAccount, sum[:])
	if err != nil {
		panic(err)
	}
	return string(pub)
}

// app is an account that says something, with a role for each name.
func app(name, says string, roles ...string) *jwt.AccountClaims {
	c := jwt.NewAccountClaims(key(name))
	c.Name, c.Description = name, says
	for _, r := range roles {
		s := jwt.NewUserScope()
		s.Key, s.Role = key(name+"/"+r), r
		s.Template.Pub.Allow.Add(name + ".>")
		c.SigningKeys.AddScopedSigner(s)
	}
	return c
}

// doc is a platform document whose rooms have a channel each.
func doc(rooms map[string]string) *ledger.Document {
	home, err := ident.ParseRegion("ams")
	if err != nil {
		panic(err)
	}
	d := &ledger.Document{Public: &trust.Platform{Name: "demo", Home: home}, Names: ledger.DefaultNameRules()}
	d.Public.Chat.Account = lab("CHAT")
	for _, name := range slices.Sorted(maps.Keys(rooms)) {
		d.Public.Chat.Rooms = append(d.Public.Chat.Rooms, trust.Room{Name: lab(name), Channels: []ident.Label{lab(rooms[name])}})
	}
	return d
}

func lab(s string) ident.Label {
	l, err := ident.ParseLabel(s)
	if err != nil {
		panic(err)
	}
	return l
}

func wanted(d *ledger.Document, accounts ...*jwt.AccountClaims) Desired {
	w := Desired{Accounts: map[string]*jwt.AccountClaims{}, digests: map[string]string{}, Document: d}
	for _, c := range accounts {
		w.Accounts[c.Name], w.digests[c.Name] = c, Digest(c)
		w.Order = append(w.Order, c.Name)
	}
	return w
}

func state(d *ledger.Document, accounts ...*jwt.AccountClaims) State {
	s := State{Accounts: map[string]Known{}, Document: d}
	for _, c := range accounts {
		s.Accounts[c.Name] = Of(c)
	}
	return s
}

func compute(t tb, base Base, force State, want Desired) *Plan {
	t.Helper()
	p, err := Compute(base, force, want, false)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// What is signed and read again says the same.
func TestContentSurvivesSigning(t *testing.T) {
	signer, err := keystore.Generate(keystore.Operator)
	if err != nil {
		t.Fatal(err)
	}
	c := app("A", "x", "r", "q")
	c.Tags.Add("base:0", "z", "a")
	c.Limits.JetStreamTieredLimits = jwt.JetStreamTieredLimits{"R3": {DiskStorage: 7}, "R1": {MemoryStorage: -1}}
	c.AddMapping("in", jwt.WeightedMapping{Subject: "out", Weight: 10})
	before := content(c)
	c.Tags = jwt.TagList{"base:7", "a", "z"}
	c.Revoke("*")
	token, err := c.Encode(signer.Pair())
	if err != nil {
		t.Fatal(err)
	}
	got, err := jwt.DecodeAccountClaims(token)
	if err != nil {
		t.Fatal(err)
	}
	if after := content(got); after != before {
		t.Errorf("before\n%s\nafter\n%s", before, after)
	}
	for what, change := range map[string]func(*jwt.AccountClaims){
		"a tag":         func(c *jwt.AccountClaims) { c.Tags.Add("b") },
		"a limit":       func(c *jwt.AccountClaims) { c.Limits.Conn = 1 },
		"a template":    func(c *jwt.AccountClaims) { c.SigningKeys[key("A/r")].(*jwt.UserScope).Template.Subs = 3 },
		"a description": func(c *jwt.AccountClaims) { c.Description = "y" },
	} {
		other, err := jwt.DecodeAccountClaims(token)
		if err != nil {
			t.Fatal(err)
		}
		change(other)
		if content(other) == before {
			t.Errorf("%s makes no difference", what)
		}
	}
}

func TestCompute(t *testing.T) {
	old, changed, theirs := app("A", "old"), app("A", "changed"), app("A", "theirs")
	d := doc(map[string]string{"R": "c"})
	mine := BaseOf(wanted(d, old))
	for _, tc := range []struct {
		what     string
		base     Base
		force    State
		want     Desired
		how      string // of account A; "": it stays
		left     bool   // it is left as somebody else has it
		conflict bool
	}{
		{"as it is", mine, state(d, old), wanted(d, old), "", false, false},
		{"changed here", mine, state(d, old), wanted(d, changed), Change, false, false},
		{"changed elsewhere", mine, state(d, theirs), wanted(d, old), "", true, false},
		{"changed both ways", mine, state(d, theirs), wanted(d, changed), "", false, true},
		{"changed alike", mine, state(d, changed), wanted(d, changed), "", false, false},
		{"made here", Base{}, state(d), wanted(d, old), Create, false, false},
		{"made elsewhere", Base{}, state(d, old), wanted(d), "", true, false},
		{"made by both, alike", Base{}, state(d, old), wanted(d, old), "", false, false},
		{"made by both", Base{}, state(d, theirs), wanted(d, old), "", false, true},
		{"removed here", mine, state(d, old), wanted(d), Close, false, false},
		{"removed here, changed elsewhere", mine, state(d, theirs), wanted(d), "", false, true},
		{"closed, and not wanted", mine, state(d, closed("A")), wanted(d), "", false, false},
		{"closed elsewhere", mine, state(d, closed("A")), wanted(d, old), "", true, false},
		{"opened again", Base{Applied: map[string]string{keyOf("A"): Digest(closed("A"))}}, state(d, closed("A")), wanted(d, old), Create, false, false},
		{"lost by the ledger", mine, state(d), wanted(d, old), Create, false, false},
		{"half done", Base{Applied: mine.Applied, Intended: map[string][]string{keyOf("A"): {Digest(theirs)}}}, state(d, theirs), wanted(d, changed), Change, false, false},
	} {
		p := compute(t, tc.base, tc.force, tc.want)
		how := ""
		if len(p.Accounts) == 1 {
			how = p.Accounts[0].How
		}
		if how != tc.how || slices.Contains(p.Elsewhere, "account A") != tc.left || (len(p.Conflicts) > 0) != tc.conflict {
			t.Errorf("%s: %q, elsewhere %v, conflicts %v", tc.what, how, p.Elsewhere, p.Conflicts)
		}
		if q, err := Compute(tc.base, tc.force, tc.want, true); err != nil || len(q.Conflicts) > 0 || len(q.Elsewhere) > 0 {
			t.Errorf("%s, overridden: %v %+v", tc.what, err, q)
		}
	}
	// A key that two folders made for one name is nobody's to choose.
	stranger := app("A", "old")
	stranger.Subject = key("another")
	if _, err := Compute(mine, state(d, stranger), wanted(d, old), true); err == nil || !strings.Contains(err.Error(), "key") {
		t.Errorf("another key: %v", err)
	}
}

func closed(name string) *jwt.AccountClaims {
	c := jwt.NewAccountClaims(key(name))
	c.Name = name
	c.Tags.Add("closed")
	c.Limits = jwt.OperatorLimits{}
	c.Limits.DisallowBearer = true
	return c
}

func TestCutsAndDiff(t *testing.T) {
	was, want := app("A", "x", "stays", "goes", "changes"), app("A", "x", "stays", "changes", "comes")
	want.SigningKeys[key("A/changes")].(*jwt.UserScope).Template.Sub.Allow.Add("more.>")
	d := doc(nil)
	p := compute(t, BaseOf(wanted(d, was)), state(d, was), wanted(d, want))
	if len(p.Accounts) != 1 {
		t.Fatalf("%+v", p)
	}
	if got := fmt.Sprint(p.Accounts[0].Cut); got != fmt.Sprint([]Cut{{"changes", key("A/changes"), true}, {"goes", key("A/goes"), false}}) {
		t.Errorf("cuts %s", got)
	}
	var lines []string
	for _, l := range p.Accounts[0].Diff {
		lines = append(lines, l.String())
	}
	for _, w := range []string{"+ role changes: may subscribe to more.>", "- role goes: may publish A.>", "+ role comes: may publish A.>"} {
		if !slices.Contains(lines, w) {
			t.Errorf("%q is not among\n%s", w, strings.Join(lines, "\n"))
		}
	}
	for _, l := range lines {
		if strings.Contains(l, "stays") {
			t.Errorf("what stays is shown: %s", l)
		}
	}
}

// world is a platform and the folders of several operators, as a model.
type world struct {
	accounts map[string]*jwt.AccountClaims
	rooms    map[string]string
	writer   map[string]int // who wrote what is in force
	folders  []*folder
}

type folder struct {
	accounts map[string]string // what its platform.yaml says
	rooms    map[string]string
	base     Base
}

func (f *folder) want() Desired {
	var all []*jwt.AccountClaims
	for _, name := range slices.Sorted(maps.Keys(f.accounts)) {
		all = append(all, app(name, f.accounts[name]))
	}
	return wanted(doc(f.rooms), all...)
}

func (w *world) state() State { return state(doc(w.rooms), slices.Collect(maps.Values(w.accounts))...) }

// apply carries out a plan of folder i, up to n steps: -1 is all of it.
func (w *world) apply(t tb, i, n int, override bool) *Plan {
	f := w.folders[i]
	p, err := Compute(f.base, w.state(), f.want(), override)
	if err != nil {
		t.Fatal(err)
	}
	if len(p.Conflicts) > 0 {
		return p
	}
	d, err := p.Merged()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range p.Accounts {
		f.base.Intend(a.Want)
	}
	f.base.IntendDocument(d)
	for _, a := range p.Accounts {
		if n == 0 {
			return p
		}
		n--
		w.accounts[a.Name], w.writer[a.Name] = a.Want, i
	}
	if n == 0 {
		return p
	}
	rooms := map[string]string{}
	for _, r := range d.Public.Chat.Rooms {
		rooms[r.Name.String()] = r.Channels[0].String()
		if w.rooms[r.Name.String()] != rooms[r.Name.String()] {
			w.writer["room "+r.Name.String()] = i
		}
	}
	w.rooms = rooms
	if n == 1 {
		return p
	}
	f.base = f.base.Done(f.want(), p)
	return p
}

// Whatever several operators do with folders of their own, in whatever order, also when
// runs are cut off: nobody's change is lost without a word, and a run that comes to its
// end without a conflict has put in force what its folder says, but for what it names.
func TestNothingIsLost(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := &world{accounts: map[string]*jwt.AccountClaims{}, rooms: map[string]string{"R0": "c0"}, writer: map[string]int{}}
		for range 2 {
			w.folders = append(w.folders, &folder{
				accounts: map[string]string{}, rooms: map[string]string{"R0": "c0"}, base: BaseOf(wanted(doc(w.rooms))),
			})
		}
		for range rapid.IntRange(1, 25).Draw(t, "steps") {
			i := rapid.IntRange(0, 1).Draw(t, "folder")
			f := w.folders[i]
			switch rapid.IntRange(0, 4).Draw(t, "what") {
			case 0:
				f.accounts[rapid.SampledFrom([]string{"A", "B", "C"}).Draw(t, "account")] = rapid.SampledFrom([]string{"x", "y", "z"}).Draw(t, "says")
			case 1:
				delete(f.accounts, rapid.SampledFrom([]string{"A", "B", "C"}).Draw(t, "account"))
			case 2:
				f.rooms[rapid.SampledFrom([]string{"R1", "R2"}).Draw(t, "room")] = rapid.SampledFrom([]string{"c1", "c2"}).Draw(t, "channel")
			case 3:
				delete(f.rooms, rapid.SampledFrom([]string{"R1", "R2"}).Draw(t, "room"))
			case 4:
				n := -1
				if rapid.Bool().Draw(t, "cut off") {
					n = rapid.IntRange(0, 4).Draw(t, "after")
				}
				before, rooms := maps.Clone(w.accounts), index(parts(doc(w.rooms)))
				writers := maps.Clone(w.writer)
				base := Base{Applied: maps.Clone(f.base.Applied), Intended: maps.Clone(f.base.Intended)}
				p := w.apply(t, i, n, false)
				for name, c := range before {
					if writers[name] != i && Digest(w.accounts[name]) != Digest(c) && !base.has(keyOf(name), Digest(c)) {
						t.Fatalf("folder %d took back what folder %d made of account %s, and never had", i, writers[name], name)
					}
				}
				after := index(parts(doc(w.rooms)))
				for key, value := range rooms {
					if by, ok := writers[key]; ok && by != i && after[key] != value && !base.has(key, digest(value)) {
						t.Fatalf("folder %d took back what folder %d made of %s, and never had", i, by, key)
					}
				}
				if n >= 0 || len(p.Conflicts) > 0 {
					continue
				}
				for name, says := range f.accounts {
					if w.accounts[name].Description != says && !slices.Contains(p.Elsewhere, "account "+name) {
						t.Fatalf("account %s says %q in force and %q in folder %d, and that is not named", name, w.accounts[name].Description, says, i)
					}
				}
				for name, channel := range f.rooms {
					if w.rooms[name] != channel && !slices.Contains(p.Elsewhere, partRoom+name) {
						t.Fatalf("room %s has %q in force and %q in folder %d, and that is not named", name, w.rooms[name], channel, i)
					}
				}
				again := compute(t, f.base, w.state(), f.want())
				if !again.Empty() {
					t.Fatalf("it would be done again: %+v %+v %+v", again.Accounts, again.Document, again.Conflicts)
				}
			}
		}
		// Overriding ends every conflict.
		w.apply(t, 0, -1, true)
		if p := compute(t, w.folders[0].base, w.state(), w.folders[0].want()); !p.Empty() {
			t.Fatalf("after overriding: %+v", p)
		}
	})
}

// A document that is taken apart and put together is the same.
func TestParts(t *testing.T) {
	d := doc(map[string]string{"A": "x", "B": "y"})
	back, err := together(parts(d))
	if err != nil || !Equal(d, back) {
		t.Errorf("%+v %v", back, err)
	}
}

// What an account has less of is said, and what it has more of is not.
func TestLoses(t *testing.T) {
	d := doc(nil)
	limited := func(conns, leafs, disk int64) *jwt.AccountClaims {
		c := app("A", "x")
		c.Limits.Conn, c.Limits.LeafNodeConn, c.Limits.DiskStorage = conns, leafs, disk
		return c
	}
	for _, tc := range []struct {
		what      string
		was, want *jwt.AccountClaims
		loses     int
	}{
		{"fewer connections", limited(20, 0, 0), limited(2, 0, 0), 1},
		{"a limit of connections where there was none", limited(-1, 0, 0), limited(2, 0, 0), 1},
		{"more connections", limited(2, 0, 0), limited(-1, 0, 0), 0},
		{"no leafnodes any more", limited(2, 1, 0), limited(2, 0, 0), 1},
		{"no JetStream any more", limited(2, 0, -1), limited(2, 0, 0), 1},
		{"JetStream", limited(2, 0, 0), limited(2, 0, -1), 0},
	} {
		p := compute(t, BaseOf(wanted(d, tc.was)), state(d, tc.was), wanted(d, tc.want))
		if len(p.Accounts) != 1 || len(p.Accounts[0].Loses) != tc.loses || p.Destroys() != (tc.loses > 0) {
			t.Errorf("%s: %+v", tc.what, p.Accounts)
		}
	}
}
