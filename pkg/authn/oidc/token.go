package oidc

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Bounds of a token.
const (
	// MaxToken is the longest token that is read, in bytes: what fits into a request.
	MaxToken = 12 << 10
	maxKeyID = 256
)

// token is a token that was decoded strictly. Nothing in it is proven.
type token struct {
	alg, kid string
	kind     string // TokenID or TokenAccess
	issuer   string
	audience []string
	azp      string // the client that it was made for; empty: it does not say
	exp, iat time.Time
	nbf      time.Time // zero: there is none
	claims   claims
}

// decode reads a token in compact serialization. Its errors quote no more of it than
// names, bounded.
func decode(raw string) (token, error) {
	if len(raw) > MaxToken {
		return token{}, fmt.Errorf("a token of %d bytes", len(raw))
	}
	parts := strings.Split(raw, ".")
	if len(parts) != 3 {
		return token{}, fmt.Errorf("%d parts between dots where a signed token has 3", len(parts))
	}
	var o [2]map[string]any
	for i, what := range []string{"header", "payload"} {
		data, err := base64url(parts[i])
		if err != nil {
			return token{}, fmt.Errorf("its %s is not base64url", what)
		}
		if o[i], err = object(data); err != nil {
			return token{}, fmt.Errorf("its %s: %w", what, err)
		}
	}
	if sig, err := base64url(parts[2]); err != nil || len(sig) == 0 {
		return token{}, errors.New("no signature in base64url")
	}
	var t token
	typ, err := t.header(o[0])
	if err != nil {
		return token{}, fmt.Errorf("its header: %w", err)
	}
	if err := t.payload(o[1], typ); err != nil {
		return token{}, fmt.Errorf("its payload: %w", err)
	}
	return t, nil
}

// base64url reads what has one spelling only: no line ends, no padding, no bits left over.
func base64url(s string) ([]byte, error) {
	if strings.ContainsAny(s, "\r\n") {
		return nil, base64.CorruptInputError(0)
	}
	return base64.RawURLEncoding.Strict().DecodeString(s)
}

func (t *token) header(h map[string]any) (typ string, err error) {
	// A token does not bring the key that it is verified with, nor rules of its own.
	for _, name := range []string{"crit", "b64", "jwk", "jku", "x5u", "x5c", "zip", "enc"} {
		if _, there := h[name]; there {
			return "", fmt.Errorf("the parameter %q", name)
		}
	}
	for name, into := range map[string]*string{"alg": &t.alg, "kid": &t.kid, "typ": &typ} {
		switch v := h[name].(type) {
		case nil:
		case string:
			*into = v
		default:
			return "", fmt.Errorf("%q is no text", name)
		}
	}
	if t.alg == "" {
		return "", errors.New("no algorithm")
	}
	if len(t.kid) > maxKeyID {
		return "", fmt.Errorf("a key id of %d bytes", len(t.kid))
	}
	return typ, nil
}

func (t *token) payload(p map[string]any, typ string) (err error) {
	var ok bool
	if t.issuer, ok = p["iss"].(string); !ok || t.issuer == "" {
		return errors.New("no issuer")
	}
	if sub, there := p["sub"]; there {
		if _, ok := sub.(string); !ok {
			return errors.New("sub is no text")
		}
	}
	switch aud := p["aud"].(type) {
	case string:
		t.audience = []string{aud}
	case []any:
		for _, v := range aud {
			s, ok := v.(string)
			if !ok {
				return errors.New("an audience that is no text")
			}
			t.audience = append(t.audience, s)
		}
	}
	if len(t.audience) == 0 {
		return errors.New("no audience")
	}
	for name, into := range map[string]*time.Time{"exp": &t.exp, "iat": &t.iat, "nbf": &t.nbf} {
		v, there := p[name]
		if !there && name == "nbf" {
			continue
		}
		if *into, err = date(v); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	for _, name := range []string{"azp", "client_id", "cid"} { // cid: Okta
		v, there := p[name]
		if !there || t.azp != "" {
			continue
		}
		if t.azp, ok = v.(string); !ok || t.azp == "" {
			return fmt.Errorf("%s is no text", name)
		}
	}
	if t.kind, err = kind(typ, p); err != nil {
		return err
	}
	t.claims, err = flatten(p)
	return err
}

// date reads a NumericDate (RFC 7519): seconds since 1970, perhaps with a fraction.
func date(v any) (time.Time, error) {
	n, ok := v.(json.Number)
	if !ok {
		return time.Time{}, errors.New("no number of seconds")
	}
	f, err := strconv.ParseFloat(n.String(), 64)
	// Beyond 9999-12-31 times no longer print; nobody means them.
	if err != nil || !(f >= 0 && f < 253402300800) {
		return time.Time{}, errors.New("no time between 1970 and 9999")
	}
	sec, frac := math.Modf(f)
	return time.Unix(int64(sec), int64(frac*1e9)), nil
}

// kind says what a token is for. The one that says so itself is believed: at+jwt of RFC
// 9068, or the claims typ of Keycloak and token_use of Cognito. Where none does, only an
// access token has scopes, or names its client without azp. What is for neither use, such
// as a logout token (which is signed by the same key), is refused.
func kind(typ string, p map[string]any) (string, error) {
	switch t := strings.TrimPrefix(strings.ToLower(typ), "application/"); t {
	case "at+jwt":
		return TokenAccess, nil
	case "", "jwt":
	default:
		return "", fmt.Errorf("a token of type %.40q", typ)
	}
	// Logout tokens and other security events (RFC 8417, 2.2) that do not say so in typ.
	if _, there := p["events"]; there {
		return "", errors.New("a token that tells of events, not of who holds it")
	}
	for _, claim := range []string{"typ", "token_use"} {
		s, _ := p[claim].(string)
		switch strings.ToLower(s) {
		case "id":
			return TokenID, nil
		case "bearer", "dpop", "access":
			return TokenAccess, nil
		case "refresh", "offline", "logout", "serialized-id", "initialaccesstoken", "registrationaccesstoken":
			return "", fmt.Errorf("a token of type %.40q", s)
		}
	}
	has := func(claim string) bool { _, there := p[claim]; return there }
	if has("scope") || has("scp") || has("cid") || has("client_id") && !has("azp") {
		return TokenAccess, nil
	}
	return TokenID, nil
}

// Bounds of claims: policy looks them up, and records keep them.
const (
	maxClaims = 256
	maxValues = 1024
	maxClaim  = 512 // bytes of a name, and of a value
)

// claim is the values of one claim as text.
type claim struct {
	values []string
	// texts tells whether all of them were text in JSON, and single whether it was no list.
	texts, single bool
}

type claims map[string]claim

// flatten gives claims as text: a boolean as true or false, a number as its JSON text, of
// a list each element, what is in an object under its dotted name. Left out is what no
// rule can ask for: null, an empty list, objects and lists in lists, and a claim with a
// name or a value of more than 512 bytes.
func flatten(p map[string]any) (claims, error) {
	c := make(claims)
	if err := c.object("", p); err != nil {
		return nil, err
	}
	values := 0
	for name, v := range c {
		values += len(v.values)
		if len(v.values) == 0 {
			delete(c, name)
		}
	}
	if len(c) > maxClaims || values > maxValues {
		return nil, fmt.Errorf("%d claims with %d values", len(c), values)
	}
	return c, nil
}

func (c claims) object(prefix string, o map[string]any) error {
	for name, v := range o {
		if err := c.add(prefix+name, v); err != nil {
			return err
		}
	}
	return nil
}

func (c claims) add(name string, v any) error {
	cl := claim{texts: true, single: true}
	switch v := v.(type) {
	case map[string]any:
		return c.object(name+".", v)
	case []any:
		cl.single = false
		for _, e := range v {
			cl.value(e)
		}
	default:
		cl.value(v)
	}
	if len(name) > maxClaim {
		return nil
	}
	if slices.ContainsFunc(cl.values, func(s string) bool { return len(s) > maxClaim }) {
		cl.values = nil // left out in the end; until then it holds its name
	}
	// {"a.b":1,"a":{"b":2}}: which of them a rule means, nobody could say.
	if _, twice := c[name]; twice {
		return fmt.Errorf("two claims are called %.64q", name)
	}
	c[name] = cl
	return nil
}

func (cl *claim) value(v any) {
	switch v := v.(type) {
	case string:
		cl.values = append(cl.values, v)
	case bool:
		cl.texts = false
		cl.values = append(cl.values, strconv.FormatBool(v))
	case json.Number:
		cl.texts = false
		cl.values = append(cl.values, v.String())
	default: // null, or something in a list that has no text
		cl.texts = false
	}
}

// one gives a claim that is one text, as it is.
func (c claims) one(name string) (string, bool) {
	cl, ok := c[name]
	if !ok || !cl.texts || !cl.single {
		return "", false
	}
	return cl.values[0], true
}

// holds tells whether one value of a claim is one of those accepted.
func (c claims) holds(name string, accepted []string) bool {
	return slices.ContainsFunc(c[name].values, func(v string) bool {
		return slices.ContainsFunc(accepted, func(a string) bool {
			if prefix, ok := strings.CutSuffix(a, "*"); ok {
				return strings.HasPrefix(v, prefix)
			}
			return v == a
		})
	})
}
