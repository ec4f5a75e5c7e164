// Package callout is auth callout as nats-servers speak it: what a server asks about a client
// that it does not know, and what it is answered. It opens, reads and verifies requests, and
// seals answers; who may come in it does not say, and it knows no connection.
//
// The format is that of jwt/v2 (authorization_claims.go) and of nats-server
// (auth_callout.go): a JWT, sealed to the callout key in the name of the server's own xkey.
package callout

import (
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nkeys"

	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/trust"
	"github.com/herald-nats/herald/pkg/wire"
)

// HeaderServer names the xkey in whose name a server sealed its request.
const HeaderServer = "Nats-Server-Xkey"

// MaxRequest bounds a sealed request. A CONNECT has 4 KiB; a client that shows certificates
// has all of their chains in it.
const MaxRequest = 64 << 10

// ErrRequest is wrapped where something is no request of a server that holds.
var ErrRequest = errors.New("no request of a server")

// audience is whom servers' requests are for.
const audience = "nats-authorization-request"

// Request is what a server asks: it was sealed and signed by it, for this account, lately.
// What is in Login is the client's word.
type Request struct {
	ID     string        // the request's jti
	User   ident.UserKey // the nkey that the server made for this one connection
	Server string        // the server's nkey
	Seal   ident.SealKey // the server's xkey
	// Cluster is the server's, Client its number of the connection, and Host where the client
	// is, as the server sees it.
	Cluster string
	Client  uint64
	Host    string
	Login   Login
}

// Login is what a client brought to show who it is. Printing, logging or encoding it tells
// nothing of it.
type Login struct{ user, password, token func() string }

// NewLogin is what a client brings.
func NewLogin(user, password, token string) Login {
	keep := func(s string) func() string { return func() string { return s } }
	return Login{keep(user), keep(password), keep(token)}
}

func reveal(f func() string) string {
	if f == nil {
		return ""
	}
	return f()
}

// User is the user name.
func (l Login) User() string { return reveal(l.user) }

// Password is the password. Whoever calls this answers for where it goes.
func (l Login) Password() string { return reveal(l.password) }

// Token is the token, as Password.
func (l Login) Token() string { return reveal(l.token) }

const redacted = "login[redacted]"

// String does not tell what it is.
func (Login) String() string { return redacted }

// Format does not either, whatever the verb.
func (Login) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(redacted)) } // fmt has no way to hear of it

// LogValue does not either.
func (Login) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalText does not either.
func (Login) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// Open opens what a server sealed in the name of its xkey, and verifies it: that it is signed
// by the server that it names, which has that xkey, for the account whose users it asks about,
// and not longer ago than clocks may differ. Errors wrap ErrRequest and quote nothing of what
// was sealed. That a server it is that asks, only the account shows in which it asks.
func (k *Key) Open(from ident.SealKey, sealed []byte, account ident.AccountKey, now time.Time) (Request, error) {
	if len(sealed) > MaxRequest {
		return Request{}, fmt.Errorf("%w: it has %d bytes", ErrRequest, len(sealed))
	}
	token, err := k.open(from, sealed)
	if err != nil {
		return Request{}, err
	}
	c, err := decode(string(token))
	if err != nil {
		return Request{}, fmt.Errorf("%w: %w", ErrRequest, err)
	}
	bad := func(why string) (Request, error) { return Request{}, fmt.Errorf("%w: %s", ErrRequest, why) }
	switch issued := time.Unix(c.IssuedAt, 0); {
	case c.Audience != audience:
		return bad("it is for somebody else")
	case c.Subject != account.String():
		return bad("it is about another account")
	case c.Nats.Server.ID != c.Issuer:
		return bad("another server signed it")
	case c.Nats.Server.XKey != from.String():
		return bad("it is sealed in another server's name")
	case c.Nats.Client.Kind != "Client":
		// Whoever is behind a leafnode would come in as it.
		return bad("it is about another kind of connection than a client's")
	case now.Sub(issued) > wire.MaxSkew, issued.Sub(now) > wire.MaxSkew, c.Expires < c.IssuedAt:
		return bad("it is not of now: look at the clocks")
	case c.ID == "", len(c.ID) > 128, len(c.Nats.Server.Cluster) > 128, len(c.Nats.Client.Host) > wire.MaxHost:
		return bad("something in it is too long")
	}
	user, err := ident.ParseUserKey(c.Nats.User)
	if err != nil {
		return bad("it names no user")
	}
	o := c.Nats.Connect
	return Request{
		ID: c.ID, User: user, Server: c.Issuer, Seal: from, Cluster: c.Nats.Server.Cluster, Client: c.Nats.Client.ID,
		Host: c.Nats.Client.Host, Login: NewLogin(o.User, o.Password, o.Token),
	}, nil
}

// request is what is read of a request. A server may say more.
type request struct {
	Audience string `json:"aud"`
	Expires  int64  `json:"exp"`
	ID       string `json:"jti"`
	IssuedAt int64  `json:"iat"`
	Issuer   string `json:"iss"`
	Subject  string `json:"sub"`
	Nats     struct {
		Type    string `json:"type"`
		Version int    `json:"version"`
		Server  struct {
			ID      string `json:"id"`
			XKey    string `json:"xkey"`
			Cluster string `json:"cluster"`
		} `json:"server_id"`
		User   string `json:"user_nkey"`
		Client struct {
			Host string `json:"host"`
			ID   uint64 `json:"id"`
			Kind string `json:"kind"`
		} `json:"client_info"`
		Connect struct {
			Token    string `json:"auth_token"`
			User     string `json:"user"`
			Password string `json:"pass"`
		} `json:"connect_opts"`
	} `json:"nats"`
}

// decode reads a JWT of a server and verifies its signature.
func decode(token string) (c request, err error) {
	rest, ok := strings.CutPrefix(token, trust.JWTHeader)
	body, signature, two := strings.Cut(rest, ".")
	if !ok || !two {
		return c, errors.New("it is no JWT of version 2")
	}
	enc := base64.RawURLEncoding.Strict()
	payload, err := enc.DecodeString(body)
	if err != nil {
		return c, errors.New("it is no JWT")
	}
	sig, err := enc.DecodeString(signature)
	if err != nil || len(sig) != ed25519.SignatureSize {
		return c, errors.New("it has no signature")
	}
	// What the library says may quote a password.
	if json.Unmarshal(payload, &c) != nil || c.Nats.Type != string(jwt.AuthorizationRequestClaim) || c.Nats.Version != 2 {
		return request{}, errors.New("it has not the claims of one")
	}
	if len(c.Issuer) != keyLen {
		return request{}, errors.New("no server signed it")
	}
	pub, err := nkeys.Decode(nkeys.PrefixByteServer, []byte(c.Issuer))
	if err != nil || len(pub) != ed25519.PublicKeySize {
		return request{}, errors.New("no server signed it")
	}
	if !ed25519.Verify(pub, []byte(token[:len(token)-len(signature)-1]), sig) {
		return request{}, errors.New("its signature does not hold")
	}
	return c, nil
}

// keyLen is how long an nkey is as text.
const keyLen = 56

// refused is all that a server is told of a refusal, which it writes to its log: whoever
// guesses must not learn there or elsewhere what was wrong.
const refused = "not let in by Herald"

// response is an answer; jwt.AuthorizationResponseClaims, without what an encoder would set.
type response struct {
	ID       string `json:"jti"`
	IssuedAt int64  `json:"iat"`
	Issuer   string `json:"iss"`
	Subject  string `json:"sub"`
	Audience string `json:"aud"`
	Nats     struct {
		JWT           string `json:"jwt,omitempty"`
		Error         string `json:"error,omitempty"`
		IssuerAccount string `json:"issuer_account"`
		Type          string `json:"type"`
		Version       int    `json:"version"`
	} `json:"nats"`
}

// Answer lets a client in with a user JWT, or refuses it if that is empty. It is signed by a
// signing key of the account that the request was about, and sealed to the server that asked.
// Servers believe a sealed answer whoever signed it, and one that is not for its signer.
func (k *Key) Answer(r Request, token string, account ident.AccountKey, by wire.Signer, now time.Time) ([]byte, error) {
	c := response{IssuedAt: now.Unix(), Issuer: by.Public(), Subject: r.User.String(), Audience: r.Server}
	c.Nats.JWT, c.Nats.IssuerAccount = token, account.String()
	c.Nats.Type, c.Nats.Version = string(jwt.AuthorizationResponseClaim), 2
	if token == "" {
		c.Nats.Error = refused
	}
	c.ID = trust.ID(c.Subject, c.Issuer, strconv.FormatInt(now.UnixNano(), 10))
	signed, err := trust.EncodeJWT(&c, by)
	if err != nil {
		return nil, fmt.Errorf("answering a server: %w", err)
	}
	return k.seal(r.Seal, []byte(signed))
}
