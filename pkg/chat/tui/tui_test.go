package tui

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode"

	"github.com/gdamore/tcell/v2"
	"github.com/nats-io/nkeys"
	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/herald-nats/herald/pkg/chat"
	"github.com/herald-nats/herald/pkg/ident"
)

// Nothing of a screen may outlive Run.
func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func now() time.Time { return time.Date(2026, 3, 14, 15, 9, 26, 0, time.UTC) }

func label(s string) ident.Label   { return must(ident.ParseLabel(s)) }
func region(s string) ident.Region { return must(ident.ParseRegion(s)) }

// key is always the same nkey for the same number.
func key(n byte) ident.UserKey {
	kp := must(nkeys.FromRawSeed(nkeys.PrefixByteUser, slices.Repeat([]byte{n}, 32)))
	return must(ident.ParseUserKey(must(kp.PublicKey())))
}

// sim is a screen of a certain size: SimulationScreen's Init makes it 80x25.
type sim struct {
	tcell.SimulationScreen
	w, h int
}

func (s sim) Init() error {
	err := s.SimulationScreen.Init()
	s.SetSize(s.w, s.h)
	return err
}

// desk is a running screen, and what is on it.
type desk struct {
	t      testing.TB
	screen sim
	events chan chat.Event
	ended  chan error
	cancel context.CancelFunc
	digest byte

	mu      sync.Mutex
	text    string // what was drawn last
	styles  string
	draws   int
	effects []chat.Effect
	changed chan struct{} // gets something with each draw
}

// open runs a screen with alice at it.
func open(t testing.TB, w, h int, edit func(*Config)) *desk {
	t.Helper()
	s := must(chat.NewState(chat.Config{
		Channels: []ident.Label{label("General"), label("NATS"), label("KUBECON")},
		Name:     must(ident.ParseName("alice")), Key: key(1), Region: region("ams"), Now: now(),
	}))
	d := &desk{
		t: t, screen: sim{tcell.NewSimulationScreen("UTF-8"), w, h},
		events: make(chan chat.Event), ended: make(chan error, 1), changed: make(chan struct{}, 1),
	}
	cfg := Config{
		Screen: d.screen, State: s, Events: d.events, NoColor: true, Location: time.UTC,
		Clock: now, Ticks: make(chan time.Time), drawn: d.snapshot,
		Do: func(e chat.Effect) {
			d.mu.Lock()
			defer d.mu.Unlock()
			d.effects = append(d.effects, e)
		},
		Bindings: []Binding{{Key: tcell.KeyF5, Label: "cut ams", Run: func() {}}},
	}
	if edit != nil {
		edit(&cfg)
	}
	var ctx context.Context
	ctx, d.cancel = context.WithCancel(t.Context())
	go func() { d.ended <- Run(ctx, cfg) }()
	t.Cleanup(d.close)
	d.wait("the first draw", func(string) bool { return true })
	return d
}

// close ends the screen if the test has not.
func (d *desk) close() {
	if d.cancel == nil {
		return
	}
	d.cancel()
	d.cancel = nil
	if err := d.result(); !errors.Is(err, context.Canceled) {
		d.t.Errorf("Run gives %v", err)
	}
}

func (d *desk) result() error {
	d.t.Helper()
	select {
	case err := <-d.ended:
		return err
	case <-time.After(20 * time.Second):
		d.t.Fatal("Run did not return")
		return nil
	}
}

// snapshot takes what is on the screen; on the goroutine that drew it.
func (d *desk) snapshot() {
	cells, w, h := d.screen.GetContents()
	var text, styles strings.Builder
	for y := range h {
		var line strings.Builder
		for x := 0; x < w; x++ {
			c := cells[y*w+x]
			line.WriteString(string(c.Runes))
			if n := width(string(c.Runes)); n > 1 {
				x += n - 1
			}
		}
		text.WriteString(strings.TrimRight(line.String(), " ") + "\n")
		for x := 0; x < w; {
			st := cells[y*w+x].Style
			from := x
			for x < w && cells[y*w+x].Style == st {
				x++
			}
			if st != tcell.StyleDefault {
				fmt.Fprintf(&styles, "row %d, columns %d to %d: %s\n", y, from, x-1, styleName(st))
			}
		}
	}
	if x, y, visible := d.screen.GetCursor(); visible {
		fmt.Fprintf(&styles, "cursor in row %d, column %d\n", y, x)
	}
	d.mu.Lock()
	d.text, d.styles = text.String(), styles.String()
	d.draws++
	d.mu.Unlock()
	select {
	case d.changed <- struct{}{}:
	default:
	}
}

func styleName(s tcell.Style) string {
	fg, bg, attr := s.Decompose()
	var names []string
	for mask, name := range map[tcell.AttrMask]string{tcell.AttrBold: "bold", tcell.AttrReverse: "reverse", tcell.AttrDim: "dim", tcell.AttrItalic: "italic"} {
		if attr&mask != 0 {
			names = append(names, name)
		}
	}
	if s.GetUnderlineStyle() != tcell.UnderlineStyleNone {
		names = append(names, "underline")
	}
	if fg != tcell.ColorDefault || bg != tcell.ColorDefault {
		names = append(names, fmt.Sprintf("%v on %v", fg, bg))
	}
	slices.Sort(names)
	return strings.Join(names, " ")
}

func (d *desk) now() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.text
}

// wait waits for draws until the screen is as is says.
func (d *desk) wait(what string, is func(text string) bool) string {
	d.t.Helper()
	timeout := time.After(20 * time.Second)
	for {
		d.mu.Lock()
		text, draws := d.text, d.draws
		d.mu.Unlock()
		if draws > 0 && is(text) {
			return text
		}
		select {
		case <-d.changed:
		case <-timeout:
			d.t.Fatalf("there was no %s; the screen is\n%s", what, text)
		}
	}
}

func (d *desk) shows(s string) {
	d.t.Helper()
	d.wait(fmt.Sprintf("%q", s), func(text string) bool { return strings.Contains(text, s) })
}

func (d *desk) hides(s string) {
	d.t.Helper()
	d.wait(fmt.Sprintf("screen without %q", s), func(text string) bool { return !strings.Contains(text, s) })
}

func (d *desk) apply(events ...chat.Event) {
	for _, e := range events {
		d.events <- e
	}
}

// send waits until there is room for the event; the loop takes it from another
// goroutine, so that this cannot wait for itself.
func (d *desk) send(ev tcell.Event) { d.screen.PostEventWait(ev) } //nolint:staticcheck // see above

func (d *desk) press(keys ...tcell.Key) {
	for _, k := range keys {
		d.screen.InjectKey(k, 0, tcell.ModNone)
	}
}

func (d *desk) enter(text string) {
	for _, r := range text {
		d.screen.InjectKey(tcell.KeyRune, r, tcell.ModNone)
	}
}

// golden compares the screen with a file; UPDATE_GOLDEN=1 writes the file.
func (d *desk) golden(name string) {
	d.t.Helper()
	d.mu.Lock()
	got := d.text + "\n" + d.styles
	d.mu.Unlock()
	file := filepath.Join("testdata", name+".txt")
	if os.Getenv("UPDATE_GOLDEN") != "" {
		if err := os.WriteFile(file, []byte(got), 0o600); err != nil {
			d.t.Fatal(err)
		}
		return
	}
	if want := string(must(os.ReadFile(file))); got != want {
		d.t.Errorf("the screen is\n%s\nand %s has\n%s", got, file, want)
	}
}

// someone is heard as a verified person.
func (d *desk) comes(n byte, name, in string) chat.Event {
	return chat.Received{Message: chat.Message{
		Kind: chat.KindOnline, From: key(n), Claimed: name, Name: must(ident.ParseName(name)),
		Region: region(in), Sent: now(), Got: now(), Digest: d.next(),
	}}
}

func (d *desk) next() [32]byte {
	d.digest++
	return [32]byte{d.digest}
}

func (d *desk) post(n byte, name, channel, text string) chat.Event {
	return chat.Received{Message: chat.Message{
		Kind: chat.KindPost, From: key(n), Claimed: name, Channel: label(channel), Text: text,
		Sent: now(), Got: now(), Digest: d.next(),
	}}
}

func (d *desk) dm(n byte, name, text string) chat.Event {
	return chat.Received{Message: chat.Message{
		Kind: chat.KindDM, From: key(n), Claimed: name, To: key(1), Text: text,
		Sent: now(), Got: now(), Digest: d.next(),
	}}
}

func (d *desk) conversation() {
	d.apply(
		chat.ConnectionChanged{State: chat.Connected, Region: region("ams")},
		chat.CredentialChanged{Expires: now().Add(29*time.Minute + 58*time.Second)},
		d.comes(2, "bob", "fra"), d.comes(3, "carol", "ams"), d.comes(4, "a-name-that-is-as-long-as-it-may", "nyc"),
		d.post(2, "bob", "General", "good morning, everyone"),
		d.post(3, "carol", "General", "Hello! Here is something longer, so that it takes more than one row on every screen that is at most a hundred columns wide."),
		d.post(9, "bob", "General", "I am bob too, believe me"),
		d.post(2, "bob", "General", "日本語も書けます 👩🏽‍🚀 ok"),
		d.post(2, "bob", "NATS", "elsewhere"), d.post(2, "bob", "NATS", "again"),
		d.dm(3, "carol", "psst"), d.dm(9, "", "who am I?"),
		chat.Input{Text: "my own"}, chat.Sent{Seq: 1},
		chat.Input{Text: "not confirmed yet"},
		chat.Input{Text: "refused"}, chat.Sent{Seq: 3, Err: errors.New("the server refused it")},
		chat.Notice{Text: "a notice"},
	)
	d.shows("-- a notice")
}

func sizes(t *testing.T, f func(t *testing.T, w, h int)) {
	for _, s := range [][2]int{{80, 24}, {120, 40}} {
		t.Run(fmt.Sprintf("%dx%d", s[0], s[1]), func(t *testing.T) { f(t, s[0], s[1]) })
	}
}

func TestGoldens(t *testing.T) {
	sizes(t, func(t *testing.T, w, h int) {
		d := open(t, w, h, nil)
		name := func(s string) string { return fmt.Sprintf("%s-%dx%d", s, w, h) }
		d.golden(name("initial"))
		d.conversation()
		d.golden(name("conversation"))
		d.press(tcell.KeyF1)
		d.shows("Commands")
		d.golden(name("help"))
		d.press(tcell.KeyEscape)
		d.hides("Commands")
		d.golden(name("conversation"))
	})
}

// Text from outside that would colour, link, clear or reorder is drawn as text.
func TestHostile(t *testing.T) {
	hostile := []string{
		"ESC \x1b[2J\x1b[31mred\x1b]0;title\x07", "C1 \u009b2J", "[red]tag[-] [::bu]x", "[:::https://x]hi", "[\"region\"]x[\"\"]",
		"CR \rpaid 99", "newline\n15:09 <bob> forged", "bidi \u202eevil\u202c \u2066x\u2069", "tags \U000e0041\U000e007f",
		"zalgo " + strings.Repeat("a\u0301\u0301\u0301\u0301\u0301\u0301\u0301\u0301", 3), "private \ue000",
	}
	sizes(t, func(t *testing.T, w, h int) {
		for _, cleaned := range []bool{true, false} {
			d := open(t, w, h, nil)
			for _, s := range hostile {
				who := "[red]mallory\x1b[2J"
				if cleaned { // as chat.Decoder does
					s, who = chat.Clean(s), chat.CleanName(who)
				}
				d.apply(d.post(9, who, "General", s))
			}
			d.apply(d.post(9, "end", "General", "end"))
			d.shows("<~end?> end")
			for _, s := range []string{"[red]tag[-] [::bu]x", "[:::https://x]hi", `["region"]x[""]`} {
				if !strings.Contains(d.now(), s) {
					t.Errorf("%q is not shown as it is", s)
				}
			}
			if cleaned {
				d.golden(fmt.Sprintf("hostile-%dx%d", w, h))
			}
			for _, r := range d.now() {
				if r != '\n' && (unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r) || r >= 0xE0000 && r <= 0xE0FFF) {
					t.Errorf("%U is on the screen", r)
				}
			}
			d.mu.Lock()
			styles := d.styles
			d.mu.Unlock()
			for _, line := range strings.Split(styles, "\n") {
				if strings.Contains(line, " on ") { // no colour is ours: NoColor
					t.Errorf("coloured: %s", line)
				}
			}
			d.close()
		}
	})
}

func TestTypingAndSelecting(t *testing.T) {
	d := open(t, 80, 24, nil)
	d.apply(d.comes(2, "bob", "fra"))
	d.enter("hello?")
	d.press(tcell.KeyEnter)
	d.shows("<alice> hello? …")
	d.apply(chat.Sent{Seq: 1})
	d.hides("…")

	// Tab to the lists, down to bob, Enter: back in the input, in bob's conversation.
	d.press(tcell.KeyTab, tcell.KeyDown, tcell.KeyDown, tcell.KeyDown, tcell.KeyDown, tcell.KeyEnter)
	d.shows("bob, online in fra")
	d.enter("hi bob")
	d.press(tcell.KeyEnter)
	d.shows("<alice> hi bob …")

	// In the lists '?' is help, in the input it is a character.
	d.press(tcell.KeyTab)
	d.enter("?")
	d.shows("Commands")
	d.press(tcell.KeyEscape)
	d.hides("Commands")
	d.press(tcell.KeyEscape) // back to the input
	d.enter("/help")
	d.press(tcell.KeyEnter)
	d.shows("Commands")
	d.press(tcell.KeyEscape)

	d.mu.Lock()
	got := fmt.Sprintf("%+v", d.effects)
	d.mu.Unlock()
	if want := fmt.Sprintf("%+v", []chat.Effect{
		chat.SendPost{Seq: 1, Channel: label("General"), Text: "hello?"},
		chat.SendDM{Seq: 2, Keys: []ident.UserKey{key(2)}, Text: "hi bob"},
	}); got != want {
		t.Errorf("effects\n%s, want\n%s", got, want)
	}

	d.enter("/quit")
	d.press(tcell.KeyEnter)
	if err := d.result(); err != nil {
		t.Errorf("Run gives %v", err)
	}
	d.cancel = nil
}

func TestPaste(t *testing.T) {
	d := open(t, 80, 24, nil)
	paste := func(s string) {
		d.send(tcell.NewEventPaste(true))
		for _, r := range s {
			if r == '\r' {
				d.press(tcell.KeyEnter)
			} else {
				d.enter(string(r))
			}
		}
		d.send(tcell.NewEventPaste(false))
	}
	paste("one\rtwo\u202e three\r")
	d.shows("> one two three")
	d.mu.Lock()
	if len(d.effects) != 0 {
		t.Errorf("a paste was sent: %+v", d.effects)
	}
	d.mu.Unlock()
}

func TestScrolling(t *testing.T) {
	d := open(t, 80, 24, nil)
	for i := range 200 {
		d.apply(d.post(2, "bob", "General", fmt.Sprintf("line %03d", i)))
	}
	d.shows("line 199")
	d.press(tcell.KeyPgUp)
	d.shows("↓ 19 more")
	// What comes while one reads does not move it.
	d.apply(d.post(2, "bob", "General", "line 200"))
	text := d.wait("one more below", func(s string) bool { return strings.Contains(s, "↓ 20 more") })
	if !strings.Contains(text, "line 180") || strings.Contains(text, "line 181") {
		t.Errorf("the screen moved:\n%s", text)
	}
	// To the first line and no further.
	d.press(tcell.KeyBacktab, tcell.KeyHome)
	d.shows("line 000")
	d.press(tcell.KeyUp, tcell.KeyPgUp, tcell.KeyDown)
	text = d.wait("second line on top", func(s string) bool { return !strings.Contains(s, "line 000") })
	if !strings.Contains(text, "line 001") || !strings.Contains(text, "line 020") {
		t.Errorf("the page is not full:\n%s", text)
	}
	d.press(tcell.KeyEnd)
	d.shows("line 200")
	d.hides("more")
	for range 15 {
		d.press(tcell.KeyPgUp)
	}
	d.shows("line 000")
	// Sending goes to the end.
	d.press(tcell.KeyEscape)
	d.enter("me")
	d.press(tcell.KeyEnter)
	d.shows("<alice> me")
}

func TestResize(t *testing.T) {
	d := open(t, 80, 24, nil)
	d.conversation()
	d.screen.SetSize(60, 12)
	d.send(tcell.NewEventResize(60, 12))
	d.wait("smaller screen", func(s string) bool { return strings.Count(s, "\n") == 12 && strings.Contains(s, "-- a notice") })
	d.screen.SetSize(30, 5)
	d.send(tcell.NewEventResize(30, 5))
	d.wait("screen without lists", func(s string) bool {
		return strings.Count(s, "\n") == 5 && !strings.Contains(s, "Channels") && strings.Contains(s, "-- a notice")
	})
}

// Whatever is pressed, whatever comes and however small the screen is, nothing
// panics.
func TestAnything(t *testing.T) {
	keys := []tcell.Key{
		tcell.KeyTab, tcell.KeyBacktab, tcell.KeyEnter, tcell.KeyEscape, tcell.KeyF1, tcell.KeyF5, tcell.KeyUp, tcell.KeyDown,
		tcell.KeyLeft, tcell.KeyRight, tcell.KeyHome, tcell.KeyEnd, tcell.KeyPgUp, tcell.KeyPgDn, tcell.KeyBackspace2, tcell.KeyDelete,
		tcell.KeyCtrlW, tcell.KeyCtrlU, tcell.KeyCtrlV, tcell.KeyCtrlL, tcell.KeyCtrlZ,
	}
	rapid.Check(t, func(rt *rapid.T) {
		d := &desk{t: t}
		screen := sim{tcell.NewSimulationScreen("UTF-8"), 80, 24}
		must(0, screen.Init())
		defer screen.Fini()
		s := must(chat.NewState(chat.Config{Channels: []ident.Label{label("General"), label("NATS")}, Name: must(ident.ParseName("alice")), Key: key(1), Now: now()}))
		cfg := Config{State: s, Clock: now, Location: time.UTC, Do: func(chat.Effect) {}, Bindings: []Binding{{tcell.KeyF5, "x", func() {}}}}
		u := &ui{cfg: cfg, screen: screen, view: newView(cfg)}
		names := rapid.SampledFrom([]string{"bob", "carol", "dave"})
		who := rapid.ByteRange(2, 9)
		rt.Repeat(map[string]func(*rapid.T){
			"key":  func(r *rapid.T) { u.terminal(tcell.NewEventKey(rapid.SampledFrom(keys).Draw(r, "key"), 0, 0)) },
			"rune": func(r *rapid.T) { u.terminal(tcell.NewEventKey(tcell.KeyRune, rapid.Rune().Draw(r, "rune"), 0)) },
			"text": func(r *rapid.T) {
				for _, c := range rapid.SampledFrom([]string{"?", "hi", "/help", "/who", "/msg @bob x"}).Draw(r, "text") {
					u.terminal(tcell.NewEventKey(tcell.KeyRune, c, 0))
				}
				u.terminal(tcell.NewEventKey(tcell.KeyEnter, 0, 0))
			},
			"size": func(r *rapid.T) {
				screen.SetSize(rapid.IntRange(0, 130).Draw(r, "w"), rapid.IntRange(0, 45).Draw(r, "h"))
				u.terminal(tcell.NewEventResize(screen.Size()))
			},
			"comes": func(r *rapid.T) { u.apply(d.comes(who.Draw(r, "key"), names.Draw(r, "name"), "ams")) },
			"post": func(r *rapid.T) {
				u.apply(d.post(who.Draw(r, "key"), names.Draw(r, "name"), "General", rapid.String().Draw(r, "text")))
			},
			"dm": func(r *rapid.T) { u.apply(d.dm(who.Draw(r, "key"), names.Draw(r, "name"), "hi")) },
			"":   func(*rapid.T) { u.draw() },
		})
	})
}

// A burst of messages is drawn a few times, not once for each.
func TestBurst(t *testing.T) {
	d := open(t, 80, 24, nil)
	begin := time.Now()
	m, ok := d.post(2, "bob", "General", "x").(chat.Received)
	if !ok {
		t.Fatal("not a message")
	}
	for i := range 20000 {
		m.Message.Digest = [32]byte{1, 2, byte(i), byte(i >> 8), byte(i >> 16)}
		d.apply(m)
	}
	d.apply(d.post(2, "bob", "General", "last"))
	d.shows("last")
	d.mu.Lock()
	defer d.mu.Unlock()
	if most := 3 + int(time.Since(begin)/frame); d.draws > most {
		t.Errorf("%d draws, at most %d", d.draws, most)
	}
}

func TestEnding(t *testing.T) {
	t.Run("Ctrl-C", func(t *testing.T) {
		d := open(t, 80, 24, nil)
		d.press(tcell.KeyCtrlC)
		if err := d.result(); err != nil {
			t.Errorf("Run gives %v", err)
		}
		d.cancel = nil
	})
	t.Run("while events and keys come", func(t *testing.T) {
		d := open(t, 80, 24, nil)
		stop := make(chan struct{})
		var wg sync.WaitGroup
		wg.Go(func() {
			for {
				select {
				case d.events <- chat.Tick{}:
				case <-stop:
					return
				}
			}
		})
		wg.Go(func() {
			for range 50 {
				d.enter("x") // returns when the screen is finished
			}
		})
		d.shows("> xxx")
		d.close()
		close(stop)
		wg.Wait()
	})
	t.Run("events end first", func(t *testing.T) {
		d := open(t, 80, 24, nil)
		close(d.events)
		d.shows("NOT CONNECTED: closed")
		d.enter("still alive")
		d.shows("> still alive")
	})
	t.Run("not set up", func(t *testing.T) {
		if err := Run(t.Context(), Config{}); err == nil {
			t.Error("no error without a state")
		}
	})
}

func TestBindings(t *testing.T) {
	pressed := make(chan struct{}, 1)
	d := open(t, 80, 24, func(c *Config) {
		c.Bindings = []Binding{{Key: tcell.KeyF5, Label: "cut ams", Run: func() { pressed <- struct{}{} }}}
	})
	d.press(tcell.KeyF5)
	select {
	case <-pressed:
	case <-time.After(20 * time.Second):
		t.Error("F5 did nothing")
	}
	d.press(tcell.KeyF1)
	d.shows("cut ams")
}

func TestWrap(t *testing.T) {
	for _, c := range []struct {
		text        string
		first, rest int
		want        []string
	}{
		{"", 5, 5, []string{""}},
		{"one two three", 7, 9, []string{"one two", "three"}},
		{"one two", 3, 3, []string{"one", "two"}},
		{"longwordhere", 5, 5, []string{"longw", "ordhe", "re"}},
		{"longwordhere", 2, 12, []string{"", "longwordhere"}},
		{"日本語", 4, 4, []string{"日本", "語"}},
		{"日本", 1, 1, []string{"日", "本"}},
		{"a  b", 1, 1, []string{"a", "b"}},
		{"x", 0, -3, []string{"x"}},
	} {
		if got := wrap(c.text, c.first, c.rest); !slices.Equal(got, c.want) {
			t.Errorf("wrap(%q, %d, %d) = %q, want %q", c.text, c.first, c.rest, got, c.want)
		}
	}
}

func FuzzWrap(f *testing.F) {
	f.Add("one two three", 7, 9)
	f.Add("日本語 👩🏽‍🚀", 1, 2)
	f.Fuzz(func(t *testing.T, s string, first, rest int) {
		s = chat.Clean(s)
		rows := wrap(s, first, rest)
		if got := strings.ReplaceAll(strings.Join(rows, ""), " ", ""); got != strings.ReplaceAll(s, " ", "") {
			t.Fatalf("%q became %q", s, got)
		}
		if len(rows) > len(s)+1 {
			t.Fatalf("%d rows", len(rows))
		}
	})
}

// FuzzCells draws whatever there is, cleaned or not: no control character may
// reach a cell.
func FuzzCells(f *testing.F) {
	for _, s := range []string{"hi", "\x1b[2J", "[red]x", "a\u0301\u0301", "\u200d\u200d", "\u1100\u1100", "👩🏽‍🚀", "\xff"} {
		f.Add(s, 10)
	}
	f.Fuzz(func(t *testing.T, s string, w int) {
		screen := sim{tcell.NewSimulationScreen("UTF-8"), 20, 1}
		if err := screen.Init(); err != nil {
			t.Fatal(err)
		}
		defer screen.Fini()
		c := cells{screen, 0, 0, min(max(w, 0), 20), 1}
		if x := c.put(0, 0, s, tcell.StyleDefault); x > c.w {
			t.Fatalf("wrote up to %d of %d", x, c.w)
		}
		screen.Show()
		got, _, _ := screen.GetContents()
		for _, cell := range got {
			for _, r := range string(cell.Bytes) {
				if unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r) {
					t.Fatalf("%U is on the screen", r)
				}
			}
		}
		if n := width(cut(s, w)); w > 0 && n > w {
			t.Fatalf("cut to %d gives %d", w, n)
		}
	})
}

// Drawing costs what is seen, not what there is.
func BenchmarkDraw(b *testing.B) {
	for _, lines := range []int{100, chat.MaxLines} {
		b.Run(fmt.Sprint(lines), func(b *testing.B) {
			s := must(chat.NewState(chat.Config{Channels: []ident.Label{label("General")}, Name: must(ident.ParseName("alice")), Key: key(1), Now: now()}))
			for i := range lines {
				s.Apply(now(), chat.Received{Message: chat.Message{
					Kind: chat.KindPost, From: key(2), Claimed: "bob", Channel: label("General"),
					Text: strings.Repeat("some words ", 20), Digest: [32]byte{byte(i), byte(i >> 8)},
				}})
			}
			screen := sim{tcell.NewSimulationScreen("UTF-8"), 120, 40}
			if err := screen.Init(); err != nil {
				b.Fatal(err)
			}
			defer screen.Fini()
			v := newView(Config{State: s, Location: time.UTC})
			for b.Loop() {
				v.draw(screen, 120, 40)
			}
		})
	}
}
