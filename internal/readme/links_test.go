package readme

import (
	"io/fs"
	"os"
	"path/filepath"
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
	err = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && (d.Name() == ".git" || d.Name() == "bin" || d.Name() == "internal"): // a page's beginning is there, whose links are the page's
			return filepath.SkipDir
		case d.IsDir() || filepath.Ext(path) != ".md":
			return nil
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		text := fenced.ReplaceAllString(string(data), "")
		pages[path] = map[string]bool{}
		for _, h := range heading.FindAllStringSubmatch(text, -1) {
			pages[path][slug(h[1])] = true
		}
		for _, l := range link.FindAllStringSubmatch(text, -1) {
			links[path] = append(links[path], l[1])
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
				to = filepath.Join(filepath.Dir(page), filepath.FromSlash(file))
			}
			where, _ := filepath.Rel(root, page) // both are absolute
			if _, err := os.Stat(to); err != nil {
				t.Errorf("%s links to %s, which is not there", where, l)
			} else if anchors, isPage := pages[to]; anchor != "" && isPage && !anchors[anchor] {
				t.Errorf("%s links to %s, and there is no such heading", where, l)
			}
		}
	}
	if n < 50 {
		t.Errorf("only %d links were found", n)
	}
}
