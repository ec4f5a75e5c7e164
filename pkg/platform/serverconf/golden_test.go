package serverconf_test

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/platform/manifest"
	"github.com/herald-nats/herald/pkg/platform/serverconf"
)

// What is rendered, as people read it. `go test ./pkg/platform/serverconf -update` writes
// the files anew: look at their diff.
func TestGolden(t *testing.T) {
	for _, c := range []struct {
		name  string
		file  *manifest.File
		nodes []string // those that are kept
	}{
		{"loopback", loopback(3, "ams", "sfo", "sgp"), []string{"ams-1", "sgp-3"}},
		{"production", production(), []string{"ams-1", "ams-2", "sfo-1"}},
		{"two-regions", loopback(3, "ams", "sfo"), []string{"sfo-2"}},
		{"one-region", loopback(3, "ams"), []string{"ams-2"}},
		{"one-node", loopback(1, "ams"), []string{"ams-1"}},
		{"sentinel", withSentinel(loopback(3, "ams")), []string{"ams-1"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRoot()
			in := r.input()
			if !c.file.DefaultSentinel.IsZero() {
				in.Sentinel = newBearer()
			}
			all, err := serverconf.All(c.file, in)
			if err != nil {
				t.Fatal(err)
			}
			kept := map[string]bool{}
			for _, n := range c.nodes {
				kept[n] = true
			}
			for _, conf := range all {
				one, err := serverconf.Render(c.file, conf.Region, conf.Node, in)
				if err != nil || !bytes.Equal(one, conf.Text) {
					t.Errorf("%s by itself is another: %v", conf.Node, err)
				}
				if !kept[conf.Node.String()] {
					continue
				}
				delete(kept, conf.Node.String())
				golden(t, filepath.Join("testdata", c.name, conf.Node.String()+".conf"), placeholders(in).Replace(string(conf.Text)))
			}
			if len(kept) > 0 {
				t.Errorf("no configuration of %v", kept)
			}
		})
	}
}

// placeholders stand for what each run makes anew.
func placeholders(in serverconf.Input) *strings.Replacer {
	pairs := []string{in.Operator.Token(), "<the operator's JWT>", in.System, "<the system account's JWT>", in.Operator.System().String(), "<the system account>"}
	if in.Sentinel != "" {
		pairs = append(pairs, in.Sentinel, "<the sentinel's JWT>")
	}
	return strings.NewReplacer(pairs...)
}

func golden(t *testing.T, path, got string) {
	t.Helper()
	if flag.Lookup("update").Value.String() == "true" {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("%v; -update writes it", err)
	}
	if got != string(want) {
		t.Errorf("%s is rendered otherwise; if that is right, -update writes it:\n%s", path, firstDifference(string(want), got))
	}
}

func firstDifference(want, got string) string {
	w, g := strings.Split(want, "\n"), strings.Split(got, "\n")
	for i := range min(len(w), len(g)) {
		if w[i] != g[i] {
			return "- " + w[i] + "\n+ " + g[i]
		}
	}
	return "one is longer"
}

func withSentinel(f *manifest.File) *manifest.File {
	f.DefaultSentinel = manifest.RoleRef{Account: must(ident.ParseLabel("LOBBY")), Role: must(ident.ParseLabel("anyone"))}
	return f
}
