package client_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/herald-nats/herald/pkg/client"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/platform"
)

// publicDir makes a platform and gives its public/ folder.
func publicDir(t testing.TB) string {
	t.Helper()
	name, err := ident.ParseName("demo")
	if err != nil {
		t.Fatal(err)
	}
	ams, err := ident.ParseRegion("ams")
	if err != nil {
		t.Fatal(err)
	}
	s := platform.Spec{Name: name, Regions: []ident.Region{ams}, Home: ams, Nodes: 3, Port: 14000}
	p, err := platform.Init(t.Context(), filepath.Join(t.TempDir(), "demo"), s, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return p.Dir.Public()
}

func load(t testing.TB, path string) *client.Platform {
	t.Helper()
	p, err := client.LoadPlatform(path)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func export(t testing.TB, p *client.Platform) []byte {
	t.Helper()
	data, err := p.Export()
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestContextRoundTrip(t *testing.T) {
	dir := publicDir(t)
	p := load(t, dir)
	data := export(t, p)
	q, err := client.ParseContext(data)
	if err != nil {
		t.Fatal(err)
	}
	if q.Operator.Key() != p.Operator.Key() || q.Document.Version != p.Document.Version || q.Document.Name != "demo" {
		t.Errorf("%+v", q.Document)
	}
	if !bytes.Equal(export(t, q), data) {
		t.Error("exported again it is another file")
	}
	file := filepath.Join(t.TempDir(), "demo.json")
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
	if r := load(t, file); r.Operator.Key() != p.Operator.Key() {
		t.Error("read from a file it is another platform")
	}
	if len(data) > 64<<10 {
		t.Errorf("a context of %d bytes", len(data))
	}
}

func TestContextIsVerified(t *testing.T) {
	good, other := export(t, load(t, publicDir(t))), export(t, load(t, publicDir(t)))
	swap := func(change func(mine, theirs map[string]any)) []byte {
		t.Helper()
		var a, b map[string]any
		if err := errors.Join(json.Unmarshal(good, &a), json.Unmarshal(other, &b)); err != nil {
			t.Fatal(err)
		}
		change(a, b)
		data, err := json.Marshal(a)
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	set := func(key string, v any) []byte {
		return swap(func(mine, _ map[string]any) { mine[key] = v })
	}
	if _, err := client.ParseContext(set("later", 1)); err != nil {
		t.Errorf("a member of a later version: %v", err)
	}
	for what, data := range map[string][]byte{
		"nothing": nil, "null": []byte("null"), "an empty object": []byte("{}"), "half": good[:len(good)/2],
		"two":                          append(bytes.Clone(good), good...),
		"another version":              set("herald_context", 2),
		"no version":                   set("herald_context", 0),
		"another platform's operator":  swap(func(mine, theirs map[string]any) { mine["operator"] = theirs["operator"] }),
		"another platform's document":  swap(func(mine, theirs map[string]any) { mine["platform"] = theirs["platform"] }),
		"no operator":                  set("operator", ""),
		"no document":                  set("platform", ""),
		"no guest":                     set("guest_creds", ""),
		"the operator as the document": swap(func(mine, _ map[string]any) { mine["platform"] = mine["operator"] }),
		"a guest without a JWT": swap(func(mine, _ map[string]any) {
			s, _ := mine["guest_creds"].(string)
			mine["guest_creds"] = s[strings.Index(s, "-----BEGIN USER NKEY"):]
		}),
		"another guest's seed": swap(func(mine, theirs map[string]any) {
			a, _ := mine["guest_creds"].(string)
			b, _ := theirs["guest_creds"].(string)
			cut := func(s string) int { return strings.Index(s, "-----BEGIN USER NKEY") }
			mine["guest_creds"] = a[:cut(a)] + b[cut(b):]
		}),
		"an altered document": swap(func(mine, _ map[string]any) {
			s, _ := mine["platform"].(string)
			mine["platform"] = s[:len(s)-4] + "AAAA"
		}),
		"too large": append(bytes.Clone(good), bytes.Repeat([]byte(" "), 1<<20)...),
	} {
		if p, err := client.ParseContext(data); !errors.Is(err, client.ErrContext) || p != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func TestLoadPlatformErrors(t *testing.T) {
	dir := publicDir(t)
	if _, err := client.LoadPlatform(filepath.Join(dir, "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("nothing there: %v", err)
	}
	if _, err := client.LoadPlatform(t.TempDir()); !errors.Is(err, client.ErrContext) {
		t.Errorf("an empty folder: %v", err)
	}
	for _, name := range []string{"operator.jwt", "platform.jwt", "guest.creds"} {
		path := filepath.Join(dir, name)
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		if _, err := client.LoadPlatform(dir); !errors.Is(err, client.ErrContext) || !strings.Contains(err.Error(), name) {
			t.Errorf("without %s: %v", name, err)
		}
		if err := os.WriteFile(path, bytes.Repeat([]byte("x"), 2<<20), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := client.LoadPlatform(dir); !errors.Is(err, client.ErrContext) {
			t.Errorf("with an endless %s: %v", name, err)
		}
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	load(t, dir)
}

func FuzzParseContext(f *testing.F) {
	good := export(f, load(f, publicDir(f)))
	f.Add(good)
	f.Add(good[:len(good)-10])
	f.Add([]byte(`{"herald_context":1,"operator":"a.b.c","platform":"a.b.c","guest_creds":"x"}`))
	f.Add([]byte(`{"herald_context":1}`))
	f.Add([]byte("null"))
	// A document that jwt/v2 panics at.
	f.Add(bytes.Replace(good, []byte(`"platform": "`), []byte(`"platform": "eyJ0eXAiOiJKV1QiLCJhbGciOiJlZDI1NTE5In0.e30.e30", "x": "`), 1))
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := client.ParseContext(data)
		if err != nil {
			if p != nil || !errors.Is(err, client.ErrContext) {
				t.Fatalf("%v", err)
			}
			return
		}
		again := export(t, p)
		q, err := client.ParseContext(again)
		if err != nil || !bytes.Equal(export(t, q), again) {
			t.Fatalf("read, written and read: %v", err)
		}
	})
}
