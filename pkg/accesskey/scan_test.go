package accesskey_test

import (
	"bytes"
	"cmp"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"unicode/utf16"

	"pgregory.net/rapid"

	"github.com/herald-nats/herald/pkg/accesskey"
)

func scan(t testing.TB, r io.Reader) []accesskey.Found {
	t.Helper()
	var all []accesskey.Found
	if err := accesskey.Scan(r, func(f accesskey.Found) error { all = append(all, f); return nil }); err != nil {
		t.Fatal(err)
	}
	return all
}

// expect is what Scan has to find, told slowly: by regular expressions, and by decoding
// what begins at each character in each way.
func expect(data []byte) []accesskey.Found {
	all := append(append(expectPlain(data), expectUTF16(data)...), expectBase64(data)...)
	slices.SortFunc(all, func(a, b accesskey.Found) int { return cmp.Compare(a.Offset, b.Offset) })
	return all
}

func told(data []byte, at int, form accesskey.Form, text string) accesskey.Found {
	f := accesskey.Found{
		Offset: int64(at), Line: int64(1 + bytes.Count(data[:at], []byte("\n"))), Column: int64(at - bytes.LastIndexByte(data[:at], '\n')),
		Form: form, Start: text[:8],
	}
	if s, err := accesskey.Parse(text); err == nil {
		f.Real, f.Public = true, s.Public()
	}
	return f
}

func expectPlain(data []byte) []accesskey.Found {
	var all []accesskey.Found
	alone := map[int]bool{}
	for _, at := range regexp.MustCompile(`\bhks_[0-9A-Za-z]{49}\b`).FindAllIndex(data, -1) {
		alone[at[0]] = true
	}
	shape := regexp.MustCompile(`^hks_[0-9A-Za-z]{49}`)
	for i := range data {
		if data[i] != 'h' {
			continue
		}
		if text := shape.Find(data[i:]); text != nil {
			if f := told(data, i, accesskey.FormPlain, string(text)); f.Real || alone[i] {
				all = append(all, f)
			}
		}
	}
	return all
}

func expectUTF16(data []byte) []accesskey.Found {
	var all []accesskey.Found
	shape := regexp.MustCompile(`^h\x00k\x00s\x00_(\x00[0-9A-Za-z]){49}`)
	wordBefore, wordBehind := regexp.MustCompile(`(^|\x00)\w\x00$`), regexp.MustCompile(`^\x00\w(\x00|$)`)
	for i := range data {
		if data[i] != 'h' {
			continue
		}
		if text := shape.Find(data[i:]); text != nil {
			f := told(data, i, accesskey.FormUTF16, strings.ReplaceAll(string(text), "\x00", ""))
			if f.Real || !wordBefore.Match(data[max(0, i-3):i]) && !wordBehind.Match(data[i+len(text):]) {
				all = append(all, f)
			}
		}
	}
	return all
}

// mark is what may be between the characters of base64, and broken what has a line end in it.
const (
	mark   = "(?:[\x00\t\n\r -/:-@\\[-`{-~]|\\\\[nr])*"
	broken = mark + `(?:[\n\r]|\\[nr])` + mark
)

func expectBase64(data []byte) []accesskey.Found {
	joined, sign := regexp.MustCompile("^(?:"+broken+"|\x00)?$"), regexp.MustCompile("^(?:"+broken+"|\x00)?[-+/_]")
	var all []accesskey.Found
	var at []int // of characters that belong together, and what they are
	var text []byte
	look := func() {
		for i := range at {
			for before := range 3 {
				for step := 1; step <= 2; step++ {
					if secret, ok := decoded(data, at[i:], text[i:], before, step, sign); ok {
						all = append(all, told(data, at[i], accesskey.FormBase64, secret))
					}
				}
			}
		}
		at, text = at[:0], text[:0]
	}
	for i, c := range data {
		if strings.IndexByte(digits, c) < 0 || i > 0 && data[i-1] == '\\' && (c == 'n' || c == 'r') {
			continue
		}
		if len(at) > 0 && at[len(at)-1] != i-1 && !joined.Match(data[at[len(at)-1]+1:i]) {
			look()
		}
		at, text = append(at, i), append(text, c)
	}
	look()
	return all
}

// decoded gives the secret that begins in the first of the characters, after so many bytes of
// the first three.
func decoded(data []byte, at []int, text []byte, before, step int, sign *regexp.Regexp) (string, bool) {
	const span = 4 << 10
	size := step*52 + 1
	n := (8*(before+size)+5)/6 - before // a byte before is in the first character in part, and in one before it
	if len(at) < n-1 || at[n-2]-at[0] >= span {
		return "", false
	}
	var first [6]byte
	if _, err := base64.RawStdEncoding.Decode(first[:], append(bytes.Repeat([]byte("A"), before), text[:8-before]...)); err != nil || string(first[before:before+2]) != "hk" && string(first[before:before+3]) != "h\x00k" {
		return "", false
	}
	var last []byte
	if len(at) >= n && at[n-1]-at[0] < span {
		last = append(last, text[n-1])
	}
	if behind := data[at[n-2]+1 : min(len(data), at[0]+span)]; sign.Match(behind) {
		last = append(last, '/')
	}
	for _, c := range last {
		raw, err := base64.RawStdEncoding.DecodeString(repeat("A", before) + string(text[:n-1]) + string(c))
		if err != nil {
			continue
		}
		var secret []byte
		for i, c := range raw[before : before+size] {
			if i%step == 0 {
				secret = append(secret, c)
			} else if c != 0 {
				secret = append(secret, '?')
			}
		}
		if _, err := accesskey.Parse(string(secret)); err == nil {
			return string(secret), true
		}
	}
	return "", false
}

func same(t testing.TB, what string, got, want []accesskey.Found) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s: found\n%+v\nwant\n%+v", what, got, want)
	}
}

func TestScanTells(t *testing.T) {
	s, fake := generate(t), "hks_"+repeat("0", 49)
	text := "one\ntwo " + s.Reveal() + "\n\n" + fake + "," + s.Reveal()
	got := scan(t, strings.NewReader(text))
	same(t, "three", got, []accesskey.Found{
		{Offset: 8, Line: 2, Column: 5, Form: "plain", Start: s.Reveal()[:8], Real: true, Public: s.Public()},
		{Offset: 63, Line: 4, Column: 1, Form: "plain", Start: "hks_0000"},
		{Offset: 117, Line: 4, Column: 55, Form: "plain", Start: s.Reveal()[:8], Real: true, Public: s.Public()},
	})
	if strings.Contains(fmt.Sprintf("%+v %#v", got, got), s.Reveal()[4:10]) {
		t.Error("what is found tells the secret")
	}
}

// TestScanBoundaries: what is around a real secret hides it nowhere; one that is altered is
// told only as a word.
func TestScanBoundaries(t *testing.T) {
	s := generate(t).Reveal()
	fake := other(s, 52)
	for text, n := range map[string]struct{ real, fake int }{
		"": {}, "hks_": {}, "S": {1, 1}, "S\n": {1, 1}, "(S)": {1, 1}, `"S"`: {1, 1}, "=S;": {1, 1}, "-S-": {1, 1}, "\x00S\x00": {1, 1}, "\xffS\xff": {1, 1}, "éSé": {1, 1},
		"S S": {2, 2}, "S-S": {2, 2}, "hks_-S": {1, 1}, "hks-S": {1, 1}, "https://x/?k=S&y": {1, 1},
		`"a\nS"`: {1, 0}, `\tS`: {1, 0}, `\rS\r`: {1, 0}, `\u003dS`: {1, 0}, "k%3DS": {1, 0}, "%22S%22": {1, 0}, "X_S": {1, 0}, "keyS": {1, 0},
		"aS": {1, 0}, "_S": {1, 0}, "0S": {1, 0}, "Sa": {1, 0}, "S_": {1, 0}, "S9": {1, 0}, "S_old": {1, 0}, "SS": {2, 0}, "hks_S": {1, 0}, "hksS": {1, 0},
		"S0123456789": {1, 0}, "hks_hks_S": {1, 0}, "hS": {1, 0}, "hks_hksS": {1, 0},
	} {
		for secret, n := range map[string]int{s: n.real, fake: n.fake} {
			data := strings.ReplaceAll(text, "S", secret)
			for what, data := range map[string][]byte{"plain": []byte(data), "little-endian": wide(binary.LittleEndian, data), "big-endian": wide(binary.BigEndian, data)} {
				if what != "plain" && !isASCII(text) {
					continue // TestScanUTF16 has them
				}
				got := scan(t, bytes.NewReader(data))
				if len(got) != n || n > 0 && got[0].Real != (secret == s) {
					t.Errorf("%q, %s, real %t: found %+v, want %d", text, what, secret == s, got, n)
				}
				same(t, "the reference", got, expect(data))
			}
		}
	}
	for _, no := range []string{s[:52], strings.ToUpper(s), s[:20] + "\n" + s[20:]} {
		if got := scan(t, strings.NewReader(no)); len(got) != 0 {
			t.Errorf("found %+v", got)
		}
	}
}

func isASCII(s string) bool { return !strings.ContainsFunc(s, func(r rune) bool { return r > 0x7f }) }

// TestScanOverlap: the last three characters of one are the first of another.
func TestScanOverlap(t *testing.T) {
	const body = "0000000000000000000000000000000000000000000" // the seed is zero
	sum := func(n uint32) string {
		out := make([]byte, 6)
		for i := range out {
			out[5-i], n = digits[n%62], n/62
		}
		return string(out)
	}
	for n := range 1 << 24 {
		first := "hks_" + body[:38] + sum(uint32(n))[1:] //nolint:gosec // small
		if end := sum(crc32.ChecksumIEEE([]byte(first))); strings.HasSuffix(end, "hks") {
			second := "_" + generate(t).Reveal()[4:]
			// Of the second, the prefix is the end of the first.
			got := scan(t, strings.NewReader(first+end+second))
			if len(got) != 2 || !got[0].Real || !got[1].Real || got[1].Offset != 50 {
				t.Errorf("found %+v", got)
			}
			return
		}
	}
	t.Fatal("no secret ends in hks")
}

// TestScanAcrossReads: wherever a secret lies, also over the end of a buffer of any length.
func TestScanAcrossReads(t *testing.T) {
	const buffer = 128 << 10
	stride := 3
	if os.Getenv("HERALD_LONG") != "" {
		stride = 1
	}
	s := generate(t)
	fake := other(s.Reveal(), 52)
	for _, around := range []string{"x y", "\n", "\x00 "} {
		data := bytes.Repeat([]byte(around), 2*buffer/len(around))
		for _, end := range []int{buffer, buffer - 4096, 2*buffer - 4096 - 3, 2*buffer - 2*4096 - 3} {
			for at := end - 60; at <= end+10; at += stride {
				for _, c := range []struct {
					front, secret, behind string
					n                     int
				}{{" ", s.Reveal(), " ", 1}, {"_", s.Reveal(), "x", 1}, {" ", fake, " ", 1}, {" ", fake, "x", 0}, {"_", fake, " ", 0}} {
					d := bytes.Clone(data)
					copy(d[at-1:], c.front+c.secret+c.behind)
					got := scan(t, bytes.NewReader(d))
					if len(got) != c.n || c.n > 0 && (got[0].Offset != int64(at) || got[0].Real != (c.secret != fake) || around == "\n" && (got[0].Line != int64(at) || got[0].Column != 2)) {
						t.Errorf("%q at %d, between %q and %q: found %+v", around, at, c.front, c.behind, got)
					}
				}
			}
		}
	}
	for _, order := range []binary.AppendByteOrder{binary.LittleEndian, binary.BigEndian} {
		pad := wide(order, repeat("ab c\n", buffer/10+100))
		for _, end := range []int{buffer / 2, buffer/2 - 2048} {
			for units := end - 60; units <= end+5; units += stride {
				for text, n := range map[string]int{" " + s.Reveal(): 1, "x" + s.Reveal() + "x y": 1, " " + fake + " ": 1, " " + fake + "x y": 0, "x" + fake: 0} {
					if got := scan(t, io.MultiReader(bytes.NewReader(pad[:2*units]), bytes.NewReader(wide(order, text)))); len(got) != n || n > 0 && got[0].Offset/2 != int64(units+1) {
						t.Errorf("UTF-16 %s behind %d: found %+v", order, units, got)
					}
				}
			}
		}
	}
	for before := range 3 {
		for _, by := range []string{"", "\n", "\r\n    ", "\n" + repeat(" ", 3000)} {
			text := inLines(base64.StdEncoding.EncodeToString([]byte("abc"[:before]+s.Reveal()+`"}`)), 60, by)
			for _, end := range []int{buffer, buffer - 4096} {
				for at := end - len(text) - 5; at <= end+5; at += 1 + len(text)/150 {
					data := bytes.Repeat([]byte("."), buffer+9000)
					copy(data[at:], text)
					if got := scan(t, bytes.NewReader(data)); len(got) != 1 || got[0].Offset != int64(at+before) || got[0].Public != s.Public() {
						t.Errorf("base64 after %d bytes, with %q, at %d: found %+v", before, by, at, got)
					}
				}
			}
		}
	}
}

// inLines breaks text into lines of n characters.
func inLines(text string, n int, by string) string {
	var lines []string
	for ; len(text) > n; text = text[n:] {
		lines = append(lines, text[:n])
	}
	return strings.Join(append(lines, text), by)
}

// TestScanBase64 has the places in which secrets are told in base64.
func TestScanBase64(t *testing.T) {
	s := generate(t)
	std, raw := base64.StdEncoding.EncodeToString, base64.RawURLEncoding.EncodeToString
	env := "HERALD_KEY_ID=HKAAAAAAAAAAAAAAAAAA\nHERALD_KEY_SECRET=" + s.Reveal() + "\n"
	mime := inLines(std([]byte(repeat("filler, ", 20)+env)), 60, "\n")
	for what, text := range map[string]string{
		"a Kubernetes Secret":           "data:\n  secret: " + std([]byte(s.Reveal())) + "\n",
		"with a line end":               "data:\n  secret: " + std([]byte(s.Reveal()+"\n")) + "\n",
		"a file of it":                  "data:\n  mail.key: " + std([]byte(env)) + "\n",
		"Basic":                         "Authorization: Basic " + std([]byte("payments:"+s.Reveal())) + "\r\n",
		"a JWT":                         "eyJhbGciOiJIUzI1NiJ9." + raw([]byte(`{"sub":"é??>","key":"`+s.Reveal()+`"}`)) + "." + raw([]byte("signature")),
		"in a URL":                      "?x=" + strings.ReplaceAll(std([]byte(s.Reveal())), "=", "%3D"),
		"a YAML block":                  "data:\n  secret: |\n    " + strings.ReplaceAll(mime, "\n", "\n    ") + "\n",
		"mail":                          strings.ReplaceAll(mime, "\n", "\r\n"),
		"quoted mail":                   "> " + strings.ReplaceAll(mime, "\n", "\r\n> "),
		"a diff":                        "+" + strings.ReplaceAll(mime, "\n", "\n+"),
		"a diff of YAML":                "-    " + strings.ReplaceAll(mime, "\n", "\n-    "),
		"a JSON string":                 `{"content":"` + strings.ReplaceAll(mime, "\n", `\n`) + `"}`,
		"a JSON string, CRLF":           `{"content":"` + strings.ReplaceAll(mime, "\n", `\r\n`) + `"}`,
		"JSON in JSON":                  `"{\"content\":\"` + strings.ReplaceAll(mime, "\n", `\\n`) + `\"}"`,
		"Go":                            `"` + strings.ReplaceAll(mime, "\n", "\" +\n\t\"") + `"`,
		"a shell script":                strings.ReplaceAll(mime, "\n", "\\\n"),
		"a character on each line":      inLines(std([]byte(env)), 1, "\n"),
		"UTF-16 in it":                  "powershell -EncodedCommand " + std(wide(binary.LittleEndian, "$key = '"+s.Reveal()+"'")),
		"big-endian UTF-16 in it":       std(wide(binary.BigEndian, "k"+s.Reveal())),
		"in UTF-16":                     string(wide(binary.LittleEndian, "\ufeffdata:\r\n  secret: "+std([]byte(env))+"\r\n")),
		"in lines of UTF-16":            string(wide(binary.LittleEndian, strings.ReplaceAll(mime, "\n", "\r\n  "))),
		"in lines of UTF-16, the other": string(wide(binary.BigEndian, strings.ReplaceAll(mime, "\n", "\r\n  "))),
	} {
		got := scan(t, strings.NewReader(text))
		if len(got) != 1 || !got[0].Real || got[0].Public != s.Public() || got[0].Form != accesskey.FormBase64 || got[0].Start != s.Reveal()[:8] {
			t.Errorf("%s: found %+v", what, got)
		}
		same(t, what, got, expect([]byte(text)))
	}
	fake := other(s.Reveal(), 52)
	for what, text := range map[string]string{
		"one that is altered": std([]byte(fake)),
		"two words":           strings.ReplaceAll(mime, "\n", " "),
		"no text between":     strings.ReplaceAll(mime, "\n", "\n\x01"),
		"longer than 4 KiB":   inLines(std([]byte(s.Reveal())), 60, "\n"+repeat(" ", 4090)),
		"cut off":             std([]byte(s.Reveal()))[:70],
		"in base64 of base64": std([]byte(std([]byte(s.Reveal())))),
	} {
		if got := scan(t, strings.NewReader(text)); len(got) != 0 {
			t.Errorf("%s: found %+v", what, got)
		}
		same(t, what, nil, expect([]byte(text)))
	}
}

// TestScanBase64Lines: each alignment, alphabet and text, broken at each place around its end.
func TestScanBase64Lines(t *testing.T) {
	s := generate(t)
	for !strings.HasSuffix(s.Reveal(), "o") { // of which the last four bits are set
		s = generate(t)
	}
	lengths := []int{1, 2, 3, 4, 19}
	for n := 60; n <= 76; n++ {
		lengths = append(lengths, n, 2*n, 2*n+1)
	}
	for before := range 3 {
		for what, text := range map[string][]byte{
			"plain": []byte(s.Reveal()), "little-endian": wide(binary.LittleEndian, s.Reveal()), "big-endian": wide(binary.BigEndian, s.Reveal()),
		} {
			// Behind it is what makes the last character of base64 one that is no letter or digit.
			for _, behind := range []string{"", "\xbf\xff", "\xff\xff", "\xef\xef"} {
				data := slices.Concat([]byte("abc")[:before], text, []byte(behind))
				for _, encoding := range []*base64.Encoding{base64.StdEncoding, base64.RawURLEncoding} {
					for _, length := range lengths {
						for _, by := range []string{"\n", `\n`, "\r\n+ ", "\n_"} {
							got := scan(t, strings.NewReader(inLines(encoding.EncodeToString(data), length, by)))
							if len(got) != 1 || got[0].Public != s.Public() {
								t.Errorf("%s after %d bytes, before %x, in lines of %d with %q: found %+v", what, before, behind, length, by, got)
							}
						}
					}
				}
			}
		}
	}
}

// TestScanFindsBase64: whatever is around a secret in base64, however it is broken into lines.
func TestScanFindsBase64(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := secrets().Draw(t, "s")
		front, behind := rapid.SliceOf(rapid.Byte()).Draw(t, "front"), rapid.SliceOf(rapid.Byte()).Draw(t, "behind")
		encoded, length := encodings().Draw(t, "encoding").EncodeToString(slices.Concat(front, []byte(s.Reveal()), behind)), rapid.IntRange(1, 100).Draw(t, "length")
		by := rapid.SampledFrom(breaks()).Draw(t, "by")
		at := 8 * len(front) / 6
		at += at / length * len(by)
		data := []byte(repeat(".", rapid.SampledFrom([]int{0, 128<<10 - 4200, 128<<10 - 100}).Draw(t, "pad")) + "\n" + inLines(encoded, length, by) + "\n")
		var got []accesskey.Found
		if err := accesskey.Scan(bytes.NewReader(data), func(f accesskey.Found) error { got = append(got, f); return nil }); err != nil {
			t.Fatal(err)
		}
		at += bytes.IndexByte(data, '\n') + 1
		if !slices.Contains(got, told(data, at, accesskey.FormBase64, s.Reveal())) {
			t.Fatalf("not found at %d; found %+v", at, got)
		}
	})
}

func encodings() *rapid.Generator[*base64.Encoding] {
	return rapid.SampledFrom([]*base64.Encoding{base64.StdEncoding, base64.RawStdEncoding, base64.URLEncoding, base64.RawURLEncoding})
}

// breaks are what lines of base64 are broken by.
func breaks() []string {
	return []string{"\n", "\r\n", "\r", "\n    ", "\r\n\t", "\n+", "\n-  ", "\n> ", "\" +\n\"", "\\\n", `\n`, `\r\n`, `\\n`, "=\n", "\n" + repeat(" ", 40)}
}

// pieces are what the random inputs are made of.
func pieces() *rapid.Generator[string] {
	return rapid.OneOf(
		rapid.Custom(func(t *rapid.T) string { return secrets().Draw(t, "s").Reveal() }),
		rapid.Custom(func(t *rapid.T) string {
			s := secrets().Draw(t, "s").Reveal()
			return s[:rapid.IntRange(0, len(s)).Draw(t, "cut")]
		}),
		rapid.StringMatching(`hks_[0-9A-Za-z]{47,51}`),
		rapid.Custom(func(t *rapid.T) string {
			data := rapid.SliceOfN(rapid.Byte(), 0, 5).Draw(t, "front")
			if text := secrets().Draw(t, "s").Reveal() + rapid.SampledFrom([]string{"", "\n", `"}`}).Draw(t, "behind"); rapid.IntRange(0, 3).Draw(t, "wide") == 0 {
				data = append(data, wide(rapid.SampledFrom([]binary.AppendByteOrder{binary.LittleEndian, binary.BigEndian}).Draw(t, "order"), text)...)
			} else {
				data = append(data, text...)
			}
			data = append(data, rapid.SliceOfN(rapid.Byte(), 0, 5).Draw(t, "behind")...)
			text := encodings().Draw(t, "encoding").EncodeToString(data)
			by := rapid.SampledFrom(append(breaks(), "", " ", "x\n", "\n\x01", "\x00", "\x00\x00", `\t`, "\n"+repeat(" ", 2000))).Draw(t, "by")
			text = inLines(text, rapid.IntRange(1, 100).Draw(t, "length"), by)
			if rapid.IntRange(0, 5).Draw(t, "in UTF-16") == 0 {
				text = string(wide(binary.LittleEndian, text))
			}
			if rapid.IntRange(0, 5).Draw(t, "altered") == 0 {
				i := rapid.IntRange(0, len(text)-1).Draw(t, "where")
				text = text[:i] + string([]byte{rapid.Byte().Draw(t, "byte")}) + text[i+1:]
			}
			return text
		}),
		rapid.Custom(func(t *rapid.T) string {
			return string(wide(rapid.SampledFrom([]binary.AppendByteOrder{binary.LittleEndian, binary.BigEndian}).Draw(t, "order"), "x"+secrets().Draw(t, "s").Reveal()))
		}),
		rapid.SampledFrom([]string{`\n`, "%3D", "key", "X_", "_old", "aGtz", "hrc1", "oa3Nf", "G", "+", "/"}),
		rapid.SampledFrom([]string{" ", "\n", "\r\n", "h", "hk", "hks", "hks_", "_", "-", "\x00", "x", "0", "é", "\xff", "h\x00k\x00s\x00_", "=", `"`}),
		rapid.Custom(func(t *rapid.T) string {
			return repeat(rapid.SampledFrom([]string{"h", "hks_", "word ", "\n", "\x00", "A", "aGtz"}).Draw(t, "filler"), rapid.IntRange(0, 40_000).Draw(t, "times"))
		}),
		rapid.Custom(func(t *rapid.T) string { return string(rapid.SliceOf(rapid.Byte()).Draw(t, "bytes")) }),
	)
}

// TestScanIsTheReference: what is found is what the slow way finds, however the input is read.
func TestScanIsTheReference(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		data := []byte(strings.Join(rapid.SliceOfN(pieces(), 0, 20).Draw(t, "pieces"), ""))
		var r io.Reader = bytes.NewReader(data)
		switch rapid.IntRange(0, 3).Draw(t, "reader") {
		case 0:
			r = iotest.HalfReader(r)
		case 1:
			r = iotest.DataErrReader(r)
		case 2:
			r = &uneven{r, rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0))}
		}
		var got []accesskey.Found
		if err := accesskey.Scan(r, func(f accesskey.Found) error { got = append(got, f); return nil }); err != nil {
			t.Fatal(err)
		}
		if want := expect(data); !slices.Equal(got, want) {
			t.Fatalf("found %+v, want %+v", got, want)
		}
	})
}

// uneven gives parts of any length, none too.
type uneven struct {
	r io.Reader
	n *rand.Rand
}

func (u *uneven) Read(p []byte) (int, error) { return u.r.Read(p[:u.n.IntN(min(len(p), 1000)+1)]) }

func wide(order binary.AppendByteOrder, s string) []byte {
	var out []byte
	for _, u := range utf16.Encode([]rune(s)) {
		out = order.AppendUint16(out, u)
	}
	return out
}

// TestScanUTF16: as text for text, at twice the offset, and one byte on in big-endian text,
// of which the first byte of each character is zero.
func TestScanUTF16(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		words := rapid.SliceOfN(rapid.OneOf(
			rapid.Custom(func(t *rapid.T) string { return secrets().Draw(t, "s").Reveal() }),
			rapid.Custom(func(t *rapid.T) string { return "x" + secrets().Draw(t, "s").Reveal() + "_" }),
			rapid.StringMatching(`hks_[0-9A-Za-z]{48,50} `), // before 乁, of which a byte is a letter, it could not be told
			rapid.SampledFrom([]string{"汉乁", "é", "word", "hks_", "\n", "\u0a0a", "😀", "", "hks_" + repeat("\u4e31", 49)}),
		), 0, 12).Draw(t, "words")
		text := strings.Join(words, rapid.SampledFrom([]string{" ", "\n", `"`, " 乁", "乁 "}).Draw(t, "between"))
		// The expression, over runes of which each is one unit here.
		units := make([]byte, 0, len(text))
		for _, u := range utf16.Encode([]rune(text)) {
			if u > 0x7f {
				u = 0x80
			}
			units = append(units, byte(u))
		}
		want := expectPlain(units)
		for _, order := range []binary.AppendByteOrder{binary.LittleEndian, binary.BigEndian} {
			for _, front := range []string{"", "\xff\xfe", "\x01"} {
				data := append([]byte(front), wide(order, text)...)
				var got []accesskey.Found
				if err := accesskey.Scan(bytes.NewReader(data), func(f accesskey.Found) error { got = append(got, f); return nil }); err != nil {
					t.Fatal(err)
				}
				if len(got) != len(want) {
					t.Fatalf("%s: found %+v, want %+v", order, got, want)
				}
				for i, w := range want {
					offset := 2*w.Offset + int64(len(front))
					if order.String() == "BigEndian" {
						offset++
					}
					line := int64(1 + bytes.Count(data[:offset], []byte("\n")))
					column := offset - int64(bytes.LastIndexByte(data[:offset], '\n'))
					if g := got[i]; g.Offset != offset || g.Line != line || g.Column != column || g.Form != accesskey.FormUTF16 || g.Start != w.Start || g.Real != w.Real || g.Public != w.Public {
						t.Fatalf("%s: found %+v for %+v", order, g, w)
					}
				}
			}
		}
	})
}

func TestScanEnds(t *testing.T) {
	s, mine := generate(t).Reveal(), errors.New("enough")
	calls := 0
	err := accesskey.Scan(strings.NewReader(s+" "+s), func(accesskey.Found) error { calls++; return mine })
	if !errors.Is(err, mine) || calls != 1 {
		t.Errorf("%d calls, %v", calls, err)
	}
	broken := errors.New("the disk is broken")
	calls = 0
	err = accesskey.Scan(io.MultiReader(strings.NewReader(s+" "), iotest.ErrReader(broken)), func(accesskey.Found) error { calls++; return nil })
	if !errors.Is(err, broken) || calls != 1 {
		t.Errorf("%d calls, %v", calls, err)
	}
	if err := accesskey.Scan(boastful{}, func(accesskey.Found) error { return nil }); err == nil {
		t.Error("a reader that counts wrongly is believed")
	}
}

// boastful says that it read more than there was room for.
type boastful struct{}

func (boastful) Read(p []byte) (int, error) { return len(p) + 1, nil }

func TestScanHoldsLittle(t *testing.T) {
	r := &endless{}
	n := testing.AllocsPerRun(1, func() {
		r.left = 8 << 20
		if got := scan(t, r); len(got) != 0 {
			t.Errorf("found %+v", got)
		}
	})
	if n > 20 {
		t.Errorf("%v allocations for 8 MiB in one line", n)
	}
}

// endless is one long line that might always begin a secret.
type endless struct{ left int }

func (e *endless) Read(p []byte) (int, error) {
	n := min(len(p), e.left)
	if n == 0 {
		return 0, io.EOF
	}
	for i := range p[:n] {
		p[i] = "hks_"[i%4]
	}
	e.left -= n
	return n, nil
}

func FuzzScan(f *testing.F) {
	s := generate(f).Reveal()
	f.Add([]byte(s), 7)
	f.Add([]byte("a\n"+s+"\x00"+s+"_"), 1)
	f.Add(wide(binary.LittleEndian, "\n"+s+" "), 3)
	f.Add(wide(binary.BigEndian, "\n"+s+" "), 300)
	for i := range 3 {
		f.Add([]byte(inLines(base64.StdEncoding.EncodeToString([]byte("abc"[:i]+s+"é")), 20, "\r\n  ")), 100*i)
	}
	f.Add([]byte(base64.StdEncoding.EncodeToString(wide(binary.LittleEndian, s))), 90)
	f.Add([]byte(repeat("hks_", 100)), 64)
	f.Add([]byte("hks_"+repeat("z", 49)), 64)
	f.Fuzz(func(t *testing.T, data []byte, pad int) {
		// Moved about over the end of the buffer.
		pad = (128<<10 - 200) + int(uint(pad)%400)
		want := expect(data)
		for i := range want {
			if want[i].Offset += int64(pad); want[i].Line == 1 {
				want[i].Column += int64(pad)
			}
		}
		data = append(bytes.Repeat([]byte{'.'}, pad), data...)
		got, last := scan(t, bytes.NewReader(data)), int64(-1)
		for _, found := range got {
			if found.Offset <= last {
				t.Fatalf("%+v is behind what was found before", found)
			}
			last = found.Offset
			if len(found.Start) != 8 || found.Real == found.Public.IsZero() || found.Line < 1 || found.Column < 1 {
				t.Errorf("%+v", found)
			}
		}
		same(t, "the reference", got, want)
	})
}

func BenchmarkScan(b *testing.B) {
	random := rand.New(rand.NewPCG(1, 2))
	words := strings.Fields("the whole history of this thing which has shown that they who have much of a hash shall keep checks for hks and tasks if err nil return func")
	var text bytes.Buffer
	for text.Len() < 8<<20 {
		text.WriteString(words[random.IntN(len(words))])
		text.WriteByte(" \n"[min(1, random.IntN(10)/9)])
	}
	noise := make([]byte, 8<<20)
	for i := range noise {
		noise[i] = byte(random.Uint32())
	}
	var numbers bytes.Buffer
	for numbers.Len() < 8<<20 {
		fmt.Fprintf(&numbers, "%d,%x\n", random.Uint32(), random.Uint64())
	}
	lines := []byte(inLines(base64.StdEncoding.EncodeToString(noise[:6<<20]), 76, "\n"))
	s := generate(b).Reveal()
	for name, data := range map[string][]byte{
		"numbers": numbers.Bytes(), "base64": lines, "all-base64-prefix": bytes.Repeat([]byte("aGtzX"), 8<<20/5),
		"text": text.Bytes(), "binary": noise, "utf16": wide(binary.LittleEndian, text.String()),
		"all-h": bytes.Repeat([]byte("h"), 8<<20), "all-prefix": bytes.Repeat([]byte("hks_"), 2<<20),
		"a-secret-each-64KiB": bytes.Repeat(append(append([]byte(nil), text.Bytes()[:64<<10]...), " "+s+"\n"...), 128),
	} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(data)))
			b.ReportAllocs()
			for b.Loop() {
				if err := accesskey.Scan(bytes.NewReader(data), func(accesskey.Found) error { return nil }); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
