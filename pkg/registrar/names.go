package registrar

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"time"

	"github.com/herald-nats/herald/internal/endpoint"
	"github.com/herald-nats/herald/pkg/authn"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/ledger"

	"github.com/herald-nats/herald/pkg/subject"
	"github.com/herald-nats/herald/pkg/trust"
	"github.com/herald-nats/herald/pkg/wire"
)

// Names decides whose a name is: what home's registrar answers on
// auth.v1.home.claim. It trusts no issuer's word: the client's own signed
// request is in the claim and is verified again.
type Names struct {
	Store    ledger.NameStore
	Operator *trust.Operator
	Platform *trust.Platform
	Sign     ledger.Sign
	Issuers  ident.Label // the account that may ask
	Log      *slog.Logger
	Now      func() time.Time
}

// Queue is the queue group of home's registrars.
const Queue = "registrar"

// Endpoints are what issuers ask of home.
func (n *Names) Endpoints() []endpoint.Endpoint {
	return []endpoint.Endpoint{{Name: "claim", Subject: subject.HomeClaim, Handler: n.Claim}}
}

// Claim answers auth.v1.home.claim.
func (n *Names) Claim(ctx context.Context, r endpoint.Request) endpoint.Response {
	entry, name, err := n.claim(ctx, r)
	if err != nil {
		var werr *wire.Error
		if !errors.As(err, &werr) {
			werr = wire.Errorf(wire.ReadOnly, "ask again in a moment", "new names cannot be given now")
			werr.RetryAfterMS = 2000
		}
		told := *werr
		told.RequestID = r.ID
		n.Log.Info("claim refused", "request", r.ID, "name", name.String(), "code", string(told.Code), "error", err)
		body, err := json.Marshal(&told)
		if err != nil {
			body = nil // the headers say what matters
		}
		return endpoint.Response{Body: body, Err: &told}
	}
	n.Log.Info("name decided", "request", r.ID, "name", name.String())
	body, err := json.Marshal(wire.Claimed{Entry: entry})
	if err != nil {
		return endpoint.Response{Err: wire.Errorf(wire.Unavailable, "ask again", "the answer cannot be encoded")}
	}
	return endpoint.Response{Body: body}
}

func (n *Names) claim(ctx context.Context, r endpoint.Request) (string, ident.Name, error) {
	info, err := wire.DecodeRequestInfo(r.Header[wire.HeaderInfo])
	if err == nil {
		_, err = n.Platform.Caller(info, r.Reply, n.Now(), n.Issuers)
	}
	if err != nil {
		n.Log.Warn("a caller that is not believed", "request", r.ID, "error", err)
		return "", ident.Name{}, wire.Errorf(wire.BadIdentity, "issuers alone may ask this", "who asks is not shown")
	}
	claim, werr := wire.DecodeClaim(r.Body)
	if werr != nil {
		return "", ident.Name{}, werr
	}
	req, werr := wire.DecodeRequest(claim.Body)
	if werr != nil {
		return "", ident.Name{}, werr
	}
	if werr := wire.CheckProof(req.UserKey, []string{claim.Proof}, claim.Body); werr != nil {
		return "", req.Name, werr
	}
	if werr := req.CheckTime(n.Now()); werr != nil {
		return "", req.Name, werr
	}
	id, werr := authn.Identify(req)
	if werr != nil {
		return "", req.Name, werr
	}
	if req.Name.IsZero() {
		return "", req.Name, wire.Errorf(wire.BadName, "claim a name", "the request has no name")
	}
	entry, err := ledger.ClaimName(ctx, n.Store, n.Operator, n.Sign, req.Name, id, req.Nonce, n.Now())
	if errors.Is(err, ledger.ErrTaken) {
		err = wire.Errorf(wire.NameTaken, "choose another name", "the name %s belongs to somebody else", req.Name)
	}
	return entry, req.Name, err
}
