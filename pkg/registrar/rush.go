package registrar

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/herald-nats/herald/pkg/subject"
)

// rushWait is how long servers are waited for before what must not wait is pushed: longer
// than a round trip between regions, and less than anybody notices.
const rushWait = 300 * time.Millisecond

// Rush brings to all servers what must not wait, which is that somebody is revoked: it joins
// what servers answer within a moment, and pushes without waiting for anybody. known are
// account JWTs as for Converge, and servers is how many there are if none is away; 0: that is
// not known. It gives the JWTs that are in force from now on. Which servers have them, and
// whether another pushed over them, Converge says afterwards.
func (r *Resolver) Rush(ctx context.Context, known []string, servers int) ([]string, error) {
	items, err := r.open(known)
	if err != nil {
		return nil, err
	}
	inbox := r.nc.NewInbox() + "."
	msgs := make(chan *nats.Msg, min(max(64, 2*len(items)*servers), 1<<16))
	sub, err := r.nc.ChanSubscribe(inbox+"*", msgs)
	if err != nil {
		return nil, fmt.Errorf("subscribing for answers: %w", err)
	}
	defer func() { _ = sub.Unsubscribe() }() // fails only if the connection is gone
	for i, it := range items {
		if err := r.nc.PublishRequest(subject.ClaimsLookup(it.st.Account), inbox+strconv.Itoa(i), nil); err != nil {
			return nil, fmt.Errorf("asking servers: %w", err)
		}
	}
	moment := time.NewTimer(rushWait)
	defer moment.Stop()
	for due := len(items) * servers; due > 0 || servers == 0; due-- {
		var m *nats.Msg
		select {
		case m = <-msgs:
		case <-moment.C:
		case <-ctx.Done():
		}
		if m == nil {
			break
		}
		if i, err := strconv.Atoi(m.Subject[len(inbox):]); err == nil && i >= 0 && i < len(items) {
			items[i].hold(m.Data)
		}
	}
	spread(len(items), func(i int) { r.judge(items[i], max(servers, 1), true) })
	tokens, errs := make([]string, 0, len(items)), []error{}
	for _, it := range items {
		err := it.st.Err
		if err == nil && it.push != nil && int64(len(it.push.Token)) > r.nc.MaxPayload() {
			err = fmt.Errorf("its JWT has %d bytes: %w", len(it.push.Token), nats.ErrMaxPayload)
		}
		if err == nil && it.push != nil {
			err = r.nc.Publish(subject.ClaimsUpdate, []byte(it.push.Token))
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("account %s: %w", it.st.Name, err))
			continue
		}
		tokens = append(tokens, it.st.Token)
	}
	return tokens, errors.Join(errs...)
}
