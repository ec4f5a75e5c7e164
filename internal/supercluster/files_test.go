package supercluster

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/keystore"
	"github.com/herald-nats/herald/pkg/platform/manifest"
	"github.com/herald-nats/herald/pkg/platform/serverconf"
	"github.com/herald-nats/herald/pkg/trust"
)

func (k keys) input() serverconf.Input {
	return serverconf.Input{Operator: must(trust.ParseOperator(k.operator)), System: k.system}
}

// described is a description with every listener that there is, on free ports of a host.
func described(t *testing.T, host string, size int, regions ...string) *manifest.File {
	t.Helper()
	free := net.JoinHostPort(host, "0")
	f := &manifest.File{Name: must(ident.ParseName("test"))}
	for _, name := range regions {
		r := manifest.Region{Name: reg(name), Gateway: free}
		for i := range size {
			r.Nodes = append(r.Nodes, manifest.Node{
				Name: must(ident.ParseName(fmt.Sprintf("%s-%d", name, i+1))), Client: free, Cluster: free, Gateway: free,
				Websocket: free, Leafnode: free, Monitor: free,
			})
		}
		f.Regions = append(f.Regions, r)
	}
	if err := choosePorts(t.Context(), f); err != nil {
		t.Fatal(err)
	}
	return f
}

// Servers that start from rendered files take connections wherever the description says.
func TestEveryListener(t *testing.T) {
	k, dir := newKeys(), t.TempDir()
	f := described(t, "127.0.0.1", 2, "ams", "sfo")
	f.Servers.AuthTimeout = manifest.Duration(300 * time.Millisecond)
	files, err := Write(dir, f, k.input())
	if err != nil {
		t.Fatal(err)
	}
	if want := filepath.Join(dir, "config", "sfo", "sfo-2", "nats-server.conf"); len(files) != 4 || files[3] != want {
		t.Fatalf("%v; want the last to be %s", files, want)
	}
	s := upFiles(t, files)
	push(t, s, k, "ams")
	respond(t, s, k, "ams", "at.ams")
	n := f.Regions[1].Nodes[1] // sfo-2

	t.Run("websocket", func(t *testing.T) {
		nc, err := nats.Connect("ws://"+n.Websocket, k.appUser)
		if err != nil {
			t.Fatal(err)
		}
		defer nc.Close()
		eventually(t, 5*time.Second, "request by websocket", func() error { return ask(nc, "at.ams") })
	})
	t.Run("leafnode", func(t *testing.T) {
		nc := behindLeaf(t, k, "nats-leaf://"+n.Leafnode, nil)
		eventually(t, 5*time.Second, "request by leafnode", func() error { return ask(nc, "at.ams") })
	})
	t.Run("monitoring", func(t *testing.T) {
		var v struct {
			Name    string `json:"server_name"`
			Cluster struct{ Name string }
		}
		get(t, "http://"+n.Monitor+"/varz", &v)
		if v.Name != "sfo-2" || v.Cluster.Name != "sfo" {
			t.Errorf("%+v", v)
		}
		var h struct{ Status string }
		get(t, "http://"+n.Monitor+"/healthz", &h)
		if h.Status != "ok" {
			t.Errorf("%+v", h)
		}
	})
	t.Run("who says nothing is shown out in time", func(t *testing.T) {
		conn, err := (&net.Dialer{Timeout: time.Second}).DialContext(t.Context(), "tcp", n.Client)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = conn.Close() }()
		began := time.Now()
		_ = conn.SetDeadline(began.Add(10 * time.Second))
		for lines := bufio.NewScanner(conn); lines.Scan(); {
			if strings.HasPrefix(lines.Text(), "-ERR 'Authentication Timeout'") {
				if took := time.Since(began); took < 250*time.Millisecond || took > 1900*time.Millisecond {
					t.Errorf("after %v, auth_timeout is 300ms", took)
				}
				return
			}
		}
		t.Error("the server closed without a reason, or not at all")
	})
	t.Run("a port of each is known", func(t *testing.T) {
		shut(t, s)
		for what, addr := range map[string]string{"websocket": n.Websocket, "leafnode": n.Leafnode, "monitoring": n.Monitor} {
			l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", addr)
			if err != nil {
				t.Fatal(err)
			}
			_, err = StartFiles(t.Context(), Files{Paths: files})
			if !errors.Is(err, syscall.EADDRINUSE) || !strings.Contains(err.Error(), what+" listener of node sfo-2 in region sfo") {
				t.Error(err)
			}
			_ = l.Close()
		}
	})
}

// upFiles starts servers from files and closes them with the test.
func upFiles(t *testing.T, files []string) *Supercluster {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	s, err := StartFiles(ctx, Files{Paths: files})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { shut(t, s) })
	return s
}

// behindLeaf is a client of a server at the edge, whose uplink is a user of the account
// of applications.
func behindLeaf(t *testing.T, k keys, uplink string, with func(*server.RemoteLeafOpts)) *nats.Conn {
	t.Helper()
	creds := filepath.Join(t.TempDir(), "leaf.creds")
	if err := os.WriteFile(creds, k.appCreds, 0o600); err != nil {
		t.Fatal(err)
	}
	remote := &server.RemoteLeafOpts{URLs: []*url.URL{must(url.Parse(uplink))}, Credentials: creds}
	if with != nil {
		with(remote)
	}
	o := &server.Options{Host: "127.0.0.1", Port: -1, NoSigs: true, NoLog: true, ServerName: "edge"}
	o.LeafNode.Remotes = []*server.RemoteLeafOpts{remote}
	edge, err := server.NewServer(o)
	if err != nil {
		t.Fatal(err)
	}
	edge.Start()
	t.Cleanup(func() { edge.Shutdown(); edge.WaitForShutdown() })
	if !edge.ReadyForConnections(10 * time.Second) {
		t.Fatal("the edge is not ready")
	}
	nc, err := nats.Connect(edge.ClientURL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return nc
}

func get(t *testing.T, page string, into any) {
	t.Helper()
	tr := &http.Transport{DisableKeepAlives: true}
	resp, err := (&http.Client{Transport: tr, Timeout: 5 * time.Second}).Get(page)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	if err := json.NewDecoder(resp.Body).Decode(into); err != nil {
		t.Fatal(err)
	}
}

// What a server was given at its first start does not replace what it was pushed later.
func TestNewerSystemAccountStays(t *testing.T) {
	k := newKeys()
	cfg := k.config(t.TempDir(), 1, "ams")
	s := up(t, cfg)
	c := must(jwt.DecodeAccountClaims(k.system))
	// Signed ten seconds later; jwt/v2 would take the clock's time.
	c.Description, c.IssuedAt, c.ID = "newer", c.IssuedAt+10, "NEWER"
	newer := must(trust.EncodeJWT(c, must(keystore.Parse(keystore.Operator, must(k.operatorKey.Seed())))))
	nc := dial(t, s, "ams", k.sysUser)
	m, err := nc.Request("$SYS.REQ.CLAIMS.UPDATE", []byte(newer), 5*time.Second)
	if err != nil || !strings.Contains(string(m.Data), `"code":200`) {
		t.Fatalf("%v %s", err, m.Data)
	}
	nc.Close()
	held := filepath.Join(cfg.Dir, "ams", "ams-1", "resolver", c.Subject+".jwt")
	same := func(when string) {
		t.Helper()
		if data, err := os.ReadFile(held); err != nil || string(data) != newer {
			t.Errorf("%s: the newer account is gone (%v)", when, err)
		}
	}
	same("pushed")
	if err := s.StopNode(t.Context(), "ams-1"); err != nil {
		t.Fatal(err)
	}
	if err := s.StartNode(t.Context(), "ams-1"); err != nil {
		t.Fatal(err)
	}
	same("node started again")
	shut(t, s)
	again := up(t, cfg)
	same("all started again")
	dial(t, again, "ams", k.sysUser)
}

// Files that are no supercluster are refused before anything starts.
func TestFilesRefused(t *testing.T) {
	k := newKeys()
	for what, c := range map[string]struct {
		file  int
		spoil func(string) string
		want  string
	}{
		"unknown key":      {0, func(s string) string { return s + "\nno_such_key: 1\n" }, "no_such_key"},
		"no config":        {1, func(string) string { return "{" }, "nats-server.conf"},
		"two of one name":  {1, swap(`"ams-2"`, `"ams-1"`), "node ams-1 is there twice"},
		"cluster's name":   {1, swap(`name: "ams"`, `name: "AMS"`), "the cluster's name"},
		"a region missing": {0, swap(`name: "sfo"`, `name: "fra"`), "0 gateways to region sfo"},
		"around the relay": {0, swapURL, "looks for region sfo at"},
		"advertised apart": {1, swap(`advertise: "127.0.0.1:`, `advertise: "127.0.0.2:`), "and node ams-1 in region ams advertises"},
		"any port": {2, func(s string) string {
			return strings.Replace(s, "\nlisten: \"127.0.0.1:", "\nlisten: \"127.0.0.1:-1\" #", 1)
		}, "no definite port"},
		"no server_name":     {2, func(s string) string { return strings.Replace(s, "server_name:", "# server_name:", 1) }, "server_name"},
		"a region by itself": {3, swap(`name: "sfo"`, `name: "lax"`), "region lax has one node"},
		"twice the same URL": {0, func(s string) string { return twice(s) }, "Duplicate gateway"},
		"listens everywhere": {0, func(s string) string { return strings.Replace(s, "\nlisten: \"127.0.0.1:", "\nlisten: \":", 1) }, "host"},
		"reads another's key": {0, func(s string) string {
			return strings.Replace(s, "server_name: \"ams-1\"", "server_name: $NO_SUCH_VARIABLE", 1)
		}, "NO_SUCH_VARIABLE"},
	} {
		cfg := k.config(t.TempDir(), 2, "ams", "sfo")
		files := must(cfg.write(t.Context()))
		text := string(must(os.ReadFile(files[c.file])))
		spoilt := c.spoil(text)
		if spoilt == text {
			t.Fatalf("%s: nothing was spoilt", what)
		}
		if err := os.WriteFile(files[c.file], []byte(spoilt), 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := StartFiles(t.Context(), Files{Paths: files})
		if s != nil || !errors.Is(err, ErrConfig) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := StartFiles(t.Context(), Files{}); !errors.Is(err, ErrConfig) {
		t.Error(err)
	}
	if _, err := StartFiles(t.Context(), Files{Paths: []string{filepath.Join(t.TempDir(), "none.conf")}}); !errors.Is(err, ErrConfig) || !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}

func swap(old, by string) func(string) string {
	return func(s string) string { return strings.ReplaceAll(s, old, by) }
}

// swapURL changes the first URL of another region.
func swapURL(s string) string {
	head, rest, _ := strings.Cut(s, "urls: [")
	return head + "urls: [" + strings.Replace(rest, "127.0.0.1", "127.0.0.2", 1)
}

// twice writes the first URL of another region a second time.
func twice(s string) string {
	head, rest, _ := strings.Cut(s, "urls: [\n")
	line, rest, _ := strings.Cut(rest, "\n")
	return head + "urls: [\n" + line + "\n" + line + "\n" + rest
}

// A server that is started again reads its file again, and must be who it was.
func TestFileChangedBetween(t *testing.T) {
	k := newKeys()
	cfg := k.config(t.TempDir(), 3, "ams")
	s := up(t, cfg)
	n := s.node("ams-2")
	if err := s.StopNode(t.Context(), "ams-2"); err != nil {
		t.Fatal(err)
	}
	text := must(os.ReadFile(n.file))
	write := func(s string) {
		t.Helper()
		if err := os.WriteFile(n.file, []byte(s), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(strings.Replace(string(text), n.cluster.addr, "127.0.0.1:1", 1))
	if err := s.StartNode(t.Context(), "ams-2"); !errors.Is(err, ErrConfig) || !strings.Contains(err.Error(), "addresses have changed") {
		t.Error(err)
	}
	write("no_such_key: 1")
	if err := s.StartNode(t.Context(), "ams-2"); !errors.Is(err, ErrConfig) {
		t.Error(err)
	}
	write(strings.Replace(string(text), "max_connections: 65536", "max_connections: 7", 1))
	if err := s.StartNode(t.Context(), "ams-2"); err != nil {
		t.Fatal(err)
	}
	if v, err := n.server().Varz(nil); err != nil || v.MaxConn != 7 {
		t.Errorf("it was not read again: %v", err)
	}
}
