package up_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/herald-nats/herald/internal/up"
	"github.com/herald-nats/herald/internal/uptest"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/platform"
)

// answerWait bounds what takes no time at all when it works.
const answerWait = 5 * time.Second

// bench is a platform that takes commands.
type bench struct {
	*uptest.Platform
	ams, sfo, none ident.Region
}

func (b *bench) dir() platform.Dir { return platform.Dir(b.Dir) }

// file names where the platform takes commands, and the token for it.
func (b *bench) file() string { return filepath.Join(b.dir().Data(), "control.json") }

// control listens until the test, or the function that it returns, ends it.
func (b *bench) control(t *testing.T) (stop func()) {
	t.Helper()
	end, err := b.Up.Control(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	stopped := false
	stop = func() {
		t.Helper()
		if stopped {
			return
		}
		stopped = true
		if err := end(); err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(stop)
	return stop
}

func (b *bench) send(t *testing.T, op string, regions ...ident.Region) (up.Reply, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), answerWait)
	defer cancel()
	return up.Send(ctx, b.dir(), up.Command{Op: op, Regions: regions})
}

// isCut asks for the one link that there is.
func (b *bench) isCut(t *testing.T) bool {
	t.Helper()
	r, err := b.send(t, up.OpLinks)
	if err != nil || len(r.Links) != 1 || r.Links[0].A != b.ams || r.Links[0].B != b.sfo {
		t.Fatalf("links: %+v, %v", r, err)
	}
	return r.Links[0].Cut
}

type address struct {
	Address string `json:"address"`
	Token   string `json:"token"`
}

func (b *bench) address(t *testing.T) address {
	t.Helper()
	data, err := os.ReadFile(b.file())
	if err != nil {
		t.Fatal(err)
	}
	var a address
	if err := json.Unmarshal(data, &a); err != nil {
		t.Fatal(err)
	}
	return a
}

// raw connects as anybody on this machine may.
func raw(t *testing.T, at string) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", at)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() }) // the test may have
	if err := c.SetDeadline(time.Now().Add(answerWait)); err != nil {
		t.Fatal(err)
	}
	return c
}

// ended waits for the other side to close and gives what it said before.
func ended(t *testing.T, c net.Conn) string {
	t.Helper()
	said, err := io.ReadAll(c)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("not closed after %v", answerWait)
	}
	return string(said) // any other error is a close, with something left unread
}

func TestControl(t *testing.T) {
	before := goleak.IgnoreCurrent()
	t.Cleanup(func() { goleak.VerifyNone(t, append(uptest.LeftByServers(), before)...) })
	p, err := uptest.Start(t.TempDir(), uptest.Options{Regions: []string{"ams", "sfo"}, Bare: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	b := &bench{Platform: p, ams: region(t, "ams"), sfo: region(t, "sfo"), none: region(t, "sgp")}
	t.Run("commands", b.testCommands)
	t.Run("refused", b.testRefused)
	t.Run("strangers", b.testStrangers)
	t.Run("file", b.testFile)
	t.Run("not running", b.testNotRunning)
	t.Run("silence", b.testSilence)
}

func region(t *testing.T, s string) ident.Region {
	t.Helper()
	r, err := ident.ParseRegion(s)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func (b *bench) testCommands(t *testing.T) {
	b.control(t)
	if b.isCut(t) {
		t.Error("cut from the start")
	}
	for _, step := range []struct {
		op   string
		a, b ident.Region
		cut  bool
	}{
		{up.OpCut, b.ams, b.sfo, true},
		{up.OpCut, b.sfo, b.ams, true}, // again, the other way round: nothing new
		{up.OpHeal, b.sfo, b.ams, false},
		{up.OpHeal, b.ams, b.sfo, false},
	} {
		r, err := b.send(t, step.op, step.a, step.b)
		if err != nil || r.Error != "" {
			t.Errorf("%s: %+v, %v", step.op, r, err)
		}
		if b.isCut(t) != step.cut {
			t.Errorf("after %s %s %s: cut is %t", step.op, step.a, step.b, !step.cut)
		}
	}
}

// testRefused: with the right token, what cannot be done is told.
func (b *bench) testRefused(t *testing.T) {
	b.control(t)
	for what, c := range map[string]struct {
		op      string
		regions []ident.Region
		says    string
	}{
		"an unknown command":     {"explode", nil, "explode"},
		"no command":             {"", nil, "unknown command"},
		"a long unknown command": {strings.Repeat("x", 2000), nil, "unknown command"},
		"an unknown region":      {up.OpCut, []ident.Region{b.ams, b.none}, "sgp"},
		"two unknown regions":    {up.OpCut, []ident.Region{b.none, b.none}, "sgp"},
		"healing with it":        {up.OpHeal, []ident.Region{b.none, b.sfo}, "sgp"},
		"stopping it":            {up.OpStop, []ident.Region{b.none}, "sgp"},
		"starting it":            {up.OpStart, []ident.Region{b.none}, "sgp"},
		"a region from itself":   {up.OpCut, []ident.Region{b.ams, b.ams}, "ams"},
		"one region":             {up.OpCut, []ident.Region{b.ams}, up.OpCut},
		"three regions":          {up.OpCut, []ident.Region{b.ams, b.sfo, b.ams}, up.OpCut},
		"no region":              {up.OpStop, nil, up.OpStop},
		"stopping two":           {up.OpStop, []ident.Region{b.ams, b.sfo}, up.OpStop},
	} {
		r, err := b.send(t, c.op, c.regions...)
		if err == nil || r.Error == "" || errors.Is(err, up.ErrNotRunning) {
			t.Errorf("%s: %+v, %v", what, r, err)
			continue
		}
		if !strings.Contains(err.Error(), c.says) || len(err.Error()) > 200 {
			t.Errorf("%s: %v", what, err)
		}
	}
	if b.isCut(t) {
		t.Error("something was cut")
	}
	for _, s := range b.Up.Cluster.Servers() {
		if !s.Running {
			t.Errorf("%s was stopped", s.Name)
		}
	}
}

// testStrangers: who does not show the token is not answered, and nothing happens.
func (b *bench) testStrangers(t *testing.T) {
	b.control(t)
	at := b.address(t)
	if len(at.Token) < 32 {
		t.Fatalf("a token of %d characters", len(at.Token))
	}
	cut := func(token string) string {
		data, err := json.Marshal(up.Command{Op: up.OpCut, Regions: []ident.Region{b.ams, b.sfo}, Token: token})
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	good := cut(at.Token)
	long := strings.TrimSuffix(good, "}") + strings.Repeat(" ", 8<<10) + "}\n"
	for what, line := range map[string]string{
		"a wrong token":         cut("x"+at.Token[1:]) + "\n",
		"half of the token":     cut(at.Token[:len(at.Token)/2]) + "\n",
		"the token and more":    cut(at.Token+"x") + "\n",
		"an empty token":        cut("") + "\n",
		"no token":              `{"op":"cut","regions":["ams","sfo"]}` + "\n",
		"no token, a question":  `{"op":"links"}` + "\n",
		"a token of no text":    `{"op":"links","token":["` + at.Token + `"]}` + "\n",
		"an over-long line":     long,
		"an endless line":       strings.Repeat("x", 64<<10),
		"garbage":               "\x00\xff\x80garbage\n",
		"two objects":           good + good + "\n",
		"a region of bad form":  strings.Replace(good, `"ams"`, `"A M S"`, 1) + "\n",
		"another protocol":      "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
		"an empty line":         "\n",
		"the token by itself":   at.Token + "\n",
		"a command in a string": `"cut"` + "\n",
	} {
		c := raw(t, at.Address)
		_, _ = io.WriteString(c, line) // it may be refused before it has all been sent
		if said := ended(t, c); said != "" {
			t.Errorf("%s: answered %q", what, said)
		}
		if b.isCut(t) {
			t.Fatalf("%s: the regions were cut", what)
		}
	}
	// A command that was not ended is none.
	c := raw(t, at.Address)
	if _, err := io.WriteString(c, good); err != nil {
		t.Fatal(err)
	}
	if err := c.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if said := ended(t, c); said != "" || b.isCut(t) {
		t.Errorf("half of a command: answered %q", said)
	}
	// It was none of what these have alike: with the token the same line works.
	c = raw(t, at.Address)
	if _, err := io.WriteString(c, good+"\n"); err != nil {
		t.Fatal(err)
	}
	if said := ended(t, c); said != "{}\n" || !b.isCut(t) {
		t.Errorf("with the token: %q", said)
	}
	if _, err := b.send(t, up.OpHeal, b.ams, b.sfo); err != nil {
		t.Error(err)
	}
}

func (b *bench) testFile(t *testing.T) {
	stop := b.control(t)
	s, err := os.Stat(b.file())
	if err != nil {
		t.Fatal(err)
	}
	if s.Mode() != 0o600 {
		t.Errorf("the control file is %v", s.Mode())
	}
	first := b.address(t)
	if host, _, err := net.SplitHostPort(first.Address); err != nil || host != "127.0.0.1" {
		t.Errorf("listens at %q: %v", first.Address, err)
	}
	stop()
	if _, err := os.Stat(b.file()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("after the stop: %v", err)
	}
	if c, err := net.Dial("tcp", first.Address); err == nil {
		_ = c.Close() // it is the dial that matters
		t.Error("it still listens")
	}
	b.control(t)
	if b.address(t).Token == first.Token {
		t.Error("the token is that of last time")
	}
}

func (b *bench) testNotRunning(t *testing.T) {
	if r, err := b.send(t, up.OpLinks); !errors.Is(err, up.ErrNotRunning) {
		t.Errorf("without a control file: %+v, %v", r, err)
	}
	if r, err := up.Send(t.Context(), platform.Dir(t.TempDir()), up.Command{Op: up.OpLinks}); !errors.Is(err, up.ErrNotRunning) {
		t.Errorf("in an empty folder: %+v, %v", r, err)
	}
	// What a process leaves that was killed.
	stop := b.control(t)
	left, err := os.ReadFile(b.file())
	if err != nil {
		t.Fatal(err)
	}
	stop()
	if err := os.WriteFile(b.file(), left, 0o600); err != nil {
		t.Fatal(err)
	}
	if r, err := b.send(t, up.OpLinks); !errors.Is(err, up.ErrNotRunning) {
		t.Errorf("with a file that was left: %+v, %v", r, err)
	}
	// The next one replaces it.
	b.control(t)
	if b.isCut(t) {
		t.Error("cut")
	}
}

// testSilence: who connects and says nothing, or not all, does not hold up the end.
func (b *bench) testSilence(t *testing.T) {
	stop := b.control(t)
	at := b.address(t)
	silent, begun := raw(t, at.Address), raw(t, at.Address)
	if _, err := io.WriteString(begun, `{"op":"cut",`); err != nil {
		t.Fatal(err)
	}
	b.isCut(t) // connections are taken up in turn: those two are by now
	// So that a failure is one, and not a test that hangs.
	release := time.AfterFunc(answerWait, func() { _, _ = silent.Close(), begun.Close() })
	defer release.Stop()
	began := time.Now()
	stop()
	if took := time.Since(began); took >= answerWait {
		t.Errorf("stopped after %v", took)
	}
	for _, c := range []net.Conn{silent, begun} {
		if said := ended(t, c); said != "" {
			t.Errorf("answered %q", said)
		}
	}
}
