// Package drill rehearses on a platform that runs what operators fear: it takes a region, home,
// the links, issuers or a disk away, asks as clients and administrators do what still works, puts all back, and
// holds what it saw against the table of docs/architecture.md.
package drill

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/herald-nats/herald/internal/natsconn"
	"github.com/herald-nats/herald/internal/wait"
	"github.com/herald-nats/herald/pkg/client"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/keystore"
	"github.com/herald-nats/herald/pkg/subject"
	"github.com/herald-nats/herald/pkg/wire"
)

// Names of drills.
const (
	RegionLoss     = "region-loss"
	Cut            = "cut"
	RevokeUnderCut = "revoke-under-cut"
	IssuerLoss     = "issuer-loss"
	HomeLoss       = "home-loss"
	Restore        = "restore"
)

// Names are all of them.
func Names() []string {
	return []string{RegionLoss, Cut, RevokeUnderCut, IssuerLoss, HomeLoss, Restore}
}

// Machine is what runs the platform: it takes parts of it away and puts them back.
type Machine interface {
	Cut(ctx context.Context, a, b ident.Region) error
	Heal(ctx context.Context, a, b ident.Region) error
	StopRegion(ctx context.Context, r ident.Region) error
	StartRegion(ctx context.Context, r ident.Region) error
	StopIssuer(ctx context.Context, r ident.Region) error
	StartIssuer(ctx context.Context, r ident.Region) error
	// LoseDisk has one server of a region start with an empty disk, and gives its URL.
	LoseDisk(ctx context.Context, r ident.Region) (url string, err error)
}

// Config is what a drill works with.
type Config struct {
	Public  *client.Platform
	Machine Machine
	// Admin connects as an administrator to a region's servers.
	Admin func(ctx context.Context, r ident.Region) (*nats.Conn, error)
	// Region is what is taken away; zero: the last that is not home.
	Region ident.Region
	// Slower multiplies what may take how long, on a machine that is slow for a reason.
	Slower int
	// Tell is told of each step; may be nil.
	Tell func(what string)
}

// Finding is one thing that was tried.
type Finding struct {
	What   string        `json:"what"`
	Where  string        `json:"where"`
	Should string        `json:"should"` // what the table says
	Saw    string        `json:"saw"`
	Took   time.Duration `json:"took_ns"`
	OK     bool          `json:"ok"`
}

// Report is what a drill found.
type Report struct {
	Drill    string        `json:"drill"`
	About    string        `json:"about"` // what was away
	Findings []Finding     `json:"findings"`
	Took     time.Duration `json:"took_ns"`
}

// OK tells whether all was as the table says.
func (r Report) OK() bool {
	return len(r.Findings) > 0 && !slices.ContainsFunc(r.Findings, func(f Finding) bool { return !f.OK })
}

// Errors of Run.
var (
	// ErrUnknown: there is no such drill, or it cannot be of that region.
	ErrUnknown = errors.New("no such drill")
	// ErrNotWhole: not all works before anything was taken away.
	ErrNotWhole = errors.New("before anything was taken away not all works")
)

// Bounds of what is promised, and of what is tried.
const (
	deniesWithin = time.Second     // where servers are reached
	catchesUp    = 5 * time.Second // a region that returns
	tryWait      = 4 * time.Second // for an answer that should come
	// backWait bounds how long it takes until all is as before.
	backWait = 40 * time.Second
)

// Run runs a drill and puts back what it took away, also when ctx ends.
func Run(ctx context.Context, c Config, name string) (rep Report, err error) {
	c.Slower = max(c.Slower, 1)
	d := &drill{Config: c, home: c.Public.Document.Home, rep: &rep, room: c.Public.Document.Chat.Rooms[0].Name}
	for _, r := range c.Public.Document.Regions {
		d.regions = append(d.regions, r.Name)
	}
	if d.Region.IsZero() {
		for _, r := range d.regions {
			if r != d.home {
				d.Region = r
			}
		}
	}
	if name == HomeLoss {
		d.Region = d.home
	}
	drills := map[string]func(context.Context) error{
		RegionLoss: d.regionLoss, HomeLoss: d.regionLoss, Cut: d.cut, RevokeUnderCut: d.revokeUnderCut, IssuerLoss: d.issuerLoss, Restore: d.restore,
	}
	f, ok := drills[name]
	if !ok || !slices.Contains(d.regions, d.Region) || name == RegionLoss && d.Region == d.home {
		return rep, fmt.Errorf("%s of %s: %w", name, d.Region, ErrUnknown)
	}
	rep.Drill = name
	began := time.Now()
	defer func() {
		// Whatever happened: nothing stays away, and nobody stays connected.
		bctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*backWait)
		defer cancel()
		for i := len(d.back) - 1; i >= 0; i-- {
			err = errors.Join(err, d.back[i](bctx))
		}
		for _, nc := range d.conns {
			nc.Close()
		}
		rep.Took = time.Since(began)
	}()
	d.tell("before: people in every region")
	if err := d.before(ctx); err != nil {
		return rep, err
	}
	if err := f(ctx); err != nil {
		return rep, err
	}
	return rep, ctx.Err() // what it saw after that is of no worth
}

// drill is one that runs.
type drill struct {
	Config
	home    ident.Region
	regions []ident.Region
	room    ident.Label
	rep     *Report
	people  map[ident.Region]*person
	victims []*person
	back    []func(context.Context) error
	conns   []*nats.Conn
}

// person is somebody who came before anything was taken away.
type person struct {
	name ident.Name
	key  *keystore.Key
	user ident.UserKey
	cred client.Credential
	in   ident.Region
	nc   *nats.Conn
	out  chan struct{} // closed when a server closed the connection
}

func (d *drill) tell(format string, args ...any) {
	if d.Tell != nil {
		d.Tell(fmt.Sprintf(format, args...))
	}
}

// found notes one thing.
func (d *drill) found(f Finding) { d.rep.Findings = append(d.rep.Findings, f) }

// undo notes how something is put back; it is done once, by whoever comes first.
func (d *drill) undo(f func(context.Context) error) (now func(context.Context) error) {
	done := false
	once := func(ctx context.Context) error {
		if done {
			return nil
		}
		if err := f(ctx); err != nil {
			return err
		}
		done = true
		return nil
	}
	d.back = append(d.back, once)
	return once
}

func (d *drill) urls(r ident.Region) []string {
	region, _ := d.Public.Document.Region(r)
	return region.URLs
}

// others are the regions but one.
func (d *drill) others(r ident.Region) []ident.Region {
	return slices.DeleteFunc(slices.Clone(d.regions), func(o ident.Region) bool { return o == r })
}

// newPerson gets a credential under a new name.
func (d *drill) newPerson(ctx context.Context, in ident.Region) (*person, error) {
	name, err := ident.ParseName("drill-" + strings.ToLower(rand.Text()[:12]))
	if err != nil {
		return nil, err
	}
	key, err := keystore.Generate(keystore.User)
	if err != nil {
		return nil, err
	}
	user, err := ident.ParseUserKey(key.Public())
	if err != nil {
		return nil, err
	}
	p := &person{name: name, key: key, user: user, in: in}
	return p, d.asks(ctx, p, in)
}

// asks gets a person a credential from whoever answers at a region's servers.
func (d *drill) asks(ctx context.Context, p *person, in ident.Region) error {
	ctx, cancel := context.WithTimeout(ctx, time.Duration(d.Slower)*tryWait)
	defer cancel()
	c, err := d.Public.Obtain(ctx, d.urls(in), p.key, client.Wish{Name: p.name, Account: d.Public.Document.Chat.Account})
	if err == nil {
		p.cred = c
	}
	return err
}

// connects connects a person to one of the servers given; out is closed when a server closes the
// connection.
func (d *drill) connects(ctx context.Context, p *person, urls []string) (nc *nats.Conn, out chan struct{}, err error) {
	ctx, cancel := context.WithTimeout(ctx, time.Duration(d.Slower)*2*time.Second)
	defer cancel()
	out = make(chan struct{})
	var once sync.Once
	nc, err = natsconn.Dial(ctx, natsconn.Options{
		URLs: urls, Name: "drill", Credential: natsconn.Static{Token: p.cred.JWT, Key: p.key}, InboxPrefix: subject.UserInboxPrefix(p.user),
		TLS: d.Public.TLS(), OnDisconnect: func(error) { once.Do(func() { close(out) }) },
	})
	if err == nil {
		d.conns = append(d.conns, nc)
	}
	return nc, out, err
}

// before has people in every region, and some who are going to be revoked.
func (d *drill) before(ctx context.Context) error {
	d.people = map[ident.Region]*person{}
	for _, r := range d.regions {
		for _, victim := range []bool{false, true, true} {
			var p *person
			err := d.eventually(ctx, func() (err error) { p, err = d.newPerson(ctx, r); return err })
			if err != nil {
				return fmt.Errorf("%w: a credential in %s: %w", ErrNotWhole, r, err)
			}
			if p.nc, p.out, err = d.connects(ctx, p, d.urls(r)); err != nil {
				return fmt.Errorf("%w: connecting in %s: %w", ErrNotWhole, r, err)
			}
			if victim {
				d.victims = append(d.victims, p)
			} else {
				d.people[r] = p
			}
		}
	}
	// Every region has heard of all of them: a name that nobody knows there is home's to decide.
	for _, r := range d.regions {
		for _, p := range append(slices.Clone(d.victims), d.all()...) {
			if err := d.eventually(ctx, func() error { return d.asks(ctx, p, r) }); err != nil {
				return fmt.Errorf("%w: %s has not heard of a name of %s: %w", ErrNotWhole, r, p.in, err)
			}
		}
	}
	// Its own registrar answers in every region, and knows from the records who has what: after a
	// loss it takes seconds until it is back.
	for _, r := range d.regions {
		if err := d.eventually(ctx, func() error { return d.answers(ctx, r) }); err != nil {
			return fmt.Errorf("%w: the registrar of %s: %w", ErrNotWhole, r, err)
		}
	}
	// And everybody is heard by everybody.
	for _, from := range d.regions {
		for _, to := range d.regions {
			if err := d.eventually(ctx, func() error { return d.hears(ctx, d.people[from], d.people[to]) }); err != nil {
				return fmt.Errorf("%w: a message from %s to %s: %w", ErrNotWhole, from, to, err)
			}
		}
	}
	return nil
}

// answers asks a region for a registrar's word, and sees that it is that region's.
func (d *drill) answers(ctx context.Context, r ident.Region) error {
	ctx, cancel := context.WithTimeout(ctx, backWait)
	defer cancel()
	nc, err := d.Admin(ctx, r)
	if err != nil {
		return err
	}
	defer nc.Close()
	for _, p := range append(slices.Clone(d.victims), d.all()...) {
		said, err := client.Administer(ctx, d.Public.Operator, nc, wire.VerbReceipt, wire.AdminRequest{Identity: ident.OpenIdentity(p.user)})
		if err == nil && said.Word.Region != r.String() {
			err = fmt.Errorf("the registrar of %s answers instead", said.Word.Region)
		}
		if err == nil && (len(said.Standing) != 1 || said.Standing[0].Users == 0) {
			err = fmt.Errorf("it has not read the records of %s", p.in)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (d *drill) all() []*person {
	var out []*person
	for _, r := range d.regions {
		out = append(out, d.people[r])
	}
	return out
}

// victim is one of a region who was not revoked yet.
func (d *drill) victim(of ident.Region) (*person, error) {
	for i, p := range d.victims {
		if p.in == of {
			d.victims = slices.Delete(d.victims, i, i+1)
			return p, nil
		}
	}
	return nil, fmt.Errorf("nobody of %s is left to be revoked", of)
}

// eventually tries until it succeeds, and gives the last error.
func (d *drill) eventually(ctx context.Context, f func() error) error {
	ctx, cancel := context.WithTimeout(ctx, backWait)
	defer cancel()
	for {
		err := f()
		if err == nil || wait.For(ctx, 50*time.Millisecond) != nil {
			return err
		}
	}
}

// hears shows that a message of one reaches another.
func (d *drill) hears(ctx context.Context, from, to *person) error {
	channel, err := ident.ParseLabel("herald-drill")
	if err != nil {
		return err
	}
	to1, err := to.nc.SubscribeSync(subject.Post(d.room, channel))
	if err != nil {
		return err
	}
	defer func() { _ = to1.Unsubscribe() }() // fails only if the connection is gone
	if err := to.nc.FlushTimeout(time.Second); err != nil {
		return err
	}
	text := rand.Text()
	ctx, cancel := context.WithTimeout(ctx, time.Duration(d.Slower)*2*time.Second)
	defer cancel()
	for {
		// Again and again: that somebody listens takes a moment to be known far away.
		if err := errors.Join(from.nc.Publish(subject.Post(d.room, channel), []byte(text)), from.nc.FlushTimeout(time.Second)); err != nil {
			return err
		}
		short, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
		m, err := to1.NextMsgWithContext(short)
		cancel()
		if err == nil && string(m.Data) == text {
			return nil
		}
		if ctx.Err() != nil {
			return errors.New("it does not arrive")
		}
		if err != nil && !errors.Is(err, context.DeadlineExceeded) {
			return err
		}
	}
}

// credentials tries known names in regions.
func (d *drill) credentials(ctx context.Context, p *person, in ident.Region, should bool) {
	began := time.Now()
	err := d.asks(ctx, p, in)
	f := Finding{What: "credentials", Where: in.String(), Should: yes(should), Took: time.Since(began), OK: (err == nil) == should}
	if f.Saw = yes(err == nil); err == nil {
		f.Saw += ", by an issuer of " + p.cred.Region.String()
	} else if f.Saw += ": " + reason(err); should {
		f.OK = false
	}
	d.found(f)
}

// names tries a name that nobody has.
func (d *drill) names(ctx context.Context, in ident.Region, should bool) {
	began := time.Now()
	_, err := d.newPerson(ctx, in)
	f := Finding{What: "new names", Where: in.String(), Should: "yes", Saw: "yes", Took: time.Since(began), OK: (err == nil) == should}
	if !should {
		f.Should, f.OK = string(wire.ReadOnly), errors.Is(err, &wire.Error{Code: wire.ReadOnly})
	}
	if err != nil {
		f.Saw = reason(err)
	}
	d.found(f)
}

// messages tries whether people of two regions hear each other.
func (d *drill) messages(ctx context.Context, from, to ident.Region, should bool) {
	began := time.Now()
	err := d.hears(ctx, d.people[from], d.people[to])
	f := Finding{What: "messages", Where: from.String() + " to " + to.String(), Should: yes(should), Saw: yes(err == nil), Took: time.Since(began), OK: (err == nil) == should}
	if err != nil {
		f.Saw += ": " + reason(err)
	}
	d.found(f)
}

// revokes has a registrar that answers at one region's servers deny somebody, and sees that they
// are out.
func (d *drill) revokes(ctx context.Context, at ident.Region, p *person) {
	f := Finding{What: "revocation", Where: "asked in " + at.String() + ", of a user in " + p.in.String(), Should: fmt.Sprintf("out within %s", deniesWithin)}
	var went time.Time // when the user was out; read once gone is closed
	gone, end := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(gone)
		select {
		case <-p.out:
			went = time.Now()
		case <-end:
		}
	}()
	began, err := d.admin(ctx, at, wire.VerbSuspend, p)
	if err == nil {
		select {
		case <-gone:
		case <-time.After(backWait):
		case <-ctx.Done():
		}
	}
	close(end)
	<-gone
	switch {
	case err != nil:
		f.Saw = reason(err)
	case went.IsZero():
		f.Saw = "in"
	case went.Before(began):
		f.Saw = "out before it was asked"
	default:
		f.Took = went.Sub(began)
		f.Saw, f.OK = fmt.Sprintf("out %s after it was asked", f.Took.Round(time.Millisecond)), f.Took <= time.Duration(d.Slower)*deniesWithin
	}
	d.found(f)
}

// admin asks a registrar of a region, and tells when it did.
func (d *drill) admin(ctx context.Context, at ident.Region, verb string, p *person) (asked time.Time, err error) {
	ctx, cancel := context.WithTimeout(ctx, backWait)
	defer cancel()
	nc, err := d.Admin(ctx, at)
	if err != nil {
		return asked, err
	}
	defer nc.Close()
	asked = time.Now()
	_, err = client.Administer(ctx, d.Public.Operator, nc, verb, wire.AdminRequest{Identity: ident.OpenIdentity(p.user), Why: "a drill"})
	return asked, err
}

// denied sees that all servers of regions refuse somebody, from a moment on.
func (d *drill) denied(ctx context.Context, p *person, since time.Time, urls []string, where string) {
	f := Finding{What: "revocation", Where: where, Should: fmt.Sprintf("refused within %s", catchesUp), OK: true}
	ctx, cancel := context.WithTimeout(ctx, backWait)
	defer cancel()
	var last time.Duration
	for _, url := range urls {
		for {
			nc, _, err := d.connects(ctx, p, []string{url})
			if err == nil {
				nc.Close()
			}
			if errors.Is(err, nats.ErrAuthorization) {
				last = max(last, time.Since(since))
				break
			}
			if wait.For(ctx, 20*time.Millisecond) != nil {
				f.OK, f.Saw = false, "let in by "+url
				d.found(f)
				return
			}
		}
	}
	f.Took = last
	f.Saw, f.OK = fmt.Sprintf("refused after %s", last.Round(10*time.Millisecond)), last <= time.Duration(d.Slower)*catchesUp
	d.found(f)
}

// again sees that everybody who came before is let in, and that new names are given again.
func (d *drill) again(ctx context.Context, where ident.Region, what string) {
	began := time.Now()
	f := Finding{What: what, Where: where.String(), Should: "yes", Saw: "yes", OK: true}
	for _, p := range d.all() {
		err := d.eventually(ctx, func() error {
			if err := d.asks(ctx, p, where); err != nil {
				return err
			}
			nc, _, err := d.connects(ctx, p, d.urls(where))
			if err == nil {
				nc.Close()
			}
			return err
		})
		if err != nil {
			f.OK, f.Saw = false, "no: "+reason(err)
		}
	}
	if err := d.eventually(ctx, func() error { _, err := d.newPerson(ctx, where); return err }); err != nil {
		f.OK, f.Saw = false, "no new names: "+reason(err)
	}
	f.Took = time.Since(began)
	if f.OK {
		f.Saw = "yes, after " + f.Took.Round(100*time.Millisecond).String()
	}
	d.found(f)
}

func yes(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

// reason is why something did not work, for a table.
func reason(err error) string {
	var werr *wire.Error
	switch {
	case errors.As(err, &werr):
		return string(werr.Code)
	case errors.Is(err, client.ErrUnreachable), errors.Is(err, context.DeadlineExceeded):
		return "nobody answers"
	}
	s, _, _ := strings.Cut(err.Error(), "\n")
	return s[:min(len(s), 120)]
}
