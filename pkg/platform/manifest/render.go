package manifest

import (
	"bytes"
	"encoding"
	"reflect"
	"slices"
	"strconv"
	"strings"
)

// about are the comments that Render puts over the keys of a file.
func about() map[string]string {
	return map[string]string{ // #nosec G101 -- about credentials, none of them
		"name":             "What the platform is called. Clients keep their keys for it under this name.",
		"home":             "The region whose servers decide names, policy and changes of accounts.",
		"servers":          "Settings that all servers share.",
		"tls":              "Which connections are encrypted: off, server (the server shows a certificate) or\nmutual (both sides do).",
		"regions":          "Regions: one NATS cluster each, linked by gateways. Every address is host:port.\ngateway is where the other regions reach this one; the addresses of a node are where\nthat server listens.",
		"credentials":      "How long credentials live: by default, and at most if more is asked for.",
		"chat":             "The chat's rooms and their channels, in the order in which they are shown.",
		"accounts":         "Accounts beside Herald's own (SYS, LEDGER, READERS, AUTH, GUEST, ADMIN, DOOR), and what\nis added to CHAT.",
		"identities":       "Names for identities, so that grants can be read.",
		"grants":           "Who may have which role: an identity, or a kind of them (open is whoever asks).",
		"default_sentinel": "The role, as ACCOUNT/ROLE, of whoever connects without credentials.",
		"callout":          "Whether plain NATS clients come in with an access key as user and password, or a token.",
	}
}

// lineWidth is how far Render writes on one line, where it has a choice.
const lineWidth = 120

// Render writes the file as its operator will read and change it. Parse reads it back
// as an equal File. What is left at its default is left out.
func (f *File) Render() []byte {
	var w walker
	w.types = map[reflect.Type]*typeOf{}
	r := renderer{about: about()}
	r.b.WriteString("# A Herald platform. docs/platform.md explains each key; unknown keys are refused.\n")
	v := reflect.ValueOf(f).Elem()
	for _, fd := range w.typeOf(v.Type()).fields {
		of := v.FieldByIndex(fd.index)
		if of.IsZero() || isEmpty(of) {
			continue
		}
		r.b.WriteString("\n# " + strings.ReplaceAll(r.about[fd.key], "\n", "\n# ") + "\n")
		r.entry(fd.key, of, fd.typ, 0)
	}
	return r.b.Bytes()
}

// isEmpty tells whether v is a list or table without anything in it, which says the same
// as none.
func isEmpty(v reflect.Value) bool {
	return (v.Kind() == reflect.Slice || v.Kind() == reflect.Map) && v.Len() == 0
}

type renderer struct {
	b     bytes.Buffer
	about map[string]string
}

func (r *renderer) indent(n int) { r.b.WriteString(strings.Repeat(" ", n)) }

// entry writes a key and its value from the start of a line, which is indented already
// for the first key of a list's item.
func (r *renderer) entry(key string, v reflect.Value, t *typeOf, indent int) {
	r.b.WriteString(key + ":")
	if v.Kind() == reflect.Pointer {
		v, t = v.Elem(), t.elem
	}
	if lines, ok := pageOf(v); ok {
		r.b.WriteString(" |\n")
		for _, line := range lines {
			r.indent(indent + 2)
			r.b.WriteString(line + "\n")
		}
		return
	}
	if r.fits(v, t, indent+len(key)+2) {
		r.b.WriteString(" " + flow(v, t) + "\n")
		return
	}
	r.b.WriteByte('\n')
	switch t.typ.Kind() {
	case reflect.Slice:
		for i := range v.Len() {
			r.indent(indent + 2)
			r.b.WriteString("- ")
			r.item(v.Index(i), t.elem, indent+4)
		}
	default:
		for _, fd := range given(v, t) {
			r.indent(indent + 2)
			r.entry(fd.key, fd.value, fd.typ, indent+2)
		}
	}
}

// pageOf gives the lines of a text of several, such as a certificate, if it reads the same
// when it is written as lines.
func pageOf(v reflect.Value) ([]string, bool) {
	if v.Kind() != reflect.String {
		return nil, false
	}
	text, ends := strings.CutSuffix(v.String(), "\n")
	lines := strings.Split(text, "\n")
	if !ends || len(lines) < 2 {
		return nil, false
	}
	for _, line := range lines {
		if line == "" || strings.TrimSpace(line) != line || strings.ContainsFunc(line, func(c rune) bool { return c < ' ' || c > '~' }) {
			return nil, false
		}
	}
	return lines, true
}

// item writes what stands behind "- ".
func (r *renderer) item(v reflect.Value, t *typeOf, indent int) {
	if r.fits(v, t, indent) {
		r.b.WriteString(flow(v, t) + "\n")
		return
	}
	for i, fd := range given(v, t) {
		if i > 0 {
			r.indent(indent)
		}
		r.entry(fd.key, fd.value, fd.typ, indent)
	}
}

// fits tells whether a value is written on the line at hand, of which a part is taken.
func (r *renderer) fits(v reflect.Value, t *typeOf, taken int) bool {
	switch {
	case isScalar(t):
		return true
	case t.typ.Kind() == reflect.Struct && len(given(v, t)) == 0:
		return true
	default:
		return !isBlock(t) && taken+len(flow(v, t)) <= lineWidth
	}
}

// isBlock tells whether values of a type are always written over several lines.
func isBlock(t *typeOf) bool {
	if t.typ.Kind() == reflect.Slice {
		return t.elem.typ.Kind() == reflect.Struct && !t.elem.text
	}
	return slices.Contains([]string{"Servers", "TLS", "Credentials", "Chat", "Region", "Account", "Role", "Room"}, t.typ.Name())
}

func isScalar(t *typeOf) bool {
	switch t.typ.Kind() {
	case reflect.Slice, reflect.Map, reflect.Struct, reflect.Pointer:
		return t.text
	default:
		return true
	}
}

// keyed is a key that is not at its default.
type keyed struct {
	key   string
	value reflect.Value
	typ   *typeOf
}

// given are the keys of a struct or a table that are not at their default.
func given(v reflect.Value, t *typeOf) []keyed {
	var all []keyed
	if t.typ.Kind() == reflect.Map {
		for _, k := range v.MapKeys() {
			all = append(all, keyed{k.String(), v.MapIndex(k), t.elem})
		}
		slices.SortFunc(all, func(a, b keyed) int { return strings.Compare(a.key, b.key) })
		return all
	}
	for _, fd := range t.fields {
		of := v.FieldByIndex(fd.index)
		if of.IsZero() || isEmpty(of) {
			continue
		}
		all = append(all, keyed{fd.key, of, fd.typ})
	}
	return all
}

// flow is a value on one line.
func flow(v reflect.Value, t *typeOf) string {
	switch {
	case t.text:
		text, err := v.Interface().(encoding.TextMarshaler).MarshalText()
		if err != nil {
			panic(err) // those of this package and of ident give none
		}
		if v.CanInt() {
			return string(text) // a length of time or a size: never read as anything else
		}
		return scalar(string(text))
	case t.typ.Kind() == reflect.Pointer:
		return flow(v.Elem(), t.elem)
	case t.typ.Kind() == reflect.Slice:
		items := make([]string, v.Len())
		for i := range items {
			items[i] = flow(v.Index(i), t.elem)
		}
		return "[" + strings.Join(items, ", ") + "]"
	case t.typ.Kind() == reflect.Struct || t.typ.Kind() == reflect.Map:
		var keys []string
		for _, fd := range given(v, t) {
			keys = append(keys, fd.key+": "+flow(fd.value, fd.typ))
		}
		return "{" + strings.Join(keys, ", ") + "}"
	case v.CanInt():
		return strconv.FormatInt(v.Int(), 10)
	case v.Kind() == reflect.Bool:
		return strconv.FormatBool(v.Bool())
	default:
		return scalar(v.String())
	}
}

// scalar quotes what some reader of YAML would not take for the text that it is: what
// looks like a number or a date, null and true, and what they were called in earlier
// versions.
func scalar(s string) string {
	switch strings.ToLower(s) {
	case "null", "true", "false", "yes", "no", "on", "off", "y", "n":
		return strconv.Quote(s)
	}
	for i := range len(s) {
		letter := (s[i]|0x20) >= 'a' && (s[i]|0x20) <= 'z'
		if !letter && (i == 0 && s[i] != '/' || !strings.ContainsRune("0123456789_./-", rune(s[i]))) {
			return strconv.Quote(strings.ToValidUTF8(s, "\uFFFD"))
		}
	}
	if s == "" {
		return `""`
	}
	return s
}
