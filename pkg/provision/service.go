// Package provision is the issuing service: what is asked of auth.v1.info,
// issue, renew and callout goes one way through it, each step a package of its own
// (wire, authn, policy, names, issuer, audit). service.go decides and knows no
// connection; callout.go and tutorial.go are the doors for others than our own clients; home.go
// asks home over NATS. What it knows of the platform it reads
// from the ledger's projection in memory.
package provision

import (
	"context"
	"encoding/json"
	"errors"
	"hash/maphash"
	"log/slog"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/herald-nats/herald/internal/endpoint"
	"github.com/herald-nats/herald/pkg/audit"
	"github.com/herald-nats/herald/pkg/authn"
	"github.com/herald-nats/herald/pkg/callout"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/issuer"
	"github.com/herald-nats/herald/pkg/keystore"
	"github.com/herald-nats/herald/pkg/ledger"
	"github.com/herald-nats/herald/pkg/limit"
	"github.com/herald-nats/herald/pkg/policy"
	"github.com/herald-nats/herald/pkg/subject"
	"github.com/herald-nats/herald/pkg/trust"
	"github.com/herald-nats/herald/pkg/wire"
)

// Decider is home, as issuers see it. Errors are *wire.Error: name_taken, read_only,
// bad_identity, rate_limited, unavailable.
type Decider interface {
	// Claim makes sure that a grant's name belongs to its identity, claiming it in home if
	// nobody has it.
	Claim(ctx context.Context, g policy.Grant, claim wire.Claim) error
	// Redeem makes sure that a user has used an invitation, using it in home if it has not.
	Redeem(ctx context.Context, invite ident.InviteID, user ident.UserKey, claim wire.Claim) (ledger.Invite, error)
}

// Config is what an issuing service is made of. Every field is needed, but for Callout.
type Config struct {
	Region  ident.Region
	Self    ident.UserKey // the issuer's own nkey, named in answers
	Door    ident.Label   // the account that clients without a credential come to
	Callout *callout.Key  // what servers' requests are sealed to; nil: nobody comes by auth callout here
	Keys    Keys
	// MoreKeys looks for keys again, where a platform document names one that is not there; nil
	// looks nowhere.
	MoreKeys func() (Keys, error)
	Ledger   *ledger.Projection // what is known; its document is put in force by Use
	Home     Decider
	// Methods are ways to show who asks, beside those that need the ledger alone: open,
	// access keys, invitations.
	Methods authn.Methods
	Records Records
	Guests  []ident.Label // accounts that may ask for issue
	Log     *slog.Logger
	Now     func() time.Time
	Spread  func() float64 // see issuer.Mint
}

// Service answers requests. It is safe for concurrent use.
type Service struct {
	Config
	use     sync.Mutex // of Use
	terms   atomic.Pointer[terms]
	replays *replays
	methods authn.Methods
	// What may be asked: from one host for credentials, and by one identity for them and for
	// renewals, each apart from the others.
	hosts, lookers, members     *limit.Sources // by host: for credentials, information, renewals
	identities, renewers, users *limit.Sources
	callers, wrong              *limit.Sources // by auth callout: by host; and who was wrong, by host and key
	due                         *limit.Sources // users whose renewals are not charged to their host
	told                        *limit.Sources // hosts and credentials that are told of a refusal
	credentials                 *limit.Sources // by which renewals are asked for
	renewals                    issuer.Renewals
	limited, crowded            limitedLog
	disbelieved                 atomic.Uint64
	meters                      meters
	seed                        maphash.Seed // of what credentials are remembered by
}

// Disbelieved is how many requests were refused because what says who asks is not believed.
func (s *Service) Disbelieved() uint64 { return s.disbelieved.Load() }

// perUser is how often one user may ask for renewal, whatever its identity may; perDue, how
// often that is not charged to its host because it is due.
const (
	perUserBurst  = 30
	perUserSecond = 1
	perDueBurst   = 2
	perDueSecond  = 0.1
	// told is how often a host or a user is told that it asks too much; beyond that, it is not
	// answered.
	toldBurst  = 2000
	toldSecond = 500
)

// limitedLog counts those who were refused for asking too much, or because too much is asked:
// a line for each would be a second flood.
type limitedLog struct {
	mu    sync.Mutex
	count int
	last  time.Time
}

// one counts one more, and gives how many there were once a second.
func (l *limitedLog) one(now time.Time) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.count++
	if now.Sub(l.last) < time.Second {
		return 0
	}
	n := l.count
	l.count, l.last = 0, now
	return n
}

// New makes the service. Until Use it has no document, and refuses everything as
// unavailable.
func New(c Config) *Service {
	s := &Service{Config: c, replays: newReplays(), seed: maphash.MakeSeed()}
	s.methods = append(authn.Methods{authn.Open{}, authn.AccessKeys{Find: c.Ledger.AccessKey}, authn.Invites{Redeem: s.redeem, Redeemed: c.Ledger.Redeemed}}, c.Methods...)
	s.terms.Store(&terms{})
	for _, by := range []**limit.Sources{&s.hosts, &s.lookers, &s.members, &s.callers} {
		*by = limit.New(func() limit.Rate { return s.rate(policy.Policy.Host) })
	}
	s.users = limit.New(limit.Always(limit.Rate{Burst: perUserBurst, PerSecond: perUserSecond}))
	s.credentials = limit.New(limit.Always(limit.Rate{Burst: perUserBurst, PerSecond: perUserSecond}))
	s.told = limit.New(limit.Always(limit.Rate{Burst: toldBurst, PerSecond: toldSecond}))
	s.wrong = limit.New(limit.Always(limit.Rate{Burst: wrongBurst, PerSecond: wrongSecond}))
	s.due = limit.New(limit.Always(limit.Rate{Burst: perDueBurst, PerSecond: perDueSecond}))
	s.identities = limit.New(func() limit.Rate { return s.rate(policy.Policy.Each) })
	s.renewers = limit.New(func() limit.Rate { return s.rate(policy.Policy.Each) })
	return s
}

// rate is a bound of the document in force.
func (s *Service) rate(of func(policy.Policy) policy.Rate) limit.Rate {
	var p policy.Policy
	if t := s.terms.Load(); t.document != nil {
		p = t.document.Policy
	}
	r := of(p)
	return limit.Rate{Burst: r.Burst, PerSecond: float64(r.PerMinute) / 60}
}

// longestWait is the longest that anybody is told to wait; see wire.DecodeError.
const longestWait = time.Hour

// take refuses what is one too many of a source.
func (s *Service) take(from *limit.Sources, source, what string) *wire.Error {
	wait := from.Take(source, s.Now())
	if wait == 0 {
		return nil
	}
	e := wire.Errorf(wire.RateLimited, "ask again later", "too many requests %s", what)
	// Not all at once: whoever was refused at one moment does not come back at one.
	wait += time.Duration(s.Spread() * float64(max(wait, time.Second)))
	e.RetryAfterMS = min(max(wait, 100*time.Millisecond), longestWait).Milliseconds()
	return e
}

// redeem uses an invitation for who asks.
func (s *Service) redeem(ctx context.Context, id ident.InviteID, e authn.Evidence) (authn.Granted, error) {
	i, err := s.Home.Redeem(ctx, id, e.Request.UserKey, claimOf(e))
	return i.Granted(), err
}

// claimOf is what home is asked with: the client's own signed request.
func claimOf(e authn.Evidence) wire.Claim {
	c := wire.Claim{Body: e.Body, Proof: e.Proof}
	if len(e.Proofs) > 0 {
		c.Identity = e.Proofs[0]
	}
	if e.Host.IsValid() {
		c.Host = e.Host.String()
	}
	return c
}

// Queue is the queue group of issuers: a request stays in its region while one
// of them serves there, and goes to the nearest other region otherwise.
const Queue = "issuer"

// GuestEndpoints are what guests ask; they get a connection of their own, so
// that a flood of guests cannot take renewals down.
func (s *Service) GuestEndpoints() []endpoint.Endpoint {
	return []endpoint.Endpoint{
		{Name: "info", Subject: subject.Info, Handler: s.measured(DoorInfo, s.Info), Admit: s.admit("info", s.lookers, "host"), Busy: s.busy("info"), Meter: &s.meters.queues[DoorInfo]},
		{Name: "issue", Subject: subject.Issue, Handler: s.measured(DoorIssue, s.Issue), Admit: s.admit("issue", s.hosts, "host"), Busy: s.busy("issue"), Meter: &s.meters.queues[DoorIssue]},
	}
}

// MemberEndpoints are what users ask.
func (s *Service) MemberEndpoints() []endpoint.Endpoint {
	// The credential, which the server verified, and not the host: somebody who asks all the
	// time spends nothing of what others of the same address have. Not the user that a server
	// names either: that is what the client says of itself.
	return []endpoint.Endpoint{{
		Name: "renew", Subject: subject.Renew, Handler: s.measured(DoorRenew, s.Renew), Admit: s.admit("renew", s.credentials, "jwt"), Busy: s.busy("renew"), Meter: &s.meters.queues[DoorRenew],
	}}
}

// admit refuses what is one too many of a source, before anything else is done: by host, or
// by credential, as a server says. Those of whom nothing is said, who are not believed later,
// are one source together.
func (s *Service) admit(door string, by *limit.Sources, what string) func(endpoint.Request) (endpoint.Response, bool) {
	sentence := map[string]string{"host": "from where you are", "jwt": "of yours"}[what]
	return func(r endpoint.Request) (endpoint.Response, bool) {
		// What is remembered is no part of the request, which would be kept as a whole.
		source := said(r.Header[wire.HeaderInfo], what)
		if what == "host" {
			source = strings.Clone(limit.Host(source))
		} else if source != "" {
			source = strconv.FormatUint(maphash.String(s.seed, source), 36)
		}
		werr := s.take(by, source, sentence)
		asks := about{door: door}
		if what == "host" {
			asks.host = source
		}
		switch {
		case werr == nil:
			return endpoint.Response{}, true
		case s.told.Take(source, s.Now()) > 0:
			// To tell somebody ten thousand times a second is what keeps others waiting; and so
			// would a record of each.
			s.Records.Count(door, werr.Code)
			return endpoint.Response{Silent: true}, false
		default:
			return s.refuse(r, asks, reply{}, werr), false
		}
	}
}

// busy notes a request for which there is no room, and answers it.
func (s *Service) busy(door string) func(endpoint.Request, *wire.Error) endpoint.Response {
	return func(r endpoint.Request, refusal *wire.Error) endpoint.Response {
		s.Records.Count(door, refusal.Code)
		if n := s.crowded.one(s.Now()); n > 0 {
			s.Log.Info("refused", "request", r.ID, "door", door, "code", string(refusal.Code), "error", refusal, "busy", n)
		}
		// Nothing of the request was read: there is no key to seal to.
		resp := s.answer(reply{}, refusal)
		resp.Err = refusal
		return resp
	}
}

// said reads one member of what a server says of who asks, without reading the rest, of
// which the user's JWT is most. It is for limits alone: nothing is believed by it. Within a
// text JSON has no quote that is not escaped, so that no other member can look like it.
func said(info []string, member string) string {
	if len(info) != 1 {
		return ""
	}
	_, rest, ok := strings.Cut(info[0], `"`+member+`":"`)
	if !ok {
		return ""
	}
	value, _, ok := strings.Cut(rest, `"`)
	if !ok || strings.Contains(value, `\`) || member == "host" && len(value) > wire.MaxHost {
		return ""
	}
	return value
}

// Info answers auth.v1.info.
func (s *Service) Info(_ context.Context, r endpoint.Request) endpoint.Response {
	t := s.terms.Load()
	if _, _, err := s.caller(t, r, slices.Concat(s.Guests, t.members)...); err != nil {
		return s.refuse(r, about{door: "info"}, reply{}, err)
	}
	return s.answer(reply{}, wire.Info{
		Platform: t.document.PublicToken, Time: s.Now().UnixMilli(), Region: s.Region, Issuer: s.Self.String(),
	})
}

// Issue answers auth.v1.issue.
func (s *Service) Issue(ctx context.Context, r endpoint.Request) endpoint.Response {
	began, t := s.Now(), s.terms.Load()
	e, by, err := s.open(t, r)
	req, asks := e.Request, asks("issue", e)
	to := reply{req.ReplyKey, by}
	m := measuring(ctx)
	m.by(req.Identity.Type)
	m.did(stepRead)
	if err != nil {
		return s.refuse(r, asks, to, err)
	}
	var i issued
	if asks.who, i, err = s.issue(ctx, t, r, e); err == nil {
		err = s.record(ctx, r, audit.Issue, asks, t, i)
	}
	if err != nil {
		return s.refuse(r, asks, to, err)
	}
	s.Log.Info("issued", "request", r.ID, "user", req.UserKey.String(), "identity", i.grant.Identity.String(),
		"name", i.grant.Name.String(), "account", i.grant.Account.String(), "role", i.grant.Role.String(),
		"expires", i.Expires.Unix(), "took", s.Now().Sub(began))
	return s.answer(to, s.credential(t, i))
}

// reply is how an answer is sealed: to the key that the request names, if it does, in the name of a
// region key.
type reply struct {
	to ident.SealKey
	by *keystore.Key
}

// issued is a credential, what it is for, and when who it is for was proved.
type issued struct {
	issuer.Credential
	grant   policy.Grant
	proven  time.Time
	renewAt time.Time
}

// open reads the request: its plain body is what was signed. What it gives beside an error
// has a reply key only once it had a shape. The answer is sealed in the name of the region key that
// opened it, which its sender knows; one that was not sealed is answered by the key in use.
func (s *Service) open(t *terms, r endpoint.Request) (authn.Evidence, *keystore.Key, error) {
	var none authn.Evidence
	if len(r.Body) > wire.MaxRequest {
		return none, nil, wire.Errorf(wire.TooLarge, "send at most 16 KiB", "the request has %d bytes", len(r.Body))
	}
	_, info, err := s.caller(t, r, s.Guests...)
	if err != nil {
		return none, nil, err
	}
	if t.seal == nil {
		// Its door for guests closes; what came before that could be answered in nobody's name.
		return none, nil, unavailable("this issuer does not hold its region's key")
	}
	body, key := r.Body, t.seal
	if by := r.Header[wire.HeaderSealed]; len(by) > 0 {
		from, err := ident.ParseSealKey(by[0])
		if err != nil || len(by) != 1 {
			return none, nil, wire.Errorf(wire.BadRequest, "name the sender's xkey once in Herald-Sealed", "the request is sealed by nobody")
		}
		for _, key = range t.opens {
			if body, err = wire.Open(key.Pair(), from, r.Body); err == nil {
				break
			}
		}
		if err != nil {
			return none, nil, wire.Errorf(wire.WrongRegion, "ask auth.v1.info again and seal to that region's key", "the request is not sealed to region %s", s.Region)
		}
	}
	req, werr := wire.DecodeRequest(body)
	asked := authn.Evidence{Request: req}
	if werr != nil {
		return asked, key, werr
	}
	if req.Identity.Secret() && (len(r.Header[wire.HeaderSealed]) == 0 || req.ReplyKey.IsZero()) {
		return asked, key, wire.Errorf(wire.NotSealed, "seal it to the region key of auth.v1.info, and send a reply_key", "a proof of kind %s is a secret", req.Identity.Type)
	}
	asked.Body, asked.Proofs, asked.Host = body, r.Header[wire.HeaderIdentity], authn.Host(info.Host)
	return asked, key, nil
}

func (s *Service) issue(ctx context.Context, t *terms, r endpoint.Request, e authn.Evidence) (who authn.Who, _ issued, err error) {
	req := e.Request
	e.Now = s.Now()
	proofs := r.Header[wire.HeaderProof]
	if err := wire.CheckProof(req.UserKey, proofs, e.Body); err != nil {
		return who, issued{}, err
	}
	e.Proof = proofs[0]
	if err := req.CheckTime(e.Now); err != nil {
		return who, issued{}, err
	}
	switch first, full := s.replays.first(req.UserKey, req.Nonce, e.Now); {
	case full:
		return who, issued{}, unavailable("too many requests are remembered")
	case !first:
		return who, issued{}, wire.Errorf(wire.Replayed, "make a new nonce for each request", "this request was seen before")
	}
	wish := policy.Wish{Account: req.Account, Role: req.Role, Name: req.Name, TTL: req.TTL}
	return s.grant(ctx, t, e, wish, func(policy.Grant) (wire.Claim, error) { return claimOf(e), nil })
}

// grant is the one way to a new credential, whichever door it is asked at: who asks, whether
// they may, under which name, and then it is signed. claim is what home is asked with.
func (s *Service) grant(ctx context.Context, t *terms, e authn.Evidence, wish policy.Wish, claim func(policy.Grant) (wire.Claim, error)) (who authn.Who, _ issued, err error) {
	req, m := e.Request, measuring(ctx)
	who, err = s.identify(ctx, e)
	m.did(stepAuthenticate)
	if err != nil {
		return who, issued{}, err
	}
	if werr := s.take(s.identities, who.Identity.String(), "of yours"); werr != nil {
		return who, issued{}, werr
	}
	grant, werr := t.grants.Decide(policy.Asker{Who: who}, wish, e.Now)
	m.did(stepDecide)
	if werr != nil {
		return who, issued{}, werr
	}
	account, _ := t.document.Public.Account(grant.Account)
	if werr := s.denied(grant.Identity, account.Key, req.UserKey); werr != nil {
		return who, issued{}, werr
	}
	asks, err := claim(grant)
	if err != nil {
		return who, issued{}, err
	}
	err = s.Home.Claim(ctx, grant, asks)
	m.did(stepName)
	if err != nil {
		return who, issued{}, err
	}
	i, err := s.mint(t, grant, account.Key, req.UserKey, e.Now)
	m.did(stepSign)
	return who, i, err
}

// identify is who shows that they are it. A provider's keys may have to be fetched first.
func (s *Service) identify(ctx context.Context, e authn.Evidence) (authn.Who, error) {
	if e.Request.Identity.Type == wire.ProofOIDC {
		var cancel context.CancelFunc
		defer endpoint.Waiting(ctx)() // for the provider's keys
		ctx, cancel = context.WithTimeout(ctx, endpoint.MaxWait)
		defer cancel()
	}
	return s.methods.Identify(ctx, e)
}

// denied refuses who is suspended: the identity, this user of it, or the account.
func (s *Service) denied(id ident.Identity, account ident.AccountKey, user ident.UserKey) *wire.Error {
	if e, ok := s.Ledger.Denied(id, account, user); ok {
		if b, is := e.Body.(ledger.Suspension); is && b.Revoked {
			return wire.Errorf(wire.Revoked, "ask the platform's operator", "you are revoked")
		}
		return wire.Errorf(wire.Suspended, "ask the platform's operator", "you are suspended")
	}
	return nil
}

// mint signs a credential that no revocation that is known ends: one that was issued
// at or before the moment of a revocation is dead on every server. A suspension that
// came while a claim was on its way counts. proven is when who asks was proved.
func (s *Service) mint(t *terms, g policy.Grant, account ident.AccountKey, user ident.UserKey, proven time.Time) (issued, error) {
	if werr := s.denied(g.Identity, account, user); werr != nil {
		return issued{}, werr
	}
	// The clock is read again: a claim in home may have taken its time, and a
	// credential lives from when it is signed.
	now := s.Now()
	if before := s.Ledger.RevokedBefore(account, user); now.Unix() <= before {
		now = time.Unix(before+1, 0)
	}
	if proven.After(now) {
		proven = now // by the clock of another issuer, which is ahead of this one's
	}
	g.Tags = append(slices.Clip(g.Tags), trust.TagProven+strconv.FormatInt(proven.Unix(), 10))
	c, err := t.issuer.Mint(g, user, now, s.Spread())
	if err != nil {
		return issued{}, err
	}
	// It is shown again when it is renewed.
	t.users.Signed(c.JWT, trust.User{
		Key: user, Name: g.Name, Account: g.Account, AccountKey: c.Account, Role: g.Role, Identity: g.Identity,
		Proven: time.Unix(proven.Unix(), 0), Met: g.Met, By: g.By, IssuedAt: c.Issued, Expires: c.Expires, ID: c.ID,
	})
	return issued{c, g, proven, s.renewals.At(now, c.Expires.Sub(c.Issued), s.Spread)}, nil
}

// Renew answers auth.v1.renew: for the nkey that asks, as the server names it.
func (s *Service) Renew(ctx context.Context, r endpoint.Request) endpoint.Response {
	t := s.terms.Load()
	u, info, err := s.caller(t, r, t.members...)
	m := measuring(ctx)
	m.did(stepRead)
	if err != nil {
		return s.refuse(r, about{door: "renew"}, reply{}, err)
	}
	asks := renews(u, info.Host)
	if info.Host != "" && !s.isDue(u) {
		if werr := s.take(s.members, limit.Host(info.Host), "from where you are"); werr != nil {
			return s.refuse(r, asks, reply{}, werr)
		}
	}
	i, err := s.renew(ctx, t, u, authn.Host(info.Host), r.Body)
	if err == nil {
		err = s.record(ctx, r, audit.Renew, asks, t, i)
	}
	if err != nil {
		return s.refuse(r, asks, reply{}, err)
	}
	s.Log.Info("renewed", "request", r.ID, "user", u.Key.String(), "identity", u.Identity.String(), "name", u.Name.String(),
		"account", i.grant.Account.String(), "role", i.grant.Role.String(), "expires", i.Expires.Unix())
	return s.answer(reply{}, s.credential(t, i))
}

// isDue tells whether a user asks when half of its credential's life is over, and has not just
// asked: however much others of its address ask, it is renewed.
func (s *Service) isDue(u trust.User) bool {
	now := s.Now()
	half := u.IssuedAt.Add(u.Expires.Sub(u.IssuedAt) / 2)
	return !u.Expires.IsZero() && now.After(half) && s.due.Take(u.Key.String(), now) == 0
}

func (s *Service) renew(ctx context.Context, t *terms, u trust.User, host netip.Addr, body []byte) (issued, error) {
	want, werr := wire.DecodeRenewRequest(body)
	if werr != nil {
		return issued{}, werr
	}
	if u.Identity.IsZero() {
		return issued{}, wire.Errorf(wire.NoGrant, "ask auth.v1.issue with a proof", "this user was not made by an issuer")
	}
	if werr := s.take(s.users, u.Key.String(), "of yours"); werr != nil {
		return issued{}, werr
	}
	if werr := s.take(s.renewers, u.Identity.String(), "of yours"); werr != nil {
		return issued{}, werr
	}
	// A server that has not heard of a revocation yet lets its user ask.
	if before := s.Ledger.RevokedBefore(u.AccountKey, u.Key); u.IssuedAt.Unix() <= before {
		return issued{}, wire.Errorf(wire.Revoked, "ask the platform's operator", "this credential is revoked")
	}
	// A name that was released, or that is another's by now, is renewed for nobody. One
	// that is not known here was given by another region's issuer, and this region has
	// not heard of it: who holds a valid credential is not taken down for that.
	if held, gone, ok := s.Ledger.Name(u.Name); ok {
		if err := t.document.Names.HeldBy(held, gone, u.Identity, s.Now()); err != nil {
			return issued{}, wire.Errorf(wire.NameTaken, "ask auth.v1.issue for a credential, under another name if need be", "the name %s is not yours any more", u.Name)
		}
	}
	now := s.Now()
	proven := u.Proven
	if proven.IsZero() {
		proven = u.IssuedAt // by an issuer that did not say
	}
	left := t.session - now.Sub(proven)
	if left < policy.Shortest {
		return issued{}, wire.Errorf(wire.Expired, "ask auth.v1.issue with a proof", "it is too long since you showed who you are")
	}
	m := measuring(ctx)
	who, err := s.methods.Again(ctx, authn.Renewal{Identity: u.Identity, User: u.Key, Host: host, By: u.By, Now: now})
	m.did(stepAuthenticate)
	if err != nil {
		return issued{}, err
	}
	who.Provider = u.Identity.Provider()
	grant, werr := t.grants.Decide(policy.Asker{Who: who, Met: u.Met}, policy.Wish{Account: u.Account, Role: u.Role, Name: u.Name, TTL: want.TTL}, now)
	m.did(stepDecide)
	if werr != nil {
		return issued{}, werr
	}
	// A credential that is renewed does not outlive what may be renewed.
	grant.TTL = min(grant.TTL, left)
	i, err := s.mint(t, grant, u.AccountKey, u.Key, proven)
	m.did(stepSign)
	return i, err
}

// caller is who asks, as the server says; see trust.Platform.Caller.
func (s *Service) caller(t *terms, r endpoint.Request, accounts ...ident.Label) (trust.User, wire.RequestInfo, error) {
	if t.document == nil {
		return trust.User{}, wire.RequestInfo{}, unavailable("this issuer does not know its platform yet")
	}
	info, err := wire.DecodeRequestInfo(r.Header[wire.HeaderInfo])
	if err == nil {
		var u trust.User
		if u, err = t.users.Caller(info, r.Reply, s.Now(), accounts...); err == nil {
			return u, info, nil
		}
	}
	s.disbelieved.Add(1)
	s.Log.Warn("a caller that is not believed", "request", r.ID, "error", err)
	return trust.User{}, wire.RequestInfo{}, wire.Errorf(wire.BadIdentity, "connect with a credential of this platform and ask through its import", "who asks is not shown")
}

func (s *Service) credential(t *terms, i issued) wire.Answer {
	return wire.Answer{
		JWT: i.JWT, Account: i.Account, AccountName: i.grant.Account, Role: i.grant.Role, Name: i.grant.Name,
		Expires: i.Expires.Unix(), RenewAt: i.renewAt.Unix(),
		URLs: t.document.Public.URLs(s.Region), Region: s.Region, Issuer: s.Self.String(),
	}
}

// answer encodes v, sealed if there is a reply key.
func (s *Service) answer(r reply, v any) endpoint.Response {
	body, err := json.Marshal(v)
	if err != nil {
		// Only values of our own types come here; this cannot happen, and if it
		// does the caller must not wait for its time-out.
		return endpoint.Response{Err: unavailable("the answer cannot be encoded")}
	}
	if r.to.IsZero() {
		return endpoint.Response{Body: body}
	}
	sealed, err := wire.Seal(r.by.Pair(), r.to, body)
	if err != nil {
		return endpoint.Response{Err: wire.Errorf(wire.BadRequest, "send an xkey as reply_key", "the answer cannot be sealed to that reply_key")}
	}
	return endpoint.Response{Body: sealed, SealedBy: r.by.Public()}
}

// refuse logs and records why, and tells the caller what it may know.
func (s *Service) refuse(r endpoint.Request, a about, to reply, err error) endpoint.Response {
	var werr *wire.Error
	if !errors.As(err, &werr) {
		// An error of ours, such as a role key that is not here: the log says it.
		werr = unavailable("this issuer cannot do that now")
	}
	told := *werr
	told.RequestID = r.ID
	s.refused(r, a, told.Code, err)
	attrs := append([]any{"request", r.ID, "door", a.door, "code", string(told.Code), "error", err}, a.attrs()...)
	limited := 0
	if told.Code == wire.RateLimited {
		if limited = s.limited.one(s.Now()); limited > 0 {
			attrs = append(attrs, "limited", limited)
		}
	}
	if told.Code != wire.RateLimited || limited > 0 {
		s.Log.Info("refused", attrs...)
	}
	resp := s.answer(to, &told)
	resp.Err = &told
	return resp
}

func unavailable(why string) *wire.Error {
	e := wire.Errorf(wire.Unavailable, "ask again in a moment", "%s", why)
	e.RetryAfterMS = 500
	return e
}
