package manifest

import (
	"fmt"
	"strconv"
	"strings"
)

const mappingHint = "$1 is the first * of the subject; {{partition(n,1)}}, {{split(1,-)}}, {{splitfromleft(1,n)}}, {{splitfromright(1,n)}}, " +
	"{{slicefromleft(1,n)}}, {{slicefromright(1,n)}}, {{left(1,n)}}, {{right(1,n)}} and {{random(n)}} are known, without spaces"

// wrongMapping says what is wrong with what a subject is mapped to. Servers only log
// it, and go on without the mapping; the rules are those of nats-server 2.15
// (NewSubjectTransform), in one spelling of each function.
func wrongMapping(from, to string) (reason, hint string) {
	if reason, hint = wrongDestination(to); reason != "" {
		return reason, hint
	}
	stars, rest := wildcards(from)
	toStars, toRest := wildcards(to)
	switch {
	case toStars > 0:
		return fmt.Sprintf("%q has a *, which a subject that messages go to cannot have", to), "name the * of the subject that is meant: $1 is the first"
	case rest != toRest:
		return fmt.Sprintf("%q and %q do not both end in >", from, to), "what > stands for must have a place in both"
	}
	for word := range strings.SplitSeq(to, ".") {
		indexes, ok := placeholders(word)
		if !ok {
			return fmt.Sprintf("servers know no function %s in a mapping", printable(word)), mappingHint
		}
		for _, i := range indexes {
			if i < 1 || i > stars {
				return fmt.Sprintf("%q names a * number %d, and %q has %d", to, i, from, stars), "count the * of the subject from 1"
			}
		}
	}
	return "", ""
}

// wrongDestination is wrongPattern, less what functions may have in a word.
func wrongDestination(to string) (reason, hint string) {
	var plain []string
	for word := range strings.SplitSeq(to, ".") {
		if strings.HasPrefix(word, "{{") && strings.HasSuffix(word, "}}") && len(word) > 4 && !strings.ContainsAny(word, " \t") {
			word = "x"
		}
		plain = append(plain, word)
	}
	s := strings.Join(plain, ".")
	if strings.ContainsAny(s, "{}") {
		return fmt.Sprintf("%.120q has braces within a word", to), "a function is a whole word, between dots"
	}
	return wrongPattern(s)
}

// wildcards counts the * of a pattern, and tells whether it ends in >.
func wildcards(s string) (stars int, rest bool) {
	for word := range strings.SplitSeq(s, ".") {
		if word == "*" {
			stars++
		}
		rest = word == ">"
	}
	return stars, rest
}

// placeholders are the numbers of the wildcards that a word of a destination names. ok
// is false where the word is a function that servers do not know, or with arguments that
// they do not.
func placeholders(word string) (indexes []int, ok bool) {
	if n, isNumber := reference(word); isNumber {
		return []int{n}, true
	}
	call, isFunction := strings.CutPrefix(word, "{{")
	if !isFunction {
		return nil, true
	}
	name, args, open := strings.Cut(strings.TrimSuffix(call, "}}"), "(")
	args, closed := strings.CutSuffix(args, ")")
	if !open || !closed {
		return nil, false
	}
	list := strings.Split(args, ",")
	numbers := make([]int, len(list))
	for i, a := range list {
		n, err := strconv.ParseInt(a, 10, 32)
		isNumber := err == nil && n > 0 && strconv.FormatInt(n, 10) == a
		if !isNumber && (name != "split" || i != 1) {
			return nil, false
		}
		numbers[i] = int(n)
	}
	switch name {
	case "wildcard":
		return numbers, len(numbers) == 1
	case "partition":
		return numbers[1:], true
	case "random":
		return nil, len(numbers) == 1
	case "split":
		return numbers[:1], len(list) == 2 && list[1] != "" && !strings.ContainsAny(list[1], "{}()")
	case "splitfromleft", "splitfromright", "slicefromleft", "slicefromright", "left", "right":
		return numbers[:1], len(numbers) == 2
	default:
		return nil, false
	}
}

// reference is the number of a word such as $1.
func reference(word string) (int, bool) {
	digits, ok := strings.CutPrefix(word, "$")
	n, err := strconv.Atoi(digits)
	return n, ok && err == nil
}

// wrongLocal says what is wrong with an import's subject here, given what it is there.
// Servers turn it round in both directions, so every * of the one has its place in the
// other.
func wrongLocal(there, here string) (reason, hint string) {
	if strings.ContainsAny(here, "{}") {
		return fmt.Sprintf("%.120q has braces: here are no templates or functions", here), "a * of the subject is named as $1, or is a * again"
	}
	if reason, hint = wrongPattern(here); reason != "" {
		return reason, hint
	}
	stars, rest := wildcards(there)
	hereStars, hereRest := wildcards(here)
	if rest != hereRest {
		return fmt.Sprintf("%q and %q do not both end in >", there, here), "what > stands for must have a place in both"
	}
	named := map[int]bool{}
	for word := range strings.SplitSeq(here, ".") {
		if n, ok := reference(word); ok {
			if n < 1 || n > stars || named[n] || word != "$"+strconv.Itoa(n) {
				return fmt.Sprintf("%q in %q is none of the %d * of %q, or one that is named already", word, here, stars, there), "name each * once: $1 is the first"
			}
			named[n] = true
		}
	}
	if hereStars > 0 && len(named) > 0 || hereStars+len(named) != stars {
		return fmt.Sprintf("%q has %d *, and %q gives a place to %d", there, stars, here, hereStars+len(named)), "have a * for each, or name each once as $1, $2 and so on"
	}
	return "", ""
}

// local is an import's subject here as a pattern: with a * where it names one.
func (i Import) local() string {
	if i.To == "" {
		return i.Subject
	}
	if !strings.Contains(i.To, "$") {
		return i.To
	}
	words := strings.Split(i.To, ".")
	for k, word := range words {
		if _, ok := reference(word); ok {
			words[k] = "*"
		}
	}
	return strings.Join(words, ".")
}
