package tui

import (
	"slices"
	"strconv"

	"github.com/herald-nats/herald/pkg/chat"
)

// sidebar draws the channels and the people. The cursor is a place and not a
// number, because people come and go.
type sidebar struct {
	state  *chat.State
	theme  theme
	cursor chat.Place
	top    int // the first row that is drawn
}

// Rows: a heading, the channels, an empty row, a heading, the people.

// entries are channels and people, as one list.
func (s *sidebar) entries() []chat.Entry { return append(s.state.Channels(), s.state.People()...) }

// at is the number of a place; 0 if it is not in the lists any more.
func at(entries []chat.Entry, p chat.Place) int {
	return max(0, slices.IndexFunc(entries, func(e chat.Entry) bool { return e.Place == p }))
}

func (s *sidebar) move(by int) {
	list := s.entries()
	s.cursor = list[min(max(at(list, s.cursor)+by, 0), len(list)-1)].Place
}

// row is where the i-th entry is drawn.
func (s *sidebar) row(i int) int {
	if i < len(s.state.Channels()) {
		return i + 1
	}
	return i + 3
}

func (s *sidebar) draw(c cells, focused bool) {
	channels, people := s.state.Channels(), s.state.People()
	shown := s.state.Selected()
	if focused {
		shown = s.cursor
	}
	// What matters stays in sight, with its heading if that is next to it.
	if row := s.row(at(s.entries(), shown)); row < s.top+1 {
		s.top = row - 1
	} else if row >= s.top+c.h {
		s.top = row - c.h + 1
	}
	s.top = max(0, min(s.top, len(channels)+len(people)+3-c.h))

	heading := s.theme.bold
	if focused {
		heading = s.theme.title
	}
	for y := range c.h {
		switch i := s.top + y; {
		case i == 0:
			c.put(1, y, "Channels", heading)
		case i <= len(channels):
			s.drawEntry(c, y, channels[i-1], focused)
		case i == len(channels)+1:
		case i == len(channels)+2:
			c.put(1, y, "People", heading)
		case i-len(channels)-3 < len(people):
			s.drawEntry(c, y, people[i-len(channels)-3], focused)
		default:
			return
		}
	}
}

// presence is a sign that tells more than its colour would.
func presence(p chat.Presence) string {
	switch p {
	case chat.Online:
		return "◆"
	case chat.Idle:
		return "◇"
	default:
		return "·"
	}
}

func (s *sidebar) drawEntry(c cells, y int, e chat.Entry, focused bool) {
	style := s.theme.plain
	switch {
	case focused && e.Place == s.cursor:
		style = s.theme.cursor
		c.fill(0, y, " ", style)
	case e.Unread > 0:
		style = s.theme.bold
	case e.Self:
		style = s.theme.self
	case e.Place.Channel.IsZero() && !e.Verified:
		style = s.theme.stranger
	}
	if e.Place == s.state.Selected() {
		c.put(0, y, ">", style)
	}
	sign := "#"
	if e.Place.Channel.IsZero() {
		sign = presence(e.Presence)
	}
	unread := ""
	if e.Unread > 0 {
		unread = " ●" + strconv.Itoa(min(e.Unread, 999))
	}
	label := e.Label
	if e.Self {
		label += " (you)"
	}
	c.put(1, y, sign, s.theme.plain)
	x := c.put(3, y, cut(label, c.w-4-width(unread)), style)
	// The region only where there is room: names and counts matter more.
	end := c.w - 1 - width(unread)
	if region := e.Region.String(); region != "" && e.Presence != chat.Offline && x+2+len(region) <= end {
		c.put(end-len(region), y, region, style)
	}
	c.put(max(x, end), y, unread, style)
}
