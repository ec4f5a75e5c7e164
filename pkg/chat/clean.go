package chat

import (
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/herald-nats/herald/pkg/ident"
)

// Bounds of what Clean keeps together in one character cell. Written languages
// stay below them (Vietnamese stacks 2 marks, pointed Hebrew and Arabic 3,
// Tibetan 4); "zalgo" is above.
const (
	maxMarks  = 4  // marks above and below one base
	maxJoined = 8  // everything that a base takes with it: marks, jamo, skin tones
	maxEmoji  = 10 // emoji joined to one
	maxName   = 32 // characters of a claimed name
)

// Clean is the one sanitizer for text from outside: message texts, names,
// topics, errors of servers. Everything that is shown, printed or notified has
// been through it, once, at the boundary.
//
// What it gives is one line of at most MaxText bytes of valid UTF-8 that cannot
// colour, link, move, clear or reorder anything in a terminal. It has none of:
// control characters (ESC, CR, C0, DEL, C1), line and paragraph separators
// (they become spaces), bidirectional controls, zero-width and other invisible
// characters (but ZWJ and VS16 inside emoji), tag characters, private use,
// unassigned code points. Combining marks are bounded per base. Spaces at both
// ends go. Clean(Clean(s)) == Clean(s).
//
// It does not touch '[': "[red]" is text, and only tview's own widgets would
// read it as more. They are never given such text (see chat/tui); escaping it
// here would not hold, because two escaped pieces can join to a tag.
func Clean(s string) string { return clean(s, MaxText, false) }

// CleanLines is Clean for text that may have several lines: '\n' stays.
func CleanLines(s string) string { return clean(s, MaxText, true) }

// CleanName is Clean for a name that someone claims: at most 32 characters,
// and none of those that set names apart where they are shown or entered.
func CleanName(s string) string {
	s = clean(s, maxField, false)
	s = strings.Map(func(r rune) rune {
		if strings.ContainsRune("~?@#<>", r) {
			return -1
		}
		return r
	}, s)
	if utf8.RuneCountInString(s) > maxName {
		s = string([]rune(s)[:maxName])
	}
	// Again: the end of a shortened name may be a space or half an emoji.
	return clean(s, maxField, false)
}

// Unverified is how someone is shown whose name has not been verified. No
// ident.Name can look like it. Without a claimed name the nkey's end stands in.
func Unverified(claimed string, key ident.UserKey) string {
	if claimed == "" {
		k := key.String()
		claimed = k[max(0, len(k)-6):]
	}
	return "~" + claimed + "?"
}

// cleaner writes clean text. Every decision depends on what was written and on
// the next character that may be, never on what was dropped: so cleaning again
// finds nothing to do.
type cleaner struct {
	out    strings.Builder
	limit  int
	last   rune // the last one written; 0 at the start
	marks  int  // since the last base
	joined int
	emoji  int  // how many have been joined with ZWJ
	inJoin bool // last is part of an emoji, so that a ZWJ may follow
	zwj    bool // a ZWJ waits for the emoji that makes it useful
	full   bool
}

func clean(s string, limit int, lines bool) string {
	c := cleaner{limit: limit}
	c.out.Grow(min(len(s), limit))
	for i, r := range s {
		if c.full {
			break
		}
		if r == utf8.RuneError {
			if _, n := utf8.DecodeRuneInString(s[i:]); n == 1 {
				continue // not UTF-8
			}
		}
		switch {
		case r == '\r' && strings.HasPrefix(s[i+1:], "\n"): // one line end
		case r == '\n' && lines:
			c.space('\n')
		case unicode.IsSpace(r) || unicode.Is(unicode.Z, r) || r == blankBraille:
			c.space(' ')
		default:
			c.rune(r)
		}
	}
	return strings.TrimRight(c.out.String(), " \n")
}

const (
	zwj          = 0x200D
	vs16         = 0xFE0F
	keycap       = 0x20E3
	blankBraille = 0x2800 // assigned, and draws nothing
)

func (c *cleaner) space(r rune) {
	if c.last != 0 { // none at the start
		c.write(r)
	}
	c.marks, c.joined, c.emoji, c.inJoin, c.zwj = 0, 0, 0, false, false
}

func (c *cleaner) rune(r rune) {
	switch {
	case r == zwj:
		c.zwj = c.inJoin && c.emoji < maxEmoji
	case r == vs16:
		// After an emoji, or a digit that becomes a keycap; once.
		if c.last != vs16 && (pictographic(c.last) || keycapBase(c.last)) {
			c.write(r)
		}
	case !unicode.IsGraphic(r) || ignorable(r):
	case joins(r):
		c.join(r)
	default:
		c.base(r)
	}
}

// join writes what shares the cell of the character before it.
func (c *cleaner) join(r rune) {
	mark := unicode.In(r, unicode.Mn, unicode.Me)
	switch {
	case c.last == 0 || c.last == ' ' || c.last == '\n':
		if !jamo(r) {
			return // it would join what is drawn before this text
		}
		c.marks, c.joined = 0, 0
	case c.joined >= maxJoined, mark && c.marks >= maxMarks:
		return
	}
	c.zwj = false
	c.inJoin = c.inJoin && skinTone(r)
	c.joined++
	if mark {
		c.marks++
	}
	c.write(r)
}

func (c *cleaner) base(r rune) {
	p := pictographic(r)
	if p && c.zwj {
		c.emoji++
		if !c.write(zwj) {
			return
		}
	} else {
		c.emoji = 0
	}
	c.zwj, c.inJoin = false, p
	c.marks, c.joined = 0, 0
	c.write(r)
}

func (c *cleaner) write(r rune) bool {
	// Room is kept for what a ZWJ promises: it is never the last.
	need := utf8.RuneLen(r)
	if r == zwj {
		need += utf8.UTFMax
	}
	if c.full || c.out.Len()+need > c.limit {
		c.full = true
		return false
	}
	c.out.WriteRune(r)
	c.last = r
	return true
}

// ignorable are characters that Unicode counts as graphic although they draw
// nothing: fillers, joiners, variation selectors, inherent vowels.
func ignorable(r rune) bool {
	return unicode.Is(unicode.Other_Default_Ignorable_Code_Point, r) ||
		unicode.Is(unicode.Variation_Selector, r) ||
		r == 0x16FE4 // Khitan filler
}

// joins tells whether r is drawn in the cell of what is before it.
func joins(r rune) bool {
	return unicode.Is(unicode.M, r) || jamo(r) || skinTone(r) || r == 0xFF9E || r == 0xFF9F
}

// jamo are the letters that Korean syllables are composed of: a run of them,
// however long, is one character to a terminal.
func jamo(r rune) bool {
	return 0x1100 <= r && r <= 0x11FF || 0xA960 <= r && r <= 0xA97C || 0xD7B0 <= r && r <= 0xD7FB
}

func skinTone(r rune) bool { return 0x1F3FB <= r && r <= 0x1F3FF }

func keycapBase(r rune) bool { return '0' <= r && r <= '9' || r == '#' || r == '*' }

// pictographic tells what may be part of an emoji that is joined with ZWJ: the
// blocks that Unicode's Extended_Pictographic is spread over. What is in a
// block and no emoji gains a ZWJ that does nothing.
func pictographic(r rune) bool {
	switch {
	case r == 0xA9, r == 0xAE, r == 0x203C, r == 0x2049, r == 0x2122, r == 0x2139, r == 0x3030, r == 0x303D, r == 0x3297, r == 0x3299:
		return true
	case 0x2190 <= r && r <= 0x21FF, 0x2300 <= r && r <= 0x23FF, 0x2460 <= r && r <= 0x27BF,
		0x2900 <= r && r <= 0x297F, 0x2B00 <= r && r <= 0x2BFF:
		return true
	case skinTone(r), 0x1F1E6 <= r && r <= 0x1F1FF: // skin tones, letters of flags
		return false
	default:
		return 0x1F000 <= r && r <= 0x1FAFF
	}
}
