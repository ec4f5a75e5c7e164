// Package uptest gives tests a whole platform that runs: real servers in three
// regions, real issuers and registrars. One is shared by all tests of a test
// binary, which use fresh names and keys; nothing here is a mock.
package uptest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/herald-nats/herald/internal/up"
	"github.com/herald-nats/herald/pkg/client"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/platform"
)

// Platform is a running platform.
type Platform struct {
	Dir    string
	Up     *up.Up
	Public *client.Platform
	ports  *Ports
	names  atomic.Int64
}

// Options say what to run.
type Options struct {
	Regions []string // default: ams, sfo, sgp; the first is home
	WAN     bool
	Bare    bool // no services
	TLS     bool // for clients, routes and gateways, as of `nscsetup init --tls`
	Leaf    bool // the first server of home takes leafnodes
	// More is added to the platform file before anything runs: where servers are configured
	// by it, it cannot come later. It begins with more grants.
	More string
	Log  io.Writer
	Pace time.Duration // see service.Config
}

// StartWait bounds a start; servers on existing data wait out an election.
const StartWait = 40 * time.Second

// Init makes a platform in dir/platform on ports that no other test uses. The
// caller releases the ports.
func Init(ctx context.Context, dir string, o Options) (*platform.Platform, *Ports, error) {
	if len(o.Regions) == 0 {
		o.Regions = []string{"ams", "sfo", "sgp"}
	}
	name, err := ident.ParseName("test")
	if err != nil {
		return nil, nil, err
	}
	spec := platform.Spec{Name: name, Nodes: platform.MinNodes}
	for _, r := range o.Regions {
		region, err := ident.ParseRegion(r)
		if err != nil {
			return nil, nil, err
		}
		spec.Regions = append(spec.Regions, region)
	}
	spec.Home = spec.Regions[0]
	ports, err := Reserve(ctx, spec.Ports()+1)
	if err != nil {
		return nil, nil, err
	}
	spec.Port = ports.First
	create := platform.Init
	if o.TLS {
		create = platform.InitTLS
	}
	p, err := create(ctx, filepath.Join(dir, "platform"), spec, time.Now())
	if err == nil && o.Leaf {
		err = takeLeafnodes(p, spec.Port+spec.Ports())
	}
	if err == nil && o.More != "" {
		p, err = describe(p, o.More)
	}
	if err != nil {
		return nil, nil, errors.Join(err, ports.Release())
	}
	return p, ports, nil
}

// describe adds to a platform file.
func describe(p *platform.Platform, more string) (*platform.Platform, error) {
	data, err := os.ReadFile(p.Dir.File())
	if err != nil {
		return nil, fmt.Errorf("reading the platform file: %w", err)
	}
	if err := os.WriteFile(p.Dir.File(), append(data, more...), 0o600); err != nil { // #nosec G703 -- the platform that was just made
		return nil, fmt.Errorf("writing the platform file: %w", err)
	}
	return platform.Open(string(p.Dir))
}

// takeLeafnodes lets the first server of the platform file listen for them.
func takeLeafnodes(p *platform.Platform, port int) error {
	data, err := os.ReadFile(p.Dir.File())
	if err != nil {
		return fmt.Errorf("reading the platform file: %w", err)
	}
	file := strings.Replace(string(data), ", gateway:", fmt.Sprintf(", leafnode: %q, gateway:", net.JoinHostPort("127.0.0.1", strconv.Itoa(port))), 1)
	if file == string(data) {
		return errors.New("the platform file has no server")
	}
	if err := os.WriteFile(p.Dir.File(), []byte(file), 0o600); err != nil { // #nosec G703 -- the platform that was just made
		return fmt.Errorf("writing the platform file: %w", err)
	}
	return nil
}

// Start makes a platform under dir and runs it.
func Start(dir string, o Options) (*Platform, error) {
	ctx, cancel := context.WithTimeout(context.Background(), StartWait)
	defer cancel()
	p, ports, err := Init(ctx, dir, o)
	if err != nil {
		return nil, err
	}
	t := &Platform{Dir: string(p.Dir), ports: ports}
	if t.Up, err = up.Start(ctx, up.Config{Dir: t.Dir, WAN: o.WAN, Services: !o.Bare, Log: o.Log, Pace: o.Pace}); err != nil {
		return nil, errors.Join(err, ports.Release())
	}
	if t.Public, err = client.LoadPlatform(p.Dir.Public()); err != nil {
		return nil, errors.Join(err, t.Close())
	}
	return t, nil
}

// Close stops everything.
func (t *Platform) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	return errors.Join(t.Up.Close(ctx), t.ports.Release())
}

// Name is a name that nobody else in this platform has.
func (t *Platform) Name(prefix string) ident.Name {
	n, err := ident.ParseName(prefix + "-" + strconv.FormatInt(t.names.Add(1), 10))
	if err != nil {
		panic(err) // the test's own prefix is wrong
	}
	return n
}

// Ports is a block of ports that this process alone uses.
type Ports struct {
	First int
	lock  net.Listener
}

// Reserve finds a block of n ports. Test binaries run side by side, and each
// starts many servers on ports that are written down before they are used; so
// a block belongs to whoever listens on the port before it.
func Reserve(ctx context.Context, n int) (*Ports, error) {
	const from, to, block = 10240, 32704, 64
	if n >= block {
		return nil, fmt.Errorf("%d ports in one block", n)
	}
	var lc net.ListenConfig
	start := (os.Getpid() % ((to - from) / block)) * block
	for i := 0; i < to-from; i += block {
		base := from + (start+i)%(to-from-block)/block*block
		l, err := lc.Listen(ctx, "tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(base)))
		if err != nil {
			continue
		}
		if free(ctx, base+1, n) {
			return &Ports{First: base + 1, lock: l}, nil
		}
		if err := l.Close(); err != nil {
			return nil, fmt.Errorf("giving a port back: %w", err)
		}
	}
	return nil, fmt.Errorf("no %d free ports in a row", n)
}

func free(ctx context.Context, first, n int) bool {
	var lc net.ListenConfig
	for p := first; p < first+n; p++ {
		l, err := lc.Listen(ctx, "tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(p)))
		if err != nil || l.Close() != nil {
			return false
		}
	}
	return true
}

// Release gives the block back.
func (p *Ports) Release() error { return p.lock.Close() }

// Build builds programs of this module into dir, with extra arguments for `go
// build`, such as -overlay.
func Build(ctx context.Context, dir string, args []string, packages ...string) error {
	args = append(append([]string{"build", "-o", dir + string(os.PathSeparator)}, args...), packages...)
	c := exec.CommandContext(ctx, "go", args...) // #nosec G204 -- tests build the programs that they run
	root, err := Root()
	if err != nil {
		return err
	}
	c.Dir = root
	if out, err := c.CombinedOutput(); err != nil {
		return fmt.Errorf("go %v: %w\n%s", args, err, out)
	}
	return nil
}

// Root is the module's folder.
func Root() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("finding the module: %w", err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return "", errors.New("finding the module: no go.mod above")
		}
		dir = parent
	}
}
