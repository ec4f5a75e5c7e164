package ledger

import (
	"encoding/base64"
	"fmt"
	"strings"

	"github.com/herald-nats/herald/pkg/ident"
)

// Kind is a kind of thing that the ledger has entries about.
type Kind string

// The kinds. Revocations and suspensions are written anywhere, the others decided in home.
const (
	KindName       Kind = "name"
	KindInvite     Kind = "invite"
	KindAccessKey  Kind = "accesskey"
	KindBase       Kind = "base"
	KindPlatform   Kind = "platform"
	KindRoleKey    Kind = "rolekey"
	KindSealKey    Kind = "sealkey"
	KindRevocation Kind = "revocation"
	KindSuspension Kind = "suspension"
)

// Key is what an entry is about. Its text is made of tokens of a NATS subject, the
// first being the kind: "name.alice", "revocation.A….U…".
type Key struct{ s string }

// NameKey is the key of a name.
func NameKey(n ident.Name) Key { return Key{"name." + n.Token()} }

// InviteKey is the key of an invitation.
func InviteKey(i ident.InviteID) Key { return Key{"invite." + i.String()} }

// AccessKeyKey is the key of an access key.
func AccessKeyKey(k ident.KeyID) Key { return Key{"accesskey." + k.String()} }

// BaseKey is the key of an account's base claims.
func BaseKey(a ident.AccountKey) Key { return Key{"base." + a.String()} }

// RoleKeyKey is the key of a role key that is handed to issuers through the ledger.
func RoleKeyKey(public ident.AccountKey) Key { return Key{"rolekey." + public.String()} }

// SealKeyKey is the key of a region key, or of a callout key, that is handed to issuers so.
func SealKeyKey(public ident.SealKey) Key { return Key{"sealkey." + public.String()} }

// PlatformKey is the key of the platform document.
func PlatformKey() Key { return Key{"platform.document"} }

// RevocationKey is the key of a user's revocation in an account.
func RevocationKey(a ident.AccountKey, u ident.UserKey) Key {
	return Key{"revocation." + a.String() + "." + u.String()}
}

// everybody stands in a revocation's key where otherwise a user does.
const everybody = "ALL"

// EverybodyKey is the key of the revocation of all users of an account.
func EverybodyKey(a ident.AccountKey) Key { return Key{"revocation." + a.String() + "." + everybody} }

// IdentitySuspension is the key of an identity's suspension; an access key is
// disabled by suspending its identity.
func IdentitySuspension(id ident.Identity) Key { return Key{"suspension.identity." + id.Token()} }

// UserSuspension is the key of the suspension of one user of an account.
func UserSuspension(a ident.AccountKey, u ident.UserKey) Key {
	return Key{"suspension.user." + a.String() + "." + u.String()}
}

// AccountSuspension is the key of the suspension of a whole account.
func AccountSuspension(a ident.AccountKey) Key { return Key{"suspension.account." + a.String()} }

// ParseKey accepts what Key.String gives.
func ParseKey(s string) (Key, error) {
	kind, id, _ := strings.Cut(s, ".")
	var err error
	switch Kind(kind) {
	case KindName:
		_, err = nameOf(id)
	case KindInvite:
		_, err = ident.ParseInviteID(id)
	case KindAccessKey:
		_, err = ident.ParseKeyID(id)
	case KindBase, KindRoleKey:
		_, err = ident.ParseAccountKey(id)
	case KindSealKey:
		_, err = ident.ParseSealKey(id)
	case KindPlatform:
		if id != "document" {
			err = fmt.Errorf("the platform has no %.20q", id)
		}
	case KindRevocation:
		if account, all := strings.CutSuffix(id, "."+everybody); all {
			_, err = ident.ParseAccountKey(account)
		} else {
			_, _, err = userOf(id)
		}
	case KindSuspension:
		err = checkSuspended(id)
	default:
		err = fmt.Errorf("no kind %.20q", kind)
	}
	if err != nil {
		return Key{}, fmt.Errorf("%.80q is no key of the ledger: %w", s, err)
	}
	return Key{s}, nil
}

func nameOf(token string) (ident.Name, error) {
	// '=' is how '.' is spelt in a token, and nothing else is a '.'.
	if strings.Contains(token, ".") {
		return ident.Name{}, fmt.Errorf("more than one token: %w", ident.ErrInvalid)
	}
	return ident.ParseName(strings.ReplaceAll(token, "=", "."))
}

func userOf(id string) (a ident.AccountKey, u ident.UserKey, err error) {
	acc, user, _ := strings.Cut(id, ".")
	if a, err = ident.ParseAccountKey(acc); err == nil {
		u, err = ident.ParseUserKey(user)
	}
	return a, u, err
}

func checkSuspended(id string) error {
	of, rest, _ := strings.Cut(id, ".")
	switch of {
	case "identity":
		text, err := base64.RawURLEncoding.Strict().DecodeString(rest)
		if err != nil {
			return fmt.Errorf("an identity's token: %w", err)
		}
		i, err := ident.ParseIdentity(string(text))
		if err == nil && i.Token() != rest {
			err = fmt.Errorf("an identity's token in another spelling") // base64 passes over line ends
		}
		return err
	case "user":
		_, _, err := userOf(rest)
		return err
	case "account":
		_, err := ident.ParseAccountKey(rest)
		return err
	default:
		return fmt.Errorf("nothing called %.20q is suspended", of)
	}
}

func (k Key) String() string { return k.s }

// IsZero tells whether there is no key at all.
func (k Key) IsZero() bool { return k.s == "" }

// Kind is the kind of thing that the key is about.
func (k Key) Kind() Kind {
	kind, _, _ := strings.Cut(k.s, ".")
	return Kind(kind)
}

// Denial tells whether entries about it are written anywhere, and not in home.
func (k Key) Denial() bool { return IsDenial(k.s) }

// IsDenial tells the same of a key's text, which may be none.
func IsDenial(key string) bool {
	kind, _, _ := strings.Cut(key, ".")
	return Kind(kind) == KindRevocation || Kind(kind) == KindSuspension
}

// Name is the name that a key of KindName is about; zero for other keys.
func (k Key) Name() ident.Name {
	token, ok := strings.CutPrefix(k.s, "name.")
	if !ok {
		return ident.Name{}
	}
	n, err := nameOf(token)
	if err != nil {
		return ident.Name{} // no Key can be made that gets here
	}
	return n
}

// Identity is the identity that an access key is, or that a suspension is of; zero for other
// keys.
func (k Key) Identity() ident.Identity {
	if id, ok := strings.CutPrefix(k.s, string(KindAccessKey)+"."); ok {
		key, err := ident.ParseKeyID(id)
		if err != nil {
			return ident.Identity{} // no Key can be made that gets here
		}
		return ident.KeyIdentity(key)
	}
	token, ok := strings.CutPrefix(k.s, string(KindSuspension)+".identity.")
	if !ok {
		return ident.Identity{}
	}
	text, err := base64.RawURLEncoding.Strict().DecodeString(token)
	if err != nil {
		return ident.Identity{}
	}
	id, err := ident.ParseIdentity(string(text))
	if err != nil {
		return ident.Identity{}
	}
	return id
}

// Account is the account that a base, a revocation or a suspension is about; zero
// for other keys.
func (k Key) Account() ident.AccountKey {
	for _, t := range strings.Split(k.s, ".") {
		if a, err := ident.ParseAccountKey(t); err == nil {
			return a
		}
	}
	return ident.AccountKey{}
}

// User is the user that a revocation or a suspension is about; zero for other keys, and for
// that of EverybodyKey.
func (k Key) User() ident.UserKey {
	if k.Kind() == KindName {
		return ident.UserKey{}
	}
	last := k.s[strings.LastIndexByte(k.s, '.')+1:]
	u, err := ident.ParseUserKey(last)
	if err != nil {
		return ident.UserKey{}
	}
	return u
}
