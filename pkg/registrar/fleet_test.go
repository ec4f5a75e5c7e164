package registrar_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats.go"

	"github.com/herald-nats/herald/internal/natsconn"
	"github.com/herald-nats/herald/internal/supercluster"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/keystore"
	"github.com/herald-nats/herald/pkg/registrar"
	"github.com/herald-nats/herald/pkg/subject"
	"github.com/herald-nats/herald/pkg/trust"
)

// fleet is a supercluster of three regions with three servers each, whose servers have the
// account SYS and no other.
type fleet struct {
	once    sync.Once
	failed  error
	dir     string
	cluster *supercluster.Supercluster
	op      *trust.Operator
	signing [3]*keystore.Key
	system  string           // SYS
	roles   [2]*keystore.Key // of SYS: what a registrar may do, and everything
}

// shared is the one of all tests here. They use accounts of their own, and leave it as they
// found it.
//
//nolint:gochecknoglobals // nine servers are started once, by the first test that needs them
var shared fleet

const (
	asRegistrar = iota
	asAnybody
)

// regions are those of the world; the first is where tests connect unless they say so.
func regions() []string { return []string{"ams", "sfo", "sgp"} }

func region(name string) ident.Region { return must(ident.ParseRegion(name)) }

func newKey(kind keystore.Kind) *keystore.Key { return must(keystore.Generate(kind)) }

func (w *fleet) start() error {
	var err error
	if w.dir, err = os.MkdirTemp("", "registrar-*"); err != nil {
		return err
	}
	root, system := newKey(keystore.Operator), newKey(keystore.Account)
	var pubs []string
	for i := range w.signing {
		w.signing[i] = newKey(keystore.Operator)
		pubs = append(pubs, w.signing[i].Public())
	}
	token := must(trust.NewOperator("test", root, pubs, must(ident.ParseAccountKey(system.Public()))))
	w.op = must(trust.ParseOperator(token))
	w.system = system.Public()
	sys := jwt.NewAccountClaims(w.system)
	sys.Name = "SYS"
	for i, rights := range [][2][]string{
		// As docs/architecture.md has them.
		{
			{subject.ClaimsUpdate, subject.ClaimsLookupAny, subject.ServerPing, subject.ServerAccountz, subject.ServerKick},
			{subject.ServerStats, subject.ServiceInbox},
		},
		{{">"}, {">"}},
	} {
		w.roles[i] = newKey(keystore.Account)
		scope := jwt.NewUserScope()
		scope.Key, scope.Role = w.roles[i].Public(), "role-"+strconv.Itoa(i)
		scope.Template.Pub.Allow.Add(rights[0]...)
		scope.Template.Sub.Allow.Add(rights[1]...)
		sys.SigningKeys.AddScopedSigner(scope)
	}
	cfg := supercluster.Config{Dir: w.dir, Operator: token, SystemAccount: must(sys.Encode(w.signing[0].Pair()))}
	const free = "127.0.0.1:0"
	for _, name := range regions() {
		r := supercluster.Region{Name: region(name), Gateway: free}
		for i := range 3 {
			r.Nodes = append(r.Nodes, supercluster.Node{Name: name + "-" + strconv.Itoa(i+1), Client: free, Cluster: free, Gateway: free})
		}
		cfg.Regions = append(cfg.Regions, r)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 40*time.Second)
	defer cancel()
	w.cluster, err = supercluster.Start(ctx, cfg)
	return err
}

func (w *fleet) close() error {
	var err error
	if w.cluster != nil {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		err = w.cluster.Close(ctx)
	}
	if w.dir != "" {
		err = errors.Join(err, os.RemoveAll(w.dir))
	}
	return err
}

// servers gives the shared world, and a context that bounds the test.
func servers(t *testing.T) (*fleet, context.Context) {
	t.Helper()
	shared.once.Do(func() { shared.failed = shared.start() })
	if shared.failed != nil {
		t.Fatal(shared.failed)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 90*time.Second)
	t.Cleanup(cancel)
	return &shared, ctx
}

// names are those of all nodes, whether they run or not.
func (w *fleet) names() []string {
	var names []string
	for _, s := range w.cluster.Servers() {
		names = append(names, s.Name)
	}
	return names
}

// dial connects to a region in SYS.
func (w *fleet) dial(t testing.TB, in string, as int) *nats.Conn {
	t.Helper()
	user := newKey(keystore.User)
	c := jwt.NewUserClaims(user.Public())
	c.IssuerAccount = w.system
	c.SetScoped(true)
	nc, err := natsconn.Dial(t.Context(), natsconn.Options{
		URLs: w.cluster.URLs(region(in)), Name: "test", InboxPrefix: subject.ServiceInboxPrefix(must(ident.ParseUserKey(user.Public()))),
		Credential: natsconn.Static{Token: must(c.Encode(w.roles[as].Pair())), Key: user},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return nc
}

// resolver is one in a region, with the rights of a registrar and one of the signing keys.
func (w *fleet) resolver(t testing.TB, in string, key int) *registrar.Resolver {
	t.Helper()
	return registrar.NewResolver(w.dial(t, in, asRegistrar), w.op, w.signing[key], time.Now)
}

// tenant is an account of one test.
type tenant struct {
	w   *fleet
	key ident.AccountKey
}

func (w *fleet) tenant() tenant {
	return tenant{w, must(ident.ParseAccountKey(newKey(keystore.Account).Public()))}
}

// lately is a moment of which revocations are told in seconds: what is long over is taken out.
//
//nolint:gochecknoglobals // one for all
var lately = sync.OnceValue(func() int64 { return time.Now().Add(-time.Hour).Unix() })

// says is what a JWT of a tenant says, who signed it and when.
type says struct {
	version uint64
	base    string           // any two differ
	revoked map[string]int64 // by user; see lately
	key     int              // signing key
	by      *keystore.Key    // instead, whoever that is
	at      time.Time        // zero: a minute ago
}

func (a tenant) token(s says) string {
	c := jwt.NewAccountClaims(a.key.String())
	c.Name = "TENANT-" + a.key.String()[50:]
	if s.version > 0 {
		c.Tags.Add(trust.TagBase + strconv.FormatUint(s.version, 10))
	}
	c.Description = s.base
	for who, at := range s.revoked {
		c.RevokeAt(who, time.Unix(lately()+at, 0))
	}
	if s.by == nil {
		s.by = a.w.signing[s.key]
	}
	if s.at.IsZero() {
		s.at = time.Now().Add(-time.Minute)
	}
	c.Issuer, c.IssuedAt, c.Type, c.Version = s.by.Public(), s.at.Unix(), jwt.AccountClaim, 2
	c.ID = trust.ID(s.base, fmt.Sprint(s.revoked, s.at.UnixNano(), s.key))
	return must(trust.EncodeJWT(c, s.by))
}

// push sends a JWT to all servers that a region reaches, as anybody with the right could
// do, and returns when as many have stored it.
func (w *fleet) push(ctx context.Context, t testing.TB, in, token string, want int) {
	t.Helper()
	nc := w.dial(t, in, asAnybody)
	defer nc.Close()
	sub := must(nc.SubscribeSync(nc.NewInbox()))
	if err := nc.PublishRequest(subject.ClaimsUpdate, sub.Subject, []byte(token)); err != nil {
		t.Fatal(err)
	}
	for i := range want {
		if _, err := sub.NextMsgWithContext(ctx); err != nil {
			t.Fatalf("%d of %d servers stored it: %v", i, want, err)
		}
	}
}

// held is what servers hold of a tenant, as a region sees them: one text for each that
// answers, empty for none, sorted. It waits for want answers.
func (w *fleet) held(ctx context.Context, t testing.TB, in string, a tenant, want int) []string {
	t.Helper()
	nc := w.dial(t, in, asAnybody)
	defer nc.Close()
	sub := must(nc.SubscribeSync(nc.NewInbox()))
	if err := nc.PublishRequest(subject.ClaimsLookup(a.key), sub.Subject, nil); err != nil {
		t.Fatal(err)
	}
	var all []string
	for range want {
		m, err := sub.NextMsgWithContext(ctx)
		if err != nil {
			t.Fatalf("%d of %d servers answered: %v", len(all), want, err)
		}
		all = append(all, string(m.Data))
	}
	slices.Sort(all)
	return all
}

// sole tells whether all servers hold one JWT.
func sole(held []string, token string) bool {
	return !slices.ContainsFunc(held, func(h string) bool { return h != token })
}

// content is what a JWT says, verified.
func (w *fleet) content(t testing.TB, token string) trust.Content {
	t.Helper()
	a, err := w.op.OpenAccount(token)
	if err != nil {
		t.Fatal(err)
	}
	return must(a.Content())
}

// all checks that as many servers hold a tenant's account with the content given, and no
// other, and gives the latest of their dates.
func (w *fleet) all(ctx context.Context, t testing.TB, in string, a tenant, want int, content trust.Content) int64 {
	t.Helper()
	var latest int64
	for _, token := range w.held(ctx, t, in, a, want) {
		got, err := w.op.OpenAccount(token)
		if err != nil {
			t.Errorf("a server holds what is not believed: %v: %q", err, token)
			continue
		}
		if !must(got.Content()).Equal(content) {
			t.Errorf("a server holds something else: version %d, revoked %v", got.Version, must(got.Content()).Revocations())
		}
		latest = max(latest, got.IssuedAt)
	}
	return latest
}

// converge is Converge that must go well.
func converge(ctx context.Context, t testing.TB, r *registrar.Resolver, expected []string, known ...string) registrar.Report {
	t.Helper()
	rep, err := r.Converge(ctx, known, expected)
	if err != nil {
		t.Fatal(err)
	}
	return rep
}

// quiet checks that nothing is pushed any more, and all is in line.
func quiet(ctx context.Context, t testing.TB, what string, r *registrar.Resolver, known ...string) {
	t.Helper()
	rep := converge(ctx, t, r, shared.names(), known...)
	if err := rep.Err(); err != nil || rep.Pushed() > 0 {
		t.Errorf("%s: %d are pushed again, %v", what, rep.Pushed(), err)
	}
}
