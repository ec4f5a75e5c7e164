// Package bus puts the chat on NATS: it takes what comes on a room's subjects,
// decodes and verifies it and hands it on as events, in order; and it publishes
// posts, direct messages and heartbeats.
//
// It does not dial: it is given a connection, whose reconnects and credentials
// are its owner's matter (pkg/client). It does not decide what is shown: that
// is chat.State's. A Bus has two goroutines, one that reads and one that
// publishes; Close waits for both.
//
// Nobody can make it wait: a subscription's messages go into a bounded channel
// that nats.go never blocks on, and events that nobody takes are dropped and
// counted (chat.Counted).
package bus

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"math/big"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/herald-nats/herald/pkg/chat"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/subject"
)

// Errors of Send…, and so of chat.Sent. Their texts are for people.
var (
	// ErrRefused: the server does not allow it. Nothing was sent.
	ErrRefused = errors.New("the server refused it")
	// ErrNotConnected: there is no connection at the moment. Nothing was sent.
	ErrNotConnected = errors.New("not sent: there is no connection")
	// ErrUnconfirmed: the server did not answer. It may have been sent or not.
	ErrUnconfirmed = errors.New("not confirmed: the server did not answer, so it may be lost")
	// ErrNotHere: no verified heartbeat of that person came in time.
	ErrNotHere = errors.New("not here")
	// ErrNoChannel: the room has no such channel.
	ErrNoChannel = errors.New("no such channel")
	// ErrBusy: too much waits to be sent. Nothing was sent.
	ErrBusy = errors.New("not sent: too much is waiting to be sent")
	// ErrClosed: the Bus is closed. Nothing was sent.
	ErrClosed = errors.New("not sent: the chat is closed")
)

const (
	// sendTimeout bounds the wait for the server's answer to a publish.
	sendTimeout = 5 * time.Second
	// closeTimeout bounds what Close waits for: what is still to be sent.
	closeTimeout = 2 * time.Second
	// replyGap is the least time between two heartbeats for newcomers.
	replyGap = time.Second
	// inbox is how many messages may wait for decoding; a second's worth at
	// the rate at which signatures can be checked.
	inbox = 8192
	// outbox is how many effects may wait for publishing.
	outbox = 64
	// ownDigests is how many of our messages are remembered, to know their echoes.
	ownDigests = 1024
)

// Config is what a Bus needs. Fields without a default must be set.
type Config struct {
	Conn     *nats.Conn
	Room     ident.Label
	Channels []ident.Label // those that SendPost takes; empty: any
	Name     ident.Name    // our own, as the platform gave it
	Signer   chat.Signer   // our own nkey; used by several goroutines at once
	// UserJWT gives the credential that is valid now; it goes into heartbeats,
	// so that others can verify our name. Nil or "": we stay unverified.
	UserJWT func() string
	// Region says where the connection goes. Default: the name of the cluster
	// that the server belongs to.
	Region func() ident.Region
	// Verify checks others' user JWTs. Nil: nobody is verified.
	Verify chat.Verify

	Clock  func() time.Time // default: time.Now
	Rand   io.Reader        // default: crypto/rand.Reader; used by several goroutines at once
	Buffer int              // how many messages wait for who takes the events; default 1024
	Wait   time.Duration    // how long SendDM waits for a heartbeat; default 35 s

	// Beat drives the regular heartbeats. Default: a ticker of
	// chat.HeartbeatEvery.
	Beat <-chan time.Time
	// Jitter gives a duration below limit, by which an answer to a newcomer is
	// delayed. Default: random.
	Jitter func(limit time.Duration) time.Duration
}

// Bus is one user's chat on NATS.
type Bus struct {
	cfg  Config
	enc  chat.Encoder
	dec  chat.Decoder
	subs []*nats.Subscription
	msgs chan *nats.Msg
	out  chan chat.Event

	status chan nats.Status
	tell   chan chat.Event  // from anyone to the reader
	work   chan chat.Effect // from Do to the sender
	beat   chan struct{}    // from anyone to the sender: a heartbeat, now
	first  chan struct{}    // closed once a heartbeat was sent, or tried
	sem    chan struct{}    // held while a publish waits for the server's answer

	stop     chan struct{} // closed first: nothing new is taken
	sent     chan struct{} // closed by the sender when it has ended
	read     chan struct{} // closed by the reader when it has ended
	stopOnce sync.Once

	mu      sync.Mutex
	roster  *chat.Roster
	heard   chan struct{} // closed and renewed with every heartbeat
	mood    chat.Status
	own     map[[32]byte]struct{}
	ownRing [][32]byte
	ownNext int
}

// New subscribes to the room and sends the first heartbeat. It returns when the
// server has taken the subscriptions; ErrRefused if it did not. ctx bounds only
// that. Close must be called.
func New(ctx context.Context, cfg Config) (*Bus, error) {
	if cfg.Conn == nil || cfg.Signer == nil || cfg.Room.IsZero() || cfg.Name.IsZero() {
		return nil, errors.New("chat bus: connection, signer, room and name are required")
	}
	cfg.defaults()
	b := &Bus{
		cfg:    cfg,
		enc:    chat.Encoder{Room: cfg.Room, Name: cfg.Name, Signer: cfg.Signer, Rand: cfg.Rand},
		dec:    chat.Decoder{Room: cfg.Room, Verify: cfg.Verify},
		msgs:   make(chan *nats.Msg, inbox),
		out:    make(chan chat.Event, 16),
		tell:   make(chan chat.Event),
		work:   make(chan chat.Effect, outbox),
		beat:   make(chan struct{}, 1),
		first:  make(chan struct{}),
		sem:    make(chan struct{}, 1),
		stop:   make(chan struct{}),
		sent:   make(chan struct{}),
		read:   make(chan struct{}),
		roster: chat.NewRoster(),
		heard:  make(chan struct{}),
		own:    make(map[[32]byte]struct{}),
	}
	if err := b.subscribe(ctx); err != nil {
		b.unsubscribe()
		return nil, err
	}
	b.status = cfg.Conn.StatusChanged(nats.CONNECTED, nats.RECONNECTING, nats.CLOSED)
	b.beat <- struct{}{}
	go b.reader()
	go b.sender(context.WithoutCancel(ctx)) // Close ends it, not ctx
	return b, nil
}

func (c *Config) defaults() {
	if c.UserJWT == nil {
		c.UserJWT = func() string { return "" }
	}
	if c.Region == nil {
		c.Region = func() ident.Region {
			r, err := ident.ParseRegion(c.Conn.ConnectedClusterName())
			if err != nil {
				return ident.Region{} // not a server of a region
			}
			return r
		}
	}
	if c.Clock == nil {
		c.Clock = time.Now
	}
	if c.Rand == nil {
		c.Rand = rand.Reader
	}
	if c.Buffer <= 0 {
		c.Buffer = 1024
	}
	if c.Wait <= 0 {
		c.Wait = chat.HeartbeatEvery + 5*time.Second
	}
	if c.Jitter == nil {
		c.Jitter = func(limit time.Duration) time.Duration {
			n, err := rand.Int(c.Rand, big.NewInt(max(1, int64(limit))))
			if err != nil {
				return limit
			}
			return time.Duration(n.Int64())
		}
	}
}

// subscribe puts all three subjects into one channel, so that the order in
// which the server sent them is kept.
func (b *Bus) subscribe(ctx context.Context) error {
	before := b.cfg.Conn.LastError()
	for _, s := range b.subjects() {
		sub, err := b.cfg.Conn.ChanSubscribe(s, b.msgs)
		if err != nil {
			return fmt.Errorf("subscribing to %s: %w", s, err)
		}
		b.subs = append(b.subs, sub)
	}
	ctx, cancel := context.WithTimeout(ctx, sendTimeout)
	defer cancel()
	if err := b.cfg.Conn.FlushWithContext(ctx); err != nil {
		return fmt.Errorf("subscribing to room %s: %w", b.cfg.Room, err)
	}
	for _, s := range b.subjects() {
		if err := b.refusal(before, "Subscription", s); err != nil {
			return fmt.Errorf("subscribing to room %s: %w", b.cfg.Room, err)
		}
	}
	return nil
}

func (b *Bus) subjects() []string {
	return []string{subject.Posts(b.cfg.Room), subject.Online(b.cfg.Room), subject.DM(b.cfg.Room, b.cfg.Signer.Public())}
}

func (b *Bus) unsubscribe() {
	for _, s := range b.subs {
		// The only error is that the connection is closed, and then it is gone.
		_ = s.Unsubscribe()
	}
}

// Events gives what happens, in order. The channel is closed by Close. Who does
// not take from it loses messages, which chat.Counted then tells.
func (b *Bus) Events() <-chan chat.Event { return b.out }

// Tell puts an event of somebody else's among those of Events, in particular
// chat.CredentialChanged. It does not wait for who takes them.
func (b *Bus) Tell(e chat.Event) {
	select {
	case b.tell <- e:
	case <-b.read:
	}
}

// Do carries out an effect that is the network's: SendPost, SendDM, SetStatus,
// Snoop; others are ignored. It does not wait: what came of it is told by
// events.
func (b *Bus) Do(e chat.Effect) {
	var seq uint64
	switch e := e.(type) {
	case chat.SendPost:
		seq = e.Seq
	case chat.SendDM:
		seq = e.Seq
	case chat.SetStatus, chat.Snoop:
	default:
		return
	}
	if b.closed() {
		return // nobody takes its answer any more
	}
	select {
	case b.work <- e:
	default:
		b.Tell(chat.Sent{Seq: seq, Err: ErrBusy})
	}
}

// Announce sends a heartbeat at once. To be called when the credential has
// changed without a reconnect; the Bus does it by itself after a reconnect.
func (b *Bus) Announce() {
	select {
	case b.beat <- struct{}{}:
	default: // one is about to be sent
	}
}

// SendPost publishes a post and waits for the server's answer: nil says that
// the server took it, not that anybody read it. Errors: ErrRefused,
// ErrNotConnected, ErrUnconfirmed, ErrNoChannel, ErrClosed, chat.ErrText.
func (b *Bus) SendPost(ctx context.Context, channel ident.Label, text string) error {
	if b.closed() {
		return ErrClosed
	}
	return b.post(ctx, channel, text)
}

func (b *Bus) post(ctx context.Context, channel ident.Label, text string) error {
	if len(b.cfg.Channels) > 0 && !slices.Contains(b.cfg.Channels, channel) {
		return fmt.Errorf("%w: %s", ErrNoChannel, channel)
	}
	o, err := b.enc.Post(channel, text, b.cfg.Clock())
	if err != nil {
		return fmt.Errorf("post to %s: %w", channel, err)
	}
	return b.publish(ctx, o)
}

// SendDM publishes a direct message to each nkey of a person that is there. It
// waits up to Config.Wait for that person's first heartbeat; ErrNotHere if none
// came. Other errors as of SendPost.
func (b *Bus) SendDM(ctx context.Context, to ident.Name, text string) error {
	timeout := time.NewTimer(b.cfg.Wait)
	defer timeout.Stop()
	// Behind the own first heartbeat: who has just come is a stranger to everyone.
	select {
	case <-b.first:
	case <-b.stop:
		return ErrClosed
	case <-ctx.Done():
		return fmt.Errorf("waiting for the server: %w", ctx.Err())
	}
	for {
		b.mu.Lock()
		keys, heard := b.roster.Live(to, b.cfg.Clock()), b.heard
		b.mu.Unlock()
		if len(keys) > 0 {
			return b.SendDMTo(ctx, text, keys...)
		}
		select {
		case <-heard:
		case <-timeout.C:
			return fmt.Errorf("%s is %w: no heartbeat within %s", to, ErrNotHere, b.cfg.Wait)
		case <-b.stop:
			return ErrClosed
		case <-ctx.Done():
			return fmt.Errorf("waiting for a heartbeat of %s: %w", to, ctx.Err())
		}
	}
}

// SendDMTo publishes a direct message to nkeys, whoever they are. Errors as of
// SendPost.
func (b *Bus) SendDMTo(ctx context.Context, text string, to ...ident.UserKey) error {
	if b.closed() {
		return ErrClosed
	}
	return b.dm(ctx, text, to)
}

func (b *Bus) dm(ctx context.Context, text string, to []ident.UserKey) error {
	outs := make([]chat.Outgoing, 0, len(to))
	for _, k := range to {
		o, err := b.enc.DM(k, text, b.cfg.Clock())
		if err != nil {
			return fmt.Errorf("direct message: %w", err)
		}
		outs = append(outs, o)
	}
	return b.publish(ctx, outs...)
}

// Snoop tries to subscribe to another's direct messages and gives the server's
// answer: ErrRefused with its words, as it should be, or nil. Nothing is read.
func (b *Bus) Snoop(ctx context.Context, key ident.UserKey) error {
	if b.closed() {
		return ErrClosed
	}
	return b.snoop(ctx, key)
}

func (b *Bus) snoop(ctx context.Context, key ident.UserKey) error {
	subj := subject.DM(b.cfg.Room, key)
	return b.ask(ctx, func(ctx context.Context, before error) error {
		sub, err := b.cfg.Conn.ChanSubscribe(subj, make(chan *nats.Msg, 1))
		if err != nil {
			return fmt.Errorf("subscribing to %s: %w", subj, err)
		}
		defer func() { _ = sub.Unsubscribe() }() // refused, so there is nothing to end
		if err := b.cfg.Conn.FlushWithContext(ctx); err != nil {
			return fmt.Errorf("%w (%w)", ErrUnconfirmed, err)
		}
		return b.refusal(before, "Subscription", subj)
	})
}

// publish sends messages and waits for the server's answer to all of them.
func (b *Bus) publish(ctx context.Context, outs ...chat.Outgoing) error {
	return b.ask(ctx, func(ctx context.Context, before error) error {
		for _, o := range outs {
			b.remember(o.Digest)
			if err := b.cfg.Conn.Publish(o.Subject, o.Data); err != nil {
				return fmt.Errorf("publishing: %w", err)
			}
		}
		// The server answers in order, so that its refusal, if any, is here
		// when the answer to this is.
		if err := b.cfg.Conn.FlushWithContext(ctx); err != nil {
			return fmt.Errorf("%w (%w)", ErrUnconfirmed, err)
		}
		for _, o := range outs {
			if err := b.refusal(before, "Publish", o.Subject); err != nil {
				return err
			}
		}
		return nil
	})
}

// ask has one question at a time to the server, because the connection keeps
// but one last error, and not without a connection: nats.go would buffer what
// is published and send it at some other time.
func (b *Bus) ask(ctx context.Context, f func(ctx context.Context, before error) error) error {
	ctx, cancel := context.WithTimeout(ctx, sendTimeout)
	defer cancel()
	select {
	case b.sem <- struct{}{}:
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", ErrBusy, ctx.Err())
	}
	defer func() { <-b.sem }()
	if !b.cfg.Conn.IsConnected() {
		return ErrNotConnected
	}
	return f(ctx, b.cfg.Conn.LastError())
}

// refusal is the error if the server has refused what ("Publish" or
// "Subscription") on subj since the connection's last error was before.
func (b *Bus) refusal(before error, what, subj string) error {
	last := b.cfg.Conn.LastError()
	if !errors.Is(last, nats.ErrPermissionViolation) || !strings.Contains(last.Error(), what+" to \""+subj+"\"") {
		return nil
	}
	// Violations are made anew each time: the same one is an old one. They are
	// pointers, so that comparing cannot panic.
	if errors.Is(before, nats.ErrPermissionViolation) && before == last { //nolint:errorlint // identity is meant
		return nil
	}
	return fmt.Errorf("%w: %s", ErrRefused, serverText(last))
}

// serverText is what the server said, without nats.go's words.
func serverText(err error) string {
	return chat.Clean(strings.TrimPrefix(err.Error(), nats.ErrPermissionViolation.Error()+": "))
}

// HandleError is for the error handler of the connection's owner: it tells of
// errors that are the Bus's and that nothing waits for, such as a subscription
// that is refused after a reconnect. False: not the Bus's matter.
func (b *Bus) HandleError(sub *nats.Subscription, err error) bool {
	if errors.Is(err, nats.ErrSlowConsumer) {
		return slices.Contains(b.subs, sub) // counted; see reader
	}
	if !errors.Is(err, nats.ErrPermissionViolation) {
		return false
	}
	for _, s := range b.subjects() {
		if strings.Contains(err.Error(), "Subscription to \""+s+"\"") {
			b.Tell(chat.Notice{Text: ErrRefused.Error() + ": " + serverText(err)})
			return true
		}
	}
	// A refused publish or Snoop is the answer to it.
	return strings.Contains(err.Error(), "\"chat."+b.cfg.Room.String()+".")
}

// People gives the verified people that are there, for scripts.
func (b *Bus) People() []ident.Name {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := b.cfg.Clock()
	var names []ident.Name
	b.roster.Each(func(d chat.Device) {
		if !d.Name.IsZero() && d.Presence(now) != chat.Offline && !slices.Contains(names, d.Name) {
			names = append(names, d.Name)
		}
	})
	slices.SortFunc(names, func(x, y ident.Name) int { return strings.Compare(x.String(), y.String()) })
	return names
}

// Close takes nothing more, sends what waits to be sent and a last heartbeat
// that says that we have gone, unsubscribes and waits for its goroutines; all
// that within closeTimeout or a little more. The connection stays open.
func (b *Bus) Close() {
	b.stopOnce.Do(func() { close(b.stop) })
	<-b.read
}

func (b *Bus) closed() bool {
	select {
	case <-b.stop:
		return true
	default:
		return false
	}
}

// remember notes what we publish, because without nats.NoEcho it comes back.
func (b *Bus) remember(d [32]byte) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.ownRing) < ownDigests {
		b.ownRing = append(b.ownRing, d)
	} else {
		delete(b.own, b.ownRing[b.ownNext])
		b.ownRing[b.ownNext] = d
		b.ownNext = (b.ownNext + 1) % ownDigests
	}
	b.own[d] = struct{}{}
}
