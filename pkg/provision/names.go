package provision

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/herald-nats/herald/internal/wait"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/ledger/jetstream"
	"github.com/herald-nats/herald/pkg/subject"
	"github.com/herald-nats/herald/pkg/trust"
	"github.com/herald-nats/herald/pkg/wire"
)

const (
	// lookWait bounds the direct get: it is answered in a millisecond nearby
	// and after one round trip from another region, or not at all.
	lookWait = 600 * time.Millisecond
	// claimWait bounds one try of the claim in home, and claimTries how often:
	// a registrar that dies with the request in its hands costs one try.
	claimWait  = 1200 * time.Millisecond
	claimTries = 2
	noneWait   = 50 * time.Millisecond
	// homeWait bounds all of it: the caller must hear of it before it gives up.
	homeWait = 2500 * time.Millisecond
	// maxNames bounds the names that an issuer remembers, at some 200 bytes each.
	maxNames = 200_000
)

// Names implements Namer over the imports from LEDGER: from memory, else by
// direct get, else by a claim in home. What it is told it believes only with a
// registrar's signature.
type Names struct {
	nc *nats.Conn
	op *trust.Operator

	mu    sync.Mutex
	known map[ident.Name]ident.Identity // decided and verified; never more than maxNames
}

var _ Namer = (*Names)(nil)

// NewNames asks over a connection in AUTH with the rights of an issuer.
func NewNames(nc *nats.Conn, op *trust.Operator) *Names {
	return &Names{nc: nc, op: op, known: make(map[ident.Name]ident.Identity)}
}

// Claim implements Namer.
func (n *Names) Claim(ctx context.Context, name ident.Name, id ident.Identity, claim wire.Claim) error {
	n.mu.Lock()
	held, ok := n.known[name]
	n.mu.Unlock()
	if ok {
		return decided(name, held, id)
	}
	if held, ok = n.look(ctx, name); ok {
		return decided(name, held, id)
	}
	return n.ask(ctx, name, id, claim)
}

func decided(name ident.Name, held, id ident.Identity) error {
	if held != id {
		return nameTaken(name)
	}
	return nil
}

func nameTaken(name ident.Name) *wire.Error {
	return wire.Errorf(wire.NameTaken, "choose another name", "the name %s belongs to somebody else", name)
}

// look reads the name's entry. That it finds none, or nothing that is signed,
// decides nothing: home does.
func (n *Names) look(ctx context.Context, name ident.Name) (ident.Identity, bool) {
	ctx, cancel := context.WithTimeout(ctx, lookWait)
	defer cancel()
	found, err := jetstream.Get(ctx, n.nc, name)
	if err != nil {
		return ident.Identity{}, false
	}
	return n.believe(name, found.Entry)
}

func (n *Names) believe(name ident.Name, token string) (ident.Identity, bool) {
	e, err := n.op.OpenName(name, token)
	if err != nil {
		return ident.Identity{}, false
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.known) >= maxNames {
		for old := range n.known { // any: it is found again by direct get
			delete(n.known, old)
			break
		}
	}
	n.known[name] = e.Identity
	return e.Identity, true
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
	msg, err := n.nc.RequestWithContext(ctx, subject.HomeClaim, data)
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
	held, ok := n.believe(name, answer.Entry)
	if !ok {
		return fmt.Errorf("home's answer about %s is signed by no registrar: %w", name, trust.ErrUntrusted)
	}
	return decided(name, held, id)
}
