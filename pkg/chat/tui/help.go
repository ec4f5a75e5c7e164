package tui

import (
	"github.com/gdamore/tcell/v2"

	"github.com/herald-nats/herald/pkg/chat"
)

// help is the page of keys, commands and signs, over everything else.
type help struct {
	theme theme
	lines []helpLine
	open  bool
	top   int // the first line that is drawn
	h     int // how many are drawn
}

type helpLine struct{ left, right string } // right empty: a heading

func helpLines(bindings []Binding) []helpLine {
	lines := []helpLine{
		{"Keys", ""},
		{"Tab, Shift-Tab", "input, lists, messages"},
		{"Up, Down", "move in the lists, scroll the messages"},
		{"Enter", "open a conversation; send"},
		{"PgUp, PgDn", "scroll the messages"},
		{"Esc", "back to the input"},
		{"F1, or ? in a list", "this page"},
		{"Ctrl-C", "quit"},
	}
	for _, b := range bindings {
		lines = append(lines, helpLine{tcell.KeyNames[b.Key], chat.Clean(b.Label)})
	}
	lines = append(lines, helpLine{"Commands", ""})
	for _, c := range chat.Commands() {
		lines = append(lines, helpLine{c.Usage, c.What})
	}
	return append(
		lines, helpLine{"Signs", ""},
		helpLine{"◆ ◇ ·", "online, away, offline"},
		helpLine{"●3", "three unread messages"},
		helpLine{"~name?", "not verified: may be anyone"},
		helpLine{"…  ✗", "not yet sent; not sent"},
	)
}

// key scrolls where not all lines fit; every other key closes the page.
func (p *help) key(ev *tcell.EventKey) {
	switch ev.Key() {
	case tcell.KeyUp:
		p.top--
	case tcell.KeyDown:
		p.top++
	case tcell.KeyPgUp:
		p.top -= p.h
	case tcell.KeyPgDn:
		p.top += p.h
	default:
		p.open = false
		p.top = 0
	}
}

func (p *help) draw(c cells) {
	if !p.open {
		return
	}
	const left, full = 21, 64
	w := min(full, c.w)
	p.h = min(len(p.lines), max(1, c.h-2))
	p.top = min(max(p.top, 0), len(p.lines)-p.h)
	box := cells{c.screen, c.x + (c.w-w)/2, c.y + max(0, (c.h-p.h-2)/2), w, min(c.h, p.h+2)}
	p.frame(box)
	for y := range p.h {
		l := p.lines[p.top+y]
		style := p.theme.plain
		if l.right == "" {
			style = p.theme.title
		}
		in := cells{c.screen, box.x + 2, box.y + 1 + y, max(0, w-4), 1}
		if box.h < 3 {
			in.y = box.y
		}
		x := in.put(0, 0, cut(l.left, in.w), style)
		in.put(max(left, x+1), 0, cut(l.right, in.w-max(left, x+1)), p.theme.plain)
	}
}

func (p *help) frame(c cells) {
	for y := range c.h {
		c.fill(0, y, " ", p.theme.plain)
		c.put(0, y, "│", p.theme.plain)
		c.put(c.w-1, y, "│", p.theme.plain)
	}
	if c.h < 3 {
		return
	}
	for y, ends := range map[int][2]string{0: {"┌", "┐"}, c.h - 1: {"└", "┘"}} {
		c.fill(0, y, "─", p.theme.plain)
		c.put(0, y, ends[0], p.theme.plain)
		c.put(c.w-1, y, ends[1], p.theme.plain)
	}
	if p.top > 0 {
		c.put(c.w-3, 0, "↑", p.theme.bold)
	}
	if p.top+p.h < len(p.lines) {
		c.put(c.w-3, c.h-1, "↓", p.theme.bold)
	}
	c.put(2, c.h-1, " any other key closes this page ", p.theme.plain)
}
