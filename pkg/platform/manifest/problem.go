package manifest

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// ErrInvalid is what errors.Is finds in every error of Parse.
var ErrInvalid = errors.New("the platform file is not valid")

// Problem is one thing that is wrong with a platform file.
type Problem struct {
	// File is the name that was given to Parse; empty for a File that was made in code.
	File string
	// Line and Column, from 1, are where it is; 0 for a File that was made in code.
	Line, Column int
	// Path is the key, such as accounts[3].roles[0].publish.allow[2]; empty for the
	// whole file. Lists count from 0.
	Path string
	// Reason says what is wrong, and Hint what to do about it; each is one line.
	Reason, Hint string
}

// String is one line: where, and the reason.
func (p Problem) String() string { return p.where() + p.Reason }

// where ends with a colon and a space, unless nothing is known.
func (p Problem) where() string {
	var at []string
	if p.File != "" {
		at = append(at, p.File)
	}
	switch {
	case p.Line > 0:
		at = append(at, strconv.Itoa(p.Line), strconv.Itoa(p.Column))
	case p.Path != "":
		at = append(at, p.Path)
	}
	if len(at) == 0 {
		return ""
	}
	return strings.Join(at, ":") + ": "
}

// Problems are all things that are wrong with a platform file, in the order of the file.
// As an error there is at least one.
type Problems []Problem

// Error is one line: the first problem, and how many more there are.
func (p Problems) Error() string {
	switch len(p) {
	case 0:
		return ErrInvalid.Error()
	case 1:
		return p[0].String()
	case 2:
		return p[0].String() + " (and one more problem)"
	default:
		return fmt.Sprintf("%s (and %d more problems)", p[0], len(p)-1)
	}
}

// Is tells that every error of this kind is ErrInvalid.
func (p Problems) Is(target error) bool { return target == ErrInvalid }

// Text is every problem: a line with where and what, and one with the hint.
func (p Problems) Text() string {
	var b strings.Builder
	for _, problem := range p {
		b.WriteString(problem.String())
		b.WriteByte('\n')
		if problem.Hint != "" {
			b.WriteString("hint: ")
			b.WriteString(problem.Hint)
			b.WriteByte('\n')
		}
	}
	return b.String()
}
