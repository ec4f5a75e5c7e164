package trust

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/keystore"
	"github.com/herald-nats/herald/pkg/wire"
)

// Platform is the public part of the platform document: what clients and
// services need to know to find and to verify each other. It is signed by an
// operator signing key; an older version than one has seen is refused.
type Platform struct {
	Name     string  `json:"name"`
	Operator string  `json:"operator"` // public nkey: which platform this is about
	Version  Version `json:"version"`  // grows with each change
	// EpochProof is the operator key's own word for the version's epoch.
	EpochProof string       `json:"epoch_proof"`
	Home       ident.Region `json:"home"`
	Regions    []Region     `json:"regions"`
	Accounts   []Account    `json:"accounts"`
	Chat       Chat         `json:"chat"`
	// Ways are the ways to show who asks by which something may be had, as they are written
	// in a request's identity.type; empty: the document does not say.
	Ways []string `json:"ways,omitempty"`
	// TutorialDoor tells that issuers answer programs of the 2020 NATS tutorial, with seeds
	// that every guest can read.
	TutorialDoor bool `json:"tutorial_door,omitempty"`
	// Providers are those whose tokens are taken.
	Providers []Provider `json:"providers,omitempty"`
}

// Provider is an OpenID provider whose tokens are taken: where clients get one, and for whom
// it has to be made.
type Provider struct {
	Name      ident.Label `json:"name"`
	Issuer    string      `json:"issuer"`    // a URL, as in a token's iss
	Audiences []string    `json:"audiences"` // a token needs one of them in aud
	Tokens    []string    `json:"tokens"`    // kinds: "id", "access"
}

// Version is the version of a platform document. The number grows with each change
// and is set by whoever signs the document. The epoch is set by the operator key
// alone, which is offline: with it an operator gets past whatever numbers a stolen
// signing key has used up.
type Version struct {
	Epoch  uint32 `json:"epoch"`
	Number uint32 `json:"number"`
}

// Rank is the version as one number; of two documents the one with the higher holds.
func (v Version) Rank() uint64 { return uint64(v.Epoch)<<32 | uint64(v.Number) }

func (v Version) String() string { return fmt.Sprintf("%d.%d", v.Epoch, v.Number) }

// IsZero tells whether there is no version at all; both parts count from 1.
func (v Version) IsZero() bool { return v.Epoch == 0 || v.Number == 0 }

// kindEpoch is the kind of the document in which the operator key sets an epoch.
const kindEpoch = "herald-epoch"

type epochBody struct {
	Epoch uint32       `json:"epoch"`
	Home  ident.Region `json:"home,omitzero"`
}

// SignEpoch states with the operator key that platform documents may be of an epoch, in which
// home is one region. Platforms of before it could be said have epochs of no certain home,
// which is the zero one here.
func SignEpoch(operator *keystore.Key, epoch uint32, home ident.Region, now time.Time) (string, error) {
	return signDocument(kindEpoch, operator.Public(), epochBody{epoch, home}, operator, now)
}

// checkEpoch verifies the operator key's own word for an epoch.
func (o *Operator) checkEpoch(p *Platform) error {
	var b epochBody
	if err := openSigned(func(iss string) bool { return iss == o.key }, kindEpoch, o.key, p.EpochProof, &b); err != nil {
		return err
	}
	if b.Epoch != p.Version.Epoch {
		return fmt.Errorf("a platform document of epoch %d with the operator's word for %d: %w", p.Version.Epoch, b.Epoch, ErrUntrusted)
	}
	if !b.Home.IsZero() && b.Home != p.Home {
		return fmt.Errorf("a platform document with home %s in an epoch for which the operator says %s: %w", p.Home, b.Home, ErrUntrusted)
	}
	return nil
}

// Region is one region: where its servers are and what to seal to.
type Region struct {
	Name    ident.Region  `json:"name"`
	URLs    []string      `json:"urls"`
	SealKey ident.SealKey `json:"seal_key"` // the region key, held by its issuers
	// Next is the key that is going to take SealKey's place, and Former the one whose place SealKey
	// took: issuers open what is sealed to either, and may answer in its name. At most one of them
	// is there.
	Next   ident.SealKey `json:"next_seal_key,omitzero"`
	Former ident.SealKey `json:"former_seal_key,omitzero"`
}

// SealKeys are those by which the region's issuers open, the one to seal to first.
func (r Region) SealKeys() []ident.SealKey {
	keys := []ident.SealKey{r.SealKey}
	for _, k := range []ident.SealKey{r.Next, r.Former} {
		if !k.IsZero() {
			keys = append(keys, k)
		}
	}
	return keys
}

// Account is one account of the platform and its roles.
type Account struct {
	Name  ident.Label      `json:"name"`
	Key   ident.AccountKey `json:"key"`
	Roles []Role           `json:"roles"`
}

// HasRole tells whether the account has a role of that name.
func (a Account) HasRole(name ident.Label) bool {
	return slices.ContainsFunc(a.Roles, func(r Role) bool { return r.Name == name })
}

// Role is one scoped signing key of an account, and beside it, while it is replaced, another.
type Role struct {
	Name ident.Label      `json:"name"`
	Key  ident.AccountKey `json:"key"` // by which credentials are issued
	// Next is the key that is going to take Key's place, and Former the one whose place Key
	// took: credentials by either are as good. At most one of them is there.
	Next   ident.AccountKey `json:"next,omitzero"`
	Former ident.AccountKey `json:"former,omitzero"`
	Open   *Lifetimes       `json:"open,omitempty"` // on offer to identities of kind open
}

// Has tells whether credentials of the role may be signed by a key, given as its public nkey.
func (r Role) Has(public string) bool {
	return slices.ContainsFunc(r.Keys(), func(k ident.AccountKey) bool { return k.String() == public })
}

// Keys are those that credentials of the role may be signed by, the one in use first.
func (r Role) Keys() []ident.AccountKey {
	keys := []ident.AccountKey{r.Key}
	for _, k := range []ident.AccountKey{r.Next, r.Former} {
		if !k.IsZero() {
			keys = append(keys, k)
		}
	}
	return keys
}

// Lifetimes are how long credentials of a role live, in seconds.
type Lifetimes struct {
	Default int64 `json:"default"`
	Longest int64 `json:"longest"`
}

// Chat says where the chat is.
type Chat struct {
	Account ident.Label `json:"account"`
	Rooms   []Room      `json:"rooms"` // clients come into the first
}

// Room is a room of the chat.
type Room struct {
	Name     ident.Label   `json:"name"`
	Channels []ident.Label `json:"channels"`
}

// Room finds a room by name; the zero name is the first's.
func (c Chat) Room(name ident.Label) (Room, bool) {
	i := slices.IndexFunc(c.Rooms, func(r Room) bool { return name.IsZero() || r.Name == name })
	if i < 0 {
		return Room{}, false
	}
	return c.Rooms[i], true
}

// Sign gives the document as a JWT.
func (p *Platform) Sign(key *keystore.Key, now time.Time) (string, error) {
	return signDocument(kindPlatform, p.Operator, p, key, now)
}

// OpenPlatform verifies a platform document up to the operator.
func (o *Operator) OpenPlatform(token string) (*Platform, error) {
	var p Platform
	if err := openDocument(o, kindPlatform, o.key, strings.TrimSpace(token), &p); err != nil {
		return nil, err
	}
	if p.Operator != o.key || p.Version.IsZero() || len(p.Regions) == 0 || len(p.Accounts) == 0 || len(p.Chat.Rooms) == 0 {
		return nil, fmt.Errorf("a platform document out of shape")
	}
	if err := o.checkEpoch(&p); err != nil {
		return nil, err
	}
	for _, r := range p.Chat.Rooms {
		if r.Name.IsZero() || len(r.Channels) == 0 || slices.ContainsFunc(r.Channels, ident.Label.IsZero) {
			return nil, fmt.Errorf("room %q of the platform document is out of shape", r.Name)
		}
	}
	for _, v := range p.Providers {
		if v.Name.IsZero() || v.Issuer == "" || len(v.Audiences) == 0 || len(v.Tokens) == 0 {
			return nil, fmt.Errorf("provider %q of the platform document is out of shape", v.Name)
		}
	}
	for _, a := range p.Accounts {
		for _, r := range a.Roles {
			if r.Key.IsZero() || !r.Next.IsZero() && !r.Former.IsZero() || r.Key == r.Next || r.Key == r.Former {
				return nil, fmt.Errorf("role %s/%s of the platform document is out of shape", a.Name, r.Name)
			}
		}
	}
	for _, r := range p.Regions {
		if r.SealKey.IsZero() || !r.Next.IsZero() && !r.Former.IsZero() || r.SealKey == r.Next || r.SealKey == r.Former {
			return nil, fmt.Errorf("the keys of region %s of the platform document are out of shape", r.Name)
		}
		if err := wire.CheckURLs(r.URLs); err != nil {
			return nil, fmt.Errorf("region %s of the platform document: %w", r.Name, err)
		}
	}
	return &p, nil
}

// Region finds a region by name.
func (p *Platform) Region(name ident.Region) (Region, bool) {
	i := slices.IndexFunc(p.Regions, func(r Region) bool { return r.Name == name })
	if i < 0 {
		return Region{}, false
	}
	return p.Regions[i], true
}

// HasSealKey tells whether k is a region key of one of the regions.
func (p *Platform) HasSealKey(k ident.SealKey) bool {
	return slices.ContainsFunc(p.Regions, func(r Region) bool { return slices.Contains(r.SealKeys(), k) })
}

// Account finds an account by name.
func (p *Platform) Account(name ident.Label) (Account, bool) {
	i := slices.IndexFunc(p.Accounts, func(a Account) bool { return a.Name == name })
	if i < 0 {
		return Account{}, false
	}
	return p.Accounts[i], true
}

// URLs are the URLs of all regions, the preferred region's first.
func (p *Platform) URLs(first ident.Region) []string {
	var near, far []string
	for _, r := range p.Regions {
		if r.Name == first {
			near = append(near, r.URLs...)
		} else {
			far = append(far, r.URLs...)
		}
	}
	return append(near, far...)
}

// RegionOf finds the region that has a client URL.
func (p *Platform) RegionOf(url string) (ident.Region, bool) {
	for _, r := range p.Regions {
		if slices.Contains(r.URLs, url) {
			return r.Name, true
		}
	}
	return ident.Region{}, false
}

// role finds the account and the role that a user JWT names by their keys.
func (p *Platform) role(account, key string) (Account, Role, bool) {
	for _, a := range p.Accounts {
		if a.Key.String() != account {
			continue
		}
		for _, r := range a.Roles {
			if r.Has(key) {
				return a, r, true
			}
		}
	}
	return Account{}, Role{}, false
}
