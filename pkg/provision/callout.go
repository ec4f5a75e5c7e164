package provision

import (
	"context"
	"crypto/rand"
	"errors"
	"strings"
	"time"

	"github.com/herald-nats/herald/internal/endpoint"
	"github.com/herald-nats/herald/pkg/accesskey"
	"github.com/herald-nats/herald/pkg/audit"
	"github.com/herald-nats/herald/pkg/authn"
	"github.com/herald-nats/herald/pkg/callout"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/keystore"
	"github.com/herald-nats/herald/pkg/ledger"
	"github.com/herald-nats/herald/pkg/limit"
	"github.com/herald-nats/herald/pkg/policy"
	"github.com/herald-nats/herald/pkg/subject"
	"github.com/herald-nats/herald/pkg/trust"
	"github.com/herald-nats/herald/pkg/wire"
)

const (
	// calloutWait bounds one request: servers wait for 2 s, and do not say so to the client.
	calloutWait = 1500 * time.Millisecond
	// wrong is how often one host may bring a wrong secret for one key. Others who have the
	// right one are not kept out by it, nor are others' hosts.
	wrongBurst  = 20
	wrongSecond = 0.2
)

// errLogin is what is wrong with a client's words, for the log alone.
var errLogin = wire.Errorf(wire.BadIdentity, "user = key id and password = secret, or a login's token as token or password", "neither an access key nor a token")

// CalloutEndpoints are what servers ask.
func (s *Service) CalloutEndpoints() []endpoint.Endpoint {
	busy := s.busy("callout")
	return []endpoint.Endpoint{{
		Name: "callout", Subject: subject.Callout, Handler: s.measured(DoorCallout, s.Let), Meter: &s.meters.queues[DoorCallout],
		// An answer of nothing is a refusal, at once.
		Busy: func(r endpoint.Request, refusal *wire.Error) endpoint.Response {
			busy(r, refusal)
			return endpoint.Response{}
		},
	}}
}

// Let answers auth.v1.callout: whether a server lets a client in, and as whom. Whoever is
// refused is told nothing; the log says why.
func (s *Service) Let(ctx context.Context, r endpoint.Request) endpoint.Response {
	ctx, cancel := context.WithTimeout(ctx, calloutWait)
	defer cancel()
	began, t := s.Now(), s.terms.Load()
	asked, err := s.askedBy(t, r)
	if err != nil {
		s.disbelieved.Add(1)
		s.Log.Warn("a caller that is not believed", "request", r.ID, "door", "callout", "error", err)
		s.refused(r, about{door: "callout"}, wire.BadIdentity, err)
		measuring(ctx).refused(errLogin)
		// An answer of nothing is a refusal, at once.
		return endpoint.Response{}
	}
	asks := about{door: "callout", user: asked.User, host: asked.Host, server: asked.Server, client: asked.Client}
	var i issued
	if asks.who, i, err = s.let(ctx, t, asked, &asks); err == nil {
		err = s.record(ctx, r, audit.Issue, asks, t, i)
	}
	if err != nil {
		measuring(ctx).refused(s.refuse(r, asks, reply{}, err).Err)
		return s.tell(t, asked, "")
	}
	s.Log.Info("let in", "request", r.ID, "user", asked.User.String(), "host", asked.Host, "identity", i.grant.Identity.String(),
		"name", i.grant.Name.String(), "account", i.grant.Account.String(), "role", i.grant.Role.String(),
		"expires", i.Expires.Unix(), "took", s.Now().Sub(began))
	return s.tell(t, asked, i.JWT)
}

// askedBy opens and verifies what a server asks. Who asks is the account DOOR itself, as the
// server says that the request came through: none of its clients can ask.
func (s *Service) askedBy(t *terms, r endpoint.Request) (callout.Request, error) {
	if t.door == nil {
		return callout.Request{}, errors.New("auth callout is off, or not served here")
	}
	info, err := wire.DecodeRequestInfo(r.Header[wire.HeaderInfo])
	if err != nil {
		return callout.Request{}, err
	}
	if !trust.IsImportedReply(r.Reply) || info.Kind != "Account" || info.Service != "" || info.Account != t.door.account.String() {
		return callout.Request{}, trust.ErrUntrusted
	}
	by := r.Header[callout.HeaderServer]
	if len(by) != 1 {
		return callout.Request{}, callout.ErrRequest
	}
	from, err := ident.ParseSealKey(by[0])
	if err != nil {
		return callout.Request{}, err
	}
	now := s.Now()
	asked, err := s.Callout.Open(from, r.Body, t.door.account, now)
	if err != nil {
		return callout.Request{}, err
	}
	// A server makes another user for each connection.
	if first, _ := s.replays.first(asked.User, asked.ID, now); !first {
		return callout.Request{}, errors.New("this request was seen before, or too many are remembered")
	}
	return asked, nil
}

// let decides. What a client brought becomes what a program would have asked with.
func (s *Service) let(ctx context.Context, t *terms, asked callout.Request, asks *about) (authn.Who, issued, error) {
	now := s.Now()
	if werr := s.take(s.callers, limit.Host(asked.Host), "from where you are"); werr != nil {
		return authn.Who{}, issued{}, werr
	}
	e, secret, err := evidence(asked)
	if err != nil {
		return authn.Who{}, issued{}, err
	}
	e.Now, asks.way = now, e.Request.Identity.Type
	measuring(ctx).by(asks.way)
	guess := limit.Host(asked.Host) + " " + e.Request.Identity.KeyID.String()
	if !secret.IsZero() && s.wrong.Full(guess, now) {
		return authn.Who{}, issued{}, wire.Errorf(wire.RateLimited, "ask again later", "too many wrong secrets of %s", e.Request.Identity.KeyID)
	}
	claim := func(g policy.Grant) (wire.Claim, error) { return s.calloutClaim(e, secret, g) }
	who, i, err := s.grant(ctx, t, e, policy.Wish{Callout: true}, claim)
	if err != nil && who.Identity.IsZero() && !secret.IsZero() {
		s.wrong.Take(guess, now)
	}
	return who, i, err
}

// evidence reads what a client brought: an access key's id and secret as user and password, or
// a token of a provider as token or as password. The public half of the secret is derived
// before anything is looked up, so that it takes as long whether there is such a key or not.
func evidence(asked callout.Request) (authn.Evidence, accesskey.Secret, error) {
	l := asked.Login
	e := authn.Evidence{Request: wire.Request{UserKey: asked.User}, Host: authn.Host(asked.Host)}
	var none accesskey.Secret
	token := l.Token()
	switch id, err := ident.ParseKeyID(l.User()); {
	case token != "" && l.Password() != "":
		return e, none, errLogin
	case token == "" && err == nil:
		secret, err := accesskey.Parse(l.Password())
		if err != nil {
			return e, none, errLogin
		}
		e.Request.Identity = wire.Proof{Type: wire.ProofKey, KeyID: id}
		e.Password = secret.Public()
		return e, secret, nil
	case token == "":
		token = l.Password()
	}
	if !strings.HasPrefix(token, "eyJ") {
		return e, none, errLogin
	}
	e.Request.Identity = wire.Proof{Type: wire.ProofOIDC, Token: token}
	return e, none, nil
}

// calloutClaim is what home is asked with for a name that is not known to be who asks'. Home
// believes no issuer's word: it is shown the proof itself, in a request such as the client
// would have sent, by a user of the moment. Where home has nothing to decide, it is empty.
func (s *Service) calloutClaim(e authn.Evidence, secret accesskey.Secret, g policy.Grant) (wire.Claim, error) {
	if held, gone, ok := s.Ledger.Name(g.Name); ok && !gone && held.Holder == g.Identity && (held.Until == 0 || ledger.Lapses(g.Identity)) {
		return wire.Claim{}, nil
	}
	user, err := keystore.Generate(keystore.User)
	if err != nil {
		return wire.Claim{}, err
	}
	req := wire.Request{Time: e.Now, Identity: e.Request.Identity}
	if req.UserKey, err = ident.ParseUserKey(user.Public()); err != nil {
		return wire.Claim{}, err
	}
	if req.Nonce, err = wire.NewNonce(rand.Reader); err != nil {
		return wire.Claim{}, err
	}
	c := wire.Claim{Callout: true}
	if e.Host.IsValid() {
		c.Host = e.Host.String()
	}
	if c.Body, err = req.Encode(); err != nil {
		return wire.Claim{}, err
	}
	if c.Proof, err = wire.Prove(user, c.Body); err != nil {
		return wire.Claim{}, err
	}
	if secret.IsZero() {
		return c, nil
	}
	key, err := secret.Key()
	if err != nil {
		return wire.Claim{}, err
	}
	c.Identity, err = wire.Prove(key, c.Body)
	return c, err
}

// tell answers a server: with a user JWT, or with a refusal.
func (s *Service) tell(t *terms, asked callout.Request, token string) endpoint.Response {
	body, err := s.Callout.Answer(asked, token, t.door.account, t.door.key, s.Now())
	if err != nil {
		s.Log.Error("a server cannot be answered", "server", asked.Server, "error", err)
		return endpoint.Response{}
	}
	return endpoint.Response{Body: body}
}
