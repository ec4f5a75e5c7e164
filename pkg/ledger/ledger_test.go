package ledger_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/keystore"
	"github.com/herald-nats/herald/pkg/ledger"
	"github.com/herald-nats/herald/pkg/ledger/memory"
	"github.com/herald-nats/herald/pkg/trust"
)

func now() time.Time { return time.Unix(1790000000, 0) }

// home is an operator and the right to sign in its name.
type home struct {
	op   *trust.Operator
	sign ledger.Sign
}

func key(t testing.TB, kind keystore.Kind) *keystore.Key {
	t.Helper()
	k, err := keystore.Generate(kind)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func newHome(t testing.TB) home {
	t.Helper()
	root, signing := key(t, keystore.Operator), key(t, keystore.Operator)
	sys, err := ident.ParseAccountKey(key(t, keystore.Account).Public())
	if err != nil {
		t.Fatal(err)
	}
	token, err := trust.NewOperator("demo", root, []string{signing.Public()}, sys)
	if err != nil {
		t.Fatal(err)
	}
	op, err := trust.ParseOperator(token)
	if err != nil {
		t.Fatal(err)
	}
	return home{op, func(e trust.NameEntry) (string, error) { return e.Sign(signing, now()) }}
}

func name(t testing.TB, s string) ident.Name {
	t.Helper()
	n, err := ident.ParseName(s)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func identity(t testing.TB) ident.Identity {
	t.Helper()
	k, err := ident.ParseUserKey(key(t, keystore.User).Public())
	if err != nil {
		t.Fatal(err)
	}
	return ident.OpenIdentity(k)
}

func (h home) claim(ctx context.Context, s ledger.NameStore, n ident.Name, id ident.Identity, nonce string) (string, error) {
	return ledger.ClaimName(ctx, s, h.op, h.sign, n, id, nonce, now())
}

func TestClaim(t *testing.T) {
	h := newHome(t)
	var s memory.Names
	alice, a, b := name(t, "alice"), identity(t), identity(t)
	first, err := h.claim(t.Context(), &s, alice, a, "n1")
	if err != nil {
		t.Fatal(err)
	}
	e, err := h.op.OpenName(alice, first)
	if err != nil || e != (trust.NameEntry{Name: alice, Identity: a, Claimed: now().Unix(), Nonce: "n1"}) {
		t.Fatalf("%+v %v", e, err)
	}
	again, err := h.claim(t.Context(), &s, alice, a, "n2")
	if err != nil || again != first {
		t.Errorf("claimed again: another entry, %v", err)
	}
	if got, err := h.claim(t.Context(), &s, alice, b, "n3"); !errors.Is(err, ledger.ErrTaken) || got != "" {
		t.Errorf("by another: %q %v", got, err)
	}
	if got, err := h.claim(t.Context(), &s, name(t, "alice.b"), b, "n4"); err != nil || got == "" {
		t.Errorf("another name: %v", err)
	}
	if stored, _, err := s.Name(t.Context(), alice); err != nil || stored != first {
		t.Errorf("what is stored: %v", err)
	}
}

// store lets a test say what a store does.
type store struct {
	get  func() (string, uint64, error)
	put  func(entry string, revision uint64) error
	gets int
	puts int
}

func (s *store) Name(context.Context, ident.Name) (string, uint64, error) {
	s.gets++
	return s.get()
}

func (s *store) PutName(_ context.Context, _ ident.Name, entry string, revision uint64) error {
	s.puts++
	return s.put(entry, revision)
}

func missing() (string, uint64, error) { return "", 0, ledger.ErrNotFound }

func TestClaimThatConflictsForEver(t *testing.T) {
	h := newHome(t)
	s := &store{get: missing, put: func(string, uint64) error { return ledger.ErrConflict }}
	got, err := h.claim(t.Context(), s, name(t, "alice"), identity(t), "n")
	if !errors.Is(err, ledger.ErrConflict) || got != "" {
		t.Errorf("%q %v", got, err)
	}
	if s.puts < 2 || s.puts > 10 {
		t.Errorf("it tried %d times", s.puts)
	}
	ctx, cancel := context.WithCancel(t.Context())
	s = &store{get: missing, put: func(string, uint64) error { cancel(); return ledger.ErrConflict }}
	if _, err := h.claim(ctx, s, name(t, "alice"), identity(t), "n"); !errors.Is(err, ledger.ErrUnavailable) || s.puts != 1 {
		t.Errorf("a context that ends between two tries: %v after %d", err, s.puts)
	}
}

// After a lost compare-and-set a lagging replica may still say that there is
// no entry: the next looks find it.
func TestClaimAfterALag(t *testing.T) {
	h := newHome(t)
	alice, a, b := name(t, "alice"), identity(t), identity(t)
	held, err := h.sign(trust.NameEntry{Name: alice, Identity: b, Claimed: 1, Nonce: "x"})
	if err != nil {
		t.Fatal(err)
	}
	s := &store{put: func(string, uint64) error { return ledger.ErrConflict }}
	s.get = func() (string, uint64, error) {
		if s.gets < 4 {
			return missing()
		}
		return held, 7, nil
	}
	if _, err := h.claim(t.Context(), s, alice, a, "n"); !errors.Is(err, ledger.ErrTaken) {
		t.Errorf("another won: %v", err)
	}
	s.gets = 0
	if got, err := h.claim(t.Context(), s, alice, b, "n"); err != nil || got != held {
		t.Errorf("one's own earlier request won: %v", err)
	}
}

func TestClaimPutsAtZeroOnly(t *testing.T) {
	h := newHome(t)
	s := &store{get: missing, put: func(_ string, revision uint64) error {
		if revision != 0 {
			t.Errorf("a claim of a new name at revision %d", revision)
		}
		return nil
	}}
	if _, err := h.claim(t.Context(), s, name(t, "alice"), identity(t), "n"); err != nil || s.puts != 1 {
		t.Errorf("%v after %d", err, s.puts)
	}
}

// What is stored is believed for its signature: a store that was written by
// somebody else gives nobody a name and takes none away.
func TestClaimBelievesNoStrangersEntry(t *testing.T) {
	h, other := newHome(t), newHome(t)
	alice, a := name(t, "alice"), identity(t)
	mine := trust.NameEntry{Name: alice, Identity: a, Claimed: 1, Nonce: "x"}
	foreign, err := other.sign(mine)
	if err != nil {
		t.Fatal(err)
	}
	bobs, err := h.sign(trust.NameEntry{Name: name(t, "bob"), Identity: a, Claimed: 1, Nonce: "x"})
	if err != nil {
		t.Fatal(err)
	}
	for what, entry := range map[string]string{
		"another operator's": foreign, "another name's": bobs, "garbage": "x", "nothing": "", "cut": bobs[:len(bobs)-2],
	} {
		s := &store{get: func() (string, uint64, error) { return entry, 3, nil }, put: func(string, uint64) error {
			t.Errorf("%s entry is overwritten", what)
			return nil
		}}
		got, err := h.claim(t.Context(), s, alice, a, "n")
		if err == nil || got != "" || errors.Is(err, ledger.ErrTaken) || errors.Is(err, ledger.ErrNotFound) {
			t.Errorf("%s entry: %q %v", what, got, err)
		}
	}
}

func TestClaimPassesErrorsOn(t *testing.T) {
	h := newHome(t)
	down := fmt.Errorf("%w: no quorum", ledger.ErrUnavailable)
	s := &store{get: func() (string, uint64, error) { return "", 0, down }}
	if _, err := h.claim(t.Context(), s, name(t, "alice"), identity(t), "n"); !errors.Is(err, ledger.ErrUnavailable) || s.puts != 0 {
		t.Errorf("reading: %v", err)
	}
	// Whether a write was stored is unknown: it must not be told as done, nor tried blindly.
	s = &store{get: missing, put: func(string, uint64) error { return down }}
	if _, err := h.claim(t.Context(), s, name(t, "alice"), identity(t), "n"); !errors.Is(err, ledger.ErrUnavailable) || s.puts != 1 {
		t.Errorf("writing: %v after %d", err, s.puts)
	}
	broken := errors.New("no key")
	h.sign = func(trust.NameEntry) (string, error) { return "", broken }
	s = &store{get: missing, put: func(string, uint64) error { return nil }}
	if _, err := h.claim(t.Context(), s, name(t, "alice"), identity(t), "n"); !errors.Is(err, broken) || s.puts != 0 {
		t.Errorf("signing: %v", err)
	}
}

// stepped runs several claims one store access at a time, in an order that the
// property test draws: every interleaving that there can be.
type stepped struct {
	s    ledger.NameStore
	turn chan struct{} // one access may pass
	done chan struct{} // it has
}

func (s *stepped) Name(ctx context.Context, n ident.Name) (string, uint64, error) {
	<-s.turn
	defer func() { s.done <- struct{}{} }()
	return s.s.Name(ctx, n)
}

func (s *stepped) PutName(ctx context.Context, n ident.Name, e string, r uint64) error {
	<-s.turn
	defer func() { s.done <- struct{}{} }()
	return s.s.PutName(ctx, n, e, r)
}

func TestAnyInterleavingGivesEachNameToOne(t *testing.T) {
	h := newHome(t)
	ids := []ident.Identity{identity(t), identity(t), identity(t)}
	names := []ident.Name{name(t, "alice"), name(t, "bob")}
	rapid.Check(t, func(r *rapid.T) {
		var mem memory.Names
		n := rapid.IntRange(2, 6).Draw(r, "claims")
		type claim struct {
			id    ident.Identity
			name  ident.Name
			s     *stepped
			entry string
			err   error
			over  chan struct{}
		}
		claims := make([]*claim, n)
		var wg sync.WaitGroup
		for i := range claims {
			c := &claim{
				id: rapid.SampledFrom(ids).Draw(r, "who"), name: rapid.SampledFrom(names).Draw(r, "what"),
				s: &stepped{&mem, make(chan struct{}), make(chan struct{})}, over: make(chan struct{}),
			}
			claims[i] = c
			wg.Go(func() {
				defer close(c.over)
				c.entry, c.err = h.claim(context.Background(), c.s, c.name, c.id, fmt.Sprint(i))
			})
		}
		for left := append([]*claim(nil), claims...); len(left) > 0; {
			i := rapid.IntRange(0, len(left)-1).Draw(r, "next")
			select {
			case left[i].s.turn <- struct{}{}:
				<-left[i].s.done
			case <-left[i].over:
				left = append(left[:i], left[i+1:]...)
			}
		}
		wg.Wait()
		for _, n := range names {
			var owner ident.Identity
			var entry string
			for _, c := range claims {
				if c.name != n {
					continue
				}
				switch {
				case c.err == nil && owner.IsZero():
					owner, entry = c.id, c.entry
				case c.err == nil && (owner != c.id || entry != c.entry):
					r.Fatalf("%s was given to %s and to %s, or in two entries", n, owner, c.id)
				case c.err != nil && !errors.Is(c.err, ledger.ErrTaken):
					r.Fatalf("%s: %v", n, c.err)
				}
			}
			for _, c := range claims {
				if c.name == n && (owner.IsZero() || (c.err != nil) != (c.id != owner)) {
					r.Fatalf("%s is %s's, and %s got %v", n, owner, c.id, c.err)
				}
			}
		}
	})
}
