package main

import (
	"bytes"
	_ "embed" // the texts of the page that are not about one key
	"fmt"
	"reflect"
	"strings"
)

//go:embed intro.md
var intro string

//go:embed rules.md
var rules string

//go:embed example.yaml
var example string

// page is the reference page.
func page(all []structure) ([]byte, error) {
	var b bytes.Buffer
	b.WriteString(strings.TrimSpace(intro))
	b.WriteString("\n\n## An example with every key\n\n```yaml\n")
	b.WriteString(example)
	b.WriteString("```\n\n## Keys\n")
	anchors := map[reflect.Type]string{}
	for _, s := range all {
		anchors[s.typ] = anchor(title(s))
	}
	link := func(t reflect.Type) string { return "[" + strings.ToLower(t.Name()) + "](#" + anchors[t] + ")" }
	for _, s := range all {
		fmt.Fprintf(&b, "\n### %s\n\n%s\n\n| key | value | default | |\n|---|---|---|---|\n", title(s), cell(s.doc))
		for _, k := range s.keys {
			def := cell(k.def)
			if k.required {
				if def != "" {
					return nil, fmt.Errorf("%s of %s is required and has a default", k.name, s.typ.Name())
				}
				def = "**required**"
			}
			row := fmt.Sprintf("| `%s` | %s | %s | %s |\n", k.name, words(k, k.typ, link), def, cell(k.doc))
			b.WriteString(strings.ReplaceAll(row, "|  |", "| |"))
		}
	}
	b.WriteString("\n")
	b.WriteString(strings.TrimSpace(rules))
	b.WriteString("\n")
	return b.Bytes(), nil
}

func title(s structure) string {
	if s.path == "" {
		return "The file"
	}
	return "`" + s.path + "`"
}

// anchor is what a heading is linked by.
func anchor(title string) string {
	var b strings.Builder
	for _, r := range strings.ToLower(title) {
		switch {
		case 'a' <= r && r <= 'z', '0' <= r && r <= '9', r == '_', r == '-':
			b.WriteRune(r)
		case r == ' ':
			b.WriteByte('-')
		}
	}
	return b.String()
}

// cell writes a text of the source into a table: as it is, but for what is code there.
func cell(s string) string {
	escape := strings.NewReplacer("|", `\|`, "*", `\*`, "_", `\_`, "<", "&lt;", "$", `\$`)
	spans := strings.Split(s, "`")
	for i := range spans {
		if i%2 == 0 {
			spans[i] = escape.Replace(spans[i])
		}
	}
	return strings.Join(spans, "`")
}
