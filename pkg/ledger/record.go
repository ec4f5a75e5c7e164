package ledger

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/wire"
)

// MaxRecord bounds a record as JSON, in bytes: the longest identity, each of its
// characters escaped, has 1,600.
const MaxRecord = 4 << 10

// Record tells of one credential that was issued: to whom, and until when; or of a request
// that policy refused, by whom and for what. It holds no secret and no token. Its issuer is
// whoever could publish to the issuer's own subject; that it is signed comes later.
type Record struct {
	ID       string           `json:"id"` // the credential's jti; of a refusal "refused." and the request's
	Request  string           `json:"request"`
	Identity ident.Identity   `json:"identity"`
	User     ident.UserKey    `json:"user"`
	Account  ident.AccountKey `json:"account,omitzero"`
	Role     ident.Label      `json:"role,omitzero"`
	Name     ident.Name       `json:"name,omitzero"`
	Issued   int64            `json:"issued"`  // seconds since 1970: the credential's iat
	Expires  int64            `json:"expires"` // seconds since 1970
	Region   ident.Region     `json:"region"`
	Issuer   ident.UserKey    `json:"issuer"`
	Met      string           `json:"met,omitempty"`    // what of policy the proof met; see policy.Offer.Sum
	By       string           `json:"by,omitempty"`     // what it was proved by; see authn.Who.By
	Proven   int64            `json:"proven,omitempty"` // seconds since 1970: when the identity was proved
	// Refused is why nothing was issued. Then there is no account, Issued is when that was,
	// and what was asked for is Asked, Role and Name, each zero where it was left to policy.
	Refused wire.Code   `json:"refused,omitempty"`
	Asked   ident.Label `json:"asked,omitzero"` // the account's name
	Given   ident.Name  `json:"given,omitzero"` // the name that the proof gives
}

func (r Record) check() error {
	if r.Refused != "" {
		if r.Refused.Number() == 0 || r.ID == "" || len(r.ID) > 128 || len(r.Request) > 64 || r.Met != "" || len(r.By) > 64 || r.Identity.IsZero() ||
			r.User.IsZero() || !r.Account.IsZero() || r.Issued <= 0 || r.Expires != 0 || r.Region.IsZero() || r.Issuer.IsZero() {
			return fmt.Errorf("a record of a refusal out of shape: %w", ErrDamaged)
		}
		return nil
	}
	if !r.Asked.IsZero() || !r.Given.IsZero() || r.Proven < 0 {
		return fmt.Errorf("a record of what was issued, with what it is not: %w", ErrDamaged)
	}
	if r.ID == "" || len(r.ID) > 64 || len(r.Request) > 64 || len(r.Met) > 64 || len(r.By) > 64 || r.Identity.IsZero() || r.User.IsZero() || r.Account.IsZero() || r.Role.IsZero() ||
		r.Issued <= 0 || r.Expires <= r.Issued || r.Region.IsZero() || r.Issuer.IsZero() {
		return fmt.Errorf("a record out of shape: %w", ErrDamaged)
	}
	return nil
}

// Encode gives the record as JSON.
func (r Record) Encode() ([]byte, error) {
	if err := r.check(); err != nil {
		return nil, err
	}
	data, err := json.Marshal(r)
	if err != nil {
		return nil, fmt.Errorf("encoding a record: %w", err)
	}
	return data, nil
}

// DecodeRecord reads a record that was found under a region's and an issuer's
// subject: "<region>.<issuer>". One that says otherwise is ErrDamaged, and so is one
// that is out of shape or whose credential would live longer than longest.
func DecodeRecord(subject, data string, longest time.Duration) (Record, error) {
	var r Record
	if len(data) > MaxRecord {
		return Record{}, fmt.Errorf("a record of %d bytes: %w", len(data), ErrDamaged)
	}
	if err := json.Unmarshal([]byte(data), &r); err != nil {
		return Record{}, fmt.Errorf("a record that cannot be read: %w: %w", ErrDamaged, err)
	}
	if err := r.check(); err != nil {
		return Record{}, err
	}
	if subject != r.Region.String()+"."+r.Issuer.String() {
		return Record{}, fmt.Errorf("a record of %s in %s under %.80q: %w", r.Issuer, r.Region, subject, ErrDamaged)
	}
	if r.Expires-r.Issued > int64(longest/time.Second) {
		return Record{}, fmt.Errorf("a record of a credential that lives %d s: %w", r.Expires-r.Issued, ErrDamaged)
	}
	return r, nil
}
