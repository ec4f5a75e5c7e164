package service

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"strings"
	"sync/atomic"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats.go"

	"github.com/herald-nats/herald/internal/endpoint"
	"github.com/herald-nats/herald/internal/wait"
	"github.com/herald-nats/herald/pkg/audit"
	"github.com/herald-nats/herald/pkg/audit/stream"
	"github.com/herald-nats/herald/pkg/authn"
	"github.com/herald-nats/herald/pkg/authn/oidc"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/issuer"
	"github.com/herald-nats/herald/pkg/keystore"
	"github.com/herald-nats/herald/pkg/ledger"
	"github.com/herald-nats/herald/pkg/ledger/jetstream"
	"github.com/herald-nats/herald/pkg/platform"
	"github.com/herald-nats/herald/pkg/registrar"
	"github.com/herald-nats/herald/pkg/subject"
)

// keeper is the parts of a registrar that work on the ledger.
type keeper struct {
	region  ident.Region
	logins  *oidc.Method // of home's
	know    *knowledge
	signing *keystore.Key
	denials *registrar.Denials
	records *registrar.Records // what services wrote
	written *audit.Writer      // what it writes itself
	refresh chan audit.Record  // names that are to be kept for their holders
	read    *nats.Conn         // in READERS
	home    *registrar.Home    // nil elsewhere than in home
	watcher *registrar.Watcher // of the servers
	rebased chan struct{}      // the ledger has other base claims than before
	door    *registrar.Doorkeeper
	revoker *registrar.Revoker
	admin   *registrar.Admin
	writers *registrar.Writers
	rotor   *registrar.Rotor
	// reign is how long the registrar decides: until home moves to another region.
	reign    context.Context //nolint:containedctx // it ends before the service does
	abdicate context.CancelFunc
	// crowned tells that home's bucket has a platform document by which this region is home: the
	// one that is known may be from before home moved.
	crowned atomic.Bool

	clock *registrar.Clock

	accounts atomic.Pointer[[]string] // JWTs of the folder
}

// look has the servers' accounts looked at soon.
func (k *keeper) look() {
	select {
	case k.rebased <- struct{}{}:
	default: // it was said, and nobody has looked yet
	}
}

func (c *Config) startRegistrar(ctx, run context.Context, r *Running, log *slog.Logger) error {
	sys, err := c.attach(ctx, r, platform.SystemCreds, "system", log)
	if err != nil {
		return err
	}
	k := &keeper{region: c.Region, signing: r.files.signing, refresh: make(chan audit.Record, 1024), rebased: make(chan struct{}, 1), clock: &registrar.Clock{Now: c.now}}
	k.door = &registrar.Doorkeeper{Holdings: ledger.NewHoldings(), Kick: kicker(sys), Log: log, Now: c.now}
	accounts := r.files.accounts // which a reload replaces
	k.accounts.Store(&accounts)
	resolver := registrar.NewResolver(sys, c.operator, k.signing, c.now)
	resolver.Clock = k.clock
	resolver.Revoked = func(a ident.AccountKey) map[ledger.Key]ledger.Revocation { return k.know.projection.Revoked(a) }
	k.watcher = &registrar.Watcher{
		Resolver: resolver,
		Known:    func() []string { return append(k.know.bases(), *k.accounts.Load()...) },
		Changed:  k.rebased, Spread: issuer.Spread,
		Repaired: func(s registrar.Standing, by []string) { k.written.Note(registrar.RepairOf(s, by, c.now())) },
		Log:      log, Now: c.now,
	}
	// What time servers say it is, before anything is stated.
	bound, cancel := context.WithTimeout(ctx, clockWait)
	_, _ = resolver.Servers(bound, nil) // who does not answer is heard later
	cancel()
	if err := c.keepLedger(ctx, run, r, k, log); err != nil {
		return err
	}
	r.work.Go(func() { k.door.Run(run) })
	r.work.Go(func() { k.revoker.Run(run) })
	k.rotor = &registrar.Rotor{
		Signer: k.signing, Document: k.know.document, Ledger: k.know.projection, Operator: c.operator, Confirm: k.watcher.Confirm,
		Writers: k.writers, Read: k.records.EndedAt, Margin: cmp.Or(c.Pace, ledger.MaxAhead), Least: cmp.Or(3*c.Pace, heardWithin), Clock: k.clock, Spread: issuer.Spread, Log: log, Now: c.now,
	}
	if c.Region == c.platform.Home {
		if err := c.decide(ctx, run, r, k, log); err != nil {
			return err
		}
	}
	r.work.Go(func() {
		if err := k.watcher.Run(run); err != nil {
			log.Error("servers are not watched", "error", err)
		}
	})
	if err := c.administer(r, k, log); err != nil {
		return err
	}
	return r.doors.open(ctx, run)
}

// heardWithin is more than twice how long a writer is silent at most, and what it takes until what
// it wrote is read.
const heardWithin = 3 * audit.HeadEvery

// isIssuer tells whether a credential says that it is an issuer's. That it is believed costs
// nobody anything: it makes rotations wait.
func (k *keeper) isIssuer(token string) bool {
	c, err := jwt.DecodeUserClaims(token)
	if err != nil {
		return false
	}
	for _, a := range k.know.document().Public.Accounts {
		if a.Name.String() == platform.Auth {
			return a.Key.String() == c.IssuerAccount
		}
	}
	return false
}

// kicker has servers close connections, with the rights of a registrar in SYS.
func kicker(sys *nats.Conn) func(context.Context, string, uint64) error {
	return func(ctx context.Context, server string, client uint64) error {
		body, err := json.Marshal(map[string]uint64{"cid": client})
		if err != nil {
			return err
		}
		// Whatever it answers: it says no where there is no such connection any more.
		_, err = sys.RequestWithContext(ctx, subject.ServerKickOf(server), body)
		return err
	}
}

// own are the accounts in which nobody is denied but by who has the platform folder, and the
// account and the role of administrators.
func own() (untouchable []ident.Label, admin, role ident.Label, err error) {
	for _, name := range []string{platform.Admin, platform.System, platform.Ledger, platform.Readers, platform.Auth, platform.Guest, platform.Door} {
		l, err := ident.ParseLabel(name)
		if err != nil {
			return nil, admin, role, err
		}
		untouchable = append(untouchable, l)
	}
	role, err = ident.ParseLabel(platform.RoleAdmin)
	return untouchable, untouchable[0], role, err
}

// unread has the records of all regions read until ctx ends, and gives those of which that takes
// longer; see registrar.Admin.
func (k *keeper) unread(ctx context.Context) map[string]time.Time {
	now := k.clock.Now()
	regions := k.know.document().Public.Regions
	for _, r := range regions {
		k.records.News(r.Name.String())
	}
	for {
		lacking := map[string]time.Time{}
		for _, r := range regions {
			if at := k.records.EndedAt(r.Name.String()); at.Before(now) {
				lacking[r.Name.String()] = at
			}
		}
		if len(lacking) == 0 || wait.For(ctx, 5*time.Millisecond) != nil {
			return lacking
		}
	}
}

// administer answers administrators, who also find the registrar there and see how it is, as
// they do issuers.
func (c *Config) administer(r *Running, k *keeper, log *slog.Logger) error {
	untouchable, admin, role, err := own()
	if err != nil {
		return err
	}
	door, err := ident.ParseLabel(platform.Door)
	if err != nil {
		return err
	}
	k.admin = &registrar.Admin{
		Region: c.Region, Self: r.files.self, Administrators: admin, Role: role,
		Untouchable: untouchable, Unread: k.unread,
		Document: k.know.document, Ledger: k.know.projection, Holdings: k.door.Holdings, Denials: k.denials, Revoker: k.revoker,
		Confirm: k.watcher.Confirm, Rotations: k.rotor.Look, SealRotations: k.rotor.LookSeal, Door: door, Open: k.door.WaitingOf, Signing: k.signing, Refused: k.written.Note, Log: log, Now: c.now,
	}
	r.doors.add(k.timely(c.door(r, platform.LedgerCreds, "administration", log, func(nc *nats.Conn) (*endpoint.Server, error) {
		return endpoint.Serve(nc, Registrar, registrar.Queue, "names, denials and accounts in "+c.Region.String(),
			[]endpoint.Endpoint{k.admin.Endpoint()}, func() any { return r.Stats().shown() })
	})))
	return nil
}

// timely closes a door while the machine's clock is wrong: another region's registrars answer then,
// if they may.
func (k *keeper) timely(d *door) *door {
	d.later = true
	d.unable = func() string {
		if err := k.clock.Err(); err != nil {
			return err.Error()
		}
		return ""
	}
	return d
}

// attach connects with creds of the folder.
func (c *Config) attach(ctx context.Context, r *Running, file, what string, log *slog.Logger) (*nats.Conn, error) {
	r.mu.Lock()
	creds := r.files.creds[file] // a reload puts others in their place
	r.mu.Unlock()
	return c.dial(ctx, r, creds, what, log)
}

// keepLedger follows the ledger, keeps the region's denials, and takes note of what
// is issued in every region.
func (c *Config) keepLedger(ctx, run context.Context, r *Running, k *keeper, log *slog.Logger) error {
	write, err := c.attach(ctx, r, platform.LedgerCreds, "ledger", log)
	if err != nil {
		return err
	}
	self := r.files.self
	read, err := c.attach(ctx, r, platform.ReaderCreds, "reader", log)
	if err != nil {
		return err
	}
	k.read = read
	reader := r.files.creds[platform.ReaderCreds]
	secret, err := secretOf(reader.file)
	if err != nil {
		return err
	}
	if k.know, err = c.know(read, reader.user, secret, log); err != nil {
		return err
	}
	written, err := c.records(r, reader, stream.New(read, c.Region, reader.user), log)
	if err != nil {
		return err
	}
	k.written = written
	k.denials = &registrar.Denials{
		Region: c.Region, Self: self, Store: jetstream.NewDenials(write, read, c.Region), Projection: k.know.projection,
		Stated: func(e ledger.Entry) { k.written.Note(registrar.ChangeOf(e, "registrar", c.now())) },
		Opener: c.opener, Signer: ledger.KeySigner{Key: k.signing}, Publish: write.Publish, Clock: k.clock, Log: log, Now: c.now,
	}
	if c.Region == c.platform.Home {
		// Home verifies again what issuers pass on.
		k.logins = oidc.New(k.know.document().Providers, oidc.Options{Clock: c.now, Log: log})
		r.logins = k.logins
	}
	untouchable, admin, _, err := own()
	if err != nil {
		return err
	}
	k.revoker = &registrar.Revoker{
		Spared:  func(a ident.AccountKey) bool { return registrar.Spared(k.know.document(), a, untouchable, admin) },
		Denials: k.denials, Holdings: k.door.Holdings, Ledger: k.know.projection, Touch: k.watcher.Touch, Log: log, Now: c.now,
	}
	k.door.Gone = k.know.projection.Gone
	changed := func(e ledger.Entry) {
		k.denials.Changed(e)
		k.door.Changed(e)
		// Home decides of access keys.
		k.revoker.Changed(e, e.Key.Kind() == ledger.KindAccessKey && k.decides())
		if e.Key.Kind() == ledger.KindBase {
			k.look()
		}
		if e.Key == ledger.PlatformKey() {
			d := k.know.document()
			if k.logins != nil {
				k.logins.Use(d.Providers)
			}
			log.Info("the platform document is in force", "version", d.Public.Version.String())
			if !k.decides() && c.Region == c.platform.Home {
				log.Warn("this region is not home any more: nothing is decided here", "home", d.Public.Home.String())
				k.abdicate()
				r.doors.changed()
			}
		}
	}
	k.reign, k.abdicate = context.WithCancel(run)
	k.know.changed.Store(&changed)
	f := k.know.follower
	f.Stored = func(l string, e ledger.Entry) {
		if l == logDenials {
			k.denials.Stored(e)
		}
	}
	f.Spoilt = func(l, key string) {
		if l == logDenials {
			k.denials.Spoilt(key)
		}
	}
	f.Emptied = func(l string) {
		if l == logDenials {
			k.denials.Emptied()
		}
	}
	// What was known from the copy alone is looked after too: the own region's denials
	// are read from their beginning, to see which of them are there.
	maps.DeleteFunc(f.Positions, func(at string, _ uint64) bool { return strings.HasPrefix(at, logDenials) })
	k.denials.Emptied()
	k.know.run(run, r)
	r.work.Go(func() { k.written.Run(run) })
	if err := k.listen(write, c.Region); err != nil {
		return err
	}
	r.work.Go(func() { k.denials.Run(run) })

	k.writers = &registrar.Writers{Issues: k.isIssuer}
	k.records = &registrar.Records{Holdings: k.door.Holdings, Writers: k.writers, Log: log, Now: c.now, Issued: func(rec audit.Record) {
		k.door.Issued(rec)
		k.revoker.Issued(rec)
		if k.decides() {
			k.issued(rec)
		}
	}}
	if err := jetstream.RecordNews(read, k.records.News); err != nil {
		return err
	}
	for _, region := range c.platform.Regions {
		r.work.Go(func() { k.records.Follow(run, region.Name.String(), jetstream.RecordsSource(read, region.Name)) })
	}
	r.keeper = k
	return nil
}

// listen hears the other registrars. One of a region is enough to answer a
// comparison; what is sent, all of them want.
func (k *keeper) listen(nc *nats.Conn, region ident.Region) error {
	take := func(m *nats.Msg) { k.denials.Message(m.Subject[strings.LastIndexByte(m.Subject, '.')+1:], m.Data) }
	if _, err := nc.Subscribe(subject.PeerDigests, take); err != nil {
		return fmt.Errorf("listening for other registrars: %w", err)
	}
	if _, err := nc.QueueSubscribe(subject.PeerCompare(region), registrar.Queue, take); err != nil {
		return fmt.Errorf("listening for other registrars: %w", err)
	}
	if _, err := nc.Subscribe(subject.PeerEntries(region), take); err != nil {
		return fmt.Errorf("listening for other registrars: %w", err)
	}
	return nil
}

// clockWait bounds how long a registrar listens for the time at its start: servers nearby answer in
// milliseconds.
const clockWait = 300 * time.Millisecond

// askEvery is how often home's registrars look in the bucket for a platform document that they
// have not heard of: where home moved, their own mirror may never have it.
const askEvery = time.Second

// ask looks in home's bucket which platform document is in force.
func (k *keeper) ask(ctx context.Context, bucket *jetstream.Decisions, o ledger.Opener, r *Running) {
	token, _, err := bucket.Get(ctx, ledger.PlatformKey())
	if err != nil {
		return // who asks home is told that nothing can be decided
	}
	e, err := o.Open(ledger.PlatformKey().String(), token)
	if err != nil {
		return // what is there is not believed; Home says so to whoever asks
	}
	k.know.projection.Apply(e)
	if k.decides() && !k.crowned.Swap(true) {
		r.doors.changed()
	}
}

// decides tells whether the registrar's region is home, as far as is known.
func (k *keeper) decides() bool { return k.know.document().Public.Home == k.region }

// issued sees whether a credential keeps a name for longer.
func (k *keeper) issued(rec audit.Record) {
	if rec.Name.IsZero() {
		return
	}
	n, gone, ok := k.know.projection.Name(rec.Name)
	rules := k.know.document().Names
	if !ok || gone || n.Holder != rec.Identity || n.Until == 0 ||
		time.Unix(rec.Expires, 0).Add(rules.Lapse).Sub(time.Unix(n.Until, 0)) < rules.Step {
		return
	}
	select {
	case k.refresh <- rec:
	default: // the next renewal says it again
	}
}

// decide answers what issuers ask of home, and keeps names for their holders.
func (c *Config) decide(ctx, run context.Context, r *Running, k *keeper, log *slog.Logger) error {
	store, err := c.attach(ctx, r, platform.HomeCreds, "decisions", log)
	if err != nil {
		return err
	}
	decisions, err := jetstream.NewDecisions(store)
	if err != nil {
		return err
	}
	auth, err := ident.ParseLabel(platform.Auth)
	if err != nil {
		return err
	}
	decider := func() *ledger.Decider {
		return &ledger.Decider{
			Store: decisions, Opener: c.opener, Signer: ledger.KeySigner{Key: k.signing},
			Rules: k.know.document().Names, Known: k.know.projection.Version,
			Epoch: k.know.document().Epoch(), Recall: k.know.projection.Recall,
			Decided: func(e ledger.Entry) {
				k.know.projection.Apply(e)
				k.written.Note(registrar.ChangeOf(e, "home", c.now()))
			},
		}
	}
	home := &registrar.Home{
		Region: c.Region, Decider: decider, Document: k.know.document, Issuers: auth, Limits: registrar.DefaultLimits(), Clock: k.clock, Log: log, Now: c.now,
		Names: ledger.NameCounts{
			Projection: k.know.projection, Now: c.now, Rules: func() ledger.NameRules { return k.know.document().Names },
		},
		Methods: authn.Methods{k.logins}, AccessKey: k.know.projection.AccessKey, Redeemed: k.know.projection.Redeemed,
		Suspended: func(id ident.Identity) bool {
			_, denied := k.know.projection.Denied(id, ident.AccountKey{}, ident.UserKey{})
			return denied
		},
	}
	k.home, k.rotor.Decider = home, decider
	// Before it is complete it could decide against what was decided.
	if err := k.know.complete(ctx); err != nil {
		return err
	}
	if !k.decides() {
		log.Warn("this region is not home any more: nothing is decided here", "home", k.know.document().Public.Home.String(),
			"hint", "bring it its folder as 'nscsetup home move' left it")
		k.abdicate()
		return nil
	}
	k.logins.Use(k.know.document().Providers)
	door := k.timely(c.door(r, platform.HomeCreds, "home", log, func(nc *nats.Conn) (*endpoint.Server, error) {
		return endpoint.ServeQuiet(nc, registrar.Queue, home.Endpoints())
	}))
	door.wanted = func() bool { return k.decides() && k.reign.Err() == nil }
	inner := door.unable
	door.later, door.unable = true, func() string {
		if !k.crowned.Load() {
			return "home's bucket was not asked yet whether this region is home"
		}
		return inner()
	}
	k.ask(ctx, decisions, c.opener, r)
	r.work.Go(func() {
		for wait.For(k.reign, askEvery) == nil {
			k.ask(k.reign, decisions, c.opener, r)
		}
	})
	r.doors.add(door)
	mirrors := &registrar.Mirrors{
		Origin: decisions, Copies: map[ident.Region]ledger.Source{}, Publish: k.denials.Publish, Log: log, Now: c.now,
		Fork: func() (uint64, bool) {
			moves := k.know.document().Moves
			if len(moves) == 0 {
				return 0, false
			}
			return moves[len(moves)-1].Last, true
		},
	}
	for _, region := range c.platform.Regions {
		mirrors.Copies[region.Name] = jetstream.MirrorSource(k.read, region.Name)
	}
	r.work.Go(func() { mirrors.Run(k.reign) })
	r.work.Go(func() { k.rotor.Run(k.reign) })
	r.work.Go(func() {
		for {
			select {
			case <-k.reign.Done():
				return
			case rec := <-k.refresh:
				if k.clock.Err() != nil {
					continue // what it would decide is from another time
				}
				// A failure is nothing to tell: the next renewal asks again.
				if _, err := decider().Refresh(k.reign, rec.Name, rec.Identity, time.Unix(rec.Expires, 0), c.now()); err != nil {
					log.Debug("a name was not kept for longer", "name", rec.Name.String(), "error", err)
				}
			}
		}
	})
	return nil
}
