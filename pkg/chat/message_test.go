package chat_test

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"

	"github.com/herald-nats/herald/pkg/chat"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/subject"
)

// The 2020 tutorial's clients read messages with jwt.DecodeGeneric and take
// these fields from them; they must find them.
func TestTutorialReadsOurs(t *testing.T) {
	alice, bob := newUser(1, "alice"), newUser(2, "bob")
	e := alice.encoder("KUBECON")
	now := time.Now()

	post, err := e.Post(label("General"), `hi <b> & "all"`, now)
	if err != nil {
		t.Fatal(err)
	}
	g := decodeGeneric(t, post.Data)
	if g.Subject != "General" || g.Name != "alice" || g.Issuer != alice.key.String() || g.Audience != post.Subject ||
		g.IssuedAt != now.Unix() || g.Data["msg"] != `hi <b> & "all"` || g.Data["type"] != "chat-post" {
		t.Errorf("post reads as %+v", g)
	}

	dm, err := e.DM(bob.key, "psst", now)
	if err != nil {
		t.Fatal(err)
	}
	g = decodeGeneric(t, dm.Data)
	if g.Subject != bob.key.String() || g.Data["msg"] != "psst" || g.Data["type"] != "chat-dm" {
		t.Errorf("direct message reads as %+v", g)
	}

	beat, err := e.Online(alice.jwt(), region("ams"), chat.Here, now)
	if err != nil {
		t.Fatal(err)
	}
	g = decodeGeneric(t, beat.Data)
	// They know people by sub, and drop what has expired.
	if g.Subject != alice.key.String() || g.Expires != now.Unix()+60 || g.Data["type"] != "chat-online" {
		t.Errorf("heartbeat reads as %+v", g)
	}

	again, err := e.Post(label("General"), `hi <b> & "all"`, now)
	if err != nil {
		t.Fatal(err)
	}
	if decodeGeneric(t, again.Data).ID == decodeGeneric(t, post.Data).ID {
		t.Error("two messages have one jti: the tutorial's clients drop the second")
	}
}

func decodeGeneric(t *testing.T, b []byte) *jwt.GenericClaims {
	t.Helper()
	g, err := jwt.DecodeGeneric(string(b))
	if err != nil {
		t.Fatalf("jwt/v2 does not read our message: %v", err)
	}
	vr := jwt.CreateValidationResults()
	g.Validate(vr)
	if vr.IsBlocking(true) {
		t.Fatalf("jwt/v2 finds our message invalid: %+v", vr)
	}
	return g
}

// What the tutorial's clients send is shown, as unverified: it has no aud.
func TestReadsTutorials(t *testing.T) {
	w := newWire(t)
	carol := newUser(3, "carol")
	now := time.Now()

	g := jwt.NewGenericClaims("General")
	g.Name = "carol"
	g.Data["msg"], g.Data["type"] = "hello from 2020", "chat-post"
	m, err := w.dec.Decode("chat.KUBECON.posts.General", encodeGeneric(t, g, carol), now)
	if err != nil {
		t.Fatal(err)
	}
	if m.Doubt != chat.NoAudience || m.Text != "hello from 2020" || m.Claimed != "carol" || m.From != carol.key || m.Channel != label("General") {
		t.Errorf("post: %+v", m)
	}

	g = jwt.NewGenericClaims(carol.key.String())
	g.Name = "carol"
	g.Expires = now.Unix() + 60
	g.Data["type"] = "chat-online"
	m, err = w.dec.Decode("chat.KUBECON.online", encodeGeneric(t, g, carol), now)
	if err != nil {
		t.Fatal(err)
	}
	if m.Kind != chat.KindOnline || !m.Name.IsZero() || m.Claimed != "carol" {
		t.Errorf("heartbeat: %+v", m)
	}

	g = jwt.NewGenericClaims("alice") // the recipient's display name
	g.Name = "carol"
	g.Data["msg"], g.Data["type"] = "hey", "chat-dm"
	alice := newUser(1, "alice")
	m, err = w.dec.Decode(subject.DM(label("KUBECON"), alice.key), encodeGeneric(t, g, carol), now)
	if err != nil {
		t.Fatal(err)
	}
	if m.Kind != chat.KindDM || m.To != alice.key || m.Doubt != chat.NoAudience {
		t.Errorf("direct message: %+v", m)
	}
}

func encodeGeneric(t *testing.T, g *jwt.GenericClaims, u user) []byte {
	t.Helper()
	s, err := g.Encode(u.kp)
	if err != nil {
		t.Fatal(err)
	}
	return []byte(s)
}

// raw signs whatever payload it is given.
func raw(u user, header, payload string) []byte {
	b64 := base64.RawURLEncoding
	s := b64.EncodeToString([]byte(header)) + "." + b64.EncodeToString([]byte(payload))
	sig, err := u.kp.Sign([]byte(s))
	must(err)
	return []byte(s + "." + b64.EncodeToString(sig))
}

const goodHeader = `{"typ":"JWT","alg":"ed25519-nkey"}`

func TestDecodeRefuses(t *testing.T) {
	w := newWire(t)
	alice, bob := newUser(1, "alice"), newUser(2, "bob")
	now := start()
	const general = "chat.KUBECON.posts.General"
	payload := func(edit func(m map[string]any)) string {
		m := map[string]any{
			"iss": alice.key.String(), "sub": "General", "name": "alice", "iat": now.Unix(), "jti": "x", "aud": general,
			"nats": map[string]any{"type": "chat-post", "msg": "hi"},
		}
		edit(m)
		b, err := json.Marshal(m)
		must(err)
		return string(b)
	}
	plain := payload(func(map[string]any) {})
	if _, err := w.dec.Decode(general, raw(alice, goodHeader, plain), now); err != nil {
		t.Fatalf("the good one: %v", err)
	}
	nats := func(k string, v any) func(map[string]any) {
		return func(m map[string]any) {
			if n, ok := m["nats"].(map[string]any); ok {
				n[k] = v
			}
		}
	}
	set := func(k string, v any) func(map[string]any) { return func(m map[string]any) { m[k] = v } }
	good := raw(alice, goodHeader, plain)
	tampered := append([]byte(nil), good...)
	tampered[len(tampered)-5] ^= 1

	for _, c := range []struct {
		name    string
		subject string
		data    []byte
		want    error
	}{
		{"empty", general, nil, chat.ErrShape},
		{"two parts", general, []byte("a.b"), chat.ErrShape},
		{"four parts", general, append(append([]byte(nil), good...), ".x"...), chat.ErrShape},
		{"padding", general, append(append([]byte(nil), good...), '='), chat.ErrShape},
		{"line break in it", general, append(append([]byte(nil), good...), '\n'), chat.ErrShape},
		{"signature of another", general, raw(bob, goodHeader, plain), chat.ErrSignature},
		{"changed signature", general, tampered, chat.ErrSignature},
		{"old algorithm", general, raw(alice, `{"typ":"jwt","alg":"ed25519"}`, plain), chat.ErrShape},
		{"no algorithm", general, raw(alice, `{"typ":"JWT","alg":"none"}`, plain), chat.ErrShape},
		{"issuer is no user", general, raw(alice, goodHeader, payload(set("iss", "AB"))), chat.ErrShape},
		{"no time", general, raw(alice, goodHeader, payload(set("iat", 0))), chat.ErrShape},
		{"time that is none", general, raw(alice, goodHeader, payload(set("iat", 1e300))), chat.ErrShape},
		{"no text", general, raw(alice, goodHeader, payload(nats("msg", ""))), chat.ErrShape},
		{"text of nothing visible", general, raw(alice, goodHeader, payload(nats("msg", "\u200b\u202e "))), chat.ErrShape},
		{"text is a number", general, raw(alice, goodHeader, payload(nats("msg", 5))), chat.ErrShape},
		{"no nats", general, raw(alice, goodHeader, payload(set("nats", nil))), chat.ErrShape},
		{"long text", general, raw(alice, goodHeader, payload(nats("msg", strings.Repeat("x", chat.MaxText+1)))), chat.ErrTooLarge},
		{"long name", general, raw(alice, goodHeader, payload(set("name", strings.Repeat("x", 300)))), chat.ErrShape},
		{"large", general, make([]byte, chat.MaxPost+1), chat.ErrTooLarge},
		{"type of another subject", general, raw(alice, goodHeader, payload(nats("type", "chat-dm"))), chat.ErrShape},
		{"repeated name", general, raw(alice, goodHeader, strings.Replace(plain, `{`, `{"SUB":"NATS",`, 1)), chat.ErrShape},
		{"folded name", general, raw(alice, goodHeader, strings.Replace(plain, `{`, `{"ſub":"NATS",`, 1)), chat.ErrShape},
		{"something after it", general, raw(alice, goodHeader, plain+"{}"), chat.ErrShape},
		{"deep", general, raw(alice, goodHeader, payload(nats("x", []any{[]any{[]any{[]any{1}}}}))), chat.ErrShape},
		{"another room", "chat.OTHER.posts.General", good, chat.ErrShape},
		{"no subject of the chat", "auth.v1.info", good, chat.ErrShape},
		{"online, large", "chat.KUBECON.online", make([]byte, chat.MaxHeartbeat+1), chat.ErrTooLarge},
	} {
		t.Run(c.name, func(t *testing.T) {
			m, err := w.dec.Decode(c.subject, c.data, now)
			if !errors.Is(err, c.want) {
				t.Errorf("error %v, want %v", err, c.want)
			}
			if m != (chat.Message{}) {
				t.Errorf("with the error came %+v", m)
			}
		})
	}
}

func TestDecodeDoubts(t *testing.T) {
	w := newWire(t)
	alice := newUser(1, "alice")
	e := alice.encoder("KUBECON")
	now := start()
	o, err := e.Post(label("General"), "hi", now)
	must(err)
	for _, c := range []struct {
		name    string
		subject string
		now     time.Time
		want    chat.Doubt
	}{
		{"as it was sent", o.Subject, now, chat.None},
		{"clocks differ a little", o.Subject, now.Add(-chat.TimeSkew), chat.None},
		{"carried to another channel", "chat.KUBECON.posts.NATS", now, chat.WrongAudience},
		{"carried into someone's direct messages", "", now, chat.WrongAudience},
		{"kept for a while", o.Subject, now.Add(chat.TimeSkew + time.Second), chat.WrongTime},
		{"from the future", o.Subject, now.Add(-chat.TimeSkew - time.Second), chat.WrongTime},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.subject == "" { // its type says that it is a post
				_, err := w.dec.Decode(subject.DM(label("KUBECON"), alice.key), o.Data, c.now)
				if !errors.Is(err, chat.ErrShape) {
					t.Errorf("error %v, want ErrShape", err)
				}
				return
			}
			m, err := w.dec.Decode(c.subject, o.Data, c.now)
			if err != nil || m.Doubt != c.want {
				t.Errorf("doubt %v, error %v; want %v", m.Doubt, err, c.want)
			}
		})
	}
}

func TestHeartbeats(t *testing.T) {
	w := newWire(t)
	alice, mallory := newUser(1, "alice"), newUser(9, "mallory")
	now := start()
	online := func(u user, userJWT string) chat.Outgoing {
		e := u.encoder("KUBECON")
		o, err := e.Online(userJWT, region("ams"), chat.Away, now)
		must(err)
		return o
	}

	m := w.decode(online(alice, alice.jwt()), now)
	if m.Name != alice.name || m.Region != region("ams") || m.Status != chat.Away {
		t.Errorf("verified heartbeat: %+v", m)
	}
	// Everyone sees alice's user JWT; it is of no use with another nkey.
	if m := w.decode(online(mallory, alice.jwt()), now); !m.Name.IsZero() {
		t.Errorf("mallory's heartbeat with alice's user JWT gives name %s", m.Name)
	}
	if m := w.decode(online(mallory, "made up"), now); !m.Name.IsZero() {
		t.Errorf("a user JWT that does not verify gives name %s", m.Name)
	}
	for _, late := range []time.Duration{chat.TimeSkew + time.Second, -chat.TimeSkew - time.Second} {
		o := online(alice, alice.jwt())
		if _, err := w.dec.Decode(o.Subject, o.Data, now.Add(late)); !errors.Is(err, chat.ErrTime) {
			t.Errorf("%s later: error %v, want ErrTime", late, err)
		}
	}
	// A heartbeat that says it is of another nkey, or of another room.
	for k, v := range map[string]string{"sub": alice.key.String(), "aud": "chat.OTHER.online"} {
		p := map[string]any{
			"iss": mallory.key.String(), "sub": mallory.key.String(), "iat": now.Unix(), "exp": now.Unix() + 60,
			"nats": map[string]any{"type": "chat-online"},
		}
		p[k] = v
		b, err := json.Marshal(p)
		must(err)
		if _, err := w.dec.Decode("chat.KUBECON.online", raw(mallory, goodHeader, string(b)), now); !errors.Is(err, chat.ErrShape) {
			t.Errorf("wrong %s: error %v, want ErrShape", k, err)
		}
	}
}

func TestEncodeText(t *testing.T) {
	alice := newUser(1, "alice")
	e := alice.encoder("KUBECON")
	w := newWire(t)
	for _, bad := range []string{"", " ", "\x1b", "\u202e\u200b", strings.Repeat("x", chat.MaxText+1)} {
		if _, err := e.Post(label("General"), bad, start()); !errors.Is(err, chat.ErrText) {
			t.Errorf("%.10q: error %v, want ErrText", bad, err)
		}
	}
	// The worst that JSON makes of a text still fits.
	worst := strings.Repeat(`"`, chat.MaxText)
	o, err := e.Post(label("General"), worst, start())
	if err != nil || len(o.Data) > chat.MaxPost {
		t.Fatalf("%d bytes, error %v", len(o.Data), err)
	}
	if m := w.decode(o, start()); m.Text != worst || m.Digest != o.Digest {
		t.Errorf("it came out as %d bytes", len(m.Text))
	}
}

func FuzzDecode(f *testing.F) {
	alice, bob := newUser(1, "alice"), newUser(2, "bob")
	e := alice.encoder("KUBECON")
	now := start()
	post, err := e.Post(label("General"), "hi", now)
	must(err)
	dm, err := e.DM(bob.key, "hi", now)
	must(err)
	on, err := e.Online(alice.jwt(), ident.Region{}, chat.Here, now)
	must(err)
	for _, o := range []chat.Outgoing{post, dm, on} {
		f.Add(o.Subject, o.Data)
	}
	f.Add("chat.KUBECON.online", raw(alice, goodHeader, `{"iss":"`+alice.key.String()+`","exp":1e999}`))
	f.Add("chat.KUBECON.posts.", []byte("..\n"))
	dec := chat.Decoder{Room: label("KUBECON"), Verify: verify}
	f.Fuzz(func(t *testing.T, subj string, data []byte) {
		m, err := dec.Decode(subj, data, now)
		if err != nil {
			if m != (chat.Message{}) {
				t.Fatalf("an error and a message: %+v", m)
			}
			return
		}
		if m.From.IsZero() || m.Subject != subj || chat.Clean(m.Text) != m.Text || chat.CleanName(m.Claimed) != m.Claimed {
			t.Fatalf("a message that should not be: %+v", m)
		}
	})
}

// FuzzPayload signs what the fuzzer makes, to get behind the signature.
func FuzzPayload(f *testing.F) {
	alice := newUser(1, "alice")
	now := start()
	f.Add(`{"iss":"` + alice.key.String() + `","iat":1790000000,"name":"a\u001b[31m","nats":{"type":"chat-post","msg":"x\ry"}}`)
	f.Add(`{"iss":"` + alice.key.String() + `","iat":1790000000,"aud":"chat.KUBECON.posts.General","nats":{"type":"chat-post","msg":"x","tags":["a"]}}`)
	dec := chat.Decoder{Room: label("KUBECON"), Verify: verify}
	f.Fuzz(func(t *testing.T, payload string) {
		m, err := dec.Decode("chat.KUBECON.posts.General", raw(alice, goodHeader, payload), now)
		if err == nil && (m.From != alice.key || m.Text == "" || chat.Clean(m.Text) != m.Text) {
			t.Fatalf("a message that should not be: %+v", m)
		}
	})
}
