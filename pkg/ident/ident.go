// Package ident holds the identifiers of a Herald platform as values that
// cannot hold a bad one: each type is made only by its Parse function, and a
// value that exists is valid (or is the zero value, which IsZero tells and
// which no Parse function returns without an error).
//
// Nothing is shortened, trimmed or folded on the way in: what is not valid as
// given is refused, so that two spellings never mean one thing.
package ident

import (
	"crypto/sha256"
	"encoding/base32"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"

	"github.com/nats-io/nkeys"
)

// ErrInvalid is wrapped by every error of this package.
var ErrInvalid = errors.New("invalid identifier")

func invalid(what, value, rule string) error {
	return fmt.Errorf("%w: %s is not a %s: %s", ErrInvalid, shown(value), what, rule)
}

// shown is a value from outside as it may be told and logged: bounded, harmless to print,
// and without what was put here by mistake and is a secret: the seed of an nkey, the secret
// of an access key, the code of an invitation, a token.
func shown(value string) string {
	const most, begin = 40, 8
	switch {
	case strings.Contains(value, "hks_"), strings.Contains(value, "eyJ"), isSecret(value):
		return fmt.Sprintf("what was given, %d bytes,", len(value))
	case len(value) <= most, len(value) <= 2*most && nkeys.IsValidPublicKey(value):
		return fmt.Sprintf("%q", value)
	}
	return fmt.Sprintf("%.*q… of %d bytes", begin, value, len(value))
}

// isSecret tells whether a text, whatever is between its letters and digits, looks like a code
// of an invitation, or like a seed or most of one.
func isSecret(value string) bool {
	folded := strings.Map(func(r rune) rune {
		switch {
		case '0' <= r && r <= '9', 'A' <= r && r <= 'Z':
			return r
		case 'a' <= r && r <= 'z':
			return r - 'a' + 'A'
		}
		return -1
	}, value)
	const code, seed = 22, 58
	switch {
	case len(folded) < code-2:
		return false
	case len(folded) <= code+2 && folded[0] == 'H' && strings.ContainsRune("I1L", rune(folded[1])):
		return true
	}
	return len(folded) >= seed/2 && len(folded) <= 2*seed && folded[0] == 'S' && strings.ContainsRune("OACUNXP", rune(folded[1])) &&
		strings.Trim(folded, "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567") == ""
}

const (
	nameRule  = "1 to 32 of a-z and 0-9, with single . _ or - between them"
	labelRule = "1 to 32 of A-Z, a-z, 0-9, _ and -"
	// A region is a NATS cluster name, a JetStream placement and a token of
	// subjects, and comes back from user JWT tags, which the server lower-cases.
	regionRule = "1 to 16 of a-z and 0-9, the first a letter"
)

// Name is what a person or program is called on the platform, such as "alice".
type Name struct{ s string }

// ParseName accepts 1 to 32 of [a-z0-9] with single '.', '_' or '-' between.
func ParseName(s string) (Name, error) {
	if len(s) < 1 || len(s) > 32 {
		return Name{}, invalid("name", s, nameRule)
	}
	sep := true // a separator may neither begin a name nor follow another
	for i := range len(s) {
		switch c := s[i]; {
		case isLower(c) || isDigit(c):
			sep = false
		case (c == '.' || c == '_' || c == '-') && !sep:
			sep = true
		default:
			return Name{}, invalid("name", s, nameRule)
		}
	}
	if sep {
		return Name{}, invalid("name", s, nameRule)
	}
	return Name{s}, nil
}

func (n Name) String() string { return n.s }

// IsZero tells whether there is no name at all.
func (n Name) IsZero() bool { return n.s == "" }

// Token is the name as one token of a NATS subject or key: '.' would part it
// in two, and '=' can be in no name.
func (n Name) Token() string { return strings.ReplaceAll(n.s, ".", "=") }

// MarshalText implements encoding.TextMarshaler.
func (n Name) MarshalText() ([]byte, error) { return []byte(n.s), nil }

// UnmarshalText implements encoding.TextUnmarshaler; see ParseName.
func (n *Name) UnmarshalText(b []byte) (err error) { *n, err = ParseName(string(b)); return err }

// Region is the name of one NATS cluster of the supercluster, such as "ams".
type Region struct{ s string }

// ParseRegion accepts 1 to 16 of [a-z0-9], the first a letter.
func ParseRegion(s string) (Region, error) {
	if len(s) < 1 || len(s) > 16 || !isLower(s[0]) {
		return Region{}, invalid("region", s, regionRule)
	}
	for i := range len(s) {
		if !isLower(s[i]) && !isDigit(s[i]) {
			return Region{}, invalid("region", s, regionRule)
		}
	}
	return Region{s}, nil
}

func (r Region) String() string { return r.s }

// IsZero tells whether there is no region at all.
func (r Region) IsZero() bool { return r.s == "" }

// MarshalText implements encoding.TextMarshaler.
func (r Region) MarshalText() ([]byte, error) { return []byte(r.s), nil }

// UnmarshalText implements encoding.TextUnmarshaler; see ParseRegion.
func (r *Region) UnmarshalText(b []byte) (err error) { *r, err = ParseRegion(string(b)); return err }

// Label names an account, a role, a room or a channel: case-sensitive, one
// token of a subject.
type Label struct{ s string }

// ParseLabel accepts [A-Za-z0-9_-]{1,32}.
func ParseLabel(s string) (Label, error) {
	if len(s) < 1 || len(s) > 32 {
		return Label{}, invalid("label", s, labelRule)
	}
	for i := range len(s) {
		if c := s[i]; !isLower(c) && !isUpper(c) && !isDigit(c) && c != '_' && c != '-' {
			return Label{}, invalid("label", s, labelRule)
		}
	}
	return Label{s}, nil
}

func (l Label) String() string { return l.s }

// IsZero tells whether there is no label at all.
func (l Label) IsZero() bool { return l.s == "" }

// MarshalText implements encoding.TextMarshaler.
func (l Label) MarshalText() ([]byte, error) { return []byte(l.s), nil }

// UnmarshalText implements encoding.TextUnmarshaler; see ParseLabel.
func (l *Label) UnmarshalText(b []byte) (err error) { *l, err = ParseLabel(string(b)); return err }

// UserKey is the public nkey of a user, "U…".
type UserKey struct{ s string }

// ParseUserKey accepts a public user nkey; its checksum is verified.
func ParseUserKey(s string) (UserKey, error) {
	if err := checkKey(s, "user key", nkeys.PrefixByteUser, "U"); err != nil {
		return UserKey{}, err
	}
	return UserKey{s}, nil
}

func (k UserKey) String() string { return k.s }

// IsZero tells whether there is no key at all.
func (k UserKey) IsZero() bool { return k.s == "" }

// MarshalText implements encoding.TextMarshaler.
func (k UserKey) MarshalText() ([]byte, error) { return []byte(k.s), nil }

// UnmarshalText implements encoding.TextUnmarshaler; see ParseUserKey.
func (k *UserKey) UnmarshalText(b []byte) (err error) { *k, err = ParseUserKey(string(b)); return err }

// AccountKey is a public nkey of an account, "A…": its identity, or one of its
// role keys.
type AccountKey struct{ s string }

// ParseAccountKey accepts a public account nkey; its checksum is verified.
func ParseAccountKey(s string) (AccountKey, error) {
	if err := checkKey(s, "account key", nkeys.PrefixByteAccount, "A"); err != nil {
		return AccountKey{}, err
	}
	return AccountKey{s}, nil
}

func (k AccountKey) String() string { return k.s }

// IsZero tells whether there is no key at all.
func (k AccountKey) IsZero() bool { return k.s == "" }

// MarshalText implements encoding.TextMarshaler.
func (k AccountKey) MarshalText() ([]byte, error) { return []byte(k.s), nil }

// UnmarshalText implements encoding.TextUnmarshaler; see ParseAccountKey.
func (k *AccountKey) UnmarshalText(b []byte) (err error) {
	*k, err = ParseAccountKey(string(b))
	return err
}

// SealKey is a public curve key (xkey), "X…": something can be sealed to it.
type SealKey struct{ s string }

// ParseSealKey accepts a public curve nkey; its checksum is verified.
func ParseSealKey(s string) (SealKey, error) {
	if err := checkKey(s, "curve key", nkeys.PrefixByteCurve, "X"); err != nil {
		return SealKey{}, err
	}
	return SealKey{s}, nil
}

func (k SealKey) String() string { return k.s }

// IsZero tells whether there is no key at all.
func (k SealKey) IsZero() bool { return k.s == "" }

// MarshalText implements encoding.TextMarshaler.
func (k SealKey) MarshalText() ([]byte, error) { return []byte(k.s), nil }

// UnmarshalText implements encoding.TextUnmarshaler; see ParseSealKey.
func (k *SealKey) UnmarshalText(b []byte) (err error) { *k, err = ParseSealKey(string(b)); return err }

// KeyID is the public id of an access key, "HK" and 18 characters of base32.
type KeyID struct{ s string }

// ParseKeyID accepts HK[A-Z2-7]{18}.
func ParseKeyID(s string) (KeyID, error) {
	if len(s) != 20 || !strings.HasPrefix(s, "HK") || !isBase32(s) {
		return KeyID{}, invalid("key id", s, "HK and 18 characters of base32")
	}
	return KeyID{s}, nil
}

func (k KeyID) String() string { return k.s }

// IsZero tells whether there is no id at all.
func (k KeyID) IsZero() bool { return k.s == "" }

// MarshalText implements encoding.TextMarshaler.
func (k KeyID) MarshalText() ([]byte, error) { return []byte(k.s), nil }

// UnmarshalText implements encoding.TextUnmarshaler; see ParseKeyID.
func (k *KeyID) UnmarshalText(b []byte) (err error) { *k, err = ParseKeyID(string(b)); return err }

// InviteID names an invitation without telling its code: the code's hash.
type InviteID struct{ s string }

// InviteOf gives the id of a code: 130 bits of SHA-256 of it, under a prefix of
// its own, in lower-case base32.
func InviteOf(code string) InviteID {
	sum := sha256.Sum256([]byte("herald/v1/invite\n" + code))
	return InviteID{strings.ToLower(base32.StdEncoding.EncodeToString(sum[:])[:26])}
}

// ParseInviteID accepts [a-z2-7]{26}.
func ParseInviteID(s string) (InviteID, error) {
	if len(s) != 26 || s != strings.ToLower(s) || !isBase32(strings.ToUpper(s)) {
		return InviteID{}, invalid("invite id", s, "26 characters of lower-case base32")
	}
	return InviteID{s}, nil
}

func (i InviteID) String() string { return i.s }

// IsZero tells whether there is no id at all.
func (i InviteID) IsZero() bool { return i.s == "" }

// MarshalText implements encoding.TextMarshaler.
func (i InviteID) MarshalText() ([]byte, error) { return []byte(i.s), nil }

// UnmarshalText implements encoding.TextUnmarshaler; see ParseInviteID.
func (i *InviteID) UnmarshalText(b []byte) (err error) {
	*i, err = ParseInviteID(string(b))
	return err
}

// Identity is who someone is, by the way they proved it:
//
//	open:U…                     who proved nothing but to hold an nkey
//	invite:U…                   who came with an invitation, by their nkey
//	key:HK…                     a program with an access key
//	oidc:<provider>:<subject>   who an identity provider vouches for
type Identity struct{ kind, id string }

// Kinds of identities.
const (
	KindOpen   = "open"
	KindInvite = "invite"
	KindKey    = "key"
	KindOIDC   = "oidc"
)

// OpenIdentity is the identity of whoever holds the seed of k, and no more.
func OpenIdentity(k UserKey) Identity { return Identity{KindOpen, k.s} }

// InviteIdentity is the identity of whoever holds the seed of k and was invited.
func InviteIdentity(k UserKey) Identity { return Identity{KindInvite, k.s} }

// KeyIdentity is the identity of an access key's holder.
func KeyIdentity(k KeyID) Identity { return Identity{KindKey, k.s} }

// OIDCIdentity is the identity that a provider calls subject: 1 to 255 printable
// characters of ASCII, the longest that OpenID Connect allows.
func OIDCIdentity(provider Label, subject string) (Identity, error) {
	if provider.IsZero() || len(subject) < 1 || len(subject) > 255 {
		return Identity{}, invalid("subject of a provider", subject, "1 to 255 characters")
	}
	for i := range len(subject) {
		if c := subject[i]; c < 0x20 || c > 0x7e {
			return Identity{}, invalid("subject of a provider", subject, "printable ASCII")
		}
	}
	return Identity{KindOIDC, provider.s + ":" + subject}, nil
}

// ParseIdentity accepts what Identity.String gives.
func ParseIdentity(s string) (Identity, error) {
	kind, id, _ := strings.Cut(s, ":")
	switch kind {
	case KindOpen, KindInvite:
		k, err := ParseUserKey(id)
		if err != nil {
			return Identity{}, fmt.Errorf("identity of kind %s: %w", kind, err)
		}
		return Identity{kind, k.s}, nil
	case KindKey:
		k, err := ParseKeyID(id)
		if err != nil {
			return Identity{}, fmt.Errorf("identity of kind key: %w", err)
		}
		return KeyIdentity(k), nil
	case KindOIDC:
		provider, subject, _ := strings.Cut(id, ":")
		p, err := ParseLabel(provider)
		if err != nil {
			return Identity{}, fmt.Errorf("identity of kind oidc: %w", err)
		}
		return OIDCIdentity(p, subject)
	default:
		return Identity{}, invalid("identity", s, "its kind must be open, invite, key or oidc")
	}
}

// Kind is how the identity was proved, such as "open".
func (i Identity) Kind() string { return i.kind }

// Tag stands for the identity where nothing but one word of a subject can stand: of an
// access key its id in lower case; of any other the first 160 bits of SHA-256 of
// "herald/v1/kid", a line end and the identity, in lower-case base32. It holds a-z and 2-7
// alone, and no two identities have the same.
func (i Identity) Tag() string {
	if k, ok := i.KeyID(); ok {
		return strings.ToLower(k.String())
	}
	sum := sha256.Sum256([]byte("herald/v1/kid\n" + i.String()))
	return strings.ToLower(base32.StdEncoding.EncodeToString(sum[:20]))
}

// KeyID is the access key that the identity is of, if it is of one.
func (i Identity) KeyID() (KeyID, bool) {
	if i.kind != KindKey {
		return KeyID{}, false
	}
	return KeyID{i.id}, true
}

// Becomes tells whether o is the same holder of an nkey with more of a proof: who came
// openly, and now with an invitation.
func (i Identity) Becomes(o Identity) bool {
	return i.kind == KindOpen && o.kind == KindInvite && i.id == o.id && i.id != ""
}

// Provider is who vouches for the identity; zero where nobody else does.
func (i Identity) Provider() Label {
	if i.kind != KindOIDC {
		return Label{}
	}
	p, _, _ := strings.Cut(i.id, ":")
	return Label{p}
}

// IsZero tells whether there is no identity at all.
func (i Identity) IsZero() bool { return i.kind == "" }

func (i Identity) String() string {
	if i.IsZero() {
		return ""
	}
	return i.kind + ":" + i.id
}

// Token is the identity as one token of a NATS subject.
func (i Identity) Token() string { return base64.RawURLEncoding.EncodeToString([]byte(i.String())) }

// MarshalText implements encoding.TextMarshaler.
func (i Identity) MarshalText() ([]byte, error) { return []byte(i.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler; see ParseIdentity.
func (i *Identity) UnmarshalText(b []byte) (err error) {
	*i, err = ParseIdentity(string(b))
	return err
}

// checkKey accepts a public nkey in its one spelling. nkeys looks at no length, passes
// over line ends, and masks the lowest bits of the byte that says the kind: with it
// one key had eight spellings, each of them an identity of its own.
func checkKey(s, what string, prefix nkeys.PrefixByte, letter string) error {
	if len(s) == 56 && strings.HasPrefix(s, letter) && isBase32(s) {
		if raw, err := nkeys.Decode(prefix, []byte(s)); err == nil {
			if one, err := nkeys.Encode(prefix, raw); err == nil && string(one) == s {
				return nil
			}
		}
	}
	return invalid(what, s, "56 characters of base32 that begin with "+letter+" and end with their checksum")
}

func isBase32(s string) bool {
	for i := range len(s) {
		if c := s[i]; !isUpper(c) && (c < '2' || c > '7') {
			return false
		}
	}
	return true
}

func isLower(c byte) bool { return 'a' <= c && c <= 'z' }
func isUpper(c byte) bool { return 'A' <= c && c <= 'Z' }
func isDigit(c byte) bool { return '0' <= c && c <= '9' }
