package callouttest

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/herald-nats/herald/internal/cli"
	"github.com/herald-nats/herald/internal/cli/nscsetup"
	"github.com/herald-nats/herald/internal/testlog"
	"github.com/herald-nats/herald/internal/uptest"
	"github.com/herald-nats/herald/internal/wait"
	"github.com/herald-nats/herald/pkg/ident"
)

// The one platform of all tests here.
//
//nolint:gochecknoglobals // a platform is started once, in TestMain
var shared *uptest.Platform

// What it logs.
//
//nolint:gochecknoglobals // as the platform
var log testlog.Log

// The provider that it knows.
//
//nolint:gochecknoglobals // as the platform
var corp *login

// more is what the platform has beside what init gives it.
const more = `
  - {to: key, account: ORDERS, role: service}
  - {to: key, account: ORDERS, role: worker}
  - {to: key, account: BRIEF, role: service, lifetime: 2s}
  - {to: oidc, account: ORDERS, role: service, provider: corp, claims: [{claim: iss, values: ["CORP"]}]}
providers:
  - {name: corp, issuer: "CORP", audiences: [herald-tests], name_claim: preferred_username}
callout: true
accounts:
  - name: BRIEF
    roles:
      - {name: service, callout: true, subscribe: {allow: ["brief.>"]}}
  - name: ORDERS
    roles:
      - name: service
        callout: true
        publish: {allow: ["orders.>", "_INBOX_{{tag(kid)}}.>"]}
        subscribe: {allow: ["orders.>"]}
        connection_types: [STANDARD, WEBSOCKET]
      - name: worker
        publish: {allow: ["orders.>"]}
        allow_responses: {}
        subscribe: {allow: ["orders.>"]}
`

func TestMain(m *testing.M) {
	os.Exit(uptest.Main(m, func(dir string) (stop func() error, err error) {
		corp = newLogin()
		stop = func() error { corp.server.Close(); return shared.Close() }
		shared, err = uptest.Start(dir, uptest.Options{Regions: []string{"ams", "sfo"}, More: strings.ReplaceAll(more, "CORP", corp.Issuer()), Log: &log})
		return stop, err
	}))
}

// setup runs nscsetup on the platform and gives what it writes.
func setup(t testing.TB, args ...string) string {
	t.Helper()
	var out, errs bytes.Buffer
	code := nscsetup.Run(t.Context(), cli.IO{In: strings.NewReader(""), Out: &out, Err: &errs}, append([]string{"--dir", shared.Dir}, args...))
	if code != cli.OK {
		t.Fatalf("nscsetup %s: %d\n%s%s", strings.Join(args, " "), code, out.String(), errs.String())
	}
	return out.String()
}

// password is an access key as a plain client has it.
type password struct{ id, secret string }

// newKey makes an access key that is taken as a password.
func newKey(t testing.TB, args ...string) password {
	t.Helper()
	return makeKey(t, append([]string{"--password", "--grant", "ORDERS/service", "--name", shared.Name("mail").String()}, args...)...)
}

func makeKey(t testing.TB, args ...string) password {
	t.Helper()
	file := filepath.Join(t.TempDir(), "key")
	setup(t, append([]string{"access-key", "create", "--owner", "tests", "--out", file}, args...)...)
	return readKey(t, file)
}

func readKey(t testing.TB, file string) password {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var p password
	for line := range strings.Lines(string(data)) {
		line = strings.TrimSpace(line)
		if v, ok := strings.CutPrefix(line, "HERALD_KEY_ID="); ok {
			p.id = v
		}
		if v, ok := strings.CutPrefix(line, "HERALD_KEY_SECRET="); ok {
			p.secret = v
		}
	}
	return p
}

func (p password) inbox() string { return "_INBOX_" + strings.ToLower(p.id) }

// urls are those of home's servers.
func urls() string { return urlsOf(shared.Up.Platform.File.Home) }

func urlsOf(region ident.Region) string {
	r, _ := shared.Up.Platform.File.Region(region)
	return strings.Join(shared.Up.Platform.File.ClientURLs(r), ",")
}

// connect is a plain client, which knows of Herald nothing but what it is given.
func connect(o ...nats.Option) (*nats.Conn, error) { return connectTo(urls(), o...) }

func connectTo(urls string, o ...nats.Option) (*nats.Conn, error) {
	return nats.Connect(urls, append([]nats.Option{nats.NoReconnect(), nats.Timeout(5 * time.Second)}, o...)...)
}

// comesIn connects, and waits until issuers have heard of what was just decided.
func comesIn(t testing.TB, o ...nats.Option) *nats.Conn {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for {
		nc, err := connect(o...)
		if err == nil {
			t.Cleanup(nc.Close)
			return nc
		}
		if !errors.Is(err, nats.ErrAuthorization) || wait.For(ctx, 20*time.Millisecond) != nil {
			t.Fatalf("%v\n%s", err, tail())
		}
	}
}

// tail is the end of what was logged.
func tail() string {
	s := log.String()
	return s[max(0, len(s)-3000):]
}
