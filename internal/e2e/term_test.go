package e2e

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/creack/pty"
	"github.com/hinshun/vt10x"
	xterm "golang.org/x/term"
)

// soon is how long something may take that a person sees happen at once. It is
// long because tests share two cores with other tests; nobody waits for it.
const soon = 20 * time.Second

// term is a program in a pseudo-terminal, with somebody who looks at the screen
// and types.
type term struct {
	t        *testing.T
	name     string
	proc     *process
	ptm, tty *os.File
	before   *xterm.State // of the terminal, before the program
	read     chan struct{}

	mu  sync.Mutex
	vt  vt10x.Terminal
	raw []byte // everything that the program wrote
}

// chat opens a chat for somebody with folders of their own.
func (w *world) chat(t *testing.T, name, region string, args ...string) *term {
	t.Helper()
	const cols, rows = 80, 24
	path, err := exec.LookPath("chat")
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(path, append([]string{"--platform", w.public(), "--name", name, "--region", region}, args...)...)
	cmd.Env = append(
		w.vars(filepath.Join(w.root, "home-"+name)),
		"PATH="+os.Getenv("PATH"), "TERM=xterm-256color", "LC_ALL=C.UTF-8", "GOCOVERDIR="+os.Getenv("GOCOVERDIR"),
	)
	return open(t, name, cmd, cols, rows)
}

func open(t *testing.T, name string, cmd *exec.Cmd, cols, rows int) *term {
	t.Helper()
	ptm, tty, err := pty.Open()
	if err != nil {
		t.Fatal(err)
	}
	x := &term{t: t, name: name, ptm: ptm, tty: tty, read: make(chan struct{}), vt: vt10x.New(vt10x.WithSize(cols, rows))}
	t.Cleanup(x.close)
	x.size(cols, rows)
	if x.before, err = xterm.GetState(int(tty.Fd())); err != nil {
		t.Fatal(err)
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = tty, tty, tty
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true} // its terminal is stdin
	go x.watch()
	if x.proc, err = startProcess(cmd); err != nil {
		t.Fatal(err)
	}
	return x
}

// watch takes what the program writes until the terminal is closed.
func (x *term) watch() {
	defer close(x.read)
	buf := make([]byte, 32<<10)
	var rest []byte // the begin of a character
	for {
		n, err := x.ptm.Read(buf)
		x.mu.Lock()
		x.raw = append(x.raw, buf[:n]...)
		whole := append(rest, buf[:n]...)
		cut := len(whole)
		for i := max(0, cut-utf8.UTFMax); i < cut; i++ {
			if utf8.RuneStart(whole[i]) && !utf8.FullRune(whole[i:]) {
				cut = i
			}
		}
		_, _ = x.vt.Write(whole[:cut]) // into memory
		rest = append([]byte(nil), whole[cut:]...)
		x.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// close ends whatever is left.
func (x *term) close() {
	if x.proc != nil {
		_, _ = x.proc.stop(os.Kill, soon) // mostly gone already
	}
	if x.t.Failed() {
		x.t.Logf("%s's screen at the end:\n%s", x.name, x.Screen())
	}
	// The last one who holds the terminal lets the reader go.
	if err := errors.Join(x.tty.Close(), x.ptm.Close()); err != nil {
		x.t.Error(err)
	}
	<-x.read
}

// Screen is what is on the screen, one line for each row, without the spaces at
// their ends.
func (x *term) Screen() string {
	x.mu.Lock()
	defer x.mu.Unlock()
	rows := strings.Split(x.vt.String(), "\n")
	for i, r := range rows {
		rows[i] = strings.TrimRight(r, " \x00")
	}
	return strings.TrimRight(strings.Join(rows, "\n"), "\n")
}

// Raw is everything that the program has written.
func (x *term) Raw() string {
	x.mu.Lock()
	defer x.mu.Unlock()
	return string(x.raw)
}

// Type types text, as it is.
func (x *term) Type(text string) {
	x.t.Helper()
	if _, err := x.ptm.WriteString(text); err != nil {
		x.t.Fatalf("%s types: %v", x.name, err)
	}
}

// Enter types a line.
func (x *term) Enter(line string) {
	x.t.Helper()
	x.Type(line + "\r")
}

// Key presses keys, as xterm sends them.
func (x *term) Key(names ...string) {
	x.t.Helper()
	for _, k := range names {
		s, ok := map[string]string{
			"Enter": "\r", "Tab": "\t", "Shift-Tab": "\x1b[Z", "Esc": "\x1b", "F1": "\x1bOP",
			"Up": "\x1b[A", "Down": "\x1b[B", "Home": "\x1b[H", "End": "\x1b[F", "PgUp": "\x1b[5~", "PgDn": "\x1b[6~",
			"Ctrl-C": "\x03", "Ctrl-L": "\x0c",
		}[k]
		if !ok {
			x.t.Fatalf("there is no key %s", k)
		}
		x.Type(s)
	}
}

// WaitFor waits until the screen matches a regular expression, in which ^ and $
// are the ends of rows.
func (x *term) WaitFor(re string, within time.Duration) {
	x.t.Helper()
	m := regexp.MustCompile("(?m)" + re)
	if !x.Until(within, m.MatchString) {
		x.t.Fatalf("%s waited %s for %q; the screen:\n%s", x.name, within, re, x.Screen())
	}
}

// WaitGone waits until the screen does not match.
func (x *term) WaitGone(re string, within time.Duration) {
	x.t.Helper()
	m := regexp.MustCompile("(?m)" + re)
	if !x.Until(within, func(s string) bool { return !m.MatchString(s) }) {
		x.t.Fatalf("%s waited %s for %q to go; the screen:\n%s", x.name, within, re, x.Screen())
	}
}

// Until waits until the screen is as ok wants it, or the program has ended.
func (x *term) Until(within time.Duration, ok func(screen string) bool) bool {
	found := false
	eventually(within, func() bool {
		over := x.proc.ended() // before looking
		found = ok(x.Screen())
		return found || over
	})
	return found
}

// Resize changes the size of the window.
func (x *term) Resize(cols, rows int) {
	x.t.Helper()
	x.mu.Lock()
	x.vt.Resize(cols, rows)
	x.mu.Unlock()
	x.size(cols, rows)
}

func (x *term) size(cols, rows int) {
	x.t.Helper()
	if err := pty.Setsize(x.ptm, &pty.Winsize{Cols: uint16(cols), Rows: uint16(rows)}); err != nil {
		x.t.Fatal(err)
	}
}

// WaitEnd waits for the end, with this exit code, and looks whether the terminal
// is as it was.
func (x *term) WaitEnd(code int) {
	x.t.Helper()
	got, err := x.proc.stop(nil, soon)
	if err != nil {
		x.t.Fatalf("%s: %v; the screen:\n%s", x.name, err, x.Screen())
	}
	if got != code {
		x.t.Errorf("%s: exit code %d, want %d; the screen:\n%s", x.name, got, code, x.Screen())
	}
	after, err := xterm.GetState(int(x.tty.Fd()))
	if err != nil {
		x.t.Fatal(err)
	}
	if !reflect.DeepEqual(x.before, after) {
		x.t.Errorf("%s: the terminal's settings are not those from before: echo or line editing is off", x.name)
	}
	restored := func() bool {
		x.mu.Lock()
		defer x.mu.Unlock()
		return x.vt.Mode()&vt10x.ModeAltScreen == 0 && x.vt.CursorVisible()
	}
	// The program has written it; it may not have been read yet.
	if !eventually(soon, restored) {
		x.t.Errorf("%s: the alternate screen is not left, or the cursor is hidden", x.name)
	}
	if !strings.Contains(x.Raw(), "\x1b[?1049h") {
		x.t.Errorf("%s: there was no alternate screen", x.name)
	}
}
