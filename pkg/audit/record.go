// Package audit is the platform's record of what its services did: every credential
// that was issued or renewed, every refusal, every change. Records are gathered into
// blocks; each block is signed by who wrote it and names the one before it by its hash,
// so that a record that is missing, altered, moved or repeated shows to whoever verifies.
//
// Writer makes blocks and brings them to a Store, Open reads one, and Verifier holds all
// of them together. What a block looks like is in docs/audit.md. This package connects to
// nothing and reads no file; stream/ stores blocks in JetStream, spool/ keeps those that
// wait on a disk.
package audit

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/nats-io/nkeys"

	"github.com/herald-nats/herald/internal/jsontext"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/wire"
)

var (
	// ErrDamaged: what was read is no block, or no record, that belongs there.
	ErrDamaged = errors.New("a record that is not believed")
	// ErrUnavailable: it could not be stored now, or nobody knows whether it was.
	ErrUnavailable = errors.New("records cannot be stored now")
)

// MaxRecord bounds a record as JSON, in bytes: the longest identity, each of its
// characters escaped, has 1,600.
const MaxRecord = 4 << 10

// What is recorded.
type What string

// What a record tells of.
const (
	Issue  What = "issue"  // a credential was made for who showed who they are
	Renew  What = "renew"  // a credential was made for who had one
	Refuse What = "refuse" // nothing was made
	Change What = "change" // an entry of the ledger was written
	Use    What = "use"    // an issuer works by a platform document: what it records after this is issued by it
)

// Record tells one thing. It holds no secret and no token.
type Record struct {
	What     What           `json:"what"`
	At       int64          `json:"at"`             // milliseconds since 1970
	Door     string         `json:"door,omitempty"` // what was asked: issue, renew, …
	Request  string         `json:"request,omitempty"`
	Identity ident.Identity `json:"identity,omitzero"`
	User     ident.UserKey  `json:"user,omitzero"`
	Host     string         `json:"host,omitempty"` // where from, as the server saw it

	// Of a credential.
	ID      string           `json:"jti,omitempty"`
	Account ident.AccountKey `json:"account,omitzero"`
	Role    ident.Label      `json:"role,omitzero"` // of a refusal: that was asked for
	Name    ident.Name       `json:"name,omitzero"` // likewise
	Issued  int64            `json:"iat,omitempty"` // seconds since 1970
	Expires int64            `json:"exp,omitempty"` // seconds since 1970
	Proven  int64            `json:"proven,omitempty"`
	Met     string           `json:"met,omitempty"` // what of policy the proof met; see policy.Offer.Sum
	By      string           `json:"by,omitempty"`  // what it was proved by; see authn.Who.By
	// Server and Client are the connection that it is for, of who came by auth callout: the
	// server's nkey and its number of the connection.
	Server string `json:"server,omitempty"`
	Client uint64 `json:"client,omitempty"`

	// Of a refusal.
	Refused wire.Code   `json:"refused,omitempty"`
	Asked   ident.Label `json:"asked,omitzero"` // the account's name
	Given   ident.Name  `json:"given,omitzero"` // the name that the proof gives
	// Count, where it is not 0, is how many refusals of this door and code this one record
	// stands for: a flood is counted, and not written down one by one.
	Count int `json:"count,omitempty"`

	// Of a change: the ledger's key, and the version that it got. Of a use: the region key that is
	// in the issuer's folder, and the document's version, as a rank.
	Key     string `json:"key,omitempty"`
	Version uint64 `json:"version,omitempty"`

	// Why, in words: the grant that gave it, the reason of a refusal or a change.
	Why string `json:"why,omitempty"`

	// Region and Issuer are the block's, by whose signature the record is believed.
	Region ident.Region  `json:"-"`
	Issuer ident.UserKey `json:"-"`
}

const (
	maxShort = 64
	maxWhy   = 512
	maxKey   = 512
)

func (r Record) check() error {
	bad := func(what string) error { return fmt.Errorf("a record of %.20q %s: %w", r.What, what, ErrDamaged) }
	if r.At <= 0 {
		return bad("without a time")
	}
	for _, s := range []string{r.Door, r.Request, r.Host, r.ID, r.Met, r.By, r.Server, string(r.Refused)} {
		if len(s) > maxShort {
			return bad("with something too long")
		}
	}
	if r.Server != "" && !nkeys.IsValidPublicServerKey(r.Server) {
		return bad("of a server that is none")
	}
	if len(r.Why) > maxWhy || len(r.Key) > maxKey || r.Count < 0 || r.Proven < 0 {
		return bad("out of shape")
	}
	credential := r.ID != "" || r.Issued != 0 || r.Expires != 0 || !r.Account.IsZero() || r.Met != "" || r.Server != "" || r.Client != 0
	refusal := r.Refused != "" || !r.Asked.IsZero() || !r.Given.IsZero() || r.Count != 0
	change := r.Key != "" || r.Version != 0
	switch r.What {
	case Issue, Renew:
		if r.ID == "" || r.Identity.IsZero() || r.User.IsZero() || r.Account.IsZero() || r.Role.IsZero() || r.Issued <= 0 || r.Expires <= r.Issued || refusal || change {
			return bad("out of shape")
		}
	case Refuse:
		if r.Refused.Number() == 0 || credential || change {
			return bad("out of shape")
		}
	case Change:
		if r.Key == "" || r.Version == 0 || credential || refusal {
			return bad("out of shape")
		}
	case Use:
		if r.Version == 0 || r.Key != "" && !nkeys.IsValidPublicCurveKey(r.Key) || credential || refusal || !r.Identity.IsZero() || !r.User.IsZero() {
			return bad("out of shape")
		}
	default:
		return bad("of no kind that is known")
	}
	return nil
}

// Time is when it happened.
func (r Record) Time() time.Time { return time.UnixMilli(r.At) }

// Granted tells whether the record is of a credential.
func (r Record) Granted() bool { return r.What == Issue || r.What == Renew }

// Life is how long the credential lives.
func (r Record) Life() time.Duration {
	const most = math.MaxInt64 / int64(time.Second)
	return time.Duration(min(r.Expires-r.Issued, most)) * time.Second
}

// encode gives the record as a line.
func (r Record) encode() ([]byte, error) {
	if err := r.check(); err != nil {
		return nil, err
	}
	r.Why = strings.ToValidUTF8(r.Why, "?") // which JSON would make three bytes of one
	line := r.append(make([]byte, 0, 768))
	// A character may take six bytes. Whoever reads believes no longer one, nor the block that
	// it is in, with whatever others have in there.
	for len(line) > MaxRecord && r.Why != "" {
		cut := len(r.Why) / 2
		for cut > 0 && r.Why[cut]&0xC0 == 0x80 { // within a character
			cut--
		}
		r.Why = r.Why[:cut]
		line = r.append(line[:0])
	}
	if len(line) > MaxRecord {
		return nil, fmt.Errorf("a record of %d bytes: %w", len(line), ErrDamaged)
	}
	return append(line, '\n'), nil
}

// append writes the record as encoding/json does: there is one for each request.
func (r *Record) append(b []byte) []byte {
	b = append(b, '{')
	b = jsontext.AppendText(b, `"what":`, string(r.What))
	b = jsontext.AppendInt(b, `"at":`, r.At)
	b = jsontext.AppendText(b, `"door":`, r.Door)
	b = jsontext.AppendText(b, `"request":`, r.Request)
	b = jsontext.AppendText(b, `"identity":`, r.Identity.String())
	b = jsontext.AppendText(b, `"user":`, r.User.String())
	b = jsontext.AppendText(b, `"host":`, r.Host)
	b = jsontext.AppendText(b, `"jti":`, r.ID)
	b = jsontext.AppendText(b, `"account":`, r.Account.String())
	b = jsontext.AppendText(b, `"role":`, r.Role.String())
	b = jsontext.AppendText(b, `"name":`, r.Name.String())
	b = jsontext.AppendInt(b, `"iat":`, r.Issued)
	b = jsontext.AppendInt(b, `"exp":`, r.Expires)
	b = jsontext.AppendInt(b, `"proven":`, r.Proven)
	b = jsontext.AppendText(b, `"met":`, r.Met)
	b = jsontext.AppendText(b, `"by":`, r.By)
	b = jsontext.AppendText(b, `"server":`, r.Server)
	b = jsontext.AppendUint(b, `"client":`, r.Client)
	b = jsontext.AppendText(b, `"refused":`, string(r.Refused))
	b = jsontext.AppendText(b, `"asked":`, r.Asked.String())
	b = jsontext.AppendText(b, `"given":`, r.Given.String())
	b = jsontext.AppendInt(b, `"count":`, int64(r.Count))
	b = jsontext.AppendText(b, `"key":`, r.Key)
	b = jsontext.AppendUint(b, `"version":`, r.Version)
	b = jsontext.AppendText(b, `"why":`, r.Why)
	b[len(b)-1] = '}' // in place of the last comma: what and at are never left out
	return b
}

// Reason is text as it is kept in Record.Why: cut where it is too long.
func Reason(s string) string {
	if len(s) <= maxWhy {
		return s
	}
	cut := maxWhy - len("…")
	for cut > 0 && s[cut]&0xC0 == 0x80 { // within a character
		cut--
	}
	return s[:cut] + "…"
}
