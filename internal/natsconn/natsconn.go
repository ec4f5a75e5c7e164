// Package natsconn is the one place that dials NATS. Every connection of
// Herald is made here, so that each has an inbox of its own, goes on after an
// outage instead of giving up for good, and is closed as a promise.
package natsconn

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"strings"
	"sync/atomic"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats.go"
	"golang.org/x/time/rate"

	"github.com/herald-nats/herald/pkg/keystore"
)

// Times of every connection.
const (
	dialWait     = 2 * time.Second        // for one server to accept and greet
	firstWait    = 250 * time.Millisecond // before the list of servers is tried again
	longestWait  = 5 * time.Second        // the same, after it failed several times
	dialsASecond = 5                      // over time; after a burst of dialBurst
	dialBurst    = 30
	pingInterval = 20 * time.Second
)

// Options say where and as whom to connect.
type Options struct {
	URLs        []string // tried in this order, at first and at each reconnect
	Name        string   // of the connection, as `nats server report connections` shows it
	Credential  Credential
	InboxPrefix string // the only inbox that the credential may read
	TLS         TLS    // the zero value trusts whom the system trusts
	Log         *slog.Logger

	// The handlers may be nil; they run on the connection's own goroutine.
	OnDisconnect func(error)
	OnReconnect  func(*nats.Conn)
	OnError      func(*nats.Subscription, error)
}

// Credential gives a user JWT and signs the server's nonce with its key.
// Both are asked again at each reconnect, so a renewed JWT is used.
type Credential interface {
	JWT() (string, error)
	Sign(nonce []byte) ([]byte, error)
}

// Dial connects to the first server that accepts. The connection then lives
// until it is closed: it reconnects for ever, also after the same refusal
// twice, which would end a connection of nats.go for good although a renewed
// credential is a moment away. ctx bounds the dialing alone.
func Dial(ctx context.Context, o Options) (*nats.Conn, error) {
	log := o.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	d := &dialer{ctx: ctx, limit: rate.NewLimiter(dialsASecond, dialBurst)}
	opts := []nats.Option{
		nats.Name(o.Name),
		nats.UserJWT(o.Credential.JWT, o.Credential.Sign),
		nats.SetCustomDialer(d),
		nats.Timeout(dialWait),
		nats.DontRandomize(),
		// The URLs come from a signed document or from the user; a server's
		// gossip adds addresses that nobody vouches for.
		nats.IgnoreDiscoveredServers(),
		nats.PermissionErrOnSubscribe(true),
		nats.MaxReconnects(-1),
		nats.IgnoreAuthErrorAbort(),
		nats.CustomReconnectDelay(delay),
		// A server that stops reading would otherwise hold up Close for a minute.
		nats.FlusherTimeout(dialWait),
		nats.PingInterval(pingInterval),
		nats.MaxPingsOutstanding(2),
		nats.ErrorHandler(func(_ *nats.Conn, sub *nats.Subscription, err error) {
			subj := ""
			if sub != nil {
				subj = sub.Subject
			}
			log.Warn("connection error", "connection", o.Name, "subject", subj, "error", err)
			if o.OnError != nil {
				o.OnError(sub, err)
			}
		}),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			log.Info("disconnected", "connection", o.Name, "error", err)
			if o.OnDisconnect != nil {
				o.OnDisconnect(err)
			}
		}),
		nats.ReconnectHandler(func(nc *nats.Conn) {
			log.Info("reconnected", "connection", o.Name, "server", nc.ConnectedUrl())
			if o.OnReconnect != nil {
				o.OnReconnect(nc)
			}
		}),
	}
	if o.InboxPrefix != "" {
		opts = append(opts, nats.CustomInboxPrefix(o.InboxPrefix))
	}
	no := nats.GetDefaultOptions()
	for _, opt := range opts {
		if err := opt(&no); err != nil {
			return nil, fmt.Errorf("setting up connection %s: %w", o.Name, err)
		}
	}
	no.Servers = o.URLs
	o.TLS.apply(&no, o.URLs)
	nc, err := no.Connect()
	if err != nil {
		err = explain(err)
		if strings.Contains(strings.ToLower(err.Error()), "authentication expired") {
			// Said before the connection stood, nats.go gives the server's words
			// instead of its own error for them.
			err = errors.Join(nats.ErrAuthExpired, err)
		}
		if ctx.Err() != nil {
			err = errors.Join(err, ctx.Err())
		}
		return nil, fmt.Errorf("connecting as %s: %w", o.Name, err)
	}
	d.connected.Store(true)
	return nc, nil
}

// dialer stops the first connect when its caller's context ends; reconnects
// belong to the connection and are bounded by it.
//
// They are limited, because nats.go waits only when no server accepts: one that
// accepts and then closes, as it does with a user JWT that has just ended, would
// be dialed thousands of times a second.
type dialer struct {
	limit     *rate.Limiter
	ctx       context.Context //nolint:containedctx // nats.go's interface has no room for it
	connected atomic.Bool
}

func (d *dialer) Dial(network, address string) (net.Conn, error) {
	ctx := context.Background()
	// Each counts, also before it is known here that the first one stood: a server that
	// closes at once has nats.go dial again before that.
	within := d.limit.Allow()
	if !d.connected.Load() {
		ctx = d.ctx
	} else if !within {
		return nil, fmt.Errorf("dialing %s: %w", address, errTooOften)
	}
	nd := net.Dialer{Timeout: dialWait}
	c, err := nd.DialContext(ctx, network, address)
	if err != nil {
		return nil, fmt.Errorf("dialing %s: %w", address, err)
	}
	return c, nil
}

var errTooOften = errors.New("waiting, because connections did not last")

// delay is how long to wait when no server of the list accepted, the nth time:
// twice as long each time, up to a bound, and spread so that clients of a region
// that comes back do not all come at once.
func delay(n int) time.Duration {
	d := longestWait
	if n < 5 {
		d = min(firstWait<<max(n-1, 0), longestWait)
	}
	return d/2 + rand.N(d/2) // #nosec G404 -- it spreads load, it hides nothing
}

// Close sends what is pending and closes, within the context's bound.
func Close(ctx context.Context, nc *nats.Conn) {
	if nc == nil || nc.IsClosed() {
		return
	}
	// What cannot be flushed in time cannot be helped: closing is the promise.
	// While it reconnects there is nowhere to flush to.
	if nc.IsConnected() {
		_ = nc.FlushWithContext(ctx)
	}
	// Close leaves the last callbacks running; whoever owns what they tell must
	// hear nothing after this returns.
	last := make(chan struct{})
	nc.SetClosedHandler(func(*nats.Conn) { close(last) })
	nc.Close()
	select {
	case <-last:
	case <-ctx.Done():
	}
}

// Static is a credential that does not change while the process runs.
type Static struct {
	Token string
	Key   *keystore.Key
}

// JWT implements Credential.
func (s Static) JWT() (string, error) { return s.Token, nil }

// Sign implements Credential.
func (s Static) Sign(nonce []byte) ([]byte, error) { return s.Key.Sign(nonce) }

// ParseCreds takes a creds file: a user JWT and its seed.
func ParseCreds(data []byte) (Static, error) {
	token, err := jwt.ParseDecoratedJWT(data)
	if err != nil {
		return Static{}, fmt.Errorf("no user JWT in the creds: %w", err)
	}
	pair, err := jwt.ParseDecoratedUserNKey(data)
	if err != nil {
		return Static{}, errors.New("no user seed in the creds")
	}
	seed, err := pair.Seed()
	if err != nil {
		return Static{}, errors.New("no user seed in the creds")
	}
	key, err := keystore.Parse(keystore.User, seed)
	if err != nil {
		return Static{}, fmt.Errorf("the seed in the creds: %w", err)
	}
	// jwt/v2 takes for the JWT whatever stands first, and the token is what a
	// server is sent: in a file with a seed alone that would be the seed.
	claims, err := jwt.DecodeUserClaims(token)
	if err != nil {
		return Static{}, errors.New("no user JWT in the creds")
	}
	if claims.Subject != key.Public() {
		return Static{}, fmt.Errorf("the user JWT in the creds is for %.60q, the seed for %s", claims.Subject, key.Public())
	}
	return Static{Token: token, Key: key}, nil
}

// FileCredential is a creds file that is read again at each connect, so that
// whoever renews the file renews the service.
type FileCredential struct{ Path string }

func (f FileCredential) read() (Static, error) {
	data, err := keystore.ReadSecret(f.Path)
	if err != nil {
		return Static{}, err
	}
	s, err := ParseCreds(data)
	if err != nil {
		return Static{}, fmt.Errorf("%s: %w", f.Path, err)
	}
	return s, nil
}

// User is the nkey in the file.
func (f FileCredential) User() (string, error) {
	s, err := f.read()
	if err != nil {
		return "", err
	}
	return s.Key.Public(), nil
}

// Expires is when the user JWT in the file ends; zero: never.
func (f FileCredential) Expires() (time.Time, error) {
	s, err := f.read()
	if err != nil {
		return time.Time{}, err
	}
	claims, err := jwt.DecodeUserClaims(s.Token)
	if err != nil || claims.Expires == 0 {
		return time.Time{}, err
	}
	return time.Unix(claims.Expires, 0), nil
}

// JWT implements Credential.
func (f FileCredential) JWT() (string, error) {
	s, err := f.read()
	return s.Token, err
}

// Sign implements Credential.
func (f FileCredential) Sign(nonce []byte) ([]byte, error) {
	s, err := f.read()
	if err != nil {
		return nil, err
	}
	return s.Key.Sign(nonce)
}
