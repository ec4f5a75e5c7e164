package survey

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nats.go/micro"

	"github.com/herald-nats/herald/pkg/doctor/seen"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/keystore"
	"github.com/herald-nats/herald/pkg/trust"
)

// One platform for all, because it takes seconds to start. What disturbs it comes last.
func TestSurvey(t *testing.T) {
	w := start(t, "ams", "sfo", "sgp")
	t.Run("all", w.all)
	t.Run("services", w.services)
	t.Run("connections", w.connections)
	t.Run("impostor", w.impostor)
	t.Run("cut", w.cut)
	t.Run("held", w.held)
	t.Run("streams", w.streams)
	t.Run("stopped", w.stopped)
}

func (w *world) take(t *testing.T, o Options, from string) *seen.Platform {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	p, err := Take(ctx, w.dial(t, "SYS/setup", from), o)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// Everything that is asked comes from every server, and fits.
func (w *world) all(t *testing.T) {
	p := w.take(t, w.options(), "ams")
	if len(p.Servers) != 9 || len(p.Silent) != 0 || len(p.Views) != 1 || len(p.Views[0].Sees) != 9 {
		t.Fatalf("%d servers, silent %v, views %+v", len(p.Servers), p.Silent, p.Views)
	}
	t.Logf("took %v", p.Took)
	if p.Views[0].Region != reg("ams") {
		t.Errorf("looked from %+v", p.Views[0])
	}
	for i, s := range w.cluster.Servers() {
		got := p.Servers[i]
		if got.ID != s.ID || got.Name != s.Name || got.Region != s.Region {
			t.Errorf("server %d is %s %s in %s, want %s %s in %s", i, got.ID, got.Name, got.Region, s.ID, s.Name, s.Region)
		}
		if len(got.Unanswered) > 0 {
			t.Errorf("%s did not answer %v", s.Name, got.Unanswered)
		}
		// All clocks are this machine's.
		if c := got.Clock; c.Bound <= 0 || c.Ahead.Abs() > c.Bound || c.Bound > c.RTT {
			t.Errorf("clock of %s: %+v", s.Name, c)
		}
		var others, regions []string
		for _, o := range w.cluster.Servers() {
			if o.Region == s.Region && o.Name != s.Name {
				others = append(others, o.Name)
			}
			if o.Region != s.Region && !slices.Contains(regions, o.Region.String()) {
				regions = append(regions, o.Region.String())
			}
		}
		if !slices.Equal(got.Routes, others) || !slices.Equal(got.Outbound, regions) {
			t.Errorf("%s has routes %v and gateways %v", s.Name, got.Routes, got.Outbound)
		}
		if len(got.Operators) != 1 || got.Operators[0].Key != w.op.Key() || !got.Operators[0].Strict ||
			!slices.Equal(got.Operators[0].SigningKeys, []string{w.signing.Public()}) || got.SystemAccount != w.op.System().String() {
			t.Errorf("%s trusts %+v", s.Name, got.Operators)
		}
		if got.Version == "" || got.Started.IsZero() || got.Memory == 0 || got.MaxPayload != 1<<20 || got.MaxControlLine != 4096 || got.Health != "ok" {
			t.Errorf("%s: %+v", s.Name, got)
		}
		client := slices.IndexFunc(got.Listeners, func(l seen.Listener) bool { return l.Kind == seen.Clients })
		if client < 0 || !strings.HasSuffix(s.URL, fmt.Sprint(":", got.Listeners[client].Port)) || got.Listeners[client].TLS {
			t.Errorf("%s listens at %+v", s.Name, got.Listeners)
		}
	}
	if len(p.Unlinked()) != 0 {
		t.Errorf("unlinked: %+v", p.Unlinked())
	}
	if js := p.JetStream; js.Leader == "" || js.Size != 9 || len(js.Peers) != 8 {
		t.Errorf("JetStream: %+v", js)
	}
}

// A link that is cut shows at both ends, and a region out of reach is looked at from
// inside.
func (w *world) cut(t *testing.T) {
	if err := w.cluster.Cut(reg("ams"), reg("sfo")); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := w.cluster.Heal(reg("ams"), reg("sfo")); err != nil {
			t.Fatal(err)
		}
		eventually(t, 30*time.Second, func() string {
			if p := w.take(t, w.options(), "ams"); len(p.Unlinked()) > 0 || len(p.Views) > 1 {
				return fmt.Sprintf("healed: %+v, %d views", p.Unlinked(), len(p.Views))
			}
			return ""
		})
	}()
	eventually(t, 30*time.Second, func() string {
		p := w.take(t, w.options(), "ams")
		var pairs []string
		for _, u := range p.Unlinked() {
			pairs = append(pairs, fmt.Sprint(u.From, u.To, len(u.Servers)))
		}
		if want := []string{"amssfo3", "sfoams3"}; !slices.Equal(pairs, want) {
			return fmt.Sprintf("unlinked %v, want %v", pairs, want)
		}
		switch {
		case len(p.Views) != 2 || p.Views[0].Region != reg("ams") || p.Views[1].Region != reg("sfo"):
			return fmt.Sprintf("views %+v", p.Views)
		case len(p.Views[0].Sees) != 6 || len(p.Views[1].Sees) != 6:
			return fmt.Sprintf("views see %d and %d", len(p.Views[0].Sees), len(p.Views[1].Sees))
		case len(p.Servers) != 9 || len(p.Silent) > 0:
			return fmt.Sprintf("%d servers, silent %v", len(p.Servers), p.Silent)
		}
		return ""
	})
	// Without a way to look from inside they are silent.
	o := w.options()
	o.Dial = nil
	p := w.take(t, o, "ams")
	if want := w.in("sfo"); !slices.Equal(p.Silent, want) || len(p.Servers) != 6 {
		t.Errorf("silent %v, want %v", p.Silent, want)
	}
}

// in are the servers that a region should have.
func (w *world) in(region string) []seen.Node {
	return slices.DeleteFunc(w.nodes(), func(n seen.Node) bool { return n.Region != reg(region) })
}

// Who is down is named, and what others say of it; a stream that lost two of its three
// replicas has no leader; and a look ends in time.
func (w *world) stopped(t *testing.T) {
	three := func(p *seen.Platform) seen.Stream {
		i := slices.IndexFunc(p.JetStream.Streams, func(s seen.Stream) bool { return s.Name == "THREE" })
		if i < 0 {
			return seen.Stream{Leader: "there is no such stream"}
		}
		return p.JetStream.Streams[i]
	}
	leader := three(w.take(t, w.options(), "ams")).Leader
	want := []seen.Node{{Name: "sfo-2", Region: reg("sfo")}}
	for _, n := range w.in("sgp") {
		if n.Name != leader && len(want) < 3 {
			want = append(want, n)
		}
	}
	for _, n := range want {
		if err := w.cluster.StopNode(t.Context(), n.Name); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, 60*time.Second, func() string {
		p := w.take(t, w.options(), "ams")
		if !slices.Equal(p.Silent, want) || len(p.Servers) != 6 {
			return fmt.Sprintf("silent %v", p.Silent)
		}
		away := 0
		for _, peer := range p.JetStream.Peers {
			// A leader that saw them knows since when; one that was elected since does not.
			if peer.Offline || !peer.Current && peer.Active > 0 {
				away++
			}
		}
		if p.Leads() == "" || len(p.JetStream.Peers) != 8 || away != 3 {
			return fmt.Sprintf("%d peers away: %+v", away, p.JetStream)
		}
		if s := three(p); s.Leader != "" || len(s.Peers) != 0 {
			return fmt.Sprintf("stream %+v", s)
		}
		return ""
	})

	// The bound holds when many are silent, and what came until then is given.
	o := w.options()
	o.Quiet = time.Minute
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	began := time.Now()
	p, err := Take(ctx, w.dial(t, "SYS/setup", "ams"), o)
	if took := time.Since(began); err != nil || took > 10*time.Second || len(p.Servers) != 6 || len(p.Silent) != 3 {
		t.Errorf("took %v: %v, %+v", took, err, p)
	}
	// Canceled is not the same as in time.
	ctx, cancel = context.WithCancel(t.Context())
	cancel()
	if _, err := Take(ctx, w.dial(t, "SYS/setup", "ams"), o); !errors.Is(err, context.Canceled) {
		t.Errorf("canceled: %v", err)
	}
}

// Replicas and leaders of streams, also on several pages.
func (w *world) streams(t *testing.T) {
	js := must(jetstream.New(w.dial(t, "LEDGER/setup", "ams")))
	for _, s := range []jetstream.StreamConfig{
		{Name: "ONE", Subjects: []string{"one"}, Replicas: 1, Placement: &jetstream.Placement{Cluster: "sfo"}},
		{Name: "THREE", Subjects: []string{"three"}, Replicas: 3, Placement: &jetstream.Placement{Cluster: "sgp"}},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		if _, err := js.CreateStream(ctx, s); err != nil {
			t.Fatal(err)
		}
	}
	// More accounts with streams, so that there is more than one page of them.
	for i := range 3 {
		c := jwt.NewAccountClaims(newAccountKey().String())
		c.Name = fmt.Sprint("MORE-", i)
		c.Limits.JetStreamLimits = jwt.JetStreamLimits{MemoryStorage: -1, DiskStorage: -1, Streams: -1, Consumer: -1}
		w.push(t, w.sign(c))
	}
	for _, page := range []int{0, 1} {
		o := w.options()
		o.page = page
		eventually(t, 20*time.Second, func() string {
			p := w.take(t, o, "sfo")
			ledger := w.accounts["LEDGER"].String()
			for _, want := range []seen.Stream{
				{Account: ledger, Name: "ONE", Cluster: "sfo", Replicas: 1},
				{Account: ledger, Name: "THREE", Cluster: "sgp", Replicas: 3},
			} {
				i := slices.IndexFunc(p.JetStream.Streams, func(s seen.Stream) bool { return s.Name == want.Name && s.Account == want.Account })
				if i < 0 {
					return fmt.Sprintf("page %d: no stream %s in %+v", page, want.Name, p.JetStream.Streams)
				}
				got := p.JetStream.Streams[i]
				if got.Cluster != want.Cluster || got.Replicas != want.Replicas || !strings.HasPrefix(got.Leader, want.Cluster) || len(got.Peers) != want.Replicas-1 {
					return fmt.Sprintf("page %d: %+v", page, got)
				}
			}
			return ""
		})
	}
}

// Accounts that are in line are, and of others it is said what is wrong, and where as far
// as that can be told.
func (w *world) held(t *testing.T) {
	nc := w.dial(t, "SYS/setup", "ams")
	// One of which three servers have an older version, since they were away; one that only
	// some have; one that somebody signed who may not; one that nobody has.
	c := must(jwt.DecodeAccountClaims(w.tokens["CHAT"]))
	c.Tags = jwt.TagList{trust.TagBase + "2"}
	newer := w.sign(c)
	some := jwt.NewAccountClaims(newAccountKey().String())
	some.Name = "SOME"
	nobody := jwt.NewAccountClaims(newAccountKey().String())
	nobody.Name = "NOBODY"
	foreign := jwt.NewAccountClaims(newAccountKey().String())
	foreign.Name = "FOREIGN"
	w.push(t, must(foreign.Encode(must(keystore.Generate(keystore.Operator)).Pair())))
	if err := w.cluster.StopRegion(t.Context(), reg("sgp")); err != nil {
		t.Fatal(err)
	}
	w.push(t, newer)
	w.push(t, w.sign(some))
	if err := w.cluster.StartRegion(t.Context(), reg("sgp")); err != nil {
		t.Fatal(err)
	}
	member := w.dial(t, "CHAT/member", "sgp")
	known := []string{w.tokens["CHAT"], w.tokens["AUTH"], w.sign(some), w.sign(nobody), w.sign(foreign)}
	// The gateways of servers that just started may not know our inbox at first.
	eventually(t, 60*time.Second, func() string {
		servers := map[string]string{}
		for _, s := range w.running() {
			servers[s.ID] = s.Name
		}
		all, err := Accounts(t.Context(), nc, w.op, known, servers, time.Now)
		if err != nil {
			return err.Error()
		}
		var got []string
		for _, a := range all {
			got = append(got, fmt.Sprintf("%s %d: %s", a.Name, a.Version, a.Text()))
			if a.InLine() != (a.Text() == "") || a.Changed.IsZero() || a.Size == 0 || !a.Expires.IsZero() {
				t.Errorf("standing %+v", a)
			}
		}
		if want := []string{
			"CHAT 2: 3 servers with an older one", "AUTH 1: ", "SOME 0: 3 servers without it", "NOBODY 0: 9 servers without it",
			"FOREIGN 0: 9 servers with one that does not verify",
		}; !slices.Equal(got, want) {
			return fmt.Sprintf("standings %q, want %q", got, want)
		}
		// The member's server has the account in memory, the others of its region perhaps.
		if !slices.Contains(all[0].Astray, member.ConnectedServerName()) || slices.ContainsFunc(all[0].Astray, func(n string) bool { return !strings.HasPrefix(n, "sgp-") }) {
			return fmt.Sprintf("astray %v", all[0].Astray)
		}
		return ""
	})
	w.push(t, newer)
	w.tokens["CHAT"] = newer

	absent := must(ident.ParseAccountKey(nobody.Subject))
	// In memory are the accounts with users or imports there.
	w.dial(t, "GUEST/guest", "sfo")
	memory := must(Memory(t.Context(), nc, w.accounts["GUEST"], 9, 2*Quiet))
	if len(memory) == 0 || memory[0].Token != w.tokens["GUEST"] || memory[0].Expired || memory[0].Updated.IsZero() || !memory[0].Complete {
		t.Errorf("GUEST in memory: %+v", memory)
	}
	if memory := must(Memory(t.Context(), nc, absent, 9, Quiet)); len(memory) != 0 {
		t.Errorf("nobody's account is in memory: %+v", memory)
	}
	// Asking did not load it anywhere.
	for _, l := range must(Loaded(t.Context(), nc, 9, 2*Quiet)) {
		if l.Accounts[absent.String()] || !l.Accounts[w.accounts["SYS"].String()] {
			t.Errorf("%s has in memory %v", l.Server, l.Accounts)
		}
	}
}

// Who would be disconnected: all connections of an account, on all servers, page by page,
// with the key of their role.
func (w *world) connections(t *testing.T) {
	nc := w.dial(t, "SYS/setup", "ams")
	var want []string
	for i := range 20 {
		region := []string{"ams", "sgp"}[i%2]
		w.dial(t, "CHAT/member", region)
		want = append(want, region)
	}
	w.dial(t, "GUEST/guest", "sfo")
	slices.Sort(want)
	for _, page := range []int{connPage, 3} {
		all := must(connectionsBy(t.Context(), nc, []ident.AccountKey{w.accounts["CHAT"]}, 9, 2*Quiet, page))
		var got []string
		for _, c := range all {
			got = append(got, c.Region.String())
			if c.Account != w.accounts["CHAT"] || c.Issuer != w.roles["CHAT/member"].Public() || c.Name != "the-member" ||
				!strings.HasPrefix(c.User, "U") || !strings.HasPrefix(c.Server, c.Region.String()) || c.Since.IsZero() || c.Client != "CHAT/member" || c.Kind != "nats" {
				t.Errorf("connection %+v", c)
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("page of %d: connections in %v, want %v", page, got, want)
		}
	}
	// Nobody loads an account because of the question.
	closed := newAccountKey()
	c := jwt.NewAccountClaims(closed.String())
	c.Name = "QUIET"
	w.push(t, w.sign(c))
	if all := must(Connections(t.Context(), nc, []ident.AccountKey{closed}, 9, 2*Quiet)); len(all) != 0 {
		t.Errorf("connections of nobody: %+v", all)
	}
	for _, l := range must(Loaded(t.Context(), nc, 9, 2*Quiet)) {
		if l.Accounts[closed.String()] {
			t.Errorf("%s loaded an account that was asked about", l.Server)
		}
	}
}

// Issuers and registrars of all regions are found from ADMIN, by the rights that its role
// has, although both answer the same subject in accounts of their own.
func (w *world) services(t *testing.T) {
	for _, region := range []string{"ams", "sgp"} {
		for role, kind := range map[string]string{"AUTH/issuer": "issuer", "LEDGER/registrar": "registrar"} {
			nc := w.dial(t, role, region)
			svc, err := micro.AddService(nc, micro.Config{
				Name: kind, Version: "0.1.0", QueueGroup: kind,
				StatsHandler: func(*micro.Endpoint) any {
					return map[string]any{"region": region, "document": "1.7", "age": map[string]string{"near": "1.5s", "far": "never"}, "copy_failing": true}
				},
			})
			if err != nil {
				t.Fatal(err)
			}
			subj := map[string]string{"issuer": "auth.v1.issue", "registrar": "auth.v1.admin.x"}[kind]
			if err := svc.AddEndpoint("e", micro.HandlerFunc(func(micro.Request) {}), micro.WithEndpointSubject(subj)); err != nil {
				t.Fatal(err)
			}
			if err := nc.Flush(); err != nil {
				t.Fatal(err)
			}
		}
	}
	admin := w.dial(t, "ADMIN/admin", "sfo")
	eventually(t, 20*time.Second, func() string {
		var got []string
		for _, s := range must(Services(t.Context(), admin, Quiet)) {
			got = append(got, s.Region+" "+s.Name)
			if _, all := s.Oldest(); all || s.Version != "0.1.0" || s.Document != "1.7" || !s.CopyFailing || s.Started.IsZero() ||
				!slices.Equal(s.Never, []string{"far"}) || s.Ages["near"] != 1500*time.Millisecond || len(s.Subjects) != 1 {
				t.Errorf("service %+v", s)
			}
		}
		if want := []string{"ams issuer", "ams registrar", "sgp issuer", "sgp registrar"}; !slices.Equal(got, want) {
			return fmt.Sprintf("services %v, want %v", got, want)
		}
		return ""
	})
}

// What is said that cannot be true, or cannot be read, harms nobody: somebody in SYS who
// answers as if he were a server.
func (w *world) impostor(t *testing.T) {
	c := must(jwt.DecodeAccountClaims(w.tokens["SYS"]))
	key := must(keystore.Generate(keystore.Account))
	s := jwt.NewUserScope()
	s.Key, s.Role = key.Public(), "impostor"
	c.SigningKeys.AddScopedSigner(s)
	w.push(t, w.sign(c))
	w.roles["SYS/impostor"] = key
	defer w.push(t, w.tokens["SYS"])
	nc := w.dial(t, "SYS/impostor", "sgp")
	fat := strings.Repeat("x", 100<<10)
	for page, data := range map[string]string{
		pageStats:    `"statsz":{}`,
		pageVars:     `"data":{"mem":"much"}`,
		pageGateways: `"data":{"outbound_gateways":{"` + fat + `":null,"\u001b[2J\u202e":{}},"inbound_gateways":{"a":[]}}`,
		pageRoutes:   `"data":null`,
		pageHealth:   `"data":{"status":"` + fat + `"}`,
		pageJS:       `"data":{"meta_cluster":{"leader":"x","replicas":[null]},"account_details":[null,{"stream_detail":[{}]}]}`,
	} {
		if _, err := nc.Subscribe("$SYS.REQ.SERVER.PING."+page, func(m *nats.Msg) {
			at := must(time.Now().Add(-time.Hour).MarshalText())
			_ = m.Respond([]byte(`{"server":{"id":"IMPOSTOR","name":"evil\nname","cluster":"not a region","ver":"1","time":"` + string(at) + `"},` + data + `}`))
			_ = m.Respond([]byte(`{`))
			_ = m.Respond(nil)
			_ = m.Respond([]byte(`{"server":{},"data":{}}`))
		}); err != nil {
			t.Fatal(err)
		}
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	eventually(t, 20*time.Second, func() string {
		p := w.take(t, w.options(), "ams")
		i := slices.IndexFunc(p.Servers, func(s seen.Server) bool { return s.ID == "IMPOSTOR" })
		if len(p.Servers) != 10 || i < 0 {
			return fmt.Sprintf("%d servers", len(p.Servers))
		}
		got := p.Servers[i]
		if !slices.Equal(got.Unanswered, []string{pageVars}) {
			return fmt.Sprintf("unanswered %v", got.Unanswered)
		}
		if got.Name != "evil?name" || !got.Region.IsZero() || len(got.Health) != maxReason || len(got.Inbound) != 0 {
			t.Errorf("the impostor: %+v", got)
		}
		for _, o := range got.Outbound {
			if len(o) > maxText || strings.ContainsAny(o, "\x1b\u202e") {
				t.Errorf("a region called %.40q of %d bytes", o, len(o))
			}
		}
		// An hour behind, by more than what the measurement may be wrong.
		if c := got.Clock; c.Ahead > -59*time.Minute || c.Apart(p.Servers[0].Clock) < 59*time.Minute {
			t.Errorf("its clock: %+v", c)
		}
		for _, s := range p.Servers {
			if s.ID != "IMPOSTOR" && (len(s.Unanswered) > 0 || s.Clock.Ahead.Abs() > s.Clock.Bound) {
				t.Errorf("%s: unanswered %v, clock %+v", s.Name, s.Unanswered, s.Clock)
			}
		}
		return ""
	})
}
