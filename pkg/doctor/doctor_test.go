package doctor

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"

	"github.com/herald-nats/herald/pkg/doctor/seen"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/keystore"
	"github.com/herald-nats/herald/pkg/subject"
)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func reg(name string) ident.Region { return must(ident.ParseRegion(name)) }

func newAccountKey() ident.AccountKey {
	return must(ident.ParseAccountKey(must(keystore.Generate(keystore.Account)).Public()))
}

const setupKey = "AAROLE"

var now = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC) //nolint:gochecknoglobals // a constant in all but name

// healthy is a platform with which nothing is wrong: three regions of three servers.
func healthy() *Facts {
	operator := seen.Operator{Key: "O1", Name: "test", ID: "J1", Issued: now.Add(-time.Hour), SigningKeys: []string{"OA", "OB", "OSPARE"}, SystemAccount: "ASYS", Strict: true}
	f := &Facts{
		Now: now, Operator: operator, Spares: []string{"OSPARE"}, Described: Described{Home: reg("ams")},
		Seen: &seen.Platform{At: now, Silent: []seen.Node{}, Views: []seen.View{{Server: "ams-1", Region: reg("ams")}}},
		System: System{
			Want:        system(jwt.Permission{Allow: []string{"$SYS.REQ.SERVER.PING", "a.*.b"}}),
			Found:       []*jwt.AccountClaims{system(jwt.Permission{Allow: []string{"a.*.b"}})},
			Connections: []seen.Connection{{Server: "ams-1", User: "U1", Name: "registrar", Issuer: setupKey, Expires: now.Add(time.Hour)}},
		},
		Services: []seen.Service{},
	}
	regions := []string{"ams", "sfo", "sgp"}
	for i, name := range regions {
		d := Region{Name: reg(name)}
		var others []string
		for _, o := range regions {
			if o != name {
				others = append(others, o)
			}
		}
		for n := 1; n <= 3; n++ {
			server := fmt.Sprintf("%s-%d", name, n)
			host := fmt.Sprintf("10.%d.0.%d", i, n)
			d.Nodes = append(d.Nodes, Node{Name: server, Host: host})
			s := seen.Server{
				ID: "N-" + server, Name: server, Cluster: name, Region: reg(name), Version: "2.15.2", Health: "ok",
				Clock:     seen.Clock{Ahead: time.Millisecond, Bound: 3 * time.Millisecond, RTT: 6 * time.Millisecond},
				Operators: []seen.Operator{operator}, SystemAccount: "ASYS", MaxConnections: 1000, Connections: 10,
				MaxPayload: 1 << 20, MaxControlLine: 4096, Outbound: others, Inbound: others, JetStream: true, MetaLeader: "ams-1",
				Listeners: []seen.Listener{
					{Kind: seen.Clients, Host: host, Port: 4222, TLS: true, CertUntil: now.Add(300 * 24 * time.Hour)},
					{Kind: seen.Routes, Host: host, Port: 6222, TLS: true},
				},
			}
			for o := 1; o <= 3; o++ {
				if o != n {
					s.Routes = append(s.Routes, fmt.Sprintf("%s-%d", name, o))
				}
			}
			f.Seen.Servers = append(f.Seen.Servers, s)
			f.Seen.Views[0].Sees = append(f.Seen.Views[0].Sees, s.ID)
			if server != "ams-1" {
				f.Seen.JetStream.Peers = append(f.Seen.JetStream.Peers, seen.Peer{Name: server, Current: true, Active: time.Second})
			}
		}
		f.Described.Regions = append(f.Described.Regions, d)
		for n := range 2 {
			id := fmt.Sprint(name, n)
			ages := map[string]time.Duration{"near": time.Second}
			f.Services = append(f.Services,
				seen.Service{Name: issuer, ID: "i" + id, Version: "1", Region: name, Document: "1.1", Subjects: []string{subject.Issue}, Ages: ages},
				seen.Service{Name: issuer, ID: "r" + id, Version: "1", Region: name, Document: "1.1", Subjects: []string{subject.Renew}, Ages: ages},
				seen.Service{Name: registrar, ID: "g" + id, Version: "1", Region: name, Document: "1.1", Ages: ages},
			)
		}
	}
	f.Seen.JetStream.Leader, f.Seen.JetStream.Size = "ams-1", 9
	ledger := newAccountKey()
	f.Accounts = []seen.Standing{
		{Key: ledger, Name: ledgerAccount, Version: 1, Same: 9, Size: 3000, Changed: now.Add(-time.Hour)},
		{Key: newAccountKey(), Name: "CHAT", Version: 1, Same: 9, Size: 3000, Changed: now.Add(-time.Hour), Expires: now.Add(1000 * time.Hour)},
	}
	f.Seen.JetStream.Streams = []seen.Stream{{
		Account: ledger.String(), Name: "KV_decisions", Cluster: "ams", Replicas: 3, Leader: "ams-2",
		Peers: []seen.Peer{{Name: "ams-1", Current: true}, {Name: "ams-3", Current: true}},
	}}
	f.Roles = []Role{
		{Account: "LEDGER", Name: "home", Own: true, Template: template(), Limits: limits()},
		{Account: "CHAT", Name: "member", Granted: true, Template: template(), Limits: limits()},
	}
	f.Credentials = []Credential{
		{Where: "issuers/ams/auth.creds", Role: "AUTH/issuer", Issued: now.Add(-24 * time.Hour), Expires: now.Add(29 * 24 * time.Hour), Size: 900},
		{Where: "public/guest.creds", Role: "GUEST/guest", Issued: now.Add(-24 * time.Hour), Size: 700},
	}
	f.Certificates = []Certificate{{Where: "operator/tls/ca.crt", Subject: "test CA", NotBefore: now.Add(-time.Hour), NotAfter: now.Add(10000 * time.Hour)}}
	return f
}

func system(pub jwt.Permission) *jwt.AccountClaims {
	c := jwt.NewAccountClaims(newAccountKey().String())
	s := jwt.NewUserScope()
	s.Key, s.Role = setupKey, "setup"
	s.Template.Pub = pub
	s.Template.Sub.Allow.Add("_INBOX.svc.{{subject()}}.>")
	s.Template.AllowedConnectionTypes.Add(jwt.ConnectionTypeStandard)
	c.SigningKeys.AddScopedSigner(s)
	return c
}

func template() jwt.UserPermissionLimits {
	var t jwt.UserPermissionLimits
	t.NatsLimits = jwt.NatsLimits{Subs: -1, Data: -1, Payload: -1}
	t.Pub.Allow.Add("a")
	t.AllowedConnectionTypes.Add(jwt.ConnectionTypeStandard, jwt.ConnectionTypeWebsocket)
	return t
}

func limits() jwt.OperatorLimits { return jwt.NewAccountClaims(newAccountKey().String()).Limits }

func (f *Facts) server(name string) *seen.Server {
	i := slices.IndexFunc(f.Seen.Servers, func(s seen.Server) bool { return s.Name == name })
	return &f.Seen.Servers[i]
}

// silence makes servers silent.
func (f *Facts) silence(names ...string) {
	for _, name := range names {
		s := f.server(name)
		f.Seen.Silent = append(f.Seen.Silent, seen.Node{Name: name, Region: s.Region})
		f.Seen.Servers = slices.DeleteFunc(f.Seen.Servers, func(o seen.Server) bool { return o.Name == name })
		for i := range f.Seen.Servers {
			f.Seen.Servers[i].Routes = slices.DeleteFunc(f.Seen.Servers[i].Routes, func(r string) bool { return r == name })
		}
	}
}

// scope is the one role of a system account.
func scope(c *jwt.AccountClaims) *jwt.UserScope {
	s, _ := c.SigningKeys.GetScope(setupKey)
	return s.(*jwt.UserScope) //nolint:forcetypeassert // made above
}

// cases have each kind of findings: what is changed of a healthy platform, and what is
// found then, all of it, as "id severity: where, where: what".
func cases() []struct {
	name string
	do   func(*Facts)
	want []string
} {
	clock := func(d time.Duration) seen.Clock {
		return seen.Clock{Ahead: d, Bound: 10 * time.Millisecond, RTT: 20 * time.Millisecond}
	}
	return []struct {
		name string
		do   func(*Facts)
		want []string
	}{
		{"nothing", func(*Facts) {}, nil},
		{"nobody", func(f *Facts) { f.Seen, f.Services = nil, nil }, []string{"nobody-answers error: the platform: no server answered"}},
		{"one silent", func(f *Facts) { f.silence("sfo-2") }, []string{
			"server-silent error: server sfo-2: it does not answer",
			"region-thin warning: region sfo: 2 servers are up of its 3",
		}},
		{"two silent", func(f *Facts) { f.silence("sfo-2", "sfo-3") }, []string{
			"server-silent error: server sfo-2, server sfo-3: it does not answer",
			"region-thin error: region sfo: 1 server is up of its 3",
		}},
		{"region silent", func(f *Facts) { f.silence("sfo-1", "sfo-2", "sfo-3") }, []string{"region-silent error: region sfo: none of its 3 servers answers"}},
		{"cut off", func(f *Facts) {
			v := &f.Seen.Views[0]
			v.Sees = slices.DeleteFunc(v.Sees, func(id string) bool { return strings.HasPrefix(id, "N-sfo") })
			f.Seen.Views = append(f.Seen.Views, seen.View{Server: "sfo-1", Region: reg("sfo"), Sees: []string{"N-sfo-1", "N-sfo-2", "N-sfo-3", "N-sgp-1"}})
		}, []string{"region-cut-off error: region sfo: sfo-1, sfo-2, sfo-3 can be reached from sfo and not from ams"}},
		{"another server", func(f *Facts) {
			s := *f.server("sfo-1")
			s.ID, s.Name, s.Cluster, s.Region = "X", "stray", "lab", ident.Region{}
			s.Outbound = []string{"ams", "sfo", "sgp"}
			s.Routes = nil
			for i := range f.Seen.Servers {
				f.Seen.Servers[i].Outbound = append(f.Seen.Servers[i].Outbound, "lab")
			}
			f.Seen.Servers = append(f.Seen.Servers, s)
		}, []string{`server-unknown warning: server stray: the platform file has no such server; it says that it is of cluster "lab"`}},
		{"two of one name", func(f *Facts) {
			s := *f.server("sfo-1")
			s.ID = "X"
			f.Seen.Servers = append(f.Seen.Servers, s)
		}, []string{"server-twice error: server sfo-1: two servers have this name"}},
		{"elsewhere", func(f *Facts) {
			for i := range f.Described.Regions[1].Nodes {
				n := &f.Described.Regions[1].Nodes[i]
				if n.Name == "sfo-1" {
					f.Described.Regions[0].Nodes = append(f.Described.Regions[0].Nodes, *n)
				}
			}
			f.Described.Regions[1].Nodes = f.Described.Regions[1].Nodes[1:]
		}, []string{
			`server-elsewhere error: server sfo-1: the platform file has it in ams; it says that it is of cluster "sfo"`,
			"region-thin warning: region sfo: 2 servers are up of its 2",
		}},
		{"terse", func(f *Facts) {
			s := f.server("sgp-3")
			*s = seen.Server{ID: s.ID, Name: s.Name, Cluster: s.Cluster, Region: s.Region, Version: s.Version, Unanswered: []string{"VARZ", "GATEWAYZ", "ROUTEZ", "JSZ", "HEALTHZ"}}
		}, []string{"server-terse info: server sgp-3: it did not answer GATEWAYZ, HEALTHZ, JSZ, ROUTEZ, VARZ, and was not examined for what is on there"}},
		{"unhealthy", func(f *Facts) { f.server("sgp-3").Health = "JetStream is not current" }, []string{"server-unhealthy error: server sgp-3: it says: JetStream is not current"}},
		{"full", func(f *Facts) { f.server("sgp-3").Connections = 800 }, []string{"server-full warning: server sgp-3: 800 of at most 1000 connections"}},
		{"slow", func(f *Facts) { f.server("sgp-3").SlowConsumers = 2 }, []string{"slow-consumers info: server sgp-3: since its start it closed 2 connections that did not read fast enough"}},
		{"clock ahead", func(f *Facts) { f.server("sfo-1").Clock = clock(3 * time.Second) }, []string{"clock-apart warning: server sfo-1: its clock is at least 3 s ahead of that of sfo-3"}},
		{"clock far behind", func(f *Facts) { f.server("sfo-1").Clock = clock(-2 * time.Minute) }, []string{"clock-apart error: server sfo-1: its clock is at least 120 s behind that of sfo-2"}},
		{"clock perhaps", func(f *Facts) {
			f.server("sfo-1").Clock = seen.Clock{Ahead: 3 * time.Second, Bound: 4 * time.Second, RTT: 8 * time.Second}
		}, nil},
		{"this clock", func(f *Facts) {
			for i := range f.Seen.Servers {
				f.Seen.Servers[i].Clock = clock(-time.Minute)
			}
		}, []string{"clock-here error: this machine: its clock is at least 60 s ahead of that of sfo-2"}},
		{"version old", func(f *Facts) { f.server("ams-1").Version = "2.14.6" }, []string{
			"version-old error: server ams-1: it is nats-server 2.14.6",
			"version-mix warning: the servers: they are of 2 versions: 2.14.6 (ams-1); 2.15.2 (ams-2, ams-3, sfo-1, sfo-2, sfo-3, sgp-1, sgp-2, sgp-3)",
		}},
		{"operator foreign", func(f *Facts) { f.server("ams-1").Operators = []seen.Operator{{Key: "O2"}} }, []string{
			"operator-foreign error: server ams-1: it trusts operator O2, with system account ASYS",
		}},
		{"operator none", func(f *Facts) { f.server("ams-1").Operators, f.server("ams-1").SystemAccount = nil, "" }, []string{
			"operator-foreign error: server ams-1: it trusts no operator, with system account none",
		}},
		{"operator old", func(f *Facts) {
			o := f.Operator
			o.ID, o.SigningKeys = "J0", []string{"OA", "OSPARE"}
			f.server("ams-1").Operators = []seen.Operator{o}
		}, []string{
			"operator-old error: server ams-1: it refuses signatures of OB, which the folder's operator JWT names",
			"operator-differs error: the servers: they have 2 different operator JWTs: ams-1; ams-2, ams-3, sfo-1, sfo-2, sfo-3, sgp-1, sgp-2, sgp-3",
		}},
		{"operator with withdrawn key", func(f *Facts) {
			o := f.Operator
			o.ID, o.SigningKeys = "J0", []string{"OA", "OB", "OSPARE", "OTHIEF"}
			for i := range f.Seen.Servers {
				f.Seen.Servers[i].Operators = []seen.Operator{o}
			}
		}, []string{
			"operator-old error: server ams-1, server ams-2, server ams-3, server sfo-1, server sfo-2, server sfo-3, server sgp-1, server sgp-2, server sgp-3: it takes signatures of OTHIEF, which the folder's operator JWT does not name",
		}},
		{"operator of another time", func(f *Facts) {
			o := f.Operator
			o.ID, o.Issued = "J0", now.Add(-2*time.Hour)
			for i := range f.Seen.Servers {
				f.Seen.Servers[i].Operators = []seen.Operator{o}
			}
			f.silence("ams-1", "ams-2", "ams-3", "sfo-1", "sfo-2", "sfo-3", "sgp-2", "sgp-3")
			f.Seen.Silent = nil
			f.Described.Regions = f.Described.Regions[2:]
			f.Described.Regions[0].Nodes = f.Described.Regions[0].Nodes[:1]
			f.Described.Home = reg("sgp")
			f.Seen.JetStream.Size, f.Seen.JetStream.Peers, f.Seen.JetStream.Leader = 1, nil, "sgp-1"
		}, []string{
			"region-thin error: region sgp: 1 server is up of its 1",
			"operator-old warning: server sgp-1: its operator JWT, of 2026-11-21 10:00:00, is not the folder's, of 2026-11-21 11:00:00",
			"region-alone info: region sgp: it is the only region",
		}},
		{"operator lax", func(f *Facts) {
			o := f.Operator
			o.Strict = false
			for i := range f.Seen.Servers {
				if f.Seen.Servers[i].Name == "sfo-3" {
					f.Seen.Servers[i].Operators = []seen.Operator{o}
				}
			}
		}, []string{"operator-lax error: server sfo-3: it also takes what identity keys signed"}},
		{"gateway missing", func(f *Facts) {
			f.server("ams-1").Outbound = []string{"sgp"}
			f.server("ams-2").Outbound = []string{"sgp"}
		}, []string{"gateway-missing error: region ams: ams-1, ams-2 have no gateway to region sfo"}},
		{"route missing", func(f *Facts) { f.server("ams-1").Routes = []string{"ams-2"} }, []string{"route-missing error: server ams-1: it has no route to ams-3"}},
		{"in the clear", func(f *Facts) {
			f.server("ams-1").Listeners = []seen.Listener{
				{Kind: seen.Clients, Host: "0.0.0.0", Port: 1},
				{Kind: seen.Gateways, Host: "10.0.0.1", Port: 2},
				{Kind: seen.Monitoring, Host: "::", Port: 3},
				{Kind: seen.Websockets, Host: "127.0.0.1", Port: 4},
				{Kind: seen.Leafnodes, Host: "localhost", Port: 5},
				{Kind: seen.Routes, Host: "::1", Port: 6},
			}
		}, []string{
			"clients-in-the-clear warning: server ams-1: it takes clients without TLS on every address of its machine",
			"links-in-the-clear warning: server ams-1: it takes gateways without TLS on 10.0.0.1",
			"monitoring-open warning: server ams-1: its monitoring pages are on every address of its machine, for whoever asks",
		}},
		{"no JetStream", func(f *Facts) { f.server("ams-2").JetStream = false }, []string{"jetstream-off error: server ams-2: it runs without JetStream"}},
		{"no leader", func(f *Facts) {
			for i := range f.Seen.Servers {
				f.Seen.Servers[i].MetaLeader = ""
			}
		}, []string{"jetstream-leaderless error: the servers: ams-1, ams-2, ams-3, sfo-1, sfo-2, sfo-3, sgp-1, sgp-2 and 1 more know no meta leader"}},
		{"leader gone", func(f *Facts) {
			f.silence("ams-1")
			f.Seen.JetStream.Peers = nil
		}, []string{
			"server-silent error: server ams-1: it does not answer",
			"jetstream-leaderless error: the servers: ams-1, who led, does not answer",
			"region-thin warning: region ams: 2 servers are up of its 3",
		}},
		{"several leaders", func(f *Facts) { f.server("sgp-1").MetaLeader, f.server("sgp-2").MetaLeader = "sgp-1", "" }, []string{
			"jetstream-leaderless error: some servers: sgp-2 knows no meta leader",
			"jetstream-split error: the servers: they have several meta leaders: ams-1 for ams-1, ams-2, ams-3, sfo-1, sfo-2, sfo-3, sgp-3; sgp-1 for sgp-1",
		}},
		{"peers", func(f *Facts) {
			js := &f.Seen.JetStream
			js.Peers[0] = seen.Peer{Name: "ams-2", Current: false, Active: time.Minute}
			js.Peers[1] = seen.Peer{Name: "ams-3", Current: false, Active: time.Second, Lag: 7}
			js.Peers = append(js.Peers, seen.Peer{Name: "gone", Offline: true, Active: 1 << 62})
			js.Size = 10
		}, []string{
			"jetstream-away warning: server ams-2: JetStream misses it: it was heard of 60 s ago",
			"jetstream-ghost warning: peer gone: JetStream counts it, and the platform file has no such server",
			"jetstream-ghost warning: JetStream: it counts 10 servers, the platform file 9",
			"jetstream-behind info: server ams-3: it is behind JetStream's leader, by 7 operations",
		}},
		{"streams", func(f *Facts) {
			js, ledger := &f.Seen.JetStream, f.Accounts[0].Key.String()
			js.Streams = []seen.Stream{
				{Account: ledger, Name: "ONE", Cluster: "ams", Replicas: 1, Leader: "ams-1"},
				{Account: f.Accounts[1].Key.String(), Name: "ONE", Cluster: "ams", Replicas: 1, Leader: "ams-1"},
				{Account: "AOTHER", Name: "NONE", Cluster: "sfo", Replicas: 3},
				{Account: ledger, Name: "THIN", Cluster: "ams", Replicas: 3, Leader: "ams-1", Peers: []seen.Peer{{Name: "ams-2", Offline: true}, {Name: "ams-3", Active: time.Second}}},
			}
		}, []string{
			"stream-leaderless error: stream NONE of account AOTHER: it has no leader in sfo",
			"stream-single warning: stream ONE of account LEDGER: it has one replica, on ams-1",
			"stream-thin warning: stream THIN of account LEDGER: its replica on ams-2 is away",
			"stream-single info: stream ONE of account CHAT: it has one replica, on ams-1",
			"stream-behind info: stream THIN of account LEDGER: its replica on ams-3 is not current",
		}},
		{"two regions", func(f *Facts) {
			f.silence("sgp-1", "sgp-2", "sgp-3")
			f.Seen.Silent, f.Seen.JetStream.Size, f.Seen.JetStream.Peers = nil, 6, nil
			f.Described.Regions = f.Described.Regions[:2]
		}, []string{
			"region-heavy warning: region ams, region sfo: it has 3 of all 6 servers: without it JetStream has no majority",
		}},
		{"one machine", func(f *Facts) {
			for i, h := range []string{"127.0.0.1", "nats.example.org"} {
				for j := range f.Described.Regions[i].Nodes {
					f.Described.Regions[i].Nodes[j].Host = h
				}
			}
		}, []string{
			"region-one-machine warning: region sfo: all its servers are on nats.example.org",
			"region-one-machine info: region ams: all its servers are on 127.0.0.1",
		}},
		{"limits", func(f *Facts) {
			f.server("ams-1").MaxPayload, f.server("sfo-1").MaxControlLine = 2<<20, 1024
		}, []string{
			"payload-mix warning: the servers: their max_payload differs: 1048576 (ams-2, ams-3, sfo-1, sfo-2, sfo-3, sgp-1, sgp-2, sgp-3); 2097152 (ams-1)",
			"control-line-mix warning: the servers: their max_control_line differs: 1024 (sfo-1); 4096 (ams-1, ams-2, ams-3, sfo-2, sfo-3, sgp-1, sgp-2, sgp-3)",
			"control-line-short warning: issuers/ams/auth.creds: its user JWT has 900 bytes; a CONNECT may have 1024 in all (max_control_line)",
			"control-line-short warning: public/guest.creds: its user JWT has 700 bytes; a CONNECT may have 1024 in all (max_control_line)",
		}},
		{"resolver", func(f *Facts) {
			for i := range f.Accounts {
				f.Accounts[i].Unread, f.Accounts[i].Same = 1, 8
			}
		}, []string{"resolver-partial error: the servers: 1 of them does not say which accounts it has"}},
		{"one account unread", func(f *Facts) { f.Accounts[0].Unread = 1 }, nil},
		{"accounts", func(f *Facts) {
			f.Accounts[0].Lacking, f.Accounts[0].Behind, f.Accounts[0].Astray = 1, 2, []string{"sfo-1"}
			f.Accounts[1].Foreign, f.Accounts[1].Conflict = 3, true
		}, []string{
			"account-astray error: account LEDGER: it is not in line: 1 server without it, 2 servers with an older one (sfo-1)",
			"account-conflict error: account CHAT: there are different base claims of version 1",
			"account-foreign error: account CHAT: 3 servers have a JWT of it that does not verify up to the operator",
		}},
		{"fat accounts", func(f *Facts) { f.Accounts[0].Size, f.Accounts[1].Size = 1<<19, 1<<20-100 }, []string{
			"account-fat error: account CHAT: its JWT has 1048476 bytes; servers take 1048576 (max_payload)",
			"account-fat warning: account LEDGER: its JWT has 524288 bytes; servers take 1048576 (max_payload)",
		}},
		{"a static user that ended", func(f *Facts) {
			f.Credentials = append(f.Credentials, Credential{Where: "operator/users/a.creds", Role: "APP/r", Expires: now.Add(-time.Hour), Static: true})
		}, []string{"credential-expired warning: operator/users/a.creds: the credential of a static user of APP/r ended at 2026-11-21 11:00:00"}},
		{"fat accounts, and nobody asked", func(f *Facts) {
			f.Seen, f.Services, f.Described.MaxPayload = nil, nil, 1<<20
			f.Accounts[0].Size, f.Accounts[1].Size = 1<<19, 1<<20-100
		}, []string{
			"account-fat error: account CHAT: its JWT has 1048476 bytes; servers take 1048576 (max_payload)",
			"account-fat warning: account LEDGER: its JWT has 524288 bytes; servers take 1048576 (max_payload)",
			"nobody-answers error: the platform: no server answered",
		}},
		{"accounts that end", func(f *Facts) {
			f.Accounts[0].Expires, f.Accounts[1].Expires = now, now.Add(3*time.Hour)
			f.Accounts[1].Changed = now.Add(-20 * time.Hour)
		}, []string{
			"account-expired error: account LEDGER: it ended at 2026-11-21 12:00:00",
			"account-ending warning: account CHAT: it ends in 3 hours, at 2026-11-21 15:00:00",
		}},
		{"no spare", func(f *Facts) { f.Spares = []string{"OLOST"} }, []string{"spare-missing warning: the operator: none of its 3 signing keys is spare"}},
		{"system keys", func(f *Facts) {
			c := f.System.Found[0]
			c.SigningKeys.Add("APLAIN")
			s := jwt.NewUserScope()
			s.Key, s.Role = "AOTHER", "helper"
			c.SigningKeys.AddScopedSigner(s)
			c.SigningKeys[setupKey] = nil // without its template
		}, []string{
			"system-key error: role SYS/AAROLE: key AAROLE has no template: who holds it gives any right",
			"system-key error: role SYS/APLAIN: the platform has no such role: its key is APLAIN",
			"system-key error: role SYS/helper: the platform has no such role: its key is AOTHER",
		}},
		{"system rights", func(f *Facts) {
			s := scope(f.System.Found[0])
			s.Template.Pub.Allow = []string{"a.>", "a.b.b", "denied"}
			s.Template.Pub.Deny = []string{"denied"}
			s.Template.Sub.Allow = nil
			s.Template.Resp = &jwt.ResponsePermission{}
			s.Template.BearerToken = true
			s.Template.AllowedConnectionTypes.Add(jwt.ConnectionTypeLeafnode)
		}, []string{
			"system-rights error: role SYS/setup: its users may publish a.>, which the role does not need",
			"system-rights error: role SYS/setup: its users may subscribe to >, which the role does not need",
			"system-rights error: role SYS/setup: its users may answer on any subject that they are asked to, which the role does not need",
			"system-rights error: role SYS/setup: its users may connect without a key, which the role does not need",
			"system-rights error: role SYS/setup: its users may connect as LEAFNODE, which the role does not need",
		}},
		{"system denials", func(f *Facts) {
			scope(f.System.Want).Template.Pub.Deny = []string{"a.x.b"}
			scope(f.System.Found[0]).Template.AllowedConnectionTypes = nil
		}, []string{
			"system-rights error: role SYS/setup: its users may publish a.x.b, which the role does not need",
			"system-rights error: role SYS/setup: its users may connect in every way, which the role does not need",
		}},
		{"system exports", func(f *Facts) {
			f.System.Want.Exports.Add(&jwt.Export{Subject: "ok.>", Type: jwt.Service})
			f.System.Found[0].Exports.Add(&jwt.Export{Subject: "ok.a", Type: jwt.Service}, &jwt.Export{Subject: "$SYS.>", Type: jwt.Stream})
		}, []string{"system-export error: account SYS: it exports stream $SYS.>, which the platform file does not"}},
		{"system users", func(f *Facts) {
			f.System.Connections = []seen.Connection{
				{Server: "ams-1", User: "U1", Issuer: "AOTHER", Expires: now.Add(time.Hour)}, {Server: "sfo-1", User: "U2", Name: "eve", Issuer: setupKey},
			}
			f.System.Static = []string{"ops"}
		}, []string{
			"system-user error: server ams-1: user U1 (no name) is in SYS by key AOTHER, which is of no role there",
			"system-forever warning: server sfo-1: user U2 (eve) in SYS has a credential without an end",
			"system-static warning: user ops: it is a static user of SYS",
		}},
		{"few services", func(f *Facts) {
			f.Services = slices.DeleteFunc(f.Services, func(s seen.Service) bool {
				return s.Region == "sgp" || s.Name == registrar && s.Region == "sfo" && s.ID == "gsfo0" || s.ID == "iams1" || s.ID == "gams1"
			})
		}, []string{
			"issuer-missing error: region sgp: no issuer answers",
			"registrar-missing error: region sgp: no registrar answers",
			"issuer-single warning: region ams: one issuer answers",
			"registrar-single warning: region ams: one registrar answers, and this is home: without it names and invites cannot be had",
			"registrar-single warning: region sfo: one registrar answers",
		}},
		{"home without registrars", func(f *Facts) {
			f.Services = slices.DeleteFunc(f.Services, func(s seen.Service) bool { return s.Name == registrar && s.Region == "ams" })
		}, []string{"registrar-missing error: region ams: no registrar answers, and this is home: names and invites cannot be had"}},
		{"services of a silent region", func(f *Facts) {
			f.silence("sgp-1", "sgp-2", "sgp-3")
			f.Services = slices.DeleteFunc(f.Services, func(s seen.Service) bool { return s.Region == "sgp" })
		}, []string{"region-silent error: region sgp: none of its 3 servers answers"}},
		{"services that know little", func(f *Facts) {
			f.Services[0].Never, f.Services[0].CopyFailing, f.Services[0].Started = []string{"denials"}, true, now.Add(-time.Hour)
			f.Services[1].Never, f.Services[1].Started = []string{"denials"}, now.Add(-time.Second)
			f.Services[2].Ages = map[string]time.Duration{"a": time.Second, "b": 3 * time.Minute}
			f.Services[3].Version, f.Services[4].Document = "2", "1.2"
		}, []string{
			"service-stale error: the issuer of region ams: it never read denials",
			"service-no-copy warning: the issuer of region ams: it cannot write its copy of the ledger to its disk",
			"service-stale warning: the registrar of region ams: what it knows of b is 3 minutes old",
			"service-mix warning: the services: they have 2 versions: 1 (issuer in ams, issuer in sfo, issuer in sgp, registrar in ams, registrar in sfo, registrar in sgp); 2 (issuer in ams)",
			"document-mix warning: the services: they have 2 platform documents: 1.1 (issuer in ams, issuer in sfo, issuer in sgp, registrar in ams, registrar in sfo, registrar in sgp); 1.2 (issuer in ams)",
		}},
		{"services unknown", func(f *Facts) { f.Services = nil }, nil},
		{"roles", func(f *Facts) {
			one := func(name string, change func(*Role)) {
				r := Role{Account: "APP", Name: name, Granted: true, Template: template(), Limits: limits()}
				change(&r)
				f.Roles = append(f.Roles, r)
			}
			one("unused", func(r *Role) { r.Granted = false })
			one("static", func(r *Role) { r.Granted, r.Static = false, 1 })
			one("closed", func(r *Role) { r.Granted, r.Closed = false, true })
			one("bearer", func(r *Role) { r.Template.BearerToken, r.Limits.DisallowBearer = true, true })
			one("noconns", func(r *Role) { r.Limits.Conn = 0 })
			one("nosubs", func(r *Role) { r.Template.Subs = 0 })
			one("networks", func(r *Role) { r.Template.Src = []string{"10.0.0.0"} })
			one("hours", func(r *Role) { r.Template.Times = []jwt.TimeRange{{Start: "08:00:00", End: "08:00:00"}} })
			one("night", func(r *Role) { r.Template.Times = []jwt.TimeRange{{Start: "22:00:00", End: "06:00:00"}} })
			one("idle", func(r *Role) {
				r.Template.Pub, r.Template.Sub = jwt.Permission{Allow: []string{"a"}, Deny: []string{"a"}}, jwt.Permission{Deny: []string{">"}}
			})
			one("ways", func(r *Role) { r.Template.AllowedConnectionTypes = []string{"CARRIER_PIGEON"} })
			one("web", func(r *Role) { r.Template.AllowedConnectionTypes = []string{"WEBSOCKET", "LEAFNODE"} })
			one("mqtt", func(r *Role) { r.Template.AllowedConnectionTypes = []string{"MQTT"} })
			one("any", func(r *Role) { r.Template.AllowedConnectionTypes = nil })
			f.Roles = append(f.Roles, Role{
				Account: "GUEST", Name: "guest", Own: true, Limits: limits(),
				Template: func() jwt.UserPermissionLimits {
					t := template()
					t.Pub.Allow = jwt.StringList{"auth.v1.info", "auth.v1.issue", "chat.req.access"}
					return t
				}(),
			})
		}, []string{
			"role-broken warning: role APP/bearer: nobody can use it: it is a bearer's, and its account refuses those",
			"role-broken warning: role APP/noconns: nobody can use it: its account may have no connections",
			"role-broken warning: role APP/nosubs: nobody can use it: its connections may have no subscription, and are closed at once",
			"role-broken warning: role APP/networks: nobody can use it: none of its networks is one",
			"role-broken warning: role APP/hours: nobody can use it: none of its hours has any time in it",
			"role-broken warning: role APP/idle: nobody can use it: it may neither publish nor subscribe",
			"role-broken warning: role APP/ways: nobody can use it: it names no way to connect that servers know: CARRIER_PIGEON",
			"role-broken warning: role APP/web: nobody can use it: it connects by LEAFNODE, WEBSOCKET only, and no server listens for that",
			"tutorial-door warning: role GUEST/guest: it may ask for creds files at chat.req.access, and every guest can read every seed in them",
			"role-unused info: role APP/unused: nobody has it: no grant names it, and no static user is of it",
		}},
		{"ends", func(f *Facts) {
			f.Credentials[0].Issued, f.Credentials[0].Expires = now.Add(-23*24*time.Hour), now.Add(7*24*time.Hour)
			f.Credentials[1].Expires = now.Add(-time.Second)
			f.Certificates = append(f.Certificates,
				Certificate{Where: "b.crt", Subject: "b", NotBefore: now.Add(-300 * 24 * time.Hour), NotAfter: now.Add(29 * 24 * time.Hour)},
				Certificate{Where: "c.crt", Subject: "c", NotBefore: now.Add(time.Hour), NotAfter: now.Add(500 * 24 * time.Hour)},
				Certificate{Where: "d.crt", Subject: "d", NotBefore: now.Add(-300 * 24 * time.Hour), NotAfter: now})
			f.server("ams-1").Listeners[0].CertUntil = now.Add(24 * time.Hour)
		}, []string{
			"credential-expired error: public/guest.creds: the credential of GUEST/guest ended at 2026-11-21 11:59:59",
			"certificate-early error: c.crt: the certificate of c holds from 2026-11-21 13:00:00",
			"certificate-expired error: d.crt: the certificate of d ended at 2026-11-21 12:00:00",
			"credential-ending warning: issuers/ams/auth.creds: the credential of AUTH/issuer ends in 7 days, at 2026-11-28 12:00:00",
			"certificate-ending warning: b.crt: the certificate of b ends in 29 days, at 2026-12-20 12:00:00",
			"certificate-ending warning: server ams-1: the certificate that it shows to clients ends in 24 hours, at 2026-11-22 12:00:00",
		}},
	}
}

// Each finding is found where there is cause for it, and nothing else is.
func TestFindings(t *testing.T) {
	found := map[string]bool{}
	for _, tt := range cases() {
		t.Run(tt.name, func(t *testing.T) {
			f := healthy()
			tt.do(f)
			var got []string
			for _, f := range Examine(f) {
				got = append(got, fmt.Sprintf("%s %s: %s: %s", f.ID, f.Severity, strings.Join(f.Where, ", "), f.What))
				found[f.ID] = true
				if f.Why == "" || f.Do == "" {
					t.Errorf("%s says not why, or not what to do", f.ID)
				}
			}
			// Within a severity findings come in the order of the rules, and keys of an account
			// in none.
			order := func(all []string) []string { all = slices.Clone(all); slices.Sort(all); return all }
			if !slices.Equal(order(got), order(tt.want)) {
				t.Errorf("found\n\t%s\nwant\n\t%s", strings.Join(got, "\n\t"), strings.Join(tt.want, "\n\t"))
			}
		})
	}
	for _, k := range Kinds() {
		if !found[k.ID] {
			t.Errorf("no case finds %s", k.ID)
		}
	}
}

// The worst come first.
func TestOrder(t *testing.T) {
	f := healthy()
	f.Services = nil
	f.Spares = nil
	f.server("sgp-3").SlowConsumers = 2
	f.server("ams-1").JetStream = false
	all := Examine(f)
	var got []Severity
	for _, f := range all {
		got = append(got, f.Severity)
	}
	if !slices.Equal(got, []Severity{Error, Warning, Info}) {
		t.Errorf("severities %v", got)
	}
	if worst, any := Worst(all); worst != Error || !any {
		t.Errorf("the worst is %v, %v", worst, any)
	}
	if worst, any := Worst(nil); worst != Info || any {
		t.Errorf("the worst of nothing is %v, %v", worst, any)
	}
}

// The page for operators has every kind, with the same words.
func TestPage(t *testing.T) {
	page := string(must(os.ReadFile("../../docs/operating.md")))
	for _, k := range Kinds() {
		for _, text := range []string{"`" + k.ID + "`", k.Why, k.Do} {
			if !strings.Contains(page, text) {
				t.Errorf("docs/operating.md says nothing of %s like %q", k.ID, text)
			}
		}
	}
}

func TestSeverityText(t *testing.T) {
	for _, s := range []Severity{Info, Warning, Error} {
		data := must(json.Marshal(s))
		var back Severity
		if err := json.Unmarshal(data, &back); err != nil || back != s {
			t.Errorf("%v became %s, %v", s, data, back)
		}
	}
	var s Severity
	if err := json.Unmarshal([]byte(`"fatal"`), &s); err == nil {
		t.Error("a severity that there is not was read")
	}
}

func TestOlder(t *testing.T) {
	for _, tt := range []struct {
		a    string
		want bool
	}{
		{"2.14.6", true},
		{"2.14.7", false},
		{"2.14.7-RC.1", true},
		{"2.15.0-beta.3", false},
		{"v2.9.99", true},
		{"3.0.0", false},
		{"2.14.10+meta", false},
		{"2.14", false},
		{"nonsense", false},
		{"", false},
	} {
		if got := older(tt.a, oldest); got != tt.want {
			t.Errorf("older(%q) is %v", tt.a, got)
		}
	}
}
