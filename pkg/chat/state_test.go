package chat_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/herald-nats/herald/pkg/chat"
	"github.com/herald-nats/herald/pkg/ident"
)

// desk is alice's chat: its state, and a clock that only moves when told.
type desk struct {
	*chat.State
	wire
	now time.Time
	me  user
}

func newDesk(t testing.TB) *desk {
	t.Helper()
	d := &desk{wire: newWire(t), now: start(), me: newUser(1, "alice")}
	s, err := chat.NewState(chat.Config{
		Channels: []ident.Label{label("General"), label("NATS")},
		Name:     d.me.name, Key: d.me.key, Region: region("ams"), Now: d.now,
	})
	if err != nil {
		t.Fatal(err)
	}
	d.State = s
	return d
}

func (d *desk) apply(e chat.Event) []chat.Effect  { return d.Apply(d.now, e) }
func (d *desk) later(by time.Duration)            { d.now = d.now.Add(by) }
func (d *desk) enter(text string) []chat.Effect   { return d.apply(chat.Input{Text: text}) }
func (d *desk) hear(m chat.Message) []chat.Effect { return d.apply(chat.Received{Message: m}) }
func (d *desk) comes(u user)                      { d.hear(d.online(u, chat.Here, d.now)) }
func (d *desk) says(u user, channel, text string) { d.hear(d.post(u, channel, text, d.now)) }
func (d *desk) tells(u user, text string) []chat.Effect {
	return d.hear(d.dm(u, d.me.key, text, d.now))
}

// view is what is shown of the selected conversation: "author: text".
func (d *desk) view() []string {
	var out []string
	first, end := d.Lines()
	for i := first; i < end; i++ {
		l := d.Line(i)
		s := l.Text
		if !l.Notice {
			s = d.Author(l).Label + ": " + s
		}
		if l.Pending {
			s += " …"
		}
		if l.Failed != "" {
			s += " !" + l.Failed
		}
		out = append(out, s)
	}
	return out
}

// people is the list of people: "label presence unread".
func (d *desk) people() []string {
	var out []string
	for _, e := range d.People() {
		out = append(out, fmt.Sprintf("%s %s %d", e.Label, e.Presence, e.Unread))
	}
	return out
}

func (d *desk) want(what string, got, want []string) {
	d.t.Helper()
	if !slices.Equal(got, want) {
		d.t.Errorf("%s:\n got %q\nwant %q", what, got, want)
	}
}

func TestPosts(t *testing.T) {
	d := newDesk(t)
	bob := newUser(2, "bob")
	d.comes(bob)
	d.says(bob, "General", "hi")
	d.says(bob, "NATS", "elsewhere")
	d.want("General", d.view(), []string{"bob: hi"})
	if ch := d.Channels(); ch[0].Unread != 0 || ch[1].Unread != 1 {
		t.Errorf("channels: %+v", ch)
	}
	d.apply(chat.Select{Place: chat.Place{Channel: label("NATS")}})
	d.want("NATS", d.view(), []string{"bob: elsewhere"})
	if ch := d.Channels(); ch[1].Unread != 0 {
		t.Errorf("channels: %+v", ch)
	}
	// A channel that is not ours, and a direct message that is not for us.
	d.says(bob, "Other", "x")
	d.hear(d.dm(bob, bob.key, "x", d.now))
	d.apply(chat.Select{Place: chat.Place{Channel: label("Other")}})
	if d.Selected() != (chat.Place{Channel: label("NATS")}) {
		t.Error("a channel that does not exist was selected")
	}
}

func TestSending(t *testing.T) {
	d := newDesk(t)
	eff := d.enter("hello")
	d.want("sent", d.view(), []string{"alice: hello …"})
	p, ok := eff[0].(chat.SendPost)
	if !ok || p.Text != "hello" || p.Channel != label("General") {
		t.Fatalf("effects %+v", eff)
	}
	d.apply(chat.Sent{Seq: p.Seq})
	d.want("confirmed", d.view(), []string{"alice: hello"})
	if q, ok := d.enter("//slash")[0].(chat.SendPost); !ok || q.Text != "/slash" {
		t.Errorf("//slash gives %+v", q)
	} else {
		d.apply(chat.Sent{Seq: q.Seq, Err: errors.New("refused\x1b[2J")})
	}
	d.want("refused", d.view(), []string{"alice: hello", "alice: /slash !refused[2J"})
	if eff := d.enter("  "); len(eff) != 0 {
		t.Errorf("nothing entered gives %+v", eff)
	}
	if eff := d.enter(strings.Repeat("x", chat.MaxText+1)); len(eff) != 0 {
		t.Errorf("a text that is too long gives %+v", eff)
	}
}

func TestWhoIsBelieved(t *testing.T) {
	d := newDesk(t)
	bob, mallory := newUser(2, "bob"), newUser(9, "mallory")

	d.says(bob, "General", "am I bob?")
	d.want("before the heartbeat", d.view(), []string{"~bob?: am I bob?"})
	d.comes(bob)
	d.want("after it", d.view(), []string{"bob: am I bob?"})

	// mallory writes as bob, and sends heartbeats as bob with bob's user JWT.
	as := mallory.encoderAs("KUBECON", "bob")
	o, err := as.Post(label("General"), "I am bob", d.now)
	must(err)
	d.hear(d.decode(o, d.now))
	o, err = as.Online(bob.jwt(), region("ams"), chat.Here, d.now)
	must(err)
	d.hear(d.decode(o, d.now))
	d.want("an nkey that is not bob's", d.view(), []string{"bob: am I bob?", "~bob?: I am bob"})
	d.later(time.Second)
	d.comes(mallory)
	d.hear(d.decode(o, d.now))
	d.want("when it is known whose it is", d.view(), []string{"bob: am I bob?", "~bob?: I am bob"})
	if a := d.Author(d.Line(1)); a.Doubt != chat.OtherName {
		t.Errorf("doubt: %v", a.Doubt)
	}
	d.want("people", d.people(), []string{"alice online 0", "bob online 0", "mallory online 0"})
}

func TestReplays(t *testing.T) {
	d := newDesk(t)
	bob := newUser(2, "bob")
	d.comes(bob)
	m := d.post(bob, "General", "pay mallory", d.now)
	d.hear(m)
	d.hear(m)
	d.want("at once", d.view(), []string{"bob: pay mallory"})
	if n := d.Status().Replayed; n != 1 {
		t.Errorf("%d counted", n)
	}
	beat := d.online(bob, chat.Here, d.now)
	d.hear(beat)
	d.later(chat.HeartbeatLives)
	beat.Got = d.now
	d.hear(beat)
	d.later(10 * time.Second)
	d.apply(chat.Tick{})
	d.want("a heartbeat that is kept does not keep bob here", d.people(), []string{"alice online 0", "bob offline 0"})
}

func TestPresence(t *testing.T) {
	d := newDesk(t)
	bob := newUser(2, "bob")
	d.comes(bob)
	d.want("there", d.people(), []string{"alice online 0", "bob online 0"})
	d.later(time.Second)
	d.hear(d.online(bob, chat.Away, d.now))
	d.want("away", d.people(), []string{"alice online 0", "bob away 0"})
	d.later(time.Second)
	d.hear(d.online(bob, chat.Gone, d.now))
	d.want("said goodbye", d.people(), []string{"alice online 0", "bob offline 0"})
	d.later(time.Second)
	d.comes(bob)
	d.later(70 * time.Second)
	d.apply(chat.Tick{})
	d.want("not heard for long", d.people(), []string{"alice online 0", "bob offline 0"})
	d.later(11 * time.Minute)
	d.apply(chat.Tick{})
	d.want("gone for long", d.people(), []string{"alice online 0"})
}

func TestDirectMessages(t *testing.T) {
	d := newDesk(t)
	bob, phone := newUser(2, "bob"), newUser(3, "bob")
	d.enter("/msg @bob hi")
	d.want("nobody has heard of bob", d.view(), []string{"nobody called bob has been heard"})

	eff := d.tells(bob, "first")
	if n, ok := eff[0].(chat.Notify); !ok || n.From != "~bob?" {
		t.Errorf("effects %+v", eff)
	}
	d.want("a stranger", d.people(), []string{"alice online 0", "~bob? offline 1"})
	d.apply(chat.Select{Place: chat.Place{Key: bob.key}})
	d.comes(bob)
	if d.Selected() != (chat.Place{Person: bob.name}) {
		t.Errorf("selected: %+v", d.Selected())
	}
	d.want("known now", d.view(), []string{"bob: first"})

	// The second device is the same person.
	d.comes(phone)
	d.tells(phone, "from my phone")
	d.want("both devices", d.view(), []string{"bob: first", "bob: from my phone"})
	d.want("one person", d.people(), []string{"alice online 0", "bob online 0"})
	eff = d.enter("/msg @bob to both")
	if m, ok := eff[0].(chat.SendDM); !ok || len(m.Keys) != 2 || m.Text != "to both" {
		t.Errorf("effects %+v", eff)
	}
	d.later(2 * time.Minute)
	d.comes(phone)
	eff = d.enter("one left")
	if m, ok := eff[0].(chat.SendDM); !ok || len(m.Keys) != 1 || m.Keys[0] != phone.key {
		t.Errorf("effects %+v", eff)
	}
	d.later(2 * time.Minute)
	if eff = d.enter("none left"); len(eff) != 0 {
		t.Errorf("effects %+v", eff)
	}
}

func TestCommands(t *testing.T) {
	d := newDesk(t)
	bob := newUser(2, "bob")
	d.comes(bob)
	for in, want := range map[string]string{
		"/quit":       "chat.Quit{}",
		"/help":       "chat.ShowHelp{}",
		"/snoop @bob": fmt.Sprintf("%#v", chat.Snoop{Name: bob.name, Key: bob.key}),
	} {
		if got := fmt.Sprintf("%#v", d.enter(in)[0]); got != want {
			t.Errorf("%s gives %s, want %s", in, got, want)
		}
	}
	d = newDesk(t)
	d.comes(bob)
	d.enter("/who")
	d.enter("/nonsense\x1b[2J x")
	d.enter("/snoop @")
	d.enter("/msg")
	d.apply(chat.SnoopResult{Name: bob.name, Err: errors.New(`Permissions Violation for Subscription to "x"`)})
	d.want("notices", d.view(), []string{
		"alice is online in ams (you)",
		"bob is online in ams",
		"there is no command /nonsense[2J; /help lists them, and a text that begins with / is written with //",
		"usage: /snoop @name",
		"usage: /msg @name text",
		`the server's answer: Permissions Violation for Subscription to "x"`,
	})
}

func TestConnectionAndCredential(t *testing.T) {
	d := newDesk(t)
	d.apply(chat.ConnectionChanged{State: chat.Connected, Region: region("ams")})
	// A renewal takes milliseconds and is no outage, but it is a gap.
	d.apply(chat.ConnectionChanged{State: chat.Reconnecting})
	d.apply(chat.Tick{})
	d.later(7 * time.Millisecond)
	d.apply(chat.ConnectionChanged{State: chat.Connected, Region: region("ams")})
	d.apply(chat.ConnectionChanged{State: chat.Reconnecting})
	d.later(2 * time.Second)
	d.apply(chat.Tick{})
	d.apply(chat.Tick{})
	d.apply(chat.ConnectionChanged{State: chat.Connected, Region: region("ams")})
	d.apply(chat.ConnectionChanged{State: chat.Reconnecting})
	d.apply(chat.ConnectionChanged{State: chat.Connected, Region: region("fra")})
	d.want("a gap is told", d.view(), []string{
		"reconnected within 7ms; what others wrote just then may be missing here",
		"the connection is lost; what others write until it is back will be missing here",
		"connected again",
		"connected again, now in fra; what others wrote meanwhile is missing here",
	})
	d.apply(chat.Select{Place: chat.Place{Channel: label("NATS")}})
	if first, end := d.Lines(); end-first != 4 {
		t.Error("the gap is not told in the other channel")
	}
	d.apply(chat.CredentialChanged{Expires: d.now.Add(time.Minute)})
	d.apply(chat.Tick{})
	d.apply(chat.Tick{})
	if v := d.view(); len(v) != 5 || v[4] != "the credential ends in 1m0s unless it is renewed" {
		t.Errorf("%q", v)
	}
	if st := d.Status(); st.Left != time.Minute || st.Region != region("fra") || st.Connection != chat.Connected {
		t.Errorf("%+v", st)
	}
}

func TestAway(t *testing.T) {
	d := newDesk(t)
	d.later(5 * time.Minute)
	if e := d.apply(chat.Tick{}); !slices.Equal(e, []chat.Effect{chat.SetStatus{Status: chat.Away}}) {
		t.Errorf("effects %+v", e)
	}
	if e := d.apply(chat.Tick{}); len(e) != 0 {
		t.Errorf("twice: %+v", e)
	}
	if e := d.apply(chat.Activity{}); !slices.Equal(e, []chat.Effect{chat.SetStatus{Status: chat.Here}}) {
		t.Errorf("effects %+v", e)
	}
}

// Nobody can fill the memory, and verified people are not crowded out.
func TestBounds(t *testing.T) {
	d := newDesk(t)
	bob := newUser(2, "bob")
	d.comes(bob)
	d.tells(bob, "keep me")
	m := d.post(bob, "General", "x", d.now)
	for i := range chat.MaxLines + 500 {
		m.Digest[0], m.Digest[1] = byte(i), byte(i>>8)
		d.hear(m)
	}
	if first, end := d.Lines(); first != 500 || end != chat.MaxLines+500 {
		t.Errorf("lines %d to %d", first, end)
	}
	for i := range 200 {
		stranger := newUser(byte(i%250)+3, "bob")
		d.hear(d.online(user{stranger.kp, stranger.key, stranger.name}, chat.Here, d.now))
		m := d.dm(stranger, d.me.key, "spam", d.now)
		m.Claimed = "spam"
		d.hear(m)
	}
	for i := range 200 {
		mu := newUser(byte(i)+3, "x")
		msg := d.online(mu, chat.Here, d.now)
		msg.Name = ident.Name{}
		d.hear(msg)
	}
	if n := len(d.People()); n > 120 {
		t.Errorf("%d people are listed", n)
	}
	if !slices.ContainsFunc(d.people(), func(s string) bool { return strings.HasPrefix(s, "bob online") }) {
		t.Errorf("bob is gone: %q", d.people())
	}
}

// Whatever happens in whatever order, nothing panics and the bounds hold.
func TestAnyOrder(t *testing.T) {
	users := make([]user, 8)
	for i := range users {
		users[i] = newUser(byte(i+1), []string{"alice", "bob", "bob", "carol"}[i%4])
	}
	rapid.Check(t, func(rt *rapid.T) {
		d := newDesk(t)
		some := rapid.SampledFrom(users)
		rt.Repeat(map[string]func(*rapid.T){
			"post": func(r *rapid.T) {
				d.says(some.Draw(r, "user"), rapid.SampledFrom([]string{"General", "NATS", "Other"}).Draw(r, "channel"), "text")
			},
			"dm": func(r *rapid.T) { d.tells(some.Draw(r, "user"), "text") },
			"heartbeat": func(r *rapid.T) {
				st := rapid.SampledFrom([]chat.Status{chat.Here, chat.Away, chat.Gone}).Draw(r, "status")
				m := d.online(some.Draw(r, "user"), st, d.now)
				if rapid.Bool().Draw(r, "unverified") {
					m.Name = ident.Name{}
				}
				d.hear(m)
			},
			"time": func(r *rapid.T) {
				d.later(time.Duration(rapid.IntRange(0, 400).Draw(r, "seconds")) * time.Second)
				d.apply(chat.Tick{})
			},
			"select": func(r *rapid.T) {
				list := append(d.Channels(), d.People()...)
				d.apply(chat.Select{Place: rapid.SampledFrom(list).Draw(r, "entry").Place})
			},
			"enter": func(r *rapid.T) {
				for _, e := range d.enter(rapid.SampledFrom([]string{"hi", "/who", "/msg @bob x", "/snoop @carol", "//", "/"}).Draw(r, "input")) {
					switch e := e.(type) {
					case chat.SendPost:
						d.apply(chat.Sent{Seq: e.Seq})
					case chat.SendDM:
						if len(e.Keys) == 0 {
							r.Fatal("a direct message to nobody")
						}
						d.apply(chat.Sent{Seq: e.Seq, Err: errors.New("no")})
					}
				}
			},
			"": func(r *rapid.T) {
				first, end := d.Lines()
				if end-first > chat.MaxLines || first < 0 {
					r.Fatalf("lines %d to %d", first, end)
				}
				for i := first; i < end; i++ {
					l := d.Line(i)
					if a := d.Author(l); !l.Notice && a.Verified == strings.HasPrefix(a.Label, "~") {
						r.Fatalf("author %+v", a)
					}
				}
				for _, e := range append(d.Channels(), d.People()...) {
					if e.Place == d.Selected() && e.Unread != 0 {
						r.Fatalf("the selected conversation is unread: %+v", e)
					}
				}
			},
		})
	})
}

func FuzzInput(f *testing.F) {
	for _, s := range []string{"hi", "/msg @bob x", "/snoop", "//", "/\x1b", "/msg @", "/who x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		d := newDesk(t)
		d.comes(newUser(2, "bob"))
		for _, e := range d.enter(s) {
			if p, ok := e.(chat.SendPost); ok && (p.Text == "" || chat.Clean(p.Text) != p.Text) {
				t.Fatalf("sends %q", p.Text)
			}
		}
		for _, l := range d.view() {
			if strings.ContainsAny(l, "\x1b\r\n") {
				t.Fatalf("shows %q", l)
			}
		}
	})
}
