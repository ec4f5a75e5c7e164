package permtest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nkeys"
	"go.uber.org/goleak"

	"github.com/herald-nats/herald/internal/supercluster"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/permission"
)

// The one server of all tests here.
//
//nolint:gochecknoglobals // a server is started once, in TestMain
var shared *platform

// platform is a server, and who may change its accounts.
type platform struct {
	addr    string
	signing nkeys.KeyPair // of the operator
	system  *account
}

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) (code int) {
	fail := func(err error) {
		if err != nil {
			fmt.Fprintln(os.Stderr, "FAIL:", err)
			code = 1
		}
	}
	dir, err := os.MkdirTemp("", "permtest-*")
	if err != nil {
		fail(err)
		return code
	}
	defer func() { fail(os.RemoveAll(dir)) }()
	sc, err := start(dir)
	if err != nil {
		fail(err)
		return code
	}
	code = m.Run()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	fail(sc.Close(ctx))
	fail(goleak.Find())
	return code
}

func start(dir string) (*supercluster.Supercluster, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 40*time.Second)
	defer cancel()
	shared = &platform{signing: must(nkeys.CreateOperator())}
	shared.system = newAccount("SYS")
	operator := must(nkeys.CreateOperator())
	op := jwt.NewOperatorClaims(must(operator.PublicKey()))
	op.Name, op.SystemAccount, op.StrictSigningKeyUsage = "test", shared.system.claims.Subject, true
	op.SigningKeys.Add(must(shared.signing.PublicKey()))
	const free = "127.0.0.1:0"
	cfg := supercluster.Config{
		Dir: dir, Operator: must(op.Encode(operator)), SystemAccount: shared.system.jwt(),
		Regions: []supercluster.Region{{
			Name: must(ident.ParseRegion("ams")), Nodes: []supercluster.Node{{Name: "ams-1", Client: free}},
		}},
	}
	if os.Getenv("SUPERCLUSTER_LOG") != "" {
		cfg.Log = os.Stderr
	}
	sc, err := supercluster.Start(ctx, cfg)
	if err != nil {
		return nil, err
	}
	at, err := url.Parse(sc.Servers()[0].URL)
	if err != nil {
		return nil, errors.Join(err, sc.Close(ctx))
	}
	shared.addr = at.Host
	return sc, nil
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// account is an account that a test makes.
type account struct {
	signing nkeys.KeyPair // of users without a role
	claims  *jwt.AccountClaims
}

func newAccount(name string) *account {
	a := &account{signing: must(nkeys.CreateAccount())}
	a.claims = jwt.NewAccountClaims(must(must(nkeys.CreateAccount()).PublicKey()))
	a.claims.Name = name
	a.claims.SigningKeys.Add(must(a.signing.PublicKey()))
	return a
}

func (a *account) jwt() string { return must(a.claims.Encode(shared.signing)) }

// about is what pkg/permission is told of the account.
func (a *account) about() permission.Account {
	return must(permission.AccountOf(a.claims, a == shared.system))
}

// user is a user with its credential.
type user struct {
	key   nkeys.KeyPair
	nkey  ident.UserKey
	token string
}

// user makes one without a role, with all rights. It has them by name: one without permissions would have the account's defaults.
func (a *account) user() user {
	return a.sign(a.signing, func(c *jwt.UserClaims) {
		c.Pub.Allow.Add(">")
		c.Sub.Allow.Add(">")
	})
}

func (a *account) sign(by nkeys.KeyPair, change func(*jwt.UserClaims)) user {
	key := must(nkeys.CreateUser())
	nkey := must(ident.ParseUserKey(must(key.PublicKey())))
	c := jwt.NewUserClaims(nkey.String())
	c.IssuerAccount = a.claims.Subject
	c.SetScoped(by != a.signing)
	change(c)
	return user{key, nkey, must(c.Encode(by))}
}

// role adds a role with a template; the account must be pushed after it.
func (a *account) role(template jwt.Permissions) nkeys.KeyPair {
	key := must(nkeys.CreateAccount())
	scope := jwt.NewUserScope()
	scope.Key = must(key.PublicKey())
	scope.Role = "role"
	scope.Template.Permissions = template
	a.claims.SigningKeys.AddScopedSigner(scope)
	return key
}

// tb is a *testing.T or a *rapid.T.
type tb interface {
	Helper()
	Fatalf(format string, args ...any)
	Errorf(format string, args ...any)
}

// push gives an account to the server.
func push(t tb, a *account) {
	t.Helper()
	pushJWT(t, a.jwt())
}

func pushJWT(t tb, token string) {
	t.Helper()
	r := enter(t, shared.system.user())
	defer r.close()
	r.sub("answers", "", "1")
	r.pub("$SYS.REQ.CLAIMS.UPDATE", "answers", []byte(token))
	sync(t, r)
	m, err := r.next()
	if err != nil {
		t.Fatalf("waiting for the server to have the account: %v", err)
	}
	var answer struct{ Data struct{ Code int } }
	if err := json.Unmarshal(m.body, &answer); err != nil || answer.Data.Code != 200 {
		t.Fatalf("the server does not take the account: %s", m.body)
	}
}

// enter connects a user that must be taken.
func enter(t tb, u user) *raw {
	t.Helper()
	r, err := dial(shared.addr, u)
	if err != nil {
		t.Fatalf("connecting: %v", err)
	}
	return r
}

func sync(t tb, r *raw) {
	t.Helper()
	if err := r.sync(); err != nil {
		t.Fatalf("waiting for the server: %v", err)
	}
}
