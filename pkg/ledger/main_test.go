package ledger_test

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/ledger"
	"github.com/herald-nats/herald/pkg/ledger/ledgertest"
	"github.com/herald-nats/herald/pkg/ledger/memory"
)

const day = 24 * time.Hour

// now is where the clock of a test's platform starts.
func now() time.Time { return time.Unix(1790000000, 0) }

func newPlatform(t testing.TB) *ledgertest.Platform {
	t.Helper()
	return ledgertest.NewPlatform(t, "demo", now())
}

// home is a platform with its store and one who decides.
type home struct {
	*ledgertest.Platform
	*ledger.Decider
	store *memory.Decisions
}

func newHome(t testing.TB) home {
	t.Helper()
	p, s := newPlatform(t), new(memory.Decisions)
	return home{p, p.Decider(s, 0), s}
}

// Opener is the platform's; the Decider has a field of that name.
func (h home) Opener() ledger.Opener { return h.Platform.Opener() }

// holds fails unless the store has exactly this entry.
func (h home) holds(t *testing.T, e ledger.Entry) {
	t.Helper()
	token, _, err := h.store.Get(t.Context(), e.Key)
	if err != nil || token != e.Token {
		t.Errorf("the store does not have the entry of %s that was answered: %v", e.Key, err)
	}
}

// writes is how often the store was written.
func (h home) writes(t *testing.T) uint64 {
	t.Helper()
	last, err := h.store.Last(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return last
}

func must[T any](t testing.TB) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func name(t testing.TB, s string) ident.Name {
	t.Helper()
	return must[ident.Name](t)(ident.ParseName(s))
}

func keyID(t testing.TB, s string) ident.KeyID {
	t.Helper()
	return must[ident.KeyID](t)(ident.ParseKeyID(s))
}

// open is an identity that proved nothing but an nkey.
func open(t testing.TB) ident.Identity {
	t.Helper()
	return ident.OpenIdentity(ledgertest.User(t))
}

func claimOf(n ident.Name, id ident.Identity, u ident.UserKey, expires time.Time) ledger.Claim {
	return ledger.Claim{Name: n, Identity: id, User: u, Nonce: "n1", Expires: expires}
}

// want fails unless err is the one that is wanted, nil being none.
func want(t interface {
	Helper()
	Errorf(format string, args ...any)
}, what string, err, wanted error,
) {
	t.Helper()
	if !errors.Is(err, wanted) {
		t.Errorf("%s: got %v, want %v", what, err, wanted)
	}
}

// checkInBubble checks a property whose waits take no time, from now() on.
func checkInBubble(t *testing.T, property func(*rapid.T)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		// Here, because rapid ends what takes longer than a day.
		time.Sleep(time.Until(now()))
		// rapid asks a *testing.T for its deadline, which a bubble has not.
		rapid.Check(struct{ *testing.T }{t}, property)
	})
}
