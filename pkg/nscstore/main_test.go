package nscstore_test

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nkeys"

	"github.com/herald-nats/herald/pkg/keystore"
	"github.com/herald-nats/herald/pkg/nscstore"
)

// maker makes keys and tokens of an operator. Its keys come from a count, so
// that a failing property shrinks and a fuzz corpus stays the same.
type maker struct {
	t  testing.TB
	n  *int
	op *keystore.Key
	sk *keystore.Key
	oc *jwt.OperatorClaims
}

func newMaker(t testing.TB) *maker {
	m := &maker{t: t, n: new(int)}
	m.op, m.sk = m.key(keystore.Operator), m.key(keystore.Operator)
	m.oc = jwt.NewOperatorClaims(m.op.Public())
	m.oc.Name = "Op"
	m.oc.SigningKeys.Add(m.sk.Public())
	return m
}

func (m *maker) key(kind keystore.Kind) *keystore.Key {
	m.t.Helper()
	*m.n++
	raw := bytes.Repeat([]byte{byte(*m.n), byte(*m.n >> 8)}, 16)
	seed, err := nkeys.EncodeSeed(nkeys.PrefixByte(kind), raw)
	if err != nil {
		m.t.Fatal(err)
	}
	k, err := keystore.Parse(kind, seed)
	if err != nil {
		m.t.Fatal(err)
	}
	return k
}

func (m *maker) sign(c jwt.Claims, by *keystore.Key) string {
	m.t.Helper()
	token, err := c.Encode(by.Pair())
	if err != nil {
		m.t.Fatal(err)
	}
	return token
}

func (m *maker) operator() nscstore.Operator {
	m.t.Helper()
	op, err := nscstore.ParseOperator(m.sign(m.oc, m.op))
	if err != nil {
		m.t.Fatal(err)
	}
	return op
}

func (m *maker) accountClaims(name string, key *keystore.Key) *jwt.AccountClaims {
	c := jwt.NewAccountClaims(key.Public())
	c.Name = name
	return c
}

func (m *maker) account(c *jwt.AccountClaims, users ...nscstore.User) nscstore.Account {
	m.t.Helper()
	a, err := nscstore.ParseAccount(m.sign(c, m.sk))
	if err != nil {
		m.t.Fatal(err)
	}
	a.Users = users
	return a
}

func (m *maker) userClaims(name string, key *keystore.Key, account string) *jwt.UserClaims {
	c := jwt.NewUserClaims(key.Public())
	c.Name, c.IssuerAccount = name, account
	return c
}

func (m *maker) user(c *jwt.UserClaims, by *keystore.Key) nscstore.User {
	m.t.Helper()
	u, err := nscstore.ParseUser(m.sign(c, by))
	if err != nil {
		m.t.Fatal(err)
	}
	return u
}

// all is an operator with something of each kind, and its keys by what they are.
func (m *maker) all() (*nscstore.Store, map[string]*keystore.Key) {
	m.t.Helper()
	k := map[string]*keystore.Key{
		"operator": m.op, "signing": m.sk,
		"A": m.key(keystore.Account), "A/plain": m.key(keystore.Account), "A/role": m.key(keystore.Account), "A/xkey": m.key(keystore.Curve),
		"A/u1": m.key(keystore.User), "A/u 2": m.key(keystore.User), "A/gone": m.key(keystore.User),
		"acc two": m.key(keystore.Account), "spare": m.key(keystore.Account), "server": m.key(keystore.Server),
	}
	a := m.accountClaims("A", k["A"])
	a.SigningKeys.Add(k["A/plain"].Public())
	scope := jwt.NewUserScope()
	scope.Key, scope.Role = k["A/role"].Public(), "svc"
	scope.Template.Pub.Allow.Add("q.{{name()}}.>")
	a.SigningKeys.AddScopedSigner(scope)
	a.Authorization.XKey = k["A/xkey"].Public()
	a.EnableExternalAuthorization(k["A/u1"].Public())
	u1 := m.userClaims("u1", k["A/u1"], k["A"].Public())
	u2 := m.userClaims("u 2", k["A/u 2"], k["A"].Public())
	u2.SetScoped(true)
	gone := m.user(m.userClaims("gone", k["A/gone"], k["A"].Public()), k["A/plain"])
	gone.Creds = k["A/gone"]
	users := []nscstore.User{m.user(u2, k["A/role"]), m.user(u1, k["A/plain"])}
	users[0].Creds, users[1].Creds = k["A/u 2"], k["A/u1"]
	s := &nscstore.Store{
		Name: "Big Op", Operator: m.operator(),
		Accounts: []nscstore.Account{m.account(a, users...), m.account(m.accountClaims("acc two", k["acc two"]))},
		Keys:     make(map[string]*keystore.Key),
		Strays:   []nscstore.Stray{{Account: "A", Name: "gone", User: gone}},
	}
	for _, key := range k {
		s.Keys[key.Public()] = key
	}
	return s, k
}

func seedOf(t testing.TB, k *keystore.Key) string {
	t.Helper()
	seed, err := k.Seed()
	if err != nil {
		t.Fatal(err)
	}
	return string(seed)
}

// tree is what lies below a folder: the bytes of files, and "/" of folders.
func tree(t testing.TB, dir string) map[string]string {
	t.Helper()
	out := make(map[string]string)
	root := os.DirFS(dir)
	if err := fs.WalkDir(root, ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == "." {
			return err
		}
		if d.IsDir() {
			out[path] = "/"
			return nil
		}
		data, err := fs.ReadFile(root, path)
		out[path] = string(data)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return out
}

// sameTree compares two trees, without showing what is in the files.
func sameTree(t testing.TB, got, want map[string]string) {
	t.Helper()
	for _, path := range slices.Sorted(maps.Keys(want)) {
		if g, ok := got[path]; !ok {
			t.Errorf("%q is missing", path)
		} else if g != want[path] {
			t.Errorf("%q differs", path)
		}
	}
	for _, path := range slices.Sorted(maps.Keys(got)) {
		if _, ok := want[path]; !ok {
			t.Errorf("%q is too much", path)
		}
	}
}

// text is all of a store, so that two can be compared.
func text(t testing.TB, s *nscstore.Store) string {
	t.Helper()
	var b strings.Builder
	user := func(u nscstore.User) {
		fmt.Fprintf(&b, "  user %q %s %s %v\n", u.Name(), u.Key(), u.Token(), u.Creds)
		if u.Creds != nil {
			fmt.Fprintf(&b, "  creds %s\n", seedOf(t, u.Creds))
		}
	}
	fmt.Fprintf(&b, "%q %v\n%s\n", s.Name, s.Managed, s.Operator.Token())
	for _, a := range s.Accounts {
		fmt.Fprintf(&b, "account %q %s %s\n", a.Name(), a.Key(), a.Token())
		for _, u := range a.Users {
			user(u)
		}
	}
	for _, pub := range slices.Sorted(maps.Keys(s.Keys)) {
		fmt.Fprintf(&b, "key %s %s\n", pub, seedOf(t, s.Keys[pub]))
	}
	for _, c := range s.Strays {
		fmt.Fprintf(&b, "stray %q %q\n", c.Account, c.Name)
		user(c.User)
	}
	return b.String()
}

func write(t testing.TB, form nscstore.Form, s *nscstore.Store) (dir string) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "nsc")
	if err := nscstore.Write(dir, form, s); err != nil {
		t.Fatal(err)
	}
	return dir
}

// versionOne signs an account as the first version of JWTs did, whose
// signature is over the payload alone.
func (m *maker) versionOne(c *jwt.AccountClaims) string {
	m.t.Helper()
	enc := base64.RawURLEncoding.EncodeToString
	head := enc([]byte(`{"typ":"jwt","alg":"ed25519"}`))
	body := enc(fmt.Appendf(nil, `{"jti":"x","iat":1,"iss":%q,"name":%q,"sub":%q,"type":"account","nats":{}}`, m.sk.Public(), c.Name, c.Subject))
	sig, err := m.sk.Sign([]byte(body))
	if err != nil {
		m.t.Fatal(err)
	}
	token := head + "." + body + "." + enc(sig)
	if got, err := jwt.DecodeAccountClaims(token); err != nil || got.Version != 1 {
		m.t.Fatalf("this is no account of version 1: %v", err)
	}
	return token
}
