package certs_test

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/herald-nats/herald/pkg/certs"
)

func now() time.Time { return time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC) }

// failer is *testing.T, *testing.F or *rapid.T.
type failer interface {
	Helper()
	Fatal(args ...any)
}

func authority(t failer, terms certs.Terms) *certs.Authority {
	t.Helper()
	a, err := certs.NewAuthority(terms, now())
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func issue(t failer, a *certs.Authority, r certs.Request) certs.Pair {
	t.Helper()
	p, err := a.Issue(r, now())
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func read(t failer, p certs.Pair) certs.Certificate {
	t.Helper()
	all, err := certs.Parse(p.CertificatePEM())
	if err != nil || len(all) != 1 {
		t.Fatal(len(all), err)
	}
	return all[0]
}

func TestAuthority(t *testing.T) {
	for _, of := range []certs.Signers{certs.ForServers, certs.ForClients} {
		a := authority(t, certs.Terms{Name: "demo " + string(of), For: of})
		c := a.Certificate()
		if !c.Authority() || c.Name() != "demo "+string(of) || c.Issuer() != c.Name() || c.Algorithm() != "ECDSA" || c.Purpose() != "" {
			t.Errorf("%+v", c)
		}
		if got := c.NotAfter().Sub(now()); got != certs.AuthorityLife {
			t.Errorf("lives %v", got)
		}
		if got := now().Sub(c.NotBefore()); got != certs.Backdate {
			t.Errorf("begins %v before now", got)
		}
		key, err := a.KeyPEM()
		if err != nil {
			t.Fatal(err)
		}
		b, err := certs.ParseAuthority(a.CertificatePEM(), key)
		if err != nil {
			t.Fatal(err)
		}
		if !b.Certificate().Equal(c) || b.For() != of {
			t.Errorf("read again: %v for %s", b, b.For())
		}
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%d", "%x", "%q"} {
			if out := fmt.Sprintf(verb, a) + fmt.Sprintf(verb, *a); strings.Contains(out, "D:") || len(out) > 40000 {
				t.Errorf("%s: %s", verb, out)
			}
		}
	}
}

func TestAuthorityRefused(t *testing.T) {
	a, b := authority(t, certs.Terms{Name: "a", For: certs.ForServers}), authority(t, certs.Terms{Name: "b", For: certs.ForServers})
	keyA, _ := a.KeyPEM()
	keyB, _ := b.KeyPEM()
	leaf := issue(t, a, certs.Request{Name: "x", Purpose: certs.Server, Hosts: []string{"x"}})
	for what, pair := range map[string][2][]byte{
		"nothing":       {},
		"another's key": {a.CertificatePEM(), keyB},
		"no key":        {a.CertificatePEM(), nil},
		"a leaf":        {leaf.CertificatePEM(), leaf.KeyPEM()},
		"two":           {append(a.CertificatePEM(), b.CertificatePEM()...), keyA},
	} {
		if got, err := certs.ParseAuthority(pair[0], pair[1]); !errors.Is(err, certs.ErrInvalid) || got != nil {
			t.Errorf("%s: %v", what, err)
		} else if len(pair[1]) > 0 && strings.Contains(err.Error(), "PRIVATE") {
			t.Errorf("%s: %v", what, err)
		}
	}
	for what, terms := range map[string]certs.Terms{
		"for nobody":      {Name: "x"},
		"for all":         {Name: "x", For: "both"},
		"ends at once":    {Name: "x", For: certs.ForServers, Life: -time.Hour},
		"permits nothing": {Name: "x", For: certs.ForServers, Permit: []string{""}},
		"permits a URL":   {Name: "x", For: certs.ForServers, Permit: []string{"https://x"}},
		"permits a *":     {Name: "x", For: certs.ForServers, Permit: []string{"*.example.org"}},
	} {
		if a, err := certs.NewAuthority(terms, now()); err == nil || a != nil {
			t.Errorf("%s: %v", what, a)
		}
	}
}

func TestIssue(t *testing.T) {
	servers := authority(t, certs.Terms{Name: "demo servers", For: certs.ForServers})
	clients := authority(t, certs.Terms{Name: "demo clients", For: certs.ForClients})
	trust := map[certs.Signers]certs.Bundle{
		certs.ForServers: certs.NewBundle(servers.Certificate()), certs.ForClients: certs.NewBundle(clients.Certificate()),
	}
	hosts := []string{"B.example.org", "10.0.0.7", "a.example.org", "::1", "a.example.org", "c.example.org."}
	want := []string{"10.0.0.7", "::1", "a.example.org", "b.example.org", "c.example.org"}
	serials := map[string]bool{}
	for _, p := range []certs.Purpose{certs.Server, certs.Peer, certs.Client} {
		a, r := servers, certs.Request{Name: "ams-1 " + string(p), Purpose: p, Hosts: hosts}
		if p == certs.Client {
			a, r.Hosts, want = clients, nil, nil
		}
		pair := issue(t, a, r)
		c := read(t, pair)
		if c.Authority() || c.Purpose() != p || c.Name() != r.Name || !c.IssuedBy(a.Certificate()) || !slices.Equal(c.Hosts(), want) {
			t.Errorf("%s: %s by %s for %q", c.Name(), c.Purpose(), c.Issuer(), c.Hosts())
		}
		if c.NotAfter().Sub(now()) != certs.LeafLife || now().Sub(c.NotBefore()) != certs.Backdate {
			t.Errorf("%s: from %v until %v", p, c.NotBefore(), c.NotAfter())
		}
		if serials[c.Serial()] || len(c.Serial()) < 16 {
			t.Errorf("%s: serial %s", p, c.Serial())
		}
		serials[c.Serial()] = true
		if _, err := certs.ParsePair(pair.CertificatePEM(), pair.KeyPEM()); err != nil {
			t.Error(err)
		}
		if out := fmt.Sprintf("%v %+v %#v", pair, pair, pair); strings.Contains(out, "PRIVATE") {
			t.Errorf("printed: %s", out)
		}
		// What each is believed to be, and what not.
		for _, as := range []certs.Purpose{certs.Server, certs.Peer, certs.Client} {
			for of, bundle := range trust {
				err := bundle.Verify(c, as, now(), want...)
				believed := of == p.Signers() && (as == p || (p == certs.Peer && of == certs.ForServers))
				if (err == nil) != believed || (err != nil && !errors.Is(err, certs.ErrUnverified)) {
					t.Errorf("%s shown as %s to who trusts the authority for %s: %v", p, as, of, err)
				}
			}
		}
		if p != certs.Client {
			if err := trust[certs.ForServers].Verify(c, p, now(), "d.example.org"); !errors.Is(err, certs.ErrUnverified) {
				t.Errorf("%s under another name: %v", p, err)
			}
		}
		end := c.NotAfter().Add(time.Second)
		if err := trust[p.Signers()].Verify(c, p, end); !errors.Is(err, certs.ErrExpired) || !errors.Is(err, certs.ErrUnverified) {
			t.Errorf("%s after its end: %v", p, err)
		}
		third := (certs.LeafLife + certs.Backdate) / 3
		for at, due := range map[time.Time]bool{
			now(): false, c.NotBefore().Add(-time.Second): true, c.NotBefore().Add(2*third - time.Minute): false, c.NotBefore().Add(2 * third): true, end: true,
		} {
			if c.Due(at) != due {
				t.Errorf("%s at %v: due %v", p, at, !due)
			}
		}
	}
}

// The two authorities are what keeps a service's key from being a server's.
func TestClientIsNoPeer(t *testing.T) {
	servers := authority(t, certs.Terms{Name: "servers", For: certs.ForServers})
	clients := authority(t, certs.Terms{Name: "clients", For: certs.ForClients})
	for what, try := range map[string]struct {
		a *certs.Authority
		r certs.Request
	}{
		"a client from the servers' authority": {servers, certs.Request{Name: "x", Purpose: certs.Client}},
		"a server from the clients' authority": {clients, certs.Request{Name: "x", Purpose: certs.Server, Hosts: []string{"x"}}},
		"a peer from the clients' authority":   {clients, certs.Request{Name: "x", Purpose: certs.Peer, Hosts: []string{"x"}}},
		"no purpose":                           {servers, certs.Request{Name: "x", Hosts: []string{"x"}}},
		"another purpose":                      {servers, certs.Request{Name: "x", Purpose: "all", Hosts: []string{"x"}}},
	} {
		if _, err := try.a.Issue(try.r, now()); !errors.Is(err, certs.ErrPurpose) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func TestIssueRefused(t *testing.T) {
	a := authority(t, certs.Terms{Name: "demo", For: certs.ForServers, Life: 30 * 24 * time.Hour})
	r := certs.Request{Name: "x", Purpose: certs.Server, Hosts: []string{"x.example.org"}}
	if c := read(t, issue(t, a, r)); !c.NotAfter().Equal(a.Certificate().NotAfter()) {
		t.Errorf("it outlives its authority: %v", c.NotAfter())
	}
	if _, err := a.Issue(r, now().Add(30*24*time.Hour)); !errors.Is(err, certs.ErrExpired) {
		t.Errorf("by an authority that has ended: %v", err)
	}
	for _, hosts := range [][]string{nil, {""}, {"*"}, {"*.example.org"}, {"a b"}, {"a/b"}, {"1.2.3"}, {"fe80::1%eth0"}, {"-a"}, {"a-"}, {"a..b"}, {"é"}, {strings.Repeat("a", 64)}, {strings.Repeat("a.", 127) + "aa"}, {"x", ""}} {
		r.Hosts = hosts
		if _, err := a.Issue(r, now()); !errors.Is(err, certs.ErrHost) {
			t.Errorf("%q: %v", hosts, err)
		}
	}
	r.Hosts = []string{"x"}
	r.Life = time.Second
	if _, err := a.Issue(r, now()); err == nil {
		t.Error("a life of a second")
	}
}

// TestPermit: bounds hold for both kinds of hosts as soon as there is one.
func TestPermit(t *testing.T) {
	for _, c := range []struct {
		permit, yes, no []string
	}{
		{nil, []string{"a.example.org", "10.1.2.3", "::1", "localhost"}, nil},
		{[]string{"example.org"}, []string{"example.org", "a.example.org", "a.b.EXAMPLE.org"}, []string{"example.com", "badexample.org", "10.0.0.1", "::1", "localhost"}},
		{[]string{"10.1.0.0/16"}, []string{"10.1.2.3"}, []string{"10.2.0.1", "::1", "a.example.org", "localhost"}},
		{[]string{"fd00::/8", "127.0.0.1", "example.org"}, []string{"fd00::1", "127.0.0.1", "example.org"}, []string{"127.0.0.2", "fe80::1", "example.com"}},
	} {
		a := authority(t, certs.Terms{Name: "demo", For: certs.ForServers, Permit: c.permit})
		for _, h := range c.yes {
			if _, err := a.Issue(certs.Request{Name: h, Purpose: certs.Peer, Hosts: []string{h}}, now()); err != nil {
				t.Errorf("%q: %v", c.permit, err)
			}
		}
		for _, h := range c.no {
			if _, err := a.Issue(certs.Request{Name: h, Purpose: certs.Peer, Hosts: []string{h}}, now()); !errors.Is(err, certs.ErrHost) {
				t.Errorf("%q signs for %s: %v", c.permit, h, err)
			}
		}
		if got := a.Certificate().Permits(); len(got) != len(c.permit) {
			t.Errorf("%q: %q", c.permit, got)
		}
	}
}

// Whatever the hosts are: each of them is one that a dialer of Go's TLS accepts, and no
// other is.
func TestIssueAnyHosts(t *testing.T) {
	a := authority(t, certs.Terms{Name: "demo", For: certs.ForServers})
	trust := certs.NewBundle(a.Certificate())
	host := rapid.OneOf(
		rapid.StringMatching(`[a-z][a-z0-9_]{0,10}(\.[a-z]([a-z0-9-]{0,10}[a-z0-9])?){0,3}`),
		rapid.Custom(func(t *rapid.T) string {
			return net.IP(rapid.SliceOfN(rapid.Byte(), 4, 4).Draw(t, "v4")).String()
		}),
		rapid.Custom(func(t *rapid.T) string {
			return net.IP(rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "v6")).String()
		}),
	)
	rapid.Check(t, func(t *rapid.T) {
		hosts := rapid.SliceOfN(host, 1, 6).Draw(t, "hosts")
		other := host.Draw(t, "other")
		c := read(t, issue(t, a, certs.Request{Name: "x", Purpose: certs.Server, Hosts: hosts}))
		if err := trust.Verify(c, certs.Server, now(), hosts...); err != nil {
			t.Fatal(err)
		}
		same, err := certs.Hosts(hosts)
		if err != nil || !slices.Equal(same, c.Hosts()) {
			t.Fatalf("%q: %q", same, c.Hosts())
		}
		if o, _ := certs.Hosts([]string{other}); !slices.Contains(same, o[0]) && trust.Verify(c, certs.Server, now(), other) == nil {
			t.Fatalf("%q is taken for %s", hosts, other)
		}
	})
}

// TestHandshake: what the package says of certificates is what crypto/tls does, which is
// what nats-server and nats.go have.
func TestHandshake(t *testing.T) {
	servers := authority(t, certs.Terms{Name: "servers", For: certs.ForServers, Permit: []string{"127.0.0.1"}})
	clients := authority(t, certs.Terms{Name: "clients", For: certs.ForClients})
	other := authority(t, certs.Terms{Name: "servers", For: certs.ForServers})
	peer := certs.Request{Name: "peer", Purpose: certs.Peer, Hosts: []string{"127.0.0.1"}}
	server := certs.Request{Name: "server", Purpose: certs.Server, Hosts: []string{"127.0.0.1"}}
	client := certs.Request{Name: "client", Purpose: certs.Client}
	for _, c := range []struct {
		what         string
		shown, taken certs.Pair // by the server, by who dials
		of           *certs.Authority
		ok           bool
	}{
		{"peers", issue(t, servers, peer), issue(t, servers, peer), servers, true},
		{"a service as a peer", issue(t, servers, peer), issue(t, clients, client), servers, false},
		{"a client listener's key as a peer", issue(t, servers, peer), issue(t, servers, server), servers, false},
		{"a client", issue(t, servers, server), issue(t, clients, client), clients, true},
		{"a server as a client", issue(t, servers, server), issue(t, servers, peer), clients, false},
		{"a client as a server", issue(t, clients, client), issue(t, clients, client), clients, false},
		{"another platform's server", issue(t, other, server), issue(t, clients, client), clients, false},
	} {
		srv := &tls.Config{
			Certificates: []tls.Certificate{pair(t, c.shown)}, MinVersion: tls.VersionTLS12, Time: now,
			ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: certs.NewBundle(c.of.Certificate()).Pool(),
		}
		cli := &tls.Config{
			Certificates: []tls.Certificate{pair(t, c.taken)}, MinVersion: tls.VersionTLS12, Time: now,
			RootCAs: certs.NewBundle(servers.Certificate()).Pool(), ServerName: "127.0.0.1",
		}
		if c.ok {
			cli.VerifyConnection = func(st tls.ConnectionState) error {
				if seen := certs.Of(st.PeerCertificates[0]); !seen.Equal(read(t, c.shown)) || seen.Issuer() != "servers" {
					t.Errorf("%s: %s of %s", c.what, seen.Name(), seen.Issuer())
				}
				return nil
			}
		}
		if err := handshake(t, srv, cli); (err == nil) != c.ok {
			t.Errorf("%s: %v", c.what, err)
		}
	}
}

func pair(t *testing.T, p certs.Pair) tls.Certificate {
	t.Helper()
	c, err := certs.ParsePair(p.CertificatePEM(), p.KeyPEM())
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// handshake tells whether both sides believe each other.
func handshake(t *testing.T, server, client *tls.Config) error {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	done := make(chan error, 1)
	go func() {
		a, err := l.Accept()
		if err != nil {
			done <- err
			return
		}
		s := tls.Server(a, server)
		if err = s.Handshake(); err == nil {
			_, err = s.Write([]byte("x"))
		}
		_ = a.Close()
		done <- err
	}()
	b, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	_, err = io.ReadFull(tls.Client(b, client), make([]byte, 1)) // under TLS 1.3 a refusal comes after the handshake
	_ = b.Close()
	return errors.Join(err, <-done)
}

func TestBundle(t *testing.T) {
	a, b := authority(t, certs.Terms{Name: "one", For: certs.ForServers}), authority(t, certs.Terms{Name: "two", For: certs.ForServers})
	leaf := issue(t, a, certs.Request{Name: "x", Purpose: certs.Server, Hosts: []string{"x"}})
	both := certs.NewBundle(a.Certificate(), b.Certificate(), a.Certificate())
	got, err := certs.ParseBundle(both.PEM())
	if err != nil {
		t.Fatal(err)
	}
	if cs := got.Certificates(); len(cs) != 2 || !cs[0].Equal(a.Certificate()) || !cs[1].Equal(b.Certificate()) {
		t.Errorf("%d certificates", len(cs))
	}
	if err := got.Verify(read(t, leaf), certs.Server, now(), "x"); err != nil {
		t.Error(err)
	}
	if err := certs.NewBundle(b.Certificate()).Verify(read(t, leaf), certs.Server, now()); !errors.Is(err, certs.ErrUnverified) {
		t.Errorf("by an authority that is not trusted: %v", err)
	}
	if err := (certs.Bundle{}).Verify(read(t, leaf), certs.Server, now()); !errors.Is(err, certs.ErrUnverified) {
		t.Errorf("by who trusts nobody: %v", err)
	}
	if err := got.VerifyChain(nil, certs.Server, now()); !errors.Is(err, certs.ErrUnverified) {
		t.Errorf("nothing: %v", err)
	}
	pem := both.PEM()
	for what, data := range map[string][]byte{
		"nothing": nil, "text": []byte("# no certificate\n"), "half": pem[:len(pem)-100],
		"a leaf": leaf.CertificatePEM(), "a leaf behind": append(a.CertificatePEM(), leaf.CertificatePEM()...),
		"a key": leaf.KeyPEM(), "a key behind": append(a.CertificatePEM(), leaf.KeyPEM()...),
		"too many": []byte(strings.Repeat(string(a.CertificatePEM()), 65)),
		"too much": []byte(strings.Repeat("x", 1<<20)),
	} {
		if _, err := certs.ParseBundle(data); !errors.Is(err, certs.ErrInvalid) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// FuzzParse: no panic; what is read is written and read again as the same; and no key
// gets through.
func FuzzParse(f *testing.F) {
	a := authority(f, certs.Terms{Name: "one", For: certs.ForServers, Permit: []string{"example.org", "10.0.0.0/8"}})
	leaf := issue(f, a, certs.Request{Name: "x", Purpose: certs.Server, Hosts: []string{"example.org"}})
	f.Add(a.CertificatePEM())
	f.Add(leaf.CertificatePEM())
	f.Add(append(a.CertificatePEM(), leaf.CertificatePEM()...))
	f.Add(append(a.CertificatePEM(), leaf.KeyPEM()...))
	f.Add([]byte("-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		all, err := certs.Parse(data)
		if err != nil {
			if !errors.Is(err, certs.ErrInvalid) || all != nil {
				t.Fatalf("%v", err)
			}
			return
		}
		var again []byte
		for _, c := range all {
			_, _, _, _, _ = c.Name(), c.Issuer(), c.Hosts(), c.Purpose(), c.Permits()
			_, _, _, _ = c.Due(now()), c.Serial(), c.Fingerprint(), c.Algorithm()
			_ = c.IssuedBy(all[0])
			again = append(again, c.PEM()...)
		}
		if strings.Contains(string(again), "PRIVATE") {
			t.Fatal("a key")
		}
		twice, err := certs.Parse(again)
		if err != nil || !slices.EqualFunc(all, twice, certs.Certificate.Equal) {
			t.Fatalf("read, written and read: %v", err)
		}
		if b, err := certs.ParseBundle(data); err == nil {
			_ = b.VerifyChain(all, certs.Server, now(), "example.org")
			if _, err := certs.ParseBundle(b.PEM()); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// FuzzHosts: one form for each host, and it is a form that X.509 has room for.
func FuzzHosts(f *testing.F) {
	for _, h := range []string{"a.example.org", "A.", "127.0.0.1", "::ffff:1.2.3.4", "::1", "1.2.3", "*.x", "[::1]", "xn--bcher-kva.example", ""} {
		f.Add(h)
	}
	f.Fuzz(func(t *testing.T, host string) {
		one, err := certs.Hosts([]string{host})
		if err != nil {
			if !errors.Is(err, certs.ErrHost) {
				t.Fatal(err)
			}
			return
		}
		again, err := certs.Hosts(append(one, host))
		if err != nil || !slices.Equal(one, again) {
			t.Fatalf("%q, then %q: %v", one, again, err)
		}
	})
}
