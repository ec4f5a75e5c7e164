package provision

import (
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
	door     *door // of auth callout; nil: it is off, or not served here
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
			if key := s.roleKey(role.Key); key != nil {
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
	if !ok {
		// Clients are told of other regions only. What is asked here all the same gets
		// nothing: this region is no part of the platform any more.
		keys, t.members, t.door, t.held.Region = nil, nil, nil, false
		s.Log.Error("the platform document has no such region any more: nothing is issued here", "region", s.Region.String())
	} else if r.SealKey.String() != s.SealKey.Public() {
		t.held.RegionKey = false
		s.Log.Error("the platform document names another region key than this issuer holds: what is sealed to it cannot be opened here",
			"key", s.SealKey.Public(), "document", r.SealKey.String())
	}
	t.issuer = issuer.New(keys...)
	t.held.Known, t.held.Offered, t.held.RoleKeys = true, len(keys), len(s.RoleKeys)
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
		if key := s.roleKey(role.Key); key != nil {
			return &door{account: a.Key, key: key}
		}
	}
	s.Log.Error("nobody comes in by auth callout here: the key of its account is not in this issuer's folder", "account", a.Name.String())
	return nil
}

// roleKey finds a role key, and looks again for one that came since the start. Who calls
// it holds s.use.
func (s *Service) roleKey(pub ident.AccountKey) *keystore.Key {
	if key := s.RoleKeys[pub]; key != nil || s.MoreKeys == nil {
		return key
	}
	more, err := s.MoreKeys()
	if err != nil {
		s.Log.Error("role keys cannot be read", "error", err)
		return nil
	}
	s.RoleKeys = more
	return more[pub]
}

// RoleKeys are the role keys that an issuer holds, by their public keys.
type RoleKeys map[ident.AccountKey]*keystore.Key
