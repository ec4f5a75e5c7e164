package oidc_test

import (
	"encoding/json"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	jose "github.com/go-jose/go-jose/v4"

	"github.com/herald-nats/herald/internal/oidctest"
	"github.com/herald-nats/herald/pkg/authn"
	"github.com/herald-nats/herald/pkg/authn/oidc"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/wire"
)

// TestShapes has tokens as the providers document them, each with the provider as the
// platform document would have it.
func TestShapes(t *testing.T) {
	const hour = 3600
	tests := []struct {
		name     string
		provider string // JSON, as in the document
		header   string
		claims   string // without iss, iat and exp
		identity string
		person   string
		groups   []string
		claim    string // one of Who.Claims
		values   []string
		// refused are changes of claims, after which the token must not be taken.
		refused map[string]any
	}{
		{
			// developer.okta.com: ID token payload
			name:     "okta person",
			provider: `{"name":"okta","issuer":"https://acme.okta.com/oauth2/default","audiences":["0oa1herald"],"name_claim":"preferred_username","groups_claim":"groups","required":{"groups":["nats"]}}`,
			header:   `{"kid":"key-1","alg":"RS256"}`,
			claims:   `{"sub":"00uid4BxXw6I6TV4m0g3","name":"Alice Smith","preferred_username":"alice","ver":1,"aud":"0oa1herald","jti":"ID.ewMNfSvcpuqyS93OgVeCN3F2LseqROkyYjz7DNb9yhs","amr":["pwd","mfa"],"idp":"00ok1u7AsAkrwdZL3z0g3","nonce":"n-0S6","at_hash":"preview_at_hash","auth_time":1790000000,"groups":["Everyone","nats"]}`,
			identity: "oidc:okta:00uid4BxXw6I6TV4m0g3", person: "alice", groups: []string{"Everyone", "nats"},
			claim: "amr", values: []string{"pwd", "mfa"},
			refused: map[string]any{"groups": []string{"Everyone"}, "preferred_username": "alice@acme.com", "aud": "0oa2other"},
		},
		{
			// developer.okta.com: access token payload; there is no typ
			name:     "okta program",
			provider: `{"name":"okta","issuer":"https://acme.okta.com/oauth2/default","audiences":["api://herald"],"tokens":["access"],"authorized_parties":["0oa1daemon"]}`,
			header:   `{"kid":"key-1","alg":"RS256"}`,
			claims:   `{"ver":1,"jti":"AT.0mP4JKAZX1iACIT4vbEDF7LpvDVjxypPMFKbdB7FHJ8","aud":"api://herald","cid":"0oa1daemon","scp":["herald.issue"],"sub":"0oa1daemon"}`,
			identity: "oidc:okta:0oa1daemon", claim: "scp", values: []string{"herald.issue"},
			refused: map[string]any{"cid": "0oa2other", "aud": "api://other"},
		},
		{
			// auth0.com: ID token; the issuer ends with a slash, groups are namespaced
			name:     "auth0 person",
			provider: `{"name":"auth0","issuer":"https://acme.eu.auth0.com/","audiences":["JVxZherald"],"name_claim":"nickname","groups_claim":"https://acme.com/roles","required":{"email_verified":["true"],"email":["*"]}}`,
			header:   `{"alg":"RS256","typ":"JWT","kid":"key-1"}`,
			claims:   `{"nickname":"alice","name":"Alice","picture":"https://s.gravatar.com/avatar/1","updated_at":"2026-11-21T10:00:00.000Z","email":"alice@acme.com","email_verified":true,"aud":"JVxZherald","sub":"auth0|5f7c8ec7c33c6c004bbafe82","sid":"wTmd","https://acme.com/roles":["member"]}`,
			identity: "oidc:auth0:auth0|5f7c8ec7c33c6c004bbafe82", person: "alice", groups: []string{"member"},
			claim: "email_verified", values: []string{"true"},
			refused: map[string]any{"email_verified": false, "email": nil, "nickname": "Alice", "https://acme.com/roles": []any{"member", 1}},
		},
		{
			// auth0.com: access token, RFC 9068 profile, client credentials
			name:     "auth0 program",
			provider: `{"name":"auth0","issuer":"https://acme.eu.auth0.com/","audiences":["https://herald.acme.com"],"tokens":["access"]}`,
			header:   `{"alg":"RS256","typ":"at+jwt","kid":"key-1"}`,
			claims:   `{"sub":"my_client_id@clients","aud":"https://herald.acme.com","jti":"73WakrfVbNJBaAmhQtEeDv","client_id":"my_client_id","scope":"issue"}`,
			identity: "oidc:auth0:my_client_id@clients", claim: "scope", values: []string{"issue"},
			refused: map[string]any{"aud": "https://acme.eu.auth0.com/userinfo"},
		},
		{
			// keycloak.org: ID token; what it is, is in the claim typ
			name:     "keycloak person",
			provider: `{"name":"kc","issuer":"https://sso.acme.com/realms/main","audiences":["herald"],"name_claim":"preferred_username","groups_claim":"realm_access.roles"}`,
			header:   `{"alg":"RS256","typ":"JWT","kid":"key-1"}`,
			claims:   `{"auth_time":1790000000,"jti":"b0b7","aud":"herald","sub":"f9f1b7a2-1d0e-4a5b-9c3e-0c5d8a7b6e41","typ":"ID","azp":"herald","sid":"8a1c","at_hash":"x","acr":"1","email_verified":true,"realm_access":{"roles":["member","offline_access"]},"name":"Alice Smith","preferred_username":"alice","email":"alice@acme.com"}`,
			identity: "oidc:kc:f9f1b7a2-1d0e-4a5b-9c3e-0c5d8a7b6e41", person: "alice", groups: []string{"member", "offline_access"},
			claim: "realm_access.roles", values: []string{"member", "offline_access"},
			refused: map[string]any{"typ": "Bearer", "azp": "other", "preferred_username": nil},
		},
		{
			// keycloak.org: access token of a service account
			name:     "keycloak program",
			provider: `{"name":"kc","issuer":"https://sso.acme.com/realms/main","audiences":["herald"],"tokens":["access"],"groups_claim":"resource_access.herald.roles","subject_claim":"azp"}`,
			header:   `{"alg":"RS256","typ":"JWT","kid":"key-1"}`,
			claims:   `{"jti":"trrtcc:1","aud":["herald","account"],"sub":"0a1b","typ":"Bearer","azp":"billing","acr":"1","realm_access":{"roles":["default-roles-main"]},"resource_access":{"herald":{"roles":["issue"]},"account":{"roles":["view-profile"]}},"scope":"profile email","clientHost":"10.0.0.7","email_verified":false,"preferred_username":"service-account-billing","clientAddress":"10.0.0.7","client_id":"billing"}`,
			identity: "oidc:kc:billing", groups: []string{"issue"},
			claim: "resource_access.account.roles", values: []string{"view-profile"},
			refused: map[string]any{"typ": "ID", "aud": "account", "azp": nil},
		},
		{
			// docs.github.com: about security hardening with OpenID Connect
			name:     "github actions",
			provider: `{"name":"github","issuer":"https://token.actions.githubusercontent.com","audiences":["herald.acme.com"],"required":{"repository_owner_id":["65"],"sub":["repo:acme/*"],"ref":["refs/heads/main","refs/tags/*"]},"max_age":"10m"}`,
			header:   `{"typ":"JWT","alg":"RS256","x5t":"eBZ_cn3sXYAd0ch4THBKHIgOwOE","kid":"key-1"}`,
			claims:   `{"jti":"example-id","sub":"repo:acme/app:environment:prod","environment":"prod","aud":"herald.acme.com","ref":"refs/heads/main","sha":"example-sha","repository":"acme/app","repository_owner":"acme","actor_id":"12","repository_visibility":"private","repository_id":"74","repository_owner_id":"65","run_id":"example-run-id","run_number":"10","run_attempt":"2","runner_environment":"github-hosted","actor":"octocat","workflow":"deploy","head_ref":"","base_ref":"","event_name":"workflow_dispatch","ref_type":"branch","job_workflow_ref":"acme/automation/.github/workflows/oidc.yml@refs/heads/main","nbf":1}`,
			identity: "oidc:github:repo:acme/app:environment:prod", claim: "repository", values: []string{"acme/app"},
			refused: map[string]any{"sub": "repo:acme-evil/app:ref:refs/heads/main", "ref": "refs/heads/other", "repository_owner_id": "66", "aud": "https://github.com/acme"},
		},
		{
			// kubernetes.io: managing service accounts, token structure
			name:     "kubernetes service account",
			provider: `{"name":"k8s","issuer":"https://kubernetes.default.svc.cluster.local","audiences":["herald"],"required":{"kubernetes.io.namespace":["prod"]}}`,
			header:   `{"alg":"RS256","kid":"key-1"}`,
			claims:   `{"aud":["herald"],"jti":"aed34954-b33a-4142-b1ec-389d6bbb4936","kubernetes.io":{"namespace":"prod","node":{"name":"node-1","uid":"646e7c5e"},"pod":{"name":"billing-0","uid":"5e0bd49b"},"serviceaccount":{"name":"billing","uid":"14ee3fa4"},"warnafter":1790003607},"nbf":1,"sub":"system:serviceaccount:prod:billing"}`,
			identity: "oidc:k8s:system:serviceaccount:prod:billing", claim: "kubernetes.io.warnafter", values: []string{"1790003607"},
			refused: map[string]any{"kubernetes.io": map[string]any{"namespace": "dev"}, "aud": []string{"https://kubernetes.default.svc.cluster.local"}},
		},
		{
			// RFC 9068, 2.2
			name:     "client credentials",
			provider: `{"name":"as","issuer":"https://authorization-server.example.com","audiences":["https://rs.example.com/"],"tokens":["access"],"algorithms":["RS256","ES256"],"required":{"scope":["issue"]}}`,
			header:   `{"typ":"at+JWT","alg":"RS256","kid":"key-1"}`,
			claims:   `{"sub":"s6BhdRkqt3","aud":"https://rs.example.com/","client_id":"s6BhdRkqt3","jti":"dbe39bf3a3ba4238a513f51d6e1691c4","scope":"issue"}`,
			identity: "oidc:as:s6BhdRkqt3", claim: "client_id", values: []string{"s6BhdRkqt3"},
			refused: map[string]any{"scope": "read", "aud": "https://other.example.com/"},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var conf oidc.Provider
			if err := json.Unmarshal([]byte(tt.provider), &conf); err != nil {
				t.Fatal(err)
			}
			if again := asJSON(t, conf); !sameJSON(t, again, []byte(tt.provider)) {
				t.Errorf("%s\nis written as\n%s", tt.provider, again)
			}
			if problems := oidc.Check("providers", []oidc.Provider{conf}); len(problems) > 0 {
				t.Fatal(problems)
			}
			conf.JWKSURL = "https://keys.example" + oidctest.PathKeys // issuers have paths that the test provider has not
			signs := oidctest.New(conf.Issuer, jose.RS256)
			m := oidc.New([]oidc.Provider{conf}, oidc.Options{Transport: oidctest.Network{"https://keys.example": signs}})
			defer m.Close()
			now := time.Now()
			token := func(change string, to any) authn.Evidence {
				c := map[string]any{"iss": conf.Issuer, "iat": now.Unix(), "exp": now.Unix() + hour}
				if err := json.Unmarshal([]byte(tt.claims), &c); err != nil {
					t.Fatal(err)
				}
				if change != "" {
					set(change, to)(c)
				}
				return evidence(signs.Key().Sign([]byte(tt.header), asJSON(t, c)), now)
			}
			who, err := m.Identify(t.Context(), token("", nil))
			if err != nil {
				t.Fatal(err)
			}
			if who.Identity.String() != tt.identity || who.Name.String() != tt.person || !slices.Equal(who.Groups, tt.groups) || who.Provider != conf.Name || !who.Until.IsZero() {
				t.Errorf("%+v", who)
			}
			if !slices.Equal(who.Claims[tt.claim], tt.values) {
				t.Errorf("%s is %q", tt.claim, who.Claims[tt.claim])
			}
			for claim, v := range tt.refused {
				if who, err := m.Identify(t.Context(), token(claim, v)); code(err) != wire.BadIdentity {
					t.Errorf("with %s %v: %s, %v", claim, v, who.Identity, err)
				}
			}
		})
	}
}

func sameJSON(t *testing.T, a, b []byte) bool {
	t.Helper()
	var x, y map[string]any
	if err := json.Unmarshal(a, &x); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, &y); err != nil {
		t.Fatal(err)
	}
	if d, ok := y["max_age"]; ok && d == "10m" {
		y["max_age"] = "10m0s"
	}
	return reflect.DeepEqual(x, y)
}

// The clock of a provider may be off by Leeway; at a token's end nothing is added.
func TestClocks(t *testing.T) {
	p := newPlatform(t, func(c *oidc.Provider) { c.MaxAge = oidc.Duration(10 * time.Minute) })
	now := time.Unix(1_800_000_000, 0)
	for _, tt := range []struct {
		name          string
		iat, nbf, exp time.Duration // from now
		want          wire.Code
		why           string
	}{
		{"of now", 0, 0, 5 * time.Minute, "", ""},
		{"30 s ahead", 30 * time.Second, 30 * time.Second, 5 * time.Minute, "", ""},
		{"31 s ahead", 31 * time.Second, 0, 5 * time.Minute, wire.BadIdentity, "it will be issued in 31s"},
		{"begins in 31 s", 0, 31 * time.Second, 5 * time.Minute, wire.BadIdentity, "it begins in 31s"},
		{"an hour ahead", time.Hour, time.Hour, 2 * time.Hour, wire.BadIdentity, "1h0m0s by the provider's clock"},
		{"an hour behind", -time.Hour, -time.Hour, 5*time.Minute - time.Hour, wire.Expired, "it ended 55m0s ago and was issued 1h0m0s ago"},
		{"its last second", -4 * time.Minute, -4 * time.Minute, time.Second, "", ""},
		{"its end", -4 * time.Minute, -4 * time.Minute, 0, wire.Expired, "it ended 0s ago"},
		{"the longest age", -10 * time.Minute, 0, time.Hour, "", ""},
		{"issued too long ago", -10*time.Minute - time.Second, 0, time.Hour, wire.Expired, "10m0s is the longest"},
		{"ended before it was issued", 10 * time.Second, 0, -time.Second, wire.Expired, "it ended"},
	} {
		c := p.corp.Claims(now, "alice-1", audience)
		c["iat"], c["nbf"], c["exp"] = now.Add(tt.iat).Unix(), now.Add(tt.nbf).Unix(), now.Add(tt.exp).Unix()
		_, err := p.Identify(t.Context(), evidence(p.corp.Token(c), now))
		if code(err) != tt.want || err != nil && !strings.Contains(err.Error(), tt.why) {
			t.Errorf("%s: %v, want %q because %q", tt.name, err, tt.want, tt.why)
		}
	}
	// Some providers have fractions of a second.
	c := p.corp.Claims(now, "alice-1", audience)
	c["iat"], c["exp"] = 1_799_999_999.25, 1_800_000_000.5
	if _, err := p.Identify(t.Context(), evidence(p.corp.Token(c), now)); err != nil {
		t.Error(err)
	}
	if _, err := p.Identify(t.Context(), evidence(p.corp.Token(c), now.Add(500*time.Millisecond))); code(err) != wire.Expired {
		t.Error(err)
	}
}

// OpenID Connect Core 3.1.3.7, items 3 to 5, and access tokens.
func TestAuthorizedParties(t *testing.T) {
	both := func(c *oidc.Provider) { c.Tokens = []string{oidc.TokenID, oidc.TokenAccess} }
	parties := func(c *oidc.Provider) { both(c); c.AuthorizedParties = []string{"android"} }
	second := func(c *oidc.Provider) { both(c); c.Audiences = append(c.Audiences, "second") }
	for _, tt := range []struct {
		name   string
		edit   func(*oidc.Provider)
		claims map[string]any
		want   wire.Code
	}{
		{"azp is the audience", both, map[string]any{"azp": audience}, ""},
		{"azp is somebody else", both, map[string]any{"azp": "android"}, wire.BadIdentity},
		{"azp is a party", parties, map[string]any{"azp": "android"}, ""},
		{"azp is no party", parties, map[string]any{"azp": "ios"}, wire.BadIdentity},
		{"several, with azp", both, map[string]any{"aud": []string{"other", audience}, "azp": audience}, ""},
		{"several, without azp", both, map[string]any{"aud": []string{"other", audience}}, wire.BadIdentity},
		{"several, all ours", second, map[string]any{"aud": []string{"second", audience}}, ""},
		{"several, none ours, azp ours", both, map[string]any{"aud": []string{"other", "third"}, "azp": audience}, wire.BadIdentity},
		{"access: any client", both, map[string]any{"scope": "x", "client_id": "any"}, ""},
		{"access: several", both, map[string]any{"scope": "x", "aud": []string{audience, "account"}}, ""},
		{"access: a party", parties, map[string]any{"scope": "x", "client_id": "android"}, ""},
		{"access: azp goes before client_id", parties, map[string]any{"scope": "x", "azp": "ios", "client_id": "android"}, wire.BadIdentity},
		{"access: no party", parties, map[string]any{"scope": "x", "client_id": "any"}, wire.BadIdentity},
		{"access: no client", parties, map[string]any{"scope": "x"}, wire.BadIdentity},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := newPlatform(t, tt.edit)
			c := p.claims()
			for name, v := range tt.claims {
				c[name] = v
			}
			p.want(t, tt.name, p.corp.Token(c), tt.want)
		})
	}
}

// A name is taken as it is or not at all, and leaving it out gives no free choice.
func TestNames(t *testing.T) {
	p := newPlatform(t, func(c *oidc.Provider) { c.NameClaim = "user" })
	for _, good := range []string{"alice", "a.b-c_d", strings.Repeat("a", 32)} {
		if who, err := p.ask(t, p.corp.Token(p.claims(set("user", good)))); err != nil || who.Name.String() != good {
			t.Errorf("%q: %q, %v", good, who.Name, err)
		}
	}
	for _, bad := range []any{nil, "", "Alice", "alice ", "alice.", "a..b", "alice@corp.example", "аlice", "alice\u0000", ">", "*", strings.Repeat("a", 33), 7, true, []string{"alice"}, map[string]any{"x": "alice"}} {
		err := p.refusal(t, "a bad name", p.corp.Token(p.claims(set("user", bad))), wire.BadIdentity)
		if !strings.Contains(err.Error(), `the claim "user"`) {
			t.Errorf("%v: %v", bad, err)
		}
	}
}

func TestClaims(t *testing.T) {
	p := newPlatform(t)
	who, err := p.ask(t, p.corp.Token(p.claims(set("x", map[string]any{
		"true": true, "false": false, "one": 1, "big": json.Number("12345678901234567890"), "float": json.Number("1.50"),
		"list": []any{"a", 2, false, nil, []any{"no"}, map[string]any{"no": 1}}, "null": nil, "empty": []any{}, "none": map[string]any{},
		"long": strings.Repeat("x", 513), "edge": strings.Repeat("x", 512), strings.Repeat("n", 513): "long name", "": "",
	}))))
	if err != nil {
		t.Fatal(err)
	}
	got := map[string][]string{}
	for name, v := range who.Claims {
		if rest, ok := strings.CutPrefix(name, "x."); ok {
			got[rest] = v
		}
	}
	want := map[string][]string{
		"true": {"true"}, "false": {"false"}, "one": {"1"}, "big": {"12345678901234567890"}, "float": {"1.50"},
		"list": {"a", "2", "false"}, "edge": {strings.Repeat("x", 512)}, "": {""},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%q", got)
	}
}

func TestAgain(t *testing.T) {
	p := newPlatform(t)
	who, err := p.ask(t, p.corp.Token(p.claims()))
	if err != nil {
		t.Fatal(err)
	}
	again, err := p.Again(t.Context(), authn.Renewal{Identity: who.Identity, By: who.By})
	if err != nil || again.Identity != who.Identity || again.Provider != who.Provider {
		t.Errorf("%+v, %v", again, err)
	}
	renamed := provider(t)
	renamed.Name = label(t, "renamed")
	p.Use([]oidc.Provider{renamed})
	if who, err := p.Again(t.Context(), authn.Renewal{Identity: who.Identity, By: who.By}); code(err) != wire.BadIdentity || !who.Identity.IsZero() {
		t.Errorf("of a provider that is gone: %+v, %v", who, err)
	}
	if _, err := p.Again(t.Context(), authn.Renewal{Identity: ident.Identity{}}); code(err) != wire.BadIdentity {
		t.Errorf("of nobody: %v", err)
	}
}

// TestTermsAgain: a session ends where a token such as it began with is not taken any more,
// and goes on where other tokens are taken besides, or others no longer.
func TestTermsAgain(t *testing.T) {
	id := []func(map[string]any){set("hd", "corp.example"), set("azp", "web"), set("aud", []string{audience, "web"})}
	access := []func(map[string]any){set("client_id", "robot")}
	for what, c := range map[string]struct {
		access bool
		change func(*oidc.Provider)
		ends   bool
	}{
		"nothing":                           {change: func(*oidc.Provider) {}},
		"another audience is taken":         {change: func(p *oidc.Provider) { p.Audiences = append([]string{"mobile"}, p.Audiences...) }},
		"another program is taken":          {change: func(p *oidc.Provider) { p.AuthorizedParties = append([]string{"mobile"}, p.AuthorizedParties...) }},
		"another program is not taken":      {change: func(p *oidc.Provider) { p.AuthorizedParties = []string{"web"} }},
		"other algorithms":                  {change: func(p *oidc.Provider) { p.Algorithms = []string{"RS256"} }},
		"the claim with groups":             {change: func(p *oidc.Provider) { p.GroupsClaim = "roles" }, ends: true},
		"access tokens are not taken":       {change: func(p *oidc.Provider) { p.Tokens = []string{oidc.TokenID} }},
		"another issuer":                    {change: func(p *oidc.Provider) { p.Issuer = "https://evil.example" }, ends: true},
		"its audience is not taken":         {change: func(p *oidc.Provider) { p.Audiences = []string{"mobile"} }, ends: true},
		"its program is not taken":          {change: func(p *oidc.Provider) { p.AuthorizedParties = []string{"desktop"} }, ends: true},
		"ID tokens are not taken":           {change: func(p *oidc.Provider) { p.Tokens = []string{oidc.TokenAccess} }, ends: true},
		"more is required":                  {change: func(p *oidc.Provider) { p.Required = map[string][]string{"hd": {"corp.example"}} }, ends: true},
		"another claim says who it is":      {change: func(p *oidc.Provider) { p.SubjectClaim = "oid" }, ends: true},
		"another claim is the name":         {change: func(p *oidc.Provider) { p.NameClaim = "login" }, ends: true},
		"of a program, the same":            {access: true, change: func(*oidc.Provider) {}},
		"of a program, ID tokens":           {access: true, change: func(p *oidc.Provider) { p.Tokens = []string{oidc.TokenID} }, ends: true},
		"of a program, some programs alone": {access: true, change: func(p *oidc.Provider) { p.AuthorizedParties = []string{"robot"} }},
		"of a program, others alone":        {access: true, change: func(p *oidc.Provider) { p.AuthorizedParties = []string{"web"} }, ends: true},
	} {
		p := newPlatform(t, func(p *oidc.Provider) {
			p.AuthorizedParties, p.Tokens = []string{"web", "desktop", "robot"}, []string{oidc.TokenID, oidc.TokenAccess}
		})
		token := p.corp.Token(p.claims(id...))
		if c.access {
			token = p.corp.TokenWith(map[string]any{"typ": "at+jwt", "alg": "ES256", "kid": p.corp.Key().ID}, p.claims(access...))
		}
		who, err := p.ask(t, token)
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		changed := provider(t)
		changed.AuthorizedParties, changed.Tokens = []string{"web", "desktop", "robot"}, []string{oidc.TokenID, oidc.TokenAccess}
		c.change(&changed)
		p.Use([]oidc.Provider{changed})
		again, err := p.Again(t.Context(), authn.Renewal{Identity: who.Identity, By: who.By})
		if want := map[bool]wire.Code{true: wire.Expired}[c.ends]; code(err) != want {
			t.Errorf("%s: %v, and not %q", what, err, want)
		}
		if err == nil && (again.By != who.By || again.Identity != who.Identity) {
			t.Errorf("%s: %+v", what, again)
		}
	}
	// Where any program's access tokens are taken, it does not matter whose it was.
	p := newPlatform(t, func(p *oidc.Provider) { p.Tokens = []string{oidc.TokenAccess} })
	header := map[string]any{"typ": "at+jwt", "alg": "ES256", "kid": p.corp.Key().ID}
	one, err := p.ask(t, p.corp.TokenWith(header, p.claims(access...)))
	other, oerr := p.ask(t, p.corp.TokenWith(header, p.claims(set("client_id", "another"))))
	if err != nil || oerr != nil || one.By != other.By {
		t.Errorf("%+v %v, %+v %v", one, err, other, oerr)
	}
	if _, err := p.Again(t.Context(), authn.Renewal{Identity: one.Identity, By: one.By}); err != nil {
		t.Error(err)
	}
}
