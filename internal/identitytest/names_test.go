package identitytest

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/herald-nats/herald/pkg/client"
	"github.com/herald-nats/herald/pkg/ledger"
	"github.com/herald-nats/herald/pkg/wire"
)

// TestNames: who may choose its name chooses so many, from whichever region, and keeps those
// that it has; others are not held up by it.
func TestNames(t *testing.T) {
	id := accessKey(t, "--grant", "ORDERS/service")
	key := newKey(t)
	prefix := shared.Name("names").String()
	regions := []string{"ams", "sfo", "sgp"}
	ask := func(i int) error {
		at := guest(t, region(regions[i%len(regions)]))
		_, err := issue(t, at, key, client.Wish{Identity: id, Name: name(fmt.Sprintf("%s-%d", prefix, i))}, wire.BadIdentity)
		return err
	}
	for i := range ledger.DefaultMostNames {
		if err := ask(i); err != nil {
			t.Fatalf("name %d: %v", i, err)
		}
	}
	var werr *wire.Error
	// Home's registrars count each for itself: what one of them gave, another hears of.
	more := ledger.DefaultMostNames
	settles(t, "one too many", wire.BadName, func() error {
		err := ask(more)
		more++
		if errors.As(err, &werr) && !strings.Contains(werr.Message, "you have 64 names") {
			t.Errorf("%v", err)
		}
		return err
	})
	if err := ask(7); err != nil {
		t.Errorf("one that it has: %v", err)
	}
	other := accessKey(t, "--grant", "ORDERS/service")
	if _, err := issue(t, guest(t, region("sfo")), newKey(t), client.Wish{Identity: other, Name: shared.Name("names")}, wire.BadIdentity); err != nil {
		t.Errorf("another: %v", err)
	}
	if more > ledger.DefaultMostNames+3 {
		t.Errorf("%d names were given", more-1)
	}
}
