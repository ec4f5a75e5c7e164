package nscstore_test

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/herald-nats/herald/pkg/keystore"
	"github.com/herald-nats/herald/pkg/nscstore"
)

func TestWriteRefuses(t *testing.T) {
	m := newMaker(t)
	other := m.key(keystore.Account)
	for what, tt := range map[string]struct {
		change func(s *nscstore.Store, k map[string]*keystore.Key)
		err    error
	}{
		"no name":                  {func(s *nscstore.Store, _ map[string]*keystore.Key) { s.Name = "" }, nscstore.ErrInvalid},
		"a name that climbs":       {func(s *nscstore.Store, _ map[string]*keystore.Key) { s.Name = "../x" }, nscstore.ErrInvalid},
		"a name of a folder below": {func(s *nscstore.Store, _ map[string]*keystore.Key) { s.Name = "a/b" }, nscstore.ErrInvalid},
		"a name with a line end":   {func(s *nscstore.Store, _ map[string]*keystore.Key) { s.Name = "a\nb" }, nscstore.ErrInvalid},
		"no operator":              {func(s *nscstore.Store, _ map[string]*keystore.Key) { s.Operator = nscstore.Operator{} }, fs.ErrNotExist},
		"an empty account": {func(s *nscstore.Store, _ map[string]*keystore.Key) {
			s.Accounts = append(s.Accounts, nscstore.Account{})
		}, nscstore.ErrInvalid},
		"an account twice": {func(s *nscstore.Store, _ map[string]*keystore.Key) {
			s.Accounts = append(s.Accounts, s.Accounts[0])
		}, nscstore.ErrInvalid},
		"another's account": {func(s *nscstore.Store, k map[string]*keystore.Key) {
			a, err := nscstore.ParseAccount(m.sign(m.accountClaims("B", other), m.key(keystore.Operator)))
			if err != nil {
				t.Fatal(err)
			}
			s.Accounts = append(s.Accounts, a)
		}, nscstore.ErrChain},
		"another's user": {func(s *nscstore.Store, _ map[string]*keystore.Key) { s.Accounts[1].Users = s.Accounts[0].Users }, nscstore.ErrChain},
		"an empty user": {func(s *nscstore.Store, _ map[string]*keystore.Key) {
			s.Accounts[1].Users = []nscstore.User{{}}
		}, nscstore.ErrInvalid},
		"a user twice": {func(s *nscstore.Store, _ map[string]*keystore.Key) {
			s.Accounts[0].Users = append(s.Accounts[0].Users, s.Accounts[0].Users[0])
		}, nscstore.ErrInvalid},
		"another's seed": {func(s *nscstore.Store, k map[string]*keystore.Key) {
			s.Accounts[0].Users[0].Creds = k["A/u1"]
		}, nscstore.ErrInvalid},
		"a key under another name": {func(s *nscstore.Store, k map[string]*keystore.Key) {
			s.Keys[k["A"].Public()] = k["A/u1"]
		}, nscstore.ErrInvalid},
		"no key": {func(s *nscstore.Store, k map[string]*keystore.Key) { s.Keys[k["A"].Public()] = nil }, nscstore.ErrInvalid},
		"a stray that climbs": {func(s *nscstore.Store, _ map[string]*keystore.Key) {
			s.Strays[0].Account = ".."
		}, nscstore.ErrInvalid},
		"a stray over a user's creds": {func(s *nscstore.Store, _ map[string]*keystore.Key) {
			s.Strays[0].Name = "u1"
		}, nscstore.ErrInvalid},
		"a stray without a seed": {func(s *nscstore.Store, _ map[string]*keystore.Key) {
			s.Strays[0].User.Creds = nil
		}, nscstore.ErrInvalid},
	} {
		s, k := newMaker(t).all()
		tt.change(s, k)
		parent := t.TempDir()
		err := nscstore.Write(filepath.Join(parent, "nsc"), nscstore.Home, s)
		if all := (*nscstore.Problems)(nil); !errors.Is(err, tt.err) || !errors.As(err, &all) {
			t.Errorf("%s: %v", what, err)
		}
		if left := tree(t, parent); len(left) != 0 {
			t.Errorf("%s: something was written", what)
		}
	}
}

// TestWriteKeeps: what lies where the store should come stays as it is.
func TestWriteKeeps(t *testing.T) {
	s, _ := newMaker(t).all()
	parent := t.TempDir()
	full, file, link := filepath.Join(parent, "full"), filepath.Join(parent, "file"), filepath.Join(parent, "link")
	for _, err := range []error{
		os.MkdirAll(filepath.Join(full, "stores"), 0o700), os.WriteFile(file, []byte("x"), 0o600), os.Symlink(filepath.Join(parent, "none"), link),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	before := listing(t, parent)
	for _, dir := range []string{full, file, link, filepath.Join(parent, "none", "nsc")} {
		if err := nscstore.Write(dir, nscstore.Plain, s); err == nil {
			t.Errorf("%s was written", dir)
		} else if dir == full && !errors.Is(err, fs.ErrExist) {
			t.Errorf("a folder that is not empty: %v", err)
		}
	}
	if after := listing(t, parent); !slices.Equal(before, after) {
		t.Errorf("before %q, after %q", before, after)
	}
	// What comes there meanwhile stays, too.
	dir, first := filepath.Join(parent, "late"), true
	err := nscstore.WriteStep(dir, nscstore.Plain, s, func() {
		if first {
			first = false
			if err := os.MkdirAll(filepath.Join(dir, "mine"), 0o700); err != nil {
				t.Fatal(err)
			}
		}
	})
	if got := listing(t, dir); !errors.Is(err, fs.ErrExist) || !slices.Equal(got, []string{"mine"}) {
		t.Errorf("%v, with %q", err, got)
	}
	// An empty folder is as good as none.
	empty := filepath.Join(parent, "empty")
	if err := os.Mkdir(empty, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := nscstore.Write(empty, nscstore.Plain, s); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(empty); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("%v %v", info.Mode(), err)
	}
	if left := listing(t, parent); slices.ContainsFunc(left, func(name string) bool { return strings.HasSuffix(name, ".partial") }) {
		t.Errorf("left behind: %q", left)
	}
}

func listing(t testing.TB, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// envKill makes the test binary a Write that is killed before a step.
const envKill = "NSCSTORE_TEST_KILL"

// TestKilled kills a writing process before each change that it makes: there
// is nothing where the store should come, or all of it, and the next Write
// makes it and clears what was left.
func TestKilled(t *testing.T) {
	if spec := os.Getenv(envKill); spec != "" {
		at, dir, _ := strings.Cut(spec, " ")
		step, err := strconv.Atoi(at)
		if err != nil {
			t.Fatal(err)
		}
		s, _ := newMaker(t).all()
		if err := nscstore.WriteStep(dir, nscstore.Home, s, func() {
			if step--; step < 0 {
				if err := syscall.Kill(os.Getpid(), syscall.SIGKILL); err != nil {
					t.Fatal(err)
				}
				select {}
			}
		}); err != nil {
			t.Fatal(err)
		}
		return
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	s, _ := newMaker(t).all()
	// The process that is killed signs its own tokens, a second later perhaps.
	tokens := regexp.MustCompile(`eyJ[\w.-]+`)
	want := tokens.ReplaceAllString(text(t, s), "")
	steps := 0
	if err := nscstore.WriteStep(filepath.Join(t.TempDir(), "nsc"), nscstore.Home, s, func() { steps++ }); err != nil {
		t.Fatal(err)
	}
	part := 0
	for step := range steps + 1 {
		parent := t.TempDir()
		dir := filepath.Join(parent, "nsc")
		c := exec.Command(self, "-test.run", "^TestKilled$")
		c.Env = append(os.Environ(), envKill+"="+strconv.Itoa(step)+" "+dir)
		err := c.Run()
		if killed := err != nil && strings.Contains(err.Error(), "killed"); killed != (step < steps) {
			t.Fatalf("step %d of %d: %v", step, steps, err)
		}
		before := listing(t, parent)
		if slices.Contains(before, ".nsc.partial") {
			part++
		}
		if !slices.Contains(before, "nsc") {
			if err := nscstore.Write(dir, nscstore.Home, s); err != nil {
				t.Fatalf("after a kill at step %d: %v", step, err)
			}
		}
		got, err := nscstore.Read(nscstore.Home.In(dir), "Big Op")
		if err != nil {
			t.Fatalf("after a kill at step %d: %v", step, err)
		}
		if tokens.ReplaceAllString(text(t, got), "") != want {
			t.Errorf("after a kill at step %d it is another store", step)
		}
		if left := listing(t, parent); !slices.Equal(left, []string{"nsc"}) {
			t.Errorf("after a kill at step %d there is %q", step, left)
		}
	}
	if part < 20 {
		t.Errorf("of %d kills only %d left a part", steps, part)
	}
}

func TestBusy(t *testing.T) {
	s, _ := newMaker(t).all()
	parent := t.TempDir()
	dir := filepath.Join(parent, "nsc")
	var second error
	once := false
	if err := nscstore.WriteStep(dir, nscstore.Plain, s, func() {
		if _, err := os.Lstat(filepath.Join(parent, ".nsc.partial", "stores")); err == nil && !once {
			once = true
			second = nscstore.Write(dir, nscstore.Plain, s)
		}
	}); err != nil {
		t.Fatal(err)
	}
	if !errors.Is(second, nscstore.ErrBusy) {
		t.Errorf("the second: %v", second)
	}
	if _, err := nscstore.Read(nscstore.Plain.In(dir), s.Name); err != nil {
		t.Errorf("the first: %v", err)
	}
}

// TestForeignPart: seeds are not written into a folder that others can open.
func TestForeignPart(t *testing.T) {
	s, _ := newMaker(t).all()
	parent := t.TempDir()
	part := filepath.Join(parent, ".nsc.partial")
	for what, make := range map[string]func() error{
		"open":   func() error { return errors.Join(os.Mkdir(part, 0o700), os.Chmod(part, 0o777)) },
		"a link": func() error { return os.Symlink(t.TempDir(), part) },
		"a file": func() error { return os.WriteFile(part, nil, 0o600) },
	} {
		if err := make(); err != nil {
			t.Fatal(err)
		}
		if err := nscstore.Write(filepath.Join(parent, "nsc"), nscstore.Plain, s); err == nil {
			t.Errorf("%s: written", what)
		}
		if got := listing(t, parent); !slices.Equal(got, []string{".nsc.partial"}) {
			t.Errorf("%s: %q", what, got)
		}
		if err := os.RemoveAll(part); err != nil {
			t.Fatal(err)
		}
	}
}
