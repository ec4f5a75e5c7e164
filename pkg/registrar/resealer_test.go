package registrar_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/herald-nats/herald/pkg/audit"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/keystore"
	"github.com/herald-nats/herald/pkg/ledger"
	"github.com/herald-nats/herald/pkg/ledger/ledgertest"
)

// resealed are who replaces a region's key in a turningWorld.
type resealed struct {
	*turningWorld
	region   ident.Region
	from, to ident.SealKey
	role     ledger.Key
	keeps    string // the key that all issuers have in their folders
	late     bool   // registrars hear of documents alone
}

func newResealed(t *testing.T) *resealed {
	w := &resealed{turningWorld: newTurningWorld(t, 1)}
	w.faults.Heal()
	key := func(name string) ident.SealKey {
		return must(ident.ParseSealKey(w.p.Key(t, keystore.Curve, name).Public()))
	}
	public := w.document().Public
	w.region, w.from, w.to = public.Regions[0].Name, public.Regions[0].SealKey, key("the new key")
	w.role, w.keeps = ledger.RoleKeyKey(public.Accounts[0].Roles[0].Key), w.from.String()
	w.hand(w.role, w.from)
	w.hand(ledger.SealKeyKey(w.to), w.from)
	return w
}

// hand puts a key into the ledger, as if sealed.
func (w *resealed) hand(at ledger.Key, to ...ident.SealKey) {
	h := ledger.Handed{From: must(ident.ParseSealKey(w.p.Key(w.t, keystore.Curve, "by").Public())), Sealed: map[ident.SealKey][]byte{}}
	if at.Kind() == ledger.KindRoleKey {
		h.Account, h.Role = ledgertest.Label(w.t, "CHAT"), ledgertest.Label(w.t, "member")
	} else {
		h.Region = w.region
	}
	for _, k := range to {
		h.Sealed[k] = []byte("sealed")
	}
	if _, err := w.p.Decider(w.store, 0).Hand(w.t.Context(), at, h, w.p.Now()); err != nil {
		w.t.Fatal(err)
	}
}

// sealed are the region keys that the ledger has a key sealed to.
func (w *resealed) sealed(at ledger.Key) []ident.SealKey {
	h, err := w.p.Decider(w.store, 0).Handed(w.t.Context(), at)
	if err != nil {
		return nil
	}
	var all []ident.SealKey
	for k := range h.Sealed {
		all = append(all, k)
	}
	return all
}

func (w *resealed) change(f func(*ledger.Document) (*ledger.Document, error)) {
	w.t.Helper()
	if _, err := w.p.Decider(w.store, 0).ChangeDocument(w.t.Context(), w.p.Signer(0), f, w.p.Now()); err != nil {
		w.t.Fatal(err)
	}
}

func (w *resealed) begin(drop bool) {
	w.t.Helper()
	w.change(func(d *ledger.Document) (*ledger.Document, error) {
		return d.BeginSeal(ledger.SealRotation{Region: w.region, To: w.to}, drop, w.p.Now())
	})
}

// goes lets some minutes pass, in which issuers say by what they work and registrars do what they can,
// and gives the stage, and for what it waits.
func (w *resealed) goes(issuers ...*modelIssuer) (ledger.Stage, string) {
	w.t.Helper()
	for range 3 {
		w.p.Advance(4 * time.Minute)
		for _, i := range w.issuers {
			if slices.Contains(issuers, i) {
				i.at = w.document()
				w.writes(i, audit.Record{What: audit.Use, At: w.p.Now().UnixMilli(), Key: w.keeps, Version: i.at.Public.Version.Rank()})
			} else {
				w.writes(i)
			}
		}
		w.reads()
		for _, r := range w.rotors {
			for _, at := range []ledger.Key{ledger.PlatformKey(), w.role, ledger.SealKeyKey(w.to)} {
				if w.late && at != ledger.PlatformKey() {
					continue
				}
				token, _, err := w.store.Get(w.t.Context(), at)
				if err != nil {
					w.t.Fatal(err)
				}
				r.known.Apply(must(w.p.Opener().Open(at.String(), token)))
			}
			for _, rot := range r.Document().SealRotations {
				if err := r.StepSeal(w.t.Context(), rot); err != nil {
					w.t.Fatal(err)
				}
			}
		}
	}
	_, rot := w.document().SealRotation(w.region)
	var waiting []string
	for _, l := range w.rotors[0].LookSeal(w.t.Context(), w.region) {
		waiting = append(waiting, l.Waiting...)
	}
	return rot.Stage, strings.Join(waiting, "; ")
}

// TestResealWaits: no stage is entered before all issuers of the region have said that they can do
// what it asks, and the last one not before the new key is in their folders and role keys are sealed
// to it; then the former key is nowhere. That holds for registrars that have heard of the documents,
// which they write themselves, and of nothing else.
func TestResealWaits(t *testing.T) {
	for _, late := range []bool{false, true} {
		t.Run(fmt.Sprint("late=", late), func(t *testing.T) { resealWaits(t, late) })
	}
}

func resealWaits(t *testing.T, late bool) {
	w := newResealed(t)
	w.late = late
	own, other := w.issuers[0], w.issuers[1]
	w.begin(false)
	is := func(what string, stage ledger.Stage, says string, issuers ...*modelIssuer) {
		t.Helper()
		got, waiting := w.goes(issuers...)
		if got != stage || !strings.Contains(waiting, says) {
			t.Fatalf("%s: stage %q, and not %q; it waits for: %s", what, got, stage, waiting)
		}
	}
	is("its issuer has not heard of it", ledger.StageAdd, own.writer.String(), other)
	// Of other regions nobody is waited for.
	own.at = w.document()
	is("it has", ledger.StageIssue, "", own)
	if r, _ := w.document().Public.Region(w.region); r.SealKey != w.to || r.Former != w.from {
		t.Errorf("%+v", r)
	}
	is("the new key is in no folder", ledger.StageIssue, "issuers/"+w.region.String(), own)
	w.keeps = w.to.String()
	is("a role key is sealed to the former key alone", ledger.StageIssue, "CHAT/member is sealed to the former key alone", own)
	w.hand(w.role, w.from, w.to)
	if stage, _ := w.goes(own); stage == ledger.StageIssue {
		t.Fatal("it does not go on")
	}
	is("in the end", "", "", own)
	if r, _ := w.document().Public.Region(w.region); len(r.SealKeys()) != 1 || r.SealKey != w.to {
		t.Errorf("%+v", r)
	}
	if got := w.sealed(w.role); !slices.Equal(got, []ident.SealKey{w.to}) {
		t.Errorf("the role key is sealed to %v", got)
	}
	if got := w.sealed(ledger.SealKeyKey(w.to)); got != nil {
		t.Errorf("the new key is in the ledger, sealed to %v", got)
	}
}

// TestResealAtOnce: in an emergency what is sealed to the former key is removed whoever is away, and an
// earlier rotation's key goes with it.
func TestResealAtOnce(t *testing.T) {
	w := newResealed(t)
	own := w.issuers[0]
	w.begin(false)
	w.keeps = w.from.String()
	if stage, _ := w.goes(own); stage != ledger.StageIssue {
		t.Fatalf("%s", stage)
	}
	second := w.to
	w.hand(w.role, w.from, second)
	w.to = must(ident.ParseSealKey(w.p.Key(t, keystore.Curve, "another").Public()))
	w.hand(ledger.SealKeyKey(w.to), second) // which nobody should
	w.begin(true)
	stage, waiting := w.goes()
	if _, r := w.document().SealRotation(w.region); stage != ledger.StageDrop || r.From != second || !slices.Equal(r.Going(), []ident.SealKey{second, w.from}) || !r.Emergency {
		t.Errorf("%+v", r)
	}
	if !strings.Contains(waiting, own.writer.String()) {
		t.Errorf("it waits for: %s", waiting)
	}
	for what, at := range map[string]ledger.Key{"the role key": w.role, "the new key": ledger.SealKeyKey(w.to), "the one before": ledger.SealKeyKey(second)} {
		if got := w.sealed(at); got != nil {
			t.Errorf("%s is sealed to %v", what, got)
		}
	}
	if stage, waiting := w.goes(own); stage != "" {
		t.Errorf("stage %s, it waits for: %s", stage, waiting)
	}
}

// TestResealUndo: until the last stage it can be taken back, and the new key goes then.
func TestResealUndo(t *testing.T) {
	for _, from := range []ledger.Stage{ledger.StageAdd, ledger.StageIssue} {
		w := newResealed(t)
		w.begin(false)
		if from == ledger.StageIssue {
			if stage, _ := w.goes(w.issuers[0]); stage != from {
				t.Fatalf("%s", stage)
			}
		}
		w.hand(w.role, w.from, w.to)
		w.change(func(d *ledger.Document) (*ledger.Document, error) { return d.UndoSeal(w.region, w.p.Now()) })
		if r, _ := w.document().Public.Region(w.region); r.SealKey != w.from {
			t.Errorf("taken back in stage %s: %+v", from, r)
		}
		for range 3 {
			w.goes(w.issuers[0])
		}
		r, _ := w.document().Public.Region(w.region)
		if len(w.document().SealRotations) != 0 || r.SealKey != w.from || len(r.SealKeys()) != 1 {
			t.Errorf("taken back in stage %s: %+v", from, r)
		}
		if got := w.sealed(w.role); !slices.Equal(got, []ident.SealKey{w.from}) {
			t.Errorf("taken back in stage %s: the role key is sealed to %v", from, got)
		}
		if got := w.sealed(ledger.SealKeyKey(w.to)); got != nil {
			t.Errorf("taken back in stage %s: the new key is there", from)
		}
	}
}
