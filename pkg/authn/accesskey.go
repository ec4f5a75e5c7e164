package authn

import (
	"context"
	"crypto/sha256"
	"encoding/base32"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/wire"
)

// KeyRecord is what a platform knows of an access key.
type KeyRecord struct {
	Public   ident.UserKey // its public half: the secret is its seed
	Granted  []Granted     // what it is for
	Expires  time.Time     // zero: never
	Networks []netip.Prefix
	Disabled bool
	Password bool // whether it is taken as a password
}

// By names the secret of a key, so that what an earlier one proved is told from what the
// present one did, whatever clocks say and whichever region has heard of the change.
func (k KeyRecord) By() string {
	sum := sha256.Sum256([]byte("herald/v1/by\n" + k.Public.String()))
	return strings.ToLower(base32.StdEncoding.EncodeToString(sum[:])[:16])
}

// AccessKeys believes whoever signs the request with an access key of the platform, from
// where the key may be used.
type AccessKeys struct {
	// Find gives an access key that was not removed.
	Find func(ident.KeyID) (KeyRecord, bool)
}

var _ Renewer = AccessKeys{}

// Type implements Method.
func (AccessKeys) Type() string { return wire.ProofKey }

// Kind implements Renewer.
func (AccessKeys) Kind() string { return ident.KindKey }

// Identify implements Method: by a signature of the request, or by Evidence.Password where
// there is one. Nothing is said of a key to who does not hold it, not even
// whether there is one.
func (m AccessKeys) Identify(_ context.Context, e Evidence) (Who, error) {
	id := e.Request.Identity.KeyID
	if e.Request.Identity.Type != wire.ProofKey || id.IsZero() {
		return Who{}, refused(wire.Errorf(wire.BadIdentity, "send a proof of type access_key with a key_id", "the request brings no access key"), "no access key")
	}
	unknown := wire.Errorf(wire.BadIdentity, "is it a key of this platform, and does it sign the plain body as "+wire.HeaderIdentity+"?",
		"this access key is not known, or it did not sign this request")
	k, ok := m.Find(id)
	if !ok {
		return Who{}, refused(unknown, "access key %s is not known", id)
	}
	if !e.Password.IsZero() {
		switch {
		case e.Password != k.Public:
			return Who{}, refused(unknown, "access key %s: it is not its secret", id)
		case !k.Password:
			return Who{}, refused(unknown, "access key %s is not taken as a password", id)
		}
		return m.who(id, k, e.Host, e.Now)
	}
	if err := wire.CheckIdentityProof(k.Public, e.Proofs, e.Body); err != nil {
		return Who{}, refused(unknown, "access key %s: %s", id, err.Message)
	}
	return m.who(id, k, e.Host, e.Now)
}

// Again implements Renewer: the key must still be there, and be used from where it may.
func (m AccessKeys) Again(_ context.Context, r Renewal) (Who, error) {
	id, ok := r.Identity.KeyID()
	var k KeyRecord
	if ok {
		k, ok = m.Find(id)
	}
	if !ok {
		return Who{}, refused(wire.Errorf(wire.BadIdentity, "ask for a new access key", "your access key is not there any more"), "%s is not known", r.Identity)
	}
	if r.By != k.By() {
		return Who{}, refused(wire.Errorf(wire.Expired, "ask auth.v1.issue with the key's present secret", "your access key has another secret since"),
			"access key %s has another secret now", id)
	}
	return m.who(id, k, r.Host, r.Now)
}

func (AccessKeys) who(id ident.KeyID, k KeyRecord, host netip.Addr, now time.Time) (Who, error) {
	if k.Disabled {
		return Who{}, refused(wire.Errorf(wire.Suspended, "ask whoever gave it to you", "this access key is disabled"), "access key %s is disabled", id)
	}
	if !k.Expires.IsZero() && !now.Before(k.Expires) {
		return Who{}, refused(wire.Errorf(wire.Expired, "ask for a new access key", "this access key has ended"), "access key %s ended at %s", id, k.Expires.UTC().Format(time.DateTime))
	}
	// A host that is not known is none of the networks.
	if len(k.Networks) > 0 && !slices.ContainsFunc(k.Networks, func(n netip.Prefix) bool { return n.Contains(host) }) {
		return Who{}, refused(wire.Errorf(wire.BadIdentity, "use it where it is meant to be used", "this access key may not be used from where you are"),
			"access key %s was used from %s", id, host)
	}
	return Who{Identity: ident.KeyIdentity(id), Granted: granted(k.Granted), By: k.By(), Until: k.Expires}, nil
}

// granted is what a proof is for: not nil, so that nothing is not everything.
func granted(all []Granted) []Granted { return append([]Granted{}, all...) }
