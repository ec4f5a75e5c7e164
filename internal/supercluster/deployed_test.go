package supercluster

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/herald-nats/herald/pkg/certs"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/platform/manifest"
	"github.com/herald-nats/herald/pkg/platform/serverconf"
)

// As on machines of their own: nobody is between these servers, they find each other
// by what is in their files, and every connection is encrypted. Names are DNS names, so
// routes and gateways also look whose certificate it is.
func TestDeployedWithTLS(t *testing.T) {
	k, dir, ca := newKeys(), t.TempDir(), newAuthorities()
	f := described(t, "localhost", 3, "ams", "sfo")
	f.TLS = manifest.TLS{
		Clients: manifest.ModeMutual, Routes: manifest.ModeMutual, Gateways: manifest.ModeMutual,
		Websockets: manifest.ModeServer, Leafnodes: manifest.ModeMutual,
	}
	for i := range f.Regions {
		// "or one of these": the first takes all.
		f.Regions[i].Gateway = f.Regions[i].Nodes[0].Gateway
	}
	in := k.input()
	in.Folders = func(r ident.Region, n ident.Name) serverconf.Folders {
		at := filepath.Join(dir, r.String(), n.String())
		return serverconf.Folders{TLS: filepath.Join(at, serverconf.TLSFolder), Data: at}
	}
	for _, r := range f.Regions {
		for _, n := range r.Nodes {
			ca.install(t, in.Folders(r.Name, n.Name).TLS, serverconf.Listeners(f, n))
		}
	}
	files, err := Write(dir, f, in)
	if err != nil {
		t.Fatal(err)
	}
	servers := runAll(t, files)
	eventually(t, 30*time.Second, "mesh and leader", func() error { return meshed(servers, 2, 1) })

	n := f.Regions[1].Nodes[2] // sfo-3
	mine := must(keyPair(ca.client.Issue(certs.Request{Name: "ann", Purpose: certs.Client}, time.Now())))
	peer := must(tls.LoadX509KeyPair(ca.files(dir, serverconf.Route)))
	trusting := nats.Secure(&tls.Config{RootCAs: ca.roots(), MinVersion: tls.VersionTLS12})
	showing := func(c tls.Certificate) nats.Option {
		return nats.Secure(&tls.Config{RootCAs: ca.roots(), Certificates: []tls.Certificate{c}, MinVersion: tls.VersionTLS12})
	}
	t.Run("clients", func(t *testing.T) {
		if _, err := nats.Connect("tls://"+n.Client, k.sysUser, trusting); err == nil {
			t.Error("one without a certificate came in")
		}
		// A server's certificate is no client's.
		if _, err := nats.Connect("tls://"+n.Client, k.sysUser, showing(peer)); err == nil {
			t.Error("one with a certificate of the servers' authority came in")
		}
		pushTo(t, k, "tls://"+n.Client, len(servers), showing(mine))
	})
	near, err := nats.Connect("tls://"+n.Client, k.appUser, showing(mine))
	if err != nil {
		t.Fatal(err)
	}
	defer near.Close()
	far, err := nats.Connect("tls://"+f.Regions[0].Nodes[1].Client, k.appUser, showing(mine))
	if err != nil {
		t.Fatal(err)
	}
	defer far.Close()
	must(far.Subscribe("at.ams", func(m *nats.Msg) { _ = m.Respond(nil) }))
	if err := far.Flush(); err != nil {
		t.Fatal(err)
	}
	t.Run("a request crosses regions", func(t *testing.T) {
		eventually(t, 5*time.Second, "request", func() error { return ask(near, "at.ams") })
	})
	t.Run("streams", func(t *testing.T) { createStream(t, near, "ams", 3) })
	t.Run("websocket", func(t *testing.T) {
		nc, err := nats.Connect("wss://"+n.Websocket, k.appUser, trusting)
		if err != nil {
			t.Fatal(err)
		}
		defer nc.Close()
		eventually(t, 5*time.Second, "request by websocket", func() error { return ask(nc, "at.ams") })
		if nc, err := nats.Connect("ws://"+n.Websocket, k.appUser); err == nil {
			nc.Close()
			t.Error("one without TLS came in")
		}
	})
	t.Run("leafnode", func(t *testing.T) {
		nc := behindLeaf(t, k, "tls://"+n.Leafnode, func(r *server.RemoteLeafOpts) {
			r.TLS = true
			r.TLSConfig = &tls.Config{RootCAs: ca.roots(), Certificates: []tls.Certificate{mine}, MinVersion: tls.VersionTLS12}
		})
		eventually(t, 5*time.Second, "request by leafnode", func() error { return ask(nc, "at.ams") })
	})
	t.Run("who is no server gets into no cluster", func(t *testing.T) {
		elsewhere := must(keyPair(ca.server.Issue(certs.Request{Name: "elsewhere", Purpose: certs.Peer, Hosts: []string{"elsewhere.example.com"}}, time.Now())))
		for what, addr := range map[string]string{"route": n.Cluster, "gateway": n.Gateway} {
			hello := fmt.Sprintf("CONNECT {\"verbose\":false,\"tls_required\":true,\"name\":\"x\",\"cluster\":\"sfo\",\"gateway\":%q}\r\nPING\r\n", map[string]string{"gateway": "ams"}[what])
			for who, c := range map[string]struct {
				cert tls.Certificate
				in   bool
			}{
				"a client":                       {mine, false},
				"another's server":               {elsewhere, false},
				"a server (or this proves none)": {peer, true},
			} {
				err := knock(addr, ca.roots(), c.cert, hello)
				if (err == nil) != c.in {
					t.Errorf("%s at the %s's port: %v", who, what, err)
				}
			}
		}
	})
}

// knock says hello to a port of servers and returns nil if it is taken for one of them:
// if its ping is answered.
func knock(addr string, roots *x509.CertPool, cert tls.Certificate, hello string) error {
	raw, err := (&net.Dialer{Timeout: 2 * time.Second}).Dial("tcp", addr)
	if err != nil {
		return err
	}
	defer func() { _ = raw.Close() }()
	if err := raw.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return err
	}
	// Among servers TLS comes before anything is said; clients are told so by INFO first.
	conn := tls.Client(raw, &tls.Config{RootCAs: roots, ServerName: "localhost", Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12})
	if _, err := io.WriteString(conn, hello); err != nil {
		return err
	}
	said := ""
	for lines := bufio.NewScanner(conn); lines.Scan(); {
		if lines.Text() == "PONG" {
			return nil
		}
		said += lines.Text() + "; "
	}
	return fmt.Errorf("it was closed: %.200s", said)
}

// runAll starts servers as nats-server does, each by itself.
func runAll(t *testing.T, files []string) []*server.Server {
	t.Helper()
	server.SetGatewaysSolicitDelay(solicitDelay)
	var all []*server.Server
	for _, file := range files {
		o, err := load(file)
		if err != nil {
			t.Fatal(err)
		}
		s, err := server.NewServer(o)
		if err != nil {
			release(o)
			t.Fatal(err)
		}
		if os.Getenv("SUPERCLUSTER_LOG") != "" {
			s.SetLoggerV2(newServerLog(newLog(os.Stderr), o.ServerName), false, false, false)
		}
		s.Start()
		t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
		all = append(all, s)
	}
	return all
}

// meshed tells what servers still lack.
func meshed(all []*server.Server, routes, gateways int) error {
	for _, s := range all {
		info, err := s.Jsz(nil)
		switch {
		case s.NumRemotes() < routes:
			return fmt.Errorf("%s has routes to %d", s.Name(), s.NumRemotes())
		case s.NumOutboundGateways() < gateways:
			return fmt.Errorf("%s has %d gateways", s.Name(), s.NumOutboundGateways())
		case err != nil || info.Meta == nil || info.Meta.Leader == "":
			return fmt.Errorf("%s knows no meta leader: %w", s.Name(), err)
		case info.Meta.Size < len(all):
			return fmt.Errorf("%s knows %d servers", s.Name(), info.Meta.Size)
		}
	}
	return nil
}

// pushTo gives the account of applications to all servers.
func pushTo(t *testing.T, k keys, url string, want int, with nats.Option) {
	t.Helper()
	nc, err := nats.Connect(url, k.sysUser, with)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	sub := must(nc.SubscribeSync(nats.NewInbox()))
	if err := nc.PublishRequest("$SYS.REQ.CLAIMS.UPDATE", sub.Subject, []byte(k.app)); err != nil {
		t.Fatal(err)
	}
	for i := range want {
		m, err := sub.NextMsg(5 * time.Second)
		if err != nil || !strings.Contains(string(m.Data), `"code":200`) {
			t.Fatalf("answer %d: %v", i+1, errors.Join(err, fmt.Errorf("%s", m.Data)))
		}
	}
}

// authorities are the two of a platform.
type authorities struct{ server, client *certs.Authority }

func newAuthorities() authorities {
	return authorities{
		server: must(certs.NewAuthority(certs.Terms{Name: "servers", For: certs.ForServers}, time.Now())),
		client: must(certs.NewAuthority(certs.Terms{Name: "clients", For: certs.ForClients}, time.Now())),
	}
}

func (a authorities) roots() *x509.CertPool { return certs.NewBundle(a.server.Certificate()).Pool() }

// install writes the files that the configuration of a server names.
func (a authorities) install(t *testing.T, dir string, listeners []serverconf.Listener) {
	t.Helper()
	write := func(name string, data []byte) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	write(serverconf.ServersCA, a.server.CertificatePEM())
	write(serverconf.ClientsCA, a.client.CertificatePEM())
	for _, l := range listeners {
		purpose := certs.Server
		if l == serverconf.Route || l == serverconf.Gateway {
			purpose = certs.Peer
		}
		p := must(a.server.Issue(certs.Request{Name: string(l), Purpose: purpose, Hosts: []string{"localhost"}}, time.Now()))
		write(l.Cert(), p.CertificatePEM())
		write(l.Key(), p.KeyPEM())
	}
}

// files are those of a listener of ams-1.
func (a authorities) files(dir string, l serverconf.Listener) (cert, key string) {
	at := filepath.Join(dir, "ams", "ams-1", serverconf.TLSFolder)
	return filepath.Join(at, l.Cert()), filepath.Join(at, l.Key())
}

func keyPair(p certs.Pair, err error) (tls.Certificate, error) {
	if err != nil {
		return tls.Certificate{}, err
	}
	return tls.X509KeyPair(p.CertificatePEM(), p.KeyPEM())
}

// A region that is deployed before the others has no JetStream, and begins none of its own;
// when more than half of all servers run it is there.
func TestDeployedRegionByRegion(t *testing.T) {
	k := newKeys()
	f := described(t, "127.0.0.1", 3, "ams", "sfo")
	for i := range f.Regions {
		f.Regions[i].Gateway = f.Regions[i].Nodes[0].Gateway
	}
	files, err := Write(t.TempDir(), f, k.input())
	if err != nil {
		t.Fatal(err)
	}
	first := runAll(t, files[:3])
	eventually(t, 10*time.Second, "routes", func() error {
		for _, s := range first {
			if s.NumRemotes() < 2 {
				return errors.New("not yet")
			}
		}
		return nil
	})
	// Longer than an election takes, which begins at once and then every four to nine seconds.
	ctx, cancel := context.WithTimeout(t.Context(), 1500*time.Millisecond)
	defer cancel()
	for ctx.Err() == nil {
		for _, s := range first {
			if s.JetStreamIsLeader() {
				t.Fatalf("%s leads three of six servers", s.Name())
			}
		}
		time.Sleep(10 * time.Millisecond)
	}
	all := append(first, runAll(t, files[3:])...)
	eventually(t, 40*time.Second, "mesh and leader", func() error { return meshed(all, 2, 1) })
	leaders := 0
	for _, s := range all {
		if s.JetStreamIsLeader() {
			leaders++
		}
	}
	if leaders != 1 {
		t.Errorf("%d leaders", leaders)
	}
}
