package provision

import (
	"context"
	"sync"
	"time"

	"github.com/herald-nats/herald/internal/endpoint"
	"github.com/herald-nats/herald/pkg/authn"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/ledger"
	"github.com/herald-nats/herald/pkg/wire"
)

// recordRefusal takes note of a request that policy refused, so that a changed policy can be
// held against it. What anybody can make as many of as they like, nkeys, gets no record, and
// what is asked again and again one an hour.
func (s *Service) recordRefusal(ctx context.Context, r endpoint.Request, who authn.Who, req wire.Request, code wire.Code, now time.Time) {
	switch who.Identity.Kind() {
	case ident.KindKey, ident.KindOIDC:
	default:
		return
	}
	if !s.refusals.first(refusal{who.Identity, req.Account, req.Role, req.Name, code}, now) {
		return
	}
	s.Records.Record(ctx, ledger.Record{
		ID: "refused." + r.ID, Request: r.ID, Identity: who.Identity, User: req.UserKey, Role: req.Role, Name: req.Name,
		Issued: now.Unix(), Region: s.Region, Issuer: s.Self, By: who.By, Refused: code, Asked: req.Account,
	})
}

// refusal is what was refused to whom.
type refusal struct {
	identity      ident.Identity
	account, role ident.Label
	name          ident.Name
	code          wire.Code
}

// refusals are those that were recorded in this hour.
type refusals struct {
	mu    sync.Mutex
	since time.Time
	seen  map[refusal]struct{}
}

const (
	refusalsFor = time.Hour
	// maxRefusals bounds the records of one hour, at some 500 bytes each.
	maxRefusals = 10_000
)

// first tells whether a refusal is to be recorded.
func (f *refusals) first(r refusal, now time.Time) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.seen == nil || now.Sub(f.since) >= refusalsFor {
		f.seen, f.since = make(map[refusal]struct{}), now
	}
	if _, ok := f.seen[r]; ok || len(f.seen) >= maxRefusals {
		return false
	}
	f.seen[r] = struct{}{}
	return true
}
