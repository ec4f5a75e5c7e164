package issuer

import (
	"crypto/sha512"
	"encoding/base32"
	"encoding/base64"
	"encoding/json"
	"strconv"
	"sync"
	"unicode/utf8"

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
	b = appendNumber(b, `"exp":`, c.expires)
	b = appendText(b, `"jti":`, c.id)
	b = appendNumber(b, `"iat":`, c.issued)
	b = appendText(b, `"iss":`, c.issuer)
	b = appendText(b, `"name":`, c.name)
	b = appendText(b, `"sub":`, c.sub)
	// Permissions are structs, and never left out.
	b = append(b, `"nats":{"pub":{},"sub":{},`...)
	b = appendText(b, `"issuer_account":`, c.account)
	if len(c.tags) > 0 {
		b = append(b, `"tags":[`...)
		for i, t := range c.tags {
			if i > 0 {
				b = append(b, ',')
			}
			b = appendQuoted(b, t)
		}
		b = append(b, `],`...)
	}
	return append(b, `"type":"user","version":2}}`...)
}

// appendNumber and appendText leave out what is empty, with its comma.
func appendNumber(b []byte, key string, n int64) []byte {
	if n == 0 {
		return b
	}
	return append(strconv.AppendInt(append(b, key...), n, 10), ',')
}

func appendText(b []byte, key, s string) []byte {
	if s == "" {
		return b
	}
	return append(appendQuoted(append(b, key...), s), ',')
}

// appendQuoted writes a text as encoding/json does, which is asked where anything has to be
// escaped.
func appendQuoted(b []byte, s string) []byte {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c >= utf8.RuneSelf || c == '"' || c == '\\' || c == '<' || c == '>' || c == '&' {
			quoted, err := json.Marshal(s)
			if err != nil {
				return append(b, `""`...) // a text is always JSON
			}
			return append(b, quoted...)
		}
	}
	return append(append(append(b, '"'), s...), '"')
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
