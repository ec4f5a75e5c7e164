package oidc_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/herald-nats/herald/pkg/authn/oidc"
	"github.com/herald-nats/herald/pkg/ident"
)

func TestCheck(t *testing.T) {
	long := strings.Repeat("x", 513)
	for _, tt := range []struct {
		edit func(*oidc.Provider)
		want []string // paths
	}{
		{func(*oidc.Provider) {}, nil},
		{func(p *oidc.Provider) { p.Issuer = "https://a.example/x/" }, nil},
		{func(p *oidc.Provider) { p.Issuer = "http://127.0.0.1:5556/dex" }, nil},
		{func(p *oidc.Provider) { p.Issuer = "http://[::1]:5556" }, nil},
		{func(p *oidc.Provider) { p.Issuer = "http://localhost" }, nil},
		{func(p *oidc.Provider) { p.Name = ident.Label{} }, []string{"name"}},
		{func(p *oidc.Provider) { p.Issuer = "" }, []string{"issuer"}},
		{func(p *oidc.Provider) { p.Issuer = "login.example" }, []string{"issuer"}},
		{func(p *oidc.Provider) { p.Issuer = "http://login.example" }, []string{"issuer"}},
		{func(p *oidc.Provider) { p.Issuer = "http://localhost.evil.example" }, []string{"issuer"}},
		{func(p *oidc.Provider) { p.Issuer = "http://127.0.0.1.evil.example" }, []string{"issuer"}},
		{func(p *oidc.Provider) { p.Issuer = "https://a.example?x=1" }, []string{"issuer"}},
		{func(p *oidc.Provider) { p.Issuer = "https://a.example?" }, []string{"issuer"}},
		{func(p *oidc.Provider) { p.Issuer = "https://a.example#x" }, []string{"issuer"}},
		{func(p *oidc.Provider) { p.Issuer = "https://a.example#" }, []string{"issuer"}},
		{func(p *oidc.Provider) { p.Issuer = "https://u:p@a.example" }, []string{"issuer"}},
		{func(p *oidc.Provider) { p.Issuer = "https:a.example" }, []string{"issuer"}},
		{func(p *oidc.Provider) { p.Issuer = "https://:443" }, []string{"issuer"}},
		{func(p *oidc.Provider) { p.Issuer = "file:///etc/passwd" }, []string{"issuer"}},
		{func(p *oidc.Provider) { p.JWKSURL = "https://a.example/keys?p=1" }, nil},
		{func(p *oidc.Provider) { p.JWKSURL = "http://a.example/keys" }, []string{"jwks_url"}},
		{func(p *oidc.Provider) { p.Audiences = nil }, []string{"audiences"}},
		{func(p *oidc.Provider) { p.Audiences = []string{"a", "", long} }, []string{"audiences[1]", "audiences[2]"}},
		{func(p *oidc.Provider) { p.Audiences = slices.Repeat([]string{"a"}, 65) }, []string{"audiences"}},
		{func(p *oidc.Provider) { p.AuthorizedParties = []string{"\n"} }, []string{"authorized_parties[0]"}},
		{func(p *oidc.Provider) { p.Tokens = []string{"id", "access"} }, nil},
		{func(p *oidc.Provider) { p.Tokens = []string{"id", "refresh"} }, []string{"tokens[1]"}},
		{func(p *oidc.Provider) {
			p.Algorithms = []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"}
		}, nil},
		{func(p *oidc.Provider) { p.Algorithms = []string{"RS256", "none", "HS256", "rs256", ""} }, []string{"algorithms[1]", "algorithms[2]", "algorithms[3]", "algorithms[4]"}},
		{func(p *oidc.Provider) { p.SubjectClaim, p.NameClaim, p.GroupsClaim = long, "a\tb", "a\x7f" }, []string{"subject_claim", "name_claim", "groups_claim"}},
		{func(p *oidc.Provider) { p.Required = map[string][]string{"a": {"x", "y*", "*"}} }, nil},
		{func(p *oidc.Provider) { p.Required = map[string][]string{"a": {}, "b": {"x*y", "**"}, "": {"x"}} }, []string{"required", "required.a", "required.b[0]", "required.b[1]"}},
		{func(p *oidc.Provider) { p.MaxAge = -1 }, []string{"max_age"}},
		{func(p *oidc.Provider) { p.MaxAge = oidc.Duration(time.Millisecond) }, []string{"max_age"}},
		{func(p *oidc.Provider) { p.CA = "no certificate" }, []string{"ca"}},
	} {
		p := provider(t)
		tt.edit(&p)
		other := provider(t)
		other.Name, other.Issuer = label(t, "first"), "https://first.example"
		var got []string
		for _, problem := range oidc.Check("providers", []oidc.Provider{other, p}) {
			rest, ok := strings.CutPrefix(problem.Path, "providers[1].")
			if !ok || problem.Reason == "" || problem.Hint == "" || strings.ContainsAny(problem.Reason+problem.Hint, "\n") {
				t.Errorf("%+v", problem)
			}
			got = append(got, rest)
		}
		if !slices.Equal(got, tt.want) {
			t.Errorf("%+v: %q, want %q", p, got, tt.want)
		}
	}

	twice := []oidc.Provider{provider(t), provider(t)}
	if got := oidc.Check("p", twice); len(got) != 2 || got[0].Path != "p[1].name" || got[1].Path != "p[1].issuer" {
		t.Errorf("twice the same: %v", got)
	}
	var many []oidc.Provider
	for i := range 70 {
		p := provider(t)
		p.Name, p.Issuer = label(t, fmt.Sprint("p", i)), fmt.Sprintf("https://p%d.example", i)
		many = append(many, p)
	}
	if got := oidc.Check("p", many); len(got) != 1 || got[0].Path != "p[64]" {
		t.Errorf("70 providers: %v", got)
	}
}
