package nscsetup

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/herald-nats/herald/internal/cli"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/platform"
	"github.com/herald-nats/herald/pkg/platform/manifest"
)

func parse[T any](t testing.TB, f func(string) (T, error), s string) T {
	t.Helper()
	v, err := f(s)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// run runs the program, and gives its exit code and what it wrote.
func run(t testing.TB, args ...string) (code int, out, errs string) {
	t.Helper()
	var o, e strings.Builder
	code = Run(t.Context(), cli.IO{In: strings.NewReader(""), Out: &o, Err: &e}, args)
	return code, o.String(), e.String()
}

// demo makes a platform with a static user.
func demo(t testing.TB) *platform.Platform {
	t.Helper()
	s := platform.Spec{Name: parse(t, ident.ParseName, "demo"), Nodes: 3, Port: 14000}
	for _, r := range []string{"ams", "sfo"} {
		s.Regions = append(s.Regions, parse(t, ident.ParseRegion, r))
	}
	s.Home = s.Regions[0]
	p, err := platform.Init(t.Context(), filepath.Join(t.TempDir(), "demo"), s, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := (platform.StaticUsers{Platform: p, Now: time.Now}).Add(t.Context(), platform.NewUser{
		Of: parse(t, manifest.ParseRoleRef, "CHAT/member"), Name: parse(t, ident.ParseName, "mail"), Life: time.Hour,
	}); err != nil {
		t.Fatal(err)
	}
	return p
}

// completions are what a shell is offered for a command line whose last word is begun, and
// the directive.
func completions(t testing.TB, args ...string) (offered []string, directive string) {
	t.Helper()
	code, out, errs := run(t, append([]string{"__complete"}, args...)...)
	if code != cli.OK {
		t.Fatalf("%v: exit code %d, %s", args, code, errs)
	}
	for line := range strings.Lines(out) {
		word, _, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "\t")
		if d, ok := strings.CutPrefix(word, ":"); ok {
			return offered, d
		}
		offered = append(offered, word)
	}
	t.Fatalf("%v: no directive: %q", args, out)
	return nil, ""
}

// Directives, as the scripts of shells read them.
const (
	files   = "0"
	noSpace = "6" // and no files
	noFiles = "4"
	folders = "16"
)

func TestCompletion(t *testing.T) {
	p := demo(t)
	dir := "--dir=" + string(p.Dir)
	for _, tt := range []struct {
		line      string // the last word is what was begun; it is empty behind a space at the end
		want      string
		directive string
	}{
		{"region stop ", "ams sfo", noFiles},
		{"region stop a", "ams", noFiles},
		{"region stop ams ", "", noFiles},
		{"link cut ams ", "sfo", noFiles},
		{"link cut ams sfo ", "", noFiles},
		{"link heal s", "sfo", noFiles},
		{"plan --offline ", "", noFiles},
		{"up --services ", "all none", noFiles},
		{"up ", "", folders},
		{"describe account C", "CHAT", noFiles},
		{"describe account CHAT ", "", noFiles},
		{"describe region ", "ams sfo", noFiles},
		{"describe role C", "CHAT/", noSpace},
		{"describe role CHAT/", "CHAT/member", noFiles},
		{"describe role LEDGER/r", "LEDGER/registrar", noFiles},
		{"describe role NONE/", "", noFiles},
		{"describe user CHAT/member ", "mail", noFiles},
		{"describe x", "", files},
		{"describe name a", "", noFiles},
		{"can CHAT/mem", "CHAT/member", noFiles},
		{"can CHAT/member ", "publish subscribe", noFiles},
		{"can CHAT/member p", "publish", noFiles},
		{"can CHAT/member publish ", "", noFiles},
		{"can CHAT/member publish x --user ", "mail", noFiles},
		{"add user CHAT/member ", "mail", noFiles},
		{"add user CHAT/member mail --region s", "sfo", noFiles},
		{"add user CHAT/member mail --out x", "", files},
		{"list roles --account LED", "LEDGER", noFiles},
		{"list names --region ", "ams sfo", noFiles},
		{"completion ", "bash zsh fish", noFiles},
		{"docs --format ", "man markdown", noFiles},
		{"init --region ", "", files},
	} {
		words := strings.Split(tt.line, " ")
		got, directive := completions(t, append([]string{dir}, words...)...)
		if strings.Join(got, " ") != tt.want || directive != tt.directive {
			t.Errorf("%q: offered %q, directive %s; want %q, %s", tt.line, got, directive, tt.want, tt.directive)
		}
	}
	// Commands and flags, from cobra itself.
	if got, _ := completions(t, dir, "des"); strings.Join(got, " ") != "describe" {
		t.Errorf("commands: %q", got)
	}
	if got, _ := completions(t, dir, "describe", "r"); strings.Join(got, " ") != "region role" {
		t.Errorf("what describe knows: %q", got)
	}
	if _, directive := completions(t, "--dir", ""); directive != folders {
		t.Errorf("--dir: directive %s", directive)
	}
}

// TestCompletionSaysNothing: where there is no platform, or a broken one, nothing is
// offered, and nothing said that would end up in somebody's command line.
func TestCompletionSaysNothing(t *testing.T) {
	broken := demo(t)
	for _, path := range []string{broken.Dir.File(), filepath.Join(broken.Dir.Operator(), platform.OperatorFile), filepath.Join(broken.Dir.Operator(), "accounts", "CHAT.jwt")} {
		if err := os.WriteFile(path, []byte("nonsense"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, dir := range []string{t.TempDir(), "/nowhere", string(broken.Dir)} {
		for _, line := range []string{"region stop ", "describe role CHAT/", "describe account NONE", "list names --region ", "can CHAT/member publish x --user z"} {
			got, _ := completions(t, append([]string{"--dir=" + dir}, strings.Split(line, " ")...)...)
			if len(got) > 0 {
				t.Errorf("%s, %q: offered %q", dir, line, got)
			}
			if _, _, errs := run(t, append([]string{"__complete", "--dir=" + dir}, strings.Split(line, " ")...)...); strings.Contains(errs, "rror") {
				t.Errorf("%s, %q: it said %q", dir, line, errs)
			}
		}
	}
}

func TestCompletionScripts(t *testing.T) {
	for _, shell := range []string{"bash", "zsh", "fish"} {
		code, out, errs := run(t, "completion", shell)
		if code != cli.OK || !strings.Contains(out, "__complete") || !strings.Contains(out, "nscsetup") || errs != "" {
			t.Errorf("%s: exit code %d, %.100q, %s", shell, code, out, errs)
		}
	}
}
