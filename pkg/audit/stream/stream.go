// Package stream stores blocks of records in a region's JetStream stream, over the
// stream's subject that LEDGER exports as a service. Who writes needs no other right than
// to publish under its own key, and gets one acknowledgement for a block.
package stream

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/herald-nats/herald/pkg/audit"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/subject"
)

// Stream implements audit.Store for one writer.
type Stream struct {
	nc      *nats.Conn
	subject string
}

var _ audit.Store = (*Stream)(nil)

// New uses a connection with the right to publish writer's blocks in a region.
func New(nc *nats.Conn, r ident.Region, writer ident.UserKey) *Stream {
	return &Stream{nc: nc, subject: subject.AuditPrefix(r) + writer.String()}
}

var errNotConnected = errors.New("not connected")

// Append implements audit.Store.
func (s *Stream) Append(ctx context.Context, b audit.Sealed) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	// An answer does not outlive the connection on which it was asked for.
	lost := s.nc.StatusChanged(nats.DISCONNECTED, nats.RECONNECTING, nats.CLOSED)
	defer s.nc.RemoveStatusListener(lost)
	go func() {
		if _, ok := <-lost; ok {
			cancel(errNotConnected)
		}
	}()
	if !s.nc.IsConnected() {
		// It would wait for its time to be over, and whoever asked for a credential with it.
		return fmt.Errorf("%w: %w", audit.ErrUnavailable, errNotConnected)
	}
	msg, err := s.nc.RequestMsgWithContext(ctx, &nats.Msg{Subject: s.subject, Data: b.Data, Header: nats.Header{nats.MsgIdHdr: {b.ID()}}})
	if cause := context.Cause(ctx); err != nil && errors.Is(cause, errNotConnected) {
		err = cause
	}
	if err != nil {
		return fmt.Errorf("%w: %w", audit.ErrUnavailable, err)
	}
	var ack struct {
		Error  *jetstream.APIError `json:"error"`
		Stream string              `json:"stream"`
		Seq    uint64              `json:"seq"`
	}
	switch err := json.Unmarshal(msg.Data, &ack); {
	case err != nil:
		return fmt.Errorf("%w: an acknowledgement that cannot be read: %w", audit.ErrUnavailable, err)
	case ack.Error != nil:
		return fmt.Errorf("%w: %w", audit.ErrUnavailable, ack.Error)
	case ack.Stream == "" || ack.Seq == 0:
		return fmt.Errorf("%w: an acknowledgement of nothing", audit.ErrUnavailable)
	}
	return nil
}
