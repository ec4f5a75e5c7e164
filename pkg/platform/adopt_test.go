package platform_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nkeys"

	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/keystore"
	"github.com/herald-nats/herald/pkg/platform"
	"github.com/herald-nats/herald/pkg/platform/manifest"
)

// fixedKey is the same key in every process.
func fixedKey(t testing.TB, kind keystore.Kind, n byte) *keystore.Key {
	t.Helper()
	seed, err := nkeys.EncodeSeed(nkeys.PrefixByte(kind), bytes.Repeat([]byte{n}, 32))
	if err != nil {
		t.Fatal(err)
	}
	k, err := keystore.Parse(kind, seed)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// adoption is an operator with an account, a role, a user and a revocation.
func adoption(t testing.TB) platform.Adoption {
	t.Helper()
	label := func(s string) ident.Label { return parse(t, ident.ParseLabel, s) }
	op, signing, sys, app, role, user := fixedKey(t, keystore.Operator, 1), fixedKey(t, keystore.Operator, 2), fixedKey(t, keystore.Account, 3),
		fixedKey(t, keystore.Account, 4), fixedKey(t, keystore.Account, 5), fixedKey(t, keystore.User, 6)
	f := platform.NewFile(spec(t, 14000, "ams", "sfo"))
	ref := manifest.RoleRef{Account: label("APP"), Role: label("svc")}
	f.Accounts = append(f.Accounts, manifest.Account{Name: ref.Account, Roles: []manifest.Role{{
		Name: ref.Role, Publish: manifest.Permission{Allow: []string{"app.>"}}, Subscribe: manifest.Permission{Allow: []string{"app.>"}},
	}}})
	c := jwt.NewOperatorClaims(op.Public())
	c.Name = "Big Op"
	c.Tags.Add("env:prod")
	c.OperatorServiceURLs.Add("nats://127.0.0.1:4222")
	c.SigningKeys.Add(signing.Public(), fixedKey(t, keystore.Operator, 7).Public())
	u := jwt.NewUserClaims(user.Public())
	u.Name, u.IssuerAccount = "U One", app.Public()
	u.Tags.Add("team:red", "loose")
	u.SetScoped(true)
	token, err := u.Encode(role.Pair())
	if err != nil {
		t.Fatal(err)
	}
	return platform.Adoption{
		File: f, Operator: c, Key: op, Signing: []*keystore.Key{signing},
		Accounts:    map[ident.Label]*keystore.Key{label("SYS"): sys, label("APP"): app},
		Roles:       map[manifest.RoleRef]*keystore.Key{ref: role},
		Revocations: map[ident.Label]jwt.RevocationList{label("APP"): {user.Public(): 17, jwt.All: 5}},
		Users:       []platform.AdoptedUser{{Role: ref, Name: parse(t, ident.ParseName, "u-one"), Token: token, Key: user}},
	}
}

// adopted holds a platform against what it was made of.
func adopted(t *testing.T, dir string) {
	t.Helper()
	a := adoption(t)
	p, err := platform.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	c, err := jwt.DecodeOperatorClaims(p.Operator.Token())
	if err != nil {
		t.Fatal(err)
	}
	// nscsetup's, three in reserve, two regions' and the two that were there.
	if c.Subject != a.Key.Public() || c.Issuer != c.Subject || c.Name != "Big Op" || !c.Tags.Contains("env:prod") || len(c.OperatorServiceURLs) != 1 ||
		!c.StrictSigningKeyUsage || len(c.SigningKeys) != 1+platform.Spares+2+2 || c.SystemAccount != fixedKey(t, keystore.Account, 3).Public() {
		t.Errorf("operator %+v", c)
	}
	for _, k := range a.Operator.SigningKeys {
		if !c.SigningKeys.Contains(k) {
			t.Errorf("the signing key %s is gone", k)
		}
	}
	for _, part := range []string{"operator", "public", "issuers/ams", "registrars/sfo"} {
		if data, err := os.ReadFile(filepath.Join(dir, part, platform.OperatorFile)); err != nil || strings.TrimSpace(string(data)) != p.Operator.Token() {
			t.Errorf("%s has another operator: %v", part, err)
		}
	}
	h, ok := p.Account("APP")
	if !ok || h.Key.String() != fixedKey(t, keystore.Account, 4).Public() || h.Roles["svc"].String() != fixedKey(t, keystore.Account, 5).Public() || h.Version != 1 {
		t.Errorf("account %+v", h)
	}
	rev, err := p.Revocations("APP")
	if err != nil || !maps.Equal(rev, a.Revocations[parse(t, ident.ParseLabel, "APP")]) {
		t.Errorf("revocations %v %v", rev, err)
	}
	if rev, err := p.Revocations("CHAT"); err != nil || len(rev) != 0 {
		t.Errorf("revocations of CHAT: %v %v", rev, err)
	}
	seeds, err := p.Seeds()
	if err != nil {
		t.Fatal(err)
	}
	have := map[string]bool{}
	for _, k := range seeds {
		have[k.Public()] = true
	}
	for _, k := range []*keystore.Key{a.Key, a.Signing[0], fixedKey(t, keystore.Account, 3), fixedKey(t, keystore.Account, 4), fixedKey(t, keystore.Account, 5)} {
		if !have[k.Public()] {
			t.Errorf("the seed of %s is gone", k.Public())
		}
	}
	users, err := platform.StaticUsers{Platform: p, Now: now}.All()
	if err != nil || len(users) != 1 {
		t.Fatalf("users %+v %v", users, err)
	}
	u := users[0]
	if u.Name.String() != "u-one" || !slices.Equal(u.Tags, []string{"team:red", "loose"}) || u.Unfinished != "" || len(u.Issued) != 1 || u.Last().Expires < 1<<37 {
		t.Errorf("user %+v", u)
	}
	token, key, err := p.Credential(u)
	if err != nil || key.Public() != u.Key.String() || token == "" {
		t.Errorf("its credential: %v", err)
	}
	if err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		info, ierr := d.Info()
		if err == nil && ierr == nil && !strings.HasPrefix(path, filepath.Join(dir, "public")) && info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %v", path, info.Mode())
		}
		return errors.Join(err, ierr)
	}); err != nil {
		t.Fatal(err)
	}
	if left, _ := filepath.Glob(filepath.Join(filepath.Dir(dir), ".*")); len(left) > 0 {
		t.Errorf("left beside it: %q", left)
	}
}

func TestAdopt(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "moved")
	var steps []string
	if _, err := platform.Adopt(t.Context(), dir, adoption(t), now(), func(what string) { steps = append(steps, what) }); err != nil {
		t.Fatal(err)
	}
	if n := adoption(t).Steps(); n != len(steps) {
		t.Errorf("%d steps, and not %d: %q", len(steps), n, steps)
	}
	adopted(t, dir)
	// Once it is there, it is not made again.
	before := content(t, dir)
	if _, err := platform.Adopt(t.Context(), dir, adoption(t), now(), nil); !errors.Is(err, platform.ErrExists) {
		t.Errorf("a second time: %v", err)
	}
	if after := content(t, dir); !maps.Equal(before, after) {
		t.Error("it changed")
	}
	// An empty folder is taken.
	empty := filepath.Join(t.TempDir(), "empty")
	if err := os.Mkdir(empty, 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := platform.Adopt(t.Context(), empty, adoption(t), now(), nil); err != nil {
		t.Fatal(err)
	}
	adopted(t, empty)
}

// content is every file below a folder.
func content(t *testing.T, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	root := os.DirFS(dir)
	if err := fs.WalkDir(root, ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := fs.ReadFile(root, path)
		out[path] = string(data)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return out
}

// What goes wrong leaves nothing.
func TestAdoptLeavesNothing(t *testing.T) {
	for name, edit := range map[string]func(*platform.Adoption, context.CancelFunc){
		"a file with mistakes":      func(a *platform.Adoption, _ context.CancelFunc) { a.File.Regions = nil },
		"another operator's seed":   func(a *platform.Adoption, _ context.CancelFunc) { a.Key = fixedKey(t, keystore.Operator, 9) },
		"another user's seed":       func(a *platform.Adoption, _ context.CancelFunc) { a.Users[0].Key = fixedKey(t, keystore.User, 9) },
		"two users of one name":     func(a *platform.Adoption, _ context.CancelFunc) { a.Users = append(a.Users, a.Users[0]) },
		"a user that is none":       func(a *platform.Adoption, _ context.CancelFunc) { a.Users[0].Token = "x" },
		"interrupted before it was": func(_ *platform.Adoption, stop context.CancelFunc) { stop() },
	} {
		t.Run(name, func(t *testing.T) {
			ctx, stop := context.WithCancel(t.Context())
			defer stop()
			parent := t.TempDir()
			a := adoption(t)
			edit(&a, stop)
			if _, err := platform.Adopt(ctx, filepath.Join(parent, "moved"), a, now(), nil); err == nil {
				t.Error("no error")
			}
			if left, err := os.ReadDir(parent); err != nil || len(left) > 0 {
				t.Errorf("left behind: %v %v", left, err)
			}
		})
	}
}

// Of two at once one makes it, and the other is refused.
func TestAdoptTwice(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "moved")
	entered, leave := make(chan struct{}), make(chan struct{})
	done := make(chan error, 1)
	go func() {
		first := true
		_, err := platform.Adopt(context.Background(), dir, adoption(t), now(), func(what string) {
			if first && strings.HasPrefix(what, "keep keys") {
				first = false
				close(entered)
				<-leave
			}
		})
		done <- err
	}()
	<-entered
	if _, err := platform.Adopt(t.Context(), dir, adoption(t), now(), nil); !errors.Is(err, platform.ErrExists) {
		t.Errorf("two at once: %v", err)
	}
	close(leave)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	adopted(t, dir)
}

// A folder that others can open is not written to, whoever made it.
func TestAdoptBesideOthers(t *testing.T) {
	parent := t.TempDir()
	if err := os.Mkdir(filepath.Join(parent, ".moved.adopting"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Join(parent, ".moved.adopting"), 0o777); err != nil {
		t.Fatal(err)
	}
	if _, err := platform.Adopt(t.Context(), filepath.Join(parent, "moved"), adoption(t), now(), nil); !errors.Is(err, fs.ErrPermission) {
		t.Errorf("%v", err)
	}
}

const (
	adoptDir  = "HERALD_TEST_ADOPT"
	adoptStep = "HERALD_TEST_ADOPT_STEP"
)

// TestAdoptKilled kills a run at each of its steps. There is no platform then, or all of it;
// the next run makes it where it is not, and in both cases it is whole.
func TestAdoptKilled(t *testing.T) {
	if dir := os.Getenv(adoptDir); dir != "" {
		victim(t, dir)
		return
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	for step := 1; ; step++ {
		dir := filepath.Join(t.TempDir(), "moved")
		c := exec.CommandContext(ctx, self, "-test.run", "^TestAdoptKilled$", "-test.v")
		c.Env = append(os.Environ(), adoptDir+"="+dir, adoptStep+"="+strconv.Itoa(step))
		out, err := c.CombinedOutput()
		status, _ := c.ProcessState.Sys().(syscall.WaitStatus)
		killed := status.Signaled() && status.Signal() == syscall.SIGKILL
		if !killed && err != nil {
			t.Fatalf("step %d: %v\n%s", step, err, out)
		}
		_, perr := platform.Open(dir)
		switch _, err := os.Stat(dir); {
		case err == nil && perr != nil:
			t.Errorf("killed at step %d: half a platform: %v", step, perr)
		case err == nil:
			// All of it is there: the next run is refused, and tidies up.
			if _, err := platform.Adopt(ctx, dir, adoption(t), now(), nil); !errors.Is(err, platform.ErrExists) {
				t.Errorf("killed at step %d, and made again: %v", step, err)
			}
		default:
			if _, err := platform.Adopt(ctx, dir, adoption(t), now(), nil); err != nil {
				t.Fatalf("killed at step %d, the next run: %v", step, err)
			}
		}
		adopted(t, dir)
		if t.Failed() {
			t.Fatalf("step %d:\n%s", step, out)
		}
		if !killed {
			if step < 9 {
				t.Errorf("%d steps only:\n%s", step-1, out)
			}
			return
		}
	}
}

// victim adopts, and is killed at a step.
func victim(t *testing.T, dir string) {
	at, _ := strconv.Atoi(os.Getenv(adoptStep))
	n := 0
	if _, err := platform.Adopt(t.Context(), dir, adoption(t), now(), func(what string) {
		if n++; n == at {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		}
		fmt.Println(what)
	}); err != nil {
		t.Fatal(err)
	}
}

func TestWithRevocations(t *testing.T) {
	c := jwt.NewAccountClaims(fixedKey(t, keystore.Account, 4).Public())
	if out := platform.WithRevocations(c, nil, nil); out.Revocations != nil || out == c {
		t.Errorf("of nothing: %v", out.Revocations)
	}
	c.Revocations = jwt.RevocationList{"a": 5, "b": 5}
	out := platform.WithRevocations(c, jwt.RevocationList{"a": 4, "b": 6, "c": 1}, jwt.RevocationList{"c": 2})
	if !maps.Equal(out.Revocations, jwt.RevocationList{"a": 5, "b": 6, "c": 2}) {
		t.Errorf("joined: %v", out.Revocations)
	}
	if len(c.Revocations) != 2 || c.Revocations["b"] != 5 {
		t.Errorf("the claims were changed: %v", c.Revocations)
	}
}
