package callouttest

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"

	"github.com/herald-nats/herald/internal/apply"
	"github.com/herald-nats/herald/internal/up"
	"github.com/herald-nats/herald/internal/uptest"
	"github.com/herald-nats/herald/pkg/keystore"
	"github.com/herald-nats/herald/pkg/platform"
	"github.com/herald-nats/herald/pkg/platform/serverconf"
)

// holders are the files of a platform folder that hold a text.
func holders(t *testing.T, dir, text string) []string {
	t.Helper()
	var all []string
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		data, err := os.ReadFile(path) // #nosec G122 -- a folder of this test alone
		if err != nil {
			return err
		}
		if strings.Contains(string(data), text) {
			name, err := filepath.Rel(dir, path)
			all = append(all, name)
			return err
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// TestCalloutKey: the one key that opens passwords is in operator/ and with issuers, for their
// owner alone, and nowhere else; its public half is in DOOR. It is in no log.
func TestCalloutKey(t *testing.T) {
	p := shared.Up.Platform
	path := filepath.Join(p.Dir.Operator(), platform.CalloutKeyFile)
	key, err := keystore.Load(path, keystore.Curve)
	if err != nil {
		t.Fatal(err)
	}
	seed, err := key.Seed()
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"issuers/ams/callout.nk", "issuers/sfo/callout.nk", "operator/callout.nk"}
	if got := holders(t, shared.Dir, string(seed)); !slices.Equal(got, want) {
		t.Errorf("it is in %q, and not in %q alone", got, want)
	}
	for _, name := range want {
		if info, err := os.Stat(filepath.Join(shared.Dir, name)); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v %v", name, info.Mode(), err)
		}
	}
	h, ok := p.Account(platform.Door)
	if !ok {
		t.Fatal("there is no account DOOR")
	}
	_, c, err := p.Claims(h)
	if err != nil {
		t.Fatal(err)
	}
	orders, _ := p.Account("ORDERS")
	brief, _ := p.Account("BRIEF")
	allowed := []string{orders.Key.String(), brief.Key.String()}
	slices.Sort(allowed)
	if got := slices.Sorted(slices.Values(c.Authorization.AllowedAccounts)); c.Authorization.XKey != key.Public() || !slices.Equal(got, allowed) || len(c.Authorization.AuthUsers) != 1 {
		t.Errorf("%+v", c.Authorization)
	}
	// The user about whom servers do not ask is nobody that anything here is of.
	if u := c.Authorization.AuthUsers[0]; !nkeys.IsValidPublicUserKey(u) || len(holders(t, shared.Dir, u)) > 0 {
		t.Errorf("%s is somebody", u)
	}
	if strings.Contains(log.String(), string(seed)) {
		t.Error("it is in a log")
	}
}

// TestNoSecretIsLogged: neither servers nor services write down what clients bring.
func TestNoSecretIsLogged(t *testing.T) {
	k := newKey(t)
	token := corp.token("carol", nil)
	comesIn(t, nats.UserInfo(k.id, k.secret))
	comesIn(t, nats.Token(token))
	staysOut(t, nats.UserInfo("HKBBBBBBBBBBBBBBBBBB", k.secret))
	staysOut(t, nats.Token(token+"A"))
	for what, secret := range map[string]string{"a secret": "hks_", "a token": token[len(token)-40:], "a claim": strings.Split(token, ".")[1]} {
		if strings.Contains(log.String(), secret) {
			t.Errorf("%s is in a log", what)
		}
	}
}

// TestOff: where it is turned off nobody comes in, nothing of it is in any account, and issuers
// have no key.
func TestOff(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), uptest.StartWait)
	defer cancel()
	const on = `
  - {to: key, account: ORDERS, role: service}
accounts:
  - {name: ORDERS, roles: [{name: service, callout: true, subscribe: {allow: ["orders.>"]}}]}
callout: true
`
	p, ports, err := uptest.Init(ctx, t.TempDir(), uptest.Options{Regions: []string{"ams"}, More: on})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := ports.Release(); err != nil {
			t.Error(err)
		}
	}()
	u, err := up.Start(ctx, up.Config{Dir: string(p.Dir)})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := u.Close(ctx); err != nil {
			t.Error(err)
		}
	}()
	sentinel, err := os.ReadFile(filepath.Join(p.Dir.Public(), platform.SentinelFile))
	if err != nil {
		t.Fatal(err)
	}
	conf := filepath.Join(p.Dir.Data(), "config", "ams", "ams-1", serverconf.FileName)
	if data, err := os.ReadFile(conf); err != nil || !strings.Contains(string(data), strings.TrimSpace(string(sentinel))) {
		t.Errorf("servers do not know the sentinel: %v", err)
	}
	data, err := os.ReadFile(p.Dir.File())
	if err != nil {
		t.Fatal(err)
	}
	data = []byte(strings.NewReplacer("callout: true\n", "", ", callout: true", "").Replace(string(data)))
	if err := os.WriteFile(p.Dir.File(), data, 0o600); err != nil {
		t.Fatal(err)
	}
	if p, err = platform.Open(string(p.Dir)); err != nil {
		t.Fatal(err)
	}
	tool := &apply.Tool{Platform: p, Log: slog.New(slog.DiscardHandler), Now: time.Now}
	if _, err := tool.Apply(ctx, nil); err != nil {
		t.Fatal(err)
	}
	for _, h := range p.Held() {
		_, c, err := p.Claims(h)
		if err != nil {
			t.Fatal(err)
		}
		if c.Authorization.IsEnabled() || h.Name == platform.Door && !h.Closed {
			t.Errorf("%s: %+v", h.Name, c.Authorization)
		}
		if slices.ContainsFunc(c.Exports, func(e *jwt.Export) bool { return e.Subject == "auth.v1.callout" }) {
			t.Errorf("%s exports it", h.Name)
		}
	}
	for _, name := range []string{platform.CalloutKeyFile, "roles/DOOR.sentinel.nk"} {
		if _, err := os.Stat(filepath.Join(p.Dir.Issuer(p.File.Home), name)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("issuers have %s: %v", name, err)
		}
	}
	home, _ := p.File.Region(p.File.Home)
	if nc, err := nats.Connect(strings.Join(p.File.ClientURLs(home), ","), nats.NoReconnect()); err == nil {
		nc.Close()
		t.Error("somebody is let in")
	}
}
