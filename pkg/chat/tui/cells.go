package tui

import (
	"strings"
	"unicode"

	"github.com/gdamore/tcell/v2"
	"github.com/rivo/uniseg"
)

// cells is a rectangle of the screen, and the only way by which text gets there.
type cells struct {
	screen     tcell.Screen
	x, y, w, h int
}

// put writes text into row y from column x, both within the rectangle, until
// its end, and gives the column after it. Nothing in text has a meaning: no
// tags, no escapes. What is wider than the rest of the row is cut off.
func (c cells) put(x, y int, text string, style tcell.Style) int {
	if y < 0 || y >= c.h {
		return x
	}
	state := -1
	for text != "" {
		var g string
		var w int
		g, text, w, state = uniseg.FirstGraphemeClusterInString(text, state)
		if w == 0 {
			continue // nothing to see in it
		}
		if x+w > c.w {
			break
		}
		if x >= 0 {
			c.screen.Put(c.x+x, c.y+y, inert(g, w), style)
		}
		x += w
	}
	return x
}

// fill writes r from column x to the end of row y.
func (c cells) fill(x, y int, r string, style tcell.Style) {
	for ; x < c.w; x++ {
		c.put(x, y, r, style)
	}
}

// inert is g as it may go to a terminal. chat.Clean has seen to that where the
// text came in; should a text ever come another way, it stays inert too. tcell
// gives up on characters of more than 128 bytes.
func inert(g string, width int) string {
	const most = 64
	bad := func(r rune) bool {
		return unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r) || r >= 0xE0000 && r <= 0xE0FFF
	}
	if len(g) > most || strings.ContainsFunc(g, bad) {
		return strings.Repeat("?", min(width, 1))
	}
	return g
}

// width is how many columns text takes.
func width(text string) int { return uniseg.StringWidth(text) }

// cut shortens text to w columns; what was cut is told by an ellipsis.
func cut(text string, w int) string {
	if width(text) <= w {
		return text
	}
	if w < 1 {
		return ""
	}
	var b strings.Builder
	state, used := -1, 0
	for text != "" {
		var g string
		var gw int
		g, text, gw, state = uniseg.FirstGraphemeClusterInString(text, state)
		if used+gw > w-1 {
			break
		}
		used += gw
		b.WriteString(g)
	}
	return b.String() + "…"
}

// wrap breaks text into rows, the first of at most first columns and the others
// of at most rest, at spaces where there are any. There is always one row.
func wrap(text string, first, rest int) []string {
	first, rest = max(1, first), max(1, rest)
	var rows []string
	limit := first
	for {
		n, space := fit(text, limit)
		if n == len(text) {
			return append(rows, text)
		}
		if space > 0 {
			n = space
		} else if len(rows) == 0 && first < rest {
			n = 0 // a long word begins on a row of its own if that is longer
		}
		rows = append(rows, strings.TrimRight(text[:n], " "))
		text = strings.TrimLeft(text[n:], " ")
		limit = rest
	}
}

// fit is how many bytes of text fit into w columns (at least one character),
// and where the last space among them, or just behind them, is; 0 if none.
func fit(text string, w int) (n, space int) {
	state, used := -1, 0
	for n < len(text) {
		g, _, gw, s := uniseg.FirstGraphemeClusterInString(text[n:], state)
		state = s
		if g == " " {
			space = n
		}
		if used+gw > w && n > 0 {
			break
		}
		used += gw
		n += len(g)
	}
	return n, space
}

// theme is how things look. Colours are few and of the terminal's own palette,
// which its owner has made readable; the background is never set.
type theme struct {
	plain, bold, title, cursor, status, self, stranger, alert tcell.Style
}

func newTheme(noColor bool) theme {
	plain := tcell.StyleDefault
	t := theme{
		plain: plain, bold: plain.Bold(true), title: plain.Bold(true).Underline(true),
		cursor: plain.Reverse(true), status: plain.Reverse(true),
		self: plain.Bold(true), stranger: plain.Underline(true), alert: plain.Bold(true),
	}
	if !noColor {
		t.self = t.self.Foreground(tcell.PaletteColor(6))
		t.stranger = t.stranger.Foreground(tcell.PaletteColor(5))
		t.alert = t.alert.Foreground(tcell.PaletteColor(1))
	}
	return t
}
