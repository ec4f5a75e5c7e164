package invite_test

import (
	"bytes"
	"crypto/rand"
	"encoding/gob"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"regexp"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/invite"
	"github.com/herald-nats/herald/pkg/wire"
)

const alphabet = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"

func newCode(t testing.TB) invite.Code {
	t.Helper()
	c, err := invite.NewCode(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func codes() *rapid.Generator[string] {
	return rapid.Custom(func(t *rapid.T) string {
		c, err := invite.NewCode(bytes.NewReader(rapid.SliceOfN(rapid.Byte(), 18, 18).Draw(t, "random")))
		if err != nil {
			t.Fatal(err)
		}
		return c.Reveal()
	})
}

// refuse checks that s is refused, with an error that says nothing of it.
func refuse(t interface {
	Errorf(string, ...any)
	Helper()
}, what, s string,
) {
	t.Helper()
	c, err := invite.Parse(s)
	switch {
	case err == nil || !errors.Is(err, invite.ErrInvalid):
		t.Errorf("%s: %q is accepted, or the error is another: %v", what, s, err)
	case !c.IsZero() || c.Reveal() != "" || !c.ID().IsZero():
		t.Errorf("%s: there is a code beside the error", what)
	case !known(err):
		t.Errorf("%s: the error may hold anything: %v", what, err)
	}
}

// known tells whether an error is one of those that hold nothing of the text but how many
// of something there are.
func known(err error) bool {
	said, _ := strings.CutPrefix(err.Error(), "not the code of an invitation: ")
	return slices.Contains([]string{
		"it is empty", "it has more than # bytes", "it does not begin with HI",
		"there is a U in it, and codes have none: is it a V?", "there is something in it that is neither a letter nor a digit",
		"after HI there are # letters and digits instead of #",
		"something in it is wrong; if it is one letter or digit, it is in group # of the # after HI", "two or more letters or digits in it are wrong",
	}, regexp.MustCompile(`\d+`).ReplaceAllString(said, "#"))
}

// TestVectors: other programs must make and read the same. The checks of these were made by
// another program.
func TestVectors(t *testing.T) {
	ascending := make([]byte, 18)
	for i := range ascending {
		ascending[i] = byte(i)
	}
	example := []byte{7, 19, 3, 20, 9, 23, 29, 24, 26, 2, 27, 11, 4, 21, 8, 12, 28, 18}
	for _, v := range []struct {
		random         []byte
		code, id, said string
	}{
		{make([]byte, 18), "HI-0000-0000-0000-0000-0000", "3qbkru7u2qqyvayoepmt4mtwvv", "Hotel India, Zero Zero Zero Zero, Zero Zero Zero Zero, Zero Zero Zero Zero, Zero Zero Zero Zero, Zero Zero Zero Zero"},
		{example, "HI-7K3M-9QXR-T2VB-4N8C-WJPX", "htkmlmbsigkppgdlavqqcqgxdz", "Hotel India, Seven Kilo Three Mike, Nine Quebec X-ray Romeo, Tango Two Victor Bravo, Four November Eight Charlie, Whiskey Juliett Papa X-ray"},
		{ascending, "HI-0123-4567-89AB-CDEF-GHRS", "kgp4dvcyjprnbnnqtezsdiqt2k", "Hotel India, Zero One Two Three, Four Five Six Seven, Eight Nine Alfa Bravo, Charlie Delta Echo Foxtrot, Golf Hotel Romeo Sierra"},
		{bytes.Repeat([]byte{0xff}, 18), "HI-ZZZZ-ZZZZ-ZZZZ-ZZZZ-ZZYY", "j6gcievryjsra5ukdi5pellxv4", "Hotel India, Zulu Zulu Zulu Zulu, Zulu Zulu Zulu Zulu, Zulu Zulu Zulu Zulu, Zulu Zulu Zulu Zulu, Zulu Zulu Yankee Yankee"},
		{[]byte("\x00\x20\x40\x60\x80\xa0\xc0\xe0\x00\x20\x40\x60\x80\xa0\xc0\xe0\x00\x3f"), "HI-0000-0000-0000-0000-0Z2X", "l4pgapwyd4m63njcick5a2juud", "Hotel India, Zero Zero Zero Zero, Zero Zero Zero Zero, Zero Zero Zero Zero, Zero Zero Zero Zero, Zero Zulu Two X-ray"},
	} {
		c, err := invite.NewCode(bytes.NewReader(v.random))
		if err != nil || c.Reveal() != v.code || c.ID().String() != v.id || invite.Spell(c) != v.said {
			t.Errorf("made %q, %s, %q, %v", c.Reveal(), c.ID(), invite.Spell(c), err)
		}
		read, err := invite.Parse(v.code)
		if err != nil || read.Reveal() != v.code || read.ID() != c.ID() {
			t.Errorf("read %q, %v", read.Reveal(), err)
		}
	}
}

func TestNewCode(t *testing.T) {
	seen := map[ident.InviteID]bool{}
	form := regexp.MustCompile(`^HI(-[0-9A-HJKMNP-TV-Z]{4}){5}$`)
	used := map[rune]bool{}
	for range 1000 {
		c := newCode(t)
		if c.IsZero() || !form.MatchString(c.Reveal()) || len(c.Reveal()) > 64 || seen[c.ID()] || c.ID() != ident.InviteOf(c.Reveal()) {
			t.Fatalf("%q", c.Reveal())
		}
		seen[c.ID()] = true
		for _, r := range c.Reveal()[3:] {
			used[r] = true
		}
	}
	if len(used) != 33 {
		t.Errorf("%d symbols and dashes are used of 33", len(used))
	}
	for n := range 18 {
		if c, err := invite.NewCode(bytes.NewReader(make([]byte, n))); !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) || !c.IsZero() {
			t.Errorf("with %d bytes of randomness: %v", n, err)
		}
	}
	if c := (invite.Code{}); !c.IsZero() || c.Reveal() != "" || !c.ID().IsZero() || invite.Spell(c) != "" {
		t.Error("no code is one")
	}
}

// TestTheWireTakesCodes: what Reveal gives is a code to the protocol, unchanged.
func TestTheWireTakesCodes(t *testing.T) {
	c, user := newCode(t), "UDLVVGABQKYQVN6VJP7NHSLEA45A5YLS6PNKMIZFV4BBU2HXA5IRUVAL"
	body := fmt.Sprintf(`{"user_key":%q,"time":1790000000123,"nonce":"YGFiY2RlZmdoaWprbG1ubw","identity":{"type":"invite","code":%q}}`, user, c.Reveal())
	r, err := wire.DecodeRequest([]byte(body))
	if err != nil || r.Identity.Code != c.Reveal() {
		t.Error(err)
	}
}

// TestWhatPeopleMakeOfIt: one code has one canonical form, however it was written.
func TestWhatPeopleMakeOfIt(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		code := codes().Draw(t, "code")
		var written strings.Builder
		mark := rapid.SampledFrom([]string{"", "", "", " ", "-", "\t", "\n", "–", "—", "\u2011", "\u2212", "\u00a0", "\u00ad", "\u200b"})
		for _, r := range strings.ReplaceAll(code, "-", "") {
			as := string(r)
			switch r {
			case '0':
				as = rapid.SampledFrom([]string{"0", "O", "o"}).Draw(t, "0")
			case '1', 'I':
				as = rapid.SampledFrom([]string{"1", "I", "i", "L", "l"}).Draw(t, "1")
			default:
				if rapid.Bool().Draw(t, "lower") {
					as = strings.ToLower(as)
				}
			}
			written.WriteString(mark.Draw(t, "before") + as + mark.Draw(t, "behind"))
		}
		if c, err := invite.Parse(written.String()); err != nil || c.Reveal() != code || c.ID() != ident.InviteOf(code) {
			t.Fatalf("%q for %q: %v", written.String(), code, err)
		}
	})
}

// value is that of a symbol in any of its spellings, -1 of anything else.
func value(c byte) int {
	return strings.Index(alphabet, strings.NewReplacer("O", "0", "I", "1", "L", "1").Replace(strings.ToUpper(string(c))))
}

// TestMisheardIsRefused: every one wrong symbol, every two that changed places wherever they
// are, every symbol left out or said twice. What is another spelling of the same code is that
// code.
func TestMisheardIsRefused(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		code := codes().Draw(t, "code")
		try := func(what, s string, same bool) {
			if same {
				if c, err := invite.Parse(s); err != nil || c.Reveal() != code {
					t.Fatalf("%s: %q for %q: %v", what, s, code, err)
				}
				return
			}
			if _, err := invite.Parse(s); err == nil {
				t.Fatalf("%s: %q for %q is accepted", what, s, code)
			}
		}
		for i := range len(code) {
			for b := range 256 {
				c := byte(b)
				mark := strings.IndexByte(" -\t\n\v\f\r", c) >= 0
				same := code[i] == '-' && mark || code[i] != '-' && value(c) >= 0 && value(c) == value(code[i])
				try("one changed", code[:i]+string([]byte{c})+code[i+1:], same)
			}
			try("one left out", code[:i]+code[i+1:], code[i] == '-')
			try("one twice", code[:i+1]+code[i:], code[i] == '-')
			try("a cut end", code[:i], false)
			if i > 0 {
				try("a cut beginning", code[i:], false)
			}
			for j := range i {
				if j < i-1 && (code[i] == '-' || code[j] == '-') {
					continue // that moves one symbol past others, and changes them all
				}
				s := []byte(code)
				s[i], s[j] = s[j], s[i]
				plain := func(s string) string { return strings.ReplaceAll(s, "-", "") }
				try("two that changed places", string(s), plain(string(s)) == plain(code) || code[i] == '1' && code[j] == 'I')
			}
		}
	})
}

// TestTwoWrongAreRefused: all pairs of places, all pairs of errors. The code is linear: it is
// enough to add each error to one code.
func TestTwoWrongAreRefused(t *testing.T) {
	code := []byte(strings.ReplaceAll(newCode(t).Reveal(), "-", ""))
	for i := 2; i < len(code); i++ {
		for j := 2; j < i; j++ {
			for a := 1; a < 32; a++ {
				for b := 1; b < 32; b++ {
					s := bytes.Clone(code)
					s[i], s[j] = alphabet[value(s[i])^a], alphabet[value(s[j])^b]
					if _, err := invite.Parse(string(s)); err == nil {
						t.Fatalf("symbols %d and %d may both be wrong", i, j)
					}
				}
			}
		}
	}
}

// TestTheGroupIsTold: of one wrong symbol the error tells in which group it is.
func TestTheGroupIsTold(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		code := codes().Draw(t, "code")
		i := rapid.IntRange(3, len(code)-1).Draw(t, "place")
		if code[i] == '-' {
			i++
		}
		v := value(code[i]) ^ rapid.IntRange(1, 31).Draw(t, "error")
		_, err := invite.Parse(code[:i] + alphabet[v:v+1] + code[i+1:])
		if want := fmt.Sprintf("in group %d of the 5", (i-3)/5+1); err == nil || !strings.Contains(err.Error(), want) {
			t.Fatalf("want %q: %v", want, err)
		}
	})
}

func TestErrorsSayWhatIsWrong(t *testing.T) {
	code := newCode(t).Reveal()
	for s, want := range map[string]string{
		"": "empty", " - \n": "empty", "H": "begin with HI", "7K3M": "begin with HI", code[3:]: "begin with HI", "HI": "0 letters and digits instead of 20",
		code[:22]: "16 letters", code + "7": "21 letters", code[:5] + "U" + code[6:]: "is it a V", code[:5] + "u" + code[6:]: "is it a V",
		code[:5] + "." + code[6:]: "neither a letter", code + "!": "neither a letter", code[:5] + "é" + code[6:]: "neither a letter", code[:5] + "\xff" + code[6:]: "neither a letter",
		"ＨＩ" + code[2:]: "neither a letter", code[:5] + "٣" + code[6:]: "neither a letter", "hks_" + strings.Repeat("0", 49): "neither a letter",
		code + strings.Repeat(" ", 229): "", code + strings.Repeat(" ", 230): "256 bytes", strings.Repeat("0", 1<<20): "256 bytes",
	} {
		if want == "" {
			if _, err := invite.Parse(s); err != nil {
				t.Error(err)
			}
			continue
		}
		refuse(t, want, s)
		if _, err := invite.Parse(s); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q: %v", want, err)
		}
	}
}

// TestSpellIsTheCode: who writes down the first letter of each word, or the digit, has it.
func TestSpellIsTheCode(t *testing.T) {
	digits := map[string]string{"Zero": "0", "One": "1", "Two": "2", "Three": "3", "Four": "4", "Five": "5", "Six": "6", "Seven": "7", "Eight": "8", "Nine": "9"}
	rapid.Check(t, func(t *rapid.T) {
		code := codes().Draw(t, "code")
		c, err := invite.Parse(code)
		if err != nil {
			t.Fatal(err)
		}
		var groups []string
		for _, group := range strings.Split(invite.Spell(c), ", ") {
			var s string
			for _, word := range strings.Split(group, " ") {
				if d, ok := digits[word]; ok {
					s += d
				} else {
					s += word[:1]
				}
			}
			groups = append(groups, s)
		}
		if got := strings.Join(groups, "-"); got != code {
			t.Fatalf("%q is spelled %q", code, invite.Spell(c))
		}
	})
}

// TestCodesAreNotPrinted: with any verb, in any place, by any encoder.
func TestCodesAreNotPrinted(t *testing.T) {
	c := newCode(t)
	type inside struct {
		hidden  invite.Code
		pointer *invite.Code
		Shown   invite.Code
	}
	in := inside{c, &c, c}
	var out bytes.Buffer
	for _, v := range []any{c, &c, in, &in, []invite.Code{c}, map[string]invite.Code{"a": c}} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%t", "%p", "%b", "%c", "%U", "%T", "%20.50s", "%!"} {
			fmt.Fprintf(&out, verb+"\n", v)
		}
		fmt.Fprintln(&out, v)
		for _, h := range []slog.Handler{slog.NewTextHandler(&out, nil), slog.NewJSONHandler(&out, nil)} {
			slog.New(h).Info("a code", "v", v, slog.Group("g", "v", v))
		}
		if data, err := json.Marshal(v); err == nil {
			out.Write(data)
		}
		_ = gob.NewEncoder(&out).Encode(v) // what it cannot encode it does not tell
	}
	fmt.Fprintf(&out, "%v\n", fmt.Errorf("with %v", c))
	s := c.Reveal()
	for what, secret := range map[string]string{
		"text": s[3:7], "end": s[23:], "text in hex": hex.EncodeToString([]byte(s[3:12])), "text in numbers": strings.Trim(fmt.Sprintf("%d", []byte(s[3:12])), "[]"),
	} {
		if strings.Contains(strings.ToUpper(out.String()), strings.ToUpper(secret)) {
			t.Errorf("the %s is printed", what)
		}
	}
	if n := strings.Count(out.String(), "HI-[redacted]"); n < 80 {
		t.Errorf("it is said %d times that there is a code", n)
	}
}

func FuzzParse(f *testing.F) {
	c := newCode(f)
	f.Add(c.Reveal())
	f.Add(strings.ToLower(strings.ReplaceAll(c.Reveal(), "-", " ")))
	f.Add(invite.Spell(c))
	f.Add("HI-0000-0000-0000-0000-0000")
	f.Add("hl oooo oooo oooo oooo oooo")
	f.Add("HI-UUUU")
	f.Add("\xff\u2011\u0130")
	f.Fuzz(func(t *testing.T, s string) {
		c, err := invite.Parse(s)
		if err != nil {
			refuse(t, "it", s)
			return
		}
		again, err := invite.Parse(c.Reveal())
		if err != nil || again.Reveal() != c.Reveal() || len(c.Reveal()) != 27 || again.ID() != c.ID() {
			t.Errorf("%q is read as %q, and that as %q: %v", s, c.Reveal(), again.Reveal(), err)
		}
	})
}
