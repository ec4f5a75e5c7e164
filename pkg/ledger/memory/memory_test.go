package memory_test

import (
	"testing"

	"github.com/herald-nats/herald/pkg/audit"
	"github.com/herald-nats/herald/pkg/audit/audittest"
	"github.com/herald-nats/herald/pkg/ledger"
	"github.com/herald-nats/herald/pkg/ledger/ledgertest"
	"github.com/herald-nats/herald/pkg/ledger/memory"
)

func TestConformance(t *testing.T) {
	conform(t, func() *memory.Decisions { return new(memory.Decisions) },
		func() *memory.Denials { return new(memory.Denials) }, func() *memory.Blocks { return new(memory.Blocks) })
}

// One store for all of a suite: what one test leaves must not disturb another.
func TestConformanceOfOne(t *testing.T) {
	var (
		decisions memory.Decisions
		denials   memory.Denials
		records   memory.Blocks
	)
	conform(t, func() *memory.Decisions { return &decisions },
		func() *memory.Denials { return &denials }, func() *memory.Blocks { return &records })
}

func conform(t *testing.T, decisions func() *memory.Decisions, denials func() *memory.Denials, records func() *memory.Blocks) {
	t.Run("decisions", func(t *testing.T) {
		ledgertest.Decisions(t, func(*testing.T) ledger.DecisionStore { return decisions() })
	})
	t.Run("source of decisions", func(t *testing.T) {
		ledgertest.DecisionSource(t, func(*testing.T) (ledger.DecisionStore, ledger.Source) { s := decisions(); return s, s })
	})
	t.Run("denials", func(t *testing.T) {
		ledgertest.Denials(t, func(*testing.T) (ledger.DenialStore, ledger.Source) { s := denials(); return s, s })
	})
	t.Run("blocks of records", func(t *testing.T) {
		audittest.Store(t, func(t *testing.T) (audit.Store, ledger.Source, *audittest.Scribe) {
			s, w := records(), audittest.NewScribe(t)
			s.Under = w.Under()
			return s, s, w
		})
	})
}

// What was replaced is forgotten, or a test that runs for long would not end.
func TestReplacedEntriesAreForgotten(t *testing.T) {
	var s memory.Denials
	key := ledger.AccountSuspension(ledgertest.Account(t))
	for range 10_000 {
		if err := s.Append(t.Context(), key, "x"); err != nil {
			t.Fatal(err)
		}
	}
	got, err := s.Read(t.Context(), 0, 100)
	if err != nil || len(got) != 1 || got[0].Seq != 10_000 {
		t.Errorf("%v %v", got, err)
	}
}

func TestHints(t *testing.T) {
	var s memory.Denials
	hints := s.Hints(1)
	key := ledger.AccountSuspension(ledgertest.Account(t))
	for _, token := range []string{"kept", "lost"} {
		if err := s.Append(t.Context(), key, token); err != nil {
			t.Fatal(err)
		}
	}
	if h := <-hints; h != (ledger.Stored{Subject: key.String(), Data: "kept", Seq: 1}) {
		t.Errorf("%+v", h)
	}
	select {
	case h := <-hints:
		t.Errorf("a hint beyond the channel's size: %+v", h)
	default:
	}
}
