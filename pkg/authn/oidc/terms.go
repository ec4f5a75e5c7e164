package oidc

import (
	"crypto/sha256"
	"encoding/base32"
	"encoding/json"
	"slices"
	"strings"
)

// terms are what a token is taken by, as far as a change of it takes something back: who
// signs, which claims say who it is, what is required, for whom and for which program the
// token was made. A session goes on as long as a token like its own would be taken.
type terms struct {
	provider            [sha256.Size]byte
	kind, audience, azp string
}

// fixed is the part of terms that is of all tokens of a provider.
func (p Provider) fixed() (sum [sha256.Size]byte) {
	data, err := json.Marshal([]any{p.Issuer, p.subjectClaim(), p.NameClaim, p.GroupsClaim, p.Required})
	if err != nil {
		return sum // texts are always JSON
	}
	return sha256.Sum256(data)
}

// by is what a credential carries of them; see authn.Who.By.
func (t terms) by() string {
	h := sha256.New()
	for _, part := range []string{"herald/v1/terms", string(t.provider[:]), t.kind, t.audience, t.azp} {
		n := sha256.Sum256([]byte(part)) // so that no text goes on in the next
		h.Write(n[:])
	}
	return strings.ToLower(base32.StdEncoding.EncodeToString(h.Sum(nil))[:16])
}

// asksParty tells whether tokens of a kind are taken from some programs only. An access token
// is for a service, whichever client holds it, unless that is set.
func (p Provider) asksParty(kind string) bool {
	return kind != TokenAccess || len(p.AuthorizedParties) > 0
}

// termsOf are those of a token that meant takes.
func (p Provider) termsOf(t token) terms {
	of := terms{provider: p.fixed(), kind: t.kind}
	if i := slices.IndexFunc(p.Audiences, func(a string) bool { return slices.Contains(t.audience, a) }); i >= 0 {
		of.audience = p.Audiences[i]
	}
	if p.asksParty(t.kind) {
		of.azp = t.azp
	}
	return of
}

// allTerms are Who.By of all that a token may be taken by.
func (p Provider) allTerms() map[string]bool {
	all := make(map[string]bool)
	fixed := p.fixed()
	for _, kind := range []string{TokenID, TokenAccess} {
		if !p.takes(kind) {
			continue
		}
		var parties []string
		if p.asksParty(kind) {
			parties = slices.Concat(p.AuthorizedParties, p.Audiences)
		}
		if kind == TokenID || !p.asksParty(kind) {
			parties = append(parties, "") // of a token that says nothing of it
		}
		for _, audience := range p.Audiences {
			for _, azp := range parties {
				all[terms{fixed, kind, audience, azp}.by()] = true
			}
		}
	}
	return all
}
