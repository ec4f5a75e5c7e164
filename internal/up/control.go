package up

import (
	"bufio"
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/herald-nats/herald/internal/supercluster"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/keystore"
	"github.com/herald-nats/herald/pkg/platform"
)

// controlFile names, in the data folder, where a running `up` takes commands
// and the token that proves the right to give them: who may read the file.
const controlFile = "control.json"

// ErrNotRunning: no `up` runs this platform.
var ErrNotRunning = errors.New("the platform does not run here")

// Operations on a running platform.
const (
	OpCut   = "cut"
	OpHeal  = "heal"
	OpStop  = "stop"
	OpStart = "start"
	OpLinks = "links"
	// OpStopIssuer and OpStartIssuer are about a region's issuer, and OpLoseDisk has the last
	// server of a region start with an empty disk.
	OpStopIssuer  = "stop-issuer"
	OpStartIssuer = "start-issuer"
	OpLoseDisk    = "lose-disk"
	// OpRestartRegistrar ends a region's registrar and starts it from its folder.
	OpRestartRegistrar = "restart-registrar"
)

type controlAddress struct {
	Address string `json:"address"`
	Token   string `json:"token"`
}

// Command is one operation on the running platform.
type Command struct {
	Op      string         `json:"op"`
	Regions []ident.Region `json:"regions,omitempty"`
	Token   string         `json:"token"`
}

// Link is how two regions are joined.
type Link struct {
	A     ident.Region `json:"a"`
	B     ident.Region `json:"b"`
	Cut   bool         `json:"cut"`
	RTTms float64      `json:"rtt_ms"`
}

// Reply answers a Command.
type Reply struct {
	Error string `json:"error,omitempty"`
	Links []Link `json:"links,omitempty"`
	URL   string `json:"url,omitempty"` // of the server that lost its disk
}

const (
	controlWait = 20 * time.Second // for one command: a region takes seconds to come up
	controlLine = 4 << 10
)

// Control takes commands until ctx ends.
type control struct {
	up    *Up
	token string
	l     net.Listener
	work  sync.WaitGroup
}

// Control listens on loopback for commands from nscsetup; stop it with the
// returned function, which waits for what is at work.
func (u *Up) Control(ctx context.Context) (stop func() error, err error) {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("listening for commands: %w", err)
	}
	var secret [24]byte
	_, _ = rand.Read(secret[:]) // never fails, as of Go 1.24
	c := &control{up: u, token: base64.RawURLEncoding.EncodeToString(secret[:]), l: l}
	data, err := json.Marshal(controlAddress{l.Addr().String(), c.token})
	if err == nil {
		err = keystore.ReplaceSecret(filepath.Join(u.Platform.Dir.Data(), controlFile), data)
	}
	if err != nil {
		return nil, errors.Join(err, l.Close())
	}
	ctx, cancel := context.WithCancel(ctx)
	c.work.Go(func() { c.accept(ctx) })
	return func() error {
		cancel()
		err := errors.Join(l.Close(), os.Remove(filepath.Join(u.Platform.Dir.Data(), controlFile)))
		c.work.Wait()
		return err
	}, nil
}

func (c *control) accept(ctx context.Context) {
	for {
		conn, err := c.l.Accept()
		if err != nil {
			return // closed
		}
		c.work.Go(func() {
			defer func() { _ = conn.Close() }() // the reply was sent or could not be
			ctx, cancel := context.WithTimeout(ctx, controlWait)
			defer cancel()
			// Whoever connects and says nothing must not hold up the end.
			stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
			defer stop()
			var cmd Command
			line, err := bufio.NewReader(io.LimitReader(conn, controlLine)).ReadBytes('\n')
			if err != nil || json.Unmarshal(line, &cmd) != nil {
				return
			}
			if subtle.ConstantTimeCompare([]byte(cmd.Token), []byte(c.token)) != 1 {
				return
			}
			r := c.do(ctx, cmd)
			data, err := json.Marshal(r)
			if err != nil {
				return
			}
			_, _ = conn.Write(append(data, '\n')) // who asked has gone, or has the reply
		})
	}
}

func (c *control) do(ctx context.Context, cmd Command) Reply {
	var err error
	switch {
	case cmd.Op == OpLinks:
		return Reply{Links: links(c.up.Cluster)}
	case cmd.Op == OpCut && len(cmd.Regions) == 2:
		err = c.up.Cluster.Cut(cmd.Regions[0], cmd.Regions[1])
	case cmd.Op == OpHeal && len(cmd.Regions) == 2:
		err = c.up.Cluster.Heal(cmd.Regions[0], cmd.Regions[1])
	case cmd.Op == OpStop && len(cmd.Regions) == 1:
		err = c.up.Cluster.StopRegion(ctx, cmd.Regions[0])
	case cmd.Op == OpStart && len(cmd.Regions) == 1:
		err = c.up.Cluster.StartRegion(ctx, cmd.Regions[0])
	case cmd.Op == OpStopIssuer && len(cmd.Regions) == 1:
		err = c.up.StopIssuer(ctx, cmd.Regions[0])
	case cmd.Op == OpStartIssuer && len(cmd.Regions) == 1:
		err = c.up.StartIssuer(ctx, cmd.Regions[0])
	case cmd.Op == OpRestartRegistrar && len(cmd.Regions) == 1:
		err = c.up.RestartRegistrar(ctx, cmd.Regions[0])
	case cmd.Op == OpLoseDisk && len(cmd.Regions) == 1:
		var url string
		if url, err = c.up.LoseDisk(ctx, cmd.Regions[0]); err == nil {
			return Reply{URL: url}
		}
	default:
		err = fmt.Errorf("unknown command %.20q", cmd.Op)
	}
	if err != nil {
		return Reply{Error: err.Error()}
	}
	return Reply{}
}

func links(s *supercluster.Supercluster) []Link {
	var out []Link
	for _, l := range s.Links() {
		out = append(out, Link{A: l.A, B: l.B, Cut: l.Cut, RTTms: float64(l.RTT) / float64(time.Millisecond)})
	}
	return out
}

// Send gives a command to the `up` that runs the platform in dir.
func Send(ctx context.Context, dir platform.Dir, cmd Command) (Reply, error) {
	data, err := keystore.ReadSecret(filepath.Join(dir.Data(), controlFile))
	if errors.Is(err, os.ErrNotExist) {
		return Reply{}, ErrNotRunning
	}
	if err != nil {
		return Reply{}, err
	}
	var at controlAddress
	if err := json.Unmarshal(data, &at); err != nil {
		return Reply{}, fmt.Errorf("reading where the platform takes commands: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, controlWait)
	defer cancel()
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", at.Address)
	if err != nil {
		return Reply{}, fmt.Errorf("%w: %w", ErrNotRunning, err)
	}
	defer func() { _ = conn.Close() }() // all was read
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	cmd.Token = at.Token
	line, err := json.Marshal(cmd)
	if err != nil {
		return Reply{}, fmt.Errorf("encoding a command: %w", err)
	}
	if _, err := conn.Write(append(line, '\n')); err != nil {
		return Reply{}, fmt.Errorf("sending a command: %w", err)
	}
	answer, err := bufio.NewReader(io.LimitReader(conn, 1<<20)).ReadBytes('\n')
	if err != nil {
		return Reply{}, fmt.Errorf("waiting for the platform: %w", err)
	}
	var r Reply
	if err := json.Unmarshal(answer, &r); err != nil {
		return Reply{}, fmt.Errorf("reading the platform's answer: %w", err)
	}
	if r.Error != "" {
		return r, errors.New(r.Error)
	}
	return r, nil
}
