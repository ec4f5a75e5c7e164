package authn_test

import (
	"testing"

	"github.com/nats-io/nkeys"

	"github.com/herald-nats/herald/pkg/authn"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/wire"
)

func TestIdentify(t *testing.T) {
	pub, err := nkeys.Encode(nkeys.PrefixByteUser, make([]byte, 32))
	if err != nil {
		t.Fatal(err)
	}
	user, err := ident.ParseUserKey(string(pub))
	if err != nil {
		t.Fatal(err)
	}
	r := wire.Request{UserKey: user, Identity: wire.Proof{Type: wire.ProofOpen}}
	if id, err := authn.Identify(r); err != nil || id != ident.OpenIdentity(user) {
		t.Errorf("open: %s %v", id, err)
	}
	for _, kind := range []string{"", "Open", "oidc", "access_key", "invite", "open:"} {
		r.Identity.Type = kind
		if id, err := authn.Identify(r); err == nil || err.Code != wire.BadIdentity || !id.IsZero() {
			t.Errorf("%q: %s %v", kind, id, err)
		}
	}
}
