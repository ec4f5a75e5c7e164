// Package jsontext writes JSON by hand where encoding/json's reflection would be most of what
// something costs. What it writes is what encoding/json writes, byte for byte; whoever uses
// it holds that by a test.
package jsontext

import (
	"encoding/json"
	"strconv"
	"unicode/utf8"
)

// AppendInt and AppendUint write a member and the comma behind it, or nothing where the value is 0. key is
// the quoted name with its colon.
func AppendInt(b []byte, key string, n int64) []byte {
	if n == 0 {
		return b
	}
	return append(strconv.AppendInt(append(b, key...), n, 10), ',')
}

// AppendUint is AppendInt of what has no sign.
func AppendUint(b []byte, key string, n uint64) []byte {
	if n == 0 {
		return b
	}
	return append(strconv.AppendUint(append(b, key...), n, 10), ',')
}

// AppendText is AppendInt of a text, or nothing where it is empty.
func AppendText(b []byte, key, s string) []byte {
	if s == "" {
		return b
	}
	return append(AppendQuoted(append(b, key...), s), ',')
}

// AppendQuoted writes a text as encoding/json does, which is asked where anything has to be
// escaped.
func AppendQuoted(b []byte, s string) []byte {
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
