package jetstream

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/herald-nats/herald/internal/wait"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/ledger"
	"github.com/herald-nats/herald/pkg/subject"
)

// writeWait bounds one write: an R3 stream without its leader does not answer,
// and a claim must not hang until its caller's patience ends.
const writeWait = 3 * time.Second

// Decisions implements ledger.DecisionStore for who decides in home.
type Decisions struct {
	nc *nats.Conn
	js jetstream.JetStream
}

var _ ledger.DecisionStore = (*Decisions)(nil)

// NewDecisions uses a connection in LEDGER with the rights of the role home.
func NewDecisions(nc *nats.Conn) (*Decisions, error) {
	js, err := jetstream.New(nc)
	if err != nil {
		return nil, fmt.Errorf("opening the ledger: %w", err)
	}
	return &Decisions{nc: nc, js: js}, nil
}

// Get implements ledger.DecisionStore. The leader answers, hence with its own last
// write. It is not asked by direct get: a right to that, beside the stream, is a
// right to delete the stream (its 404 has no body, and goes where the reply says).
func (d *Decisions) Get(ctx context.Context, key ledger.Key) (string, uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, writeWait)
	defer cancel()
	ask, err := json.Marshal(map[string]string{"last_by_subj": subject.Decision(key.String())})
	if err != nil {
		return "", 0, fmt.Errorf("asking for %s: %w", key, err)
	}
	msg, err := d.nc.RequestWithContext(ctx, subject.DecisionsRead, ask)
	if err != nil {
		return "", 0, unavailable(err)
	}
	var answer struct {
		Error   *jetstream.APIError `json:"error"`
		Message struct {
			Seq  uint64 `json:"seq"`
			Data []byte `json:"data"`
		} `json:"message"`
	}
	switch err := json.Unmarshal(msg.Data, &answer); {
	case err != nil:
		return "", 0, fmt.Errorf("%w: an answer that cannot be read: %w", ledger.ErrUnavailable, err)
	case answer.Error != nil && answer.Error.ErrorCode == jetstream.JSErrCodeMessageNotFound:
		return "", 0, ledger.ErrNotFound
	case answer.Error != nil:
		return "", 0, unavailable(answer.Error)
	case answer.Message.Seq == 0:
		return "", 0, fmt.Errorf("%w: an answer that is no entry", ledger.ErrUnavailable)
	}
	return string(answer.Message.Data), answer.Message.Seq, nil
}

// Put implements ledger.DecisionStore.
func (d *Decisions) Put(ctx context.Context, key ledger.Key, token string, revision uint64) error {
	ctx, cancel := context.WithTimeout(ctx, writeWait)
	defer cancel()
	_, err := d.js.Publish(ctx, subject.Decision(key.String()), []byte(token), jetstream.WithExpectLastSequencePerSubject(revision))
	switch {
	case err == nil:
		return nil
	case lostCompareAndSet(err):
		return ledger.ErrConflict
	default:
		return unavailable(err)
	}
}

// lostCompareAndSet knows both codes that it has at replicas 3: refused by the
// leader's state (10071) or by a write that is still on its way (10164).
// nats.go maps them onto one error in its KV API, but not for a plain publish.
func lostCompareAndSet(err error) bool {
	const whileInFlight jetstream.ErrorCode = 10164
	var api *jetstream.APIError
	return errors.Is(err, jetstream.ErrKeyRevisionMismatch) ||
		errors.As(err, &api) && (api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence || api.ErrorCode == whileInFlight)
}

func unavailable(err error) error { return fmt.Errorf("%w: %w", ledger.ErrUnavailable, err) }

// Denials implements ledger.DenialStore for the registrars of a region.
type Denials struct {
	write  *nats.Conn
	prefix string
	copies *Source
}

var _ ledger.DenialStore = (*Denials)(nil)

// NewDenials writes over a connection in LEDGER with the rights of the region's
// registrar, and looks whether it was written over one in READERS.
func NewDenials(write, read *nats.Conn, r ident.Region) *Denials {
	return &Denials{write: write, prefix: subject.DenialsPrefix(r), copies: DenialsSource(read, r)}
}

const (
	// lookFirst and lookLast are how long to wait between two looks whether an entry
	// is stored: a write takes about a millisecond within a region.
	lookFirst = time.Millisecond
	lookLast  = 100 * time.Millisecond
	// writeAgain is when an entry that is not there is written again.
	writeAgain = 500 * time.Millisecond
)

// Append implements ledger.DenialStore. The stream acknowledges nothing (see Setup),
// so the entry is written and then looked for: a replica has it once a quorum has.
func (d *Denials) Append(ctx context.Context, key ledger.Key, token string) error {
	ctx, cancel := context.WithTimeout(ctx, writeWait)
	defer cancel()
	m := nats.NewMsg(d.prefix + key.String())
	m.Data = []byte(token)
	var written time.Time
	for pause := lookFirst; ; pause = min(2*pause, lookLast) {
		has, err := d.copies.has(ctx, m.Subject, token)
		if has {
			return nil
		}
		if time.Since(written) > writeAgain {
			if err := d.write.PublishMsg(m); err != nil {
				return unavailable(err)
			}
			if err := d.write.FlushWithContext(ctx); err != nil {
				return unavailable(err)
			}
			written = time.Now()
		}
		if wait.For(ctx, pause) != nil {
			if err == nil {
				err = errors.New("it was written and is not there")
			}
			return unavailable(err)
		}
	}
}

// Records implements ledger.RecordStore for an issuer.
type Records struct {
	nc      *nats.Conn
	subject string
}

var _ ledger.RecordStore = (*Records)(nil)

// NewRecords uses a connection in AUTH with the rights of the issuer self.
func NewRecords(nc *nats.Conn, r ident.Region, self ident.UserKey) *Records {
	return &Records{nc: nc, subject: subject.AuditPrefix(r) + self.String()}
}

// Append implements ledger.RecordStore.
func (r *Records) Append(ctx context.Context, rec ledger.Record) error {
	data, err := rec.Encode()
	if err != nil {
		return err
	}
	m := nats.NewMsg(r.subject)
	m.Data = data
	m.Header.Set(nats.MsgIdHdr, rec.ID)
	msg, err := r.nc.RequestMsgWithContext(ctx, m)
	if err != nil {
		return unavailable(err)
	}
	var ack struct {
		Error  *jetstream.APIError `json:"error"`
		Stream string              `json:"stream"`
		Seq    uint64              `json:"seq"`
	}
	if err := json.Unmarshal(msg.Data, &ack); err != nil {
		return fmt.Errorf("%w: an acknowledgement that cannot be read: %w", ledger.ErrUnavailable, err)
	}
	if ack.Error != nil {
		return unavailable(ack.Error)
	}
	if ack.Stream == "" || ack.Seq == 0 {
		return fmt.Errorf("%w: an acknowledgement of nothing", ledger.ErrUnavailable)
	}
	return nil
}
