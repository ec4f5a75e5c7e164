package rightstest

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/nats-io/jwt/v2"

	"github.com/herald-nats/herald/pkg/platform"
	"github.com/herald-nats/herald/pkg/subject"
)

// accounts are the account JWTs that the servers work with.
func accounts(t *testing.T) map[string]*jwt.AccountClaims {
	t.Helper()
	all := map[string]*jwt.AccountClaims{}
	for _, token := range accountTokens() {
		c, err := shared.Up.Platform.Operator.VerifyAccount(token)
		if err != nil {
			t.Fatal(err)
		}
		all[c.Name] = c
	}
	if len(all) < 5 {
		t.Fatalf("%d accounts: nothing is checked", len(all))
	}
	return all
}

func scopes(t *testing.T, a *jwt.AccountClaims) []*jwt.UserScope {
	t.Helper()
	var all []*jwt.UserScope
	for key, scope := range a.SigningKeys {
		s, ok := scope.(*jwt.UserScope)
		if !ok {
			// A signing key without a scope makes users with any rights.
			t.Errorf("%s: the signing key %s has no scope", a.Name, key)
			continue
		}
		all = append(all, s)
	}
	return all
}

func isPublic(account string) bool { return account == platform.Guest || account == platform.ChatIn }

// What every account JWT must say, whatever roles are added to the table.
func TestTemplates(t *testing.T) {
	roles := 0
	for name, a := range accounts(t) {
		// 48: no account takes leafnodes, besides what each role's template says.
		if a.Limits.LeafNodeConn != 0 {
			t.Errorf("%s: %d leafnodes may connect", name, a.Limits.LeafNodeConn)
		}
		// 44: streams lie in an account with none but registrars.
		js := a.Limits.JetStreamLimits != (jwt.JetStreamLimits{}) || len(a.Limits.JetStreamTieredLimits) > 0
		if js != (name == platform.Ledger) {
			t.Errorf("%s: JetStream is %t", name, js)
		}
		// A bearer token needs no seed: who sees it is it.
		if !a.Limits.DisallowBearer {
			t.Errorf("%s: bearer tokens are allowed", name)
		}
		if len(a.Revocations) > 0 || a.DefaultPermissions.Pub.Allow != nil || a.DefaultPermissions.Sub.Allow != nil {
			t.Errorf("%s: default permissions or revocations from the start", name)
		}
		if a.Authorization.IsEnabled() || a.Trace != nil || len(a.Mappings) > 0 {
			t.Errorf("%s: callout, tracing or mappings, which this version has not", name)
		}
		for _, imp := range a.Imports {
			// 32: without share the responder is not told who asks.
			if imp.Type == jwt.Service && !imp.Share {
				t.Errorf("%s: the import of %s does not say who asks", name, imp.Subject)
			}
			// But for discovery of registrars, whose subject is that of issuers.
			if imp.AllowTrace || (imp.LocalSubject != "") != (name == platform.Admin && imp.Account == accounts(t)[platform.Ledger].Subject && imp.Subject != subject.AdminAll) {
				t.Errorf("%s: the import of %s is traced or renamed", name, imp.Subject)
			}
			// 46: whoever reaches SYS by import reaches what answers there.
			if imp.Account == shared.Up.Platform.Operator.System().String() {
				t.Errorf("%s: imports %s from SYS", name, imp.Subject)
			}
			if isPublic(name) && (imp.Type != jwt.Service || !strings.HasPrefix(string(imp.Subject), "auth.v1.")) {
				t.Errorf("%s: imports %s", name, imp.Subject)
			}
		}
		for _, exp := range a.Exports {
			if isPublic(name) || name == platform.System {
				t.Errorf("%s: exports %s", name, exp.Subject)
			}
			if exp.AllowTrace {
				t.Errorf("%s: the export of %s is traced", name, exp.Subject)
			}
		}
		for _, s := range scopes(t, a) {
			roles++
			template(t, name+"/"+s.Role, isPublic(name), s.Template)
		}
	}
	if roles < 6 {
		t.Errorf("%d roles: nothing is checked", roles)
	}
}

func template(t *testing.T, role string, public bool, u jwt.UserPermissionLimits) {
	t.Helper()
	// 30: a responder with allow_responses writes wherever a request says,
	// also where it is denied.
	if u.Resp != nil {
		t.Errorf("%s: allow_responses", role)
	}
	if u.BearerToken {
		t.Errorf("%s: bearer tokens", role)
	}
	if len(u.Pub.Allow) == 0 || len(u.Sub.Allow) == 0 {
		t.Errorf("%s: a right that is not limited", role) // an empty list allows everything
	}
	// 48, and MQTT, whose sessions are streams.
	types := slices.Sorted(slices.Values(u.AllowedConnectionTypes))
	want := []string{jwt.ConnectionTypeStandard}
	if public {
		want = append(want, jwt.ConnectionTypeWebsocket)
	}
	if !slices.Equal(types, want) {
		t.Errorf("%s: connects as %v, want %v", role, types, want)
	}
	for _, subj := range slices.Concat(u.Pub.Allow, u.Sub.Allow, u.Pub.Deny, u.Sub.Deny) {
		// 11: with a name in the template, a user named "*" is everyone; and a
		// tag is an issuer's to choose, for members.
		if strings.Contains(subj, "name()") || strings.Contains(subj, "account") {
			t.Errorf("%s: %s is made of a name", role, subj)
		}
		if public && strings.Contains(strings.ReplaceAll(subj, "{{subject()}}", ""), "{{") {
			t.Errorf("%s: %s is made of more than the user's own nkey", role, subj)
		}
		// 17: an inbox is one user's.
		if strings.HasPrefix(subj, "_INBOX") && !strings.Contains(subj, "{{subject()}}") {
			t.Errorf("%s: %s is everyone's", role, subj)
		}
		first, _, _ := strings.Cut(subj, ".")
		if first == "*" || first == ">" {
			t.Errorf("%s: %s begins with a wildcard", role, subj)
		}
		// 28, 46: no stream, bucket, system or discovery for the public, and no
		// answering.
		if public && (strings.HasPrefix(first, "$") || first == "_R_" || first == "_INBOX" || first == "_GR_") {
			t.Errorf("%s: %s is no right for the public", role, subj)
		}
	}
	for _, subj := range u.Sub.Allow {
		if public && strings.HasPrefix(subj, "auth.") {
			t.Errorf("%s: would answer %s itself", role, subj)
		}
		if strings.HasPrefix(subj, "chat.") && strings.Contains(subj, ".dms.") && !strings.HasSuffix(subj, ".dms.{{subject()}}") {
			t.Errorf("%s: reads %s", role, subj)
		}
	}
	for _, subj := range u.Pub.Allow {
		// 28: making or changing a consumer is a right to publish anywhere.
		mover := role == platform.Ledger+"/"+platform.RoleMover
		if strings.Contains(subj, "CONSUMER") || subj == "$JS.>" || subj == "$JS.API.>" || strings.Contains(subj, "STREAM.DELETE") && !mover {
			t.Errorf("%s: %s", role, subj)
		}
		// 44: nobody who stays may make or change a stream; the set-up tool's user is
		// made for one start, and may not delete one either: that may only who moves home, of home's
		// bucket and its mirrors. What may be asked of JetStream by direct get is asked by import only.
		api, isAPI := strings.CutPrefix(subj, "$JS.API.")
		setup, ledger := role == platform.Ledger+"/"+platform.RoleSetup, strings.HasPrefix(role, platform.Ledger+"/")
		switch {
		case !isAPI:
		case strings.HasPrefix(api, "DIRECT.GET.") && !ledger, strings.HasPrefix(api, "STREAM.MSG.GET.") && ledger:
		case mover && strings.HasPrefix(api, "STREAM.DELETE.") && (strings.HasSuffix(api, "."+subject.DecisionsStream) || strings.HasPrefix(api, "STREAM.DELETE.DECISIONS")):
		case (setup || mover) && (subj == subject.StreamCreate || subj == subject.StreamUpdate || subj == subject.StreamInfo):
		default:
			t.Errorf("%s: %s", role, subj)
		}
	}
}

// 46: there is no read-only system user, so the lists are all of it. Creds are nobody's
// but registrars'; the set-up tool makes its user for each run.
func TestSystemRights(t *testing.T) {
	sys := accounts(t)[platform.System]
	all := scopes(t, sys)
	if len(all) != 2 {
		t.Fatalf("SYS has %d roles", len(all))
	}
	const ping = "$SYS.REQ.SERVER.PING"
	both := []string{"$SYS.REQ.CLAIMS.UPDATE", "$SYS.REQ.ACCOUNT.*.CLAIMS.LOOKUP", ping}
	wantPub := map[string][]string{
		platform.RoleRegistrar: append(slices.Clone(both), "$SYS.REQ.SERVER.*.ACCOUNTZ", "$SYS.REQ.SERVER.*.KICK"),
		platform.RoleSetup: append(slices.Clone(both), ping+".VARZ", ping+".CONNZ", ping+".ROUTEZ", ping+".GATEWAYZ", ping+".JSZ",
			ping+".ACCOUNTZ", ping+".HEALTHZ", ping+".STATSZ"),
	}
	wantSub := map[string][]string{
		platform.RoleRegistrar: {"$SYS.SERVER.*.STATSZ", "$SYS.REQ.CLAIMS.UPDATE", "_INBOX.svc.{{subject()}}.>"},
		platform.RoleSetup:     {"$SYS.SERVER.*.STATSZ", "_INBOX.svc.{{subject()}}.>"},
	}
	for _, s := range all {
		if got := slices.Sorted(slices.Values(s.Template.Pub.Allow)); !slices.Equal(got, slices.Sorted(slices.Values(wantPub[s.Role]))) {
			t.Errorf("%s publishes %v", s.Role, got)
		}
		if got := slices.Sorted(slices.Values(s.Template.Sub.Allow)); !slices.Equal(got, slices.Sorted(slices.Values(wantSub[s.Role]))) {
			t.Errorf("%s subscribes %v", s.Role, got)
		}
	}

	// Where creds in SYS lie at all: with registrars.
	system := shared.Up.Platform.Operator.System().String()
	eachFile(t, func(path string, data []byte) {
		token, err := jwt.ParseDecoratedJWT(data)
		if filepath.Ext(path) != ".creds" || err != nil {
			return
		}
		c, err := jwt.DecodeUserClaims(token)
		if err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		if c.IssuerAccount == system && !strings.HasPrefix(path, "registrars/") {
			t.Errorf("%s is a user of SYS", path)
		}
	})
}

// eachFile reads all files of the platform folder but the servers' data.
func eachFile(t *testing.T, f func(path string, data []byte)) {
	t.Helper()
	n := 0
	err := filepath.WalkDir(shared.Dir, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if path == dir().Data() {
				return filepath.SkipDir
			}
			return nil
		}
		data, err := os.ReadFile(path) // #nosec G122 -- a folder that this test made
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(shared.Dir, path)
		if err != nil {
			return err
		}
		n++
		f(filepath.ToSlash(rel), data)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if n < 20 {
		t.Fatalf("%d files: nothing is checked", n)
	}
}
