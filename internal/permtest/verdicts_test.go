package permtest

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"
	"pgregory.net/rapid"

	"github.com/herald-nats/herald/pkg/permission"
	"github.com/herald-nats/herald/pkg/subject"
)

// infoSubject is where a user asks the server what it may do.
const infoSubject = "$SYS.REQ.USER.INFO"

// generator draws templates and users. The words are few, so that they meet.
type generator struct{ *rapid.T }

// oneOf draws one of weighted choices: a choice that is there twice comes twice as often.
func (g generator) oneOf(what string, of ...string) string {
	return rapid.SampledFrom(of).Draw(g.T, what)
}

func (g generator) chance(what string, in int) bool {
	return rapid.IntRange(1, in).Draw(g.T, what) == in
}

// style is how wild a list may be.
type style struct{ templates, queues, nonsense bool }

// word is one word of a line: mostly plain, sometimes a template, rarely nonsense.
func (g generator) word(s style) string {
	kind := rapid.IntRange(0, 39).Draw(g.T, "word")
	if kind <= 12 && !s.templates || (kind == 8 || kind == 12 || kind == 13) && !s.nonsense {
		return "a"
	}
	switch kind {
	case 0, 1:
		return "{{subject()}}"
	case 2, 3:
		return "{{name()}}"
	case 4, 5, 6, 7:
		return "{{tag(x)}}"
	case 8:
		return "{{tag(y)}}"
	case 9:
		return "{{account-tag(z)}}"
	case 10:
		return "{{account-name()}}"
	case 11:
		return "{{account-subject()}}"
	case 12:
		return g.oneOf("odd", "{{ Name() }}", "{{TAG(x)}}", "{{Tag( x )}}", "{{tag(X)}}", "a{{tag(x)}}b", "{{tag(x)}}{{tag(y)}}", "{{Account-Name()}}", "{{\ttag(x)\n}}")
	case 13:
		return g.oneOf("bad", "{{tag(none)}}", "{{nothing()}}", "{{{name()}}}", "{{}}", "{{name()", "", "a ", "*a", ">a", "a\vb", "a\u00a0b")
	case 14, 15, 16, 17, 18, 19:
		return "*"
	default:
		return g.oneOf("plain", "a", "b", "c")
	}
}

// list is one of the lists of a template. In one that denies, nonsense, and templates
// beside queue groups, have the user refused, after which there is nothing more to
// compare: they are rare there.
func (g generator) list(d permission.Direction, f permission.Effect, most int) jwt.StringList {
	what := string(d) + " " + string(f)
	s := style{templates: true, queues: d == permission.Subscribing, nonsense: true}
	if f == permission.Deny && !g.chance("wild", 8) {
		s.nonsense, s.templates = false, g.chance("templates", 2)
		s.queues = s.queues && !s.templates
	}
	var list jwt.StringList
	for range rapid.IntRange(0, most).Draw(g.T, what) {
		words := make([]string, rapid.SampledFrom([]int{1, 2, 2, 2, 3, 3, 4}).Draw(g.T, "words"))
		for i := range words {
			words[i] = g.word(s)
		}
		if g.chance("full", 4) {
			words[len(words)-1] = ">"
		}
		line := strings.Join(words, ".")
		if s.queues && g.chance("queue", 4) || s.nonsense && g.chance("misplaced", 40) {
			line += " " + g.queue()
		}
		list = append(list, line)
	}
	return list
}

func (g generator) queue() string {
	return g.oneOf("group", "q", "q", "q.r", "q.*", "*", ">", "q.>", "*q.*", "q q", "{{tag(x)}}")
}

func (g generator) permissions() jwt.Permissions {
	p := jwt.Permissions{
		Pub: jwt.Permission{Allow: g.list(permission.Publishing, permission.Allow, 3), Deny: g.list(permission.Publishing, permission.Deny, 2)},
		Sub: jwt.Permission{Allow: g.list(permission.Subscribing, permission.Allow, 4), Deny: g.list(permission.Subscribing, permission.Deny, 3)},
	}
	if len(p.Pub.Allow) > 0 && g.chance("info", 2) {
		p.Pub.Allow = append(p.Pub.Allow, infoSubject)
	}
	if g.chance("empty", 12) {
		p = jwt.Permissions{}
	}
	if g.chance("replies", 10) {
		p.Resp = &jwt.ResponsePermission{}
	}
	return p
}

func (g generator) name() string {
	return g.oneOf("name", "a", "a", "b", "b", "a.b", "*", ">", "", "a b", "{{tag(x)}}", "{{subject()}}")
}

func (g generator) tags(keys ...string) jwt.TagList {
	var tags jwt.TagList
	for _, k := range keys {
		for range rapid.SampledFrom([]int{0, 1, 1, 1, 2, 3}).Draw(g.T, "values") {
			tags = append(tags, k+":"+g.oneOf("value", "a", "a", "a", "b", "b", "c", "a.b", "a.b", "*", ">", "a:b", g.oneOf("odd value", "", "x y", "a.*", "{{name()}}")))
		}
	}
	return tags
}

// subjects are those that are asked about: all short ones of the words that templates
// use, and what the rules themselves say.
func subjects(rules []permission.Rule) (literal, pattern []string) {
	set := map[string]bool{infoSubject: true, "*": true, "a.*": true, "a.>": true, "a.b.c.a.b": true}
	var grow func(prefix string, words int)
	grow = func(prefix string, words int) {
		for _, w := range []string{"a", "b", "x"} {
			set[prefix+w] = true
			if words > 1 {
				grow(prefix+w+".", words-1)
			}
		}
	}
	grow("", 3)
	patterns := map[string]bool{}
	for s := range set {
		patterns[s] = true
	}
	grow = func(prefix string, words int) {
		patterns[prefix+">"] = true
		for _, w := range []string{"a", "b", "*"} {
			patterns[prefix+w] = true
			if words > 1 {
				grow(prefix+w+".", words-1)
			}
		}
	}
	grow("", 2)
	for _, r := range rules {
		patterns[r.Subject] = true
		patterns[strings.ReplaceAll(r.Subject, ">", "*")] = true
		patterns[strings.ReplaceAll(r.Subject, "*", ">")] = true
		for _, w := range []string{"a", "b.c"} {
			s := strings.ReplaceAll(strings.ReplaceAll(r.Subject, ">", w), "*", "x")
			set[s], patterns[s] = true, true
		}
	}
	valid := func(m map[string]bool) []string {
		maps.DeleteFunc(m, func(s string, _ bool) bool { return !subject.ValidPattern(s) })
		return slices.Sorted(maps.Keys(m))
	}
	return valid(set), valid(patterns)
}

// tally says what a property has seen, so that one that sees nothing is noticed.
type tally struct {
	templates, refused, asked                  int
	published, notPublished, subscribed        int
	notSubscribed, filtered, delivered, listed int
}

// TestVerdicts holds what the package says of random templates, users, subjects and queue
// groups against a server.
func TestVerdicts(t *testing.T) {
	var n tally
	begin := time.Now()
	rapid.Check(t, func(rt *rapid.T) {
		g := generator{rt}
		a := newAccount(g.oneOf("account", "a", "b.a", "", "*"))
		a.claims.Tags = g.tags("z")
		if g.chance("defaults", 2) {
			a.claims.DefaultPermissions = jwt.Permissions{
				Pub: jwt.Permission{Allow: jwt.StringList{"a.>"}, Deny: jwt.StringList{g.oneOf("default", "a.b", "a.b.c", "*.a")}},
				Sub: jwt.Permission{Deny: jwt.StringList{g.oneOf("default", "a.b", "a.* q", "{{name()}}")}},
			}
		}
		template := jwt.UserPermissionLimits{Permissions: g.permissions()}
		role := a.role(template.Permissions)
		name, tags := g.name(), g.tags("x", "y", "tag(x")
		u := a.sign(role, func(c *jwt.UserClaims) { c.Name, c.Tags = name, tags })
		push(rt, a)

		rights, err := permission.For(template, permission.User{Key: u.nkey, Name: name, Tags: tags, Account: a.about()})
		n.templates++
		conn, refusal := dial(shared.addr, u)
		if errors.Is(err, permission.ErrRefused) {
			n.refused++
			if !errors.Is(refusal, errRefused) {
				rt.Fatalf("the server says %v, the package %v", refusal, err)
			}
			return
		}
		if err != nil || refusal != nil {
			rt.Fatalf("the server says %v, the package %v", refusal, err)
		}
		defer conn.close()
		admin := enter(rt, a.user())
		defer admin.close()
		c := comparison{rt, &n, rights, conn, admin, g.groups()}
		literal, pattern := subjects(rights.Rules())
		c.info()
		c.publish(literal)
		c.subscribe(pattern)
		again := enter(rt, u) // with no more subscriptions than those that it looks at
		defer again.close()
		c.conn = again
		c.deliver(literal, pattern)
	})
	t.Logf("%+v in %v", n, time.Since(begin).Round(time.Millisecond))
	few := func(what string, have, want int) {
		if have < want {
			t.Errorf("%s: %d only", what, have)
		}
	}
	few("verdicts", n.asked, 50*n.templates)
	few("users refused", n.refused, n.templates/50)
	few("users taken", n.templates-n.refused, n.templates/2)
	few("allowed to publish", n.published, n.asked/200)
	few("not allowed to publish", n.notPublished, n.asked/200)
	few("allowed to subscribe", n.subscribed, n.asked/50)
	few("not allowed to subscribe", n.notSubscribed, n.asked/50)
	few("filtered subscriptions", n.filtered, n.templates/20)
	few("messages delivered", n.delivered, n.templates)
	few("lists of rules", n.listed, n.templates/10)
}

// comparison is of one user.
type comparison struct {
	t      tb
	n      *tally
	rights *permission.Rights
	conn   *raw
	admin  *raw
	groups []string
}

// info compares the rules with what the server says that they are, where it may be asked.
func (c comparison) info() {
	if v := must(c.rights.Publish(infoSubject)); !v.Allowed {
		return
	}
	c.n.listed++
	c.admin.sub("answer", "", "1")
	sync(c.t, c.admin)
	c.conn.pub(infoSubject, "answer", nil)
	sync(c.t, c.conn)
	m, err := c.admin.next()
	if err != nil {
		c.t.Fatalf("asking the server for the user's rights: %v", err)
	}
	type list struct{ Allow, Deny []string }
	var answer struct {
		Data struct {
			Permissions struct {
				Publish, Subscribe list
				Responses          *struct {
					Max int
					TTL time.Duration
				}
			}
		}
	}
	if err := json.Unmarshal(m.body, &answer); err != nil {
		c.t.Fatalf("the user's rights: %v: %s", err, m.body)
	}
	got := answer.Data.Permissions
	want := map[permission.Direction]*list{permission.Publishing: {}, permission.Subscribing: {}}
	for _, r := range c.rights.Rules() {
		to := &want[r.Direction].Deny
		if r.Effect == permission.Allow {
			to = &want[r.Direction].Allow
		}
		*to = append(*to, r.Expanded())
	}
	for _, l := range []struct {
		what      string
		got, want []string
	}{
		{"publish allow", got.Publish.Allow, want[permission.Publishing].Allow},
		{"publish deny", got.Publish.Deny, want[permission.Publishing].Deny},
		{"subscribe allow", got.Subscribe.Allow, want[permission.Subscribing].Allow},
		{"subscribe deny", got.Subscribe.Deny, want[permission.Subscribing].Deny},
	} {
		slices.Sort(l.got)
		slices.Sort(l.want)
		if !slices.Equal(l.got, l.want) {
			c.t.Fatalf("%s: the server has %q, the package %q", l.what, l.got, l.want)
		}
	}
	replies, ok := c.rights.Replies()
	if r := got.Responses; ok != (r != nil) || ok && (r.Max != replies.MaxMsgs || r.TTL != replies.Expires) {
		c.t.Fatalf("replies: the server has %v, the package %v", r, replies)
	}
}

// publish compares the verdicts on publishing.
func (c comparison) publish(subjects []string) {
	for _, s := range subjects {
		c.conn.pub(s, "", nil)
	}
	sync(c.t, c.conn)
	violations := c.conn.violations()
	for _, s := range subjects {
		v := must(c.rights.Publish(s))
		c.count(v.Allowed, &c.n.published, &c.n.notPublished)
		c.same(v, violations, fmt.Sprintf("Permissions Violation for Publish to %q", s))
	}
	c.none(violations)
}

// groups are the queue groups that a user is asked about; none is the empty one.
func (g generator) groups() []string {
	return append([]string{"", "q"}, rapid.SliceOfNDistinct(rapid.SampledFrom(
		[]string{"q.r", "a", "*q.x", "*", "q..r", "_sys_"}), 2, 2, rapid.ID).Draw(g.T, "groups")...)
}

// subscribe compares the verdicts on subscribing.
func (c comparison) subscribe(patterns []string) {
	for i, s := range patterns {
		for j, q := range c.groups {
			c.conn.sub(s, q, strconv.Itoa(i*100+j))
		}
	}
	for i := range patterns { // which else took their share of what groups get
		for j := range c.groups {
			c.conn.send("UNSUB ", strconv.Itoa(i*100+j))
		}
	}
	sync(c.t, c.conn)
	violations := c.conn.violations()
	for _, s := range patterns {
		for _, q := range c.groups {
			text := fmt.Sprintf("Permissions Violation for Subscription to %q", s)
			if q != "" {
				text += fmt.Sprintf(" using queue %q", q)
			}
			v := must(c.rights.Subscribe(s, q))
			c.count(v.Allowed, &c.n.subscribed, &c.n.notSubscribed)
			c.same(v, violations, text)
		}
	}
	c.none(violations)
}

func (c comparison) count(allowed bool, yes, no *int) {
	c.n.asked++
	if allowed {
		*yes++
	} else {
		*no++
	}
}

// same compares one verdict, and takes its violation out of all.
func (c comparison) same(v permission.Verdict, violations map[string]int, text string) {
	c.t.Helper()
	if denied := violations[text] > 0; denied == v.Allowed {
		c.t.Fatalf("the server denies: %v (%s); the package says: %s", denied, text, v)
	}
	delete(violations, text)
}

// none: every error of the server has been accounted for.
func (c comparison) none(violations map[string]int) {
	c.t.Helper()
	if len(violations) > 0 {
		c.t.Fatalf("errors that nobody foretold: %v", violations)
	}
}

// deliver compares what is delivered to subscriptions that deny has an effect on, and to
// some others.
func (c comparison) deliver(literal, patterns []string) {
	type subscription struct {
		pattern, queue string
		verdict        permission.Verdict
	}
	var subs []subscription
	grouped, plain := map[string]bool{}, 0
	for _, filtered := range []bool{true, false} {
		for _, p := range patterns {
			for _, q := range c.groups {
				v := must(c.rights.Subscribe(p, q))
				if !v.Allowed || len(v.Filtered) > 0 != filtered || !subject.HasWildcard(p) {
					continue
				}
				if q == "" {
					if plain++; plain > 12 {
						continue
					}
				} else if grouped[q] {
					continue // of two with one group, either gets the message
				}
				grouped[q] = true
				subs = append(subs, subscription{p, q, v})
			}
		}
	}
	for i, s := range subs {
		c.conn.sub(s.pattern, s.queue, strconv.Itoa(i))
		if len(s.verdict.Filtered) > 0 {
			c.n.filtered++
		}
	}
	sync(c.t, c.conn)
	c.none(c.conn.violations())
	literal = slices.DeleteFunc(slices.Clone(literal), func(s string) bool { return !subject.Valid(s) || s == infoSubject })
	for _, s := range literal {
		c.admin.pub(s, "", nil)
	}
	sync(c.t, c.admin)
	sync(c.t, c.conn)
	got := map[string]int{}
	for _, m := range c.conn.msgs {
		got[m.sid+" "+m.subject]++
		c.n.delivered++
	}
	for i, s := range subs {
		for _, to := range literal {
			want := 0
			if subject.Matches(s.pattern, to) && !slices.ContainsFunc(s.verdict.Filtered, func(r permission.Rule) bool { return subject.Matches(r.Subject, to) }) {
				want = 1
			}
			if have := got[strconv.Itoa(i)+" "+to]; have != want {
				c.t.Fatalf("%d messages to %q are delivered to %q of %q, and not %d; the package says: %s; filtered: %v",
					have, to, s.pattern, s.queue, want, s.verdict, s.verdict.Filtered)
			}
		}
	}
}
