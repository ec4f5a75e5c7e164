package provision

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/herald-nats/herald/internal/wait"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/ledger"
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
)

// Names implements Namer: from the projection, else by a claim in home, over the
// import from LEDGER. What it is told it believes only with a registrar's signature.
type Names struct {
	// home asks home's registrars once, for as long as ctx lasts.
	home       func(ctx context.Context, data []byte) (*nats.Msg, error)
	projection *ledger.Projection
	opener     ledger.Opener
}

var _ Namer = (*Names)(nil)

// NewNames asks over a connection in AUTH with the rights of an issuer.
func NewNames(nc *nats.Conn, p *ledger.Projection, o ledger.Opener) *Names {
	home := func(ctx context.Context, data []byte) (*nats.Msg, error) {
		return nc.RequestWithContext(ctx, subject.HomeClaim, data)
	}
	return &Names{home: home, projection: p, opener: o}
}

// Claim implements Namer.
func (n *Names) Claim(ctx context.Context, name ident.Name, id ident.Identity, claim wire.Claim) error {
	if held, gone, ok := n.projection.Name(name); ok {
		switch err := n.heldBy(held, gone, id); {
		case err == nil, !errors.Is(err, ledger.ErrNotFound):
			return told(name, err)
		}
	}
	return n.ask(ctx, name, id, claim)
}

func (n *Names) heldBy(held ledger.Name, gone bool, id ident.Identity) error {
	rules := ledger.DefaultNameRules()
	if d, _ := n.projection.Document(); d != nil {
		rules = d.Names
	}
	return rules.HeldBy(held, gone, id, n.opener.Now())
}

// told is what a client hears of a name that is not its own.
func told(name ident.Name, err error) error {
	switch {
	case errors.Is(err, ledger.ErrTaken):
		return wire.Errorf(wire.NameTaken, "choose another name", "the name %s belongs to somebody else", name)
	case errors.Is(err, ledger.ErrResting):
		return wire.Errorf(wire.NameTaken, "choose another name, or wait until it is free", "the name %s was somebody else's until lately", name)
	}
	return err
}

// ask claims the name in home, passing on the client's own signed request.
func (n *Names) ask(ctx context.Context, name ident.Name, id ident.Identity, claim wire.Claim) error {
	ctx, cancel := context.WithTimeout(ctx, homeWait)
	defer cancel()
	data, err := json.Marshal(claim)
	if err != nil {
		return fmt.Errorf("encoding a claim: %w", err)
	}
	for try := 0; try < claimTries; {
		var msg *nats.Msg
		if msg, err = n.request(ctx, data); err == nil {
			return n.claimed(name, id, msg)
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
	e := wire.Errorf(wire.ReadOnly, "ask again in a moment; names that were given before go on working",
		"new names cannot be given now: the home region does not answer")
	e.RetryAfterMS = 2000
	return e
}

func (n *Names) request(ctx context.Context, data []byte) (*nats.Msg, error) {
	ctx, cancel := context.WithTimeout(ctx, claimWait)
	defer cancel()
	msg, err := n.home(ctx, data)
	if err != nil {
		return nil, fmt.Errorf("claiming in home: %w", err)
	}
	return msg, nil
}

func (n *Names) claimed(name ident.Name, id ident.Identity, msg *nats.Msg) error {
	if msg.Header.Get(wire.HeaderErrorCode) != "" {
		e, err := wire.DecodeError(msg.Data)
		if err != nil {
			return fmt.Errorf("home's refusal of %s: %w", name, err)
		}
		return e
	}
	var answer wire.Claimed
	if len(msg.Data) > wire.MaxAnswer {
		return errors.New("home's answer is too large")
	}
	if err := json.Unmarshal(msg.Data, &answer); err != nil {
		return fmt.Errorf("home's answer about %s: %w", name, err)
	}
	e, err := n.opener.Open(ledger.NameKey(name).String(), answer.Entry)
	if err != nil {
		return fmt.Errorf("home's answer about %s: %w", name, err)
	}
	// So that the next request finds it here, whatever news there was of it. Where a
	// newer one is known, that one holds.
	n.projection.Apply(e)
	held, gone, _ := n.projection.Name(name)
	if err := n.heldBy(held, gone, id); errors.Is(err, ledger.ErrNotFound) {
		return fmt.Errorf("home's answer about %s gives it to nobody: %w", name, ledger.ErrDamaged)
	} else if err != nil {
		return told(name, err)
	}
	return nil
}
