package nscmap

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/herald-nats/herald/pkg/platform/manifest"
)

// prune takes out of the file what Herald's rules refuse, again and again, so that what
// depends on it is found, too. The accounts from number before on are of those accounts.
func (m *mover) prune(f *manifest.File, before int, of []*account) error {
	of = slices.DeleteFunc(slices.Clone(of), func(a *account) bool { return a.gone })
	for range maxRounds {
		problems := f.Check()
		if len(problems) == 0 {
			return nil
		}
		cuts := map[cut]bool{}
		for _, p := range problems {
			c, ok := m.cut(f, p, before, of)
			if !ok {
				return fmt.Errorf("the platform without the operator's accounts: %w", manifest.Problems(problems))
			}
			cuts[c] = true
		}
		// From the end, and of one thing its parts first, so that numbers stay what they are.
		for _, c := range slices.SortedFunc(maps.Keys(cuts), func(a, b cut) int { return b.compare(a) }) {
			c.make(f)
			if c.part == "" {
				i := c.account - before
				of[i].gone = true
				of = slices.Delete(of, i, i+1)
			}
		}
	}
	return errors.New("what is refused does not come to an end")
}

// maxRounds is more than any operator needs: each round takes something out.
const maxRounds = 1 << 20

// cut is something that is taken out of a file: an account, a part of it, or an element
// of a list in it.
type cut struct {
	account int
	part    string // a key of the account; empty: the account
	index   int    // in the list of that key; -1: all of it
	within  string // for roles, a key of the role; empty: the role
	element int    // in the list of that key; -1: all of it
}

func (c cut) compare(o cut) int {
	return cmp.Or(c.account-o.account, strings.Compare(c.part, o.part), c.index-o.index, strings.Compare(c.within, o.within), c.element-o.element)
}

// cut says what has to go for a problem, and tells of it. What limits somebody is not
// taken away alone: whoever is limited by it goes with it. ok is false if the problem is in
// nothing that came from nsc.
func (m *mover) cut(f *manifest.File, p manifest.Problem, before int, of []*account) (cut, bool) {
	steps := steps(p.Path)
	if len(steps) == 0 || steps[0].key != "accounts" || steps[0].index < before {
		return cut{}, false
	}
	i := steps[0].index
	acc, a := &f.Accounts[i], of[i-before]
	c := cut{account: i, index: -1, element: -1}
	at := func(n int) step {
		if n < len(steps) {
			return steps[n]
		}
		return step{index: -1}
	}
	hint := "leave the account out"
	item := a.src
	switch part := at(1); part.key {
	case "description", "info_url", "trace":
		c.part, item, hint = part.key, a.item(part.key), "leave it out"
	case "imports", "exports", "mappings", "tags":
		c.part, c.index, hint = part.key, part.index, "leave it out"
		item = a.element(acc, part)
	case "roles":
		c.part, c.index = part.key, part.index
		item, hint = a.item(part.key), "leave it out: then users under it cannot connect any more"
		if part.index < 0 {
			break
		}
		r := &acc.Roles[part.index]
		item = a.item("roles", r.Name.String())
		switch list, allow := at(2), at(3); {
		case list.key == "description":
			c.within, item, hint = list.key, item+"/"+list.key, "leave it out"
		case list.key == "allow_responses":
			c.within, item, hint = list.key, item+"/"+list.key, "leave it out: then users of the role cannot answer any more"
		case allow.key == "allow" && allow.index >= 0:
			c.within, c.element = list.key, allow.index
			from := r.Publish.Allow
			if list.key == "subscribe" {
				from = r.Subscribe.Allow
			}
			item += "/" + list.key + "/" + from[allow.index]
			hint = "leave it out: then users of the role cannot " + list.key + " there any more"
		}
	}
	if p.Hint != "" {
		hint = p.Hint + "; change it with nsc, or " + hint
	}
	m.refuse(item, p.Reason, hint)
	return c, true
}

// element names an element of a list of the account.
func (a *account) element(acc *manifest.Account, at step) string {
	if at.index < 0 {
		return a.item(at.key)
	}
	switch at.key {
	case "imports":
		i := acc.Imports[at.index]
		from := i.From.String()
		if b := a.m.byName[i.From]; b != nil {
			from = b.src
		}
		return a.item("imports", from, i.Type, i.Subject)
	case "exports":
		return a.item("exports", acc.Exports[at.index].Type, acc.Exports[at.index].Subject)
	case "mappings":
		return a.item("mappings", acc.Mappings[at.index].Subject)
	default:
		return a.item("tags", acc.Tags[at.index])
	}
}

// make takes it out.
func (c cut) make(f *manifest.File) {
	if c.part == "" {
		f.Accounts = slices.Delete(slices.Clone(f.Accounts), c.account, c.account+1)
		return
	}
	a := &f.Accounts[c.account]
	switch c.part {
	case "description":
		a.Description = ""
	case "info_url":
		a.InfoURL = ""
	case "trace":
		a.Trace = nil
	case "imports":
		a.Imports = without(a.Imports, c.index)
	case "exports":
		a.Exports = without(a.Exports, c.index)
	case "mappings":
		a.Mappings = without(a.Mappings, c.index)
	case "tags":
		a.Tags = without(a.Tags, c.index)
	case "roles":
		if c.within == "" {
			a.Roles = without(a.Roles, c.index)
			return
		}
		r := &a.Roles[c.index]
		switch c.within {
		case "description":
			r.Description = ""
		case "allow_responses":
			r.AllowResponses = nil
		case "publish":
			r.Publish.Allow = without(r.Publish.Allow, c.element)
		case "subscribe":
			r.Subscribe.Allow = without(r.Subscribe.Allow, c.element)
		}
	}
}

// without is a list of its own without an element; all of it goes if that is below 0.
func without[T any](list []T, i int) []T {
	if i < 0 {
		return nil
	}
	return slices.Delete(slices.Clone(list), i, i+1)
}

// step is a part of a problem's path: a key, and the place in its list, or -1.
type step struct {
	key   string
	index int
}

// steps takes a path apart, such as accounts[3].roles[0].publish.allow[2].
func steps(path string) []step {
	var out []step
	for part := range strings.SplitSeq(path, ".") {
		key, rest, ok := strings.Cut(part, "[")
		s := step{key, -1}
		if n, err := strconv.Atoi(strings.TrimSuffix(rest, "]")); ok && err == nil {
			s.index = n
		}
		out = append(out, s)
	}
	return out
}
