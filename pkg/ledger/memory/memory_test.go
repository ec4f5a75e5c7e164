package memory_test

import (
	"testing"

	"github.com/herald-nats/herald/pkg/ledger"
	"github.com/herald-nats/herald/pkg/ledger/ledgertest"
	"github.com/herald-nats/herald/pkg/ledger/memory"
)

func TestConformance(t *testing.T) {
	ledgertest.Names(t, func(*testing.T) ledger.NameStore { return new(memory.Names) })
}

// One store for all of the suite: what one test leaves must not disturb another.
func TestConformanceOfOne(t *testing.T) {
	var s memory.Names
	ledgertest.Names(t, func(*testing.T) ledger.NameStore { return &s })
}
