package main

import (
	"bytes"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v4"

	"github.com/herald-nats/herald/pkg/platform/manifest"
)

const root = "../.."

// TestFresh is what `make check` runs, too.
func TestFresh(t *testing.T) {
	made, err := files(root)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range made {
		if err := f.put(root, true); err != nil {
			t.Error(err)
		}
	}
}

// TestExample holds the page's example: it parses, and has every key.
func TestExample(t *testing.T) {
	if _, err := manifest.Parse("example.yaml", []byte(example)); err != nil {
		t.Fatal(err)
	}
	var tree yaml.Node
	if err := yaml.Load([]byte(example), &tree); err != nil {
		t.Fatal(err)
	}
	given := map[string]bool{}
	gather(tree.Content[0], reflect.TypeFor[manifest.File](), given)
	c, err := readComments(filepath.Join(root, sourceDir))
	if err != nil {
		t.Fatal(err)
	}
	all, err := structs(c)
	if err != nil {
		t.Fatal(err)
	}
	keys := 0
	for _, s := range all {
		for _, k := range s.keys {
			keys++
			if !given[s.typ.Name()+"."+k.name] {
				t.Errorf("the example does not show %s of %s", k.name, s.path)
			}
		}
	}
	if keys < 120 {
		t.Errorf("only %d keys were looked for", keys)
	}
}

// gather notes the keys of a tree by the types that they are of.
func gather(n *yaml.Node, t reflect.Type, given map[string]bool) {
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch {
	case t.Kind() == reflect.Slice && n.Kind == yaml.SequenceNode:
		for _, item := range n.Content {
			gather(item, t.Elem(), given)
		}
	case t.Kind() == reflect.Map && n.Kind == yaml.MappingNode:
		for i := 1; i < len(n.Content); i += 2 {
			gather(n.Content[i], t.Elem(), given)
		}
	case t.Kind() == reflect.Struct && n.Kind == yaml.MappingNode:
		gatherStruct(n, t, t.Name(), given)
	}
}

func gatherStruct(n *yaml.Node, t reflect.Type, name string, given map[string]bool) {
	for i := 0; i+1 < len(n.Content); i += 2 {
		for j := range t.NumField() {
			f := t.Field(j)
			key, inline, _ := strings.Cut(f.Tag.Get("yaml"), ",")
			if inline == "inline" {
				gatherStruct(n, f.Type, f.Type.Name(), given)
				gatherStruct(n, f.Type, name, given)
			}
			if key == n.Content[i].Value {
				given[name+"."+key] = true
				gather(n.Content[i+1], f.Type, given)
			}
		}
	}
}

// TestPage holds the reference page to the types: each key is there, once in each place,
// and links lead somewhere.
func TestPage(t *testing.T) {
	made, err := files(root)
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(made, func(f file) bool { return f.name == pageFile })
	text := string(made[i].data)
	headings := map[string]bool{}
	for _, m := range regexp.MustCompile(`(?m)^#+ (.*)$`).FindAllStringSubmatch(text, -1) {
		headings[anchor(m[1])] = true
	}
	links := regexp.MustCompile(`\]\(#([^)]*)\)`).FindAllStringSubmatch(text, -1)
	if len(links) < 20 {
		t.Errorf("only %d links", len(links))
	}
	for _, m := range links {
		if !headings[m[1]] {
			t.Errorf("no heading for the link #%s", m[1])
		}
	}
	for _, want := range []string{
		"| `name` | name | **required** | What the platform is called; clients keep its keys under this name. |",
		"| `auth_timeout` | duration | 2s | How long a client may take to prove who it is, from 100ms to 1m. |",
		"| `tiers` | `R1`, `R3`: [storelimits](#accountsjetstreamtiers) | | ",
		"### `accounts[].roles[].publish`",
		"| `weight` | number from 1 to 100 | ",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("the page lacks\n%s", want)
		}
	}
}

// TestRun is the command: it finds what is not fresh, and mends it.
func TestRun(t *testing.T) {
	dir := t.TempDir()
	for _, d := range []string{sourceDir, "docs"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	sources, err := filepath.Glob(filepath.Join(root, sourceDir, "*.go"))
	if err != nil || len(sources) == 0 {
		t.Fatal("no sources", err)
	}
	for _, s := range sources {
		data, err := os.ReadFile(s)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, sourceDir, filepath.Base(s)), data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	t.Chdir(dir)
	var stderr bytes.Buffer
	if code := run([]string{"-check"}, &stderr); code != 1 || !strings.Contains(stderr.String(), "docs/platform.md") {
		t.Errorf("without files: %d, %s", code, &stderr)
	}
	stderr.Reset()
	if code := run(nil, &stderr); code != 0 || stderr.Len() > 0 {
		t.Errorf("writing: %d, %s", code, &stderr)
	}
	if code := run([]string{"-check"}, &stderr); code != 0 {
		t.Errorf("after writing: %d, %s", code, &stderr)
	}
	source := filepath.Join(dir, sourceDir, "file.go")
	data, err := os.ReadFile(source)
	if err != nil {
		t.Fatal(err)
	}
	changed := bytes.Replace(data, []byte("// What the platform is called;"), []byte("// How the platform is called;"), 1)
	if err := os.WriteFile(source, changed, 0o644); err != nil {
		t.Fatal(err)
	}
	if code := run([]string{"-check"}, &stderr); code != 1 || !strings.Contains(stderr.String(), "schema.json") || !strings.Contains(stderr.String(), "go run ./internal/manifestdoc") {
		t.Errorf("after a change: %d, %s", code, &stderr)
	}
	if code := run([]string{"-nonsense"}, &stderr); code != 2 {
		t.Errorf("a flag that is not there: %d", code)
	}
}
