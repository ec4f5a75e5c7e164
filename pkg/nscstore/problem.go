package nscstore

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Problem is one thing that is wrong with a store.
type Problem struct {
	File string // the file or folder that it is about
	Err  error
}

// Error names the file and says what is wrong.
func (p Problem) Error() string { return show(p.File) + ": " + redact(p.Err.Error()) }

// Unwrap gives Err.
func (p Problem) Unwrap() error { return p.Err }

// Problems are all that is wrong with a store, in the order of its files. It
// is the error of Read and Write, where it is never empty.
type Problems struct {
	List []Problem
	// More is how many were found beyond those of the list.
	More int
}

// maxProblems bounds what is told: nobody reads the next hundred.
const maxProblems = 100

func (p *Problems) add(file string, err error) {
	if len(p.List) == maxProblems {
		p.More++
		return
	}
	p.List = append(p.List, Problem{File: file, Err: err})
}

// err is the problems as an error, nil where there are none.
func (p *Problems) err() error {
	if len(p.List) == 0 {
		return nil
	}
	slices.SortStableFunc(p.List, func(a, b Problem) int { return cmp.Compare(a.File, b.File) })
	return p
}

// Error has a line for each problem.
func (p *Problems) Error() string {
	var b strings.Builder
	for i, one := range p.List {
		if i > 0 {
			b.WriteByte('\n')
		}
		b.WriteString(one.Error())
	}
	if p.More > 0 {
		fmt.Fprintf(&b, "\nand %d more", p.More)
	}
	return b.String()
}

// Unwrap gives each problem, for errors.Is and errors.As.
func (p *Problems) Unwrap() []error {
	errs := make([]error, len(p.List))
	for i, one := range p.List {
		errs[i] = one
	}
	return errs
}

// redact takes out the seed that somebody may have taken for a public key, or
// for the name of a file.
func redact(text string) string {
	// Not in a variable of the package: this is the way of errors, and may be slow.
	return regexp.MustCompile(`\bS[OAUXNC][A-Z2-7]{10,}`).ReplaceAllString(text, "(a seed)")
}

// show makes what comes from outside harmless on a terminal.
func show(text string) string {
	text = redact(text)
	if strings.ContainsFunc(text, func(r rune) bool { return !strconv.IsPrint(r) }) || !utf8.ValidString(text) {
		return strconv.Quote(text)
	}
	return text
}

// brief is show for what may be endless.
func brief(text string) string {
	const longest = 400
	if text = redact(text); len(text) > longest {
		text = strings.ToValidUTF8(text[:longest], "") + "…"
	}
	return show(text)
}
