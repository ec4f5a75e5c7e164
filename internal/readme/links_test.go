package readme

import (
	"io/fs"
	"os"
	"path"
	"regexp"
	"strings"
	"testing"

	"github.com/herald-nats/herald/internal/uptest"
)

var (
	link    = regexp.MustCompile(`\]\(([^()\s]+)\)`)
	fenced  = regexp.MustCompile("(?ms)^```.*?^```")
	heading = regexp.MustCompile(`(?m)^#+ +(.+)$`)
	noSlug  = regexp.MustCompile(`[^\p{L}\p{N} _-]`)
)

// slug is the anchor that GitHub gives a heading.
func slug(heading string) string {
	return strings.ReplaceAll(noSlug.ReplaceAllString(strings.ToLower(strings.TrimSpace(heading)), ""), " ", "-")
}

// TestLinks: what the pages link to within the repository is there, headings too.
func TestLinks(t *testing.T) {
	root, err := uptest.Root()
	if err != nil {
		t.Fatal(err)
	}
	pages := map[string]map[string]bool{} // anchors by path
	links := map[string][]string{}
	tree := os.DirFS(root)
	err = fs.WalkDir(tree, ".", func(at string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && (d.Name() == ".git" || d.Name() == "bin" || d.Name() == "internal"): // a page's beginning is there, whose links are the page's
			return fs.SkipDir
		case d.IsDir() || path.Ext(at) != ".md":
			return nil
		}
		data, err := fs.ReadFile(tree, at)
		if err != nil {
			return err
		}
		text := fenced.ReplaceAllString(string(data), "")
		pages[at] = map[string]bool{}
		for _, h := range heading.FindAllStringSubmatch(text, -1) {
			pages[at][slug(h[1])] = true
		}
		for _, l := range link.FindAllStringSubmatch(text, -1) {
			links[at] = append(links[at], l[1])
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for page, all := range links {
		for _, l := range all {
			if strings.Contains(l, "://") || strings.HasPrefix(l, "mailto:") {
				continue
			}
			n++
			file, anchor, _ := strings.Cut(l, "#")
			to := page
			if file != "" {
				to = path.Join(path.Dir(page), file)
			}
			if _, err := fs.Stat(tree, to); err != nil {
				t.Errorf("%s links to %s, which is not there", page, l)
			} else if anchors, isPage := pages[to]; anchor != "" && isPage && !anchors[anchor] {
				t.Errorf("%s links to %s, and there is no such heading", page, l)
			}
		}
	}
	if n < 50 {
		t.Errorf("only %d links were found", n)
	}
}
