package wire

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/url"
	"time"

	"github.com/herald-nats/herald/pkg/ident"
)

// Answer is what an issuer gives: a user JWT and what to do with it. A client
// believes nothing of it but the JWT, after verifying that.
type Answer struct {
	JWT         string           `json:"jwt"`
	Account     ident.AccountKey `json:"account"`
	AccountName ident.Label      `json:"account_name"`
	Role        ident.Label      `json:"role"`
	Name        ident.Name       `json:"name"`
	Expires     int64            `json:"expires"`  // seconds since 1970
	RenewAt     int64            `json:"renew_at"` // seconds since 1970, spread over the users
	URLs        []string         `json:"urls"`
	Region      ident.Region     `json:"region"`
	Issuer      string           `json:"issuer"` // the issuer's own user nkey
}

// maxJWT bounds a user JWT: the server's CONNECT line holds 4,096 bytes.
const maxJWT = 3 << 10

// maxIssuer bounds an issuer's nkey, which nobody vouches for and somebody prints.
const maxIssuer = 64

// DecodeAnswer reads an answer. Fields that a later version adds are passed
// over; those that it knows must be of the right shape.
func DecodeAnswer(body []byte) (Answer, error) {
	var a Answer
	if len(body) > MaxAnswer {
		return a, fmt.Errorf("an answer of %d bytes", len(body))
	}
	if err := json.Unmarshal(body, &a); err != nil {
		return Answer{}, fmt.Errorf("an answer that cannot be read: %w", err)
	}
	if a.JWT == "" || len(a.JWT) > maxJWT || a.Expires <= 0 || a.RenewAt <= 0 || len(a.Issuer) > maxIssuer ||
		a.Account.IsZero() || a.AccountName.IsZero() || a.Role.IsZero() || a.Name.IsZero() || a.Region.IsZero() {
		return Answer{}, fmt.Errorf("an answer out of shape")
	}
	if err := CheckURLs(a.URLs); err != nil {
		return Answer{}, err
	}
	return a, nil
}

// CheckURLs refuses lists that no client should dial from.
func CheckURLs(urls []string) error {
	if len(urls) > 64 {
		return fmt.Errorf("%d server URLs", len(urls))
	}
	for _, s := range urls {
		u, err := url.Parse(s)
		if err != nil || u.Host == "" || u.User != nil || len(s) > 256 {
			return fmt.Errorf("%.80q is not a server URL", s)
		}
		switch u.Scheme {
		case "nats", "tls", "ws", "wss":
		default:
			return fmt.Errorf("%.80q is not a server URL", s)
		}
	}
	return nil
}

// Info is the answer to auth.v1.info. What matters in it is the signed
// document; the rest is a convenience that is not believed.
type Info struct {
	Platform string       `json:"platform"` // JWT: trust.Platform, signed by an operator signing key
	Time     int64        `json:"time"`     // the server's, milliseconds since 1970
	Region   ident.Region `json:"region"`
	Issuer   string       `json:"issuer"`
}

// DecodeInfo reads the answer to auth.v1.info.
func DecodeInfo(body []byte) (Info, error) {
	var i Info
	if len(body) > MaxAnswer {
		return i, fmt.Errorf("information of %d bytes", len(body))
	}
	if err := json.Unmarshal(body, &i); err != nil {
		return Info{}, fmt.Errorf("information that cannot be read: %w", err)
	}
	if i.Platform == "" || i.Time <= 0 || i.Region.IsZero() || len(i.Issuer) > maxIssuer {
		return Info{}, fmt.Errorf("information out of shape")
	}
	return i, nil
}

// RenewRequest is the optional body of auth.v1.renew.
type RenewRequest struct {
	TTL time.Duration // 0: policy decides
}

// Encode gives the body; nil where nothing is asked for.
func (r RenewRequest) Encode() []byte {
	if r.TTL == 0 {
		return nil
	}
	return []byte(`{"ttl":"` + r.TTL.String() + `"}`)
}

// DecodeRenewRequest reads the body of auth.v1.renew, which may be empty.
func DecodeRenewRequest(body []byte) (RenewRequest, *Error) {
	var r RenewRequest
	if len(body) == 0 {
		return r, nil
	}
	if len(body) > MaxRequest {
		return r, Errorf(TooLarge, "send at most 16 KiB", "the request has %d bytes", len(body))
	}
	var ttl *string
	if err := fill(body, field{"ttl", &ttl, false}); err != nil {
		return r, Errorf(BadRequest, "the body of a renewal is empty or {\"ttl\":\"30m\"}", "the request cannot be read: %v", err)
	}
	if ttl != nil {
		d, err := time.ParseDuration(*ttl)
		if err != nil || d <= 0 {
			return r, Errorf(BadRequest, "a ttl is a duration such as 30m", "the ttl is not a positive duration")
		}
		r.TTL = d
	}
	return r, nil
}

// Claim is what an issuer passes on to home's registrar: the client's own
// signed request, to be verified again there.
type Claim struct {
	Body  []byte `json:"body"`  // the request's plain body, byte for byte
	Proof string `json:"proof"` // its Herald-Proof
	// Identity is its Herald-Identity-Proof, where it has one.
	Identity string `json:"identity_proof,omitempty"`
	// Host is the client's address, as a server told the issuer (RequestInfo).
	// It is an issuer's word: it limits how much one source may claim, and nothing else.
	Host string `json:"host,omitempty"`
	// Callout tells that the client came by auth callout: the request is the issuer's, made of
	// what the client brought, for what is granted to such clients.
	Callout bool `json:"callout,omitempty"`
}

// MaxHost bounds a client's address, in bytes.
const MaxHost = 64

// DecodeClaim reads the body of auth.v1.home.claim and auth.v1.home.redeem.
func DecodeClaim(data []byte) (Claim, *Error) {
	var c Claim
	if len(data) > 2*MaxRequest {
		return c, Errorf(TooLarge, "pass on one request", "the claim has %d bytes", len(data))
	}
	var body string // encoding/json would read a list of numbers as bytes, too
	err := fill(data, field{"body", &body, true}, field{"proof", &c.Proof, true}, field{"identity_proof", &c.Identity, false}, field{"host", &c.Host, false}, field{"callout", &c.Callout, false})
	if err == nil && len(c.Host) > MaxHost {
		err = fmt.Errorf("the field \"host\" has %d bytes", len(c.Host))
	}
	if err == nil {
		c.Body, err = base64.StdEncoding.Strict().DecodeString(body)
	}
	if err != nil {
		return Claim{}, Errorf(BadRequest, "pass on the request and its proof", "the claim cannot be read: %v", err)
	}
	return c, nil
}

// Claimed is the answer to auth.v1.home.claim and auth.v1.home.redeem.
type Claimed struct {
	Entry string `json:"entry"` // the token of a ledger entry: trust.Operator.OpenEntry verifies it
}

// RequestInfo is what the server itself says of who asks through an import.
type RequestInfo struct {
	Account string
	User    string
	JWT     string
	Kind    string
	Service string
	Host    string // the address that the asker connected from; for limits and logs
}

// DecodeRequestInfo reads the Nats-Request-Info headers of a message. There
// must be exactly one. What it says is checked by trust.
func DecodeRequestInfo(values []string) (RequestInfo, error) {
	if len(values) != 1 {
		return RequestInfo{}, fmt.Errorf("%d %s headers", len(values), HeaderInfo)
	}
	if len(values[0]) > 8<<10 {
		return RequestInfo{}, fmt.Errorf("a %s of %d bytes", HeaderInfo, len(values[0]))
	}
	// The server writes it and may add members in any release.
	all, err := members([]byte(values[0]))
	if err != nil {
		return RequestInfo{}, fmt.Errorf("a %s that cannot be read: %w", HeaderInfo, err)
	}
	var v RequestInfo
	for _, m := range all {
		var to *string
		switch string(m.name) {
		case "acc":
			to = &v.Account
		case "user":
			to = &v.User
		case "jwt":
			to = &v.JWT
		case "kind":
			to = &v.Kind
		case "svc":
			to = &v.Service
		case "host":
			to = &v.Host
		default:
			continue
		}
		if err := decode(m.raw, to); err != nil {
			return RequestInfo{}, fmt.Errorf("a %s that cannot be read: %w", HeaderInfo, err)
		}
	}
	if len(v.Host) > MaxHost {
		return RequestInfo{}, fmt.Errorf("a %s with a host of %d bytes", HeaderInfo, len(v.Host))
	}
	return v, nil
}
