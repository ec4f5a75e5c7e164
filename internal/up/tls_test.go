package up_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/herald-nats/herald/internal/up"
	"github.com/herald-nats/herald/internal/uptest"
	"github.com/herald-nats/herald/pkg/certs"
	"github.com/herald-nats/herald/pkg/certs/certdir"
	"github.com/herald-nats/herald/pkg/client"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/keystore"
	"github.com/herald-nats/herald/pkg/platform"
	"github.com/herald-nats/herald/pkg/platform/manifest"
	"github.com/herald-nats/herald/pkg/subject"
)

// TestTLS: a platform with services under TLS gives credentials and carries messages; and
// nobody who does not believe its servers, or whom they do not believe, gets anywhere.
func TestTLS(t *testing.T) {
	p, err := uptest.Start(t.TempDir(), uptest.Options{Regions: []string{"ams", "sgp"}, TLS: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	sgp, _ := ident.ParseRegion("sgp")
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	key, err := keystore.Generate(keystore.User)
	if err != nil {
		t.Fatal(err)
	}
	s, err := client.Connect(ctx, client.Config{Platform: p.Public, Key: key, Region: sgp, Wish: client.Wish{Name: p.Name("tls"), Account: p.Public.Document.Chat.Account}})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close(ctx)
	st, err := s.Conn.TLSConnectionState()
	if err != nil || st.Version != tls.VersionTLS13 || s.Region() != sgp {
		t.Errorf("connected to %s by %s: %v", s.Region(), tls.VersionName(st.Version), err)
	}
	for _, u := range p.Public.Document.URLs(ident.Region{}) {
		if !strings.HasPrefix(u, "tls://") {
			t.Errorf("clients are told %s", u)
		}
	}
	room := p.Public.Document.Chat.Rooms[0].Name
	online, err := s.Conn.SubscribeSync(subject.Online(room))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Conn.Publish(subject.Online(room), []byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := online.NextMsgWithContext(ctx); err != nil {
		t.Errorf("a message under TLS: %v", err)
	}

	// Who has the platform and not its authorities; also with the document's words alone.
	dir := t.TempDir()
	for _, name := range []string{platform.OperatorFile, platform.DocumentFile, platform.GuestFile} {
		data, err := os.ReadFile(filepath.Join(p.Up.Platform.Dir.Public(), name))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	nobody, err := client.LoadPlatform(dir)
	if err != nil {
		t.Fatal(err)
	}
	urls := nobody.Document.URLs(sgp)
	if _, err := nobody.Obtain(ctx, urls, key, client.Wish{}); !errors.Is(err, client.ErrServer) {
		t.Errorf("without authorities: %v", err)
	}
	// A URL that does not say it makes no difference: servers insist.
	plain := []string{"nats://" + strings.TrimPrefix(urls[0], "tls://")}
	if _, err := nobody.Obtain(ctx, plain, key, client.Wish{}); !errors.Is(err, client.ErrServer) {
		t.Errorf("without authorities, by nats://: %v", err)
	}
	for _, r := range p.Up.Platform.File.Regions {
		for _, addr := range []string{r.Nodes[0].Client, r.Nodes[0].Cluster, r.Nodes[0].Gateway, r.Gateway} {
			inPlaintext(t, addr)
		}
	}
}

// inPlaintext speaks to a listener as if it had no TLS. A client listener says INFO, and
// after that nobody says anything that could be read.
func inPlaintext(t *testing.T, addr string) {
	t.Helper()
	conn, err := net.DialTimeout("tcp", addr, 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	_, _ = io.WriteString(conn, "CONNECT {\"verbose\":true,\"gateway\":\"ams\",\"tls_required\":false}\r\nPING\r\n")
	r := bufio.NewReader(conn)
	for {
		line, err := r.ReadString('\n')
		if info, ok := strings.CutPrefix(line, "INFO "); ok {
			var i struct {
				TLS bool `json:"tls_required"`
			}
			if err := json.Unmarshal([]byte(info), &i); err != nil || !i.TLS {
				t.Errorf("%s: INFO does not ask for TLS: %v", addr, err)
			}
		} else if strings.HasPrefix(line, "+OK") || strings.HasPrefix(line, "PONG") || strings.HasPrefix(line, "-ERR 'Auth") {
			t.Errorf("%s answers in plaintext: %q", addr, line)
		}
		if err != nil {
			return
		}
	}
}

// TestServicesArePeersOfNobody: where servers ask clients for certificates, a service has
// one; with it, it is no server. To a route that believed it, it would be one, and would
// see all accounts.
func TestServicesArePeersOfNobody(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), uptest.StartWait)
	defer cancel()
	p, ports, err := uptest.Init(ctx, t.TempDir(), uptest.Options{Regions: []string{"ams", "sgp"}, TLS: true})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ports.Release() }()
	p.File.TLS.Clients = manifest.ModeMutual
	if err := os.WriteFile(p.Dir.File(), p.File.Render(), 0o600); err != nil {
		t.Fatal(err)
	}
	// Not before there are certificates.
	if u, err := up.Start(ctx, up.Config{Dir: string(p.Dir)}); !errors.Is(err, platform.ErrNoCertificate) {
		t.Errorf("without certificates for clients: %v, %v", u, err)
	}
	want, err := p.Dir.Certificates(p.File)
	if err != nil {
		t.Fatal(err)
	}
	f, err := certdir.Open(p.Dir.TLS())
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.Issue(want, certdir.Want{}, time.Now())
	f.Close()
	if err != nil {
		t.Fatal(err)
	}
	u, err := up.Start(ctx, up.Config{Dir: string(p.Dir), Services: true})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		stop, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		if err := u.Close(stop); err != nil {
			t.Error(err)
		}
	}()
	own, err := tls.LoadX509KeyPair(filepath.Join(p.Dir.Issuer(p.File.Home), certs.ClientFile), filepath.Join(p.Dir.Issuer(p.File.Home), certs.ClientKeyFile))
	if err != nil {
		t.Fatal(err)
	}
	server, err := tls.LoadX509KeyPair(filepath.Join(p.Dir.NodeTLS(p.File.Home, p.File.Regions[0].Nodes[0].Name), "client.crt"), filepath.Join(p.Dir.NodeTLS(p.File.Home, p.File.Regions[0].Nodes[0].Name), "client.key"))
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(filepath.Join(p.Dir.Public(), certs.AuthoritiesFile))
	if err != nil {
		t.Fatal(err)
	}
	bundle, err := certs.ParseBundle(data)
	if err != nil {
		t.Fatal(err)
	}
	shows := func(c tls.Certificate) *tls.Config {
		return &tls.Config{
			RootCAs: bundle.Pool(), ServerName: "127.0.0.1", MinVersion: tls.VersionTLS12,
			GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &c, nil },
		}
	}
	node := p.File.Regions[0].Nodes[0]
	for what, c := range map[string]tls.Certificate{"a service": own, "a client listener": server} {
		for at, addr := range map[string]string{"a route": node.Cluster, "a gateway": node.Gateway, "a region": p.File.Regions[0].Gateway} {
			conn, err := tls.DialWithDialer(&net.Dialer{Timeout: 10 * time.Second}, "tcp", addr, shows(c))
			if err == nil {
				_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
				_, err = conn.Read(make([]byte, 1)) // under TLS 1.3 a refusal comes after the handshake
				_ = conn.Close()
			}
			if err == nil {
				t.Errorf("%s is a peer to %s", what, at)
			}
		}
	}
	// To a client listener it is a client, and who shows nothing is none.
	for what, c := range map[string]struct {
		cert tls.Certificate
		ok   bool
	}{"a service": {own, true}, "nobody": {tls.Certificate{}, false}, "a server": {server, false}} {
		nc, err := nats.Connect("tls://"+node.Client, nats.Secure(shows(c.cert)), nats.Timeout(10*time.Second))
		if err == nil {
			nc.Close()
		}
		// With no credentials a client gets as far as being told so.
		if got := errors.Is(err, nats.ErrAuthorization); got != c.ok {
			t.Errorf("%s as a client: %v", what, err)
		}
	}
}
