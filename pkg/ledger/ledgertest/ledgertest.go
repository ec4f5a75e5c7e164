// Package ledgertest holds every implementation of the ledger's stores to one
// behaviour: that which pkg/ledger states. It tests what a store promises, not
// how it keeps it.
package ledgertest

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/ledger"
)

// patience bounds every step: a replica may lag and a leader may be elected.
const patience = 20 * time.Second

// Names runs the suite for a NameStore. open gives the store under test; it may
// give the same one each time, because the suite uses names of its own. Names
// that others put meanwhile do no harm.
func Names(t *testing.T, open func(t *testing.T) ledger.NameStore) {
	for _, tc := range []struct {
		name string
		run  func(t *testing.T, s ledger.NameStore)
	}{
		{"missing", missing},
		{"first put", firstPut},
		{"put at 0 over an entry", putOverEntry},
		{"update", update},
		{"update of what is not there", updateOfNothing},
		{"revisions differ", revisionsDiffer},
		{"names do not collide", noCollisions},
		{"entries come back as they are", verbatim},
		{"concurrent puts", concurrentPuts},
		{"concurrent updates", concurrentUpdates},
		{"ended context", endedContext},
	} {
		t.Run(tc.name, func(t *testing.T) { tc.run(t, open(t)) })
	}
}

// Name makes a name that nobody else has: prefix, at most 15 long, and 16
// random characters.
func Name(t *testing.T, prefix string) ident.Name {
	t.Helper()
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails, as of Go 1.24
	n, err := ident.ParseName(prefix + hex.EncodeToString(b[:]))
	if err != nil {
		t.Fatalf("the suite's own name: %v", err)
	}
	return n
}

func parse(t *testing.T, s string) ident.Name {
	t.Helper()
	n, err := ident.ParseName(s)
	if err != nil {
		t.Fatalf("the suite's own name: %v", err)
	}
	return n
}

func bounded(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

// put must succeed.
func put(t *testing.T, s ledger.NameStore, n ident.Name, entry string, revision uint64) {
	t.Helper()
	if err := s.PutName(bounded(t), n, entry, revision); err != nil {
		t.Fatalf("putting %s at revision %d: %v", n, revision, err)
	}
}

// refused must be refused as lost.
func refused(t *testing.T, s ledger.NameStore, n ident.Name, entry string, revision uint64) {
	t.Helper()
	if err := s.PutName(bounded(t), n, entry, revision); !errors.Is(err, ledger.ErrConflict) {
		t.Errorf("putting %s at revision %d: got %v, want ErrConflict", n, revision, err)
	}
}

// read waits until a read gives this entry, since a replica may lag behind a
// write; it must never fail for another reason nor give what was not put.
func read(t *testing.T, s ledger.NameStore, n ident.Name, want string, before ...string) uint64 {
	t.Helper()
	ctx := bounded(t)
	for {
		entry, revision, err := s.Name(ctx, n)
		switch {
		case err == nil && entry == want:
			if revision == 0 {
				t.Fatalf("the entry of %s has revision 0, which means that there is none", n)
			}
			return revision
		case err == nil:
			old := false
			for _, b := range before {
				old = old || b == entry
			}
			if !old {
				t.Fatalf("%s has the entry %.80q, which nobody put there; want %q", n, entry, want)
			}
		case !errors.Is(err, ledger.ErrNotFound):
			t.Fatalf("reading %s: %v", n, err)
		}
		select {
		case <-ctx.Done():
			t.Fatalf("%s: %q was never read", n, want)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

func missing(t *testing.T, s ledger.NameStore) {
	entry, revision, err := s.Name(bounded(t), Name(t, "missing"))
	if !errors.Is(err, ledger.ErrNotFound) || entry != "" || revision != 0 {
		t.Errorf("got %q, %d, %v; want ErrNotFound", entry, revision, err)
	}
}

func firstPut(t *testing.T, s ledger.NameStore) {
	n := Name(t, "first")
	put(t, s, n, "one", 0)
	read(t, s, n, "one")
}

func putOverEntry(t *testing.T, s ledger.NameStore) {
	n := Name(t, "over")
	put(t, s, n, "one", 0)
	refused(t, s, n, "two", 0)
	refused(t, s, n, "one", 0) // the same entry, too: a put says what it saw
	read(t, s, n, "one")
}

func update(t *testing.T, s ledger.NameStore) {
	n := Name(t, "update")
	put(t, s, n, "one", 0)
	first := read(t, s, n, "one")
	put(t, s, n, "two", first)
	second := read(t, s, n, "two", "one")
	if second <= first {
		t.Errorf("revision %d came after %d", second, first)
	}
	refused(t, s, n, "three", first) // stale
	refused(t, s, n, "three", second+1)
	refused(t, s, n, "three", 0)
	put(t, s, n, "three", second)
	read(t, s, n, "three", "one", "two")
}

func updateOfNothing(t *testing.T, s ledger.NameStore) {
	n := Name(t, "nothing")
	refused(t, s, n, "one", 1)
	refused(t, s, n, "one", 1<<40)
	if _, _, err := s.Name(bounded(t), n); !errors.Is(err, ledger.ErrNotFound) {
		t.Errorf("a refused put left something: %v", err)
	}
}

// A revision of one name is none of another's.
func revisionsDiffer(t *testing.T, s ledger.NameStore) {
	a, b := Name(t, "reva"), Name(t, "revb")
	put(t, s, a, "a", 0)
	put(t, s, b, "b", 0)
	ra, rb := read(t, s, a, "a"), read(t, s, b, "b")
	if ra == rb {
		t.Skip("revisions are counted for each name; nothing to mix up")
	}
	refused(t, s, a, "x", rb)
	refused(t, s, b, "x", ra)
}

// Names that become one only if they were escaped badly: '.' parts the tokens of
// a NATS subject, so it must be written as something that is in no name.
func noCollisions(t *testing.T, s ledger.NameStore) {
	r := Name(t, "").String()
	names := []string{"a" + r, "a." + r, "a-" + r, "a_" + r, r + ".a", r + "-a", r + "_a", r + "a", r, "a." + r + ".a", "a." + r + "-a", "a-" + r + ".a"}
	for _, n := range names {
		put(t, s, parse(t, n), "entry of "+n, 0)
	}
	for _, n := range names {
		read(t, s, parse(t, n), "entry of "+n)
	}
	// The longest name, parted as often as can be.
	longest := Name(t, "a.b.c.d.e.f.g.h")
	put(t, s, longest, "longest", 0)
	read(t, s, longest, "longest")
}

func verbatim(t *testing.T, s ledger.NameStore) {
	for _, entry := range []string{"eyJ0eXAi.e30.c2ln_-", " spaces and\nlines\x00and more ", string(make([]byte, 3<<10)), "\xff\xfe"} {
		n := Name(t, "verb")
		put(t, s, n, entry, 0)
		read(t, s, n, entry)
	}
}

func concurrentPuts(t *testing.T, s ledger.NameStore) {
	const names, writers = 4, 16
	for range names {
		n := Name(t, "race")
		won := race(t, writers, func(ctx context.Context, i int) error {
			return s.PutName(ctx, n, fmt.Sprint("entry ", i), 0)
		})
		read(t, s, n, fmt.Sprint("entry ", won))
	}
}

func concurrentUpdates(t *testing.T, s ledger.NameStore) {
	n := Name(t, "upd")
	put(t, s, n, "first", 0)
	revision := read(t, s, n, "first")
	won := race(t, 16, func(ctx context.Context, i int) error {
		return s.PutName(ctx, n, fmt.Sprint("entry ", i), revision)
	})
	read(t, s, n, fmt.Sprint("entry ", won), "first")
}

// race lets all write at once: one must win, and it says which; all others must
// be told that they lost.
func race(t *testing.T, writers int, write func(ctx context.Context, i int) error) int {
	t.Helper()
	ctx := bounded(t)
	var (
		wg    sync.WaitGroup
		start = make(chan struct{})
		errs  = make([]error, writers)
	)
	for i := range writers {
		wg.Go(func() {
			<-start
			errs[i] = write(ctx, i)
		})
	}
	close(start)
	wg.Wait()
	winner := -1
	for i, err := range errs {
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

func endedContext(t *testing.T, s ledger.NameStore) {
	n := Name(t, "ended")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := s.Name(ctx, n); !errors.Is(err, ledger.ErrUnavailable) {
		t.Errorf("Name: got %v, want ErrUnavailable", err)
	}
	if err := s.PutName(ctx, n, "x", 0); !errors.Is(err, ledger.ErrUnavailable) {
		t.Errorf("PutName: got %v, want ErrUnavailable", err)
	}
}
