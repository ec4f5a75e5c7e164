package admintest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/herald-nats/herald/internal/cli"
	"github.com/herald-nats/herald/internal/cli/nscsetup"
	"github.com/herald-nats/herald/internal/testlog"
	"github.com/herald-nats/herald/internal/uptest"
	"github.com/herald-nats/herald/internal/wait"
	"github.com/herald-nats/herald/pkg/client"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/keystore"
	"github.com/herald-nats/herald/pkg/subject"
	"github.com/herald-nats/herald/pkg/trust"
	"github.com/herald-nats/herald/pkg/wire"
)

// The one platform of all tests here.
//
//nolint:gochecknoglobals // a platform is started once, in TestMain
var shared *uptest.Platform

// What it logs.
//
//nolint:gochecknoglobals // as the platform
var log testlog.Log

// more is what the platform has beside what init gives it: accounts for tests that suspend one,
// after which its static users are out for two minutes.
func more() string {
	grants, accounts := "\n  - {to: key, account: ADMIN, role: admin}\n  - {to: invite, account: CHAT, role: member}\n", "accounts:\n"
	for i := range accountsFor {
		name := account(i)
		grants += "  - {to: key, account: " + name + ", role: service}\n"
		accounts += "  - name: " + name + `
    roles:
      - name: service
        publish: {allow: ["orders.>"]}
        subscribe: {allow: ["orders.>"]}
`
	}
	// Accounts whose role keys are replaced: what is issued lives for so long that it is seen to
	// be waited for.
	for i := range accountsTurned {
		name := turned(i)
		life := turnedLife
		if i == longLived {
			life = time.Hour
		}
		grants += fmt.Sprintf("  - {to: key, account: %s, role: service, lifetime: %ds, longest: %ds}\n", name, life/time.Second, life/time.Second)
		accounts += "  - name: " + name + `
    roles:
      - name: service
        publish: {allow: ["turns.>"]}
        subscribe: {allow: ["turns.>"]}
`
	}
	return grants + accounts
}

const (
	accountsTurned = 9
	turnedLife     = 20 * time.Second
	longLived      = 2 // the account whose credentials outlive every test
)

func turned(i int) string { return "TURNS" + strconv.Itoa(i) }

// accountsFor is how many accounts there are beside Herald's own.
const accountsFor = 8

func account(i int) string { return "ORDERS" + strconv.Itoa(i) }

// fresh counts the accounts that a test had for itself; the first is everybody's.
//
//nolint:gochecknoglobals // as the platform
var fresh atomic.Int64

// orders is everybody's account.
const orders = "ORDERS0"

func TestMain(m *testing.M) {
	os.Exit(uptest.Main(m, func(dir string) (stop func() error, err error) {
		shared, err = uptest.Start(dir, uptest.Options{More: more(), Log: &log, Pace: time.Second})
		return func() error { return shared.Close() }, err
	}))
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func region(s string) ident.Region { return must(ident.ParseRegion(s)) }

// tell runs nscsetup and gives how it ended, and what it wrote.
func tell(t testing.TB, args ...string) (code int, out, errs string) {
	t.Helper()
	var o, e bytes.Buffer
	code = nscsetup.Run(t.Context(), cli.IO{In: strings.NewReader(""), Out: &o, Err: &e}, append([]string{"--dir", shared.Dir}, args...))
	return code, o.String(), e.String()
}

// done is tell for what has to succeed.
func done(t testing.TB, args ...string) string {
	t.Helper()
	code, out, errs := tell(t, args...)
	if code != cli.OK {
		t.Fatalf("nscsetup %s: %d\n%s%s", strings.Join(args, " "), code, out, errs)
	}
	return out
}

// report is what revoke, suspend and resume say with --json.
type report struct {
	Standing []wire.Denial   `json:"standing"`
	Users    []trust.Revoked `json:"users"`
	Servers  int             `json:"servers"`
	Denied   int             `json:"denied"`
	Behind   []trust.Lagging `json:"behind"`
	By       string          `json:"by"`
	Receipt  string          `json:"receipt"`
}

// unheard is what an issuer says of an access key of which its region has not heard yet.
const unheard = "this access key is not known"

// deny runs revoke, suspend or resume, which must end so.
func deny(t testing.TB, code int, args ...string) report {
	t.Helper()
	got, out, errs := tell(t, append(args, "--json")...)
	for until := time.Now().Add(20 * time.Second); strings.Contains(errs, unheard) && time.Now().Before(until); {
		time.Sleep(20 * time.Millisecond) // no region tells
		got, out, errs = tell(t, append(args, "--json")...)
	}
	if got != code {
		t.Fatalf("nscsetup %s: %d and not %d\n%s%s", strings.Join(args, " "), got, code, out, errs)
	}
	var r report
	if err := json.Unmarshal([]byte(out), &r); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return r
}

// person is a user who asked an issuer for a credential.
type person struct {
	name ident.Name
	key  *keystore.Key
	user ident.UserKey
	cred client.Credential
	wish client.Wish
}

func urls(r ident.Region) []string {
	doc, _ := shared.Public.Document.Region(r)
	return doc.URLs
}

// allURLs are those of all nine servers.
func allURLs() []string { return shared.Public.Document.URLs(region("ams")) }

// joins gets a credential as a new person.
func joins(t testing.TB, in string) *person {
	t.Helper()
	key := must(keystore.Generate(keystore.User))
	p := &person{name: shared.Name("user"), key: key, user: must(ident.ParseUserKey(key.Public()))}
	p.wish = client.Wish{Name: p.name}
	p.asks(t, in)
	return p
}

// joinsBy is joins with an access key, in an account.
func joinsBy(t testing.TB, in, to string, access client.AccessKey) *person {
	t.Helper()
	key := must(keystore.Generate(keystore.User))
	p := &person{key: key, user: must(ident.ParseUserKey(key.Public()))}
	p.wish = client.Wish{Account: must(ident.ParseLabel(to)), Role: must(ident.ParseLabel("service")), Name: shared.Name("svc"), Identity: access}
	p.asks(t, in)
	return p
}

// asks gets another credential for the same nkey.
func (p *person) asks(t testing.TB, in string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for {
		err := p.tries(ctx, in)
		if err == nil {
			return
		}
		// Another region may not have heard yet of a name, a key, or that somebody is resumed.
		if wait.For(ctx, 20*time.Millisecond) != nil {
			t.Fatal(err)
		}
	}
}

func (p *person) tries(ctx context.Context, in string) error {
	c, err := shared.Public.Obtain(ctx, urls(region(in)), p.key, p.wish)
	if err == nil {
		p.cred = c
	}
	return err
}

// dial connects with the credential that the person has.
func (p *person) dial(url string, o ...nats.Option) (*nats.Conn, error) {
	return nats.Connect(url, append([]nats.Option{
		nats.UserJWT(func() (string, error) { return p.cred.JWT, nil }, p.key.Sign),
		nats.CustomInboxPrefix(subject.UserInboxPrefix(p.user)), nats.NoReconnect(), nats.Timeout(5 * time.Second),
	}, o...)...)
}

// connects is in, and what it gives is closed when it is out.
func (p *person) connects(t testing.TB, url string) <-chan struct{} {
	t.Helper()
	closed := make(chan struct{})
	nc, err := p.dial(url, nats.ClosedHandler(func(*nats.Conn) { close(closed) }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close(); <-closed })
	return closed
}

// goesOut waits until a connection is closed.
func goesOut(t testing.TB, what string, within time.Duration, closed <-chan struct{}) {
	t.Helper()
	select {
	case <-closed:
	case <-time.After(within):
		t.Fatalf("%s: it stays in", what)
	}
}

// isOut shows that no server takes the credential.
func (p *person) isOut(t testing.TB, at ...string) {
	t.Helper()
	for _, url := range at {
		nc, err := p.dial(url)
		if err == nil {
			nc.Close()
		}
		if !errors.Is(err, nats.ErrAuthorization) {
			t.Errorf("at %s: %v", url, err)
		}
	}
}

// comesOut waits until a server takes the credential no more, and gives how long that took.
func (p *person) comesOut(t testing.TB, url string, within time.Duration) time.Duration {
	t.Helper()
	began := time.Now()
	for {
		nc, err := p.dial(url)
		if err == nil {
			nc.Close()
		}
		if errors.Is(err, nats.ErrAuthorization) {
			return time.Since(began)
		}
		if time.Since(began) > within {
			t.Fatalf("at %s: %v after %s", url, err, within)
		}
		time.Sleep(10 * time.Millisecond) // a server has no event for it
	}
}

// refused is how an issuer refuses the person.
func (p *person) refused(t testing.TB, in string, code wire.Code) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	err := p.tries(ctx, in)
	for err != nil && strings.Contains(err.Error(), unheard) && wait.For(ctx, 20*time.Millisecond) == nil {
		err = p.tries(ctx, in)
	}
	if !errors.Is(err, &wire.Error{Code: code}) {
		t.Errorf("in %s: %v, and not %s", in, err, code)
	}
}

// adminAt is a connection in ADMIN to a region.
func adminAt(t testing.TB, in string) *nats.Conn {
	t.Helper()
	nc, err := dialAdmin(in)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return nc
}

func dialAdmin(in string) (*nats.Conn, error) {
	u := must(shared.Up.Platform.MintFor("nscsetup.test", "ADMIN", "admin", time.Now(), time.Hour))
	return nats.Connect(strings.Join(urls(region(in)), ","), nats.UserJWT(func() (string, error) { return u.Token, nil }, u.Key.Sign),
		nats.CustomInboxPrefix(subject.ServiceInboxPrefix(must(ident.ParseUserKey(u.Key.Public())))))
}

// knows waits until a registrar has heard from the records that so many users of an identity
// have a credential.
func knows(t testing.TB, nc *nats.Conn, id ident.Identity, users int) {
	t.Helper()
	until := time.Now().Add(20 * time.Second)
	for {
		a, err := client.Administer(t.Context(), shared.Up.Platform.Operator, nc, "show", wire.AdminRequest{Identity: id})
		if err == nil && len(a.Standing) == 1 && a.Standing[0].Users == users {
			return
		}
		if time.Now().After(until) {
			t.Fatalf("the registrar does not know of it: %v %+v", err, a)
		}
		time.Sleep(20 * time.Millisecond) // records are read, not told
	}
}
