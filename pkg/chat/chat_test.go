package chat_test

import (
	"bytes"
	"crypto/rand"
	"errors"
	"testing"
	"time"

	"github.com/nats-io/nkeys"

	"github.com/herald-nats/herald/pkg/chat"
	"github.com/herald-nats/herald/pkg/ident"
)

// start is the fixed clock's first moment in all tests.
func start() time.Time { return time.UnixMilli(1790000000123) }

// user is someone with an nkey, and what Verify says of them.
type user struct {
	kp   nkeys.KeyPair
	key  ident.UserKey
	name ident.Name
}

func (u user) Public() ident.UserKey            { return u.key }
func (u user) Sign(b []byte) ([]byte, error)    { return u.kp.Sign(b) }
func (u user) jwt() string                      { return "jwt:" + u.key.String() + ":" + u.name.String() }
func (u user) encoder(room string) chat.Encoder { return u.encoderAs(room, u.name.String()) }

func (u user) encoderAs(room, name string) chat.Encoder {
	return chat.Encoder{Room: label(room), Name: nameOf(name), Signer: u, Rand: rand.Reader}
}

// newUser makes a user whose nkey is always the same for the same seed byte.
func newUser(seed byte, name string) user {
	raw := bytes.Repeat([]byte{seed}, 32)
	kp, err := nkeys.FromRawSeed(nkeys.PrefixByteUser, raw)
	must(err)
	pub, err := kp.PublicKey()
	must(err)
	key, err := ident.ParseUserKey(pub)
	must(err)
	return user{kp, key, nameOf(name)}
}

// verify stands for the platform: it believes "jwt:<nkey>:<name>".
func verify(s string, _ time.Time) (ident.UserKey, ident.Name, error) {
	p := bytes.SplitN([]byte(s), []byte(":"), 3)
	if len(p) != 3 || string(p[0]) != "jwt" {
		return ident.UserKey{}, ident.Name{}, errors.New("not signed by the platform")
	}
	key, err := ident.ParseUserKey(string(p[1]))
	if err != nil {
		return ident.UserKey{}, ident.Name{}, err
	}
	name, err := ident.ParseName(string(p[2]))
	return key, name, err
}

func label(s string) ident.Label {
	l, err := ident.ParseLabel(s)
	must(err)
	return l
}

func nameOf(s string) ident.Name {
	n, err := ident.ParseName(s)
	must(err)
	return n
}

func region(s string) ident.Region {
	r, err := ident.ParseRegion(s)
	must(err)
	return r
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}

// wire carries messages from encoders to a decoder.
type wire struct {
	t   testing.TB
	dec chat.Decoder
}

func newWire(t testing.TB) wire {
	t.Helper()
	return wire{t, chat.Decoder{Room: label("KUBECON"), Verify: verify}}
}

func (w wire) decode(o chat.Outgoing, now time.Time) chat.Message {
	w.t.Helper()
	m, err := w.dec.Decode(o.Subject, o.Data, now)
	if err != nil {
		w.t.Fatalf("decoding our own message: %v", err)
	}
	return m
}

func (w wire) post(u user, channel, text string, now time.Time) chat.Message {
	w.t.Helper()
	e := u.encoder("KUBECON")
	o, err := e.Post(label(channel), text, now)
	must(err)
	return w.decode(o, now)
}

func (w wire) dm(u user, to ident.UserKey, text string, now time.Time) chat.Message {
	w.t.Helper()
	e := u.encoder("KUBECON")
	o, err := e.DM(to, text, now)
	must(err)
	return w.decode(o, now)
}

func (w wire) online(u user, status chat.Status, now time.Time) chat.Message {
	w.t.Helper()
	e := u.encoder("KUBECON")
	o, err := e.Online(u.jwt(), region("ams"), status, now)
	must(err)
	return w.decode(o, now)
}
