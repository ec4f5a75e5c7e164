package main

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"

	"github.com/herald-nats/herald/pkg/platform/manifest"
)

// comments are what the source says of types, as "File", and of their fields, as
// "File.Name".
type comments map[string]string

func readComments(dir string) (comments, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("reading the sources: %w", err)
	}
	c := comments{}
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), ".go") || strings.HasSuffix(e.Name(), "_test.go") {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), filepath.Join(dir, e.Name()), nil, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return nil, fmt.Errorf("reading the sources: %w", err)
		}
		for _, d := range f.Decls {
			if g, ok := d.(*ast.GenDecl); ok && g.Tok == token.TYPE {
				c.add(g)
			}
		}
	}
	return c, nil
}

func (c comments) add(g *ast.GenDecl) {
	for _, s := range g.Specs {
		t := s.(*ast.TypeSpec)
		doc := t.Doc
		if doc == nil {
			doc = g.Doc
		}
		c[t.Name.Name] = oneLine(doc.Text())
		st, ok := t.Type.(*ast.StructType)
		if !ok {
			continue
		}
		for _, f := range st.Fields.List {
			for _, n := range f.Names {
				c[t.Name.Name+"."+n.Name] = oneLine(f.Doc.Text())
			}
		}
	}
}

func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }

// structure is a mapping of the file: one of its types, where it first stands.
type structure struct {
	typ  reflect.Type
	path string // such as accounts[].roles[]; empty for the file
	doc  string
	keys []key
}

// key is a key of a mapping.
type key struct {
	name     string
	doc      string // without its default
	def      string // its default, in words
	required bool
	enum     []string
	form     string
	least    string // of a number
	most     string
	typ      reflect.Type // without pointers
	optional bool         // a pointer: 0 is not the same as nothing
}

// structs are the mappings of a platform file, in its order, each type once.
func structs(c comments) ([]structure, error) {
	var all []structure
	err := walk(c, reflect.TypeFor[manifest.File](), "", &all)
	return all, err
}

func walk(c comments, t reflect.Type, path string, all *[]structure) error {
	if slices.ContainsFunc(*all, func(s structure) bool { return s.typ == t }) {
		return nil
	}
	s := structure{typ: t, path: path, doc: nameless(t.Name(), c[t.Name()])}
	if err := keysOf(c, t, &s.keys); err != nil {
		return err
	}
	*all = append(*all, s)
	for _, k := range s.keys {
		if e, suffix := element(k.typ); isMapping(e) {
			below := k.name + suffix
			if path != "" {
				below = path + "." + below
			}
			if err := walk(c, e, below, all); err != nil {
				return err
			}
		}
	}
	return nil
}

// element is what a list or table is of, and how a path writes it.
func element(t reflect.Type) (e reflect.Type, suffix string) {
	switch {
	case t.Kind() == reflect.Slice:
		return t.Elem(), "[]"
	case t.Kind() == reflect.Map:
		return t.Elem(), ".*"
	default:
		return t, ""
	}
}

func isMapping(t reflect.Type) bool { return t.Kind() == reflect.Struct && !isText(t) }

// isText tells whether a type has a form of its own, as one text.
func isText(t reflect.Type) bool {
	return reflect.PointerTo(t).Implements(reflect.TypeFor[interface{ UnmarshalText([]byte) error }]())
}

func keysOf(c comments, t reflect.Type, keys *[]key) error {
	for i := range t.NumField() {
		f := t.Field(i)
		name, options, _ := strings.Cut(f.Tag.Get("yaml"), ",")
		switch {
		case options == "inline":
			if err := keysOf(c, f.Type, keys); err != nil {
				return err
			}
			continue
		case name == "":
			continue
		}
		doc := c[t.Name()+"."+f.Name]
		if doc == "" {
			return fmt.Errorf("%s.%s has no comment", t.Name(), f.Name)
		}
		k := key{
			name: name, required: f.Tag.Get("required") == "true", form: f.Tag.Get("form"),
			least: f.Tag.Get("least"), most: f.Tag.Get("most"), typ: f.Type,
		}
		k.doc, k.def = parts(doc)
		if e := f.Tag.Get("enum"); e != "" {
			k.enum = strings.Split(e, ",")
		}
		if f.Type.Kind() == reflect.Pointer {
			k.typ, k.optional = f.Type.Elem(), true
		}
		*keys = append(*keys, k)
	}
	return nil
}

// nameless is the comment on a type for who does not know the type: "File is a platform"
// becomes "A platform".
func nameless(name, doc string) string {
	for _, begin := range []string{name + " is ", name + " are ", name + " "} {
		if rest, ok := strings.CutPrefix(doc, begin); ok && rest != "" {
			return strings.ToUpper(rest[:1]) + rest[1:]
		}
	}
	return doc
}

// parts takes the default out of a comment: the sentence that begins with "Default:".
func parts(doc string) (rest, def string) {
	before, after, ok := strings.Cut(doc, "Default: ")
	if !ok {
		return doc, ""
	}
	end := strings.Index(after+" ", ". ")
	if end < 0 {
		end = len(after)
	}
	return strings.TrimSpace(before + strings.TrimPrefix(after[end:], ".")), after[:end]
}
