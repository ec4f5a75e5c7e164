package permission_test

import (
	"errors"
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nkeys"
	"pgregory.net/rapid"

	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/permission"
	"github.com/herald-nats/herald/pkg/subject"
)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// The keys of nobody: their bytes are all zero.
func nobody() ident.UserKey {
	return must(ident.ParseUserKey(string(must(nkeys.Encode(nkeys.PrefixByteUser, make([]byte, 32))))))
}

func nowhere() ident.AccountKey {
	return must(ident.ParseAccountKey(string(must(nkeys.Encode(nkeys.PrefixByteAccount, make([]byte, 32))))))
}

func somebody() permission.User {
	return permission.User{
		Key: nobody(), Name: "alice", Tags: jwt.TagList{"room:kubecon", "room:lobby", "region:ams"},
		Account: permission.Account{Key: nowhere(), Name: "CHAT", Tags: jwt.TagList{"tier:free"}},
	}
}

func limits(p jwt.Permissions) jwt.UserPermissionLimits {
	return jwt.UserPermissionLimits{Permissions: p}
}

func rights(t *testing.T, p jwt.Permissions) *permission.Rights {
	t.Helper()
	r, err := permission.For(limits(p), somebody())
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestExpand(t *testing.T) {
	u, a := nobody().String(), nowhere().String()
	for _, tc := range []struct {
		lines, want []string
	}{
		{[]string{"a", "b.>"}, []string{"a", "b.>"}},
		{[]string{"dm.{{subject()}}"}, []string{"dm." + u}},
		{[]string{"{{name()}}.{{account-name()}}.{{account-subject()}}"}, []string{"alice.CHAT." + a}},
		{[]string{"{{tag(room)}}", "z"}, []string{"kubecon", "lobby", "z"}},
		{[]string{"{{tag(region)}}.{{tag(room)}}.{{account-tag(tier)}}"}, []string{"ams.kubecon.free", "ams.lobby.free"}},
		{[]string{"{{tag(room)}}.{{tag(region)}}"}, []string{"kubecon.ams", "lobby.ams"}},
		// One template twice is one value twice, for each of the values.
		{[]string{"{{tag(room)}}.{{tag(room)}}"}, []string{"kubecon.kubecon", "kubecon.kubecon", "lobby.lobby", "lobby.lobby"}},
		{[]string{"{{ NAME() }}", "{{Tag(ROOM)}}"}, []string{"alice"}}, // there is no tag "tag(room"
		{[]string{"{{tag(ROOM)}}"}, []string{"kubecon", "lobby"}},
		{[]string{"{{tag(none)}}", "{{tag(room)}}q", "b"}, []string{"kubeconq", "lobbyq", "b"}},
		{[]string{"{{name()}}", "a queue"}, []string{"alice"}},
		{[]string{"a queue", "a b c", ""}, []string{"a queue", "a b c", ""}},
		{[]string{"{{}}", "{{name()", "{name()}", "{{a}b}}"}, []string{"{{}}", "{{name()", "{name()}", "{{a}b}}"}},
		{[]string{"{{}}.{{name()}}"}, []string{"{{}}.alice"}},
	} {
		p, err := permission.Expand(jwt.Permissions{Sub: jwt.Permission{Allow: tc.lines}}, somebody())
		if err != nil || !slices.Equal(p.Sub.Allow, tc.want) {
			t.Errorf("%q: %q, %v", tc.lines, p.Sub.Allow, err)
		}
	}
}

func TestRefused(t *testing.T) {
	many := somebody()
	for i := range 65 {
		many.Tags = append(many.Tags, fmt.Sprintf("n:%d", i))
	}
	for _, tc := range []struct {
		deny bool
		line string
		user permission.User
		want error
	}{
		{false, "{{nothing()}}", somebody(), permission.ErrRefused},
		{false, "{{{name()}}}", somebody(), permission.ErrRefused},
		{true, "{{tag(none)}}", somebody(), permission.ErrRefused},
		{true, "{{name()}} queue", somebody(), permission.ErrRefused},
		{true, "{{name()}}.", somebody(), permission.ErrRefused},
		{false, "{{tag(n)}}.{{tag(n)}}", many, permission.ErrRefused},
		{false, "{{subject()}}", permission.User{}, permission.ErrUnknown},
		{false, "{{account-subject()}}", permission.User{}, permission.ErrUnknown},
	} {
		list := jwt.Permission{Allow: jwt.StringList{tc.line}}
		if tc.deny {
			list = jwt.Permission{Deny: jwt.StringList{tc.line}}
		}
		for _, p := range []jwt.Permissions{{Pub: list}, {Sub: list}} {
			if _, err := permission.For(limits(p), tc.user); !errors.Is(err, tc.want) || !strings.Contains(err.Error(), tc.line) {
				t.Errorf("%q: %v", tc.line, err)
			}
			if _, err := permission.Expand(p, tc.user); !errors.Is(err, tc.want) {
				t.Errorf("%q: %v", tc.line, err)
			}
		}
	}
}

// What each verdict says. That servers decide alike is held by internal/permtest.
func TestVerdicts(t *testing.T) {
	r := rights(t, jwt.Permissions{
		Pub: jwt.Permission{
			Allow: jwt.StringList{"auth.v1.info", "chat.{{tag(room)}}.>", "{{tag(none)}}"},
			Deny:  jwt.StringList{"chat.*.posts.secret"},
		},
		Sub: jwt.Permission{
			Allow: jwt.StringList{"news.>", "chat.*", "jobs workers.*", "jobs.* workers"},
			Deny:  jwt.StringList{"news.secret.>", "news.a spies"},
		},
	})
	for _, tc := range []struct{ subj, want string }{
		{"auth.v1.info", `allowed by template: publish allow "auth.v1.info"`},
		{"chat.lobby.x", `allowed by template: publish allow "chat.{{tag(room)}}.>" (here "chat.lobby.>")`},
		{"chat.lobby.posts.secret", `denied by template: publish deny "chat.*.posts.secret"`},
		{"chat.other.x", `denied: not among what is allowed`},
		{"_GR_.a", `denied by server: publish deny "_GR_.>": reserved for servers`},
		{"chat.lobby.*", `allowed by template: publish allow "chat.{{tag(room)}}.>" (here "chat.lobby.>"): servers take a wildcard for a word like any other where one publishes: this is not about what it would match`},
	} {
		if v, err := r.Publish(tc.subj); err != nil || v.String() != tc.want {
			t.Errorf("publish %s: %v\n%s", tc.subj, err, v)
		}
	}
	for _, tc := range []struct {
		subj, queue, want string
		filtered          int
	}{
		{"news.a", "", `allowed by template: subscribe allow "news.>"`, 0},
		{"news.a", "spies", `denied by template: subscribe deny "news.a spies"`, 0},
		{"news.>", "", `allowed by template: subscribe allow "news.>": what is denied within it is not delivered`, 1},
		{"news.>", "spies", `allowed by template: subscribe allow "news.>": what is denied within it is not delivered`, 2},
		{"news.secret.x", "", `denied by template: subscribe deny "news.secret.>"`, 0},
		{"chat.>", "", `allowed by template: subscribe allow "chat.*": servers take > for one word here: more is delivered than the line says`, 0},
		{">", "", `denied: not among what is allowed`, 0},
		{"jobs", "", `denied by template: subscribe allow "jobs workers.*": for a queue group only`, 0},
		{"jobs", "workers.a", `allowed by template: subscribe allow "jobs workers.*"`, 0},
		{"jobs", "workers", `denied by template: subscribe allow "jobs workers.*": for another queue group`, 0},
		{"chat.a", "_sys_", `denied by server: subscribe deny "> _sys_": reserved for servers`, 0},
	} {
		if v, err := r.Subscribe(tc.subj, tc.queue); err != nil || v.String() != tc.want || len(v.Filtered) != tc.filtered {
			t.Errorf("subscribe %s %s: %v\n%s %v", tc.subj, tc.queue, err, v, v.Filtered)
		}
	}
	ignored := r.Ignored()
	if len(ignored) != 1 || ignored[0].Rule.Written != "{{tag(none)}}" || ignored[0].Rule.Index != 2 || ignored[0].Why != `there is no tag "none"` {
		t.Errorf("ignored: %v", ignored)
	}
	if v := must(r.Publish("chat.lobby.x")); v.Rule.Index != 1 || v.Rule.Effect != permission.Allow || v.Rule.Direction != permission.Publishing {
		t.Errorf("%+v", v.Rule)
	}
}

func TestVerdictsWithoutLists(t *testing.T) {
	one := jwt.StringList{"a"}
	for _, tc := range []struct {
		name     string
		p        jwt.Permissions
		pub, sub string
	}{
		{"nothing", jwt.Permissions{}, "allowed: all is allowed that is not denied", "allowed: all is allowed that is not denied"},
		{"replies", jwt.Permissions{Resp: &jwt.ResponsePermission{MaxMsgs: 3, Expires: -1}}, "denied: not among what is allowed; only as a reply, up to 3 times at any time", "allowed: all is allowed that is not denied"},
		{"denied", jwt.Permissions{Pub: jwt.Permission{Deny: one}, Sub: jwt.Permission{Deny: one}}, `denied by template: publish deny "a"`, `denied by template: subscribe deny "a"`},
		{
			"came to nothing",
			jwt.Permissions{Pub: jwt.Permission{Allow: jwt.StringList{"{{tag(none)}}"}}, Sub: jwt.Permission{Allow: jwt.StringList{"{{tag(none)}}"}}},
			`denied by server: publish deny ">": no line that allows something could be expanded for this user`, `denied by server: subscribe deny ">": no line that allows something could be expanded for this user`,
		},
		{"no subject", jwt.Permissions{Pub: jwt.Permission{Allow: jwt.StringList{"a b"}}, Sub: jwt.Permission{Allow: jwt.StringList{"a b c"}}}, "denied: not among what is allowed", "denied: not among what is allowed"},
	} {
		r := rights(t, tc.p)
		if v := must(r.Publish("a")); v.String() != tc.pub {
			t.Errorf("%s: publish: %s", tc.name, v)
		}
		if v := must(r.Subscribe("a", "")); v.String() != tc.sub {
			t.Errorf("%s: subscribe: %s", tc.name, v)
		}
	}
}

func TestDefaultsOfTheAccount(t *testing.T) {
	c := jwt.NewAccountClaims(nowhere().String())
	c.Name = "CHAT"
	c.DefaultPermissions.Pub.Allow.Add("{{name()}}", "a")
	a, err := permission.AccountOf(c, false)
	if err != nil {
		t.Fatal(err)
	}
	r, err := permission.For(jwt.UserPermissionLimits{}, permission.User{Key: nobody(), Account: a})
	if err != nil {
		t.Fatal(err)
	}
	if v := must(r.Publish("a")); v.String() != `allowed by account default: publish allow "a"` {
		t.Error(v)
	}
	if v := must(r.Publish("alice")); v.Allowed {
		t.Errorf("the account's defaults are no templates: %s", v)
	}
	c.Subject = "nobody"
	if _, err := permission.AccountOf(c, false); !errors.Is(err, ident.ErrInvalid) {
		t.Errorf("an account without a key: %v", err)
	}
}

func TestNoSubject(t *testing.T) {
	r := rights(t, jwt.Permissions{})
	for _, s := range []string{"", ".", "a..b", "a b", "a.\t", ">.a", "a\r\nb"} {
		if _, err := r.Publish(s); !errors.Is(err, permission.ErrSubject) {
			t.Errorf("publish %q: %v", s, err)
		}
		if _, err := r.Subscribe(s, ""); !errors.Is(err, permission.ErrSubject) {
			t.Errorf("subscribe %q: %v", s, err)
		}
	}
	if _, err := r.Subscribe("a", "b c"); !errors.Is(err, permission.ErrSubject) {
		t.Errorf("a queue group of two words: %v", err)
	}
}

// A template is many users' at once: nothing may be written to it.
func TestTemplateIsLeftAlone(t *testing.T) {
	list := func(s ...string) jwt.StringList { return append(make(jwt.StringList, 0, 10), s...) }
	fresh := func() jwt.Permissions {
		return jwt.Permissions{
			Pub:  jwt.Permission{Allow: list("{{tag(none)}}"), Deny: list("a", "b queue")},
			Sub:  jwt.Permission{Allow: list("{{tag(none)}}"), Deny: list("{{name()}}")},
			Resp: &jwt.ResponsePermission{},
		}
	}
	p := fresh()
	r := rights(t, p)
	expanded := must(permission.Expand(p, somebody()))
	if !slices.Equal(expanded.Pub.Deny, jwt.StringList{"a", "b queue", ">"}) || !slices.Equal(expanded.Sub.Deny, jwt.StringList{"alice", ">"}) {
		t.Errorf("%v", expanded)
	}
	expanded.Resp.MaxMsgs = 7
	if all := p.Pub.Deny[:cap(p.Pub.Deny)]; !reflect.DeepEqual(p, fresh()) || all[2] != "" {
		t.Errorf("changed: %v %q", p, all)
	}
	p.Pub.Deny[0] = "changed"
	if v := must(r.Publish("a")); v.Rule.Subject == "changed" {
		t.Error("the rights follow the template")
	}
	if l, ok := r.Replies(); !ok || l.MaxMsgs != 1 || p.Resp.MaxMsgs != 0 {
		t.Errorf("%v %v", l, p.Resp)
	}
	if _, ok := rights(t, jwt.Permissions{}).Replies(); ok {
		t.Error("replies that nobody allowed")
	}
}

func TestReach(t *testing.T) {
	r := rights(t, jwt.Permissions{
		Pub: jwt.Permission{Allow: jwt.StringList{"$JS.API.>", "a.*"}, Deny: jwt.StringList{"$JS.API.CONSUMER.>", "a.*"}},
		Sub: jwt.Permission{Allow: jwt.StringList{"chat.*", "x"}, Deny: jwt.StringList{"chat.secret", "chat.b.> q"}},
	})
	everything := rights(t, jwt.Permissions{Pub: jwt.Permission{Deny: jwt.StringList{"a.>"}}})
	for _, tc := range []struct {
		r       *permission.Rights
		d       permission.Direction
		pattern string
		want    []string
	}{
		{r, permission.Publishing, "$JS.API.CONSUMER.CREATE.>", nil},
		{r, permission.Publishing, "$JS.API.STREAM.>", []string{"$JS.API.>"}},
		{r, permission.Publishing, "a.b", nil},
		{r, permission.Publishing, "a.b.c", nil},
		{r, permission.Subscribing, "chat.a", []string{"chat.*"}},
		{r, permission.Subscribing, "chat.a.b", []string{"chat.*"}},
		{r, permission.Subscribing, "chat.b.c", []string{"chat.*"}},
		{r, permission.Subscribing, "chat.secret", nil},
		{r, permission.Subscribing, ">", []string{"chat.*", "x"}},
		{everything, permission.Publishing, "b", []string{">"}},
		{everything, permission.Publishing, "a.b.>", nil},
		{everything, permission.Subscribing, "a.b.>", []string{">"}},
	} {
		var got []string
		for _, rule := range tc.r.Reach(tc.d, tc.pattern) {
			got = append(got, rule.Subject)
		}
		if !slices.Equal(got, tc.want) {
			t.Errorf("%s %s: %q", tc.d, tc.pattern, got)
		}
	}
}

// TestReachMissesNothing: whatever may be published, or is delivered to a subscription
// that is allowed, is within reach.
func TestReachMissesNothing(t *testing.T) {
	patterns := []string{">", "*"}
	literals := []string{"a", "b"}
	for _, p := range []string{"a", "b", "*"} {
		for _, q := range []string{"a", "b", "*", ">"} {
			patterns = append(patterns, p+"."+q, p+"."+q+".a")
			literals = append(literals, strings.NewReplacer("*", "a", ">", "b.a").Replace(p+"."+q))
		}
	}
	patterns = slices.DeleteFunc(patterns, func(s string) bool { return !subject.ValidPattern(s) })
	list := rapid.SliceOfN(rapid.SampledFrom(patterns), 0, 3)
	rapid.Check(t, func(rt *rapid.T) {
		lines := func(what string) jwt.StringList { return list.Draw(rt, what) }
		r, err := permission.For(limits(jwt.Permissions{
			Pub: jwt.Permission{Allow: lines("publish allow"), Deny: lines("publish deny")},
			Sub: jwt.Permission{Allow: lines("subscribe allow"), Deny: lines("subscribe deny")},
		}), somebody())
		if err != nil {
			rt.Fatal(err)
		}
		asked := rapid.SampledFrom(patterns).Draw(rt, "asked")
		publishing, subscribing := r.Reach(permission.Publishing, asked), r.Reach(permission.Subscribing, asked)
		for _, s := range literals {
			if !subject.Matches(asked, s) {
				continue
			}
			if v := must(r.Publish(s)); v.Allowed && len(publishing) == 0 {
				rt.Fatalf("%s may be published to: %s", s, v)
			}
			for _, p := range patterns {
				v := must(r.Subscribe(p, ""))
				filtered := slices.ContainsFunc(v.Filtered, func(f permission.Rule) bool { return subject.Matches(f.Subject, s) })
				if v.Allowed && subject.Matches(p, s) && !filtered && len(subscribing) == 0 {
					rt.Fatalf("%s is delivered to %s: %s", s, p, v)
				}
			}
		}
	})
}

// expandPlainly is an expansion that anybody can read: by the server's own regular
// expression, and one value after the other.
func expandPlainly(lines []string, u permission.User, deny bool) (out []string, refused bool) {
	template := regexp.MustCompile(`{{2}([^}]+)}{2}`)
	if !slices.ContainsFunc(lines, template.MatchString) {
		return lines, false
	}
	for _, line := range lines {
		found := template.FindAllString(line, -1)
		tags := false
		texts := []string{line}
		for _, f := range found {
			values, isTag, known := valuesOf(strings.TrimSpace(f[2:len(f)-2]), u)
			tags = tags || isTag
			if !known || len(values) == 0 && deny {
				return nil, true
			}
			if len(values) == 0 {
				values = []string{" "}
			}
			var next []string
			for _, text := range texts {
				for _, v := range values {
					next = append(next, strings.ReplaceAll(text, f, v))
				}
			}
			if texts = next; len(texts) > 4096 {
				return nil, true
			}
		}
		if tags && len(out)+len(texts) > 4096 {
			return nil, true
		}
		for _, text := range texts {
			if subject.ValidPattern(text) {
				out = append(out, text)
			} else if deny {
				return nil, true
			}
		}
	}
	return out, false
}

func valuesOf(op string, u permission.User) (values []string, isTag, known bool) {
	for name, v := range map[string]string{
		"name()": u.Name, "subject()": u.Key.String(), "account-name()": u.Account.Name, "account-subject()": u.Account.Key.String(),
	} {
		if strings.EqualFold(op, name) {
			return []string{v}, false, true
		}
	}
	for begins, tags := range map[string]jwt.TagList{"tag(": u.Tags, "account-tag(": u.Account.Tags} {
		if len(op) < len(begins) || !strings.EqualFold(op[:len(begins)], begins) || !strings.HasSuffix(op, ")") {
			continue
		}
		key := op[:len(op)-1]
		if strings.HasPrefix(op, begins) {
			key = strings.TrimSuffix(op[len(begins):], ")")
		}
		for _, t := range tags {
			if strings.HasPrefix(t, strings.ToLower(key)+":") {
				values = append(values, t[len(strings.ToLower(key))+1:])
			}
		}
		return values, true, true
	}
	return nil, false, false
}

// FuzzExpand holds expansions against the plain one, and rights to what is always so.
func FuzzExpand(f *testing.F) {
	for _, s := range []string{
		"a\nb.>", "{{name()}}", "{{tag(x)}}.{{tag(x)}}", "{{tag(x)}}.{{tag(y)}}\n{{account-tag(z)}}", "{{TAG(x)}}", "{{tag()}}",
		"{{subject()}} queue\na", "{{{name()}}}", "{{}}{{", "{{tag(none)}}", "{{nothing}}", "{{\ttag(x) }}.b\nb\vc\nd e", "{{a}b}}.{{name()}}}", "{{account-tag(tag(x)}}",
	} {
		f.Add(s, "a", "x:1 x:2 y:3 x:b.*", "z:1", false)
		f.Add(s, "{{tag(x)}}", "x:{{name()}} x:> tag(x:4 :5", ":>", true)
	}
	f.Fuzz(func(t *testing.T, lines, name, tags, accountTags string, deny bool) {
		list := strings.Split(lines, "\n")
		u := permission.User{
			Key: nobody(), Name: name, Tags: strings.Split(tags, " "),
			Account: permission.Account{Key: nowhere(), Name: tags, Tags: strings.Split(accountTags, " ")},
		}
		p := jwt.Permissions{Sub: jwt.Permission{Allow: list}}
		if deny {
			p = jwt.Permissions{Sub: jwt.Permission{Deny: list}}
		}
		got, err := permission.Expand(p, u)
		if err != nil && !errors.Is(err, permission.ErrRefused) {
			t.Fatal(err)
		}
		want, refused := expandPlainly(list, u, deny)
		if refused != (err != nil) {
			t.Fatalf("%q: %v, and plainly refused: %v", list, err, refused)
		}
		r, again := permission.For(limits(p), u)
		if refused != (again != nil) {
			t.Fatalf("expanded: %v; rights: %v", err, again)
		}
		if refused {
			return
		}
		have := got.Sub.Allow
		if deny {
			have = got.Sub.Deny
		}
		if !slices.Equal(have, want) {
			t.Fatalf("%q: %q, and plainly %q", list, have, want)
		}
		if !deny && len(want) == 0 && !slices.Contains(got.Sub.Deny, ">") {
			t.Fatalf("%q: nothing is allowed and all is: %v", list, got)
		}
		for _, rule := range r.Rules() {
			if !subject.ValidPattern(rule.Subject) {
				t.Fatalf("%v is in force", rule)
			}
			if v := must(r.Subscribe(rule.Subject, rule.Queue)); v.Allowed == deny && rule.Queue != "_sys_" && rule.Effect == permission.Allow {
				t.Fatalf("%v: %s", rule, v)
			}
		}
	})
}

func BenchmarkFor(b *testing.B) {
	p := limits(jwt.Permissions{
		Pub: jwt.Permission{Allow: jwt.StringList{"auth.v1.info", "chat.{{tag(room)}}.posts.*", "chat.{{tag(room)}}.dms.*"}},
		Sub: jwt.Permission{Allow: jwt.StringList{"_INBOX_{{subject()}}.>", "chat.{{tag(room)}}.dms.{{subject()}}"}},
	})
	u := somebody()
	b.ReportAllocs()
	for b.Loop() {
		r, err := permission.For(p, u)
		if err != nil {
			b.Fatal(err)
		}
		if v, err := r.Publish("chat.lobby.dms.x"); err != nil || !v.Allowed {
			b.Fatal(v, err)
		}
	}
}
