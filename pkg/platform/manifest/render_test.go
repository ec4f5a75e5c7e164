package manifest_test

import (
	"math"
	"os"
	"reflect"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/nats-io/nkeys"
	"pgregory.net/rapid"

	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/platform/manifest"
)

// anyFile draws any File that a file can say, whether it makes sense or not.
func anyFile(t *rapid.T) *manifest.File {
	f := new(manifest.File)
	drawStruct(t, reflect.ValueOf(f).Elem(), 3)
	return f
}

// drawStruct fills some fields of v. most is how long lists may be.
func drawStruct(t *rapid.T, v reflect.Value, most int) {
	for i := range v.NumField() {
		f := v.Type().Field(i)
		key, options, _ := strings.Cut(f.Tag.Get("yaml"), ",")
		switch {
		case options == "inline":
			drawStruct(t, v.Field(i), most)
		case key == "":
		case rapid.IntRange(0, 2).Draw(t, key) > 0:
			draw(t, v.Field(i), f.Tag.Get("enum"), most)
		}
	}
}

func draw(t *rapid.T, v reflect.Value, enum string, most int) {
	switch v.Interface().(type) {
	case ident.Name:
		s := tricky(t, `[a-z0-9]([._-]?[a-z0-9]){0,10}`, "null", "true", "2024", "1e5", "on", "y", "0x10", "2026-11-21")
		n, err := ident.ParseName(s)
		set(t, v, n, err)
		return
	case ident.Region:
		r, err := ident.ParseRegion(tricky(t, `[a-z][a-z0-9]{0,8}`, "null", "true", "on", "y", "inf"))
		set(t, v, r, err)
		return
	case ident.Label:
		l, err := ident.ParseLabel(tricky(t, `[A-Za-z0-9_-]{1,12}`, "NULL", "Yes", "-1", "0o17", "1_000", "-", "_", "1e5", "2026-11-21", "CHAT", "SYS"))
		set(t, v, l, err)
		return
	case ident.UserKey:
		k, err := ident.ParseUserKey(key(t, nkeys.PrefixByteUser))
		set(t, v, k, err)
		return
	case ident.Identity:
		id, err := ident.ParseIdentity(identity(t))
		set(t, v, id, err)
		return
	case manifest.RoleRef:
		r, err := manifest.ParseRoleRef(tricky(t, `[A-Za-z0-9_-]{1,12}/[A-Za-z0-9_-]{1,12}`, "null/null", "1/2"))
		set(t, v, r, err)
		return
	case manifest.Duration:
		v.SetInt(rapid.OneOf(rapid.Int64Range(1, math.MaxInt64), rapid.Map(rapid.Int64Range(1, 100), func(n int64) int64 { return n * 60e9 })).Draw(t, "duration"))
		return
	case manifest.Size:
		v.SetInt(rapid.OneOf(rapid.Int64Range(1, math.MaxInt64), rapid.Map(rapid.Int64Range(1, 4096), func(n int64) int64 { return n << 10 })).Draw(t, "size"))
		return
	}
	drawKind(t, v, enum, most)
}

func drawKind(t *rapid.T, v reflect.Value, enum string, most int) {
	switch v.Kind() {
	case reflect.Struct:
		drawStruct(t, v, most)
	case reflect.Pointer:
		p := reflect.New(v.Type().Elem())
		if rapid.IntRange(0, 4).Draw(t, "zero") > 0 {
			draw(t, p.Elem(), enum, most)
		}
		v.Set(p)
	case reflect.Slice:
		n := rapid.IntRange(0, most).Draw(t, "length")
		if n == 0 {
			return // a list without anything is as none
		}
		v.Set(reflect.MakeSlice(v.Type(), n, n))
		for i := range n {
			draw(t, v.Index(i), enum, most)
		}
	case reflect.Map:
		keys := rapid.SliceOfNDistinct(rapid.SampledFrom(strings.Split(enum, ",")), 1, 2, rapid.ID[string]).Draw(t, "keys")
		v.Set(reflect.MakeMap(v.Type()))
		for _, k := range keys {
			item := reflect.New(v.Type().Elem()).Elem()
			draw(t, item, "", most)
			v.SetMapIndex(reflect.ValueOf(k), item)
		}
	case reflect.Bool:
		v.SetBool(rapid.Bool().Draw(t, "bool"))
	case reflect.Int64:
		v.SetInt(rapid.Int64().Filter(func(n int64) bool { return n != 0 }).Draw(t, "int"))
	case reflect.String:
		if enum != "" {
			v.SetString(rapid.SampledFrom(strings.Split(enum, ",")).Draw(t, "one of"))
			return
		}
		v.SetString(drawText(t))
	default:
		t.Fatalf("a field of kind %s", v.Kind())
	}
}

// drawText is a text that a file can hold: none that is empty, and no broken UTF-8.
func drawText(t *rapid.T) string {
	return rapid.OneOf(
		rapid.SampledFrom([]string{
			"true", "no", "~", "null", "1", "0x1F", "1e5", ".5", "-", "- a", "? a", ": ", "a: b", "a #b", "#", "&a", "*a", "*", "!t", "|", ">", "%", "@", "`", "'", `"`, `\`,
			"a\nb", "\n", " ", " a ", "\t", "a\\n", "{{subject()}}", "_INBOX_{{subject()}}.>", "[a]", "{a: b}", "---", "...", "2026-11-21", "12:30", "\u0085", "\u2028", "\ufeff", "é", "😀", "\x7f", "\x00",
			"<<", "=", "/a/b", "a/b.c_d-e", "https://example.com/a?b=c#d", "10.0.0.0/8", "127.0.0.1:4222", strings.Repeat("long ", 60),
		}),
		rapid.StringN(1, 20, -1).Filter(utf8.ValidString),
	).Draw(t, "text")
}

func set[T any](t *rapid.T, v reflect.Value, of T, err error) {
	if err != nil {
		t.Fatal(err)
	}
	v.Set(reflect.ValueOf(of))
}

func tricky(t *rapid.T, expr string, some ...string) string {
	return rapid.OneOf(rapid.SampledFrom(some), rapid.StringMatching(expr)).Draw(t, "identifier")
}

func key(t *rapid.T, prefix nkeys.PrefixByte) string {
	k, err := nkeys.Encode(prefix, rapid.SliceOfN(rapid.Byte(), 32, 32).Draw(t, "key"))
	if err != nil {
		t.Fatal(err)
	}
	return string(k)
}

func identity(t *rapid.T) string {
	switch rapid.SampledFrom(manifest.Kinds()).Draw(t, "kind") {
	case ident.KindOpen:
		return "open:" + key(t, nkeys.PrefixByteUser)
	case ident.KindInvite:
		return "invite:" + key(t, nkeys.PrefixByteUser)
	case ident.KindKey:
		return "key:" + rapid.StringMatching(`HK[A-Z2-7]{18}`).Draw(t, "id")
	default:
		return "oidc:" + rapid.StringMatching(`[A-Za-z0-9_-]{1,12}:[ -~]{1,30}`).Draw(t, "subject")
	}
}

// TestRenderReads holds Render to reading back what was written, of any File.
func TestRenderReads(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		f := anyFile(t)
		if reflect.DeepEqual(f, new(manifest.File)) {
			return // a file without anything is refused
		}
		text := f.Render()
		g, problems := manifest.Read(text)
		if len(problems) > 0 {
			t.Fatalf("%s\n%s", problems.Text(), text)
		}
		if !reflect.DeepEqual(f, g) {
			t.Fatalf("written as\n%s\nread as\n%s", text, g.Render())
		}
	})
}

// TestRenderIsChecked holds the files that come with Herald: they are accepted, and so is
// what is written of them, which is the same.
func TestRenderIsChecked(t *testing.T) {
	for _, name := range examples() {
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		f, err := manifest.Parse(name, data)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if p := f.Check(); len(p) > 0 {
			t.Errorf("%s: what was read has problems: %s", name, p.Text())
		}
		text := f.Render()
		g, err := manifest.Parse(name, text)
		if err != nil {
			t.Errorf("%s: what was written has problems: %v\n%s", name, err, text)
			continue
		}
		if !reflect.DeepEqual(manifest.Bare(f), manifest.Bare(g)) || string(g.Render()) != string(text) {
			t.Errorf("%s changes when it is written:\n%s", name, text)
		}
		for i, line := range strings.Split(string(text), "\n") {
			if len(line) > 120 {
				t.Errorf("%s: line %d is %d long: %s", name, i+1, len(line), line)
			}
		}
	}
}

// examples are the files that come with Herald.
func examples() []string {
	return []string{"../../../configs/platform.yaml", "../../../configs/platform-minimal.yaml", "../../../internal/manifestdoc/example.yaml"}
}

// TestRender shows what is written, once, and that nothing is left out of a new platform's
// file that its operator will want to see.
func TestRender(t *testing.T) {
	data, err := os.ReadFile("testdata/render.yaml")
	if err != nil {
		t.Fatal(err)
	}
	f, err := manifest.Parse("render.yaml", data)
	if err != nil {
		t.Fatal(err)
	}
	if got := f.Render(); string(got) != string(data) {
		t.Errorf("got\n%s", got)
	}
	if got := new(manifest.File).Render(); strings.Contains(string(got), ":\n") {
		t.Errorf("an empty File gives keys:\n%s", got)
	}
}
