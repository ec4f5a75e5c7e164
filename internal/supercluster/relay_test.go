package supercluster

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"testing/iotest"
	"time"

	"github.com/herald-nats/herald/pkg/ident"
)

func TestWAN(t *testing.T) {
	k := newKeys()
	cfg := k.config(t.TempDir(), 2, "ams", "sgp", "fra")
	cfg.WAN = true
	s := up(t, cfg)
	push(t, s, k, "ams")
	respond(t, s, k, "ams", "at.ams")
	for _, l := range s.Links() {
		if l.A != reg("ams") {
			continue
		}
		want := map[ident.Region]time.Duration{reg("sgp"): 160 * time.Millisecond, reg("fra"): DefaultRTT}[l.B]
		if l.RTT != want {
			t.Errorf("%v, want %v", l, want)
		}
		nc := dial(t, s, l.B.String(), k.appUser)
		eventually(t, 5*time.Second, "first request", func() error { return ask(nc, "at.ams") })
		for range 3 {
			begin := time.Now()
			if err := ask(nc, "at.ams"); err != nil {
				t.Fatal(err)
			}
			if took := time.Since(begin); took < l.RTT || took >= 3*l.RTT {
				t.Errorf("%s to ams and back took %v, the link has %v", l.B, took, l.RTT)
			}
		}
	}
}

func TestRTT(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want time.Duration
	}{
		{"ams", "sfo", 145 * time.Millisecond},
		{"sgp", "ams", 160 * time.Millisecond},
		{"sfo", "sgp", 170 * time.Millisecond},
		{"ams", "fra", DefaultRTT},
	} {
		if got := RTT(reg(c.a), reg(c.b)); got != c.want {
			t.Errorf("%s-%s: %v", c.a, c.b, got)
		}
	}
}

// A delay must neither throttle nor reorder: 32 MiB with 50 ms take about that,
// where a relay that waited after each read would take half a minute.
func TestForward(t *testing.T) {
	const delay = 50 * time.Millisecond
	data := bytes.Repeat([]byte("0123456789abcde\n"), 2<<20)
	near, far := pipe(t)
	src, fill := pipe(t)
	ctx, cancel := context.WithCancel(t.Context())
	stop := func() { cancel(); _ = near.Close(); _ = src.Close() }
	var wg sync.WaitGroup
	begin := time.Now()
	wg.Go(func() { forward(ctx, stop, near, []byte("head\n"), src, after(delay)) })
	wg.Go(func() { _, _ = fill.Write(data); _ = fill.Close() })

	first := make([]byte, 5)
	if _, err := io.ReadFull(far, first); err != nil || string(first) != "head\n" {
		t.Fatalf("%q, %v", first, err)
	}
	if took := time.Since(begin); took < delay {
		t.Errorf("the first bytes took %v", took)
	}
	sum := sha256.New()
	if _, err := io.Copy(sum, far); err != nil {
		t.Fatal(err)
	}
	took := time.Since(begin)
	t.Logf("%d MiB in %v", len(data)>>20, took)
	if took > 5*time.Second {
		t.Errorf("%d bytes took %v", len(data), took)
	}
	if want := sha256.Sum256(data); !bytes.Equal(sum.Sum(nil), want[:]) {
		t.Error("what arrived is not what was sent")
	}
	wg.Wait()
}

// Whoever takes no more, or cancels, ends the forwarding even while nothing comes.
func TestForwardEnds(t *testing.T) {
	for _, delay := range []time.Duration{0, time.Millisecond, time.Hour} {
		near, far := pipe(t)
		src, fill := pipe(t)
		ctx, cancel := context.WithCancel(t.Context())
		stop := func() { cancel(); _ = near.Close(); _ = src.Close() }
		var wg sync.WaitGroup
		wg.Go(func() { forward(ctx, stop, near, nil, src, after(delay)) })
		_, _ = fill.Write([]byte("x"))
		if delay == time.Millisecond {
			_ = far.Close() // the next write, or the one after, fails
			for ctx.Err() == nil {
				if _, err := fill.Write([]byte("x")); err != nil {
					break
				}
				time.Sleep(time.Millisecond)
			}
		} else {
			stop()
		}
		wg.Wait()
	}
}

// pipe is two ends of a TCP connection.
func pipe(t *testing.T) (a, b net.Conn) {
	t.Helper()
	l := must((&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0"))
	defer func() { _ = l.Close() }()
	a = must((&net.Dialer{}).DialContext(t.Context(), "tcp", l.Addr().String()))
	b = must(l.Accept())
	t.Cleanup(func() { _, _ = a.Close(), b.Close() })
	return a, b
}

// Whatever comes, and in whatever pieces: no panic, bounded, a valid region or an
// error, and not a byte lost.
func FuzzConnect(f *testing.F) {
	f.Add([]byte("CONNECT {\"echo\":true,\"verbose\":false,\"gateway\":\"ams\"}\r\nINFO {}\r\n"))
	f.Add([]byte("CONNECT {\"gateway\":\"\"}\n"))
	f.Add([]byte("CONNECT null\n"))
	f.Add([]byte("CONNECT {\"gateway\":\"ams\"}{\"gateway\":\"sfo\"}\n"))
	f.Add([]byte("GET / HTTP/1.1\r\n\r\n"))
	f.Add(bytes.Repeat([]byte("x"), maxConnect+1))
	f.Fuzz(func(t *testing.T, data []byte) {
		read, err := readLine(iotest.HalfReader(bytes.NewReader(data)), maxConnect)
		if err != nil {
			if !errors.Is(err, errNoGateway) {
				t.Errorf("not told apart: %v", err)
			}
			if i := bytes.IndexByte(data, '\n'); i >= 0 && i < maxConnect {
				t.Errorf("a line of %d bytes: %v", i, err)
			}
			return
		}
		if len(read) > maxConnect || !bytes.HasPrefix(data, read) {
			t.Fatalf("read %d bytes", len(read))
		}
		line, _, ok := bytes.Cut(read, []byte("\n"))
		if !ok {
			t.Fatal("no line")
		}
		from, err := parseConnect(line)
		if err != nil {
			if !errors.Is(err, errNoGateway) {
				t.Errorf("not told apart: %v", err)
			}
			return
		}
		if again, err := ident.ParseRegion(from.String()); err != nil || again != from {
			t.Errorf("%q: %v", from, err)
		}
	})
}

func after(d time.Duration) func() time.Duration {
	if d == 0 {
		return nil
	}
	return func() time.Duration { return d }
}
