package oidc

import (
	"crypto/x509"
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	jose "github.com/go-jose/go-jose/v4"

	"github.com/herald-nats/herald/pkg/ident"
)

// Kinds of tokens, for Provider.Tokens. A token that nothing shows to be an access token
// is an ID token: those of GitHub Actions and of Kubernetes are, as their headers go.
const (
	// TokenID is an ID token: made for the client that is its audience, which the user
	// runs.
	TokenID = "id"
	// TokenAccess is a JWT access token (RFC 9068, and what providers made before it):
	// made for a service that is its audience, and held by any client that may ask it.
	TokenAccess = "access"
)

// Provider is one OpenID provider whose tokens are believed, as the platform document
// has it. All of it is public.
type Provider struct {
	// Name is the provider's part of an identity: oidc:<name>:<subject>. Another provider
	// under an old name takes over the old one's identities.
	Name ident.Label `json:"name"`
	// Issuer is what its tokens have as iss, byte for byte: an https URL without query and
	// fragment. http is taken of loopback hosts only.
	Issuer string `json:"issuer"`
	// Audiences are the values of aud of which a token needs one: the client ids of our
	// programs for ID tokens, the name of our service for access tokens. At least one.
	Audiences []string `json:"audiences"`
	// AuthorizedParties are the clients (azp; client_id and cid where there is none) whose
	// tokens are taken, besides Audiences. Empty: an ID token with an azp needs one of
	// Audiences there; of access tokens it is not asked.
	AuthorizedParties []string `json:"authorized_parties,omitempty"`
	// Tokens are the kinds of tokens that are taken: TokenID, TokenAccess. Empty: TokenID.
	Tokens []string `json:"tokens,omitempty"`
	// Algorithms are the signature algorithms that are accepted, of RS, PS and ES with 256,
	// 384 or 512, and EdDSA. Empty: RS256.
	Algorithms []string `json:"algorithms,omitempty"`
	// SubjectClaim is the claim that says who it is. Empty: sub. Any other must be one that
	// the provider gives to nobody else, ever: an address is handed on, a user name too.
	SubjectClaim string `json:"subject_claim,omitempty"`
	// NameClaim is the claim that is the Herald name. It is taken as it is, and a token
	// where it is missing or is no ident.Name is refused. Empty: the provider names nobody.
	NameClaim string `json:"name_claim,omitempty"`
	// GroupsClaim is the claim with the groups: text, or a list of texts. A dot goes into an
	// object, such as realm_access.roles of Keycloak. Empty: no groups.
	GroupsClaim string `json:"groups_claim,omitempty"`
	// Required are claims that must hold: by name, the values of which the claim needs one.
	// A value that ends in * is a prefix: end it at a separator, as in repo:acme/*, because
	// repo:acme* is also another owner's. Numbers and booleans are compared as their JSON
	// text; of a list one element is enough.
	Required map[string][]string `json:"required,omitempty"`
	// MaxAge refuses tokens that were issued longer ago, such as "10m"; zero: their own end
	// is enough.
	MaxAge Duration `json:"max_age,omitzero"`
	// JWKSURL is where the keys are, for providers without discovery: https, or http of a
	// loopback host. Empty: discovery says it.
	JWKSURL string `json:"jwks_url,omitempty"`
	// CA are certificates in PEM that alone vouch for the provider's hosts. Empty: the
	// system's.
	CA string `json:"ca,omitempty"`
}

// Duration is a time.Duration that is text in JSON, as time.ParseDuration reads it.
type Duration time.Duration

// MarshalText implements encoding.TextMarshaler.
func (d Duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (d *Duration) UnmarshalText(b []byte) error {
	v, err := time.ParseDuration(string(b))
	if err != nil {
		return fmt.Errorf("reading a duration: %w", err)
	}
	*d = Duration(v)
	return nil
}

func (p Provider) algorithms() []string {
	if len(p.Algorithms) == 0 {
		return []string{string(jose.RS256)}
	}
	return p.Algorithms
}

func (p Provider) takes(kind string) bool {
	if len(p.Tokens) == 0 {
		return kind == TokenID
	}
	return slices.Contains(p.Tokens, kind)
}

func (p Provider) subjectClaim() string {
	if p.SubjectClaim == "" {
		return "sub"
	}
	return p.SubjectClaim
}

// asymmetric are the algorithms that can be accepted at all. With HS* whoever may check
// a token could also make one; none says nothing.
func asymmetric() []string {
	return []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"}
}

// Problem is one thing that is wrong with a list of providers.
type Problem struct {
	// Path is the key, below what was given to Check, such as providers[0].audiences[1].
	Path string
	// Reason says what is wrong, and Hint what to do about it; each is one line.
	Reason, Hint string

	provider int // which it is about
}

func (p Problem) String() string { return p.Path + ": " + p.Reason }

// Bounds of what a provider may say of itself: the document travels to every client.
const (
	maxProviders = 64
	maxEntries   = 64
	maxSetting   = 512
	maxCA        = 16 << 10
)

// Check says what is wrong with providers, all of it, in their order; path is the key of
// the list itself. New and Use believe no provider that has a problem.
func Check(path string, providers []Provider) []Problem {
	c := checker{}
	names, issuers := make(map[ident.Label]int), make(map[string]int)
	for i, p := range providers {
		at := fmt.Sprintf("%s[%d]", path, i)
		c.current = i
		if i >= maxProviders {
			c.add(at, "more than 64 providers", "give the platform one provider that knows the others")
			break
		}
		if first, twice := names[p.Name]; twice && !p.Name.IsZero() {
			c.add(at+".name", fmt.Sprintf("%s is the name of %s[%d] too", p.Name, path, first), "the name is part of identities: give each provider its own")
		} else {
			names[p.Name] = i
		}
		if first, twice := issuers[p.Issuer]; twice && p.Issuer != "" {
			c.add(at+".issuer", fmt.Sprintf("it is the issuer of %s[%d] too", path, first), "a token says its issuer and nothing else: put the audiences of both into one provider")
		} else {
			issuers[p.Issuer] = i
		}
		c.provider(at, p)
	}
	return c.problems
}

type checker struct {
	problems []Problem
	current  int
}

func (c *checker) add(path, reason, hint string) {
	c.problems = append(c.problems, Problem{path, reason, hint, c.current})
}

func (c *checker) provider(at string, p Provider) {
	if p.Name.IsZero() {
		c.add(at+".name", "a provider needs a name", "1 to 32 of A-Z, a-z, 0-9, _ and -; it is part of identities")
	}
	if why := badURL(p.Issuer, false); why != "" {
		c.add(at+".issuer", why, "write it exactly as tokens have it in iss: a slash at the end counts")
	}
	if p.JWKSURL != "" {
		if why := badURL(p.JWKSURL, true); why != "" {
			c.add(at+".jwks_url", why, "leave it out where the provider has discovery")
		}
	}
	if len(p.Audiences) == 0 {
		c.add(at+".audiences", "no audience: tokens for anybody would be taken", "give the client id, or the name that the provider has for this platform")
	}
	c.texts(at+".audiences", p.Audiences)
	c.texts(at+".authorized_parties", p.AuthorizedParties)
	c.choices(at+".tokens", p.Tokens, []string{TokenID, TokenAccess}, "no kind of token")
	c.choices(at+".algorithms", p.Algorithms, asymmetric(), "no algorithm that shows who signed")
	c.text(at+".subject_claim", p.SubjectClaim)
	c.text(at+".name_claim", p.NameClaim)
	c.text(at+".groups_claim", p.GroupsClaim)
	c.required(at+".required", p.Required)
	if p.MaxAge < 0 || p.MaxAge > 0 && p.MaxAge < Duration(time.Second) {
		c.add(at+".max_age", "not a duration of a second or more", "such as 10m; leave it out to take tokens until they end")
	}
	if len(p.CA) > maxCA || p.CA != "" && !x509.NewCertPool().AppendCertsFromPEM([]byte(p.CA)) {
		c.add(at+".ca", "no certificates in PEM, of at most 16 KiB", "give the certificate of the authority, from -----BEGIN CERTIFICATE----- on")
	}
}

// text allows what is not there, and refuses what nobody can have meant.
func (c *checker) text(path, s string) {
	if s != "" && !plainText(s) {
		c.add(path, "not 1 to 512 printable characters", "claims and values are compared as they are written")
	}
}

func (c *checker) texts(path string, list []string) {
	if len(list) > maxEntries {
		c.add(path, "more than 64 values", "a longer list belongs into a group at the provider")
		return
	}
	for i, s := range list {
		if at := fmt.Sprintf("%s[%d]", path, i); s == "" {
			c.add(at, "an empty value", "remove it")
		} else {
			c.text(at, s)
		}
	}
}

func (c *checker) choices(path string, list, known []string, reason string) {
	if len(list) > maxEntries {
		c.add(path, "more than 64 values", "a longer list belongs into a group at the provider")
		return
	}
	for i, s := range list {
		if !slices.Contains(known, s) {
			c.add(fmt.Sprintf("%s[%d]", path, i), fmt.Sprintf("%.32q is %s", s, reason), "one of "+strings.Join(known, ", "))
		}
	}
}

func (c *checker) required(path string, required map[string][]string) {
	if len(required) > maxEntries {
		c.add(path, "more than 64 claims", "require what tells our tokens from others")
		return
	}
	claims := make([]string, 0, len(required))
	for claim := range required {
		claims = append(claims, claim)
	}
	slices.Sort(claims)
	for _, claim := range claims {
		at := path + "." + claim
		if !plainText(claim) {
			c.add(path, "a claim whose name is not 1 to 512 printable characters", "claims are named as they are in the token, with dots into objects")
			continue
		}
		if len(required[claim]) == 0 {
			c.add(at, "no value: nothing would be enough", "give the values of which one is needed, or remove the claim; * alone takes any")
		}
		c.texts(at, required[claim])
		for i, v := range required[claim] {
			if n := strings.IndexByte(v, '*'); n >= 0 && n != len(v)-1 {
				c.add(fmt.Sprintf("%s[%d]", at, i), "a * that is not at the end stands for nothing", "a value is taken as it is written; with * at its end, what begins so")
			}
		}
	}
}

func plainText(s string) bool {
	if s == "" || len(s) > maxSetting {
		return false
	}
	for _, r := range s {
		if r < 0x20 || r == 0x7f || r == '\uFFFD' {
			return false
		}
	}
	return true
}

// badURL says why s is no address to ask for keys; "" means that it is one.
func badURL(s string, query bool) string {
	if len(s) > maxSetting {
		return "an address of more than 512 characters"
	}
	u, err := url.Parse(s)
	switch {
	case s == "":
		return "no address"
	case err != nil || u.Host == "" || u.Hostname() == "" || u.Opaque != "":
		return "not an address such as https://login.example.com"
	case u.User != nil:
		return "an address with a user name in it"
	case u.Fragment != "" || strings.Contains(s, "#"):
		return "an address with a fragment"
	case !query && (u.RawQuery != "" || u.ForceQuery):
		return "an address with a query"
	case u.Scheme == "https":
		return ""
	case u.Scheme == "http" && loopback(u.Hostname()):
		return ""
	default:
		return "not https: whoever is on the way could give other keys"
	}
}

func loopback(host string) bool {
	if host == "localhost" {
		return true
	}
	a, err := netip.ParseAddr(host)
	return err == nil && a.IsLoopback()
}
