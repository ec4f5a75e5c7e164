package subject

import "strings"

// What follows works on subjects as others wrote them: in account JWTs, in templates
// once they are expanded, on command lines. It follows nats-server 2.15: words are
// parted by dots and compared byte by byte; "*" alone is any one word, ">" alone and
// at the end is one word or more, and within a longer word both are plain characters.
//
// None of these functions allocates, and none minds what it is given. What has an empty
// word, or ">" before its end, matches nothing, overlaps nothing and covers nothing;
// white space is for ValidPattern to find.

// Wildcards of a pattern, each a whole word.
const (
	anyWord  = "*" // one word, whatever it is
	anyWords = ">" // the rest: one word or more; only at the end
	space    = "\t\n\f\r "
)

// Valid tells whether s is a subject that says one thing: words, none of them empty or
// with white space, and no wildcard.
func Valid(s string) bool { return ValidPattern(s) && !HasWildcard(s) }

// ValidPattern tells whether s is a subject, with wildcards or without, that servers
// accept in a subscription and in a permission.
func ValidPattern(s string) bool { return !strings.ContainsAny(s, space) && wellFormed(s) }

func wellFormed(s string) bool {
	for more := true; more; {
		var word string
		word, s, more = strings.Cut(s, ".")
		if word == "" || word == anyWords && more {
			return false
		}
	}
	return true
}

// HasWildcard tells whether a word of s is a wildcard.
func HasWildcard(s string) bool {
	for more := true; more; {
		var word string
		word, s, more = strings.Cut(s, ".")
		if word == anyWord || word == anyWords {
			return true
		}
	}
	return false
}

// Matches tells whether pattern matches subject, as servers decide whether somebody may
// publish there or subscribe to it. They take the subject's own words as they are
// written, wildcards too: "a.*" matches "a.>", although "a.b.c" is in the one and not
// in the other. Covers asks for what subjects mean.
func Matches(pattern, subject string) bool {
	for {
		p, patternRest, patternMore := strings.Cut(pattern, ".")
		s, subjectRest, subjectMore := strings.Cut(subject, ".")
		switch {
		case p == "" || s == "":
			return false
		case p == anyWords:
			return !patternMore && (!subjectMore || noEmptyWord(subjectRest))
		case p != anyWord && p != s:
			return false
		case !patternMore || !subjectMore:
			return patternMore == subjectMore
		}
		pattern, subject = patternRest, subjectRest
	}
}

// Overlaps tells whether there is a subject without wildcards that is in both patterns.
func Overlaps(a, b string) bool {
	for {
		wordA, restA, moreA := strings.Cut(a, ".")
		wordB, restB, moreB := strings.Cut(b, ".")
		switch {
		case wordA == "" || wordB == "":
			return false
		case wordA == anyWords:
			return !moreA && wellFormed(b)
		case wordB == anyWords:
			return !moreB && wellFormed(a)
		case wordA != anyWord && wordB != anyWord && wordA != wordB:
			return false
		case !moreA || !moreB:
			return moreA == moreB
		}
		a, b = restA, restB
	}
}

// Covers tells whether a matches every subject without wildcards that is in b.
func Covers(a, b string) bool {
	for {
		wordA, restA, moreA := strings.Cut(a, ".")
		wordB, restB, moreB := strings.Cut(b, ".")
		switch {
		case wordA == "" || wordB == "":
			return false
		case wordA == anyWords:
			return !moreA && wellFormed(b)
		case wordB == anyWords || wordB == anyWord && wordA != anyWord:
			return false // b goes on, or may be something else here
		case wordA != anyWord && wordA != wordB:
			return false
		case !moreA || !moreB:
			return moreA == moreB
		}
		a, b = restA, restB
	}
}

func noEmptyWord(s string) bool {
	return s != "" && s[0] != '.' && s[len(s)-1] != '.' && !strings.Contains(s, "..")
}
