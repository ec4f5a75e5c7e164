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
	Name     string       `json:"name"`
	Operator string       `json:"operator"` // public nkey: which platform this is about
	Version  uint64       `json:"version"`  // grows with each change
	Home     ident.Region `json:"home"`
	Regions  []Region     `json:"regions"`
	Accounts []Account    `json:"accounts"`
	Chat     Chat         `json:"chat"`
}

// Region is one region: where its servers are and what to seal to.
type Region struct {
	Name    ident.Region  `json:"name"`
	URLs    []string      `json:"urls"`
	SealKey ident.SealKey `json:"seal_key"` // the region key, held by its issuers
}

// Account is one account of the platform and its roles.
type Account struct {
	Name  ident.Label      `json:"name"`
	Key   ident.AccountKey `json:"key"`
	Roles []Role           `json:"roles"`
}

// Role is one scoped signing key of an account.
type Role struct {
	Name ident.Label      `json:"name"`
	Key  ident.AccountKey `json:"key"`
	Open *Lifetimes       `json:"open,omitempty"` // on offer to identities of kind open
}

// Lifetimes are how long credentials of a role live, in seconds.
type Lifetimes struct {
	Default int64 `json:"default"`
	Longest int64 `json:"longest"`
}

// Chat says where the chat is.
type Chat struct {
	Account  ident.Label   `json:"account"`
	Room     ident.Label   `json:"room"`
	Channels []ident.Label `json:"channels"`
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
	if p.Operator != o.key || p.Version == 0 || len(p.Regions) == 0 || len(p.Accounts) == 0 {
		return nil, fmt.Errorf("a platform document out of shape")
	}
	for _, r := range p.Regions {
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

// HasSealKey tells whether k is the region key of one of the regions.
func (p *Platform) HasSealKey(k ident.SealKey) bool {
	return slices.ContainsFunc(p.Regions, func(r Region) bool { return r.SealKey == k })
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
			if r.Key.String() == key {
				return a, r, true
			}
		}
	}
	return Account{}, Role{}, false
}

// NameEntry is what the ledger holds of a name: whose it is, as decided and
// signed by a registrar. Nobody believes one that is not signed.
type NameEntry struct {
	Name     ident.Name     `json:"name"`
	Identity ident.Identity `json:"identity"`
	Claimed  int64          `json:"claimed"` // seconds since 1970
	Nonce    string         `json:"nonce"`   // of the request that claimed it
}

// Sign gives the entry as a JWT by a registrar's operator signing key.
func (e NameEntry) Sign(key *keystore.Key, now time.Time) (string, error) {
	return signDocument(kindName, e.Name.String(), e, key, now)
}

// OpenName verifies an entry, and that it is about this name.
func (o *Operator) OpenName(name ident.Name, token string) (NameEntry, error) {
	var e NameEntry
	if err := openDocument(o, kindName, name.String(), token, &e); err != nil {
		return NameEntry{}, err
	}
	if e.Name != name || e.Identity.IsZero() {
		return NameEntry{}, fmt.Errorf("an entry of another name than %s: %w", name, ErrUntrusted)
	}
	return e, nil
}
