package manifest

import (
	"fmt"
	"slices"
	"strings"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nkeys"

	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/policy"
)

func (c *checker) identities() {
	names := make([]ident.Name, len(c.f.Identities))
	ids := make([]ident.Identity, len(c.f.Identities))
	for i, id := range c.f.Identities {
		names[i], ids[i] = id.Name, id.Identity
		if slices.Contains(Kinds(), id.Name.String()) {
			c.bad(fmt.Sprintf("identities[%d].name", i), "take another name", "%s is a kind of identities", id.Name)
		}
	}
	once(c, names, "identity", func(i int) string { return fmt.Sprintf("identities[%d].name", i) })
	once(c, ids, "identity", func(i int) string { return fmt.Sprintf("identities[%d].identity", i) })
}

// grantID is what must not be granted twice.
type grantID struct {
	to         string
	role       RoleRef
	conditions string
}

// conditions are a grant's, as text: equal if they ask for the same.
func conditions(g Grant) string {
	groups := slices.Sorted(slices.Values(g.Groups))
	claims := make([]string, len(g.Claims))
	for i, cl := range g.Claims {
		claims[i] = fmt.Sprintf("%q%q", cl.Claim, slices.Sorted(slices.Values(cl.Values)))
	}
	slices.Sort(claims)
	return fmt.Sprintf("%s %q %q", g.Provider, groups, claims)
}

// conditions checks what a grant asks for besides.
func (c *checker) conditions(at string, g Grant, to string) {
	if !g.Name.IsZero() && (to == Everyone || strings.HasSuffix(to, "."+Everyone) || slices.Contains(Kinds(), to)) {
		c.bad(at+".name", "leave it out, or grant it to each identity", "%s may be many, and a name is one identity's", to)
	}
	if g.Provider.IsZero() && len(g.Groups) == 0 && len(g.Claims) == 0 {
		return
	}
	if kind, _, _ := strings.Cut(to, ":"); slices.Contains(Kinds(), kind) && kind != ident.KindOIDC {
		c.bad(at, "grant it to oidc, or leave out provider, groups and claims", "nobody vouches for %s: what a provider says is said of logins alone", to)
		return
	}
	if len(g.Groups) > policy.MaxConditions || len(g.Claims) > policy.MaxConditions {
		c.bad(at, "make several grants of it", "it has more than %d groups or claims", policy.MaxConditions)
		return
	}
	if len(g.Groups) > 0 {
		c.groups(at, g, to)
	}
	for i, v := range g.Groups {
		c.conditionText(fmt.Sprintf("%s.groups[%d]", at, i), v)
	}
	once(c, g.Groups, "group", func(i int) string { return fmt.Sprintf("%s.groups[%d]", at, i) })
	names := make([]string, len(g.Claims))
	for i, cl := range g.Claims {
		where := fmt.Sprintf("%s.claims[%d]", at, i)
		names[i] = cl.Claim
		if cl.Claim != "" {
			c.conditionText(where+".claim", cl.Claim)
		}
		if len(cl.Values) > policy.MaxAnswers {
			c.bad(where+".values", "make several grants of it", "there are %d values, of at most %d", len(cl.Values), policy.MaxAnswers)
			continue
		}
		for j, v := range cl.Values {
			c.conditionText(fmt.Sprintf("%s.values[%d]", where, j), v)
		}
		once(c, cl.Values, "value", func(j int) string { return fmt.Sprintf("%s.values[%d]", where, j) })
	}
	once(c, names, "claim", func(i int) string { return fmt.Sprintf("%s.claims[%d].claim", at, i) })
}

// groups refuses groups where no provider that the grant may be about tells of any.
func (c *checker) groups(at string, g Grant, to string) {
	var silent []string
	for _, p := range c.f.Providers {
		if !g.Provider.IsZero() && g.Provider != p.Name || strings.HasPrefix(to, ident.KindOIDC+":") && !strings.HasPrefix(to, ident.KindOIDC+":"+p.Name.String()+":") {
			continue
		}
		if p.GroupsClaim != "" {
			return
		}
		silent = append(silent, p.Name.String())
	}
	if len(silent) > 0 {
		c.bad(at+".groups", "set groups_claim of the provider, or ask for a claim", "%s tells of no groups: there is no groups_claim", strings.Join(silent, ", "))
	}
}

// conditionText refuses what no provider says.
func (c *checker) conditionText(at, s string) {
	if len(s) > policy.MaxValue {
		c.bad(at, "shorten it", "it has %d bytes, of at most %d", len(s), policy.MaxValue)
		return
	}
	c.text(at, s)
}

func (c *checker) grants() {
	named := make(map[string]ident.Identity, len(c.f.Identities))
	for _, id := range c.f.Identities {
		named[id.Name.String()] = id.Identity
	}
	seen := make(map[grantID]int, len(c.f.Grants))
	for i, g := range c.f.Grants {
		at := fmt.Sprintf("grants[%d]", i)
		to := c.grantee(at, g, named)
		ref := RoleRef{g.Account, g.Role}
		c.conditions(at, g, to)
		if id := (grantID{to, ref, conditions(g)}); to != "" && !g.Account.IsZero() && !g.Role.IsZero() {
			if first, ok := seen[id]; ok {
				c.bad(at, "remove one of them", "%s is granted to %s twice: by number %d already", ref, to, first+1)
			} else {
				seen[id] = i
			}
		}
		if r, ok := c.grantedRole(at, ref); ok {
			c.grant(at, g, to, r)
		}
		c.grantTags(at, g)
	}
}

// grantee resolves whom a grant is to: an identity as text, or a kind; empty if it
// cannot be.
func (c *checker) grantee(at string, g Grant, named map[string]ident.Identity) string {
	if id, ok := named[g.To]; ok {
		return id.String()
	}
	if g.To == "" || g.To == Everyone || slices.Contains(Kinds(), g.To) {
		return g.To
	}
	if category, ok := strings.CutSuffix(g.To, "."+Everyone); ok {
		for name := range named {
			if strings.HasPrefix(name, category+".") {
				return g.To
			}
		}
		c.missing(at+".to", "identities", "give identities names such as "+firstOf(category)+".billing", "no identity is in a category %.64q", category)
		return ""
	}
	if strings.Contains(g.To, ":") {
		id, err := ident.ParseIdentity(g.To)
		if err != nil {
			reason, hint := parts(err)
			c.bad(at+".to", hint, "%s", reason)
			return ""
		}
		return id.String()
	}
	if len(c.problems) > maxProblems {
		return "" // nobody will read more
	}
	known := Kinds()
	for _, id := range c.f.Identities {
		known = append(known, id.Name.String())
	}
	hint := "name one of identities, write one out such as key:HK…, or say open, invite, key, oidc or DEFAULT"
	if near := nearest(g.To, known); near != "" {
		hint = "did you mean " + near + "?"
	}
	c.missing(at+".to", "identities", hint, "there is no identity %.64q", g.To)
	return ""
}

// firstOf is a category as it can be written in a hint.
func firstOf(category string) string {
	if _, err := ident.ParseName(category); err != nil {
		return "services"
	}
	return category
}

// held is a role and the account that it is in.
type held struct {
	*Role
	account *Account
}

// grantedRole finds a role by name, or says that it is not there.
func (c *checker) grantedRole(at string, ref RoleRef) (held, bool) {
	if ref.Account.IsZero() || ref.Role.IsZero() {
		return held{}, false // missing
	}
	accountPath, rolePath := at+".account", at+".role"
	if at == "default_sentinel" {
		accountPath, rolePath = at, at
	}
	j, ok := c.accounts[ref.Account]
	if !ok {
		c.missing(accountPath, "accounts", c.nearAccount(ref.Account), "there is no account %s", ref.Account)
		return held{}, false
	}
	a := &c.all[j]
	for i := range a.Roles {
		if a.Roles[i].Name == ref.Role {
			return held{&a.Roles[i], a}, true
		}
	}
	var names []string
	for i := range a.Roles {
		names = append(names, a.Roles[i].Name.String())
	}
	hint := "add it to roles of the account"
	if near := nearest(ref.Role.String(), names); near != "" {
		hint = "did you mean " + near + "?"
	} else if len(names) > 0 {
		hint = "roles of " + ref.Account.String() + " are " + strings.Join(names[:min(len(names), 8)], ", ")
	}
	c.missing(rolePath, "accounts.roles", hint, "account %s has no role %s", ref.Account, ref.Role)
	return held{}, false
}

func (c *checker) grant(at string, g Grant, to string, r held) {
	switch {
	case r.account.services:
		c.bad(at, "set-up and services get their credentials when the platform is made", "%s/%s is for Herald's own services, and nobody else", g.Account, g.Role)
		return
	case r.account.own && r.account.Name.String() == Guest:
		c.bad(at, "grant a role of "+ChatIn+" or of an account of yours", "whoever asks is a guest already: a guest asks for credentials, and gets none of %s", g.Account)
		return
	case r.Bearer:
		c.bad(at, "leave bearer out of the role", "role %s/%s has bearers: who asks for a credential as a guest gets it where all guests can read it, and could not be told from them", g.Account, g.Role)
	}
	if kind, _, _ := strings.Cut(to, ":"); r.Callout && (kind == ident.KindOpen || kind == ident.KindInvite) {
		c.bad(at+".to", "grant it to access keys or logins", "role %s/%s is for who comes in by auth callout, and nobody comes so as %s", g.Account, g.Role, kind)
	}
	asks := to == ident.KindOIDC && len(g.Groups)+len(g.Claims) > 0
	if (to == Everyone || slices.Contains(Kinds(), to) && to != ident.KindKey && !asks) && !r.Public {
		c.bad(at+".to", "grant it to identities by name, or say public: true of the role", "%s/%s is not public, and %s is whoever %s", g.Account, g.Role, to, comes(to))
	}
	if g.Lifetime != 0 || g.Longest != 0 {
		_, longest := c.f.Lifetimes(*r.Role)
		c.lifetimes(at, g.Lifetime, g.Longest, longest)
		if g.Longest > longest && r.Longest != 0 {
			c.bad(at+".longest", "raise that of the role, or lower this", "longest %s is longer than that of role %s/%s, %s", g.Longest, g.Account, g.Role, longest)
		}
	}
	c.neededTags(at, g, to, r)
}

// comes says who is of a kind.
func comes(kind string) string {
	return map[string]string{
		Everyone: "asks", ident.KindOpen: "asks", ident.KindInvite: "has an invitation", ident.KindOIDC: "has a login", ident.KindKey: "has an access key",
	}[kind]
}

func (c *checker) grantTags(at string, g Grant) {
	for i, tag := range g.Tags {
		where := fmt.Sprintf("%s.tags[%d]", at, i)
		if err := CheckTag(tag); err != nil {
			reason, hint := parts(err)
			c.bad(where, hint, "%s", reason)
			continue
		}
		if key, _, _ := strings.Cut(tag, ":"); slices.Contains(OwnTags(), key) {
			c.bad(where, "use another key", "the tag %s is Herald's own", key)
		}
	}
	once(c, g.Tags, "tag", func(i int) string { return fmt.Sprintf("%s.tags[%d]", at, i) })
	if size := 0; len(g.Tags) > 0 {
		for _, t := range g.Tags {
			size += len(t)
		}
		if size < smallTags {
			return
		}
		if n := connectSize(g.Tags); n > MaxConnect {
			c.bad(at+".tags", "have fewer or shorter tags", "credentials with these tags are too large to connect: %d bytes of at most %d", n, MaxConnect)
		}
	}
}

// maxExpansions is how many subjects servers make of one list with templates
// (maxPermTemplateSubjectExpansions).
const maxExpansions = 4096

// neededTags checks that a grant gives the tags that its role's templates name, each one
// word of a subject, and not too many. Where one is not there, servers drop what is
// allowed and refuse the user for what is denied.
func (c *checker) neededTags(at string, g Grant, to string, r held) {
	for _, l := range []struct {
		key  string
		list []string
		deny bool
	}{
		{"publish.allow", r.Publish.Allow, false},
		{"publish.deny", r.Publish.Deny, true},
		{"subscribe.allow", r.Subscribe.Allow, false},
		{"subscribe.deny", r.Subscribe.Deny, true},
	} {
		total := 0
		for _, s := range l.list {
			if !strings.Contains(s, "{{") {
				total++
				continue
			}
			p, reason, _ := parsePattern(s)
			if reason != "" {
				continue
			}
			n, ok := c.expands(at, g, to, r, p, l.key, l.deny)
			if !ok {
				return
			}
			tagged := len(p.tags(fnTag))+len(p.tags(fnAccountTag)) > 0
			if total += n; tagged && total > maxExpansions { // servers do not count where there are none
				c.bad(at+".tags", "give fewer values of a tag, or name fewer tags in one subject", "with these tags %s of role %s/%s becomes more than %d subjects, and servers refuse the user", l.key, g.Account, g.Role, maxExpansions)
				return
			}
		}
	}
}

// expands is how many subjects servers make of a pattern for a grant's users.
func (c *checker) expands(at string, g Grant, to string, r held, p pattern, list string, deny bool) (n int, ok bool) {
	n = 1
	for _, t := range p.templates {
		var values []string
		switch {
		case t.fn == fnAccountTag:
			n *= max(len(valuesOf(r.account.Tags, t.key)), 1)
			continue
		case t.fn != fnTag || t.key == tagIdentity || t.key == tagRegion || t.key == tagProven:
			continue
		case t.key == tagKey:
			if deny && !r.Callout && to != ident.KindKey && !strings.HasPrefix(to, ident.KindKey+":") {
				c.bad(at, "grant it to access keys, or name {{subject()}} instead", "%s of role %s/%s names the tag kid, which only holders of access keys have: servers would refuse the others", list, g.Account, g.Role)
				return 0, false
			}
			continue
		default:
			values = valuesOf(g.Tags, t.key)
		}
		if len(values) == 0 {
			where := at
			if len(g.Tags) > 0 {
				where = at + ".tags"
			}
			c.bad(where, "add "+t.key+":value to tags of the grant", "%s of role %s/%s names the tag %s, and this grant gives none", list, g.Account, g.Role, t.key)
			return 0, false
		}
		for _, v := range values {
			if !isWord(v) {
				c.bad(at+".tags", "write the value without dots", "the tag %s:%s is more than one word of a subject, and %s of role %s/%s puts it into one", t.key, v, list, g.Account, g.Role)
				return 0, false
			}
		}
		if n *= len(values); n > maxExpansions {
			return n, true
		}
	}
	return n, true
}

func (c *checker) sentinel() {
	ref := c.f.DefaultSentinel
	if ref.IsZero() {
		return
	}
	const at = "default_sentinel"
	if c.f.Callout {
		if ref != c.f.Sentinel() {
			c.bad(at, "leave out one of them", "with callout: true whoever connects without credentials is %s", c.f.Sentinel())
		}
		return
	}
	r, ok := c.grantedRole(at, ref)
	if !ok {
		return
	}
	switch {
	case r.account.services:
		c.bad(at, "name a role of an account of yours", "%s is for Herald's own services", ref.Account)
	case !r.Bearer:
		c.bad(at, "say bearer: true of the role, and limits: {bearers: true} of its account", "role %s has no bearers: servers would start, and then everyone without credentials would hang", ref)
	case !r.Public:
		c.bad(at, "say public: true of the role", "role %s is not public, and whoever connects without credentials would have it", ref)
	}
}

// MaxConnect is the longest CONNECT that servers read, in bytes: their max_control_line.
const MaxConnect = 4096

// smallTags are tags, in bytes, that fit whatever the rest of a CONNECT is.
const smallTags = 1024

// connectSize is the size of the longest CONNECT of a user with these tags beside
// Herald's own, with the longest name, identity and region.
func connectSize(tags []string) int {
	user, err := nkeys.Encode(nkeys.PrefixByteUser, make([]byte, 32))
	if err != nil {
		panic(err) // 32 bytes are a key
	}
	account, err := nkeys.Encode(nkeys.PrefixByteAccount, make([]byte, 32))
	if err != nil {
		panic(err)
	}
	issuer, err := nkeys.FromPublicKey(string(account))
	if err != nil {
		panic(err)
	}
	claims := jwt.NewUserClaims(string(user))
	claims.SetScoped(true)
	claims.Name = strings.Repeat("n", 32)
	claims.IssuerAccount = string(account)
	claims.Expires = 1 << 40 // more digits than it will have
	claims.Tags = append(jwt.TagList{
		tagIdentity + ":" + strings.Repeat("i", 6), tagRegion + ":" + strings.Repeat("r", 16), tagLogin + ":" + strings.Repeat("o", 32+1+255),
		tagProven + ":" + strings.Repeat("p", 12), tagMet + ":" + strings.Repeat("m", 16),
		tagBy + ":" + strings.Repeat("b", 16),
	}, tags...)
	token, err := claims.EncodeWithSigner(issuer, func(string, []byte) ([]byte, error) { return make([]byte, 64), nil })
	if err != nil {
		panic(err) // nothing of it comes from the file but tags, which are texts
	}
	return len(token) + connectRest
}

// connectRest is what a CONNECT has beside the JWT: the signature of the nonce, and what
// the client says of itself, with a name of up to 256 bytes.
const connectRest = 86 + 256 + 410
