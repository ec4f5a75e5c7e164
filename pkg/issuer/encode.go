package issuer

import (
	"crypto/sha512"
	"encoding/base32"
	"encoding/base64"
	"strconv"
	"sync"

	"github.com/herald-nats/herald/internal/jsontext"
	"github.com/herald-nats/herald/pkg/keystore"
	"github.com/herald-nats/herald/pkg/trust"
)

// claims are what a user JWT of an issuer says. All else in it is empty: permissions are the
// role's.
type claims struct {
	expires, issued       int64
	id, issuer, name, sub string
	account               string
	tags                  []string
}

// append writes the claims as encoding/json writes jwt.UserClaims, which costs several times
// as much: the same fields, in the same order.
func (c *claims) append(b []byte) []byte {
	b = append(b, '{')
	b = jsontext.AppendInt(b, `"exp":`, c.expires)
	b = jsontext.AppendText(b, `"jti":`, c.id)
	b = jsontext.AppendInt(b, `"iat":`, c.issued)
	b = jsontext.AppendText(b, `"iss":`, c.issuer)
	b = jsontext.AppendText(b, `"name":`, c.name)
	b = jsontext.AppendText(b, `"sub":`, c.sub)
	// Permissions are structs, and never left out.
	b = append(b, `"nats":{"pub":{},"sub":{},`...)
	b = jsontext.AppendText(b, `"issuer_account":`, c.account)
	if len(c.tags) > 0 {
		b = append(b, `"tags":[`...)
		for i, t := range c.tags {
			if i > 0 {
				b = append(b, ',')
			}
			b = jsontext.AppendQuoted(b, t)
		}
		b = append(b, `],`...)
	}
	return append(b, `"type":"user","version":2}}`...)
}

// scratch is where a JWT is written before it is a string.
type scratch struct{ payload, token []byte }

var scratches = sync.Pool{New: func() any { return &scratch{make([]byte, 0, 1024), make([]byte, 0, 2048)} }} //nolint:gochecknoglobals // memory that is used again, and nothing else

// encode gives the JWT of claims, signed by the key of a role.
func (c *claims) encode(key *keystore.Key) (string, error) {
	s, _ := scratches.Get().(*scratch)
	defer scratches.Put(s)
	s.payload = c.append(s.payload[:0])
	s.token = base64.RawURLEncoding.AppendEncode(append(s.token[:0], trust.JWTHeader...), s.payload)
	var err error
	if s.payload, err = key.AppendSign(s.payload[:0], s.token); err != nil {
		return "", err
	}
	s.token = base64.RawURLEncoding.AppendEncode(append(s.token, '.'), s.payload)
	return string(s.token), nil
}

// newID makes the jti of what is minted of now, in nanoseconds, with some randomness: two
// JWTs of one user have different ones, also of one second.
func newID(user, issuer string, nanos int64, random float64) string {
	var in [160]byte
	b := append(in[:0], user...)
	b = append(append(append(b, '.'), issuer...), '.')
	b = append(strconv.AppendInt(b, nanos, 10), '.')
	b = strconv.AppendFloat(b, random, 'g', -1, 64)
	sum := sha512.Sum512_256(b)
	var out [52]byte
	base32.StdEncoding.WithPadding(base32.NoPadding).Encode(out[:], sum[:])
	return string(out[:])
}
