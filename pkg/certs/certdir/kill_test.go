package certdir

import (
	"bytes"
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

	"pgregory.net/rapid"
)

// What is killed, and how far it is to come: the same test binary runs it.
const (
	envKill   = "CERTDIR_KILL_BEFORE_CHANGE"
	envChange = "CERTDIR_CHANGE"
	envRoot   = "CERTDIR_ROOT"
)

func TestMain(m *testing.M) {
	if os.Getenv(envRoot) == "" {
		os.Exit(m.Run())
	}
	n, err := strconv.Atoi(os.Getenv(envKill))
	if err == nil {
		_, err = change(os.Getenv(envChange), newWorld(os.Getenv(envRoot)), disk{unsynced: true, before: func(string) {
			if n--; n < 0 {
				_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
				select {}
			}
		}})
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// changes are the changes that there are, each with how a folder comes to where it is
// possible and with where it ends.
func changes() map[string]struct {
	before []string
	ends   Stage
} {
	return map[string]struct {
		before []string
		ends   Stage
	}{
		"init":       {nil, Steady},
		"issue":      {[]string{"init"}, Steady},
		"reissue":    {[]string{"init", "issue"}, Steady},
		"trust":      {[]string{"init", "issue"}, Trusted},
		"trust back": {[]string{"init", "issue", "trust"}, Steady},
		"sign":       {[]string{"init", "issue", "trust"}, Issued},
		"sign back":  {[]string{"init", "issue", "trust", "sign"}, Trusted},
		"drop":       {[]string{"init", "issue", "trust", "sign"}, Steady},
	}
}

// change makes one change.
func change(what string, w world, d disk) (Report, error) {
	if what == "init" {
		return initWith(w.dir, d, w.plan, Settings{}, now())
	}
	f, err := openWith(w.dir, d)
	if err != nil {
		return Report{}, err
	}
	defer f.Close()
	switch what {
	case "issue":
		return f.Issue(w.plan, Want{}, now())
	case "reissue":
		return f.Issue(w.plan, Want{Force: true}, now())
	case "trust back", "sign back":
		return f.Back(w.plan, now())
	default:
		return f.Next(w.plan, nil, now())
	}
}

// repeat is what a person does whose command was killed: the same again, until it has
// been done. A change of the stage that was finished meanwhile is not begun again.
func repeat(t failer, what string, w world, ends Stage) {
	t.Helper()
	for range 3 {
		if f, err := Open(w.dir); err == nil {
			done := f.Stage() == ends && !f.Unfinished() && !slices.Contains([]string{"issue", "reissue"}, what)
			f.Close()
			if done {
				return
			}
		}
		_, err := change(what, w, disk{unsynced: true})
		if err == nil {
			if slices.Contains([]string{"issue", "reissue"}, what) {
				return
			}
			continue
		}
		if !errors.Is(err, ErrExists) {
			t.Fatalf("%s again: %v", what, err)
		}
	}
	t.Fatalf("%s did not come to its end", what)
}

// held is what must not be lost by a change: all keys, but for the generation that it may
// drop.
type held struct {
	keys map[string]string
	drop []string
}

func holds(t failer, w world) held {
	t.Helper()
	h := held{keys: keys(t, w)}
	if data, err := os.ReadFile(filepath.Join(w.dir, stateFile)); err == nil {
		s, err := parseState(data)
		must(t, err)
		h.drop = []string{s.Beside, s.Dropping}
	}
	return h
}

// killed holds what a killed change has left against what must always be.
func killed(t failer, w world, before held) {
	t.Helper()
	after := keys(t, w)
	var s state
	data, err := os.ReadFile(filepath.Join(w.dir, stateFile))
	if err == nil {
		s, err = parseState(data)
		must(t, err)
		f, err := Open(w.dir) // signing and beside are whole
		must(t, err)
		f.Close()
	} else if len(before.keys) > 0 {
		t.Fatalf("the state is gone: %v", err)
	}
	for path, key := range before.keys {
		// A dropped one may go once the state says that nobody is to trust it.
		if id := filepath.Base(filepath.Dir(path)); after[path] != key && (s.Stage != Steady || s.Signing == id || !slices.Contains(before.drop, id)) {
			t.Fatalf("%s is lost", path)
		}
	}
	w.believed(t)
}

// done holds the folder against what must be when nothing is left to be done.
func done(t failer, w world, ends Stage) {
	t.Helper()
	s := w.look(t)
	if s.Stage != ends || s.Unfinished {
		t.Fatalf("%s, unfinished: %v", s.Stage, s.Unfinished)
	}
	for _, p := range s.Problems() {
		if !strings.HasSuffix(p, ": missing") || ends != Steady {
			t.Fatal(p)
		}
	}
	w.believed(t)
	w.clean(t)
	for _, l := range w.plan.Leaves {
		if there(l.crt()) || there(l.key()) {
			if _, _, err := ReadPair(l.Path); err != nil {
				t.Fatal(err)
			}
		}
	}
}

type stop struct{}

// TestKilledAnywhere ends each change before each of the changes of the disk that it
// makes, as if the machine had stopped, and then does what a person would do.
func TestKilledAnywhere(t *testing.T) {
	for _, what := range slices.Sorted(maps.Keys(changes())) {
		c := changes()[what]
		t.Run(what, func(t *testing.T) {
			steps := 0
			base := at(t, c.before)
			for k := 0; ; k++ {
				w := newWorld(copied(t, base))
				before := holds(t, w)
				if !dies(t, what, w, k) {
					steps = k
					done(t, w, c.ends)
					break
				}
				killed(t, w, before)
				repeat(t, what, w, c.ends)
				done(t, w, c.ends)
			}
			if steps < 10 {
				t.Errorf("it made %d changes of the disk: nothing was shown", steps)
			}
			t.Logf("%d places", steps)
		})
	}
}

// at is a folder in which changes were made.
func at(t *testing.T, changes []string) string {
	t.Helper()
	root := t.TempDir()
	for _, what := range changes {
		_, err := change(what, newWorld(root), disk{unsynced: true})
		must(t, err)
	}
	return root
}

// copied is a copy of a folder, with its modes.
func copied(t *testing.T, from string) string {
	t.Helper()
	to := t.TempDir()
	must(t, filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == from {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		into := filepath.Join(to, path[len(from):])
		if d.IsDir() {
			return os.Mkdir(into, info.Mode().Perm())
		}
		data, err := os.ReadFile(path) // #nosec G122 -- the test's own folder
		if err != nil {
			return err
		}
		return os.WriteFile(into, data, info.Mode().Perm())
	}))
	return to
}

// dies runs a change up to its nth change of the disk; false if it has fewer.
func dies(t failer, what string, w world, n int) (died bool) {
	t.Helper()
	defer func() {
		if r := recover(); r != nil {
			if _, ok := r.(stop); !ok {
				panic(r)
			}
			died = true
		}
	}()
	_, err := change(what, w, disk{unsynced: true, before: func(string) {
		if n--; n < 0 {
			panic(stop{})
		}
	}})
	must(t, err)
	return false
}

// TestKilledProcess does the same with a process and SIGKILL: nothing of it runs on, not
// even a deferred call. Every seventh place, and all of them in long runs.
func TestKilledProcess(t *testing.T) {
	stride := 7
	if os.Getenv("HERALD_LONG") != "" {
		stride = 1
	}
	for _, what := range slices.Sorted(maps.Keys(changes())) {
		c := changes()[what]
		t.Run(what, func(t *testing.T) {
			base := at(t, c.before)
			for k := len(what) % stride; ; k += stride {
				root := copied(t, base)
				w := newWorld(root)
				before := holds(t, w)
				cmd := exec.CommandContext(t.Context(), os.Args[0])
				cmd.Env = append(os.Environ(), envRoot+"="+root, envChange+"="+what, envKill+"="+strconv.Itoa(k))
				out, err := cmd.CombinedOutput()
				if err == nil {
					break // it had nothing left to do
				}
				if st, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); !ok || st.Signal() != syscall.SIGKILL {
					t.Fatalf("%v: %s", err, out)
				}
				killed(t, w, before)
				repeat(t, what, w, c.ends)
				done(t, w, c.ends)
			}
		})
	}
}

// TestAnySequence: whatever is done in whatever order, and killed wherever: what is shown
// is believed, nothing is lost, and there is always a way on.
func TestAnySequence(t *testing.T) {
	root := t.TempDir()
	runs := 0
	rapid.Check(t, func(t *rapid.T) {
		runs++
		w := newWorld(filepath.Join(root, strconv.Itoa(runs)))
		must(t, os.MkdirAll(filepath.Join(root, strconv.Itoa(runs)), 0o700))
		w.init(t)
		for range rapid.IntRange(1, 8).Draw(t, "changes") {
			what := rapid.SampledFrom([]string{"issue", "reissue", "trust", "trust back"}).Draw(t, "change") // the last two are forward and back
			at := rapid.IntRange(0, 60).Draw(t, "killed before")
			before := holds(t, w)
			func() {
				defer func() {
					if r := recover(); r != nil {
						if _, ok := r.(stop); !ok {
							panic(r)
						}
					}
				}()
				_, err := change(what, w, disk{unsynced: true, before: func(string) {
					if at--; at < 0 {
						panic(stop{})
					}
				}})
				if err != nil && !errors.Is(err, ErrStage) {
					t.Fatal(err)
				}
			}()
			killed(t, w, before)
		}
		w.issue(t, Want{}, now())
		if p := w.look(t); len(p.Problems()) != 0 || p.Unfinished {
			t.Fatalf("%q", p.Problems())
		}
		w.believed(t)
		w.clean(t)
	})
}

// TestSettle: of a pair that is half replaced, each half can be the new one.
func TestSettle(t *testing.T) {
	w := newWorld(t.TempDir())
	w.init(t)
	w.issue(t, Want{}, now())
	l := w.plan.Leaves[0]
	oldCrt, oldKey, err := ReadPair(l.Path)
	must(t, err)
	w.issue(t, Want{Force: true}, now())
	newCrt, newKey, err := ReadPair(l.Path)
	must(t, err)
	type files map[string][]byte
	for what, c := range map[string]struct{ before, after files }{
		"nothing has its name":     {files{".crt": oldCrt, ".key": oldKey, ".crt" + unfinished: newCrt, ".key" + unfinished: newKey}, files{".crt": oldCrt, ".key": oldKey}},
		"the certificate has":      {files{".crt": newCrt, ".key": oldKey, ".key" + unfinished: newKey}, files{".crt": newCrt, ".key": newKey}},
		"the key has":              {files{".crt": oldCrt, ".key": newKey, ".crt" + unfinished: newCrt}, files{".crt": newCrt, ".key": newKey}},
		"both have":                {files{".crt": newCrt, ".key": newKey}, files{".crt": newCrt, ".key": newKey}},
		"the first one, half":      {files{".crt": newCrt, ".key" + unfinished: newKey}, files{".crt": newCrt, ".key": newKey}},
		"the first one, not begun": {files{".crt" + unfinished: newCrt, ".key" + unfinished: newKey}, files{}},
		"half a file":              {files{".crt": oldCrt, ".key": oldKey, ".key" + unfinished: newKey[:20]}, files{".crt": oldCrt, ".key": oldKey}},
	} {
		for _, ext := range []string{".crt", ".key", ".crt" + unfinished, ".key" + unfinished} {
			_ = os.Remove(l.Path + ext)
			if data := c.before[ext]; data != nil {
				must(t, os.WriteFile(l.Path+ext, data, 0o600))
			}
		}
		f := w.open(t)
		must(t, f.settle(l))
		f.Close()
		for _, ext := range []string{".crt", ".key", ".crt" + unfinished, ".key" + unfinished} {
			got, err := os.ReadFile(l.Path + ext)
			if want := c.after[ext]; (want == nil) != (err != nil) || !bytes.Equal(got, want) {
				t.Errorf("%s: %s: %v", what, ext, err)
			}
		}
	}
}
