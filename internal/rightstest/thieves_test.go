package rightstest

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats.go"

	"github.com/herald-nats/herald/pkg/audit"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/keystore"
	"github.com/herald-nats/herald/pkg/ledger"
	"github.com/herald-nats/herald/pkg/platform"
	"github.com/herald-nats/herald/pkg/subject"
	"github.com/herald-nats/herald/pkg/trust"
	"github.com/herald-nats/herald/pkg/wire"
)

// of is a user of a role in a region, with a key of its own: as good as that region's
// service, for whose limits and streams it leaves no trace.
func of(t *testing.T, account, role, in string) user {
	t.Helper()
	a, _ := shared.Public.Document.Account(label(account))
	u := forge(t, load(t, rolePath(account, role), keystore.Account), func(c *jwt.UserClaims) {
		c.IssuerAccount, c.Name, c.Tags = a.Key.String(), "thief", jwt.TagList{trust.TagRegion + in}
	})
	u.what = account + "/" + role + " of " + in
	return u
}

// heldClaim is a claim of a name that is held by whose it is: home answers it, and
// decides nothing new. Repeated it is the same request.
func heldClaim(t *testing.T, u user, name ident.Name) []byte {
	t.Helper()
	a := newAsking(t, name, false, func(r *wire.Request) { r.UserKey = u.nkey() })
	a.key = u.key
	a.sign(t)
	return must(json.Marshal(wire.Claim{Body: a.body, Proof: a.proof}))
}

// thief uses a credential that is somebody else's.
type thief struct {
	*raw
	role    string   // account/role
	may     []string // what it may publish, as patterns
	unasked []string // replies of its own that nobody is to answer
}

func steal(t *testing.T, account, role string, u user, in string) *thief {
	t.Helper()
	th := &thief{raw: enter(t, u, in), role: account + "/" + role, may: rights(t, account, role, u, in)}
	if !isPublic(account) {
		th.inbox = subject.ServiceInboxPrefix(u.nkey())
	}
	return th
}

// everywhere uses one right in one form with every reply.
func (th *thief) everywhere(t *testing.T, f form, targets []string) {
	t.Helper()
	for _, reply := range targets {
		th.pub(f.to, reply, f.head, f.body)
	}
	if errs := th.sync(); len(errs) > 0 {
		t.Errorf("%s may not say %s: nothing is shown: %v", th.role, f.to, errs[0])
	}
}

// guarded holds that replies which look as if a server had made them, and $JS.ACK,
// which an import would pass on as it is, are refused by the server.
func (th *thief) guarded(t *testing.T, f form) {
	t.Helper()
	for _, reply := range []string{"_R_.x", "_GR_.x.y.z", "$JS.ACK.KV_decisions.x.1.1.1.1.0"} {
		th.pub(f.to, reply, f.head, f.body)
		refused(t, th.sync(), "Publish with Reply", th.role+" with the reply "+reply)
	}
}

// once uses it with a reply that is its own, and looks at the answer.
func (th *thief) once(t *testing.T, f form) {
	t.Helper()
	if f.want == "" || f.want == "none" {
		if th.count == 0 {
			th.sub(th.inbox+".>", "")
		}
		th.count++
		reply := fmt.Sprintf("%s.none%d", th.inbox, th.count)
		if f.want == "none" {
			th.unasked = append(th.unasked, reply)
		}
		th.pub(f.to, reply, f.head, f.body)
		return
	}
	m := th.ask(f.to, f.head, f.body)
	if got := kind(m); got != f.want {
		t.Errorf("%s: %q to %s is answered with %s, not with %s: %.200q", th.role, f.body, f.to, got, f.want, m.all())
	}
}

// silence holds that nothing was answered that is not to be.
func (th *thief) silence(t *testing.T) {
	t.Helper()
	th.sync()
	for _, m := range th.msgs {
		// That nobody listens is told by one's own server, to one's own inbox alone.
		if slices.Contains(th.unasked, m.subject) && kind(m) != "503" {
			t.Errorf("%s is answered: %.200q", th.role, m.all())
		}
	}
}

// imported tells whether an account imports exactly this request.
func imported(t *testing.T, account, subj string) bool {
	t.Helper()
	return slices.ContainsFunc(accounts(t)[account].Imports, func(i *jwt.Import) bool {
		return i.Type == jwt.Service && string(i.Subject) == subj
	})
}

// 28, 30, 44-46: whoever may ask chooses where the answer lands. Here every
// credential that the platform gives out is stolen and uses every right that it has,
// in every form, with every reply that would hurt. Afterwards every stream holds what
// it held, there is none more and none less, nothing has landed beside the streams,
// and no service believes anything that it did not believe before.
func TestStolenCredentials(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Second)
	defer cancel()
	w := widen(ctx, t, map[string][]string{platform.Ledger: {"$JS.API.>", "scratch.>"}})
	defer w.undo(ctx, t)
	inside := w.tester(t, platform.Ledger)
	see := observe(t, inside)
	mallory, malloryName := member(t, "ams", "mallory")
	_, name := member(t, "sgp", "victim")
	v := victim{name: name, other: issuerOf(t, "sgp").key.Public(), write: "x.y"}
	for _, r := range shared.Public.Document.Regions { // so that there are denials to read
		listening(t, r.Name.String())
	}
	settle(t)
	premise(ctx, t, see.inside)
	before := see.quiet(ctx, t)

	none := func(user, kept) bool { return false }
	own := func(u user, m kept) bool { // the records under its own key
		r, k, _ := strings.Cut(m.subject, ".")
		return m.stream == subject.RecordsStream(region(r)) && k == u.key.Public()
	}
	for _, c := range []struct {
		account, role, in string
		user              user
		may               func(user, kept) bool // what it may write to streams anyway
	}{
		{platform.Guest, platform.RoleGuest, "ams", guest(t), none},
		{platform.ChatIn, platform.RoleMember, "ams", mallory, func(u user, m kept) bool {
			return recordOf(m, u.nkey()) // it has renewed
		}},
		{platform.Auth, platform.RoleIssuer, "ams", of(t, platform.Auth, platform.RoleIssuer, "ams"), own},
		{platform.Auth, platform.RoleIssuer, "sfo", of(t, platform.Auth, platform.RoleIssuer, "sfo"), own},
		{platform.Readers, platform.RoleReader, "sfo", of(t, platform.Readers, platform.RoleReader, "sfo"), own},
		{platform.Ledger, platform.RoleRegistrar, "sfo", of(t, platform.Ledger, platform.RoleRegistrar, "sfo"), func(_ user, m kept) bool {
			return strings.HasPrefix(m.stream, "DENIALS_") && m.subject == v.write
		}},
	} {
		t.Run(strings.ReplaceAll(c.user.what, "/", "_"), func(t *testing.T) {
			v := v
			v.claim = heldClaim(t, mallory, malloryName)
			targets := hostile(v)
			known := settle(t)
			th := steal(t, c.account, c.role, c.user, c.in)
			e := listen(t, inside, c.in, targets)
			all := walk(t, c.account, c.role, c.user, c.in, v)
			for _, f := range all {
				th.everywhere(t, f, targets)
			}
			th.guarded(t, all[len(all)-1])
			for range 2 { // behind the attacks, on the same path
				for _, f := range all {
					th.once(t, f)
				}
			}
			last := listening(t, c.in)
			th.silence(t)
			landed, heard := e.took(t)
			for _, s := range sortedKeys(landed) {
				// In LEDGER it can say some of it itself. And what lands on an import is a
				// new request there, in the answerer's name, that nobody answers (47).
				own := c.account == platform.Ledger && slices.ContainsFunc(th.may, func(p string) bool { return matches(p, s) })
				if !own && !imported(t, c.account, s) {
					t.Errorf("an answer landed in LEDGER on %s: %s", s, landed[s])
				}
			}
			t.Logf("%d forms, %d replies, %d messages heard in LEDGER", len(all), len(targets), heard)
			believes(t, known, last)
			now := see.quiet(ctx, t)
			before.same(t, now, func(m kept) bool {
				return m.subject == last.Key.String() || c.may(c.user, m) || before.late(m, mallory.nkey())
			})
			before = now
		})
	}
	insiders(ctx, t, inside, see)
}

// 44: who is in LEDGER and is answered there, with home's credential or the set-up
// tool's, can let answers land anywhere: what no answer of theirs can do is delete, or
// make, a stream or a consumer; and none is believed.
func insiders(ctx context.Context, t *testing.T, inside user, see observer) {
	t.Helper()
	store, _ := decisions(t)
	for _, role := range []string{platform.RoleHome, platform.RoleSetup} {
		t.Run(role, func(t *testing.T) {
			_, name := member(t, "sgp", "victim")
			v := victim{name: name, other: newKey(t).Public(), write: "x.y"}
			u := of(t, platform.Ledger, role, "ams")
			th := steal(t, platform.Ledger, role, u, "ams")
			known := settle(t)
			before := see.quiet(ctx, t)
			key := ledger.NameKey(name)
			real, _ := entry(ctx, t, key.String())
			targets := hostile(v)
			e := listen(t, inside, "ams", targets)
			for _, f := range walk(t, platform.Ledger, role, u, "ams", v) {
				if role == platform.RoleSetup && (f.to == subject.DecisionsRead || strings.HasPrefix(f.to, subject.DecisionsPrefix)) {
					continue // as home
				}
				th.everywhere(t, f, targets)
			}
			th.ask(subject.DecisionsRead, nil, nil)
			if landed, _ := e.took(t); len(landed) < 20 {
				t.Errorf("%d answers landed: nothing is shown", len(landed))
			}
			now := see.quiet(ctx, t)
			if before.names != now.names {
				t.Errorf("there were\n%s\nand there are\n%s", before.names, now.names)
			}
			for s := range before.config {
				if before.config[s] != now.config[s] {
					t.Errorf("the stream %s was\n%s\nand is\n%s", s, before.config[s], now.config[s])
				}
			}
			for at, m := range before.messages {
				if _, ok := now.messages[at]; !ok && m.subject != key.String() && m.subject != v.write && m.subject != "name.evil" {
					t.Errorf("%s is gone: %.60q under %s", at, m.data, m.subject)
				}
			}
			for at, m := range now.messages {
				if _, ok := before.messages[at]; ok {
					continue
				}
				if _, err := opener().Open(m.subject, m.data); err == nil && m.data != real {
					t.Errorf("%s is believed: %+v", at, m)
				}
				if b, err := audit.Open(m.subject, m.data); err == nil && !ofOurs(b) {
					t.Errorf("%s is believed as records: %+v", at, m)
				}
			}
			if token, revision := entry(ctx, t, key.String()); token != real {
				must(0, store.Put(ctx, key, real, revision))
			}
			believes(t, known, listening(t, "ams"))
		})
	}
}

// premise shows that what is tried here would work where somebody in LEDGER asked: an
// answer without a body deletes a stream, and any answer is written to one.
func premise(ctx context.Context, t *testing.T, nc *nats.Conn) {
	t.Helper()
	ask := func(subj, body string) string {
		m, err := nc.RequestWithContext(ctx, subj, []byte(body))
		if err != nil {
			t.Fatalf("%s: %v", subj, err)
		}
		return string(m.Data)
	}
	made := ask("$JS.API.STREAM.CREATE.SCRATCH", `{"name":"SCRATCH","subjects":["scratch.>"],"num_replicas":3,"storage":"file","retention":"limits","discard":"old"}`)
	if strings.Contains(made, `"error"`) {
		t.Fatal(made)
	}
	state := func() string { return ask("$JS.API.STREAM.INFO.SCRATCH", "") }
	missing := []byte(`{"last_by_subj":"missing.x"}`)
	get := subject.DirectGet(subject.MirrorStream(region("ams")))
	// Asked again until it is seen: whichever server answers may not have heard yet that
	// the new stream listens.
	eventually(t, "an answer to land in a stream", func() bool {
		must(0, nc.PublishRequest(get, "scratch.x", missing))
		s := state()
		return strings.Contains(s, `"messages":`) && !strings.Contains(s, `"messages":0,`)
	})
	eventually(t, "an answer to delete a stream", func() bool {
		must(0, nc.PublishRequest(get, "$JS.API.STREAM.DELETE.SCRATCH", missing))
		return strings.Contains(state(), `"error"`)
	})
}
