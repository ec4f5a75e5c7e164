package nscmap

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nkeys"

	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/nscstore"
	"github.com/herald-nats/herald/pkg/permission"
	"github.com/herald-nats/herald/pkg/platform/manifest"
	"github.com/herald-nats/herald/pkg/trust"
)

// account is one account on its way.
type account struct {
	m    *mover
	src  string      // its name in nsc
	name ident.Label // its name here
	key  string
	// c are its claims, in the form in which Herald writes them once they are normal.
	c     *jwt.AccountClaims
	users []nscstore.User
	// roles are the names of its roles, by the public key.
	roles  map[string]ident.Label
	only   map[*jwt.Export][]ident.Label // who may import what is private
	own    bool                          // Herald's own; the system account, too
	system bool
	gone   bool // left out, or refused, as a whole
}

// item names a part of the account.
func (a *account) item(parts ...string) string {
	return strings.Join(append([]string{a.src}, parts...), "/")
}

// normal brings the claims into the form in which Herald writes claims: what servers do
// not tell apart becomes the same, and nothing else changes. What Herald cannot say is
// refused and taken out, so that the rest can be held against what comes of it.
func (a *account) normal() {
	c := a.c
	c.Name = a.name.String()
	c.Issuer, c.IssuedAt, c.ID = "", 0, ""
	c.Expires, c.NotBefore = 0, 0 // it has begun, and does not end
	c.Revocations = nil           // they go another way
	if c.Audience != "" {
		a.m.refuse(a.item("audience"), "its JWT has an audience, which no server looks at", "leave it out")
		c.Audience = ""
	}
	a.tags()
	a.limits()
	a.signingKeys()
	a.defaults()
	for _, key := range slices.Sorted(maps.Keys(a.roles)) {
		scope := c.SigningKeys[key].(*jwt.UserScope) //nolint:errcheck,forcetypeassert // the others were taken out
		scope.Role = a.roles[key].String()
		a.template(scope)
	}
	a.exports()
	for _, to := range c.Mappings {
		for i := range to {
			to[i].Weight = to[i].GetWeight()
		}
	}
	if t := c.Trace; t != nil && t.Sampling == 0 {
		t.Sampling = 100
	}
	if !c.Authorization.IsEnabled() {
		c.Authorization = jwt.ExternalAuthorization{} // without users it does nothing
	}
	if a.own && !a.system && a.name.String() != manifest.ChatIn {
		// Of these nothing but their keys is the operator's.
		c.Exports, c.Imports, c.Mappings, c.Trace, c.ClusterTraffic = nil, nil, nil, nil, ""
	}
}

// tags takes out what tags are Herald's own, and what is none: servers compare tags as
// they are, and every tool writes them in lower case.
func (a *account) tags() {
	seen := map[string]bool{}
	a.c.Tags = slices.DeleteFunc(a.c.Tags, func(t string) bool {
		was := seen[t]
		seen[t] = true
		if was || t == OwnTag || strings.HasPrefix(t, trust.TagBase) && trust.BaseVersion([]string{t}) > 0 {
			return true
		}
		if t == "" || t != strings.ToLower(strings.TrimSpace(t)) {
			a.m.refuse(a.item("tags", t), fmt.Sprintf("%.64q is not a tag as tools write them: in lower case, and without spaces around it", t), "set it right with nsc, or leave it out")
			return true
		}
		return false
	})
}

// limits brings limits into the one form that each has.
func (a *account) limits() {
	l := &a.c.Limits
	for _, v := range []struct {
		name string
		at   *int64
	}{
		{"subs", &l.Subs},
		{"data", &l.Data},
		{"payload", &l.Payload},
		{"imports", &l.Imports},
		{"exports", &l.Exports},
		{"conn", &l.Conn},
		{"leaf", &l.LeafNodeConn},
	} {
		if *v.at < jwt.NoLimit {
			a.wrong("limits."+v.name, v.at)
		}
	}
	// Servers count leafnodes up to there. Without a limit is not a thing that the
	// description can say of them.
	if l.LeafNodeConn == jwt.NoLimit || l.LeafNodeConn > math.MaxInt32 {
		l.LeafNodeConn = math.MaxInt32
	}
	if l.Payload > maxPayload {
		l.Payload = jwt.NoLimit // no server takes messages of that size
	}
	a.streams(l)
	if !l.IsJSEnabled() {
		l.JetStreamLimits, l.JetStreamTieredLimits = jwt.JetStreamLimits{}, nil
	}
}

// wrong refuses the account for a limit that is neither one nor none.
func (a *account) wrong(what string, at *int64) {
	a.m.refuse(a.src, fmt.Sprintf("%s is %d, of which servers make what they can", what, *at), "set it right with nsc, or leave the account out")
	a.gone = a.gone || a.m.leaves(a.src)
	*at = 0
}

// maxPayload is the largest message that any server takes.
const maxPayload = 64 << 20

// streams brings limits of streams into form, those for all of them or those of tiers.
func (a *account) streams(l *jwt.OperatorLimits) {
	if len(l.JetStreamTieredLimits) == 0 {
		l.JetStreamLimits = a.store("limits", l.JetStreamLimits)
		return
	}
	for _, tier := range slices.Sorted(maps.Keys(l.JetStreamTieredLimits)) {
		t := a.store("limits."+tier, l.JetStreamTieredLimits[tier])
		switch {
		case t.MemoryStorage == 0 && t.DiskStorage == 0:
			delete(l.JetStreamTieredLimits, tier) // as of one that is not there: no streams
		case tier != "R1" && tier != "R3":
			a.m.refuse(a.item("jetstream", tier), "limits of JetStream are for the tiers R1 and R3 here", "take the tier away with nsc, or leave it out: then the account has no streams with so many replicas")
			delete(l.JetStreamTieredLimits, tier)
		default:
			l.JetStreamTieredLimits[tier] = t
		}
	}
}

// store brings limits of streams into one form: what is without limit is -1.
func (a *account) store(where string, l jwt.JetStreamLimits) jwt.JetStreamLimits {
	for _, v := range []struct {
		name string
		at   *int64
	}{{"mem_storage", &l.MemoryStorage}, {"disk_storage", &l.DiskStorage}} {
		if *v.at < jwt.NoLimit {
			a.wrong(where+"."+v.name, v.at)
		}
	}
	for _, v := range []*int64{&l.Streams, &l.Consumer, &l.MaxAckPending, &l.MemoryMaxStreamBytes, &l.DiskMaxStreamBytes} {
		if *v <= 0 {
			*v = jwt.NoLimit
		}
	}
	return l
}

// signingKeys takes out the keys that are no roles, and names the others.
func (a *account) signingKeys() {
	m := a.m
	taken := map[string]bool{}
	var unnamed []string
	for _, key := range slices.Sorted(maps.Keys(a.c.SigningKeys)) {
		scope, ok := a.c.SigningKeys[key].(*jwt.UserScope)
		if !ok || scope == nil {
			hint := "make roles of it (nsc edit signing-key --role …), or leave it out: then users under it cannot connect any more"
			if a.own {
				hint = "leave it out: Herald has roles of its own there"
			}
			m.refuse(a.item("signing-keys", key), "a signing key without a role: who has it gives users whatever rights it likes", hint)
			delete(a.c.SigningKeys, key)
			continue
		}
		if a.own && !a.ownRole(key, scope) {
			delete(a.c.SigningKeys, key)
			continue
		}
		if m.s.Keys[key] == nil {
			m.refuse(a.item("roles", shown(scope.Role, key)), "the seed of its key "+key+" is not in the keystore", "bring it there, or leave the role out: then its users cannot connect any more")
			delete(a.c.SigningKeys, key)
			continue
		}
		name, err := ident.ParseLabel(scope.Role)
		if fresh, ok := m.o.Roles[key]; ok {
			name, err = fresh, nil
		} else if scope.Role == "" {
			unnamed = append(unnamed, key)
			continue
		}
		switch {
		case err != nil:
			m.refuse(a.item("roles", scope.Role), "the name of a role is 1 to 32 of A-Z, a-z, 0-9, _ and -", "name it with --role "+key+"=NAME")
		case taken[name.String()]:
			m.refuse(a.item("roles", name.String(), key), "two keys of the account have this role", "name it with --role "+key+"=NAME")
		default:
			taken[name.String()] = true
			a.roles[key] = name
			continue
		}
		if m.leaves(a.item("roles", scope.Role)) || m.leaves(a.item("roles", name.String(), key)) {
			delete(a.c.SigningKeys, key)
			continue
		}
		a.roles[key] = label("x" + strings.ToLower(key[len(key)-16:])) // until it is named
	}
	for i, n := 0, 1; i < len(unnamed); n++ {
		name := "role-" + strconv.Itoa(n)
		if taken[name] {
			continue
		}
		a.roles[unnamed[i]] = label(name)
		m.note(a.item("signing-keys", unnamed[i]), "its role has no name, and is called %s here", name)
		i++
	}
}

// ownRole tells whether a key is that of a role that Herald itself has in the account, and
// so is to be kept; what the role may do comes from Herald. Others go along in CHAT.
func (a *account) ownRole(key string, scope *jwt.UserScope) bool {
	tagged := a.tagged()
	for _, r := range builtin(a.m.o.Into, a.name).Roles {
		if !tagged || r.Name.String() != scope.Role {
			continue
		}
		if a.m.s.Keys[key] == nil {
			a.m.note(a.item("roles", scope.Role), "the seed of its key is not in the keystore: the role gets a new one")
			return false
		}
		return true
	}
	if a.name.String() == manifest.ChatIn && tagged {
		return true
	}
	a.m.refuse(a.item("signing-keys", key), "nobody but Herald's own services is in "+a.name.String(), "leave it out: then its users cannot connect any more")
	return false
}

// shown is what a role is called that may have no name.
func shown(role, key string) string {
	if role == "" {
		return key
	}
	return role
}

// defaults gives the account's default permissions to those roles that have none of their
// own: so do servers.
func (a *account) defaults() {
	d := a.c.DefaultPermissions
	a.c.DefaultPermissions = jwt.Permissions{}
	if isEmpty(d) || a.own {
		return
	}
	// Servers take templates in them for words like any other.
	literal := slices.ContainsFunc(slices.Concat(d.Pub.Allow, d.Pub.Deny, d.Sub.Allow, d.Sub.Deny), func(s string) bool { return strings.ContainsAny(s, "{}") })
	for _, key := range slices.Sorted(maps.Keys(a.roles)) {
		t := &a.c.SigningKeys[key].(*jwt.UserScope).Template //nolint:errcheck,forcetypeassert // the others were taken out
		if !isEmpty(t.Permissions) {
			continue
		}
		if literal {
			a.m.refuse(a.item("roles", a.roles[key].String()), "it has the account's default permissions, and their braces, which are no templates there, would be some here",
				"give it permissions of its own with nsc, or leave the role out: then its users cannot connect any more")
			a.drop(key)
			continue
		}
		t.Pub.Allow, t.Pub.Deny = slices.Clone(d.Pub.Allow), slices.Clone(d.Pub.Deny)
		t.Sub.Allow, t.Sub.Deny = slices.Clone(d.Sub.Allow), slices.Clone(d.Sub.Deny)
		if d.Resp != nil {
			resp := *d.Resp
			t.Resp = &resp
		}
		a.m.note(a.item("roles", a.roles[key].String()), "it had the account's default permissions, and has them for its own here")
	}
}

func isEmpty(p jwt.Permissions) bool { return p.Pub.Empty() && p.Sub.Empty() && p.Resp == nil }

// drop takes a role out.
func (a *account) drop(key string) {
	delete(a.c.SigningKeys, key)
	delete(a.roles, key)
}

// template brings the template of a role into one form.
func (a *account) template(scope *jwt.UserScope) {
	t := &scope.Template
	whole := func(why string) {
		a.m.refuse(a.item("roles", scope.Role), why, "change that with nsc, or leave the role out: then its users cannot connect any more")
		a.drop(scope.Key)
	}
	if t.ProxyRequired {
		whole("its users must come through a proxy that the server trusts, and Herald knows of none")
		return
	}
	for _, list := range []jwt.StringList{t.Pub.Allow, t.Pub.Deny, t.Sub.Allow, t.Sub.Deny} {
		if slices.Contains(list, "") {
			whole("one of its permissions is empty")
			return
		}
	}
	if err := a.unusable(t.Permissions); err != nil {
		// Without the line that is at fault, its users could connect.
		whole("servers refuse all of its users: " + line(err.Error()))
		return
	}
	if r := t.Resp; r != nil {
		if r.MaxMsgs == 0 {
			r.MaxMsgs = 1 // as servers do
		}
		if r.Expires == 0 {
			r.Expires = 2 * time.Minute
		}
	}
	// A list that is there and empty allows nothing, beside one that denies; so does none
	// beside a right to answer. Everything is allowed otherwise where nothing is by name.
	nothing := t.Resp != nil || t.Pub.Allow != nil && len(t.Pub.Deny) > 0
	t.Pub = permitted(t.Pub, nothing)
	t.Sub = permitted(t.Sub, false)
	if len(t.AllowedConnectionTypes) == 0 {
		t.AllowedConnectionTypes = connectionTypes()
	}
	t.AllowedConnectionTypes = unique(t.AllowedConnectionTypes)
	for i, s := range t.Src {
		if p, err := netip.ParsePrefix(s); err == nil {
			t.Src[i] = p.Masked().String()
		}
	}
	t.Src = unique(t.Src)
	for i, h := range t.Times {
		t.Times[i] = jwt.TimeRange{Start: clock(h.Start), End: clock(h.End)}
	}
	if len(t.Times) == 0 {
		t.Times, t.Locale = nil, ""
	}
	if most := a.c.Limits.Payload; most != jwt.NoLimit && t.Payload > most || t.Payload > maxPayload {
		t.Payload = jwt.NoLimit // the account's holds, or the servers'
	}
}

// unusable says why servers let nobody connect who has these permissions, whoever it is.
func (a *account) unusable(p jwt.Permissions) error {
	account, err := permission.AccountOf(a.c, a.system)
	if err != nil {
		return err
	}
	user, err := ident.ParseUserKey(anybody())
	if err != nil {
		return err
	}
	// What a user lacks for what is denied, another may have.
	p.Pub.Deny, p.Sub.Deny = nil, nil
	if _, err = permission.Expand(p, permission.User{Key: user, Account: account}); errors.Is(err, permission.ErrRefused) {
		return err
	}
	return nil
}

// anybody is the key of a user that nobody has the seed of.
func anybody() string {
	pub, err := nkeys.Encode(nkeys.PrefixByteUser, make([]byte, 32))
	if err != nil {
		return ""
	}
	return string(pub)
}

// permitted is a permission in the form in which Herald writes it: what is allowed is
// named, and where nothing is, everything is denied.
func permitted(p jwt.Permission, nothing bool) jwt.Permission {
	switch {
	case len(p.Allow) > 0:
		return jwt.Permission{Allow: unique(p.Allow), Deny: unique(p.Deny)}
	case nothing || slices.Contains(p.Deny, ">"):
		return jwt.Permission{Deny: jwt.StringList{">"}}
	default:
		return jwt.Permission{Allow: jwt.StringList{">"}, Deny: unique(p.Deny)}
	}
}

// connectionTypes are all there are: what a list without any means to servers.
func connectionTypes() jwt.StringList {
	return jwt.StringList{
		jwt.ConnectionTypeStandard, jwt.ConnectionTypeWebsocket, jwt.ConnectionTypeLeafnode, jwt.ConnectionTypeLeafnodeWS,
		jwt.ConnectionTypeMqtt, jwt.ConnectionTypeMqttWS, jwt.ConnectionTypeInProcess,
	}
}

// clock is a time of day in the form that servers print.
func clock(s string) string {
	if t, err := time.Parse(time.TimeOnly, s); err == nil {
		return t.Format(time.TimeOnly)
	}
	return s
}

// unique takes out what is there already; the list is changed.
func unique[L ~[]string](list L) L {
	seen := make(map[string]bool, len(list))
	out := slices.DeleteFunc(list, func(s string) bool {
		was := seen[s]
		seen[s] = true
		return was
	})
	if len(out) == 0 {
		return nil
	}
	return out
}

// exports brings exports into one form.
func (a *account) exports() {
	for _, e := range a.c.Exports {
		if e.Name == "" {
			e.Name = string(e.Subject)
		}
		if e.Type == jwt.Service && e.ResponseType == "" {
			e.ResponseType = jwt.ResponseTypeSingleton
		}
		if !e.IsSingleResponse() {
			e.Latency = nil // servers measure nothing else
		}
		if e.AccountTokenPosition > 0 {
			e.TokenReq = false // servers look at the position first, and then at nothing else
		}
		if !e.TokenReq {
			e.Revocations = nil // of activations, which nobody needs
		}
	}
}
