// Package cli is what Herald's programs share in talking to people: errors
// with hints, exit codes, tables and how a program begins and ends. Data goes
// to stdout; everything else, errors included, goes to stderr.
package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"text/tabwriter"

	"github.com/spf13/cobra"
	"golang.org/x/term"
)

// Exit codes, one table for all programs (docs/exit-codes.md).
const (
	OK          = 0   // it was done
	Failed      = 1   // something failed that has no code of its own; or the answer to a question is no
	Usage       = 2   // a flag, an argument or a name is wrong
	Partial     = 3   // it was done as far as servers could be reached; those that could not are named
	Exists      = 4   // it would overwrite what is there
	Unavailable = 5   // a server or a service cannot be reached, or did not answer in time
	Refused     = 6   // the platform refused: the credential, the name, the right
	Resource    = 7   // this machine refused: a taken port, a full disk, a missing permission
	Config      = 8   // a folder, a file or a context is missing, unreadable, foreign or invalid
	Interrupted = 130 // ended by Ctrl-C before it was done
)

// IO is a program's three streams.
type IO struct {
	In  io.Reader
	Out io.Writer
	Err io.Writer
}

// Stdio is the process's own.
func Stdio() IO { return IO{os.Stdin, os.Stdout, os.Stderr} }

// Terminal tells whether a stream is a terminal.
func Terminal(stream any) bool {
	f, ok := stream.(*os.File)
	return ok && term.IsTerminal(int(f.Fd())) // #nosec G115 -- a descriptor is small
}

// Error is an error for a person: what is wrong, what to do, and the exit code.
type Error struct {
	Code int    // one of the exit codes above
	Hint string // what to do about it; one line
	Err  error  // what is wrong: what, where
}

func (e *Error) Error() string { return e.Err.Error() }
func (e *Error) Unwrap() error { return e.Err }

// Errorf makes an Error; %w wraps.
func Errorf(code int, hint, format string, args ...any) error {
	return &Error{Code: code, Hint: hint, Err: fmt.Errorf(format, args...)}
}

// silent is an exit code without a message: the answer was data.
type silent int

func (s silent) Error() string { return fmt.Sprintf("exit code %d", int(s)) }

// Silent ends a program with an exit code and says nothing: what there was to say is on
// stdout. It is for answers, such as no, not for errors.
func Silent(code int) error { return silent(code) }

// Rule says what an error of a package means to a person.
type Rule struct {
	Is   error
	Code int
	Hint string
}

// Main is a program's main: it runs until the program ends or a signal asks it
// to, and exits. A second signal ends it at once.
func Main(run func(ctx context.Context, stdio IO, args []string) int) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	code := run(ctx, Stdio(), os.Args[1:])
	stop()
	os.Exit(code)
}

// Run executes a program's root command and gives its exit code. Every error
// ends as one `error:` and one `hint:` line. What cobra finds wrong before a
// command begins is a Usage error.
func Run(ctx context.Context, root *cobra.Command, stdio IO, args []string, rules []Rule) int {
	began := false
	root.SilenceErrors, root.SilenceUsage = true, true
	root.CompletionOptions.HiddenDefaultCmd = true
	root.PersistentPreRun = func(*cobra.Command, []string) { began = true }
	root.SetArgs(args)
	root.SetIn(stdio.In)
	root.SetOut(stdio.Out)
	root.SetErr(stdio.Err)
	cmd, err := root.ExecuteContextC(ctx)
	if err != nil && !began {
		err = &Error{Code: Usage, Hint: "see '" + cmd.CommandPath() + " --help'", Err: err}
	}
	return Report(stdio.Err, root.Name(), err, rules...)
}

// Report writes err as one `error:` and one `hint:` line and gives the exit
// code. A nil error is OK and writes nothing.
func Report(w io.Writer, program string, err error, rules ...Rule) int {
	if err == nil {
		return OK
	}
	var s silent
	if errors.As(err, &s) {
		return int(s)
	}
	e := classify(program, err, rules)
	code, hint, text := e.Code, oneLine(e.Hint), oneLine(err.Error())
	if code == OK {
		code = Failed // an Error without a code is an error all the same
	}
	if code == Interrupted {
		text = "interrupted"
	}
	if text == "" {
		text = "it failed"
	}
	if hint == "" {
		hint = "see '" + program + " --help'"
	}
	// Nothing is left to be done about a stderr that cannot be written to.
	_, _ = fmt.Fprintf(w, "error: %s\nhint: %s\n", text, hint)
	return code
}

// classify finds the Error in err, or makes one by the rules, or from what the
// operating system said, so that no error reaches a person without a hint.
func classify(program string, err error, rules []Rule) *Error {
	var e *Error
	if errors.As(err, &e) {
		return e
	}
	for _, r := range slices.Concat(rules, []Rule{
		{context.Canceled, Interrupted, "nothing half-made was left behind; start it again when you like"},
		{syscall.EADDRINUSE, Resource, "another program listens there: end it, or choose other ports in platform.yaml (nscsetup init --port)"},
		{syscall.ENOSPC, Resource, "the disk is full: make room and start again"},
		{syscall.EDQUOT, Resource, "the disk quota is used up: make room and start again"},
		{syscall.EFBIG, Resource, "this machine lets no file become that large: raise the limit (see 'ulimit -f'), or choose another file system"},
		{syscall.EROFS, Resource, "the file system is read-only: choose another folder"},
		{os.ErrPermission, Resource, "run it as the user who owns that, or choose a folder of your own"},
		{syscall.ENOTDIR, Config, "a part of that path is a file, not a folder: check the path"},
		{syscall.EISDIR, Config, "that is a folder: name the file in it"},
		{os.ErrNotExist, Config, "check the path, or see '" + program + " --help'"},
		{context.DeadlineExceeded, Unavailable, "is the platform up? see its log; then try again"},
	}) {
		if errors.Is(err, r.Is) {
			return &Error{Code: r.Code, Hint: r.Hint, Err: err}
		}
	}
	return &Error{Code: Failed, Hint: "see '" + program + " --help'", Err: err}
}

// seed is what every encoded seed looks like.
func seed() *regexp.Regexp { return regexp.MustCompile(`\bS[OAUNCX][A-Z2-7]{56}`) }

// Line makes text from anywhere harmless to print as one line.
func Line(s string) string { return oneLine(s) }

// oneLine makes text from anywhere harmless to print: one line, no control
// characters, and not endless.
func oneLine(s string) string {
	// Whoever pastes a seed where a name belongs must not find it in a log.
	s = seed().ReplaceAllString(strings.Join(strings.Fields(s), " "), "[a seed]")
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || (r >= 0x80 && r < 0xa0) || (r >= 0x202a && r <= 0x202e) || (r >= 0x2066 && r <= 0x2069) ||
			r == 0x200e || r == 0x200f || r == 0x061c {
			return '?'
		}
		return r
	}, s)
	const most = 1000
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most], "") + "…"
	}
	return s
}

// Table writes rows in aligned columns, the first row being the heads.
func Table(w io.Writer, rows [][]string) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, r := range rows {
		if _, err := fmt.Fprintln(tw, strings.Join(r, "\t")); err != nil {
			return fmt.Errorf("writing a table: %w", err)
		}
	}
	if err := tw.Flush(); err != nil {
		return fmt.Errorf("writing a table: %w", err)
	}
	return nil
}

// JSON writes v on one line.
func JSON(w io.Writer, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encoding the output: %w", err)
	}
	if _, err := w.Write(append(data, '\n')); err != nil {
		return fmt.Errorf("writing the output: %w", err)
	}
	return nil
}

// Print writes text to a stream.
func Print(w io.Writer, format string, args ...any) error {
	if _, err := fmt.Fprintf(w, format, args...); err != nil {
		return fmt.Errorf("writing the output: %w", err)
	}
	return nil
}
