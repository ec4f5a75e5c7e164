package service

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/herald-nats/herald/internal/natsconn"
	"github.com/herald-nats/herald/internal/wait"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/keystore"
	"github.com/herald-nats/herald/pkg/ledger"
	"github.com/herald-nats/herald/pkg/ledger/diskcopy"
	"github.com/herald-nats/herald/pkg/ledger/jetstream"
)

// Names of the logs that services follow.
const (
	logDecisions = "decisions"
	logDenials   = "denials"
)

// copyFile is the sealed copy in a service's state folder, and copyEvery how often
// what changed is added to it.
const (
	copyFile  = "ledger.copy"
	copyEvery = 2 * time.Second
)

// knowledge is the ledger as a service knows it: the projection, who keeps it up to
// date, and its copy on the disk.
type knowledge struct {
	projection *ledger.Projection
	follower   *ledger.Follower
	copy       *diskcopy.Copy // nil: there is none
	loaded     diskcopy.Loaded
	log        *slog.Logger
	now        func() time.Time
	changed    atomic.Pointer[func(ledger.Entry)] // what a service wants to be told
	failing    atomic.Bool                        // the last flush failed; only who flushes sets it
	epoch      atomic.Uint32                      // of what home decides, as it is followed
}

// know loads the copy and prepares to follow over a connection in AUTH or READERS. It
// follows once run is called.
func (c *Config) know(nc *nats.Conn, self ident.UserKey, secret []byte, log *slog.Logger) (*knowledge, error) {
	k := &knowledge{log: log, now: c.now}
	k.projection = ledger.NewProjection(k.told)
	if c.Service == Registrar && c.Region == c.platform.Home {
		k.projection.CountHolders()
	}
	k.openCopy(filepath.Join(c.State, copyFile), secret, diskcopy.About{Operator: c.operator, Region: c.Region, Service: self}, c.opener)
	// The folder's document is what there is at the very first start; any other has a
	// higher version.
	k.projection.Apply(c.entry)
	hints, err := jetstream.Hints(nc, c.Region)
	if err != nil {
		return nil, errors.Join(err, k.closeCopy())
	}
	decisions := ledger.Log{
		Name: logDecisions, Near: jetstream.MirrorSource(nc, c.Region), Takes: func(k ledger.Key) bool { return !k.Denial() },
		// Home's own mirror, which is beside the bucket: the positions are the same.
		Far:   atHome{nc, k},
		Epoch: k.document().Epoch(),
	}
	k.epoch.Store(decisions.Epoch)
	k.follower = &ledger.Follower{
		Projection: k.projection, Opener: c.opener, Hints: hints, Positions: k.loaded.Positions, Log: log,
		Skips: c.skips(),
		Logs:  []ledger.Log{decisions, {Name: logDenials, Near: jetstream.DenialsSource(nc, c.Region), Takes: ledger.Key.Denial}},
	}
	return k, nil
}

// atHome is the mirror in the region that is home now.
type atHome struct {
	nc *nats.Conn
	k  *knowledge
}

var _ ledger.Marked = atHome{}

func (s atHome) source() *jetstream.Source {
	return jetstream.MirrorSource(s.nc, s.k.document().Public.Home)
}

// Read implements ledger.Source.
func (s atHome) Read(ctx context.Context, after uint64, limit int) ([]ledger.Stored, error) {
	return s.source().Read(ctx, after, limit)
}

// Last implements ledger.Source.
func (s atHome) Last(ctx context.Context) (uint64, error) { return s.source().Last(ctx) }

// Ends implements ledger.Marked.
func (s atHome) Ends(ctx context.Context) (first, last ledger.Mark, err error) {
	return s.source().Ends(ctx)
}

// skips are keys that the service has no use for. An issuer signs by what the platform
// document says; accounts are enforced by the servers and are the registrars' business, and
// there may be ten thousand of them.
func (c *Config) skips() func(key string) bool {
	if c.Service != Issuer {
		return nil
	}
	return func(key string) bool {
		kind, _, _ := strings.Cut(key, ".")
		return ledger.Kind(kind) == ledger.KindBase
	}
}

// told passes on what came to hold.
func (k *knowledge) told(e ledger.Entry) {
	if k.copy != nil {
		k.copy.Note(e)
	}
	if d, ok := e.Body.(*ledger.Document); ok && k.follower != nil && k.epoch.Swap(d.Epoch()) != d.Epoch() {
		k.log.Warn("home has moved; what it decided is read anew", "home", d.Public.Home.String(), "document", d.Public.Version.String())
		k.follower.Begin(logDecisions, d.Epoch())
	}
	if f := k.changed.Load(); f != nil {
		(*f)(e)
	}
}

// openCopy loads the copy. Whatever is wrong with it, the service starts: it reads the
// ledger instead.
func (k *knowledge) openCopy(path string, secret []byte, about diskcopy.About, o ledger.Opener) {
	began := time.Now()
	cp, err := diskcopy.Open(path, secret, about)
	if err != nil {
		k.log.Warn("working without a copy of the ledger on the disk; each start reads the ledger anew", "path", path, "error", err)
		return
	}
	k.copy = cp
	if k.loaded, err = cp.Load(k.projection, o.Now); err != nil {
		k.log.Warn("the copy of the ledger is not used; the ledger is read anew", "path", path, "error", err)
		return
	}
	if k.loaded.Damage != nil {
		k.log.Warn("the copy of the ledger is damaged; the rest is read from the ledger", "path", path, "error", k.loaded.Damage)
	}
	if k.loaded.Refused > 0 {
		k.log.Warn("entries of the copy of the ledger are not believed", "path", path, "entries", k.loaded.Refused, "error", k.loaded.Refusal)
	}
	if k.loaded.Positions != nil {
		k.log.Info("what is known is from the copy on the disk", "path", path, "names", k.loaded.Names, "others", k.loaded.Others,
			"age", k.now().Sub(k.loaded.Written).Round(time.Second), "took", time.Since(began).Round(time.Millisecond))
	}
}

// run follows, and keeps the copy, until ctx ends.
func (k *knowledge) run(ctx context.Context, r *Running) {
	r.knows = k
	r.work.Go(func() { k.follower.Run(ctx) })
	if k.copy != nil {
		r.work.Go(func() {
			for wait.For(ctx, copyEvery) == nil {
				k.flush()
			}
		})
	}
}

// flush adds what changed to the copy.
func (k *knowledge) flush() {
	// Before it is complete a copy would have no positions to be used with.
	select {
	case <-k.follower.Ready():
	default:
		return
	}
	at := k.follower.At() // before the entries are looked at
	err := k.copy.Flush(k.projection, at, k.now())
	failed := k.failing.Swap(err != nil)
	switch {
	case err == nil:
		if failed {
			k.log.Info("the copy of the ledger is written again")
		}
	case !failed:
		hint := "make room, or set state in provisioner.yaml to a folder that this service may write"
		if errors.Is(err, fs.ErrPermission) || errors.Is(err, syscall.EROFS) {
			hint = "set state in provisioner.yaml to a folder that this service may write"
		}
		k.log.Error("the copy of the ledger cannot be written; the service goes on with what it has in memory", "error", err, "hint", hint)
	}
}

// close writes the copy for the last time. Nothing follows any more.
func (k *knowledge) close() {
	if k.copy != nil {
		k.flush()
	}
	if err := k.closeCopy(); err != nil {
		k.log.Warn("closing the copy of the ledger", "error", err)
	}
}

func (k *knowledge) closeCopy() error {
	if k.copy == nil {
		return nil
	}
	return k.copy.Close()
}

// complete waits until what is known is complete.
func (k *knowledge) complete(ctx context.Context) error {
	select {
	case <-k.follower.Ready():
		names, decided, denials := k.projection.Len()
		k.log.Info("the ledger is known", "names", names, "others", decided, "denials", denials)
		return nil
	case <-ctx.Done():
		return fmt.Errorf("reading the ledger: %w", context.Cause(ctx))
	}
}

// bases are the account JWTs of the base claims that home decided.
func (k *knowledge) bases() []string {
	var tokens []string
	for _, e := range k.projection.Bases() {
		if b, ok := e.Body.(ledger.Base); ok {
			tokens = append(tokens, b.JWT)
		}
	}
	return tokens
}

// document is the platform document that is in force; there is always one.
func (k *knowledge) document() *ledger.Document {
	d, _ := k.projection.Document()
	return d
}

// secretOf is a service's own seed, from which the key of its copy is derived.
func secretOf(creds natsconn.FileCredential) ([]byte, error) {
	data, err := keystore.ReadSecret(creds.Path)
	if err != nil {
		return nil, err
	}
	cred, err := natsconn.ParseCreds(data)
	if err != nil {
		return nil, err
	}
	return cred.Key.Seed()
}
