// Package oidc shows who asks by a token of an OpenID provider: the ID token of a person,
// the access token of a program, the token of a CI job or of a Kubernetes service account.
//
// The provider is chosen by the token's issuer, and the token is verified with that
// provider's keys alone: its algorithm, type, audience, authorized party and times first,
// because that costs nothing, then its signature, then the claims that the platform
// requires. Nothing that a token brings says which key or rule it is verified with.
//
// Keys are looked up when they are first needed, kept while the provider is away, and
// looked up again after an hour, or at most every 10 s for a key that is not there. Each
// provider has state of its own: trouble with one stops no other.
//
// The package logs nobody in, follows no claims to other servers, and folds no names.
//
// # Times
//
// The clocks of a provider and of the platform may differ by [Leeway]: a token from so far
// in the future (iat, nbf) is taken. At its end (exp) there is none: a token of the last
// second still buys a whole session. A provider whose clock is behind by more than its
// tokens live gives tokens that have expired; one that is ahead by more than Leeway gives
// tokens that are not valid yet. The error says by how much.
//
// A token's end does not end the session that began with it: Who.Until is zero. ID tokens
// live for minutes, because they are handed over once. How long a session may go on is
// policy's to say; it ends before where the platform takes such tokens no more: Who.By names
// the terms by which the token was taken.
package oidc

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	gooidc "github.com/coreos/go-oidc/v3/oidc"

	"github.com/herald-nats/herald/pkg/authn"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/wire"
)

// Leeway is how far a token's iat and nbf may be in the future.
const Leeway = 30 * time.Second

// Options are what a Method works with; each has a default.
type Options struct {
	// Transport carries the requests to providers; a provider's ca does not apply to it.
	// nil: HTTP with time-outs, by the environment's proxy.
	Transport http.RoundTripper
	// Clock times look-ups. nil: time.Now. Tokens are judged by Evidence.Now.
	Clock func() time.Time
	// Log is told of look-ups that fail and of keys that change. nil: nobody is.
	Log *slog.Logger
}

// Method believes the tokens of providers. It is safe for concurrent use.
type Method struct {
	options   Options
	tasks     *tasks
	mu        sync.Mutex // of Use
	providers atomic.Pointer[map[string]*provider]
}

var _ authn.Renewer = (*Method)(nil)

// provider is a Provider with its keys.
type provider struct {
	Provider
	keys *source
	// taken are Who.By of all that a token may be taken by.
	taken map[string]bool
}

// New makes a Method for providers; see Use. It asks no provider: that is done when the
// first token comes. Close ends it.
func New(providers []Provider, o Options) *Method {
	if o.Clock == nil {
		o.Clock = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	ctx, cancel := context.WithCancel(context.Background())
	m := &Method{options: o, tasks: &tasks{ctx: ctx, cancel: cancel}}
	m.Use(providers)
	return m
}

// Use replaces the providers, for when a newer document comes; requests under way end with
// the old ones. Keys that are known stay so where issuer, jwks_url and ca are the same. A
// provider with a problem, as Check finds them, is logged and not believed.
func (m *Method) Use(providers []Provider) {
	m.mu.Lock()
	defer m.mu.Unlock()
	known := make(map[place]*source)
	if old := m.providers.Load(); old != nil {
		for _, p := range *old {
			known[p.keys.place] = p.keys
		}
	}
	bad := make(map[int]bool)
	for _, problem := range Check("providers", providers) {
		bad[problem.provider] = true
		m.options.Log.Error("an identity provider is not believed", "path", problem.Path, "reason", problem.Reason)
	}
	byIssuer := make(map[string]*provider)
	for i, p := range providers {
		if bad[i] || i >= maxProviders {
			continue
		}
		at := place{p.Issuer, p.JWKSURL, p.CA}
		keys := known[at]
		if keys == nil {
			keys = newSource(at, m.options.Transport, m.options.Clock, m.options.Log, m.tasks)
		}
		byIssuer[p.Issuer] = &provider{p, keys, p.allTerms()}
	}
	m.providers.Store(&byIssuer)
}

// Close stops look-ups and waits for them. Requests that need one are then refused with
// wire.Unavailable.
func (m *Method) Close() { m.tasks.close() }

// Type implements authn.Method.
func (m *Method) Type() string { return wire.ProofOIDC }

// Identify implements authn.Method. The identity is ident.OIDCIdentity of the provider's
// name and the subject. A token past its end or the provider's max_age is wire.Expired; one
// whose keys cannot be told now is wire.Unavailable, with a time to ask again; any other
// that does not hold is wire.BadIdentity.
//
// A token is judged in the order of what it costs: that it has expired says nothing of its
// signature.
func (m *Method) Identify(ctx context.Context, e authn.Evidence) (authn.Who, error) {
	if e.Request.Identity.Type != wire.ProofOIDC {
		return authn.Who{}, refuse("identify with a token of a provider", "the identity is of another type",
			"asked about a proof of type %.20q", e.Request.Identity.Type)
	}
	raw := e.Request.Identity.Token
	t, err := decode(raw)
	if err != nil {
		return authn.Who{}, refuse("send the ID or access token as the provider gave it", "the token cannot be read",
			"reading a token: %w", err)
	}
	p := (*m.providers.Load())[t.issuer]
	if p == nil {
		return authn.Who{}, refuse("use a token of a provider that this platform knows: its operator can say which", "the token is of a provider that this platform does not know",
			"no provider has the issuer %.200q", t.issuer)
	}
	who, err := p.identify(ctx, raw, t, e.Now)
	if err != nil {
		return authn.Who{}, fmt.Errorf("a token of the provider %s: %w", p.Name, err)
	}
	return who, nil
}

// Kind implements authn.Renewer.
func (m *Method) Kind() string { return ident.KindOIDC }

// Again implements authn.Renewer: the provider must still be believed, and by the terms by
// which the token was. It is not asked: what it says of somebody now, only a new token tells.
func (m *Method) Again(_ context.Context, r authn.Renewal) (authn.Who, error) {
	name := r.Identity.Provider()
	for _, p := range *m.providers.Load() {
		switch {
		case p.Name != name:
		case !p.taken[r.By]:
			return authn.Who{}, refuseAs(wire.Expired, "log in again", "what this platform asks of your provider's tokens was changed since you logged in",
				"the provider %s has other terms than %.32q now", name, r.By)
		default:
			return authn.Who{Identity: r.Identity, Provider: name, By: r.By}, nil
		}
	}
	return authn.Who{}, refuse("log in with a provider of this platform", "the provider that you logged in with is not known here any more",
		"no provider is called %q", name)
}

func (p *provider) identify(ctx context.Context, raw string, t token, now time.Time) (authn.Who, error) {
	if err := p.meant(t); err != nil {
		return authn.Who{}, err
	}
	if err := p.timely(t, now); err != nil {
		return authn.Who{}, err
	}
	if err := p.signed(ctx, raw, t); err != nil {
		return authn.Who{}, err
	}
	return p.who(t)
}

// meant tells whether the token is of a kind that is taken, and for us.
func (p *provider) meant(t token) error {
	if !slices.Contains(p.algorithms(), t.alg) {
		return refuse("set the provider's algorithms, or have it sign with one of them", "the token is signed in a way that this platform does not accept",
			"signed with %.32q, accepted are %q", t.alg, p.algorithms())
	}
	if !p.takes(t.kind) {
		return refuse("send a token of the other kind: ID token or access token", "the token is of a kind that is not taken from this provider",
			"it is of the kind %q", t.kind)
	}
	const hint = "ask the provider for a token for this platform's audience"
	if !slices.ContainsFunc(t.audience, p.audience) {
		return refuse(hint, "the token is meant for somebody else",
			"its audience is %.100q, and none of %q", some(t.audience), p.Audiences)
	}
	known := slices.Contains(p.AuthorizedParties, t.azp) || p.audience(t.azp)
	switch {
	case t.kind == TokenAccess:
		if p.asksParty(t.kind) && !known {
			return refuse(hint, "the token was made for a program that is not known here", "its client is %.100q", t.azp)
		}
	case t.azp != "":
		if !known {
			return refuse(hint, "the token was made for a program that is not known here", "its authorized party is %.100q", t.azp)
		}
	case slices.ContainsFunc(t.audience, func(a string) bool { return !p.audience(a) }):
		// Any audience of a token can show it to us. OpenID Connect Core 3.1.3.7 wants all of
		// them trusted, or told whom it was made for.
		return refuse(hint, "the token is meant for others too", "its audience is %.100q without an authorized party", some(t.audience))
	}
	return nil
}

func (p *provider) audience(a string) bool { return slices.Contains(p.Audiences, a) }

// timely tells whether the token is of now. Of its end there is no leeway.
func (p *provider) timely(t token, now time.Time) error {
	const later = "try again in a moment; if it stays so, the clock of the provider or of this platform is wrong"
	switch {
	case !now.Before(t.exp):
		return refuseAs(wire.Expired, "log in again, or ask the provider for a new token", "the token has expired",
			"it ended %s ago and was issued %s ago by the provider's clock", ago(now, t.exp), ago(now, t.iat))
	case t.iat.After(now.Add(Leeway)):
		return refuse(later, "the token is not valid yet", "it will be issued in %s by the provider's clock", ago(t.iat, now))
	case t.nbf.After(now.Add(Leeway)):
		return refuse(later, "the token is not valid yet", "it begins in %s by the provider's clock", ago(t.nbf, now))
	case p.MaxAge > 0 && now.Sub(t.iat) > time.Duration(p.MaxAge):
		return refuseAs(wire.Expired, "log in again, or ask the provider for a new token", "the token was issued too long ago",
			"it was issued %s ago, and %s is the longest", ago(now, t.iat), time.Duration(p.MaxAge))
	}
	return nil
}

func ago(now, then time.Time) time.Duration { return now.Sub(then).Round(time.Millisecond) }

// signed verifies the signature with the provider's keys.
func (p *provider) signed(ctx context.Context, raw string, t token) error {
	set, err := p.keys.keys(ctx)
	if err == nil {
		if err = p.verify(ctx, set, raw, t); errors.Is(err, errNoKey) {
			if set, err = p.keys.newer(ctx, set, t.iat); err == nil {
				err = p.verify(ctx, set, raw, t)
			}
		}
	}
	if err == nil {
		return nil
	}
	const hint = "ask the provider for a new token"
	if a := (*away)(nil); errors.As(err, &a) {
		told := wire.Errorf(wire.Unavailable, "try again after retry_after_ms", "the token cannot be verified at present")
		told.RetryAfterMS = max(a.retry.Round(time.Millisecond).Milliseconds(), 1)
		return fmt.Errorf("key %.64q: %w: %w", t.kid, err, told)
	}
	return refuse(hint, "the token does not verify with the keys of its provider", "key %.64q: %w", t.kid, err)
}

// verify is errNoKey if another key may have signed.
func (p *provider) verify(ctx context.Context, set *keySet, raw string, t token) error {
	keys := set.fitting(t.alg, t.kid)
	if len(keys) == 0 {
		return errNoKey
	}
	verifier := gooidc.NewVerifier(p.Issuer, &gooidc.StaticKeySet{PublicKeys: keys}, &gooidc.Config{
		SupportedSigningAlgs: []string{t.alg},
		// meant and timely are stricter: several audiences, azp, less leeway for nbf.
		SkipClientIDCheck: true,
		SkipExpiryCheck:   true,
	})
	if _, err := verifier.Verify(ctx, raw); err != nil {
		if t.kid == "" {
			return fmt.Errorf("%w: %w", errNoKey, err)
		}
		return fmt.Errorf("verifying: %w", err)
	}
	return nil
}

// who reads what a verified token says.
func (p *provider) who(t token) (authn.Who, error) {
	for _, claim := range slices.Sorted(maps.Keys(p.Required)) {
		accepted := p.Required[claim]
		if !t.claims.holds(claim, accepted) {
			return authn.Who{}, refuse("ask whoever runs the platform which accounts of the provider may come in", "the token lacks what this platform requires of it",
				"the claim %q is %.100q, and none of %q", claim, some(t.claims[claim].values), accepted)
		}
	}
	w := authn.Who{Provider: p.Name, By: p.termsOf(t).by(), Claims: make(map[string][]string, len(t.claims))}
	for name, c := range t.claims {
		w.Claims[name] = c.values
	}
	const hint = "ask whoever runs the provider to set the claim"
	subject, ok := t.claims.one(p.subjectClaim())
	if !ok {
		return authn.Who{}, refuse(hint, "the token does not say who it is for", "the claim %q is no text", p.subjectClaim())
	}
	var err error
	if w.Identity, err = ident.OIDCIdentity(p.Name, subject); err != nil {
		return authn.Who{}, refuse(hint, "the token does not say who it is for in 1 to 255 characters of ASCII", "the claim %q: %w", p.subjectClaim(), err)
	}
	if p.NameClaim != "" {
		// Who leaves the claim out of a token, by asking for fewer scopes, must not be free to
		// choose a name.
		name, _ := t.claims.one(p.NameClaim)
		if w.Name, err = ident.ParseName(name); err != nil {
			return authn.Who{}, refuse("a name is 1 to 32 of a-z and 0-9 with single . _ or - between them, as the provider has it: nothing is changed",
				fmt.Sprintf("the claim %q of the token is not a name that this platform can give", p.NameClaim), "the claim %q: %w", p.NameClaim, err)
		}
	}
	if p.GroupsClaim != "" {
		groups, there := t.claims[p.GroupsClaim]
		if there && !groups.texts {
			return authn.Who{}, refuse(hint, "the token's groups are not text", "the claim %q is not text or a list of it", p.GroupsClaim)
		}
		w.Groups = slices.Clone(groups.values)
	}
	return w, nil
}

// some bounds what goes into a log.
func some(values []string) []string { return values[:min(len(values), 8)] }

// refuse makes the two faces of a refusal: what the caller is told, and why, for the log.
func refuse(hint, told, why string, args ...any) error {
	return refuseAs(wire.BadIdentity, hint, told, why, args...)
}

func refuseAs(code wire.Code, hint, told, why string, args ...any) error {
	return fmt.Errorf("%w: %w", fmt.Errorf(why, args...), wire.Errorf(code, hint, "%s", told))
}
