package cli_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"unicode"

	"github.com/spf13/cobra"
	"pgregory.net/rapid"

	"github.com/herald-nats/herald/internal/cli"
)

// codes are the exit codes by the names of docs/exit-codes.md.
func codes() map[string]int {
	return map[string]int{
		"OK": cli.OK, "Failed": cli.Failed, "Usage": cli.Usage, "Config": cli.Config, "Exists": cli.Exists, "Unavailable": cli.Unavailable,
		"Refused": cli.Refused, "Partial": cli.Partial, "Resource": cli.Resource, "Interrupted": cli.Interrupted,
	}
}

// TestCodesAreThoseOfTheTable reads the table of docs/exit-codes.md.
func TestCodesAreThoseOfTheTable(t *testing.T) {
	doc, err := os.ReadFile("../../docs/exit-codes.md")
	if err != nil {
		t.Fatal(err)
	}
	want := codes()
	for _, m := range regexp.MustCompile(`(?m)^\| ([0-9]+) \| (\w+) \| (.+) \|$`).FindAllStringSubmatch(string(doc), -1) {
		n, err := strconv.Atoi(m[1])
		if err != nil {
			t.Fatal(err)
		}
		if got, ok := want[m[2]]; !ok || got != n {
			t.Errorf("docs/exit-codes.md says %s is %d; here it is %d, %t", m[2], n, got, ok)
		}
		delete(want, m[2])
	}
	for name := range want {
		t.Errorf("docs/exit-codes.md does not list %s", name)
	}
	src, err := os.ReadFile("cli.go")
	if err != nil {
		t.Fatal(err)
	}
	if n := len(regexp.MustCompile(`(?m)^\t[A-Z]\w+ += [0-9]+ +//`).FindAll(src, -1)); n != len(codes()) {
		t.Errorf("cli.go has %d codes, this test knows %d", n, len(codes()))
	}
}

func report(err error, rules ...cli.Rule) (string, int) {
	var b bytes.Buffer
	code := cli.Report(&b, "prog", err, rules...)
	return b.String(), code
}

// twoLines: one error, one hint, both say something, and nothing in them can
// move a cursor or break a line.
func twoLines(text string) error {
	lines := strings.Split(text, "\n")
	if len(lines) != 3 || lines[2] != "" {
		return fmt.Errorf("%d lines: %q", len(lines)-1, text)
	}
	e, ok := strings.CutPrefix(lines[0], "error: ")
	h, ok2 := strings.CutPrefix(lines[1], "hint: ")
	if !ok || !ok2 || strings.TrimSpace(e) == "" || strings.TrimSpace(h) == "" {
		return fmt.Errorf("not an error and a hint: %q", text)
	}
	if len(e) > 1100 || len(h) > 1100 {
		return fmt.Errorf("%d and %d bytes", len(e), len(h))
	}
	for _, r := range e + h {
		if unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r) || r == '\u2028' || r == '\u2029' {
			return fmt.Errorf("it holds %U: %q", r, text)
		}
	}
	return nil
}

func TestReportIsTwoLines(t *testing.T) {
	for what, err := range map[string]error{
		"plain":             errors.New("it broke"),
		"several lines":     errors.New("a\nb\r\nc"),
		"joined":            errors.Join(errors.New("a"), errors.New("b"), fs.ErrNotExist),
		"joined in joined":  fmt.Errorf("x: %w", errors.Join(errors.New("a\nb"), errors.Join(errors.New("b"), errors.New("c")))),
		"empty":             errors.New(""),
		"white space":       errors.New(" \n\t "),
		"an escape":         errors.New("\x1b[2J\x1b]0;title\x07"),
		"a C1 escape":       errors.New("\u009b31m\x9b31m"),
		"bidirectional":     errors.New("a\u202eb\u2066c\u200fd\u061ce\u200ef"),
		"line separators":   errors.New("a\u2028b\u2029c\u0085d"),
		"NUL and DEL":       errors.New("a\x00b\x7fc\bd"),
		"broken UTF-8":      errors.New("a\xffb\xc3"),
		"endless":           errors.New(strings.Repeat("é", 1<<16)),
		"an Error":          cli.Errorf(cli.Refused, "do\nthat\x1b[0m", "no %s", "way\n"),
		"without a hint":    cli.Errorf(cli.Refused, "", "no way"),
		"with a blank hint": cli.Errorf(cli.Refused, " \n", "no way"),
		"interrupted":       context.Canceled,
	} {
		text, code := report(err)
		if bad := twoLines(text); bad != nil {
			t.Errorf("%s: %v", what, bad)
		}
		if code == cli.OK {
			t.Errorf("%s: code 0", what)
		}
	}
	if text, code := report(nil); text != "" || code != cli.OK {
		t.Errorf("no error: %q %d", text, code)
	}
	// An error's texts may come from a stranger: whatever they are.
	rapid.Check(t, func(r *rapid.T) {
		a, b := rapid.String().Draw(r, "a"), string(rapid.SliceOf(rapid.Byte()).Draw(r, "b"))
		text, code := report(errors.Join(&cli.Error{Code: rapid.IntRange(0, 7).Draw(r, "code"), Hint: b, Err: errors.New(a)}, errors.New(b)))
		if err := twoLines(text); err != nil || code == cli.OK {
			r.Fatalf("%d %v", code, err)
		}
	})
}

func TestReportClassifies(t *testing.T) {
	mine := errors.New("mine")
	rule := cli.Rule{Is: mine, Code: cli.Exists, Hint: "the rule's hint"}
	for what, tc := range map[string]struct {
		err  error
		code int
		hint string
	}{
		"unknown":                       {errors.New("x"), cli.Failed, "prog --help"},
		"an Error":                      {cli.Errorf(cli.Refused, "h", "x"), cli.Refused, "hint: h"},
		"a wrapped Error":               {fmt.Errorf("a: %w", fmt.Errorf("b: %w", cli.Errorf(cli.Refused, "h", "x"))), cli.Refused, "hint: h"},
		"a joined Error":                {errors.Join(errors.New("a"), cli.Errorf(cli.Config, "h", "x")), cli.Config, "hint: h"},
		"an Error before its cause":     {cli.Errorf(cli.Config, "h", "x: %w", syscall.ENOSPC), cli.Config, "hint: h"},
		"an Error without a code":       {&cli.Error{Err: mine}, cli.Failed, "prog --help"},
		"a rule":                        {fmt.Errorf("x: %w", mine), cli.Exists, "the rule's hint"},
		"a rule before the general one": {fmt.Errorf("%w: %w", mine, fs.ErrNotExist), cli.Exists, "the rule's hint"},
		"a taken port":                  {&net.OpError{Op: "listen", Err: os.NewSyscallError("bind", syscall.EADDRINUSE)}, cli.Resource, "listens"},
		"a full disk":                   {&fs.PathError{Op: "write", Path: "x", Err: syscall.ENOSPC}, cli.Resource, "disk is full"},
		"a used up quota":               {fmt.Errorf("x: %w", &fs.PathError{Op: "write", Path: "x", Err: syscall.EDQUOT}), cli.Resource, "quota"},
		"a file too large":              {&fs.PathError{Op: "write", Path: "x", Err: syscall.EFBIG}, cli.Resource, "ulimit"},
		"a read-only file system":       {&fs.PathError{Op: "open", Path: "x", Err: syscall.EROFS}, cli.Resource, "read-only"},
		"EPERM":                         {fmt.Errorf("x: %w", &fs.PathError{Op: "open", Path: "x", Err: syscall.EPERM}), cli.Resource, "owns"},
		"EACCES":                        {errors.Join(errors.New("x"), &fs.PathError{Op: "open", Path: "x", Err: syscall.EACCES}), cli.Resource, "owns"},
		"a file as a folder":            {&fs.PathError{Op: "open", Path: "x/y", Err: syscall.ENOTDIR}, cli.Config, "not a folder"},
		"nothing there":                 {&fs.PathError{Op: "open", Path: "x", Err: syscall.ENOENT}, cli.Config, "path"},
		"a deadline":                    {fmt.Errorf("x: %w", context.DeadlineExceeded), cli.Unavailable, "platform up"},
		"an i/o timeout":                {&net.OpError{Op: "dial", Err: context.DeadlineExceeded}, cli.Unavailable, "platform up"},
		"interrupted":                   {fmt.Errorf("x: %w", context.Canceled), cli.Interrupted, "nothing half-made"},
		"interrupted, and its wake":     {errors.Join(&fs.PathError{Op: "open", Path: "x", Err: syscall.ENOENT}, context.Canceled), cli.Interrupted, "nothing"},
	} {
		text, code := report(tc.err, rule)
		if code != tc.code || !strings.Contains(text, tc.hint) {
			t.Errorf("%s: %d %q, want %d and %q", what, code, text, tc.code, tc.hint)
		}
		if err := twoLines(text); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// What this machine really says, not what we think that it says.
func TestReportOfRealErrors(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	_, taken := net.Listen("tcp", l.Addr().String())
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	_, missing := os.Open(filepath.Join(dir, "none"))
	_, notDir := os.Open(filepath.Join(file, "x"))
	for what, tc := range map[string]struct {
		err  error
		code int
	}{"a taken port": {taken, cli.Resource}, "a missing file": {missing, cli.Config}, "a file as folder": {notDir, cli.Config}} {
		if _, code := report(fmt.Errorf("x: %w", tc.err)); code != tc.code {
			t.Errorf("%s: %v: code %d", what, tc.err, code)
		}
	}
	if full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0); err == nil { // Linux
		_, err = full.WriteString("x")
		if _, code := report(err); code != cli.Resource {
			t.Errorf("a full disk: %v: code %d", err, code)
		}
		_ = full.Close()
	}
	if err := exec.Command(file).Run(); err != nil { // not executable
		if _, code := report(err); code != cli.Resource {
			t.Errorf("a missing permission: %v: code %d", err, code)
		}
	}
}

func TestReportDoesNotTouchItsRules(t *testing.T) {
	rules := make([]cli.Rule, 1, 20)
	rules[0] = cli.Rule{Is: errors.New("x"), Code: cli.Exists, Hint: "h"}
	report(errors.New("y"), rules...)
	if more := append(rules, cli.Rule{})[:cap(rules)]; more[2].Is != nil {
		t.Error("the caller's slice was written behind its end")
	}
}

func run(t *testing.T, runE func(*cobra.Command, []string) error, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	var out, errw bytes.Buffer
	root := &cobra.Command{Use: "prog"}
	sub := &cobra.Command{Use: "do", Args: cobra.NoArgs, RunE: runE}
	sub.Flags().Int("n", 0, "a number")
	root.AddCommand(sub)
	code = cli.Run(t.Context(), root, cli.IO{In: strings.NewReader(""), Out: &out, Err: &errw}, args, nil)
	return out.String(), errw.String(), code
}

func TestRun(t *testing.T) {
	ok := func(c *cobra.Command, _ []string) error { return cli.Print(c.OutOrStdout(), "done\n") }
	if out, errs, code := run(t, ok, "do"); out != "done\n" || errs != "" || code != cli.OK {
		t.Errorf("%q %q %d", out, errs, code)
	}
	for _, args := range [][]string{{"do", "--x"}, {"do", "--n", "x"}, {"do", "more"}, {"dont"}, {"do", "--n"}} {
		out, errs, code := run(t, ok, args...)
		if out != "" || code != cli.Usage || twoLines(errs) != nil || !strings.Contains(errs, "--help") {
			t.Errorf("%v: %q %q %d", args, out, errs, code)
		}
	}
	fails := func(*cobra.Command, []string) error { return cli.Errorf(cli.Refused, "h", "no") }
	if out, errs, code := run(t, fails, "do"); out != "" || errs != "error: no\nhint: h\n" || code != cli.Refused {
		t.Errorf("%q %q %d", out, errs, code)
	}
	if out, _, code := run(t, ok, "do", "--help"); code != cli.OK || !strings.Contains(out, "prog do") {
		t.Errorf("help: %q %d", out, code)
	}
}

func TestOutput(t *testing.T) {
	var b bytes.Buffer
	if err := cli.Table(&b, [][]string{{"NAME", "N"}, {"a", "1"}, {"long name", "22"}}); err != nil || b.String() != "NAME       N\na          1\nlong name  22\n" {
		t.Errorf("%q %v", b.String(), err)
	}
	b.Reset()
	if err := cli.JSON(&b, map[string]string{"a": "x\ny"}); err != nil || b.String() != "{\"a\":\"x\\ny\"}\n" {
		t.Errorf("%q %v", b.String(), err)
	}
	if err := cli.JSON(&b, make(chan int)); err == nil {
		t.Error("what cannot be encoded")
	}
	for what, err := range map[string]error{
		"Table": cli.Table(broken{}, [][]string{{"x"}}), "JSON": cli.JSON(broken{}, 1), "Print": cli.Print(broken{}, "x"),
	} {
		if !errors.Is(err, syscall.ENOSPC) {
			t.Errorf("%s to a full disk: %v", what, err)
		}
	}
}

// broken is a stdout that is a file on a full disk.
type broken struct{}

func (broken) Write([]byte) (int, error) { return 0, syscall.ENOSPC }
