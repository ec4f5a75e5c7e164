// Package jetstream is the ledger in NATS JetStream: a key-value bucket with
// replicas 3 in home. It is written by the registrars of home alone.
package jetstream

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/ledger"
	"github.com/herald-nats/herald/pkg/subject"
)

// writeWait bounds one write: an R3 stream without its leader does not answer,
// and a claim must not hang until its caller's patience ends.
const writeWait = 3 * time.Second

// Setup makes the ledger's streams, or brings their configuration up to date.
// It needs the right to create streams, which nothing that runs has: it is the
// set-up tool's user that calls it. Streams are managed as streams, not through
// the KV API, whose update silently resets fields.
func Setup(ctx context.Context, nc *nats.Conn, home ident.Region) error {
	js, err := jetstream.New(nc)
	if err != nil {
		return fmt.Errorf("setting up the ledger: %w", err)
	}
	_, err = js.CreateOrUpdateStream(ctx, jetstream.StreamConfig{
		Name:              subject.NamesStream,
		Description:       "whose a name is; signed by registrars",
		Subjects:          []string{subject.NamesKeys},
		MaxMsgsPerSubject: 1,
		MaxMsgSize:        4 << 10,
		Storage:           jetstream.FileStorage,
		Replicas:          3,
		Placement:         &jetstream.Placement{Cluster: home.String()},
		Discard:           jetstream.DiscardNew,
		AllowDirect:       true,
		DenyDelete:        true,
		DenyPurge:         true,
	})
	if err != nil {
		return fmt.Errorf("setting up the bucket of names in %s: %w", home, err)
	}
	return nil
}

// Names implements ledger.NameStore for a registrar of home.
type Names struct {
	nc *nats.Conn
	js jetstream.JetStream
}

var _ ledger.NameStore = (*Names)(nil)

// NewNames uses a connection in LEDGER with the rights of a registrar.
func NewNames(nc *nats.Conn) (*Names, error) {
	js, err := jetstream.New(nc)
	if err != nil {
		return nil, fmt.Errorf("opening the ledger: %w", err)
	}
	return &Names{nc: nc, js: js}, nil
}

// Name implements ledger.NameStore. The leader answers, hence with its own last
// write. It is not asked by direct get: a right to that, beside the stream, is a
// right to delete the stream (its 404 has no body, and goes where the reply says).
func (n *Names) Name(ctx context.Context, name ident.Name) (string, uint64, error) {
	ask, err := json.Marshal(map[string]string{"last_by_subj": "$KV." + subject.NamesBucket + "." + subject.Name(name)})
	if err != nil {
		return "", 0, fmt.Errorf("asking for %s: %w", name, err)
	}
	msg, err := n.nc.RequestWithContext(ctx, subject.NamesRead, ask)
	if err != nil {
		return "", 0, fmt.Errorf("%w: %w", ledger.ErrUnavailable, err)
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
		return "", 0, fmt.Errorf("%w: %w", ledger.ErrUnavailable, answer.Error)
	case answer.Message.Seq == 0 || len(answer.Message.Data) == 0:
		return "", 0, fmt.Errorf("%w: an answer that is no entry", ledger.ErrUnavailable)
	}
	return string(answer.Message.Data), answer.Message.Seq, nil
}

// PutName implements ledger.NameStore.
func (n *Names) PutName(ctx context.Context, name ident.Name, entry string, revision uint64) error {
	ctx, cancel := context.WithTimeout(ctx, writeWait)
	defer cancel()
	_, err := n.js.Publish(ctx, "$KV."+subject.NamesBucket+"."+subject.Name(name), []byte(entry),
		jetstream.WithExpectLastSequencePerSubject(revision))
	switch {
	case err == nil:
		return nil
	case lostCompareAndSet(err):
		return ledger.ErrConflict
	default:
		return fmt.Errorf("%w: %w", ledger.ErrUnavailable, err)
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

// Found is what a direct get gives.
type Found struct {
	Entry    string
	Revision uint64
}

// Get reads one name by direct get, from an issuer's account through the import.
// It needs neither a consumer nor the meta
// leader, so it works on either side of a cut that has a replica.
// ledger.ErrNotFound, ledger.ErrUnavailable.
func Get(ctx context.Context, nc *nats.Conn, name ident.Name) (Found, error) {
	msg, err := nc.RequestWithContext(ctx, subject.NameGet(name), nil)
	if err != nil {
		return Found{}, fmt.Errorf("%w: %w", ledger.ErrUnavailable, err)
	}
	switch status := msg.Header.Get("Status"); status {
	case "":
	case "404":
		return Found{}, ledger.ErrNotFound
	default:
		return Found{}, fmt.Errorf("%w: status %.3s", ledger.ErrUnavailable, status)
	}
	seq, err := strconv.ParseUint(msg.Header.Get("Nats-Sequence"), 10, 64)
	if err != nil || len(msg.Data) == 0 {
		return Found{}, fmt.Errorf("%w: an answer that is no entry", ledger.ErrUnavailable)
	}
	return Found{Entry: string(msg.Data), Revision: seq}, nil
}
