package manifest_test

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/herald-nats/herald/pkg/platform/manifest"
)

// base is what a case does not say itself; it stands behind the case's own lines.
func base() map[string]string {
	return map[string]string{
		"name": "name: demo\n",
		"home": "home: ams\n",
		"regions": `regions:
  - name: ams
    gateway: 127.0.0.1:14000
    nodes:
      - {name: ams-1, client: "127.0.0.1:14001", cluster: "127.0.0.1:14002", gateway: "127.0.0.1:14003"}
      - {name: ams-2, client: "127.0.0.1:14004", cluster: "127.0.0.1:14005", gateway: "127.0.0.1:14006"}
      - {name: ams-3, client: "127.0.0.1:14007", cluster: "127.0.0.1:14008", gateway: "127.0.0.1:14009"}
`,
		"chat":   "chat: {rooms: [{name: KUBECON, channels: [General]}]}\n",
		"grants": "grants: [{to: open, account: CHAT, role: member}]\n",
	}
}

// complete adds what a case leaves out.
func complete(text string) string {
	b := base()
	for _, key := range []string{"name", "home", "regions", "chat", "grants"} {
		if !regexp.MustCompile(`(?m)^`+key+`:|^# without `+key+`$`).MatchString(text) && !strings.Contains(text, "# as it is\n") {
			text += b[key]
		}
	}
	return text
}

// A case's problems are written below the lines that have them: a comment with a ^ below
// the column (or @ and its number), the reason, and in the next comment the hint.
type refused struct{ title, text string }

func cases(t *testing.T, file string) []refused {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var all []refused
	for _, part := range strings.Split("\n"+string(data), "\n=== ")[1:] {
		title, text, ok := strings.Cut(part, "\n")
		if !ok {
			t.Fatalf("%s: case %q has no text", file, title)
		}
		all = append(all, refused{title, strings.TrimRight(text, "\n") + "\n"})
	}
	return all
}

func isNote(line string) bool {
	return regexp.MustCompile(`^# *(\^ |@\d+ |hint: )`).MatchString(line)
}

// annotate writes problems below the lines that have them.
func annotate(text string, problems manifest.Problems) string {
	var out strings.Builder
	lines := strings.SplitAfter(text, "\n")
	for i, line := range lines {
		out.WriteString(line)
		for _, p := range problems {
			if p.Line != i+1 {
				continue
			}
			if p.Column < 2 {
				fmt.Fprintf(&out, "# @%d %s\n", p.Column, p.Reason)
			} else {
				fmt.Fprintf(&out, "#%s^ %s\n", strings.Repeat(" ", p.Column-2), p.Reason)
			}
			if p.Hint != "" {
				fmt.Fprintf(&out, "# hint: %s\n", p.Hint)
			}
		}
	}
	return out.String()
}

func update() bool {
	return flag.Lookup("update") != nil && flag.Lookup("update").Value.String() == "true"
}

func TestMain(m *testing.M) {
	flag.Bool("update", false, "write what is found into testdata/refused")
	flag.Parse()
	os.Exit(m.Run())
}

// TestRefused holds each rule to its cases: exactly these problems, at exactly these
// places, with these reasons and hints.
func TestRefused(t *testing.T) {
	files, err := filepath.Glob("testdata/refused/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatal("no cases", err)
	}
	for _, file := range files {
		var written strings.Builder
		titles := map[string]bool{}
		for _, tc := range cases(t, file) {
			if titles[tc.title] {
				t.Errorf("%s has the case %q twice", file, tc.title)
			}
			titles[tc.title] = true
			// Without its notes, so that lines are where a reader of the file has them.
			plain := strings.Join(slices.DeleteFunc(strings.SplitAfter(tc.text, "\n"), isNote), "")
			_, err := manifest.Parse("platform.yaml", []byte(complete(plain)))
			var problems manifest.Problems
			if err != nil && (!errors.As(err, &problems) || !errors.Is(err, manifest.ErrInvalid) || len(problems) == 0) {
				t.Errorf("%s: %q: the error is no Problems: %v", file, tc.title, err)
			}
			lines := strings.Count(plain, "\n")
			for _, p := range problems {
				if p.File != "platform.yaml" || p.Line < 1 || p.Line > lines || p.Column < 1 || p.Reason == "" || strings.ContainsAny(p.Reason+p.Hint, "\n\t") {
					t.Errorf("%s: %q: a problem that is not whole, or not of the case's own lines: %+v", file, tc.title, p)
				}
				if p.Hint == "" {
					t.Errorf("%s: %q: no hint: %s", file, tc.title, p)
				}
			}
			got := annotate(plain, problems)
			if len(problems) == 0 && !strings.HasPrefix(tc.title, "allowed: ") {
				t.Errorf("%s: %q is not refused", file, tc.title)
			}
			if got != tc.text && !update() {
				t.Errorf("%s: %q:\n%s\nwant:\n%s", file, tc.title, got, tc.text)
			}
			written.WriteString("=== " + tc.title + "\n" + got + "\n")
		}
		if update() {
			if err := os.WriteFile(file, []byte(strings.TrimRight(written.String(), "\n")+"\n"), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// TestPaths holds the paths of problems: they name the key, also where it is not there.
func TestPaths(t *testing.T) {
	_, err := manifest.Parse("p.yaml", []byte(complete(`accounts:
  - name: A
    exports:
      - {subject: a, type: servise}
    roles:
      - name: r
        publish: {allow: [ok, "x.{{name()}}"]}
      - {description: nameless}
`)))
	var problems manifest.Problems
	if !errors.As(err, &problems) {
		t.Fatal(err)
	}
	var got []string
	for _, p := range problems {
		got = append(got, p.Path+" "+strconv.Itoa(p.Line)+":"+strconv.Itoa(p.Column))
	}
	want := []string{"accounts[0].exports[0].type 4:28", "accounts[0].roles[0].publish.allow[1] 7:31", "accounts[0].roles[1].name 8:9"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}
