package manifest_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v4"
	"pgregory.net/rapid"

	"github.com/herald-nats/herald/pkg/platform/manifest"
)

func compiled(t testing.TB) *jsonschema.Schema {
	t.Helper()
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(manifest.Schema()))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	if err := c.AddResource("schema.json", doc); err != nil {
		t.Fatal(err)
	}
	s, err := c.Compile("schema.json")
	if err != nil {
		t.Fatal(err)
	}
	if s.DraftVersion != 2020 {
		t.Fatalf("the schema is of draft %d", s.DraftVersion)
	}
	return s
}

// valid asks the schema about a file.
func valid(s *jsonschema.Schema, text []byte) error {
	var tree any
	if err := yaml.Load(text, &tree); err != nil {
		return err
	}
	raw, err := json.Marshal(tree)
	if err != nil {
		return err
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(raw))
	if err != nil {
		return err
	}
	return s.Validate(doc)
}

// TestSchemaAccepts holds the schema to the cases of Parse that are allowed, and to the
// files that come with Herald.
func TestSchemaAccepts(t *testing.T) {
	s := compiled(t)
	for _, name := range examples() {
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := valid(s, data); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	n := 0
	for _, file := range []string{"platform", "accounts", "trade", "roles", "grants"} {
		for _, tc := range cases(t, "testdata/refused/"+file+".txt") {
			if !strings.HasPrefix(tc.title, "allowed: ") {
				continue
			}
			n++
			if err := valid(s, []byte(complete(tc.text))); err != nil {
				t.Errorf("%s: %q: %v", file, tc.title, err)
			}
		}
	}
	if n < 10 {
		t.Errorf("only %d cases", n)
	}
}

// TestSchemaAcceptsWhatParseDoes takes a file that is accepted, sets some of its keys to
// anything, and holds the schema to Check's word.
func TestSchemaAcceptsWhatParseDoes(t *testing.T) {
	s := compiled(t)
	data, err := os.ReadFile("testdata/render.yaml")
	if err != nil {
		t.Fatal(err)
	}
	accepted := 0
	rapid.Check(t, func(t *rapid.T) {
		f, err := manifest.Parse("render.yaml", data)
		if err != nil {
			t.Fatal(err)
		}
		for range rapid.IntRange(1, 2).Draw(t, "changes") {
			change(t, reflect.ValueOf(f).Elem(), "")
		}
		text := f.Render()
		if _, err := manifest.Parse("render.yaml", text); err != nil {
			return
		}
		accepted++
		if err := valid(s, text); err != nil {
			t.Fatalf("%v\n%s", err, text)
		}
	})
	t.Logf("%d files were accepted", accepted)
	if accepted == 0 {
		t.Error("no file was accepted: the test says nothing")
	}
}

// change sets one field somewhere in v to anything.
func change(t *rapid.T, v reflect.Value, enum string) {
	switch v.Kind() {
	case reflect.Slice:
		if v.Len() > 0 && !rapid.Bool().Draw(t, "whole") {
			change(t, v.Index(rapid.IntRange(0, v.Len()-1).Draw(t, "index")), enum)
			return
		}
	case reflect.Pointer:
		if !v.IsNil() && rapid.Bool().Draw(t, "deeper") {
			change(t, v.Elem(), enum)
			return
		}
	case reflect.Struct:
		if _, text := v.Addr().Interface().(interface{ UnmarshalText([]byte) error }); text {
			break
		}
		var keys []int
		for i := range v.NumField() {
			if v.Type().Field(i).Tag.Get("yaml") != "" {
				keys = append(keys, i)
			}
		}
		i := rapid.SampledFrom(keys).Draw(t, "field")
		change(t, v.Field(i), v.Type().Field(i).Tag.Get("enum"))
		return
	}
	draw(t, v, enum, 2)
}

// TestSchemaRefuses makes one mistake after another in a file that has every key, and
// holds both the schema and Parse to refusing each.
func TestSchemaRefuses(t *testing.T) {
	s := compiled(t)
	data, err := os.ReadFile("testdata/render.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var tree any
	if err := yaml.Load(data, &tree); err != nil {
		t.Fatal(err)
	}
	required := requiredKeys(t)
	mistakes := 0
	try := func(what string) {
		t.Helper()
		mistakes++
		text, err := json.Marshal(tree) // which is YAML, too
		if err != nil {
			t.Fatal(err)
		}
		if err := valid(s, text); err == nil {
			t.Errorf("the schema accepts %s", what)
		}
		if _, err := manifest.Parse("p.yaml", text); err == nil {
			t.Errorf("Parse accepts %s", what)
		}
	}
	if _, err := manifest.Parse("p.yaml", data); err != nil {
		t.Fatal(err)
	}
	visit(&tree, reflect.TypeFor[manifest.File](), "the file", func(at string, typ reflect.Type, put func(any), value any) {
		put(nil)
		try(at + " that is null")
		switch v := value.(type) {
		case map[string]any:
			for _, wrong := range []any{"text", []any{}} {
				put(wrong)
				try(fmt.Sprintf("%s that is %v", at, wrong))
			}
			put(value)
			v["unknown_key"] = "x"
			try(at + " with an unknown key")
			delete(v, "unknown_key")
			for _, key := range required[typ.Name()] {
				had, ok := v[key]
				if !ok {
					t.Errorf("%s has no %s", at, key)
				}
				delete(v, key)
				try(at + " without " + key)
				v[key] = had
			}
		case []any:
			for _, wrong := range []any{"text", map[string]any{}} {
				put(wrong)
				try(fmt.Sprintf("%s that is %v", at, wrong))
			}
		case string:
			for _, wrong := range []any{"", "\u0000 not one\n", true} {
				put(wrong)
				if wrong == "\u0000 not one\n" && freeText(at) {
					continue // the schema cannot tell
				}
				try(fmt.Sprintf("%s that is %q", at, wrong))
			}
		case bool:
			for _, wrong := range []any{"true", 1} {
				put(wrong)
				try(fmt.Sprintf("%s that is %v", at, wrong))
			}
		default: // a number
			for _, wrong := range []any{"many", -1} {
				put(wrong)
				try(fmt.Sprintf("%s that is %v", at, wrong))
			}
		}
		put(value)
	})
	t.Logf("%d mistakes", mistakes)
	if mistakes < 800 {
		t.Errorf("only %d mistakes were tried", mistakes)
	}
}

// freeText tells whether a key takes any text as far as the schema knows.
func freeText(at string) bool {
	switch at[strings.LastIndexByte(at, '.')+1:] {
	case "description", "time_zone", "to":
		return true
	case "name": // of exports and imports
		return strings.Contains(at, "ports[")
	default:
		return false
	}
}

func requiredKeys(t *testing.T) map[string][]string {
	t.Helper()
	var s struct {
		Required []string
		Defs     map[string]struct{ Required []string } `json:"$defs"`
	}
	if err := json.Unmarshal(manifest.Schema(), &s); err != nil {
		t.Fatal(err)
	}
	all := map[string][]string{"File": s.Required}
	n := len(s.Required)
	for name, d := range s.Defs {
		all[name] = d.Required
		n += len(d.Required)
	}
	if n < 25 {
		t.Fatalf("only %d keys are required", n)
	}
	return all
}

// visit calls f for each value of a tree, the outer ones first, with the type that is
// filled from it and a way to put another in its place.
func visit(v *any, typ reflect.Type, at string, f func(at string, typ reflect.Type, put func(any), value any)) {
	for typ.Kind() == reflect.Pointer {
		typ = typ.Elem()
	}
	f(at, typ, func(other any) { *v = other }, *v)
	switch value := (*v).(type) {
	case map[string]any:
		for key, item := range value {
			put := func(other any) { value[key] = other }
			visitItem(item, below(typ, key), at+"."+key, put, f)
		}
	case []any:
		for i, item := range value {
			put := func(other any) { value[i] = other }
			visitItem(item, typ.Elem(), fmt.Sprintf("%s[%d]", at, i), put, f)
		}
	}
}

func visitItem(item any, typ reflect.Type, at string, put func(any), f func(string, reflect.Type, func(any), any)) {
	visit(&item, typ, at, func(path string, typ reflect.Type, inner func(any), value any) {
		if path != at {
			f(path, typ, inner, value)
			return
		}
		f(path, typ, func(other any) { inner(other); put(other) }, value)
	})
}

// below is the type of a key's value.
func below(t reflect.Type, key string) reflect.Type {
	if t.Kind() == reflect.Map {
		return t.Elem()
	}
	for i := range t.NumField() {
		f := t.Field(i)
		name, options, _ := strings.Cut(f.Tag.Get("yaml"), ",")
		if options == "inline" {
			if found := below(f.Type, key); found != nil {
				return found
			}
		}
		if name == key {
			return f.Type
		}
	}
	return nil
}
