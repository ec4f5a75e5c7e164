package survey

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats.go"
	"go.uber.org/goleak"

	"github.com/herald-nats/herald/internal/natsconn"
	"github.com/herald-nats/herald/internal/supercluster"
	"github.com/herald-nats/herald/pkg/doctor/seen"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/keystore"
	"github.com/herald-nats/herald/pkg/platform/claims"
	"github.com/herald-nats/herald/pkg/platform/manifest"
	"github.com/herald-nats/herald/pkg/subject"
	"github.com/herald-nats/herald/pkg/trust"
)

// Nothing of a survey may outlive it.
func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func reg(name string) ident.Region { return must(ident.ParseRegion(name)) }

// world is a platform of the test's own: Herald's accounts and roles as they are, and
// servers.
type world struct {
	signing  *keystore.Key
	op       *trust.Operator
	accounts map[string]ident.AccountKey
	roles    map[string]*keystore.Key // by ACCOUNT/role
	tokens   map[string]string        // account JWTs, by name
	cluster  *supercluster.Supercluster
}

// start runs regions of three servers each, with all accounts on all of them.
func start(t *testing.T, regions ...string) *world {
	t.Helper()
	w := &world{
		signing: must(keystore.Generate(keystore.Operator)), accounts: map[string]ident.AccountKey{},
		roles: map[string]*keystore.Key{}, tokens: map[string]string{},
	}
	f := &manifest.File{}
	for _, r := range regions {
		f.Regions = append(f.Regions, manifest.Region{Name: reg(r)})
	}
	keys := claims.Keys{Accounts: map[ident.Label]ident.AccountKey{}, Roles: map[manifest.RoleRef]ident.AccountKey{}}
	for _, a := range f.AllAccounts() {
		keys.Accounts[a.Name] = newAccountKey()
		w.accounts[a.Name.String()] = keys.Accounts[a.Name]
		for _, r := range a.Roles {
			key := must(keystore.Generate(keystore.Account))
			w.roles[a.Name.String()+"/"+r.Name.String()] = key
			keys.Roles[manifest.RoleRef{Account: a.Name, Role: r.Name}] = must(ident.ParseAccountKey(key.Public()))
		}
	}
	operator := must(trust.NewOperator("test", must(keystore.Generate(keystore.Operator)), []string{w.signing.Public()}, w.accounts[manifest.System]))
	w.op = must(trust.ParseOperator(operator))
	compiler := claims.New(f, keys)
	for _, a := range compiler.Accounts() {
		w.tokens[a.Name.String()] = w.sign(must(compiler.Account(a, 1)))
	}

	cfg := supercluster.Config{Dir: t.TempDir(), Operator: operator, SystemAccount: w.tokens[manifest.System]}
	if os.Getenv("SURVEY_LOG") != "" {
		cfg.Log = os.Stderr
	}
	const free = "127.0.0.1:0"
	for _, name := range regions {
		r := supercluster.Region{Name: reg(name), Gateway: free}
		for i := range 3 {
			r.Nodes = append(r.Nodes, supercluster.Node{Name: fmt.Sprintf("%s-%d", name, i+1), Client: free, Cluster: free, Gateway: free})
		}
		cfg.Regions = append(cfg.Regions, r)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	var err error
	if w.cluster, err = supercluster.Start(ctx, cfg); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		if err := w.cluster.Close(ctx); err != nil {
			t.Error(err)
		}
	})
	for _, token := range w.tokens {
		w.push(t, token)
	}
	return w
}

func newAccountKey() ident.AccountKey {
	return must(ident.ParseAccountKey(must(keystore.Generate(keystore.Account)).Public()))
}

func (w *world) sign(c *jwt.AccountClaims) string { return must(c.Encode(w.signing.Pair())) }

// running are the servers that run.
func (w *world) running() []supercluster.Server {
	var out []supercluster.Server
	for _, s := range w.cluster.Servers() {
		if s.Running {
			out = append(out, s)
		}
	}
	return out
}

// nodes are all servers that should be there.
func (w *world) nodes() []seen.Node {
	var out []seen.Node
	for _, s := range w.cluster.Servers() {
		out = append(out, seen.Node{Name: s.Name, Region: s.Region})
	}
	return out
}

// push gives an account JWT to all servers that run.
func (w *world) push(t *testing.T, token string) {
	t.Helper()
	nc := w.dial(t, "SYS/setup", "")
	defer nc.Close()
	sub := must(nc.SubscribeSync(nc.NewInbox()))
	if err := nc.PublishRequest(subject.ClaimsUpdate, sub.Subject, []byte(token)); err != nil {
		t.Fatal(err)
	}
	for n := range w.running() {
		m, err := sub.NextMsg(10 * time.Second)
		if err != nil {
			t.Fatalf("%d servers answered: %v", n, err)
		}
		var answer struct {
			Data  struct{ Code int }
			Error *struct{ Description string }
		}
		if err := json.Unmarshal(m.Data, &answer); err != nil || answer.Error != nil || answer.Data.Code != 200 {
			t.Fatalf("a server answered %s", m.Data)
		}
	}
}

// dial connects to a region (to any, if none is named) as a user of ACCOUNT/role.
func (w *world) dial(t *testing.T, role, region string) *nats.Conn {
	t.Helper()
	nc, err := w.connect(t.Context(), role, func(s supercluster.Server) bool { return region == "" || s.Region == reg(region) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return nc
}

func (w *world) connect(ctx context.Context, role string, at func(supercluster.Server) bool) (*nats.Conn, error) {
	var urls []string
	for _, s := range w.cluster.Servers() {
		if at(s) {
			urls = append(urls, s.URL)
		}
	}
	account, name, _ := strings.Cut(role, "/")
	key := must(keystore.Generate(keystore.User))
	u := jwt.NewUserClaims(key.Public())
	u.Name, u.IssuerAccount = "the-"+name, w.accounts[account].String()
	u.Tags.Add("region:ams")
	u.SetScoped(true)
	return natsconn.Dial(ctx, natsconn.Options{
		URLs: urls, Name: role, InboxPrefix: subject.ServiceInboxPrefix(must(ident.ParseUserKey(key.Public()))),
		Credential: natsconn.Static{Token: must(u.Encode(w.roles[role].Pair())), Key: key},
	})
}

// options look at all servers, from wherever they are.
func (w *world) options() Options {
	return Options{
		Expect: w.nodes(), Now: time.Now, Quiet: 2 * Quiet, // tests share a small machine
		Dial: func(ctx context.Context, nodes []seen.Node) (*nats.Conn, error) {
			return w.connect(ctx, "SYS/setup", func(s supercluster.Server) bool {
				for _, n := range nodes {
					if n.Name == s.Name {
						return true
					}
				}
				return false
			})
		},
	}
}

// eventually waits until f gives "".
func eventually(t *testing.T, within time.Duration, f func() string) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	end := time.After(within)
	for {
		why := f()
		if why == "" {
			return
		}
		select {
		case <-tick.C:
		case <-end:
			t.Fatalf("not within %v: %s", within, why)
		}
	}
}
