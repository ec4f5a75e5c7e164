package registrar_test

import (
	"errors"
	"fmt"
	"os"
	"testing"

	"github.com/nats-io/nkeys"
	"go.uber.org/goleak"

	"github.com/herald-nats/herald/internal/uptest"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/keystore"
)

func TestMain(m *testing.M) {
	code := m.Run()
	err := shared.close()
	if code == 0 {
		err = errors.Join(err, goleak.Find(uptest.LeftByServers()...))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "FAIL:", err)
		code = 1
	}
	os.Exit(code)
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func newUser(t testing.TB) *keystore.Key {
	t.Helper()
	k, err := keystore.Generate(keystore.User)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// userOf and accountOf make keys that are the same in each run, so that a failing run can
// be run again.
func userOf(b byte) ident.UserKey { return must(ident.ParseUserKey(encoded(nkeys.PrefixByteUser, b))) }

func accountOf(b byte) ident.AccountKey {
	return must(ident.ParseAccountKey(encoded(nkeys.PrefixByteAccount, b)))
}

func encoded(prefix nkeys.PrefixByte, b byte) string {
	raw := make([]byte, 32)
	raw[0] = b
	return string(must(nkeys.Encode(prefix, raw)))
}
