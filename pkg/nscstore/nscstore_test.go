package nscstore_test

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"unicode"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nkeys"
	"pgregory.net/rapid"

	"github.com/herald-nats/herald/pkg/keystore"
	"github.com/herald-nats/herald/pkg/nscstore"
)

// TestLayout holds what is written against what nsc 2.14 was seen to write for
// the same operator: names, modes and bytes.
func TestLayout(t *testing.T) {
	m := newMaker(t)
	s, k := m.all()
	key := func(name string) string {
		pub := k[name].Public()
		return "keys/" + pub[:1] + "/" + pub[1:3] + "/" + pub + ".nk"
	}
	creds := func(token string, key *keystore.Key) string {
		return "-----BEGIN NATS USER JWT-----\n" + token + "\n------END NATS USER JWT------\n\n" +
			"************************* IMPORTANT *************************\n" +
			"NKEY Seed printed below can be used to sign and prove identity.\n" +
			"NKEYs are sensitive and should be treated as secrets.\n\n" +
			"-----BEGIN USER NKEY SEED-----\n" + seedOf(t, key) + "\n------END USER NKEY SEED------\n\n" +
			"*************************************************************\n"
	}
	stores := map[string]string{
		"Big Op/.nsc":                         `{"managed":false,"name":"Big Op","kind":"operator","version":"1"}`,
		"Big Op/Big Op.jwt":                   s.Operator.Token(),
		"Big Op/accounts/A/A.jwt":             s.Accounts[0].Token(),
		"Big Op/accounts/A/users/u 2.jwt":     s.Accounts[0].Users[0].Token(),
		"Big Op/accounts/A/users/u1.jwt":      s.Accounts[0].Users[1].Token(),
		"Big Op/accounts/acc two/acc two.jwt": s.Accounts[1].Token(),
	}
	keys := map[string]string{
		".gitignore":                "# ignore all nk files \n**/*.nk\n\n# ignore all creds files\n**/*.creds\n",
		"creds/Big Op/A/u1.creds":   creds(s.Accounts[0].Users[1].Token(), k["A/u1"]),
		"creds/Big Op/A/u 2.creds":  creds(s.Accounts[0].Users[0].Token(), k["A/u 2"]),
		"creds/Big Op/A/gone.creds": creds(s.Strays[0].User.Token(), k["A/gone"]),
	}
	for name := range k {
		keys[key(name)] = seedOf(t, k[name])
	}
	for form, below := range map[nscstore.Form]string{nscstore.Plain: ".", nscstore.Home: "keys"} {
		want := make(map[string]string)
		for name, data := range stores {
			want[filepath.Join("stores", name)] = data
		}
		for name, data := range keys {
			want[filepath.Join(below, name)] = data
		}
		for name := range maps.Clone(want) {
			for dir := filepath.Dir(name); dir != "."; dir = filepath.Dir(dir) {
				want[dir] = "/"
			}
		}
		dir := write(t, form, s)
		sameTree(t, tree(t, dir), want)
		if err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			info, err := d.Info()
			if err != nil {
				return err
			}
			if mode := info.Mode().Perm(); d.IsDir() && mode != 0o700 || !d.IsDir() && mode != 0o600 {
				t.Errorf("%s has mode %#o", path, mode)
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		dirs, err := nscstore.Locate(dir)
		if err != nil || dirs != form.In(dir) {
			t.Errorf("located %+v, %v", dirs, err)
		}
	}
}

func TestRoundTrip(t *testing.T) {
	base := t.TempDir()
	n := 0
	rapid.Check(t, func(r *rapid.T) {
		n++
		s := drawStore(t, r)
		form := rapid.SampledFrom([]nscstore.Form{nscstore.Plain, nscstore.Home}).Draw(r, "form")
		dir := filepath.Join(base, strconv.Itoa(n))
		if err := nscstore.Write(dir, form, s); err != nil {
			r.Fatal(err)
		}
		dirs, err := nscstore.Locate(dir)
		if err != nil {
			r.Fatal(err)
		}
		names, err := nscstore.Operators(dirs)
		if err != nil || !slices.Equal(names, []string{s.Name}) {
			r.Fatalf("operators %q, %v", names, err)
		}
		got, err := nscstore.Read(dirs, s.Name)
		if err != nil {
			r.Fatal(err)
		}
		if a, b := text(t, got), text(t, s); a != b {
			r.Fatal("what was read is not what was written")
		}
		again := dir + "-again"
		if err := nscstore.Write(again, form, got); err != nil {
			r.Fatal(err)
		}
		if !maps.Equal(tree(t, again), tree(t, dir)) {
			r.Fatal("written, read and written, the trees differ")
		}
	})
}

// drawStore makes any store that Read could give.
func drawStore(t *testing.T, r *rapid.T) *nscstore.Store {
	m := newMaker(t)
	name := rapid.Custom(func(r *rapid.T) string {
		n := rapid.StringOfN(rapid.RuneFrom([]rune("aB0 .-_é世*>%'\"~:"), unicode.Latin), 1, 12, 60).Draw(r, "text")
		if nscstore.ValidName(n) != nil {
			n = "n" + strconv.Itoa(len(n))
		}
		return n
	})
	names := func(what string, most int) []string {
		return slices.Sorted(slices.Values(rapid.SliceOfNDistinct(name, 0, most, rapid.ID[string]).Draw(r, what)))
	}
	s := &nscstore.Store{
		Name: name.Draw(r, "operator"), Managed: rapid.Bool().Draw(r, "managed"), Operator: m.operator(),
		Keys: make(map[string]*keystore.Key),
	}
	has := func(k *keystore.Key) *keystore.Key {
		if rapid.Bool().Draw(r, "kept") {
			s.Keys[k.Public()] = k
		}
		return k
	}
	has(m.op)
	has(m.sk)
	for _, kind := range []keystore.Kind{keystore.Operator, keystore.Account, keystore.User, keystore.Curve, keystore.Server, keystore.Kind(nkeys.PrefixByteCluster)} {
		has(m.key(kind))
	}
	for _, an := range names("accounts", 4) {
		key := has(m.key(keystore.Account))
		signers := []*keystore.Key{key, has(m.key(keystore.Account)), has(m.key(keystore.Account))}
		c := m.accountClaims(an, key)
		c.SigningKeys.Add(signers[1].Public())
		scope := jwt.NewUserScope()
		scope.Key, scope.Role = signers[2].Public(), "role"
		c.SigningKeys.AddScopedSigner(scope)
		c.Description = rapid.StringN(0, 20, -1).Draw(r, "description")
		var users []nscstore.User
		for _, un := range names("users", 3) {
			by := rapid.IntRange(0, 2).Draw(r, "signer")
			key := has(m.key(keystore.User))
			uc := m.userClaims(un, key, c.Subject)
			if by == 0 {
				uc.IssuerAccount = ""
			}
			uc.SetScoped(by == 2)
			u := m.user(uc, signers[by])
			switch rapid.IntRange(0, 2).Draw(r, "creds") {
			case 1:
				u.Creds = key
			case 2: // of the user as it was before it was edited
				uc.Tags.Add("old")
				old := m.user(uc, signers[by])
				old.Creds = key
				s.Strays = append(s.Strays, nscstore.Stray{Account: an, Name: un, User: old})
			}
			users = append(users, u)
		}
		s.Accounts = append(s.Accounts, m.account(c, users...))
	}
	if rapid.Bool().Draw(r, "stray") {
		key := m.key(keystore.User)
		u := m.user(m.userClaims("gone", key, m.key(keystore.Account).Public()), m.key(keystore.Account))
		u.Creds = key
		s.Strays = append(s.Strays, nscstore.Stray{Account: "zz gone", Name: "gone", User: u})
	}
	slices.SortFunc(s.Strays, func(a, b nscstore.Stray) int {
		return cmp.Or(cmp.Compare(a.Account, b.Account), cmp.Compare(a.Name, b.Name))
	})
	return s
}

// TestReadRefuses changes one thing of a good tree at a time, and then all of
// them at once.
func TestReadRefuses(t *testing.T) {
	m := newMaker(t)
	s, k := m.all()
	foreign := m.key(keystore.Operator)
	spoiled := func(token string) string {
		i := strings.LastIndexByte(token, '.') + 10
		b := []byte(token)
		b[i] ^= 'A' ^ 'B'
		if b[i] == token[i] || !strings.ContainsRune("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_", rune(b[i])) {
			b[i] = 'Q'
		}
		return string(b)
	}
	keyFile := func(name string) string {
		pub := k[name].Public()
		return "keys/" + pub[:1] + "/" + pub[1:3] + "/" + pub + ".nk"
	}
	const op, accounts, creds = "stores/Big Op/", "stores/Big Op/accounts/", "creds/Big Op/"
	put := func(path, data string) func(t *testing.T, dir string) {
		return func(t *testing.T, dir string) {
			t.Helper()
			path := filepath.Join(dir, path)
			if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, []byte(data), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	chmod := func(path string, mode fs.FileMode) func(t *testing.T, dir string) {
		return func(t *testing.T, dir string) {
			t.Helper()
			if err := os.Chmod(filepath.Join(dir, path), mode); err != nil {
				t.Fatal(err)
			}
		}
	}
	link := func(path string) func(t *testing.T, dir string) {
		return func(t *testing.T, dir string) {
			t.Helper()
			path := filepath.Join(dir, path)
			away := filepath.Join(t.TempDir(), "away")
			if err := errors.Join(os.Rename(path, away), os.Symlink(away, path)); err != nil {
				t.Fatal(err)
			}
		}
	}
	remove := func(path string) func(t *testing.T, dir string) {
		return func(t *testing.T, dir string) {
			t.Helper()
			if err := os.Remove(filepath.Join(dir, path)); err != nil {
				t.Fatal(err)
			}
		}
	}
	mkfifo := func(path string) func(t *testing.T, dir string) {
		return func(t *testing.T, dir string) {
			t.Helper()
			if err := syscall.Mkfifo(filepath.Join(dir, path), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	account := func(name string, key, by *keystore.Key) string {
		return m.sign(m.accountClaims(name, key), by)
	}
	v1 := m.accountClaims("B", m.key(keystore.Account))
	leak := m.accountClaims("leak", m.key(keystore.Account))
	leak.SigningKeys.Add(seedOf(t, k["A"])) // taken for a public key
	otherUser := m.userClaims("u1", m.key(keystore.User), k["acc two"].Public())
	tests := []struct {
		what   string
		change func(t *testing.T, dir string)
		file   string
		err    error
	}{
		{"another kind of store", put(op+".nsc", `{"managed":false,"name":"Big Op","kind":"account","version":"1"}`), op + ".nsc", nscstore.ErrInvalid},
		{"another version", put(op+".nsc", `{"managed":false,"name":"Big Op","kind":"operator","version":"2"}`), op + ".nsc", nscstore.ErrInvalid},
		{"another name", put(op+".nsc", `{"managed":false,"name":"Big","kind":"operator","version":"1"}`), op + ".nsc", nscstore.ErrInvalid},
		{"an unknown member", put(op+".nsc", `{"x":1,"managed":false,"name":"Big Op","kind":"operator","version":"1"}`), op + ".nsc", nscstore.ErrInvalid},
		{"something behind", put(op+".nsc", `{"managed":false,"name":"Big Op","kind":"operator","version":"1"}{}`), op + ".nsc", nscstore.ErrInvalid},
		{"a large .nsc", put(op+".nsc", strings.Repeat(" ", 5000)), op + ".nsc", nscstore.ErrTooLarge},
		{"no operator", remove(op + "Big Op.jwt"), op + "Big Op.jwt", fs.ErrNotExist},
		{"a spoiled operator", put(op+"Big Op.jwt", spoiled(s.Operator.Token())), op + "Big Op.jwt", nscstore.ErrInvalid},
		{"an operator signed by another", put(op+"Big Op.jwt", m.sign(m.oc, foreign)), op + "Big Op.jwt", nscstore.ErrChain},
		{"another kind of token", put(op+"Big Op.jwt", s.Accounts[0].Token()), op + "Big Op.jwt", nscstore.ErrInvalid},
		{"a linked operator", link(op + "Big Op.jwt"), op + "Big Op.jwt", nscstore.ErrUnexpected},
		{"another file of the operator", put(op+"old.jwt", s.Operator.Token()), op + "old.jwt", nscstore.ErrUnexpected},
		{"linked accounts", link(accounts[:len(accounts)-1]), accounts[:len(accounts)-1], nscstore.ErrUnexpected},
		{"a spoiled account", put(accounts+"A/A.jwt", spoiled(s.Accounts[0].Token())), accounts + "A/A.jwt", nscstore.ErrInvalid},
		{"an account of another operator", put(accounts+"B/B.jwt", account("B", m.key(keystore.Account), foreign)), accounts + "B/B.jwt", nscstore.ErrChain},
		{"an account that signed itself", put(accounts+"B/B.jwt", account("B", k["spare"], k["spare"])), accounts + "B/B.jwt", nscstore.ErrChain},
		{"an account under another's name", put(accounts+"B/B.jwt", account("C", m.key(keystore.Account), m.sk)), accounts + "B/B.jwt", nscstore.ErrInvalid},
		{"two accounts of one key", put(accounts+"B/B.jwt", account("B", k["A"], m.sk)), accounts + "B/B.jwt", nscstore.ErrInvalid},
		{"an account without a JWT", put(accounts+"B/users/u1.jwt", s.Accounts[0].Users[1].Token()), accounts + "B/B.jwt", fs.ErrNotExist},
		{"an account of version 1", put(accounts+"B/B.jwt", m.versionOne(v1)), accounts + "B/B.jwt", nscstore.ErrInvalid},
		{"a seed as signing key", put(accounts+"leak/leak.jwt", m.sign(leak, m.sk)), accounts + "leak/leak.jwt", nscstore.ErrInvalid},
		{"a line end inside", put(accounts+"A/A.jwt", s.Accounts[0].Token()[:len(s.Accounts[0].Token())-9]+"\n"+s.Accounts[0].Token()[len(s.Accounts[0].Token())-9:]), accounts + "A/A.jwt", nscstore.ErrInvalid},
		{"an endless account", put(accounts+"A/A.jwt", strings.Repeat("a", 2<<20)), accounts + "A/A.jwt", nscstore.ErrTooLarge},
		{"a hidden account", put(accounts+".h/.h.jwt", s.Accounts[0].Token()), accounts + ".h", nscstore.ErrInvalid},
		{"an account with an edge", put(accounts+"B /B .jwt", s.Accounts[0].Token()), accounts + "B ", nscstore.ErrInvalid},
		{"a file among accounts", put(accounts+"A.jwt", s.Accounts[0].Token()), accounts + "A.jwt", nscstore.ErrUnexpected},
		{"a linked account", link(accounts + "A"), accounts + "A", nscstore.ErrUnexpected},
		{"a user of another account", put(accounts+"A/users/u1.jwt", m.sign(otherUser, k["acc two"])), accounts + "A/users/u1.jwt", nscstore.ErrChain},
		{"a user for another account", put(accounts+"A/users/u1.jwt", m.sign(otherUser, k["A"])), accounts + "A/users/u1.jwt", nscstore.ErrChain},
		{"a user under another's name", put(accounts+"A/users/u3.jwt", s.Accounts[0].Users[1].Token()), accounts + "A/users/u3.jwt", nscstore.ErrInvalid},
		{"a backup of a user", put(accounts+"A/users/u1.jwt~", s.Accounts[0].Users[1].Token()), accounts + "A/users/u1.jwt~", nscstore.ErrUnexpected},
		{"a pipe", mkfifo(accounts + "A/users/p.jwt"), accounts + "A/users/p.jwt", nscstore.ErrUnexpected},
		{"an exposed seed", chmod(keyFile("A"), 0o640), keyFile("A"), keystore.ErrExposed},
		{"a seed for all", chmod(keyFile("A"), 0o604), keyFile("A"), keystore.ErrExposed},
		{"exposed creds", chmod(creds+"A/u1.creds", 0o644), creds + "A/u1.creds", keystore.ErrExposed},
		{"another's seed", put(keyFile("A"), seedOf(t, k["acc two"])), keyFile("A"), nscstore.ErrInvalid},
		{"a public key", put(keyFile("A"), k["A"].Public()), keyFile("A"), keystore.ErrKind},
		{"half a seed", put(keyFile("A"), seedOf(t, k["A"])[:30]), keyFile("A"), keystore.ErrKind},
		{"a seed in another's place", put("keys/A/ZZ/"+filepath.Base(keyFile("A")), seedOf(t, k["A"])), "keys/A/ZZ/" + filepath.Base(keyFile("A")), nscstore.ErrUnexpected},
		{"a seed of another kind", put("keys/U/"+keyFile("A")[7:], seedOf(t, k["A"])), "keys/U/" + keyFile("A")[7:], nscstore.ErrUnexpected},
		{"another kind", put("keys/Z/ZZ/x.nk", ""), "keys/Z", nscstore.ErrUnexpected},
		{"a key beside the keys", put("x.nk", seedOf(t, k["A"])), "x.nk", nscstore.ErrUnexpected},
		{"a seed as a file's name", put("keys/A/AA/"+seedOf(t, k["A"])+".nk", ""), "keys/A/AA/(a seed).nk", nscstore.ErrUnexpected},
		{"a linked seed", link(keyFile("A")), keyFile("A"), nscstore.ErrUnexpected},
		{"a linked keys folder", link("keys"), "keys", nscstore.ErrUnexpected},
		{"creds of two", put(creds+"A/u1.creds", strings.ReplaceAll(read(t, m, s), seedOf(t, k["A/u1"]), seedOf(t, k["A/gone"]))), creds + "A/u1.creds", nscstore.ErrInvalid},
		{"creds without a seed", put(creds+"A/u1.creds", "-----BEGIN NATS USER JWT-----\n"+s.Accounts[0].Users[1].Token()+"\n------END NATS USER JWT------\n"), creds + "A/u1.creds", nscstore.ErrInvalid},
		{"creds with an account's seed", put(creds+"A/u1.creds", strings.ReplaceAll(read(t, m, s), seedOf(t, k["A/u1"]), seedOf(t, k["A"]))), creds + "A/u1.creds", keystore.ErrKind},
		{"a control character", put(creds+"A/a\x1b[2Jb.creds", ""), creds + "A/", nscstore.ErrInvalid},
	}
	check := func(t *testing.T, err error, file string, want error) {
		t.Helper()
		var all *nscstore.Problems
		if !errors.Is(err, want) || !errors.As(err, &all) {
			t.Fatalf("got %v", err)
		}
		if !slices.ContainsFunc(all.List, func(p nscstore.Problem) bool {
			return strings.Contains(p.Error(), file) && errors.Is(p, want)
		}) {
			t.Errorf("no %v of %s in: %v", want, file, err)
		}
		for name, key := range k {
			if strings.Contains(fmt.Sprintf("%v %+v %s", err, err, err), seedOf(t, key)[:20]) {
				t.Errorf("the seed of %s is told", name)
			}
		}
		if strings.ContainsRune(err.Error(), 0x1b) {
			t.Error("a control character is told")
		}
	}
	for _, tt := range tests {
		t.Run(tt.what, func(t *testing.T) {
			dir := write(t, nscstore.Plain, s)
			tt.change(t, dir)
			got, err := nscstore.Read(nscstore.Plain.In(dir), "Big Op")
			if got != nil {
				t.Fatal("a store beside an error")
			}
			check(t, err, tt.file, tt.err)
		})
	}
	t.Run("all at once", func(t *testing.T) {
		dir := write(t, nscstore.Plain, s)
		// One change of each file, and none that hides others.
		seen := make(map[string]bool)
		var done []int
		for i, tt := range tests {
			if seen[tt.file] || strings.Contains(tt.what, "link") || strings.Contains(tt.what, "no operator") || tt.file == op+"Big Op.jwt" || tt.file == accounts+"A/A.jwt" {
				continue
			}
			seen[tt.file] = true
			tt.change(t, dir)
			done = append(done, i)
		}
		_, err := nscstore.Read(nscstore.Plain.In(dir), "Big Op")
		for _, i := range done {
			check(t, err, tests[i].file, tests[i].err)
		}
		if len(done) < 15 {
			t.Errorf("only %d at once", len(done))
		}
	})
}

// read gives the creds file of u1.
func read(t *testing.T, m *maker, s *nscstore.Store) string {
	t.Helper()
	data, err := jwt.FormatUserConfig(s.Accounts[0].Users[1].Token(), []byte(seedOf(t, s.Accounts[0].Users[1].Creds)))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// TestSignedOperator: what an operator that keeps to signing keys looks like
// after nsc edited it.
func TestSignedOperator(t *testing.T) {
	m := newMaker(t)
	s, k := m.all()
	if !s.Operator.SelfSigned() {
		t.Error("signed by itself")
	}
	m.oc.StrictSigningKeyUsage = true
	op, err := nscstore.ParseOperator(m.sign(m.oc, m.sk))
	if err != nil || op.SelfSigned() {
		t.Fatalf("signed by its signing key: %v", err)
	}
	s.Operator = op
	if _, err := nscstore.Read(nscstore.Plain.In(write(t, nscstore.Plain, s)), s.Name); err != nil {
		t.Error(err)
	}
	// From then on the operator's own key signs no account.
	a, err := nscstore.ParseAccount(m.sign(m.accountClaims("B", k["spare"]), m.op))
	if err != nil {
		t.Fatal(err)
	}
	s.Accounts = append(s.Accounts, a)
	if err := nscstore.Write(t.TempDir(), nscstore.Plain, s); !errors.Is(err, nscstore.ErrChain) {
		t.Errorf("an account by the operator's own key: %v", err)
	}
}
