// Package archtest holds the rules of docs/architecture.md that a linter of
// imports cannot: who may call what. It reads the sources and imports none of
// them.
package archtest

import (
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

const natsPackage = "github.com/nats-io/nats.go"

// dialer is the one package that may open a connection: there are the inbox
// prefix, the handlers and the reconnect rules without which a connection is
// unsafe or gives up.
const dialer = "internal/natsconn"

// dialing are the names of package nats that open a connection, or that make
// the value whose method does.
func dialing(name string) bool {
	switch name {
	case "Connect", "Options", "GetDefaultOptions":
		return true
	default:
		return false
	}
}

func TestOnlyNatsconnDials(t *testing.T) {
	tree := os.DirFS(moduleRoot(t))
	seen := 0
	err := fs.WalkDir(tree, ".", func(file string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			return skipDir(tree, file)
		}
		if !strings.HasSuffix(file, ".go") || strings.HasSuffix(file, "_test.go") {
			return nil
		}
		src, err := fs.ReadFile(tree, file)
		if err != nil {
			return err
		}
		seen++
		calls, err := dials(file, src)
		for _, c := range calls {
			t.Errorf("%s: only %s connects to NATS", c, dialer)
		}
		return err
	})
	if err != nil {
		t.Fatalf("reading the sources: %v", err)
	}
	if seen == 0 {
		t.Fatal("no Go file was found: nothing was checked")
	}
}

// skipDir leaves out what is no source of this module, and the dialer itself.
func skipDir(tree fs.FS, dir string) error {
	if dir == "." {
		return nil
	}
	name := path.Base(dir)
	if dir == dialer || name == "testdata" || strings.HasPrefix(name, ".") || strings.HasPrefix(name, "_") {
		return fs.SkipDir
	}
	// A folder with a go.mod of its own is another module.
	switch _, err := fs.Stat(tree, path.Join(dir, "go.mod")); {
	case err == nil:
		return fs.SkipDir
	case errors.Is(err, fs.ErrNotExist):
		return nil
	default:
		return err
	}
}

// dials lists the places in one file that open a connection to NATS, as
// "file:line:column: nats.Connect".
func dials(name string, src []byte) ([]string, error) {
	set := token.NewFileSet()
	file, err := parser.ParseFile(set, name, src, parser.SkipObjectResolution)
	if err != nil {
		return nil, err
	}
	var (
		found []string
		local string // what the file calls the package
	)
	for _, imp := range file.Imports {
		p, err := strconv.Unquote(imp.Path.Value)
		if err != nil {
			return nil, err
		}
		if p != natsPackage {
			continue
		}
		local = strings.TrimSuffix(path.Base(p), ".go")
		if imp.Name != nil {
			local = imp.Name.Name
		}
		if local == "." {
			found = append(found, fmt.Sprintf("%s: a dot import of %s", set.Position(imp.Pos()), natsPackage))
		}
	}
	if local == "" {
		return nil, nil
	}
	ast.Inspect(file, func(n ast.Node) bool {
		sel, ok := n.(*ast.SelectorExpr)
		if !ok {
			return true
		}
		if pkg, ok := sel.X.(*ast.Ident); ok && pkg.Name == local && dialing(sel.Sel.Name) {
			found = append(found, fmt.Sprintf("%s: nats.%s", set.Position(sel.Pos()), sel.Sel.Name))
		}
		return true
	})
	return found, nil
}

// TestDialsAreFound keeps the rule itself honest: a check that finds nothing
// anywhere would pass as well.
func TestDialsAreFound(t *testing.T) {
	const head = "package x\n"
	tests := []struct {
		name, src string
		want      int
	}{
		{"call", head + `import "github.com/nats-io/nats.go"; var _, _ = nats.Connect("")`, 1},
		{"renamed", head + `import n "github.com/nats-io/nats.go"; var _, _ = n.Connect("")`, 1},
		{"as a value", head + `import "github.com/nats-io/nats.go"; var dial = nats.Connect`, 1},
		{"by options", head + `import "github.com/nats-io/nats.go"; var o = nats.Options{}`, 1},
		{"by default options", head + `import "github.com/nats-io/nats.go"; var o = nats.GetDefaultOptions()`, 1},
		{"dot import", head + `import . "github.com/nats-io/nats.go"; var _, _ = Connect("")`, 1},
		{"another package's Connect", head + `import "example.com/nats"; var _, _ = nats.Connect("")`, 0},
		{"use of a connection", head + `import "github.com/nats-io/nats.go"; func f(nc *nats.Conn, o ...nats.Option) { nc.Close() }`, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := dials("x.go", []byte(tt.src))
			if err != nil {
				t.Fatal(err)
			}
			if len(got) != tt.want {
				t.Errorf("found %q, want %d", got, tt.want)
			}
		})
	}
}

// moduleRoot is the folder of go.mod above this test.
func moduleRoot(t *testing.T) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir
		}
		up := filepath.Dir(dir)
		if up == dir {
			t.Fatal("no go.mod above the test")
		}
		dir = up
	}
}
