package issuebench

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime/pprof"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/herald-nats/herald/internal/apply"
	"github.com/herald-nats/herald/internal/cli"
	"github.com/herald-nats/herald/internal/cli/nscsetup"
	"github.com/herald-nats/herald/internal/natsconn"
	"github.com/herald-nats/herald/internal/service"
	"github.com/herald-nats/herald/internal/uptest"
	"github.com/herald-nats/herald/pkg/accesskey"
	"github.com/herald-nats/herald/pkg/client"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/keystore"
	"github.com/herald-nats/herald/pkg/platform"
	"github.com/herald-nats/herald/pkg/subject"
	"github.com/herald-nats/herald/pkg/wire"
)

// What the platform has beside what init gives it. The limits of a host and of an identity
// are as high as they may be: everybody asks from one host, and most by one access key. They
// are looked at for each request all the same.
const (
	limits = `  longest: 12h
  per_host: {burst: 1000000, per_minute: 60000000}
  per_identity: {burst: 1000000, per_minute: 60000000}
  audit: required
`
	more = `
  - {to: key, account: ORDERS, role: service}
accounts:
  - name: ORDERS
    roles:
      - name: service
        publish: {allow: ["orders.>"]}
        subscribe: {allow: ["orders.>"]}
`
)

// Parts of the process, as profiles name them: go tool pprof -tagfocus part=issuer.
const (
	partServers   = "servers"
	partIssuer    = "issuer"
	partRegistrar = "registrar"
	partReference = "reference"
	partClients   = "clients"
)

// as does something as one part; the goroutines that it starts belong to that part, too.
func as(ctx context.Context, part string, do func(context.Context)) {
	pprof.Do(ctx, pprof.Labels("part", part), do)
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// world is a platform that runs, without issuers: these are started and stopped in turn with
// what they are compared to.
type world struct {
	*uptest.Platform
	home   ident.Region
	log    *slog.Logger // of services, to a file, as those of a program that runs in earnest
	closes []func()
	users  []*keystore.Key // those for which credentials are asked
	keys   []ident.UserKey // the same, public
	access client.AccessKey
	secret *keystore.Key // of access
}

// users is for how many users credentials are asked: one after the other, and again.
const users = 4096

func newWorld(tb testing.TB, regions ...string) *world {
	tb.Helper()
	w := &world{}
	tb.Cleanup(w.close)
	dir := must(os.MkdirTemp("", "issuebench-*"))
	w.later(func() { _ = os.RemoveAll(dir) })
	logs := must(os.Create(filepath.Join(dir, "services.log")))
	w.later(func() { _ = logs.Close() })
	w.log = slog.New(slog.NewJSONHandler(logs, nil))
	servers := must(os.Create(filepath.Join(dir, "servers.log")))
	w.later(func() { _ = servers.Close() })
	var err error
	as(tb.Context(), partServers, func(context.Context) {
		w.Platform, err = uptest.Start(dir, uptest.Options{Regions: regions, Bare: true, Log: servers})
	})
	if err != nil {
		tb.Fatal(err)
	}
	running := w.Platform
	w.later(func() {
		if err := running.Close(); err != nil {
			tb.Error(err)
		}
	})
	w.home = w.Up.Platform.File.Home
	if err := w.change(tb.Context(), func(file string) string {
		return strings.Replace(strings.TrimRight(file, "\n"), "  longest: 12h\n", limits, 1) + more
	}); err != nil {
		tb.Fatal(err)
	}
	w.Public = must(client.LoadPlatform(platform.Dir(w.Dir).Public()))
	for _, r := range w.Up.Platform.File.Regions {
		registrar, err := w.start(tb.Context(), platform.Dir(w.Dir).Registrar(r.Name), partRegistrar)
		if err != nil {
			tb.Fatal(err)
		}
		w.later(func() { w.stop(tb, registrar) })
	}
	for range users {
		key := must(keystore.Generate(keystore.User))
		w.users, w.keys = append(w.users, key), append(w.keys, must(ident.ParseUserKey(key.Public())))
	}
	w.access = w.newAccessKey(tb, "--name", "bench")
	w.secret = must(w.access.Secret.Key())
	return w
}

// later does something when all is closed, the last first.
func (w *world) later(do func()) { w.closes = append(w.closes, do) }

func (w *world) close() {
	for len(w.closes) > 0 {
		do := w.closes[len(w.closes)-1]
		w.closes = w.closes[:len(w.closes)-1]
		do()
	}
}

// change edits the platform file and brings it into force.
func (w *world) change(ctx context.Context, edit func(file string) string) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	path := platform.Dir(w.Dir).File()
	old, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	next := edit(string(old))
	if next == string(old) {
		return errors.New("the platform file does not change")
	}
	if err := os.WriteFile(path, []byte(next), 0o600); err != nil {
		return err
	}
	p, err := platform.Open(w.Dir)
	if err != nil {
		return err
	}
	t := &apply.Tool{Platform: p, Log: slog.New(slog.DiscardHandler), Now: time.Now}
	_, err = t.Apply(ctx, nil)
	return err
}

// start runs a service from its folder, as the program does.
func (w *world) start(ctx context.Context, dir, part string) (r *service.Running, err error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	c, err := service.Load(filepath.Join(dir, platform.ServiceFile))
	if err != nil {
		return nil, err
	}
	as(ctx, part, func(ctx context.Context) { r, err = c.Start(ctx, w.log) })
	return r, err
}

func (w *world) startIssuer(ctx context.Context) (*service.Running, error) {
	return w.start(ctx, platform.Dir(w.Dir).Issuer(w.home), partIssuer)
}

func (w *world) issuer(tb testing.TB) *service.Running {
	tb.Helper()
	r, err := w.startIssuer(tb.Context())
	if err != nil {
		tb.Fatal(err)
	}
	return r
}

func (w *world) stop(tb testing.TB, r *service.Running) {
	tb.Helper()
	// The test's own context has ended when what it leaves is closed.
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if err := r.Drain(ctx); err != nil {
		tb.Error(err)
	}
}

// setup runs nscsetup.
func (w *world) setup(ctx context.Context, args ...string) error {
	var out, errs bytes.Buffer
	if code := nscsetup.Run(ctx, cli.IO{In: strings.NewReader(""), Out: &out, Err: &errs}, append([]string{"--dir", w.Dir}, args...)); code != cli.OK {
		return fmt.Errorf("nscsetup %s: %d\n%s%s", strings.Join(args, " "), code, out.String(), errs.String())
	}
	return nil
}

// newAccessKey makes one that the home region's issuer takes at once: it is started later.
func (w *world) newAccessKey(tb testing.TB, args ...string) client.AccessKey {
	tb.Helper()
	file := filepath.Join(tb.TempDir(), "key")
	if err := w.setup(tb.Context(), append([]string{"access-key", "create", "--owner", "bench", "--grant", "ORDERS/service", "--out", file}, args...)...); err != nil {
		tb.Fatal(err)
	}
	return must(readKey(file))
}

// readKey reads what nscsetup wrote.
func readKey(file string) (client.AccessKey, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return client.AccessKey{}, err
	}
	var k client.AccessKey
	for line := range strings.Lines(string(data)) {
		line = strings.TrimSpace(line)
		if v, ok := strings.CutPrefix(line, "HERALD_KEY_ID="); ok {
			k.ID, err = ident.ParseKeyID(v)
		}
		if v, ok := strings.CutPrefix(line, "HERALD_KEY_SECRET="); ok && err == nil {
			k.Secret, err = accesskey.Parse(v)
		}
	}
	if err == nil && k.Secret.IsZero() {
		err = errors.New("no secret in " + file)
	}
	return k, err
}

func (w *world) urls(region ident.Region) []string {
	r, _ := w.Public.Document.Region(region)
	return r.URLs
}

// guests are so many connections as the platform's guest, one server of home after the
// other.
func (w *world) guests(tb testing.TB, n int) []*nats.Conn {
	tb.Helper()
	urls := w.urls(w.home)
	conns := make([]*nats.Conn, n)
	as(tb.Context(), partClients, func(ctx context.Context) {
		for i := range conns {
			nc, err := w.Public.DialGuest(ctx, urls[i%len(urls):i%len(urls)+1])
			if err != nil {
				tb.Fatal(err)
			}
			conns[i] = nc
			w.later(nc.Close)
		}
	})
	return conns
}

// members are connections of users, each with a credential of its own that the issuer gave
// and that the server verified: it is what they renew.
func (w *world) members(tb testing.TB, n int) []*nats.Conn {
	tb.Helper()
	guests := w.guests(tb, 1)
	tokens := make([]string, n)
	p := w.signed(tb, n, w.access, nil)
	var failed error
	var mu sync.Mutex
	r := closed(tb, guests, 16, time.Minute, func(i int) *nats.Msg { return p.at(i) }, func(i int, m *nats.Msg) {
		a, err := wire.DecodeAnswer(m.Data)
		mu.Lock()
		defer mu.Unlock()
		tokens[i], failed = a.JWT, errors.Join(failed, err)
	})
	if failed != nil || r.granted() != n {
		tb.Fatalf("%d of %d users have credentials: %v: %v", r.granted(), n, r.answers, failed)
	}
	urls := w.urls(w.home)
	conns := make([]*nats.Conn, n)
	as(tb.Context(), partClients, func(ctx context.Context) {
		for i := range conns {
			u := w.users[i%users]
			nc, err := natsconn.Dial(ctx, natsconn.Options{
				URLs: urls[i%len(urls) : i%len(urls)+1], Name: "member", InboxPrefix: subject.UserInboxPrefix(w.keys[i%users]),
				Credential: natsconn.Static{Token: tokens[i], Key: u},
			})
			if err != nil {
				tb.Fatal(err)
			}
			conns[i] = nc
			w.later(nc.Close)
		}
	})
	return conns
}

// pool are requests that were signed beforehand, each with a nonce of its own. An issuer
// takes them for half a minute.
type pool []*nats.Msg

// at is the nth, or nil when all were given out.
func (p pool) at(n int) *nats.Msg {
	if n >= len(p) {
		return nil
	}
	return p[n]
}

// signed makes requests by an access key, for one user after the other. names, if it is not
// nil, gives the name that each asks for. Answers are not sealed.
func (w *world) signed(tb testing.TB, n int, access client.AccessKey, names func(i int) ident.Name) pool {
	tb.Helper()
	p := make(pool, n)
	secret := must(access.Secret.Key())
	const makers = 2
	var work sync.WaitGroup
	for maker := range makers {
		work.Go(func() {
			for i := maker; i < n; i += makers {
				var name ident.Name
				if names != nil {
					name = names(i)
				}
				p[i] = w.request(i, name, wire.Proof{Type: wire.ProofKey, KeyID: access.ID}, secret)
			}
		})
	}
	work.Wait()
	return p
}

// request is one for the nth user, signed by it and by an access key, if there is one.
func (w *world) request(n int, name ident.Name, proof wire.Proof, secret *keystore.Key) *nats.Msg {
	n %= users
	r := wire.Request{UserKey: w.keys[n], Time: time.Now(), Nonce: must(wire.NewNonce(rand.Reader)), Name: name, Identity: proof}
	body := must(r.Encode())
	m := &nats.Msg{Subject: subject.Issue, Data: body, Header: nats.Header{wire.HeaderProof: {must(wire.Prove(w.users[n], body))}}}
	if secret != nil {
		m.Header[wire.HeaderIdentity] = []string{must(wire.Prove(secret, body))}
	}
	return m
}
