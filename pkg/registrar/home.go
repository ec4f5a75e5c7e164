package registrar

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/herald-nats/herald/internal/endpoint"
	"github.com/herald-nats/herald/pkg/authn"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/ledger"
	"github.com/herald-nats/herald/pkg/policy"
	"github.com/herald-nats/herald/pkg/subject"
	"github.com/herald-nats/herald/pkg/trust"
	"github.com/herald-nats/herald/pkg/wire"
)

// Home decides what needs a decision: what home's registrars answer on
// auth.v1.home.*. It trusts no issuer's word: the client's own signed request is in
// the claim and is verified again.
type Home struct {
	Region ident.Region // whose registrar it is
	// Decider is who decides, by the rules that are in force.
	Decider func() *ledger.Decider
	// Document is the platform document that is in force.
	Document func() *ledger.Document
	// Suspended tells whether an identity may be given nothing.
	Suspended func(ident.Identity) bool
	Issuers   ident.Label // the account that may ask
	// AccessKey gives an access key that was not removed.
	AccessKey func(ident.KeyID) (authn.KeyRecord, bool)
	// Redeemed gives what the invitations are for that a user has used.
	Redeemed func(ident.UserKey) []authn.Granted
	// Names counts names, as ledger.NameCounts does.
	Names interface {
		Listed(ident.Identity) int
		Held(ident.Identity) int
		All() int
	}
	// Methods are ways to show who asks, beside those that need the ledger alone.
	Methods authn.Methods
	Limits  *Limits
	Clock   *Clock // while it is wrong nothing is decided; may be nil
	Log     *slog.Logger
	Now     func() time.Time

	damaged     uint64 // atomic
	disbelieved atomic.Uint64
	rooms       rooms
}

// Damaged is how many requests were refused because home's bucket has something that is
// not believed, or less than it had.
func (h *Home) Damaged() uint64 { return atomic.LoadUint64(&h.damaged) }

// Disbelieved is how many requests were refused because what says who asks is not believed.
func (h *Home) Disbelieved() uint64 { return h.disbelieved.Load() }

// Queue is the queue group of home's registrars.
const Queue = "registrar"

// Endpoints are what issuers ask of home.
func (h *Home) Endpoints() []endpoint.Endpoint {
	return []endpoint.Endpoint{
		{Name: "claim", Subject: subject.HomeClaim, Handler: h.answer(h.claim), Waits: true},
		{Name: "redeem", Subject: subject.HomeRedeem, Handler: h.answer(h.redeem), Waits: true},
	}
}

// asked is a client's request that was verified, and who it came from.
type asked struct {
	request wire.Request
	claim   wire.Claim
	// issuer and host are who passed it on, and from where the issuer says that it
	// came: what may be limited.
	issuer ident.UserKey
	host   string
	// name is the one that policy gives, once it did, and chosen whether it is but wished for.
	name   ident.Name
	chosen bool
}

// answer verifies a request, decides by f, and answers the entry or the refusal.
func (h *Home) answer(f func(context.Context, *asked) (ledger.Entry, error)) func(context.Context, endpoint.Request) endpoint.Response {
	return func(ctx context.Context, r endpoint.Request) endpoint.Response {
		a, err := h.verify(r)
		var e ledger.Entry
		if err == nil {
			e, err = f(ctx, &a)
		}
		if err != nil {
			return h.refuse(r, a, err)
		}
		h.Log.Info("decided", "request", r.ID, "key", e.Key.String(), "version", e.Version)
		body, err := json.Marshal(wire.Claimed{Entry: e.Token})
		if err != nil {
			return endpoint.Response{Err: wire.Errorf(wire.Unavailable, "ask again", "the answer cannot be encoded")}
		}
		return endpoint.Response{Body: body}
	}
}

func (h *Home) refuse(r endpoint.Request, a asked, err error) endpoint.Response {
	told := *refusal(ledger.Told(a.name, a.chosen, err))
	told.RequestID = r.ID
	level := slog.LevelInfo
	if errors.Is(err, ledger.ErrDamaged) || errors.Is(err, ledger.ErrLost) {
		level = slog.LevelError
		atomic.AddUint64(&h.damaged, 1)
	}
	h.Log.Log(context.Background(), level, "refused", "request", r.ID, "name", a.request.Name.String(), "type", a.request.Identity.Type, "code", string(told.Code), "error", err)
	body, err := json.Marshal(&told)
	if err != nil {
		body = nil // the headers say what matters
	}
	return endpoint.Response{Body: body, Err: &told}
}

// refusal is what a client may know of an error.
func refusal(err error) *wire.Error {
	var werr *wire.Error
	switch {
	case errors.As(err, &werr):
		return werr
	case errors.Is(err, ledger.ErrNotFound), errors.Is(err, ledger.ErrExpired), errors.Is(err, ledger.ErrSpent):
		// Which of these it is would tell who guesses codes that one was real.
		return wire.Errorf(wire.BadIdentity, "ask whoever invited you for a new code", "this invitation is not valid, or not any more")
	default:
		e := wire.Errorf(wire.ReadOnly, "ask again in a moment", "nothing new can be decided now")
		e.RetryAfterMS = 2000
		return e
	}
}

// verify believes nothing of a claim but what its client signed.
func (h *Home) verify(r endpoint.Request) (asked, error) {
	var a asked
	if err := h.Clock.Err(); err != nil {
		return a, err
	}
	doc := h.Document()
	if doc == nil {
		return a, errors.New("no platform document is known yet")
	}
	if doc.Public.Home != h.Region {
		// Home moved. Two who decide would give a name twice.
		return a, fmt.Errorf("home is %s", doc.Public.Home)
	}
	info, err := wire.DecodeRequestInfo(r.Header[wire.HeaderInfo])
	if err == nil {
		var issuer trust.User
		issuer, err = doc.Public.Caller(info, r.Reply, h.Now(), h.Issuers)
		a.issuer = issuer.Key
	}
	if err != nil {
		h.disbelieved.Add(1)
		h.Log.Warn("a caller that is not believed", "request", r.ID, "error", err)
		return a, wire.Errorf(wire.BadIdentity, "issuers alone may ask this", "who asks is not shown")
	}
	claim, werr := wire.DecodeClaim(r.Body)
	if werr != nil {
		return a, werr
	}
	req, werr := wire.DecodeRequest(claim.Body)
	if werr != nil {
		return a, werr
	}
	if werr := wire.CheckProof(req.UserKey, []string{claim.Proof}, claim.Body); werr != nil {
		return a, werr
	}
	if werr := req.CheckTime(h.Now()); werr != nil {
		return a, werr
	}
	a.request, a.claim, a.host = req, claim, claim.Host
	return a, nil
}

// identify says who the client is, by what it signed and not by what the issuer says.
func (h *Home) identify(ctx context.Context, a *asked) (authn.Who, error) {
	methods := append(authn.Methods{
		authn.Open{}, authn.AccessKeys{Find: h.AccessKey}, authn.Invites{Redeem: h.used, Redeemed: h.Redeemed},
	}, h.Methods...)
	e := authn.Evidence{Request: a.request, Body: a.claim.Body, Proof: a.claim.Proof, Host: authn.Host(a.host), Now: h.Now()}
	if a.claim.Identity != "" {
		e.Proofs = []string{a.claim.Identity}
	}
	return methods.Identify(ctx, e)
}

// used gives what an invitation is for that who asks has used: to claim a name uses none.
func (h *Home) used(ctx context.Context, id ident.InviteID, e authn.Evidence) (authn.Granted, error) {
	i, err := h.Decider().Redeemed(ctx, id, e.Request.UserKey)
	return i.Granted(), err
}

func (h *Home) claim(ctx context.Context, a *asked) (ledger.Entry, error) {
	// Whoever guesses codes, or makes home verify tokens, is counted, too.
	if werr := h.Limits.Take(a.issuer.String(), a.host, h.Now()); werr != nil {
		return ledger.Entry{}, werr
	}
	who, err := h.identify(ctx, a)
	if err != nil {
		return ledger.Entry{}, err
	}
	// A name is for who may have something: a stolen issuer passes anything on. And it is
	// the name that policy gives.
	grant, werr := h.decide(a, who)
	if werr != nil {
		return ledger.Entry{}, werr
	}
	if h.Suspended(grant.Identity) {
		return ledger.Entry{}, wire.Errorf(wire.Suspended, "ask the platform's operator", "this identity is suspended")
	}
	now := h.Now()
	c := ledger.Claim{
		Name: grant.Name, Identity: grant.Identity, User: a.request.UserKey, Nonce: a.request.Nonce, Chosen: grant.Chosen,
		// The issuer gives no longer life than this, and gives it a moment later.
		Expires: now.Add(h.Document().Policy.Longest()),
	}
	if grant.Chosen {
		room := h.room(grant.Identity)
		defer room.leave()
		c.May = room.enter
	}
	return h.Decider().Claim(ctx, c, now)
}

func (h *Home) decide(a *asked, who authn.Who) (policy.Grant, *wire.Error) {
	wish := policy.Wish{Account: a.request.Account, Role: a.request.Role, Name: a.request.Name, Callout: a.claim.Callout}
	g, werr := h.Document().Grants().Decide(policy.Asker{Who: who}, wish, h.Now())
	a.name, a.chosen = g.Name, g.Chosen
	return g, werr
}

func (h *Home) redeem(ctx context.Context, a *asked) (ledger.Entry, error) {
	if a.request.Identity.Type != wire.ProofInvite {
		return ledger.Entry{}, wire.Errorf(wire.BadIdentity, "redeem an invitation", "the request brings no invitation")
	}
	code, err := authn.Code(a.request)
	if err != nil {
		return ledger.Entry{}, err
	}
	if h.Suspended(ident.InviteIdentity(a.request.UserKey)) {
		return ledger.Entry{}, wire.Errorf(wire.Suspended, "ask the platform's operator", "this identity is suspended")
	}
	if werr := h.Limits.Take(a.issuer.String(), a.host, h.Now()); werr != nil {
		return ledger.Entry{}, werr
	}
	who := authn.Who{Identity: ident.InviteIdentity(a.request.UserKey)}
	// What would give nothing is not used up.
	may := func(i ledger.Invite) error {
		who.Granted = []authn.Granted{i.Granted()}
		grant, werr := h.decide(a, who)
		if werr != nil {
			return werr
		}
		return h.Decider().Free(ctx, grant.Name, grant.Identity, h.Now())
	}
	return h.Decider().RedeemIf(ctx, code.ID(), a.request.UserKey, a.request.Nonce, h.Now(), may)
}
