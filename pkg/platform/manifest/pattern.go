package manifest

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/herald-nats/herald/pkg/subject"
)

// Functions of templates. Servers put the user's or the account's own in their place when
// a user connects.
const (
	fnSubject        = "subject()"
	fnName           = "name()"
	fnTag            = "tag"
	fnAccountSubject = "account-subject()"
	fnAccountName    = "account-name()"
	fnAccountTag     = "account-tag"
)

// Tags of users that Herald itself gives.
const (
	tagIdentity = "identity"
	tagRegion   = "region"
	tagKey      = "kid"
	tagLogin    = "oidc"
	tagProven   = "proven"
	tagMet      = "met"
	tagBy       = "by"
	tagBase     = "base" // of accounts
)

// template is one {{…}}, with what is between the braces.
type template struct {
	fn  string // one of those above
	key string // of tag and account-tag
}

const templateHint = "templates are {{subject()}}, {{tag(key)}}, {{account-subject()}}, {{account-name()}} and {{account-tag(key)}}"

// parseTemplate reads what stands between braces. Servers read it more leniently, in any
// case and with spaces, but tell tags in one spelling only; so there is one spelling.
func parseTemplate(op string) (t template, reason, hint string) {
	if strings.EqualFold(strings.TrimSpace(op), fnName) {
		return t, "{{name()}} is chosen by whoever asks for a credential: a user named * would be everyone", "use {{subject()}}, which is the user's own key"
	}
	switch op {
	case fnSubject, fnAccountSubject, fnAccountName:
		return template{fn: op}, "", ""
	}
	for _, fn := range []string{fnTag, fnAccountTag} {
		if key, ok := strings.CutPrefix(op, fn+"("); ok {
			if key, ok = strings.CutSuffix(key, ")"); ok && isTagKey(key) {
				return template{fn, key}, "", ""
			}
			if lower := strings.ToLower(key); isTagKey(lower) {
				return t, fmt.Sprintf("{{%.64s}} is not how this template is written", printable(op)), "write {{" + fn + "(" + lower + ")}}"
			}
			return t, fmt.Sprintf("{{%.64s}} names no tag", printable(op)), "a tag's key is of a-z, 0-9, _ and -, such as {{" + fn + "(team)}}"
		}
	}
	if plain := strings.ToLower(strings.TrimSpace(op)); plain != op {
		if _, reason, _ := parseTemplate(plain); reason == "" {
			return t, fmt.Sprintf("{{%.64s}} is not how this template is written", printable(op)), "write {{" + plain + "}}"
		}
	}
	return t, fmt.Sprintf("servers know no template {{%.64s}}, and refuse every user of the role", printable(op)), templateHint
}

// pattern is a subject of a permission, taken apart.
type pattern struct {
	text      string
	templates []template
}

// parsePattern reads a subject of a permission: words, wildcards, templates.
func parsePattern(s string) (p pattern, reason, hint string) {
	p.text = s
	if !strings.ContainsAny(s, "{}") {
		reason, hint = wrongPattern(s)
		return p, reason, hint
	}
	var plain strings.Builder
	for rest := s; ; {
		before, after, ok := strings.Cut(rest, "{{")
		if strings.ContainsAny(before, "{}") {
			return p, fmt.Sprintf("%.120q has braces that are not those of a template", s), templateHint
		}
		plain.WriteString(before)
		if !ok {
			break
		}
		op, after, ok := strings.Cut(after, "}}")
		if !ok {
			return p, fmt.Sprintf("%.120q has a template that does not end", s), "a template ends with }}"
		}
		t, reason, hint := parseTemplate(op)
		if reason != "" {
			return p, reason, hint
		}
		p.templates = append(p.templates, t)
		plain.WriteByte('x')
		rest = after
	}
	if reason, hint = wrongPattern(plain.String()); reason != "" {
		// Of the subject as it is written, not of what was looked at.
		reason = strings.Replace(reason, strconv.Quote(plain.String()), strconv.Quote(s), 1)
	}
	return p, reason, hint
}

// wrongPattern says what is wrong with a subject that may have wildcards.
func wrongPattern(s string) (reason, hint string) {
	switch {
	case len(s) > 1024:
		return fmt.Sprintf("a subject of %d bytes is longer than any that is of use", len(s)), "shorten it to 1024 bytes"
	case strings.ContainsFunc(s, func(r rune) bool { return unicode.IsSpace(r) && !unicode.IsControl(r) || r == '\t' }):
		return fmt.Sprintf("%q has a space", s), "a subject has none; rights for one queue group alone are not given"
	case !utf8.ValidString(s) || strings.ContainsFunc(s, unicode.IsControl):
		return fmt.Sprintf("%q has characters that cannot be seen", s), "remove them"
	case !subject.ValidPattern(s):
		return fmt.Sprintf("%q is not a subject", s), "words are parted by single dots, none of them empty; > is the last"
	}
	for word := range strings.SplitSeq(s, ".") {
		if len(word) > 1 && strings.ContainsAny(word, "*>") {
			return fmt.Sprintf("%q has %s within a word, where it is no wildcard", s, word[strings.IndexAny(word, "*>"):][:1]), "* and > stand for whole words, between dots"
		}
	}
	return "", ""
}

// wrongSubject says what is wrong with a subject that must not have wildcards.
func wrongSubject(s string) (reason, hint string) {
	if strings.ContainsAny(s, "{}") {
		return fmt.Sprintf("%.120q has braces, and here are no templates", s), "write out what is meant"
	}
	if reason, hint = wrongPattern(s); reason == "" && subject.HasWildcard(s) {
		return fmt.Sprintf("%q has a wildcard", s), "one subject is needed here"
	}
	return reason, hint
}

// plainPattern says what is wrong with a pattern where servers know no templates.
func plainPattern(s string) (reason, hint string) {
	if strings.ContainsAny(s, "{}") {
		return fmt.Sprintf("%.120q has braces: servers know templates in roles only", s), "use a wildcard, such as * for one word"
	}
	return wrongPattern(s)
}

// reaches tells whether a permission on p, of some account, may come to a subject of
// area, once servers have put something in place of its templates. It errs on the side
// of yes.
//
// area is words and wildcards, such as $SYS.>.
func (p pattern) reaches(area, account string) bool {
	// What is empty is a mistake that is reported elsewhere.
	if p.text == "" || area == "" {
		return false
	}
	// Most begin differently, and need no closer look.
	if p.text[0] != area[0] && strings.IndexByte("*>{", p.text[0]) < 0 && strings.IndexByte("*>", area[0]) < 0 {
		return false
	}
	if len(p.templates) == 0 {
		return subject.Overlaps(p.text, area)
	}
	words := strings.Split(p.text, ".")
	areaWords := strings.Split(area, ".")
	next := 0 // of the templates
	for i, word := range words {
		n := strings.Count(word, "{{")
		if n == 0 {
			continue
		}
		of := p.templates[next : next+n]
		next += n
		if i < len(areaWords) && areaWords[i] != "*" && areaWords[i] != ">" && couldBe(word, of, areaWords[i], account) {
			words[i] = "*"
		}
	}
	return subject.Overlaps(strings.Join(words, "."), area)
}

// couldBe tells whether a word with templates may become another word.
func couldBe(word string, templates []template, other, account string) bool {
	if len(templates) > 1 {
		return true
	}
	before, rest, _ := strings.Cut(word, "{{")
	_, after, _ := strings.Cut(rest, "}}")
	if len(other) < len(before)+len(after) || !strings.HasPrefix(other, before) || !strings.HasSuffix(other, after) {
		return false
	}
	value := other[len(before) : len(other)-len(after)]
	switch t := templates[0]; t.fn {
	case fnSubject, fnAccountSubject:
		return false // a public key is none of the words that are asked for
	case fnAccountName:
		return value == account
	default:
		return CheckTag("k:"+value) == nil
	}
}

// ownInbox tells whether p is within an inbox that nobody else reads: it names its user
// before any wildcard.
func (p pattern) ownInbox() bool {
	for word := range strings.SplitSeq(p.text, ".") {
		switch word {
		case "{{" + fnSubject + "}}", "_INBOX_{{" + fnSubject + "}}", "_INBOX_{{" + fnTag + "(" + tagKey + ")}}":
			return true
		case "*", ">":
			return false
		}
	}
	return false
}

// inInboxes tells whether p may be in somebody's inbox.
func (p pattern) inInboxes(account string) bool {
	return p.reaches("_INBOX.>", account) || strings.HasPrefix(p.text, "_INBOX_")
}

// tags are the keys of user tags that p needs, or of account tags.
func (p pattern) tags(fn string) []string {
	var keys []string
	for _, t := range p.templates {
		if t.fn == fn && !slices.Contains(keys, t.key) {
			keys = append(keys, t.key)
		}
	}
	return keys
}

// CheckTag says what is wrong with a tag of a user: key:value, in lower case, because
// servers lower-case tags. A template may put the value into a subject, so it has no
// wildcard, space or the like in it. The error's text is one line.
func CheckTag(tag string) error {
	key, value, ok := strings.Cut(tag, ":")
	switch {
	case !ok || !isTagKey(key) || value == "":
		return fmt.Errorf("%.80q is not a tag: a tag is key:value, its key of a-z, 0-9, _ and -", tag)
	case !isTagValue(value):
		return fmt.Errorf("%.80q is not a tag: a value is of a-z, 0-9, colons and . _ - / @ +, which it does not begin with", tag)
	}
	return nil
}

func isTagKey(s string) bool {
	for i := range len(s) {
		if c := s[i]; !lower(c) && c != '_' && c != '-' {
			return false
		}
	}
	return s != "" && len(s) <= 64
}

func isTagValue(s string) bool {
	for i := range len(s) {
		if !lower(s[i]) && (i == 0 || strings.IndexByte("._-/@+:", s[i]) < 0) {
			return false
		}
	}
	return s != "" && len(s) <= 512
}

// isWord tells whether a tag's value is one word of a subject.
func isWord(value string) bool { return !strings.Contains(value, ".") }

func lower(c byte) bool { return 'a' <= c && c <= 'z' || '0' <= c && c <= '9' }

// printable makes what comes from a file harmless to print.
func printable(s string) string {
	q := strconv.Quote(s)
	return q[1 : len(q)-1]
}

// OwnTags are the keys of tags that are Herald's own.
func OwnTags() []string {
	return []string{tagIdentity, tagRegion, tagKey, tagLogin, tagProven, tagMet, tagBy}
}
