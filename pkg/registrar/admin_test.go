package registrar_test

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/herald-nats/herald/internal/endpoint"
	"github.com/herald-nats/herald/pkg/audit"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/keystore"
	"github.com/herald-nats/herald/pkg/ledger"
	"github.com/herald-nats/herald/pkg/platform"
	"github.com/herald-nats/herald/pkg/registrar"
	"github.com/herald-nats/herald/pkg/wire"
)

// desk is a registrar that administrators ask, on real keys, with servers that hold all.
type desk struct {
	*bench
	admin   *registrar.Admin
	user    platform.User // an administrator
	refused []audit.Record
	// asks is how servers answer.
	asks func(accounts []ident.AccountKey) (registrar.Report, error)
	// unread are regions whose records could not be read.
	unread map[string]time.Time
}

func newDesk(t *testing.T) *desk {
	t.Helper()
	b := newBench(t)
	b.document.Servers = []ledger.Servers{{Region: must(ident.ParseRegion("ams")), Names: []ident.Name{must(ident.ParseName("a")), must(ident.ParseName("b")), must(ident.ParseName("c"))}}}
	d := &desk{bench: b, user: must(b.p.MintFor("root", platform.Admin, platform.RoleAdmin, b.now, time.Hour))}
	clock := func() time.Time { return b.now }
	known := ledger.NewProjection(nil)
	holdings := ledger.NewHoldings()
	denials := &registrar.Denials{
		Region: must(ident.ParseRegion("ams")), Store: stored{}, Projection: known, Opener: ledger.Opener{Operator: b.p.Operator, Now: clock},
		Signer: ledger.KeySigner{Key: b.signing}, Publish: func(string, []byte) error { return nil }, Log: slog.New(slog.DiscardHandler), Now: clock,
	}
	revoker := &registrar.Revoker{
		Denials: denials, Holdings: holdings, Ledger: known, Spared: func(ident.AccountKey) bool { return false }, Touch: func(bool, ...ident.AccountKey) {}, Log: b.log.Logger(), Now: clock,
	}
	label := func(s string) ident.Label { return must(ident.ParseLabel(s)) }
	d.asks = func(accounts []ident.AccountKey) (registrar.Report, error) {
		rep := registrar.Report{Servers: make([]registrar.Server, 3)}
		for _, a := range accounts {
			rep.Accounts = append(rep.Accounts, registrar.Standing{Account: a, InLine: 3, Servers: 3})
		}
		return rep, nil
	}
	d.admin = &registrar.Admin{
		Region: denials.Region, Administrators: label(platform.Admin), Role: label(platform.RoleAdmin), Untouchable: []ident.Label{label(platform.Auth)},
		Document: func() *ledger.Document { return b.document }, Ledger: known, Holdings: holdings, Denials: denials, Revoker: revoker,
		Confirm: func(_ context.Context, accounts []ident.AccountKey, _ []string, _ bool) (registrar.Report, error) {
			return d.asks(accounts)
		},
		Open: func(ident.Identity) int { return 0 }, Unread: func(context.Context) map[string]time.Time { return d.unread }, Signing: b.signing, Refused: func(r audit.Record) { d.refused = append(d.refused, r) },
		Log: b.log.Logger(), Now: clock,
	}
	return d
}

// stored takes every denial.
type stored struct{}

func (stored) Append(context.Context, ledger.Key, string) error { return nil }

func (d *desk) order(verb, body string) endpoint.Request {
	return endpoint.Request{
		ID: "r1", Subject: "auth.v1.admin." + verb, Reply: "_R_.abc", Body: []byte(body), Header: map[string][]string{wire.HeaderInfo: {info(d.user.Token, nil)}},
	}
}

func (d *desk) ask(r endpoint.Request) (wire.AdminAnswer, *wire.Error) {
	d.t.Helper()
	resp := d.admin.Endpoint().Handler(d.t.Context(), r)
	if resp.Err != nil {
		return wire.AdminAnswer{}, resp.Err
	}
	return must(wire.DecodeAdminAnswer(resp.Body)), nil
}

// Whoever is no administrator is not answered, whatever they say they are; who is one is not
// told what they may not.
func TestAdminBelieves(t *testing.T) {
	d := newDesk(t)
	body := `{"account":"CHAT"}`
	if _, err := d.ask(d.order("show", body)); err != nil {
		t.Fatal(err)
	}
	from := func(token string, more map[string]any) endpoint.Request {
		r := d.order("suspend", body)
		r.Header[wire.HeaderInfo] = []string{info(token, more)}
		return r
	}
	twice := from(d.user.Token, nil)
	twice.Header[wire.HeaderInfo] = append(twice.Header[wire.HeaderInfo], info(d.user.Token, nil))
	aimed := from(d.user.Token, nil)
	aimed.Reply = "$KV.decisions.name.alice"
	bare := from(d.user.Token, nil)
	delete(bare.Header, wire.HeaderInfo)
	reader := must(d.p.Mint(platform.Readers, platform.RoleReader, d.now, time.Hour))
	over := must(d.p.MintFor("root", platform.Admin, platform.RoleAdmin, d.now.Add(-2*time.Hour), time.Hour))
	for what, r := range map[string]endpoint.Request{
		"a member": from(d.member, nil), "a guest": from(d.guest, nil), "an issuer": from(d.issuer, nil), "a registrar": from(reader.Token, nil),
		"a credential that is over": from(over.Token, nil), "another's word": from(d.user.Token, map[string]any{"user": d.claim(newKey(keystore.User), "a", nil).Proof}),
		"another account": from(d.user.Token, map[string]any{"acc": newKey(keystore.Account).Public()}), "through a service": from(d.user.Token, map[string]any{"svc": "x"}),
		"behind a leafnode": from(d.user.Token, map[string]any{"kind": "Leafnode"}), "two words": twice, "no word": bare, "a reply of its own": aimed,
	} {
		before := d.admin.Disbelieved()
		if _, err := d.ask(r); err == nil || err.Code != wire.BadIdentity || d.admin.Disbelieved() != before+1 {
			t.Errorf("%s: %v", what, err)
		}
	}
	if len(d.refused) == 0 || d.refused[0].Refused != wire.BadIdentity {
		t.Errorf("it is not recorded: %+v", d.refused)
	}
	self := must(ident.ParseUserKey(d.user.Key.Public()))
	for what, c := range map[string]struct{ verb, body string }{
		"themselves": {"revoke", `{"user":"` + self.String() + `","account":"ADMIN"}`}, "an account that is needed": {"suspend", `{"account":"AUTH"}`},
		"an account for good": {"revoke", `{"account":"CHAT"}`}, "what there is not": {"suspend", `{"account":"NONE"}`}, "nothing that was seen": {"resume", `{"account":"CHAT"}`},
		"a service": {"revoke", `{"user":"` + newKey(keystore.User).Public() + `","account":"AUTH"}`}, "an unknown nkey": {"suspend", `{"user":"` + newKey(keystore.User).Public() + `"}`}, "another verb": {"delete", body},
	} {
		if _, err := d.ask(d.order(c.verb, c.body)); err == nil || err.Code != wire.BadRequest {
			t.Errorf("%s: %v", what, err)
		}
	}
	// Who was revoked, or suspended, is no administrator on a server that has not heard of it.
	account := must(ident.ParseAccountKey(d.p.Document.Accounts[indexOf(t, d, platform.Admin)].Key.String()))
	if _, err := d.admin.Denials.Revoke(t.Context(), account, self, d.now, ledger.Revocation{}); err != nil {
		t.Fatal(err)
	}
	if _, err := d.ask(d.order("show", body)); err == nil || err.Code != wire.Revoked {
		t.Errorf("a revoked administrator: %v", err)
	}
}

func indexOf(t *testing.T, d *desk, name string) int {
	t.Helper()
	for i, a := range d.p.Document.Accounts {
		if a.Name.String() == name {
			return i
		}
	}
	t.Fatalf("no account %s", name)
	return -1
}

// A name that was taken a moment ago in another region may be heard of after the administrator's
// request: it is waited for, and one that nobody holds is refused all the same.
func TestAdminWaitsForAName(t *testing.T) {
	d := newDesk(t)
	known := ledger.KnownName{
		Name: must(ident.ParseName("alice")), Version: 1, Until: d.now.Add(time.Hour).Unix(), At: d.now.UnixMilli(),
		Holder: must(ident.ParseIdentity("open:" + newKey(keystore.User).Public())),
	}
	time.AfterFunc(100*time.Millisecond, func() { d.admin.Ledger.RestoreName(known) })
	if a, err := d.ask(d.order("suspend", `{"name":"alice"}`)); err != nil || len(a.Standing) != 1 || a.Standing[0].State != wire.StateSuspended {
		t.Errorf("%+v %v", a, err)
	}
	if _, err := d.ask(d.order("suspend", `{"name":"bob"}`)); err == nil || err.Code != wire.BadName {
		t.Errorf("a name that nobody holds: %v", err)
	}
}

// A receipt says no more than servers said: where they could not be asked none of them holds it.
func TestReceiptSaysWhatServersSaid(t *testing.T) {
	d := newDesk(t)
	user := newKey(keystore.User).Public()
	body := `{"user":"` + user + `","account":"CHAT","why":"lost"}`
	all := func(region string) registrar.Report {
		s := registrar.Server{Cluster: region}
		return registrar.Report{Servers: []registrar.Server{s, s, s}, Accounts: []registrar.Standing{{InLine: 3, Servers: 3}}}
	}
	for what, c := range map[string]struct {
		rep             registrar.Report
		err             error
		denied, servers int
		unread          map[string]time.Time
	}{
		"one is away": {registrar.Report{
			Servers: make([]registrar.Server, 2), Accounts: []registrar.Standing{{InLine: 2, Servers: 3}}, Behind: []registrar.Behind{{Server: "ams-3", Why: "it does not answer"}},
		}, nil, 2, 3, nil},
		"none can be asked":    {registrar.Report{}, errors.New("no connection"), 0, 3, nil},
		"it is not known":      {registrar.Report{Servers: make([]registrar.Server, 3)}, nil, 0, 3, nil},
		"it cannot be pushed":  {registrar.Report{Servers: make([]registrar.Server, 3), Accounts: []registrar.Standing{{InLine: 3, Servers: 3, Err: errors.New("too large")}}}, nil, 0, 3, nil},
		"one of two lacks one": {registrar.Report{Servers: make([]registrar.Server, 3), Accounts: []registrar.Standing{{InLine: 3, Servers: 3}, {InLine: 1, Servers: 3}}}, nil, 1, 3, nil},
		// Who was given a credential a moment ago is known by records.
		"records were never read":     {all(""), nil, 0, 3, map[string]time.Time{"ams": {}}},
		"records cannot be read":      {all("ams"), nil, 0, 3, map[string]time.Time{"ams": time.Unix(1, 0)}},
		"records of who is not there": {all("ams"), nil, 3, 3, map[string]time.Time{"sfo": time.Unix(1, 0)}},
	} {
		d.asks = func([]ident.AccountKey) (registrar.Report, error) { return c.rep, c.err }
		d.unread = c.unread
		a, werr := d.ask(d.order("revoke", body))
		if werr != nil {
			t.Fatal(werr)
		}
		r, err := d.p.Operator.OpenReceipt(a.Receipt)
		if err != nil || r.Denied != c.denied || r.Servers != c.servers || len(r.Users) != 1 || r.Users[0].User != user || r.Why != "lost" || r.By != "root" || r.ID != "r1" {
			t.Errorf("%s: %v %+v", what, err, r)
		}
		if c.denied == 0 && (len(r.Behind) == 0 || strings.TrimSpace(r.Behind[0].Why) == "") {
			t.Errorf("%s: nobody is told why: %+v", what, r)
		}
		if before := r.Users[0].Before - d.now.Unix(); before != 120 {
			t.Errorf("%s: revoked up to %d s from now", what, before)
		}
	}
}
