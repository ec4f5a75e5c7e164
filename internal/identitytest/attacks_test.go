package identitytest

import (
	"crypto/rand"
	"encoding/json"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/herald-nats/herald/internal/wait"
	"github.com/herald-nats/herald/pkg/client"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/keystore"
	"github.com/herald-nats/herald/pkg/subject"
	"github.com/herald-nats/herald/pkg/trust"
	"github.com/herald-nats/herald/pkg/wire"
)

// record is the log of the platform, which tests look through.
type record struct {
	mu    sync.Mutex
	lines []string
}

func (r *record) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lines = append(r.lines, string(p))
	return len(p), nil
}

// of is what the log says of a request.
func (r *record) of(request string) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var all []string
	for _, l := range r.lines {
		if strings.Contains(l, `"request":"`+request+`"`) {
			all = append(all, l)
		}
	}
	return strings.Join(all, "")
}

// about are the refusals that name something, such as a user.
func (r *record) about(what string) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var all []string
	for _, l := range r.lines {
		if strings.Contains(l, what) && strings.Contains(l, "refused") {
			all = append(all, l)
		}
	}
	return strings.Join(all, "")
}

// matching are the lines that have all of the words.
func (r *record) matching(words ...string) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var all []string
	for _, l := range r.lines {
		if !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(l, w) }) {
			all = append(all, l)
		}
	}
	return strings.Join(all, "")
}

// says tells whether a text is anywhere in the log.
func (r *record) says(text string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, l := range r.lines {
		if strings.Contains(l, text) {
			return true
		}
	}
	return false
}

// attack is a request; what it begins as is what an honest client would send.
type attack struct {
	user   *keystore.Key
	reply  *keystore.Key
	body   map[string]any
	raw    string      // instead of body
	signer wire.Signer // of Herald-Proof
	over   string      // what is signed, instead of the body
	header nats.Header // added, or instead
	sealed ident.SealKey
}

func newAttack(t *testing.T) *attack {
	t.Helper()
	a := &attack{user: newKey(t), reply: must(keystore.Generate(keystore.Curve)), header: nats.Header{}}
	a.signer = a.user
	a.body = map[string]any{
		"user_key": a.user.Public(), "time": time.Now().UnixMilli(), "nonce": must(wire.NewNonce(rand.Reader)),
		"name": shared.Name("attack").String(), "reply_key": a.reply.Public(), "identity": map[string]any{"type": "open"},
	}
	return a
}

func (a *attack) message() *nats.Msg {
	body := a.raw
	if body == "" {
		body = string(must(json.Marshal(a.body)))
	}
	over := a.over
	if over == "" {
		over = body
	}
	m := nats.NewMsg(subject.Issue)
	m.Header.Set(wire.HeaderProof, must(wire.Prove(a.signer, []byte(over))))
	m.Data = []byte(body)
	if !a.sealed.IsZero() {
		m.Data = must(wire.Seal(a.reply.Pair(), a.sealed, m.Data))
		m.Header.Set(wire.HeaderSealed, a.reply.Public())
	}
	for k, v := range a.header {
		m.Header[k] = v
	}
	return m
}

// asked sends a request once and gives the answer: whom the credential is for, or an error.
func (a *attack) asked(t *testing.T, nc *nats.Conn) (trust.User, *wire.Error) {
	t.Helper()
	for {
		u, e := a.once(t, nc)
		if e == nil || e.Code != wire.RateLimited {
			return u, e
		}
		// A flood was here before: it comes back when it was told to.
		if err := wait.For(t.Context(), e.RetryAfter()); err != nil {
			t.Fatal(err)
		}
	}
}

func (a *attack) once(t *testing.T, nc *nats.Conn) (trust.User, *wire.Error) {
	t.Helper()
	m, err := nc.RequestMsg(a.message(), 10*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	return a.read(t, m)
}

// read reads an answer, which may be sealed.
func (a *attack) read(t *testing.T, m *nats.Msg) (trust.User, *wire.Error) {
	t.Helper()
	data := m.Data
	if by := m.Header.Get(wire.HeaderSealed); by != "" {
		data = must(wire.Open(a.reply.Pair(), must(ident.ParseSealKey(by)), data))
	}
	return answered(t, m.Header.Get(wire.HeaderErrorCode), data)
}

// answered reads an answer in the clear.
func answered(t *testing.T, code string, data []byte) (trust.User, *wire.Error) {
	t.Helper()
	if code != "" {
		return trust.User{}, must(wire.DecodeError(data))
	}
	a, err := wire.DecodeAnswer(data)
	if err != nil {
		t.Fatal(err)
	}
	u, err := shared.Public.Document.VerifyUser(a.JWT, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return u, nil
}

// refusedWith holds that an attack was refused by a code, that the caller was told one
// sentence and a hint, and that the log says why, under the same request.
func refusedWith(t *testing.T, what string, e *wire.Error, code wire.Code, why ...string) {
	t.Helper()
	if e == nil || e.Code != code {
		t.Errorf("%s: %v, and not %s", what, e, code)
		return
	}
	if e.Message == "" || strings.ContainsAny(e.Message, "\r\n") || e.Hint == "" || e.RequestID == "" {
		t.Errorf("%s: the caller is told %+v", what, e)
	}
	said := log.of(e.RequestID)
	for _, part := range append(why, `"code":"`+string(code)+`"`, `"error":"`) {
		if !strings.Contains(said, part) {
			t.Errorf("%s: the log says of %s: %q, and not %s", what, e.RequestID, said, part)
		}
	}
}

// TestAttacks: what no honest client would send gets nothing; the caller is told a code and
// one sentence, and the log says why, under the same request.
func TestAttacks(t *testing.T) {
	nc := guest(t, region("ams"))
	ams, _ := shared.Public.Document.Region(region("ams"))
	account := must(keystore.Generate(keystore.Account))
	stranger := newKey(t)
	id := accessKey(t, "--grant", "ORDERS/service", "--name", shared.Name("attacked").String())
	if _, err := issue(t, nc, newKey(t), client.Wish{Identity: id}, wire.BadIdentity); err != nil {
		t.Fatal(err)
	}
	with := func(name string, v any) func(*attack) { return func(a *attack) { a.body[name] = v } }
	raw := func(change func(body string) string) func(*attack) {
		return func(a *attack) { a.raw = change(string(must(json.Marshal(a.body)))) }
	}
	open := func(a *attack) { a.sealed = ams.SealKey }
	for what, c := range map[string]struct {
		change func(*attack)
		code   wire.Code
	}{
		"nothing at all":      {func(a *attack) { a.raw = " " }, wire.BadRequest},
		"cut off":             {raw(func(b string) string { return b[:len(b)-1] }), wire.BadRequest},
		"huge":                {raw(func(b string) string { return b + strings.Repeat(" ", wire.MaxRequest) }), wire.TooLarge},
		"a member twice":      {raw(func(b string) string { return strings.Replace(b, "{", `{"name":"root",`, 1) }), wire.BadRequest},
		"an unknown member":   {with("admin", true), wire.BadRequest},
		"members in any case": {raw(func(b string) string { return strings.Replace(b, "user_key", "User_Key", 1) }), wire.BadRequest},
		"something behind it": {raw(func(b string) string { return b + "{}" }), wire.BadRequest},
		"an account's key":    {with("user_key", account.Public()), wire.BadRequest},
		"a key in another spelling": {func(a *attack) {
			a.body["user_key"] = strings.ToLower(a.user.Public())
		}, wire.BadRequest},
		"a seal key as reply key that is none": {with("reply_key", a56("U")), wire.BadRequest},

		"without a proof":          {func(a *attack) { a.header[wire.HeaderProof] = nil }, wire.BadProof},
		"two proofs":               {func(a *attack) { a.header[wire.HeaderProof] = []string{"v1 x", "v1 y"} }, wire.BadProof},
		"another's proof":          {func(a *attack) { a.signer = stranger }, wire.BadProof},
		"a proof of another body":  {func(a *attack) { a.over = "{}" }, wire.BadProof},
		"a proof for another door": {func(a *attack) { a.signer = elsewhere{a.user} }, wire.BadProof},
		"an hour ago":              {with("time", time.Now().Add(-time.Hour).UnixMilli()), wire.ClockSkew},
		"in an hour":               {with("time", time.Now().Add(time.Hour).UnixMilli()), wire.ClockSkew},

		"everybody's name":            {with("name", "*"), wire.BadName},
		"a name with a dot at an end": {with("name", "alice."), wire.BadName},
		"a name that looks alike":     {with("name", "аlice"), wire.BadName}, // the first is Cyrillic
		"a name with a space":         {with("name", "alice "), wire.BadName},
		"a name in capitals":          {with("name", "Alice"), wire.BadName},
		"no name":                     {func(a *attack) { delete(a.body, "name") }, wire.BadName},

		"a role that guests may not have": {with("account", "ORDERS"), wire.RoleNotGranted},
		"an account of services":          {with("account", "LEDGER"), wire.RoleNotGranted},
		"a role of administrators":        {func(a *attack) { a.body["account"], a.body["role"] = "ADMIN", "admin" }, wire.RoleNotGranted},
		"a way that there is not":         {with("identity", map[string]any{"type": "password"}), wire.BadIdentity},
		"an invitation in the clear":      {with("identity", map[string]any{"type": "invite", "code": "x"}), wire.NotSealed},
		"a token in the clear":            {with("identity", map[string]any{"type": "oidc", "token": "a.b.c"}), wire.NotSealed},
		"an invitation that there is not": {func(a *attack) { open(a); a.body["identity"] = map[string]any{"type": "invite", "code": "x"} }, wire.BadIdentity},
		"a token that is none":            {func(a *attack) { open(a); a.body["identity"] = map[string]any{"type": "oidc", "token": "a.b.c"} }, wire.BadIdentity},
		"sealed to another region":        {func(a *attack) { sgp, _ := shared.Public.Document.Region(region("sgp")); a.sealed = sgp.SealKey }, wire.WrongRegion},
		"an access key that there is not": {with("identity", map[string]any{"type": "access_key", "key_id": "HKAAAAAAAAAAAAAAAAAA"}), wire.BadIdentity},
		"an access key without its proof": {with("identity", map[string]any{"type": "access_key", "key_id": id.ID.String()}), wire.BadIdentity},
		"an access key with another proof": {func(a *attack) {
			a.body["identity"] = map[string]any{"type": "access_key", "key_id": id.ID.String()}
			a.header[wire.HeaderIdentity] = []string{must(wire.Prove(must(id.Secret.Key()), []byte("{}")))}
		}, wire.BadIdentity},
		// The server says who asks, and nobody else: what a client says of it is replaced.
		"in the name of somebody else": {func(a *attack) {
			a.header[wire.HeaderInfo] = []string{`{"acc":"` + account.Public() + `","user":"` + stranger.Public() + `","kind":"Client"}`}
		}, ""},
	} {
		a := newAttack(t)
		c.change(a)
		u, e := a.asked(t, nc)
		if c.code != "" {
			refusedWith(t, what, e, c.code)
			continue
		}
		if e != nil || u.Key.String() != a.user.Public() || u.Name.String() != a.body["name"] || u.Account != label("CHAT") {
			t.Errorf("%s: %+v: %v", what, u, e)
		}
	}
	if log.says(id.Secret.Reveal()[4:30]) {
		t.Error("a secret is in the log")
	}
}

// a56 is 56 characters that begin so.
func a56(begin string) string { return begin + strings.Repeat("A", 56-len(begin)) }

// elsewhere signs as for another endpoint.
type elsewhere struct{ *keystore.Key }

func (e elsewhere) Sign(data []byte) ([]byte, error) {
	return e.Key.Sign([]byte(strings.Replace(string(data), subject.Issue, subject.Renew, 1)))
}

// TestReplay: a request that is repeated gets nothing more where it was; elsewhere it gets
// another credential for the same key and name, which whoever repeats it has no seed for.
func TestReplay(t *testing.T) {
	a := newAttack(t)
	ams, sgp := guest(t, region("ams")), guest(t, region("sgp"))
	first, e := a.asked(t, ams)
	if e != nil {
		t.Fatal(e)
	}
	_, e = a.asked(t, ams)
	refusedWith(t, "repeated", e, wire.Replayed, `"door":"issue"`, a.user.Public())
	again, e := a.asked(t, sgp)
	if e != nil {
		t.Fatalf("repeated elsewhere: %v", e)
	}
	for _, u := range []trust.User{first, again} {
		if u.Key.String() != a.user.Public() || u.Name.String() != a.body["name"] || u.Identity != first.Identity {
			t.Errorf("first %+v, elsewhere %+v", first, again)
		}
	}
}
