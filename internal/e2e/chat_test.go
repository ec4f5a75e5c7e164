package e2e

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"

	"github.com/herald-nats/herald/internal/cli"
	"github.com/herald-nats/herald/pkg/client"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/keystore"
	"github.com/herald-nats/herald/pkg/subject"
)

// connected is a status line that says so.
func connected(region string) string { return `^ ` + region + ` · connected · credential ` }

// twoPeople is a conversation between two regions, in two terminals.
func (w *world) twoPeople(t *testing.T) {
	alice, bob := w.chat(t, "alice", "ams"), w.chat(t, "bob", "sgp")
	alice.WaitFor(connected("ams"), soon)
	bob.WaitFor(connected("sgp"), soon)
	// Each sees the other, and themselves.
	alice.WaitFor(`◆ bob`, soon)
	alice.WaitFor(`◆ alice \(you\)`, soon)
	bob.WaitFor(`◆ alice`, soon)

	// A post.
	alice.Enter("hello from Amsterdam")
	bob.WaitFor(`\d\d:\d\d <alice> hello from Amsterdam$`, soon)
	alice.WaitFor(`\d\d:\d\d <alice> hello from Amsterdam$`, soon) // without the sign that it is not sent yet

	// A direct message: unread until it is opened, by the list of people.
	alice.Enter("/msg @bob only for you")
	alice.WaitFor(`<alice> only for you$`, soon)
	bob.WaitFor(`◆ alice .*●1`, soon)
	if s := bob.Screen(); strings.Contains(s, "only for you") {
		t.Errorf("bob is shown a direct message in a channel:\n%s", s)
	}
	if !strings.Contains(bob.Raw(), "\a") {
		t.Error("a direct message rings no bell")
	}
	bob.choose("alice")
	bob.WaitFor(`alice, online in ams$`, soon)
	bob.WaitFor(`<alice> only for you$`, soon)
	bob.WaitGone(`alice .*●`, soon)
	bob.Enter("got it")
	alice.WaitFor(`<bob> got it$`, soon) // /msg has opened the conversation

	// A post in a channel that alice does not look at.
	bob.choose("NATS")
	bob.WaitFor(`│#NATS$`, soon)
	bob.Enter("about NATS")
	alice.WaitFor(`# NATS +●1`, soon)
	alice.choose("NATS")
	alice.WaitFor(`<bob> about NATS$`, soon)
	alice.WaitGone(`# NATS +●1`, soon)

	w.help(alice)
	w.hostile(t, alice, bob)

	// The server refuses to let one read another's.
	alice.Enter("/snoop @bob")
	alice.WaitFor(`the server's answer: `, soon)
	alice.WaitFor(`(?i)permissions`, soon)

	w.resize(bob)
	w.leave(alice, bob)
}

// choose goes to an entry of the lists and opens it. The cursor does not say
// where it is but by its colours, so it goes by what is in the lists.
func (x *term) choose(entry string) {
	x.t.Helper()
	x.Key("Tab")
	at := -1
	entries := regexp.MustCompile(`^[> ]?(?:#|◆|◇|·) (\S+)`)
	find := func(screen string) bool {
		at = -1
		n := 0
		for _, row := range strings.Split(screen, "\n") {
			if m := entries.FindStringSubmatch(row); m != nil {
				if m[1] == entry {
					at = n
				}
				n++
			}
		}
		return at >= 0
	}
	if !x.Until(soon, find) {
		x.t.Fatalf("%s sees no %s in the lists:\n%s", x.name, entry, x.Screen())
	}
	x.Key("Home")
	for range at {
		x.Key("Down")
	}
	x.Key("Enter")
	x.WaitFor(`^>[#◆◇·] `+entry, soon)
}

func (w *world) help(x *term) {
	x.t.Helper()
	const page = `/msg @name text +a direct message`
	for _, open := range []func(){
		func() { x.Key("F1") },
		func() { x.Key("Tab"); x.Type("?") },            // in a list
		func() { x.Key("Shift-Tab"); x.Enter("/help") }, // back in the input
	} {
		open()
		x.WaitFor(page, soon)
		x.Key("Esc")
		x.WaitGone(page, soon)
	}
	// In the input a question mark is text.
	x.Type("really?")
	x.WaitFor(`> really\?$`, soon)
	x.Key("Enter")
	x.WaitFor(`<alice> really\?$`, soon)
}

// hostile puts a post on the wire that no client of ours would send.
func (w *world) hostile(t *testing.T, people ...*term) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), soon)
	defer cancel()
	key, err := keystore.Generate(keystore.User)
	if err != nil {
		t.Fatal(err)
	}
	region, err := ident.ParseRegion("sfo")
	if err != nil {
		t.Fatal(err)
	}
	s, err := client.Connect(ctx, client.Config{
		Platform: w.running.Public, Key: key, Region: region, Wish: client.Wish{Name: w.running.Name("mallory")},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close(ctx)
	doc := w.running.Public.Document.Chat
	channel, err := ident.ParseLabel("NATS")
	if err != nil {
		t.Fatal(err)
	}
	claims := jwt.NewGenericClaims(channel.String())
	claims.Name, claims.Audience = "\x1b[31mroot\x1b]0;owned\a", subject.Post(doc.Rooms[0].Name, channel)
	claims.Data["type"] = "chat-post"
	claims.Data["msg"] = "begin \x1b[2J\x1b[H\x1b]0;owned\a\x1b]8;;https://evil.example\x1b\\click\x1b]8;;\x1b\\ " +
		"\u009b31m\u202egnorw [red::b]tag[-] [:::https://evil.example]x [\"id\"]\r\n99:99 <bob> I owe you\u2028 end"
	token, err := claims.Encode(key.Pair())
	if err != nil {
		t.Fatal(err)
	}
	before := make([]int, len(people))
	for i, p := range people {
		before[i] = len(p.Raw())
	}
	if err := s.Conn.Publish(claims.Audience, []byte(token)); err != nil {
		t.Fatal(err)
	}
	for i, p := range people {
		p.WaitFor(`begin`, soon)
		p.WaitFor(` end$`, soon)
		screen := p.Screen()
		// It is not from anyone who is known, and its second line is none.
		if !regexp.MustCompile(`(?m)\d\d:\d\d <~[^>]*\?> `).MatchString(screen) {
			t.Errorf("%s sees no doubt about a stranger:\n%s", p.name, screen)
		}
		if regexp.MustCompile(`(?m)(^|│)99:99 `).MatchString(screen) {
			t.Errorf("%s sees a forged line:\n%s", p.name, screen)
		}
		// Tags of tview are text like other text.
		flat := regexp.MustCompile(`\n[^│\n]*│ *`).ReplaceAllString(screen, " ")
		for _, tag := range []string{"[red::b]tag[-]", `["id"]`} {
			if !strings.Contains(flat, tag) {
				t.Errorf("%s does not see %s as it is:\n%s", p.name, tag, screen)
			}
		}
		raw := p.Raw()[before[i]:]
		for _, bad := range []string{"\x1b]0;", "\x1b]8;;http", "\u009b", "\u202e", "\u2028", "\a"} {
			if strings.Contains(raw, bad) {
				t.Errorf("%q has reached %s's terminal", bad, p.name)
			}
		}
		// The screen was neither cleared nor left.
		p.WaitFor(connected(`(ams|sgp)`), soon)
	}
}

func (w *world) resize(x *term) {
	x.t.Helper()
	for _, size := range [][2]int{{120, 40}, {30, 8}, {80, 24}} {
		x.Resize(size[0], size[1])
		// The status line is the last row, and there are lists where there is room.
		if !x.Until(soon, func(s string) bool {
			rows := strings.Split(s, "\n")
			lists := strings.Contains(s, "Channels")
			return len(rows) == size[1] && strings.HasPrefix(rows[size[1]-1], " sgp · connected") && lists == (size[0] >= 48)
		}) {
			x.t.Errorf("%s: the screen at %d×%d:\n%s", x.name, size[0], size[1], x.Screen())
		}
		x.Type("x")
		x.WaitFor(`> x$`, soon)
		x.Type("\x7f")
		x.WaitGone(`> x$`, soon)
	}
}

// leave ends one by Ctrl-C and the other by a command: the one who stays sees
// the other go.
func (w *world) leave(stays, goes *term) {
	stays.t.Helper()
	goes.Key("Ctrl-C")
	goes.WaitEnd(cli.OK)
	stays.WaitFor(`· `+goes.name, soon)
	stays.Enter("/quit")
	stays.WaitEnd(cli.OK)
	for _, x := range []*term{stays, goes} {
		if seed.MatchString(x.Raw()) {
			x.t.Errorf("%s was shown a seed", x.name)
		}
	}
}

// renewal: who has a credential of seconds stays for longer than it.
func (w *world) renewal(t *testing.T) {
	carol := w.chat(t, "carol", "sfo", "--ttl", "8s")
	carol.WaitFor(connected("sfo"), soon)
	left := regexp.MustCompile(`(?m)^ sfo · connected · credential (\d+)s`)
	// The time that is left falls, and rises with each new credential. The second
	// is asked for with the first renewed one, after the end of the very first.
	renewed, last := 0, 0
	if !carol.Until(time.Minute, func(s string) bool {
		if m := left.FindStringSubmatch(s); m != nil {
			n, err := strconv.Atoi(m[1])
			if err == nil && n > last && last > 0 {
				renewed++
			}
			last = n
		}
		return renewed >= 2
	}) {
		t.Fatalf("carol's credential was renewed %d times; her screen:\n%s", renewed, carol.Screen())
	}
	if s := carol.Screen(); strings.Contains(s, "EXPIRED") {
		t.Errorf("carol's screen:\n%s", s)
	}
	reaches(t, carol, "still here", `<carol> still here$`, carol)
	carol.Key("Ctrl-C")
	carol.WaitEnd(cli.OK)
}

// reaches has somebody write until all others have read it. What is written in
// the moment in which regions still learn of somebody's move is lost: core NATS
// keeps nothing, and there is no history yet. So it may be written again, as a
// person would.
func reaches(t *testing.T, from *term, text, pattern string, to ...*term) {
	t.Helper()
	seen := regexp.MustCompile("(?m)" + pattern)
	for range 4 {
		from.Enter(text)
		missing := false
		for _, x := range to {
			missing = missing || !x.Until(4*time.Second, seen.MatchString)
		}
		if !missing {
			return
		}
	}
	for _, x := range to {
		t.Errorf("%q did not reach %s:\n%s", text, x.name, x.Screen())
	}
}

// unplug stops a region with somebody in it.
func (w *world) unplug(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	dan, eve := w.chat(t, "dan", "ams"), w.chat(t, "eve", "sgp")
	dan.WaitFor(connected("ams"), soon)
	dan.WaitFor(`◆ eve`, soon)
	eve.WaitFor(`◆ dan`, soon)
	ams, err := ident.ParseRegion("ams")
	if err != nil {
		t.Fatal(err)
	}
	if err := w.running.Up.Cluster.StopRegion(ctx, ams); err != nil {
		t.Fatal(err)
	}
	dan.WaitFor(connected("(sfo|sgp)"), soon)
	dan.WaitFor(`connected again, now in (sfo|sgp)`, soon)
	eve.WaitFor(`◆ dan +(sfo|sgp)`, soon)
	reaches(t, eve, "are you still there?", `<eve> are you still there\?$`, dan)
	reaches(t, dan, "yes, elsewhere", `<dan> yes, elsewhere$`, eve)
	if err := w.running.Up.Cluster.StartRegion(ctx, ams); err != nil {
		t.Fatal(err)
	}
	fay := w.chat(t, "fay", "ams")
	fay.WaitFor(connected("ams"), soon)
	fay.WaitFor(`◆ dan`, soon)
	reaches(t, fay, "ams is back", `<fay> ams is back$`, dan, eve)
	for _, x := range []*term{dan, eve, fay} {
		x.Key("Ctrl-C")
	}
	for _, x := range []*term{dan, eve, fay} {
		x.WaitEnd(cli.OK)
	}
}

// absent sends a direct message to somebody who never comes. It takes longer
// than a heartbeat, and so runs beside everything else; the returned function
// looks at how it ended.
func (w *world) absent(t *testing.T) func(*testing.T) {
	t.Helper()
	path, err := exec.LookPath("chat")
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(path, "--platform", w.public(), "--name", "zoe", "--region", "sfo", "send", "@nobody-there", "hello?")
	var out, errs strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &errs
	cmd.Env = w.vars(filepath.Join(w.root, "home-zoe"))
	p, err := startProcess(cmd)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = p.stop(os.Kill, soon) }) // gone already, if everything ran
	return func(t *testing.T) {
		code, err := p.stop(nil, time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		if err := complained(code, out.String(), errs.String()); code != cli.Unavailable || err != nil {
			t.Errorf("exit code %d, want %d: %v\n%s", code, cli.Unavailable, err, errs.String())
		}
		if !strings.Contains(errs.String(), "chat who") {
			t.Errorf("no hint to who is there: %s", errs.String())
		}
	}
}
