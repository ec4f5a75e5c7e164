package inspect

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// maxText bounds one text that is shown, in bytes.
const maxText = 2048

// Hidden stands where a secret was.
const Hidden = "(a secret, not shown)"

// Clean makes text from anywhere harmless to show: one line, no control characters, no
// characters that reorder or hide others, not endless, and without secrets.
func Clean(s string) string {
	s = Redact(strings.ToValidUTF8(s, "?")) // before it is cut: a part of a secret is not known for one
	s = strings.Map(func(r rune) rune {
		switch {
		case unicode.IsSpace(r):
			return ' '
		case unicode.IsControl(r), unicode.Is(unicode.Cf, r), unicode.Is(unicode.Co, r), r == utf8.RuneError:
			return '?'
		}
		return r
	}, s)
	if len(s) > maxText {
		s = strings.ToValidUTF8(s[:maxText], "") + "…"
	}
	return s
}

const (
	seedLength    = 58  // of an encoded seed
	curveLength   = 56  // of an encoded private curve key
	privateLength = 108 // of any other private key, which begins with the seed
	// leastSeed is as much of either as is hidden where it begins a word: the last of a
	// seed is a checksum, without which the rest is as good. A jti has 52 characters, a
	// public key 56 and another first letter.
	leastSeed = 53
)

// Redact takes what looks like a secret nkey out of a text: seeds of every kind, whole or
// without their end, and private keys, also in lower case, which is what becomes of
// tags. Whether the checksum fits is not asked: a mistyped seed is a secret, too.
func Redact(s string) string {
	var b strings.Builder
	for s != "" {
		n, secret := word(s)
		if n == 0 {
			_, n = utf8.DecodeRuneInString(s)
		}
		if secret == nil {
			b.WriteString(s[:n])
		} else {
			last := 0
			for _, at := range secret {
				b.WriteString(s[last:at[0]])
				b.WriteString(Hidden)
				last = at[1]
			}
			b.WriteString(s[last:n])
		}
		s = s[n:]
	}
	return b.String()
}

// word is the length of the word of base32 that s begins with, all of it in one case, and
// where in it are secrets.
func word(s string) (n int, secrets [][2]int) {
	upper, lower := true, true
	for n < len(s) {
		c := s[n]
		u, l := upper && 'A' <= c && c <= 'Z', lower && 'a' <= c && c <= 'z'
		if !u && !l && (c < '2' || c > '7') {
			break
		}
		if u {
			lower = false
		}
		if l {
			upper = false
		}
		n++
	}
	if n < leastSeed {
		return n, nil
	}
	w, begins := strings.ToUpper(s[:n]), 0 // begins: where what is left of the word does
	for i := 0; i+1 < n; i++ {
		least, most := seedLength, seedLength
		switch {
		case w[i] == 'S' && strings.IndexByte("OAUNCX", w[i+1]) >= 0:
		case w[i] == 'P':
			least, most = curveLength, privateLength
		default:
			continue
		}
		left := n - i
		if left < least && (i > begins || left < leastSeed) {
			continue // a public key may have such letters inside
		}
		begins = i + min(most, left)
		secrets = append(secrets, [2]int{i, begins})
		i = begins - 1
	}
	return n, secrets
}

// cleanJSON cleans a decoded JSON value: all texts in it, and the names of members. Tokens
// are left out: they are explained, not shown.
func cleanJSON(v any) any {
	switch v := v.(type) {
	case string:
		if looksLikeJWT(v) {
			return "(a JWT, not shown)"
		}
		return Clean(v)
	case []any:
		for i := range v {
			v[i] = cleanJSON(v[i])
		}
		return v
	case map[string]any:
		out := make(map[string]any, len(v))
		for k, m := range v {
			out[Clean(k)] = cleanJSON(m)
		}
		return out
	default:
		return v
	}
}
