package oidc_test

import (
	"errors"
	"log/slog"
	"testing"
	"time"

	jose "github.com/go-jose/go-jose/v4"
	"go.uber.org/goleak"

	"github.com/herald-nats/herald/internal/oidctest"
	"github.com/herald-nats/herald/internal/testlog"
	"github.com/herald-nats/herald/pkg/authn"
	"github.com/herald-nats/herald/pkg/authn/oidc"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	corp     = "https://login.corp.example"
	audience = "herald-cli"
)

func label(t testing.TB, s string) ident.Label {
	t.Helper()
	l, err := ident.ParseLabel(s)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// provider is a plain one for corp.
func provider(t testing.TB) oidc.Provider {
	t.Helper()
	return oidc.Provider{Name: label(t, "corp"), Issuer: corp, Audiences: []string{audience}, Algorithms: []string{"ES256"}}
}

func evidence(token string, now time.Time) authn.Evidence {
	return authn.Evidence{Request: wire.Request{Identity: wire.Proof{Type: wire.ProofOIDC, Token: token}}, Now: now}
}

// code is what the caller is told; "" of no error.
func code(err error) wire.Code {
	if told := (*wire.Error)(nil); errors.As(err, &told) {
		return told.Code
	}
	if err != nil {
		return "not a wire.Error"
	}
	return ""
}

// platform is a method with corp, over a network without sockets.
type platform struct {
	*oidc.Method
	corp    *oidctest.Provider
	network oidctest.Network
	log     *testlog.Log
}

func newPlatform(t testing.TB, edit ...func(*oidc.Provider)) *platform {
	t.Helper()
	p := &platform{corp: oidctest.New(corp, jose.ES256), log: new(testlog.Log)}
	p.network = oidctest.Network{corp: p.corp}
	conf := provider(t)
	for _, f := range edit {
		f(&conf)
	}
	if problems := oidc.Check("providers", []oidc.Provider{conf}); len(problems) > 0 {
		t.Fatal(problems)
	}
	p.Method = oidc.New([]oidc.Provider{conf}, oidc.Options{Transport: p.network, Log: slog.New(slog.NewTextHandler(p.log, nil))})
	t.Cleanup(p.Close)
	return p
}

// ask is for a token of now.
func (p *platform) ask(t testing.TB, token string) (authn.Who, error) {
	t.Helper()
	return p.Identify(t.Context(), evidence(token, time.Now()))
}

func (p *platform) claims(edit ...func(map[string]any)) map[string]any {
	c := p.corp.Claims(time.Now(), "alice-1", audience)
	for _, f := range edit {
		f(c)
	}
	return c
}

func set(name string, value any) func(map[string]any) {
	return func(c map[string]any) {
		if c[name] = value; value == nil {
			delete(c, name)
		}
	}
}
