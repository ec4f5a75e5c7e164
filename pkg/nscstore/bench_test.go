package nscstore_test

import (
	"fmt"
	"path/filepath"
	"testing"

	"github.com/herald-nats/herald/pkg/keystore"
	"github.com/herald-nats/herald/pkg/nscstore"
)

// thousand is an operator with a thousand accounts, each with a signing key and
// a user: five thousand files.
func thousand(b *testing.B) *nscstore.Store {
	m := newMaker(b)
	s := &nscstore.Store{Name: "Op", Operator: m.operator(), Keys: make(map[string]*keystore.Key)}
	for i := range 1000 {
		key, sk, uk := m.key(keystore.Account), m.key(keystore.Account), m.key(keystore.User)
		c := m.accountClaims(fmt.Sprintf("account %d", i), key)
		c.SigningKeys.Add(sk.Public())
		u := m.user(m.userClaims("user", uk, c.Subject), sk)
		u.Creds = uk
		s.Accounts = append(s.Accounts, m.account(c, u))
		for _, k := range []*keystore.Key{key, sk, uk} {
			s.Keys[k.Public()] = k
		}
	}
	return s
}

// BenchmarkRead: a thousand accounts.
func BenchmarkRead(b *testing.B) {
	dir := write(b, nscstore.Plain, thousand(b))
	for b.Loop() {
		if _, err := nscstore.Read(nscstore.Plain.In(dir), "Op"); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkWrite: a thousand accounts, and the disk.
func BenchmarkWrite(b *testing.B) {
	s, base, n := thousand(b), b.TempDir(), 0
	for b.Loop() {
		n++
		if err := nscstore.Write(filepath.Join(base, fmt.Sprint(n)), nscstore.Plain, s); err != nil {
			b.Fatal(err)
		}
	}
}
