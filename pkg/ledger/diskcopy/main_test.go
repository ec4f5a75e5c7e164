package diskcopy_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/nats-io/nkeys"

	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/keystore"
	"github.com/herald-nats/herald/pkg/ledger"
	"github.com/herald-nats/herald/pkg/ledger/diskcopy"
	"github.com/herald-nats/herald/pkg/trust"
)

// now is the one time of these tests.
func now() time.Time { return time.Unix(1790000000, 0) }

func secret() []byte { return []byte("the seed of a service") }

func must[T any](t testing.TB) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// home is a platform whose keys are always the same: what a fuzzer finds in one
// process must fail in the next.
type home struct {
	op      *trust.Operator
	signing *keystore.Key
	about   diskcopy.About
}

func fixed(t testing.TB, kind keystore.Kind, n byte) *keystore.Key {
	t.Helper()
	seed := must[[]byte](t)(nkeys.EncodeSeed(nkeys.PrefixByte(kind), bytes.Repeat([]byte{n}, 32)))
	return must[*keystore.Key](t)(keystore.Parse(kind, seed))
}

func newHome(t testing.TB) home { return homeOf(t, 1) }

func homeOf(t testing.TB, n byte) home {
	t.Helper()
	root, signing := fixed(t, keystore.Operator, n), fixed(t, keystore.Operator, n+100)
	sys := must[ident.AccountKey](t)(ident.ParseAccountKey(fixed(t, keystore.Account, 3).Public()))
	token := must[string](t)(trust.NewOperator("demo", root, []string{signing.Public()}, sys))
	op := must[*trust.Operator](t)(trust.ParseOperator(token))
	return home{op, signing, diskcopy.About{Operator: op, Region: region(t, "ams"), Service: userKey(t, 7)}}
}

func region(t testing.TB, s string) ident.Region {
	t.Helper()
	return must[ident.Region](t)(ident.ParseRegion(s))
}

// userKey gives one of many nkeys.
func userKey(t testing.TB, n uint64) ident.UserKey {
	t.Helper()
	raw := sha256.Sum256(binary.BigEndian.AppendUint64(nil, n))
	text := must[[]byte](t)(nkeys.Encode(nkeys.PrefixByteUser, raw[:]))
	return must[ident.UserKey](t)(ident.ParseUserKey(string(text)))
}

func nameOf(t testing.TB, s string) ident.Name {
	t.Helper()
	return must[ident.Name](t)(ident.ParseName(s))
}

func holder(t testing.TB, n int) ident.Identity {
	t.Helper()
	k := userKey(t, uint64(n))
	switch n % 4 {
	case 0:
		return ident.InviteIdentity(k)
	case 1:
		return ident.KeyIdentity(must[ident.KeyID](t)(ident.ParseKeyID("HKABCDEFGHIJKLMNOPQR")))
	case 2:
		return must[ident.Identity](t)(ident.OIDCIdentity(must[ident.Label](t)(ident.ParseLabel("corp")), fmt.Sprintf("auth0|%d: x", n)))
	default:
		return ident.OpenIdentity(k)
	}
}

// entry signs and opens what a registrar could state.
func (h home) entry(t testing.TB, key ledger.Key, version uint64, denies bool, body any) ledger.Entry {
	t.Helper()
	data := must[[]byte](t)(json.Marshal(body))
	token := must[string](t)(trust.Entry{Subject: key.String(), Version: version, Denies: denies, At: now().UnixMilli(), Body: data}.Sign(h.signing))
	return must[ledger.Entry](t)(h.opener().Open(key.String(), token))
}

func (h home) opener() ledger.Opener { return ledger.Opener{Operator: h.op, Now: now} }

func (h home) name(t testing.TB, name string, version uint64, n int) ledger.Entry {
	t.Helper()
	return h.entry(t, ledger.NameKey(nameOf(t, name)), version, version%3 == 0, ledger.Name{
		Holder: holder(t, n), Claimed: now().Unix(), Until: int64(n) * 1000, Rests: int64(version) * 77,
	})
}

func (h home) suspension(t testing.TB, n int, version uint64) ledger.Entry {
	t.Helper()
	return h.entry(t, ledger.IdentitySuspension(holder(t, n)), version, version%2 == 1, ledger.Suspension{By: "an admin", Why: "spam"})
}

func (h home) invite(t testing.TB, n int, version uint64) ledger.Entry {
	t.Helper()
	label := must[ident.Label](t)(ident.ParseLabel("CHAT"))
	return h.entry(t, ledger.InviteKey(ident.InviteOf(fmt.Sprint(n))), version, false,
		ledger.Invite{Account: label, Role: label, Uses: 3, Expires: now().Unix() + 100})
}

// service is a projection and its copy, as a service has them.
type service struct {
	home
	t      testing.TB
	path   string
	faults diskcopy.Faults
	copy   *diskcopy.Copy
	p      *ledger.Projection
	loaded diskcopy.Loaded
}

func newService(t testing.TB, h home) *service {
	t.Helper()
	s := &service{home: h, t: t, path: filepath.Join(t.TempDir(), "state", "ledger.copy")}
	s.start()
	t.Cleanup(func() { s.stop() })
	return s
}

func (s *service) open() error {
	c, err := diskcopy.OpenWith(s.path, secret(), s.about, &s.faults)
	if err != nil {
		return err
	}
	s.copy = c
	s.p = ledger.NewProjection(c.Note)
	s.loaded, err = c.Load(s.p, now)
	return err
}

func (s *service) start() {
	s.t.Helper()
	if err := s.open(); err != nil {
		s.t.Fatal(err)
	}
}

func (s *service) stop() {
	s.t.Helper()
	if err := s.copy.Close(); err != nil {
		s.t.Error(err)
	}
}

func (s *service) restart() {
	s.t.Helper()
	s.stop()
	s.start()
}

func (s *service) apply(es ...ledger.Entry) {
	for _, e := range es {
		s.p.Apply(e)
	}
}

func (s *service) flush(position uint64) {
	s.t.Helper()
	if err := s.copy.Flush(s.p, map[string]uint64{"home": position}, now()); err != nil {
		s.t.Fatal(err)
	}
}

func (s *service) read() []byte {
	s.t.Helper()
	return must[[]byte](s.t)(os.ReadFile(s.path))
}

func (s *service) write(data []byte) {
	s.t.Helper()
	if err := os.WriteFile(s.path, data, 0o600); err != nil {
		s.t.Fatal(err)
	}
}

// at is what a service knew when it had flushed position.
type states map[uint64][]byte

// small writes a copy of some frames and gives what was known after each of them, by
// the position that was written: 0 is nothing.
func (s *service) small() states {
	s.t.Helper()
	known := states{0: s.p.Dump()}
	steps := [][]ledger.Entry{
		{s.name(s.t, "alice", 1, 3), s.name(s.t, "al.b", 2, 4), s.suspension(s.t, 9, 1)},
		{s.name(s.t, "alice", 3, 7), s.name(s.t, "key", 1, 1)},
		{s.name(s.t, "oidc", 6, 2), s.suspension(s.t, 9, 2)},
		{s.name(s.t, "alice", 4, 11)},
	}
	for i, step := range steps {
		s.apply(step...)
		s.flush(uint64(i + 1))
		known[uint64(i+1)] = s.p.Dump()
	}
	return known
}

// check fails unless what was loaded is what was known at the position that was
// loaded with it.
func (s *service) check(known states, what string) uint64 {
	s.t.Helper()
	at := s.loaded.Positions["home"]
	if !bytes.Equal(s.p.Dump(), known[at]) {
		s.t.Fatalf("%s: with position %d it knows what was not known then", what, at)
	}
	return at
}

func is(t testing.TB, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("got %v, want %v", err, want)
	}
}

func inviteID(n int) ident.InviteID { return ident.InviteOf(fmt.Sprint("big", n)) }

// bigInvite is an entry of some 60 kB.
func bigInvite(t testing.TB) ledger.Invite {
	t.Helper()
	label := must[ident.Label](t)(ident.ParseLabel("CHAT"))
	i := ledger.Invite{Account: label, Role: label, Uses: 400, Expires: now().Unix() + 100}
	for n := range i.Uses {
		i.Redeemed = append(i.Redeemed, ledger.Redemption{User: userKey(t, uint64(n)), Nonce: "nonce", At: now().Unix()})
	}
	return i
}

// reSigned is the same operator with another signing key.
func reSigned(t testing.TB) *trust.Operator {
	t.Helper()
	sys := must[ident.AccountKey](t)(ident.ParseAccountKey(fixed(t, keystore.Account, 3).Public()))
	token := must[string](t)(trust.NewOperator("demo", fixed(t, keystore.Operator, 1), []string{fixed(t, keystore.Operator, 200).Public()}, sys))
	return must[*trust.Operator](t)(trust.ParseOperator(token))
}
