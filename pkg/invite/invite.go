// Package invite is what the code of an invitation is: a text that one person can read to
// another over the phone, such as HI-7K3M-9QXR-T2VB-4N8C-WJPX. It makes codes, reads what
// people make of them, and spells them. It knows no platform: what a code is good for, and
// whether it was used up, the ledger tells.
//
// # The text
//
// After HI come 20 symbols in groups of four, each one of the 32 of Crockford's base32:
// digits and capital letters without I, L and O, which are taken for digits, and U. The
// first 18 are random, 90 bits; the last two are checked against all others, so that a
// code that was misheard is told at once, without asking anybody. They are those of a
// Reed-Solomon code over the field of 32 elements: with c0 to c19 the symbols' values and a
// a root of x^5+x^2+1,
//
//	c0 + c1 + … + c19 = 0   and   c0 + a·c1 + a²·c2 + … + a^19·c19 = 0
//
// Any one or two wrong symbols are detected wherever they are, and so are any two that
// changed places; of all other errors that leave 20 symbols, all but one in 1024. If there
// is one wrong symbol, its group is known, and the error says so: it is a better thing to
// ask for than everything again. A code is never corrected: a wrong guess would be another
// code.
//
// # Guessing
//
// Codes are secrets of which the hash is known: whoever reads the ledger, a stolen issuer
// too, has ident.InviteOf of each and can try codes without asking. A thousand graphics cards
// try about 2^44 a second, hence 2^65 in the month that an invitation may be open, and each
// try is at all open codes at once. Of 90 bits they find one of a thousand open codes with
// chance 2^-15, and one of a million with 2^-5; of 80 bits they would find some thirty of
// the million. A slow hash would buy 20 bits, and every registrar would pay for it at each
// request of anybody; two more symbols cost the people on the phone less. Codes that people
// think of do not have these bits: this package makes none, and reads hardly any.
//
// Whoever guesses by asking is held up by the registrars' limits for each host and each
// issuer. What a stolen issuer may ask, 500 a second, is 2^34 in a year: one of a thousand
// open codes with chance 2^-46.
package invite

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"unicode"

	"github.com/herald-nats/herald/pkg/ident"
)

// ErrInvalid is wrapped by every error about a text that is no code of an invitation.
var ErrInvalid = errors.New("not the code of an invitation")

const (
	prefix  = "HI"
	symbols = 20 // in a code, of which
	checks  = 2  // are checks
	group   = 4

	// maxInput bounds what is looked at, in bytes: the longest that a person could make of
	// a code, with a space and a dash of three bytes each around every symbol.
	maxInput = 256

	redacted = prefix + "-[redacted]"
)

// Code is the code of an invitation: the zero value, or a valid one. Printing, logging or
// encoding one, with any verb and in any field, shows that it is one and no more; Reveal
// tells it. The text is behind a function, because fmt calls no method of a field that is
// not exported. It is safe for concurrent use.
type Code struct{ reveal func() string }

// NewCode makes a new code. It reads 18 bytes of random.
func NewCode(random io.Reader) (Code, error) {
	var b [symbols - checks]byte
	if _, err := io.ReadFull(random, b[:]); err != nil {
		return Code{}, fmt.Errorf("making an invitation's code: %w", err)
	}
	var c [symbols]byte
	for i := range b {
		c[i] = b[i] & 31 // the others are thrown away: 32 divides 256
	}
	complete(&c)
	return made(c), nil
}

func made(c [symbols]byte) Code {
	var text strings.Builder
	text.WriteString(prefix)
	for i, v := range c {
		if i%group == 0 {
			text.WriteByte('-')
		}
		text.WriteByte(alphabet[v])
	}
	s := text.String()
	return Code{reveal: func() string { return s }}
}

// Parse reads a code as people write it: in capitals or not, with spaces and dashes of any kind
// anywhere or nowhere, the letter O for 0, I and L for 1. Other texts are refused; errors
// wrap ErrInvalid, say what is wrong and quote nothing of s.
func Parse(s string) (Code, error) {
	if len(s) > maxInput {
		return Code{}, fmt.Errorf("%w: it has more than %d bytes", ErrInvalid, maxInput)
	}
	values := make([]byte, 0, len(s))
	for _, r := range s {
		if between(r) {
			continue
		}
		switch v := value(r); {
		case v >= 0:
			values = append(values, byte(v)) // #nosec G115 -- below 32
		case r == 'u' || r == 'U':
			return Code{}, fmt.Errorf("%w: there is a U in it, and codes have none: is it a V?", ErrInvalid)
		default:
			return Code{}, fmt.Errorf("%w: there is something in it that is neither a letter nor a digit", ErrInvalid)
		}
	}
	begin := len(prefix)
	switch {
	case len(values) == 0:
		return Code{}, fmt.Errorf("%w: it is empty", ErrInvalid)
	case len(values) < begin || values[0] != symbol(prefix[0]) || values[1] != symbol(prefix[1]):
		return Code{}, fmt.Errorf("%w: it does not begin with %s", ErrInvalid, prefix)
	case len(values) != begin+symbols:
		return Code{}, fmt.Errorf("%w: after %s there are %d letters and digits instead of %d", ErrInvalid, prefix, len(values)-begin, symbols)
	}
	c := [symbols]byte(values[begin:])
	switch at, ok := check(c); {
	case ok:
		return made(c), nil
	case at >= 0:
		return Code{}, fmt.Errorf("%w: something in it is wrong; if it is one letter or digit, it is in group %d of the %d after %s", ErrInvalid, at/group+1, symbols/group, prefix)
	default:
		return Code{}, fmt.Errorf("%w: two or more letters or digits in it are wrong", ErrInvalid)
	}
}

// between tells whether r says nothing: spaces, dashes, also those that word processors make
// of them, and marks that are not seen.
func between(r rune) bool {
	return unicode.IsSpace(r) || unicode.Is(unicode.Pd, r) || unicode.Is(unicode.Cf, r) || r == '\u2212'
}

// IsZero tells whether there is no code at all.
func (c Code) IsZero() bool { return c.reveal == nil }

// Reveal is the code in its one canonical form, 27 characters: what is sent, and what
// ident.InviteOf is of. It is "" of the zero value. Whoever calls this answers for where it
// goes.
func (c Code) Reveal() string {
	if c.reveal == nil {
		return ""
	}
	return c.reveal()
}

// ID is what the ledger knows it by; zero of the zero value.
func (c Code) ID() ident.InviteID {
	if c.IsZero() {
		return ident.InviteID{}
	}
	return ident.InviteOf(c.Reveal())
}

// String does not tell the code.
func (Code) String() string { return redacted }

// GoString does not tell the code.
func (Code) GoString() string { return redacted }

// Format does not tell the code, whatever the verb.
func (Code) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, redacted) } // fmt has no way to hear of it

// MarshalText does not tell the code: what was encoded cannot be read again.
func (Code) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// LogValue does not tell the code.
func (Code) LogValue() slog.Value { return slog.StringValue(redacted) }
