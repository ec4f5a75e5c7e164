package provision

import (
	"context"
	"strconv"

	"github.com/herald-nats/herald/internal/endpoint"
	"github.com/herald-nats/herald/pkg/audit"
	"github.com/herald-nats/herald/pkg/authn"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/trust"
	"github.com/herald-nats/herald/pkg/wire"
)

// Records take note of what is done; audit.Writer is one.
type Records interface {
	// Append records what grants something. An error: nothing may be granted.
	Append(ctx context.Context, r audit.Record) error
	// Note records what grants nothing; Count does it by its number alone.
	Note(r audit.Record)
	Count(door string, code wire.Code)
}

// record takes note of a credential before it is handed out: what nobody knows of cannot be
// revoked by whose it is. Where records are required and cannot be stored, it is not.
func (s *Service) record(ctx context.Context, r endpoint.Request, what audit.What, about about, t *terms, i issued) error {
	g := i.grant
	defer measuring(ctx).did(stepRecord)
	if err := s.Records.Append(ctx, audit.Record{
		What: what, At: s.Now().UnixMilli(), Door: about.door, Request: r.ID, Identity: g.Identity, User: about.user, Host: about.host,
		ID: i.ID, Account: i.Account, Role: g.Role, Name: g.Name, Issued: i.Issued.Unix(), Expires: i.Expires.Unix(),
		Proven: i.proven.Unix(), Met: g.Met, By: g.By, Server: about.server, Client: about.client, Why: t.why(g.Line),
	}); err != nil {
		s.Log.Warn("a credential is not handed out, because it is not recorded", "request", r.ID, "error", err)
		return unavailable("this issuer cannot record what it does")
	}
	return nil
}

// why names the grant of the platform file that decided.
func (t *terms) why(line int) string {
	if line < 0 || line >= len(t.reasons) {
		return ""
	}
	return t.reasons[line]
}

// about is what is known of who asks, and for what.
type about struct {
	door string
	user ident.UserKey
	host string
	way  string // the type of the proof
	// What is asked for, each zero where it is left to policy.
	account, role ident.Label
	name          ident.Name
	who           authn.Who // what the proof showed
	// The connection, of who comes by auth callout.
	server string
	client uint64
}

// asks is what is known of a request for a credential once it could be read.
func asks(door string, e authn.Evidence) about {
	r := e.Request
	a := about{door: door, user: r.UserKey, way: r.Identity.Type, account: r.Account, role: r.Role, name: r.Name}
	if e.Host.IsValid() {
		a.host = e.Host.String()
	}
	return a
}

// renews is what is known of who asks for renewal.
func renews(u trust.User, host string) about {
	return about{
		door: "renew", user: u.Key, host: host, account: u.Account, role: u.Role, name: u.Name,
		who: authn.Who{Identity: u.Identity, By: u.By},
	}
}

// attrs are for the log. Of groups it has the first.
func (a about) attrs() []any {
	var attrs []any
	add := func(name, value string) {
		if value != "" {
			attrs = append(attrs, name, value)
		}
	}
	add("user", a.user.String())
	add("host", a.host)
	add("name", a.name.String())
	add("type", a.way)
	if !a.account.IsZero() || !a.role.IsZero() {
		add("asked", a.account.String()+"/"+a.role.String())
	}
	if a.who.Identity.IsZero() {
		return attrs
	}
	add("identity", a.who.Identity.String())
	add("called", a.who.Name.String())
	if len(a.who.Groups) > 0 {
		const most, long = 16, 64
		groups := make([]string, 0, most)
		for _, g := range a.who.Groups[:min(len(a.who.Groups), most)] {
			groups = append(groups, g[:min(len(g), long)])
		}
		attrs = append(attrs, "groups", groups, "of", len(a.who.Groups))
	}
	return attrs
}

// refused takes note of a refusal. It has what a changed policy can be held against: who it
// was, by what, what was asked for, and what the proof gives.
func (s *Service) refused(r endpoint.Request, a about, code wire.Code, err error) {
	s.Records.Note(audit.Record{
		What: audit.Refuse, At: s.Now().UnixMilli(), Door: a.door, Request: r.ID, Identity: a.who.Identity, User: a.user, Host: a.host,
		Refused: code, Asked: a.account, Role: a.role, Name: a.name, By: a.who.By, Given: a.who.Name, Why: audit.Reason(err.Error()),
	})
}

// reason is how a grant is named in records: by its place in the platform file, from 1, and
// whom it is to.
func reason(line int, to string) string {
	return audit.Reason("grant " + strconv.Itoa(line+1) + ", to " + to)
}
