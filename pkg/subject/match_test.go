package subject_test

import (
	"iter"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/herald-nats/herald/pkg/subject"
)

func TestMatching(t *testing.T) {
	// matches, overlaps and covers are of a with b.
	for _, tc := range []struct {
		a, b                      string
		matches, overlaps, covers bool
	}{
		{"a", "a", true, true, true},
		{"a", "b", false, false, false},
		{"a", "a.b", false, false, false},
		{"a.b", "a", false, false, false},
		{"*", "a", true, true, true},
		{"*", "a.b", false, false, false},
		{"a", "*", false, true, false},
		{">", "a", true, true, true},
		{">", "a.b.c", true, true, true},
		{"a.>", "a", false, false, false},
		{"a.>", "a.b", true, true, true},
		{"a.>", "b.c", false, false, false},
		{"a.*.c", "a.b.c", true, true, true},
		{"a.*.c", "a.b.d", false, false, false},
		{"a.*", "*.b", false, true, false},
		{"a.*", "b.*", false, false, false},
		{"*.b.>", "a.>", false, true, false},
		{"a.*.>", "a.>", false, true, false},
		{"a.>", "a.*.>", true, true, true},
		{">", "*", true, true, true},
		{"*", "*", true, true, true},
		{">", ">", true, true, true},
		// The rule of the servers, and what the words mean, part here.
		{"a.*", "a.>", true, true, false},
		{"*", ">", true, true, false},
		// Not wildcards: parts of a word.
		{"a*", "ab", false, false, false},
		{"a.b>", "a.b>", true, true, true},
		{"*a", "*a", true, true, true},
		{"*", "*a", true, true, true},
		// What is no subject is in nothing, and nothing in it.
		{"", "", false, false, false},
		{">", "", false, false, false},
		{">", "a..b", false, false, false},
		{"a.>", "a.b.", false, false, false},
		{"a..b", "a..b", false, false, false},
		{"a.", "a.", false, false, false},
		{".a", ".a", false, false, false},
		{">.a", "b.a", false, false, false},
		{"*.>.a", "b.c.a", false, false, false},
	} {
		if got := subject.Matches(tc.a, tc.b); got != tc.matches {
			t.Errorf("Matches(%q, %q) = %v", tc.a, tc.b, got)
		}
		if got := subject.Overlaps(tc.a, tc.b); got != tc.overlaps {
			t.Errorf("Overlaps(%q, %q) = %v", tc.a, tc.b, got)
		}
		if got := subject.Overlaps(tc.b, tc.a); got != tc.overlaps {
			t.Errorf("Overlaps(%q, %q) = %v", tc.b, tc.a, got)
		}
		if got := subject.Covers(tc.a, tc.b); got != tc.covers {
			t.Errorf("Covers(%q, %q) = %v", tc.a, tc.b, got)
		}
	}
}

func TestValid(t *testing.T) {
	for s, want := range map[string]struct{ literal, pattern bool }{
		"a":                {true, true},
		"a.b-c.$JS._R_":    {true, true},
		"a*.>b.c>":         {true, true},
		"ä.\x00":           {true, true}, // servers take any byte but white space
		"a\vb":             {true, true},
		"*":                {false, true},
		">":                {false, true},
		"a.*.b.>":          {false, true},
		"":                 {},
		".":                {},
		"a.":               {},
		".a":               {},
		"a..b":             {},
		">.a":              {},
		"a.>.>":            {},
		"a b":              {},
		"a. ":              {},
		"a\t":              {},
		"a\nb":             {},
		"\r":               {},
		"a.\f":             {},
		"{{ subject() }}":  {},
		"a.{{subject()}}":  {true, true},
		"_INBOX_{{x}}.>":   {false, true},
		" a":               {},
		"a.b queue":        {},
		"a.>.b.c.d.e.f.g.": {},
	} {
		if got := subject.Valid(s); got != want.literal {
			t.Errorf("Valid(%q) = %v", s, got)
		}
		if got := subject.ValidPattern(s); got != want.pattern {
			t.Errorf("ValidPattern(%q) = %v", s, got)
		}
	}
}

// words are the universe of the naive oracle: those of the patterns and one that is in
// neither. "*" and ">" are words too, for Matches.
func words() []string { return []string{"a", "b", "fresh"} }

// all are the sequences of one to most words.
func all(words []string, most int) iter.Seq[[]string] {
	return func(yield func([]string) bool) {
		var grow func([]string) bool
		grow = func(s []string) bool {
			if len(s) > 0 && !yield(s) {
				return false
			}
			if len(s) == most {
				return true
			}
			for _, w := range words {
				if !grow(append(slices.Clone(s), w)) {
					return false
				}
			}
			return true
		}
		grow(nil)
	}
}

// in is the definition of a pattern, on words.
func in(pattern, s []string) bool {
	if len(pattern) == 0 {
		return len(s) == 0
	}
	if pattern[0] == ">" && len(pattern) == 1 {
		return len(s) > 0
	}
	return len(s) > 0 && (pattern[0] == "*" || pattern[0] == s[0]) && in(pattern[1:], s[1:])
}

// TestMeaning holds all pairs of patterns of up to three words against what they mean.
// A subject of one word more than the longer pattern shows all that a ">" does.
func TestMeaning(t *testing.T) {
	var patterns [][]string
	for p := range all([]string{"a", "b", "*", ">"}, 3) {
		if i := slices.Index(p, ">"); i < 0 || i == len(p)-1 {
			patterns = append(patterns, p)
		}
	}
	subjects := slices.Collect(all(words(), 4))
	pairs := 0
	for _, a := range patterns {
		for _, b := range patterns {
			pairs++
			overlaps, covers := false, true
			for _, s := range subjects {
				inA, inB := in(a, s), in(b, s)
				overlaps = overlaps || inA && inB
				covers = covers && (inA || !inB)
			}
			pa, pb := strings.Join(a, "."), strings.Join(b, ".")
			if got := subject.Overlaps(pa, pb); got != overlaps {
				t.Errorf("Overlaps(%q, %q) = %v", pa, pb, got)
			}
			if got := subject.Covers(pa, pb); got != covers {
				t.Errorf("Covers(%q, %q) = %v", pa, pb, got)
			}
			if got := subject.Matches(pa, pb); got != in(a, b) {
				t.Errorf("Matches(%q, %q) = %v", pa, pb, got)
			}
		}
	}
	if pairs < 1000 {
		t.Fatalf("%d pairs", pairs)
	}
}

// expression is the pattern as a regular expression on what is well-formed.
func expression(pattern string) *regexp.Regexp {
	var b strings.Builder
	b.WriteString(`(?s)\A`)
	for i, w := range strings.Split(pattern, ".") {
		if i > 0 {
			b.WriteString(`\.`)
		}
		switch w {
		case "*":
			b.WriteString(`[^.]+`)
		case ">":
			b.WriteString(`[^.]+(\.[^.]+)*`)
		default:
			b.WriteString(regexp.QuoteMeta(w))
		}
	}
	return regexp.MustCompile(b.String() + `\z`)
}

func FuzzMatches(f *testing.F) {
	for _, s := range [][2]string{
		{"a.*", "a.b"}, {"a.>", "a.b.c"}, {"*", "*"}, {">", ">"}, {"a.*", "a.>"}, {"a..b", "a..b"}, {"*a.b>", "*a.b>"}, {"", ""}, {"a. ", "a.\xff"},
	} {
		f.Add(s[0], s[1])
	}
	f.Fuzz(func(t *testing.T, pattern, s string) {
		got := subject.Matches(pattern, s)
		if !subject.ValidPattern(pattern) {
			if got && !strings.ContainsAny(pattern, "\t\n\f\r ") {
				t.Fatalf("%q matches %q and is no pattern", pattern, s)
			}
			return
		}
		if validText(pattern, s) && got != expression(pattern).MatchString(s) {
			t.Fatalf("Matches(%q, %q) = %v", pattern, s, got)
		}
		if subject.Valid(s) {
			if one := subject.Covers(pattern, s); one != got {
				t.Fatalf("%q matches %q: %v, covers it: %v", pattern, s, got, one)
			}
			if one := subject.Overlaps(s, pattern); one != got {
				t.Fatalf("%q matches %q: %v, overlaps it: %v", pattern, s, got, one)
			}
		}
	})
}

// validText: regular expressions see invalid UTF-8 as one and the same character.
func validText(s ...string) bool {
	return !slices.ContainsFunc(s, func(s string) bool { return s != strings.ToValidUTF8(s, "") })
}

// FuzzPatterns holds Overlaps and Covers to laws that connect them, for patterns of any
// words, and a pattern's own subjects to both.
func FuzzPatterns(f *testing.F) {
	for _, s := range [][3]string{
		{"a.*", "a.>", "x"}, {"*.b", "a.*", "b"}, {">", "a", ""}, {"a.>", "a.*.c", "y.z"}, {"a..", "a", "a"}, {"*", "**", "*"},
	} {
		f.Add(s[0], s[1], s[2])
	}
	f.Fuzz(func(t *testing.T, a, b, word string) {
		overlaps, ab, ba := subject.Overlaps(a, b), subject.Covers(a, b), subject.Covers(b, a)
		if overlaps != subject.Overlaps(b, a) {
			t.Fatalf("%q and %q overlap one way only", a, b)
		}
		if !subject.ValidPattern(a) || !subject.ValidPattern(b) {
			return
		}
		if ab && !overlaps || ba && !overlaps {
			t.Fatalf("%q and %q: one covers the other, and they do not overlap", a, b)
		}
		if ab && ba && a != b {
			t.Fatalf("%q and %q are not the same and cover each other", a, b)
		}
		if ab && !subject.Matches(a, b) {
			t.Fatalf("%q covers %q and does not match it", a, b)
		}
		for _, s := range [2]string{fill(a, word), fill(b, word)} {
			if !subject.Valid(s) {
				continue
			}
			inA, inB := subject.Matches(a, s), subject.Matches(b, s)
			if !inA && !inB {
				t.Fatalf("%q is neither in %q nor in %q", s, a, b)
			}
			if inA && inB && !overlaps {
				t.Fatalf("%q is in %q and in %q, and they do not overlap", s, a, b)
			}
			if ab && inB && !inA || ba && inA && !inB {
				t.Fatalf("%q: %q and %q cover each other: %v, %v", s, a, b, ab, ba)
			}
		}
	})
}

// fill puts word where the pattern has a wildcard.
func fill(pattern, word string) string {
	parts := strings.Split(pattern, ".")
	for i, p := range parts {
		if p == "*" && !strings.Contains(word, ".") || p == ">" {
			parts[i] = word
		}
	}
	return strings.Join(parts, ".")
}

func BenchmarkMatches(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		if !subject.Matches("chat.*.posts.>", "chat.KUBECON.posts.general") {
			b.Fatal("no match")
		}
	}
}

func TestMatchingDoesNotAllocate(t *testing.T) {
	if n := testing.AllocsPerRun(100, func() {
		_ = subject.Valid("chat.KUBECON.posts.general") && subject.Matches("chat.*.>", "chat.a.b.c") &&
			subject.Overlaps("a.*.c.>", "a.b.>") && subject.Covers("a.>", "a.*.c")
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
