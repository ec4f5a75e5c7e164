package tui

import (
	"time"

	"github.com/gdamore/tcell/v2"

	"github.com/herald-nats/herald/pkg/chat"
)

// messages draws the conversation that is selected. It keeps no copy of it and
// looks at no more lines than it draws: rows are made from the last one
// upwards, for each draw anew.
type messages struct {
	state *chat.State
	theme theme
	zone  *time.Location

	place     chat.Place // whose position this is
	following bool       // the last line is at the bottom, as new ones come
	bottom    int        // otherwise: the number of the line at the bottom
	hidden    int        // and how many of its last rows are below
	w, h      int        // as drawn last
}

// timeWidth is "15:04 ", and how far rows are indented that continue a line: so
// that nobody's text can look like the beginning of another's.
const timeWidth = 6

// row is what a row of a line consists of.
type row struct {
	time, author, text string
	authorStyle, style tcell.Style
}

// rows breaks one line into rows.
func (m *messages) rows(l chat.Line) []row {
	text, style := l.Text, m.theme.plain
	author, authorStyle := "--", m.theme.plain
	switch {
	case l.Notice:
	case l.Failed != "":
		text, style = text+"  ✗ "+l.Failed, m.theme.alert
	case l.Pending:
		text += " …"
	}
	if !l.Notice {
		a := m.state.Author(l)
		author, authorStyle = "<"+cut(a.Label, max(8, m.w/3))+">", m.theme.bold
		switch {
		case !a.Verified:
			authorStyle = m.theme.stranger
		case l.Own:
			authorStyle = m.theme.self
		}
	}
	author += " "
	indent := min(timeWidth, m.w/4) // hardly any room: hardly any indent
	texts := wrap(text, m.w-timeWidth-width(author), m.w-indent)
	rows := make([]row, len(texts))
	for i, t := range texts {
		rows[i] = row{text: t, style: style}
	}
	rows[0].time, rows[0].author, rows[0].authorStyle = l.At.In(m.zone).Format("15:04 "), author, authorStyle
	return rows
}

func (m *messages) draw(c cells) {
	m.w, m.h = c.w, c.h
	first, end := m.settle()
	if first == end {
		return
	}
	y := c.h - 1
	for i, hidden := m.bottom, m.hidden; i >= first && y >= 0; i, hidden = i-1, 0 {
		rows := m.rows(m.state.Line(i))
		for k := len(rows) - 1 - hidden; k >= 0 && y >= 0; k-- {
			m.drawRow(c, y, rows[k])
			y--
		}
	}
}

func (m *messages) drawRow(c cells, y int, r row) {
	if r.time == "" {
		c.put(min(timeWidth, m.w/4), y, r.text, r.style)
		return
	}
	x := c.put(0, y, r.time, m.theme.plain)
	x = c.put(x, y, r.author, r.authorStyle)
	c.put(x, y, r.text, r.style)
}

// settle makes the position one that exists: another conversation may have been
// selected, lines may be gone, the width may have changed. It gives the bounds
// of the lines.
func (m *messages) settle() (first, end int) {
	first, end = m.state.Lines()
	if p := m.state.Selected(); p != m.place {
		m.place, m.following = p, true
	}
	if m.following || m.bottom >= end {
		m.following, m.bottom, m.hidden = true, end-1, 0
	}
	if m.bottom < first {
		m.bottom, m.hidden = first, 0
	}
	if m.hidden > 0 && m.bottom < end {
		m.hidden = min(m.hidden, len(m.rows(m.state.Line(m.bottom)))-1)
	}
	return first, end
}

// follow goes to the end and stays there.
func (m *messages) follow() { m.following = true }

// below is how many lines are below what is drawn.
func (m *messages) below() int {
	_, end := m.settle()
	return max(0, end-1-m.bottom)
}

// page scrolls by a page less one row; up is 1, down is -1.
func (m *messages) page(up int) { m.scroll(up * max(1, m.h-1)) }

func (m *messages) key(ev *tcell.EventKey) {
	switch ev.Key() {
	case tcell.KeyUp:
		m.scroll(1)
	case tcell.KeyDown:
		m.scroll(-1)
	case tcell.KeyEnd:
		m.follow()
	case tcell.KeyHome:
		first, _ := m.settle()
		m.following, m.bottom, m.hidden = false, first, 0
		m.scroll(-(m.h - len(m.firstRows()))) // fill the page
	}
}

func (m *messages) firstRows() []row {
	first, end := m.state.Lines()
	if first == end {
		return nil
	}
	return m.rows(m.state.Line(first))
}

// scroll moves by rows, up if positive; not beyond either end.
func (m *messages) scroll(by int) {
	first, end := m.settle()
	if first == end {
		return
	}
	if by > 0 {
		by = max(0, min(by, m.above(first, m.h+by)-m.h))
	}
	for ; by > 0; by-- {
		if m.hidden++; m.hidden >= len(m.rows(m.state.Line(m.bottom))) {
			m.bottom, m.hidden = m.bottom-1, 0
		}
		m.following = false
	}
	for ; by < 0; by++ {
		if m.hidden > 0 {
			m.hidden--
		} else if m.bottom+1 < end {
			m.bottom++
			m.hidden = len(m.rows(m.state.Line(m.bottom))) - 1
		}
		m.following = m.bottom == end-1 && m.hidden == 0
	}
}

// above counts the rows from the position upwards, no further than enough.
func (m *messages) above(first, enough int) int {
	n := -m.hidden
	for i := m.bottom; i >= first && n < enough; i-- {
		n += len(m.rows(m.state.Line(i)))
	}
	return n
}
