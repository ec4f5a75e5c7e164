package trust

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/jwt/v2"

	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/keystore"
)

// TagBase begins the tag of an account JWT that says which version its base claims
// are: "base:" and a decimal number, 1 at least, without a zero before it.
const TagBase = "base:"

// BaseVersion reads the version of the base claims from an account's tags. It is 0
// where there is no such tag, where the tag is not as TagBase says, and where there are
// several: whoever made that made a mistake, and what has a version holds against it.
func BaseVersion(tags []string) uint64 {
	var version uint64
	found := false
	for _, t := range tags {
		digits, ok := strings.CutPrefix(t, TagBase)
		if !ok {
			continue
		}
		if found {
			return 0
		}
		found = true
		// One number has one spelling: ParseUint takes zeros before it.
		if v, err := strconv.ParseUint(digits, 10, 64); err == nil && strconv.FormatUint(v, 10) == digits {
			version = v
		}
	}
	return version
}

// ErrConflict is wrapped where account JWTs have one version of the base claims and
// different base claims: two who decided, and neither knew of the other. Which of them
// is right, no rule can tell.
var ErrConflict = errors.New("different base claims have the same version")

// AccountJWT is an account JWT that was verified up to the operator. OpenAccount makes it.
type AccountJWT struct {
	Token    string
	Account  ident.AccountKey
	Name     string
	Issuer   string // the operator signing key
	IssuedAt int64  // seconds since 1970
	Version  uint64 // of its base claims
	Revoked  int    // how many revocations it has
}

// OpenAccount verifies an account JWT as VerifyAccount does. What an older library than
// jwt/v2 wrote is refused.
func (o *Operator) OpenAccount(token string) (AccountJWT, error) {
	if !strings.HasPrefix(token, JWTHeader) {
		return AccountJWT{}, errors.New("an account JWT that is not of version 2")
	}
	c, err := o.VerifyAccount(token)
	if err != nil {
		return AccountJWT{}, err
	}
	key, err := ident.ParseAccountKey(c.Subject)
	if err != nil {
		return AccountJWT{}, fmt.Errorf("account %.64q: %w", c.Name, err)
	}
	return AccountJWT{
		Token: token, Account: key, Name: c.Name, Issuer: c.Issuer, IssuedAt: c.IssuedAt, Version: BaseVersion(c.Tags),
		Revoked: len(c.Revocations),
	}, nil
}

// Content is what account JWTs of one account say, apart from who signed them and when:
// the base claims with the highest version, and all revocations. Two JWTs with one
// content are as good as each other. It does not change once it is made.
//
// The base claims are all claims except iat, iss, jti and the account's revocations.
// They are compared as JSON values; tags and signing keys are sets, whose order says
// nothing. (Exports and imports are lists: of two that collide servers take the first.)
// Claims that this version of jwt/v2 does not know are kept.
type Content struct {
	account ident.AccountKey
	version uint64
	bases   []base // different ones of that version, in the order of their sums
	revoked map[string]int64
}

// base is base claims as canonical JSON.
type base struct {
	sum    [sha256.Size]byte
	claims []byte
}

// Members of a payload that are not base claims, or that are sets.
const (
	memberIssuedAt    = "iat"
	memberIssuer      = "iss"
	memberID          = "jti"
	memberNats        = "nats"
	memberRevocations = "revocations"
	memberTags        = "tags"
	memberSigningKeys = "signing_keys"
)

// Content gives what the JWT says.
func (a AccountJWT) Content() (Content, error) {
	fail := func(err error) (Content, error) {
		return Content{}, fmt.Errorf("reading the claims of account %.64q: %w", a.Name, err)
	}
	_, rest, _ := strings.Cut(a.Token, ".")
	payload, _, _ := strings.Cut(rest, ".")
	data, err := base64.RawURLEncoding.DecodeString(payload)
	if err != nil {
		return fail(err)
	}
	claims, nats, err := decodeClaims(data)
	if err != nil {
		return fail(err)
	}
	c := Content{account: a.Account, version: a.Version}
	if c.revoked, err = revocationsOf(nats); err != nil {
		return fail(err)
	}
	for _, m := range []string{memberIssuedAt, memberIssuer, memberID} {
		delete(claims, m)
	}
	delete(nats, memberRevocations)
	for _, set := range []string{memberTags, memberSigningKeys} {
		if err := sortSet(nats, set); err != nil {
			return fail(err)
		}
	}
	canonical, err := json.Marshal(claims)
	if err != nil {
		return fail(err)
	}
	c.bases = []base{{sum: sha256.Sum256(canonical), claims: canonical}}
	return c, nil
}

// decodeClaims reads a payload, numbers as they are written, and its body.
func decodeClaims(data []byte) (claims, body map[string]any, err error) {
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	if err := d.Decode(&claims); err != nil {
		return nil, nil, fmt.Errorf("decoding: %w", err)
	}
	body, ok := claims[memberNats].(map[string]any)
	if !ok {
		return nil, nil, errors.New("no account claims")
	}
	return claims, body, nil
}

func revocationsOf(body map[string]any) (map[string]int64, error) {
	all := map[string]int64{}
	list, ok := body[memberRevocations]
	if !ok || list == nil {
		return all, nil
	}
	m, ok := list.(map[string]any)
	if !ok {
		return nil, errors.New("revocations that are no list of keys and times")
	}
	for key, v := range m {
		n, ok := v.(json.Number)
		if !ok {
			return nil, fmt.Errorf("the revocation of %.60q has no time", key)
		}
		at, err := n.Int64()
		if err != nil {
			return nil, fmt.Errorf("the revocation of %.60q: %w", key, err)
		}
		all[key] = at
	}
	return all, nil
}

// sortSet brings a list whose order says nothing into one order.
func sortSet(body map[string]any, member string) error {
	list, ok := body[member].([]any)
	if !ok {
		return nil
	}
	texts, order := make([][]byte, len(list)), make([]int, len(list))
	for i, v := range list {
		text, err := json.Marshal(v)
		if err != nil {
			return fmt.Errorf("encoding %s: %w", member, err)
		}
		texts[i], order[i] = text, i
	}
	slices.SortFunc(order, func(a, b int) int { return bytes.Compare(texts[a], texts[b]) })
	sorted := make([]any, len(list))
	for i, from := range order {
		sorted[i] = list[from]
	}
	body[member] = sorted
	return nil
}

// Join gives what several say together: the base claims of the highest version, and of
// each revocation the later time. It does not matter in which order, how grouped and how
// often they are joined, and nothing that one of them says is lost but base claims of a
// lower version. Different base claims of the highest version are all kept: that is a
// conflict (Conflict), which a higher version ends.
//
// All of them must be of one account.
func Join(first Content, more ...Content) (Content, error) {
	out := Content{account: first.account, version: first.version, bases: slices.Clone(first.bases), revoked: maps.Clone(first.revoked)}
	for _, c := range more {
		if c.account != out.account {
			return Content{}, fmt.Errorf("joining accounts %s and %s", out.account, c.account)
		}
		for key, at := range c.revoked {
			if have, ok := out.revoked[key]; !ok || at > have {
				out.revoked[key] = at
			}
		}
		switch cmp.Compare(c.version, out.version) {
		case +1:
			out.version, out.bases = c.version, slices.Clone(c.bases)
		case 0:
			out.bases = append(out.bases, c.bases...)
		}
	}
	slices.SortFunc(out.bases, func(a, b base) int { return bytes.Compare(a.sum[:], b.sum[:]) })
	out.bases = slices.CompactFunc(out.bases, func(a, b base) bool { return a.sum == b.sum })
	return out, nil
}

// Account is whose content it is.
func (c Content) Account() ident.AccountKey { return c.account }

// Version is that of the base claims.
func (c Content) Version() uint64 { return c.version }

// Revocations are times, in seconds since 1970, up to which credentials are revoked, by
// user nkey; under jwt.All those of everybody. The map is the caller's own.
func (c Content) Revocations() map[string]int64 { return maps.Clone(c.revoked) }

// RevokedUntil is up to when credentials of a user are revoked, in seconds since 1970; under
// jwt.All those of everybody. 0: they are not.
func (c Content) RevokedUntil(user string) int64 { return c.revoked[user] }

// Revoke gives the content with more revocations: of each user the later one.
func (c Content) Revoke(more map[string]int64) Content {
	out := c
	out.revoked = maps.Clone(c.revoked)
	for user, at := range more {
		if have, ok := out.revoked[user]; !ok || at > have {
			out.revoked[user] = at
		}
	}
	return out
}

// Forget gives the content without the revocations that are over.
func (c Content) Forget(over func(user string, at int64) bool) Content {
	out := c
	out.revoked = maps.Clone(c.revoked)
	maps.DeleteFunc(out.revoked, over)
	return out
}

// SameBase tells whether both have the same base claims.
func (c Content) SameBase(d Content) bool {
	return c.account == d.account && c.version == d.version && slices.EqualFunc(c.bases, d.bases, func(a, b base) bool { return a.sum == b.sum })
}

// Equal tells whether both say the same.
func (c Content) Equal(d Content) bool {
	return c.SameBase(d) && maps.Equal(c.revoked, d.revoked)
}

// Conflict is an error that wraps ErrConflict where there are different base claims of
// the highest version; nil where there are not.
func (c Content) Conflict() error {
	if len(c.bases) < 2 {
		return nil
	}
	return fmt.Errorf("account %s, version %d: %w", c.account, c.version, ErrConflict)
}

// Claims gives the content as account claims that nobody has signed. It is ErrConflict
// where there is a conflict.
func (c Content) Claims() (*jwt.AccountClaims, error) {
	payload, _, err := c.payload()
	if err != nil {
		return nil, err
	}
	data, err := json.Marshal(payload)
	if err != nil {
		return nil, fmt.Errorf("encoding the claims of account %s: %w", c.account, err)
	}
	var claims jwt.AccountClaims
	if err := json.Unmarshal(data, &claims); err != nil {
		return nil, fmt.Errorf("reading the claims of account %s: %w", c.account, err)
	}
	return &claims, nil
}

// payload makes a payload with this content, without iat, iss and jti.
func (c Content) payload() (claims, body map[string]any, err error) {
	if err := c.Conflict(); err != nil {
		return nil, nil, err
	}
	if len(c.bases) == 0 {
		return nil, nil, errors.New("no account claims")
	}
	if claims, body, err = decodeClaims(c.bases[0].claims); err != nil {
		return nil, nil, fmt.Errorf("the claims of account %s: %w", c.account, err)
	}
	if len(c.revoked) > 0 {
		body[memberRevocations] = c.revoked
	}
	return claims, body, nil
}

// Sign makes an account JWT with this content, issued now or a second after above,
// whichever is later: between two JWTs that reach a server from its cluster, it keeps
// the one with the later iat, and of equal ones any. The same content, key and time give
// the same token. It is ErrConflict where there is a conflict.
//
// Whether key is a signing key of the operator, OpenAccount tells of the outcome.
func (c Content) Sign(key *keystore.Key, now time.Time, above int64) (string, error) {
	claims, _, err := c.payload()
	if err != nil {
		return "", err
	}
	iat := now.Unix()
	if above >= iat && above < math.MaxInt64 {
		iat = above + 1
	}
	claims[memberIssuedAt], claims[memberIssuer] = iat, key.Public()
	data, err := json.Marshal(claims)
	if err != nil {
		return "", fmt.Errorf("encoding the claims of account %s: %w", c.account, err)
	}
	// Of all that it says: servers of a cluster take two JWTs with one id for the same,
	// and that of jwt/v2 is made of subject, issuer and second alone.
	claims[memberID] = ID(string(data))
	token, err := EncodeJWT(claims, key)
	if err != nil {
		return "", fmt.Errorf("signing account %s: %w", c.account, err)
	}
	if len(token) > MaxToken {
		return "", fmt.Errorf("account %s has %d bytes as a JWT, more than %d", c.account, len(token), MaxToken)
	}
	return token, nil
}
