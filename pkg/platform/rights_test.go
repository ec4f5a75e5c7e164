package platform_test

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/nats-io/jwt/v2"

	"github.com/herald-nats/herald/pkg/platform"
)

// rights are what one role may do.
type rights struct {
	pub, sub []string
	public   bool
}

// golden is the table of rights of docs/architecture.md, spelt out. Whoever
// changes it changes what somebody may do: the page, the threat model and the
// tests in internal/rightstest change with it.
func golden() map[string]rights {
	const (
		u    = "_INBOX_{{subject()}}.>"
		i    = "_INBOX.svc.{{subject()}}.>"
		read = "$JS.API.STREAM.MSG.GET.KV_decisions"
	)
	return map[string]rights{
		"GUEST/guest": {[]string{"auth.v1.info", "auth.v1.issue"}, []string{u}, true},
		"CHAT/member": {
			[]string{
				"auth.v1.info", "auth.v1.renew", "chat.KUBECON.posts.*", "chat.KUBECON.dms.*", "chat.KUBECON.online",
				"chat.KUBECON.history", "chat.KUBECON.marks",
			},
			[]string{u, "chat.KUBECON.posts.*", "chat.KUBECON.online", "chat.KUBECON.dms.{{subject()}}"},
			true,
		},
		"AUTH/issuer": {
			append([]string{"_R_.>", "audit.{{tag(region)}}.{{subject()}}", "auth.v1.home.claim", "auth.v1.home.redeem"}, gets()...),
			[]string{"auth.v1.info", "auth.v1.issue", "auth.v1.renew", "auth.v1.callout", "$SRV.>", "ledger.{{tag(region)}}.>", i},
			false,
		},
		"LEDGER/registrar": {
			[]string{"_R_.>", "denials.{{tag(region)}}.>", "ledger.*.live.>", "peers.>"},
			[]string{"auth.v1.admin.*", "peers.{{tag(region)}}.>", "peers.ALL.>", "$SRV.>", i},
			false,
		},
		"LEDGER/home": {[]string{"_R_.>", "$KV.decisions.>", read}, []string{"auth.v1.home.*", i}, false},
		"LEDGER/setup": {
			[]string{"$JS.API.STREAM.CREATE.*", "$JS.API.STREAM.UPDATE.*", "$JS.API.STREAM.INFO.*", "audit.{{tag(region)}}.{{subject()}}", "$KV.decisions.>", read},
			[]string{i},
			false,
		},
		"LEDGER/mover": {
			[]string{
				"$JS.API.STREAM.CREATE.*", "$JS.API.STREAM.UPDATE.*", "$JS.API.STREAM.INFO.*", "$JS.API.STREAM.DELETE.KV_decisions",
				"$JS.API.STREAM.DELETE.DECISIONS-MOVING", "$JS.API.STREAM.DELETE.DECISIONS_ams", "$JS.API.STREAM.DELETE.DECISIONS_sfo",
			},
			[]string{i},
			false,
		},
		"READERS/reader": {append(append(gets(), records()...), "audit.{{tag(region)}}.{{subject()}}"), []string{"ledger.{{tag(region)}}.>", "records.>", i}, false},
		"ADMIN/admin":    {[]string{"$SRV.>", "registrars.$SRV.>", "auth.v1.admin.*"}, []string{i}, false},
		"SYS/setup": {
			[]string{
				"$SYS.REQ.CLAIMS.UPDATE", "$SYS.REQ.ACCOUNT.*.CLAIMS.LOOKUP", "$SYS.REQ.SERVER.PING", "$SYS.REQ.SERVER.PING.VARZ",
				"$SYS.REQ.SERVER.PING.CONNZ", "$SYS.REQ.SERVER.PING.ROUTEZ", "$SYS.REQ.SERVER.PING.GATEWAYZ", "$SYS.REQ.SERVER.PING.JSZ",
				"$SYS.REQ.SERVER.PING.ACCOUNTZ", "$SYS.REQ.SERVER.PING.HEALTHZ", "$SYS.REQ.SERVER.PING.STATSZ",
			},
			[]string{"$SYS.SERVER.*.STATSZ", i},
			false,
		},
		"SYS/registrar": {
			[]string{
				"$SYS.REQ.CLAIMS.UPDATE", "$SYS.REQ.ACCOUNT.*.CLAIMS.LOOKUP", "$SYS.REQ.SERVER.PING", "$SYS.REQ.SERVER.*.ACCOUNTZ",
				"$SYS.REQ.SERVER.*.KICK",
			},
			[]string{"$SYS.SERVER.*.STATSZ", "$SYS.REQ.CLAIMS.UPDATE", i},
			false,
		},
	}
}

// gets are the direct gets of what holds, in the regions of these tests: home's
// bucket, each region's mirror of it and its denials.
func gets() []string {
	const get = "$JS.API.DIRECT.GET."
	return []string{get + "DECISIONS_ams", get + "DENIALS_ams", get + "DECISIONS_sfo", get + "DENIALS_sfo"}
}

// records are those of each region's records.
func records() []string {
	return []string{"$JS.API.DIRECT.GET.AUDIT_ams", "$JS.API.DIRECT.GET.AUDIT_sfo"}
}

func sorted(s []string) []string {
	s = slices.Clone(s)
	slices.Sort(s)
	return s
}

// accounts are the claims of a platform's accounts, by name.
func accounts(t *testing.T, p *platform.Platform) map[string]*jwt.AccountClaims {
	t.Helper()
	out := map[string]*jwt.AccountClaims{}
	for _, tok := range tokens(t, p) {
		c, err := p.Operator.VerifyAccount(tok)
		if err != nil {
			t.Fatal(err)
		}
		out[c.Name] = c
	}
	return out
}

func TestRights(t *testing.T) {
	p := initial(t)
	want := golden()
	for name, c := range accounts(t, p) {
		for pub, s := range c.SigningKeys {
			scope, ok := s.(*jwt.UserScope)
			if !ok {
				t.Errorf("%s has the signing key %s without a scope: it may give any right", name, pub)
				continue
			}
			id := name + "/" + scope.Role
			w, ok := want[id]
			if !ok {
				t.Errorf("there is a role %s, which the table does not have", id)
				continue
			}
			delete(want, id)
			tpl := scope.Template
			if got := sorted(tpl.Pub.Allow); !slices.Equal(got, sorted(w.pub)) {
				t.Errorf("%s may publish\n%s\nwant\n%s", id, got, sorted(w.pub))
			}
			if got := sorted(tpl.Sub.Allow); !slices.Equal(got, sorted(w.sub)) {
				t.Errorf("%s may subscribe\n%s\nwant\n%s", id, got, sorted(w.sub))
			}
			if len(tpl.Pub.Deny) != 0 || len(tpl.Sub.Deny) != 0 {
				t.Errorf("%s: rights are given, not taken away", id)
			}
			if tpl.Resp != nil {
				t.Errorf("%s has allow_responses: a right to publish anywhere", id)
			}
			types := []string{jwt.ConnectionTypeStandard}
			if w.public {
				types = append(types, jwt.ConnectionTypeWebsocket)
				if tpl.Subs <= 0 || tpl.Subs > 64 || tpl.Payload < 16<<10 || tpl.Payload > 64<<10 {
					t.Errorf("%s has no bounds: %d subscriptions of %d bytes", id, tpl.Subs, tpl.Payload)
				}
			}
			if got := sorted(tpl.AllowedConnectionTypes); !slices.Equal(got, types) {
				t.Errorf("%s may connect as %v, want %v", id, got, types)
			}
			if tpl.BearerToken {
				t.Errorf("%s takes bearers", id)
			}
		}
	}
	for id := range want {
		t.Errorf("there is no role %s", id)
	}
}

// TestRightsOfThePage holds docs/architecture.md to the same table, as far as
// it spells its subjects out.
func TestRightsOfThePage(t *testing.T) {
	data, err := os.ReadFile("../../docs/architecture.md")
	if err != nil {
		t.Fatal(err)
	}
	_, page, ok := strings.Cut(string(data), "\n## Rights of the roles\n")
	if !ok {
		t.Fatal("docs/architecture.md has no table of rights")
	}
	page, _, _ = strings.Cut(page, "\n## ")
	row := regexp.MustCompile("(?m)^\\| `([A-Z]+/[a-z]+)` \\| (.*) \\| (.*) \\|$")
	code := regexp.MustCompile("`([^`]+)`")
	want := golden()
	// What the page says once, before the table.
	said := map[string][]string{
		"U": {"_INBOX_{{subject()}}.>"}, "I": {"_INBOX.svc.{{subject()}}.>"}, "G": gets(), "A": records(),
		"D": {"$JS.API.STREAM.DELETE.DECISIONS_ams", "$JS.API.STREAM.DELETE.DECISIONS_sfo"},
	}
	cell := func(s string) []string {
		var out []string
		for part := range strings.SplitSeq(s, ", ") {
			if list, ok := said[part]; ok {
				out = append(out, list...)
				continue
			}
			m := code.FindStringSubmatch(part)
			if m == nil {
				t.Errorf("%q in the table is no subject", part)
				continue
			}
			s := strings.Replace(m[1], "chat.R.", "chat.KUBECON.", 1)
			for _, of := range []string{"audit", "ledger", "denials", "peers"} {
				s = strings.Replace(s, of+".r.", of+".{{tag(region)}}.", 1)
			}
			out = append(out, s)
		}
		return sorted(out)
	}
	for _, m := range row.FindAllStringSubmatch(page, -1) {
		w, ok := want[m[1]]
		if !ok {
			t.Errorf("docs/architecture.md has a role %s, which there is not", m[1])
			continue
		}
		delete(want, m[1])
		if got := cell(m[2]); !slices.Equal(got, sorted(w.pub)) {
			t.Errorf("docs/architecture.md: %s may publish\n%s\nwant\n%s", m[1], got, sorted(w.pub))
		}
		if got := cell(m[3]); !slices.Equal(got, sorted(w.sub)) {
			t.Errorf("docs/architecture.md: %s may subscribe\n%s\nwant\n%s", m[1], got, sorted(w.sub))
		}
	}
	for id := range want {
		t.Errorf("docs/architecture.md does not list %s", id)
	}
}

// What holds of every account, whatever its roles.
func TestAccounts(t *testing.T) {
	p := initial(t)
	all := accounts(t, p)
	names := map[string]string{}
	for name, c := range all {
		names[c.Subject] = name
		if c.Limits.DiskStorage != 0 && name != platform.Ledger {
			t.Errorf("%s has JetStream", name)
		}
		if c.Limits.LeafNodeConn != 0 || !c.Limits.DisallowBearer {
			t.Errorf("%s: leafnodes %d, bearers %t", name, c.Limits.LeafNodeConn, !c.Limits.DisallowBearer)
		}
		if c.DefaultPermissions.Pub.Allow != nil || c.Authorization.AuthUsers != nil {
			t.Errorf("%s has default permissions or a callout", name)
		}
	}
	imports := map[string][]string{}
	for name, c := range all {
		for _, i := range c.Imports {
			imports[name] = append(imports[name], names[i.Account]+" "+string(i.Subject)+" "+i.Type.String())
			if i.Type == jwt.Service && !i.Share {
				t.Errorf("%s imports %s without share: the responder is not told who asks", name, i.Subject)
			}
			if renamed := name == "ADMIN" && names[i.Account] == "LEDGER" && i.Subject != "auth.v1.admin.*"; renamed != (i.LocalSubject != "") {
				t.Errorf("%s imports %s under another name", name, i.Subject)
			}
		}
		slices.Sort(imports[name])
	}
	want := map[string][]string{
		"GUEST": {"AUTH auth.v1.info service", "AUTH auth.v1.issue service"},
		"CHAT":  {"AUTH auth.v1.info service", "AUTH auth.v1.renew service"},
		"AUTH": {
			"LEDGER audit.*.* service", "LEDGER auth.v1.home.claim service", "LEDGER auth.v1.home.redeem service", "LEDGER ledger.> stream",
		},
		"READERS": {"LEDGER audit.*.* service", "LEDGER ledger.> stream", "LEDGER records.> stream"},
		"ADMIN":   {"AUTH $SRV.> service", "LEDGER $SRV.> service", "LEDGER auth.v1.admin.* service"},
	}
	for _, get := range gets() {
		want["AUTH"] = append(want["AUTH"], "LEDGER "+get+" service")
		want["READERS"] = append(want["READERS"], "LEDGER "+get+" service")
	}
	for _, get := range records() {
		want["READERS"] = append(want["READERS"], "LEDGER "+get+" service")
	}
	for name := range all {
		if !slices.Equal(imports[name], sorted(want[name])) {
			t.Errorf("%s imports\n%s\nwant\n%s", name, strings.Join(imports[name], "\n"), strings.Join(want[name], "\n"))
		}
	}
	for name, exports := range map[string]int{"SYS": 0, "GUEST": 0, "CHAT": 0, "ADMIN": 0, "AUTH": 4, "READERS": 0, "LEDGER": 13} {
		if got := len(all[name].Exports); got != exports {
			t.Errorf("%s has %d exports, want %d", name, got, exports)
		}
	}
	// Each direct get, and discovery, may be answered by many, everything else by one;
	// nobody's export is a wildcard over the streams.
	for name, c := range all {
		for _, e := range c.Exports {
			get := strings.HasPrefix(string(e.Subject), "$JS.API.DIRECT.GET.")
			discovery := string(e.Subject) == "$SRV.>"
			if e.Type == jwt.Service && (e.ResponseType == jwt.ResponseTypeStream) != (get || discovery) {
				t.Errorf("%s exports %s with response type %s", name, e.Subject, e.ResponseType)
			}
			if strings.HasPrefix(string(e.Subject), "$") && !discovery && (!get || strings.ContainsAny(string(e.Subject), "*>")) {
				t.Errorf("%s exports %s", name, e.Subject)
			}
		}
	}
	// Only what open identities may have is offered, and issuers hold no other key.
	for _, a := range p.Document.Accounts {
		for _, r := range a.Roles {
			if (r.Open != nil) != (a.Name.String() == "CHAT" && r.Name.String() == "member") {
				t.Errorf("%s/%s: on offer %t", a.Name, r.Name, r.Open != nil)
			}
		}
	}
}

// TestNobodyAsksBesideStreams: in the account with the streams a request is answered
// wherever its reply says. The roles that may ask at all there are those of home, of
// setting up and of moving, and none of them may by direct get.
func TestNobodyAsksBesideStreams(t *testing.T) {
	for id, r := range golden() {
		account, _, _ := strings.Cut(id, "/")
		for _, s := range r.pub {
			asks := strings.HasPrefix(s, "$JS.") || strings.HasPrefix(s, "$KV.") || s == ">" || strings.HasPrefix(s, "*")
			if account == platform.Ledger && strings.HasPrefix(s, "$JS.API.DIRECT.") {
				t.Errorf("%s may delete streams by %s", id, s)
			}
			if asks && account == platform.Ledger && id != "LEDGER/home" && id != "LEDGER/setup" && id != "LEDGER/mover" {
				t.Errorf("%s may ask %s", id, s)
			}
		}
	}
	// Registrars of other regions than home cannot decide: they hold no such creds.
	p := initial(t)
	for _, r := range p.File.Regions {
		_, err := os.Stat(filepath.Join(p.Dir.Registrar(r.Name), platform.HomeCreds))
		if (err == nil) != (r.Name == p.File.Home) {
			t.Errorf("home's creds in %s: %v", r.Name, err)
		}
	}
}
