package nscmap

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nkeys"

	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/platform/claims"
	"github.com/herald-nats/herald/pkg/platform/manifest"
	"github.com/herald-nats/herald/pkg/trust"
)

// describe makes the platform file, and holds it against the claims that it came from.
func (m *mover) describe() error {
	f := *m.o.Into
	f.Accounts = slices.Clone(f.Accounts)
	before := len(f.Accounts)
	var of []*account
	for _, a := range m.accounts {
		entry := a.entry()
		if a.own && empty(entry) {
			continue
		}
		f.Accounts, of = append(f.Accounts, entry), append(of, a)
	}
	f.Servers.MaxPayload = m.payload(&f)
	if err := m.exact(&f); err != nil {
		return err
	}
	if err := m.prune(&f, before, of); err != nil {
		return err
	}
	m.out.File = &f
	if len(m.out.Refused) > 0 {
		return nil // nobody is going to write it
	}
	return m.readable(&f)
}

// exact compiles every account and compares what comes of it with what there was.
func (m *mover) exact(f *manifest.File) error {
	c := claims.New(f, m.keys(f))
	for _, acc := range c.Accounts() {
		i := slices.IndexFunc(m.accounts, func(a *account) bool { return a.name == acc.Name })
		if i < 0 || m.accounts[i].own && !slices.ContainsFunc(f.Accounts, func(e manifest.Account) bool { return e.Name == acc.Name }) {
			continue // all of it is Herald's
		}
		a := m.accounts[i]
		if a.gone {
			continue // for a reason that was given
		}
		made, err := c.Account(acc, 0)
		if err != nil {
			// What of it is wrong is said where the description is checked.
			m.refuse(a.src, "servers would refuse it: "+line(err.Error()), "change that with nsc, or leave the account out")
			a.gone = true
			continue
		}
		if a.own {
			made = within(made, a.c)
		}
		if path := difference(a.c, made); path != "" {
			m.refuse(a.src, "it would say something else than it does, in "+path, "leave the account out, and describe it in platform.yaml by hand")
			a.gone = true
		}
	}
	f.Accounts = slices.DeleteFunc(f.Accounts, func(acc manifest.Account) bool {
		return slices.ContainsFunc(m.accounts, func(a *account) bool { return a.gone && a.name == acc.Name })
	})
	return nil
}

// within is of the claims that were made of one of Herald's own accounts what was there
// before. The rest is Herald's.
func within(made, was *jwt.AccountClaims) *jwt.AccountClaims {
	out := *was
	out.Exports, out.Imports = slices.Clone(was.Exports), slices.Clone(was.Imports)
	for i, e := range out.Exports {
		j := slices.IndexFunc(made.Exports, func(m *jwt.Export) bool { return m.Subject == e.Subject && m.Type == e.Type })
		if out.Exports[i] = nil; j >= 0 {
			out.Exports[i] = made.Exports[j]
		}
	}
	for i, imp := range out.Imports {
		j := slices.IndexFunc(made.Imports, func(m *jwt.Import) bool {
			return m.Subject == imp.Subject && m.Type == imp.Type && m.Account == imp.Account
		})
		if out.Imports[i] = nil; j >= 0 {
			out.Imports[i] = made.Imports[j]
		}
	}
	return &out
}

// readable holds the file, as it is going to be written and read, against itself.
func (m *mover) readable(f *manifest.File) error {
	again, err := manifest.Parse(manifest.FileName, f.Render())
	if err != nil {
		return fmt.Errorf("reading the description that was made: %w", err)
	}
	keys := m.keys(f)
	a, b := claims.New(f, keys), claims.New(again, keys)
	if len(a.Accounts()) != len(b.Accounts()) {
		return errors.New("the description that was made is read as another")
	}
	for i, acc := range a.Accounts() {
		one, err := a.Account(acc, 0)
		if err != nil {
			return err
		}
		two, err := b.Account(b.Accounts()[i], 0)
		if err != nil {
			return err
		}
		if path := difference(one, two); path != "" {
			return fmt.Errorf("the description that was made is read as another: account %s, %s", acc.Name, path)
		}
	}
	return nil
}

// keys are the public keys of the platform. Those that are going to be made are stood in
// for: they are in nothing that is compared.
func (m *mover) keys(f *manifest.File) claims.Keys {
	k := claims.Keys{
		Accounts: map[ident.Label]ident.AccountKey{}, Roles: map[manifest.RoleRef]ident.AccountKey{}, Regions: map[ident.Region]ident.SealKey{},
	}
	for _, acc := range f.AllAccounts() {
		k.Accounts[acc.Name] = standIn(acc.Name.String())
		for _, r := range acc.Roles {
			ref := manifest.RoleRef{Account: acc.Name, Role: r.Name}
			k.Roles[ref] = standIn(ref.String())
		}
	}
	for _, a := range m.accounts {
		if key, err := ident.ParseAccountKey(a.key); err == nil {
			k.Accounts[a.name] = key
		}
		for pub, role := range a.roles {
			if key, err := ident.ParseAccountKey(pub); err == nil {
				k.Roles[manifest.RoleRef{Account: a.name, Role: role}] = key
			}
		}
	}
	return k
}

// standIn is a public key that nobody has the seed of.
func standIn(name string) ident.AccountKey {
	sum := sha256.Sum256([]byte("herald: no key yet: " + name))
	pub, err := nkeys.Encode(nkeys.PrefixByteAccount, sum[:])
	if err != nil {
		return ident.AccountKey{}
	}
	key, _ := ident.ParseAccountKey(string(pub)) // it was encoded just now
	return key
}

// difference names the first member in which two claims of an account differ; empty if
// they say the same. Who signed them, when, and the version of base claims are not looked
// at.
func difference(a, b *jwt.AccountClaims) string {
	x, y := content(a), content(b)
	if bytes.Equal(x, y) {
		return ""
	}
	var v, w any
	if err := errors.Join(json.Unmarshal(x, &v), json.Unmarshal(y, &w)); err != nil {
		return line(err.Error())
	}
	return differs("", v, w)
}

// content is what is compared.
func content(c *jwt.AccountClaims) []byte {
	v := *c
	v.Issuer, v.IssuedAt, v.ID, v.Revocations = "", 0, "", nil
	v.Type, v.Version = jwt.AccountClaim, 2
	v.Tags = slices.DeleteFunc(slices.Clone(c.Tags), func(t string) bool { return strings.HasPrefix(t, trust.TagBase) })
	data, err := json.Marshal(&v)
	if err != nil {
		return []byte(strconv.Quote("claims that cannot be encoded: " + err.Error() + " in " + c.Subject)) // like no other's
	}
	return data
}

func differs(path string, a, b any) string {
	if reflect.DeepEqual(a, b) {
		return ""
	}
	switch a := a.(type) {
	case map[string]any:
		b, ok := b.(map[string]any)
		if !ok {
			break
		}
		both := maps.Clone(a)
		maps.Copy(both, b)
		for _, name := range slices.Sorted(maps.Keys(both)) {
			if p := differs(strings.TrimPrefix(path+"."+name, "."), a[name], b[name]); p != "" {
				return p
			}
		}
	case []any:
		b, ok := b.([]any)
		if !ok || len(a) != len(b) {
			break
		}
		for i := range a {
			if p := differs(fmt.Sprintf("%s[%d]", path, i), a[i], b[i]); p != "" {
				return p
			}
		}
	}
	return path
}

// payload is the largest message that servers must take, so that every limit below that
// stands as it is; what the file says otherwise stays.
func (m *mover) payload(f *manifest.File) manifest.Size {
	most := f.Servers.MaxPayload
	if most == 0 {
		most = manifest.DefaultMaxPayload
	}
	was := most
	see := func(s *manifest.Size, of string) {
		if s != nil && *s > most {
			most = *s
			m.note(of, "servers take messages of up to %s here (servers.max_payload)", most)
		}
	}
	for _, a := range f.Accounts {
		see(a.Limits.Payload, a.Name.String())
		for _, r := range a.Roles {
			see(r.Payload, manifest.RoleRef{Account: a.Name, Role: r.Name}.String())
		}
	}
	if most == was {
		return f.Servers.MaxPayload
	}
	return most
}

// line makes one line of text from a library.
func line(s string) string { return strings.Join(strings.Fields(s), " ") }
