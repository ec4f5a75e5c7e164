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
	m, err := d.message(ctx, request{LastFor: subject.Decision(key.String())})
	if errors.Is(err, errNone) {
		return "", 0, ledger.ErrNotFound
	}
	return m.data, m.seq, err
}

// message asks the leader for one message.
func (d *Decisions) message(ctx context.Context, r request) (message, error) {
	ask, err := json.Marshal(r)
	if err != nil {
		return message{}, fmt.Errorf("asking the ledger: %w", err)
	}
	msg, err := d.nc.RequestWithContext(ctx, subject.DecisionsRead, ask)
	if err != nil {
		return message{}, unavailable(err)
	}
	var answer struct {
		Error   *jetstream.APIError `json:"error"`
		Message struct {
			Subject string    `json:"subject"`
			Seq     uint64    `json:"seq"`
			Data    []byte    `json:"data"`
			Time    time.Time `json:"time"`
		} `json:"message"`
	}
	switch err := json.Unmarshal(msg.Data, &answer); {
	case err != nil:
		return message{}, fmt.Errorf("%w: an answer that cannot be read: %w", ledger.ErrUnavailable, err)
	case answer.Error != nil && answer.Error.ErrorCode == jetstream.JSErrCodeMessageNotFound:
		return message{}, errNone
	case answer.Error != nil:
		return message{}, unavailable(answer.Error)
	case answer.Message.Seq == 0:
		return message{}, fmt.Errorf("%w: an answer that is no entry", ledger.ErrUnavailable)
	}
	return message{subject: answer.Message.Subject, seq: answer.Message.Seq, data: string(answer.Message.Data), at: answer.Message.Time}, nil
}

var _ ledger.Source = (*Decisions)(nil)

// Last implements ledger.Source, as the leader has it.
func (d *Decisions) Last(ctx context.Context) (uint64, error) {
	m, err := d.end(ctx, request{LastFor: subject.Decisions})
	return m.Seq, err
}

// end asks the leader for one end of something; zero if there is nothing.
func (d *Decisions) end(ctx context.Context, r request) (ledger.Mark, error) {
	ctx, cancel := context.WithTimeout(ctx, answerWait)
	defer cancel()
	m, err := d.message(ctx, r)
	if errors.Is(err, errNone) {
		return ledger.Mark{}, nil
	}
	return ledger.Mark{Seq: m.seq, At: m.at}, err
}

// Read implements ledger.Source, as the leader has it: one message for each request, so
// it is for little.
func (d *Decisions) Read(ctx context.Context, after uint64, limit int) ([]ledger.Stored, error) {
	return d.read(ctx, subject.Decisions, after, limit)
}

// BaseEnds are the oldest and the newest base claims of accounts, as the leader has them;
// zero if there are none.
func (d *Decisions) BaseEnds(ctx context.Context) (first, last ledger.Mark, err error) {
	if first, err = d.end(ctx, request{Seq: 1, NextFor: subject.Bases}); err != nil {
		return first, last, err
	}
	last, err = d.end(ctx, request{LastFor: subject.Bases})
	return first, last, err
}

// ReadBases is Read for base claims of accounts alone.
func (d *Decisions) ReadBases(ctx context.Context, after uint64, limit int) ([]ledger.Stored, error) {
	return d.read(ctx, subject.Bases, after, limit)
}

func (d *Decisions) read(ctx context.Context, filter string, after uint64, limit int) ([]ledger.Stored, error) {
	var out []ledger.Stored
	for len(out) < limit {
		one, cancel := context.WithTimeout(ctx, answerWait)
		m, err := d.message(one, request{Seq: after + 1, NextFor: filter})
		cancel()
		if errors.Is(err, errNone) || err != nil && len(out) > 0 {
			break
		}
		if err != nil {
			return nil, err
		}
		key, _ := decisionKey(m.subject)
		out = append(out, ledger.Stored{Subject: key, Data: m.data, Seq: m.seq})
		after = m.seq
	}
	return out, nil
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

// Missing tells whether an error is that there is no such stream, as JetStream says that is
// at work: it is not that nobody answers.
func Missing(err error) bool {
	var api *jetstream.APIError
	return errors.As(err, &api) && api.ErrorCode == jetstream.JSErrCodeStreamNotFound
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
		// Whichever region it came from, it is stored here.
		has, err := d.copies.has(ctx, "denials.*."+key.String(), token)
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
