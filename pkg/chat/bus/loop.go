package bus

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/herald-nats/herald/pkg/chat"
)

// reader owns the queue of events. It never waits for anyone but in its one
// select, so that Tell, Close and the subscriptions' channel are always served.
type reader struct {
	*Bus
	queue    []chat.Event // what waits to be taken
	dropped  uint64       // events that found the queue full
	lost     uint64       // messages that found the subscriptions' channel full
	rejected uint64       // messages that were none
	counted  chat.Counted // what was told last
	turn     bool         // it is the queue's turn, and not the counts'

	again   *time.Timer     // the next of settling
	settle  []time.Duration // the rest of settling
	reply   *time.Timer     // the answer to a newcomer
	waiting bool            // reply runs
	replied time.Time       // when it did last
}

func (b *Bus) reader() {
	r := &reader{Bus: b, reply: time.NewTimer(time.Hour), again: time.NewTimer(settling()[0]), settle: settling()[1:]}
	r.reply.Stop()
	defer close(b.read)
	defer close(b.out)
	defer b.unsubscribe()
	defer b.cfg.Conn.RemoveStatusListener(b.status)
	defer r.reply.Stop()
	defer r.again.Stop()

	beat := b.cfg.Beat
	if beat == nil {
		t := time.NewTicker(chat.HeartbeatEvery)
		defer t.Stop()
		beat = t.C
	}
	r.queue = append(r.queue, chat.ConnectionChanged{State: chat.Connected, Region: b.cfg.Region()})
	for {
		next, out := r.next()
		select {
		case out <- next:
			r.taken(next)
		case m := <-b.msgs:
			r.take(m)
		case e := <-b.tell:
			r.push(e)
		case s := <-b.status:
			r.connection(s)
		case <-beat:
			r.announce()
		case <-r.again.C:
			r.announce()
			if len(r.settle) > 0 {
				r.again.Reset(r.settle[0])
				r.settle = r.settle[1:]
			}
		case <-r.reply.C:
			r.replied = time.Now()
			r.announce()
		case <-b.sent: // the sender has ended: nothing more will be told
			return
		}
	}
}

// settling is when heartbeats follow the first one, each after the one before.
// Other regions learn of a subscription after one trip over the gateways: of
// two who come at the same moment neither hears the other's first heartbeat,
// and whoever answers a newcomer at once may be answering too early.
func settling() []time.Duration {
	return []time.Duration{500 * time.Millisecond, 1500 * time.Millisecond}
}

// announce has a heartbeat sent; whoever is new learns of us by it.
func (r *reader) announce() {
	r.reply.Stop()
	r.waiting = false
	r.Announce()
}

// next is the event to be taken next, and the channel for it; a nil channel if
// there is none. Counts are told between the others, as they are at that time.
func (r *reader) next() (chat.Event, chan<- chat.Event) {
	counts := chat.Counted{Dropped: r.dropped + r.overflow(), Rejected: r.rejected}
	switch {
	case counts != r.counted && (!r.turn || len(r.queue) == 0):
		return counts, r.out
	case len(r.queue) > 0:
		return r.queue[0], r.out
	default:
		return nil, nil
	}
}

// overflow is how many messages nats.go has dropped because the channel of the
// subscriptions was full. A subscription that has ended counts none.
func (r *reader) overflow() uint64 {
	var n uint64
	for _, s := range r.subs {
		if d, err := s.Dropped(); err == nil && d > 0 {
			n += uint64(d)
		}
	}
	r.lost = max(r.lost, n)
	return r.lost
}

func (r *reader) taken(e chat.Event) {
	if c, ok := e.(chat.Counted); ok {
		r.counted, r.turn = c, true
		return
	}
	r.turn = false
	r.queue[0] = nil
	r.queue = r.queue[1:]
}

// push queues an event that is not a message; there are few of them, but nobody
// may fill the memory, so that at twice the bound they are lost too.
func (r *reader) push(e chat.Event) {
	if len(r.queue) >= 2*r.cfg.Buffer {
		r.dropped++
		return
	}
	r.queue = append(r.queue, e)
}

// take decodes one message. It costs two checks of signatures at most.
func (r *reader) take(msg *nats.Msg) {
	m, err := r.dec.Decode(msg.Subject, msg.Data, r.cfg.Clock())
	if err != nil {
		r.rejected++
		return
	}
	r.mu.Lock()
	_, echo := r.own[m.Digest]
	r.mu.Unlock()
	if echo {
		return
	}
	if m.Kind == chat.KindOnline {
		r.heartbeat(m)
	}
	if len(r.queue) >= r.cfg.Buffer {
		r.dropped++
		return
	}
	r.queue = append(r.queue, chat.Received{Message: m})
}

func (r *reader) heartbeat(m chat.Message) {
	if m.From == r.cfg.Signer.Public() {
		return
	}
	r.mu.Lock()
	newcomer := r.roster.Heartbeat(m) && !r.waiting
	live := 0
	if newcomer {
		live = r.roster.LiveCount(m.Got)
	}
	close(r.heard)
	r.heard = make(chan struct{})
	r.mu.Unlock()
	if newcomer {
		r.welcome(live)
	}
}

// welcome has a heartbeat sent soon, so that a newcomer need not wait for the
// regular one. Everyone in the room does that: so the more there are, the
// longer the time over which it is spread, up to where the regular heartbeats
// do it. That keeps it at about 20 a second for the room.
func (r *reader) welcome(live int) {
	const each = 50 * time.Millisecond
	limit := min(max(500*time.Millisecond, time.Duration(live)*each), chat.HeartbeatEvery)
	wait := max(r.cfg.Jitter(limit), replyGap-time.Since(r.replied))
	r.waiting = true
	r.reply.Reset(wait)
}

func (r *reader) connection(s nats.Status) {
	e := chat.ConnectionChanged{State: chat.Reconnecting}
	switch s {
	case nats.CONNECTED:
		e.State, e.Region = chat.Connected, r.cfg.Region()
		r.announce() // perhaps in another region, perhaps with another credential
		r.again.Reset(settling()[0])
		r.settle = settling()[1:]
	case nats.CLOSED:
		e.State = chat.Closed
	default:
	}
	r.push(e)
}

// sender publishes, one thing after the other.
func (b *Bus) sender(ctx context.Context) {
	defer close(b.sent)
	first := sync.OnceFunc(func() { close(b.first) })
	for {
		select {
		case e := <-b.work:
			b.carryOut(ctx, e)
		case <-b.beat:
			b.heartbeat(ctx, b.currentMood())
			first()
		case <-b.stop:
			b.finish(ctx)
			return
		}
	}
}

// finish sends what waits, within closeTimeout.
func (b *Bus) finish(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, closeTimeout)
	defer cancel()
	for {
		select {
		case e := <-b.work:
			b.carryOut(ctx, e)
			continue
		default:
		}
		b.heartbeat(ctx, chat.Gone)
		return
	}
}

func (b *Bus) carryOut(ctx context.Context, e chat.Effect) {
	switch e := e.(type) {
	case chat.SendPost:
		b.Tell(chat.Sent{Seq: e.Seq, Err: b.post(ctx, e.Channel, e.Text)})
	case chat.SendDM:
		b.Tell(chat.Sent{Seq: e.Seq, Err: b.dm(ctx, e.Text, e.Keys)})
	case chat.Snoop:
		b.Tell(chat.SnoopResult{Name: e.Name, Key: e.Key, Err: b.snoop(ctx, e.Key)})
	case chat.SetStatus:
		b.mu.Lock()
		b.mood = e.Status
		b.mu.Unlock()
		b.heartbeat(ctx, e.Status)
	}
}

func (b *Bus) currentMood() chat.Status {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.mood
}

// heartbeat publishes one heartbeat. Without a connection none is sent: the
// next one comes with the connection.
func (b *Bus) heartbeat(ctx context.Context, mood chat.Status) {
	o, err := b.enc.Online(b.cfg.UserJWT(), b.cfg.Region(), mood, b.cfg.Clock())
	if err == nil {
		err = b.publish(ctx, o)
	}
	if errors.Is(err, ErrRefused) {
		b.Tell(chat.Notice{Text: "others cannot see that we are here: " + err.Error()})
	}
}
