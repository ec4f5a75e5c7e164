package registrar

import (
	"context"
	"encoding/json"
	"errors"
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
	// Decider is who decides, by the rules that are in force.
	Decider func() *ledger.Decider
	// Document is the platform document that is in force.
	Document func() *ledger.Document
	// Suspended tells whether an identity may be given nothing.
	Suspended func(ident.Identity) bool
	Issuers   ident.Label // the account that may ask
	Limits    *Limits
	Log       *slog.Logger
	Now       func() time.Time

	damaged uint64 // atomic
}

// Damaged is how many requests were refused because home's bucket has something that is
// not believed, or less than it had.
func (h *Home) Damaged() uint64 { return atomic.LoadUint64(&h.damaged) }

// Queue is the queue group of home's registrars.
const Queue = "registrar"

// Endpoints are what issuers ask of home.
func (h *Home) Endpoints() []endpoint.Endpoint {
	return []endpoint.Endpoint{
		{Name: "claim", Subject: subject.HomeClaim, Handler: h.answer(h.claim)},
		{Name: "redeem", Subject: subject.HomeRedeem, Handler: h.answer(h.redeem)},
	}
}

// asked is a client's request that was verified, and who it came from.
type asked struct {
	request wire.Request
	// issuer and host are who passed it on, and from where the issuer says that it
	// came: what may be limited.
	issuer ident.UserKey
	host   string
}

// answer verifies a request, decides by f, and answers the entry or the refusal.
func (h *Home) answer(f func(context.Context, asked) (ledger.Entry, error)) func(context.Context, endpoint.Request) endpoint.Response {
	return func(ctx context.Context, r endpoint.Request) endpoint.Response {
		a, err := h.verify(r)
		var e ledger.Entry
		if err == nil {
			e, err = f(ctx, a)
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
	told := *refusal(err, a.request.Name)
	told.RequestID = r.ID
	level := slog.LevelInfo
	if errors.Is(err, ledger.ErrDamaged) || errors.Is(err, ledger.ErrLost) {
		level = slog.LevelError
		atomic.AddUint64(&h.damaged, 1)
	}
	h.Log.Log(context.Background(), level, "refused", "request", r.ID, "name", a.request.Name.String(), "code", string(told.Code), "error", err)
	body, err := json.Marshal(&told)
	if err != nil {
		body = nil // the headers say what matters
	}
	return endpoint.Response{Body: body, Err: &told}
}

// refusal is what a client may know of an error.
func refusal(err error, name ident.Name) *wire.Error {
	var werr *wire.Error
	switch {
	case errors.As(err, &werr):
		return werr
	case errors.Is(err, ledger.ErrTaken):
		return wire.Errorf(wire.NameTaken, "choose another name", "the name %s belongs to somebody else", name)
	case errors.Is(err, ledger.ErrResting):
		return wire.Errorf(wire.NameTaken, "choose another name, or wait until it is free", "the name %s was somebody else's until lately", name)
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
	doc := h.Document()
	if doc == nil {
		return a, errors.New("no platform document is known yet")
	}
	info, err := wire.DecodeRequestInfo(r.Header[wire.HeaderInfo])
	if err == nil {
		var issuer trust.User
		issuer, err = doc.Public.Caller(info, r.Reply, h.Now(), h.Issuers)
		a.issuer = issuer.Key
	}
	if err != nil {
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
	a.request, a.host = req, claim.Host
	return a, nil
}

func (h *Home) claim(ctx context.Context, a asked) (ledger.Entry, error) {
	id, werr := authn.Identify(a.request)
	if werr != nil {
		return ledger.Entry{}, werr
	}
	if a.request.Name.IsZero() {
		return ledger.Entry{}, wire.Errorf(wire.BadName, "claim a name", "the request has no name")
	}
	// A name is for who may have something: a stolen issuer passes anything on.
	if _, werr := h.Document().Policy.Decide(id, policy.Wish{Account: a.request.Account, Role: a.request.Role, Name: a.request.Name}); werr != nil {
		return ledger.Entry{}, werr
	}
	if h.Suspended(id) {
		return ledger.Entry{}, wire.Errorf(wire.Suspended, "ask the platform's operator", "this identity is suspended")
	}
	if werr := h.Limits.Take(a.issuer.String(), a.host, h.Now()); werr != nil {
		return ledger.Entry{}, werr
	}
	now := h.Now()
	return h.Decider().Claim(ctx, ledger.Claim{
		Name: a.request.Name, Identity: id, User: a.request.UserKey, Nonce: a.request.Nonce,
		// The issuer gives no longer life than this, and gives it a moment later.
		Expires: now.Add(h.Document().Policy.Longest()),
	}, now)
}

func (h *Home) redeem(ctx context.Context, a asked) (ledger.Entry, error) {
	if a.request.Identity.Type != wire.ProofInvite {
		return ledger.Entry{}, wire.Errorf(wire.BadIdentity, "redeem an invitation", "the request brings no invitation")
	}
	if h.Suspended(ident.InviteIdentity(a.request.UserKey)) {
		return ledger.Entry{}, wire.Errorf(wire.Suspended, "ask the platform's operator", "this identity is suspended")
	}
	if werr := h.Limits.Take(a.issuer.String(), a.host, h.Now()); werr != nil {
		return ledger.Entry{}, werr
	}
	return h.Decider().Redeem(ctx, ident.InviteOf(a.request.Identity.Code), a.request.UserKey, a.request.Nonce, h.Now())
}
