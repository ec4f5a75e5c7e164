package nscsetup_test

import (
	"bytes"
	"crypto/tls"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/herald-nats/herald/internal/cli"
	"github.com/herald-nats/herald/internal/cli/nscsetup"
	"github.com/herald-nats/herald/internal/uptest"
	"github.com/herald-nats/herald/pkg/certs/certdir"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/platform"
	"github.com/herald-nats/herald/pkg/platform/manifest"
	"github.com/herald-nats/herald/pkg/platform/serverconf"
)

// With TLS on, a node's folder is all that its server needs: its certificates are in it,
// keys for their owner alone, and servers can be made from every file.
func TestRenderWithCertificates(t *testing.T) {
	dir, out := filepath.Join(t.TempDir(), "plat"), filepath.Join(t.TempDir(), "conf")
	f := secured(t, out)
	p, err := platform.Create(t.Context(), dir, f, time.Now(), platform.MakeTLS(f, certdir.Settings{}, time.Now()))
	if err != nil {
		t.Fatal(err)
	}
	run := func(want int, args ...string) (stdout, stderr string) {
		t.Helper()
		var o, e bytes.Buffer
		if got := nscsetup.Run(t.Context(), cli.IO{In: strings.NewReader(""), Out: &o, Err: &e}, append([]string{"--dir", dir}, args...)); got != want {
			t.Fatalf("%v ended with %d, want %d: %s", args, got, want, &e)
		}
		return o.String(), e.String()
	}
	stdout, stderr := run(cli.OK, "config", "render", "--out", out)
	// The text, two bundles of authorities, and a pair for clients, routes and gateways.
	if !strings.Contains(stdout, "9 written") || strings.Contains(stderr, "TLS") {
		t.Errorf("%s%s", stdout, stderr)
	}
	node := filepath.Join(out, "sfo", "sfo-2")
	modes := map[string]fs.FileMode{"": 0o755, "nats-server.conf": 0o644, "tls": 0o700, "tls/ca.pem": 0o644, "tls/clients-ca.pem": 0o644, "tls/gateway.crt": 0o644, "tls/gateway.key": 0o600}
	for name, want := range modes {
		info, err := os.Stat(filepath.Join(node, name))
		if err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: %v %v, want %v", name, info.Mode(), err, want)
		}
	}
	for _, r := range f.Regions {
		for _, n := range r.Nodes {
			at := filepath.Join(out, r.Name.String(), n.Name.String())
			// On its machine the folder is config_dir; here each file says where it is.
			text := replaceIn(t, filepath.Join(at, serverconf.FileName), "/config/tls/", at+"/tls/")
			o := &server.Options{NoSigs: true, NoLog: true}
			if err := o.ProcessConfigFile(text); err != nil {
				t.Fatal(err)
			}
			if o.TLSConfig == nil || o.TLSConfig.ClientAuth != tls.RequireAndVerifyClientCert || o.Cluster.TLSConfig == nil || o.Gateway.TLSConfig == nil {
				t.Errorf("%s: not all is encrypted", n.Name)
			}
			s, err := server.NewServer(o)
			if err != nil {
				t.Fatal(err)
			}
			s.Shutdown()
		}
	}

	// A certificate that was renewed replaces the one that is there, after a question.
	folder, err := certdir.Open(p.Dir.TLS())
	if err != nil {
		t.Fatal(err)
	}
	plan, err := p.Dir.Certificates(f)
	if err == nil {
		_, err = folder.Issue(plan, certdir.Want{Force: true}, time.Now())
	}
	folder.Close()
	if err != nil {
		t.Fatal(err)
	}
	_, stderr = run(cli.Exists, "config", "render", "--region", "ams", "--out", out)
	if !strings.Contains(stderr, "ams/ams-1/tls/client.key") || strings.Contains(stderr, "sfo") {
		t.Error(stderr)
	}
	stdout, _ = run(cli.OK, "config", "render", "--region", "ams", "--out", out, "--yes")
	if !strings.Contains(stdout, "6 replaced, 3 unchanged") {
		t.Error(stdout)
	}
	// What no server could start with goes nowhere.
	key := filepath.Join(p.Dir.NodeTLS(f.Regions[0].Name, f.Regions[0].Nodes[0].Name), "route.key")
	if err := os.WriteFile(key, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	run(cli.Config, "config", "render", "--out", out, "--yes")
}

// secured describes a platform in which everything is encrypted.
func secured(t *testing.T, out string) *manifest.File {
	t.Helper()
	name := func(s string) ident.Name {
		n, err := ident.ParseName(s)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	region := func(s string) ident.Region {
		r, err := ident.ParseRegion(s)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	f := platform.NewFile(platform.Spec{Name: name("acme"), Regions: []ident.Region{region("ams"), region("sfo")}, Home: region("ams"), Nodes: 3, Port: 20000})
	f.TLS = manifest.TLS{Clients: manifest.ModeMutual, Routes: manifest.ModeMutual, Gateways: manifest.ModeMutual}
	f.Servers.ConfigDir, f.Servers.DataDir = "/config", filepath.Join(filepath.Dir(out), "data")
	return f
}

// replaceIn gives a file with other text in it, beside the first.
func replaceIn(t *testing.T, path, old, by string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(data, []byte(old)) {
		t.Fatalf("%s has no %s", path, old)
	}
	to := filepath.Join(t.TempDir(), filepath.Base(path))
	if err := os.WriteFile(to, bytes.ReplaceAll(data, []byte(old), []byte(by)), 0o600); err != nil {
		t.Fatal(err)
	}
	return to
}

// The commands of docs/deploying.md are typed as they stand there.
func TestDeployingPage(t *testing.T) {
	root, err := uptest.Root()
	if err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile(filepath.Join(root, "docs", "deploying.md"))
	if err != nil {
		t.Fatal(err)
	}
	t.Chdir(t.TempDir())
	f := secured(t, filepath.Join(t.TempDir(), "conf"))
	f.TLS = manifest.TLS{}
	if _, err := platform.Create(t.Context(), "plat", f, time.Now(), nil); err != nil {
		t.Fatal(err)
	}
	typed := 0
	for _, block := range strings.Split(string(page), "```sh\n")[1:] {
		block, _, _ = strings.Cut(block, "```")
		for _, line := range strings.Split(strings.TrimSpace(block), "\n") {
			var e bytes.Buffer
			args := strings.Fields(line)
			if args[0] != "nscsetup" {
				t.Fatalf("%q is not tried", line)
			}
			if code := nscsetup.Run(t.Context(), cli.IO{In: strings.NewReader(""), Out: io.Discard, Err: &e}, append([]string{"--dir", "plat"}, args[1:]...)); code != cli.OK {
				t.Errorf("%s: %d %s", line, code, &e)
			}
			typed++
		}
	}
	if _, err := os.Stat("conf/ams/ams-1/nats-server.conf"); err != nil || typed < 2 {
		t.Errorf("%d commands were typed: %v", typed, err)
	}
}
