package manifest

import (
	"fmt"
	"strings"

	"github.com/herald-nats/herald/pkg/authn/oidc"
)

// OIDC is the provider as issuers know it.
func (p Provider) OIDC() oidc.Provider {
	out := oidc.Provider{
		Name: p.Name, Issuer: p.Issuer, Audiences: p.Audiences, AuthorizedParties: p.AuthorizedParties, Tokens: p.Tokens, Algorithms: p.Algorithms,
		SubjectClaim: p.SubjectClaim, NameClaim: p.NameClaim, GroupsClaim: p.GroupsClaim, MaxAge: oidc.Duration(p.MaxAge), JWKSURL: p.JWKSURL, CA: p.CA,
	}
	for _, cl := range p.Required {
		if out.Required == nil {
			out.Required = map[string][]string{}
		}
		out.Required[cl.Claim] = cl.Values
	}
	return out
}

// OIDC gives the file's providers, as issuers know them.
func (f *File) OIDC() []oidc.Provider {
	var all []oidc.Provider
	for _, p := range f.Providers {
		all = append(all, p.OIDC())
	}
	return all
}

// providers says what is wrong with them, and what is not wrong with each alone.
func (c *checker) providers() {
	for i, p := range c.f.Providers {
		claims := make([]string, len(p.Required))
		for j, cl := range p.Required {
			claims[j] = cl.Claim
		}
		once(c, claims, "claim", func(j int) string { return fmt.Sprintf("providers[%d].required[%d].claim", i, j) })
	}
	for _, problem := range oidc.Check("providers", c.f.OIDC()) {
		path, what := problem.Path, problem.Reason
		if at, claim, ok := strings.Cut(path, ".required."); ok {
			path, what = at+".required", claim+": "+what // there it is a list
		}
		if c.isMissing(path) || strings.Contains(path, ".tokens[") || strings.Contains(path, ".algorithms[") {
			continue // which is said already, as of other keys
		}
		c.bad(path, problem.Hint, "%s", what)
	}
	known := map[string]bool{}
	for _, p := range c.f.Providers {
		known[p.Name.String()] = true
	}
	for i, g := range c.f.Grants {
		if !g.Provider.IsZero() && !known[g.Provider.String()] {
			c.missing(fmt.Sprintf("grants[%d].provider", i), "providers", "add it to providers, or name one that is there", "there is no provider %s", g.Provider)
		}
	}
}

// isMissing tells whether a key of a provider that is needed has no value.
func (c *checker) isMissing(path string) bool {
	var i int
	var key string
	if n, err := fmt.Sscanf(path, "providers[%d].%s", &i, &key); n != 2 || err != nil || i >= len(c.f.Providers) {
		return false
	}
	p := c.f.Providers[i]
	return key == "name" && p.Name.IsZero() || key == "issuer" && p.Issuer == "" || key == "audiences" && len(p.Audiences) == 0
}
