package service

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/herald-nats/herald/internal/endpoint"
)

const (
	// lookEvery is how often a service looks whether it can take requests, beside at each
	// platform document: a key may have been brought, or a server have refused.
	lookEvery = 2 * time.Second
	// closeWait bounds the answers of what was taken when a door closes for a while.
	closeWait = 10 * time.Second
)

// door is where a service answers: one connection, and on it one subscription for each
// endpoint while it is open, which carry nothing else. A request goes to an issuer of the
// caller's own region as long as one subscribes there, so one that cannot answer must not.
type door struct {
	name  string
	serve func(*nats.Conn) (*endpoint.Server, error)
	dial  func(context.Context) (*nats.Conn, error)
	// unable is what keeps the service from answering here now; empty: nothing does.
	unable func() string
	// later: that something does is no reason not to start.
	later bool
	// wanted tells whether there is to be such a door at all.
	wanted func() bool

	// Of these only the goroutine of doors knows.
	nc     *nats.Conn
	server *endpoint.Server // nil: it is closed

	mu     sync.Mutex
	closed string // why it is closed; empty: it is open
}

// doors are those of one service. One goroutine opens and closes them.
type doors struct {
	all  []*door
	look func() // before each look at whether they should be open; may be nil
	drop func(context.Context, *nats.Conn)
	log  *slog.Logger

	again chan struct{}      // something may have changed
	renew chan chan<- error  // all connections are to be made anew
	stop  context.CancelFunc // of the goroutine
	// answering ends when there is no more time for what was taken.
	answering context.Context //nolint:containedctx // the life of what was taken, as in endpoint
	giveUp    context.CancelFunc
	done      chan struct{}
	once      sync.Once
	left      error
}

// door is one that is closed, for credentials of the folder.
func (c *Config) door(r *Running, creds, name string, log *slog.Logger, serve func(*nats.Conn) (*endpoint.Server, error)) *door {
	return &door{
		name: name, closed: "it starts", serve: serve, unable: func() string { return "" }, wanted: func() bool { return true },
		dial: func(ctx context.Context) (*nats.Conn, error) { return c.attach(ctx, r, creds, name, log) },
	}
}

// add adds one before they are opened.
func (d *doors) add(o *door) { d.all = append(d.all, o) }

// open opens all of them, or fails, and keeps them then as they should be until close.
func (d *doors) open(ctx, run context.Context) error {
	for _, o := range d.all {
		if !o.wanted() {
			o.says("")
		} else if why := o.unable(); why != "" && !o.later {
			return fmt.Errorf("%w: it cannot answer: %s", ErrConfig, why)
		}
	}
	for _, o := range d.all {
		if !o.wanted() {
			continue
		}
		if why := o.unable(); why != "" {
			o.says(why)
			d.log.Error("no requests are taken; services of other regions answer them", "door", o.name, "error", why)
			continue
		}
		var err error
		if o.nc, err = o.dial(ctx); err != nil {
			return err
		}
		if o.server, err = o.serve(o.nc); err != nil {
			return err
		}
		o.says("")
	}
	d.answering, d.giveUp = context.WithCancel(context.WithoutCancel(run))
	run, d.stop = context.WithCancel(run)
	d.done = make(chan struct{})
	go d.keep(run)
	return nil
}

func (d *doors) keep(ctx context.Context) {
	defer close(d.done)
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-d.again:
		case <-tick.C:
		case answer := <-d.renew:
			answer <- d.reconnect(ctx)
		}
		if d.look != nil {
			d.look()
		}
		for _, o := range d.all {
			d.set(ctx, o)
		}
	}
}

// changed has them looked at soon.
func (d *doors) changed() {
	select {
	case d.again <- struct{}{}:
	default: // it was said, and nobody has looked yet
	}
}

// set opens or closes a door, if it has to be.
func (d *doors) set(ctx context.Context, o *door) {
	why := o.unable()
	switch {
	case !o.wanted():
		d.shut(o)
		if o.nc != nil {
			d.drop(ctx, o.nc)
			o.nc = nil
			d.log.Info("the door is not wanted any more", "door", o.name)
		}
		o.says("")
	case why == "" && o.nc == nil:
		dctx, cancel := context.WithTimeout(ctx, lookEvery)
		defer cancel()
		var err error
		if o.nc, err = o.dial(dctx); err != nil {
			o.nc = nil
			o.says("it cannot connect: " + err.Error())
			return // the next look tries again
		}
		d.set(ctx, o)
	case why == "" && o.server == nil:
		s, err := o.serve(o.nc)
		if err != nil {
			o.says("its subscriptions fail: " + err.Error())
			return // the next look tries again
		}
		o.server = s
		o.says("")
		d.log.Info("requests are taken again", "door", o.name)
	case why != "" && o.server != nil:
		o.says(why)
		d.log.Error("no requests are taken; services of other regions answer them", "door", o.name, "error", why)
		d.shut(o)
	case why != "":
		o.says(why)
	}
}

// shut answers what was taken at a door, and takes nothing more.
func (d *doors) shut(o *door) {
	if o.server == nil {
		return
	}
	if err := d.drain(o.server); err != nil {
		d.log.Warn("requests that were taken", "door", o.name, "error", err)
	}
	o.server = nil
}

// drain is the end of a door's server while the service goes on, or ends meanwhile.
func (d *doors) drain(s *endpoint.Server) error {
	ctx, cancel := context.WithTimeout(d.answering, closeWait)
	defer cancel()
	return s.Drain(ctx)
}

// says notes why a door is closed.
func (o *door) says(why string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.closed = why
}

// why is what keeps a door closed; empty: it is open.
func (o *door) why() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.closed
}

// anew has all connections made again, with the credential that is in the folder now.
func (d *doors) anew(ctx context.Context) error {
	answer := make(chan error, 1)
	select {
	case d.renew <- answer:
	case <-d.done:
		return errors.New("the service ends")
	case <-ctx.Done():
		return fmt.Errorf("connecting anew: %w", ctx.Err())
	}
	select {
	case err := <-answer:
		return err
	case <-d.done:
		return errors.New("the service ends")
	case <-ctx.Done():
		return fmt.Errorf("connecting anew: %w", ctx.Err())
	}
}

// reconnect makes all connections anew. One that cannot be made leaves the old one: that
// takes the folder's credential when its own ends.
func (d *doors) reconnect(ctx context.Context) error {
	var errs []error
	for _, o := range d.all {
		if err := d.move(ctx, o); err != nil {
			errs = append(errs, fmt.Errorf("connecting %s anew: %w", o.name, err))
		}
	}
	return errors.Join(errs...)
}

// move opens a door on another connection before the old one is drained: what a server had
// sent there already would be lost with it.
func (d *doors) move(ctx context.Context, o *door) error {
	if o.nc == nil {
		return nil // it is not there, and takes the new one when it is
	}
	ctx, cancel := context.WithTimeout(ctx, closeWait)
	defer cancel()
	nc, err := o.dial(ctx)
	if err != nil {
		return err
	}
	var s *endpoint.Server
	if o.server != nil {
		if s, err = o.serve(nc); err != nil {
			d.drop(ctx, nc)
			return err
		}
	}
	old, before := o.nc, o.server
	o.nc, o.server = nc, s
	if before != nil {
		err = d.drain(before)
	}
	last, cancel := context.WithTimeout(d.answering, closeWait)
	defer cancel()
	d.drop(last, old)
	return err
}

// close stops looking, and answers what was taken.
func (d *doors) close(ctx context.Context) error {
	d.once.Do(func() {
		if d.stop != nil {
			defer d.giveUp()
			d.stop()
			// What the goroutine still drains has the same time as the rest.
			defer context.AfterFunc(ctx, d.giveUp)()
			<-d.done
		}
		for _, o := range d.all {
			o.says("it ends")
			if o.server != nil {
				d.left = errors.Join(d.left, o.server.Drain(ctx))
				o.server = nil
			}
		}
	})
	return d.left
}
