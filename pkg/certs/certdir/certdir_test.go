package certdir

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/herald-nats/herald/pkg/certs"
	"github.com/herald-nats/herald/pkg/keystore"
)

func now() time.Time { return time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC) }

// failer is *testing.T or *rapid.T.
type failer interface {
	Helper()
	Fatal(args ...any)
	Fatalf(format string, args ...any)
}

// world is a platform folder as far as this package sees it.
type world struct {
	dir  string // the authorities'
	plan Plan
}

func newWorld(root string) world {
	at := func(parts ...string) string { return filepath.Join(append([]string{root}, parts...)...) }
	return world{at("operator", "tls"), Plan{
		Name: "demo",
		Bundles: []Bundle{
			{Path: at("public", "ca.pem"), Of: certs.ForServers, Public: true},
			{Path: at("services", "ca.pem"), Of: certs.ForServers},
			{Path: at("operator", "tls", "clients.pem"), Of: certs.ForClients},
		},
		Leaves: []Leaf{
			{"ams/ams-1/client", at("operator", "tls", "ams", "ams-1", "client"), certs.Request{Name: "ams-1 client", Purpose: certs.Server, Hosts: []string{"127.0.0.1", "a.example.org"}}},
			{"ams/ams-1/route", at("operator", "tls", "ams", "ams-1", "route"), certs.Request{Name: "ams-1 route", Purpose: certs.Peer, Hosts: []string{"127.0.0.1"}}},
			{"services/client", at("services", "client"), certs.Request{Name: "issuer-ams", Purpose: certs.Client}},
		},
	}}
}

func (w world) init(t failer) {
	t.Helper()
	if _, err := Init(w.dir, w.plan, Settings{}, now()); err != nil {
		t.Fatal(err)
	}
}

func (w world) open(t failer) *Folder {
	t.Helper()
	f, err := Open(w.dir)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func (w world) issue(t failer, want Want, at time.Time) Report {
	t.Helper()
	f := w.open(t)
	defer f.Close()
	r, err := f.Issue(w.plan, want, at)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func (w world) next(t failer) Report {
	t.Helper()
	f := w.open(t)
	defer f.Close()
	r, err := f.Next(w.plan, nil, now())
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func (w world) back(t failer) Report {
	t.Helper()
	f := w.open(t)
	defer f.Close()
	r, err := f.Back(w.plan, now())
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func (w world) look(t failer) Status {
	t.Helper()
	s, err := Look(w.dir, w.plan, now())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// leaf is the certificate in a file.
func leaf(t failer, l Leaf) certs.Certificate {
	t.Helper()
	crt, _, err := ReadPair(l.Path)
	if err != nil {
		t.Fatal(err)
	}
	all, err := certs.Parse(crt)
	if err != nil {
		t.Fatal(err)
	}
	return all[0]
}

// believed holds all certificates that are there against all bundles that are there: at
// no moment may somebody have to show one to somebody who does not believe it.
func (w world) believed(t failer) {
	t.Helper()
	for _, b := range w.plan.Bundles {
		data, err := os.ReadFile(b.Path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		trust, err := certs.ParseBundle(data)
		if err != nil {
			t.Fatalf("%s: %v", b.Path, err)
		}
		for _, l := range w.plan.Leaves {
			if l.Request.Purpose.Signers() != b.Of {
				continue
			}
			crt, err := os.ReadFile(l.crt())
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err != nil {
				t.Fatal(err)
			}
			all, err := certs.Parse(crt)
			if err != nil {
				t.Fatalf("%s: %v", l.crt(), err)
			}
			if err := trust.Verify(all[0], l.Request.Purpose, now(), l.Request.Hosts...); err != nil {
				t.Fatalf("%s to who reads %s: %v", l.Name, b.Path, err)
			}
		}
	}
}

// clean sees that nothing is left over, and that nobody else can read a key.
func (w world) clean(t failer) {
	t.Helper()
	err := filepath.WalkDir(filepath.Dir(filepath.Dir(w.dir)), func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		public := strings.Contains(path, string(filepath.Separator)+"public")
		switch mode := info.Mode().Perm(); {
		case strings.HasSuffix(path, unfinished), filepath.Base(path) == making:
			t.Fatalf("%s is left", path)
		case d.IsDir() && !public && mode&0o077 != 0 && strings.Contains(path, "operator"), !d.IsDir() && !public && mode != 0o600, !d.IsDir() && public && mode != 0o644:
			t.Fatalf("%s has mode %o", path, mode)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestLife(t *testing.T) {
	w := newWorld(t.TempDir())
	if _, err := Open(w.dir); !errors.Is(err, ErrNone) {
		t.Fatalf("before Init: %v", err)
	}
	if _, err := Look(w.dir, w.plan, now()); !errors.Is(err, ErrNone) {
		t.Fatalf("before Init: %v", err)
	}
	r, err := Init(w.dir, w.plan, Settings{}, now())
	if err != nil || len(r.Bundles) != 3 || len(r.Issued) != 0 || r.Resumed || r.Stage != Steady {
		t.Fatalf("%+v, %v", r, err)
	}
	before := tree(t, w)
	if _, err := Init(w.dir, w.plan, Settings{}, now()); !errors.Is(err, ErrExists) {
		t.Fatalf("a second Init: %v", err)
	}
	if !bytes.Equal(tree(t, w), before) {
		t.Error("a second Init changed something")
	}
	if s := w.look(t); len(s.Authorities) != 2 || len(s.Problems()) != 3 || s.Leaves[0].Why != Missing {
		t.Fatalf("%+v", s)
	}

	r = w.issue(t, Want{}, now())
	if len(r.Issued) != 3 || r.Kept != 0 || len(r.Bundles) != 0 || r.Issued[0].Why != Missing {
		t.Fatalf("%+v", r)
	}
	w.believed(t)
	w.clean(t)
	before = tree(t, w)
	if r = w.issue(t, Want{}, now()); len(r.Issued) != 0 || r.Kept != 3 {
		t.Fatalf("again: %+v", r)
	}
	if !bytes.Equal(tree(t, w), before) {
		t.Error("issuing again changed something")
	}
	if p := w.look(t).Problems(); len(p) != 0 {
		t.Errorf("%q", p)
	}

	serial := leaf(t, w.plan.Leaves[0]).Serial()
	only := func(l Leaf) bool { return l.Name == "ams/ams-1/client" }
	if r = w.issue(t, Want{Which: only, Force: true}, now()); len(r.Issued) != 1 || r.Issued[0].Why != Wished || r.Issued[0].Certificate.Serial() == serial {
		t.Errorf("%+v", r)
	}
	// 60 of 90 days later all of them are due, but not one before.
	if r = w.issue(t, Want{}, now().Add(59*24*time.Hour)); len(r.Issued) != 0 {
		t.Errorf("after 59 days: %+v", r)
	}
	if r = w.issue(t, Want{}, now().Add(61*24*time.Hour)); len(r.Issued) != 3 || r.Issued[0].Why != Due {
		t.Errorf("after 61 days: %+v", r)
	}
}

func TestReasons(t *testing.T) {
	w := newWorld(t.TempDir())
	w.init(t)
	w.issue(t, Want{}, now())
	l := &w.plan.Leaves[0]
	for _, c := range []struct {
		why    Reason
		change func()
	}{
		{Moved, func() { l.Request.Hosts = []string{"b.example.org"} }},
		{Misused, func() { l.Request.Purpose = certs.Peer }},
		{Renamed, func() { l.Request.Name = "ams-2 client" }},
		{Missing, func() { must(t, os.Remove(l.crt())); must(t, os.Remove(l.key())) }},
		{Damaged, func() { must(t, os.Remove(l.key())) }},
		{Damaged, func() { must(t, os.WriteFile(l.crt(), []byte("x"), 0o600)) }},
		{Damaged, func() {
			other, err := os.ReadFile(w.plan.Leaves[1].key())
			must(t, err)
			must(t, os.WriteFile(l.key(), other, 0o600))
		}},
	} {
		c.change()
		if s := w.look(t); s.Leaves[0].Why != c.why {
			t.Errorf("%s is seen as %q", c.why, s.Leaves[0].Why)
		}
		if _, _, err := ReadPair(l.Path); (c.why == Damaged || c.why == Missing) != (err != nil) {
			t.Errorf("%s, read: %v", c.why, err)
		}
		if r := w.issue(t, Want{}, now()); len(r.Issued) != 1 || r.Issued[0].Why != c.why {
			t.Errorf("%s: %+v", c.why, r)
		}
		w.believed(t)
	}
	// A key that others could have read is for people to look at.
	must(t, os.Chmod(l.key(), 0o644))
	if _, err := Look(w.dir, w.plan, now()); !errors.Is(err, keystore.ErrExposed) {
		t.Errorf("an exposed key: %v", err)
	}
	if _, _, err := ReadPair(l.Path); !errors.Is(err, keystore.ErrExposed) {
		t.Errorf("an exposed key: %v", err)
	}
}

func TestRotation(t *testing.T) {
	w := newWorld(t.TempDir())
	w.init(t)
	w.issue(t, Want{}, now())
	old := leaf(t, w.plan.Leaves[0])
	first := w.look(t).Authorities[0].Generation

	r := w.next(t)
	if r.Stage != Trusted || len(r.Issued) != 0 || len(r.Bundles) != 3 || r.Dropped != "" {
		t.Fatalf("%+v", r)
	}
	w.believed(t)
	if !leaf(t, w.plan.Leaves[0]).Equal(old) {
		t.Error("certificates changed before the new authority is trusted")
	}
	if s := w.look(t); len(s.Authorities) != 4 || len(s.Problems()) != 0 {
		t.Errorf("%+v", s)
	}
	if f := w.open(t); true {
		if _, err := f.Next(w.plan, &Settings{}, now()); !errors.Is(err, ErrStage) {
			t.Errorf("new settings on the way: %v", err)
		}
		f.Close()
	}
	// And back, and on again.
	if r = w.back(t); r.Stage != Steady || r.Dropped == "" || r.Dropped == first || len(r.Bundles) != 3 {
		t.Fatalf("%+v", r)
	}
	w.next(t)

	if r = w.next(t); r.Stage != Issued || len(r.Issued) != 3 || r.Issued[0].Why != Foreign || len(r.Bundles) != 0 {
		t.Fatalf("%+v", r)
	}
	w.believed(t)
	if r = w.back(t); r.Stage != Trusted || len(r.Issued) != 3 || len(r.Bundles) != 0 {
		t.Fatalf("%+v", r)
	}
	w.believed(t)
	w.next(t)

	// Somebody brings back a certificate of the old authority: what would not be believed
	// holds up the end.
	f := w.open(t)
	l := w.plan.Leaves[0]
	f.signing, *f.beside = *f.beside, f.signing
	must(t, f.issue(l, Wished, now(), &Report{}))
	f.Close()
	f = w.open(t)
	if _, err := f.Next(w.plan, nil, now()); !errors.Is(err, ErrStage) || !strings.Contains(err.Error(), l.Name) {
		t.Errorf("the old one dropped under %s: %v", l.Name, err)
	}
	f.Close()
	w.issue(t, Want{}, now())

	if r = w.next(t); r.Stage != Steady || r.Dropped != first || len(r.Bundles) != 3 || len(r.Issued) != 0 {
		t.Fatalf("%+v", r)
	}
	w.believed(t)
	w.clean(t)
	if s := w.look(t); len(s.Authorities) != 2 || len(s.Problems()) != 0 || s.Authorities[0].Generation == first {
		t.Errorf("%+v", s)
	}
	if _, err := os.Stat(filepath.Join(w.dir, authorities, first)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the old authorities: %v", err)
	}
	f = w.open(t)
	defer f.Close()
	if _, err := f.Back(w.plan, now()); !errors.Is(err, ErrStage) {
		t.Errorf("back from the end: %v", err)
	}
}

func TestSettings(t *testing.T) {
	w := newWorld(t.TempDir())
	for what, s := range map[string]Settings{
		"a leaf for minutes":        {Leaf: time.Minute},
		"a leaf for ever":           {Leaf: certs.AuthorityLife},
		"an authority for an age":   {Authority: 200 * 365 * 24 * time.Hour},
		"an authority for a moment": {Authority: time.Hour},
		"no host":                   {Permit: []string{"*"}},
	} {
		if _, err := Init(w.dir, w.plan, s, now()); err == nil {
			t.Fatalf("%s was taken", what)
		}
	}
	day := 24 * time.Hour
	set := Settings{Authority: 1000 * day, Leaf: 10 * day, Permit: []string{"example.org", "127.0.0.1", "example.org"}}
	if _, err := Init(w.dir, w.plan, set, now()); err != nil {
		t.Fatal(err)
	}
	r := w.issue(t, Want{}, now())
	if got := r.Issued[0].Certificate.NotAfter().Sub(now()); got != 10*day {
		t.Errorf("lives %v", got)
	}
	w.issue(t, Want{Force: true, Life: 20 * day}, now())
	if r = w.issue(t, Want{Force: true}, now()); r.Issued[0].Certificate.NotAfter().Sub(now()) != 20*day {
		t.Error("the new life was forgotten")
	}
	w.plan.Leaves[0].Request.Hosts = []string{"elsewhere.example.com"}
	f := w.open(t)
	defer f.Close()
	if _, err := f.Issue(w.plan, Want{}, now()); !errors.Is(err, certs.ErrHost) {
		t.Errorf("a host that is not permitted: %v", err)
	}
	// Which takes another authority.
	if r, err := f.Next(w.plan, &Settings{Permit: []string{"example.com", "127.0.0.1"}}, now()); err != nil || r.Stage != Trusted {
		t.Fatalf("%+v, %v", r, err)
	}
	if r, err := f.Next(w.plan, nil, now()); err != nil || len(r.Issued) != 3 {
		t.Fatalf("%+v, %v", r, err)
	}
}

func TestRefused(t *testing.T) {
	t.Run("somebody else's bundle", func(t *testing.T) {
		w := newWorld(t.TempDir())
		path := w.plan.Bundles[0].Path
		must(t, os.MkdirAll(filepath.Dir(path), 0o755))
		must(t, os.WriteFile(path, []byte("theirs"), 0o644))
		if _, err := Init(w.dir, w.plan, Settings{}, now()); !errors.Is(err, ErrExists) || !strings.Contains(err.Error(), path) {
			t.Errorf("%v", err)
		}
		if data, _ := os.ReadFile(path); string(data) != "theirs" {
			t.Error("overwritten")
		}
	})
	t.Run("busy", func(t *testing.T) {
		w := newWorld(t.TempDir())
		w.init(t)
		f := w.open(t)
		defer f.Close()
		if _, err := Open(w.dir); !errors.Is(err, ErrBusy) {
			t.Errorf("%v", err)
		}
		if _, err := Init(w.dir, w.plan, Settings{}, now()); !errors.Is(err, ErrBusy) {
			t.Errorf("%v", err)
		}
		w.look(t) // looking is always possible
	})
	t.Run("the state is lost", func(t *testing.T) {
		w := newWorld(t.TempDir())
		w.init(t)
		w.issue(t, Want{}, now())
		c := leaf(t, w.plan.Leaves[0])
		must(t, os.Remove(filepath.Join(w.dir, stateFile)))
		if _, err := Open(w.dir); !errors.Is(err, ErrNone) {
			t.Errorf("%v", err)
		}
		// There is one authority, so it is the one that everybody trusts.
		if _, err := Init(w.dir, w.plan, Settings{}, now()); err != nil {
			t.Fatal(err)
		}
		if r := w.issue(t, Want{}, now()); len(r.Issued) != 0 || !leaf(t, w.plan.Leaves[0]).Equal(c) {
			t.Errorf("%+v", r)
		}
		// Of two, nobody here can tell.
		w.next(t)
		must(t, os.Remove(filepath.Join(w.dir, stateFile)))
		before := tree(t, w)
		if _, err := Init(w.dir, w.plan, Settings{}, now()); !errors.Is(err, ErrBroken) {
			t.Errorf("%v", err)
		}
		if len(keys(t, w)) < 4 || len(before) == 0 {
			t.Error("a key is lost")
		}
	})
	t.Run("damaged", func(t *testing.T) {
		w := newWorld(t.TempDir())
		w.init(t)
		state, err := os.ReadFile(filepath.Join(w.dir, stateFile))
		must(t, err)
		for what, data := range map[string][]byte{
			"nothing": nil, "half": state[:len(state)/2], "two": append(bytes.Clone(state), state...),
			"another version":  bytes.Replace(state, []byte(`"version": 1`), []byte(`"version": 2`), 1),
			"another stage":    bytes.Replace(state, []byte("steady"), []byte("ready"), 1),
			"no such one":      bytes.Replace(state, []byte("-1\""), []byte("-2\""), 1),
			"a way out":        bytes.Replace(state, []byte(`"signing": "`), []byte(`"signing": "../`), 1),
			"an unknown field": bytes.Replace(state, []byte(`{`), []byte(`{"x":1,`), 1),
		} {
			must(t, os.WriteFile(filepath.Join(w.dir, stateFile), data, 0o600))
			if _, err := Open(w.dir); !errors.Is(err, ErrBroken) {
				t.Errorf("%s: %v", what, err)
			}
			if _, err := Init(w.dir, w.plan, Settings{}, now()); !errors.Is(err, ErrBroken) {
				t.Errorf("%s: %v", what, err)
			}
		}
	})
}

func FuzzState(f *testing.F) {
	w := newWorld(f.TempDir())
	w.init(f)
	data, err := os.ReadFile(filepath.Join(w.dir, stateFile))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Add([]byte(`{"version":1,"stage":"issued","signing":"2026-11-21-2","beside":"2026-11-21-1","doing":true,"settings":{"authority_seconds":1,"leaf_seconds":1}}`))
	f.Add([]byte(`{"version":1,"stage":"steady","signing":"2026-11-21-2","dropping":"../..","doing":true}`))
	f.Add([]byte("null"))
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := parseState(data)
		if err != nil {
			if !errors.Is(err, ErrBroken) {
				t.Fatal(err)
			}
			return
		}
		for _, id := range []string{s.Signing, s.Beside, s.Dropping} {
			if id != "" && (filepath.Base(id) != id || strings.HasPrefix(id, ".")) {
				t.Fatalf("%q as a folder", id)
			}
		}
		if s.Dropping != "" && (s.Dropping == s.Signing || s.Dropping == s.Beside) {
			t.Fatal("it drops what it has")
		}
	})
}

func must(t failer, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// tree is everything in the folder.
func tree(t failer, w world) []byte {
	t.Helper()
	var b bytes.Buffer
	must(t, filepath.WalkDir(filepath.Dir(filepath.Dir(w.dir)), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(path) // #nosec G122 -- the test's own folder
		b.WriteString(path)
		b.Write(data)
		return err
	}))
	return b.Bytes()
}

// keys are the authorities' keys, by their file.
func keys(t failer, w world) map[string]string {
	t.Helper()
	all := map[string]string{}
	paths, err := filepath.Glob(filepath.Join(w.dir, authorities, "*-*-*-*", "*.key"))
	must(t, err)
	for _, p := range paths {
		data, err := os.ReadFile(p)
		must(t, err)
		all[p] = string(data)
	}
	return all
}
