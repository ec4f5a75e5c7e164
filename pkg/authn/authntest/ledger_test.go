package authntest_test

import (
	"context"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/herald-nats/herald/pkg/authn"
	"github.com/herald-nats/herald/pkg/authn/authntest"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/keystore"
	"github.com/herald-nats/herald/pkg/wire"
)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func userOf(k *keystore.Key) ident.UserKey { return must(ident.ParseUserKey(k.Public())) }

func role() authn.Granted {
	return authn.Granted{Account: must(ident.ParseLabel("ORDERS")), Role: must(ident.ParseLabel("service"))}
}

func TestAccessKeys(t *testing.T) {
	now := time.Unix(1790000000, 0)
	authntest.Run(t, func(t *testing.T) authntest.Case {
		t.Helper()
		records := map[ident.KeyID]authn.KeyRecord{}
		evidence := func(id string, change func(*authn.KeyRecord)) authn.Evidence {
			secret := must(keystore.Generate(keystore.User))
			k := authn.KeyRecord{Public: userOf(secret), Granted: []authn.Granted{role()}}
			if change != nil {
				change(&k)
			}
			key := must(ident.ParseKeyID(id))
			records[key] = k
			body := []byte(`{"key":"` + id + `"}`)
			return authn.Evidence{
				Request: wire.Request{UserKey: userOf(must(keystore.Generate(keystore.User))), Identity: wire.Proof{Type: wire.ProofKey, KeyID: key}},
				Body:    body, Proofs: []string{must(wire.Prove(secret, body))}, Host: netip.MustParseAddr("10.1.2.3"), Now: now,
			}
		}
		unknown := evidence("HKCCCCCCCCCCCCCCCCCC", nil)
		delete(records, unknown.Request.Identity.KeyID)
		networks := func(s string) func(*authn.KeyRecord) {
			return func(k *authn.KeyRecord) { k.Networks = []netip.Prefix{netip.MustParsePrefix(s)} }
		}
		return authntest.Case{
			Method: authn.AccessKeys{Find: func(id ident.KeyID) (authn.KeyRecord, bool) { k, ok := records[id]; return k, ok }},
			Good: []authn.Evidence{
				evidence("HKAAAAAAAAAAAAAAAAAA", nil),
				evidence("HKBBBBBBBBBBBBBBBBBB", func(k *authn.KeyRecord) { k.Expires = now.Add(time.Hour) }),
				evidence("HKDDDDDDDDDDDDDDDDDD", networks("10.0.0.0/8")),
			},
			Bad: map[string]authntest.Bad{
				"unknown":   {Evidence: unknown, Code: wire.BadIdentity},
				"over":      {Evidence: evidence("HKEEEEEEEEEEEEEEEEEE", func(k *authn.KeyRecord) { k.Expires = now }), Code: wire.Expired},
				"disabled":  {Evidence: evidence("HKFFFFFFFFFFFFFFFFFF", func(k *authn.KeyRecord) { k.Disabled = true }), Code: wire.Suspended},
				"elsewhere": {Evidence: evidence("HKGGGGGGGGGGGGGGGGGG", networks("192.0.2.0/24")), Code: wire.BadIdentity},
			},
			SignsBody: true,
		}
	})
}

// goodCode is the code of an invitation.
const goodCode = "HI-7K3M-9QXR-T2VB-4N8C-WJPX"

func TestInvites(t *testing.T) {
	authntest.Run(t, func(t *testing.T) authntest.Case {
		t.Helper()
		var mu sync.Mutex
		used := map[ident.UserKey]bool{}
		left := 2
		evidence := func(code string) authn.Evidence {
			return authn.Evidence{
				Request: wire.Request{UserKey: userOf(must(keystore.Generate(keystore.User))), Identity: wire.Proof{Type: wire.ProofInvite, Code: code}},
				Body:    []byte("{}"), Now: time.Unix(1790000000, 0),
			}
		}
		refused := func() error {
			return wire.Errorf(wire.BadIdentity, "ask for a new code", "this invitation is not valid, or not any more")
		}
		return authntest.Case{
			Method: authn.Invites{
				Redeem: func(ctx context.Context, id ident.InviteID, e authn.Evidence) (authn.Granted, error) {
					mu.Lock()
					defer mu.Unlock()
					user := e.Request.UserKey
					switch {
					case ctx.Err() != nil:
						e := wire.Errorf(wire.Unavailable, "ask again", "home does not answer")
						e.RetryAfterMS = 1000
						return authn.Granted{}, e
					case id != ident.InviteOf(goodCode) || user.IsZero():
						return authn.Granted{}, refused()
					case used[user]:
					case left == 0:
						return authn.Granted{}, refused()
					default:
						used[user], left = true, left-1
					}
					return role(), nil
				},
				Redeemed: func(u ident.UserKey) []authn.Granted {
					mu.Lock()
					defer mu.Unlock()
					if !used[u] {
						return nil
					}
					return []authn.Granted{role()}
				},
			},
			Good: []authn.Evidence{evidence(goodCode), evidence("hi 7k3m-9qxr t2vb4n8cwjpx")},
			Bad: map[string]authntest.Bad{
				"another code":    {Evidence: evidence("HI-0000-0000-0000-0000-0000"), Code: wire.BadIdentity},
				"a wrong letter":  {Evidence: evidence("HI-7K3M-9QXR-T2VB-4N8C-WJPY"), Code: wire.BadIdentity},
				"no code of ours": {Evidence: evidence("welcome"), Code: wire.BadIdentity},
			},
		}
	})
}
