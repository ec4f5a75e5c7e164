package plan

import (
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"strings"

	"github.com/nats-io/jwt/v2"

	"github.com/herald-nats/herald/pkg/ledger"
)

// Base is what a folder knows of its own doing, in digests: what it last put in force, and
// what it set out to put in force and may not have come to the end of. It tells a change
// of this folder's from one of somebody else's, also after a run that was cut off. It is
// written before the first step of a run and after the last.
type Base struct {
	// Applied has a digest for each account and each part of the platform document.
	Applied map[string]string `json:"applied"`
	// Intended has those of a run that is not through.
	Intended map[string][]string `json:"intended,omitempty"`
}

func digest(s string) string {
	h := sha256.Sum256([]byte(s))
	return hex.EncodeToString(h[:16])
}

// knows tells whether the folder put the thing in force, or may have.
func (b Base) knows(key string) bool { return b.ever(key) || len(b.Intended[key]) > 0 }

// ever tells whether the folder put the thing in force for certain.
func (b Base) ever(key string) bool {
	_, ok := b.Applied[key]
	return ok
}

// applied tells whether a value, by its digest, is what the folder last put in force for
// certain: its description says nothing new.
func (b Base) applied(key, d string) bool { return b.Applied[key] == d }

// has tells whether a value, by its digest, is this folder's doing, or may be.
func (b Base) has(key, d string) bool {
	return b.Applied[key] == d || slices.Contains(b.Intended[key], d)
}

// keyOf is what an account is called in a Base.
func keyOf(account string) string { return "account claims " + account }

// Intend notes account claims that a run is going to put in force, maybe for a moment.
func (b *Base) Intend(c *jwt.AccountClaims) { b.intend(keyOf(c.Name), Digest(c)) }

// IntendDocument notes a platform document that a run is going to put in force.
func (b *Base) IntendDocument(d *ledger.Document) {
	for _, p := range parts(d) {
		b.intend(p.key, digest(p.value))
	}
}

func (b *Base) intend(key, d string) {
	if b.Applied[key] != d && !slices.Contains(b.Intended[key], d) {
		if b.Intended == nil {
			b.Intended = map[string][]string{}
		}
		b.Intended[key] = append(b.Intended[key], d)
	}
}

// Done gives the base of a folder all of whose description is in force. What somebody else
// changed, and the description does not say otherwise, stays as it was known; an account
// that was closed is remembered, so that it can be opened again.
func (b Base) Done(want Desired, p *Plan) Base {
	out := Base{Applied: map[string]string{}}
	for key, d := range b.Applied {
		if strings.HasPrefix(key, keyOf("")) {
			out.Applied[key] = d
		}
	}
	for name, d := range want.digests {
		out.Applied[keyOf(name)] = d
	}
	for _, a := range p.Accounts {
		out.Applied[keyOf(a.Name)] = Digest(a.Want)
	}
	for _, part := range parts(want.Document) {
		out.Applied[part.key] = digest(part.value)
	}
	for _, key := range p.elsewhere {
		if d, ok := b.Applied[key]; ok {
			out.Applied[key] = d
		} else {
			delete(out.Applied, key)
		}
	}
	return out
}

// BaseOf is the base of a folder that has put everything in force that it describes.
func BaseOf(want Desired) Base { return Base{}.Done(want, &Plan{}) }
