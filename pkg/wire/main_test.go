package wire_test

import (
	"bytes"
	"encoding/json"
	"testing"
	"time"

	"github.com/nats-io/nkeys"

	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/keystore"
	"github.com/herald-nats/herald/pkg/wire"
)

// now is the one time of these tests.
func now() time.Time { return time.UnixMilli(1790000000123) }

func key(t testing.TB, kind keystore.Kind) *keystore.Key {
	t.Helper()
	k, err := keystore.Generate(kind)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// fixed is a key from 32 equal bytes: fuzz targets run in several processes, and
// what one finds must fail in the others.
func fixed(t testing.TB, kind keystore.Kind, b byte) *keystore.Key {
	t.Helper()
	return fromRaw(t, kind, bytes.Repeat([]byte{b}, 32))
}

func fromRaw(t testing.TB, kind keystore.Kind, raw []byte) *keystore.Key {
	t.Helper()
	seed := must[[]byte](t)(nkeys.EncodeSeed(nkeys.PrefixByte(kind), raw))
	return must[*keystore.Key](t)(keystore.Parse(kind, seed))
}

func must[T any](t testing.TB) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func userKey(t testing.TB, k *keystore.Key) ident.UserKey {
	t.Helper()
	return must[ident.UserKey](t)(ident.ParseUserKey(k.Public()))
}

func sealKey(t testing.TB, k *keystore.Key) ident.SealKey {
	t.Helper()
	return must[ident.SealKey](t)(ident.ParseSealKey(k.Public()))
}

// full is a request with every field.
func full(t testing.TB, user, reply *keystore.Key) wire.Request {
	t.Helper()
	return wire.Request{
		UserKey: userKey(t, user), Time: now(), Nonce: "YGFiY2RlZmdoaWprbG1ubw",
		Account: must[ident.Label](t)(ident.ParseLabel("CHAT")), Role: must[ident.Label](t)(ident.ParseLabel("member")),
		Name: must[ident.Name](t)(ident.ParseName("alice")), TTL: 30 * time.Minute,
		ReplyKey: sealKey(t, reply), Identity: wire.Proof{Type: wire.ProofOpen},
	}
}

func encode(t testing.TB, v any) []byte {
	t.Helper()
	return must[[]byte](t)(json.Marshal(v))
}

// code is the code of an error, or "".
func code(e *wire.Error) wire.Code {
	if e == nil {
		return ""
	}
	return e.Code
}
