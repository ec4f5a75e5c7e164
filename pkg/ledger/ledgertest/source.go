package ledgertest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/ledger"
)

// DecisionSource runs the suite for a ledger.Source of a ledger.DecisionStore.
func DecisionSource(t *testing.T, open func(t *testing.T) (ledger.DecisionStore, ledger.Source)) {
	log := func(t *testing.T) *log {
		s, src := open(t)
		return &log{Source: src, fresh: func(t *testing.T) ledger.Key { return key(t, "src") }, write: func(ctx context.Context, k ledger.Key, token string) error {
			_, revision, err := s.Get(ctx, k)
			if err != nil && !errors.Is(err, ledger.ErrNotFound) {
				return err
			}
			return s.Put(ctx, k, token, revision)
		}}
	}
	for _, tc := range ofEntries() {
		t.Run(tc.name, func(t *testing.T) { tc.run(t, log(t)) })
	}
}

// Denials runs the suite for a ledger.DenialStore and the ledger.Source of it.
func Denials(t *testing.T, open func(t *testing.T) (ledger.DenialStore, ledger.Source)) {
	log := func(t *testing.T) *log {
		s, src := open(t)
		return &log{Source: src, write: s.Append, fresh: func(t *testing.T) ledger.Key {
			return ledger.RevocationKey(Account(t), User(t))
		}}
	}
	for _, tc := range append(ofEntries(), testOfEntries{"appended twice", appendedTwice}, testOfEntries{"denials of every kind", everyDenial}) {
		t.Run(tc.name, func(t *testing.T) { tc.run(t, log(t)) })
	}
	t.Run("ended context", func(t *testing.T) {
		l := log(t)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := l.write(ctx, l.fresh(t), "x"); !errors.Is(err, ledger.ErrUnavailable) {
			t.Errorf("Append: got %v, want ErrUnavailable", err)
		}
	})
}

// log is a source, and how an entry is written that it must have then.
type log struct {
	ledger.Source
	fresh func(t *testing.T) ledger.Key
	write func(ctx context.Context, k ledger.Key, token string) error
}

type testOfEntries struct {
	name string
	run  func(t *testing.T, l *log)
}

// ofEntries are the tests of a source whose entries have keys.
func ofEntries() []testOfEntries {
	return []testOfEntries{
		{"what is written is found", found},
		{"order and limit", orderAndLimit},
		{"nothing at the end", nothingAtTheEnd},
		{"the last of a key is the last", lastIsLast},
		{"written at once", writtenAtOnce},
		{"sources and ended contexts", sourceAndEndedContext},
	}
}

func (l *log) put(t *testing.T, k ledger.Key, token string) {
	t.Helper()
	if err := l.write(bounded(t), k, token); err != nil {
		t.Fatalf("writing %s: %v", k, err)
	}
}

// all reads everything after a position, some entries at a time, and holds each
// answer to what a source promises.
func all(t *testing.T, s ledger.Source, after uint64, limit int) []ledger.Stored {
	t.Helper()
	ctx := bounded(t)
	var got []ledger.Stored
	for {
		part, err := s.Read(ctx, after, limit)
		if err != nil {
			t.Fatalf("reading after %d: %v", after, err)
		}
		if len(part) == 0 {
			return got
		}
		if len(part) > limit {
			t.Fatalf("%d entries, with a limit of %d", len(part), limit)
		}
		for _, e := range part {
			if e.Seq <= after {
				t.Fatalf("position %d follows %d", e.Seq, after)
			}
			after = e.Seq
		}
		got = append(got, part...)
	}
}

// eventually waits until a source has what ok looks for: it may lag.
func eventually(t *testing.T, s ledger.Source, after uint64, ok func([]ledger.Stored) bool) []ledger.Stored {
	t.Helper()
	ctx := bounded(t)
	for {
		got := all(t, s, after, 1024)
		if ok(got) {
			return got
		}
		select {
		case <-ctx.Done():
			t.Fatalf("what was written was never read; after %d there is %.300v", after, got)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// of keeps the entries of some subjects: others write meanwhile.
func of(got []ledger.Stored, subjects ...string) []ledger.Stored {
	var own []ledger.Stored
	for _, e := range got {
		if slices.Contains(subjects, e.Subject) {
			own = append(own, e)
		}
	}
	return own
}

// has is true of entries that end with this one, of those with its subject.
func has(k ledger.Key, token string) func([]ledger.Stored) bool {
	return func(got []ledger.Stored) bool {
		own := of(got, k.String())
		return len(own) > 0 && own[len(own)-1].Data == token
	}
}

// start is a position before anything that is written from now on.
func start(t *testing.T, s ledger.Source) uint64 {
	t.Helper()
	last, err := s.Last(bounded(t))
	if err != nil {
		t.Fatal(err)
	}
	return last
}

// reaches waits until Last is at least a position that Read gave.
func reaches(t *testing.T, s ledger.Source, position uint64) {
	t.Helper()
	ctx := bounded(t)
	for {
		last, err := s.Last(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if last >= position {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("position %d was read and the last is %d", position, last)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

func found(t *testing.T, l *log) {
	from := start(t, l)
	for _, token := range []string{"eyJ0eXAi.e30.c2ln_-", " spaces and\nlines\x00and more ", string(make([]byte, 3<<10)), "\xff\xfe"} {
		k := l.fresh(t)
		l.put(t, k, token)
		own := of(eventually(t, l, from, has(k, token)), k.String())
		if len(own) != 1 || own[0].Seq == 0 {
			t.Errorf("found %.200v", own)
		}
		reaches(t, l, own[0].Seq)
	}
}

func orderAndLimit(t *testing.T, l *log) {
	from := start(t, l)
	var keys []string
	for range 7 {
		k := l.fresh(t)
		l.put(t, k, "entry of "+k.String())
		keys = append(keys, k.String())
	}
	want := eventually(t, l, from, func(got []ledger.Stored) bool { return len(of(got, keys...)) == len(keys) })
	for i, e := range of(want, keys...) {
		if e.Subject != keys[i] || e.Data != "entry of "+keys[i] {
			t.Fatalf("in place %d is %.100v, not what was written then", i, e)
		}
	}
	for _, limit := range []int{1, 2, 3, 7, 1000} {
		if got := all(t, l, from, limit); !slices.Equal(of(got, keys...), of(want, keys...)) {
			t.Errorf("read by %d it is %.300v", limit, got)
		}
	}
	// After a position is what comes after it, and not that.
	own := of(want, keys...)
	if got := of(all(t, l, own[3].Seq, 1000), keys...); !slices.Equal(got, own[4:]) {
		t.Errorf("after the fourth is %.300v", got)
	}
}

func nothingAtTheEnd(t *testing.T, l *log) {
	from := start(t, l)
	k := l.fresh(t)
	l.put(t, k, "x")
	own := of(eventually(t, l, from, has(k, "x")), k.String())
	if got := of(all(t, l, own[0].Seq, 100), k.String()); len(got) != 0 {
		t.Errorf("after the last: %v", got)
	}
	// Whoever has a position from before a stream was lost asks this.
	if got, err := l.Read(bounded(t), 1<<40, 10); err != nil || len(got) != 0 {
		t.Errorf("far beyond the end: %v, %v", got, err)
	}
}

func lastIsLast(t *testing.T, l *log) {
	from := start(t, l)
	k, other := l.fresh(t), l.fresh(t)
	l.put(t, k, "one")
	l.put(t, other, "x")
	first := of(eventually(t, l, from, has(other, "x")), k.String(), other.String())
	l.put(t, k, "two")
	l.put(t, k, "three")
	own := of(eventually(t, l, from, has(k, "three")), k.String(), other.String())
	// Those before the last may be there; the last must be, once, behind all others.
	count := map[string]int{}
	for _, e := range own {
		count[e.Subject+" "+e.Data]++
	}
	last := own[len(own)-1]
	if last.Subject != k.String() || last.Data != "three" || count[k.String()+" three"] != 1 || count[other.String()+" x"] != 1 {
		t.Fatalf("not the last of each: %v", own)
	}
	if before := first[len(first)-1].Seq; last.Seq <= before {
		t.Errorf("a later entry has position %d, an earlier one %d", last.Seq, before)
	}
	// Who had read to the first finds the last.
	if got := of(all(t, l, first[len(first)-1].Seq, 10), k.String(), other.String()); len(got) == 0 || got[len(got)-1] != last {
		t.Errorf("after what was read: %v", got)
	}
}

func writtenAtOnce(t *testing.T, l *log) {
	from := start(t, l)
	keys := make([]ledger.Key, 16)
	var subjects []string
	for i := range keys {
		keys[i] = l.fresh(t)
		subjects = append(subjects, keys[i].String())
	}
	errs := together(t, len(keys), func(ctx context.Context, i int) error { return l.write(ctx, keys[i], fmt.Sprint(i)) })
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	got := eventually(t, l, from, func(got []ledger.Stored) bool { return len(of(got, subjects...)) >= len(keys) })
	for _, e := range of(got, subjects...) {
		if want := fmt.Sprint(slices.Index(subjects, e.Subject)); e.Data != want {
			t.Errorf("%s has %q, want %q", e.Subject, e.Data, want)
		}
	}
}

func sourceAndEndedContext(t *testing.T, l *log) { endedSource(t, l) }

func endedSource(t *testing.T, s ledger.Source) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Read(ctx, 0, 10); !errors.Is(err, ledger.ErrUnavailable) {
		t.Errorf("Read: got %v, want ErrUnavailable", err)
	}
	if _, err := s.Last(ctx); !errors.Is(err, ledger.ErrUnavailable) {
		t.Errorf("Last: got %v, want ErrUnavailable", err)
	}
}

func appendedTwice(t *testing.T, l *log) {
	from := start(t, l)
	k, mark := l.fresh(t), l.fresh(t)
	l.put(t, k, "once")
	l.put(t, k, "once")
	l.put(t, mark, "x")
	got := eventually(t, l, from, func(got []ledger.Stored) bool { return has(mark, "x")(got) && has(k, "once")(got) })
	if own := of(got, k.String()); len(own) != 1 {
		t.Errorf("it is there %d times", len(own))
	}
}

func everyDenial(t *testing.T, l *log) {
	from := start(t, l)
	a, u := Account(t), User(t)
	longest := ""
	for len(longest) < 255 {
		longest += "x"
	}
	provider, err := ident.ParseLabel("a-provider")
	if err != nil {
		t.Fatal(err)
	}
	oidc, err := ident.OIDCIdentity(provider, (u.String() + longest)[:255])
	if err != nil {
		t.Fatal(err)
	}
	keys := []ledger.Key{
		ledger.RevocationKey(a, u), ledger.UserSuspension(a, u), ledger.AccountSuspension(a),
		ledger.IdentitySuspension(ident.OpenIdentity(u)), ledger.IdentitySuspension(oidc),
	}
	for _, k := range keys {
		l.put(t, k, k.String())
	}
	for _, k := range keys {
		eventually(t, l, from, has(k, k.String()))
	}
}
