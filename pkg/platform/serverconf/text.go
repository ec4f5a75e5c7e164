package serverconf

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// text writes nats-server's configuration format. Keys are written here and nowhere
// given; values are quoted, so that no value can be a variable, an include or another key.
type text struct {
	b      strings.Builder
	indent string
}

// note writes a comment, one line for each argument. What is named in it must be an
// identifier: a comment ends with its line.
func (t *text) note(lines ...string) {
	for _, l := range lines {
		t.line(strings.TrimRight("# "+l, " "))
	}
}

func (t *text) blank() { t.b.WriteByte('\n') }

func (t *text) line(s string) { t.b.WriteString(t.indent + s + "\n") }

// str sets a key to a string.
func (t *text) str(key, value string) { t.line(key + ": " + quote(value)) }

// raw sets a key to a number, a size or a boolean.
func (t *text) raw(key string, value any) { t.line(fmt.Sprintf("%s: %v", key, value)) }

// block writes a map; without a key it is an element of a list.
func (t *text) block(key string, inside func()) {
	t.line(strings.TrimLeft(key+" {", " "))
	t.nested(inside)
	t.line("}")
}

// list writes an array, an element on each line.
func (t *text) list(key string, inside func()) {
	t.line(key + ": [")
	t.nested(inside)
	t.line("]")
}

func (t *text) nested(inside func()) {
	outer := t.indent
	t.indent += "  "
	inside()
	t.indent = outer
}

// quote writes a string that the server reads back byte for byte. Between double quotes
// nothing is looked at but the backslash: $ begins no variable there. A zero byte ends
// the whole file wherever it stands, so it and all that is no text is written as \xHH.
func quote(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for i := 0; i < len(s); {
		r, size := utf8.DecodeRuneInString(s[i:])
		switch {
		case r == '"' || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r < ' ' || r == 0x7f || r == utf8.RuneError && size == 1 || isControl(r):
			for _, c := range []byte(s[i : i+size]) {
				fmt.Fprintf(&b, `\x%02x`, c)
			}
		default:
			b.WriteString(s[i : i+size])
		}
		i += size
	}
	b.WriteByte('"')
	return b.String()
}

// isControl are characters beyond ASCII that would make the text look like another.
func isControl(r rune) bool {
	return r >= 0x80 && r < 0xa0 || r == 0x061c || r >= 0x200b && r <= 0x200f || r >= 0x2028 && r <= 0x202e || r >= 0x2060 && r <= 0x206f || r == 0xfeff
}
