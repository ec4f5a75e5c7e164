package policy_test

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/herald-nats/herald/pkg/authn"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/policy"
	"github.com/herald-nats/herald/pkg/wire"
)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func name(s string) ident.Name { return must(ident.ParseName(s)) }

func identity(s string) ident.Identity { return must(ident.ParseIdentity(s)) }

// people are whom the properties are about: some have names in categories.
func people() []ident.Identity {
	return []ident.Identity{
		identity("oidc:acme:alice"), identity("oidc:acme:bob"), identity("oidc:other:alice"), identity("key:HKAAAAAAAAAAAAAAAAAA"), identity("key:HKBBBBBBBBBBBBBBBBBB"),
	}
}

func names() []policy.Named {
	p := people()
	return []policy.Named{
		{Name: name("staff.eu.alice"), Identity: p[0]}, {Name: name("staff.bob"), Identity: p[1]}, {Name: name("services.billing"), Identity: p[3]},
	}
}

type generator struct{ *rapid.T }

func (g generator) oneOf(what string, of ...string) string {
	return rapid.SampledFrom(of).Draw(g.T, what)
}

func (g generator) some(what string, of ...string) []string {
	return rapid.SliceOfNDistinct(rapid.SampledFrom(of), 0, 3, rapid.ID[string]).Draw(g.T, what)
}

// offer is to somebody, asks for something, and gives something.
func (g generator) offer() policy.Offer {
	o := policy.Offer{
		Account: must(ident.ParseLabel(g.oneOf("account", "A", "B"))), Role: must(ident.ParseLabel(g.oneOf("role", "r", "s"))),
		Default: seconds(time.Minute), Longest: seconds(time.Hour),
	}
	switch g.oneOf("to", "identity", "category", "kind", "kind", "everyone") {
	case "identity":
		id := rapid.SampledFrom(people()).Draw(g.T, "identity")
		o.Identity = &id
	case "category":
		o.Category = g.oneOf("category", "staff", "staff.eu", "services", "staff.eu.alice")
	case "kind":
		o.Kind = g.oneOf("kind", "oidc", "oidc", "key")
	case "everyone":
		o.Everyone = true
	}
	if g.oneOf("provider", "", "", "acme") != "" {
		o.Provider = must(ident.ParseLabel("acme"))
	}
	o.Groups = g.some("groups", "dev", "ops")
	for _, claim := range g.some("claims", "ref", "repo") {
		o.Claims = append(o.Claims, policy.Claim{Name: claim, Values: append(g.some("values", "a", "ab", "abc", "a*", "ab*", "b*"), g.oneOf("value", "a", "ab", "b", "*"))})
	}
	return o
}

func (g generator) policy() policy.Policy {
	p := policy.Policy{Identities: names()}
	for range rapid.IntRange(0, 8).Draw(g.T, "offers") {
		p.Offers = append(p.Offers, g.offer())
	}
	return p
}

func (g generator) asker() policy.Asker {
	who := authn.Who{Identity: rapid.SampledFrom(people()).Draw(g.T, "who")}
	who.Provider = who.Identity.Provider()
	if who.Identity.Kind() == ident.KindOIDC {
		who.Groups = g.some("in", "dev", "ops", "none")
		who.Claims = map[string][]string{}
		for _, claim := range g.some("says", "ref", "repo") {
			who.Claims[claim] = []string{g.oneOf("said", "a", "ab", "abc", "abcd", "b", "bc", "c")}
		}
	} else {
		for _, account := range g.some("granted", "A", "B") {
			who.Granted = append(who.Granted, authn.Granted{Account: must(ident.ParseLabel(account)), Role: must(ident.ParseLabel("r"))})
		}
		if who.Granted == nil {
			who.Granted = []authn.Granted{}
		}
	}
	return policy.Asker{Who: who}
}

func (g generator) wish() policy.Wish {
	w := policy.Wish{Name: name("somebody")}
	if a := g.oneOf("wished account", "", "", "A", "B"); a != "" {
		w.Account = must(ident.ParseLabel(a))
	}
	return w
}

func decide(p policy.Policy, a policy.Asker, w policy.Wish) (policy.Grant, wire.Code) {
	g, err := policy.NewIndex(p).Decide(a, w, now())
	if err != nil {
		return policy.Grant{}, err.Code
	}
	g.Line = 0 // lines move
	return g, ""
}

// TestOthersAnswers: a rule for one identity changes no other's answer, wherever it is
// added.
func TestOthersAnswers(t *testing.T) {
	changed := 0
	property := func(rt *rapid.T) {
		g := generator{rt}
		p, a, w := g.policy(), g.asker(), g.wish()
		before, code := decide(p, a, w)
		o := g.offer()
		other := rapid.SampledFrom(people()).Draw(rt, "for")
		o.Identity, o.Category, o.Kind, o.Everyone = &other, "", "", false
		q := p
		q.Offers = slices.Insert(slices.Clone(p.Offers), rapid.IntRange(0, len(p.Offers)).Draw(rt, "at"), o)
		after, codeAfter := decide(q, a, w)
		same := reflect.DeepEqual(before, after) && code == codeAfter
		if other != a.Identity && !same {
			rt.Fatalf("%s: %+v %s became %+v %s by a rule for %s", a.Identity, before, code, after, codeAfter, other)
		}
		if !same {
			changed++
		}
	}
	// What is drawn may leave everything as it was, by chance: then more is drawn.
	for range 20 {
		if rapid.Check(t, property); changed > 0 || t.Failed() {
			break
		}
	}
	if changed == 0 {
		t.Error("no rule changed anything: the test says nothing")
	}
}

// fits says whether an offer fits somebody, written anew from what the documentation says.
func fits(p policy.Policy, o policy.Offer, a policy.Asker, w policy.Wish) bool {
	to := false
	switch {
	case o.Identity != nil:
		to = *o.Identity == a.Identity
	case o.Category != "":
		for _, n := range p.Identities {
			to = to || n.Identity == a.Identity && strings.HasPrefix(n.Name.String(), o.Category+".")
		}
	case o.Everyone:
		to = true
	default:
		to = o.Kind == a.Identity.Kind()
	}
	if !to || !o.Provider.IsZero() && o.Provider != a.Provider || !w.Account.IsZero() && w.Account != o.Account {
		return false
	}
	if len(o.Groups) > 0 && !slices.ContainsFunc(o.Groups, func(g string) bool { return slices.Contains(a.Groups, g) }) {
		return false
	}
	for _, c := range o.Claims {
		one := false
		for _, have := range a.Claims[c.Name] {
			for _, v := range c.Values {
				one = one || v == have || strings.HasSuffix(v, "*") && strings.HasPrefix(have, strings.TrimSuffix(v, "*"))
			}
		}
		if !one {
			return false
		}
	}
	return a.Granted == nil || o.Identity != nil || slices.ContainsFunc(a.Granted, func(g authn.Granted) bool { return g.Account == o.Account && g.Role == o.Role })
}

// level is how general whom an offer is to is, for somebody whom it is to.
func level(p policy.Policy, o policy.Offer, a policy.Asker) int {
	switch {
	case o.Identity != nil:
		return 0
	case o.Category != "":
		for _, n := range p.Identities {
			if n.Identity == a.Identity {
				return 1 + strings.Count(n.Name.String(), ".") - strings.Count(o.Category, ".")
			}
		}
	case o.Everyone:
		return 101
	}
	return 100
}

// within tells whether whoever has what o asks for also has what q asks for, and not the
// other way round.
func within(o, q policy.Offer) bool { return implies(o, q) && !implies(q, o) }

func implies(o, q policy.Offer) bool {
	if !q.Provider.IsZero() && o.Provider != q.Provider {
		return false
	}
	if len(q.Groups) > 0 && (len(o.Groups) == 0 || slices.ContainsFunc(o.Groups, func(g string) bool { return !slices.Contains(q.Groups, g) })) {
		return false
	}
	for _, c := range q.Claims {
		i := slices.IndexFunc(o.Claims, func(d policy.Claim) bool { return d.Name == c.Name })
		if i < 0 {
			return false
		}
		for _, v := range o.Claims[i].Values {
			if !slices.ContainsFunc(c.Values, func(x string) bool {
				begin, open := strings.CutSuffix(x, "*")
				return x == v || open && strings.HasPrefix(strings.TrimSuffix(v, "*"), begin)
			}) {
				return false
			}
		}
	}
	return true
}

// TestTheParticularWins: what decides fits, and nothing else that fits is more particular.
func TestTheParticularWins(t *testing.T) {
	contested := 0
	property := func(rt *rapid.T) {
		g := generator{rt}
		p, a, w := g.policy(), g.asker(), g.wish()
		got, err := policy.NewIndex(p).Decide(a, w, now())
		any := slices.ContainsFunc(p.Offers, func(o policy.Offer) bool { return fits(p, o, a, w) })
		if any != (err == nil) {
			rt.Fatalf("something fits: %v, and the answer is %v", any, err)
		}
		if err != nil {
			return
		}
		won := p.Offers[got.Line]
		if !fits(p, won, a, w) || got.Account != won.Account || got.Role != won.Role {
			rt.Fatalf("%s decided, which does not fit %+v", won, a)
		}
		for i, o := range p.Offers {
			if i == got.Line || !fits(p, o, a, w) {
				continue
			}
			contested++
			switch l, lw := level(p, o, a), level(p, won, a); {
			case l < lw, l == lw && within(o, won), l == lw && i < got.Line && implies(o, won) && implies(won, o):
				rt.Fatalf("%s decided, and %s is more particular, or the same and first", won, o)
			}
		}
	}
	for range 20 {
		if rapid.Check(t, property); contested > 0 || t.Failed() {
			break
		}
	}
	if contested == 0 {
		t.Error("never did two fit: the test says nothing")
	}
}

// TestExplain: it says what Decide decides, and why each line before was passed over.
func TestExplain(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		g := generator{rt}
		p, a, w := g.policy(), g.asker(), g.wish()
		x := policy.NewIndex(p)
		got, err := x.Decide(a, w, now())
		e := x.Explain(a, w, now())
		if !reflect.DeepEqual(e.Grant, got) || !reflect.DeepEqual(e.Err, err) {
			rt.Fatalf("%+v %v is explained as %+v %v", got, err, e.Grant, e.Err)
		}
		for i, l := range e.Lines {
			last := i == len(e.Lines)-1
			if (l.Why == "") != (last && err == nil) || fits(p, l.Offer, a, w) != (l.Why == "") || !reflect.DeepEqual(p.Offers[l.Index], l.Offer) {
				rt.Fatalf("line %d of %d: %+v", i, len(e.Lines), l)
			}
		}
	})
}

// TestRenewalMeetsTheSame: who met an offer's conditions meets them at a renewal, without a
// token; once the conditions are others, or a stranger's sum is shown, not.
func TestRenewalMeetsTheSame(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		g := generator{rt}
		p, a, w := g.policy(), g.asker(), g.wish()
		got, err := policy.NewIndex(p).Decide(a, w, now())
		if err != nil {
			return
		}
		met := ""
		for _, tag := range got.Tags {
			if m, ok := strings.CutPrefix(tag, "met:"); ok {
				met = m
			}
		}
		won := p.Offers[got.Line]
		if met != won.Sum() || (met == "") != (len(won.Groups)+len(won.Claims) == 0) {
			rt.Fatalf("%s met %q", won, met)
		}
		again := policy.Asker{Who: authn.Who{Identity: a.Identity, Provider: a.Provider, Granted: a.Granted}, Met: met}
		w = policy.Wish{Account: got.Account, Role: got.Role, Name: got.Name}
		if _, err := policy.NewIndex(p).Decide(again, w, now()); err != nil {
			rt.Fatalf("%s is not renewed: %v", won, err)
		}
		if met == "" {
			return
		}
		only := policy.Policy{Offers: []policy.Offer{won}, Identities: p.Identities}
		again.Met = ""
		if _, err := policy.NewIndex(only).Decide(again, w, now()); err == nil {
			rt.Fatalf("%s is renewed for who met nothing", won)
		}
		again.Met = met
		only.Offers[0].Groups = append(slices.Clone(won.Groups), "another")
		if _, err := policy.NewIndex(only).Decide(again, w, now()); err == nil {
			rt.Fatalf("%s is renewed after its conditions changed", won)
		}
	})
}

func TestNamesAndEnds(t *testing.T) {
	key := identity("key:HKAAAAAAAAAAAAAAAAAA")
	role := authn.Granted{Account: must(ident.ParseLabel("A")), Role: must(ident.ParseLabel("r"))}
	offer := policy.Offer{Kind: "key", Account: role.Account, Role: role.Role, Default: seconds(time.Hour), Longest: seconds(time.Hour)}
	named := offer
	named.Name = name("offered")
	with := func(n string) policy.Asker {
		g := role
		if n != "" {
			g.Name = name(n)
		}
		return policy.Asker{Who: authn.Who{Identity: key, Granted: []authn.Granted{g}}}
	}
	said := with("")
	said.Name = name("said")
	for _, tc := range []struct {
		what string
		o    policy.Offer
		a    policy.Asker
		wish string
		want string
		code wire.Code
	}{
		{"asked for", offer, with(""), "wished", "wished", ""},
		{"nobody says", offer, with(""), "", "", wire.BadName},
		{"of the key", offer, with("own"), "", "own", ""},
		{"of the key, and asked for", offer, with("own"), "own", "own", ""},
		{"of the key, and another is asked for", offer, with("own"), "wished", "", wire.BadName},
		{"of the provider", offer, said, "", "said", ""},
		{"of the offer before all", named, with("own"), "", "offered", ""},
	} {
		w := policy.Wish{}
		if tc.wish != "" {
			w.Name = name(tc.wish)
		}
		g, code := decide(policy.Policy{Offers: []policy.Offer{tc.o}}, tc.a, w)
		if g.Name.String() != tc.want || code != tc.code {
			t.Errorf("%s: %s %s", tc.what, g.Name, code)
		}
	}
	// Who came with several invitations has the name that they were given with one of them.
	several := with("first")
	second := role
	second.Name = name("second")
	several.Granted = append(several.Granted, second)
	for wish, want := range map[string]string{"first": "first", "second": "second", "third": ""} {
		g, _ := decide(policy.Policy{Offers: []policy.Offer{offer}}, several, policy.Wish{Name: name(wish)})
		if g.Name.String() != want {
			t.Errorf("with two invitations %s is %s", wish, g.Name)
		}
	}
	for left, want := range map[time.Duration]time.Duration{
		2 * time.Hour: time.Hour, 10 * time.Minute: 10 * time.Minute, time.Second: time.Second, time.Second - 1: 0, 0: 0, -time.Hour: 0,
	} {
		a := with("own")
		a.Until = now().Add(left)
		g, code := decide(policy.Policy{Offers: []policy.Offer{offer}}, a, policy.Wish{})
		if g.TTL != want || (code == wire.Expired) != (want == 0) {
			t.Errorf("of a proof that has %s left: %s %s", left, g.TTL, code)
		}
	}
	// What a key is for bounds what its kind gets, and not what is given to it by name.
	byName := offer
	byName.Kind, byName.Identity, byName.Role = "", &key, must(ident.ParseLabel("s"))
	if g, code := decide(policy.Policy{Offers: []policy.Offer{byName}}, with("own"), policy.Wish{Name: name("n")}); code != "" || g.Name.String() != "n" {
		t.Errorf("to the key by name: %+v %s", g, code)
	}
	other := offer
	other.Role = must(ident.ParseLabel("s"))
	if _, code := decide(policy.Policy{Offers: []policy.Offer{other}}, with("own"), policy.Wish{}); code != wire.NoGrant {
		t.Errorf("a role that the key is not for: %s", code)
	}
	for _, id := range []string{"oidc:acme:alice", "key:HKAAAAAAAAAAAAAAAAAA"} {
		o := offer
		o.Kind, o.Everyone = "", true
		g, _ := decide(policy.Policy{Offers: []policy.Offer{o}}, policy.Asker{Who: authn.Who{Identity: identity(id)}}, policy.Wish{Name: name("n")})
		if want := fmt.Sprintf("[identity:%s %s]", identity(id).Kind(), strings.Replace(id, "key:", "kid:", 1)); fmt.Sprint(g.Tags) != want {
			t.Errorf("tags %v, and not %s", g.Tags, want)
		}
	}
}

func TestOfferCheck(t *testing.T) {
	key := identity("key:HKAAAAAAAAAAAAAAAAAA")
	role := policy.Offer{Account: must(ident.ParseLabel("A")), Role: must(ident.ParseLabel("r")), Default: policy.Seconds(time.Minute), Longest: policy.Seconds(time.Hour)}
	of := func(o policy.Offer) policy.Offer {
		o.Account, o.Role, o.Default, o.Longest = role.Account, role.Role, role.Default, role.Longest
		return o
	}
	for what, o := range map[string]policy.Offer{
		"to nobody":         {},
		"to two":            {Kind: "open", Everyone: true},
		"to no identity":    {Identity: new(ident.Identity)},
		"an empty group":    {Kind: "oidc", Groups: []string{""}},
		"a long group":      {Kind: "oidc", Groups: []string{strings.Repeat("x", policy.MaxValue+1)}},
		"many groups":       {Kind: "oidc", Groups: make([]string, policy.MaxConditions+1)},
		"a claim of none":   {Kind: "oidc", Claims: []policy.Claim{{Name: "a"}}},
		"a claim unnamed":   {Kind: "oidc", Claims: []policy.Claim{{Values: []string{"a"}}}},
		"a long value":      {Kind: "oidc", Claims: []policy.Claim{{Name: "a", Values: []string{strings.Repeat("x", policy.MaxValue+1)}}}},
		"an empty value":    {Kind: "oidc", Claims: []policy.Claim{{Name: "a", Values: []string{""}}}},
		"very many answers": {Kind: "oidc", Claims: []policy.Claim{{Name: "a", Values: make([]string, policy.MaxAnswers+1)}}},
	} {
		if of(o).Check() == nil {
			t.Errorf("%s is accepted", what)
		}
	}
	for what, change := range map[string]func(*policy.Offer){
		"of no account":         func(o *policy.Offer) { o.Account = ident.Label{} },
		"of no role":            func(o *policy.Offer) { o.Role = ident.Label{} },
		"for no time":           func(o *policy.Offer) { o.Default = 0 },
		"for more than longest": func(o *policy.Offer) { o.Default = o.Longest + 1 },
	} {
		o := of(policy.Offer{Kind: "open"})
		change(&o)
		if o.Check() == nil {
			t.Errorf("%s is accepted", what)
		}
	}
	for _, o := range []policy.Offer{{Kind: "open"}, {Identity: &key}, {Category: "a"}, {Everyone: true}, {Kind: "oidc", Groups: []string{"a"}, Claims: []policy.Claim{{Name: "a", Values: []string{"*"}}}}} {
		if err := of(o).Check(); err != nil {
			t.Error(err)
		}
	}
	good := policy.Policy{Offers: []policy.Offer{of(policy.Offer{Kind: "open"})}, Identities: []policy.Named{{Name: must(ident.ParseName("a.b")), Identity: key}}}
	if err := good.Check(); err != nil {
		t.Error(err)
	}
	for _, bad := range []policy.Policy{{Offers: []policy.Offer{{Kind: "open"}}}, {Identities: []policy.Named{{Identity: key}}}, {Identities: []policy.Named{{Name: must(ident.ParseName("a"))}}}} {
		if bad.Check() == nil {
			t.Errorf("%+v is accepted", bad)
		}
	}
}
