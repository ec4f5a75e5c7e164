package nscsetup

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/herald-nats/herald/internal/cli"
	"github.com/herald-nats/herald/internal/service"
	"github.com/herald-nats/herald/internal/uptest"
	"github.com/herald-nats/herald/pkg/audit"
	"github.com/herald-nats/herald/pkg/audit/audittest"
	"github.com/herald-nats/herald/pkg/audit/stream"
	"github.com/herald-nats/herald/pkg/client"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/keystore"
	"github.com/herald-nats/herald/pkg/ledger"
	"github.com/herald-nats/herald/pkg/platform"
	"github.com/herald-nats/herald/pkg/subject"
)

// obtain asks a region's issuer for a credential.
func (r running) obtain(region, name string) (client.Credential, error) {
	r.Helper()
	key, err := keystore.Generate(keystore.User)
	if err != nil {
		r.Fatal(err)
	}
	of, _ := r.Public.Document.Region(parse(r.T, ident.ParseRegion, region))
	ctx, cancel := context.WithTimeout(r.Context(), 10*time.Second)
	defer cancel()
	return r.Public.Obtain(ctx, of.URLs, key, client.Wish{Name: parse(r.T, ident.ParseName, name)})
}

// verify runs audit verify, and gives what it found.
func (r running) verify(args ...string) (int, verified, string) {
	r.Helper()
	code, out, errs := r.run(append([]string{"audit", "verify", "--json"}, args...)...)
	var v verified
	if code != cli.OK && code != cli.Failed && code != cli.Partial {
		return code, v, errs
	}
	if err := json.Unmarshal([]byte(out), &v); err != nil {
		r.Fatalf("audit verify said %q and %q: %v", out, errs, err)
	}
	return code, v, errs
}

// problems are what was found, each once.
func (v verified) problems() []string {
	var all []string
	for _, p := range v.Verified {
		for _, f := range p.Findings {
			all = append(all, string(f.Problem))
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// search gives the records that some flags find.
func (r running) search(code int, args ...string) []recordRow {
	r.Helper()
	got, out, errs := r.run(append([]string{"audit", "search", "--json"}, args...)...)
	if got != code {
		r.Fatalf("audit search %q: exit code %d, want %d: %s", args, got, code, errs)
	}
	var rows []recordRow
	for line := range strings.Lines(out) {
		var row recordRow
		if err := json.Unmarshal([]byte(line), &row); err != nil {
			r.Fatal(err)
		}
		rows = append(rows, row)
	}
	return rows
}

// TestAudit: what services recorded is shown, found, exported and verified; and whatever was
// done to an export is found.
func TestAudit(t *testing.T) {
	r := startPlatform(t, uptest.Options{Regions: []string{"ams", "sfo"}})
	for _, c := range []struct{ region, name string }{{"ams", "alice"}, {"sfo", "bob"}, {"ams", "carol"}} {
		if _, err := r.obtain(c.region, c.name); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := r.obtain("sfo", "alice"); err == nil {
		t.Fatal("alice is given twice")
	}
	r.eventually(10*time.Second, func() string {
		code, out, errs := r.run("audit", "tail")
		if code != cli.OK || strings.Count(out, " issue ") != 3 || !strings.Contains(out, "refuse:name_taken") {
			return out + errs
		}
		return ""
	})
	found := r.search(cli.OK, "--name", "alice", "--what", "issue")
	if len(found) != 1 || found[0].Region.String() != "ams" || found[0].Account != "CHAT" || found[0].Writer.IsZero() || found[0].Seq == 0 {
		t.Fatalf("%+v", found)
	}
	alice := found[0]
	for _, c := range []struct {
		args []string
		want int
	}{
		{[]string{"--identity", alice.Identity.String(), "--what", "issue"}, 1},
		{[]string{"--user", alice.User.String()}, 2},
		{[]string{"--jti", alice.ID}, 1},
		{[]string{"--request", alice.Request}, 1},
		{[]string{"--account", "CHAT", "--role", "member", "--what", "issue,renew"}, 3},
		{[]string{"--account", alice.Record.Account.String()}, 3},
		{[]string{"--code", "name_taken", "--region", "sfo"}, 1},
		{[]string{"--host", "127.0.0.0/8"}, 4},
		{[]string{"--host", "127.0.0.1", "--limit", "2"}, 2},
		{[]string{"--since", "1h", "--what", "issue,refuse"}, 4},
		{[]string{"--since", "2026-01-01", "--until", "2126-01-01", "--what", "issue,refuse"}, 4},
	} {
		if got := r.search(cli.OK, c.args...); len(got) != c.want {
			t.Errorf("%q: %d records, want %d", c.args, len(got), c.want)
		}
	}
	for _, args := range [][]string{{"--name", "nobody"}, {"--until", "2020-01-01"}, {"--code", "name_taken", "--region", "ams"}, {"--host", "192.0.2.1"}, {"--key", "nam"}} {
		if got := r.search(cli.Failed, args...); len(got) != 0 {
			t.Errorf("%q: %+v", args, got)
		}
	}
	// What home decided, and what was applied before that.
	if got := r.search(cli.OK, "--key", "name", "--name", "alice", "--what", "change"); len(got) != 1 || got[0].Key != "name.alice" || got[0].Identity != alice.Identity || got[0].Door != "home" {
		t.Errorf("%+v", got)
	}
	if got := r.search(cli.OK, "--key", "base"); len(got) < 7 || got[0].Door != "apply" || got[0].Region.String() != "ams" {
		t.Errorf("%+v", got)
	}
	r.changes()
	// Everything about one request.
	code, out, errs := r.run("audit", "search", "--request", alice.Request)
	if code != cli.OK {
		t.Fatal(errs)
	}
	for _, want := range []string{alice.Request, alice.ID, alice.User.String(), "CHAT/member", "127.0.0.1", "grant 1, to open", alice.Writer.String(), "alice"} {
		if !strings.Contains(out, want) {
			t.Errorf("%s is not in %s", want, out)
		}
	}

	code, v, errs := r.verify()
	if code != cli.OK || len(v.Verified) != 2 || v.Verified[0].Records < 2 || len(v.Behind) != 0 {
		t.Fatalf("exit code %d, %+v, %s", code, v, errs)
	}
	if code, out, _ := r.run("audit", "verify", "--region", "sfo"); code != cli.OK || !strings.HasPrefix(out, "sfo: ") || !strings.HasSuffix(out, ": in order\n") {
		t.Errorf("exit code %d: %s", code, out)
	}
	r.exports(alice)
	r.forges()
	r.unrecorded()
}

// unrecorded decides while home's records are full: it holds, and the command says what is
// missing.
func (r running) unrecorded() {
	r.Helper()
	nc := r.dial(platform.Ledger, platform.RoleSetup)
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		r.Fatal(err)
	}
	s, err := js.Stream(r.Context(), "AUDIT_ams")
	if err != nil {
		r.Fatal(err)
	}
	c := s.CachedInfo().Config
	c.MaxBytes = 1
	if _, err := js.UpdateStream(r.Context(), c); err != nil {
		r.Fatal(err)
	}
	code, out, errs := r.run("name", "release", "bob", "--yes")
	if code != cli.Partial || !strings.Contains(out, "bob is released") || !strings.Contains(errs, "name.bob") || !strings.Contains(errs, "hint: it holds: do not do it again") {
		r.Errorf("exit code %d, %s%s", code, out, errs)
	}
	if code, out, errs := r.run("name", "list"); code != cli.OK || !strings.Contains(out, "bob") || !strings.Contains(out, "resting") {
		r.Errorf("exit code %d, %s%s", code, out, errs)
	}
}

// changes decides as the operator, and finds each decision.
func (r running) changes() {
	r.Helper()
	for _, args := range [][]string{
		{"name", "release", "carol", "--yes"},
	} {
		if code, _, errs := r.run(args...); code != cli.OK {
			r.Fatalf("%q: exit code %d: %s", args, code, errs)
		}
		door := strings.Join(args[:2], " ")
		r.eventually(10*time.Second, func() string {
			rows := r.search(cli.OK, "--what", "change", "--region", "ams")
			i := slices.IndexFunc(rows, func(row recordRow) bool { return row.Door == door })
			if i < 0 || rows[i].Version == 0 || rows[i].Why == "" {
				return door + " is not recorded"
			}
			return ""
		})
	}
	// What a registrar states is recorded where it did.
	key := ledger.UserSuspension(r.chat(), parse(r.T, ident.ParseUserKey, audittest.NewScribe(r.T).User.String()))
	i := slices.IndexFunc(r.Up.Services, func(s *service.Running) bool { return s.Service == service.Registrar && s.Region.String() == "sfo" })
	if _, err := r.Up.Services[i].Denials().Suspend(r.Context(), key, true, 0, ledger.Suspension{By: "eve", Why: "spam"}); err != nil {
		r.Fatal(err)
	}
	r.eventually(10*time.Second, func() string {
		code, out, errs := r.run("audit", "search", "--key", key.String(), "--region", "sfo")
		if code != cli.OK || !strings.Contains(out, "(suspended; spam (by eve))") {
			return out + errs
		}
		return ""
	})
}

// chat is the chat's account.
func (r running) chat() ident.AccountKey {
	a, _ := r.Up.Platform.Document.Account(r.Up.Platform.Document.Chat.Account)
	return a.Key
}

// exports makes an export, and does to it whatever may be done to one.
func (r running) exports(alice recordRow) {
	r.Helper()
	whole := filepath.Join(r.TempDir(), "whole")
	if code, _, errs := r.run("audit", "export", "--to", whole); code != cli.OK {
		r.Fatal(errs)
	}
	if info, err := os.Stat(whole); err != nil || info.Mode().Perm() != 0o600 {
		r.Errorf("%v, %v", info.Mode(), err)
	}
	if code, _, errs := r.run("audit", "export", "--to", whole); code != cli.Exists {
		r.Errorf("exit code %d: %s", code, errs)
	}
	plain := filepath.Join(r.TempDir(), "records")
	if code, _, errs := r.run("audit", "export", "--to", plain, "--records"); code != cli.OK {
		r.Fatal(errs)
	}
	if data, err := os.ReadFile(plain); err != nil || strings.Count(string(data), `"what":"issue"`) != 3 || !strings.Contains(string(data), `"jti":"`+alice.ID+`"`) {
		r.Errorf("%s, %v", data, err)
	}
	if code, _, errs := r.verify(whole); code != cli.OK {
		r.Fatalf("exit code %d: %s", code, errs)
	}
	if code, _, errs := r.verify(plain); code != cli.Config {
		r.Errorf("exit code %d: %s", code, errs)
	}
	data, err := os.ReadFile(whole)
	if err != nil {
		r.Fatal(err)
	}
	lines := strings.SplitAfter(strings.TrimSuffix(string(data), "\n"), "\n")
	lines[len(lines)-1] += "\n"
	at := slices.IndexFunc(lines, func(l string) bool { return strings.Contains(l, alice.ID) })
	end := 1 // behind the last block of ams
	for i, l := range lines {
		if strings.HasPrefix(l, `{"region":"ams"`) {
			end = i + 1
		}
	}
	if at < 2 || end-at < 2 {
		r.Fatalf("%d of %d", at, end)
	}
	stranger := audittest.NewScribe(r.T)
	forged, err := json.Marshal(exportLine{stranger.Region, alice.Seq, stranger.Under(), string(stranger.Block(r.T, alice.Record).Data)})
	if err != nil {
		r.Fatal(err)
	}
	for what, c := range map[string]struct {
		change func(l []string) []string
		want   []string // one of them at least
	}{
		"removed":    {func(l []string) []string { return slices.Delete(l, at, at+1) }, []string{"missing"}},
		"the end":    {func(l []string) []string { return slices.Delete(l, end-1, end) }, []string{"missing"}},
		"altered":    {func(l []string) []string { l[at] = strings.Replace(l[at], "alice", "malice", 1); return l }, []string{"altered"}},
		"no block":   {func(l []string) []string { l[at] = "{}x\n"; return l }, []string{"altered"}},
		"re-ordered": {func(l []string) []string { l[at], l[at+1] = l[at+1], l[at]; return l }, []string{"moved"}},
		"repeated":   {func(l []string) []string { return slices.Insert(l, at, l[at]) }, []string{"repeated"}},
		"forged":     {func(l []string) []string { l[at] = string(forged) + "\n"; return l }, []string{"forged"}},
		"first gone": {func(l []string) []string { return slices.Delete(l, 1, 2) }, []string{"missing"}},
	} {
		path := filepath.Join(r.TempDir(), "tampered")
		if err := os.WriteFile(path, []byte(strings.Join(c.change(slices.Clone(lines)), "")), 0o600); err != nil {
			r.Fatal(err)
		}
		code, v, errs := r.verify(path)
		if code != cli.Failed {
			r.Errorf("%s: exit code %d, %s", what, code, errs)
		}
		for _, want := range c.want {
			if !slices.Contains(v.problems(), want) {
				r.Errorf("%s: found %v, want %s", what, v.problems(), want)
			}
		}
	}
	for what, text := range map[string]string{"empty": "", "no head": strings.Join(lines[1:], ""), "another platform's": strings.Replace(string(data), r.Up.Platform.Operator.Key(), "OX", 1), "another format": strings.Replace(string(data), `"herald_audit_export":1`, `"herald_audit_export":2`, 1)} {
		path := filepath.Join(r.TempDir(), "bad")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			r.Fatal(err)
		}
		if code, _, errs := r.verify(path); code != cli.Config || !strings.Contains(errs, "hint: ") {
			r.Errorf("%s: exit code %d, %s", what, code, errs)
		}
	}
}

// forges writes records as those who may publish in AUTH, and who are none of its issuers
// there: without a credential, and with that of another.
func (r running) forges() {
	r.Helper()
	p := r.Up.Platform
	user, err := p.Mint(platform.Auth, platform.RoleIssuer, time.Now(), time.Hour)
	if err != nil {
		r.Fatal(err)
	}
	other, err := p.Mint(platform.Auth, platform.RoleIssuer, time.Now(), time.Hour)
	if err != nil {
		r.Fatal(err)
	}
	nc, key := r.dialAs(user.Token, user.Key), parse(r.T, ident.ParseUserKey, user.Key.Public())
	defer nc.Close()
	for i, token := range []string{"", other.Token} { // none, and another's
		w := audittest.ScribeOf(r.T, user.Key)
		w.JWT = token
		ctx, cancel := context.WithTimeout(r.Context(), 5*time.Second)
		err := stream.New(nc, w.Region, key).Append(ctx, w.Head(r.T, audit.Head{End: true}, audittest.Record(r.T, time.Now(), time.Hour)))
		cancel()
		if err != nil {
			r.Fatal(err)
		}
		r.eventually(10*time.Second, func() string {
			code, v, errs := r.verify("--region", "ams")
			if code != cli.Failed || !slices.Equal(v.problems(), []string{"forged"}) || len(v.Verified[0].Findings) != i+1 {
				return fmt.Sprintf("%d: %s%+v", i, errs, v)
			}
			return ""
		})
	}
	// What a block will be is guessed, but for its signature, and something else is stored by
	// that name: the block is stored all the same.
	victim := audittest.ScribeOf(r.T, other.Key)
	rec := audittest.Record(r.T, time.Now(), time.Hour)
	rec.Request = "suppressed"
	b := victim.Head(r.T, audit.Head{End: true}, rec)
	for _, id := range []string{b.Chain + ".1", b.Sum} {
		m := &nats.Msg{Subject: "audit.ams." + user.Key.Public(), Data: []byte("x"), Header: nats.Header{nats.MsgIdHdr: {id}}}
		if _, err := nc.RequestMsg(m, 5*time.Second); err != nil {
			r.Fatal(err)
		}
	}
	own := r.dialAs(other.Token, other.Key)
	defer own.Close()
	ctx, cancel := context.WithTimeout(r.Context(), 5*time.Second)
	defer cancel()
	if err := stream.New(own, victim.Region, victim.User).Append(ctx, b); err != nil {
		r.Fatal(err)
	}
	r.eventually(10*time.Second, func() string {
		if _, out, errs := r.run("audit", "search", "--request", "suppressed"); !strings.Contains(out, "suppressed") {
			return out + errs
		}
		return ""
	})
	// Whatever somebody stores, an export of it is one that can be verified.
	if _, err := nc.Request(subject.AuditPrefix(audittest.ScribeOf(r.T, user.Key).Region)+key.String(), bytes.Repeat([]byte{1}, 1000<<10), 5*time.Second); err != nil {
		r.Fatal(err)
	}
	path := filepath.Join(r.TempDir(), "rubbish")
	if code, _, errs := r.run("audit", "export", "--to", path); code != cli.OK {
		r.Fatal(errs)
	}
	if code, v, errs := r.verify(path); code != cli.Failed || !slices.Equal(v.problems(), []string{"altered", "forged"}) {
		r.Errorf("exit code %d, %v: %s", code, v.problems(), errs)
	}
	// A key that the role had before is no stranger's; and what it wrote is no better for it.
	if code, _, errs := r.verify("--role-key", "AUTH/issuer="+audittest.Record(r.T, time.Now(), time.Hour).Account.String()); code != cli.Failed {
		r.Errorf("exit code %d, %s", code, errs)
	}
	for _, arg := range []string{"AUTH/issuer", "AUTH/issuer=X", "NONE/issuer=" + audittest.Record(r.T, time.Now(), time.Hour).Account.String()} {
		if code, _, errs := r.verify("--role-key", arg); code != cli.Usage {
			r.Errorf("%s: exit code %d, %s", arg, code, errs)
		}
	}
}
