package ledger_test

import (
	"encoding/binary"
	"fmt"
	"runtime"
	"strings"
	"testing"

	"github.com/nats-io/nkeys"

	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/ledger"
	"github.com/herald-nats/herald/pkg/ledger/ledgertest"
)

func sumOf(n uint64) (s ledger.Sum) {
	binary.BigEndian.PutUint64(s[:], n)
	return s
}

// filled is a projection of many names of one holder, and those names.
func filled(t testing.TB, n int) (*ledger.Projection, []ident.Name, ident.Identity) {
	t.Helper()
	p, names, id := ledger.NewProjection(nil), make([]ident.Name, n), open(t)
	for i := range names {
		names[i] = name(t, fmt.Sprintf("name%d", i))
		p.RestoreName(ledger.KnownName{Name: names[i], Holder: id, Version: 1, At: now().UnixMilli(), Sum: sumOf(uint64(i))})
	}
	return p, names, id
}

// Verifying is what filling a projection costs: so many of it in a second, on each
// processor.
func BenchmarkOpen(b *testing.B) {
	p := newPlatform(b)
	o := p.Opener()
	for _, e := range []ledger.Entry{
		p.Entry(b, ledger.NameKey(name(b, "alice")), 1, false, now(), ledger.Name{Holder: open(b), User: ledgertest.User(b), Claimed: 1, Until: 2, Nonce: "AAAAAAAAAAAAAAAAAAAAAA"}),
		p.Entry(b, ledger.RevocationKey(p.Account(b, "CHAT"), ledgertest.User(b)), 1, true, now(), ledger.Revocation{By: "ops"}),
	} {
		b.Run(string(e.Key.Kind()), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := o.Open(e.Key.String(), e.Token); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkProjectionLookup(b *testing.B) {
	p, names, id := filled(b, 1_000_000)
	// What is asked for lies in the cache, as a name does that was just read from a
	// request; what is looked up does not. In an order of their own, one after the other.
	asked := make([]ident.Name, 1<<17)
	for i := range asked {
		asked[i] = name(b, strings.Clone(names[i*7919%len(names)].String()))
	}
	i := 0
	b.ReportAllocs()
	for b.Loop() {
		n, _, ok := p.Name(asked[i])
		if !ok || n.Holder != id {
			b.Fatal("not found")
		}
		i = (i + 1) % len(asked)
	}
}

// The cost of an entry must not grow with what is known.
func BenchmarkApply(b *testing.B) {
	for _, n := range []int{10_000, 100_000, 1_000_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			p, names, id := filled(b, n)
			keys := make([]ledger.Key, len(names))
			for i, n := range names {
				keys[i] = ledger.NameKey(n)
			}
			i, version := 0, uint64(2)
			b.ReportAllocs()
			for b.Loop() {
				if !p.Apply(ledger.Entry{Key: keys[i], Version: version, At: now(), Sum: sumOf(version), Body: ledger.Name{Holder: id}}) {
					b.Fatal("it does not hold")
				}
				if i += 7919; i >= len(keys) {
					i -= len(keys)
				}
				version++
			}
		})
	}
}

// What is looked up for each request leaves nothing to collect.
func TestLookupsAllocateNothing(t *testing.T) {
	p, names, id := filled(t, 100)
	account, user := ledgertest.Account(t), ledgertest.User(t)
	for what, look := range map[string]func(){
		"Name":     func() { p.Name(names[7]) },
		"Document": func() { p.Document() },
		"Denied":   func() { p.Denied(id, account, user) },
	} {
		if n := testing.AllocsPerRun(100, look); n != 0 {
			t.Errorf("%s allocates %v times", what, n)
		}
	}
}

// What a name costs in memory, where each has a holder of its own.
func BenchmarkMemory(b *testing.B) {
	heap := func() uint64 {
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	for _, n := range []int{10_000, 100_000, 1_000_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			for b.Loop() {
				p := ledger.NewProjection(nil)
				raw := make([]byte, 32)
				for i := range n {
					binary.BigEndian.PutUint64(raw, uint64(i))
					key, err := nkeys.Encode(nkeys.PrefixByteUser, raw)
					if err != nil {
						b.Fatal(err)
					}
					user, err := ident.ParseUserKey(string(key))
					if err != nil {
						b.Fatal(err)
					}
					p.RestoreName(ledger.KnownName{
						Name: name(b, fmt.Sprintf("name-%d", i)), Holder: ident.OpenIdentity(user), Version: 1, At: now().UnixMilli(), Sum: sumOf(uint64(i)),
					})
				}
				with := heap()
				runtime.KeepAlive(p)
				p = nil
				b.ReportMetric(float64(with-heap())/float64(n), "heap-B/name")
			}
		})
	}
}
