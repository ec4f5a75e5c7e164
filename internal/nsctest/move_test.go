//go:build nsc

package nsctest

import (
	"bytes"
	"context"
	"encoding/json"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/herald-nats/herald/internal/cli"
	"github.com/herald-nats/herald/internal/cli/nscsetup"
	"github.com/herald-nats/herald/pkg/nscstore"
	"github.com/herald-nats/herald/pkg/platform"
)

// setup runs nscsetup, and gives its exit code and what it said.
func setup(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	code = nscsetup.Run(context.Background(), cli.IO{In: strings.NewReader(""), Out: &out, Err: &errs}, args)
	return code, out.String(), errs.String()
}

// refusals are the items that an import names.
func refusals(t *testing.T, args ...string) []string {
	t.Helper()
	code, stdout, stderr := setup(t, append([]string{"--json", "nsc", "import"}, args...)...)
	if code != cli.Refused {
		t.Fatalf("exit code %d: %s", code, stderr)
	}
	var v struct {
		Refused []struct{ Item string }
	}
	if err := json.Unmarshal([]byte(stdout), &v); err != nil {
		t.Fatal(err)
	}
	var items []string
	for _, i := range v.Refused {
		parts := strings.Split(i.Item, "/")
		if last := parts[len(parts)-1]; len(last) == 56 {
			parts[len(parts)-1] = "KEY"
		}
		items = append(items, strings.Join(parts, "/"))
	}
	return slices.Compact(items)
}

// TestMove: an operator with all that nsc can give one becomes a platform, as far as it
// can, and what the platform becomes nsc works on.
func TestMove(t *testing.T) {
	n := newNSC(t)
	n.everything()
	home := filepath.Join(n.home, ".local/share/nats/nsc")
	dir := t.TempDir()
	plat := filepath.Join(dir, "plat")
	args := []string{home, "--into", plat, "--region", "ams", "--rename", "acc two=TWO"}
	got := refusals(t, args...)
	for _, want := range []string{
		"A", // it ends
		"A/roles/svc/publish/q.{{name()}}.>", "A/roles/svc/subscribe/_INBOX.>", "A/signing-keys/KEY", "A/users/u1", "A/exports/stream/priv.*.x",
		"SYS/signing-keys/KEY", "SYS/users/sys",
		"acc two/imports/A/stream/priv.*.x", "acc two/signing-keys/KEY", "acc two/users/bearer", "acc two/users/no seed",
		"callout", "callout/signing-keys/KEY", "callout/users/service",
	} {
		if i := slices.Index(got, want); i >= 0 {
			got = slices.Delete(got, i, i+1)
		} else {
			t.Errorf("%s is not refused: %q", want, got)
		}
	}
	if len(got) > 0 {
		t.Errorf("refused, too: %q", got)
	}
	n.run("edit", "account", "A", "--expiry", "0")
	before := tree(t, home)
	code, _, stderr := setup(t, append(append([]string{"nsc", "import"}, args...), "--leave-out", "all")...)
	if code != cli.OK {
		t.Fatalf("exit code %d: %s", code, stderr)
	}
	after := tree(t, home)
	for path := range before {
		if after[path] != before[path] {
			t.Errorf("%s was changed", path)
		}
	}
	if len(after) != len(before) {
		t.Errorf("%d files, were %d", len(after), len(before))
	}
	p, err := platform.Open(plat)
	if err != nil {
		t.Fatal(err)
	}
	h, ok := p.Account("A")
	if !ok || h.Key.String() != n.field("sub", "account", "A") {
		t.Errorf("account %+v", h)
	}
	if rev, err := p.Revocations("A"); err != nil || len(rev) == 0 {
		t.Errorf("revocations %v %v", rev, err)
	}

	// Out again: nsc reads it, finds nothing wrong with it, and works on it.
	out := filepath.Join(dir, "out")
	if code, _, stderr := setup(t, "--dir", plat, "nsc", "export", out); code != cli.OK {
		t.Fatalf("exit code %d: %s", code, stderr)
	}
	m := newNSC(t)
	d := nscstore.Plain.In(out)
	m.flags = []string{"--data-dir", d.Stores, "--keystore-dir", d.Keystore}
	m.run("env", "--operator", "Big Op")
	if m.field("sub", "operator") != n.field("sub", "operator") || m.field("sub", "account", "A") != n.field("sub", "account", "A") {
		t.Error("it is another operator")
	}
	if got := m.run("validate", "--all-accounts"); strings.Contains(strings.ToLower(got), "error") {
		t.Errorf("nsc finds: %s", got)
	}
	if a, b := m.run("generate", "creds", "--account", "A", "--name", "u scoped"), n.run("generate", "creds", "--account", "A", "--name", "u scoped"); a != b {
		t.Error("a user has other creds")
	}
	m.run("add", "user", "--account", "A", "--name", "new", "-K", "svc")
	m.run("add", "user", "--account", "SYS", "--name", "push", "-K", "setup")
	m.run("edit", "account", "TWO", "--tag", "moved")
	m.run("edit", "operator", "--tag", "moved")
	m.run("add", "account", "--name", "FRESH")
	m.run("validate", "--all-accounts")

	// What nsc changed moves in, less what Herald refuses.
	again := filepath.Join(dir, "again")
	if got := refusals(t, out, "--into", again, "--region", "ams"); !slices.Equal(got, []string{"SYS/users/push"}) {
		t.Errorf("refused: %q", got)
	}
	code, _, stderr = setup(t, "nsc", "import", out, "--into", again, "--region", "ams", "--leave-out", "SYS/users/push")
	if code != cli.OK {
		t.Fatalf("exit code %d: %s", code, stderr)
	}
	q, err := platform.Open(again)
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range p.Held() {
		if o, ok := q.Account(h.Name); !ok || o.Key != h.Key {
			t.Errorf("account %s has another key", h.Name)
		}
	}
	if _, ok := q.Account("FRESH"); !ok {
		t.Error("the account that nsc made is not there")
	}
	users, err := platform.StaticUsers{Platform: q}.All()
	if err != nil || len(users) != 2 {
		t.Errorf("users %+v %v", users, err)
	}
}
