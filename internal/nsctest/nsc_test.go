//go:build nsc

package nsctest

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"

	"github.com/herald-nats/herald/pkg/keystore"
	"github.com/herald-nats/herald/pkg/nscstore"
)

// nsc is the tool with a home of its own.
type nsc struct {
	t     *testing.T
	path  string
	home  string
	flags []string
}

func newNSC(t *testing.T) *nsc {
	t.Helper()
	path := os.Getenv("HERALD_NSC")
	if path == "" {
		t.Fatal("HERALD_NSC names no nsc")
	}
	return &nsc{t: t, path: path, home: t.TempDir()}
}

// try runs nsc and gives what it said.
func (n *nsc) try(args ...string) (string, error) {
	n.t.Helper()
	ctx, cancel := context.WithTimeout(n.t.Context(), time.Minute)
	defer cancel()
	c := exec.CommandContext(ctx, n.path, append(slices.Clone(n.flags), args...)...)
	c.Dir = n.home // it looks for stores in the folder it runs in
	c.Env = []string{"HOME=" + n.home, "PATH=" + os.Getenv("PATH")}
	out, err := c.CombinedOutput()
	return string(out), err
}

func (n *nsc) run(args ...string) string {
	n.t.Helper()
	out, err := n.try(args...)
	if err != nil {
		n.t.Fatalf("nsc %q: %v\n%s", args, err, out)
	}
	return out
}

// field is a member of a described JWT.
func (n *nsc) field(name string, args ...string) string {
	n.t.Helper()
	out := n.run(append(append([]string{"describe"}, args...), "--field", name)...)
	var s string
	if err := json.Unmarshal([]byte(strings.TrimSpace(out)), &s); err != nil {
		n.t.Fatalf("nsc describe %q: %v: %s", args, err, out)
	}
	return s
}

// newest gives the key that a command made: nsc does not always say which.
func (n *nsc) newest(keys string, run func()) string {
	n.t.Helper()
	before := tree(n.t, keys)
	run()
	for path := range tree(n.t, keys) {
		if _, ok := before[path]; !ok && filepath.Ext(path) == ".nk" {
			return strings.TrimSuffix(filepath.Base(path), ".nk")
		}
	}
	n.t.Fatal("nsc made no key")
	return ""
}

// everything makes an operator with all that nsc can give one.
func (n *nsc) everything() {
	run, keys := n.run, filepath.Join(n.home, ".local/share/nats/nsc/keys")
	run("add", "operator", "--name", "Big Op", "--generate-signing-key", "--sys")
	run("edit", "operator", "--account-jwt-server-url", "nats://127.0.0.1:4222", "--service-url", "nats://127.0.0.1:4222", "--tag", "env:prod,two", "--sk", "generate")
	run("edit", "operator", "--require-signing-keys")
	run("add", "account", "--name", "A")
	plain := n.newest(keys, func() { run("edit", "account", "A", "--sk", "generate") })
	run("edit", "account", "A", "--description", "the first", "--info-url", "https://example.com/a", "--tag", "t1,t2",
		"--conns", "100", "--leaf-conns", "3", "--imports", "10", "--exports", "20", "--data", "1GB", "--payload", "1MB", "--subscriptions", "1000",
		"--disallow-bearer", "--expiry", "10y", "--allow-pub", "def.>", "--deny-sub", "secret.>", "--allow-pub-response=2", "--response-ttl", "3s",
		"--trace-context-subject", "trace.x", "--trace-context-sampling", "10")
	run("edit", "signing-key", "--account", "A", "--role", "svc", "--sk", "generate", "--allow-pub", "q.{{name()}}.>", "--allow-sub", "_INBOX.>",
		"--allow-pub-response=5", "--response-ttl", "5s", "--subs", "50", "--data", "1000", "--payload", "2000", "--conn-type", "STANDARD,WEBSOCKET",
		"--source-network", "10.0.0.0/8", "--time", "01:00:00-02:00:00", "--locale", "UTC", "--description", "a role")
	run("add", "export", "--account", "A", "--subject", "pub.>", "--name", "stream")
	run("edit", "export", "--account", "A", "--subject", "pub.>", "--name", "stream", "--description", "d", "--info-url", "https://example.com")
	run("add", "export", "--account", "A", "--subject", "priv.*.x", "--name", "private", "--private")
	run("add", "export", "--account", "A", "--subject", "svc.pub", "--service", "--name", "service", "--response-type", "Stream",
		"--latency", "lat.x", "--sampling", "50", "--response-threshold", "2s", "--allow-trace")
	run("add", "export", "--account", "A", "--subject", "tok.*", "--account-token-position", "2", "--name", "token")
	run("add", "mapping", "--account", "A", "--from", "a.*", "--to", "b.$1", "--weight", "50")
	run("add", "mapping", "--account", "A", "--from", "a.*", "--to", "c.$1", "--weight", "30", "--cluster", "ams")

	run("add", "account", "--name", "acc two")
	run("edit", "account", "acc two", "--sk", "generate", "--js-tier", "1", "--js-disk-storage", "1G", "--js-mem-storage", "100M", "--js-streams", "5")
	run("edit", "account", "acc two", "--js-tier", "3", "--js-disk-storage", "3G", "--js-consumer", "7", "--js-max-bytes-required")
	a, two := n.field("sub", "account", "A"), n.field("sub", "account", "acc two")
	token := filepath.Join(n.home, "activation.jwt")
	run("generate", "activation", "--account", "A", "--subject", "priv.*.x", "--target-account", two, "--output-file", token)
	run("add", "import", "--account", "acc two", "--token", token, "--name", "private")
	run("add", "import", "--account", "acc two", "--src-account", a, "--remote-subject", "pub.>", "--local-subject", "from.a.>", "--name", "stream")
	run("add", "import", "--account", "acc two", "--src-account", a, "--remote-subject", "svc.pub", "--service", "--share", "--name", "service")
	run("revocations", "add-activation", "--account", "A", "--subject", "priv.*.x", "--target-account", two)

	run("add", "user", "--account", "A", "--name", "u1", "-K", plain, "--allow-pub", "x.>", "--deny-sub", "y.>", "--tag", "a:b", "--source-network", "10.0.0.0/8", "--expiry", "10y")
	run("add", "user", "--account", "A", "--name", "u scoped", "-K", "svc")
	run("add", "user", "--account", "acc two", "--name", "bearer", "--bearer")
	run("edit", "user", "--account", "acc two", "--name", "bearer", "--conn-type", "STANDARD", "--time", "00:00:01-02:00:00", "--payload", "100", "--subs", "4")
	foreign, err := keystore.Generate(keystore.User)
	if err != nil {
		n.t.Fatal(err)
	}
	run("add", "user", "--account", "acc two", "--name", "no seed", "--public-key", foreign.Public())
	run("add", "user", "--account", "acc two", "--name", "gone")
	run("delete", "user", "--account", "acc two", "--name", "gone") // its seed and its creds stay
	run("revocations", "add-user", "--account", "A", "--name", "u1")
	run("revocations", "add-user", "--account", "A", "--user-public-key", "*", "--at", "1577836800")
	run("add", "account", "--name", "callout")
	run("edit", "account", "callout", "--sk", "generate")
	run("add", "user", "--account", "callout", "--name", "service")
	run("edit", "authcallout", "--account", "callout", "--auth-user", n.field("sub", "user", "--account", "callout", "--name", "service"), "--allowed-account", "*", "--curve", "generate")
	run("validate", "--all-accounts")
}

func TestThereAndBack(t *testing.T) {
	n := newNSC(t)
	n.everything()
	home := filepath.Join(n.home, ".local/share/nats/nsc")
	dirs, err := nscstore.Locate(home)
	if err != nil || dirs != nscstore.Home.In(home) {
		t.Fatalf("located %+v, %v", dirs, err)
	}
	names, err := nscstore.Operators(dirs)
	if err != nil || !slices.Equal(names, []string{"Big Op"}) {
		t.Fatalf("operators %q, %v", names, err)
	}
	s, err := nscstore.Read(dirs, "Big Op")
	if err != nil {
		t.Fatal(err)
	}
	t.Run("what was read", func(t *testing.T) { complete(t, s) })

	to := filepath.Join(t.TempDir(), "nsc")
	if err := nscstore.Write(to, nscstore.Home, s); err != nil {
		t.Fatal(err)
	}
	want, got := tree(t, home), tree(t, to)
	for _, path := range slices.Sorted(maps.Keys(want)) {
		if data, ok := got[path]; !ok || data != want[path] {
			t.Errorf("%q is there: %v, the same: %v", path, ok, data == want[path])
		}
	}
	for _, path := range slices.Sorted(maps.Keys(got)) {
		if _, ok := want[path]; !ok {
			t.Errorf("%q is too much", path)
		}
	}

	for form, name := range map[nscstore.Form]string{nscstore.Plain: "plain", nscstore.Home: "home"} {
		t.Run("nsc works on "+name, func(t *testing.T) {
			n := newNSC(t)
			dir := filepath.Join(n.home, ".local/share/nats/nsc")
			if form == nscstore.Plain {
				dir = filepath.Join(t.TempDir(), "moved")
				d := form.In(dir)
				n.flags = []string{"--data-dir", d.Stores, "--keystore-dir", d.Keystore}
			}
			if err := os.MkdirAll(filepath.Dir(dir), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := nscstore.Write(dir, form, s); err != nil {
				t.Fatal(err)
			}
			n.works(form.In(dir), s)
		})
	}
}

// complete holds what was read against what nsc was told to make.
func complete(t *testing.T, s *nscstore.Store) {
	op := s.Operator.Claims()
	if len(op.SigningKeys) != 2 || !op.StrictSigningKeyUsage || op.SystemAccount == "" || len(op.Tags) != 2 || s.Managed {
		t.Errorf("operator %+v", op)
	}
	byName := make(map[string]nscstore.Account)
	lost := s.Operator.Lost()
	for _, a := range s.Accounts {
		byName[a.Name()] = a
		lost = append(lost, a.Lost()...)
		for _, u := range a.Users {
			lost = append(lost, u.Lost()...)
		}
	}
	if len(lost) != 0 {
		t.Errorf("this version does not know %q", lost)
	}
	if names := slices.Sorted(maps.Keys(byName)); !slices.Equal(names, []string{"A", "SYS", "acc two", "callout"}) {
		t.Fatalf("accounts %q", names)
	}
	a := byName["A"].Claims()
	if len(a.Exports) != 4 || len(a.Mappings) != 1 || len(a.SigningKeys) != 2 || len(a.Revocations) != 1 && len(a.Revocations) != 2 || a.Trace == nil {
		t.Errorf("account A %+v", a)
	}
	if two := byName["acc two"]; len(two.Claims().Imports) != 3 || len(two.Claims().Limits.JetStreamTieredLimits) != 2 {
		t.Errorf("account two %+v", two.Claims())
	}
	var users, creds int
	for _, a := range byName {
		for _, u := range a.Users {
			users++
			if u.Creds != nil {
				creds++
			}
		}
	}
	if users != 6 || creds != 5 {
		t.Errorf("%d users with %d creds", users, creds)
	}
	if len(s.Strays) != 1 || s.Strays[0].Name != "gone" || s.Strays[0].Account != "acc two" {
		t.Errorf("strays %v", s.Strays)
	}
	named, kinds := s.Named(), make(map[byte]int)
	var spare []string
	for pub := range s.Keys {
		kinds[pub[0]]++
		if named[pub] == "" {
			spare = append(spare, pub)
		}
	}
	if len(spare) != 1 || spare[0] != s.Strays[0].User.Key() {
		t.Errorf("keys that nothing names: %q", spare)
	}
	if kinds['O'] != 3 || kinds['X'] != 1 || kinds['U'] != 6 {
		t.Errorf("keys by kind: %v", kinds)
	}
	for pub, what := range named {
		if _, ok := s.Keys[pub]; !ok && what != "user no seed of account acc two" {
			t.Errorf("no seed of %s", what)
		}
	}
}

// works has nsc do on a store what its owner would.
func (n *nsc) works(dirs nscstore.Dirs, s *nscstore.Store) {
	t := n.t
	t.Helper()
	n.run("env", "--operator", "Big Op")
	if got := n.field("sub", "operator"); got != s.Operator.Key() {
		t.Errorf("nsc sees operator %s", got)
	}
	for _, a := range s.Accounts {
		if got := n.field("sub", "account", a.Name()); got != a.Key() {
			t.Errorf("nsc sees account %s as %s", a.Name(), got)
		}
		for _, u := range a.Users {
			if got := n.field("sub", "user", "--account", a.Name(), "--name", u.Name()); got != u.Key() {
				t.Errorf("nsc sees user %s as %s", u.Name(), got)
			}
			if u.Creds == nil {
				continue
			}
			seed, err := u.Creds.Seed()
			if err != nil {
				t.Fatal(err)
			}
			want, err := jwt.FormatUserConfig(u.Token(), seed)
			if err != nil {
				t.Fatal(err)
			}
			if got := n.run("generate", "creds", "--account", a.Name(), "--name", u.Name()); strings.TrimSpace(got) != strings.TrimSpace(string(want)) {
				t.Errorf("nsc makes other creds for %s", u.Name())
			}
		}
	}
	n.run("validate", "--all-accounts")
	// It signs with each kind of key.
	n.run("edit", "operator", "--tag", "moved")
	n.run("edit", "account", "A", "--tag", "moved")
	n.run("add", "user", "--account", "A", "--name", "new", "-K", "svc")
	n.run("edit", "user", "--account", "acc two", "--name", "bearer", "--tag", "moved")
	n.run("validate", "--all-accounts")
	after, err := nscstore.Read(dirs, "Big Op")
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(after.Operator.Claims().Tags, "moved") || len(after.Accounts) != len(s.Accounts) || len(after.Keys) != len(s.Keys)+1 {
		t.Errorf("after edits: %q, %d accounts, %d keys", after.Operator.Claims().Tags, len(after.Accounts), len(after.Keys))
	}
}

// tree is what lies below a folder: the bytes and modes of files, the modes of
// folders.
func tree(t *testing.T, dir string) map[string]string {
	t.Helper()
	out := make(map[string]string)
	root := os.DirFS(dir)
	if err := fs.WalkDir(root, ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == "." {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		out[path] = info.Mode().String()
		if d.IsDir() {
			return nil
		}
		data, err := fs.ReadFile(root, path)
		out[path] += " " + string(data)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return out
}

// TestForms has the other forms in which nsc lays its folders.
func TestForms(t *testing.T) {
	n := newNSC(t)
	all := filepath.Join(n.home, "all")
	n.flags = []string{"--all-dirs", all}
	n.run("add", "operator", "--name", "Op", "--sys")
	n.run("add", "account", "--name", "A")
	n.run("add", "user", "--account", "A", "--name", "u")
	same := func(dir string, want nscstore.Dirs) *nscstore.Store {
		t.Helper()
		got, err := nscstore.Locate(dir)
		if err != nil || got != want {
			t.Fatalf("located %+v, %v", got, err)
		}
		s, err := nscstore.Read(got, "Op")
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	s := same(all, nscstore.Dirs{Stores: all, Keystore: all})

	flat, fixed := filepath.Join(n.home, "flat"), filepath.Join(n.home, "fixed")
	n.run("export", "keys", "--all", "--include-jwts", "--dir", flat)
	n.run("fix", "--in", flat, "--out", fixed)
	f := same(fixed, nscstore.Dirs{Stores: filepath.Join(fixed, "operators"), Keystore: filepath.Join(fixed, "keys")})
	if len(f.Accounts) != len(s.Accounts) || len(f.Keys) != len(s.Named()) || f.Operator.Key() != s.Operator.Key() {
		t.Errorf("fixed: %d accounts, %d keys", len(f.Accounts), len(f.Keys))
	}
}

// TestManaged has an operator that is somebody else's: its accounts sign
// themselves until that one signs them.
func TestManaged(t *testing.T) {
	n := newNSC(t)
	n.flags = []string{"--all-dirs", filepath.Join(n.home, "owner")}
	n.run("add", "operator", "--name", "Op")
	dir := filepath.Join(n.home, "managed")
	token := filepath.Join(n.home, "owner", "Op", "Op.jwt")
	n.flags = []string{"--all-dirs", dir}
	n.run("add", "operator", "--url", token, "--name", "mine")
	d, err := nscstore.Locate(dir)
	if err != nil {
		t.Fatal(err)
	}
	s, err := nscstore.Read(d, "mine")
	if err != nil {
		t.Fatal(err)
	}
	if !s.Managed || s.Name != "mine" || s.Operator.Claims().Name != "Op" {
		t.Errorf("managed: %v, named %q and %q", s.Managed, s.Name, s.Operator.Claims().Name)
	}
	n.run("add", "account", "--name", "A")
	if d, err = nscstore.Locate(dir); err != nil {
		t.Fatal(err)
	}
	if _, err := nscstore.Read(d, "mine"); !errors.Is(err, nscstore.ErrChain) || !strings.Contains(err.Error(), "signed itself") {
		t.Errorf("with an account that signed itself: %v", err)
	}
}
