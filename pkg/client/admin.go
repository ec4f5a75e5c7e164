package client

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/herald-nats/herald/pkg/subject"
	"github.com/herald-nats/herald/pkg/trust"
	"github.com/herald-nats/herald/pkg/wire"
)

// Administered is what a registrar did for an administrator.
type Administered struct {
	wire.AdminAnswer
	// Word is the registrar's receipt, verified; zero where there is none.
	Word trust.Receipt
}

// adminWait is how long an answer may take beyond what the request lets it wait for servers:
// what it takes to find out that some are away.
const adminWait = 12 * time.Second

// Administer asks a registrar for one of the verbs of docs/protocol.md, on a connection in
// ADMIN. What is asked may be asked again: who is denied already stays so. Refusals are
// *wire.Error; ErrUnreachable if nobody answered.
func Administer(ctx context.Context, op *trust.Operator, nc *nats.Conn, verb string, r wire.AdminRequest) (Administered, error) {
	body, err := r.Encode()
	if err != nil {
		return Administered{}, err
	}
	m, err := askAdmin(ctx, nc, verb, body, time.Duration(r.Wait)*time.Second+adminWait)
	if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil && len(r.Seen) == 0 {
		// An answer is lost when servers take another JWT of an account that it goes through. To
		// ask again changes nothing; but what was resumed cannot be resumed by what was seen.
		m, err = askAdmin(ctx, nc, verb, body, time.Duration(r.Wait)*time.Second+adminWait)
	}
	if errors.Is(err, nats.ErrNoResponders) || errors.Is(err, context.DeadlineExceeded) {
		return Administered{}, fmt.Errorf("%w: no registrar answers", ErrUnreachable)
	}
	if err != nil {
		return Administered{}, fmt.Errorf("asking a registrar: %w", err)
	}
	if err := refusal(m, m.Data); err != nil {
		return Administered{}, err
	}
	a, err := wire.DecodeAdminAnswer(m.Data)
	if err != nil {
		return Administered{}, err
	}
	out := Administered{AdminAnswer: a}
	if verb == wire.VerbShow || verb == wire.VerbRotations { // nothing was asked to be done
		return out, nil
	}
	if out.Word, err = op.OpenReceipt(a.Receipt); err != nil {
		return Administered{}, err
	}
	// Whoever only has a registrar's service credential can show an old receipt.
	keys := make([]string, len(a.Standing))
	for i, d := range a.Standing {
		keys[i] = d.Key
	}
	if age := time.Since(out.Word.At); out.Word.ID != a.RequestID || out.Word.Verb != verb || !slices.Equal(out.Word.Of, keys) || age > maxReceiptAge || age < -maxReceiptAge {
		return Administered{}, fmt.Errorf("a receipt for another request: %w", trust.ErrUntrusted)
	}
	return out, nil
}

// maxReceiptAge is how old a receipt may be, by clocks that may differ.
const maxReceiptAge = 5 * time.Minute

func askAdmin(ctx context.Context, nc *nats.Conn, verb string, body []byte, patience time.Duration) (*nats.Msg, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return nc.RequestWithContext(ctx, subject.Admin(verb), body)
}
