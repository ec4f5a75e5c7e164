package client_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/herald-nats/herald/pkg/certs"
	"github.com/herald-nats/herald/pkg/client"
)

// TestContextHasAuthorities: whom to trust goes with a platform, from the folder into the
// file and through every newer document.
func TestContextHasAuthorities(t *testing.T) {
	var pem [2][]byte
	for i := range pem {
		a, err := certs.NewAuthority(certs.Terms{Name: "test", For: certs.ForServers}, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		pem[i] = a.CertificatePEM()
	}
	both := bytes.Join(pem[:], nil)
	dir := publicDir(t)
	if p := load(t, dir); len(p.Authorities()) != 0 || bytes.Contains(export(t, p), []byte(`"ca"`)) {
		t.Error("authorities, and there is no file of them")
	}
	put := func(data []byte) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, certs.AuthoritiesFile), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	put(both)
	p := load(t, dir)
	if len(p.Authorities()) != 2 {
		t.Fatalf("%d authorities", len(p.Authorities()))
	}
	data := export(t, p)
	q, err := client.ParseContext(data)
	if err != nil {
		t.Fatal(err)
	}
	if len(q.Authorities()) != 2 || !bytes.Equal(export(t, q), data) {
		t.Errorf("%d authorities after an export", len(q.Authorities()))
	}
	if r, err := q.Update(q.Token()); err != nil || len(r.Authorities()) != 2 {
		t.Errorf("after an update: %v", err)
	}
	leaf := leafOf(t)
	for what, bad := range map[string][]byte{
		"nothing": {}, "text": []byte("x\n"), "half": both[:len(both)-200], "a leaf": leaf, "a leaf behind": append(bytes.Clone(pem[0]), leaf...),
	} {
		put(bad)
		if _, err := client.LoadPlatform(dir); !errors.Is(err, client.ErrContext) {
			t.Errorf("%s in the folder: %v", what, err)
		}
		if what == "nothing" {
			continue // a context file without them is one of a platform without them
		}
		var m map[string]any
		if err := json.Unmarshal(data, &m); err != nil {
			t.Fatal(err)
		}
		m["ca"] = string(bad)
		file, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := client.ParseContext(file); !errors.Is(err, client.ErrContext) {
			t.Errorf("%s in the file: %v", what, err)
		}
	}
}

func leafOf(t *testing.T) []byte {
	t.Helper()
	a, err := certs.NewAuthority(certs.Terms{Name: "test", For: certs.ForServers}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	p, err := a.Issue(certs.Request{Name: "x", Purpose: certs.Server, Hosts: []string{"x"}}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return p.CertificatePEM()
}
