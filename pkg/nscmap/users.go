package nscmap

import (
	"fmt"
	"strings"

	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/nscstore"
	"github.com/herald-nats/herald/pkg/platform/manifest"
)

// users takes the users of roles along. Their credentials stay as they are, so whoever has
// one goes on connecting with it.
func (m *mover) users() {
	endless, there := 0, m.roles()
	for _, a := range m.accounts {
		taken := map[manifest.RoleRef]map[ident.Name]string{}
		for _, u := range a.users {
			out, ok := a.user(u, there)
			if !ok {
				continue
			}
			if taken[out.Role] == nil {
				taken[out.Role] = map[ident.Name]string{}
			}
			if other, twice := taken[out.Role][out.Name]; twice {
				m.refuse(a.item("users", u.Name()), fmt.Sprintf("user %q of the role is called %s already", other, out.Name), a.rename(u))
				continue
			}
			taken[out.Role][out.Name] = u.Name()
			if u.Claims().Expires == 0 {
				endless++
			}
			m.out.Users = append(m.out.Users, out)
		}
	}
	if endless > 0 {
		m.note("users", "%d have credentials that never end: they are good until they are revoked", endless)
	}
}

// roles are those that the platform has, Herald's own with them.
func (m *mover) roles() map[manifest.RoleRef]bool {
	there := map[manifest.RoleRef]bool{}
	if m.out.File == nil {
		return there
	}
	for _, a := range m.out.File.AllAccounts() {
		for _, r := range a.Roles {
			there[manifest.RoleRef{Account: a.Name, Role: r.Name}] = true
		}
	}
	return there
}

// user takes one user along; false if it does not go.
func (a *account) user(u nscstore.User, there map[manifest.RoleRef]bool) (User, bool) {
	m, c := a.m, u.Claims()
	item := a.item("users", u.Name())
	refuse := func(why, hint string) (User, bool) {
		m.refuse(item, why, hint)
		return User{}, false
	}
	const out = "leave it out: then it cannot connect any more"
	_, is := a.c.SigningKeys[c.Issuer]
	role, scoped := a.roles[c.Issuer]
	ref := manifest.RoleRef{Account: a.name, Role: role}
	switch {
	case a.gone:
		return refuse("its account does not go along", out)
	case a.name.String() == manifest.System:
		return refuse("nobody but registrars and the set-up tool is in the system account: who may look there may also change what servers hold", out)
	case a.own && a.name.String() != manifest.ChatIn && a.name.String() != manifest.Admin:
		return refuse("nobody but Herald's own services is in "+a.src, out)
	case c.Issuer == a.key:
		return refuse("the account's own key signed it, and users are signed by keys of roles", "make it anew under a role (nsc add user -K ROLE), or "+out)
	case !is && !scoped:
		return refuse("the key that signed it, "+c.Issuer+", is no role here", "make it anew under a role (nsc add user -K ROLE), or "+out)
	case !there[ref]:
		return refuse("its role does not go along", out)
	case !c.HasEmptyPermissions():
		m.stays(item, "servers refuse it: it has permissions of its own, and its role gives it others")
		return User{}, false
	}
	key := u.Creds
	if key == nil {
		key = m.s.Keys[u.Key()]
	}
	if key == nil {
		m.stays(item, "its seed is not here: it goes on connecting, and Herald knows nothing of it")
		return User{}, false
	}
	name, err := NameFor(u.Name())
	if fresh, ok := m.o.Users[[2]string{a.src, u.Name()}]; ok {
		name, err = fresh, nil
	}
	if err != nil {
		return refuse("its name is none that Herald can write: 1 to 32 of a-z and 0-9, with single . _ or - between them", a.rename(u))
	}
	if name.String() != u.Name() {
		m.note(item, "it is called %s here; its credential keeps the name that it has", name)
	}
	return User{Role: ref, Name: name, Token: u.Token(), Key: key}, true
}

func (a *account) rename(u nscstore.User) string {
	return fmt.Sprintf("give it another name with --rename %q, or leave it out: then it cannot connect any more", a.src+"/"+u.Name()+"=NAME")
}

// NameFor makes a name of Herald's of any name: in lower case, and with a dash for what
// is between words. A name that is one already stays.
func NameFor(s string) (ident.Name, error) {
	if name, err := ident.ParseName(s); err == nil {
		return name, nil
	}
	var b strings.Builder
	for _, r := range strings.ToLower(s) {
		switch {
		case r >= 'a' && r <= 'z' || r >= '0' && r <= '9':
			b.WriteRune(r)
		case b.Len() > 0 && !strings.HasSuffix(b.String(), "-"):
			b.WriteByte('-')
		}
	}
	return ident.ParseName(strings.TrimRight(b.String(), "-"))
}
