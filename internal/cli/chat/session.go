package chat

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats.go"

	"github.com/herald-nats/herald/internal/cli"
	"github.com/herald-nats/herald/internal/natsconn"
	"github.com/herald-nats/herald/pkg/certs"
	"github.com/herald-nats/herald/pkg/chat"
	"github.com/herald-nats/herald/pkg/chat/bus"
	"github.com/herald-nats/herald/pkg/client"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/keystore"
	"github.com/herald-nats/herald/pkg/subject"
	"github.com/herald-nats/herald/pkg/trust"
	"github.com/herald-nats/herald/pkg/wire"
)

// room is where we talk, and as whom.
type room struct {
	platform func() *client.Platform // as it is known now; nil with creds alone
	conn     *nats.Conn
	bus      *bus.Bus
	name     ident.Name
	key      *keystore.Key
	room     ident.Label
	channels []ident.Label
	current  func() client.Credential
	close    func(context.Context)
	log      io.Closer
}

// signer is the user's key as pkg/chat wants it.
type signer struct {
	*keystore.Key
	user ident.UserKey
}

func (s signer) Public() ident.UserKey { return s.user }

// enter joins the room with whatever the flags say.
func (g *globals) enter(ctx context.Context) (*room, error) {
	jctx, cancel := context.WithTimeout(ctx, startWait)
	defer cancel()
	r, err := g.join(jctx)
	if err != nil && ctx.Err() != nil {
		// What the connection says of it is no cause of its own.
		return nil, fmt.Errorf("joining: %w", ctx.Err())
	}
	return r, err
}

func (g *globals) join(ctx context.Context) (*room, error) {
	var region ident.Region
	if g.region != "" {
		var err error
		if region, err = ident.ParseRegion(g.region); err != nil {
			return nil, fmt.Errorf("--region: %w", err)
		}
	}
	r := &room{}
	// The bus comes after the connection whose errors it is to be told.
	var late atomic.Pointer[bus.Bus]
	var err error
	if g.creds != "" {
		err = g.withCreds(ctx, r, region, &late)
	} else {
		err = g.withPlatform(ctx, r, region, &late)
	}
	if err != nil {
		if r.log != nil {
			err = errors.Join(err, r.log.Close())
		}
		return nil, err
	}
	user, err := ident.ParseUserKey(r.key.Public())
	if err != nil {
		return nil, err
	}
	r.bus, err = bus.New(ctx, bus.Config{
		Conn: r.conn, Room: r.room, Channels: r.channels, Name: r.name, Signer: signer{r.key, user},
		UserJWT: func() string { return r.current().JWT }, Verify: r.verify,
	})
	if err != nil {
		r.close(ctx)
		return nil, err
	}
	late.Store(r.bus)
	return r, nil
}

// leave says goodbye and closes.
func (r *room) leave() error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	r.bus.Close()
	r.close(ctx)
	return r.log.Close()
}

// urls are the servers that the user named, if any.
func (g *globals) urls() ([]string, error) {
	if g.server == "" {
		return nil, nil
	}
	var urls []string
	for _, u := range strings.Split(g.server, ",") {
		u = strings.TrimSpace(u)
		if !strings.Contains(u, "://") {
			u = "nats://" + u
		}
		urls = append(urls, u)
	}
	if err := wire.CheckURLs(urls); err != nil {
		return nil, cli.Errorf(cli.Usage, "write it as nats://host:4222, several with commas between", "--server: %w", err)
	}
	return urls, nil
}

func (g *globals) withPlatform(ctx context.Context, r *room, region ident.Region, late *atomic.Pointer[bus.Bus]) error {
	d, err := findDirs()
	if err != nil {
		return err
	}
	p, called, err := d.load(g.platform, g.context)
	if err != nil {
		return err
	}
	if _, ok := p.Document.Region(region); !region.IsZero() && !ok {
		return unknownRegion(p, region)
	}
	if r.room, r.channels, err = g.pickRoom(p); err != nil {
		return err
	}
	urls, err := g.urls()
	if err != nil {
		return err
	}
	name, err := d.who(p, g.name)
	if err != nil {
		return err
	}
	k, err := d.keep(p, name)
	if err != nil {
		return err
	}
	code := cmp.Or(g.invite, os.Getenv("HERALD_INVITE")) // not as the flag's default, which its help shows
	identity, err := k.identity(code)
	if err != nil {
		return err
	}
	log, closer, err := g.logger()
	if err != nil {
		return err
	}
	r.log = closer
	cached := k.cached()
	if g.ttl != 0 || code != "" {
		cached = "" // another lifetime is wanted
	}
	s, err := client.Connect(ctx, client.Config{
		Platform: p, Key: k.key, Wish: client.Wish{Name: name, Account: p.Document.Chat.Account, TTL: g.ttl, Identity: identity},
		Region: region, URLs: urls, Cached: cached, Log: log,
		OnCredential: func(c client.Credential) {
			if err := k.remember(c.JWT); err != nil {
				log.Warn("the credential is not kept for the next start", "error", err)
			}
			if b := late.Load(); b != nil {
				b.Tell(chat.CredentialChanged{Expires: c.Expires})
			}
		},
		OnPlatform: func(p *client.Platform) {
			if called.IsZero() {
				return // a file of the user's own, which is not ours to change
			}
			if err := d.renew(called, p); err != nil {
				log.Warn("the newer platform document is not kept for the next start", "error", err)
			}
		},
		OnError: handleError(late),
	})
	if err != nil {
		return explain(err)
	}
	r.platform, r.conn, r.name, r.key = s.Platform, s.Conn, name, k.key
	r.current, r.close = s.Credential, s.Close
	return nil
}

func unknownRegion(p *client.Platform, region ident.Region) error {
	var have []string
	for _, r := range p.Document.Regions {
		have = append(have, r.Name.String())
	}
	return cli.Errorf(cli.Usage, "its regions are "+strings.Join(have, ", "), "the platform has no region %s", region)
}

// pickRoom is the room that --room names, or the platform's first.
func (g *globals) pickRoom(p *client.Platform) (ident.Label, []ident.Label, error) {
	var want ident.Label
	if g.room != "" {
		var err error
		if want, err = ident.ParseLabel(g.room); err != nil {
			return want, nil, fmt.Errorf("--room: %w", err)
		}
	}
	r, ok := p.Document.Chat.Room(want)
	if !ok {
		var have []string
		for _, r := range p.Document.Chat.Rooms {
			have = append(have, r.Name.String())
		}
		return want, nil, cli.Errorf(cli.Usage, "its rooms are "+strings.Join(have, ", "), "the platform has no room %s", g.room)
	}
	return r.Name, r.Channels, nil
}

func handleError(late *atomic.Pointer[bus.Bus]) func(*nats.Subscription, error) {
	return func(sub *nats.Subscription, err error) {
		if b := late.Load(); b != nil {
			b.HandleError(sub, err)
		}
	}
}

// withCreds connects as whoever a creds file says: also on platforms that are
// none of Herald's, such as the tutorial's.
func (g *globals) withCreds(ctx context.Context, r *room, region ident.Region, late *atomic.Pointer[bus.Bus]) error {
	file := natsconn.FileCredential{Path: g.creds}
	data, err := keystore.ReadSecret(g.creds)
	if errors.Is(err, keystore.ErrExposed) {
		return cli.Errorf(cli.Config, "make it yours alone: chmod 600 "+g.creds, "%w", err)
	}
	if err != nil {
		return err
	}
	creds, err := natsconn.ParseCreds(data)
	if err != nil {
		return cli.Errorf(cli.Config, "give a creds file: a user JWT and its seed", "%s: %w", g.creds, err)
	}
	claims, err := jwt.DecodeUserClaims(creds.Token)
	if err != nil {
		return cli.Errorf(cli.Config, "give a creds file: a user JWT and its seed", "%s: %w", g.creds, err)
	}
	if claims.Subject != creds.Key.Public() {
		return cli.Errorf(cli.Config, "give a creds file whose seed belongs to its user JWT", "%s: the seed is another user's", g.creds)
	}
	if claims.Expires != 0 && time.Now().Unix() >= claims.Expires {
		// A server would take the connection and end it at once.
		return fmt.Errorf("%s: the credential ended at %s: %w", g.creds, time.Unix(claims.Expires, 0).Format(time.DateTime), trust.ErrExpired)
	}
	called := g.name
	if called == "" {
		called = claims.Name
	}
	if r.name, err = ident.ParseName(called); err != nil {
		return fmt.Errorf("the name of the user (choose one with --name): %w", err)
	}
	urls, err := g.credsPlatform(ctx, r, region, creds.Token)
	if err != nil {
		return err
	}
	log, closer, err := g.logger()
	if err != nil {
		return err
	}
	r.log = closer
	opts := natsconn.Options{URLs: urls, Name: r.name.String(), Credential: file, Log: log, OnError: handleError(late)}
	if r.platform != nil {
		opts.TLS = natsconn.TLSTrust(certs.NewBundle(r.platform().Authorities()...))
	}
	if claims.HasEmptyPermissions() {
		// Of a role: its own inbox is the only one that it may read.
		user, err := ident.ParseUserKey(claims.Subject)
		if err != nil {
			return err
		}
		opts.InboxPrefix = subject.UserInboxPrefix(user)
	}
	nc, err := natsconn.Dial(ctx, opts)
	if err != nil {
		if errors.Is(err, nats.ErrAuthorization) || errors.Is(err, nats.ErrAuthExpired) || errors.Is(err, nats.ErrAuthRevoked) {
			return cli.Errorf(cli.Refused, "is it of this platform, and unexpired? leave out --creds to ask for a new one", "%s: the server refused the credential: %w", g.creds, err)
		}
		if errors.Is(err, natsconn.ErrTLS) {
			return fmt.Errorf("%w: %w", client.ErrServer, err)
		}
		return fmt.Errorf("%w: %w", client.ErrUnreachable, err)
	}
	cred := client.Credential{JWT: creds.Token}
	if claims.Expires != 0 {
		cred.Expires = time.Unix(claims.Expires, 0)
	}
	r.conn, r.key = nc, creds.Key
	r.current = func() client.Credential { return cred }
	r.close = func(ctx context.Context) { natsconn.Close(ctx, nc) }
	return nil
}

// credsPlatform finds where to connect with creds: the server that was named,
// or a platform, which then also says who is to be believed.
func (g *globals) credsPlatform(ctx context.Context, r *room, region ident.Region, token string) ([]string, error) {
	general, _ := ident.ParseLabel("General")
	natsCh, _ := ident.ParseLabel("NATS")
	r.room, _ = ident.ParseLabel("KUBECON")
	r.channels = []ident.Label{general, natsCh, r.room}
	urls, err := g.urls()
	if err != nil {
		return nil, err
	}
	if len(urls) > 0 && g.platform == "" && g.context == "" {
		return urls, nil
	}
	d, err := findDirs()
	if err != nil {
		return nil, err
	}
	p, _, err := d.load(g.platform, g.context)
	if err != nil {
		return nil, err
	}
	if _, ok := p.Document.Region(region); !region.IsZero() && !ok {
		return nil, unknownRegion(p, region)
	}
	if _, err := p.Document.VerifyUser(token, time.Now()); err != nil {
		if errors.Is(err, trust.ErrExpired) {
			return nil, fmt.Errorf("%s: %w", g.creds, err)
		}
		return nil, cli.Errorf(cli.Refused, "use creds of the platform "+p.Document.Name+", or leave out --creds", "%s: the credential is not one of this platform: %w", g.creds, err)
	}
	r.platform = func() *client.Platform { return p }
	if r.room, r.channels, err = g.pickRoom(p); err != nil {
		return nil, err
	}
	if len(urls) == 0 {
		urls = p.Nearest(ctx, region)
	}
	return urls, nil
}

// verify tells whose a user JWT is: by the platform, or, with creds alone, by
// the account and key that made our own.
func (r *room) verify(token string, now time.Time) (ident.UserKey, ident.Name, error) {
	if r.platform != nil {
		doc := r.platform().Document
		u, err := doc.VerifyUser(token, now)
		if err == nil && u.Account != doc.Chat.Account {
			err = fmt.Errorf("a user of account %s: %w", u.Account, trust.ErrUntrusted)
		}
		return u.Key, u.Name, err
	}
	own, err := jwt.DecodeUserClaims(r.current().JWT)
	if err != nil {
		return ident.UserKey{}, ident.Name{}, fmt.Errorf("reading our own credential: %w", err)
	}
	c, err := jwt.DecodeUserClaims(token)
	if err != nil {
		return ident.UserKey{}, ident.Name{}, fmt.Errorf("reading a user JWT: %w", err)
	}
	if c.Issuer != own.Issuer || c.IssuerAccount != own.IssuerAccount || (c.Expires != 0 && now.Unix() >= c.Expires) {
		return ident.UserKey{}, ident.Name{}, trust.ErrUntrusted
	}
	key, err := ident.ParseUserKey(c.Subject)
	if err != nil {
		return key, ident.Name{}, err
	}
	name, err := ident.ParseName(c.Name)
	return key, name, err
}

// region is where the connection goes.
func (r *room) region() ident.Region {
	reg, err := ident.ParseRegion(r.conn.ConnectedClusterName())
	if err != nil {
		return ident.Region{}
	}
	return reg
}
