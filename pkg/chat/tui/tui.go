// Package tui draws the chat on a terminal and turns keys into events. What is
// shown and what a command does is chat.State's matter; nothing here is decided
// twice.
//
// # Text from outside
//
// It has been through chat.Clean where it came in. Here it is only ever given
// to cells.put, which writes it to the screen character by character; never to
// a widget of tview that reads tags, such as a List, a title or a Table: those
// take "[:::https://x]" for a link, and tview.Escape does not prevent that.
// The one widget that is used is the InputField, which shows what the user
// types and reads tags in its label only.
//
// # Goroutines
//
// Run's own goroutine owns the State and the screen: keys, events and draws are
// its turns, so that there is no lock, and nobody has to queue anything for
// anyone (tview.Application's QueueUpdateDraw can wait for ever; it is not
// used). One more goroutine brings keys from the terminal; Run waits for it.
package tui

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/gdamore/tcell/v2"

	"github.com/herald-nats/herald/pkg/chat"
)

const (
	// frame is the least time between two draws, so that a burst of messages
	// costs one.
	frame = time.Second / 30
	// burst is how many events are applied before keys are looked at again.
	burst = 512
	// bellGap is the least time between two bells.
	bellGap = 2 * time.Second
)

// Config is what Run needs. Fields without a default must be set.
type Config struct {
	// Screen is where it is drawn; nil is the terminal. It must not have been
	// initialized, and is finished when Run returns.
	Screen tcell.Screen
	// State is Run's from its call to its return.
	State *chat.State
	// Events are applied to State in order. When the channel is closed, the chat
	// goes on without.
	Events <-chan chat.Event
	// Do carries out an effect that is not the screen's: everything but Quit and
	// ShowHelp. It is called on the goroutine that draws and reads keys, and so
	// must not wait for anything; bus.Bus.Do does not.
	Do func(chat.Effect)
	// Bindings are more keys, for whoever embeds the chat.
	Bindings []Binding
	// NoColor draws without colours. Nothing is told by colour alone. (tcell
	// also obeys the variable NO_COLOR, but only on a real terminal.)
	NoColor bool
	// Location is the time zone of the times that are shown; nil is time.Local.
	Location *time.Location
	// Clock gives the time of events; nil is time.Now.
	Clock func() time.Time
	// Ticks drives what changes with time alone; nil is once a second.
	Ticks <-chan time.Time

	drawn func() // for tests: a draw is on the screen
}

// Binding is a key that does something else than chatting.
type Binding struct {
	Key   tcell.Key // a function key; F1 and the keys of the chat cannot be bound
	Label string    // one or two words, for the status line and the help
	// Run is called on the goroutine that draws: it must not wait for anything.
	Run func()
}

// ui is one run. Only the goroutine of loop touches it.
type ui struct {
	cfg    Config
	screen tcell.Screen
	view   *view

	keys   chan tcell.Event
	timer  *time.Timer // the next draw
	armed  bool        // timer runs
	last   time.Time   // of the last draw; by the machine's clock, not by Clock
	resync bool        // the next draw repaints everything
	bell   time.Time   // the last bell
	done   bool

	pasting bool
	pasted  []rune
}

// Run shows the chat until the user quits (nil) or ctx ends (its error). When it
// returns, the terminal is as it was, and no goroutine of it is left.
func Run(ctx context.Context, cfg Config) (err error) {
	if cfg.State == nil || cfg.Do == nil {
		return errors.New("chat screen: state and Do are required")
	}
	if cfg.Clock == nil {
		cfg.Clock = time.Now
	}
	if cfg.Location == nil {
		cfg.Location = time.Local
	}
	if cfg.Ticks == nil {
		t := time.NewTicker(time.Second)
		defer t.Stop()
		cfg.Ticks = t.C
	}
	if cfg.Screen == nil {
		if cfg.Screen, err = tcell.NewScreen(); err != nil {
			return fmt.Errorf("opening the terminal: %w", err)
		}
	}
	if err := cfg.Screen.Init(); err != nil {
		return fmt.Errorf("opening the terminal: %w", err)
	}
	u := &ui{cfg: cfg, screen: cfg.Screen, view: newView(cfg), keys: make(chan tcell.Event), timer: time.NewTimer(0)}
	u.armed = true // the first draw
	defer u.timer.Stop()
	defer func() {
		// Also when something panics: the terminal must be usable to read that.
		u.screen.Fini()
		for range u.keys { //nolint:revive // until the goroutine has ended
		}
	}()
	u.screen.EnablePaste()
	go u.screen.ChannelEvents(u.keys, nil) // closes keys when the screen is finished
	return u.loop(ctx)
}

func (u *ui) loop(ctx context.Context) error {
	for !u.done {
		select {
		case <-ctx.Done():
			return fmt.Errorf("chat: %w", ctx.Err())
		case ev, ok := <-u.keys:
			if !ok {
				return errors.New("chat: the terminal is gone")
			}
			if err, ok := ev.(*tcell.EventError); ok {
				return fmt.Errorf("reading the terminal: %w", err)
			}
			u.terminal(ev)
		case e, ok := <-u.cfg.Events:
			u.gather(e, ok)
		case <-u.cfg.Ticks:
			u.apply(chat.Tick{})
		case <-u.timer.C:
			u.armed = false
			u.draw()
			continue
		}
		u.arm()
	}
	return nil
}

// gather applies an event and those that wait behind it.
func (u *ui) gather(e chat.Event, ok bool) {
	for range burst {
		if !ok {
			u.cfg.Events = nil // a nil channel is never ready
			e = chat.ConnectionChanged{State: chat.Closed}
		}
		u.apply(e)
		select {
		case e, ok = <-u.cfg.Events:
		default:
			return
		}
	}
}

// apply gives an event to the State and has done what it asks for.
func (u *ui) apply(e chat.Event) {
	for _, eff := range u.cfg.State.Apply(u.cfg.Clock(), e) {
		switch eff := eff.(type) {
		case chat.Quit:
			u.done = true
		case chat.ShowHelp:
			u.view.help.open = true
		case chat.Notify:
			u.ring()
			u.cfg.Do(eff)
		default:
			u.cfg.Do(eff)
		}
	}
}

// ring rings the bell, but not all the time.
func (u *ui) ring() {
	if now := time.Now(); now.Sub(u.bell) >= bellGap {
		u.bell = now
		_ = u.screen.Beep() // a terminal without a bell stays silent
	}
}

// arm has a draw happen soon: at once if the last one is long ago.
func (u *ui) arm() {
	if u.armed {
		return
	}
	u.armed = true
	u.timer.Reset(max(0, frame-time.Since(u.last)))
}

func (u *ui) draw() {
	u.last = time.Now()
	u.screen.HideCursor()
	u.screen.Clear()
	w, h := u.screen.Size()
	u.view.draw(u.screen, w, h)
	if u.resync {
		u.resync = false
		u.screen.Sync()
	} else {
		u.screen.Show()
	}
	if u.cfg.drawn != nil {
		u.cfg.drawn()
	}
}
