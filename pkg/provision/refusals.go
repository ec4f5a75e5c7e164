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
	if !s.refusals.first(refusal{who.Identity, req.Account, req.Role, code}, now) {
		return
	}
	s.Records.Record(ctx, ledger.Record{
		ID: "refused." + r.ID, Request: r.ID, Identity: who.Identity, User: req.UserKey, Role: req.Role, Name: req.Name,
		Issued: now.Unix(), Region: s.Region, Issuer: s.Self, By: who.By, Refused: code, Asked: req.Account, Given: who.Name,
	})
}

// refusal is what was refused to whom, under whatever name.
type refusal struct {
	identity      ident.Identity
	account, role ident.Label
	code          wire.Code
}

// refusals are those that were recorded in this hour.
type refusals struct {
	mu    sync.Mutex
	since time.Time
	seen  map[refusal]struct{}
	of    map[ident.Identity]int
}

const (
	refusalsFor = time.Hour
	// maxRefusals bounds the records of one hour, at some 500 bytes each, and maxOwn those of
	// one identity: nobody fills them for others.
	maxRefusals = 10_000
	maxOwn      = 8
)

// first tells whether a refusal is to be recorded.
func (f *refusals) first(r refusal, now time.Time) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.seen == nil || now.Sub(f.since) >= refusalsFor {
		f.seen, f.of, f.since = make(map[refusal]struct{}), make(map[ident.Identity]int), now
	}
	if _, ok := f.seen[r]; ok || len(f.seen) >= maxRefusals || f.of[r.identity] >= maxOwn {
		return false
	}
	f.seen[r] = struct{}{}
	f.of[r.identity]++
	return true
}
