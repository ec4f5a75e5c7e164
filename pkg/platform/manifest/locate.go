package manifest

import (
	"cmp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v4"
)

// source is what a File was read from. It is the text, not its tree, which is some
// thirty times as large and needed only to say where a problem is.
type source struct {
	name string
	data []byte
}

// Problem is a problem of what a path names, such as accounts[3].roles[0], with its
// place if the File was read from one. It is for who finds out later that something
// cannot be done.
func (f *File) Problem(path, reason, hint string) Problem {
	return f.placed(Problems{{Path: path, Reason: reason, Hint: hint}})[0]
}

// placed gives problems the places of their paths.
func (f *File) placed(problems Problems) Problems {
	if len(problems) == 0 || f.source == nil {
		return problems
	}
	root, unread := tree(f.source.data)
	if len(unread) > 0 {
		return problems // it was read once, so this is not to be
	}
	return finish(locate(root, problems), f.source.name)
}

// locate fills in where the paths of problems are in a tree.
func locate(root *yaml.Node, problems Problems) Problems {
	for i := range problems {
		n := find(root, problems[i].Path)
		problems[i].Line, problems[i].Column = n.Line, n.Column
	}
	return problems
}

// find is the node that a path names, or the last on the way to it that is there.
func find(n *yaml.Node, path string) *yaml.Node {
	for path != "" {
		next := (*yaml.Node)(nil)
		if path[0] == '[' {
			number, rest, _ := strings.Cut(path[1:], "]")
			if i, err := strconv.Atoi(number); err == nil && n.Kind == yaml.SequenceNode && i >= 0 && i < len(n.Content) {
				next = n.Content[i]
			}
			path = strings.TrimPrefix(rest, ".")
		} else {
			end := strings.IndexAny(path, ".[")
			if end < 0 {
				end = len(path)
			}
			key := path[:end]
			for i := 0; n.Kind == yaml.MappingNode && i+1 < len(n.Content); i += 2 {
				if n.Content[i].Value == key {
					next = n.Content[i+1]
					break
				}
			}
			path = strings.TrimPrefix(path[end:], ".")
		}
		if next == nil {
			return n
		}
		n = next
	}
	return n
}

// finish puts problems in the order of the file, and names it.
func finish(problems Problems, name string) Problems {
	slices.SortStableFunc(problems, func(a, b Problem) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
	if len(problems) > maxProblems {
		problems = append(problems[:maxProblems:maxProblems], Problem{
			Line: problems[maxProblems].Line, Column: problems[maxProblems].Column,
			Reason: "there are more problems than are shown", Hint: "mend these first",
		})
	}
	for i := range problems {
		problems[i].File = name
	}
	return problems
}

// general is a path without places in lists, such as accounts.roles.name.
func general(path string) string {
	var b strings.Builder
	for path != "" {
		before, after, _ := strings.Cut(path, "[")
		b.WriteString(before)
		_, path, _ = strings.Cut(after, "]")
	}
	return b.String()
}

// within tells whether a path is in one of some others, or is one.
func within(path string, others map[string]bool) bool {
	for !others[path] {
		end := strings.LastIndexAny(path, ".[")
		if end < 0 {
			return others[""]
		}
		path = path[:end]
	}
	return true
}
