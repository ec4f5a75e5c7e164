package client_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"math"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/herald-nats/herald/internal/natsconn"
	"github.com/herald-nats/herald/pkg/client"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/keystore"
	"github.com/herald-nats/herald/pkg/platform"
	"github.com/herald-nats/herald/pkg/subject"
	"github.com/herald-nats/herald/pkg/trust"
	"github.com/herald-nats/herald/pkg/wire"
)

// operator is a platform whose keys the test has, to sign what operators sign.
type operator struct {
	*platform.Platform
	t             testing.TB
	root, signing *keystore.Key
}

func newOperator(t testing.TB) *operator {
	t.Helper()
	p, err := platform.Open(filepath.Dir(publicDir(t)))
	if err != nil {
		t.Fatal(err)
	}
	o := &operator{Platform: p, t: t}
	o.root = o.key(keystore.Operator, p.Dir.Operator(), "operator.nk")
	o.signing = o.key(keystore.Operator, p.Dir.Operator(), "signing", "nscsetup.nk")
	return o
}

func (o *operator) key(kind keystore.Kind, path ...string) *keystore.Key {
	o.t.Helper()
	k, err := keystore.Load(filepath.Join(path...), kind)
	if err != nil {
		o.t.Fatal(err)
	}
	return k
}

// document is the platform's in another version, changed as told.
func (o *operator) document(epoch, number uint32, proof *keystore.Key, change ...func(*trust.Platform)) string {
	o.t.Helper()
	d := *o.Document
	d.Regions = append([]trust.Region(nil), d.Regions...)
	d.Version = trust.Version{Epoch: epoch, Number: number}
	var err error
	if d.EpochProof, err = trust.SignEpoch(proof, epoch, ident.Region{}, time.Now()); err != nil {
		o.t.Fatal(err)
	}
	for _, c := range change {
		c(&d)
	}
	token, err := d.Sign(o.signing, time.Now())
	if err != nil {
		o.t.Fatal(err)
	}
	return token
}

// TestVersions: the newer document holds, by epoch and then by number; an older one
// is refused, whoever shows it.
func TestVersions(t *testing.T) {
	o, other := newOperator(t), newOperator(t)
	first := load(t, o.Dir.Public())
	at := first
	for _, v := range []trust.Version{{Epoch: 1, Number: 2}, {Epoch: 1, Number: math.MaxUint32}, {Epoch: 2, Number: 1}, {Epoch: 3, Number: 1}} {
		token := o.document(v.Epoch, v.Number, o.root)
		next, err := at.Update("\n" + token + "\n")
		if err != nil || next.Document.Version != v || next.Token() != token || at == next {
			t.Fatalf("from %s to %s: %v", at.Document.Version, v, err)
		}
		older := map[string]string{"the one before": at.Token(), "the first": first.Token()}
		if v.Epoch > 1 {
			older["the last of the first epoch"] = o.document(1, math.MaxUint32, o.root)
		}
		for what, old := range older {
			if got, err := next.Update(old); !errors.Is(err, client.ErrOlder) || got != nil {
				t.Errorf("at %s, shown %s: %v", v, what, err)
			}
		}
		if again, err := next.Update(token); err != nil || again != next {
			t.Errorf("shown %s again: %v", v, err)
		}
		at = next
	}
	for what, token := range map[string]string{
		"another operator's":                        other.document(9, 9, other.root),
		"an epoch that a signing key set":           o.document(9, 9, o.signing),
		"an epoch that another operator set":        o.document(9, 9, other.root),
		"the operator JWT":                          o.Operator.Token(),
		"the whole document, which is for services": o.FullToken,
	} {
		if got, err := at.Update(token); !errors.Is(err, trust.ErrUntrusted) || got != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	for what, token := range map[string]string{"nothing": "", "half": at.Token()[:100]} {
		if got, err := at.Update(token); err == nil || got != nil {
			t.Errorf("%s is taken", what)
		}
	}
	// What was given stays as it was; what is written is what holds.
	if first.Document.Version != (trust.Version{Epoch: 1, Number: 1}) {
		t.Errorf("the first became %s", first.Document.Version)
	}
	back, err := client.ParseContext(export(t, at))
	if err != nil || back.Document.Version != at.Document.Version || !bytes.Equal(export(t, back), export(t, at)) {
		t.Errorf("written and read: %v", err)
	}
}

// fake is an issuer of a platform at a NATS server that asks nobody who they are.
type fake struct {
	url  string
	info atomic.Pointer[[]string] // the documents that it shows, one answer each
	seal atomic.Pointer[keystore.Key]
}

func newFake(t *testing.T, o *operator) *fake {
	t.Helper()
	s, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: server.RANDOM_PORT, NoLog: true, NoSigs: true})
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	if !s.ReadyForConnections(10 * time.Second) {
		t.Fatal("the server does not start")
	}
	f := &fake{url: s.ClientURL()}
	ams := o.Document.Home
	f.seal.Store(o.key(keystore.Curve, o.Dir.Issuer(ams), platform.SealKeyFile))
	role := o.key(keystore.Account, o.Dir.Issuer(ams), "roles", "CHAT.member.nk")
	nc, err := natsconn.Dial(t.Context(), natsconn.Options{
		URLs: []string{f.url}, Name: "issuer", Credential: natsconn.FileCredential{Path: filepath.Join(o.Dir.Issuer(ams), platform.AuthCreds)},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		natsconn.Close(ctx, nc)
	})
	subscribe := func(subj string, answer func(m, resp *nats.Msg) error) {
		if _, err := nc.Subscribe(subj, func(m *nats.Msg) {
			resp := nats.NewMsg(m.Reply)
			// Somebody may still ask when the test ends.
			if err := errors.Join(answer(m, resp), nc.PublishMsg(resp)); err != nil && !errors.Is(err, nats.ErrConnectionClosed) {
				t.Error(err)
			}
		}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := nc.Subscribe(subject.Info, func(m *nats.Msg) {
		for _, doc := range *f.info.Load() {
			body, err := json.Marshal(wire.Info{Platform: doc, Time: time.Now().UnixMilli(), Region: ams, Issuer: "U"})
			if err := errors.Join(err, nc.Publish(m.Reply, body)); err != nil && !errors.Is(err, nats.ErrConnectionClosed) {
				t.Error(err)
			}
		}
	}); err != nil {
		t.Fatal(err)
	}
	subscribe(subject.Issue, func(m, resp *nats.Msg) error {
		r, werr := wire.DecodeRequest(m.Data)
		if werr != nil {
			return werr
		}
		account, _ := o.Document.Account(o.Document.Chat.Account)
		c := jwt.NewUserClaims(r.UserKey.String())
		c.Name, c.IssuerAccount, c.Expires = r.Name.String(), account.Key.String(), time.Now().Add(time.Hour).Unix()
		c.SetScoped(true)
		token, err := c.Encode(role.Pair())
		if err != nil {
			return err
		}
		body, err := json.Marshal(wire.Answer{ // #nosec G117 -- a user JWT is no secret without its seed
			JWT: token, Account: account.Key, AccountName: account.Name, Role: account.Roles[0].Name, Name: r.Name,
			Expires: c.Expires, RenewAt: c.Expires - 60, URLs: []string{f.url}, Region: ams, Issuer: "U",
		})
		if err != nil {
			return err
		}
		seal := f.seal.Load()
		resp.Header.Set(wire.HeaderSealed, seal.Public())
		resp.Data, err = wire.Seal(seal.Pair(), r.ReplyKey, body)
		return err
	})
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	f.show(o.document(1, 1, o.root))
	return f
}

func (f *fake) show(documents ...string) { f.info.Store(&documents) }

// start connects and gives the newer platforms that the session tells of.
func (f *fake) start(t *testing.T, p *client.Platform) (*client.Session, chan *client.Platform) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	name, err := ident.ParseName("alice")
	if err != nil {
		t.Fatal(err)
	}
	key, err := keystore.Generate(keystore.User)
	if err != nil {
		t.Fatal(err)
	}
	newer := make(chan *client.Platform, 10)
	s, err := client.Connect(ctx, client.Config{
		Platform: p, Key: key, Wish: client.Wish{Name: name}, URLs: []string{f.url}, OnPlatform: func(p *client.Platform) { newer <- p },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		s.Close(ctx)
	})
	return s, newer
}

func TestSessionTakesNewerDocuments(t *testing.T) {
	o := newOperator(t)
	f := newFake(t, o)
	p := load(t, o.Dir.Public())
	// An issuer that shows what is old, and what is forged, before what holds.
	f.show(o.document(2, 1, o.signing), "x", o.document(1, 1, o.root), o.document(2, 1, o.root))
	s, newer := f.start(t, mustUpdate(t, p, o.document(1, 7, o.root)))
	select {
	case got := <-newer:
		if got.Document.Version != (trust.Version{Epoch: 2, Number: 1}) || s.Platform() != got {
			t.Errorf("it took %s and says %s", got.Document.Version, s.Platform().Document.Version)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("no newer document was taken")
	}
}

func mustUpdate(t *testing.T, p *client.Platform, token string) *client.Platform {
	t.Helper()
	q, err := p.Update(token)
	if err != nil {
		t.Fatal(err)
	}
	return q
}

func TestRefresh(t *testing.T) {
	o := newOperator(t)
	f := newFake(t, o)
	p := mustUpdate(t, load(t, o.Dir.Public()), o.document(2, 1, o.root))
	nc, err := p.DialGuest(t.Context(), []string{f.url})
	if err != nil {
		t.Fatal(err)
	}
	defer natsconn.Close(t.Context(), nc)
	for what, tc := range map[string]struct {
		shown []string
		want  error
	}{
		"an older one":                {[]string{o.document(1, 9, o.root)}, client.ErrOlder},
		"one that nobody vouches for": {[]string{o.document(3, 1, o.signing)}, trust.ErrUntrusted},
		"nothing":                     {nil, context.DeadlineExceeded},
	} {
		f.show(tc.shown...)
		if q, err := p.Refresh(t.Context(), nc); !errors.Is(err, tc.want) || q != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	f.show(p.Token())
	if q, err := p.Refresh(t.Context(), nc); err != nil || q != p {
		t.Errorf("the one that is known: %v", err)
	}
	f.show(o.document(1, 9, o.root), o.document(2, 2, o.root))
	if q, err := p.Refresh(t.Context(), nc); err != nil || q.Document.Version.Number != 2 {
		t.Errorf("an older one, then a newer: %v", err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := p.Refresh(ended, nc); !errors.Is(err, context.Canceled) {
		t.Errorf("an ended context: %v", err)
	}
}

// TestNewRegionKey: who comes with a document from before the region got another key
// is let in, once a newer document vouches for that key, and not before.
func TestNewRegionKey(t *testing.T) {
	o := newOperator(t)
	f := newFake(t, o)
	p := load(t, o.Dir.Public())
	fresh, err := keystore.Generate(keystore.Curve)
	if err != nil {
		t.Fatal(err)
	}
	seal, err := ident.ParseSealKey(fresh.Public())
	if err != nil {
		t.Fatal(err)
	}
	f.seal.Store(fresh)
	name, _ := ident.ParseName("alice")
	key, err := keystore.Generate(keystore.User)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	if c, err := p.Obtain(ctx, []string{f.url}, key, client.Wish{Name: name}); !errors.Is(err, trust.ErrUntrusted) || c.JWT != "" {
		t.Errorf("a key that no document has: %v", err)
	}
	f.show(o.document(1, 2, o.root, func(d *trust.Platform) { d.Regions[0].SealKey = seal }))
	s, newer := f.start(t, p)
	if got := <-newer; !got.Document.HasSealKey(seal) || s.Credential().Platform != got {
		t.Errorf("the credential was verified by %s", s.Credential().Platform.Document.Version)
	}
}
