package supercluster

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/herald-nats/herald/pkg/certs"
	"github.com/herald-nats/herald/pkg/certs/certdir"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/platform/manifest"
	"github.com/herald-nats/herald/pkg/platform/serverconf"
	"github.com/herald-nats/herald/pkg/trust"
)

// secured is a supercluster with TLS everywhere and its certificates.
type secured struct {
	*Supercluster
	keys
	dir  string // of the authorities
	plan certdir.Plan
}

// secure starts regions of two nodes with TLS for clients, routes and gateways.
func secure(t *testing.T, wan bool, host string, names ...string) *secured {
	t.Helper()
	k := newKeys()
	cfg := k.config(t.TempDir(), 2, names...)
	for i := range cfg.Regions {
		r := &cfg.Regions[i]
		r.Gateway = net.JoinHostPort(host, "0")
		for j := range r.Nodes {
			n := &r.Nodes[j]
			n.Client, n.Cluster, n.Gateway = r.Gateway, r.Gateway, r.Gateway
		}
	}
	f := must(cfg.describe())
	f.TLS = manifest.TLS{
		Clients: manifest.ModeServer, Routes: manifest.ModeMutual, Gateways: manifest.ModeMutual,
		Websockets: manifest.ModeServer, Leafnodes: manifest.ModeServer,
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := choosePorts(ctx, f); err != nil {
		t.Fatal(err)
	}
	more := []*listener{{addr: net.JoinHostPort(host, "0")}, {addr: net.JoinHostPort(host, "0")}}
	if err := claim(ctx, more); err != nil {
		t.Fatal(err)
	}
	f.Regions[0].Nodes[0].Websocket, f.Regions[0].Nodes[0].Leafnode = more[0].addr, more[1].addr
	s := &secured{keys: k, dir: filepath.Join(cfg.Dir, "authorities"), plan: certdir.Plan{Name: "test"}}
	folders := func(r ident.Region, n ident.Name) serverconf.Folders {
		at := filepath.Join(cfg.Dir, r.String(), n.String())
		return serverconf.Folders{TLS: filepath.Join(at, "tls"), Data: at}
	}
	for _, r := range f.Regions {
		for _, n := range r.Nodes {
			at := folders(r.Name, n.Name).TLS
			s.plan.Bundles = append(s.plan.Bundles,
				certdir.Bundle{Path: filepath.Join(at, serverconf.ServersCA), Of: certs.ForServers},
				certdir.Bundle{Path: filepath.Join(at, serverconf.ClientsCA), Of: certs.ForClients})
			for _, l := range serverconf.Listeners(f, n) {
				q := certs.Request{Name: n.Name.String() + " " + string(l), Purpose: certs.Server, Hosts: []string{host}}
				if l == serverconf.Route || l == serverconf.Gateway {
					q.Purpose = certs.Peer
				}
				s.plan.Leaves = append(s.plan.Leaves, certdir.Leaf{Name: q.Name, Path: filepath.Join(at, string(l)), Request: q})
			}
		}
	}
	must(certdir.Init(s.dir, s.plan, certdir.Settings{}, time.Now()))
	s.change(t, func(f *certdir.Folder) (certdir.Report, error) { return f.Issue(s.plan, certdir.Want{}, time.Now()) })
	paths := must(Write(cfg.Dir, f, serverconf.Input{Operator: must(trust.ParseOperator(k.operator)), System: k.system, Folders: folders}))
	begin := time.Now()
	var err error
	if s.Supercluster, err = StartFiles(ctx, Files{Paths: paths, WAN: wan, Log: cfg.Log}); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d servers started in %v", len(s.Servers()), time.Since(begin).Round(time.Millisecond))
	t.Cleanup(func() { shut(t, s.Supercluster) })
	return s
}

func (s *secured) change(t *testing.T, f func(*certdir.Folder) (certdir.Report, error)) certdir.Report {
	t.Helper()
	d := must(certdir.Open(s.dir))
	defer d.Close()
	return must(f(d))
}

// user is who connects, trusting this supercluster's authorities.
func (s *secured) user(as nats.Option) nats.Option {
	return func(o *nats.Options) error {
		return errors.Join(as(o), nats.RootCAs(s.plan.Bundles[0].Path)(o))
	}
}

func TestTLS(t *testing.T) {
	s := secure(t, true, "127.0.0.1", "ams", "sgp")
	k := s.keys
	k.sysUser = s.user(k.sysUser)
	ams, sgp := reg("ams"), reg("sgp")
	if n := push(t, s.Supercluster, k, "ams"); n != 4 {
		t.Fatalf("%d servers have the account", n)
	}
	k.appUser = s.user(k.appUser)
	respond(t, s.Supercluster, k, "ams", "at.ams")
	nc := dial(t, s.Supercluster, "sgp", k.appUser)
	if st, err := nc.TLSConnectionState(); err != nil || st.Version < tls.VersionTLS12 {
		t.Fatalf("%v", err)
	}
	eventually(t, 5*time.Second, "first request", func() error { return ask(nc, "at.ams") })
	rtt := RTT(ams, sgp)
	for range 3 {
		begin := time.Now()
		if err := ask(nc, "at.ams"); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(begin); took < rtt || took >= 3*rtt {
			t.Errorf("sgp to ams and back took %v, the link has %v", took, rtt)
		}
	}
	if err := s.Cut(ams, sgp); err != nil {
		t.Fatal(err)
	}
	if err := ask(nc, "at.ams"); err == nil {
		t.Error("answered across a cut")
	}
	if err := s.Heal(ams, sgp); err != nil {
		t.Fatal(err)
	}
	t.Logf("joined again after %v", eventually(t, 15*time.Second, "healed", func() error { return ask(nc, "at.ams") }))
	// And a region that goes and comes back.
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := s.StopRegion(ctx, sgp); err != nil {
		t.Fatal(err)
	}
	if err := s.StartRegion(ctx, sgp); err != nil {
		t.Fatal(err)
	}
	eventually(t, 15*time.Second, "after a restart", func() error { return ask(nc, "at.ams") })
}

// TestRelayAdmits: a relay takes what a gateway would take, and nobody else.
func TestRelayAdmits(t *testing.T) {
	s := secure(t, false, "127.0.0.1", "ams", "sgp")
	other := filepath.Join(t.TempDir(), "other")
	must(certdir.Init(other, certdir.Plan{Name: "test"}, certdir.Settings{}, time.Now()))
	shown := func(of string, q certs.Request) *tls.Certificate {
		l := certdir.Leaf{Name: "x", Path: filepath.Join(t.TempDir(), "x"), Request: q}
		f := must(certdir.Open(of))
		defer f.Close()
		must(f.Issue(certdir.Plan{Name: "test", Leaves: []certdir.Leaf{l}}, certdir.Want{}, time.Now()))
		c := must(tls.LoadX509KeyPair(l.Path+".crt", l.Path+".key"))
		return &c
	}
	hosts := []string{"127.0.0.1"}
	pool := must(certs.ParseBundle(must(os.ReadFile(s.plan.Bundles[0].Path)))).Pool()
	addr := s.region(reg("ams")).relay.at.addr
	for _, c := range []struct {
		what string
		cert *tls.Certificate
		ok   bool
	}{
		{"a gateway", shown(s.dir, certs.Request{Name: "x", Purpose: certs.Peer, Hosts: hosts}), true},
		{"nobody", &tls.Certificate{}, false},
		{"a client", shown(s.dir, certs.Request{Name: "x", Purpose: certs.Client}), false},
		{"a client listener", shown(s.dir, certs.Request{Name: "x", Purpose: certs.Server, Hosts: hosts}), false},
		{"another platform's gateway", shown(other, certs.Request{Name: "x", Purpose: certs.Peer, Hosts: hosts}), false},
	} {
		conn := must(net.DialTimeout("tcp", addr, 5*time.Second))
		_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
		tc := tls.Client(conn, &tls.Config{
			RootCAs: pool, ServerName: "127.0.0.1", MinVersion: tls.VersionTLS12,
			GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return c.cert, nil },
		})
		info := make([]byte, 4)
		_, err := io.ReadFull(tc, info)
		if (err == nil && string(info) == "INFO") != c.ok {
			t.Errorf("%s: read %q, %v", c.what, info, err)
		}
		_ = conn.Close()
	}
	// In plaintext nothing is said, and nothing is heard.
	conn := must(net.DialTimeout("tcp", addr, 5*time.Second))
	defer func() { _ = conn.Close() }()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	_, _ = io.WriteString(conn, "CONNECT {\"gateway\":\"sgp\"}\r\n")
	if data, _ := io.ReadAll(conn); strings.Contains(string(data), "INFO") {
		t.Errorf("in plaintext: %q", data)
	}
}

// TestRotationUnderTLS replaces the authorities of servers that run, as docs/tls.md says:
// files, reload, and no restart. After each stage all connections between regions are
// made anew, through relays that have read the files again, and at the end one node is
// started anew among those that were not.
func TestRotationUnderTLS(t *testing.T) {
	s := secure(t, false, "127.0.0.1", "ams", "sgp")
	k := s.keys
	k.sysUser, k.appUser = s.user(k.sysUser), s.user(k.appUser)
	push(t, s.Supercluster, k, "ams")
	respond(t, s.Supercluster, k, "ams", "at.ams")
	nc := dial(t, s.Supercluster, "sgp", k.appUser)
	again := func(stage string) {
		t.Helper()
		for _, n := range s.allNodes() {
			// What SIGHUP does, with what embedding adds to the file. A server would open its
			// accounts' folder a second time, and never close the first.
			opts := must(load(n.file))
			release(opts)
			opts.AccountResolver = n.server().AccountResolver()
			if err := n.server().ReloadOptions(opts); err != nil {
				t.Fatalf("%s: %s: %v", stage, n, err)
			}
		}
		for _, do := range []func(a, b ident.Region) error{s.Cut, s.Heal} {
			if err := do(reg("ams"), reg("sgp")); err != nil {
				t.Fatal(err)
			}
		}
		// A client that comes now, too, and one that comes back.
		if err := nc.ForceReconnect(); err != nil {
			t.Fatal(err)
		}
		took := eventually(t, 20*time.Second, stage, func() error {
			if s.missing(s.allNodes()) != "" {
				return errors.New(s.missing(s.allNodes()))
			}
			return ask(nc, "at.ams")
		})
		dial(t, s.Supercluster, "sgp", k.appUser)
		t.Logf("%s: joined again after %v, shown by %s", stage, took, s.shownBy(t, reg("ams")))
	}
	first := s.shownBy(t, reg("ams"))
	next := func(f *certdir.Folder) (certdir.Report, error) { return f.Next(s.plan, nil, time.Now()) }
	for _, stage := range []certdir.Stage{certdir.Trusted, certdir.Issued, certdir.Steady} {
		if r := s.change(t, next); r.Stage != stage {
			t.Fatalf("%+v", r)
		}
		again(string(stage))
	}
	if last := s.shownBy(t, reg("ams")); last == first {
		t.Errorf("still of authority %s", last)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	name := s.region(reg("ams")).nodes[0].at.name
	if err := errors.Join(s.StopNode(ctx, name), s.StartNode(ctx, name)); err != nil {
		t.Fatal(err)
	}
	// The certificates alone.
	s.change(t, func(f *certdir.Folder) (certdir.Report, error) {
		return f.Issue(s.plan, certdir.Want{Force: true}, time.Now())
	})
	again("leaves")
}

// shownBy is the authority of the certificates that a region shows to clients, browsers,
// leafnodes and other regions; all of them must be of one.
func (s *secured) shownBy(t *testing.T, name ident.Region) string {
	t.Helper()
	pool := must(certs.ParseBundle(must(os.ReadFile(s.plan.Bundles[0].Path)))).Pool()
	issuers := map[string]bool{}
	see := func(st tls.ConnectionState) error {
		issuers[st.PeerCertificates[0].Issuer.CommonName] = true
		return nil
	}
	for _, n := range s.region(name).nodes {
		nc, err := nats.Connect(n.url(), s.sysUser, func(o *nats.Options) error {
			o.Secure, o.TLSConfig = true, &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12, VerifyConnection: see}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		nc.Close()
	}
	seen := &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12, VerifyConnection: see, ServerName: "127.0.0.1"}
	at := s.region(name).nodes[0].at
	for _, addr := range []string{s.region(name).relay.at.addr, at.websocket} {
		_ = must(tls.Dial("tcp", addr, seen)).Close()
	}
	// A leafnode is told first who listens, as a client is.
	conn := must(net.DialTimeout("tcp", at.leafnode, 5*time.Second))
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	if line, err := readLine(conn, maxInfo); err != nil || !strings.HasPrefix(string(line), "INFO ") {
		t.Fatalf("%q, %v", line, err)
	}
	if err := tls.Client(conn, seen).Handshake(); err != nil {
		t.Fatal(err)
	}
	_ = conn.Close()
	if len(issuers) != 1 {
		t.Fatalf("certificates of %d authorities: %v", len(issuers), issuers)
	}
	for i := range issuers {
		return i
	}
	return ""
}

// TestTLSByName: where all regions are known by DNS names, servers also compare names.
func TestTLSByName(t *testing.T) {
	s := secure(t, false, "localhost", "ams", "sgp")
	k := s.keys
	k.sysUser = s.user(k.sysUser)
	if n := push(t, s.Supercluster, k, "sgp"); n != 4 {
		t.Fatalf("%d servers have the account", n)
	}
}

func TestGatewayFiles(t *testing.T) {
	dir := t.TempDir()
	for i, c := range []struct {
		text string
		want *gatewayFiles
		bad  bool
	}{
		{"", nil, false},
		{"gateway { name: ams }", nil, false},
		{"Gateway { TLS { cert_file: a, key_file: \"b\", ca_file: 'c' } }", &gatewayFiles{"a", "b", "c"}, false},
		{"gateway { tls { cert_file: a, key_file: b } }", nil, true},
		{"gateway { tls { cert_file: 1, key_file: b, ca_file: c } }", nil, true},
		{"gateway {", nil, true},
	} {
		path := filepath.Join(dir, fmt.Sprint(i))
		if err := os.WriteFile(path, []byte(c.text), 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := readGatewayFiles(path)
		if (err != nil) != c.bad || (c.bad && !errors.Is(err, ErrConfig)) || (got == nil) != (c.want == nil) || (got != nil && *got != *c.want) {
			t.Errorf("%s: %+v, %v", c.text, got, err)
		}
	}
	if _, err := readGatewayFiles(filepath.Join(dir, "none")); !errors.Is(err, ErrConfig) {
		t.Errorf("%v", err)
	}
}
