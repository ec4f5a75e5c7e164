// Package zitadel runs the example provider of zitadel/oidc in this process, for tests
// against a provider that others wrote: logins by device code, client credentials, and
// keys that change. Its users are whoever is approved; it asks for no passwords.
package zitadel

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	jose "github.com/go-jose/go-jose/v4"
	"github.com/zitadel/oidc/v3/example/server/exampleop"
	"github.com/zitadel/oidc/v3/example/server/storage"
	"github.com/zitadel/oidc/v3/pkg/op"
	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"
)

// Clients of the provider. The example has the second built in.
const (
	DeviceClient  = "herald-cli"
	deviceSecret  = "device-secret"
	ServiceClient = "sid1"
	serviceSecret = "verysecret" // #nosec G101 -- of the example provider
)

// Provider is one that runs until its test ends.
type Provider struct {
	Issuer string

	storage *keyed
	mu      sync.Mutex
	away    bool
}

// Start runs a provider on loopback.
func Start(t testing.TB) *Provider {
	t.Helper()
	p := new(Provider)
	var handler http.Handler
	// The issuer is in the tokens: the address has to be known first.
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.mu.Lock()
		away := p.away
		p.mu.Unlock()
		if away {
			http.Error(w, "away", http.StatusBadGateway)
			return
		}
		handler.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	p.Issuer = server.URL
	p.storage = &keyed{Storage: storage.NewStorageWithClients(users{}, map[string]*storage.Client{
		DeviceClient: storage.DeviceClient(DeviceClient, deviceSecret),
	})}
	p.Rotate(t)
	handler = exampleop.SetupServer(p.Issuer, p.storage, nil, false)
	return p
}

// Rotate signs with a new key from now on, and publishes no other.
func (p *Provider) Rotate(t testing.TB) {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	p.storage.mu.Lock()
	defer p.storage.mu.Unlock()
	p.storage.key = signingKey{fmt.Sprintf("key-%d", time.Now().UnixNano()), key}
}

// Away makes the provider answer nothing but errors, or ends that.
func (p *Provider) Away(away bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.away = away
}

// Device is the client for logins by device code.
func (p *Provider) Device() *oauth2.Config {
	return &oauth2.Config{
		ClientID: DeviceClient, ClientSecret: deviceSecret, Scopes: []string{"openid", "profile", "email"},
		Endpoint: oauth2.Endpoint{
			DeviceAuthURL: p.Issuer + "/device_authorization", TokenURL: p.Issuer + "/oauth/token",
			AuthStyle: oauth2.AuthStyleInHeader, // the provider knows no other for this client
		},
	}
}

// Service is the client for client credentials; its tokens are JWTs.
func (p *Provider) Service() *clientcredentials.Config {
	return &clientcredentials.Config{
		ClientID: ServiceClient, ClientSecret: serviceSecret, TokenURL: p.Issuer + "/oauth/token",
		AuthStyle: oauth2.AuthStyleInHeader,
	}
}

// Approve is what a user does in a browser, for a code that a device shows.
func (p *Provider) Approve(ctx context.Context, userCode, user string) error {
	if err := p.storage.CompleteDeviceAuthorization(ctx, userCode, user); err != nil {
		return fmt.Errorf("approving a device: %w", err)
	}
	return nil
}

// Login gives the ID token of a login by device code.
func (p *Provider) Login(ctx context.Context, user string) (string, error) {
	conf := p.Device()
	device, err := conf.DeviceAuth(ctx)
	if err != nil {
		return "", fmt.Errorf("asking for a device code: %w", err)
	}
	if err := p.Approve(ctx, device.UserCode, user); err != nil {
		return "", err
	}
	device.Interval = 1 // it is approved already
	token, err := conf.DeviceAccessToken(ctx, device)
	if err != nil {
		return "", fmt.Errorf("asking for a token: %w", err)
	}
	id, ok := token.Extra("id_token").(string)
	if !ok {
		return "", errors.New("no ID token came")
	}
	return id, nil
}

// users has everybody, by a name that is the id too.
type users struct{}

func (users) GetUserByID(id string) *storage.User {
	return &storage.User{ID: id, Username: id, Email: id + "@example.com", EmailVerified: true}
}

func (u users) GetUserByUsername(name string) *storage.User { return u.GetUserByID(name) }
func (users) ExampleClientID() string                       { return storage.ServiceUserID }

// keyed is the example's storage with keys that change, and with JWTs as access tokens.
type keyed struct {
	*storage.Storage
	mu  sync.Mutex
	key signingKey
}

func (s *keyed) present() signingKey {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.key
}

// SigningKey implements op.Storage.
func (s *keyed) SigningKey(context.Context) (op.SigningKey, error) { return s.present(), nil }

// SignatureAlgorithms implements op.Storage.
func (s *keyed) SignatureAlgorithms(context.Context) ([]jose.SignatureAlgorithm, error) {
	return []jose.SignatureAlgorithm{jose.RS256}, nil
}

// KeySet implements op.Storage.
func (s *keyed) KeySet(context.Context) ([]op.Key, error) {
	return []op.Key{publicKey{s.present()}}, nil
}

// ClientCredentials implements op.ClientCredentialsStorage.
func (s *keyed) ClientCredentials(ctx context.Context, id, secret string) (op.Client, error) {
	c, err := s.Storage.ClientCredentials(ctx, id, secret)
	if err != nil {
		return nil, fmt.Errorf("finding a client: %w", err)
	}
	return jwtClient{c}, nil
}

type jwtClient struct{ op.Client }

func (jwtClient) AccessTokenType() op.AccessTokenType { return op.AccessTokenTypeJWT }

type signingKey struct {
	id  string
	key *rsa.PrivateKey
}

func (k signingKey) SignatureAlgorithm() jose.SignatureAlgorithm { return jose.RS256 }
func (k signingKey) Key() any                                    { return k.key }
func (k signingKey) ID() string                                  { return k.id }

type publicKey struct{ signingKey }

func (k publicKey) Algorithm() jose.SignatureAlgorithm { return jose.RS256 }
func (k publicKey) Use() string                        { return "sig" }
func (k publicKey) Key() any                           { return &k.key.PublicKey }
