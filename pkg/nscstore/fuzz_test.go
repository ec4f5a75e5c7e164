package nscstore_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/nats-io/jwt/v2"

	"github.com/herald-nats/herald/pkg/keystore"
	"github.com/herald-nats/herald/pkg/nscstore"
)

// silent fails if an error tells one of the seeds, or what a terminal obeys.
func silent(t *testing.T, err error, seeds ...string) {
	t.Helper()
	if err == nil {
		return
	}
	for _, seed := range seeds {
		if strings.Contains(err.Error(), seed[:20]) {
			t.Fatal("an error holds a seed")
		}
	}
	if strings.ContainsRune(err.Error(), 0x1b) {
		t.Fatalf("an error holds an escape: %q", err)
	}
}

// header begins every JWT of version 2.
func header() string {
	return base64.RawURLEncoding.EncodeToString([]byte(`{"typ":"JWT","alg":"ed25519-nkey"}`)) + "."
}

// signed makes a token of any payload, so that the fuzzer gets past the
// signature; the issuer has to be what the payload names.
func signed(t testing.TB, payload []byte, by *keystore.Key) string {
	t.Helper()
	body := header() + base64.RawURLEncoding.EncodeToString(payload)
	sig, err := by.Sign([]byte(body))
	if err != nil {
		t.Fatal(err)
	}
	return body + "." + base64.RawURLEncoding.EncodeToString(sig)
}

func payload(t testing.TB, token string) []byte {
	t.Helper()
	data, err := base64.RawURLEncoding.DecodeString(strings.Split(token, ".")[1])
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// claims seeds a fuzz target with payloads of a kind and damaged ones.
func claims(f *testing.F, token string) {
	p := payload(f, token)
	f.Add(p, true)
	f.Add([]byte(token), false)
	f.Add([]byte(token+"\n"), false)
	f.Add(p[:len(p)/2], true)
	f.Add([]byte("{}"), true)
	f.Add(bytes.Replace(p, []byte(`"version":2`), []byte(`"version":1`), 1), true)
	f.Add(bytes.Replace(p, []byte(`"nats":{`), []byte(`"nats":{"exports":[null],"imports":[null],`), 1), true)
	f.Add(bytes.Replace(p, []byte(`"nats":{`), []byte(`"nats":{"signing_keys":[{"kind":"user_scope"},1,null,{}],`), 1), true)
	f.Add(bytes.Replace(p, []byte(`"name":"`), []byte(`"name":"../`), 1), true)
}

func FuzzOperator(f *testing.F) {
	m := newMaker(f)
	s, _ := m.all()
	claims(f, s.Operator.Token())
	f.Fuzz(func(t *testing.T, data []byte, sign bool) {
		token := string(data)
		if sign {
			token = signed(t, data, m.op)
		}
		op, err := nscstore.ParseOperator(token)
		silent(t, err, seedOf(t, m.op))
		if err != nil {
			if !op.IsZero() {
				t.Fatal("an operator beside an error")
			}
			return
		}
		if op.Token() != strings.TrimRight(token, "\r\n") || op.Claims().Issuer != op.Key() {
			t.Fatal("it is another operator")
		}
		op.Lost()
	})
}

func FuzzAccount(f *testing.F) {
	m := newMaker(f)
	s, _ := m.all()
	claims(f, s.Accounts[0].Token())
	claims(f, s.Accounts[1].Token())
	f.Fuzz(func(t *testing.T, data []byte, sign bool) {
		token := string(data)
		if sign {
			token = signed(t, data, m.sk)
		}
		a, err := nscstore.ParseAccount(token)
		silent(t, err, seedOf(t, m.sk))
		if err != nil {
			if !a.IsZero() {
				t.Fatal("an account beside an error")
			}
			return
		}
		if nscstore.ValidName(a.Name()) != nil || a.Token() != strings.TrimRight(token, "\r\n") {
			t.Fatalf("account %q", a.Name())
		}
		again, err := json.Marshal(a.Claims())
		if err == nil && len(a.Lost()) == 0 {
			// What nothing is lost of says the same when it is signed anew.
			b, err := nscstore.ParseAccount(signed(t, again, m.sk))
			if a.Claims().Issuer == m.sk.Public() && (err != nil || len(b.Lost()) != 0) {
				t.Fatalf("signed anew: %v", err)
			}
		}
		(&nscstore.Store{Accounts: []nscstore.Account{a}}).Named()
	})
}

func FuzzUser(f *testing.F) {
	m := newMaker(f)
	s, k := m.all()
	claims(f, s.Accounts[0].Users[0].Token())
	f.Fuzz(func(t *testing.T, data []byte, sign bool) {
		token := string(data)
		if sign {
			token = signed(t, data, k["A/role"])
		}
		u, err := nscstore.ParseUser(token)
		silent(t, err, seedOf(t, k["A/role"]))
		if err != nil {
			if !u.IsZero() {
				t.Fatal("a user beside an error")
			}
			return
		}
		if nscstore.ValidName(u.Name()) != nil || u.Token() != strings.TrimRight(token, "\r\n") {
			t.Fatalf("user %q", u.Name())
		}
		u.Lost()
	})
}

func FuzzInfo(f *testing.F) {
	for _, managed := range []bool{false, true} {
		data, err := nscstore.FormatInfo("Big Op", managed)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data, "Big Op")
		f.Add(append(data, data...), "Big Op")
	}
	f.Add([]byte(`{"Managed":true,"name":"a","name":"b","kind":"operator","version":"1"}`), "b")
	f.Fuzz(func(t *testing.T, data []byte, name string) {
		managed, err := nscstore.ParseInfo(data, name)
		silent(t, err)
		if err != nil {
			return
		}
		again, err := nscstore.FormatInfo(name, managed)
		if err != nil {
			t.Fatal(err)
		}
		if m, err := nscstore.ParseInfo(again, name); (err != nil || m != managed) && json.Valid(again) && strings.ToValidUTF8(name, "") == name {
			t.Fatalf("read, written and read: %v", err)
		}
	})
}

func FuzzKeyFile(f *testing.F) {
	m := newMaker(f)
	_, k := m.all()
	for _, key := range k {
		f.Add(key.Public(), []byte(seedOf(f, key)))
		f.Add(key.Public(), []byte(seedOf(f, key)+"\n"))
		f.Add(m.op.Public(), []byte(seedOf(f, key)))
		f.Add(seedOf(f, key), []byte(key.Public()))
	}
	f.Fuzz(func(t *testing.T, pub string, data []byte) {
		key, err := nscstore.ParseKey(pub, data)
		silent(t, err, seedOf(t, m.op))
		if err == nil && (key.Public() != pub || !bytes.Equal([]byte(seedOf(t, key)), bytes.TrimSpace(data))) {
			t.Fatal("it is another key")
		}
	})
}

func FuzzCreds(f *testing.F) {
	m := newMaker(f)
	s, _ := m.all()
	u := s.Accounts[0].Users[1]
	creds, err := jwt.FormatUserConfig(u.Token(), []byte(seedOf(f, u.Creds)))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(creds)
	f.Add(bytes.ReplaceAll(creds, []byte("\n"), []byte("\r\n")))
	f.Add(append(creds, creds...))
	f.Add(bytes.ReplaceAll(creds, []byte(seedOf(f, u.Creds)), []byte(seedOf(f, m.key(keystore.User)))))
	f.Add(creds[:len(creds)/2])
	f.Add([]byte("-----BEGIN NATS USER JWT-----\n-----BEGIN USER NKEY SEED-----\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		u, err := nscstore.ParseCreds(data)
		silent(t, err, seedOf(t, s.Accounts[0].Users[1].Creds))
		if err != nil {
			if !u.IsZero() {
				t.Fatal("a user beside an error")
			}
			return
		}
		if u.Creds.Public() != u.Key() || !bytes.Contains(data, []byte(seedOf(t, u.Creds))) || !bytes.Contains(data, []byte(u.Token())) {
			t.Fatal("it is another's")
		}
		again, err := jwt.FormatUserConfig(u.Token(), []byte(seedOf(t, u.Creds)))
		if err != nil {
			t.Fatal(err)
		}
		if v, err := nscstore.ParseCreds(again); err != nil || v.Token() != u.Token() || v.Creds.Public() != u.Creds.Public() {
			t.Fatalf("read, written and read: %v", err)
		}
	})
}

// FuzzRead puts one file of any name and content into a good tree. Whatever
// Read accepts, Write makes again, and nothing is lost.
func FuzzRead(f *testing.F) {
	m := newMaker(f)
	s, k := m.all()
	pub := k["spare"].Public()
	f.Add("stores/Big Op/.nsc", []byte(`{"managed":true,"name":"Big Op","kind":"operator","version":"1"}`))
	f.Add("stores/Big Op/accounts/A/A.jwt", []byte(s.Accounts[0].Token()+"\n"))
	f.Add("stores/Big Op/accounts/A/users/x.jwt", []byte("x"))
	f.Add("keys/A/"+pub[1:3]+"/"+pub+".nk", []byte(seedOf(f, k["spare"])+"\n"))
	f.Add("creds/Big Op/A/u1.creds", []byte(""))
	f.Add("creds/Other/x", []byte(""))
	f.Add(".gitignore", []byte("x"))
	// Not by Write for each input: it waits for the disk.
	good := tree(f, write(f, nscstore.Plain, s))
	dir := f.TempDir()
	n := 0
	f.Fuzz(func(t *testing.T, name string, data []byte) {
		if !filepath.IsLocal(name) || strings.Contains(name, "\x00") {
			return
		}
		n++
		dir := filepath.Join(dir, fmt.Sprint(os.Getpid(), "-", n))
		defer func() { _ = os.RemoveAll(dir) }()
		if err := os.MkdirAll(filepath.Join(dir, "from"), 0o700); err != nil {
			t.Fatal(err)
		}
		from := filepath.Join(dir, "from")
		for _, name := range slices.Sorted(maps.Keys(good)) { // folders before what is in them
			path, data := filepath.Join(from, name), good[name]
			var err error
			if data == "/" {
				err = os.MkdirAll(path, 0o700)
			} else {
				err = os.WriteFile(path, []byte(data), 0o600)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		path := filepath.Join(from, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return
		}
		if err := os.WriteFile(path, data, 0o600); err != nil {
			return
		}
		got, err := nscstore.Read(nscstore.Plain.In(from), "Big Op")
		silent(t, err, seedOf(t, m.op), seedOf(t, k["spare"]))
		if err != nil {
			if got != nil {
				t.Fatal("a store beside an error")
			}
			return
		}
		to := filepath.Join(dir, "to")
		if err := nscstore.Write(to, nscstore.Plain, got); err != nil {
			t.Fatal(err)
		}
		again, err := nscstore.Read(nscstore.Plain.In(to), "Big Op")
		if err != nil {
			t.Fatal(err)
		}
		if text(t, again) != text(t, got) {
			t.Fatal("written and read, it is another store")
		}
	})
}
