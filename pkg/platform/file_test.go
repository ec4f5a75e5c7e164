package platform_test

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/goccy/go-yaml"
	"pgregory.net/rapid"

	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/platform"
)

const example = "../../configs/platform.yaml"

func parse[T any](t testing.TB, f func(string) (T, error), s string) T {
	t.Helper()
	v, err := f(s)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func spec(t testing.TB, port int, regions ...string) platform.Spec {
	t.Helper()
	s := platform.Spec{Name: parse(t, ident.ParseName, "demo"), Nodes: 3, Port: port}
	for _, r := range regions {
		s.Regions = append(s.Regions, parse(t, ident.ParseRegion, r))
	}
	s.Home = s.Regions[0]
	return s
}

// TestExample holds configs/platform.yaml to what init writes: it is
// NewFile(spec).Render() of the platform that the README makes.
func TestExample(t *testing.T) {
	data, err := os.ReadFile(example)
	if err != nil {
		t.Fatal(err)
	}
	f, err := platform.Parse(data)
	if err != nil {
		t.Fatal(err)
	}
	want := platform.NewFile(spec(t, 14000, "ams", "sfo", "sgp"))
	if !reflect.DeepEqual(f, want) {
		t.Errorf("configs/platform.yaml says\n%+v\nwant\n%+v", f, want)
	}
	if !bytes.Equal(data, want.Render()) {
		t.Errorf("configs/platform.yaml is not what init writes; it should be:\n%s", want.Render())
	}
	// Every key that there is stands in it, and each part has a comment.
	for _, key := range keys(reflect.TypeFor[platform.File]()) {
		if !strings.Contains(string(data), key+":") {
			t.Errorf("configs/platform.yaml does not show the key %q", key)
		}
	}
	if strings.Count(string(data), "\n#") < 5 {
		t.Error("configs/platform.yaml does not explain its keys")
	}
}

// keys are the names of all keys of a type, as YAML has them.
func keys(typ reflect.Type) []string {
	switch typ.Kind() {
	case reflect.Slice, reflect.Pointer:
		return keys(typ.Elem())
	case reflect.Struct:
	default:
		return nil
	}
	var out []string
	for f := range typ.Fields() {
		if tag := f.Tag.Get("yaml"); tag != "" {
			out = append(append(out, tag), keys(f.Type)...)
		}
	}
	return out
}

func TestParseErrors(t *testing.T) {
	good := string(platform.NewFile(spec(t, 14000, "ams", "sfo")).Render())
	if _, err := platform.Parse([]byte(good)); err != nil {
		t.Fatal(err)
	}
	line := func(part string) string {
		i := strings.Index(good, part)
		if i < 0 {
			t.Fatalf("%q is not in the file", part)
		}
		return strconv.Itoa(strings.Count(good[:i], "\n") + 1)
	}
	swap := func(old, with string) string {
		if !strings.Contains(good, old) {
			t.Fatalf("%q is not in the file", old)
		}
		return strings.Replace(good, old, with, 1)
	}
	threeNodes := strings.Index(good, "      - {name: ams-3")
	for _, tc := range []struct {
		what string
		data string
		want []string // all of it stands in the error
	}{
		{"an unknown key", swap("home: ams", "colour: red\nhome: ams"), []string{"colour", line("home: ams")}},
		{"an unknown key of a node", swap("{name: ams-1,", "{name: ams-1, weight: 3,"), []string{"weight", line("{name: ams-1,")}},
		{"a key in another case", swap("home: ams", "Home: ams"), []string{"Home", line("home: ams")}},
		{"a key twice", swap("home: ams", "home: ams\nhome: sfo"), []string{"home", strconv.Itoa(mustInt(t, line("home: ams")) + 1)}},
		{"a name that is none", swap("name: demo", "name: Demo!"), []string{"Demo!", line("name: demo")}},
		{"a list for a text", swap("name: demo", "name: [demo]"), []string{line("name: demo")}},
		{"a text for a list", good[:strings.Index(good, "regions:")] + "regions: many\n" + good[strings.Index(good, "\n# How long"):], []string{line("regions:")}},
		{"a text for a duration", swap("lifetime: 1h", "lifetime: long"), []string{line("lifetime: 1h")}},
		{"a number for a duration", swap("lifetime: 1h", "lifetime: 3600"), []string{"lifetime"}},
		{"a home that is no region", swap("home: ams", "home: sgp"), []string{"home", "sgp"}},
		{"no home", swap("home: ams\n", ""), []string{"home"}},
		{"no name", swap("name: demo\n", ""), []string{"name is missing"}},
		{"a null name", swap("name: demo", "name: ~"), []string{"name is missing"}},
		{"an address twice", swap("127.0.0.1:14001", "127.0.0.1:14002"), []string{"127.0.0.1:14002", "ams-1"}},
		{"two gateways at one address", swap("127.0.0.1:14010", "127.0.0.1:14000"), []string{"127.0.0.1:14000", "sfo", "ams"}},
		{"two nodes", good[:threeNodes] + good[threeNodes+strings.Index(good[threeNodes:], "\n")+1:], []string{"ams", "2 nodes", "at least 3"}},
		{"a port of 65536", swap(":14001", ":65536"), []string{"65536", "ams-1 client"}},
		{"port 0", swap(":14001", ":0"), []string{"ams-1 client", "host:port"}},
		{"a negative port", swap(":14001", ":-1"), []string{"ams-1 client"}},
		{"a port with a sign", swap(":14001", ":+14001"), []string{"ams-1 client"}},
		{"a port with a zero before", swap(":14001", ":014002"), []string{"ams-1 client"}},
		{"a port that is a word", swap(":14001", ":http"), []string{"ams-1 client"}},
		{"no port", swap("127.0.0.1:14001", "127.0.0.1"), []string{"ams-1 client"}},
		{"no host", swap("127.0.0.1:14001", ":14001"), []string{"ams-1 client"}},
		{"a missing address", swap(`client: "127.0.0.1:14001", `, ""), []string{"ams-1 client"}},
		{"a region twice", swap("name: sfo", "name: ams"), []string{"region ams is there twice"}},
		{"a region without a name", swap("- name: sfo", "- name: null"), []string{"name", "number 2"}},
		{"a node twice", swap("name: ams-2", "name: ams-1"), []string{"node ams-1 is there twice"}},
		{"a node without a name", swap("{name: ams-2, ", "{"), []string{"name of node 2"}},
		{"a longest life beyond a month", swap("longest: 12h", "longest: 745h"), []string{"longest"}},
		{"a lifetime below a second", swap("lifetime: 1h", "lifetime: 999ms"), []string{"lifetime"}},
		{"a negative lifetime", swap("lifetime: 1h", "lifetime: -1h"), []string{"lifetime"}},
		{"longest below the default", swap("longest: 12h", "longest: 59m"), []string{"longest"}},
		{"no channels", swap("[General, NATS, KUBECON]", "[]"), []string{"channel"}},
		{"a null channel", swap("[General, NATS, KUBECON]", "[General, ~]"), []string{"channel"}},
		{"a channel twice", swap("[General, NATS, KUBECON]", "[NATS, General, NATS]"), []string{"NATS is there twice"}},
		{"a channel with a dot", swap("[General,", "[Gen.eral,"), []string{"Gen.eral", line("channels:")}},
		{"a second document", good + "---\nname: other\n", []string{"second document"}},
		{"a list", "- 1\n", nil},
		{"nothing", "", nil},
		{"a comment", "# nothing\n", nil},
		{"half a file", good[:len(good)-3], nil},
		{"a tab", "\tname: demo\n", nil},
	} {
		f, err := platform.Parse([]byte(tc.data))
		if err == nil || f != nil {
			t.Errorf("%s: accepted, or a file beside the error (%v)", tc.what, err)
			continue
		}
		for _, w := range tc.want {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("%s: the error does not say %q: %v", tc.what, w, err)
			}
		}
		if strings.Contains(err.Error(), "Go ") || len(err.Error()) > 2000 {
			t.Errorf("%s: the error is for programmers: %v", tc.what, err)
		}
	}
}

func mustInt(t *testing.T, s string) int {
	t.Helper()
	n, err := strconv.Atoi(s)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestNewFile(t *testing.T) {
	s := spec(t, 20000, "ams", "sfo", "sgp")
	f := platform.NewFile(s)
	if s.Ports() != 30 || len(f.Regions) != 3 || len(f.Regions[2].Nodes) != 3 {
		t.Fatalf("%d ports, %+v", s.Ports(), f)
	}
	seen := map[string]bool{}
	for _, r := range f.Regions {
		seen[r.Gateway] = true
		for _, n := range r.Nodes {
			seen[n.Client], seen[n.Cluster], seen[n.Gateway] = true, true, true
		}
	}
	if len(seen) != s.Ports() || !seen["127.0.0.1:20000"] || !seen["127.0.0.1:20029"] {
		t.Errorf("addresses: %v", seen)
	}
	if r, ok := f.Region(s.Regions[1]); !ok || r.URLs()[0] != "nats://127.0.0.1:20011" {
		t.Errorf("URLs: %v", r.URLs())
	}
}

// files draws platform files of every shape that is valid.
func files() *rapid.Generator[*platform.File] {
	name := rapid.OneOf(rapid.StringMatching(`[a-z0-9]([._-]?[a-z0-9]){0,15}`),
		rapid.SampledFrom([]string{"null", "true", "no", "on", "y", "1", "0x10", "1e3", "0123", "1.5", "1_000", "nan", "inf", "0o7", "2026-01-01", "e1"}))
	region := rapid.OneOf(rapid.StringMatching(`[a-z][a-z0-9]{0,15}`), rapid.SampledFrom([]string{"null", "true", "yes", "off", "e1", "n", "inf"}))
	lbl := rapid.OneOf(rapid.StringMatching(`[A-Za-z0-9_-]{1,32}`),
		rapid.SampledFrom([]string{"NULL", "True", "-", "--", "---", "_", "-1", "0x1F", "1e5", "No", "123", "NaN", "0777", "-0", "1_0"}))
	host := rapid.SampledFrom([]string{"127.0.0.1", "::1", "localhost", "a.example.org", "10.0.0.1"})
	return rapid.Custom(func(r *rapid.T) *platform.File {
		f := &platform.File{}
		id := func(f func(string) error, s string) {
			if err := f(s); err != nil {
				r.Fatal(err)
			}
		}
		set := func(n *ident.Name, s string) { id(func(s string) error { return n.UnmarshalText([]byte(s)) }, s) }
		set(&f.Name, name.Draw(r, "name"))
		port := rapid.IntRange(1, 60000).Draw(r, "port")
		addr := func() string { port++; return net.JoinHostPort(host.Draw(r, "host"), strconv.Itoa(port)) }
		nodes := 0
		for _, s := range rapid.SliceOfNDistinct(region, 1, 4, rapid.ID[string]).Draw(r, "regions") {
			var reg platform.Region
			id(func(s string) error { return reg.Name.UnmarshalText([]byte(s)) }, s)
			reg.Gateway = addr()
			for range rapid.IntRange(3, 5).Draw(r, "nodes") {
				nodes++
				n := platform.Node{Client: addr(), Cluster: addr(), Gateway: addr()}
				set(&n.Name, fmt.Sprint(rapid.SampledFrom([]string{"", "n", "0x", "1e", "e", "0"}).Draw(r, "node"), 100+nodes))
				reg.Nodes = append(reg.Nodes, n)
			}
			f.Regions = append(f.Regions, reg)
		}
		f.Home = f.Regions[rapid.IntRange(0, len(f.Regions)-1).Draw(r, "home")].Name
		f.Credentials.Lifetime = time.Duration(rapid.Int64Range(int64(time.Second), int64(700*time.Hour)).Draw(r, "lifetime"))
		f.Credentials.Longest = f.Credentials.Lifetime + time.Duration(rapid.Int64Range(0, int64(time.Hour)).Draw(r, "more"))
		if rapid.Bool().Draw(r, "round") {
			f.Credentials.Lifetime = f.Credentials.Lifetime.Truncate(time.Second)
			f.Credentials.Longest = f.Credentials.Longest.Truncate(time.Minute) + time.Hour
		}
		id(func(s string) error { return f.Chat.Room.UnmarshalText([]byte(s)) }, lbl.Draw(r, "room"))
		for _, s := range rapid.SliceOfNDistinct(lbl, 1, 5, rapid.ID[string]).Draw(r, "channels") {
			var c ident.Label
			id(func(s string) error { return c.UnmarshalText([]byte(s)) }, s)
			f.Chat.Channels = append(f.Chat.Channels, c)
		}
		return f
	})
}

// What is written is read back, also what YAML would take for a number or for null.
func TestRenderParse(t *testing.T) {
	gen := files()
	rapid.Check(t, func(r *rapid.T) {
		f := gen.Draw(r, "file")
		data := f.Render()
		got, err := platform.Parse(data)
		if err != nil {
			r.Fatalf("%v\n%s", err, data)
		}
		if !reflect.DeepEqual(got, f) {
			r.Fatalf("got\n%+v\nwant\n%+v\n%s", got, f, data)
		}
		if !bytes.Equal(got.Render(), data) {
			r.Fatalf("rendered again it is another file:\n%s", data)
		}
		// Another reader of YAML sees no other keys and no other text.
		var m map[string]any
		if err := yaml.Unmarshal(data, &m); err != nil || m["name"] != f.Name.String() || m["home"] != f.Home.String() {
			r.Fatalf("as plain YAML: %v %v\n%s", m["name"], err, data)
		}
	})
}

func FuzzParse(f *testing.F) {
	good := platform.NewFile(spec(f, 14000, "ams", "sfo")).Render()
	f.Add(good)
	for _, s := range []string{
		"", "name: demo", "name: *a", "a: &a [*a]", "regions: [{name: ams, nodes: [{}]}]", "<<: {name: x}", "---\n---\n", "name: !!binary x",
		"credentials: {lifetime: 1h}", "chat: {channels: [[a]]}", "? a\n: b", "name: |\n  x\n", "\xff", "home: \"\\u0000\"", "{", "- - -",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) > 16<<10 {
			return
		}
		p, err := platform.Parse(data)
		if err != nil {
			if p != nil {
				t.Fatal("a file beside an error")
			}
			return
		}
		back, err := platform.Parse(p.Render())
		if err != nil || !reflect.DeepEqual(back, p) {
			t.Fatalf("%v\n%s\n%s", err, data, p.Render())
		}
	})
}
