package trust

import (
	"crypto/sha512"
	"encoding/base32"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/jwt/v2"

	"github.com/herald-nats/herald/pkg/keystore"
	"github.com/herald-nats/herald/pkg/wire"
)

// JWTHeader is the header of every NATS JWT of version 2, encoded:
// {"typ":"JWT","alg":"ed25519-nkey"}.
const JWTHeader = "eyJ0eXAiOiJKV1QiLCJhbGciOiJlZDI1NTE5LW5rZXkifQ."

// ErrUntrusted is wrapped where a signature, a signer or a chain does not lead
// to this platform's operator.
var ErrUntrusted = errors.New("not trusted by this platform's operator")

// EncodeJWT signs claims, whatever they are, as a NATS JWT. Unlike the encoder
// of jwt/v2 it leaves iat and the issuer to the caller, so that time is passed
// in, and it signs with a key that is ready instead of deriving one each time.
func EncodeJWT(claims any, s wire.Signer) (string, error) {
	payload, err := json.Marshal(claims)
	if err != nil {
		return "", fmt.Errorf("encoding claims: %w", err)
	}
	enc := base64.RawURLEncoding
	buf := make([]byte, 0, len(JWTHeader)+enc.EncodedLen(len(payload))+1+enc.EncodedLen(64))
	buf = append(buf, JWTHeader...)
	buf = enc.AppendEncode(buf, payload)
	sig, err := s.Sign(buf)
	if err != nil {
		return "", fmt.Errorf("signing claims: %w", err)
	}
	buf = append(buf, '.')
	return string(enc.AppendEncode(buf, sig)), nil
}

// ID makes a jti from what makes a JWT its own; equal inputs give equal ids.
func ID(parts ...string) string {
	h := sha512.New512_256()
	for _, p := range parts {
		// The length parts them: ("ab","c") must not be ("a","bc").
		_, _ = fmt.Fprintf(h, "%d:%s", len(p), p) // a hash never fails to write
	}
	return base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(h.Sum(nil))
}

// SignAccount signs an account's base claims as a version of theirs. c is not changed.
func SignAccount(c *jwt.AccountClaims, version uint64, key *keystore.Key, now time.Time) (string, error) {
	v := *c
	v.Tags = slices.DeleteFunc(slices.Clone(c.Tags), func(t string) bool { return strings.HasPrefix(t, TagBase) })
	v.Tags = slices.Insert(v.Tags, 0, TagBase+strconv.FormatUint(version, 10))
	v.Type, v.Version = jwt.AccountClaim, 2
	v.Issuer, v.IssuedAt = key.Public(), now.Unix()
	v.ID = ID(v.Subject, v.Issuer, strconv.FormatUint(version, 10), strconv.FormatInt(v.IssuedAt, 10))
	return EncodeJWT(&v, key)
}
