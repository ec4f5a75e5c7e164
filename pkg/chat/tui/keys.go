package tui

import (
	"github.com/gdamore/tcell/v2"
	"github.com/rivo/tview"

	"github.com/herald-nats/herald/pkg/chat"
)

// terminal takes what the terminal says: keys, pastes, a new size.
func (u *ui) terminal(ev tcell.Event) {
	switch ev := ev.(type) {
	case *tcell.EventResize:
		u.resync = true
	case *tcell.EventPaste:
		u.pasting = ev.Start()
		if ev.End() {
			u.paste()
		}
	case *tcell.EventKey:
		if u.pasting {
			u.collect(ev)
			return
		}
		u.apply(chat.Activity{})
		u.key(ev)
	}
}

// collect takes one character of a paste. What is longer than any message is
// not kept.
func (u *ui) collect(ev *tcell.EventKey) {
	r := ev.Rune()
	switch ev.Key() {
	case tcell.KeyEnter, tcell.KeyCtrlJ:
		r = '\n'
	case tcell.KeyTab:
		r = '\t'
	case tcell.KeyRune:
	default:
		return
	}
	if len(u.pasted) < chat.MaxText {
		u.pasted = append(u.pasted, r)
	}
}

// paste puts what was pasted into the input. Lines become one: a paste never
// sends, and what is pasted may come from anyone, so that it is cleaned as a
// message is.
func (u *ui) paste() {
	text := chat.Clean(string(u.pasted))
	u.pasted = nil
	if text == "" {
		return
	}
	u.view.focus = onInput
	u.view.input.PasteHandler()(text, func(tview.Primitive) {})
}

// key takes one key: the help page's first, then those that hold everywhere,
// then those of where the focus is.
func (u *ui) key(ev *tcell.EventKey) {
	v := u.view
	switch {
	case ev.Key() == tcell.KeyCtrlC:
		u.done = true
	case v.help.open:
		v.help.key(ev)
	case u.anywhere(ev):
	case v.focus == onInput:
		u.typed(ev)
	case ev.Key() == tcell.KeyRune && ev.Rune() == '?':
		v.help.open = true
	case v.focus == onLists:
		u.listKey(ev)
	default:
		v.messages.key(ev)
	}
}

func (u *ui) anywhere(ev *tcell.EventKey) bool {
	v := u.view
	switch ev.Key() {
	case tcell.KeyF1:
		v.help.open = true
	case tcell.KeyTab:
		v.turn(1)
	case tcell.KeyBacktab:
		v.turn(-1)
	case tcell.KeyEscape:
		v.focus = onInput
	case tcell.KeyPgUp:
		v.messages.page(1)
	case tcell.KeyPgDn:
		v.messages.page(-1)
	case tcell.KeyCtrlL:
		u.resync = true
	default:
		for _, b := range u.cfg.Bindings {
			if b.Key == ev.Key() {
				b.Run()
				return true
			}
		}
		return false
	}
	return true
}

// typed takes a key in the input.
func (u *ui) typed(ev *tcell.EventKey) {
	v := u.view
	if ev.Key() != tcell.KeyEnter {
		v.input.InputHandler()(ev, func(tview.Primitive) {})
		return
	}
	text := v.input.GetText()
	v.input.SetText("")
	v.messages.follow()
	u.apply(chat.Input{Text: text})
}

// listKey takes a key in the lists: the cursor goes through channels and people
// as through one list.
func (u *ui) listKey(ev *tcell.EventKey) {
	s := u.view.sidebar
	switch ev.Key() {
	case tcell.KeyUp:
		s.move(-1)
	case tcell.KeyDown:
		s.move(1)
	case tcell.KeyHome:
		s.move(-len(s.entries()))
	case tcell.KeyEnd:
		s.move(len(s.entries()))
	case tcell.KeyEnter:
		u.apply(chat.Select{Place: s.cursor})
		u.view.messages.follow()
		u.view.focus = onInput
	}
}
