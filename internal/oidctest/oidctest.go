// Package oidctest is an OpenID provider for tests: it has discovery and keys, signs
// whatever it is asked to, and can be made to fail in any way. It logs nobody in.
package oidctest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	_ "crypto/sha256" // the hash of RS256 and ES256
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strconv"
	"sync"
	"time"

	jose "github.com/go-jose/go-jose/v4"
)

// Paths of a provider, below its issuer.
const (
	PathDiscovery = "/.well-known/openid-configuration"
	PathKeys      = "/keys"
)

// Provider is one provider. It is safe for concurrent use.
type Provider struct {
	issuer string
	alg    jose.SignatureAlgorithm

	mu        sync.Mutex
	key       Key
	published []jose.JSONWebKey
	made      int
	requests  map[string]int
	intercept func(http.ResponseWriter, *http.Request) bool
}

// Key signs.
type Key struct {
	ID     string
	Signer crypto.Signer
}

// New makes a provider with one key for RS256, ES256 or EdDSA. It answers as an
// http.Handler; its paths are below the path of issuer.
func New(issuer string, alg jose.SignatureAlgorithm) *Provider {
	p := &Provider{issuer: issuer, alg: alg, requests: make(map[string]int)}
	p.Rotate()
	return p
}

// Issuer is its issuer, without a slash at the end unless it was made with one.
func (p *Provider) Issuer() string { return p.issuer }

// Rotate signs with a new key from now on, and publishes no other.
func (p *Provider) Rotate() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.made++
	p.key = Key{fmt.Sprintf("key-%d", p.made), newSigner(p.alg)}
	p.published = []jose.JSONWebKey{{Key: p.key.Signer.Public(), KeyID: p.key.ID, Algorithm: string(p.alg), Use: "sig"}}
}

// Key is the key that it signs with.
func (p *Provider) Key() Key {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.key
}

// Publish replaces the keys that it publishes; it goes on signing with its own.
func (p *Provider) Publish(keys ...jose.JSONWebKey) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.published = keys
}

// Intercept has requests answered by f first; where it gives false, the provider answers.
// nil ends that.
func (p *Provider) Intercept(f func(http.ResponseWriter, *http.Request) bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.intercept = f
}

// Requests are how many requests came for a path.
func (p *Provider) Requests(path string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.requests[path]
}

// ServeHTTP implements http.Handler.
func (p *Provider) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	p.requests[r.URL.Path]++
	intercept, published := p.intercept, p.published
	p.mu.Unlock()
	if intercept != nil && intercept(w, r) {
		return
	}
	w.Header().Set("Content-Type", "application/json")
	var body any
	switch r.URL.Path {
	case PathDiscovery:
		body = map[string]any{"issuer": p.issuer, "jwks_uri": trim(p.issuer) + PathKeys}
	case PathKeys:
		body = jose.JSONWebKeySet{Keys: published}
	default:
		http.NotFound(w, r)
		return
	}
	if err := json.NewEncoder(w).Encode(body); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
	}
}

func trim(issuer string) string {
	if n := len(issuer); n > 0 && issuer[n-1] == '/' {
		return issuer[:n-1]
	}
	return issuer
}

// Claims are those of a token for subject and audience, made now and good for 5 minutes.
func (p *Provider) Claims(now time.Time, subject, audience string) map[string]any {
	return map[string]any{
		"iss": p.issuer, "sub": subject, "aud": audience,
		"iat": now.Unix(), "exp": now.Add(5 * time.Minute).Unix(),
	}
}

// Token signs claims with the present key.
func (p *Provider) Token(claims map[string]any) string {
	return p.TokenWith(nil, claims)
}

// TokenWith is Token with more members in the header; nil takes one out.
func (p *Provider) TokenWith(header, claims map[string]any) string {
	k := p.Key()
	h := map[string]any{"alg": p.alg, "kid": k.ID, "typ": "JWT"}
	for name, v := range header {
		if h[name] = v; v == nil {
			delete(h, name)
		}
	}
	return k.Sign(encode(h), encode(claims))
}

func encode(v any) []byte {
	data, err := json.Marshal(v)
	if err != nil {
		panic(err) // what tests write is JSON
	}
	return data
}

// Sign makes a token of a header and a payload as they are.
func (k Key) Sign(header, payload []byte) string {
	enc := base64.RawURLEncoding
	input := enc.EncodeToString(header) + "." + enc.EncodeToString(payload)
	sig, err := k.sign([]byte(input))
	if err != nil {
		panic(err)
	}
	return input + "." + enc.EncodeToString(sig)
}

func (k Key) sign(input []byte) ([]byte, error) {
	if key, ok := k.Signer.(ed25519.PrivateKey); ok {
		return ed25519.Sign(key, input), nil
	}
	h := crypto.SHA256.New()
	h.Write(input)
	switch key := k.Signer.(type) {
	case *rsa.PrivateKey:
		return rsa.SignPKCS1v15(rand.Reader, key, crypto.SHA256, h.Sum(nil))
	case *ecdsa.PrivateKey:
		r, s, err := ecdsa.Sign(rand.Reader, key, h.Sum(nil))
		if err != nil {
			return nil, fmt.Errorf("signing: %w", err)
		}
		sig := make([]byte, 64)
		r.FillBytes(sig[:32])
		s.FillBytes(sig[32:])
		return sig, nil
	default:
		return nil, errors.New("no key that signs")
	}
}

func newSigner(alg jose.SignatureAlgorithm) crypto.Signer {
	var (
		s   crypto.Signer
		err error
	)
	switch alg {
	case jose.RS256:
		s, err = rsa.GenerateKey(rand.Reader, 2048)
	case jose.ES256:
		s, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case jose.EdDSA:
		_, s, err = ed25519.GenerateKey(rand.Reader)
	default:
		panic("no key for " + strconv.Quote(string(alg)))
	}
	if err != nil {
		panic(err)
	}
	return s
}

// Network carries requests to handlers in this process, by scheme and host such as
// https://login.example.com. It uses no sockets, and so works with a fake clock. It is an
// http.RoundTripper.
type Network map[string]http.Handler

// RoundTrip implements http.RoundTripper.
func (n Network) RoundTrip(r *http.Request) (*http.Response, error) {
	host := r.URL.Scheme + "://" + r.URL.Host
	h := n[host]
	if h == nil {
		return nil, fmt.Errorf("no host %s", host)
	}
	rec := httptest.NewRecorder()
	h.ServeHTTP(rec, r)
	if err := r.Context().Err(); err != nil {
		return nil, err // a client that has gone away sees no answer
	}
	return rec.Result(), nil
}
