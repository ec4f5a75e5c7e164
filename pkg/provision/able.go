package provision

import (
	"slices"

	"github.com/herald-nats/herald/pkg/ident"
)

// Held is what a service has of what its platform document asks of it.
type Held struct {
	Known     bool // there is a document
	Region    bool // the document has this service's region
	RegionKey bool // under the region key that the service holds
	SealKeys  bool // and the one that is going to take its place is here, too, if there is one
	Tutorial  bool // the tutorial's door is open
	RoleKeys  int  // role keys that are here
	Offered   int  // roles on offer whose keys are here
	Lacking   []ident.AccountKey
}

// Held gives it by the document that is in force.
func (s *Service) Held() Held { return s.terms.Load().held }

// Unable tells why a service must not take requests of members, and of guests: in a queue
// group it would take all of its region's, and another region's issuers could answer them.
// Empty is no reason.
//
// What another issuer could not do better is none: to be cut off from home, to know nothing
// of the last minutes, to wait with records. And neither is to lack the key of one role of
// several: a new role comes into force everywhere before its key has been brought to every
// machine, and all issuers would be gone at once, for the members of every other role too.
func (h Held) Unable() (members, guests string) {
	switch {
	case !h.Known:
		members = "it does not know its platform yet"
	case !h.Region:
		members = "the platform document has no such region any more"
	case h.Offered == 0:
		members = "it has the key of no role that the platform document offers"
	}
	guests = members
	if guests == "" && !h.RegionKey {
		// Renewals are not sealed.
		guests = "the platform document names another region key than it holds: what is sealed to that cannot be opened"
	}
	return members, guests
}

// UseKeys replaces the keys, and puts the document that is in force, in force with them.
func (s *Service) UseKeys(keys Keys) {
	s.use.Lock()
	s.Keys = keys
	s.use.Unlock()
	if d := s.terms.Load().document; d != nil {
		s.Use(d)
	}
}

// LookAgain looks for keys that are lacking, which may be brought after the document that names
// them.
func (s *Service) LookAgain() {
	t := s.terms.Load()
	if t.document == nil || len(t.held.Lacking) == 0 && t.held.SealKeys || s.MoreKeys == nil {
		return
	}
	keys, err := s.MoreKeys()
	if err != nil {
		return // said when the document came
	}
	found := slices.ContainsFunc(t.held.Lacking, func(k ident.AccountKey) bool { return keys.Roles[k] != nil })
	if !t.held.SealKeys {
		r, _ := t.document.Public.Region(s.Region)
		found = found || slices.ContainsFunc(r.SealKeys(), func(k ident.SealKey) bool { return keys.Region[k] != nil && !t.has(k) })
	}
	if found {
		s.UseKeys(keys)
	}
}

// Rank is that of the platform document in force; 0: there is none.
func (s *Service) Rank() uint64 {
	if d := s.terms.Load().document; d != nil {
		return d.Public.Version.Rank()
	}
	return 0
}
