package permission

import (
	"fmt"
	"slices"
	"strings"

	"github.com/nats-io/jwt/v2"

	"github.com/herald-nats/herald/pkg/subject"
)

// maxExpanded is the most subjects that a list may have when one with tags was added to
// it. Lines without tags are not counted when they are added.
const maxExpanded = 4096

// line is an element of a list, before it is known to be a subject.
type line struct {
	index   int // in the list as written; -1: added by the server
	written string
	text    string // expanded
}

type lists struct{ allow, deny []line }

func (l lists) empty() bool { return len(l.allow) == 0 && len(l.deny) == 0 }

// expanded is a template for one user.
type expanded struct {
	pub, sub lists
	replies  *jwt.ResponsePermission
	ignored  []Ignored
}

func (e expanded) empty() bool { return e.pub.empty() && e.sub.empty() && e.replies == nil }

// Expand gives the permissions of a template with everything in them expanded for a user,
// as a server holds them for the user's connection. The error wraps ErrRefused or
// ErrUnknown. Nothing of template is changed, and the result shares nothing with it.
func Expand(template jwt.Permissions, u User) (jwt.Permissions, error) {
	e, err := expandAll(template, u)
	if err != nil {
		return jwt.Permissions{}, err
	}
	p := jwt.Permissions{
		Pub: jwt.Permission{Allow: texts(e.pub.allow), Deny: texts(e.pub.deny)},
		Sub: jwt.Permission{Allow: texts(e.sub.allow), Deny: texts(e.sub.deny)},
	}
	if e.replies != nil {
		replies := *e.replies
		p.Resp = &replies
	}
	return p, nil
}

func texts(list []line) jwt.StringList {
	if list == nil {
		return nil
	}
	out := make(jwt.StringList, len(list))
	for i, l := range list {
		out[i] = l.text
	}
	return out
}

func expandAll(t jwt.Permissions, u User) (expanded, error) {
	e := expanded{replies: t.Resp}
	for _, l := range []struct {
		to   *[]line
		list jwt.StringList
		d    Direction
		f    Effect
	}{
		{&e.sub.allow, t.Sub.Allow, Subscribing, Allow},
		{&e.sub.deny, t.Sub.Deny, Subscribing, Deny},
		{&e.pub.allow, t.Pub.Allow, Publishing, Allow},
		{&e.pub.deny, t.Pub.Deny, Publishing, Deny},
	} {
		x := expander{user: u, d: l.d, f: l.f}
		var err error
		if *l.to, err = x.list(l.list); err != nil {
			return expanded{}, fmt.Errorf("%s %s %w", l.d, l.f, err)
		}
		e.ignored = append(e.ignored, x.ignored...)
	}
	// Nothing is left of what was to be allowed. Without this, all would be.
	e.sub.shut(t.Sub.Allow)
	e.pub.shut(t.Pub.Allow)
	return e, nil
}

// shut denies everything where allowed, which was written, came to nothing.
func (l *lists) shut(written jwt.StringList) {
	everything := func(l line) bool { return l.text == ">" }
	if len(written) > 0 && len(l.allow) == 0 && !slices.ContainsFunc(l.deny, everything) {
		l.deny = append(l.deny, line{index: -1, text: ">"})
	}
}

func verbatim(list jwt.StringList) []line {
	if list == nil {
		return nil
	}
	out := make([]line, len(list))
	for i, s := range list {
		out[i] = line{i, s, s}
	}
	return out
}

// expander expands one list for one user.
type expander struct {
	user    User
	d       Direction
	f       Effect
	ignored []Ignored
}

// list expands a list. One without a template in it is taken as it is, and what is no
// subject falls out later. As soon as one line of a list is a template, every line of
// it must be a subject at once: one for a queue group ("subject queue") is none. What is
// not is dropped where it would allow; where it would deny, the user is refused.
func (x *expander) list(list jwt.StringList) ([]line, error) {
	if !slices.ContainsFunc(list, hasTemplate) {
		return verbatim(list), nil
	}
	out := make([]line, 0, len(list))
	for i, s := range list {
		var err error
		if out, err = x.line(out, i, s); err != nil {
			return nil, fmt.Errorf("%.256q: %w", s, err)
		}
	}
	return out, nil
}

// line appends what one line comes to.
func (x *expander) line(out []line, index int, s string) ([]line, error) {
	templates := findTemplates(s)
	values := make([][]string, len(templates))
	var missing string
	tags, count := false, 1
	for i, t := range templates {
		v, err := x.values(t)
		if err != nil {
			return nil, err
		}
		if len(v.values) == 0 {
			if x.f == Deny {
				return nil, fmt.Errorf("%w: there is no tag %q, and what would deny must be complete", ErrRefused, v.tag)
			}
			// White space is in no subject, so that the line falls out.
			v.values, missing = []string{" "}, v.tag
		}
		tags = tags || v.isTag
		values[i] = v.values
	}
	if tags {
		for _, v := range values {
			if count > maxExpanded/len(v) {
				return nil, tooMany()
			}
			count *= len(v)
		}
		if len(out) > maxExpanded-count {
			return nil, tooMany()
		}
	}
	// The last template changes fastest.
	at := make([]int, len(values))
	for range count {
		text := s
		for i, t := range templates {
			// One after the other and everywhere: what a value brings in, the next may replace.
			text = strings.ReplaceAll(text, t, values[i][at[i]])
		}
		switch {
		case subject.ValidPattern(text):
			out = append(out, line{index, s, text})
		case x.f == Deny:
			return nil, fmt.Errorf("%w: it comes to %.256q, which is no valid subject, and what would deny must be one", ErrRefused, text)
		default:
			x.drop(index, s, text, missing)
		}
		for i := len(at) - 1; i >= 0; i-- {
			if at[i]++; at[i] < len(values[i]) {
				break
			}
			at[i] = 0
		}
	}
	return out, nil
}

func tooMany() error { return fmt.Errorf("%w: more than %d subjects", ErrRefused, maxExpanded) }

func (x *expander) drop(index int, written, text, missing string) {
	why := "not a valid subject"
	if _, queue, ok := splitQueue(text); missing != "" {
		why = fmt.Sprintf("there is no tag %.64q", missing)
	} else if ok && queue != "" {
		why = "a line for a queue group has no effect in a list with templates"
	}
	x.ignored = append(x.ignored, Ignored{
		Rule{Source: FromTemplate, Direction: x.d, Effect: x.f, Index: index, Written: written, Subject: text}, why,
	})
}

// value is what stands for one template; no values, if there is no such tag.
type value struct {
	values []string
	isTag  bool
	tag    string
}

func (x *expander) values(template string) (value, error) {
	op := strings.TrimSpace(strings.TrimSuffix(strings.TrimPrefix(template, "{{"), "}}"))
	one := func(s string) (value, error) { return value{values: []string{s}}, nil }
	switch {
	case strings.EqualFold(op, "name()"):
		return one(x.user.Name)
	case strings.EqualFold(op, "subject()"):
		if x.user.Key.IsZero() {
			return value{}, fmt.Errorf("%w: its nkey", ErrUnknown)
		}
		return one(x.user.Key.String())
	case strings.EqualFold(op, "account-name()"):
		return one(x.user.Account.Name)
	case strings.EqualFold(op, "account-subject()"):
		if x.user.Account.Key.IsZero() {
			return value{}, fmt.Errorf("%w: its account's key", ErrUnknown)
		}
		return one(x.user.Account.Key.String())
	}
	for _, of := range []struct {
		begins string
		tags   jwt.TagList
	}{{"tag(", x.user.Tags}, {"account-tag(", x.user.Account.Tags}} {
		if tag, ok := inBrackets(op, of.begins); ok {
			return value{values: tagged(of.tags, tag), isTag: true, tag: tag}, nil
		}
	}
	return value{}, fmt.Errorf("%w: no server knows {{%.64s}}", ErrRefused, op)
}

// inBrackets is what stands behind begins, up to the bracket at the end. Servers know
// the word in any case, and take it away in lower case only: TAG(x) asks for a tag of
// the name "tag(x".
func inBrackets(op, begins string) (string, bool) {
	if len(op) < len(begins) || !strings.EqualFold(begins, op[:len(begins)]) || !strings.HasSuffix(op, ")") {
		return "", false
	}
	return strings.TrimSuffix(strings.TrimPrefix(op, begins), ")"), true
}

// tagged are the values of a tag, in their order.
func tagged(tags jwt.TagList, key string) []string {
	var values []string
	prefix := strings.ToLower(key) + ":"
	for _, t := range tags {
		if v, ok := strings.CutPrefix(t, prefix); ok {
			values = append(values, v)
		}
	}
	return values
}

func hasTemplate(s string) bool { return len(findTemplates(s)) > 0 }

// findTemplates are the parts of s that a server takes for templates: what its regular
// expression `{{2}([^}]+)}{2}` finds.
func findTemplates(s string) []string {
	var found []string
	for i := 0; i+1 < len(s); {
		if s[i] != '{' || s[i+1] != '{' {
			i++
			continue
		}
		end := strings.IndexByte(s[i+2:], '}')
		if end < 0 {
			break
		}
		if end += i + 2; end > i+2 && strings.HasPrefix(s[end:], "}}") {
			found = append(found, s[i:end+2])
			i = end + 2
		} else {
			i = end // whatever begins before it ends there too
		}
	}
	return found
}
