package oidc

import (
	"fmt"
	"time"

	"github.com/herald-nats/herald/pkg/authn"
)

// Read says who a token is of, at a moment, by every check of Method.Identify but that of
// its signature: no provider is asked. It is for explaining what a token would get, away
// from the network. Anybody can write a token that Read takes: what it says is worth
// nothing to who gives something away.
//
// The errors are those of Identify. As there, a provider that has a problem is not
// believed.
func Read(providers []Provider, raw string, now time.Time) (authn.Who, error) {
	t, err := decode(raw)
	if err != nil {
		return authn.Who{}, refuse("send the ID or access token as the provider gave it", "the token cannot be read",
			"reading a token: %w", err)
	}
	p := believed(providers, t.issuer)
	if p == nil {
		return authn.Who{}, refuse("use a token of a provider that this platform knows: its operator can say which", "the token is of a provider that this platform does not know",
			"no provider has the issuer %.200q", t.issuer)
	}
	who, err := p.read(t, now)
	if err != nil {
		return authn.Who{}, fmt.Errorf("a token of the provider %s: %w", p.Name, err)
	}
	return who, nil
}

// believed is the provider with an issuer, as Use chooses it; nil: there is none.
func believed(providers []Provider, issuer string) *provider {
	bad := make(map[int]bool)
	for _, problem := range Check("providers", providers) {
		bad[problem.provider] = true
	}
	for i, p := range providers {
		if p.Issuer == issuer && !bad[i] && i < maxProviders {
			return &provider{Provider: p}
		}
	}
	return nil
}

// read is identify without the signature, in the same order.
func (p *provider) read(t token, now time.Time) (authn.Who, error) {
	if err := p.meant(t); err != nil {
		return authn.Who{}, err
	}
	if err := p.timely(t, now); err != nil {
		return authn.Who{}, err
	}
	return p.who(t)
}
