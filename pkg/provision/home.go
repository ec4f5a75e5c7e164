package provision

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/herald-nats/herald/internal/endpoint"
	"github.com/herald-nats/herald/internal/wait"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/ledger"
	"github.com/herald-nats/herald/pkg/policy"
	"github.com/herald-nats/herald/pkg/subject"
	"github.com/herald-nats/herald/pkg/wire"
)

const (
	// claimWait bounds one try of the claim in home, and claimTries how often:
	// a registrar that dies with the request in its hands costs one try.
	claimWait  = 1200 * time.Millisecond
	claimTries = 2
	noneWait   = 50 * time.Millisecond
	// homeWait bounds all of it: the caller must hear of it before it gives up.
	homeWait = 2500 * time.Millisecond
	// keepWait bounds what is asked of home and can wait.
	keepWait = 300 * time.Millisecond
)

// Home implements Decider: from the projection, else by asking home, over the
// import from LEDGER. What it is told it believes only with a registrar's signature.
type Home struct {
	// home asks home's registrars once, for as long as ctx lasts.
	home       func(ctx context.Context, subj string, data []byte) (*nats.Msg, error)
	projection *ledger.Projection
	opener     ledger.Opener
	asking     chan struct{} // who waits for home
}

// maxAsking bounds how many wait for home at once: where it does not answer, the others are
// told at once, and go on with what needs no home. Half of what an endpoint takes has room
// beside them, also where providers' keys are waited for.
const maxAsking = 64

var _ Decider = (*Home)(nil)

// NewHome asks over a connection in AUTH with the rights of an issuer.
func NewHome(nc *nats.Conn, p *ledger.Projection, o ledger.Opener) *Home {
	home := func(ctx context.Context, subj string, data []byte) (*nats.Msg, error) {
		return nc.RequestWithContext(ctx, subj, data)
	}
	return &Home{home: home, projection: p, opener: o, asking: make(chan struct{}, maxAsking)}
}

// Claim implements Decider.
func (n *Home) Claim(ctx context.Context, g policy.Grant, claim wire.Claim) error {
	if held, gone, ok := n.projection.Name(g.Name); ok {
		switch err := n.heldBy(held, gone, g.Identity); {
		case err == nil && held.Until != 0 && !g.Chosen && !ledger.Lapses(g.Identity):
			// It was chosen, and is given now: home keeps it from lapsing. If home cannot now, it
			// can the next time.
			ctx, cancel := context.WithTimeout(ctx, keepWait)
			defer cancel()
			if msg, err := n.ask(ctx, subject.HomeClaim, claim, "", ""); err == nil {
				return n.claimed(g, msg)
			}
			return nil
		case err == nil, !errors.Is(err, ledger.ErrNotFound):
			return ledger.Told(g.Name, g.Chosen, err)
		}
	}
	msg, err := n.ask(ctx, subject.HomeClaim, claim, "new names cannot be given now: the home region does not answer", "names that were given before go on working")
	if err != nil {
		return err
	}
	return n.claimed(g, msg)
}

// Redeem implements Decider.
func (n *Home) Redeem(ctx context.Context, invite ident.InviteID, user ident.UserKey, claim wire.Claim) (ledger.Invite, error) {
	if i, ok := n.redeemed(invite, user); ok {
		return i, nil
	}
	msg, err := n.ask(ctx, subject.HomeRedeem, claim, "invitations cannot be used now: the home region does not answer", "those that were used before go on working")
	if err != nil {
		return ledger.Invite{}, err
	}
	e, err := n.answer(ledger.InviteKey(invite), msg)
	if err != nil {
		return ledger.Invite{}, err
	}
	n.projection.Apply(e)
	i, ok := n.redeemed(invite, user)
	if !ok {
		return i, fmt.Errorf("home's answer about an invitation does not let %s in: %w", user, ledger.ErrDamaged)
	}
	return i, nil
}

// redeemed is an invitation that a user has used, as far as it is known here.
func (n *Home) redeemed(invite ident.InviteID, user ident.UserKey) (ledger.Invite, bool) {
	e, _ := n.projection.Get(ledger.InviteKey(invite))
	i, ok := e.Body.(ledger.Invite)
	return i, ok && i.RedeemedBy(user) // also if it was revoked since: who was let in stays in
}

func (n *Home) heldBy(held ledger.Name, gone bool, id ident.Identity) error {
	rules := ledger.DefaultNameRules()
	if d, _ := n.projection.Document(); d != nil {
		rules = d.Names
	}
	return rules.HeldBy(held, gone, id, n.opener.Now())
}

// ask has home decide, passing on the client's own signed request. away and still are what
// is said if home does not answer.
func (n *Home) ask(ctx context.Context, subj string, claim wire.Claim, away, still string) (*nats.Msg, error) {
	select {
	case n.asking <- struct{}{}:
		defer func() { <-n.asking }()
	default:
		return nil, unavailable("too many wait for the home region")
	}
	defer endpoint.Waiting(ctx)()
	ctx, cancel := context.WithTimeout(ctx, homeWait)
	defer cancel()
	data, err := json.Marshal(claim)
	if err != nil {
		return nil, fmt.Errorf("encoding a claim: %w", err)
	}
	for try := 0; try < claimTries; {
		var msg *nats.Msg
		if msg, err = n.request(ctx, subj, data); err == nil {
			return msg, nil
		}
		if !errors.Is(err, nats.ErrNoResponders) {
			try++
		}
		// Nobody subscribed is an answer that comes at once: a registrar that
		// just came may not be known here yet. The context bounds how often.
		if wait.For(ctx, noneWait) != nil {
			break
		}
	}
	e := wire.Errorf(wire.ReadOnly, "ask again in a moment; "+still, "%s", away)
	e.RetryAfterMS = 2000
	return nil, e
}

func (n *Home) request(ctx context.Context, subj string, data []byte) (*nats.Msg, error) {
	ctx, cancel := context.WithTimeout(ctx, claimWait)
	defer cancel()
	msg, err := n.home(ctx, subj, data)
	if err != nil {
		return nil, fmt.Errorf("asking home: %w", err)
	}
	return msg, nil
}

// answer is the entry that home decided, once it is believed.
func (n *Home) answer(key ledger.Key, msg *nats.Msg) (ledger.Entry, error) {
	if msg.Header.Get(wire.HeaderErrorCode) != "" {
		e, err := wire.DecodeError(msg.Data)
		if err != nil {
			return ledger.Entry{}, fmt.Errorf("home's refusal about %s: %w", key, err)
		}
		return ledger.Entry{}, e
	}
	var answer wire.Claimed
	if len(msg.Data) > wire.MaxAnswer {
		return ledger.Entry{}, errors.New("home's answer is too large")
	}
	if err := json.Unmarshal(msg.Data, &answer); err != nil {
		return ledger.Entry{}, fmt.Errorf("home's answer about %s: %w", key, err)
	}
	e, err := n.opener.Open(key.String(), answer.Entry)
	if err != nil {
		return ledger.Entry{}, fmt.Errorf("home's answer about %s: %w", key, err)
	}
	return e, nil
}

func (n *Home) claimed(g policy.Grant, msg *nats.Msg) error {
	e, err := n.answer(ledger.NameKey(g.Name), msg)
	if err != nil {
		return err
	}
	// So that the next request finds it here, whatever news there was of it. Where a
	// newer one is known, that one holds.
	n.projection.Apply(e)
	held, gone, _ := n.projection.Name(g.Name)
	if err := n.heldBy(held, gone, g.Identity); errors.Is(err, ledger.ErrNotFound) {
		return fmt.Errorf("home's answer about %s gives it to nobody: %w", g.Name, ledger.ErrDamaged)
	} else if err != nil {
		return ledger.Told(g.Name, g.Chosen, err)
	}
	return nil
}
