package chat_test

import (
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"pgregory.net/rapid"

	"github.com/herald-nats/herald/pkg/chat"
)

func TestClean(t *testing.T) {
	for _, c := range []struct{ name, in, want string }{
		{"plain", "hello, world", "hello, world"},
		{"escape sequence", "a\x1b[31mred\x1b[0m", "a[31mred[0m"},
		{"OSC link", "\x1b]8;;https://x\x07hi\x1b]8;;\x07", "]8;;https://xhi]8;;"},
		{"C1 CSI", "a\u009b2Jb", "a2Jb"},
		{"C1 as a byte", "a\x9b2Jb", "a2Jb"},
		{"carriage return", "paid 5\rpaid 9", "paid 5 paid 9"},
		{"newlines", "a\nb\r\nc\u2028d\u2029e\u0085f", "a b c d e f"},
		{"tab and odd spaces", "a\tb\u00a0c\u3000d", "a b c d"},
		{"ends", " \n a \t", "a"},
		{"bidi override", "abc\u202edcba\u202c", "abcdcba"},
		{"bidi isolates", "\u2066a\u2067b\u2068c\u2069", "abc"},
		{"zero width", "p\u200bay\u200cp\u200dal\u2060\ufeff", "paypal"},
		{"soft hyphen", "a\u00adb", "ab"},
		{"fillers", "a\u3164\u115f\u1160\uffa0\u2800b", "a b"},
		{"tags", "x\U000e0041\U000e0042\U000e007f", "x"},
		{"private use", "a\ue000\U000f0000b", "ab"},
		{"not UTF-8", "a\xff\xc0\xafb", "ab"},
		{"replacement character", "a\ufffdb", "a\ufffdb"},
		{"tview tags are text", "[red]x[:::https://x]", "[red]x[:::https://x]"},
		{"accents", "Tiếng Việt, e\u0301", "Tiếng Việt, e\u0301"},
		{"Hebrew points", "שָׁלוֹם", "שָׁלוֹם"},
		{"zalgo", "a" + strings.Repeat("\u0301", 50) + "b", "a" + strings.Repeat("\u0301", 4) + "b"},
		{"mark without a base", "\u0301a \u0301b", "a b"},
		{"endless jamo", strings.Repeat("\u1100", 50), strings.Repeat("\u1100", 8)},
		{"family", "👨\u200d👩\u200d👧", "👨\u200d👩\u200d👧"},
		{"skin tone and profession", "👩🏽\u200d🚀", "👩🏽\u200d🚀"},
		{"heart on fire", "❤️\u200d🔥", "❤️\u200d🔥"},
		{"keycap", "1️⃣", "1️⃣"},
		{"flag", "🇳🇱", "🇳🇱"},
		{"ZWJ at the end", "👩\u200d", "👩"},
		{"ZWJ before a letter", "👩\u200da", "👩a"},
		{"many ZWJ", "👩\u200d\u200d\u200d👩", "👩\u200d👩"},
		{"endless ZWJ", strings.Repeat("👩\u200d", 12), strings.Repeat("👩\u200d", 10) + "👩👩"},
		{"VS16 on a letter", "a\ufe0fb", "ab"},
		{"VS16 twice", "❤️\ufe0f", "❤️"},
		{"text selector", "❤\ufe0e", "❤"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := chat.Clean(c.in); got != c.want {
				t.Errorf("Clean(%+q)\n= %+q, want\n  %+q", c.in, got, c.want)
			}
		})
	}
	if got := chat.CleanLines("a\r\nb\x1b\n\nc\n"); got != "a\nb\n\nc" {
		t.Errorf("CleanLines gives %q", got)
	}
	if got := chat.Clean(strings.Repeat("é", chat.MaxText)); len(got) > chat.MaxText || !utf8.ValidString(got) {
		t.Errorf("%d bytes", len(got))
	}
}

func TestCleanName(t *testing.T) {
	alice := newUser(1, "alice")
	for in, want := range map[string]string{
		"alice":                 "alice",
		"~alice?":               "alice",
		"@bob #1":               "bob 1",
		"a\x1b[2Jb":             "a[2Jb",
		"\u202eecila":           "ecila",
		strings.Repeat("x", 99): strings.Repeat("x", 32),
		"#\ufe0f\u20e3":         "",
	} {
		if got := chat.CleanName(in); got != want {
			t.Errorf("CleanName(%q) = %q, want %q", in, got, want)
		}
	}
	if got := chat.Unverified("alice", alice.key); got != "~alice?" {
		t.Errorf("Unverified gives %q", got)
	}
	if got := chat.Unverified("", alice.key); !strings.HasPrefix(got, "~") || len(got) != 8 {
		t.Errorf("without a claimed name: %q", got)
	}
}

// checkClean states what every cleaned text holds.
func checkClean(t interface{ Fatalf(string, ...any) }, in string) {
	for _, lines := range []bool{false, true} {
		clean := chat.Clean
		if lines {
			clean = chat.CleanLines
		}
		out := clean(in)
		switch {
		case len(out) > chat.MaxText:
			t.Fatalf("%d bytes", len(out))
		case !utf8.ValidString(out):
			t.Fatalf("not UTF-8: %q", out)
		case clean(out) != out:
			t.Fatalf("cleaning twice: %+q, then %+q", out, clean(out))
		}
		marks, prev := 0, rune(0)
		for _, r := range out {
			switch {
			case r == '\n' && lines:
			case r == 0x200D && prev != 0:
			case !unicode.IsGraphic(r), unicode.Is(unicode.Co, r), unicode.Is(unicode.Cs, r):
				t.Fatalf("%U in %+q", r, out)
			case unicode.Is(unicode.Bidi_Control, r):
				t.Fatalf("bidi control %U in %+q", r, out)
			case r >= 0xE0000 && r <= 0xE0FFF:
				t.Fatalf("tag or selector %U", r)
			}
			if unicode.In(r, unicode.Mn, unicode.Me) && r != 0xFE0F {
				marks++
			} else {
				marks = 0
			}
			if marks > 4 {
				t.Fatalf("%d marks on one base in %+q", marks, out)
			}
			prev = r
		}
		if strings.HasSuffix(out, "\u200d") || strings.HasPrefix(out, "\u200d") {
			t.Fatalf("a ZWJ at an end of %+q", out)
		}
	}
	if n := chat.CleanName(in); chat.CleanName(n) != n || utf8.RuneCountInString(n) > 32 || strings.ContainsAny(n, "~?@#<>") {
		t.Fatalf("CleanName gives %+q", n)
	}
}

func TestCleanHolds(t *testing.T) {
	// Runs of what matters, and anything between them.
	special := []rune("\x1b\r\n\t \u0085\u009b\u061c\u200b\u200c\u200d\u200e\u202e\u2066\u2069\u2800\u3164\ufe0e\ufe0f\ufeff\u0301\u20e3\u034f\u1100\u1161#1[]👩❤🏽🇳\ue000\U000e0041\U000e0100\uff9e")
	rapid.Check(t, func(t *rapid.T) {
		r := rapid.OneOf(rapid.SampledFrom(special), rapid.Rune())
		n := rapid.SampledFrom([]int{5, 40, 3000}).Draw(t, "max")
		checkClean(t, rapid.StringOfN(r, 0, n, -1).Draw(t, "text"))
	})
}

func FuzzClean(f *testing.F) {
	for _, s := range []string{
		"", "hi", "\x1b[2J", "[:::https://x]hi", "a\rb", "\u202eabc", "👨\u200d👩\u200d👧", "❤️\u200d🔥\u200d",
		"1️⃣", "\xff\xfe", "e\u0301\u0301\u0301\u0301\u0301", "\u1100\u1161\u11a8", strings.Repeat("é", 3000), "\U000e0041",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) { checkClean(t, s) })
}
