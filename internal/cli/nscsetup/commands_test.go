package nscsetup

import (
	"fmt"
	"strings"
	"testing"

	"github.com/herald-nats/herald/internal/cli"
	"github.com/herald-nats/herald/internal/cli/reference"
)

// TestCommandsExplainThemselves walks all commands: each says in a line and at length what
// it does, and has examples that it would take.
func TestCommandsExplainThemselves(t *testing.T) {
	root := newRoot(&globals{})
	all := reference.Commands(root)
	if len(all) < 20 {
		t.Fatalf("there are %d commands: the walk is broken", len(all))
	}
	for _, c := range all {
		t.Run(c.CommandPath(), func(t *testing.T) {
			if c.Short == "" || strings.HasSuffix(c.Short, ".") || strings.Contains(c.Short, "\n") {
				t.Errorf("short text %q", c.Short)
			}
			if strings.TrimSpace(c.Long) == "" {
				t.Error("it has no long text")
			}
			for _, l := range strings.Split(c.Long, "\n") {
				if len(l) > 96 || strings.HasSuffix(l, " ") || strings.Contains(l, "\t") {
					t.Errorf("a line of the long text that does not fit a screen, or ends in white space: %q", l)
				}
			}
			if strings.TrimSpace(c.Example) == "" {
				t.Error("it has no example")
			}
			own := false
			for _, line := range strings.Split(c.Example, "\n") {
				if line != "" && !strings.HasPrefix(line, "  ") {
					t.Errorf("the example %q is not indented", line)
				}
				for _, args := range invocations(line) {
					got, err := takes(args)
					if err != nil {
						t.Errorf("the example %q: %v", strings.TrimSpace(line), err)
					}
					own = own || got == c.CommandPath() || strings.HasPrefix(got, c.CommandPath()+" ")
				}
			}
			if !own {
				t.Error("none of its examples uses it")
			}
		})
	}
}

// takes tells whether the program would take a command line, and which command it is.
func takes(args []string) (string, error) {
	root := newRoot(&globals{})
	c, rest, err := root.Find(args)
	if err != nil {
		return "", err
	}
	if err := c.ParseFlags(rest); err != nil {
		return "", err
	}
	if err := c.ValidateArgs(c.Flags().Args()); err != nil {
		return "", err
	}
	if c.HasSubCommands() && len(c.Flags().Args()) > 0 && c.CommandPath() != "nscsetup describe" {
		return "", fmt.Errorf("%s has no command %s", c.CommandPath(), c.Flags().Args()[0])
	}
	return c.CommandPath(), nil
}

// invocations are the calls of the program in a line of shell, as far as examples have
// shell in them.
func invocations(line string) (calls [][]string) {
	var words []string
	end := func() {
		if len(words) > 0 && words[0] == "nscsetup" {
			calls = append(calls, words[1:])
		}
		words = nil
	}
	var word strings.Builder
	begun, quote, skip := false, rune(0), false
	push := func() {
		if begun && !skip {
			words = append(words, word.String())
		}
		if begun {
			skip = false
		}
		word.Reset()
		begun = false
	}
	for _, r := range line + "\n" {
		switch {
		case quote != 0 && r == quote:
			quote = 0
		case quote != 0:
			word.WriteRune(r)
		case r == '\'' || r == '"':
			quote, begun = r, true
		case r == '#' && !begun:
			end()
			return calls
		case r == ' ' || r == '\n':
			push()
		case strings.ContainsRune("|&;()", r):
			push()
			end()
			skip = false
		case r == '>' || r == '<':
			push()
			skip = true // what follows is a file
		default:
			word.WriteRune(r)
			begun = true
		}
	}
	end()
	return calls
}

// The walk above is believed, so its parts are tried.
func TestInvocations(t *testing.T) {
	for _, tt := range []struct {
		line string
		want string
	}{
		{"  nscsetup list", "[[list]]"},
		{"  nscsetup can A/b publish 'a.*' --queue \"x y\"  # yes", "[[can A/b publish a.* --queue x y]]"},
		{"  nscsetup plan --exit-code || nscsetup apply --yes", "[[plan --exit-code] [apply --yes]]"},
		{"  nscsetup describe - --check < user.jwt", "[[describe - --check]]"},
		{"  source <(nscsetup completion bash)", "[[completion bash]]"},
		{"  nscsetup schema > a.json && echo nscsetup", "[[schema]]"},
		{"  echo 'nscsetup list'", "[]"},
	} {
		if got := fmt.Sprint(invocations(tt.line)); got != tt.want {
			t.Errorf("%s: %s, want %s", tt.line, got, tt.want)
		}
	}
	for _, bad := range [][]string{{"nonsense"}, {"list", "--nonsense"}, {"can", "A/b"}, {"link", "nonsense"}} {
		if _, err := takes(bad); err == nil {
			t.Errorf("%v would be taken", bad)
		}
	}
}

// TestHelpOfRoot: what a shell needs is among the commands that help shows.
func TestHelpOfRoot(t *testing.T) {
	var out strings.Builder
	if code := Run(t.Context(), cli.IO{In: strings.NewReader(""), Out: &out, Err: &out}, []string{"--help"}); code != cli.OK {
		t.Fatal(code, out.String())
	}
	for _, c := range []string{"completion", "describe", "list", "version", "schema", "docs", "can", "add"} {
		if !strings.Contains(out.String(), "\n  "+c+" ") {
			t.Errorf("--help does not show %s", c)
		}
	}
}

// TestErrorsHaveHints: errors that cobra finds by itself are usage errors with a hint.
func TestUsageErrors(t *testing.T) {
	for _, args := range [][]string{
		{"list", "extra"},
		{"list", "nonsense"},
		{"describe", "a", "b"},
		{"describe", "account"},
		{"can"},
		{"add"},
		{"add", "user", "x"},
		{"completion"},
		{"completion", "powershell"},
		{"docs"},
		{"docs", "--out", "x", "--format", "html"},
		{"version", "x"},
		{"schema", "x"},
	} {
		var out, errs strings.Builder
		code := Run(t.Context(), cli.IO{In: strings.NewReader(""), Out: &out, Err: &errs}, append([]string{"--dir", t.TempDir()}, args...))
		if len(args) == 1 && args[0] == "add" {
			if code != cli.OK {
				t.Errorf("%v: exit code %d", args, code)
			}
			continue
		}
		if code != cli.Usage || !strings.Contains(errs.String(), "\nhint: ") {
			t.Errorf("%v: exit code %d, %s", args, code, errs.String())
		}
	}
}
