package supercluster

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
	"github.com/nats-io/nkeys"
	"go.uber.org/goleak"

	"github.com/herald-nats/herald/pkg/ident"
)

// Nothing of a supercluster may outlive Close.
func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// keys is an operator with a system account and one account for applications,
// and a user in each.
type keys struct {
	operator, system, app string // JWTs
	appKey                string
	operatorKey           nkeys.KeyPair // a signing key
	sysUser, appUser      nats.Option
	appCreds              []byte // the same user as appUser
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func newKeys() keys {
	op, signer := must(nkeys.CreateOperator()), must(nkeys.CreateOperator())
	sys, app := must(nkeys.CreateAccount()), must(nkeys.CreateAccount())
	sysKey, appKey := must(sys.PublicKey()), must(app.PublicKey())
	sysSigner, appSigner := must(nkeys.CreateAccount()), must(nkeys.CreateAccount())

	oc := jwt.NewOperatorClaims(must(op.PublicKey()))
	oc.Name, oc.SystemAccount = "test", sysKey
	oc.StrictSigningKeyUsage = true
	oc.SigningKeys.Add(must(signer.PublicKey()))
	sc := jwt.NewAccountClaims(sysKey)
	sc.Name = "SYS"
	sc.SigningKeys.Add(must(sysSigner.PublicKey()))
	ac := jwt.NewAccountClaims(appKey)
	ac.Name = "APP"
	ac.SigningKeys.Add(must(appSigner.PublicKey()))
	ac.Limits.JetStreamLimits = jwt.JetStreamLimits{MemoryStorage: -1, DiskStorage: -1, Streams: -1, Consumer: -1}
	_, sysUser := newUser(sysKey, sysSigner)
	appCreds, appUser := newUser(appKey, appSigner)
	return keys{
		operator:    must(oc.Encode(op)),
		system:      must(sc.Encode(signer)),
		app:         must(ac.Encode(signer)),
		appKey:      appKey,
		operatorKey: signer,
		sysUser:     sysUser,
		appUser:     appUser,
		appCreds:    appCreds,
	}
}

func newUser(account string, signer nkeys.KeyPair) (creds []byte, as nats.Option) {
	kp := must(nkeys.CreateUser())
	uc := jwt.NewUserClaims(must(kp.PublicKey()))
	uc.IssuerAccount = account
	token := must(uc.Encode(signer))
	creds = must(jwt.FormatUserConfig(token, must(kp.Seed())))
	return creds, nats.UserJWT(func() (string, error) { return token, nil }, kp.Sign)
}

func reg(name string) ident.Region { return must(ident.ParseRegion(name)) }

// config is regions of size nodes each, all on free ports.
func (k keys) config(dir string, size int, names ...string) Config {
	cfg := Config{Dir: dir, Operator: k.operator, SystemAccount: k.system}
	if os.Getenv("SUPERCLUSTER_LOG") != "" {
		cfg.Log = os.Stderr
	}
	const free = "127.0.0.1:0"
	for _, name := range names {
		r := Region{Name: reg(name), Gateway: free}
		for i := range size {
			r.Nodes = append(r.Nodes, Node{Name: fmt.Sprintf("%s-%d", name, i+1), Client: free, Cluster: free, Gateway: free})
		}
		cfg.Regions = append(cfg.Regions, r)
	}
	return cfg
}

// up starts cfg and closes it with the test.
func up(t *testing.T, cfg Config) *Supercluster {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	begin := time.Now()
	s, err := Start(ctx, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d servers started in %v", len(s.Servers()), time.Since(begin).Round(time.Millisecond))
	t.Cleanup(func() { shut(t, s) })
	return s
}

func shut(t *testing.T, s *Supercluster) {
	t.Helper()
	// Not t.Context(), which is over when a cleanup runs.
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if err := s.Close(ctx); err != nil {
		t.Error(err)
	}
}

// dial connects to a region's servers for as long as the test runs.
func dial(t *testing.T, s *Supercluster, in string, user nats.Option) *nats.Conn {
	t.Helper()
	nc, err := nats.Connect(strings.Join(s.URLs(reg(in)), ","), user,
		nats.MaxReconnects(-1), nats.ReconnectWait(50*time.Millisecond), nats.ReconnectJitter(0, 0), nats.IgnoreDiscoveredServers())
	if err != nil {
		t.Fatalf("connecting to %s: %v", in, err)
	}
	t.Cleanup(nc.Close)
	return nc
}

// push gives the account of applications to all servers that run, and returns how
// many distinct ones said that they have it.
func push(t *testing.T, s *Supercluster, k keys, via string) int {
	t.Helper()
	want := 0
	for _, srv := range s.Servers() {
		if srv.Running {
			want++
		}
	}
	nc := dial(t, s, via, k.sysUser)
	sub := must(nc.SubscribeSync(nats.NewInbox()))
	if err := nc.PublishRequest("$SYS.REQ.CLAIMS.UPDATE", sub.Subject, []byte(k.app)); err != nil {
		t.Fatal(err)
	}
	ids := map[string]bool{}
	for len(ids) < want {
		m, err := sub.NextMsg(5 * time.Second)
		if err != nil {
			t.Fatalf("%d of %d servers answered: %v", len(ids), want, err)
		}
		var answer struct {
			Server struct{ ID string }
			Data   struct{ Code int }
			Error  *struct{ Description string }
		}
		if err := json.Unmarshal(m.Data, &answer); err != nil || answer.Error != nil || answer.Data.Code != 200 {
			t.Fatalf("a server answered %s", m.Data)
		}
		ids[answer.Server.ID] = true
	}
	return len(ids)
}

// respond answers subject with its own name from a region.
func respond(t *testing.T, s *Supercluster, k keys, in, subject string) {
	t.Helper()
	nc := dial(t, s, in, k.appUser)
	must(nc.Subscribe(subject, func(m *nats.Msg) { _ = m.Respond([]byte(subject)) }))
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
}

func ask(nc *nats.Conn, subject string) error {
	_, err := nc.Request(subject, nil, 400*time.Millisecond)
	return err
}

// eventually waits until f returns nil, and says how long that took.
func eventually(t *testing.T, within time.Duration, what string, f func() error) time.Duration {
	t.Helper()
	begin := time.Now()
	for {
		err := f()
		if err == nil {
			return time.Since(begin)
		}
		if time.Since(begin) > within {
			t.Fatalf("%s: not within %v: %v", what, within, err)
		}
		time.Sleep(10 * time.Millisecond)
	}
}
