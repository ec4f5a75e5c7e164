// Package dex builds and runs Dex, an OpenID provider in a process of its own, for tests. Dex is pinned in a module of its own, tools/dex.
package dex

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"
)

// The client of Dex that may log in with a password, and its one user. The password is
// made at each Start.
const (
	Client  = "herald-cli"
	User    = "alice"
	Subject = "08a8684b-db88-4b73-90a9-3cd1661f5466" // of User; tokens have it encoded
)

// Build compiles Dex into a folder and gives the program's path. It needs the Go command,
// and the modules of tools/dex in the module cache or from the proxy.
func Build(ctx context.Context, root, into string) (string, error) {
	program := filepath.Join(into, "dex")
	cmd := exec.CommandContext(ctx, "go", "build", "-o", program, "github.com/dexidp/dex/cmd/dex") // #nosec G204 -- constant but for the test's folder
	cmd.Dir = filepath.Join(root, "tools", "dex")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-mod=readonly", "GOWORK=off")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building dex: %w: %s", err, out)
	}
	return program, nil
}

// Dex is one that runs until its test ends.
type Dex struct {
	Issuer string

	program, conf string
	secret        string // the client's secret and the user's password
	client        *http.Client
	cmd           *exec.Cmd
	out           *bytes.Buffer
}

// Start runs a program that Build made, on loopback, with its memory for storage: each
// start has new keys.
func Start(t testing.TB, program string) *Dex {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	d := &Dex{
		Issuer: "http://" + addr + "/dex", program: program, conf: filepath.Join(t.TempDir(), "dex.json"),
		client: &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}},
	}
	d.secret = rand.Text()
	hash, err := bcrypt.GenerateFromPassword([]byte(d.secret), 10) // the lowest cost that Dex takes
	if err != nil {
		t.Fatal(err)
	}
	conf, err := json.Marshal(map[string]any{
		"issuer":           d.Issuer,
		"storage":          map[string]any{"type": "memory"},
		"web":              map[string]any{"http": addr},
		"oauth2":           map[string]any{"passwordConnector": "local", "skipApprovalScreen": true},
		"enablePasswordDB": true,
		"staticClients":    []any{map[string]any{"id": Client, "name": Client, "secret": d.secret, "redirectURIs": []string{"http://127.0.0.1/callback"}}},
		"staticPasswords":  []any{map[string]any{"email": User + "@example.com", "hash": string(hash), "username": User, "userID": Subject}},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(d.conf, conf, 0o600); err != nil {
		t.Fatal(err)
	}
	d.Run(t)
	t.Cleanup(func() { d.Stop(t) })
	return d
}

// Run starts it, after Stop again, and waits until it answers.
func (d *Dex) Run(t testing.TB) {
	t.Helper()
	d.out = new(bytes.Buffer)
	d.cmd = exec.CommandContext(t.Context(), d.program, "serve", d.conf) // #nosec G204 -- what the test built
	d.cmd.Stdout, d.cmd.Stderr = d.out, d.out
	if err := d.cmd.Start(); err != nil {
		t.Fatalf("starting dex: %v", err)
	}
	deadline := time.Now().Add(60 * time.Second)
	for {
		_, err := d.get(t.Context(), d.Issuer+"/.well-known/openid-configuration")
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			d.Stop(t)
			t.Fatalf("dex does not answer: %v\n%s", err, d.out)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// Stop ends it, and waits for that.
func (d *Dex) Stop(t testing.TB) {
	t.Helper()
	if d.cmd == nil {
		return
	}
	cmd := d.cmd
	d.cmd = nil
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		t.Errorf("stopping dex: %v", err)
	}
	stuck := time.AfterFunc(10*time.Second, func() { _ = cmd.Process.Kill() })
	defer stuck.Stop()
	_ = cmd.Wait() // how a signal ends it is of no interest
}

func (d *Dex) get(ctx context.Context, u string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u, nil)
	if err != nil {
		return nil, err
	}
	resp, err := d.client.Do(req)
	if err != nil {
		return nil, err
	}
	return read(resp)
}

func read(resp *http.Response) ([]byte, error) {
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return nil, fmt.Errorf("reading an answer: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: %s", resp.Status, body)
	}
	return body, nil
}

// Login gives the ID token of User.
func (d *Dex) Login(ctx context.Context) (string, error) {
	form := url.Values{"grant_type": {"password"}, "username": {User + "@example.com"}, "password": {d.secret}, "scope": {"openid profile email groups"}}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, d.Issuer+"/token", strings.NewReader(form.Encode()))
	if err != nil {
		return "", fmt.Errorf("making a request: %w", err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.SetBasicAuth(Client, d.secret)
	resp, err := d.client.Do(req)
	if err != nil {
		return "", fmt.Errorf("asking for a token: %w", err)
	}
	body, err := read(resp)
	if err != nil {
		return "", fmt.Errorf("asking for a token: %w", err)
	}
	var token struct {
		ID string `json:"id_token"`
	}
	if err := json.Unmarshal(body, &token); err != nil || token.ID == "" {
		return "", fmt.Errorf("no ID token came: %w", err)
	}
	return token.ID, nil
}
