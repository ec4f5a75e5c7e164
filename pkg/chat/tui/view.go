package tui

import (
	"strconv"
	"time"

	"github.com/gdamore/tcell/v2"
	"github.com/rivo/tview"

	"github.com/herald-nats/herald/pkg/chat"
)

// focus is where keys go.
type focus int

const (
	onInput focus = iota
	onLists
	onMessages
	focusable // how many there are
)

// view is what is on the screen: the lists on the left, the conversation, the
// input and the status line; the help page over them.
type view struct {
	state    *chat.State
	bindings []Binding
	theme    theme
	focus    focus
	lists    bool // there was room for the lists

	sidebar  *sidebar
	messages *messages
	input    *tview.InputField
	help     *help
}

func newView(cfg Config) *view {
	t := newTheme(cfg.NoColor)
	v := &view{
		state: cfg.State, bindings: cfg.Bindings, theme: t,
		sidebar:  &sidebar{state: cfg.State, theme: t, cursor: cfg.State.Selected()},
		messages: &messages{state: cfg.State, theme: t, zone: cfg.Location, following: true},
		input:    tview.NewInputField(),
		help:     &help{theme: t, lines: helpLines(cfg.Bindings)},
	}
	// No label: tview reads tags in it and draws it on black.
	v.input.SetFieldStyle(t.plain)
	v.input.SetBackgroundColor(tcell.ColorDefault)
	v.input.SetAcceptanceFunc(func(text string, _ rune) bool { return len(text) <= chat.MaxText })
	return v
}

// turn moves the focus to the next or the last; not to lists that are not drawn.
func (v *view) turn(by focus) {
	v.focus = (v.focus + by + focusable) % focusable
	if v.focus == onLists && !v.lists {
		v.focus = (v.focus + by + focusable) % focusable
	}
	if v.focus == onLists {
		v.sidebar.cursor = v.state.Selected()
	}
}

// draw lays the screen out. Where there is little room, what can be done
// without goes first: the line above the input, the lists, the title, the
// status line.
func (v *view) draw(screen tcell.Screen, w, h int) {
	if w < 1 || h < 1 {
		return
	}
	const (
		listsFrom  = 48 // columns
		ruleFrom   = 10 // rows
		titleFrom  = 6
		statusFrom = 4
	)
	left, bottom, top := 0, h, 0
	if h >= statusFrom {
		bottom--
		v.drawStatus(cells{screen, 0, bottom, w, 1})
	}
	if v.lists = w >= listsFrom; v.lists {
		left = min(max(w/4, 18), 30)
		v.sidebar.draw(cells{screen, 0, 0, left, bottom}, v.focus == onLists)
		for y := range bottom {
			cells{screen, left, y, 1, 1}.put(0, 0, "│", v.theme.plain)
		}
		left++
	} else if v.focus == onLists {
		v.focus = onInput
	}
	bottom--
	v.drawInput(screen, left, bottom, w-left)
	if h >= ruleFrom {
		bottom--
		cells{screen, left, bottom, w - left, 1}.fill(0, 0, "─", v.theme.plain)
	}
	if h >= titleFrom {
		v.drawTitle(cells{screen, left, 0, w - left, 1})
		top = 1
	}
	v.messages.draw(cells{screen, left, top, w - left, max(0, bottom-top)})
	v.help.draw(cells{screen, 0, 0, w, h})
	if v.help.open {
		screen.HideCursor()
	}
}

func (v *view) drawInput(screen tcell.Screen, x, y, w int) {
	const prompt = "> "
	cells{screen, x, y, w, 1}.put(0, 0, prompt, v.theme.bold)
	v.input.SetRect(x+len(prompt), y, max(0, w-len(prompt)), 1)
	if v.focus == onInput {
		v.input.Focus(func(tview.Primitive) {})
	} else {
		v.input.Blur()
	}
	v.input.Draw(screen)
}

// drawTitle says what conversation this is, and how much of it is below.
func (v *view) drawTitle(c cells) {
	style := v.theme.bold
	if v.focus == onMessages {
		style = v.theme.title
	}
	x := c.put(0, 0, cut(v.title(), c.w), style)
	if below := v.messages.below(); below > 0 {
		more := "↓ " + strconv.Itoa(below) + " more"
		if at := c.w - width(more); at > x {
			c.put(at, 0, more, v.theme.bold)
		}
	}
}

func (v *view) title() string {
	p := v.state.Selected()
	if !p.Channel.IsZero() {
		return "#" + p.Channel.String()
	}
	for _, e := range v.state.People() {
		if e.Place != p {
			continue
		}
		text := e.Label + ", " + e.Presence.String()
		if e.Presence != chat.Offline && !e.Region.IsZero() {
			text += " in " + e.Region.String()
		}
		if e.Devices > 1 {
			text += ", " + strconv.Itoa(e.Devices) + " devices"
		}
		if !e.Verified {
			text += ", NOT VERIFIED: may be anyone"
		}
		return text
	}
	return p.Person.String()
}

// drawStatus says how the connection and the credential are, and then, as far
// as there is room, the keys.
func (v *view) drawStatus(c cells) {
	c.fill(0, 0, " ", v.theme.status)
	s := v.state.Status()
	text := " "
	if !s.Region.IsZero() {
		text += s.Region.String() + " · "
	}
	style := v.theme.status
	if s.Connection == chat.Connected {
		text += s.Connection.String()
	} else {
		text += "NOT CONNECTED: " + s.Connection.String()
		style = style.Bold(true)
	}
	if !s.Expires.IsZero() {
		if s.Left > 0 {
			text += " · credential " + left(s.Left)
		} else {
			text += " · CREDENTIAL EXPIRED"
			style = style.Bold(true)
		}
	}
	for _, n := range []struct {
		count uint64
		what  string
	}{{s.Dropped, "missed"}, {s.Rejected, "rejected"}, {s.Replayed, "replayed"}} {
		if n.count > 0 {
			text += " · " + strconv.FormatUint(n.count, 10) + " " + n.what
		}
	}
	x := c.put(0, 0, cut(text, c.w), style)
	hints := []string{"F1 help", "Tab move", "Ctrl-C quit"}
	for _, b := range v.bindings {
		hints = append(hints, tcell.KeyNames[b.Key]+" "+chat.Clean(b.Label))
	}
	// The first ones are the most important; they stand at the right.
	n, used := 0, 1
	for n < len(hints) && x+used+width(hints[n])+2 <= c.w {
		used += width(hints[n]) + 2
		n++
	}
	at := c.w - used
	for _, h := range hints[:n] {
		at = c.put(at+2, 0, h, v.theme.status)
	}
}

// left is a duration as one reads it from afar.
func left(d time.Duration) string {
	d = d.Truncate(time.Second)
	if d >= time.Hour {
		return strconv.Itoa(int(d.Hours())) + "h" + strconv.Itoa(int(d.Minutes())%60) + "m"
	}
	return d.String()
}
