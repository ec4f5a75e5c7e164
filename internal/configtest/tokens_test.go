package configtest

import (
	"encoding/json"
	"errors"
	"maps"
	"testing"
	"time"

	jose "github.com/go-jose/go-jose/v4"

	"github.com/herald-nats/herald/internal/oidctest"
	"github.com/herald-nats/herald/pkg/authn"
	"github.com/herald-nats/herald/pkg/authn/oidc"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/platform/claims"
	"github.com/herald-nats/herald/pkg/policy"
	"github.com/herald-nats/herald/pkg/wire"
)

// change is what differs from a token that is good, and what comes of it: a role as
// ACCOUNT/ROLE, or a refusal's code. A claim that is nil is left out.
type change struct {
	what   string
	claims map[string]any
	want   string
}

// TestTokens has a token as each provider makes it, with what it gets by that provider's
// example, and what others get.
func TestTokens(t *testing.T) {
	const typJWT, typAccess = `{"typ":"JWT"}`, `{"typ":"at+jwt"}`
	for _, tt := range []struct {
		example, header string
		claims          string // without iss, iat and exp
		identity, name  string // the name that the token or the grant gives
		want            string
		changes         []change
	}{
		{
			example: "okta.yaml", header: `{}`,
			claims:   `{"sub":"00uid4BxXw6I6TV4m0g3","herald_name":"alice","preferred_username":"alice@acme.example","ver":1,"aud":"0oa1heraldclient","jti":"ID.1","amr":["pwd","mfa"],"idp":"00o1","auth_time":1790000000,"at_hash":"x","groups":["nats"]}`,
			identity: "oidc:okta:00uid4BxXw6I6TV4m0g3", name: "alice", want: "CHAT/member",
			changes: []change{
				{"of the other group", map[string]any{"groups": []string{"nats-orders"}}, "ORDERS/worker"},
				{"of neither", map[string]any{"groups": []string{"sales"}}, "bad_identity"},
				{"without groups", map[string]any{"groups": nil}, "bad_identity"},
				{"without a name", map[string]any{"herald_name": nil}, "bad_identity"},
				{"with an address for a name", map[string]any{"herald_name": "alice@acme.example"}, "bad_identity"},
				{"for another client", map[string]any{"aud": "0oa2"}, "bad_identity"},
				{"an access token", map[string]any{"cid": "0oa1heraldclient", "scp": []string{"openid"}}, "bad_identity"},
			},
		},
		{
			example: "auth0.yaml", header: typJWT,
			claims:   `{"nickname":"alice","email":"alice@acme.example","email_verified":true,"aud":"JVxZq0heraldClientId0000000000","sub":"auth0|5f7c8ec7c33c6c004bbafe82","sid":"wTmd","https://acme.example/roles":["member"],"https://acme.example/herald_name":"alice"}`,
			identity: "oidc:auth0:auth0|5f7c8ec7c33c6c004bbafe82", name: "alice", want: "CHAT/member",
			changes: []change{
				{"of the other role", map[string]any{"https://acme.example/roles": []string{"orders"}}, "ORDERS/worker"},
				{"of no role", map[string]any{"https://acme.example/roles": []string{}}, "no_grant"},
				{"not verified", map[string]any{"email_verified": false}, "bad_identity"},
				{"without the action", map[string]any{"https://acme.example/herald_name": nil}, "bad_identity"},
			},
		},
		{
			example: "keycloak.yaml", header: typJWT,
			claims:   `{"auth_time":1790000000,"jti":"b0b7","aud":"herald","sub":"f9f1b7a2-1d0e-4a5b-9c3e-0c5d8a7b6e41","typ":"ID","azp":"herald","sid":"8a1c","acr":"1","email_verified":true,"preferred_username":"alice","groups":["/staff"]}`,
			identity: "oidc:sso:f9f1b7a2-1d0e-4a5b-9c3e-0c5d8a7b6e41", name: "alice", want: "CHAT/member",
			changes: []change{
				{"of the inner group", map[string]any{"groups": []string{"/staff", "/staff/orders"}}, "ORDERS/worker"},
				{"of a group of that name elsewhere", map[string]any{"groups": []string{"/guests/orders"}}, "no_grant"},
				{"of no group", map[string]any{"groups": nil}, "no_grant"},
				{"of another client", map[string]any{"azp": "shop", "aud": "shop"}, "bad_identity"},
				{"made for another client", map[string]any{"azp": "shop"}, "bad_identity"},
				{"a logout token", map[string]any{"typ": "Logout"}, "bad_identity"},
			},
		},
		{
			example: "keycloak.yaml", header: typJWT,
			claims:   `{"jti":"trrtcc:1","aud":["herald-programs","account"],"sub":"0a1b7c00-1d0e-4a5b-9c3e-0c5d8a7b6e41","typ":"Bearer","azp":"billing","acr":"1","scope":"profile email","clientHost":"10.0.0.7","email_verified":false,"preferred_username":"service-account-billing","client_id":"billing"}`,
			identity: "oidc:sso:0a1b7c00-1d0e-4a5b-9c3e-0c5d8a7b6e41", name: "service-account-billing", want: "ORDERS/worker",
			changes: []change{
				{"without the audience mapper", map[string]any{"aud": "account"}, "bad_identity"},
				{"of another program", map[string]any{"azp": "mail", "client_id": "mail"}, "bad_identity"},
				{"of a person by way of it", map[string]any{"preferred_username": "alice"}, "no_grant"},
			},
		},
		{
			example: "dex.yaml", header: `{}`,
			claims:   `{"sub":"CiQwOGE4Njg0Yi1kYjg4LTRiNzMtOTBhOS0zY2QxNjYxZjU0NjYSBWxvY2Fs","aud":"herald","at_hash":"x","email":"alice@acme.example","email_verified":true,"groups":["acme:platform","acme:all"],"name":"Alice Smith","preferred_username":"alice"}`,
			identity: "oidc:dex:CiQwOGE4Njg0Yi1kYjg4LTRiNzMtOTBhOS0zY2QxNjYxZjU0NjYSBWxvY2Fs", name: "alice", want: "CHAT/member",
			changes: []change{
				{"without the scope groups", map[string]any{"groups": nil}, "no_grant"},
				{"of a connector that names nobody", map[string]any{"preferred_username": nil}, "bad_identity"},
				{"not verified", map[string]any{"email_verified": false}, "bad_identity"},
				{"for two clients", map[string]any{"aud": []string{"herald", "other"}, "azp": "other"}, "bad_identity"},
			},
		},
		{
			example: "google.yaml", header: typJWT,
			claims:   `{"azp":"1234987819200-herald.apps.googleusercontent.com","aud":"1234987819200-herald.apps.googleusercontent.com","sub":"10769150350006150715113082367","hd":"acme.example","email":"alice@acme.example","email_verified":true,"at_hash":"x"}`,
			identity: "oidc:google:10769150350006150715113082367", want: "CHAT/member",
			changes: []change{
				{"of a private account", map[string]any{"hd": nil}, "bad_identity"},
				{"of another domain", map[string]any{"hd": "other.example"}, "bad_identity"},
				{"of a service account for our audience", map[string]any{"azp": "112233445566778899001"}, "bad_identity"},
				{"of the older issuer", map[string]any{"iss": "accounts.google.com"}, "bad_identity"},
			},
		},
		{
			example: "entra.yaml", header: typJWT,
			claims:   `{"aud":"00001111-aaaa-2222-bbbb-3333cccc4444","tid":"aaaabbbb-0000-cccc-1111-dddd2222eeee","oid":"aaaaaaaa-0000-1111-2222-bbbbbbbbbbbb","sub":"AAAAAAAAAAAAAAAAAAAAAIkzqFVrSaSaFHy782bbtaQ","preferred_username":"alice@acme.example","roles":["Nats.Member"],"ver":"2.0","uti":"x","rh":"y"}`,
			identity: "oidc:entra:aaaaaaaa-0000-1111-2222-bbbbbbbbbbbb", want: "CHAT/member",
			changes: []change{
				{"without an app role", map[string]any{"roles": nil}, "no_grant"},
				{"without oid", map[string]any{"oid": nil}, "bad_identity"},
				{"of another tenant", map[string]any{"tid": "bbbbcccc-0000-cccc-1111-dddd2222eeee"}, "bad_identity"},
				{"of another tenant's issuer", map[string]any{"iss": "https://login.microsoftonline.com/bbbbcccc-0000-cccc-1111-dddd2222eeee/v2.0"}, "bad_identity"},
			},
		},
		{
			example: "machine.yaml", header: typAccess,
			claims:   `{"sub":"s6BhdRkqt3","aud":"https://herald.acme.example","client_id":"s6BhdRkqt3","jti":"dbe39bf3","scope":"herald:issue"}`,
			identity: "oidc:as:s6BhdRkqt3", name: "billing", want: "ORDERS/worker",
			changes: []change{
				{"of the other program", map[string]any{"sub": "t7CieSlru4", "client_id": "t7CieSlru4"}, "CHAT/member"},
				{"of a program without a grant", map[string]any{"sub": "other", "client_id": "other"}, "no_grant"},
				{"with more scopes", map[string]any{"scope": "herald:issue read"}, "bad_identity"},
				{"for another API", map[string]any{"aud": "https://shop.acme.example"}, "bad_identity"},
			},
		},
		{
			example: "github-actions.yaml", header: typJWT,
			claims:   `{"jti":"1","sub":"repo:acme/shop:ref:refs/heads/main","aud":"herald.acme.example","ref":"refs/heads/main","sha":"1","repository":"acme/shop","repository_owner":"acme","actor_id":"12","repository_visibility":"private","repository_id":"74000000","repository_owner_id":"6500000","run_id":"1","runner_environment":"github-hosted","actor":"octocat","workflow":"deploy","head_ref":"","base_ref":"","event_name":"push","ref_type":"branch","job_workflow_ref":"acme/shop/.github/workflows/deploy.yml@refs/heads/main","nbf":1}`,
			identity: "oidc:github:74000000", name: "ci.shop", want: "ORDERS/deploy",
			changes: []change{
				{"of another branch", map[string]any{"ref": "refs/heads/fix"}, "no_grant"},
				{"of a pull request", map[string]any{"ref": "refs/pull/7/merge", "event_name": "pull_request"}, "no_grant"},
				{"of pull_request_target", map[string]any{"event_name": "pull_request_target"}, "no_grant"},
				{"of another repository", map[string]any{"repository_id": "74000001"}, "no_grant"},
				{"of one of that name under another owner", map[string]any{"repository_owner_id": "6500001"}, "bad_identity"},
				{"for GitHub's own audience", map[string]any{"aud": "https://github.com/acme"}, "bad_identity"},
				{"that was put by", map[string]any{"iat": time.Now().Add(-11 * time.Minute).Unix()}, "expired"},
			},
		},
		{
			example: "kubernetes.yaml", header: `{}`,
			claims:   `{"aud":["herald"],"jti":"aed3","kubernetes.io":{"namespace":"shop","node":{"name":"n1","uid":"646e"},"pod":{"name":"billing-0","uid":"5e0b"},"serviceaccount":{"name":"billing","uid":"14ee"},"warnafter":1790003607},"nbf":1,"sub":"system:serviceaccount:shop:billing"}`,
			identity: "oidc:prod:system:serviceaccount:shop:billing", name: "billing", want: "ORDERS/worker",
			changes: []change{
				{"of another account", map[string]any{"sub": "system:serviceaccount:shop:default"}, "no_grant"},
				{"of another namespace", map[string]any{"kubernetes.io": map[string]any{"namespace": "dev"}}, "bad_identity"},
				{"for the API server", map[string]any{"aud": []string{"https://kubernetes.default.svc.cluster.local"}}, "bad_identity"},
			},
		},
	} {
		t.Run(tt.example, func(t *testing.T) {
			f := parsed(t, tt.example)
			if len(f.Providers) != 1 {
				t.Fatalf("%d providers", len(f.Providers))
			}
			conf := f.Providers[0].OIDC()
			conf.JWKSURL = "https://keys.example" + oidctest.PathKeys // issuers have paths that the test provider has not
			signs := oidctest.New(conf.Issuer, jose.RS256)
			m := oidc.New([]oidc.Provider{conf}, oidc.Options{Transport: oidctest.Network{"https://keys.example": signs}})
			defer m.Close()
			index := policy.NewIndex(must(claims.New(f, claims.Keys{}).Policy()))
			now := time.Now()
			// came is what a token gets: a role, or a refusal's code.
			came := func(changed map[string]any) (policy.Grant, string) {
				c := map[string]any{"iss": conf.Issuer, "iat": now.Unix(), "exp": now.Unix() + 300}
				maps.Copy(c, fromJSON[map[string]any](t, tt.claims))
				for name, v := range changed {
					if c[name] = v; v == nil {
						delete(c, name)
					}
				}
				header := fromJSON[map[string]any](t, tt.header)
				header["alg"], header["kid"] = "RS256", signs.Key().ID
				token := signs.Key().Sign(must(json.Marshal(header)), must(json.Marshal(c)))
				who, err := m.Identify(t.Context(), authn.Evidence{Request: wire.Request{Identity: wire.Proof{Type: wire.ProofOIDC, Token: token}}, Now: now})
				if werr := (*wire.Error)(nil); errors.As(err, &werr) {
					return policy.Grant{}, string(werr.Code)
				} else if err != nil {
					t.Fatal(err)
				}
				w := policy.Wish{}
				if tt.name == "" || changed["sub"] != nil {
					w.Name = must(ident.ParseName("asked")) // where nobody else says one
				}
				g, werr := index.Decide(policy.Asker{Who: who}, w, now)
				if werr != nil {
					return g, string(werr.Code)
				}
				return g, g.Account.String() + "/" + g.Role.String()
			}
			g, got := came(nil)
			name := tt.name
			if name == "" {
				name = "asked"
			}
			if got != tt.want || g.Identity.String() != tt.identity || g.Name.String() != name {
				t.Errorf("the token gets %s as %s (%s), and not %s as %s (%s)", got, g.Name, g.Identity, tt.want, name, tt.identity)
			}
			for _, c := range tt.changes {
				if _, got := came(c.claims); got != c.want {
					t.Errorf("one %s gets %s, and not %s", c.what, got, c.want)
				}
			}
		})
	}
}

// TestOthers has what the examples without a provider give.
func TestOthers(t *testing.T) {
	user := must(ident.ParseUserKey("UAB2CB576PHBBPQ5ODORRZ2LYCMWPZGWGCN2KDK7DXOIMZASKUY3RLKK"))
	granted := func(account, role string) []authn.Granted {
		return []authn.Granted{{Account: label(account), Role: label(role)}}
	}
	key := func(id string) ident.Identity { return ident.KeyIdentity(must(ident.ParseKeyID(id))) }
	for _, tt := range []struct {
		what, example string
		who           authn.Who
		want          string
	}{
		{"a key for the role", "access-keys.yaml", authn.Who{Identity: key("HKBBBBBBBBBBBBBBBBBB"), Granted: granted("ORDERS", "worker")}, "ORDERS/worker"},
		{"a key for another role", "access-keys.yaml", authn.Who{Identity: key("HKBBBBBBBBBBBBBBBBBB"), Granted: granted("ORDERS", "auditor")}, "no_grant"},
		{"the key that is named", "access-keys.yaml", authn.Who{Identity: key("HKAAAAAAAAAAAAAAAAAA"), Granted: granted("ORDERS", "worker")}, "ORDERS/auditor"},
		{"somebody without a key", "access-keys.yaml", authn.Who{Identity: ident.OpenIdentity(user)}, "no_grant"},
		{"a guest", "invitations.yaml", authn.Who{Identity: ident.InviteIdentity(user), Granted: granted("CHAT", "member")}, "CHAT/member"},
		{"a guest with an invitation to what is not granted", "invitations.yaml", authn.Who{Identity: ident.InviteIdentity(user), Granted: granted("ADMIN", "admin")}, "no_grant"},
		{"who has none", "invitations.yaml", authn.Who{Identity: ident.OpenIdentity(user)}, "no_grant"},
		{"anybody", "open.yaml", authn.Who{Identity: ident.OpenIdentity(user)}, "CHAT/member"},
	} {
		index := policy.NewIndex(must(claims.New(parsed(t, tt.example), claims.Keys{}).Policy()))
		w := policy.Wish{}
		if tt.want != "ORDERS/auditor" {
			w.Name = must(ident.ParseName("asked"))
		}
		g, werr := index.Decide(policy.Asker{Who: tt.who}, w, time.Now())
		got := g.Account.String() + "/" + g.Role.String()
		if werr != nil {
			got = string(werr.Code)
		}
		if got != tt.want {
			t.Errorf("%s: %s gets %s, and not %s", tt.example, tt.what, got, tt.want)
		}
	}
}
