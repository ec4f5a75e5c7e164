package nscstore_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/herald-nats/herald/pkg/keystore"
	"github.com/herald-nats/herald/pkg/nscstore"
)

// TestLocate has each form in which nsc itself lays its folders, now or before.
func TestLocate(t *testing.T) {
	m := newMaker(t)
	s, k := m.all()
	base := t.TempDir()
	from := write(t, nscstore.Plain, s)
	lay := func(dir, stores, keys string) string {
		t.Helper()
		dir = filepath.Join(base, dir)
		for part, to := range map[string]string{"stores": stores, "keys": keys + "/keys", "creds": keys + "/creds"} {
			if to[0] == '/' {
				continue
			}
			if err := os.MkdirAll(filepath.Join(dir, to), 0o700); err != nil {
				t.Fatal(err)
			}
			for name, data := range tree(t, filepath.Join(from, part)) {
				path := filepath.Join(dir, to, name)
				if data == "/" {
					continue
				}
				if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte(data), 0o600)); err != nil {
					t.Fatal(err)
				}
			}
		}
		return dir
	}
	for _, tt := range []struct{ what, stores, keys, wantStores, wantKeys string }{
		{"the data folder", "stores", "keys", "stores", "keys"},
		{"side by side", "stores", ".", "stores", "."},
		{"all dirs", ".", ".", ".", "."},
		{"fixed", "operators", "keys", "operators", "keys"},
		{"home/.nsc", "nats", "../.nkeys", "nats", "../.nkeys"},
		{"no keys", "stores", "", "stores", ""},
	} {
		dir := lay(tt.what, tt.stores, tt.keys)
		got, err := nscstore.Locate(dir)
		want := nscstore.Dirs{Stores: filepath.Join(dir, tt.wantStores), Keystore: filepath.Join(dir, tt.wantKeys)}
		if tt.wantKeys == "" {
			want.Keystore = ""
		}
		if err != nil || got != want {
			t.Errorf("%s: %+v, %v; not %+v", tt.what, got, err, want)
			continue
		}
		names, err := nscstore.Operators(got)
		if err != nil || !slices.Equal(names, []string{"Big Op"}) {
			t.Errorf("%s: operators %q, %v", tt.what, names, err)
		}
		store, err := nscstore.Read(got, "Big Op")
		if err != nil {
			t.Errorf("%s: %v", tt.what, err)
			continue
		}
		if n := len(store.Keys); tt.wantKeys == "" && n != 0 || tt.wantKeys != "" && n != len(k) {
			t.Errorf("%s: %d keys", tt.what, n)
		}
	}
	// Links are followed at the two folders, and only there.
	dir := filepath.Join(base, "linked")
	if err := errors.Join(os.Mkdir(dir, 0o700), os.Symlink(filepath.Join(base, "the data folder", "stores"), filepath.Join(dir, "stores")),
		os.Symlink(filepath.Join(base, "the data folder", "keys"), filepath.Join(dir, "keys"))); err != nil {
		t.Fatal(err)
	}
	if d, err := nscstore.Locate(dir); err != nil {
		t.Error(err)
	} else if store, err := nscstore.Read(d, "Big Op"); err != nil || len(store.Keys) != len(k) {
		t.Errorf("linked: %v", err)
	}
	lay("two", "stores", "keys")
	lay("two", "operators", "")
	lay("two keystores", "stores", "keys")
	lay("two keystores", "/", ".")
	lay("old", "stores", "")
	if err := errors.Join(os.MkdirAll(filepath.Join(base, "old/keys/Big Op"), 0o700),
		keystore.Save(filepath.Join(base, "old/keys/Big Op/Big Op.nk"), k["operator"]), os.Mkdir(filepath.Join(base, "empty"), 0o700)); err != nil {
		t.Fatal(err)
	}
	for what, want := range map[string]error{"two": nscstore.ErrNoStore, "two keystores": nscstore.ErrNoStore, "empty": nscstore.ErrNoStore, "none": fs.ErrNotExist} {
		if d, err := nscstore.Locate(filepath.Join(base, what)); !errors.Is(err, want) {
			t.Errorf("%s: %+v, %v", what, d, err)
		}
	}
	d, err := nscstore.Locate(filepath.Join(base, "old"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := nscstore.Read(d, "Big Op"); !errors.Is(err, nscstore.ErrInvalid) {
		t.Errorf("an old keystore: %v", err)
	}
	for _, name := range []string{"none", "", "..", "Big Op/accounts", "."} {
		if s, err := nscstore.Read(nscstore.Plain.In(from), name); !errors.Is(err, nscstore.ErrNoStore) || s != nil {
			t.Errorf("operator %q: %v", name, err)
		}
	}
}

// TestOthers: a keystore and a folder of stores that several operators share.
func TestOthers(t *testing.T) {
	m := newMaker(t)
	s, k := m.all()
	dir := write(t, nscstore.Plain, s)
	m.op, m.sk = m.key(keystore.Operator), m.key(keystore.Operator)
	other := *s
	other.Name, other.Strays = "Other", nil
	m.oc.Subject, m.oc.SigningKeys = m.op.Public(), nil
	m.oc.SigningKeys.Add(m.sk.Public())
	other.Operator, other.Accounts = m.operator(), nil
	other.Keys = map[string]*keystore.Key{m.op.Public(): m.op}
	second := write(t, nscstore.Plain, &other)
	for _, part := range []string{"stores/Other", "keys/O/" + m.op.Public()[1:3]} {
		if err := os.Rename(filepath.Join(second, part), filepath.Join(dir, part)); err != nil {
			t.Fatal(err)
		}
	}
	names, err := nscstore.Operators(nscstore.Plain.In(dir))
	if err != nil || !slices.Equal(names, []string{"Big Op", "Other"}) {
		t.Errorf("%q, %v", names, err)
	}
	got, err := nscstore.Read(nscstore.Plain.In(dir), "Other")
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Strays) != 0 || len(got.Accounts) != 0 || len(got.Keys) != len(k)+1 {
		t.Errorf("the second operator has %d strays, %d accounts, %d keys", len(got.Strays), len(got.Accounts), len(got.Keys))
	}
	named := got.Named()
	if len(named) != 2 || named[m.op.Public()] != "operator" {
		t.Errorf("named: %v", named)
	}
	for what, want := range map[string]string{
		"operator": "operator", "signing": "signing key of the operator", "A": "account A", "A/plain": "signing key of account A",
		"A/role": "role svc of account A", "A/xkey": "callout key of account A", "A/u 2": "user u 2 of account A", "A/gone": "", "spare": "",
	} {
		if got := s.Named()[k[what].Public()]; got != want {
			t.Errorf("%s is named %q", what, got)
		}
	}
}
