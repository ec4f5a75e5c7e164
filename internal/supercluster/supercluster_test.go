package supercluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// The tests inside share one supercluster, and run in this order.
func TestThreeRegions(t *testing.T) {
	k := newKeys()
	cfg := k.config(t.TempDir(), 3, "ams", "sfo", "sgp")
	s := up(t, cfg)

	t.Run("a pushed account reaches all nine", func(t *testing.T) {
		if got := push(t, s, k, "sfo"); got != 9 {
			t.Errorf("%d servers have it", got)
		}
		for _, r := range cfg.Regions {
			for _, n := range r.Nodes {
				stored := filepath.Join(cfg.Dir, r.Name.String(), n.Name, "resolver", k.appKey+".jwt")
				if data, err := os.ReadFile(stored); err != nil || string(data) != k.app {
					t.Errorf("%s: %v", n.Name, err)
				}
			}
		}
	})
	t.Run("a request crosses regions", func(t *testing.T) {
		respond(t, s, k, "ams", "at.ams")
		nc := dial(t, s, "sgp", k.appUser)
		eventually(t, 2*time.Second, "request from sgp", func() error { return ask(nc, "at.ams") })
	})
	t.Run("streams can be placed in each region", func(t *testing.T) {
		for _, r := range []string{"ams", "sfo", "sgp"} {
			createStream(t, dial(t, s, "ams", k.appUser), r, 3)
		}
	})
	t.Run("strangers get nowhere through a relay", func(t *testing.T) { testStrangers(t, s) })
	t.Run("a cut link stays cut until it is healed", func(t *testing.T) { testCut(t, s, k) })
	t.Run("a stopped node comes back", func(t *testing.T) { testStopNode(t, s) })
	t.Run("a stopped region comes back", func(t *testing.T) { testStopRegion(t, s, k) })
	t.Run("names that are not there", func(t *testing.T) {
		ctx, lax := t.Context(), reg("lax")
		for _, err := range []error{
			s.StopRegion(ctx, lax), s.StartRegion(ctx, lax), s.StopNode(ctx, "lax-1"), s.StartNode(ctx, "lax-1"),
			s.Cut(lax, reg("ams")), s.Heal(reg("ams"), reg("ams")),
		} {
			if !errors.Is(err, ErrUnknown) {
				t.Error(err)
			}
		}
		if urls := s.URLs(lax); urls != nil {
			t.Error(urls)
		}
	})
	t.Run("data survives a close and a start on the same ports", func(t *testing.T) { testRestart(t, s, k, cfg) })
}

// createStream makes a stream with as many replicas as given in a region. Two
// refusals pass, and who makes streams asks again. On a busy machine the leader
// may take a server that it knew for gone again (10005). And a server that loads an
// account for the first time tries its folder for streams out and removes it, with
// the stream that is being made there meanwhile: "error creating store" (10049).
func createStream(t *testing.T, nc *nats.Conn, in string, replicas int) jetstream.Stream {
	t.Helper()
	var st jetstream.Stream
	eventually(t, 15*time.Second, "stream in "+in, func() (err error) {
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		st, err = must(jetstream.New(nc)).CreateStream(ctx, jetstream.StreamConfig{
			Name: "S-" + in, Subjects: []string{"s." + in}, Replicas: replicas, Placement: &jetstream.Placement{Cluster: in},
		})
		return err
	})
	if c := st.CachedInfo().Cluster; replicas > 1 && (c == nil || c.Name != in) {
		t.Errorf("stream is in %+v, not in %s", c, in)
	}
	return st
}

func testStrangers(t *testing.T, s *Supercluster) {
	relay := s.region(reg("ams")).relay.at.addr
	for name, hello := range map[string]string{
		"a client":         "CONNECT {\"verbose\":false}\r\n",
		"the region":       "CONNECT {\"gateway\":\"ams\"}\r\n",
		"an unknown one":   "CONNECT {\"gateway\":\"lax\"}\r\n",
		"too long a line":  "CONNECT {\"name\":\"" + strings.Repeat("x", maxConnect) + "\",\"gateway\":\"sfo\"}\r\n",
		"something else":   "GET / HTTP/1.1\r\n",
		"someone who left": "",
	} {
		conn, err := (&net.Dialer{Timeout: time.Second}).DialContext(t.Context(), "tcp", relay)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(conn, hello); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if hello == "" {
			_ = conn.(*net.TCPConn).CloseWrite()
		}
		_ = conn.SetReadDeadline(time.Now().Add(5 * time.Second))
		said, err := io.ReadAll(conn) // until the relay hangs up
		if err != nil && !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("%s: %v", name, err)
		}
		if len(said) > 0 && strings.Count(string(said), "\n") > 1 {
			t.Errorf("%s was told more than INFO: %q", name, said)
		}
		_ = conn.Close()
	}
}

func testCut(t *testing.T, s *Supercluster, k keys) {
	respond(t, s, k, "ams", "at.ams")
	respond(t, s, k, "sfo", "at.sfo")
	ams, sfo, sgp := dial(t, s, "ams", k.appUser), dial(t, s, "sfo", k.appUser), dial(t, s, "sgp", k.appUser)
	whole := func() error { return errors.Join(ask(ams, "at.sfo"), ask(sfo, "at.ams")) }
	eventually(t, 3*time.Second, "before the cut", whole)

	if err := s.Cut(reg("ams"), reg("sfo")); err != nil {
		t.Fatal(err)
	}
	if l := s.Links()[0]; l != (Link{A: reg("ams"), B: reg("sfo"), Cut: true}) {
		t.Error(l)
	}
	// From now on, and for longer than the servers wait before they try again.
	for end := time.Now().Add(2500 * time.Millisecond); time.Now().Before(end); {
		if ask(ams, "at.sfo") == nil || ask(sfo, "at.ams") == nil {
			t.Fatal("the cut does not hold")
		}
		if err := errors.Join(ask(sgp, "at.sfo"), ask(sgp, "at.ams")); err != nil {
			t.Fatalf("sgp has lost someone: %v", err)
		}
	}
	if err := s.Heal(reg("ams"), reg("sfo")); err != nil {
		t.Fatal(err)
	}
	t.Log("healed in", eventually(t, 5*time.Second, "after healing", whole))
	if s.Links()[0].Cut {
		t.Error("still cut")
	}
}

func testStopNode(t *testing.T, s *Supercluster) {
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	before := s.Servers()[1]
	if err := s.StopNode(ctx, before.Name); err != nil {
		t.Fatal(err)
	}
	if now := s.Servers()[1]; now.Running || now.ID != before.ID {
		t.Error(now)
	}
	begin := time.Now()
	if err := s.StartNode(ctx, before.Name); err != nil {
		t.Fatal(err)
	}
	t.Log("node started in", time.Since(begin))
	if now := s.Servers()[1]; !now.Running || now.ID == before.ID || now.URL != before.URL {
		t.Error(now)
	}
}

func testStopRegion(t *testing.T, s *Supercluster, k keys) {
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	respond(t, s, k, "ams", "at.ams")
	respond(t, s, k, "sfo", "at.sfo")
	sgp := dial(t, s, "sgp", k.appUser)
	eventually(t, 3*time.Second, "before", func() error { return errors.Join(ask(sgp, "at.ams"), ask(sgp, "at.sfo")) })

	begin := time.Now()
	if err := s.StopRegion(ctx, reg("ams")); err != nil {
		t.Fatal(err)
	}
	t.Log("region stopped in", time.Since(begin))
	if err := ask(sgp, "at.sfo"); err != nil {
		t.Errorf("survivors: %v", err)
	}
	if ask(sgp, "at.ams") == nil {
		t.Error("who answered?")
	}
	js := must(jetstream.New(sgp))
	t.Log("survivors manage streams after", eventually(t, 12*time.Second, "survivors' meta leader", func() error {
		try, cancel := context.WithTimeout(ctx, 500*time.Millisecond)
		defer cancel()
		_, err := js.UpdateStream(try, jetstream.StreamConfig{
			Name: "S-sgp", Subjects: []string{"s.sgp", "s.more"}, Replicas: 3, Placement: &jetstream.Placement{Cluster: "sgp"},
		})
		return err
	}))
	begin = time.Now()
	if err := s.StartRegion(ctx, reg("ams")); err != nil {
		t.Fatal(err)
	}
	t.Log("region started in", time.Since(begin))
	t.Log("its clients are back after", eventually(t, 5*time.Second, "after", func() error { return ask(sgp, "at.ams") }))
}

func testRestart(t *testing.T, s *Supercluster, k keys, cfg Config) {
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	js := must(jetstream.New(dial(t, s, "ams", k.appUser)))
	for i := range 100 {
		if _, err := js.Publish(ctx, "s.sfo", fmt.Appendf(nil, "%d", i), jetstream.WithRetryAttempts(20)); err != nil {
			t.Fatal(err)
		}
	}
	shut(t, s)
	shut(t, s) // again: nothing to do
	if err := s.StartNode(ctx, "ams-1"); !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
	// The same ports, which the first run chose.
	for i, r := range s.regions {
		cfg.Regions[i].Gateway = r.relay.at.addr
		for j, n := range r.nodes {
			c := &cfg.Regions[i].Nodes[j]
			c.Client, c.Cluster, c.Gateway = n.client.addr, n.cluster.addr, n.gateway.addr
		}
	}
	again := up(t, cfg)
	nc := dial(t, again, "sgp", k.appUser)
	js = must(jetstream.New(nc))
	t.Log("stream is back after", eventually(t, 15*time.Second, "stream after the restart", func() error {
		// A request that comes before the stream has its leader is never answered.
		try, cancel := context.WithTimeout(ctx, 500*time.Millisecond)
		defer cancel()
		st, err := js.Stream(try, "S-sfo")
		if err != nil {
			return err
		}
		if msgs := st.CachedInfo().State.Msgs; msgs != 100 {
			return fmt.Errorf("it holds %d messages", msgs)
		}
		return nil
	}))
}

func TestSmallOnes(t *testing.T) {
	for _, c := range []struct {
		size    int
		regions []string
	}{{1, []string{"ams"}}, {3, []string{"ams"}}, {2, []string{"ams", "sfo"}}} {
		t.Run(fmt.Sprintf("%d nodes in %d regions", c.size, len(c.regions)), func(t *testing.T) {
			k := newKeys()
			s := up(t, k.config(t.TempDir(), c.size, c.regions...))
			push(t, s, k, "ams")
			createStream(t, dial(t, s, c.regions[len(c.regions)-1], k.appUser), "ams", c.size)
			if len(c.regions) == 1 && len(s.Links()) > 0 {
				t.Error("a link with nobody")
			}
		})
	}
}

func TestTakenPort(t *testing.T) {
	k := newKeys()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	taken := l.Addr().String()
	for want, set := range map[string]func(*Config){
		"client listener of node sfo-2 in region sfo":  func(c *Config) { c.Regions[1].Nodes[1].Client = taken },
		"cluster listener of node sfo-2 in region sfo": func(c *Config) { c.Regions[1].Nodes[1].Cluster = taken },
		"gateway listener of node sfo-2 in region sfo": func(c *Config) { c.Regions[1].Nodes[1].Gateway = taken },
		"relay of region sfo":                          func(c *Config) { c.Regions[1].Gateway = taken },
	} {
		cfg := k.config(t.TempDir(), 2, "ams", "sfo")
		set(&cfg)
		s, err := Start(t.Context(), cfg)
		if s != nil || !errors.Is(err, syscall.EADDRINUSE) {
			t.Fatalf("%s: %v", want, err)
		}
		if text := err.Error(); !strings.Contains(text, want) || !strings.Contains(text, taken) {
			t.Errorf("%q does not name the %s", text, want)
		}
	}
}

// While a node was stopped somebody else took its port: it does not start, nothing
// else suffers, and it starts once the port is free.
func TestTakenPortAtRestart(t *testing.T) {
	k := newKeys()
	s := up(t, k.config(t.TempDir(), 3, "ams"))
	n := s.node("ams-2")
	if err := s.StopNode(t.Context(), n.at.name); err != nil {
		t.Fatal(err)
	}
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", n.cluster.addr)
	if err != nil {
		t.Fatal(err)
	}
	err = s.StartRegion(t.Context(), reg("ams"))
	if !errors.Is(err, syscall.EADDRINUSE) || !strings.Contains(err.Error(), n.cluster.what) {
		t.Error(err)
	}
	if got := s.Servers(); !got[0].Running || got[1].Running || !got[2].Running {
		t.Error(got)
	}
	_ = l.Close()
	if err := s.StartRegion(t.Context(), reg("ams")); err != nil {
		t.Error(err)
	}
}

// What an embedded server cannot bear is an error, and not the end of the process.
func TestFatal(t *testing.T) {
	k := newKeys()
	cfg := k.config(t.TempDir(), 2, "ams", "sfo")
	pinPorts(t, &cfg)
	store := filepath.Join(cfg.Dir, "sfo", "sfo-2", "jetstream")
	if err := os.MkdirAll(store, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(store, "jetstream"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	var lines bytes.Buffer // all servers write, so it is for the race detector too
	cfg.Log = &lines
	_, err := Start(t.Context(), cfg)
	if !errors.Is(err, errFatal) || !strings.Contains(err.Error(), "node sfo-2 in region sfo") {
		t.Fatal(err)
	}
	mustBeFree(t, cfg)
	if !strings.Contains(lines.String(), " FTL sfo-2 ") {
		t.Errorf("nothing of it in the log:\n%s", &lines)
	}
}

// A port that is taken between our look and the server's own bind is known only
// from what the server logs.
func TestFatalKeepsTheCause(t *testing.T) {
	l := newServerLog(newLog(nil), "ams-1")
	l.Fatalf("Error listening on port: %s, %q", "127.0.0.1:4222", &net.OpError{Op: "listen", Err: syscall.EADDRINUSE})
	l.Fatalf("and another, which nobody waits for")
	if err := <-l.fatal; !errors.Is(err, errFatal) || !errors.Is(err, syscall.EADDRINUSE) || !strings.Contains(err.Error(), "127.0.0.1:4222") {
		t.Error(err)
	}
}

// A start that is given up leaves nothing behind.
func TestStartGivenUp(t *testing.T) {
	k := newKeys()
	cfg := k.config(t.TempDir(), 2, "ams", "sfo")
	pinPorts(t, &cfg)
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Millisecond)
	defer cancel()
	if _, err := Start(ctx, cfg); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatal(err)
	}
	mustBeFree(t, cfg)
}

// pinPorts replaces the free ports in cfg by definite ones.
func pinPorts(t *testing.T, cfg *Config) {
	t.Helper()
	var all []*listener
	for _, addr := range addresses(cfg) {
		all = append(all, &listener{addr: *addr})
	}
	if err := claim(t.Context(), all); err != nil {
		t.Fatal(err)
	}
	for i, addr := range addresses(cfg) {
		*addr = all[i].addr
	}
}

func mustBeFree(t *testing.T, cfg Config) {
	t.Helper()
	for _, addr := range addresses(&cfg) {
		l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", *addr)
		if err != nil {
			t.Errorf("something is left: %v", err)
			continue
		}
		_ = l.Close()
	}
}

func addresses(cfg *Config) []*string {
	var all []*string
	for i := range cfg.Regions {
		r := &cfg.Regions[i]
		all = append(all, &r.Gateway)
		for j := range r.Nodes {
			all = append(all, &r.Nodes[j].Client, &r.Nodes[j].Cluster, &r.Nodes[j].Gateway)
		}
	}
	return all
}

func TestConfig(t *testing.T) {
	k, other := newKeys(), newKeys()
	for name, spoil := range map[string]func(*Config){
		"no folder":         func(c *Config) { c.Dir = "" },
		"no region":         func(c *Config) { c.Regions = nil },
		"no node":           func(c *Config) { c.Regions[0].Nodes = nil },
		"lonely node":       func(c *Config) { c.Regions[0].Nodes = c.Regions[0].Nodes[:1] },
		"region twice":      func(c *Config) { c.Regions[1].Name = c.Regions[0].Name },
		"region unnamed":    func(c *Config) { c.Regions[1].Name = Region{}.Name },
		"node twice":        func(c *Config) { c.Regions[1].Nodes[0].Name = "ams-1" },
		"node with a path":  func(c *Config) { c.Regions[1].Nodes[0].Name = "../x" },
		"address":           func(c *Config) { c.Regions[1].Nodes[0].Client = "127.0.0.1" },
		"every interface":   func(c *Config) { c.Regions[1].Nodes[0].Client = ":4222" },
		"operator":          func(c *Config) { c.Operator = c.SystemAccount },
		"system account":    func(c *Config) { c.SystemAccount = "" },
		"another's account": func(c *Config) { c.SystemAccount = k.app },
		"another operator":  func(c *Config) { c.Operator = other.operator },
	} {
		cfg := k.config(t.TempDir(), 2, "ams", "sfo")
		spoil(&cfg)
		if _, err := Start(t.Context(), cfg); !errors.Is(err, ErrConfig) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
