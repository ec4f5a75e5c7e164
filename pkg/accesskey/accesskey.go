// Package accesskey is what an access key is: a public id ("HK…"), by which a platform
// knows a program, and a secret ("hks_…"), with which the program signs. It makes them,
// reads them strictly, and finds secrets in files where they should not be. It knows no
// platform: whose a key is and what it may have, the ledger tells.
//
// # The id
//
// An id is 90 random bits, not derived from the public key. It is what names, grants, tags
// and suspensions of a program hang on, and has to outlive the secret: a rotation puts
// another public key under the same id. Were it derived, each rotation would be another
// identity, and the name that the program has would be taken, by itself. So an id cannot
// be told from a secret alone; the public key can, and the platform finds the id by that.
// Two ids are never equal by accident (one chance in 10^15 for a million keys), and nothing
// rests on it: a ledger refuses to make an id that it has, and a signature is held against
// the public key in its entry.
//
// # The secret
//
// A secret has 53 characters, all of which a double click selects and no URL, shell or
// JSON text changes:
//
//	hks_   a prefix by which people and scanners know it
//	43     base62 of 32 random bytes, the seed of an ed25519 key
//	6      base62 of a CRC-32 (IEEE 802.3, as in zlib) of the 47 characters before
//
// Base62 is the big-endian number in digits 0-9, A-Z, a-z of the values 0 to 61, the most
// significant first, with zeros in front up to the length. A number that does not fit 32
// bytes, or 32 bits, is refused, so that a key has one spelling. The checksum tells a real
// secret from a look-alike without asking anybody; it is no proof that a platform has it.
// It catches every single wrong character, every two neighbours that changed places, and of
// other errors all but one in 2^32. The files in testdata are for other implementations.
package accesskey

import (
	"crypto/ed25519"
	"encoding/base32"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"log/slog"
	"strings"

	"github.com/nats-io/nkeys"

	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/keystore"
)

// ErrInvalid is wrapped by every error about a text that is no secret of an access key.
var ErrInvalid = errors.New("not the secret of an access key")

const (
	prefix    = "hks_"
	bodyLen   = 43 // base62 of 32 bytes
	sumLen    = 6  // base62 of 32 bits
	alnumLen  = bodyLen + sumLen
	secretLen = len(prefix) + alnumLen

	redacted = prefix + "[redacted]"
)

// Secret is the secret of an access key: the zero value, or a valid one. Printing, logging
// or encoding one, with any verb and in any field, shows that it is one and no more; Reveal
// tells it. The text is behind a function, because fmt calls no method of a field that is
// not exported. It is safe for concurrent use.
type Secret struct {
	pub    ident.UserKey
	reveal func() string
}

// Generate makes a new access key: its secret and its id. It reads 44 bytes of random: 32
// for the secret, then 12 for the id.
func Generate(random io.Reader) (Secret, ident.KeyID, error) {
	s, err := NewSecret(random)
	if err != nil {
		return Secret{}, ident.KeyID{}, err
	}
	var b [12]byte
	if _, err := io.ReadFull(random, b[:]); err != nil {
		return Secret{}, ident.KeyID{}, fmt.Errorf("making an access key's id: %w", err)
	}
	id, err := ident.ParseKeyID("HK" + base32.StdEncoding.EncodeToString(b[:])[:18])
	if err != nil {
		return Secret{}, ident.KeyID{}, fmt.Errorf("making an access key's id: %w", err)
	}
	return s, id, nil
}

// NewSecret makes a new secret, for an access key that has an id: one that is rotated. It
// reads 32 bytes of random.
func NewSecret(random io.Reader) (Secret, error) {
	var seed [32]byte
	if _, err := io.ReadFull(random, seed[:]); err != nil {
		return Secret{}, fmt.Errorf("making an access key's secret: %w", err)
	}
	return fromSeed(seed)
}

func fromSeed(seed [32]byte) (Secret, error) {
	// What is public of an ed25519 key follows its seed in the private key.
	encoded, err := nkeys.Encode(nkeys.PrefixByteUser, ed25519.NewKeyFromSeed(seed[:])[ed25519.SeedSize:])
	if err != nil {
		return Secret{}, fmt.Errorf("deriving an access key's public key: %w", err)
	}
	pub, err := ident.ParseUserKey(string(encoded))
	if err != nil {
		return Secret{}, fmt.Errorf("deriving an access key's public key: %w", err)
	}
	text := prefix + encode62(seed[:], bodyLen)
	text += checksum(text)
	return Secret{pub: pub, reveal: func() string { return text }}, nil
}

// Parse reads a secret in its one spelling: nothing is trimmed or folded. Errors wrap
// ErrInvalid, say what is wrong and quote nothing of s.
func Parse(s string) (Secret, error) {
	seed, err := decode(s)
	if err != nil {
		return Secret{}, err
	}
	return fromSeed(seed)
}

// decode gives the seed.
func decode(s string) (seed [32]byte, err error) {
	switch {
	case s == "":
		return seed, fmt.Errorf("%w: it is empty", ErrInvalid)
	case isKeyID(s):
		return seed, fmt.Errorf("%w: it is an access key's id, which is public", ErrInvalid)
	case !strings.HasPrefix(s, prefix):
		return seed, fmt.Errorf("%w: it does not begin with %s", ErrInvalid, prefix)
	case len(s) != secretLen && len(strings.TrimSpace(s)) == secretLen:
		return seed, fmt.Errorf("%w: there are spaces or line ends around it", ErrInvalid)
	case len(s) != secretLen:
		return seed, fmt.Errorf("%w: it has %d bytes instead of %d", ErrInvalid, len(s), secretLen)
	}
	for i := len(prefix); i < len(s); i++ {
		if value62(s[i]) < 0 {
			return seed, fmt.Errorf("%w: byte %d is neither a letter nor a digit of ASCII", ErrInvalid, i+1)
		}
	}
	if !decode62(seed[:], s[len(prefix):len(s)-sumLen]) {
		return [32]byte{}, fmt.Errorf("%w: its number does not fit into 32 bytes", ErrInvalid)
	}
	if checksum(s[:len(s)-sumLen]) != s[len(s)-sumLen:] {
		return [32]byte{}, fmt.Errorf("%w: its checksum does not hold: a character was changed, or nobody ever made it", ErrInvalid)
	}
	return seed, nil
}

func isKeyID(s string) bool {
	_, err := ident.ParseKeyID(s)
	return err == nil
}

// checksum gives the last characters of a secret from those before.
func checksum(s string) string {
	sum := crc32.ChecksumIEEE([]byte(s))
	return encode62(binary.BigEndian.AppendUint32(nil, sum), sumLen)
}

// IsZero tells whether there is no secret at all.
func (s Secret) IsZero() bool { return s.reveal == nil }

// Reveal is the secret itself, as Parse reads it; "" of the zero value. Whoever calls this
// answers for where it goes.
func (s Secret) Reveal() string {
	if s.reveal == nil {
		return ""
	}
	return s.reveal()
}

// Public is the public half, by which a platform can tell whose it is.
func (s Secret) Public() ident.UserKey { return s.pub }

// Key is the secret as a key that signs; wire.Prove takes it. Of the zero value it is an
// error that wraps ErrInvalid.
func (s Secret) Key() (*keystore.Key, error) {
	seed, err := decode(s.Reveal())
	if err != nil {
		return nil, err
	}
	encoded, err := nkeys.EncodeSeed(nkeys.PrefixByteUser, seed[:])
	if err != nil {
		return nil, fmt.Errorf("encoding the key of %s: %w", s.pub, err)
	}
	k, err := keystore.Parse(keystore.User, encoded)
	if err != nil {
		return nil, fmt.Errorf("making the key of %s: %w", s.pub, err)
	}
	return k, nil
}

// String does not tell the secret.
func (Secret) String() string { return redacted }

// GoString does not tell the secret.
func (Secret) GoString() string { return redacted }

// Format does not tell the secret, whatever the verb.
func (Secret) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, redacted) } // fmt has no way to hear of it

// MarshalText does not tell the secret: what was encoded cannot be read again.
func (Secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// LogValue does not tell the secret.
func (Secret) LogValue() slog.Value { return slog.StringValue(redacted) }
