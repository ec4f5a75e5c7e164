package ledger_test

import (
	"errors"
	"testing"

	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/ledger"
	"github.com/herald-nats/herald/pkg/trust"
)

// A document tells of each move of home; one that says otherwise is refused, and so is one by
// which home is where the operator key does not say.
func TestDocumentTellsOfMoves(t *testing.T) {
	p := newPlatform(t)
	region := func(s string) ident.Region { return must[ident.Region](t)(ident.ParseRegion(s)) }
	ams, sfo := region("ams"), region("sfo")
	public := p.Public(t, 1, 7)
	seal := public.Regions[0]
	seal.Name = sfo
	public.Regions = append(public.Regions, seal)
	public.Home = ams
	was := &ledger.Document{Public: public, Policy: p.Policy(t), Names: ledger.DefaultNameRules()}
	open := func(d *ledger.Document) (*ledger.Document, error) {
		token, err := d.Sign(p.Signer(0), now())
		if err != nil {
			t.Fatal(err)
		}
		e, err := p.Opener().Open(ledger.PlatformKey().String(), token)
		if err != nil {
			return nil, err
		}
		out, _ := e.Body.(*ledger.Document)
		return out, nil
	}
	proof := must[string](t)(trust.SignEpoch(p.Root, 2, sfo, now()))
	next, err := was.Move(ledger.Move{To: sfo, Last: 42, By: "op", Why: "fire"}, proof, now())
	if err != nil {
		t.Fatal(err)
	}
	got, err := open(next)
	if err != nil {
		t.Fatal(err)
	}
	m, moved := got.Moved(ams)
	if !moved || m.Last != 42 || m.Epoch != 2 || got.Epoch() != 2 || was.Epoch() != 0 || got.Public.Version != (trust.Version{Epoch: 2, Number: 1}) || got.Public.Home != sfo {
		t.Errorf("%+v, version %s, home %s", m, got.Public.Version, got.Public.Home)
	}
	if _, moved := got.Moved(sfo); moved || was.Public.Home != ams {
		t.Error("home moved away from where it is, or the document before was changed")
	}

	back, err := got.Move(ledger.Move{To: ams, Last: 50}, must[string](t)(trust.SignEpoch(p.Root, 3, ams, now())), now())
	if err != nil {
		t.Fatal(err)
	}
	if back, err = open(back); err != nil || len(back.Moves) != 2 || back.Epoch() != 3 {
		t.Fatalf("back: %v", err)
	}
	if _, moved := back.Moved(ams); moved {
		t.Error("home is there again, and moved away")
	}

	if _, err := was.Move(ledger.Move{To: ams}, proof, now()); !errors.Is(err, ledger.ErrNotFound) {
		t.Errorf("to where it is: %v", err)
	}
	if _, err := was.Move(ledger.Move{To: region("nrt")}, proof, now()); !errors.Is(err, ledger.ErrNotFound) {
		t.Errorf("to no region of it: %v", err)
	}
	// Who has a signing key, and not the operator key, does not move home, in this epoch or another.
	thief := *got.Public
	thief.Home, thief.Version.Number = ams, 9
	stolen := *got
	stolen.Public, stolen.Moves = &thief, nil
	if _, err := open(&stolen); !errors.Is(err, ledger.ErrDamaged) {
		t.Errorf("home by a signing key: %v", err)
	}
	self, err := was.Move(ledger.Move{To: sfo}, must[string](t)(trust.SignEpoch(p.Signing[0], 2, sfo, now())), now())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := open(self); !errors.Is(err, ledger.ErrDamaged) {
		t.Errorf("an epoch by a signing key: %v", err)
	}
}
