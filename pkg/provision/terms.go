package provision

import (
	"maps"
	"slices"
	"time"

	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/issuer"
	"github.com/herald-nats/herald/pkg/keystore"
	"github.com/herald-nats/herald/pkg/ledger"
	"github.com/herald-nats/herald/pkg/policy"
	"github.com/herald-nats/herald/pkg/trust"
)

// terms are what a service works by: one platform document and what follows from it.
// They are replaced as a whole when a newer document comes, and a request is answered
// by those that it began with.
type terms struct {
	document *ledger.Document // nil: there is none yet
	grants   *policy.Index
	users    *trust.Users
	session  time.Duration // how long credentials are renewed without another proof
	issuer   *issuer.Issuer
	members  []ident.Label // accounts that may ask for renew
	reasons  []string      // how records name each offer
	held     Held
	seal     *keystore.Key   // the region key in use; nil: it is not here
	opens    []*keystore.Key // by which requests are opened, that one first
	door     *door           // of auth callout; nil: it is off, or not served here
}

// door is the account DOOR, and the signing key of it by which servers are answered.
type door struct {
	account ident.AccountKey
	key     *keystore.Key
}

// Use puts a platform document in force, which the caller verified. One that is older
// than the one in force changes nothing: two may be brought at once. All of it is
// obeyed at once: what it does not offer any more is refused from then on. A role whose key is not here is not issued here, and a region
// key that is not this region's any more is said in the log; neither keeps the rest
// from being obeyed.
func (s *Service) Use(d *ledger.Document) {
	s.use.Lock()
	defer s.use.Unlock()
	if old := s.terms.Load().document; old != nil && old.Public.Version.Rank() > d.Public.Version.Rank() {
		return
	}
	t := &terms{document: d, grants: d.Grants(), users: trust.NewUsers(d.Public), session: d.Policy.LongestSession()}
	var keys []issuer.RoleKey
	t.held.Region, t.held.RegionKey, t.held.Tutorial = true, true, d.Public.TutorialDoor
	for line, o := range d.Policy.Offers {
		t.reasons = append(t.reasons, reason(line, o.To()))
		a, _ := d.Public.Account(o.Account)
		if !o.Callout && !slices.Contains(t.members, a.Name) {
			t.members = append(t.members, a.Name)
		}
		for _, role := range a.Roles {
			if role.Name != o.Role {
				continue
			}
			if key := s.key(func(k Keys) *keystore.Key { return k.Roles[role.Key] }); key != nil {
				keys = append(keys, issuer.RoleKey{Account: a.Name, AccountKey: a.Key, Role: role.Name, Key: key})
			} else {
				if !slices.Contains(t.held.Lacking, role.Key) {
					t.held.Lacking = append(t.held.Lacking, role.Key)
				}
				s.Log.Error("a role cannot be issued here: its key is not in this issuer's folder",
					"account", a.Name.String(), "role", role.Name.String(), "key", role.Key.String())
			}
		}
	}
	t.door = s.findDoor(d)
	r, ok := d.Public.Region(s.Region)
	t.held.SealKeys = !ok || s.seals(t, r)
	if !ok {
		// Clients are told of other regions only. What is asked here all the same gets
		// nothing: this region is no part of the platform any more.
		keys, t.members, t.door, t.held.Region = nil, nil, nil, false
		s.Log.Error("the platform document has no such region any more: nothing is issued here", "region", s.Region.String())
	} else if t.seal == nil {
		t.held.RegionKey = false
		s.Log.Error("the platform document names another region key than this issuer holds: what is sealed to it cannot be opened here",
			"document", r.SealKey.String())
	}
	t.issuer = issuer.New(keys...)
	t.held.Known, t.held.Offered, t.held.RoleKeys = true, len(keys), len(s.Keys.Roles)
	s.terms.Store(t)
	s.Log.Info("the platform document is in force", "version", d.Public.Version.String())
}

// findDoor is what servers are answered with, where auth callout is on.
func (s *Service) findDoor(d *ledger.Document) *door {
	a, ok := d.Public.Account(s.Door)
	if !ok {
		return nil
	}
	if s.Callout == nil {
		s.Log.Warn("auth callout is on, and nobody comes in by it here: the callout key was not in this issuer's folder when it started")
		return nil
	}
	for _, role := range a.Roles {
		if key := s.key(func(k Keys) *keystore.Key { return k.Roles[role.Key] }); key != nil {
			return &door{account: a.Key, key: key}
		}
	}
	s.Log.Error("nobody comes in by auth callout here: the key of its account is not in this issuer's folder", "account", a.Name.String())
	return nil
}

// has tells whether requests are opened by a region key.
func (t *terms) has(k ident.SealKey) bool {
	return slices.ContainsFunc(t.opens, func(o *keystore.Key) bool { return o.Public() == k.String() })
}

// seals takes the region keys that the document names, and tells whether all that are going to be
// sealed to are here. One that was is missed by nobody whose folder is of after it.
func (s *Service) seals(t *terms, r trust.Region) bool {
	all := true
	for _, public := range r.SealKeys() {
		key := s.key(func(k Keys) *keystore.Key { return k.Region[public] })
		if key != nil {
			t.opens = append(t.opens, key)
		}
		if public == r.SealKey {
			t.seal = key
		}
		all = all && (key != nil || public == r.Former)
	}
	return all
}

// key finds a key, and looks again for one that came since the start. Who calls it holds s.use.
func (s *Service) key(of func(Keys) *keystore.Key) *keystore.Key {
	if key := of(s.Keys); key != nil || s.MoreKeys == nil {
		return key
	}
	more, err := s.MoreKeys()
	if err != nil {
		s.Log.Error("keys cannot be read", "error", err)
		return nil
	}
	s.Keys = more
	return of(more)
}

// Keys are what an issuer holds, by the public keys.
type Keys struct {
	Roles  map[ident.AccountKey]*keystore.Key
	Region map[ident.SealKey]*keystore.Key // its region's
}

// Clone gives a copy, to which others may be added.
func (k Keys) Clone() Keys {
	out := Keys{Roles: map[ident.AccountKey]*keystore.Key{}, Region: map[ident.SealKey]*keystore.Key{}}
	maps.Copy(out.Roles, k.Roles)
	maps.Copy(out.Region, k.Region)
	return out
}

// Same tells whether two are the same keys.
func (k Keys) Same(o Keys) bool { return sameKeys(k.Roles, o.Roles) && sameKeys(k.Region, o.Region) }

func sameKeys[K comparable](a, b map[K]*keystore.Key) bool {
	return maps.EqualFunc(a, b, func(*keystore.Key, *keystore.Key) bool { return true })
}
