package provision

import (
	"context"
	"crypto/rand"
	"fmt"
	"strings"

	"github.com/nats-io/jwt/v2"

	"github.com/herald-nats/herald/internal/endpoint"
	"github.com/herald-nats/herald/pkg/audit"
	"github.com/herald-nats/herald/pkg/authn"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/keystore"
	"github.com/herald-nats/herald/pkg/subject"
	"github.com/herald-nats/herald/pkg/wire"
)

// TutorialEndpoints are what programs of the 2020 NATS tutorial ask. They are to be served
// only while Held says so.
//
// It breaks a promise that everything else keeps, that a seed never leaves its holder: the
// issuer makes the key and sends its seed to an inbox that all guests share. Who opens the
// door says in platform.yaml that they know.
func (s *Service) TutorialEndpoints() []endpoint.Endpoint {
	admit, busy := s.admit("tutorial", s.hosts, "host"), s.busy("tutorial")
	return []endpoint.Endpoint{{
		Name: "tutorial", Subject: subject.TutorialAccess, Handler: s.measured(DoorTutorial, s.Tutorial), Meter: &s.meters.queues[DoorTutorial],
		Admit: func(r endpoint.Request) (endpoint.Response, bool) {
			refusal, ok := admit(r)
			return asTutorial(refusal), ok
		},
		Busy: func(r endpoint.Request, refusal *wire.Error) endpoint.Response { return asTutorial(busy(r, refusal)) },
	}}
}

// Tutorial answers chat.req.access: a name comes in, and a creds file goes out, or -ERR and
// a sentence. It is Issue for a key that is made here, in all else.
func (s *Service) Tutorial(ctx context.Context, r endpoint.Request) endpoint.Response {
	began, t := s.Now(), s.terms.Load()
	e, key, err := s.tutorialRequest(t, &r)
	req := e.Request
	m := measuring(ctx)
	m.did(stepRead)
	asks := asks("tutorial", e)
	if err != nil {
		return asTutorial(s.refuse(r, asks, reply{}, err))
	}
	var i issued
	var body []byte
	if asks.who, i, err = s.issue(ctx, t, r, e); err == nil {
		body, err = tutorialCreds(i.JWT, key)
	}
	if err == nil {
		err = s.record(ctx, r, audit.Issue, asks, t, i)
	}
	if err != nil {
		return asTutorial(s.refuse(r, asks, reply{}, err))
	}
	s.Log.Info("issued", "request", r.ID, "door", "tutorial", "user", req.UserKey.String(), "identity", i.grant.Identity.String(),
		"name", i.grant.Name.String(), "account", i.grant.Account.String(), "role", i.grant.Role.String(),
		"expires", i.Expires.Unix(), "took", s.Now().Sub(began))
	return endpoint.Response{Body: body}
}

// tutorialRequest makes the request that a client of ours would have sent, signed by a key
// that is made here. Home verifies it as any other.
func (s *Service) tutorialRequest(t *terms, r *endpoint.Request) (authn.Evidence, *keystore.Key, error) {
	var none authn.Evidence
	_, info, err := s.caller(t, *r, s.Guests...)
	if err != nil {
		return none, nil, err
	}
	if !t.held.Tutorial {
		return none, nil, wire.Errorf(wire.NoGrant, "ask auth.v1.issue", "this platform has no door for programs of the tutorial")
	}
	const most = 64 // bytes; a name has 32 at most
	if len(r.Body) > most {
		return none, nil, wire.Errorf(wire.TooLarge, "send a name and nothing else", "the request has %d bytes", len(r.Body))
	}
	name, err := ident.ParseName(strings.TrimSpace(string(r.Body)))
	if err != nil {
		return none, nil, wire.Errorf(wire.BadName, "send 1 to 32 of a-z and 0-9, with single . _ - between them", "that is no name")
	}
	key, err := keystore.Generate(keystore.User)
	if err != nil {
		return none, nil, fmt.Errorf("making a user key: %w", err)
	}
	user, err := ident.ParseUserKey(key.Public())
	if err != nil {
		return none, nil, err
	}
	nonce, err := wire.NewNonce(rand.Reader)
	if err != nil {
		return none, nil, fmt.Errorf("making a nonce: %w", err)
	}
	req := wire.Request{
		UserKey: user, Time: s.Now(), Nonce: nonce, Name: name, Account: t.document.Public.Chat.Account, Identity: wire.Proof{Type: wire.ProofOpen},
	}
	body, err := req.Encode()
	if err != nil {
		return none, nil, fmt.Errorf("making a request: %w", err)
	}
	proof, err := wire.Prove(key, body)
	if err != nil {
		return none, nil, fmt.Errorf("signing a request: %w", err)
	}
	// What the asker may have sent beside the name is no part of this request.
	r.Header = map[string][]string{wire.HeaderInfo: r.Header[wire.HeaderInfo], wire.HeaderProof: {proof}}
	return authn.Evidence{Request: req, Body: body, Host: authn.Host(info.Host)}, key, nil
}

// tutorialCreds is the creds file of a user JWT and its key.
func tutorialCreds(token string, key *keystore.Key) ([]byte, error) {
	seed, err := key.Seed()
	if err != nil {
		return nil, fmt.Errorf("reading the user key: %w", err)
	}
	defer clear(seed)
	creds, err := jwt.FormatUserConfig(token, seed)
	if err != nil {
		return nil, fmt.Errorf("writing a creds file: %w", err)
	}
	return creds, nil
}

// asTutorial says a refusal as those programs read it.
func asTutorial(r endpoint.Response) endpoint.Response {
	if r.Err != nil {
		r.Body = []byte("-ERR '" + strings.ReplaceAll(r.Err.Message, "'", "’") + "'")
	}
	return r
}
