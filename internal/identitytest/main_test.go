package identitytest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/herald-nats/herald/internal/apply"
	"github.com/herald-nats/herald/internal/cli"
	"github.com/herald-nats/herald/internal/cli/nscsetup"
	"github.com/herald-nats/herald/internal/uptest"
	"github.com/herald-nats/herald/internal/wait"
	"github.com/herald-nats/herald/pkg/accesskey"
	"github.com/herald-nats/herald/pkg/client"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/keystore"
	"github.com/herald-nats/herald/pkg/platform"
	"github.com/herald-nats/herald/pkg/wire"
)

// The one platform of all tests here.
//
//nolint:gochecknoglobals // a platform is started once, in TestMain
var shared *uptest.Platform

// What it logs.
//
//nolint:gochecknoglobals // as the platform
var log record

// The providers that it knows.
//
//nolint:gochecknoglobals // as the platform
var corp, ci, flaky *login

// more is what the platform has beside what init gives it.
const more = `
  - {to: invite, account: CHAT, role: member}
  - {to: key, account: ORDERS, role: service, lifetime: 10m}
  - {to: key, account: ORDERS, role: reader}
  - {to: key, account: EDGE, role: box}
  - {to: key, account: RELAY, role: relay}
  - {to: oidc, provider: corp, groups: [ops], account: ORDERS, role: service}
  - {to: oidc, provider: corp, account: CHAT, role: member}
  - {to: oidc, provider: ci, claims: [{claim: repository, values: ["acme/*"]}, {claim: ref, values: [refs/heads/main]}], account: ORDERS, role: service}
  - {to: oidc, provider: flaky, account: CHAT, role: member}
providers:
  - {name: corp, issuer: "CORP", audiences: [herald-tests], name_claim: preferred_username, groups_claim: groups, required: [{claim: groups, values: [staff]}]}
  - {name: ci, issuer: "CI", audiences: [herald-tests]}
  - {name: flaky, issuer: "FLAKY", audiences: [herald-tests]}
accounts:
  - name: ORDERS
    imports:
      - {from: RELAY, subject: relay.renew, type: service, share: true}
    roles:
      - name: service
        publish: {allow: ["orders.>", relay.renew]}
        subscribe: {allow: ["orders.>"]}
      - name: reader
        subscribe: {allow: ["orders.>"]}
  # What is asked of this one's service arrives at the issuers'.
  - name: RELAY
    exports:
      - {name: renewal for others, subject: relay.renew, type: service}
    mappings:
      - {subject: relay.renew, to: [{subject: auth.v1.renew}]}
    roles:
      - name: relay
        publish: {allow: ["relay.>"]}
        subscribe: {allow: ["relay.>"]}
  # Servers at the edge come with credentials of this one.
  - name: EDGE
    limits: {leafnodes: 10}
    roles:
      - name: box
        publish: {allow: ["edge.>"]}
        subscribe: {allow: ["edge.>"]}
        connection_types: [STANDARD, LEAFNODE]
`

func TestMain(m *testing.M) {
	os.Exit(uptest.Main(m, func(dir string) (stop func() error, err error) {
		if shared, err = uptest.Start(dir, uptest.Options{Log: &log, Leaf: true}); err != nil {
			return nil, err
		}
		corp, ci, flaky = newLogin(), newLogin(), newLogin()
		stop = func() error {
			for _, l := range []*login{corp, ci, flaky} {
				defer l.server.Close()
			}
			return shared.Close()
		}
		text := strings.NewReplacer("CORP", corp.Issuer(), "CI", ci.Issuer(), "FLAKY", flaky.Issuer()).Replace(more)
		if err := extend(text); err != nil {
			return nil, errors.Join(err, stop())
		}
		return stop, nil
	}))
}

// extend adds to the platform file, brings it into force, and waits until every region's
// issuer goes by it.
func extend(text string) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	path := platform.Dir(shared.Dir).File()
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if err := os.WriteFile(path, append(data, text[1:]...), 0o600); err != nil {
		return err
	}
	p, err := platform.Open(shared.Dir)
	if err != nil {
		return err
	}
	t := &apply.Tool{Platform: p, Log: slog.New(slog.DiscardHandler), Now: time.Now}
	r, err := t.Apply(ctx, nil)
	if err != nil {
		return err
	}
	if shared.Public, err = client.LoadPlatform(p.Dir.Public()); err != nil {
		return err
	}
	for _, region := range p.Document.Regions {
		if err := known(ctx, region.Name, r.Version.Rank()); err != nil {
			return err
		}
	}
	return nil
}

// known waits until a region's issuer shows a document of at least that rank.
func known(ctx context.Context, region ident.Region, rank uint64) error {
	nc, err := shared.Public.DialGuest(ctx, urls(region))
	if err != nil {
		return err
	}
	defer nc.Close()
	for {
		p, err := shared.Public.Refresh(ctx, nc)
		if err == nil && p.Document.Version.Rank() >= rank {
			return nil
		}
		if err := wait.For(ctx, 20*time.Millisecond); err != nil {
			return fmt.Errorf("waiting for the issuers of %s: %w", region, err)
		}
	}
}

func urls(region ident.Region) []string {
	r, _ := shared.Public.Document.Region(region)
	return r.URLs
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func region(s string) ident.Region { return must(ident.ParseRegion(s)) }

func label(s string) ident.Label { return must(ident.ParseLabel(s)) }

func name(s string) ident.Name { return must(ident.ParseName(s)) }

func newKey(t testing.TB) *keystore.Key {
	t.Helper()
	return must(keystore.Generate(keystore.User))
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

// guest is a connection of the guest in a region.
func guest(t testing.TB, at ident.Region) *nats.Conn {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	nc, err := shared.Public.DialGuest(ctx, urls(at))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return nc
}

// accessKey makes an access key and gives what its file says.
func accessKey(t testing.TB, args ...string) client.AccessKey {
	t.Helper()
	file := filepath.Join(t.TempDir(), "key")
	setup(t, append([]string{"access-key", "create", "--owner", "tests", "--out", file}, args...)...)
	return readKey(t, file)
}

func readKey(t testing.TB, file string) client.AccessKey {
	t.Helper()
	data := must(os.ReadFile(file))
	var id, secret string
	for line := range strings.Lines(string(data)) {
		line = strings.TrimSpace(line)
		if v, ok := strings.CutPrefix(line, "HERALD_KEY_ID="); ok {
			id = v
		}
		if v, ok := strings.CutPrefix(line, "HERALD_KEY_SECRET="); ok {
			secret = v
		}
	}
	return client.AccessKey{ID: must(ident.ParseKeyID(id)), Secret: must(accesskey.Parse(secret))}
}

// issue asks until the region has heard of what was just decided: a refusal by code until
// is one that passes. What it waits for is bounded.
func issue(t testing.TB, nc *nats.Conn, key *keystore.Key, w client.Wish, until wire.Code) (client.Credential, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for {
		c, err := shared.Public.Issue(ctx, nc, key, w)
		if until == "" || !errors.Is(err, &wire.Error{Code: until}) || wait.For(ctx, 20*time.Millisecond) != nil {
			return c, err
		}
	}
}

// keyFile reads what nscsetup wrote, less the line's end.
func keyFile(path string) ([]byte, error) {
	data, err := os.ReadFile(path)
	return bytes.TrimSpace(data), err
}
