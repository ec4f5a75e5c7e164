package ledger

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"time"

	"github.com/herald-nats/herald/pkg/keystore"
	"github.com/herald-nats/herald/pkg/trust"
)

// MaxAhead is how far ahead of a reader's clock an entry may be dated. An entry
// beyond it is refused: with it whoever's clock is wrong, or whoever stole a key
// for a moment, could make a statement that nobody can beat for years.
const MaxAhead = 5 * time.Minute

// Sum is the beginning of the SHA-256 of an entry's token. It tells two entries
// about one key apart; nothing is believed for it.
type Sum [16]byte

// Entry is an entry that was opened: its signature is verified, and its body is of
// the kind that its key says.
type Entry struct {
	Key     Key
	Version uint64
	Denies  bool
	At      time.Time // when it was decided, to the millisecond
	Sum     Sum
	Token   string // as it was signed; what stores hold and registrars hand on
	// Body is a Name, an Invite, an AccessKey, a Base, a *Document, a Handed, a Revocation or
	// a Suspension, as Key.Kind says.
	Body any
}

// Beats tells whether a holds where both are about one key: the greater version; of
// equal ones the one that denies; then the later; then, for want of a reason, the
// one with the greater sum. It is a strict total order on entries with different
// tokens, which makes merging commutative, associative and idempotent.
func (a Entry) Beats(b Entry) bool { return a.order().beats(b.order()) }

// order is what decides between two entries about one key.
type order struct {
	version uint64
	at      int64 // ms
	sum     Sum
	denies  bool
}

func (a Entry) order() order { return order{a.Version, a.At.UnixMilli(), a.Sum, a.Denies} }

func (a order) beats(b order) bool {
	if c := cmp.Compare(a.version, b.version); c != 0 {
		return c > 0
	}
	if a.denies != b.denies {
		return a.denies
	}
	if c := cmp.Compare(a.at, b.at); c != 0 {
		return c > 0
	}
	return bytes.Compare(a.sum[:], b.sum[:]) > 0
}

// Signer signs entries as this platform's registrar.
type Signer interface {
	// Sign gives the token of an entry by an operator signing key.
	Sign(e trust.Entry) (string, error)
}

// KeySigner is a Signer with an operator signing key in hand.
type KeySigner struct{ Key *keystore.Key }

// Sign implements Signer.
func (s KeySigner) Sign(e trust.Entry) (string, error) { return e.Sign(s.Key) }

// Opener opens entries for a reader.
type Opener struct {
	Operator *trust.Operator
	Now      func() time.Time
	// Check says whether a platform document has what its reader cannot do without, of
	// which this package knows nothing; nil asks for nothing. What it refuses is
	// ErrDamaged.
	Check func(*Document) error
}

// Open verifies an entry that was found under a key: what has no signature of this
// platform, is about another key or out of shape is ErrDamaged, what is dated more
// than MaxAhead from now is ErrAhead.
func (o Opener) Open(key, token string) (Entry, error) {
	e, err := o.Operator.OpenEntry(token)
	if err != nil {
		return Entry{}, fmt.Errorf("the entry of %.80q: %w: %w", key, ErrDamaged, err)
	}
	if e.Subject != key {
		return Entry{}, fmt.Errorf("the entry of %.80q is about %.80q: %w", key, e.Subject, ErrDamaged)
	}
	k, err := ParseKey(e.Subject)
	if err != nil {
		return Entry{}, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	full := sha256.Sum256([]byte(token))
	out := Entry{Key: k, Version: e.Version, Denies: e.Denies, At: time.UnixMilli(e.At), Token: token}
	copy(out.Sum[:], full[:])
	horizon := o.Now().Add(MaxAhead)
	if out.At.After(horizon) {
		return Entry{}, fmt.Errorf("the entry of %s is dated %s: %w", k, out.At.UTC().Format(time.RFC3339), ErrAhead)
	}
	if out.Body, err = o.body(k, e); err != nil {
		return Entry{}, fmt.Errorf("the entry of %s: %w: %w", k, ErrDamaged, err)
	}
	if r, ok := out.Body.(Revocation); ok && time.Unix(r.Before, 0).After(horizon) {
		return Entry{}, fmt.Errorf("the entry of %s revokes until %d: %w", k, r.Before, ErrAhead)
	}
	return out, nil
}

// body reads what an entry states, by the kind of its key.
func (o Opener) body(k Key, e trust.Entry) (any, error) {
	switch k.Kind() {
	case KindName:
		b, err := decode[Name](e.Body)
		if err == nil && b.Holder.IsZero() {
			err = fmt.Errorf("nobody holds the name")
		}
		return b, err
	case KindInvite:
		b, err := decode[Invite](e.Body)
		if err == nil {
			err = b.check()
		}
		return b, err
	case KindAccessKey:
		b, err := decode[AccessKey](e.Body)
		if err == nil {
			err = b.check()
		}
		return b, err
	case KindBase:
		b, err := decode[Base](e.Body)
		if err == nil {
			err = b.check(o.Operator, k, e.Version)
		}
		return b, err
	case KindRoleKey, KindSealKey:
		if e.Denies {
			return Handed{}, nil
		}
		b, err := decode[Handed](e.Body)
		if err == nil {
			err = b.check(k.Kind())
		}
		return b, err
	case KindPlatform:
		d, err := openDocument(o.Operator, e)
		if err == nil && o.Check != nil {
			err = o.Check(d)
		}
		return d, err
	case KindRevocation:
		b, err := decode[Revocation](e.Body)
		b.Before = int64(min(e.Version, 1<<40)) // #nosec G115 -- bounded
		return b, err
	case KindSuspension:
		return decode[Suspension](e.Body)
	}
	return nil, fmt.Errorf("a kind without a body")
}

// decode reads a body. Members that T does not have are passed over: a signing key
// of this platform stated them, and a reader of this version must go on working
// when a later one adds some.
func decode[T any](body json.RawMessage) (T, error) {
	var v T
	if body == nil {
		return v, nil
	}
	if err := json.Unmarshal(body, &v); err != nil {
		return v, fmt.Errorf("its body cannot be read: %w", err)
	}
	return v, nil
}

// draft is a statement that is to be signed.
type draft struct {
	key     Key
	version uint64
	denies  bool
	at      time.Time
	body    any
}

func (d draft) sign(s Signer) (string, error) {
	body, err := json.Marshal(d.body)
	if err != nil {
		return "", fmt.Errorf("encoding the entry of %s: %w", d.key, err)
	}
	return s.Sign(trust.Entry{Subject: d.key.s, Version: d.version, Denies: d.denies, At: d.at.UnixMilli(), Body: body})
}
