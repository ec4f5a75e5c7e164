package client

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/herald-nats/herald/internal/natsconn"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/keystore"
	"github.com/herald-nats/herald/pkg/subject"
	"github.com/herald-nats/herald/pkg/trust"
	"github.com/herald-nats/herald/pkg/wire"
)

// ErrUnreachable: no server, or no issuer, answered in time.
var ErrUnreachable = errors.New("no answer")

// ErrServer: a server that is not believed to be one of the platform's, or that does not
// take our certificate.
var ErrServer = errors.New("no secure connection to the platform")

// Waits of one request to issuers. The first is several times a round trip
// around the world; an issuer that dies with a request in its hands costs it.
const (
	firstTry = 800 * time.Millisecond
	lastTry  = 5 * time.Second
)

// Credential is a user JWT that was verified, and where it came from.
type Credential struct {
	JWT     string
	User    trust.User
	Expires time.Time    // by our clock, which may be another than the issuer's
	RenewAt time.Time    // likewise
	Region  ident.Region // of the issuer that signed it; a claim of the issuer
	Issuer  string       // the issuer's nkey; likewise
	Took    time.Duration
	// Platform is what was known when the JWT was verified: the one that was asked,
	// or a newer one, if an issuer showed that.
	Platform *Platform
}

// Wish is what to ask for; zero fields leave the choice to the platform.
type Wish struct {
	Name    ident.Name
	Account ident.Label
	Role    ident.Label
	TTL     time.Duration
	// Identity shows who asks; nil proves nothing but to hold the key (Open).
	Identity Identity
}

// Obtain asks for a credential for key as a guest of the platform. urls are
// tried in order. Refusals are *wire.Error; ErrUnreachable if nobody answered; ErrServer if
// there is no server that is believed.
func (p *Platform) Obtain(ctx context.Context, urls []string, key *keystore.Key, w Wish) (Credential, error) {
	nc, err := p.DialGuest(ctx, urls)
	if err != nil {
		return Credential{}, err
	}
	defer nc.Close()
	return p.Issue(ctx, nc, key, w)
}

// DialGuest connects as the platform's guest, who may ask for a credential and
// do nothing else.
func (p *Platform) DialGuest(ctx context.Context, urls []string) (*nats.Conn, error) {
	guest, err := ident.ParseUserKey(p.guest.Key.Public())
	if err != nil {
		return nil, err
	}
	nc, err := natsconn.Dial(ctx, natsconn.Options{
		URLs: urls, Name: "guest", Credential: p.guest, InboxPrefix: subject.UserInboxPrefix(guest), TLS: p.TLS(),
	})
	if err != nil {
		return nil, notConnected(err)
	}
	return nc, nil
}

// notConnected tells a server that is not believed from one that is not reached: waiting
// helps with the second alone.
func notConnected(err error) error {
	if errors.Is(err, natsconn.ErrTLS) {
		return fmt.Errorf("%w: %w", ErrServer, err)
	}
	return fmt.Errorf("%w: %w", ErrUnreachable, err)
}

// Issue is Obtain on a guest's connection that one has.
func (p *Platform) Issue(ctx context.Context, nc *nats.Conn, key *keystore.Key, w Wish) (Credential, error) {
	began := time.Now()
	c, err := p.issue(ctx, nc, key, w, 0)
	if errors.Is(err, &wire.Error{Code: wire.ClockSkew}) {
		// Our clock is off. The server's is taken for this request alone: it is
		// no secret and proves nothing, and a lie about it gets a refusal.
		info, ierr := p.info(ctx, nc)
		if ierr != nil {
			return Credential{}, errors.Join(err, ierr)
		}
		c, err = p.issue(ctx, nc, key, w, time.UnixMilli(info.Time).Sub(p.now()))
	}
	c.Took = time.Since(began)
	return c, err
}

func (p *Platform) info(ctx context.Context, nc *nats.Conn) (wire.Info, error) {
	var info wire.Info
	err := ask(ctx, nc, func() (*nats.Msg, error) { return nats.NewMsg(subject.Info), nil }, func(m *nats.Msg) (err error) {
		info, err = wire.DecodeInfo(m.Data)
		return err
	})
	return info, err
}

// Refresh asks auth.v1.info once for the platform document that holds now: p itself
// if that is the one that p has. An older one is passed over, since a stolen issuer
// may answer first, and is ErrOlder if nothing better comes within a moment.
func (p *Platform) Refresh(ctx context.Context, nc *nats.Conn) (*Platform, error) {
	var newest *Platform
	err := try(ctx, nc, nats.NewMsg(subject.Info), firstTry, func(m *nats.Msg) error {
		info, err := wire.DecodeInfo(m.Data)
		if err == nil {
			newest, err = p.Update(info.Platform)
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("asking for the platform document: %w", err)
	}
	return newest, nil
}

// knowledge is what is known of the platform during one request.
type knowledge struct {
	platform *Platform
	asked    bool
}

// believe verifies an answer. Where a signature is not one of this platform's, a
// region or a role may have got a new key since: it is then asked once what holds.
func (k *knowledge) believe(ctx context.Context, nc *nats.Conn, read func(*Platform) (Credential, error)) (Credential, error) {
	c, err := read(k.platform)
	if errors.Is(err, trust.ErrUntrusted) && !k.asked {
		k.asked = true
		if newest, rerr := k.platform.Refresh(ctx, nc); rerr == nil && newest != k.platform {
			k.platform = newest
			c, err = read(newest)
		}
	}
	if err != nil {
		return Credential{}, err
	}
	c.Platform = k.platform
	return c, nil
}

// asking is one request for a credential, which may take several tries.
type asking struct {
	platform *Platform
	key      *keystore.Key
	user     ident.UserKey
	wish     Wish
	skew     time.Duration
	seal     *keystore.Key // of this request alone: answers are sealed to it, and secrets in its name
	region   ident.Region  // whose issuers are thought to answer
}

func (p *Platform) issue(ctx context.Context, nc *nats.Conn, key *keystore.Key, w Wish, skew time.Duration) (Credential, error) {
	if w.Identity == nil {
		w.Identity = Open{}
	}
	user, err := ident.ParseUserKey(key.Public())
	if err != nil {
		return Credential{}, err
	}
	// All guests can see each other's answers, so ours is sealed to a key that
	// lives as long as this call.
	seal, err := keystore.Generate(keystore.Curve)
	if err != nil {
		return Credential{}, err
	}
	a := &asking{platform: p, key: key, user: user, wish: w, skew: skew, seal: seal}
	a.region, err = ident.ParseRegion(nc.ConnectedClusterName())
	if err != nil {
		a.region = p.Document.Home // some region of the platform: who answers says if it is another
	}
	var cred Credential
	known := knowledge{platform: p}
	for moves := 0; ; moves++ {
		err = ask(ctx, nc, func() (*nats.Msg, error) { return a.build(ctx) }, func(m *nats.Msg) error {
			cred, err = known.believe(ctx, nc, func(p *Platform) (Credential, error) {
				data, err := p.unseal(seal, m)
				if err != nil {
					return Credential{}, err
				}
				if err := refusal(m, data); err != nil {
					return Credential{}, err
				}
				return p.accept(data, user, w)
			})
			return err
		})
		if !errors.Is(err, &wire.Error{Code: wire.WrongRegion}) || moves == maxMoves {
			return cred, err
		}
		// Another region answers here. It is asked which, and its key is that of the document:
		// a lie about it gets a refusal, and no secret.
		info, ierr := p.info(ctx, nc)
		if ierr != nil {
			return Credential{}, errors.Join(err, ierr)
		}
		a.region, a.platform = info.Region, known.platform
		if newer, uerr := known.platform.Update(info.Platform); uerr == nil {
			a.platform, known.platform = newer, newer
		}
	}
}

// maxMoves is how often a secret is sealed anew because another region answers.
const maxMoves = 3

// build makes a request: each try has a nonce of its own.
func (a *asking) build(ctx context.Context) (*nats.Msg, error) {
	nonce, err := wire.NewNonce(rand.Reader)
	if err != nil {
		return nil, err
	}
	replyKey, err := ident.ParseSealKey(a.seal.Public())
	if err != nil {
		return nil, err
	}
	proof, signer, err := a.wish.Identity.Prove(ctx)
	if err != nil {
		return nil, fmt.Errorf("showing who asks: %w", err)
	}
	body, err := wire.Request{
		UserKey: a.user, Time: a.platform.now().Add(a.skew), Nonce: nonce,
		Account: a.wish.Account, Role: a.wish.Role, Name: a.wish.Name, TTL: a.wish.TTL, ReplyKey: replyKey, Identity: proof,
	}.Encode()
	if err != nil {
		return nil, err
	}
	m := nats.NewMsg(subject.Issue)
	m.Data = body
	for header, key := range map[string]wire.Signer{wire.HeaderProof: a.key, wire.HeaderIdentity: signer} {
		if key == nil {
			continue
		}
		signature, err := wire.Prove(key, body)
		if err != nil {
			return nil, err
		}
		m.Header[header] = []string{signature}
	}
	if !proof.Secret() {
		return m, nil
	}
	r, ok := a.platform.Document.Region(a.region)
	if !ok {
		return nil, fmt.Errorf("the platform document has no region %s to seal a secret to: %w", a.region, trust.ErrUntrusted)
	}
	if m.Data, err = wire.Seal(a.seal.Pair(), r.SealKey, body); err != nil {
		return nil, err
	}
	m.Header[wire.HeaderSealed] = []string{a.seal.Public()}
	return m, nil
}

// unseal opens a sealed answer: it must come from a region key of this platform.
func (p *Platform) unseal(seal *keystore.Key, m *nats.Msg) ([]byte, error) {
	by := m.Header.Values(wire.HeaderSealed)
	if len(by) == 0 {
		if m.Header.Get(wire.HeaderErrorCode) != "" {
			return m.Data, nil // refused before the issuer knew our key
		}
		return nil, errors.New("the answer is not sealed")
	}
	from, err := ident.ParseSealKey(by[0])
	if err != nil {
		return nil, err
	}
	if !p.Document.HasSealKey(from) {
		return nil, fmt.Errorf("the answer is sealed by %s: %w", from, trust.ErrUntrusted)
	}
	return wire.Open(seal.Pair(), from, m.Data)
}

// refusal is the error that an answer with this body is, as a *wire.Error.
func refusal(m *nats.Msg, body []byte) error {
	if m.Header.Get(wire.HeaderErrorCode) == "" {
		return nil
	}
	e, err := wire.DecodeError(body)
	if err != nil {
		return err
	}
	return e
}

// accept verifies the JWT in an answer: for our nkey, by a role key of this
// platform, for the account, role and name that were asked for: a stolen issuer of one role
// may answer first, and its users might be anywhere.
func (p *Platform) accept(data []byte, key ident.UserKey, w Wish) (Credential, error) {
	a, err := wire.DecodeAnswer(data)
	if err != nil {
		return Credential{}, err
	}
	// Whether it is in its time is the servers' to say: our clock may be off. So
	// it is verified as of its last second, and lives from now for as long as the
	// issuer gave it.
	u, err := p.Document.VerifyUser(a.JWT, time.Unix(a.Expires-1, 0))
	if err != nil {
		return Credential{}, err
	}
	if u.Key != key || (!w.Name.IsZero() && u.Name != w.Name) || (!w.Account.IsZero() && u.Account != w.Account) ||
		(!w.Role.IsZero() && u.Role != w.Role) || u.Expires.Unix() != a.Expires {
		return Credential{}, fmt.Errorf("the credential is for %s (%s) of %s/%s: %w", u.Name, u.Key, u.Account, u.Role, trust.ErrUntrusted)
	}
	life := u.Expires.Sub(u.IssuedAt)
	if life <= 0 {
		return Credential{}, fmt.Errorf("the credential of %s never lived: %w", u.Name, trust.ErrExpired)
	}
	// However far the answer puts it, a renewal is within the life, and not so
	// soon that renewing becomes all that is done.
	renew := min(max(time.Unix(a.RenewAt, 0).Sub(u.IssuedAt), life/10), life)
	now := p.now()
	return Credential{JWT: a.JWT, User: u, Expires: now.Add(life), RenewAt: now.Add(renew), Region: a.Region, Issuer: a.Issuer}, nil
}

// ask sends a request and takes the first answer that is believed, in short tries until the
// context ends. The answer may be to an earlier try than the last: an issuer that is slow
// is not asked in vain for ever. What is not believed is passed over: a stolen issuer may
// answer first.
func ask(ctx context.Context, nc *nats.Conn, build func() (*nats.Msg, error), take func(*nats.Msg) error) error {
	var (
		last     = ErrUnreachable
		answers  = make(chan *nats.Msg, maxAnswers)
		tries    []*nats.Subscription // that may still be answered
		patience = firstTry
		again    = time.NewTimer(0)
	)
	defer again.Stop()
	defer func() {
		for _, sub := range tries {
			_ = sub.Unsubscribe() // fails only if the connection is gone
		}
	}()
	for {
		select {
		case <-ctx.Done():
			if errors.Is(ctx.Err(), context.Canceled) {
				return fmt.Errorf("asking for a credential: %w", ctx.Err())
			}
			return last
		case <-again.C:
			m, err := build()
			if err != nil && len(tries) == 0 {
				return err
			}
			if err != nil {
				// An answer to an earlier try may be on its way.
				last = err
				again.Reset(patience)
				continue
			}
			if len(tries) == maxTries {
				_ = tries[0].Unsubscribe()
				tries = tries[1:]
			}
			sub, err := send(nc, m, answers)
			if err != nil {
				last = fmt.Errorf("%w: %w", ErrUnreachable, err)
				again.Reset(patience / 4)
				continue
			}
			tries = append(tries, sub)
			again.Reset(patience)
			patience = min(2*patience, lastTry)
		case m := <-answers:
			err := read(m, take)
			var refused *wire.Error
			switch {
			case err == nil:
				return nil
			case errors.As(err, &refused) && refused.RetryAfterMS == 0:
				return refused
			case errors.As(err, &refused):
				last = refused
				// Others have seen where this was answered, and could have an issuer answer there
				// what they like.
				if i := slices.Index(tries, m.Sub); i >= 0 {
					_ = tries[i].Unsubscribe()
					tries = slices.Delete(tries, i, i+1)
				}
				again.Reset(refused.RetryAfter())
			default:
				last = fmt.Errorf("%w: %w", ErrUnreachable, err)
				if errors.Is(err, nats.ErrNoResponders) {
					again.Reset(patience / 4)
				}
			}
		}
	}
}

const (
	// maxTries bounds those of one request that are waited for: each is a subscription, of
	// which a role may have few.
	maxTries   = 4
	maxAnswers = 64
)

// send asks once. Each try has an inbox of its own, by chance: all guests see where others
// are answered, and one who saw the answer to this try cannot aim at the next, as they could
// if nats.go had named it, which counts up.
func send(nc *nats.Conn, m *nats.Msg, answers chan *nats.Msg) (*nats.Subscription, error) {
	m.Reply = cmp.Or(nc.Opts.InboxPrefix, "_INBOX") + "." + rand.Text()
	sub, err := nc.ChanSubscribe(m.Reply, answers)
	if err != nil {
		return nil, fmt.Errorf("subscribing for an answer: %w", err)
	}
	if err := nc.PublishMsg(m); err != nil {
		_ = sub.Unsubscribe()
		return nil, fmt.Errorf("asking: %w", err)
	}
	return sub, nil
}

func read(m *nats.Msg, take func(*nats.Msg) error) error {
	if strings.HasPrefix(m.Header.Get("Status"), "503") && len(m.Data) == 0 {
		return nats.ErrNoResponders
	}
	return take(m)
}

// try asks once, and gives why nothing was believed in time.
func try(ctx context.Context, nc *nats.Conn, m *nats.Msg, patience time.Duration, take func(*nats.Msg) error) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	answers := make(chan *nats.Msg, maxAnswers)
	sub, err := send(nc, m, answers)
	if err != nil {
		return err
	}
	defer func() { _ = sub.Unsubscribe() }()
	for {
		select {
		case <-ctx.Done():
			if err == nil {
				err = ctx.Err()
			}
			return fmt.Errorf("waiting for an answer: %w", err)
		case m := <-answers:
			err = read(m, take)
			var refused *wire.Error
			if err == nil || errors.As(err, &refused) || errors.Is(err, nats.ErrNoResponders) {
				return err
			}
		}
	}
}
