package rightstest

import (
	"context"
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
	"github.com/nats-io/nats.go"

	"github.com/herald-nats/herald/internal/natsconn"
	"github.com/herald-nats/herald/internal/service"
	"github.com/herald-nats/herald/internal/uptest"
	"github.com/herald-nats/herald/pkg/audit"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/keystore"
	"github.com/herald-nats/herald/pkg/ledger"
	"github.com/herald-nats/herald/pkg/ledger/jetstream"
	"github.com/herald-nats/herald/pkg/platform"
	"github.com/herald-nats/herald/pkg/registrar"
	"github.com/herald-nats/herald/pkg/subject"
	"github.com/herald-nats/herald/pkg/trust"
)

// form is one way to use one right.
type form struct {
	to   string
	head []byte
	body []byte
	want string // the kind of answer, see kind; "" where it is not known, "none" where there is to be none
}

// walk gives every right to publish that a role has, as the account JWT says, each in
// the forms that give an answer of every kind. A right that nobody thought of here is
// used too, in general forms.
func walk(t *testing.T, account, role string, u user, in string, v victim) []form {
	t.Helper()
	var all []form
	for _, right := range rights(t, account, role, u, in) {
		all = append(all, forms(right, u, in, v)...)
	}
	if len(all) == 0 {
		t.Fatalf("%s/%s has no right: nothing is checked", account, role)
	}
	return all
}

// rights are what a user of a role may publish, as patterns.
func rights(t *testing.T, account, role string, u user, in string) []string {
	t.Helper()
	var all []string
	for _, s := range scopes(t, accounts(t)[account]) {
		if s.Role != role {
			continue
		}
		for _, right := range s.Template.Pub.Allow {
			all = append(all, strings.NewReplacer("{{subject()}}", u.key.Public(), "{{tag(region)}}", in).Replace(right))
		}
	}
	return all
}

// matches tells whether a pattern allows a subject.
func matches(pattern, subj string) bool {
	p, s := strings.Split(pattern, "."), strings.Split(subj, ".")
	for i, t := range p {
		if t == ">" {
			return len(s) > i
		}
		if i >= len(s) || t != "*" && t != s[i] {
			return false
		}
	}
	return len(p) == len(s)
}

// victim is what attackers aim at, all of it real.
type victim struct {
	name  ident.Name
	other string // a service's nkey that is not the attacker's
	claim []byte // a claim of home that is valid, and of what is held already
	write string // a key for what the attacker may write anyway
}

func text(bodies ...string) [][]byte {
	out := make([][]byte, len(bodies))
	for i, b := range bodies {
		out[i] = []byte(b)
	}
	return out
}

// forms are the forms of one right.
func forms(right string, u user, in string, v victim) []form {
	key := subject.Decision(ledger.NameKey(v.name).String())
	// What a stream may answer to whoever writes to it: with an acknowledgement, an
	// error, or, inside a batch, with nothing.
	written := func(to, ack, refused string) []form {
		return []form{
			{to, nil, []byte("x"), ack},
			{to, header("Nats-Msg-Id", "same"), []byte("x"), ack},
			{to, header("Nats-Msg-Id", "same"), []byte("x"), ack}, // a duplicate
			{to, header("Nats-Expected-Last-Sequence", "1"), []byte("x"), refused},
			{to, header("Nats-Expected-Stream", "OTHER"), []byte("x"), refused},
			{to, header("Nats-Rollup", "all"), []byte("x"), refused},
			{to, header("Nats-TTL", "1s"), []byte("x"), refused},
			{to, header("Nats-Incr", "+1"), []byte("1"), refused},
			{to, header("Nats-Batch-Id", "b", "Nats-Batch-Sequence", "1"), []byte("x"), refused},
			{to, header("Nats-Batch-Id", "b", "Nats-Batch-Sequence", "2", "Nats-Batch-Commit", "1"), []byte("x"), refused},
			{to, header("Nats-Schedule", "@at 2030-01-01T00:00:00Z", "Nats-Schedule-Target", key), []byte("x"), refused},
			{to, header("KV-Operation", "PURGE"), nil, ack},
		}
	}
	all := func(to string, bodies ...[]byte) []form {
		var f []form
		for _, b := range bodies {
			f = append(f, form{to: to, body: b})
		}
		return f
	}
	stream := right[strings.LastIndexByte(right, '.')+1:]
	switch {
	case right == subject.ImportedReplies:
		return []form{{"_R_.nobody", nil, []byte("x"), "none"}, {"_R_.nobody.x", nil, nil, "none"}}
	case strings.HasPrefix(right, "$JS.API.DIRECT.GET."):
		of := subject.Decisions
		if strings.HasPrefix(stream, "DENIALS") {
			of = subject.DenialsAll
		} else if strings.HasPrefix(stream, "AUDIT") {
			of = "audit.>"
		}
		missing := strings.TrimSuffix(of, ">") + "missing.x"
		f := []form{{right, nil, []byte(`{"last_by_subj":"` + missing + `"}`), "404"}}
		if !strings.HasSuffix(stream, "_"+in) {
			return f
		}
		return append(f,
			form{right, nil, []byte(`{"seq":1,"next_by_subj":"` + missing + `","batch":2}`), "404"},
			form{right, nil, []byte(`{"last_by_subj":"` + of + `"}`), "found"},
			form{right, nil, nil, "408"},
			form{right, nil, []byte(`{"seq":99999999}`), "404"},
			form{right, nil, []byte(`{"multi_last":["` + of + `"],"batch":2}`), "found"},
			form{right, nil, []byte("{}"), "408"},
			form{right, nil, []byte("no JSON"), "408"},
		)
	case right == subject.DecisionsRead:
		return []form{
			{right, nil, nil, "error"},
			{right, nil, []byte("{}"), "error"},
			{right, nil, []byte(`{"seq":99999999}`), "error"},
			{right, nil, []byte(`{"last_by_subj":"$KV.decisions.missing"}`), "error"},
			{right, nil, []byte(`{"last_by_subj":"` + key + `"}`), "message"},
			{right, nil, []byte(`{"seq":1,"next_by_subj":"$KV.decisions.>"}`), "message"},
		}
	case right == subject.HomeClaim:
		return []form{{right, nil, v.claim, "answer"}, {right, nil, []byte("{}"), "refused"}, {right, nil, nil, "refused"}}
	case right == subject.HomeRedeem:
		return []form{{right, nil, v.claim, "refused"}, {right, nil, nil, "refused"}}
	case strings.HasPrefix(right, "audit."):
		return slices.Delete(written(right, "ack", "error"), 4, 8)
	case right == subject.Decisions:
		return slices.Delete(written(subject.Decision(v.write), "ack", "error"), 4, 8)
	case strings.HasPrefix(right, "denials."):
		return written(strings.TrimSuffix(right, ">")+v.write, "none", "none")
	case right == subject.PeersAll:
		return slices.Concat(
			all(subject.PeerDigests, text("x", `{"region":"evil","from":"`+v.other+`","root":"AAAA"}`)...),
			all("peers."+in+".compare", text("x", "{}")...), all("peers."+in+".entries", text("x", `{"entries":[{"key":"x","token":"y"}]}`)...),
			all("peers.evil.x", nil),
		)
	case right == subject.LiveAll:
		return slices.Concat(all(subject.Live(region(in), "name.x"), text("", "x")...), all(subject.Live(region("sgp"), ledger.NameKey(v.name).String()), nil))
	case right == subject.StreamCreate, right == subject.StreamUpdate:
		to := strings.TrimSuffix(right, "*")
		return slices.Concat(all(to+subject.DecisionsStream, text("", `{"name":"x"}`)...), all(to+"evil", text("{}")...))
	case right == subject.StreamInfo:
		to := strings.TrimSuffix(right, "*")
		return slices.Concat(all(to+subject.DecisionsStream, nil), all(to+"missing", nil))
	default:
		return all(general(right), text("", "{}", `{"ttl":"-1"}`)...)
	}
}

// general is a subject that a pattern allows.
func general(pattern string) string {
	tokens := strings.Split(pattern, ".")
	for i, t := range tokens {
		if t == "*" || t == ">" {
			tokens[i] = "General"
		}
	}
	return strings.Join(tokens, ".")
}

// kind is the kind of an answer.
func kind(m msg) string {
	var v struct {
		Error, Message json.RawMessage
		Stream         string
	}
	status, _, _ := strings.Cut(string(m.header), "\r\n")
	switch {
	case len(status) > len("NATS/1.0 ")+2:
		return status[len("NATS/1.0 "):][:3]
	case m.get("Nats-Sequence") != "":
		return "found"
	case m.get("Nats-Service-Error-Code") != "":
		return "refused"
	case json.Unmarshal(m.body, &v) != nil:
		return "answer"
	case v.Error != nil:
		return "error"
	case v.Message != nil:
		return "message"
	case v.Stream != "":
		return "ack"
	}
	return "answer"
}

// streams are all streams of the ledger.
func streams() []string {
	all := []string{subject.DecisionsStream}
	for _, r := range shared.Public.Document.Regions {
		all = append(all, subject.MirrorStream(r.Name), subject.DenialsStream(r.Name), subject.RecordsStream(r.Name))
	}
	return all
}

// apis are requests to JetStream about a stream, with what makes or changes something.
func apis(stream string) []string {
	var all []string
	for _, s := range []string{
		"STREAM.DELETE.%", "STREAM.PURGE.%", "STREAM.UPDATE.%", "STREAM.CREATE.%", "STREAM.MSG.DELETE.%", "STREAM.SNAPSHOT.%",
		"STREAM.RESTORE.%", "STREAM.PEER.REMOVE.%", "STREAM.LEADER.STEPDOWN.%", "CONSUMER.CREATE.%", "CONSUMER.CREATE.%.evil",
		"CONSUMER.CREATE.%.evil.$KV.decisions.>", "CONSUMER.DURABLE.CREATE.%.evil", "CONSUMER.DELETE.%.evil", "CONSUMER.PAUSE.%.evil",
		"CONSUMER.RESET.%.evil", "CONSUMER.UNPIN.%.evil", "CONSUMER.LEADER.STEPDOWN.%.evil", "CONSUMER.MSG.NEXT.%.evil",
	} {
		all = append(all, "$JS.API."+strings.ReplaceAll(s, "%", stream))
	}
	return all
}

// hostile are reply subjects that would do harm in one account or another if the
// answer to a request could be aimed at them. (Subjects with a wildcard are none.)
func hostile(v victim) []string {
	key := ledger.NameKey(v.name).String()
	all := []string{
		subject.Decision(key), subject.Decision("name.evil"), subject.DecisionsRead, "$JS.API.STREAM.CREATE.evil",
		"$JS.API.INFO", "$JS.API.STREAM.NAMES", "$JS.API.META.LEADER.STEPDOWN", "$JS.API.ACCOUNT.PURGE.x", "$JS.API.SERVER.REMOVE",
		subject.HomeClaim, subject.HomeRedeem, subject.Issue, subject.Renew, subject.Info, subject.Callout, "auth.v1.admin.suspend",
		subject.PeerDigests, "_INBOX.svc." + v.other + ".x", "_INBOX.svc." + v.other + ".x.1",
		"$SYS.REQ.CLAIMS.UPDATE", "$SYS.REQ.SERVER.PING", "$SYS.REQ.USER.INFO", "$SRV.PING", "$SRV.STATS.issuer",
		subject.Post(room(), label("General")), subject.Online(room()), "chat.KUBECON.dms." + v.other,
	}
	for _, r := range shared.Public.Document.Regions {
		n := r.Name.String()
		all = append(all,
			"denials."+n+"."+key, "audit."+n+"."+v.other, "records."+n+"."+v.other,
			"ledger."+n+".decisions."+key, "ledger."+n+".denials."+n+".suspension.x", "ledger."+n+".live."+key, "peers."+n+".entries",
			subject.DirectGet(subject.MirrorStream(r.Name)),
		)
	}
	// Every request about one stream, and about the others those that would hurt most.
	all = append(all, apis(subject.DecisionsStream)...)
	for _, s := range streams()[1:] {
		all = append(all, "$JS.API.STREAM.DELETE."+s)
		if strings.HasSuffix(s, "_sfo") {
			all = append(all, "$JS.API.STREAM.PURGE."+s, "$JS.API.STREAM.MSG.DELETE."+s, "$JS.API.CONSUMER.CREATE."+s)
		}
	}
	return all
}

// widened are accounts that have one more role, until it is undone: who holds that
// hears everything, and may say what no role of the platform may.
type widened struct {
	resolver *registrar.Resolver
	new      []string // JWTs
	before   []*jwt.AccountClaims
	roles    map[string]*keystore.Key // by account
	accounts map[string]*jwt.AccountClaims
	signing  *keystore.Key
}

// serverNames are the names of all servers.
func serverNames() []string {
	var names []string
	for _, s := range shared.Up.Cluster.Servers() {
		names = append(names, s.Name)
	}
	return names
}

// inLine checks that every server holds these accounts, or what goes beyond them, and
// gives what should be in force.
func inLine(ctx context.Context, t *testing.T, r *registrar.Resolver, tokens []string) []registrar.Standing {
	t.Helper()
	rep, err := r.Survey(ctx, tokens, serverNames())
	if err == nil {
		err = rep.Err()
	}
	if err != nil {
		t.Error(err)
	}
	return rep.Accounts
}

// put signs claims as the version after the one given and brings them to all servers.
func (w *widened) put(ctx context.Context, t *testing.T, claims []*jwt.AccountClaims, after uint64) []string {
	t.Helper()
	var tokens []string
	for _, c := range claims {
		next := *c
		next.Tags = slices.DeleteFunc(slices.Clone(c.Tags), func(s string) bool { return strings.HasPrefix(s, trust.TagBase) })
		next.Tags.Add(trust.TagBase + strconv.FormatUint(trust.BaseVersion(c.Tags)+after, 10))
		tokens = append(tokens, must(next.Encode(w.signing.Pair())))
	}
	rep, err := w.resolver.Settle(ctx, tokens, serverNames())
	if err == nil {
		err = rep.Err()
	}
	if err != nil {
		t.Error(err)
	}
	return tokens
}

// widen pushes accounts so. What each may say, besides hearing everything, is given.
func widen(ctx context.Context, t *testing.T, may map[string][]string) *widened {
	t.Helper()
	signing := load(t, dir().Operator()+"/signing/nscsetup.nk", keystore.Operator)
	return widenBy(ctx, t, minted(t, platform.System, platform.RoleRegistrar), signing, may)
}

// widenBy is widen with a user of SYS and an operator signing key.
func widenBy(ctx context.Context, t *testing.T, sys user, signing *keystore.Key, may map[string][]string) *widened {
	t.Helper()
	w := &widened{roles: map[string]*keystore.Key{}, accounts: accounts(t), signing: signing}
	w.resolver = registrar.NewResolver(attach(t, sys, "ams"), shared.Up.Platform.Operator, w.signing, time.Now)
	var wide []*jwt.AccountClaims
	for _, s := range inLine(ctx, t, w.resolver, accountTokens()) {
		pub, ok := may[s.Name]
		if !ok {
			continue
		}
		// Read twice: one is changed.
		before, c := must(must(s.Content()).Claims()), must(must(s.Content()).Claims())
		w.before = append(w.before, before)
		role, err := keystore.Generate(keystore.Account)
		if err != nil {
			t.Fatal(err)
		}
		w.roles[s.Name] = role
		scope := jwt.NewUserScope()
		scope.Key, scope.Role = role.Public(), "tester"
		scope.Template.Pub.Allow.Add(pub...)
		scope.Template.Sub.Allow.Add(">")
		c.SigningKeys.AddScopedSigner(scope)
		wide = append(wide, c)
	}
	w.new = w.put(ctx, t, wide, 1)
	return w
}

func (w *widened) undo(ctx context.Context, t *testing.T) {
	t.Helper()
	w.put(ctx, t, w.before, 2)
	inLine(ctx, t, w.resolver, accountTokens())
}

// tester is somebody in a widened account.
func (w *widened) tester(t *testing.T, account string) user {
	t.Helper()
	u := forge(t, w.roles[account], func(c *jwt.UserClaims) { c.IssuerAccount = w.accounts[account].Subject })
	u.what = "tester in " + account
	return u
}

// ear hears everything in an account and tells what came on subjects that only an
// answer could be aimed at. A request has a reply, an answer has none.
type ear struct {
	sub   *nats.Subscription
	nc    *nats.Conn
	aimed map[string]bool
}

func listen(t *testing.T, u user, in string, aimed []string) *ear {
	t.Helper()
	// At another server than the attacker's: for two seconds after somebody subscribes
	// its server marks matching replies, and a gateway leads what is published there to
	// this region alone.
	nc, err := natsconn.Dial(bound(t), natsconn.Options{
		URLs: urls(in)[1:2], Name: "test", InboxPrefix: subject.ServiceInboxPrefix(u.nkey()), Credential: natsconn.Static{Token: u.token, Key: u.key},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	e := &ear{nc: nc, aimed: map[string]bool{}}
	for _, s := range aimed {
		// Registrars talk among each other all the time.
		e.aimed[s] = !strings.HasPrefix(s, "peers.")
	}
	if e.sub, err = e.nc.SubscribeSync(">"); err == nil {
		err = errors.Join(e.sub.SetPendingLimits(-1, -1), e.nc.FlushWithContext(bound(t)))
	}
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// took gives what landed since it was asked the last time, by subject, and how much
// was heard in all.
func (e *ear) took(t *testing.T) (landed map[string]string, all int) {
	t.Helper()
	if err := e.nc.FlushWithContext(bound(t)); err != nil {
		t.Fatal(err)
	}
	landed = map[string]string{}
	for {
		m, err := e.sub.NextMsg(time.Millisecond)
		if errors.Is(err, nats.ErrTimeout) {
			return landed, all
		}
		if err != nil {
			t.Fatal(err)
		}
		all++
		if e.aimed[m.Subject] && m.Reply == "" && !isNews(m) {
			landed[m.Subject] = fmt.Sprintf("%v %.200q", m.Header, m.Data)
		}
	}
}

// isNews tells whether a message is what a stream of records republishes there: a sign of life, which each
// issuer gives once a minute. An answer to a direct get says how many are to follow, too.
func isNews(m *nats.Msg) bool {
	of, ok := strings.CutPrefix(m.Subject, "records.")
	return ok && m.Header.Get("Nats-Subject") == "audit."+of && m.Header.Get("Nats-Last-Sequence") != "" && m.Header.Get("Nats-Num-Pending") == ""
}

// held is all that the ledger's streams hold, and how they are set up.
type held struct {
	config   map[string]string // by stream
	state    map[string]string
	messages map[string]kept // by stream and sequence
	names    string          // of all streams and consumers there are, where somebody may ask
}

type kept struct{ stream, subject, data string }

// observer sees all streams: as the set-up tool, as a reader, and as somebody who may
// ask which streams and consumers there are.
type observer struct{ setup, reader, inside *nats.Conn }

func observe(t *testing.T, inside user) observer {
	t.Helper()
	return observer{
		setup: attach(t, minted(t, platform.Ledger, platform.RoleSetup), "ams"), reader: attach(t, readerOf(t, "ams"), "ams"),
		inside: attach(t, inside, "ams"),
	}
}

// hold reads all streams.
func (o observer) hold(ctx context.Context, t *testing.T) held {
	t.Helper()
	h := held{config: map[string]string{}, state: map[string]string{}, messages: map[string]kept{}}
	sources := map[string]*jetstream.Source{}
	for _, r := range shared.Public.Document.Regions {
		sources[subject.MirrorStream(r.Name)] = jetstream.MirrorSource(o.reader, r.Name)
		sources[subject.DenialsStream(r.Name)] = jetstream.DenialsSource(o.reader, r.Name)
		sources[subject.RecordsStream(r.Name)] = jetstream.RecordsSource(o.reader, r.Name)
	}
	for _, s := range streams() {
		m, err := o.setup.RequestWithContext(ctx, strings.TrimSuffix(subject.StreamInfo, "*")+s, nil)
		if err != nil {
			t.Fatalf("the stream %s: %v", s, err)
		}
		var info struct {
			Error  json.RawMessage
			Config json.RawMessage
			State  struct {
				Messages  uint64 `json:"messages"`
				FirstSeq  uint64 `json:"first_seq"`
				LastSeq   uint64 `json:"last_seq"`
				Deleted   int    `json:"num_deleted"`
				Consumers int    `json:"consumer_count"`
			}
		}
		if err := json.Unmarshal(m.Data, &info); err != nil || info.Error != nil || info.Config == nil {
			t.Fatalf("the stream %s is gone: %s", s, m.Data)
		}
		h.config[s], h.state[s] = string(info.Config), fmt.Sprintf("%+v", info.State)
		source, ok := sources[s]
		if !ok {
			continue // home's bucket: it is in the mirrors
		}
		for at := uint64(0); ; {
			list, err := source.Read(ctx, at, 1000)
			if err != nil {
				t.Fatalf("reading %s: %v", s, err)
			}
			if len(list) == 0 {
				break
			}
			for _, e := range list {
				h.messages[fmt.Sprint(s, " ", e.Seq)] = kept{s, e.Subject, e.Data}
				at = e.Seq
			}
		}
	}
	h.names = inventory(ctx, t, o.inside)
	return h
}

// inventory is which streams and consumers there are, for who may ask.
func inventory(ctx context.Context, t *testing.T, nc *nats.Conn) string {
	t.Helper()
	ask := func(subj string) string {
		m, err := nc.RequestWithContext(ctx, subj, nil)
		if err != nil {
			t.Fatalf("%s: %v", subj, err)
		}
		var v struct{ Error, Streams, Consumers json.RawMessage }
		if err := json.Unmarshal(m.Data, &v); err != nil || v.Error != nil {
			t.Fatalf("%s: %s", subj, m.Data)
		}
		return string(v.Streams) + string(v.Consumers)
	}
	all := ask("$JS.API.STREAM.NAMES")
	for _, s := range streams() {
		all += "\n" + s + ": " + ask("$JS.API.CONSUMER.NAMES."+s)
	}
	return all
}

// same reports every difference but what the attacker may write anyway.
func (h held) same(t *testing.T, now held, may func(kept) bool) {
	t.Helper()
	changed := map[string]bool{}
	// A region's stream of denials comes to have what another has.
	copies := map[kept]bool{}
	for _, m := range h.messages {
		copies[kept{"", m.subject, m.data}] = strings.HasPrefix(m.stream, "DENIALS_") || copies[kept{"", m.subject, m.data}]
	}
	for at, m := range h.messages {
		if after, ok := now.messages[at]; (!ok || after != m) && !may(m) {
			t.Errorf("%s held %.60q under %s and holds %+v", at, m.data, m.subject, after)
		}
	}
	for at, m := range now.messages {
		if _, ok := h.messages[at]; ok {
			continue
		}
		changed[m.stream] = true
		if !may(m) && !copies[kept{"", m.subject, m.data}] {
			t.Errorf("%s holds %.200q under %s", at, m.data, m.subject)
		}
	}
	for s := range h.config {
		if h.config[s] != now.config[s] {
			t.Errorf("the stream %s was\n%s\nand is\n%s", s, h.config[s], now.config[s])
		}
		if h.state[s] != now.state[s] && !changed[s] && (s != subject.DecisionsStream || !changed[subject.MirrorStream(region("ams"))]) {
			t.Errorf("the stream %s was at %s and is at %s", s, h.state[s], now.state[s])
		}
	}
	if h.names != now.names {
		t.Errorf("there were the streams and consumers\n%s\nand there are\n%s", h.names, now.names)
	}
}

// running is a service of the platform.
func running(t *testing.T, kind, in string) *service.Running {
	t.Helper()
	i := slices.IndexFunc(shared.Up.Services, func(r *service.Running) bool { return r.Service == kind && r.Region == region(in) })
	if i < 0 {
		t.Fatalf("no %s in %s", kind, in)
	}
	return shared.Up.Services[i]
}

// knownTo is what a service knows, but for base claims: issuers have no use for them.
func knownTo(r *service.Running) string { return string(uptest.Known(r.Known())) }

// settle waits until all services know the same and every registrar has stored what
// it knows, and gives what that is.
func settle(t *testing.T) string {
	t.Helper()
	var differ []string
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		differ = nil
		want := knownTo(shared.Up.Services[0])
		for _, r := range shared.Up.Services {
			if knownTo(r) != want || r.Denials() != nil && r.Denials().Unstored() > 0 {
				differ = append(differ, r.Service+"/"+r.Region.String())
			}
		}
		if len(differ) == 0 {
			return want
		}
	}
	t.Fatalf("they do not come to know the same: %v", differ)
	return ""
}

// believes holds that every service knows what it knew, and besides that nothing but
// the entries that are given.
func believes(t *testing.T, before string, but ...ledger.Entry) {
	t.Helper()
	for _, r := range shared.Up.Services {
		now := knownTo(r)
		for _, e := range but {
			now = strings.Replace(now, e.Key.String()+"\x00"+e.Token+"\x00", "", 1)
		}
		if now != before {
			t.Errorf("the %s of %s believes what was planted: %s", r.Service, r.Region, difference(before, now))
		}
	}
}

// quiet is hold, once nothing is written any more.
// late tells whether a message is the record of a renewal that was asked for earlier: on
// a busy machine some hundred of them are answered for seconds. A record that was there
// before, and is there once more, is none.
func (h held) late(m kept, who ident.UserKey) bool {
	b, err := audit.Open(m.subject, m.data)
	if err != nil {
		return false
	}
	for _, old := range h.messages {
		if o, err := audit.Open(old.subject, old.data); err == nil && o.Sum == b.Sum {
			return false
		}
	}
	return recordOf(m, who)
}

// recordOf tells whether a message is a block of our services that tells of a user, or a sign
// of life: issuers record what is asked of them, refusals too, and registrars what they state.
func recordOf(m kept, who ident.UserKey) bool {
	b, err := audit.Open(m.subject, m.data)
	return err == nil && ofOurs(b) && (len(b.Content) == 0 || slices.ContainsFunc(b.Content, func(r audit.Record) bool {
		return r.User == who || r.What == audit.Refuse || r.What == audit.Change || r.What == audit.Use
	}))
}

// ofOurs tells whether a service that runs wrote a block.
func ofOurs(b audit.Block) bool {
	return slices.ContainsFunc(shared.Up.Services, func(r *service.Running) bool { return r.Writer == b.Writer.String() })
}

func (o observer) quiet(ctx context.Context, t *testing.T) held {
	t.Helper()
	was := o.hold(ctx, t)
	for {
		now := o.hold(ctx, t)
		if maps.Equal(was.messages, now.messages) && maps.Equal(was.state, now.state) {
			return now
		}
		was = now
		if ctx.Err() != nil {
			t.Fatal("the streams are never quiet")
		}
	}
}

// difference is the first place where two dumps differ.
func difference(a, b string) string {
	n := 0
	for n < len(a) && n < len(b) && a[n] == b[n] {
		n++
	}
	from := max(0, n-60)
	return fmt.Sprintf("%.120q, and was %.120q", b[from:], a[from:])
}

// listening holds that everybody still hears and believes what a registrar says: a
// suspension of nobody reaches them all. What was sent before it has arrived.
func listening(t *testing.T, in string) ledger.Entry {
	t.Helper()
	key, err := keystore.Generate(keystore.User)
	if err != nil {
		t.Fatal(err)
	}
	id := ident.OpenIdentity(must(ident.ParseUserKey(key.Public())))
	e, err := running(t, service.Registrar, in).Denials().Suspend(bound(t), ledger.IdentitySuspension(id), true, 0, ledger.Suspension{Why: "a test"})
	if err != nil && !errors.Is(err, ledger.ErrUnavailable) { // in force; a region that just came stores it later
		t.Fatal(err)
	}
	for _, r := range shared.Up.Services {
		eventually(t, "a suspension to reach the "+r.Service+" of "+r.Region.String(), func() bool {
			got, ok := r.Known().Get(e.Key)
			return ok && got.Sum == e.Sum
		})
	}
	return e
}

func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !f(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waiting in vain for %s", what)
		}
	}
}

// sortedKeys are the keys of a map, in order.
func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
