// Package provision is the issuing service: what is asked of auth.v1.info,
// issue and renew goes one way through it, each step a package of its own
// (wire, authn, policy, names, issuer). service.go decides and knows no
// connection; names.go asks home over NATS.
package provision

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/herald-nats/herald/internal/endpoint"
	"github.com/herald-nats/herald/pkg/authn"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/issuer"
	"github.com/herald-nats/herald/pkg/keystore"
	"github.com/herald-nats/herald/pkg/policy"
	"github.com/herald-nats/herald/pkg/subject"
	"github.com/herald-nats/herald/pkg/trust"
	"github.com/herald-nats/herald/pkg/wire"
)

// Namer makes sure that a name belongs to an identity, claiming it in home if
// nobody has it. Errors are *wire.Error: name_taken, read_only, unavailable.
type Namer interface {
	Claim(ctx context.Context, name ident.Name, id ident.Identity, claim wire.Claim) error
}

// Config is what an issuing service is made of. Every field is needed.
type Config struct {
	Region   ident.Region
	Self     ident.UserKey // the issuer's own nkey, named in answers
	Operator *trust.Operator
	Document string        // the signed platform document
	SealKey  *keystore.Key // the region key: answers are sealed in its name
	Issuer   *issuer.Issuer
	Policy   policy.Policy
	Names    Namer
	Guests   []ident.Label // accounts that may ask for issue
	Members  []ident.Label // accounts that may ask for renew
	Log      *slog.Logger
	Now      func() time.Time
	Spread   func() float64 // see issuer.Mint
}

// Service answers requests. It is safe for concurrent use.
type Service struct {
	Config
	platform *trust.Platform
	replays  *replays
}

// New verifies the platform document and makes the service.
func New(c Config) (*Service, error) {
	p, err := c.Operator.OpenPlatform(c.Document)
	if err != nil {
		return nil, fmt.Errorf("the platform document: %w", err)
	}
	r, ok := p.Region(c.Region)
	if !ok {
		return nil, fmt.Errorf("the platform document knows no region %s", c.Region)
	}
	if r.SealKey.String() != c.SealKey.Public() {
		return nil, fmt.Errorf("the region key is %s; the platform document says %s", c.SealKey.Public(), r.SealKey)
	}
	return &Service{Config: c, platform: p, replays: newReplays()}, nil
}

// Queue is the queue group of issuers: a request stays in its region while one
// of them serves there, and goes to the nearest other region otherwise.
const Queue = "issuer"

// GuestEndpoints are what guests ask; they get a connection of their own, so
// that a flood of guests cannot take renewals down.
func (s *Service) GuestEndpoints() []endpoint.Endpoint {
	return []endpoint.Endpoint{
		{Name: "info", Subject: subject.Info, Handler: s.Info},
		{Name: "issue", Subject: subject.Issue, Handler: s.Issue},
	}
}

// MemberEndpoints are what users ask.
func (s *Service) MemberEndpoints() []endpoint.Endpoint {
	return []endpoint.Endpoint{{Name: "renew", Subject: subject.Renew, Handler: s.Renew}}
}

// Info answers auth.v1.info.
func (s *Service) Info(_ context.Context, r endpoint.Request) endpoint.Response {
	if _, err := s.caller(r, append(s.Guests, s.Members...)...); err != nil {
		return s.refuse(r, "info", ident.SealKey{}, err)
	}
	return s.answer(ident.SealKey{}, wire.Info{
		Platform: s.Document, Time: s.Now().UnixMilli(), Region: s.Region, Issuer: s.Self.String(),
	})
}

// Issue answers auth.v1.issue.
func (s *Service) Issue(ctx context.Context, r endpoint.Request) endpoint.Response {
	began := s.Now()
	req, body, err := s.open(r)
	if err != nil {
		return s.refuse(r, "issue", req.ReplyKey, err)
	}
	grant, cred, err := s.issue(ctx, r, req, body)
	if err != nil {
		return s.refuse(r, "issue", req.ReplyKey, err, "user", req.UserKey.String(), "name", req.Name.String())
	}
	s.Log.Info("issued", "request", r.ID, "user", req.UserKey.String(), "identity", grant.Identity.String(),
		"name", grant.Name.String(), "account", grant.Account.String(), "role", grant.Role.String(),
		"expires", cred.Expires.Unix(), "took", s.Now().Sub(began))
	return s.answer(req.ReplyKey, s.credential(grant, cred))
}

// open gives the request and its plain body, which is what was signed. The
// request that it gives beside an error has a reply key only once it had a shape.
func (s *Service) open(r endpoint.Request) (wire.Request, []byte, error) {
	if len(r.Body) > wire.MaxRequest {
		return wire.Request{}, nil, wire.Errorf(wire.TooLarge, "send at most 16 KiB", "the request has %d bytes", len(r.Body))
	}
	if _, err := s.caller(r, s.Guests...); err != nil {
		return wire.Request{}, nil, err
	}
	body := r.Body
	if by := r.Header[wire.HeaderSealed]; len(by) > 0 {
		from, err := ident.ParseSealKey(by[0])
		if err != nil || len(by) != 1 {
			return wire.Request{}, nil, wire.Errorf(wire.BadRequest, "name the sender's xkey once in Herald-Sealed", "the request is sealed by nobody")
		}
		if body, err = wire.Open(s.SealKey.Pair(), from, r.Body); err != nil {
			return wire.Request{}, nil, wire.Errorf(wire.WrongRegion, "ask auth.v1.info again and seal to that region's key", "the request is not sealed to region %s", s.Region)
		}
	}
	req, werr := wire.DecodeRequest(body)
	if werr != nil {
		return req, nil, werr
	}
	return req, body, nil
}

func (s *Service) issue(ctx context.Context, r endpoint.Request, req wire.Request, body []byte) (policy.Grant, issuer.Credential, error) {
	var none issuer.Credential
	now := s.Now()
	proofs := r.Header[wire.HeaderProof]
	if err := wire.CheckProof(req.UserKey, proofs, body); err != nil {
		return policy.Grant{}, none, err
	}
	if err := req.CheckTime(now); err != nil {
		return policy.Grant{}, none, err
	}
	switch first, full := s.replays.first(req.UserKey, req.Nonce, now); {
	case full:
		return policy.Grant{}, none, unavailable("too many requests are remembered")
	case !first:
		return policy.Grant{}, none, wire.Errorf(wire.Replayed, "make a new nonce for each request", "this request was seen before")
	}
	id, werr := authn.Identify(req)
	if werr != nil {
		return policy.Grant{}, none, werr
	}
	grant, werr := s.Policy.Decide(id, policy.Wish{Account: req.Account, Role: req.Role, Name: req.Name, TTL: req.TTL})
	if werr != nil {
		return policy.Grant{}, none, werr
	}
	if err := s.Names.Claim(ctx, grant.Name, id, wire.Claim{Body: body, Proof: proofs[0]}); err != nil {
		return policy.Grant{}, none, err
	}
	// The clock is read again: a claim in home may have taken its time, and a
	// credential lives from when it is signed.
	cred, err := s.Issuer.Mint(grant, req.UserKey, s.Now(), s.Spread())
	return grant, cred, err
}

// Renew answers auth.v1.renew: for the nkey that asks, as the server names it.
func (s *Service) Renew(_ context.Context, r endpoint.Request) endpoint.Response {
	u, err := s.caller(r, s.Members...)
	if err != nil {
		return s.refuse(r, "renew", ident.SealKey{}, err)
	}
	grant, cred, err := s.renew(u, r.Body)
	if err != nil {
		return s.refuse(r, "renew", ident.SealKey{}, err, "user", u.Key.String(), "name", u.Name.String())
	}
	s.Log.Info("renewed", "request", r.ID, "user", u.Key.String(), "identity", u.Identity.String(), "name", u.Name.String(),
		"account", grant.Account.String(), "role", grant.Role.String(), "expires", cred.Expires.Unix())
	return s.answer(ident.SealKey{}, s.credential(grant, cred))
}

func (s *Service) renew(u trust.User, body []byte) (policy.Grant, issuer.Credential, error) {
	want, werr := wire.DecodeRenewRequest(body)
	if werr != nil {
		return policy.Grant{}, issuer.Credential{}, werr
	}
	if u.Identity.IsZero() {
		return policy.Grant{}, issuer.Credential{}, wire.Errorf(wire.NoGrant, "ask auth.v1.issue with a proof", "this user was not made by an issuer")
	}
	grant, werr := s.Policy.Decide(u.Identity, policy.Wish{Account: u.Account, Role: u.Role, Name: u.Name, TTL: want.TTL})
	if werr != nil {
		return policy.Grant{}, issuer.Credential{}, werr
	}
	cred, err := s.Issuer.Mint(grant, u.Key, s.Now(), s.Spread())
	return grant, cred, err
}

// caller is who asks, as the server says; see trust.Platform.Caller.
func (s *Service) caller(r endpoint.Request, accounts ...ident.Label) (trust.User, error) {
	info, err := wire.DecodeRequestInfo(r.Header[wire.HeaderInfo])
	if err == nil {
		var u trust.User
		if u, err = s.platform.Caller(info, r.Reply, s.Now(), accounts...); err == nil {
			return u, nil
		}
	}
	s.Log.Warn("a caller that is not believed", "request", r.ID, "error", err)
	return trust.User{}, wire.Errorf(wire.BadIdentity, "connect with a credential of this platform and ask through its import", "who asks is not shown")
}

func (s *Service) credential(g policy.Grant, c issuer.Credential) wire.Answer {
	return wire.Answer{
		JWT: c.JWT, Account: c.Account, AccountName: g.Account, Role: g.Role, Name: g.Name,
		Expires: c.Expires.Unix(), RenewAt: c.RenewAt.Unix(),
		URLs: s.platform.URLs(s.Region), Region: s.Region, Issuer: s.Self.String(),
	}
}

// answer encodes v, sealed to the reply key if there is one.
func (s *Service) answer(to ident.SealKey, v any) endpoint.Response {
	body, err := json.Marshal(v)
	if err != nil {
		// Only values of our own types come here; this cannot happen, and if it
		// does the caller must not wait for its time-out.
		return endpoint.Response{Err: unavailable("the answer cannot be encoded")}
	}
	if to.IsZero() {
		return endpoint.Response{Body: body}
	}
	sealed, err := wire.Seal(s.SealKey.Pair(), to, body)
	if err != nil {
		return endpoint.Response{Err: wire.Errorf(wire.BadRequest, "send an xkey as reply_key", "the answer cannot be sealed to that reply_key")}
	}
	return endpoint.Response{Body: sealed, SealedBy: s.SealKey.Public()}
}

// refuse logs why and tells the caller what it may know.
func (s *Service) refuse(r endpoint.Request, door string, to ident.SealKey, err error, attrs ...any) endpoint.Response {
	var werr *wire.Error
	if !errors.As(err, &werr) {
		// An error of ours, such as a role key that is not here: the log says it.
		werr = unavailable("this issuer cannot do that now")
	}
	told := *werr
	told.RequestID = r.ID
	s.Log.Info("refused", append([]any{"request", r.ID, "door", door, "code", string(told.Code), "error", err}, attrs...)...)
	resp := s.answer(to, &told)
	resp.Err = &told
	return resp
}

func unavailable(why string) *wire.Error {
	e := wire.Errorf(wire.Unavailable, "ask again in a moment", "%s", why)
	e.RetryAfterMS = 500
	return e
}
