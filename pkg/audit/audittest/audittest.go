// Package audittest helps to test what writes and reads records: a Scribe makes blocks as
// a service does, and Store is what every audit.Store and its source are held to.
package audittest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/herald-nats/herald/pkg/audit"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/keystore"
	"github.com/herald-nats/herald/pkg/ledger"
	"github.com/herald-nats/herald/pkg/ledger/ledgertest"
)

// Scribe writes one chain of blocks, in region "ams".
type Scribe struct {
	Key    *keystore.Key
	User   ident.UserKey
	Region ident.Region
	JWT    string // in each block; may be empty
	last   audit.Ref
}

// NewScribe makes one with a key of its own.
func NewScribe(t testing.TB) *Scribe {
	t.Helper()
	return ScribeOf(t, must(keystore.Generate(keystore.User)))
}

// ScribeOf makes one of a key.
func ScribeOf(t testing.TB, key *keystore.Key) *Scribe {
	t.Helper()
	return &Scribe{Key: key, User: must(ident.ParseUserKey(key.Public())), Region: must(ident.ParseRegion("ams"))}
}

// Under is what its blocks are stored under.
func (s *Scribe) Under() string { return s.Region.String() + "." + s.User.String() }

// Block makes the chain's next block.
func (s *Scribe) Block(t testing.TB, records ...audit.Record) audit.Sealed {
	t.Helper()
	return s.Head(t, audit.Head{}, records...)
}

// Head is Block with something else in its head than its place in the chain.
func (s *Scribe) Head(t testing.TB, h audit.Head, records ...audit.Record) audit.Sealed {
	t.Helper()
	h.Region, h.Writer, h.Chain, h.N, h.Prev = s.Region, s.User, s.last.Chain, s.last.N+1, s.last.Sum
	if h.At == 0 {
		h.At = time.Now().UnixMilli()
	}
	if h.JWT == "" {
		h.JWT = s.JWT
	}
	b, err := audit.Seal(h, records, s.Key)
	if err != nil {
		t.Fatal(err)
	}
	s.last = b.Ref
	return b
}

// Record makes a record of a credential that nobody else has.
func Record(t testing.TB, issued time.Time, life time.Duration) audit.Record {
	t.Helper()
	u := ledgertest.User(t)
	return audit.Record{
		What: audit.Issue, At: issued.UnixMilli(), Door: "issue", ID: u.String(), Request: "r1", Identity: ident.OpenIdentity(u), User: u,
		Account: ledgertest.Account(t), Role: ledgertest.Label(t, "member"), Name: ledgertest.Name(t, "rec"),
		Issued: issued.Unix(), Expires: issued.Add(life).Unix(),
	}
}

// Store runs the suite for an audit.Store and the ledger.Source of it. A store may take one
// writer's blocks only.
func Store(t *testing.T, open func(t *testing.T) (audit.Store, ledger.Source, *Scribe)) {
	for _, tc := range []struct {
		name string
		run  func(t *testing.T, s audit.Store, src ledger.Source, w *Scribe)
	}{
		{"what is appended is found", found},
		{"all are kept, in order", kept},
		{"appended twice", twice},
		{"the longest", longest},
		{"ended context", ended},
	} {
		t.Run(tc.name, func(t *testing.T) { s, src, w := open(t); tc.run(t, s, src, w) })
	}
}

func appended(t *testing.T, s audit.Store, b audit.Sealed) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := s.Append(ctx, b); err != nil {
		t.Fatalf("appending a block: %v", err)
	}
}

// sums waits for a number of a writer's blocks, and gives their sums.
func sums(t *testing.T, src ledger.Source, from uint64, w *Scribe, n int) []string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for {
		var out []string
		for at := from; ; {
			part, err := src.Read(ctx, at, 4)
			if err != nil {
				t.Fatal(err)
			}
			if len(part) == 0 {
				break
			}
			for _, e := range part {
				at = e.Seq
				if e.Subject != w.Under() {
					continue
				}
				b, err := audit.Open(e.Subject, e.Data)
				if err != nil {
					t.Fatal(err)
				}
				out = append(out, b.Sum)
			}
		}
		if len(out) >= n {
			return out
		}
		select {
		case <-ctx.Done():
			t.Fatalf("%d of %d blocks were read", len(out), n)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

func start(t *testing.T, src ledger.Source) uint64 {
	t.Helper()
	last, err := src.Last(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return last
}

func found(t *testing.T, s audit.Store, src ledger.Source, w *Scribe) {
	from, b := start(t, src), w.Block(t, Record(t, time.Now(), time.Hour))
	appended(t, s, b)
	if got := sums(t, src, from, w, 1); !slices.Equal(got, []string{b.Sum}) {
		t.Errorf("found %v, want %v", got, b.Sum)
	}
}

func kept(t *testing.T, s audit.Store, src ledger.Source, w *Scribe) {
	from := start(t, src)
	var want []string
	for range 9 {
		b := w.Block(t, Record(t, time.Now(), time.Hour))
		appended(t, s, b)
		want = append(want, b.Sum)
	}
	if got := sums(t, src, from, w, len(want)); !slices.Equal(got, want) {
		t.Errorf("found %v, want %v", got, want)
	}
}

// A block that is appended again after a lost answer is there once.
func twice(t *testing.T, s audit.Store, src ledger.Source, w *Scribe) {
	from := start(t, src)
	a, mark := w.Block(t, Record(t, time.Now(), time.Hour)), w.Block(t)
	appended(t, s, a)
	appended(t, s, a)
	appended(t, s, mark)
	if got := sums(t, src, from, w, 2); !slices.Equal(got, []string{a.Sum, mark.Sum}) {
		t.Errorf("found %v", got)
	}
}

func longest(t *testing.T, s audit.Store, src ledger.Source, w *Scribe) {
	from := start(t, src)
	var records []audit.Record
	for i := range 500 {
		r := Record(t, time.Now(), time.Hour)
		r.Why, r.Request = audit.Reason(fmt.Sprintf("%0512d", i)), fmt.Sprint(i)
		records = append(records, r)
	}
	for len(records) > 0 { // as many as a block may have
		n := min(len(records), 160)
		b := w.Block(t, records[:n]...)
		if len(b.Data) > audit.MaxBlock {
			t.Fatalf("%d bytes", len(b.Data))
		}
		appended(t, s, b)
		records = records[n:]
	}
	sums(t, src, from, w, 4)
}

func ended(t *testing.T, s audit.Store, _ ledger.Source, w *Scribe) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Append(ctx, w.Block(t)); !errors.Is(err, audit.ErrUnavailable) {
		t.Errorf("Append: got %v, want ErrUnavailable", err)
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}
