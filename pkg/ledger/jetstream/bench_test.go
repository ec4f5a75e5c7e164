package jetstream_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
	"time"

	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/keystore"
	"github.com/herald-nats/herald/pkg/ledger"
	"github.com/herald-nats/herald/pkg/ledger/diskcopy"
	"github.com/herald-nats/herald/pkg/ledger/jetstream"
	"github.com/herald-nats/herald/pkg/platform"
	"github.com/herald-nats/herald/pkg/subject"
	"github.com/herald-nats/herald/pkg/trust"
)

// What a number of names costs, on real servers: in home's bucket and its mirror, in a
// reader's memory and in its copy, and how long a reader takes to know them from
// either. The names of one size are there when the next size is filled up. A million is
// more than a server of this platform may store; what does not need servers is measured
// with as many in pkg/ledger and pkg/ledger/diskcopy.
func BenchmarkNames(b *testing.B) {
	there := 0
	for _, n := range []int{10_000, 100_000} {
		b.Run(fmt.Sprintf("names=%d", n), func(b *testing.B) {
			put(b, there, n)
			there = max(there, n)
			for b.Loop() {
				measure(b, n)
			}
		})
	}
}

// put puts names into home's bucket, as its registrar would.
func put(b *testing.B, from, to int) {
	b.Helper()
	key, err := keystore.Load(filepath.Join(string(running.Up.Platform.Dir.Registrar(ams(b))), platform.SigningFile), keystore.Operator)
	if err != nil {
		b.Fatal(err)
	}
	nc, _ := dial(b, platform.Ledger, platform.RoleHome)
	js, err := natsjs.New(nc, natsjs.WithPublishAsyncMaxPending(1024), natsjs.WithDefaultTimeout(time.Minute))
	if err != nil {
		b.Fatal(err)
	}
	work := make(chan int, 1024)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for i := range work {
				// Each name is another identity's, as open names are.
				user := must(keystore.Generate(keystore.User))
				holder := must(ident.ParseUserKey(user.Public()))
				name := must(ident.ParseName(fmt.Sprintf("name-%d", i)))
				body := fmt.Appendf(nil, `{"holder":"%s","claimed":%d,"until":%d,"user":"%s","nonce":"AAAAAAAAAAAAAAAAAAAAAA"}`,
					ident.OpenIdentity(holder), time.Now().Unix(), time.Now().Add(720*time.Hour).Unix(), holder)
				k := ledger.NameKey(name).String()
				token := must(trust.Entry{Subject: k, Version: 1, At: time.Now().UnixMilli(), Body: body}.Sign(key))
				if _, err := js.PublishAsync(subject.Decision(k), []byte(token), natsjs.WithStallWait(time.Minute)); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	for i := from; i < to && !b.Failed(); i++ {
		work <- i
	}
	close(work)
	wg.Wait()
	select {
	case <-js.PublishAsyncComplete():
	case <-time.After(5 * time.Minute):
		b.Fatal("the names are not written")
	}
}

func heap() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

func measure(b *testing.B, n int) {
	b.Helper()
	src := jetstream.MirrorSource(reader(b), ams(b))
	for began, last := time.Now(), uint64(0); last < uint64(n); time.Sleep(10 * time.Millisecond) { // until the mirror has them
		var err error
		if last, err = src.Last(b.Context()); time.Since(began) > 20*time.Second {
			b.Fatalf("the mirror has %d: %v", last, err)
		}
	}
	opener := ledger.Opener{Operator: running.Up.Platform.Operator, Now: time.Now}
	began := time.Now()
	p := ledger.NewProjection(nil)
	f := &ledger.Follower{
		Projection: p, Opener: opener, Log: slog.New(slog.DiscardHandler), Every: time.Hour,
		Logs: []ledger.Log{{Name: "decisions", Near: src}},
	}
	ctx, cancel := context.WithCancel(b.Context())
	var run sync.WaitGroup
	run.Go(func() { f.Run(ctx) })
	<-f.Ready()
	b.ReportMetric(time.Since(began).Seconds(), "fill-s")
	cancel()
	run.Wait()
	if names, _, _ := p.Len(); names < n {
		b.Fatalf("%d names of %d", names, n)
	}
	path := filepath.Join(b.TempDir(), "copy")
	about := diskcopy.About{Operator: opener.Operator, Region: ams(b), Service: must(ident.ParseUserKey(must(keystore.Generate(keystore.User)).Public()))}
	secret := []byte("a secret of sixteen bytes or more")
	c := must(diskcopy.Open(path, secret, about))
	if _, err := c.Load(p, time.Now); err != nil {
		b.Fatal(err)
	}
	began = time.Now()
	if err := c.Flush(p, f.At(), time.Now()); err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(time.Since(began).Seconds(), "copy-write-s")
	if err := c.Close(); err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(float64(must(os.Stat(path)).Size())/float64(n), "copy-B/name")
	began = time.Now()
	again := must(diskcopy.Open(path, secret, about))
	defer func() { _ = again.Close() }()
	loaded, err := again.Load(ledger.NewProjection(nil), time.Now)
	if err != nil || loaded.Names < n {
		b.Fatalf("%+v %v", loaded, err)
	}
	b.ReportMetric(time.Since(began).Seconds(), "copy-load-s")

	nc, _ := dial(b, platform.Ledger, platform.RoleSetup)
	s := must(must(natsjs.New(nc)).Stream(b.Context(), subject.DecisionsStream))
	b.ReportMetric(float64(s.CachedInfo().State.Bytes)/float64(s.CachedInfo().State.Msgs), "stream-B/name")

	with := heap()
	runtime.KeepAlive(p)
	runtime.KeepAlive(f)
	p, f = nil, nil
	b.ReportMetric(float64(with-heap())/float64(n), "heap-B/name")
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}
