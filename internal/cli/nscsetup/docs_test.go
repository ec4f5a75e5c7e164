package nscsetup

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/herald-nats/herald/internal/cli/reference"
)

// TestDocsAreFresh holds docs/cli against the commands.
func TestDocsAreFresh(t *testing.T) {
	const dir = "../../../docs/cli"
	const again = "go run ./cmd/nscsetup docs --format markdown --out docs/cli"
	pages, err := reference.Pages(newRoot(&globals{}), reference.Markdown)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]bool{}
	for _, p := range pages {
		want[p.Name] = true
		if got, err := os.ReadFile(filepath.Join(dir, p.Name)); err != nil || string(got) != string(p.Content) {
			t.Errorf("%s is not what the command says (%v): run\n%s", p.Name, err, again)
		}
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		content, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err == nil && reference.Made(content) && !want[e.Name()] {
			t.Errorf("%s is of a command that is no more: run\n%s", e.Name(), again)
		}
	}
}
