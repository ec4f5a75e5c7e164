package oidc

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	jose "github.com/go-jose/go-jose/v4"
)

// Times of look-ups at providers.
const (
	// patience is how long a request waits for a look-up; it has 4 s in all.
	patience = 2500 * time.Millisecond
	// lookTime bounds a look-up itself. It goes on when a request has stopped waiting, so
	// that the next one finds the keys of a slow provider.
	lookTime = 8 * time.Second
	// lookGap is between two look-ups for keys that are not there: tokens with made-up key
	// ids cannot ask a provider more often.
	lookGap = 10 * time.Second
	// refreshAge is when keys are looked up again although none is missing, while the old
	// ones serve: one that the provider took away is then gone.
	refreshAge = time.Hour
	// waitAge is when a request waits for that look-up first: nobody has asked for so long
	// that the refresh did not happen.
	waitAge = 2 * time.Hour
	// firstPause and longestPause are between look-ups that failed; each is twice as long
	// as the one before.
	firstPause   = time.Second
	longestPause = time.Minute
)

// maxWaiting is how many requests wait for one provider at a time. More are told at once
// that it cannot be told now: a provider that is slow, and junk tokens that ask for it, hold
// up no others.
const maxWaiting = 32

// Bounds of what a provider answers.
const (
	maxBody    = 1 << 20
	maxHeaders = 64 << 10
	maxKeys    = 256 // in a set
	maxFitting = 16  // that one token without a key id is tried with
	minRSA     = 2048
	maxRSA     = 8192 // verifying costs the square of it
)

// errNoKey: no key of the set can have signed the token.
var errNoKey = errors.New("no key of the provider fits")

// away is that keys cannot be told now.
type away struct {
	retry time.Duration // when to ask again
	err   error
}

func (a *away) Error() string { return a.err.Error() }
func (a *away) Unwrap() error { return a.err }

// place is where keys are and who vouches for it; providers of one place share its keys,
// also across documents.
type place struct{ issuer, jwksURL, ca string }

// source holds the keys of one provider. Its lock is never held while it waits for the
// provider.
type source struct {
	place
	client *http.Client
	clock  func() time.Time
	log    *slog.Logger
	tasks  *tasks

	mu       sync.Mutex
	set      *keySet   // nil: none was ever fetched. A look-up that fails leaves it
	found    string    // where discovery says that keys are
	asked    time.Time // when the last look-up began
	failures int       // in a row
	until    time.Time // no look-up before
	call     *call     // the look-up under way
	waiting  int       // who waits for it
}

// keySet is what a provider gave at once. It does not change.
type keySet struct {
	keys  []jose.JSONWebKey
	asked time.Time // when the look-up began: the set is at least as new
}

// call is one look-up that any number of requests wait for.
type call struct {
	asked time.Time
	done  chan struct{}
	err   error // after done
}

// tasks are the goroutines of a Method.
type tasks struct {
	ctx    context.Context // their lifetime
	cancel context.CancelFunc
	wg     sync.WaitGroup
	mu     sync.Mutex
	closed bool
}

func (t *tasks) start(f func(context.Context)) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return false
	}
	t.wg.Go(func() { f(t.ctx) })
	return true
}

func (t *tasks) close() {
	t.mu.Lock()
	t.closed = true
	t.mu.Unlock()
	t.cancel()
	t.wg.Wait()
}

func newSource(p place, transport http.RoundTripper, clock func() time.Time, log *slog.Logger, tasks *tasks) *source {
	if transport == nil {
		transport = dialing(p.ca)
	}
	client := &http.Client{
		Transport: transport,
		CheckRedirect: func(r *http.Request, via []*http.Request) error {
			// Another host is another party; it was not named by the platform.
			if first := via[0].URL; r.URL.Scheme != first.Scheme || r.URL.Host != first.Host || len(via) > 3 {
				return fmt.Errorf("redirected to %.200q", r.URL.Redacted())
			}
			return nil
		},
	}
	return &source{place: p, client: client, clock: clock, log: log.With("issuer", p.issuer), tasks: tasks}
}

// dialing makes a transport of a source's own. Keys are asked for once an hour: a
// connection is not kept.
func dialing(ca string) *http.Transport {
	conf := &tls.Config{MinVersion: tls.VersionTLS12}
	if ca != "" {
		conf.RootCAs = x509.NewCertPool()
		conf.RootCAs.AppendCertsFromPEM([]byte(ca)) // Check has tried it
	}
	return &http.Transport{
		Proxy:                  http.ProxyFromEnvironment,
		DialContext:            (&net.Dialer{Timeout: 3 * time.Second}).DialContext,
		TLSClientConfig:        conf,
		TLSHandshakeTimeout:    3 * time.Second,
		MaxResponseHeaderBytes: maxHeaders,
		DisableKeepAlives:      true,
	}
}

func (s *source) current() *keySet {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.set
}

// keys gives the set that is known. It waits for the provider if none is, or if it is so
// old that keys may be gone from it; then the old one serves if the provider is away. An
// error is an *away.
func (s *source) keys(ctx context.Context) (*keySet, error) {
	set := s.current()
	if set == nil {
		c, retry, err := s.look()
		if c == nil {
			return nil, &away{retry, fmt.Errorf("no keys are known, and the last look-up failed: %w", err)}
		}
		if err := s.wait(ctx, c); err != nil {
			return nil, err
		}
		return s.current(), nil
	}
	age := s.clock().Sub(set.asked)
	if age < refreshAge {
		return set, nil
	}
	c, _, _ := s.look()
	if c == nil || age < waitAge {
		return set, nil
	}
	if err := s.wait(ctx, c); err != nil {
		return set, nil // the provider is away: its keys serve until it says otherwise
	}
	return s.current(), nil
}

// newer gives a set that was fetched after old, in which the key of a token issued at a
// time was not. An error is errNoKey if a look-up would not help, or an *away.
func (s *source) newer(ctx context.Context, old *keySet, issued time.Time) (*keySet, error) {
	if set := s.current(); set != old {
		return set, nil
	}
	c, retry, err := s.look()
	switch {
	case c != nil:
	case err == nil && issued.Add(Leeway).Before(old.asked):
		// The set was fetched after the token was made: its key is not there.
		return nil, errNoKey
	case err == nil:
		return nil, &away{retry, fmt.Errorf("%w, and the keys were looked up just before", errNoKey)}
	default:
		return nil, &away{retry, fmt.Errorf("%w, and the last look-up failed: %w", errNoKey, err)}
	}
	if err := s.wait(ctx, c); err != nil {
		return nil, err
	}
	return s.current(), nil
}

// look begins a look-up, or gives the one that is under way. Without one it says when
// there may be the next, and why the last one failed, if it did.
func (s *source) look() (*call, time.Duration, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := s.call; c != nil && !finished(c) {
		return c, 0, nil
	}
	now := s.clock()
	if pause := s.until.Sub(now); s.failures > 0 && pause > 0 {
		return nil, pause, s.call.err
	}
	if gap := s.asked.Add(lookGap).Sub(now); s.set != nil && gap > 0 {
		return nil, gap, nil
	}
	c := &call{asked: now, done: make(chan struct{})}
	if !s.tasks.start(func(ctx context.Context) { s.run(ctx, c) }) {
		return nil, firstPause, errors.New("shutting down")
	}
	s.call, s.asked = c, now
	return c, 0, nil
}

func finished(c *call) bool {
	select {
	case <-c.done:
		return true
	default:
		return false
	}
}

// wait waits for a look-up for as long as a request can. An error is an *away.
func (s *source) wait(ctx context.Context, c *call) error {
	s.mu.Lock()
	full := s.waiting >= maxWaiting
	if !full {
		s.waiting++
	}
	s.mu.Unlock()
	if full {
		return &away{firstPause, errors.New("too many wait for this provider")}
	}
	defer func() {
		s.mu.Lock()
		s.waiting--
		s.mu.Unlock()
	}()
	patient := time.NewTimer(patience)
	defer patient.Stop()
	select {
	case <-c.done:
	case <-ctx.Done():
		return &away{firstPause, fmt.Errorf("waiting for keys: %w", ctx.Err())}
	case <-patient.C:
		return &away{firstPause, fmt.Errorf("no keys after %s; the look-up goes on", patience)}
	}
	if c.err == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return &away{max(s.until.Sub(s.clock()), firstPause), c.err}
}

// run does a look-up and keeps what came of it.
func (s *source) run(ctx context.Context, c *call) {
	ctx, cancel := context.WithTimeout(ctx, lookTime)
	defer cancel()
	s.mu.Lock()
	at := s.found
	s.mu.Unlock()
	keys, at, err := s.fetch(ctx, at)

	s.mu.Lock()
	defer s.mu.Unlock()
	defer close(c.done)
	c.err, s.found = err, at
	if err != nil {
		s.failures++
		pause := min(firstPause<<min(s.failures-1, 10), longestPause)
		s.until = s.clock().Add(pause)
		s.log.Warn("keys of an identity provider cannot be fetched", "err", err, "failures", s.failures, "pause", pause, "keys_known", s.set != nil)
		return
	}
	if ids := keyIDs(keys); s.set == nil || !slices.Equal(ids, keyIDs(s.set.keys)) {
		s.log.Info("keys of an identity provider", "kids", ids)
	}
	s.failures, s.until = 0, time.Time{}
	s.set = &keySet{keys, c.asked}
}

func keyIDs(keys []jose.JSONWebKey) []string {
	ids := make([]string, len(keys))
	for i, k := range keys {
		ids[i] = k.KeyID
	}
	slices.Sort(ids)
	return ids
}

// fetch gets the keys from where they were found before, or asks discovery; it gives where
// that is, or "" if it has to be asked again.
func (s *source) fetch(ctx context.Context, at string) ([]jose.JSONWebKey, string, error) {
	switch {
	case s.jwksURL != "":
		at = s.jwksURL
	case at == "":
		var err error
		if at, err = s.discover(ctx); err != nil {
			return nil, "", err
		}
	}
	data, err := s.get(ctx, at)
	if err != nil {
		return nil, "", fmt.Errorf("getting keys: %w", err)
	}
	keys, err := readKeys(data)
	if err != nil {
		return nil, "", fmt.Errorf("reading the keys at %.200s: %w", at, err)
	}
	return keys, at, nil
}

// discover asks where the keys are (OpenID Connect Discovery 1.0, section 4).
func (s *source) discover(ctx context.Context) (string, error) {
	u := strings.TrimSuffix(s.issuer, "/") + "/.well-known/openid-configuration"
	data, err := s.get(ctx, u)
	if err != nil {
		return "", fmt.Errorf("discovery: %w", err)
	}
	o, err := object(data)
	if err != nil {
		return "", fmt.Errorf("reading %s: %w", u, err)
	}
	// Without this one provider could give keys in the name of another (section 4.3).
	if issuer, _ := o["issuer"].(string); issuer != s.issuer {
		return "", fmt.Errorf("%s is of the issuer %.200q", u, issuer)
	}
	at, _ := o["jwks_uri"].(string)
	if why := badURL(at, true); why != "" {
		return "", fmt.Errorf("the jwks_uri of %s, %.200q: %s", u, at, why)
	}
	if strings.HasPrefix(s.issuer, "https:") && !strings.HasPrefix(at, "https:") {
		return "", fmt.Errorf("the jwks_uri of %s, %.200q: not https", u, at)
	}
	return at, nil
}

func (s *source) get(ctx context.Context, u string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u, nil)
	if err != nil {
		return nil, fmt.Errorf("making a request: %w", err)
	}
	req.Header.Set("Accept", "application/json")
	resp, err := s.client.Do(req)
	if err != nil {
		return nil, err // *url.Error: it says the method and the address
	}
	defer func() { _ = resp.Body.Close() }() // it was only read
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s answers %d", u, resp.StatusCode)
	}
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxBody+1))
	if err != nil {
		return nil, fmt.Errorf("reading the answer of %s: %w", u, err)
	}
	if len(data) > maxBody {
		return nil, fmt.Errorf("%s answers more than 1 MiB", u)
	}
	return data, nil
}

// readKeys reads a JWK set (RFC 7517) and keeps the public keys that can verify. What is
// of another kind or use is passed over, as section 5 asks: a set has more than our keys.
func readKeys(data []byte) ([]jose.JSONWebKey, error) {
	o, err := object(data)
	if err != nil {
		return nil, err
	}
	list, ok := o["keys"].([]any)
	if !ok {
		return nil, errors.New("no list of keys")
	}
	if len(list) > maxKeys {
		return nil, fmt.Errorf("%d keys", len(list))
	}
	keys := []jose.JSONWebKey{}
	for _, v := range list {
		if k, ok := readKey(v); ok {
			keys = append(keys, k)
		}
	}
	return keys, nil
}

func readKey(v any) (jose.JSONWebKey, bool) {
	o, ok := v.(map[string]any)
	if !ok {
		return jose.JSONWebKey{}, false
	}
	if use, there := o["use"]; there && use != "sig" {
		return jose.JSONWebKey{}, false
	}
	if ops, there := o["key_ops"].([]any); there && !slices.Contains(ops, any("verify")) {
		return jose.JSONWebKey{}, false
	}
	data, err := json.Marshal(o)
	if err != nil {
		return jose.JSONWebKey{}, false
	}
	var k jose.JSONWebKey
	if err := k.UnmarshalJSON(data); err != nil || !k.Valid() || len(k.KeyID) > maxKeyID {
		return jose.JSONWebKey{}, false
	}
	switch pub := k.Key.(type) {
	case *rsa.PublicKey:
		if bits := pub.N.BitLen(); bits < minRSA || bits > maxRSA {
			return jose.JSONWebKey{}, false
		}
	case *ecdsa.PublicKey, ed25519.PublicKey:
	default: // also private and symmetric keys: whoever reads the set can sign with them
		return jose.JSONWebKey{}, false
	}
	return k, true
}

// fitting are the keys that can have signed with an algorithm: those with the key id, or
// all if the token names none.
func (s *keySet) fitting(alg, kid string) []crypto.PublicKey {
	var keys []crypto.PublicKey
	for _, k := range s.keys {
		if (kid == "" || k.KeyID == kid) && (k.Algorithm == "" || k.Algorithm == alg) && fits(alg, k.Key) && len(keys) < maxFitting {
			keys = append(keys, k.Key)
		}
	}
	return keys
}

func fits(alg string, key crypto.PublicKey) bool {
	switch k := key.(type) {
	case *rsa.PublicKey:
		return strings.HasPrefix(alg, "RS") || strings.HasPrefix(alg, "PS")
	case *ecdsa.PublicKey:
		switch alg {
		case "ES256":
			return k.Curve == elliptic.P256()
		case "ES384":
			return k.Curve == elliptic.P384()
		case "ES512":
			return k.Curve == elliptic.P521()
		}
	case ed25519.PublicKey:
		return alg == "EdDSA"
	}
	return false
}
