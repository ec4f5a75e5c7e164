package natsconn_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nkeys"

	"github.com/herald-nats/herald/internal/natsconn"
	"github.com/herald-nats/herald/pkg/keystore"
)

// fixed is a key from 32 equal bytes, so that all processes of a fuzz target
// have the same.
func fixed(t testing.TB, kind keystore.Kind, b byte) (*keystore.Key, []byte) {
	t.Helper()
	seed, err := nkeys.EncodeSeed(nkeys.PrefixByte(kind), bytes.Repeat([]byte{b}, 32))
	if err != nil {
		t.Fatal(err)
	}
	k, err := keystore.Parse(kind, seed)
	if err != nil {
		t.Fatal(err)
	}
	return k, seed
}

// creds are those of one user, its JWT and its seed.
func creds(t testing.TB) (file, token string, seed []byte, user *keystore.Key) {
	t.Helper()
	user, seed = fixed(t, keystore.User, 1)
	account, _ := fixed(t, keystore.Account, 2)
	c := jwt.NewUserClaims(user.Public())
	c.Name = "alice"
	token, err := c.Encode(account.Pair())
	if err != nil {
		t.Fatal(err)
	}
	data, err := jwt.FormatUserConfig(token, seed)
	if err != nil {
		t.Fatal(err)
	}
	return string(data), token, seed, user
}

func TestParseCreds(t *testing.T) {
	file, token, seed, user := creds(t)
	for what, data := range map[string]string{
		"as written":             file,
		"with Windows line ends": strings.ReplaceAll(file, "\n", "\r\n"),
		"with text around":       "# mine\n" + file + "\n# end\n",
	} {
		s, err := natsconn.ParseCreds([]byte(data))
		if err != nil || s.Token != token || s.Key.Public() != user.Public() {
			t.Errorf("%s: %v", what, err)
		}
	}
	_, otherSeed := fixed(t, keystore.User, 3)
	_, accountSeed := fixed(t, keystore.Account, 2)
	seedBlock := file[strings.Index(file, "-----BEGIN USER NKEY"):]
	for what, data := range map[string]string{
		"nothing":                   "",
		"garbage":                   "garbage",
		"a seed alone":              seedBlock,
		"a bare seed":               string(seed),
		"a JWT alone":               token,
		"a seed where the JWT goes": strings.Replace(file, token, string(seed), 1),
		"another's seed":            strings.Replace(file, string(seed), string(otherSeed), 1),
		"an account's seed":         strings.Replace(file, string(seed), string(accountSeed), 1),
		"an altered JWT":            strings.Replace(file, token, token[:len(token)-3]+"AAA", 1),
		"half of the seed":          strings.Replace(file, string(seed), string(seed[:30]), 1),
	} {
		s, err := natsconn.ParseCreds([]byte(data))
		if err == nil {
			t.Errorf("%s is accepted", what)
			continue
		}
		// What is taken for the token is sent to whatever server answers.
		if s.Token != "" || s.Key != nil {
			t.Errorf("%s: something is given beside the error", what)
		}
		for _, secret := range [][]byte{seed, otherSeed, accountSeed} {
			if strings.Contains(err.Error(), string(secret[2:30])) {
				t.Errorf("%s: the error shows the seed: %v", what, err)
			}
		}
	}
}

func TestFileCredential(t *testing.T) {
	file, token, _, user := creds(t)
	path := filepath.Join(t.TempDir(), "x.creds")
	f := natsconn.FileCredential{Path: path}
	if _, err := f.JWT(); err == nil {
		t.Error("a missing file is read")
	}
	if err := os.WriteFile(path, []byte(file), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := f.JWT()
	if err != nil || got != token {
		t.Errorf("JWT: %v", err)
	}
	if pub, err := f.User(); err != nil || pub != user.Public() {
		t.Errorf("User: %v", err)
	}
	sig, err := f.Sign([]byte("nonce"))
	if err != nil || user.Pair().Verify([]byte("nonce"), sig) != nil {
		t.Errorf("Sign: %v", err)
	}
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := f.JWT(); err == nil {
		t.Error("an exposed file is read")
	}
	if _, err := f.Sign([]byte("nonce")); err == nil {
		t.Error("an exposed file signs")
	}
}

func FuzzParseCreds(f *testing.F) {
	file, token, seed, _ := creds(f)
	f.Add([]byte(file))
	f.Add([]byte(token))
	f.Add(seed)
	f.Add([]byte(file[strings.Index(file, "-----BEGIN USER NKEY"):]))
	f.Add([]byte(strings.ReplaceAll(file, "\n", "\r\n")))
	f.Add([]byte("---\n---\n---\nSU\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := natsconn.ParseCreds(data)
		if err != nil {
			if s != (natsconn.Static{}) {
				t.Fatal("something is given beside an error")
			}
			return
		}
		own, err := s.Key.Seed()
		if err != nil || strings.Contains(s.Token, string(own)) {
			t.Fatalf("the token holds the seed: %v", err)
		}
		again, err := jwt.FormatUserConfig(s.Token, own)
		if err != nil {
			t.Fatal(err)
		}
		back, err := natsconn.ParseCreds(again)
		if err != nil || back.Token != s.Token || back.Key.Public() != s.Key.Public() {
			t.Fatalf("read, written and read: %v", err)
		}
	})
}
