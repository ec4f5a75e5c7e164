package inspect

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nkeys"
)

// Kinds of JWTs.
const (
	KindOperator   = "operator"
	KindAccount    = "account"
	KindUser       = "user"
	KindActivation = "activation"
	KindRequest    = "authorization request"
	KindResponse   = "authorization response"
	KindPlatform   = "platform document"
	KindEntry      = "ledger entry"
	KindEpoch      = "epoch"
	KindGeneric    = "generic"
)

// Chain says where the chain of signatures ends.
type Chain string

// The ends of chains.
const (
	ChainTrusted Chain = "trusted" // at the operator at hand
	ChainForeign Chain = "foreign" // elsewhere
	ChainUnknown Chain = "unknown" // there is no operator at hand, or an account is not known
)

// State is whether a JWT is in its time.
type State string

// The states.
const (
	StateValid   State = "valid"
	StateExpired State = "expired"
	StateEarly   State = "not valid yet"
	StateRevoked State = "revoked" // as the account at hand says
)

// Token is a JWT.
type Token struct {
	Kind    string `json:"kind"`
	Version int    `json:"version"` // of NATS' JWTs: 1 or 2
	ID      string `json:"id,omitempty"`
	Name    string `json:"name,omitempty"`
	Subject string `json:"subject"`
	// SubjectIs, IssuerIs and AccountIs say what the keys are on the platform at hand;
	// they are empty where that is not known.
	SubjectIs string `json:"subject_is,omitempty"`
	Issuer    string `json:"issuer"`
	IssuerIs  string `json:"issuer_is,omitempty"`
	// Account is the account that the issuer is a key of, where the JWT says so.
	Account   string     `json:"account,omitempty"`
	AccountIs string     `json:"account_is,omitempty"`
	Audience  string     `json:"audience,omitempty"`
	IssuedAt  *time.Time `json:"issued_at,omitempty"`
	NotBefore *time.Time `json:"not_before,omitempty"`
	Expires   *time.Time `json:"expires,omitempty"` // nil: never
	State     State      `json:"state"`
	Tags      []string   `json:"tags,omitempty"`
	// Verifies tells whether the signature is the issuer's, and WhyNot the reason if it is
	// not.
	Verifies bool   `json:"verifies"`
	WhyNot   string `json:"why_not,omitempty"`
	// Chain is where the chain of signatures ends, and ChainSays that in words.
	Chain     Chain  `json:"chain"`
	ChainSays string `json:"chain_says"`
	// Says is what the JWT says, one statement a line: rights, limits, exports and so on.
	Says []string `json:"says,omitempty"`
	// Rights are what a user with this JWT may do, by the role at hand, with all templates
	// filled in; Ignored are lines of the role that have no effect for it.
	Rights  []string `json:"rights,omitempty"`
	Ignored []string `json:"ignored,omitempty"`
	// Body is the part of the payload that is the kind's own.
	Body any `json:"body,omitempty"`
}

// payload is what all NATS JWTs have, of both versions.
type payload struct {
	jwt.ClaimsData
	Type          string          `json:"type"`           // version 1
	Tags          []string        `json:"tags"`           // version 1
	IssuerAccount string          `json:"issuer_account"` // version 1
	Nats          json.RawMessage `json:"nats"`
}

// natsPart is what the part of a kind's own has in common with others'.
type natsPart struct {
	Type          string   `json:"type"`
	Version       int      `json:"version"`
	Tags          []string `json:"tags"`
	IssuerAccount string   `json:"issuer_account"`
}

// decoded is a JWT taken apart, before anything in it is believed.
type decoded struct {
	text    string
	payload payload
	nats    natsPart
	json    []byte // the payload
	version int
	kind    string // as it is written
}

// looksLikeJWT tells whether s is three parts, the first and second being base64 of JSON.
func looksLikeJWT(s string) bool {
	return strings.HasPrefix(s, "eyJ") && strings.Count(s, ".") == 2 && strings.Contains(s, ".ey") && !strings.ContainsAny(s, " \t")
}

// token explains one JWT.
func (e *explainer) token(s string) Token {
	d, err := decode(s)
	if err != nil {
		why := Clean(err.Error())
		e.problem("a JWT that cannot be read: %s", why)
		return Token{Kind: KindGeneric, Chain: ChainForeign, ChainSays: "it cannot be read", WhyNot: why}
	}
	p := d.payload
	t := Token{
		Kind: kindNamed(d.kind), Version: d.version, ID: Clean(p.ID), Name: Clean(p.Name), Subject: Clean(p.Subject),
		Issuer: Clean(p.Issuer), Account: Clean(d.nats.IssuerAccount), Audience: Clean(p.Audience),
		IssuedAt: at(p.IssuedAt), NotBefore: at(p.NotBefore), Expires: at(p.Expires), State: StateValid,
	}
	for _, tag := range d.nats.Tags {
		t.Tags = append(t.Tags, Clean(tag))
	}
	switch {
	case p.Expires != 0 && !e.now.Before(time.Unix(p.Expires, 0)):
		t.State = StateExpired
	case p.NotBefore != 0 && e.now.Before(time.Unix(p.NotBefore, 0)):
		t.State = StateEarly
	}
	t.SubjectIs, t.IssuerIs, t.AccountIs = e.known.is(p.Subject), e.known.is(p.Issuer), e.known.is(d.nats.IssuerAccount)
	if err := d.verify(); err != nil {
		t.WhyNot = Clean(err.Error())
	} else {
		t.Verifies = true
	}
	if Redact(string(d.json)) != string(d.json) {
		e.problem("a text in the JWT is a secret key, or looks like one: whoever is shown the JWT has it")
	}
	t.Body = d.body()
	e.says(&t, d)
	e.chain(&t, d)
	return t
}

// at is a time of a JWT; nil where there is none, or none that a calendar has.
func at(seconds int64) *time.Time {
	const lastYear = 253402300799 // the end of the year 9999, the last that JSON can write
	if seconds == 0 || seconds < 0 || seconds > lastYear {
		return nil
	}
	t := time.Unix(seconds, 0).UTC()
	return &t
}

// kindNamed is a kind, by what JWTs call it.
func kindNamed(s string) string {
	switch s {
	case jwt.OperatorClaim, jwt.AccountClaim, jwt.UserClaim, jwt.ActivationClaim:
		return s
	case jwt.AuthorizationRequestClaim:
		return KindRequest
	case jwt.AuthorizationResponseClaim:
		return KindResponse
	case "herald-platform":
		return KindPlatform
	case "herald-entry":
		return KindEntry
	case "herald-epoch":
		return KindEpoch
	default:
		return KindGeneric
	}
}

// decode takes a JWT apart.
func decode(s string) (decoded, error) {
	d := decoded{text: s}
	parts := strings.Split(s, ".")
	if len(parts) != 3 {
		return d, errors.New("it is not three parts")
	}
	header, err := base64.RawURLEncoding.DecodeString(parts[0])
	if err != nil {
		return d, errors.New("its header is no base64")
	}
	var h jwt.Header
	if err := json.Unmarshal(header, &h); err != nil {
		return d, errors.New("its header is no JSON")
	}
	if err := h.Valid(); err != nil {
		return d, fmt.Errorf("its header is not that of a NATS JWT: %w", err)
	}
	if d.json, err = base64.RawURLEncoding.DecodeString(parts[1]); err != nil {
		return d, errors.New("its payload is no base64")
	}
	if err := json.Unmarshal(d.json, &d.payload); err != nil {
		return d, errors.New("its payload is no JSON of a JWT")
	}
	if len(d.payload.Nats) > 0 && !bytes.Equal(d.payload.Nats, []byte("null")) {
		if err := json.Unmarshal(d.payload.Nats, &d.nats); err != nil {
			return d, errors.New("its payload is none of NATS")
		}
	}
	d.version, d.kind = d.nats.Version, d.nats.Type
	if d.payload.Type != "" { // as jwt/v2 tells the first version
		d.version, d.kind = 1, d.payload.Type
		d.nats.Tags, d.nats.IssuerAccount = d.payload.Tags, d.payload.IssuerAccount
	}
	return d, nil
}

// verify looks whether the issuer signed it.
func (d decoded) verify() error {
	signed, signature, _ := cutLast(d.text)
	sig, err := base64.RawURLEncoding.DecodeString(signature)
	if err != nil {
		return errors.New("the signature is no base64")
	}
	key, err := nkeys.FromPublicKey(d.payload.Issuer)
	if err != nil {
		return errors.New("the issuer is no nkey")
	}
	if d.version <= 1 {
		_, signed, _ = strings.Cut(signed, ".") // version 1 left the header out
	}
	if err := key.Verify([]byte(signed), sig); err != nil {
		return errors.New("the signature is not the issuer's")
	}
	return nil
}

func cutLast(s string) (before, after string, ok bool) {
	i := strings.LastIndexByte(s, '.')
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+1:], true
}

// body is the kind's own part, as JSON, cleaned.
func (d decoded) body() any {
	var v map[string]any
	dec := json.NewDecoder(bytes.NewReader(d.payload.Nats))
	dec.UseNumber()
	if err := dec.Decode(&v); err != nil {
		return nil
	}
	switch kindNamed(d.kind) {
	case KindPlatform, KindEntry, KindEpoch: // Herald's own have theirs further in
		return cleanJSON(v["body"])
	}
	return cleanJSON(v)
}
