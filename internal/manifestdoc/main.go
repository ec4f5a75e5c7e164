// Command manifestdoc makes the reference page of the platform file and its JSON Schema
// from the Go source of pkg/platform/manifest: from the comments on its fields, their
// types and their tags. So there is one place where a key is explained.
//
//	go run ./internal/manifestdoc          writes docs/platform.md and schema.json
//	go run ./internal/manifestdoc -check   says which of them is not fresh
package main

import (
	"bytes"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

const (
	sourceDir  = "pkg/platform/manifest"
	pageFile   = "docs/platform.md"
	schemaFile = sourceDir + "/schema.json"
)

func main() { os.Exit(run(os.Args[1:], os.Stderr)) }

// run works in the module's root, the working folder.
func run(args []string, stderr io.Writer) int {
	flags := flag.NewFlagSet("manifestdoc", flag.ContinueOnError)
	flags.SetOutput(stderr)
	check := flags.Bool("check", false, "write nothing; say what is not fresh")
	if err := flags.Parse(args); err != nil {
		return 2
	}
	made, err := files(".")
	if err != nil {
		fmt.Fprintln(stderr, "error:", err)
		return 1
	}
	code := 0
	for _, f := range made {
		if err := f.put(".", *check); err != nil {
			fmt.Fprintln(stderr, "error:", err)
			code = 1
		}
	}
	return code
}

// file is one that is made, by its path from the module's root.
type file struct {
	name string
	data []byte
}

// files makes both files from the sources below root.
func files(root string) ([]file, error) {
	c, err := readComments(filepath.Join(root, sourceDir))
	if err != nil {
		return nil, err
	}
	all, err := structs(c)
	if err != nil {
		return nil, err
	}
	s, err := schema(all)
	if err != nil {
		return nil, err
	}
	p, err := page(all)
	if err != nil {
		return nil, err
	}
	return []file{{schemaFile, s}, {pageFile, p}}, nil
}

// put writes the file, or only tells whether it is what would be written.
func (f file) put(root string, check bool) error {
	name := filepath.Join(root, f.name)
	if !check {
		if err := os.WriteFile(name, f.data, 0o644); err != nil { // #nosec G306 -- documentation
			return fmt.Errorf("writing %s: %w", f.name, err)
		}
		return nil
	}
	have, err := os.ReadFile(name) // #nosec G304 -- one of two constants below root
	if err != nil {
		return fmt.Errorf("reading %s: %w", f.name, err)
	}
	if !bytes.Equal(have, f.data) {
		return fmt.Errorf("%s is not what the sources say: run `go run ./internal/manifestdoc`", f.name)
	}
	return nil
}
