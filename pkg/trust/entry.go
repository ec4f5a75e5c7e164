package trust

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nkeys"

	"github.com/herald-nats/herald/pkg/keystore"
)

// kindEntry is the kind of a ledger entry's document.
const kindEntry = "herald-entry"

// MaxEntry bounds the token of an entry in bytes. The largest is that of an
// account's base claims; a name's has about 600.
const MaxEntry = 512 << 10

// maxSubject bounds what an entry is about.
const maxSubject = 512

// Entry is one statement of the ledger, signed by who decided it: a NATS JWT
// (generic claims) by an operator signing key. What is stated, and which of two
// statements about one thing holds, is pkg/ledger's to say.
type Entry struct {
	// Subject is what the entry is about: tokens of a NATS subject, the first
	// being the kind of thing ("name.alice"). It is also the entry's key in every
	// store, and an entry is believed for that key only.
	Subject string
	// Version grows with every change; the greater one holds.
	Version uint64
	// Denies says that the thing is gone, suspended or revoked. Of two entries
	// with one version, the one that denies holds.
	Denies bool
	// At is when it was decided, in milliseconds since 1970.
	At int64
	// Body is the statement as JSON; nil where nothing more is to be said.
	Body json.RawMessage
	// Signer is the operator signing key. OpenEntry sets it; Sign does not read it.
	Signer string
}

// entryClaims is the payload of an entry's JWT.
type entryClaims struct {
	IssuedAt int64  `json:"iat"`
	Issuer   string `json:"iss"`
	Subject  string `json:"sub"`
	Nats     struct {
		Type    string `json:"type"`
		Version int    `json:"version"`
		Body    struct {
			Version uint64          `json:"version"`
			Denies  bool            `json:"denies,omitempty"`
			At      int64           `json:"at"`
			Entry   json.RawMessage `json:"entry,omitempty"`
		} `json:"body"`
	} `json:"nats"`
}

// Sign gives the entry as a JWT by an operator signing key. The same entry and
// key give the same token.
func (e Entry) Sign(key *keystore.Key) (string, error) {
	var c entryClaims
	if err := e.check(); err != nil {
		return "", err
	}
	c.IssuedAt, c.Issuer, c.Subject = e.At/int64(time.Second/time.Millisecond), key.Public(), e.Subject
	c.Nats.Type, c.Nats.Version = kindEntry, 2
	c.Nats.Body.Version, c.Nats.Body.Denies, c.Nats.Body.At, c.Nats.Body.Entry = e.Version, e.Denies, e.At, e.Body
	token, err := EncodeJWT(c, key)
	if err != nil {
		return "", fmt.Errorf("signing the entry of %s: %w", e.Subject, err)
	}
	if len(token) > MaxEntry {
		return "", fmt.Errorf("signing the entry of %s: %d bytes, more than %d", e.Subject, len(token), MaxEntry)
	}
	return token, nil
}

func (e Entry) check() error {
	if !isEntrySubject(e.Subject) || e.Version == 0 || e.At <= 0 {
		return fmt.Errorf("an entry of %.64q, version %d, at %d: out of shape", e.Subject, e.Version, e.At)
	}
	return nil
}

// isEntrySubject accepts two tokens and more, none of them a wildcard.
func isEntrySubject(s string) bool {
	if len(s) > maxSubject {
		return false
	}
	empty := true
	for i := range len(s) {
		switch c := s[i]; {
		case c == '.':
			if empty {
				return false
			}
			empty = true
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-', c == '_', c == '=':
			empty = false
		default:
			return false
		}
	}
	return !empty && strings.Contains(s, ".")
}

// OpenEntry verifies an entry: its shape, its kind, its signature, and that an
// operator signing key made it. It does so without jwt/v2's detour through maps
// and key strings, because a ledger has a million of them. Whether it is the
// entry that belongs where it was found is for the caller to compare.
func (o *Operator) OpenEntry(token string) (Entry, error) {
	var c entryClaims
	if err := o.open(token, "an entry", MaxEntry, &c, &c.Issuer); err != nil {
		return Entry{}, err
	}
	// From here on it is what a signing key said, though maybe of another kind.
	if c.Nats.Type != kindEntry || c.Nats.Version != 2 {
		return Entry{}, fmt.Errorf("a document of kind %.40q where an entry belongs: %w", c.Nats.Type, ErrUntrusted)
	}
	e := Entry{
		Subject: c.Subject, Version: c.Nats.Body.Version, Denies: c.Nats.Body.Denies, At: c.Nats.Body.At,
		Body: c.Nats.Body.Entry, Signer: c.Issuer,
	}
	if bytes.Equal(e.Body, []byte("null")) {
		e.Body = nil
	}
	return e, e.check()
}

// open reads the claims of a JWT that an operator signing key signed: the one that the claims
// themselves name as issuer. Of what kind they are, the caller has to see. what says in errors
// what it should be, and most bounds it in bytes.
func (o *Operator) open(token, what string, most int, claims any, issuer *string) error {
	if len(token) > most {
		return fmt.Errorf("%s of %d bytes", what, len(token))
	}
	rest, ok := strings.CutPrefix(token, JWTHeader)
	payload, signature, ok2 := strings.Cut(rest, ".")
	if !ok || !ok2 || len(signature) != base64.RawURLEncoding.EncodedLen(ed25519.SignatureSize) {
		return fmt.Errorf("%s that is no JWT of version 2", what)
	}
	enc := base64.RawURLEncoding.Strict()
	var sig [ed25519.SignatureSize + 2]byte
	n, err := enc.Decode(sig[:], []byte(signature))
	if err != nil || n != ed25519.SignatureSize {
		return fmt.Errorf("%s whose signature cannot be read", what)
	}
	data, err := enc.DecodeString(payload)
	if err != nil {
		return fmt.Errorf("%s that cannot be read: %w", what, err)
	}
	if err := json.Unmarshal(data, claims); err != nil {
		return fmt.Errorf("%s that cannot be read: %w", what, err)
	}
	key, ok := o.verify[*issuer]
	if !ok {
		return fmt.Errorf("%s signed by %.60q: %w", what, *issuer, ErrUntrusted)
	}
	if !ed25519.Verify(key, []byte(token[:len(JWTHeader)+len(payload)]), sig[:n]) {
		return fmt.Errorf("%s with a signature that is not by %s: %w", what, *issuer, ErrUntrusted)
	}
	return nil
}

// publicKeys decodes operator nkeys once, for verifying.
func publicKeys(pubs []string) (map[string]ed25519.PublicKey, error) {
	keys := make(map[string]ed25519.PublicKey, len(pubs))
	for _, pub := range pubs {
		raw, err := nkeys.Decode(nkeys.PrefixByteOperator, []byte(pub))
		if err != nil || len(raw) != ed25519.PublicKeySize {
			return nil, fmt.Errorf("operator signing key %.60q: %w", pub, ErrUntrusted)
		}
		keys[pub] = raw
	}
	return keys, nil
}
