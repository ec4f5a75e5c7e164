package natsconn_test

import (
	"crypto/tls"
	"errors"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/herald-nats/herald/internal/natsconn"
	"github.com/herald-nats/herald/pkg/certs"
	"github.com/herald-nats/herald/pkg/keystore"
)

func authority(t *testing.T, of certs.Signers) *certs.Authority {
	t.Helper()
	a, err := certs.NewAuthority(certs.Terms{Name: "test", For: of}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func pair(t *testing.T, a *certs.Authority, p certs.Purpose, hosts ...string) certs.Pair {
	t.Helper()
	got, err := a.Issue(certs.Request{Name: "test", Purpose: p, Hosts: hosts}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// serve runs a nats-server on TLS; clients, if not nil, must show a certificate of it.
func serve(t *testing.T, port int, shown certs.Pair, clients *certs.Authority) *server.Server {
	t.Helper()
	o := &server.Options{Host: "127.0.0.1", Port: port, NoSigs: true, NoLog: true, TLSTimeout: 10, AuthTimeout: 10}
	if shown.CertificatePEM() != nil {
		cert, err := certs.ParsePair(shown.CertificatePEM(), shown.KeyPEM())
		if err != nil {
			t.Fatal(err)
		}
		o.TLSConfig = &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12}
		if clients != nil {
			o.TLSConfig.ClientAuth, o.TLSConfig.ClientCAs = tls.RequireAndVerifyClientCert, certs.NewBundle(clients.Certificate()).Pool()
		}
	}
	s, err := server.NewServer(o)
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	if !s.ReadyForConnections(20 * time.Second) {
		t.Fatal("the server does not listen")
	}
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	return s
}

func TestTLS(t *testing.T) {
	noLeak(t)
	ca, other, clients := authority(t, certs.ForServers), authority(t, certs.ForServers), authority(t, certs.ForClients)
	tlsOnly := serve(t, -1, pair(t, ca, certs.Server, "127.0.0.1"), nil)
	named := serve(t, -1, pair(t, ca, certs.Server, "nats.example.org"), nil)
	mutual := serve(t, -1, pair(t, ca, certs.Server, "127.0.0.1"), clients)
	plain := serve(t, -1, certs.Pair{}, nil)

	trust := natsconn.TLSTrust(certs.NewBundle(ca.Certificate()))
	shows := func(dir string, p certs.Pair) natsconn.TLS {
		write(t, dir, certs.AuthoritiesFile, ca.CertificatePEM())
		write(t, dir, certs.ClientFile, p.CertificatePEM())
		write(t, dir, certs.ClientKeyFile, p.KeyPEM())
		return natsconn.TLSFiles(dir)
	}
	at := func(s *server.Server, scheme string) string { return scheme + s.Addr().String() }
	for _, c := range []struct {
		what string
		url  string
		tls  natsconn.TLS
		ok   bool
	}{
		{"trusted", at(tlsOnly, "tls://"), trust, true},
		{"trusted, and the URL does not say it", at(tlsOnly, "nats://"), trust, true},
		{"by somebody who trusts the system's", at(tlsOnly, "tls://"), natsconn.TLS{}, false},
		{"by somebody who trusts the system's, nats://", at(tlsOnly, "nats://"), natsconn.TLS{}, false},
		{"by somebody who has an empty folder", at(tlsOnly, "tls://"), natsconn.TLSFiles(t.TempDir()), false},
		{"by somebody who trusts another", at(tlsOnly, "tls://"), natsconn.TLSTrust(certs.NewBundle(other.Certificate())), false},
		{"under another name", at(named, "tls://"), trust, false},
		{"no TLS where there should be", at(plain, "tls://"), trust, false},
		{"no TLS where there need not be", at(plain, "nats://"), trust, true},
		{"who shows nothing", at(mutual, "tls://"), trust, false},
		{"who has no certificate in its folder", at(mutual, "tls://"), folder(t, ca), false},
		{"a client", at(mutual, "tls://"), shows(t.TempDir(), pair(t, clients, certs.Client)), true},
		{"a client, not asked", at(tlsOnly, "tls://"), shows(t.TempDir(), pair(t, clients, certs.Client)), true},
		{"a server as a client", at(mutual, "tls://"), shows(t.TempDir(), pair(t, ca, certs.Peer, "127.0.0.1")), false},
	} {
		o := options(t, c.url)
		o.TLS = c.tls
		nc, err := natsconn.Dial(t.Context(), o)
		if (err == nil) != c.ok || (err != nil && !errors.Is(err, natsconn.ErrTLS)) {
			t.Errorf("%s: %v", c.what, err)
		}
		if err == nil {
			if _, err := nc.TLSConnectionState(); (err == nil) != (c.url != at(plain, "nats://")) {
				t.Errorf("%s: %v", c.what, err)
			}
			nc.Close()
		}
	}
}

func folder(t *testing.T, a *certs.Authority) natsconn.TLS {
	t.Helper()
	dir := t.TempDir()
	write(t, dir, certs.AuthoritiesFile, a.CertificatePEM())
	return natsconn.TLSFiles(dir)
}

func write(t *testing.T, dir, name string, data []byte) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestTLSFilesAreReadAgain: services go on through a change of the authorities without a
// restart.
func TestTLSFilesAreReadAgain(t *testing.T) {
	noLeak(t)
	one, two := authority(t, certs.ForServers), authority(t, certs.ForServers)
	dir := t.TempDir()
	write(t, dir, certs.AuthoritiesFile, one.CertificatePEM())
	s := serve(t, -1, pair(t, one, certs.Server, "127.0.0.1"), nil)
	addr, ok := s.Addr().(*net.TCPAddr)
	if !ok {
		t.Fatal("no TCP")
	}
	back := make(chan struct{}, 10)
	o := options(t, "tls://"+addr.String())
	o.TLS = natsconn.TLSFiles(dir)
	o.OnReconnect = func(*nats.Conn) { back <- struct{}{} }
	nc := dial(t, o)
	s.Shutdown()
	s.WaitForShutdown()
	serve(t, addr.Port, pair(t, two, certs.Server, "127.0.0.1"), nil)
	write(t, dir, certs.AuthoritiesFile, certs.NewBundle(one.Certificate(), two.Certificate()).PEM())
	select {
	case <-back:
	case <-time.After(30 * time.Second):
		t.Fatalf("not back: %v, %v", nc.Status(), nc.LastError())
	}
}

// TestTLSFilesDamaged: what is there and cannot be used is not taken for nothing.
func TestTLSFilesDamaged(t *testing.T) {
	ca, clients := authority(t, certs.ForServers), authority(t, certs.ForClients)
	client := pair(t, clients, certs.Client)
	for what, files := range map[string]map[string][]byte{
		"an empty bundle":  {certs.AuthoritiesFile: {}},
		"half a bundle":    {certs.AuthoritiesFile: ca.CertificatePEM()[:100]},
		"a leaf as bundle": {certs.AuthoritiesFile: client.CertificatePEM()},
		"no key":           {certs.ClientFile: client.CertificatePEM()},
		"another's key":    {certs.ClientFile: client.CertificatePEM(), certs.ClientKeyFile: pair(t, clients, certs.Client).KeyPEM()},
	} {
		dir := t.TempDir()
		for name, data := range files {
			write(t, dir, name, data)
		}
		f := natsconn.TLSFiles(dir)
		_, errA := f.Authorities()
		_, errC := f.Certificate()
		if errA == nil && errC == nil {
			t.Errorf("%s: taken for nothing", what)
		}
	}
	dir := t.TempDir()
	write(t, dir, certs.ClientFile, client.CertificatePEM())
	write(t, dir, certs.ClientKeyFile, client.KeyPEM())
	if err := os.Chmod(filepath.Join(dir, certs.ClientKeyFile), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := natsconn.TLSFiles(dir).Certificate(); !errors.Is(err, keystore.ErrExposed) {
		t.Errorf("a key that others can read: %v", err)
	}
}
