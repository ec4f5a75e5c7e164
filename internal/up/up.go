// Package up runs a whole platform from its folder in one process: the servers
// of every region, the accounts on all of them, the ledger's streams, and, if
// wanted, an issuer and a registrar in each region. `nscsetup up`, the demo and
// the tests use it; a production platform runs these parts apart.
package up

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/herald-nats/herald/internal/apply"
	"github.com/herald-nats/herald/internal/service"
	"github.com/herald-nats/herald/internal/supercluster"
	"github.com/herald-nats/herald/pkg/platform"
)

// Config says what to run.
type Config struct {
	Dir      string // a platform folder
	Nodes    int    // run only the first so many of each region; 0 is all
	WAN      bool   // delay what passes between regions
	Services bool   // run an issuer and a registrar in each region
	Log      io.Writer
	Pace     time.Duration // see service.Config
}

// Up is a platform that runs.
type Up struct {
	Platform *platform.Platform
	Cluster  *supercluster.Supercluster
	Services []*service.Running
	Took     time.Duration // from Start to ready
	log      *slog.Logger
	pace     time.Duration
	mu       sync.Mutex // of Services, once it runs
	lock     *os.File
}

// Start returns when every server has every account, the ledger's streams are
// there and the services answer; or with an error, and then nothing runs.
func Start(ctx context.Context, c Config) (*Up, error) {
	began := time.Now()
	if c.Log == nil {
		c.Log = io.Discard
	}
	p, err := platform.Open(c.Dir)
	if err != nil {
		return nil, err
	}
	u := &Up{Platform: p, pace: c.Pace, log: slog.New(slog.NewJSONHandler(c.Log, nil))}
	// Two that run one folder's data would destroy it.
	if u.lock, err = lockDir(p.Dir.Data()); err != nil {
		return nil, err
	}
	err = u.start(ctx, c)
	if err != nil {
		// What was started is stopped also when the reason is that ctx ended.
		stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		return nil, errors.Join(err, u.Close(stop))
	}
	u.Took = time.Since(began)
	return u, nil
}

func (u *Up) start(ctx context.Context, c Config) error {
	p := u.Platform
	if _, err := p.RenewServices(time.Now()); err != nil {
		return err
	}
	if err := u.servers(ctx, c); err != nil {
		return err
	}
	if err := u.apply(ctx); err != nil {
		return err
	}
	if c.Services {
		return u.services(ctx)
	}
	return nil
}

// apply brings what the platform file says into force on the servers that were started.
func (u *Up) apply(ctx context.Context) error {
	home, _ := u.Platform.File.Region(u.Platform.File.Home)
	t := apply.Tool{Platform: u.Platform, Log: u.log, Now: time.Now, URLs: u.Platform.File.ClientURLs(home)}
	for _, s := range u.Cluster.Servers() {
		t.Nodes = append(t.Nodes, s.Name)
	}
	r, err := t.Apply(ctx, nil)
	if err != nil {
		return err
	}
	for _, b := range r.Behind {
		return fmt.Errorf("bringing the accounts to all servers: server %s: %s", b.Server, b.Why)
	}
	if r.Unrecorded != nil {
		u.log.Warn("what was decided is not recorded", "error", r.Unrecorded)
	}
	if !r.Plan.Empty() {
		u.log.Info("the platform file is in force", "version", r.Version.String(), "accounts", len(r.Plan.Accounts))
	}
	return nil
}

func (u *Up) services(ctx context.Context) error {
	for _, r := range u.Platform.File.Regions {
		// Registrars first: an issuer that answers before home decides names
		// would refuse the first callers.
		for _, dir := range []string{u.Platform.Dir.Registrar(r.Name), u.Platform.Dir.Issuer(r.Name)} {
			if err := u.serve(ctx, dir); err != nil {
				return err
			}
		}
	}
	return nil
}

// RenewServices gives services whose credential is past half of its life a new
// one; they use it at their next connect, which the servers cause before the
// old one ends.
func (u *Up) RenewServices() {
	renewed, err := u.Platform.RenewServices(time.Now())
	if err != nil {
		u.log.Error("service credentials are not renewed", "error", err)
	}
	if len(renewed) > 0 {
		u.log.Info("service credentials renewed", "files", renewed)
	}
}

// Close drains the services and stops the servers, within the context's bound.
func (u *Up) Close(ctx context.Context) error {
	var errs []error
	// The services get half of the time, all of them at once: the servers must
	// have theirs, because what they store is at stake.
	sctx, cancel := half(ctx)
	defer cancel()
	var (
		work sync.WaitGroup
		mu   sync.Mutex
	)
	u.mu.Lock()
	services := u.Services
	u.Services = nil
	u.mu.Unlock()
	for _, s := range services {
		work.Go(func() {
			err := s.Drain(sctx)
			mu.Lock()
			defer mu.Unlock()
			errs = append(errs, err)
		})
	}
	work.Wait()
	if u.Cluster != nil {
		errs = append(errs, u.Cluster.Close(ctx))
	}
	if u.lock != nil {
		errs = append(errs, u.lock.Close())
		u.lock = nil
	}
	return errors.Join(errs...)
}

func half(ctx context.Context) (context.Context, context.CancelFunc) {
	deadline, ok := ctx.Deadline()
	if !ok {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, time.Until(deadline)/2)
}

// ErrRunning: another process runs this platform folder.
var ErrRunning = errors.New("this platform runs already")

func lockDir(dir string) (*os.File, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("making the data folder: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600) // #nosec G304 -- a fixed name in the user's folder
	if err != nil {
		return nil, fmt.Errorf("locking the data folder: %w", err)
	}
	// Held by the open file: it ends with the process, however that ends.
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil { // #nosec G115 -- a descriptor is small
		return nil, errors.Join(fmt.Errorf("%s: %w", dir, ErrRunning), f.Close())
	}
	return f, nil
}
