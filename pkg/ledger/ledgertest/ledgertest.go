// Package ledgertest holds every implementation of the ledger's stores to one
// behaviour: that which pkg/ledger states. It tests what a store promises, not how it
// keeps it. Beside the suites it has what tests of the ledger's users need: an
// operator to sign with, and stores that fail in every way that a network has.
//
// Each suite uses keys of its own, so that open may give the same store each time,
// and one that others write to meanwhile.
package ledgertest

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/keystore"
	"github.com/herald-nats/herald/pkg/ledger"
	"github.com/herald-nats/herald/pkg/trust"
)

// patience bounds every step: a source may lag and a leader may be elected.
const patience = 20 * time.Second

// Name makes a name that nobody else has: prefix, at most 15 long, and 16
// random characters.
func Name(t testing.TB, prefix string) ident.Name {
	t.Helper()
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails, as of Go 1.24
	return parse(t, prefix+hex.EncodeToString(b[:]))
}

// User makes a user that nobody else has.
func User(t testing.TB) ident.UserKey { t.Helper(); return made(t, keystore.User, ident.ParseUserKey) }

// Account makes an account that nobody else has.
func Account(t testing.TB) ident.AccountKey {
	t.Helper()
	return made(t, keystore.Account, ident.ParseAccountKey)
}

func made[T any](t testing.TB, kind keystore.Kind, parse func(string) (T, error)) T {
	t.Helper()
	k, err := keystore.Generate(kind)
	if err != nil {
		t.Fatalf("the test's own key: %v", err)
	}
	v, err := parse(k.Public())
	if err != nil {
		t.Fatalf("the test's own key: %v", err)
	}
	return v
}

func parse(t testing.TB, s string) ident.Name {
	t.Helper()
	n, err := ident.ParseName(s)
	if err != nil {
		t.Fatalf("the test's own name: %v", err)
	}
	return n
}

func bounded(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

// Decisions runs the suite for a ledger.DecisionStore.
func Decisions(t *testing.T, open func(t *testing.T) ledger.DecisionStore) {
	for _, tc := range []struct {
		name string
		run  func(t *testing.T, s ledger.DecisionStore)
	}{
		{"missing", missing},
		{"first put", firstPut},
		{"put at 0 over an entry", putOverEntry},
		{"update", update},
		{"update of what is not there", updateOfNothing},
		{"revisions differ", revisionsDiffer},
		{"keys do not collide", noCollisions},
		{"keys of every kind", everyKind},
		{"entries come back as they are", verbatim},
		{"concurrent puts", concurrentPuts},
		{"concurrent updates", concurrentUpdates},
		{"no update is lost", noUpdateIsLost},
		{"ended context", endedContext},
	} {
		t.Run(tc.name, func(t *testing.T) { tc.run(t, open(t)) })
	}
}

func key(t *testing.T, prefix string) ledger.Key {
	t.Helper()
	return ledger.NameKey(Name(t, prefix))
}

// put must succeed.
func put(t *testing.T, s ledger.DecisionStore, k ledger.Key, token string, revision uint64) {
	t.Helper()
	if err := s.Put(bounded(t), k, token, revision); err != nil {
		t.Fatalf("putting %s at revision %d: %v", k, revision, err)
	}
}

// refused must be refused as lost.
func refused(t *testing.T, s ledger.DecisionStore, k ledger.Key, token string, revision uint64) {
	t.Helper()
	if err := s.Put(bounded(t), k, token, revision); !errors.Is(err, ledger.ErrConflict) {
		t.Errorf("putting %s at revision %d: got %v, want ErrConflict", k, revision, err)
	}
}

// get must give this entry at once: the leader answers, with the caller's own write.
func get(t *testing.T, s ledger.DecisionStore, k ledger.Key, want string) uint64 {
	t.Helper()
	token, revision, err := s.Get(bounded(t), k)
	if err != nil {
		t.Fatalf("getting %s: %v", k, err)
	}
	if token != want {
		t.Fatalf("%s has %.80q, want %.80q", k, token, want)
	}
	if revision == 0 {
		t.Fatalf("the entry of %s has revision 0, which means that there is none", k)
	}
	return revision
}

func missing(t *testing.T, s ledger.DecisionStore) {
	token, revision, err := s.Get(bounded(t), key(t, "missing"))
	if !errors.Is(err, ledger.ErrNotFound) || token != "" || revision != 0 {
		t.Errorf("got %q, %d, %v; want ErrNotFound", token, revision, err)
	}
}

func firstPut(t *testing.T, s ledger.DecisionStore) {
	k := key(t, "first")
	put(t, s, k, "one", 0)
	if a, b := get(t, s, k, "one"), get(t, s, k, "one"); a != b {
		t.Errorf("one entry at revisions %d and %d", a, b)
	}
}

func putOverEntry(t *testing.T, s ledger.DecisionStore) {
	k := key(t, "over")
	put(t, s, k, "one", 0)
	refused(t, s, k, "two", 0)
	refused(t, s, k, "one", 0) // the same entry, too: a put says what it saw
	get(t, s, k, "one")
}

func update(t *testing.T, s ledger.DecisionStore) {
	k := key(t, "update")
	put(t, s, k, "one", 0)
	first := get(t, s, k, "one")
	put(t, s, k, "two", first)
	second := get(t, s, k, "two")
	if second <= first {
		t.Errorf("revision %d came after %d", second, first)
	}
	refused(t, s, k, "three", first) // stale
	refused(t, s, k, "three", second+1)
	refused(t, s, k, "three", 0)
	put(t, s, k, "three", second)
	get(t, s, k, "three")
}

func updateOfNothing(t *testing.T, s ledger.DecisionStore) {
	k := key(t, "nothing")
	refused(t, s, k, "one", 1)
	refused(t, s, k, "one", 1<<40)
	if _, _, err := s.Get(bounded(t), k); !errors.Is(err, ledger.ErrNotFound) {
		t.Errorf("a refused put left something: %v", err)
	}
}

// A revision of one key is none of another's.
func revisionsDiffer(t *testing.T, s ledger.DecisionStore) {
	a, b := key(t, "reva"), key(t, "revb")
	put(t, s, a, "a", 0)
	put(t, s, b, "b", 0)
	ra, rb := get(t, s, a, "a"), get(t, s, b, "b")
	if ra == rb {
		t.Skip("revisions are counted for each key; nothing to mix up")
	}
	refused(t, s, a, "x", rb)
	refused(t, s, b, "x", ra)
}

// Names that become one only if they were escaped badly: '.' parts the tokens of
// a NATS subject, so it must be written as something that is in no name.
func noCollisions(t *testing.T, s ledger.DecisionStore) {
	r := Name(t, "").String()
	names := []string{"a" + r, "a." + r, "a-" + r, "a_" + r, r + ".a", r + "-a", r + "_a", r + "a", r, "a." + r + ".a", "a." + r + "-a", "a-" + r + ".a"}
	for _, n := range names {
		put(t, s, ledger.NameKey(parse(t, n)), "entry of "+n, 0)
	}
	for _, n := range names {
		get(t, s, ledger.NameKey(parse(t, n)), "entry of "+n)
	}
	// The longest name, parted as often as can be.
	longest := ledger.NameKey(Name(t, "a.b.c.d.e.f.g.h"))
	put(t, s, longest, "longest", 0)
	get(t, s, longest, "longest")
}

// everyKind that is decided in home; the platform document is not put, because a
// store has one only.
func everyKind(t *testing.T, s ledger.DecisionStore) {
	id, err := ident.ParseKeyID("HK" + strings.ToUpper(ident.InviteOf(Name(t, "k").String()).String())[:18])
	if err != nil {
		t.Fatalf("the test's own key id: %v", err)
	}
	keys := []ledger.Key{
		ledger.InviteKey(ident.InviteOf(Name(t, "i").String())), ledger.AccessKeyKey(id), ledger.BaseKey(Account(t)),
	}
	for _, k := range keys {
		put(t, s, k, "entry of "+k.String(), 0)
	}
	for _, k := range keys {
		get(t, s, k, "entry of "+k.String())
	}
}

func verbatim(t *testing.T, s ledger.DecisionStore) {
	for _, token := range []string{"eyJ0eXAi.e30.c2ln_-", " spaces and\nlines\x00and more ", string(make([]byte, 3<<10)), "\xff\xfe"} {
		k := key(t, "verb")
		put(t, s, k, token, 0)
		get(t, s, k, token)
	}
	// Base claims and invitations may be large.
	large := strings.Repeat("0123456789abcdef", trust.MaxEntry/16)
	k := ledger.BaseKey(Account(t))
	put(t, s, k, large, 0)
	get(t, s, k, large)
}

func concurrentPuts(t *testing.T, s ledger.DecisionStore) {
	for range 4 {
		k := key(t, "race")
		won := race(t, 16, func(ctx context.Context, i int) error {
			return s.Put(ctx, k, fmt.Sprint("entry ", i), 0)
		})
		get(t, s, k, fmt.Sprint("entry ", won))
	}
}

func concurrentUpdates(t *testing.T, s ledger.DecisionStore) {
	k := key(t, "upd")
	put(t, s, k, "first", 0)
	revision := get(t, s, k, "first")
	won := race(t, 16, func(ctx context.Context, i int) error {
		return s.Put(ctx, k, fmt.Sprint("entry ", i), revision)
	})
	get(t, s, k, fmt.Sprint("entry ", won))
}

// race lets all write at once: one must win, and it says which; all others must
// be told that they lost.
func race(t *testing.T, writers int, write func(ctx context.Context, i int) error) int {
	t.Helper()
	winner := -1
	for i, err := range together(t, writers, write) {
		switch {
		case err == nil && winner >= 0:
			t.Fatalf("writers %d and %d both won", winner, i)
		case err == nil:
			winner = i
		case !errors.Is(err, ledger.ErrConflict):
			t.Fatalf("writer %d: got %v, want ErrConflict", i, err)
		}
	}
	if winner < 0 {
		t.Fatal("nobody won")
	}
	return winner
}

// together calls do n times at once and gives what each returned.
func together(t *testing.T, n int, do func(ctx context.Context, i int) error) []error {
	t.Helper()
	ctx := bounded(t)
	var (
		work  sync.WaitGroup
		start = make(chan struct{})
		errs  = make([]error, n)
	)
	for i := range n {
		work.Go(func() {
			<-start
			errs[i] = do(ctx, i)
		})
	}
	close(start)
	work.Wait()
	return errs
}

// noUpdateIsLost: each writer adds its mark to what it read until that is stored.
func noUpdateIsLost(t *testing.T, s ledger.DecisionStore) {
	k := key(t, "marks")
	put(t, s, k, "", 0)
	const marks = "abcdefgh"
	writers := len(marks)
	errs := together(t, writers, func(ctx context.Context, i int) error {
		for {
			have, revision, err := s.Get(ctx, k)
			if err != nil {
				return err
			}
			if err := s.Put(ctx, k, have+marks[i:i+1], revision); !errors.Is(err, ledger.ErrConflict) {
				return err
			}
		}
	})
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	have, _, err := s.Get(bounded(t), k)
	if err != nil {
		t.Fatal(err)
	}
	for i := range writers {
		if n := strings.Count(have, marks[i:i+1]); n != 1 || len(have) != writers {
			t.Errorf("writer %d's mark is in %q %d times", i, have, n)
		}
	}
}

func endedContext(t *testing.T, s ledger.DecisionStore) {
	k := key(t, "ended")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := s.Get(ctx, k); !errors.Is(err, ledger.ErrUnavailable) {
		t.Errorf("Get: got %v, want ErrUnavailable", err)
	}
	if err := s.Put(ctx, k, "x", 0); !errors.Is(err, ledger.ErrUnavailable) {
		t.Errorf("Put: got %v, want ErrUnavailable", err)
	}
}
