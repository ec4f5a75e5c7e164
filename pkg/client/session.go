package client

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/herald-nats/herald/internal/natsconn"
	"github.com/herald-nats/herald/internal/wait"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/keystore"
	"github.com/herald-nats/herald/pkg/subject"
	"github.com/herald-nats/herald/pkg/trust"
	"github.com/herald-nats/herald/pkg/wire"
)

// Config says as whom and where to connect.
type Config struct {
	Platform *Platform
	Key      *keystore.Key // the user's; it stays here
	Wish     Wish
	Region   ident.Region // preferred; zero is the nearest
	URLs     []string     // instead of the platform's
	Cached   string       // a user JWT from before; used if it still has time
	Log      *slog.Logger

	// The handlers may be nil. They run on goroutines of the session and must
	// not block.
	OnCredential func(Credential)                // a new one, also the first
	OnPlatform   func(*Platform)                 // a newer document than Platform's was seen: keep it
	OnConnection func(connected bool)            // lost, or back
	OnError      func(*nats.Subscription, error) // what the server refused
}

// Session is a connection on a credential that is kept fresh.
type Session struct {
	Conn *nats.Conn

	cfg    Config
	urls   []string // the renewing goroutine's, once there is one
	user   ident.UserKey
	cancel context.CancelFunc
	work   sync.WaitGroup

	mu       sync.Mutex
	cred     Credential
	platform *Platform
	kick     chan struct{} // a server says that the credential has ended
}

// cachedLeft is how much life a cached credential must have left to be used.
const cachedLeft = 30 * time.Second

// Connect obtains a credential, unless a cached one still serves, and connects
// with it. It goes on renewing and reconnecting until Close. ctx bounds the
// start. Errors are those of Obtain.
func Connect(ctx context.Context, cfg Config) (*Session, error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	user, err := ident.ParseUserKey(cfg.Key.Public())
	if err != nil {
		return nil, err
	}
	s := &Session{cfg: cfg, urls: cfg.URLs, user: user, platform: cfg.Platform, kick: make(chan struct{}, 1)}
	if len(s.urls) == 0 {
		s.urls = cfg.Platform.Nearest(ctx, cfg.Region)
	}
	cached := s.cached(cfg.Platform.now())
	if !cached {
		err = s.obtain(ctx)
	}
	if err == nil {
		err = s.dial(ctx)
	}
	if cached && refusedByServer(err) {
		// It was revoked meanwhile, or its role has another key. Whether there is another for
		// us, an issuer says.
		if err = s.obtain(ctx); err == nil {
			err = s.dial(ctx)
		}
	}
	if err != nil {
		return nil, err
	}
	wctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	s.cancel = cancel
	s.work.Go(func() { s.renewLoop(wctx) })
	return s, nil
}

// cached takes the credential from before if it is ours and has time left.
func (s *Session) cached(now time.Time) bool {
	if s.cfg.Cached == "" {
		return false
	}
	u, err := s.Platform().Document.VerifyUser(s.cfg.Cached, now)
	w := s.cfg.Wish
	if err != nil || u.Key != s.user || u.Name != w.Name || u.Expires.Sub(now) < cachedLeft {
		return false
	}
	// One for something else, or by less of a proof than there is now, is not what is wished.
	_, open := w.Identity.(Open)
	if !w.Account.IsZero() && u.Account != w.Account || !w.Role.IsZero() && u.Role != w.Role ||
		w.Identity != nil && !open && u.Identity.Kind() == ident.KindOpen {
		return false
	}
	life := u.Expires.Sub(u.IssuedAt)
	s.adopt(Credential{JWT: s.cfg.Cached, User: u, Expires: u.Expires, RenewAt: u.IssuedAt.Add(life * 3 / 4)})
	return true
}

func (s *Session) obtain(ctx context.Context) error {
	c, err := s.Platform().Obtain(ctx, s.urls, s.cfg.Key, s.cfg.Wish)
	if err != nil {
		return err
	}
	s.learn(ctx, c.Platform)
	s.adopt(c)
	return nil
}

// Platform is what is known of the platform now: as it was given, or as a newer
// document says that was seen since.
func (s *Session) Platform() *Platform {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.platform
}

// learn takes what is newer than what is known.
func (s *Session) learn(ctx context.Context, p *Platform) {
	have := s.Platform()
	if p == nil || p.Document.Version.Rank() <= have.Document.Version.Rank() {
		return
	}
	s.mu.Lock()
	s.platform = p
	s.mu.Unlock()
	s.cfg.Log.Info("the platform has a new document", "version", p.Document.Version.String(), "before", have.Document.Version.String())
	if s.cfg.OnPlatform != nil {
		s.cfg.OnPlatform(p)
	}
	if len(s.cfg.URLs) > 0 || slices.Equal(p.Document.URLs(ident.Region{}), have.Document.URLs(ident.Region{})) {
		return
	}
	// Its servers are elsewhere: the connection goes there when it next has to.
	s.urls = p.Nearest(ctx, s.cfg.Region)
	if s.Conn != nil {
		if err := s.Conn.SetServerPool(s.urls); err != nil {
			s.cfg.Log.Warn("the connection does not know the new servers", "error", err)
		}
	}
}

// refresh asks what holds now. What is known goes on being used if nobody answers,
// or only somebody who knows less.
func (s *Session) refresh(ctx context.Context) {
	p, err := s.Platform().Refresh(ctx, s.Conn)
	if err != nil {
		s.cfg.Log.Debug("no newer platform document", "error", err)
		return
	}
	s.learn(ctx, p)
}

func (s *Session) adopt(c Credential) {
	s.mu.Lock()
	s.cred = c
	s.mu.Unlock()
	if s.cfg.OnCredential != nil {
		s.cfg.OnCredential(c)
	}
}

// Credential is the one in use.
func (s *Session) Credential() Credential {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.cred
}

// Region is the region whose server the connection goes to.
func (s *Session) Region() ident.Region {
	r, err := ident.ParseRegion(s.Conn.ConnectedClusterName())
	if err != nil {
		return ident.Region{}
	}
	return r
}

// credential implements natsconn.Credential with whatever is current.
type credential struct{ *Session }

// JWT gives the current one. An ended one is not shown to servers, which would
// accept it and close at once: the connection waits until there is a new one.
func (c credential) JWT() (string, error) {
	cur := c.Credential()
	if !c.cfg.Platform.now().Before(cur.Expires) {
		return "", fmt.Errorf("the credential of %s: %w", cur.User.Name, trust.ErrExpired)
	}
	return cur.JWT, nil
}

func (c credential) Sign(nonce []byte) ([]byte, error) { return c.cfg.Key.Sign(nonce) }

func (s *Session) dial(ctx context.Context) error {
	notify := func(up bool) {
		if s.cfg.OnConnection != nil {
			s.cfg.OnConnection(up)
		}
	}
	nc, err := natsconn.Dial(ctx, natsconn.Options{
		URLs: s.urls, Name: s.cfg.Wish.Name.String(), Credential: credential{s},
		InboxPrefix: subject.UserInboxPrefix(s.user), TLS: s.Platform().TLS(), Log: s.cfg.Log,
		OnDisconnect: func(error) { notify(false) },
		OnReconnect:  func(*nats.Conn) { notify(true) },
		OnError:      s.hear,
	})
	if err != nil {
		return notConnected(err)
	}
	s.Conn = nc
	return nil
}

// hear passes on what the server said; that the credential has ended it says
// whatever our clock says, and then a new one is due now.
func (s *Session) hear(sub *nats.Subscription, err error) {
	if refusedByServer(err) {
		s.mu.Lock()
		s.cred.Expires = s.cfg.Platform.now() // not to be shown again
		s.mu.Unlock()
		select {
		case s.kick <- struct{}{}:
		default:
		}
	}
	if s.cfg.OnError != nil {
		s.cfg.OnError(sub, err)
	}
}

// refusedByServer tells whether it is the credential that a server does not take.
func refusedByServer(err error) bool {
	return errors.Is(err, nats.ErrAuthExpired) || errors.Is(err, nats.ErrAuthorization) || errors.Is(err, nats.ErrAuthRevoked)
}

// renewLoop gets a new credential before the old one ends: in its own account,
// or, when that has ended already, as a guest once more.
func (s *Session) renewLoop(ctx context.Context) {
	backoff := firstRetry
	s.refresh(ctx)
	for {
		c := s.Credential()
		at := c.RenewAt
		if backoff > firstRetry {
			at = s.cfg.Platform.now().Add(backoff)
		}
		if !s.due(ctx, at) {
			return
		}
		c = s.Credential()
		next, err := s.renew(ctx, c)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			// While the credential lives nobody sleeps through its end.
			left := c.Expires.Sub(s.cfg.Platform.now())
			backoff = min(2*backoff, maxRetry)
			if left > 0 {
				backoff = min(backoff, max(left/4, firstRetry))
			}
			s.cfg.Log.Warn("the credential is not renewed yet", "expires", c.Expires, "error", err)
			continue
		}
		backoff = firstRetry
		s.learn(ctx, next.Platform)
		s.adopt(next)
		s.refresh(ctx) // before the next line, which ends requests that are under way
		// The server learns of the new JWT by a new connection only, and closes
		// the old one at the end of the old JWT; so the moment is ours.
		if err := s.Conn.ForceReconnect(); err != nil {
			s.cfg.Log.Warn("the connection is not refreshed", "error", err)
		}
	}
}

// due waits until a time, or until a server says that the credential has ended;
// false when the session ends. Two renewals are never closer than firstRetry.
func (s *Session) due(ctx context.Context, at time.Time) bool {
	if wait.For(ctx, firstRetry) != nil {
		return false
	}
	t := time.NewTimer(at.Sub(s.cfg.Platform.now()))
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-s.kick:
		return true
	case <-ctx.Done():
		return false
	}
}

// Waits between tries to renew.
const (
	firstRetry = 500 * time.Millisecond
	maxRetry   = 15 * time.Second
	// How long an answer is waited for: where the credential lives for long, an issuer has
	// time to be slow.
	renewWait    = 4 * time.Second
	maxRenewWait = 15 * time.Second
)

func (s *Session) renew(ctx context.Context, c Credential) (Credential, error) {
	left := c.Expires.Sub(s.cfg.Platform.now())
	ctx, cancel := context.WithTimeout(ctx, min(max(left/2, renewWait), maxRenewWait))
	defer cancel()
	if s.Conn.IsConnected() && s.cfg.Platform.now().Before(c.Expires) {
		next, err := s.renewInside(ctx, c)
		var refused *wire.Error
		// A refusal that heals was waited for as long as there was time.
		if err == nil || !errors.As(err, &refused) || refused.RetryAfterMS > 0 {
			return next, err
		}
	}
	return s.Platform().Obtain(ctx, s.urls, s.cfg.Key, s.cfg.Wish)
}

// renewInside asks auth.v1.renew on the connection itself: the server tells the
// issuer who asks.
func (s *Session) renewInside(ctx context.Context, c Credential) (Credential, error) {
	began := time.Now()
	var next Credential
	build := func() (*nats.Msg, error) {
		m := nats.NewMsg(subject.Renew)
		m.Data = wire.RenewRequest{TTL: s.cfg.Wish.TTL}.Encode()
		return m, nil
	}
	known := knowledge{platform: s.Platform()}
	err := ask(ctx, s.Conn, build, func(m *nats.Msg) (err error) {
		next, err = known.believe(ctx, s.Conn, func(p *Platform) (Credential, error) {
			if err := refusal(m, m.Data); err != nil {
				return Credential{}, err
			}
			// Of the same account, role and name: it is renewed, and not another.
			return p.accept(m.Data, s.user, Wish{Name: c.User.Name, Account: c.User.Account, Role: c.User.Role})
		})
		return err
	})
	next.Took = time.Since(began)
	return next, err
}

// Close sends what is pending, closes the connection and waits for the
// session's goroutine.
func (s *Session) Close(ctx context.Context) {
	s.cancel()
	natsconn.Close(ctx, s.Conn)
	s.work.Wait()
}
