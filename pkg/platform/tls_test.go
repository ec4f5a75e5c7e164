package platform_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/herald-nats/herald/pkg/certs"
	"github.com/herald-nats/herald/pkg/certs/certdir"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/platform"
	"github.com/herald-nats/herald/pkg/platform/manifest"
	"github.com/herald-nats/herald/pkg/platform/serverconf"
)

// encrypted is a platform with TLS wherever it can be, in a mode each.
func encrypted(t *testing.T, clients manifest.Mode) (*platform.Platform, time.Time) {
	t.Helper()
	name, _ := ident.ParseName("demo")
	ams, _ := ident.ParseRegion("ams")
	ca, _ := ident.ParseRegion("ca") // a region may be called like a folder of ours
	f := platform.NewFile(platform.Spec{Name: name, Regions: []ident.Region{ams, ca}, Home: ams, Nodes: 3, Port: 14000})
	f.TLS = manifest.TLS{
		Clients: clients, Routes: manifest.ModeMutual, Gateways: manifest.ModeMutual,
		Websockets: manifest.ModeServer, Leafnodes: manifest.ModeMutual,
	}
	r := &f.Regions[0]
	r.Gateway, r.Clients = "gw.ams.example.org:7222", []string{"nats.ams.example.org:4222"}
	for i := range r.Nodes {
		r.Nodes[i].Client = r.Nodes[i].Name.String() + ".example.org:4222"
	}
	r.Nodes[0].Websocket, r.Nodes[1].Leafnode = "127.0.0.1:14100", "127.0.0.1:14101"
	now := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	p, err := platform.Create(t.Context(), filepath.Join(t.TempDir(), "demo"), f, now, platform.MakeTLS(f, certdir.Settings{}, now))
	if err != nil {
		t.Fatal(err)
	}
	return p, now
}

func TestCertificates(t *testing.T) {
	p, now := encrypted(t, manifest.ModeMutual)
	want, err := p.Dir.Certificates(p.File)
	if err != nil {
		t.Fatal(err)
	}
	s, err := certdir.Look(p.Dir.TLS(), want, now)
	if err != nil {
		t.Fatal(err)
	}
	if bad := s.Problems(); len(bad) > 0 {
		t.Errorf("%q", bad)
	}
	got := map[string][]string{}
	for _, l := range s.Leaves {
		got[l.Name] = append([]string{string(l.Certificate.Purpose())}, l.Certificate.Hosts()...)
	}
	clients := []string{"server", "ams-1.example.org", "ams-2.example.org", "ams-3.example.org", "nats.ams.example.org"}
	for name, hosts := range map[string][]string{
		"ams/ams-1/client":    clients,
		"ams/ams-3/client":    clients,
		"ams/ams-1/route":     {"peer", "127.0.0.1"},
		"ams/ams-2/gateway":   {"peer", "127.0.0.1", "gw.ams.example.org"},
		"ams/ams-1/websocket": {"server", "127.0.0.1", "nats.ams.example.org"},
		"ams/ams-2/leafnode":  {"server", "127.0.0.1"},
		"ca/ca-1/client":      {"server", "127.0.0.1"},
		"issuer-ams":          {"client"},
		"registrar-ca":        {"client"},
		"nscsetup":            {"client"},
	} {
		if !slices.Equal(got[name], hosts) {
			t.Errorf("%s: %q, want %q", name, got[name], hosts)
		}
	}
	if len(got) != 6*3+2+2*2+1 {
		t.Errorf("%d certificates: %q", len(got), got)
	}
	if err := p.Dir.HasTLS(p.File); err != nil {
		t.Error(err)
	}
	// Every file that a configuration names is there, and no other.
	for _, r := range p.File.Regions {
		for _, n := range r.Nodes {
			files, missing, err := p.Dir.TLSFiles(p.File, r.Name, n)
			if err != nil || len(missing) > 0 {
				t.Fatalf("%s: %q, %v", n.Name, missing, err)
			}
			var have, named []string
			for _, f := range files {
				if strings.HasSuffix(f.Name, ".key") != f.Secret || strings.Contains(string(f.Data), "PRIVATE") != f.Secret {
					t.Errorf("%s: secret: %v", f.Name, f.Secret)
				}
				have = append(have, f.Name)
			}
			for _, f := range serverconf.TLSFiles(p.File, n) {
				named = append(named, f.Name)
			}
			entries, err := os.ReadDir(p.Dir.NodeTLS(r.Name, n.Name))
			if err != nil {
				t.Fatal(err)
			}
			var there []string
			for _, e := range entries {
				there = append(there, e.Name())
			}
			slices.Sort(have)
			slices.Sort(named)
			if !slices.Equal(have, named) || !slices.Equal(there, named) {
				t.Errorf("%s: %q, there is %q, its configuration names %q", n.Name, have, there, named)
			}
		}
	}
	for _, dir := range []string{p.Dir.Public(), p.Dir.Tool(), p.Dir.Issuer(p.File.Home), p.Dir.Registrar(p.File.Home)} {
		if _, err := os.Stat(filepath.Join(dir, certs.AuthoritiesFile)); err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(filepath.Join(dir, certs.ClientKeyFile)); (err == nil) != (dir != p.Dir.Public()) {
			t.Errorf("%s: %v", dir, err)
		}
	}
}

// TestCertificatesByMode: nothing is issued that nobody shows.
func TestCertificatesByMode(t *testing.T) {
	p, now := encrypted(t, manifest.ModeServer)
	if _, err := os.Stat(filepath.Join(p.Dir.Tool(), certs.ClientKeyFile)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a client's key, and nobody asks for it: %v", err)
	}
	// The folder of a party that was given away is not made again.
	if err := os.RemoveAll(filepath.Dir(p.Dir.Issuer(p.File.Home))); err != nil {
		t.Fatal(err)
	}
	p.File.TLS = manifest.TLS{Clients: manifest.ModeMutual}
	want, err := p.Dir.Certificates(p.File)
	if err != nil {
		t.Fatal(err)
	}
	f, err := certdir.Open(p.Dir.TLS())
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	r, err := f.Issue(want, certdir.Want{}, now)
	if err != nil || len(r.Issued) != 3 || r.Kept != 6 {
		t.Errorf("%d issued, %d kept: %v", len(r.Issued), r.Kept, err)
	}
	if _, err := os.Stat(p.Dir.Issuer(p.File.Home)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the issuers' folder: %v", err)
	}
	p.File.TLS = manifest.TLS{}
	if want, err := p.Dir.Certificates(p.File); err != nil || len(want.Leaves) != 0 {
		t.Errorf("without TLS: %d certificates, %v", len(want.Leaves), err)
	}
	if err := p.Dir.HasTLS(p.File); err != nil {
		t.Errorf("without TLS: %v", err)
	}
}

// TestTLSFilesRefused: what a server could not start with, or would trust nobody with, is
// not brought to it.
func TestTLSFilesRefused(t *testing.T) {
	p, _ := encrypted(t, manifest.ModeMutual)
	r := p.File.Regions[0]
	n := r.Nodes[0]
	at := func(name string) string { return filepath.Join(p.Dir.NodeTLS(r.Name, n.Name), name) }
	for _, c := range []struct {
		what    string
		change  func() error
		err     error
		missing int
	}{
		{"no key", func() error { return os.Remove(at("client.key")) }, nil, 2},
		{"another's key", func() error { return os.Rename(at("route.key"), at("client.key")) }, certdir.ErrBroken, 0},
		{"no authorities", func() error {
			return errors.Join(os.Remove(at("client.key")), os.Remove(at(serverconf.ServersCA)))
		}, nil, 5},
		{"a leaf as authorities", func() error { return os.Rename(at("gateway.crt"), at(serverconf.ServersCA)) }, certs.ErrInvalid, 0},
	} {
		if err := c.change(); err != nil {
			t.Fatal(err)
		}
		_, missing, err := p.Dir.TLSFiles(p.File, r.Name, n)
		if !errors.Is(err, c.err) || len(missing) != c.missing {
			t.Errorf("%s: %q, %v", c.what, missing, err)
		}
		if err := p.Dir.HasTLS(p.File); err == nil || (c.missing > 0 && !errors.Is(err, platform.ErrNoCertificate)) {
			t.Errorf("%s: %v", c.what, err)
		}
	}
}
