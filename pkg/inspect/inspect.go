// Package inspect explains what files of NATS and of Herald hold: JWTs of every kind,
// creds files, nkeys, contexts. It says who signed what, whether that verifies and up to
// which operator, and what it means on the platform at hand.
//
// It refuses to show a secret, wherever in a file one is, and to let what it reads steer
// a terminal. It believes nothing: what does not verify is explained all the same, and
// said not to. It reads no file, asks no server and has no clock.
package inspect

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/nats-io/nkeys"

	"github.com/herald-nats/herald/pkg/trust"
)

// MaxInput bounds what is read, in bytes: the largest JWT, twice.
const MaxInput = 2 << 20

// maxFound bounds how many JWTs and keys of one file are explained.
const maxFound = 256

// Errors of Explain.
var (
	// ErrUnknown: nothing in it is a JWT, a key or a context.
	ErrUnknown = errors.New("it holds no JWT, no nkey and no Herald context")
	// ErrTooLarge: it is larger than anything that is explained.
	ErrTooLarge = errors.New("it is too large")
)

// Form is what kind of file it is.
type Form string

// The forms.
const (
	FormJWT     Form = "JWT"
	FormCreds   Form = "creds"   // a user JWT and its seed
	FormSeed    Form = "seed"    // one secret key
	FormKey     Form = "nkey"    // one public key
	FormContext Form = "context" // what clients need of a platform
	FormSeveral Form = "several" // more than one of these
)

// Report is what a file holds. Every text in it was cleaned: it is one line, harmless on
// a terminal, and no secret.
type Report struct {
	Form   Form    `json:"form"`
	Tokens []Token `json:"tokens,omitempty"`
	Keys   []Key   `json:"keys,omitempty"`
	// Secret tells that the file has a secret in it, which is not shown.
	Secret bool `json:"secret"`
	// Problems are what does not fit together, or is dangerous.
	Problems []string `json:"problems,omitempty"`
}

// Good tells whether all of it verifies up to the operator at hand, is in its time, and
// has no problem.
func (r *Report) Good() bool {
	good := len(r.Problems) == 0
	for _, t := range r.Tokens {
		good = good && t.Verifies && t.Chain == ChainTrusted && t.State == StateValid
	}
	return good
}

// Key is an nkey.
type Key struct {
	Kind   string `json:"kind"` // operator, account, user, server, cluster or curve
	Public string `json:"public"`
	// Seed tells that the file has the key's seed, which is not shown.
	Seed bool `json:"seed"`
	// Is says what the key is on the platform at hand; empty if that is not known.
	Is string `json:"is,omitempty"`
}

// Explain says what data holds, at a moment, by what is known of a platform.
func Explain(data []byte, known Platform, now time.Time) (*Report, error) {
	if len(data) > MaxInput {
		return nil, fmt.Errorf("%d bytes, of at most %d: %w", len(data), MaxInput, ErrTooLarge)
	}
	data = bytes.TrimPrefix(data, []byte("\xef\xbb\xbf"))
	if !utf8.Valid(data) || bytes.IndexByte(data, 0) >= 0 {
		return nil, fmt.Errorf("not a text: %w", ErrUnknown)
	}
	e := &explainer{known: known, now: now, report: &Report{}}
	if bytes.HasPrefix(bytes.TrimSpace(data), []byte("{")) {
		return e.context(data)
	}
	if err := e.scan(string(data)); err != nil {
		return nil, err
	}
	return e.report, e.form()
}

// explainer is one call of Explain.
type explainer struct {
	known  Platform
	now    time.Time
	report *Report
	order  []bool // of what was found: whether it was a JWT
}

func (e *explainer) problem(format string, args ...any) {
	e.report.Problems = append(e.report.Problems, Clean(fmt.Sprintf(format, args...)))
}

// scan finds JWTs and keys, each on a line of its own, whatever is around them.
func (e *explainer) scan(text string) error {
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if !e.line(line) {
			continue
		}
		if len(e.order) > maxFound {
			return fmt.Errorf("more than %d JWTs and keys: %w", maxFound, ErrTooLarge)
		}
	}
	return nil
}

// line takes a line, and tells whether something was found.
func (e *explainer) line(line string) bool {
	if k, ok := readKey(line); ok {
		e.report.Secret = e.report.Secret || k.Seed
		k.Is = e.known.is(k.Public)
		e.report.Keys, e.order = append(e.report.Keys, k), append(e.order, false)
		return true
	}
	if !looksLikeJWT(line) {
		return false
	}
	e.report.Tokens, e.order = append(e.report.Tokens, e.token(line)), append(e.order, true)
	return true
}

// readKey reads a public key or a seed.
func readKey(s string) (Key, bool) {
	if len(s) < 56 || len(s) > 58 {
		return Key{}, false
	}
	if prefix, raw, err := nkeys.DecodeSeed([]byte(s)); err == nil {
		// One seed has one spelling: nkeys passes over spare bits.
		if one, err := nkeys.EncodeSeed(prefix, raw); err != nil || string(one) != s {
			return Key{}, false
		}
		pair, err := nkeys.FromSeed([]byte(s))
		if err != nil {
			return Key{}, false
		}
		public, err := pair.PublicKey()
		if err != nil {
			return Key{}, false
		}
		return Key{Kind: kindOf(public), Public: public, Seed: true}, true
	}
	if !nkeys.IsValidPublicKey(s) {
		return Key{}, false
	}
	prefix := nkeys.Prefix(s)
	raw, err := nkeys.Decode(prefix, []byte(s))
	if err != nil {
		return Key{}, false
	}
	if one, err := nkeys.Encode(prefix, raw); err != nil || string(one) != s {
		return Key{}, false
	}
	return Key{Kind: kindOf(s), Public: s}, true
}

// kindOf is the kind of a public key.
func kindOf(public string) string {
	if public == "" {
		return ""
	}
	return map[byte]string{
		'O': "operator", 'A': "account", 'U': "user", 'N': "server", 'C': "cluster", 'X': "curve",
	}[public[0]]
}

// form says what the file is as a whole, and what is wrong with that.
func (e *explainer) form() error {
	r := e.report
	switch tokens, keys := len(r.Tokens), len(r.Keys); {
	case tokens == 0 && keys == 0:
		return ErrUnknown
	case tokens == 0 && keys == 1 && r.Keys[0].Seed:
		r.Form = FormSeed
	case tokens == 0 && keys == 1:
		r.Form = FormKey
	case tokens == 1 && keys == 0:
		r.Form = FormJWT
	case tokens == 1 && keys == 1 && r.Keys[0].Seed:
		r.Form = FormCreds
		e.pair()
	default:
		r.Form = FormSeveral
		if tokens > 0 && r.Secret {
			e.problem("clients take the first block for the JWT and the second for the seed, and here are %d JWTs and %d keys", tokens, keys)
		}
	}
	return nil
}

// pair looks whether a JWT and a seed make a creds file.
func (e *explainer) pair() {
	t, k := e.report.Tokens[0], e.report.Keys[0]
	if t.Kind != KindUser {
		e.problem("the JWT is no user's: clients cannot connect with it")
	}
	if t.Subject != k.Public {
		e.problem("the seed is that of %s, and the JWT is for %s: no server takes one with the other", k.Public, t.Subject)
	}
	if !e.order[0] {
		e.problem("the seed stands before the JWT: clients would send it to the server in the JWT's place")
	}
}

// contextFile is what `nscsetup context export` writes.
type contextFile struct {
	Version  int    `json:"herald_context"`
	Operator string `json:"operator"`
	Platform string `json:"platform"`
	Guest    string `json:"guest_creds"`
}

// context explains a context file. All in it is verified up to the operator in it; that
// operator is compared with the one at hand.
func (e *explainer) context(data []byte) (*Report, error) {
	var c contextFile
	if err := json.Unmarshal(data, &c); err != nil || c.Version == 0 {
		return nil, fmt.Errorf("JSON that is no context: %w", ErrUnknown)
	}
	if c.Version != 1 {
		e.problem("it is a context of version %d, and this program knows version 1", c.Version)
	}
	own := e.known
	op, err := trust.ParseOperator(c.Operator)
	switch {
	case err != nil:
		e.problem("its operator is none that a platform can have")
	case e.known.Operator == nil:
		own = Platform{Operator: op}
	case op.Key() != e.known.Operator.Key():
		e.problem("it is another platform's: operator %s (%s), and here is %s", op.Key(), op.Name(), e.known.Operator.Key())
		own = Platform{Operator: op}
	}
	if own.Operator != nil && own.Document == nil {
		// What does not verify is said to by its token.
		own.Document, _ = own.Operator.OpenPlatform(c.Platform)
	}
	e.known = own
	for _, part := range []string{c.Operator, c.Platform, c.Guest} {
		if err := e.scan(part); err != nil {
			return nil, err
		}
	}
	e.report.Form = FormContext
	if len(e.report.Tokens) != 3 || len(e.report.Keys) != 1 ||
		e.report.Tokens[0].Kind != KindOperator || e.report.Tokens[1].Kind != KindPlatform || e.report.Tokens[2].Kind != KindUser {
		e.problem("it does not hold an operator, a platform document and a guest, and nothing else")
	} else if e.report.Tokens[2].Subject != e.report.Keys[0].Public {
		e.problem("the guest's seed is not that of the guest's JWT")
	}
	return e.report, nil
}
