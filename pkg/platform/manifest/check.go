package manifest

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/herald-nats/herald/pkg/ident"
)

// Check gives everything that is wrong with a File, in no particular order: also with one
// that was made in code, whose problems have a path and no line. Parse has checked what
// it gives.
func (f *File) Check() Problems {
	w := walker{types: map[reflect.Type]*typeOf{}}
	return f.placed(f.check(w.typeOf(reflect.TypeFor[File]()), nil))
}

// check gives the problems of a File without their places. In unread are the paths of
// what stands in the file and could not be read: the reason was given, and whoever is
// missed may be there.
func (f *File) check(t *typeOf, unread map[string]bool) Problems {
	all, at := f.merged()
	c := &checker{
		f: f, all: all, at: at, own: f.builtin(),
		unread: unread, lost: map[string]bool{},
		accounts: make(map[ident.Label]int, len(all)), reach: map[place]reach{}, noWay: map[place]bool{}, traded: map[trade]*index{}, streamAreas: streamAreas(),
	}
	for p := range unread {
		c.lost[general(p)] = true
	}
	for i := len(all) - 1; i >= 0; i-- {
		c.accounts[all[i].Name] = i
	}
	c.shape(reflect.ValueOf(f).Elem(), t, nil)
	c.servers()
	c.regions()
	c.credentials()
	c.chat()
	c.tutorial()
	c.eachAccount()
	c.providers()
	c.identities()
	c.grants()
	c.sentinel()
	return c.problems
}

// checker finds what is wrong with a File. The rules are its methods, by subject.
type checker struct {
	f   *File
	own []Account // Herald's, as they are without the file
	// all are the accounts with everything that Herald adds, and at[i] is where the
	// file's account i is among them.
	all      []Account
	at       []int
	accounts map[ident.Label]int // in all; the first of a name
	unread   map[string]bool
	lost     map[string]bool // the same, without places in lists
	reach    map[place]reach
	noWay    map[place]bool // from where imports do not come back
	traded   map[trade]*index
	problems Problems

	streamAreas []string
}

// bad reports a problem, unless its path is in what could not be read.
func (c *checker) bad(path, hint, format string, args ...any) {
	if len(c.problems) > maxProblems || c.unread != nil && within(path, c.unread) {
		return
	}
	c.problems = append(c.problems, Problem{Path: path, Reason: fmt.Sprintf(format, args...), Hint: hint})
}

// missing reports that something is not there, unless something of its kind could not be
// read and may be what is missed. where is a list, such as accounts.roles.
func (c *checker) missing(path, where, hint, format string, args ...any) {
	for part := where; ; {
		if c.lost[part] {
			return
		}
		end := strings.LastIndexByte(part, '.')
		if end < 0 {
			break
		}
		part = part[:end]
	}
	if c.lost[where+".name"] {
		return
	}
	c.bad(path, hint, format, args...)
}

// shape looks for what is required and not there, for values that are none of those
// that a key may have, and for texts that no file could have.
func (c *checker) shape(v reflect.Value, t *typeOf, at []step) {
	switch t.typ.Kind() {
	case reflect.Pointer:
		if !v.IsNil() {
			c.shape(v.Elem(), t.elem, at)
		}
	case reflect.Slice:
		for i := range v.Len() {
			c.shape(v.Index(i), t.elem, append(at, step{index: i}))
		}
	case reflect.Map:
		for _, k := range v.MapKeys() {
			c.shape(v.MapIndex(k), t.elem, append(at, step{key: k.String()}))
		}
	case reflect.Struct:
		for i := range t.fields {
			c.field(v.FieldByIndex(t.fields[i].index), &t.fields[i], at)
		}
	}
}

func (c *checker) field(v reflect.Value, f *field, at []step) {
	if v.IsZero() || isEmpty(v) {
		if f.required {
			c.bad(pathOf(append(at, step{key: f.key})), "add the key", "%s is missing", f.key)
		}
		return
	}
	if f.enum != nil {
		c.oneOf(v, f, at)
	}
	if f.typ.checked {
		c.shape(v, f.typ, append(at, step{key: f.key}))
	}
}

// oneOf checks a text, each of a list, or the keys of a table.
func (c *checker) oneOf(v reflect.Value, f *field, at []step) {
	switch v.Kind() {
	case reflect.Slice:
		for i := range v.Len() {
			c.known(v.Index(i).String(), f, at, step{index: i})
		}
	case reflect.Map:
		for _, k := range v.MapKeys() {
			c.known(k.String(), f, at, step{key: k.String()})
		}
	default:
		c.known(v.String(), f, at)
	}
}

func (c *checker) known(value string, f *field, at []step, more ...step) {
	if slices.Contains(f.enum, value) {
		return
	}
	at = append(append(slices.Clone(at), step{key: f.key}), more...)
	hint := "it is one of " + strings.Join(f.enum, ", ")
	if near := nearest(value, f.enum); near != "" {
		hint = "did you mean " + near + "? " + hint
	}
	c.bad(pathOf(at), hint, "%s cannot be %.64q", f.key, value)
}

// text refuses what a reader could not see, or a file not hold.
func (c *checker) text(path, s string) {
	switch {
	case len(s) > 8<<10:
		c.bad(path, "shorten it to 8KiB; say more on the page that info_url names", "a text of %d bytes is longer than servers take", len(s))
	case !utf8.ValidString(s) || strings.ContainsFunc(s, func(r rune) bool { return unicode.IsControl(r) && r != '\n' && r != '\t' }):
		c.bad(path, "remove them", "%.64q has characters that cannot be seen", s)
	}
}

// notNegative refuses limits below nothing, and below least.
func notNegative[T ~int64](c *checker, at, key string, v *T, least int64, why string) {
	switch {
	case v == nil:
	case int64(*v) < 0:
		c.bad(at+key, "leave the key out where there is no limit", "a limit cannot be below 0")
	case int64(*v) < least:
		c.bad(at+key, "leave the key out where there is no limit", "a limit of 0 %s", why)
	}
}

// once refuses values of a list that are there twice. at gives the path of one, and what
// says what they are.
func once[T comparable](c *checker, list []T, what string, at func(i int) string) {
	if len(list) < 2 {
		return
	}
	var zero T
	seen := make(map[T]int, len(list))
	for i, v := range list {
		if v == zero {
			continue // missing, which is said elsewhere
		}
		if first, ok := seen[v]; ok {
			c.bad(at(i), "remove one of them", "%s %v is there twice: it is number %d already", what, v, first+1)
			continue
		}
		seen[v] = i
	}
}

// called names a thing for a reader, also one whose name is missing.
func called(what string, name fmt.Stringer) string {
	if s := name.String(); s != "" {
		return what + " " + s
	}
	return "this " + what
}
