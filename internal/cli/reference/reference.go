// Package reference writes the reference of a program's commands from the commands
// themselves: Markdown for the repository and the web, man pages for packages. What it
// writes depends on the commands alone, not on when or where it runs, so that a copy can
// be held against them.
package reference

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/cpuguy83/go-md2man/v2/md2man"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// Format is a format of pages.
type Format string

// The formats.
const (
	Markdown Format = "markdown"
	Man      Format = "man"
)

// Formats are all formats.
func Formats() []Format { return []Format{Man, Markdown} }

// Page is one page: that of one command.
type Page struct {
	Name    string // of its file
	Content []byte
}

// marker stands in the first line of each page, by which a page is known that was made
// here and may be made anew.
const marker = "made from the commands by "

// first is the first line of a page.
func first(program string, f Format) string {
	text := marker + program + " docs; changes are lost"
	if f == Man {
		return `.\" ` + text + "\n"
	}
	return "<!-- " + text + " -->\n"
}

// Made tells whether a page was made here.
func Made(content []byte) bool {
	line, _, _ := bytes.Cut(content, []byte("\n"))
	return bytes.Contains(line, []byte(marker))
}

// Pages are the pages of a program, one for each command that its help shows, in the
// order of the commands. The error is that there is no such format.
func Pages(root *cobra.Command, f Format) ([]Page, error) {
	if !slices.Contains(Formats(), f) {
		return nil, fmt.Errorf("there is no format %.20q", f)
	}
	var pages []Page
	for _, c := range Commands(root) {
		p := Page{Name: fileOf(c, f)}
		var b strings.Builder
		b.WriteString(first(root.Name(), f))
		if f == Man {
			b.Write(md2man.Render([]byte(man(c))))
		} else {
			b.WriteString(markdown(c))
		}
		p.Content = []byte(b.String())
		pages = append(pages, p)
	}
	return pages, nil
}

// Commands are a program and all commands below it that its help shows, each before those
// below it. What cobra adds by itself is not among them.
func Commands(root *cobra.Command) []*cobra.Command {
	all := []*cobra.Command{root}
	for _, c := range root.Commands() {
		if c.IsAvailableCommand() && c.Name() != "help" && !c.IsAdditionalHelpTopicCommand() {
			all = append(all, Commands(c)...)
		}
	}
	return all
}

// fileOf is what a command's page is called.
func fileOf(c *cobra.Command, f Format) string {
	if f == Man {
		return strings.ReplaceAll(c.CommandPath(), " ", "-") + ".1"
	}
	return strings.ReplaceAll(c.CommandPath(), " ", "_") + ".md"
}

// flags are a command's own flags, and those that it shares with others.
func flags(c *cobra.Command) (own, shared *pflag.FlagSet) {
	c.InitDefaultHelpFlag()
	return c.NonInheritedFlags(), c.InheritedFlags()
}

func markdown(c *cobra.Command) string {
	var b strings.Builder
	fmt.Fprintf(&b, "# %s\n\n%s.\n\n", c.CommandPath(), escape(c.Short))
	if c.Runnable() {
		block(&b, c.UseLine())
	}
	b.WriteString(prose(c.Long))
	if c.Example != "" {
		b.WriteString("## Examples\n\n")
		block(&b, unindent(c.Example))
	}
	own, shared := flags(c)
	for _, s := range []struct {
		head  string
		flags *pflag.FlagSet
	}{{"Flags", own}, {"Flags of all commands", shared}} {
		if s.flags.HasAvailableFlags() {
			fmt.Fprintf(&b, "## %s\n\n", s.head)
			block(&b, unindent(s.flags.FlagUsages()))
		}
	}
	var below []string
	for _, sub := range Commands(c)[1:] {
		if sub.Parent() == c {
			below = append(below, fmt.Sprintf("- [%s](%s): %s\n", sub.CommandPath(), fileOf(sub, Markdown), escape(sub.Short)))
		}
	}
	if len(below) > 0 {
		fmt.Fprintf(&b, "## Commands\n\n%s\n", strings.Join(below, ""))
	}
	if p := c.Parent(); p != nil {
		fmt.Fprintf(&b, "Part of [%s](%s).\n", p.CommandPath(), fileOf(p, Markdown))
	}
	return strings.TrimRight(b.String(), "\n") + "\n"
}

// man is a man page in the Markdown that md2man reads.
func man(c *cobra.Command) string {
	name := strings.ReplaceAll(c.CommandPath(), " ", "-")
	var b strings.Builder
	// Without a date: pages are the same whenever they are made.
	fmt.Fprintf(&b, "%% %q \"1\" \"\" \"Herald\" \"Herald\"\n", strings.ToUpper(name))
	fmt.Fprintf(&b, "# NAME\n%s - %s\n\n", escape(name), escape(c.Short))
	if c.Runnable() {
		b.WriteString("# SYNOPSIS\n")
		block(&b, c.UseLine())
	}
	fmt.Fprintf(&b, "# DESCRIPTION\n%s", prose(c.Long))
	own, shared := flags(c)
	if own.HasAvailableFlags() {
		b.WriteString("# OPTIONS\n")
		block(&b, unindent(own.FlagUsages()))
	}
	if shared.HasAvailableFlags() {
		b.WriteString("# OPTIONS OF ALL COMMANDS\n")
		block(&b, unindent(shared.FlagUsages()))
	}
	if c.Example != "" {
		b.WriteString("# EXAMPLES\n")
		block(&b, unindent(c.Example))
	}
	var also []string
	if p := c.Parent(); p != nil {
		also = append(also, "**"+escape(strings.ReplaceAll(p.CommandPath(), " ", "-"))+"(1)**")
	}
	for _, sub := range Commands(c)[1:] {
		if sub.Parent() == c {
			also = append(also, "**"+escape(strings.ReplaceAll(sub.CommandPath(), " ", "-"))+"(1)**")
		}
	}
	if len(also) > 0 {
		fmt.Fprintf(&b, "# SEE ALSO\n%s\n", strings.Join(also, ", "))
	}
	return b.String()
}

// block is text as it stands.
func block(b *strings.Builder, text string) {
	fmt.Fprintf(b, "```\n%s\n```\n\n", strings.TrimRight(text, "\n "))
}

// unindent takes away what all lines begin with.
func unindent(text string) string {
	lines := strings.Split(strings.TrimRight(text, "\n "), "\n")
	least := -1
	for _, l := range lines {
		if strings.TrimSpace(l) == "" {
			continue
		}
		if n := len(l) - len(strings.TrimLeft(l, " ")); least < 0 || n < least {
			least = n
		}
	}
	for i, l := range lines {
		lines[i] = strings.TrimRight(l[min(max(least, 0), len(l)):], " ")
	}
	return strings.Join(lines, "\n")
}

// prose is a command's long text: paragraphs, and what is indented as it stands.
func prose(text string) string {
	var b strings.Builder
	for _, p := range strings.Split(strings.TrimSpace(text), "\n\n") {
		switch {
		case strings.TrimSpace(p) == "":
		case strings.HasPrefix(p, " "):
			block(&b, unindent(p))
		default:
			b.WriteString(escape(p) + "\n\n")
		}
	}
	return b.String()
}

// escape keeps Markdown from seeing more in a text than there is.
func escape(s string) string {
	return strings.NewReplacer(
		`\`, `\\`, "`", "\\`", "*", `\*`, "_", `\_`, "<", `\<`, "[", `\[`, "]", `\]`, "|", `\|`,
	).Replace(s)
}

// Written is what Write did.
type Written struct {
	Pages   []string // names of the files that are there now
	Removed []string // pages of commands that are no more
}

// Write writes a program's pages into a folder, which is made if it is missing. Pages that
// were made before are replaced, and those of commands that are no more are removed. A
// file that was not made here is never touched: the error wraps fs.ErrExist then, and
// nothing was written.
func Write(root *cobra.Command, f Format, dir string) (Written, error) {
	var w Written
	pages, err := Pages(root, f)
	if err != nil {
		return w, err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil { // #nosec G301 -- documents, for everybody
		return w, fmt.Errorf("making the folder: %w", err)
	}
	old, err := made(root, f, dir)
	if err != nil {
		return w, err
	}
	for _, p := range pages {
		if content, err := os.ReadFile(filepath.Join(dir, p.Name)); err == nil && !Made(content) { // #nosec G304 -- a page in the user's folder
			return w, fmt.Errorf("%s: %w", filepath.Join(dir, p.Name), fs.ErrExist)
		}
	}
	for _, p := range pages {
		if err := os.WriteFile(filepath.Join(dir, p.Name), p.Content, 0o644); err != nil { // #nosec G306 -- documents, for everybody
			return w, fmt.Errorf("writing a page: %w", err)
		}
		w.Pages = append(w.Pages, p.Name)
	}
	for _, name := range old {
		if slices.Contains(w.Pages, name) {
			continue
		}
		if err := os.Remove(filepath.Join(dir, name)); err != nil {
			return w, fmt.Errorf("removing the page of a command that is no more: %w", err)
		}
		w.Removed = append(w.Removed, name)
	}
	return w, nil
}

// made are a program's pages of a format in a folder.
func made(root *cobra.Command, f Format, dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("looking for pages: %w", err)
	}
	ext := filepath.Ext(fileOf(root, f))
	var names []string
	for _, e := range entries {
		if !e.Type().IsRegular() || !strings.HasPrefix(e.Name(), root.Name()) || filepath.Ext(e.Name()) != ext {
			continue
		}
		content, err := os.ReadFile(filepath.Join(dir, e.Name())) // #nosec G304 -- a page in the user's folder
		if err != nil {
			return nil, fmt.Errorf("looking for pages: %w", err)
		}
		if Made(content) {
			names = append(names, e.Name())
		}
	}
	return names, nil
}
