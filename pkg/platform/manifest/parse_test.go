package manifest_test

import (
	"errors"
	"math"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/platform/manifest"
	"github.com/herald-nats/herald/pkg/subject"
)

func problemsOf(t testing.TB, err error) manifest.Problems {
	t.Helper()
	var p manifest.Problems
	if !errors.As(err, &p) || !errors.Is(err, manifest.ErrInvalid) || len(p) == 0 {
		t.Fatalf("the error is no Problems: %v", err)
	}
	return p
}

// TestProblems shows what a person is told.
func TestProblems(t *testing.T) {
	_, err := manifest.Parse("dir/platform.yaml", []byte("nmae: x\n"+complete("name: demo\n")))
	if got, want := err.Error(), `dir/platform.yaml:1:1: there is no key "nmae"`; got != want {
		t.Errorf("one: got %q, want %q", got, want)
	}
	_, err = manifest.Parse("p.yaml", []byte("nmae: x\nhome: Ams\n"+complete("name: demo\nhome: ams\n")))
	p := problemsOf(t, err)
	if got, want := err.Error(), `p.yaml:1:1: there is no key "nmae" (and 2 more problems)`; got != want {
		t.Errorf("three: got %q, want %q", got, want)
	}
	want := `p.yaml:1:1: there is no key "nmae"
hint: did you mean name?
p.yaml:2:7: "Ams" is not a region
hint: 1 to 16 of a-z and 0-9, the first a letter
p.yaml:4:1: the key home is here twice; first in line 2
hint: keep one of them
`
	if got := p.Text(); got != want {
		t.Errorf("all: got\n%swant\n%s", got, want)
	}
	if got, want := p[:2].Error(), `p.yaml:1:1: there is no key "nmae" (and one more problem)`; got != want {
		t.Errorf("two: got %q, want %q", got, want)
	}
	if errors.Is(err, os.ErrNotExist) {
		t.Error("the error is another's, too")
	}
	if got := (manifest.Problem{Path: "accounts[1].name", Reason: "no"}).String(); got != "accounts[1].name: no" {
		t.Errorf("of a File made in code: %q", got)
	}
	if got := (manifest.Problem{Reason: "no"}).String(); got != "no" {
		t.Errorf("of nothing that is known: %q", got)
	}
	if got := (manifest.Problem{File: "p.yaml", Reason: "no"}).String(); got != "p.yaml: no" {
		t.Errorf("of a whole file: %q", got)
	}
}

// TestCheckInCode checks a File that was never a file: its problems have a path and no
// line, and those of one that was read have their place.
func TestCheckInCode(t *testing.T) {
	p := new(manifest.File).Check()
	var paths []string
	for _, problem := range p {
		if problem.Line != 0 || problem.File != "" || problem.Reason == "" || problem.Hint == "" {
			t.Errorf("out of shape: %+v", problem)
		}
		paths = append(paths, problem.Path)
	}
	if want := []string{"name", "home", "regions", "chat", "grants"}; !slices.Equal(paths, want) {
		t.Errorf("got %q, want %q", paths, want)
	}
	f, err := manifest.Parse("p.yaml", []byte(complete("accounts:\n  - name: A\n    roles: [{name: r}]\n")))
	if err != nil {
		t.Fatal(err)
	}
	f.Accounts[0].Roles[0].Public = true
	p = f.Check()
	if len(p) != 1 || p[0].File != "p.yaml" || p[0].Line != 3 || p[0].Column != 13 || p[0].Path != "accounts[0].roles[0]" {
		t.Errorf("after a change: %+v", p)
	}
	got := f.Problem("accounts[0].roles[0].name", "it cannot be", "do something")
	if want := (manifest.Problem{File: "p.yaml", Line: 3, Column: 20, Path: "accounts[0].roles[0].name", Reason: "it cannot be", Hint: "do something"}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	for path, column := range map[string]int{"": 1, "accounts[0].roles[7].name": 12, "accounts[x]": 3, "nowhere.at.all": 1, "accounts[0].roles[0].publish.allow[3]": 13} {
		if got := f.Problem(path, "r", ""); got.Column != column {
			t.Errorf("%q: got %+v, want column %d", path, got, column)
		}
	}
	if got := new(manifest.File).Problem("a.b", "r", "h"); got != (manifest.Problem{Path: "a.b", Reason: "r", Hint: "h"}) {
		t.Errorf("got %+v", got)
	}
}

// TestNothingNegativeInCode checks what no file can say, as it has no sign there.
func TestNothingNegativeInCode(t *testing.T) {
	f, err := manifest.Parse("p.yaml", []byte(complete(`accounts:
  - name: A
    limits: {payload: 1, data: 1}
    jetstream: {memory: 1, disk: 1, memory_stream: 1, disk_stream: 1}
    exports: [{subject: s, type: service, threshold: 1s}]
    roles: [{name: r, writes: true, payload: 1, data: 1, allow_responses: {expires: 1s}}]
`)))
	if err != nil {
		t.Fatal(err)
	}
	a := &f.Accounts[0]
	n := manifest.Size(-1)
	a.Limits.Payload, a.Limits.Data = &n, &n
	a.JetStream.Memory, a.JetStream.Disk, a.JetStream.MemoryStream, a.JetStream.DiskStream = &n, &n, &n, &n
	a.Exports[0].Threshold = -1
	a.Roles[0].Payload, a.Roles[0].Data = &n, &n
	a.Roles[0].AllowResponses.Expires = -1
	a.Roles[0].Subscribe.Allow = []string{""}
	a.Roles[0].Lifetime = -manifest.Duration(time.Hour)
	f.Regions[0].JetStream.Disk = -1
	f.Servers.AuthTimeout, f.Servers.MaxPayload = -1, -1
	var got []string
	for _, p := range f.Check() {
		got = append(got, p.Path)
	}
	slices.Sort(got)
	want := []string{
		"accounts[0].exports[0].threshold", "accounts[0].jetstream.disk", "accounts[0].jetstream.disk_stream", "accounts[0].jetstream.memory", "accounts[0].jetstream.memory_stream",
		"accounts[0].limits.data", "accounts[0].limits.payload", "accounts[0].roles[0].allow_responses.expires", "accounts[0].roles[0].data", "accounts[0].roles[0].lifetime",
		"accounts[0].roles[0].payload", "accounts[0].roles[0].subscribe.allow[0]", "regions[0].jetstream", "servers.auth_timeout", "servers.max_payload",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// TestLongTexts holds texts to what servers take.
func TestLongTexts(t *testing.T) {
	for size, want := range map[int]string{8 << 10: "", 8<<10 + 1: "p.yaml:1:35: a text of 8193 bytes is longer than servers take"} {
		text := complete("accounts: [{name: A, description: \"" + strings.Repeat("x", size) + "\"}]\n")
		_, err := manifest.Parse("p.yaml", []byte(text))
		if want == "" && err != nil || want != "" && (err == nil || err.Error() != want) {
			t.Errorf("%d bytes: %v", size, err)
		}
	}
	text := complete("accounts: [{name: A, roles: [{name: r, publish: {allow: [" + strings.Repeat("x", 1025) + "]}}]}]\n")
	_, err := manifest.Parse("p.yaml", []byte(text))
	if got := problemsOf(t, err).Error(); got != "p.yaml:1:58: a subject of 1025 bytes is longer than any that is of use" {
		t.Error(got)
	}
	host := strings.Repeat("a.", 120)
	text = strings.Replace(complete("#\n"), "gateway: 127.0.0.1:14000", "gateway: "+host+"a:1", 1)
	_, err = manifest.Parse("p.yaml", []byte(text))
	if got := problemsOf(t, err).Error(); !strings.Contains(got, "a host's name of 241 letters is longer than clients take") {
		t.Error(got)
	}
	many := "clients: ["
	for i := range 65 {
		many += "h" + strconv.Itoa(i) + ":1, "
	}
	text = strings.Replace(complete("#\n"), "gateway: 127.0.0.1:14000", "gateway: 127.0.0.1:14000\n    "+many+"]", 1)
	_, err = manifest.Parse("p.yaml", []byte(text))
	if got := problemsOf(t, err).Error(); !strings.Contains(got, "clients of region ams are told 65 addresses, and take at most 64") {
		t.Error(got)
	}
	rooms := "chat: {rooms: ["
	for i := range 6000 {
		rooms += "{name: ROOM" + strconv.Itoa(i) + ", channels: [a]}, "
	}
	_, err = manifest.Parse("p.yaml", []byte(complete(rooms+"]}\n")))
	if p := problemsOf(t, err); len(p) != 1 || p[0].Path != "chat" || !strings.Contains(p[0].Reason, "account CHAT is too large") {
		t.Error(p.Text())
	}
}

// TestHugeAndDeep holds Parse to its bounds.
func TestHugeAndDeep(t *testing.T) {
	bomb := "a: &a [x, x, x, x, x, x, x, x, x, x]\n"
	for i := range 20 {
		bomb += string(rune('b'+i)) + ": &" + string(rune('b'+i)) + " [" + strings.Repeat("*"+string(rune('a'+i))+", ", 9) + "x]\n"
	}
	for name, tc := range map[string]struct{ text, reason string }{
		"too large":          {strings.Repeat(" ", manifest.MaxFile+1), "the file is larger than 16MiB"},
		"deep brackets":      {strings.Repeat("[", 100_000), "not YAML: exceeded max depth of 24"},
		"deep braces":        {"accounts: " + strings.Repeat("{a: ", 100_000), "not YAML: exceeded max depth of 24"},
		"deep lists":         {strings.Repeat("- ", 100_000), "not YAML: exceeded max depth of 24"},
		"deep mappings":      {deep(1000), "not YAML: exceeded max depth of 24"},
		"many aliases":       {"accounts:\n  " + strings.ReplaceAll(bomb, "\n", "\n  "), "accounts needs a list"},
		"not text":           {"name: \xff\xfe", "not YAML: invalid leading UTF-8 octet"},
		"a NUL":              {"name: \x00", "not YAML: control characters are not allowed"},
		"of another kind":    {strings.Repeat("x", 1<<20), "the file needs keys with values"},
		"UTF-16":             {"\xff\xfen\x00a\x00m\x00e\x00:\x00 \x00X\x00", `"X" is not a name`},
		"a list of accounts": {"- name: A", "the file needs keys with values, and here is a list"},
	} {
		began := time.Now()
		_, err := manifest.Parse("p.yaml", []byte(tc.text))
		if took := time.Since(began); took > 20*time.Second {
			t.Errorf("%s: took %s", name, took)
		}
		p := problemsOf(t, err)
		if !slices.ContainsFunc(p, func(p manifest.Problem) bool { return strings.Contains(p.Reason, tc.reason) }) {
			t.Errorf("%s: %s", name, p.Text())
		}
	}
}

// deep is n mappings within each other.
func deep(n int) string {
	var b strings.Builder
	for i := range n {
		b.WriteString(strings.Repeat(" ", i) + "a:\n")
	}
	return b.String()
}

// TestManyProblems holds the number of problems to what anybody reads.
func TestManyProblems(t *testing.T) {
	var b strings.Builder
	for i := range 10_000 {
		b.WriteString("unknown_key_" + strconv.Itoa(i) + ": 1\n")
	}
	_, err := manifest.Parse("p.yaml", []byte(b.String()))
	p := problemsOf(t, err)
	if len(p) != manifest.MaxProblems+1 || p[len(p)-1].Reason != "there are more problems than are shown" {
		t.Errorf("%d problems, the last %s", len(p), p[len(p)-1])
	}
	b.Reset()
	b.WriteString(complete("accounts:\n"))
	text := strings.Replace(complete("#\n"), "#\n", "accounts:\n"+strings.Repeat("  - {name: A, roles: [{name: r, bearer: true}]}\n", 5000), 1)
	_, err = manifest.Parse("p.yaml", []byte(text))
	if p := problemsOf(t, err); len(p) != manifest.MaxProblems+1 {
		t.Errorf("%d problems", len(p))
	}
}

// TestOverlapping holds the search for overlapping patterns to comparing each with each.
func TestOverlapping(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		words := rapid.SampledFrom([]string{"a", "b", "c", "*", ">", "aa", ""})
		all := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) string {
			return strings.Join(rapid.SliceOfN(words, 1, 4).Draw(t, "words"), ".")
		}), 0, 12).Draw(t, "patterns")
		got := manifest.Overlapping(all)
		for i := range all {
			want := slices.IndexFunc(all[:i], func(s string) bool { return subject.Overlaps(s, all[i]) })
			if got[i] != want {
				t.Fatalf("%q: number %d overlaps %d first, and got %d", all, i, want, got[i])
			}
		}
	})
}

// TestAllAccounts holds what Herald adds to what a file says.
func TestAllAccounts(t *testing.T) {
	f, err := manifest.Parse("p.yaml", []byte(complete(`grants: [{to: open, account: A, role: r}]
accounts:
  - name: A
    imports: [{from: AUTH, subject: $SRV.>, type: service}, {from: B, subject: s, type: service}]
    mappings: [{subject: m, to: [{subject: x, weight: 30}, {subject: y}, {subject: z, cluster: ams}]}]
    roles:
      - {name: r, public: true, connection_types: [STANDARD], publish: {allow: [auth.v1.info, a]}}
      - {name: other}
  - {name: B, exports: [{subject: s, type: service}]}
  - {name: CHAT, description: ours, roles: [{name: bot}]}
`)))
	if err != nil {
		t.Fatal(err)
	}
	before := f.Render()
	all := f.AllAccounts()
	var names []string
	for _, a := range all {
		names = append(names, a.Name.String())
	}
	if want := []string{"SYS", "LEDGER", "READERS", "AUTH", "GUEST", "ADMIN", "CHAT", "A", "B"}; !slices.Equal(names, want) {
		t.Fatalf("accounts are %q, want %q", names, want)
	}
	a, chat := all[7], all[6]
	if got, want := a.Roles[0].Publish.Allow, []string{"auth.v1.info", "a", "auth.v1.renew"}; !slices.Equal(got, want) {
		t.Errorf("a granted role publishes %q, want %q", got, want)
	}
	if got, want := a.Roles[0].Subscribe.Allow, []string{"_INBOX_{{subject()}}.>"}; !slices.Equal(got, want) {
		t.Errorf("a granted role subscribes to %q, want %q", got, want)
	}
	if got := a.Roles[1]; len(got.Publish.Allow)+len(got.Subscribe.Allow) > 0 {
		t.Errorf("a role that is not granted has %+v", got)
	}
	var imports []string
	for _, i := range a.Imports {
		imports = append(imports, i.From.String()+" "+i.Subject+" "+strconv.FormatBool(i.Share))
	}
	if want := []string{"AUTH $SRV.> true", "B s false", "AUTH auth.v1.info true", "AUTH auth.v1.renew true"}; !slices.Equal(imports, want) {
		t.Errorf("imports are %q, want %q", imports, want)
	}
	if m := a.Mappings[0].To; m[0].Weight != 30 || m[1].Weight != 70 || m[2].Weight != 100 {
		t.Errorf("weights are %+v", m)
	}
	if _, ok := chat.Role(must(ident.ParseLabel("bot"))); !ok || chat.Description != "ours" || !chat.Own() || len(chat.Roles) != 2 {
		t.Errorf("CHAT is %+v", chat)
	}
	if after := f.Render(); string(after) != string(before) {
		t.Errorf("the file was changed:\n%s", after)
	}
}

func TestDuration(t *testing.T) {
	for s, want := range map[string]time.Duration{
		"1s": time.Second, "500ms": 500 * time.Millisecond, "1h30m": 90 * time.Minute, "7d": 7 * 24 * time.Hour, "1d12h": 36 * time.Hour, "1.5h": 90 * time.Minute,
		"0d1s": time.Second, "106751d": 106751 * 24 * time.Hour, "1µs": time.Microsecond, "24h": 24 * time.Hour,
	} {
		if d, err := manifest.ParseDuration(s); err != nil || time.Duration(d) != want {
			t.Errorf("%s: %s, %v", s, d, err)
		}
	}
	for _, s := range []string{"", "0", "0s", "0d", "d", "1", "-1s", "+1s", "1d-1s", "1d+1s", "1d1", "1.5d", "1 s", "1dd", "1d1d", "106752d", "99999999999d", "1w", "1d9223372036854775807ns", ".5s", "1d.5s", " 1s"} {
		if d, err := manifest.ParseDuration(s); err == nil {
			t.Errorf("%q is accepted as %s", s, d)
		} else if strings.Contains(err.Error(), "\n") {
			t.Errorf("%q: more than a line: %v", s, err)
		}
	}
	for d, want := range map[time.Duration]string{
		time.Hour: "1h", 90 * time.Minute: "1h30m", 7 * 24 * time.Hour: "7d", 25 * time.Hour: "1d1h", 61 * time.Second: "1m1s", 1500 * time.Millisecond: "1.5s", 24*time.Hour + time.Nanosecond: "1d1ns", 10 * time.Minute: "10m", 100 * time.Hour: "4d4h",
	} {
		if got := manifest.Duration(d).String(); got != want {
			t.Errorf("%s is written %s, want %s", d, got, want)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		d := manifest.Duration(rapid.Int64Range(1, math.MaxInt64).Draw(t, "d"))
		if got, err := manifest.ParseDuration(d.String()); err != nil || got != d {
			t.Fatalf("%d is written %s and read %d, %v", d, d, got, err)
		}
	})
}

func TestSize(t *testing.T) {
	for s, want := range map[string]manifest.Size{"0": 0, "512": 512, "512B": 512, "64KiB": 64 << 10, "1MiB": 1 << 20, "10GiB": 10 << 30, "1TiB": 1 << 40, "8388607TiB": 8388607 << 40, "0KiB": 0} {
		if n, err := manifest.ParseSize(s); err != nil || n != want {
			t.Errorf("%s: %d, %v", s, n, err)
		}
	}
	for _, s := range []string{"", "-1", "+1", "01", "1.5MiB", "1MB", "1K", "1 MiB", "KiB", "1mib", "8388608TiB", "9223372036854775808", "0x10", "1_000", "1e3", "1KiBB"} {
		if n, err := manifest.ParseSize(s); err == nil {
			t.Errorf("%q is accepted as %d", s, n)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		n := manifest.Size(rapid.Int64Range(0, math.MaxInt64).Draw(t, "n"))
		if got, err := manifest.ParseSize(n.String()); err != nil || got != n {
			t.Fatalf("%d is written %s and read %d, %v", int64(n), n, got, err)
		}
	})
}

func TestRoleRef(t *testing.T) {
	for _, s := range []string{"", "A", "/", "A/", "/r", "A/r/s", "A r/s", "A//r"} {
		if r, err := manifest.ParseRoleRef(s); err == nil {
			t.Errorf("%q is accepted as %s", s, r)
		}
	}
	r, err := manifest.ParseRoleRef("CHAT/member")
	if err != nil || r.String() != "CHAT/member" || r.IsZero() {
		t.Errorf("%v, %v", r, err)
	}
	if !(manifest.RoleRef{}).IsZero() || (manifest.RoleRef{}).String() != "" {
		t.Error("the zero value names a role")
	}
}

func TestCheckTag(t *testing.T) {
	for _, s := range []string{"team:red", "a-b_c:1.2.3", "x:a:b", "k:a/b@c+d"} {
		if err := manifest.CheckTag(s); err != nil {
			t.Errorf("%s: %v", s, err)
		}
	}
	for _, s := range []string{"", "team", ":a", "team:", "Team:a", "team:A", "team:*", "team:a.>", "team:>", "team:a b", "team:a\n", "team:é", "te.am:a", "team:.a", "team:" + strings.Repeat("a", 513), strings.Repeat("k", 65) + ":a"} {
		if manifest.CheckTag(s) == nil {
			t.Errorf("%q is accepted", s)
		}
	}
}

// FuzzParse holds Parse to its word for any bytes: problems with their places, or a File
// that is written and read back as it is, and that the schema accepts.
func FuzzParse(f *testing.F) {
	for _, name := range examples() {
		data, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	for _, file := range []string{"yaml", "platform", "accounts", "trade", "roles", "grants"} {
		data, err := os.ReadFile("testdata/refused/" + file + ".txt")
		if err != nil {
			f.Fatal(err)
		}
		for _, part := range strings.Split("\n"+string(data), "\n=== ")[1:] {
			_, text, _ := strings.Cut(part, "\n")
			f.Add([]byte(complete(text)))
		}
	}
	f.Add([]byte("a: &a [*a]"))
	f.Add([]byte("? a\n: b\n---\n...\n%YAML 1.1\n--- !!map {}"))
	s := compiled(f)
	f.Fuzz(func(t *testing.T, data []byte) {
		file, err := manifest.Parse("p.yaml", data)
		if err != nil {
			for _, p := range problemsOf(t, err) {
				if p.Line < 1 || p.Column < 1 || p.Reason == "" || strings.ContainsAny(p.Reason+p.Hint, "\n\x00\x1b") {
					t.Errorf("out of shape: %+v", p)
				}
			}
			return
		}
		text := file.Render()
		again, err := manifest.Parse("p.yaml", text)
		if err != nil {
			t.Fatalf("what was written is refused: %v\n%s", err, text)
		}
		if !reflect.DeepEqual(manifest.Bare(file), manifest.Bare(again)) {
			t.Fatalf("written as\n%s\nread as\n%s", text, again.Render())
		}
		if err := valid(s, text); err != nil {
			t.Fatalf("the schema refuses what is accepted: %v\n%s", err, text)
		}
	})
}
