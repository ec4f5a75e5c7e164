package serverconf

import (
	"strings"
	"testing"

	"github.com/nats-io/nats-server/v2/conf"
)

// Whatever is quoted is read back byte for byte, on one line.
func FuzzQuote(f *testing.F) {
	for _, s := range []string{"", "a", `"`, `\`, `\"`, "$HOME", "a\nb", "a\x00b", "\xff", "\xc3", "é", "\u2028", "'x'", "{}[];,#//", "include x", `\x41`, "2a$x", "true", "1k", "�"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		q := quote(s)
		if strings.ContainsAny(q, "\n\r\x00") {
			t.Fatalf("%q is not one line", q)
		}
		m, err := conf.Parse("before: 1\nk: " + q + "\nl: [ " + q + ", " + q + " ]\nafter: 2\n")
		if err != nil {
			t.Fatalf("%q: %v", s, err)
		}
		l, _ := m["l"].([]any)
		if m["k"] != s || len(l) != 2 || l[0] != s || l[1] != s || m["before"] != int64(1) || m["after"] != int64(2) || len(m) != 4 {
			t.Fatalf("%q was read back as %v", s, m)
		}
	})
}
