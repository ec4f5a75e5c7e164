package service

import (
	"time"

	"github.com/herald-nats/herald/pkg/audit"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/ledger"
	"github.com/herald-nats/herald/pkg/provision"
	"github.com/herald-nats/herald/pkg/registrar"
	"github.com/herald-nats/herald/pkg/trust"
)

// Stats are what a service tells of itself at one moment: numbers, and no name, key or
// secret of anybody. What is counted is counted since the service started.
type Stats struct {
	Service  string
	Region   ident.Region
	Document trust.Version // of the platform document that is in force

	Names   int // that are known, those that are gone included
	Decided int // other entries that home decided
	Denials int // suspensions and revocations

	// Complete: what is known is as complete as the copy was, or as the region's
	// streams were when they had been read once. It says nothing of how fresh it is.
	Complete bool
	Ages     []ledger.Age
	Ledger   ledger.Stats
	// CopyFailing: what changes is not written to the disk now. The service works, and
	// its next start reads from the ledger what the disk lacks.
	CopyFailing bool

	Status      Status
	Credentials []Credential // of the service itself, as the folder has them
	Reloads     Reloads

	// CallersRefused is how many requests were refused because what says who asks is not
	// believed.
	CallersRefused uint64

	Records   *audit.Stats    // of what is written down; nil before the start
	Issuer    *IssuerStats    // nil for a registrar
	Registrar *RegistrarStats // nil for an issuer
}

// IssuerStats are what only an issuer has.
type IssuerStats struct {
	Requests provision.Measured
	Held     provision.Held // of what the platform document asks of it
}

// RegistrarStats are what only a registrar has.
type RegistrarStats struct {
	Unstored int // denials in force that the region's stream was not seen to have
	Holdings int // identities that hold a user
	Revoking int // denials whose credentials are still to be revoked

	// Clock is by how much the machine's clock is ahead of most servers', which may be less than
	// nothing; nil: none has said what time it is.
	Clock *time.Duration

	PeersRefused   uint64 // messages of other registrars with something that is not believed
	RecordsRefused uint64 // records that are not believed
	Damaged        uint64 // requests that home refused because of what its bucket has

	Servers registrar.WatcherStats // how accounts are on servers
	Door    registrar.DoorStats    // of those who came in by auth callout
}

// Stats gives them as they are now. It may be called by any goroutine, also while the
// service drains and after it.
func (r *Running) Stats() Stats {
	s := r.knows.stats()
	s.Service, s.Region = r.Service, r.Region
	s.Status, s.Credentials = r.Status(), r.credentials()
	s.Reloads = Reloads{Done: r.reloads.done.Load(), Refused: r.reloads.refused.Load()}
	if r.records != nil {
		written := r.records.Stats()
		s.Records = &written
	}
	if r.issuing != nil {
		s.Issuer = &IssuerStats{Requests: r.issuing.Measured(), Held: r.issuing.Held()}
		s.CallersRefused = r.issuing.Disbelieved()
	}
	if r.keeper != nil {
		s.Registrar = &RegistrarStats{
			Unstored: r.keeper.denials.Unstored(), Holdings: r.keeper.records.Holdings.Len(),
			Revoking:     r.keeper.revoker.Waiting(),
			PeersRefused: r.keeper.denials.Refused(), RecordsRefused: r.keeper.records.Refused(),
			Servers: r.keeper.watcher.Stats(), Door: r.keeper.door.Stats(),
		}
		if ahead, ok := r.keeper.clock.Ahead(); ok {
			s.Registrar.Clock = &ahead
		}
		if r.keeper.admin != nil {
			s.CallersRefused = r.keeper.admin.Disbelieved()
		}
		if r.keeper.home != nil {
			s.Registrar.Damaged = r.keeper.home.Damaged()
			s.CallersRefused += r.keeper.home.Disbelieved()
		}
	}
	return s
}

// stats are what is known of the ledger, and how well.
func (k *knowledge) stats() Stats {
	s := Stats{
		Document: k.document().Public.Version, Ages: k.follower.Ages(), Ledger: k.follower.Stats(),
		CopyFailing: k.copy == nil || k.failing.Load(),
	}
	s.Names, s.Decided, s.Denials = k.projection.Len()
	select {
	case <-k.follower.Ready():
		s.Complete = true
	default:
	}
	return s
}

// shown is how `nats micro stats` shows them; `nscsetup status` reads the same.
func (s Stats) shown() map[string]any {
	ages := map[string]string{}
	for _, a := range s.Ages {
		ages[a.Source] = "never"
		if !a.Since.IsZero() {
			ages[a.Source] = time.Since(a.Since).Round(time.Millisecond).String()
		}
	}
	all := map[string]any{
		"region": s.Region.String(), "document": s.Document.String(), "names": s.Names, "decided": s.Decided, "denials": s.Denials,
		"age": ages, "follower": s.Ledger, "copy_failing": s.CopyFailing,
	}
	if s.Records != nil {
		all["audit"] = s.Records
	}
	if s.Registrar != nil {
		all["denials_unstored"], all["holdings"] = s.Registrar.Unstored, s.Registrar.Holdings
		all["accounts_out_of_line"], all["servers_behind"] = s.Registrar.Servers.OutOfLine, s.Registrar.Servers.Behind
	}
	return all
}
