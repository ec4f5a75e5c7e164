package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"strconv"
	"strings"

	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/platform/manifest"
)

// object is a JSON object whose members stay in order.
type object []member

type member struct {
	name  string
	value any
}

// MarshalJSON implements json.Marshaler.
func (o object) MarshalJSON() ([]byte, error) {
	var b bytes.Buffer
	b.WriteByte('{')
	for i, m := range o {
		if i > 0 {
			b.WriteByte(',')
		}
		name, err := json.Marshal(m.name)
		if err != nil {
			return nil, err
		}
		b.Write(name)
		b.WriteByte(':')
		var v bytes.Buffer
		enc := json.NewEncoder(&v)
		enc.SetEscapeHTML(false)
		if err := enc.Encode(m.value); err != nil {
			return nil, err
		}
		b.Write(bytes.TrimSpace(v.Bytes()))
	}
	b.WriteByte('}')
	return b.Bytes(), nil
}

// schema is the JSON Schema of a platform file. It holds what editors can: keys, kinds,
// and how values are written; what belongs together is for Check.
func schema(all []structure) ([]byte, error) {
	defs := object{}
	for _, s := range all[1:] {
		o, err := mapping(s)
		if err != nil {
			return nil, err
		}
		defs = append(defs, member{s.typ.Name(), o})
	}
	file, err := mapping(all[0])
	if err != nil {
		return nil, err
	}
	root := append(object{
		{"$schema", "https://json-schema.org/draft/2020-12/schema"},
		{"title", "Herald platform file"},
	}, file...)
	root = append(root, member{"$defs", defs})
	raw, err := root.MarshalJSON()
	if err != nil {
		return nil, fmt.Errorf("encoding the schema: %w", err)
	}
	var b bytes.Buffer
	if err := json.Indent(&b, raw, "", "  "); err != nil {
		return nil, fmt.Errorf("encoding the schema: %w", err)
	}
	b.WriteByte('\n')
	return b.Bytes(), nil
}

func mapping(s structure) (object, error) {
	properties, required := object{}, []string{}
	for _, k := range s.keys {
		v, err := value(k, k.typ)
		if err != nil {
			return nil, fmt.Errorf("%s.%s: %w", s.typ.Name(), k.name, err)
		}
		about := k.doc
		if k.def != "" {
			about += " Default: " + k.def + "."
		}
		v = append(v, member{"description", about})
		properties = append(properties, member{k.name, v})
		if k.required {
			required = append(required, k.name)
		}
	}
	o := object{{"description", s.doc}, {"type", "object"}, {"additionalProperties", false}}
	if len(required) > 0 {
		o = append(o, member{"required", required})
	}
	return append(o, member{"properties", properties}), nil
}

// value is the schema of a key's value, or of each in its list.
func value(k key, t reflect.Type) (object, error) {
	switch {
	case isText(t):
		return text(k, t)
	case t.Kind() == reflect.Struct:
		return object{{"$ref", "#/$defs/" + t.Name()}}, nil
	case t.Kind() == reflect.Slice:
		items, err := value(k, t.Elem())
		if err != nil {
			return nil, err
		}
		o := object{{"type", "array"}, {"items", items}}
		if k.required {
			o = append(o, member{"minItems", 1})
		}
		return o, nil
	case t.Kind() == reflect.Map:
		of, err := value(key{}, t.Elem())
		if err != nil {
			return nil, err
		}
		properties := object{}
		for _, name := range k.enum {
			properties = append(properties, member{name, of})
		}
		return object{{"type", "object"}, {"additionalProperties", false}, {"properties", properties}}, nil
	case t.Kind() == reflect.Bool:
		return object{{"type", "boolean"}}, nil
	case t.Kind() == reflect.Int64:
		return bounds(object{{"type", "integer"}}, k)
	case t.Kind() == reflect.String && k.enum != nil:
		return object{{"type", "string"}, {"enum", k.enum}}, nil
	case t.Kind() == reflect.String:
		o := object{{"type", "string"}, {"minLength", 1}}
		if k.form != "" {
			p, ok := forms()[k.form]
			if !ok {
				return nil, fmt.Errorf("no form %q is known", k.form)
			}
			o = append(o, member{"pattern", p.pattern})
		}
		return o, nil
	default:
		return nil, fmt.Errorf("a value of type %s", t)
	}
}

func bounds(o object, k key) (object, error) {
	for _, b := range []struct{ name, value string }{{"minimum", k.least}, {"maximum", k.most}} {
		if b.value == "" {
			continue
		}
		n, err := strconv.ParseInt(b.value, 10, 64)
		if err != nil {
			return nil, fmt.Errorf("a bound: %w", err)
		}
		o = append(o, member{b.name, n})
	}
	return o, nil
}

// form is how a text is written: for a machine, and for a reader.
type form struct{ pattern, words string }

// forms are the values of the tag form.
func forms() map[string]form {
	return map[string]form{
		"address": {`^([a-z0-9_.-]+|\[[0-9a-f:.]+\]):[1-9][0-9]{0,4}$`, "host:port"},
		"host":    {`^([a-z0-9_.-]+|[0-9a-f:.]+)$`, "host"},
		"path":    {`^/[A-Za-z0-9/._+@-]+$`, "path"},
		"region":  {`^[a-z][a-z0-9]{0,15}$`, "name of a region"},
		"url":     {`^[a-zA-Z][a-zA-Z0-9+.-]*://[^/]`, "URL"},
		"tag":     {`^[a-z0-9][a-z0-9._/@+:-]*$`, "key:value"},
		"subject": {`^[^\s.]+(\.[^\s.]+)*$`, "subject"},
		"mapping": {`^[^\s.]+(\.[^\s.]+)*$`, "subject"},
		"network": {`^[0-9a-f:.]+/[0-9]{1,3}$`, "network"},
		"clock":   {`^([01][0-9]|2[0-3]):[0-5][0-9](:[0-5][0-9])?$`, "time of day"},
		"xkey":    {`^X[A-Z2-7]{55}$`, "public xkey"},
	}
}

// texts are the types with a form of their own.
func texts() map[reflect.Type]form {
	const label = `[A-Za-z0-9_-]{1,32}`
	return map[reflect.Type]form{
		reflect.TypeFor[ident.Name]():        {`^[a-z0-9]([._-]?[a-z0-9])*$`, "name"},
		reflect.TypeFor[ident.Region]():      {forms()["region"].pattern, "region"},
		reflect.TypeFor[ident.Label]():       {`^` + label + `$`, "label"},
		reflect.TypeFor[ident.UserKey]():     {`^U[A-Z2-7]{55}$`, "public user nkey"},
		reflect.TypeFor[ident.Identity]():    {`^((open|invite):U[A-Z2-7]{55}|key:HK[A-Z2-7]{18}|oidc:` + label + `:[ -~]{1,255})$`, "identity"},
		reflect.TypeFor[manifest.RoleRef]():  {`^` + label + `/` + label + `$`, "ACCOUNT/ROLE"},
		reflect.TypeFor[manifest.Duration](): {duration(), "duration"},
		reflect.TypeFor[manifest.Size]():     {size(1), "size"},
	}
}

// duration is what manifest.ParseDuration accepts, but for lengths of nothing.
func duration() string {
	const unit = `(ns|us|µs|μs|ms|s|m|h)`
	return `^([0-9]+d|([0-9]+d)?[0-9]+(\.[0-9]*)?` + unit + `(([0-9]+(\.[0-9]*)?|\.[0-9]+)` + unit + `)*)$`
}

// size is what manifest.ParseSize accepts, from least bytes on.
func size(least int) string {
	digits := `[1-9][0-9]*`
	if least == 0 {
		digits = `(0|[1-9][0-9]*)`
	}
	return `^` + digits + `(B|KiB|MiB|GiB|TiB)?$`
}

func text(k key, t reflect.Type) (object, error) {
	f, ok := texts()[t]
	if !ok {
		return nil, fmt.Errorf("a text of type %s", t)
	}
	o := object{{"type", "string"}, {"pattern", f.pattern}}
	switch t {
	case reflect.TypeFor[ident.Name]():
		return append(o, member{"maxLength", 32}), nil
	case reflect.TypeFor[manifest.Size]():
		// 0 is not nothing where a key may be left out for no limit.
		least := 1
		if k.optional && k.least != "1" {
			least = 0
		}
		return object{{"anyOf", []object{
			{{"type", "string"}, {"pattern", size(least)}},
			{{"type", "integer"}, {"minimum", least}},
		}}}, nil
	default:
		return o, nil
	}
}

// words says what a value is, for a reader.
func words(k key, t reflect.Type, link func(reflect.Type) string) string {
	switch {
	case isText(t):
		return texts()[t].words
	case t.Kind() == reflect.Struct:
		return link(t)
	case t.Kind() == reflect.Slice:
		return "list of " + words(k, t.Elem(), link)
	case t.Kind() == reflect.Map:
		return "`" + strings.Join(k.enum, "`, `") + "`: " + words(key{}, t.Elem(), link)
	case t.Kind() == reflect.Bool:
		return "true or false"
	case t.Kind() == reflect.Int64:
		switch {
		case k.least != "" && k.most != "":
			return "number from " + k.least + " to " + k.most
		case k.least != "":
			return "number, at least " + k.least
		}
		return "number"
	case k.enum != nil:
		return "`" + strings.Join(k.enum, "`, `") + "`"
	case k.form != "":
		return forms()[k.form].words
	default:
		return "text"
	}
}
