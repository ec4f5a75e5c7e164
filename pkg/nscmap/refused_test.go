package nscmap_test

import (
	"errors"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"

	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/keystore"
	"github.com/herald-nats/herald/pkg/nscmap"
	"github.com/herald-nats/herald/pkg/nscstore"
	"github.com/herald-nats/herald/pkg/platform/manifest"
	"github.com/herald-nats/herald/pkg/trust"
)

// what is an operator with one account A, whose role is svc.
type what struct {
	*maker
	a    *jwt.AccountClaims
	role *jwt.UserScope
}

func newWhat(t tb) *what {
	m := newMaker(t)
	w := &what{maker: m, a: m.account("A")}
	w.role = m.role(w.a, "svc")
	return w
}

// lose takes a seed out of the keystore.
func (w *what) lose(pub string) { delete(w.keys, pub) }

func TestRefused(t *testing.T) {
	for name, tt := range map[string]struct {
		edit  func(w *what)
		item  string
		why   string // a part of it
		more  []string
		fatal bool
	}{
		"a managed operator":             {func(w *what) { w.managed = true }, "operator", "somebody else's", nil, true},
		"an operator without its seed":   {func(w *what) { w.lose(w.op.Public()) }, "operator", "seed of its own key", nil, true},
		"an operator that ends":          {func(w *what) { w.oc.Expires = now().Unix() + 10 }, "operator/expiry", "expires on 2026", nil, false},
		"an operator that begins":        {func(w *what) { w.oc.NotBefore = now().Unix() + 10 }, "operator/not-before", "begins on", nil, false},
		"an account server":              {func(w *what) { w.oc.AccountServerURL = "https://example.com/jwt/v1" }, "operator/account-server-url", "account server", nil, false},
		"an audience of the operator":    {func(w *what) { w.oc.Audience = "x" }, "operator/audience", "audience", nil, false},
		"no system account in the store": {func(w *what) { w.oc.SystemAccount = w.key(keystore.Account).Public() }, "operator/system-account", "not in the store", []string{"SYS"}, false},
		"a signing key that nothing proves": {func(w *what) {
			lost := w.key(keystore.Operator).Public()
			w.lose(lost)
			w.oc.SigningKeys, w.by = jwt.StringList{w.sk.Public(), lost}, w.sk
		}, "operator/signing-keys/*", "nothing proves", nil, false},
		"a system account without its seed": {func(w *what) { w.lose(w.oc.SystemAccount) }, "SYS", "system account is not in the keystore", nil, false},

		"a plain signing key":         {func(w *what) { w.a.SigningKeys.Add(w.key(keystore.Account).Public()) }, "A/signing-keys/*", "without a role", nil, false},
		"an account that ends":        {func(w *what) { w.a.Expires = now().Unix() + 10 }, "A", "expires on", nil, false},
		"an account that ended":       {func(w *what) { w.a.Expires = now().Unix() - 10 }, "A", "expired on", nil, false},
		"an account that begins":      {func(w *what) { w.a.NotBefore = now().Unix() + 10 }, "A", "begins on", nil, false},
		"an account without its seed": {func(w *what) { w.lose(w.a.Subject) }, "A", "seed", nil, false},
		"an audience":                 {func(w *what) { w.a.Audience = "x" }, "A/audience", "audience", nil, false},
		"a name with a space":         {func(w *what) { w.a.Name = "a b" }, "a b", "name of an account", nil, false},
		"Herald's own name":           {func(w *what) { w.a.Name = "AUTH" }, "AUTH", "of its own", nil, false},
		"a limit below nothing":       {func(w *what) { w.a.Limits.Conn = -7 }, "A", "limits.conn is -7", nil, false},
		"a limit of storage":          {func(w *what) { w.a.Limits.DiskStorage = -7 }, "A", "limits.disk_storage is -7", nil, false},
		"a tier":                      {func(w *what) { w.a.Limits.JetStreamTieredLimits["R5"] = jwt.JetStreamLimits{DiskStorage: 1} }, "A/jetstream/R5", "R1 and R3", nil, false},
		"a tag in capitals":           {func(w *what) { w.a.Tags = append(w.a.Tags, "Env:X") }, "A/tags/Env:X", "lower case", nil, false},
		"a tag of Herald's":           {func(w *what) { w.a.Tags.Add("base:x") }, "A/tags/base:x", "Herald's own", nil, false},
		"a description":               {func(w *what) { w.a.Description = "a\x1b[2J" }, "A/description", "cannot be seen", nil, false},

		"a role without its seed":         {func(w *what) { w.lose(w.role.Key) }, "A/roles/svc", "seed", []string{"A/users/u"}, false},
		"a role's name":                   {func(w *what) { w.role.Role = "a role" }, "A/roles/a role", "name of a role", nil, false},
		"two roles of one name":           {func(w *what) { w.maker.role(w.a, "svc") }, "A/roles/svc/*", "two keys", nil, false},
		"a proxy":                         {func(w *what) { w.role.Template.ProxyRequired = true }, "A/roles/svc", "proxy", []string{"A/users/u"}, false},
		"{{name()}}":                      {func(w *what) { w.role.Template.Pub.Allow.Add("x.{{name()}}") }, "A/roles/svc/publish/x.{{name()}}", "named * would be everyone", nil, false},
		"a template that no server knows": {func(w *what) { w.role.Template.Sub.Allow.Add("x.{{nome()}}") }, "A/roles/svc", "servers refuse all of its users", []string{"A/users/u"}, false},
		"a denial of {{name()}}":          {func(w *what) { w.role.Template.Pub.Deny.Add("x.{{name()}}") }, "A/roles/svc", "named * would be everyone", []string{"A/users/u"}, false},
		"everything":                      {func(w *what) { w.role.Template.Pub = jwt.Permission{} }, "A/roles/svc/publish/>", "$SYS.>", nil, false},
		"everybody's inbox":               {func(w *what) { w.role.Template.Sub.Allow.Add("_INBOX.>") }, "A/roles/svc/subscribe/_INBOX.>", "each other's answers", nil, false},
		"a queue group":                   {func(w *what) { w.role.Template.Sub.Allow = append(w.role.Template.Sub.Allow, "a g") }, "A/roles/svc/subscribe/a g", "space", nil, false},
		"an empty permission":             {func(w *what) { w.role.Template.Sub.Allow = append(w.role.Template.Sub.Allow, "") }, "A/roles/svc", "empty", []string{"A/users/u"}, false},
		"answers without limit":           {func(w *what) { w.role.Template.Resp = &jwt.ResponsePermission{MaxMsgs: -1} }, "A/roles/svc/allow_responses", "below 0", nil, false},
		"answers for ever":                {func(w *what) { w.role.Template.Resp = &jwt.ResponsePermission{Expires: -1} }, "A/roles/svc/allow_responses", "below 0", nil, false},
		"a network that is none":          {func(w *what) { w.role.Template.Src = jwt.CIDRList{"x", "10.0.0.0/8"} }, "A/roles/svc", "not a network", []string{"A/users/u"}, false},
		"hours that are none":             {func(w *what) { w.role.Template.Times = []jwt.TimeRange{{Start: "x", End: "10:00:00"}} }, "A/roles/svc", "time of day", []string{"A/users/u"}, false},
		"a kind of connection":            {func(w *what) { w.role.Template.AllowedConnectionTypes.Add("PIGEON", "STANDARD") }, "A/roles/svc", "PIGEON", []string{"A/users/u"}, false},
		"default permissions with braces": {func(w *what) {
			w.role.Template.Permissions = jwt.Permissions{}
			w.a.DefaultPermissions.Pub.Allow.Add("x.{{subject()}}")
		}, "A/roles/svc", "no templates there", []string{"A/users/u"}, false},

		"an import in the old way": {func(w *what) {
			b := other(w.maker)
			w.a.Imports.Add(&jwt.Import{Account: b.Subject, Subject: "theirs.>", To: "x", Type: jwt.Stream}) //nolint:staticcheck // this is what is tested
		}, "A/imports/OTHER/stream/theirs.>", "old way", nil, false},
		"an import from nowhere": {func(w *what) {
			w.a.Imports.Add(&jwt.Import{Account: w.key(keystore.Account).Public(), Subject: "x", Type: jwt.Stream})
		}, "A/imports/*", "not in the store", nil, false},
		"an import of what is not exported": {func(w *what) {
			b := w.account("B")
			w.a.Imports.Add(&jwt.Import{Account: b.Subject, Subject: "x", Type: jwt.Stream})
		}, "A/imports/B/stream/x", "exports no stream", nil, false},
		"exports that overlap": {func(w *what) {
			w.a.Exports.Add(&jwt.Export{Subject: "a.*.c", Type: jwt.Stream}, &jwt.Export{Subject: "*.b.c", Type: jwt.Stream})
		}, "A/exports/stream/a.*.c", "overlaps", nil, false},
		"a private export that nobody may import": {func(w *what) {
			w.a.Exports.Add(&jwt.Export{Subject: "p", Type: jwt.Stream, TokenReq: true})
		}, "A/exports/stream/p", "private", nil, false},
		"a mapping of what is not there": {func(w *what) {
			w.a.Mappings["a.*"] = []jwt.WeightedMapping{{Subject: "b.$2"}}
		}, "A/mappings/a.*", "number 2", nil, false},
		"a mapping in another cluster": {func(w *what) {
			w.a.Mappings["a"] = []jwt.WeightedMapping{{Subject: "b", Cluster: "east"}}
		}, "A/mappings/a", "no cluster", nil, false},
		"what a trace goes to": {func(w *what) { w.a.Trace = &jwt.MsgTrace{Destination: "a.{b}"} }, "A/trace", "braces", nil, false},
		"callout into all accounts": {func(w *what) {
			w.a.EnableExternalAuthorization(w.key(keystore.User).Public())
			w.a.Authorization.AllowedAccounts.Add("*")
		}, "A", "every account", []string{"A/users/u"}, false},
		"callout into an account that is not there": {func(w *what) {
			w.a.EnableExternalAuthorization(w.key(keystore.User).Public())
			w.a.Authorization.AllowedAccounts.Add(w.key(keystore.Account).Public())
		}, "A", "does not go along", []string{"A/users/u"}, false},

		"an export of the system account": {func(w *what) {
			sys := w.accounts[0]
			sys.Exports.Add(&jwt.Export{Subject: "$SYS.ACCOUNT.*.>", Type: jwt.Stream, AccountTokenPosition: 3})
			w.a.Imports.Add(&jwt.Import{Account: sys.Subject, Subject: jwt.Subject("$SYS.ACCOUNT." + w.a.Subject + ".>"), LocalSubject: "sys.>", Type: jwt.Stream})
		}, "SYS/exports/stream/$SYS.ACCOUNT.*.>", "for every account", []string{"A/imports/SYS/*"}, false},
		"an import of the system account": {func(w *what) {
			b := other(w.maker)
			w.accounts[0].Imports.Add(&jwt.Import{Account: b.Subject, Subject: "theirs.>", Type: jwt.Stream})
		}, "SYS/imports", "cannot have imports", nil, false},
		"streams of the system account": {func(w *what) { w.accounts[0].Limits.DiskStorage = -1 }, "SYS", "cannot have jetstream", nil, false},
		"a role of the system account":  {func(w *what) { w.maker.role(w.accounts[0], "x") }, "SYS/signing-keys/*", "nobody but", nil, false},
		"a user of the system account": {func(w *what) {
			w.user(w.accounts[0], "sys", w.accounts[0].Subject)
		}, "SYS/users/sys", "nobody but registrars", nil, false},
		"a user of the account's own key": {func(w *what) { w.user(w.a, "plain", w.a.Subject) }, "A/users/plain", "own key signed it", nil, false},
		"a user of a plain key": {func(w *what) {
			k := w.key(keystore.Account).Public()
			w.a.SigningKeys.Add(k)
			w.user(w.a, "plain", k)
		}, "A/users/plain", "is no role here", []string{"A/signing-keys/*"}, false},
		"a user's name":     {func(w *what) { w.user(w.a, "§", w.role.Key) }, "A/users/§", "none that Herald can write", nil, false},
		"two users' names":  {func(w *what) { w.user(w.a, "U", w.role.Key) }, "A/users/U", "is called u already", nil, false},
		"an unknown member": {func(w *what) { w.a.Name = "LATER" }, "LATER", "does not know", nil, false},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWhat(t)
			w.user(w.a, "u", w.role.Key)
			tt.edit(w)
			s := w.store()
			if w.a.Name == "LATER" {
				s = later(t, w, s)
			}
			m := from(t, s)
			if m.File != nil || m.Key != nil || len(m.Users) > 0 {
				t.Error("beside refusals, something is given")
			}
			want := append([]string{tt.item}, tt.more...)
			for _, i := range m.Refused {
				if !slices.ContainsFunc(want, func(w string) bool { return like(i.Item, w) }) {
					t.Errorf("refused, too: %+v", i)
				}
			}
			for _, item := range want {
				j := slices.IndexFunc(m.Refused, func(i nscmap.Item) bool { return like(i.Item, item) })
				if j < 0 {
					t.Fatalf("%q is not refused: %+v", item, m.Refused)
				}
				got := m.Refused[j]
				if item == tt.item && (!strings.Contains(got.Why, tt.why) || got.Fatal != tt.fatal) || got.Hint == "" {
					t.Errorf("refused as %+v", got)
				}
			}
			all := from(t, s, func(o *nscmap.Options) { o.All = true })
			if tt.fatal {
				if len(all.Refused) == 0 {
					t.Error("it was left out, and cannot be")
				}
				return
			}
			if len(all.Refused) > 0 || all.File == nil {
				t.Fatalf("with everything left out: %+v", all.Refused)
			}
			if len(all.LeftOut) < len(m.Refused) {
				t.Errorf("left out: %q", items(all.LeftOut))
			}
		})
	}
}

// like tells whether an item is meant; * is for a key.
func like(item, want string) bool {
	before, after, wild := strings.Cut(want, "*")
	if !wild || strings.Contains(want, "exports") || strings.Contains(want, "mappings") {
		return item == want
	}
	return strings.HasPrefix(item, before) && strings.HasSuffix(item, after)
}

// later gives account A a member that this version does not know.
func later(t *testing.T, w *what, s *nscstore.Store) *nscstore.Store {
	t.Helper()
	for i, a := range s.Accounts {
		if a.Name() != "LATER" {
			continue
		}
		body := strings.Replace(string(payload(t, a.Token())), `"nats":{`, `"nats":{"later_still":{"a":1},`, 1)
		s.Accounts[i] = must[nscstore.Account](t)(nscstore.ParseAccount(signed(t, []byte(body), w.sk)))
	}
	return s
}

// TestNames has what is renamed, and what cannot be.
func TestNames(t *testing.T) {
	w := newWhat(t)
	w.accounts[0].Name = "System of Big Op"
	w.a.Name = "CHAT"
	two := w.account("acc two")
	unnamed := w.maker.role(two, "")
	bad := w.maker.role(two, "a role")
	w.user(two, "U One", unnamed.Key)
	w.user(two, "§", unnamed.Key)
	two.Imports.Add(&jwt.Import{Account: w.a.Subject, Subject: "theirs.>", Type: jwt.Stream})
	w.a.Exports.Add(&jwt.Export{Subject: "theirs.>", Type: jwt.Stream})
	good := func(o *nscmap.Options) {
		o.Accounts = map[string]ident.Label{"CHAT": label(t, "TALK"), "acc two": label(t, "TWO")}
		o.Roles = map[string]ident.Label{bad.Key: label(t, "good")}
		o.Users = map[[2]string]ident.Name{{"acc two", "§"}: name(t, "paragraph")}
	}
	m := clean(t, w.store(), good)
	made := w.made(m)
	if made["TWO"] == nil || made["TALK"] == nil || made["SYS"].Subject != w.oc.SystemAccount {
		t.Fatalf("accounts %v", made)
	}
	if from := made["TWO"].Imports[0].Account; from != w.a.Subject {
		t.Errorf("the import is from %s", from)
	}
	roles := map[string]string{}
	for k, s := range made["TWO"].SigningKeys {
		roles[s.(*jwt.UserScope).Role] = k
	}
	if roles["role-1"] != unnamed.Key || roles["good"] != bad.Key || len(roles) != 2 {
		t.Errorf("roles %v", roles)
	}
	var users []string
	for _, u := range m.Users {
		users = append(users, u.Role.String()+" "+u.Name.String())
	}
	if !slices.Equal(users, []string{"TWO/role-1 paragraph", "TWO/role-1 u-one"}) {
		t.Errorf("users %q", users)
	}
	if len(m.Notes) < 5 {
		t.Errorf("notes %+v", m.Notes)
	}
	for what, edit := range map[string]func(*nscmap.Options){
		"an account that is not there": func(o *nscmap.Options) { o.Accounts["nobody"] = label(t, "X") },
		"a role that is not there":     func(o *nscmap.Options) { o.Roles[w.sk.Public()] = label(t, "x") },
		"a user that is not there":     func(o *nscmap.Options) { o.Users[[2]string{"CHAT", "x"}] = name(t, "x") },
		"an item that is not refused":  func(o *nscmap.Options) { o.LeaveOut = []string{"CHAT/users/x"} },
	} {
		o := nscmap.Options{Into: into(t), Now: now()}
		good(&o)
		edit(&o)
		if m, err := nscmap.From(w.store(), o); !errors.Is(err, nscmap.ErrUnknown) || m != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	for what, edit := range map[string]func(*nscmap.Options){
		"a name of Herald's":         func(o *nscmap.Options) { o.Accounts["CHAT"] = label(t, "AUTH") },
		"the system account renamed": func(o *nscmap.Options) { o.Accounts["System of Big Op"] = label(t, "S") },
	} {
		o := nscmap.Options{Into: into(t), Now: now()}
		good(&o)
		edit(&o)
		if m, err := nscmap.From(w.store(), o); !errors.Is(err, nscmap.ErrName) || m != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	m = from(t, w.store(), good, func(o *nscmap.Options) { o.Accounts["CHAT"] = label(t, "TWO") })
	if i, ok := item(m.Refused, "acc two"); !ok || !strings.Contains(i.Why, "already") {
		t.Errorf("two of one name: %+v", m.Refused)
	}
}

// TestSystem: nsc has the system account export something that nobody needs here.
func TestSystem(t *testing.T) {
	w := newWhat(t)
	w.accounts[0].Exports.Add(
		&jwt.Export{Name: "account-monitoring-streams", Subject: "$SYS.ACCOUNT.*.>", Type: jwt.Stream, AccountTokenPosition: 3},
		&jwt.Export{Name: "account-monitoring-services", Subject: "$SYS.REQ.ACCOUNT.*.*", Type: jwt.Service, ResponseType: "Stream", AccountTokenPosition: 4},
	)
	m := clean(t, w.store())
	if len(m.File.Accounts) != 1 || len(m.Notes) != 2 {
		t.Errorf("accounts %+v, notes %+v", m.File.Accounts, m.Notes)
	}
	// An operator without one gets one.
	w.oc.SystemAccount = ""
	w.accounts = w.accounts[1:]
	m = clean(t, w.store())
	if m.Accounts[label(t, "SYS")] != nil || m.Operator.SystemAccount != "" {
		t.Error("where does the system account come from?")
	}
}

// TestOperator: what its claims keep.
func TestOperator(t *testing.T) {
	w := newWhat(t)
	lost := w.key(keystore.Operator)
	w.lose(lost.Public())
	w.oc.SigningKeys.Add(lost.Public())
	w.oc.Tags.Add("env:prod")
	w.oc.OperatorServiceURLs.Add("nats://127.0.0.1:4222")
	w.oc.AccountServerURL, w.oc.AssertServerVersion = "nats://127.0.0.1:4222", "2.1.0"
	m := clean(t, w.store())
	op := m.Operator
	if op.Name != "Big Op" || !op.Tags.Contains("env:prod") || len(op.OperatorServiceURLs) != 1 || op.AccountServerURL == "" || op.AssertServerVersion != "2.1.0" {
		t.Errorf("operator %+v", op)
	}
	if len(op.SigningKeys) != 2 || len(m.Signing) != 1 || m.Signing[0].Public() != w.sk.Public() || m.Key.Public() != w.op.Public() {
		t.Errorf("signing keys %q, seeds %v", op.SigningKeys, m.Signing)
	}
	// Signed by a signing key, what it lists is believed as far as its seeds are here.
	w.by = w.sk
	m = from(t, w.store())
	if i, ok := item(m.Refused, "operator/signing-keys/"+lost.Public()); !ok || len(m.Refused) != 1 {
		t.Errorf("refused %+v %+v", i, m.Refused)
	}
	m = clean(t, w.store(), func(o *nscmap.Options) { o.LeaveOut = []string{"operator/signing-keys/" + lost.Public()} })
	if len(m.Operator.SigningKeys) != 1 {
		t.Errorf("signing keys %q", m.Operator.SigningKeys)
	}
}

// TestUsers: who goes along, and with what.
func TestUsers(t *testing.T) {
	w := newWhat(t)
	creds := w.user(w.a, "creds", w.role.Key)
	seed := w.user(w.a, "seed", w.role.Key)
	none := w.user(w.a, "none", w.role.Key)
	w.user(w.a, "ended", w.role.Key, func(u *jwt.UserClaims) { u.Expires = now().Unix() - 1 })
	w.user(w.a, "dead", w.role.Key, func(u *jwt.UserClaims) { u.Pub.Allow.Add("x") })
	list := w.users[w.a.Subject]
	list[1].Creds, list[2].Creds = nil, nil
	w.lose(none.Key())
	gone := w.user(w.a, "gone", w.role.Key)
	w.users[w.a.Subject] = w.users[w.a.Subject][:5]
	w.strays = []nscstore.Stray{{Account: "A", Name: "gone", User: gone}}
	m := clean(t, w.store())
	got := map[string]nscmap.User{}
	for _, u := range m.Users {
		got[u.Name.String()] = u
	}
	if len(got) != 3 || got["creds"].Token != creds.Token() || got["seed"].Key.Public() != seed.Key() || got["ended"].Role != (manifest.RoleRef{Account: label(t, "A"), Role: label(t, "svc")}) {
		t.Errorf("users %+v", m.Users)
	}
	var behind []string
	for _, n := range m.Behind {
		behind = append(behind, n.Item)
	}
	for _, want := range []string{"A/users/none", "A/users/dead", "creds/A/gone", "keys/" + gone.Key()} {
		if !slices.Contains(behind, want) {
			t.Errorf("%s is not named among %q", want, behind)
		}
	}
	if !slices.ContainsFunc(m.Notes, func(n nscmap.Note) bool { return n.Item == "users" && strings.Contains(n.What, "2 have") }) {
		t.Errorf("notes %+v", m.Notes)
	}
}

// TestPrivate: who has an activation may import, and nobody else; and back.
func TestPrivate(t *testing.T) {
	for name, tt := range map[string]struct {
		edit func(w *what, act *jwt.ActivationClaims, e *jwt.Export)
		why  string
	}{
		"good": {},
		"signed by a signing key": {edit: func(w *what, act *jwt.ActivationClaims, _ *jwt.Export) {
			act.IssuerAccount, act.Issuer = w.a.Subject, w.role.Key
		}},
		"ended":       {func(_ *what, act *jwt.ActivationClaims, _ *jwt.Export) { act.Expires = now().Unix() }, "expired on"},
		"that ends":   {func(_ *what, act *jwt.ActivationClaims, _ *jwt.Export) { act.Expires = now().Unix() + 1 }, "expires on"},
		"that begins": {func(_ *what, act *jwt.ActivationClaims, _ *jwt.Export) { act.NotBefore = now().Unix() + 1 }, "begins on"},
		"revoked":     {func(_ *what, act *jwt.ActivationClaims, e *jwt.Export) { e.RevokeAt(act.Subject, now()) }, "revoked"},
		"all revoked": {func(_ *what, _ *jwt.ActivationClaims, e *jwt.Export) { e.RevokeAt(jwt.All, now()) }, "revoked"},
		"revoked before": {edit: func(_ *what, act *jwt.ActivationClaims, e *jwt.Export) {
			e.RevokeAt(act.Subject, now().Add(-time.Hour))
		}},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWhat(t)
			e := &jwt.Export{Subject: "p.>", Type: jwt.Service, TokenReq: true}
			w.a.Exports.Add(e)
			b, third := w.account("B"), w.account("C")
			act := jwt.NewActivationClaims(b.Subject)
			act.ImportSubject, act.ImportType, act.Issuer, act.IssuedAt = "p.>", jwt.Service, w.a.Subject, now().Add(-time.Minute).Unix()
			act.Type, act.Version = jwt.ActivationClaim, 2
			if tt.edit != nil {
				tt.edit(w, act, e)
			}
			token := must[string](t)(trust.EncodeJWT(act, w.keys[act.Issuer]))
			b.Imports.Add(&jwt.Import{Account: w.a.Subject, Subject: "p.x", Type: jwt.Service, Token: token})
			if tt.why != "" {
				s := w.store()
				m := from(t, s)
				if i, ok := item(m.Refused, "B/imports/A/service/p.x"); !ok || !strings.Contains(i.Why, tt.why) || len(m.Refused) != 2 {
					t.Errorf("refused %+v", m.Refused)
				}
				return
			}
			m := clean(t, w.store())
			i := slices.IndexFunc(m.File.Accounts, func(a manifest.Account) bool { return a.Name.String() == "A" })
			if only := m.File.Accounts[i].Exports[0].Only; len(only) != 1 || only[0].String() != "B" {
				t.Errorf("only %v", only)
			}
			out := w.back(m)
			for _, a := range out.Accounts {
				switch a.Name() {
				case "A":
					if !a.Claims().Exports[0].TokenReq {
						t.Error("it is not private any more")
					}
				case "B":
					if a.Claims().Imports[0].Token == "" {
						t.Error("it has no activation")
					}
				}
			}
			again := clean(t, out)
			if string(again.File.Render()) != string(m.File.Render()) {
				t.Errorf("the file is\n%s\nwas\n%s", again.File.Render(), m.File.Render())
			}
			// Who has none may not import it.
			third.Imports.Add(&jwt.Import{Account: w.a.Subject, Subject: "p.x", Type: jwt.Service})
			r := from(t, w.store())
			if i, ok := item(r.Refused, "C/imports/A/service/p.x"); !ok || !strings.Contains(i.Why, "no activation") || len(r.Refused) != 1 {
				t.Errorf("refused %+v", r.Refused)
			}
		})
	}
}

// TestPayload: servers take what the largest limit allows, so that it stays what it is.
func TestPayload(t *testing.T) {
	w := newWhat(t)
	w.a.Limits.Payload = 8 << 20
	m := clean(t, w.store())
	if got := m.File.Servers.MaxPayload; got != 8<<20 {
		t.Errorf("servers take %v", got)
	}
	w.a.Limits.Payload = math.MaxInt64
	if m = clean(t, w.store()); m.File.Servers.MaxPayload != 0 || m.File.Accounts[0].Limits.Payload != nil {
		t.Errorf("servers take %v, the account %v", m.File.Servers.MaxPayload, m.File.Accounts[0].Limits.Payload)
	}
}

// TestTo has what a platform cannot be without to leave.
func TestTo(t *testing.T) {
	w := newWhat(t)
	u := w.user(w.a, "u", w.role.Key)
	m := clean(t, w.store())
	made := w.made(m)
	op := *m.Operator
	op.StrictSigningKeyUsage, op.SystemAccount = true, made["SYS"].Subject
	l := nscmap.Leaving{Name: "Back", Operator: w.sign(&op, m.Key), File: m.File, Users: append(slices.Clone(m.Users), nscmap.User{
		Role: m.Users[0].Role, Name: name(t, "twice"), Token: u.Token(), Key: u.Creds,
	}), Now: now()}
	for _, c := range made {
		l.Accounts = append(l.Accounts, c)
	}
	if _, err := nscmap.To(l); !errors.Is(err, nscmap.ErrNoSeed) {
		t.Errorf("without a signing key: %v", err)
	}
	l.Keys = []*keystore.Key{w.sk}
	closed := jwt.NewAccountClaims(w.key(keystore.Account).Public())
	closed.Name = "OLD"
	closed.Tags.Add("closed")
	l.Accounts = append(l.Accounts, closed)
	left := must[*nscmap.Left](t)(nscmap.To(l))
	if len(left.Store.Strays) != 1 || left.Store.Strays[0].Name != "svc.u" {
		t.Errorf("strays %+v", left.Store.Strays)
	}
	for _, a := range left.Store.Accounts {
		if a.Name() == "OLD" {
			t.Error("a closed account is there")
		}
		if trust.BaseVersion(a.Claims().Tags) != 0 {
			t.Errorf("%s has Herald's tags: %q", a.Name(), a.Claims().Tags)
		}
	}
	// What is private asks for the exporter's seed.
	m.File.Accounts[0].Exports = []manifest.Export{{Subject: "p", Type: "stream", Only: []ident.Label{label(t, "CHAT")}}}
	made["A"].Exports.Add(&jwt.Export{Subject: "p", Type: jwt.Stream})
	if _, err := nscmap.To(l); !errors.Is(err, nscmap.ErrNoSeed) || !strings.Contains(err.Error(), "account A") {
		t.Errorf("without the seed of an account: %v", err)
	}
}

// TestSpellings are two that no Go program writes: a list that is there and empty, which
// allows nothing, and limits beside those of tiers, which nothing reads.
func TestSpellings(t *testing.T) {
	w := newWhat(t)
	w.role.Template.Pub = jwt.Permission{Deny: jwt.StringList{"a"}}
	w.a.Limits.JetStreamTieredLimits["R1"] = jwt.JetStreamLimits{DiskStorage: 1 << 20}
	s := w.store()
	for i, a := range s.Accounts {
		if a.Name() != "A" {
			continue
		}
		body := strings.Replace(string(payload(t, a.Token())), `"pub":{"deny":["a"]}`, `"pub":{"allow":[],"deny":["a"]}`, 1)
		body = strings.Replace(body, `"wildcards":true`, `"wildcards":true,"streams":-1,"max_ack_pending":-1`, 1)
		s.Accounts[i] = must[nscstore.Account](t)(nscstore.ParseAccount(signed(t, []byte(body), w.sk)))
	}
	m := clean(t, s)
	i := slices.IndexFunc(m.File.Accounts, func(a manifest.Account) bool { return a.Name.String() == "A" })
	if a := m.File.Accounts[i]; len(a.Roles[0].Publish.Allow) != 0 || len(a.JetStream.Tiers) != 1 || a.JetStream.Streams != nil {
		t.Errorf("account %+v", a)
	}
}
