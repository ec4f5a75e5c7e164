package reference_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"github.com/herald-nats/herald/internal/cli/reference"
)

func program() *cobra.Command {
	run := func(*cobra.Command, []string) error { return nil }
	root := &cobra.Command{
		Use: "tool", Short: "Do things", Long: "tool does <things> with *stars*, {{subject()}} and under_scores:\n\n  first line\n    second line\n\nAnd no more.",
		Example: "  tool list\n  tool list --all", RunE: run,
	}
	root.PersistentFlags().String("dir", ".", "the folder")
	list := &cobra.Command{Use: "list [NAME]", Short: "List things", Long: "list lists.", Example: "  tool list", RunE: run}
	list.Flags().Bool("all", false, "all of a|b")
	hidden := &cobra.Command{Use: "secret", Short: "x", Hidden: true, RunE: run}
	root.AddCommand(list, hidden)
	root.InitDefaultHelpCmd()
	return root
}

func names(pages []reference.Page) []string {
	var out []string
	for _, p := range pages {
		out = append(out, p.Name)
	}
	return out
}

func TestPages(t *testing.T) {
	md, err := reference.Pages(program(), reference.Markdown)
	if err != nil {
		t.Fatal(err)
	}
	if got := names(md); !slices.Equal(got, []string{"tool.md", "tool_list.md"}) {
		t.Fatalf("pages %v", got)
	}
	page := string(md[0].Content)
	for _, want := range []string{
		"# tool\n", `tool does \<things> with \*stars\*, {{subject()}} and under\_scores:`, "```\nfirst line\n  second line\n```",
		"## Examples\n\n```\ntool list\ntool list --all\n```", "- [tool list](tool_list.md): List things\n", "--dir string   the folder (default \".\")",
	} {
		if !strings.Contains(page, want) {
			t.Errorf("no %q in\n%s", want, page)
		}
	}
	if list := string(md[1].Content); !strings.Contains(list, "## Flags of all commands") || !strings.Contains(list, "Part of [tool](tool.md).") {
		t.Errorf("the page of list is\n%s", list)
	}
	man, err := reference.Pages(program(), reference.Man)
	if err != nil {
		t.Fatal(err)
	}
	if got := names(man); !slices.Equal(got, []string{"tool.1", "tool-list.1"}) {
		t.Fatalf("pages %v", got)
	}
	page = string(man[0].Content)
	for _, want := range []string{".TH \"TOOL\" \"1\"", ".SH NAME\ntool \\- Do things", "tool does <things> with *stars*, {{subject()}} and under_scores:", ".SH EXAMPLES", "\\fBtool-list(1)\\fP"} {
		if !strings.Contains(page, want) {
			t.Errorf("no %q in\n%s", want, page)
		}
	}
	for _, p := range slices.Concat(md, man) {
		if !reference.Made(p.Content) {
			t.Errorf("%s does not say that it was made", p.Name)
		}
	}
	if _, err := reference.Pages(program(), "html"); err == nil {
		t.Error("there is html")
	}
}

// TestStable: pages depend on the commands alone.
func TestStable(t *testing.T) {
	for _, f := range reference.Formats() {
		a, err := reference.Pages(program(), f)
		if err != nil {
			t.Fatal(err)
		}
		b, err := reference.Pages(program(), f)
		if err != nil {
			t.Fatal(err)
		}
		for i := range a {
			if string(a[i].Content) != string(b[i].Content) {
				t.Errorf("%s differs from itself", a[i].Name)
			}
		}
	}
}

func TestWrite(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new", "docs")
	w, err := reference.Write(program(), reference.Markdown, dir)
	if err != nil || !slices.Equal(w.Pages, []string{"tool.md", "tool_list.md"}) || len(w.Removed) > 0 {
		t.Fatalf("%+v, %v", w, err)
	}
	// Again, with a command that is no more, and with files of somebody else.
	old, err := os.ReadFile(filepath.Join(dir, "tool_list.md"))
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{"tool_gone.md": string(old), "tool_own.md": "# mine\n", "README.md": string(old), "tool_gone.1": string(old)} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	w, err = reference.Write(program(), reference.Markdown, dir)
	if err != nil || !slices.Equal(w.Removed, []string{"tool_gone.md"}) {
		t.Fatalf("%+v, %v", w, err)
	}
	for _, name := range []string{"tool_own.md", "README.md", "tool_gone.1", "tool.md"} {
		if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
			t.Error(err)
		}
	}
	// A page that was not made here is not touched, and neither is any other.
	if err := os.WriteFile(filepath.Join(dir, "tool_list.md"), []byte("# mine\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(dir, "tool.md")); err != nil {
		t.Fatal(err)
	}
	if _, err := reference.Write(program(), reference.Markdown, dir); !errors.Is(err, fs.ErrExist) {
		t.Errorf("over somebody else's page: %v", err)
	}
	if _, err := os.Stat(filepath.Join(dir, "tool.md")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("it wrote a page: %v", err)
	}
}
