package manifest

import (
	"bytes"
	"encoding"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v4"
	"go.yaml.in/yaml/v4/plugin/loaderlimits"

	"github.com/herald-nats/herald/pkg/ident"
)

const (
	// maxFile bounds what is read before anything is known about it: about 70,000
	// accounts.
	maxFile = 16 << 20
	// maxDepth is deeper than any key of a platform file.
	maxDepth = 24
	// maxProblems are as many as anybody reads; a file of another kind would fill the
	// screen otherwise.
	maxProblems = 200
)

// Parse reads and checks a platform file; name is what its problems call it. The error
// is Problems: all that is wrong, not only what is met first.
//
// It is YAML, less what would let two readers understand two things: keys that are there
// twice, keys that nobody knows, anchors and aliases, merge keys, tags, a second document,
// and values that are left empty. A text that YAML reads as a number, a date or yes and no
// must be in quotes.
func Parse(name string, data []byte) (*File, error) {
	root, problems := tree(data)
	if len(problems) > 0 {
		return nil, finish(problems, name)
	}
	f, w := fill(root)
	f.source = &source{name: name, data: data}
	found := f.check(w.typeOf(reflect.TypeFor[File]()), w.unread)
	if problems = append(w.problems, locate(root, found)...); len(problems) > 0 {
		return nil, finish(problems, name)
	}
	return f, nil
}

// fill makes a File of a tree, as far as that can be read.
func fill(root *yaml.Node) (*File, *walker) {
	f := new(File)
	w := &walker{types: map[reflect.Type]*typeOf{}}
	w.node(root, reflect.ValueOf(f).Elem(), w.typeOf(reflect.TypeFor[File]()))
	return f, w
}

// tree reads the one document of a file.
func tree(data []byte) (root *yaml.Node, problems Problems) {
	if len(data) > maxFile {
		return nil, Problems{{
			Line: 1, Column: 1, Reason: fmt.Sprintf("the file is larger than %s", Size(maxFile)), Hint: "is it a platform file?",
		}}
	}
	defer func() {
		// The library panics where it meets what it thinks it cannot meet.
		if r := recover(); r != nil {
			root, problems = nil, Problems{{Line: 1, Column: 1, Reason: "the file is not YAML that can be read", Hint: "write it more simply"}}
		}
	}()
	loader, err := yaml.NewLoader(bytes.NewReader(data), yaml.WithV4Defaults(), yaml.WithPlugin(loaderlimits.New(loaderlimits.DepthValue(maxDepth))))
	if err != nil {
		return nil, Problems{{Line: 1, Column: 1, Reason: err.Error()}}
	}
	var doc, more yaml.Node
	switch err := loader.Load(&doc); {
	case errors.Is(err, io.EOF):
		return nil, Problems{{Line: 1, Column: 1, Reason: "the file is empty", Hint: "`nscsetup init` writes one to begin with"}}
	case err != nil:
		return nil, Problems{syntax(err)}
	case doc.Kind != yaml.DocumentNode || len(doc.Content) != 1 || doc.Content[0].Tag == "!!null" && doc.Content[0].Value == "":
		return nil, Problems{{Line: 1, Column: 1, Reason: "the file is empty", Hint: "`nscsetup init` writes one to begin with"}}
	}
	switch err := loader.Load(&more); {
	case err == nil:
		return nil, Problems{{Line: max(more.Line, 1), Column: max(more.Column, 1), Reason: "there is a second document behind the first", Hint: "one file is one platform: remove the line with ---"}}
	case !errors.Is(err, io.EOF):
		return nil, Problems{syntax(err)}
	}
	return doc.Content[0], nil
}

// syntax is what the library says, as a problem.
func syntax(err error) Problem {
	p := Problem{Line: 1, Column: 1, Reason: "not YAML: " + firstLine(err.Error()), Hint: "look at the indentation, and at quotes and brackets that are not closed"}
	var le *yaml.LoadError
	if errors.As(err, &le) {
		p.Reason = "not YAML: " + firstLine(le.Message)
		if le.Mark.Line > 0 {
			p.Line, p.Column = le.Mark.Line, max(le.Mark.Column, 1)
		}
		if strings.HasPrefix(le.Message, "unknown anchor") {
			p.Reason, p.Hint = "an alias (*) stands here", "put the text in quotes if it begins with *, or write the value out"
		}
	}
	return p
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(s, "\n")
	return line
}

// typeOf is what the walker needs to know of a Go type, looked at once.
type typeOf struct {
	typ    reflect.Type
	text   bool // written as one text, and read by UnmarshalText
	number bool // a text that YAML may also take for a number: a Size
	fields []field
	byKey  map[string]int
	elem   *typeOf // of a pointer, list or map
	// checked tells that something in it is required, or one of a few.
	checked bool
}

// field is a key of a mapping.
type field struct {
	key      string
	index    []int
	typ      *typeOf
	required bool
	enum     []string
}

// keyOf is a struct field's key, and whether its own fields stand in its place.
func keyOf(f reflect.StructField) (key string, inline bool) {
	key, options, _ := strings.Cut(f.Tag.Get("yaml"), ",")
	return key, options == "inline"
}

func (w *walker) typeOf(t reflect.Type) *typeOf {
	if known := w.types[t]; known != nil {
		return known
	}
	k := &typeOf{typ: t}
	w.types[t] = k
	switch {
	case reflect.PointerTo(t).Implements(reflect.TypeFor[encoding.TextUnmarshaler]()):
		k.text, k.number = true, t == reflect.TypeFor[Size]()
	case t.Kind() == reflect.Struct:
		k.byKey = map[string]int{}
		w.fieldsOf(k, t, nil)
	case t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice || t.Kind() == reflect.Map:
		k.elem = w.typeOf(t.Elem())
		k.checked = k.elem.checked
	}
	return k
}

func (w *walker) fieldsOf(k *typeOf, t reflect.Type, at []int) {
	for i := range t.NumField() {
		f := t.Field(i)
		index := append(append([]int(nil), at...), i)
		key, inline := keyOf(f)
		switch {
		case inline:
			w.fieldsOf(k, f.Type, index)
			continue
		case key == "":
			continue // not a key: unexported
		}
		of := field{key: key, index: index, typ: w.typeOf(f.Type), required: f.Tag.Get("required") == "true"}
		if e := f.Tag.Get("enum"); e != "" {
			of.enum = strings.Split(e, ",")
		}
		k.checked = k.checked || of.required || of.enum != nil || of.typ.checked
		k.byKey[key] = len(k.fields)
		k.fields = append(k.fields, of)
	}
}

// step is one part of a path: a key, or a place in a list.
type step struct {
	key   string
	index int
}

// pathOf writes steps as accounts[3].name.
func pathOf(steps []step) string {
	var b strings.Builder
	for _, s := range steps {
		if s.key == "" {
			b.WriteByte('[')
			b.WriteString(strconv.Itoa(s.index))
			b.WriteByte(']')
			continue
		}
		if b.Len() > 0 {
			b.WriteByte('.')
		}
		b.WriteString(s.key)
	}
	return b.String()
}

// walker fills a File from a tree, side by side with its type.
type walker struct {
	types    map[reflect.Type]*typeOf
	at       []step
	problems Problems
	unread   map[string]bool // paths whose values could not be read
}

// bad says that the value of the key at hand cannot be read.
func (w *walker) bad(n *yaml.Node, hint, format string, args ...any) {
	if w.unread == nil {
		w.unread = map[string]bool{}
	}
	w.unread[pathOf(w.at)] = true
	w.badKey(n, hint, format, args...)
}

// badKey says that a key cannot be: what it stands in can be read all the same.
func (w *walker) badKey(n *yaml.Node, hint, format string, args ...any) {
	if len(w.problems) > maxProblems {
		return
	}
	w.problems = append(w.problems, Problem{
		Line: n.Line, Column: n.Column, Path: pathOf(w.at), Reason: fmt.Sprintf(format, args...), Hint: hint,
	})
}

// node fills v from n.
func (w *walker) node(n *yaml.Node, v reflect.Value, t *typeOf) {
	if !w.plain(n) {
		return
	}
	switch {
	case t.text:
		w.text(n, v, t)
	case t.typ.Kind() == reflect.Struct:
		w.mapping(n, v, t)
	case t.typ.Kind() == reflect.Pointer:
		p, before := reflect.New(t.typ.Elem()), len(w.problems)
		w.node(n, p.Elem(), t.elem)
		if t.elem.fields != nil || len(w.problems) == before { // what cannot be read is not 0
			v.Set(p)
		}
	case t.typ.Kind() == reflect.Slice:
		w.list(n, v, t)
	case t.typ.Kind() == reflect.Map:
		w.table(n, v, t)
	default:
		w.scalar(n, v, t)
	}
}

// plain refuses what YAML has beyond mappings, lists and values.
func (w *walker) plain(n *yaml.Node) bool {
	switch {
	case n.Kind == yaml.AliasNode:
		w.bad(n, "write the value out", "an alias (*%.32s) stands here", n.Value)
	case n.Anchor != "":
		w.bad(n, "write the value out wherever it is needed", "an anchor (&%.32s) stands here", n.Anchor)
	case n.Style&yaml.TaggedStyle != 0:
		w.bad(n, "remove it", "a tag (%.32s) stands here", n.Tag)
	default:
		return true
	}
	return false
}

// what is what stands in a file, in words.
func what(n *yaml.Node) string {
	switch {
	case n.Kind == yaml.MappingNode:
		return "keys with values"
	case n.Kind == yaml.SequenceNode:
		return "a list"
	case n.Tag == "!!null":
		return "nothing"
	case n.Tag == "!!bool":
		return "true or false"
	case n.Tag == "!!int", n.Tag == "!!float":
		return "a number"
	case n.Tag == "!!timestamp":
		return "a date"
	default:
		return "a text"
	}
}

// What may be needed.
const (
	needsKeys   = "keys with values"
	needsList   = "a list"
	needsText   = "a text"
	needsTime   = "a length of time"
	needsBool   = "true or false"
	needsNumber = "a whole number"
)

// hintFor says how what is needed is written.
func hintFor(needed string) string {
	return map[string]string{
		needsKeys:   "write each key on a line of its own, further in, as key: value",
		needsList:   "begin each entry with - on a line of its own, or put them all into [ ]",
		needsText:   "write one text",
		needsTime:   durationRule,
		needsBool:   "write true or false, without quotes",
		needsNumber: "write it in digits alone",
	}[needed]
}

// is tells whether n is what is needed, or says that it is not.
func (w *walker) is(n *yaml.Node, ok bool, needed string) bool {
	switch {
	case ok:
		return true
	case n.Kind == yaml.ScalarNode && (n.Tag == "!!null" || n.Value == ""):
		w.bad(n, "give it one, or leave the key out", "%s has no value", w.here())
	case n.Kind == yaml.ScalarNode && needed == needsText:
		w.bad(n, "put it in quotes", "%s needs a text, and %.64q is %s to YAML", w.here(), n.Value, what(n))
	case n.Kind == yaml.ScalarNode:
		w.bad(n, hintFor(needed), "%s needs %s, and here is %.64q", w.here(), needed, n.Value)
	default:
		w.bad(n, hintFor(needed), "%s needs %s, and here is %s", w.here(), needed, what(n))
	}
	return false
}

// here is the key that is being filled, for a reader.
func (w *walker) here() string {
	for i := len(w.at) - 1; i >= 0; i-- {
		if w.at[i].key == "" {
			continue
		}
		if i == len(w.at)-1 {
			return w.at[i].key
		}
		return "each of " + w.at[i].key
	}
	return "the file"
}

func (w *walker) mapping(n *yaml.Node, v reflect.Value, t *typeOf) {
	if !w.is(n, n.Kind == yaml.MappingNode, needsKeys) {
		return
	}
	// A struct has few keys: a place to remember each is cheaper than a map.
	var few [32]*yaml.Node
	seen := few[:]
	if len(t.fields) > len(few) {
		seen = make([]*yaml.Node, len(t.fields))
	}
	var strange map[string]int
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		if !w.plain(key) {
			continue
		}
		if key.Kind != yaml.ScalarNode {
			w.badKey(key, "a key is one word", "%s cannot be a key", oneKey(key))
			continue
		}
		at, ok := t.byKey[key.Value]
		if !ok {
			w.unknown(key, t, strange)
			if strange == nil {
				strange = map[string]int{}
			}
			strange[key.Value] = key.Line
			continue
		}
		w.at = append(w.at, step{key: key.Value})
		if seen[at] != nil {
			w.badKey(key, "keep one of them", "the key %s is here twice; first in line %d", key.Value, seen[at].Line)
		} else {
			seen[at] = key
			f, before := &t.fields[at], len(w.problems)
			w.node(value, v.FieldByIndex(f.index), f.typ)
			// A number that says the same as leaving it out is probably meant to say
			// something else.
			if f.typ.typ.Kind() == reflect.Int64 && v.FieldByIndex(f.index).IsZero() && len(w.problems) == before {
				w.bad(value, "leave the key out for the default", "%s cannot be 0", key.Value)
			}
		}
		w.at = w.at[:len(w.at)-1]
	}
}

// unknown says that there is no such key, and what may have been meant.
func (w *walker) unknown(key *yaml.Node, t *typeOf, strange map[string]int) {
	if isKey(key.Value) {
		w.at = append(w.at, step{key: key.Value})
		defer func() { w.at = w.at[:len(w.at)-1] }()
	}
	if line, ok := strange[key.Value]; ok {
		w.badKey(key, "remove both", "the key %.64q, which is unknown, is here twice; first in line %d", key.Value, line)
		return
	}
	if key.Value == "<<" {
		w.badKey(key, "write the keys out", "merge keys (<<) are not read")
		return
	}
	keys := make([]string, len(t.fields))
	for i, f := range t.fields {
		keys[i] = f.key
	}
	hint := "keys here are " + strings.Join(keys, ", ")
	if near := nearest(key.Value, keys); near != "" {
		hint = "did you mean " + near + "?"
	}
	w.badKey(key, hint, "there is no key %.64q", key.Value)
}

// oneKey is what stands in a key's place, for a reader.
func oneKey(n *yaml.Node) string {
	if n.Kind == yaml.ScalarNode {
		return fmt.Sprintf("%.64q", n.Value)
	}
	return what(n)
}

// isKey tells whether a path can name it.
func isKey(s string) bool {
	for i := range len(s) {
		if c := s[i] | 0x20; (c < 'a' || c > 'z') && (s[i] < '0' || s[i] > '9') && s[i] != '_' {
			return false
		}
	}
	return s != "" && len(s) <= 64
}

func (w *walker) list(n *yaml.Node, v reflect.Value, t *typeOf) {
	if !w.is(n, n.Kind == yaml.SequenceNode, needsList) || len(n.Content) == 0 {
		return
	}
	all := reflect.MakeSlice(t.typ, len(n.Content), len(n.Content))
	for i, item := range n.Content {
		w.at = append(w.at, step{index: i})
		w.node(item, all.Index(i), t.elem)
		w.at = w.at[:len(w.at)-1]
	}
	v.Set(all)
}

// table fills a map whose keys are not known beforehand.
func (w *walker) table(n *yaml.Node, v reflect.Value, t *typeOf) {
	if !w.is(n, n.Kind == yaml.MappingNode, needsKeys) || len(n.Content) == 0 {
		return
	}
	all := reflect.MakeMap(t.typ)
	seen := map[string]int{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		if !w.plain(key) {
			continue
		}
		if key.Kind != yaml.ScalarNode || !isKey(key.Value) {
			w.badKey(key, "a key is one word", "%s cannot be a key", oneKey(key))
			continue
		}
		w.at = append(w.at, step{key: key.Value})
		if line, ok := seen[key.Value]; ok {
			w.badKey(key, "keep one of them", "the key %.64q is here twice; first in line %d", key.Value, line)
		} else {
			seen[key.Value] = key.Line
			item := reflect.New(t.typ.Elem()).Elem()
			w.node(value, item, t.elem)
			all.SetMapIndex(reflect.ValueOf(key.Value), item)
		}
		w.at = w.at[:len(w.at)-1]
	}
	v.Set(all)
}

// text reads what has a form of its own.
func (w *walker) text(n *yaml.Node, v reflect.Value, t *typeOf) {
	ok := n.Kind == yaml.ScalarNode && (n.Tag == "!!str" || t.number && n.Tag == "!!int") && n.Value != ""
	needed := needsText
	if t.typ == reflect.TypeFor[Duration]() {
		needed = needsTime
	}
	if !w.is(n, ok, needed) {
		return
	}
	if err := v.Addr().Interface().(encoding.TextUnmarshaler).UnmarshalText([]byte(n.Value)); err != nil {
		reason, hint := parts(err)
		w.bad(n, hint, "%s", reason)
	}
}

// parts takes apart what ident and this package say: what is wrong, and the rule.
func parts(err error) (reason, hint string) {
	s := strings.ReplaceAll(err.Error(), ident.ErrInvalid.Error()+": ", "")
	if i := strings.LastIndex(s, ": "); i >= 0 {
		return s[:i], s[i+2:]
	}
	return s, ""
}

func (w *walker) scalar(n *yaml.Node, v reflect.Value, t *typeOf) {
	switch t.typ.Kind() {
	case reflect.String:
		if w.is(n, n.Kind == yaml.ScalarNode && n.Tag == "!!str" && n.Value != "", needsText) {
			v.SetString(n.Value)
		}
	case reflect.Bool:
		if w.is(n, n.Kind == yaml.ScalarNode && n.Tag == "!!bool" && (n.Value == "true" || n.Value == "false"), needsBool) {
			v.SetBool(n.Value == "true")
		}
	case reflect.Int64:
		i, err := strconv.ParseInt(n.Value, 10, 64)
		if w.is(n, n.Kind == yaml.ScalarNode && n.Tag == "!!int" && err == nil && strconv.FormatInt(i, 10) == n.Value, needsNumber) {
			v.SetInt(i)
		}
	default:
		panic("manifest: a field of a type that is not read: " + t.typ.String())
	}
}

// nearest is the word that is meant by another, if one is near: one letter in three may
// be wrong, and two of four.
func nearest(s string, words []string) string {
	best, distance := "", len(s)/3+1
	if len(s) == 4 || len(s) == 5 {
		distance = 3
	}
	for _, word := range words {
		if strings.EqualFold(s, word) {
			return word
		}
		if max(len(s)-len(word), len(word)-len(s)) >= distance {
			continue
		}
		if d := edits(s, word); d < distance {
			best, distance = word, d
		}
	}
	return best
}

// edits is how many letters must change to make b of a.
func edits(a, b string) int {
	if len(a) > 64 || len(b) > 64 {
		return max(len(a), len(b))
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			above := row[j+1]
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			row[j+1] = min(cost, above+1, row[j]+1)
			diagonal = above
		}
	}
	return row[len(b)]
}
