package jetstream_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/ledger"
	"github.com/herald-nats/herald/pkg/ledger/jetstream"
	"github.com/herald-nats/herald/pkg/ledger/ledgertest"
)

// Real streams behind answers that get lost, requests that do, and sources that repeat,
// cut off, alter and forge: names have one owner each, and a reader comes to know just
// what was decided.
func TestUnderFaults(t *testing.T) {
	p := ledgertest.NewPlatform(t, t.Name(), time.Now())
	faults := ledgertest.NewFaults(7, 4)
	names := make([]ident.Name, 12)
	for i := range names {
		names[i] = ledgertest.Name(t, "fault")
	}
	type claim struct {
		name  int
		owner ident.Identity
	}
	given := make(chan claim, 64)
	var work sync.WaitGroup
	for who := range 4 {
		d := p.Decider(faults.Decisions(decisions(t)), who%2)
		id := ident.OpenIdentity(ledgertest.User(t))
		work.Go(func() {
			for i, n := range names {
				for try := range 100 {
					_, err := d.Claim(t.Context(), ledger.Claim{Name: n, Identity: id, Expires: p.Now().Add(time.Hour)}, p.Now())
					if err == nil {
						given <- claim{i, id}
						break
					}
					if errors.Is(err, ledger.ErrTaken) {
						break
					}
					if try == 99 || !errors.Is(err, ledger.ErrUnavailable) && !errors.Is(err, ledger.ErrConflict) {
						t.Errorf("%s: %v", n, err)
						return
					}
				}
			}
		})
	}
	work.Wait()
	close(given)
	owners := map[int]ident.Identity{}
	for c := range given {
		if other, ok := owners[c.name]; ok {
			t.Errorf("%s is %s's and %s's", names[c.name], other, c.owner)
		}
		owners[c.name] = c.owner
	}
	if len(owners) != len(names) {
		t.Errorf("%d of %d names have an owner", len(owners), len(names))
	}

	// A reader whose source is faulty, and one whose is not.
	read := func(s ledger.Source) []byte {
		t.Helper()
		projection := ledger.NewProjection(nil)
		f := &ledger.Follower{
			Projection: projection, Opener: p.Opener(), Log: slog.New(slog.DiscardHandler), Every: 10 * time.Millisecond,
			Logs: []ledger.Log{{Name: "decisions", Near: s}},
		}
		ctx, cancel := context.WithCancel(t.Context())
		var run sync.WaitGroup
		run.Go(func() { f.Run(ctx) })
		defer func() { cancel(); run.Wait() }()
		for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
			known := 0
			for i, n := range names {
				if held, _, ok := projection.Name(n); ok && held.Holder == owners[i] {
					known++
				}
			}
			if known == len(names) {
				return projection.Dump()
			}
			if time.Now().After(deadline) {
				t.Fatalf("%d of %d names are known: %+v", known, len(names), f.Stats())
			}
		}
	}
	src := jetstream.MirrorSource(reader(t), ams(t))
	if whole, faulty := read(src), read(faults.Source(src)); !bytes.Equal(whole, faulty) {
		t.Error("a faulty source made another truth")
	}
}
