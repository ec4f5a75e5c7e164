package accesskey_test

import (
	"bytes"
	"crypto/rand"
	"encoding/gob"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/nats-io/nkeys"
	"pgregory.net/rapid"

	"github.com/herald-nats/herald/pkg/accesskey"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/wire"
)

const digits = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

// The vectors are for writers of other implementations. They hold the parts of each secret
// apart, so that no scanner takes this repository for one that leaks.

type accepted struct {
	Name     string        `json:"name"`
	Seed     string        `json:"seed_hex"`
	Body     string        `json:"body"`
	Checksum string        `json:"checksum"`
	Public   ident.UserKey `json:"public"`
}

func (a accepted) secret() string { return "hks_" + a.Body + a.Checksum }

type refused struct {
	Name     string `json:"name"`
	Prefix   string `json:"prefix"`
	Body     string `json:"body"`
	Checksum string `json:"checksum"`
}

func (r refused) secret() string { return r.Prefix + r.Body + r.Checksum }

func vectors[T any](t testing.TB, name string) []T {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	var v []T
	if err := dec.Decode(&v); err != nil || len(v) == 0 {
		t.Fatalf("%s: %d vectors, %v", name, len(v), err)
	}
	return v
}

func TestAcceptedVectors(t *testing.T) {
	for _, v := range vectors[accepted](t, "accepted.json") {
		seed, err := hex.DecodeString(v.Seed)
		if err != nil {
			t.Fatal(err)
		}
		made, err := accesskey.NewSecret(bytes.NewReader(seed))
		if err != nil || made.Reveal() != v.secret() || made.Public() != v.Public {
			t.Errorf("%s: made %q of %s, %v", v.Name, made.Reveal(), made.Public(), err)
		}
		read, err := accesskey.Parse(v.secret())
		if err != nil || read.Reveal() != v.secret() || read.Public() != v.Public || read.IsZero() {
			t.Errorf("%s: read %q of %s, %v", v.Name, read.Reveal(), read.Public(), err)
		}
		// The seed is the key's, as nkeys has it.
		key, err := read.Key()
		if err != nil {
			t.Fatalf("%s: %v", v.Name, err)
		}
		encoded, err := nkeys.EncodeSeed(nkeys.PrefixByteUser, seed)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := key.Seed(); err != nil || !bytes.Equal(got, encoded) || key.Public() != v.Public.String() {
			t.Errorf("%s: the key is of %s, %v", v.Name, key.Public(), err)
		}
	}
}

func TestRefusedVectors(t *testing.T) {
	for _, v := range vectors[refused](t, "refused.json") {
		refuse(t, v.Name, v.secret())
	}
}

// refuse checks that s is refused, with an error that says nothing of it.
func refuse(t testing.TB, what, s string) {
	t.Helper()
	got, err := accesskey.Parse(s)
	if err == nil || !errors.Is(err, accesskey.ErrInvalid) {
		t.Errorf("%s is accepted, or the error is another: %v", what, err)
		return
	}
	if !got.IsZero() || got.Reveal() != "" || !got.Public().IsZero() {
		t.Errorf("%s: there is a secret beside the error", what)
	}
	if !known(err) {
		t.Errorf("%s: the error may hold anything: %v", what, err)
	}
}

// known tells whether an error is one of those that hold nothing of the text but how many
// bytes there are, and which is wrong.
func known(err error) bool {
	said, _ := strings.CutPrefix(err.Error(), "not the secret of an access key: ")
	return slices.Contains([]string{
		"it is empty", "it is an access key's id, which is public", "it does not begin with hks_", "there are spaces or line ends around it",
		"it has # bytes instead of #", "byte # is neither a letter nor a digit of ASCII", "its number does not fit into # bytes",
		"its checksum does not hold: a character was changed, or nobody ever made it",
	}, regexp.MustCompile(`\d+`).ReplaceAllString(said, "#"))
}

func TestErrorsSayWhatIsWrong(t *testing.T) {
	ok := generate(t).Reveal()
	for s, want := range map[string]string{
		"":                       "empty",
		"HKABCDEFGHIJKLMNOPQR":   "id",
		"UABC":                   "does not begin with hks_",
		ok + "\n":                "line ends around",
		ok[:52]:                  "has 52 bytes instead of 53",
		ok[:9] + "é" + ok[11:]:   "byte 10 is neither",
		ok[:52] + "-":            "byte 53 is neither",
		"hks_" + repeat("z", 49): "32 bytes",
		other(ok, 30):            "checksum",
	} {
		_, err := accesskey.Parse(s)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q: %v", want, err)
		}
		refuse(t, want, s)
	}
}

func repeat(s string, n int) string { return strings.Repeat(s, n) }

// other changes the digit at i.
func other(s string, i int) string {
	d := digits[(strings.IndexByte(digits, s[i])+1)%len(digits)]
	return s[:i] + string(d) + s[i+1:]
}

func generate(t testing.TB) accesskey.Secret {
	t.Helper()
	s, _, err := accesskey.Generate(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func secrets() *rapid.Generator[accesskey.Secret] {
	return rapid.Custom(func(t *rapid.T) accesskey.Secret {
		seed := rapid.SliceOfN(rapid.Byte(), 32, 32).Draw(t, "seed")
		s, err := accesskey.NewSecret(bytes.NewReader(seed))
		if err != nil {
			t.Fatal(err)
		}
		return s
	})
}

func TestRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := secrets().Draw(t, "secret")
		got, err := accesskey.Parse(s.Reveal())
		if err != nil || got.Reveal() != s.Reveal() || got.Public() != s.Public() {
			t.Fatalf("%v", err)
		}
	})
}

func TestDamageIsRefused(t *testing.T) {
	all := []byte(digits + "/:@[`{_- \n\x00\x7f\x80\xff") // and what is beside digits in ASCII
	rapid.Check(t, func(rt *rapid.T) {
		s := secrets().Draw(rt, "secret").Reveal()
		for i := range len(s) {
			for _, c := range all {
				if c != s[i] {
					damaged(rt, "a changed byte", s[:i]+string([]byte{c})+s[i+1:])
				}
			}
			if i > 0 && s[i] != s[i-1] {
				damaged(rt, "two neighbours that changed places", s[:i-1]+s[i:i+1]+s[i-1:i]+s[i+1:])
			}
			damaged(rt, "a cut end", s[:i])
			damaged(rt, "a cut beginning", s[i+1:])
			damaged(rt, "a byte left out", s[:i]+s[i+1:])
			damaged(rt, "a byte twice", s[:i]+s[i:i+1]+s[i:])
		}
	})
}

func damaged(t *rapid.T, what, s string) {
	if _, err := accesskey.Parse(s); err == nil {
		t.Fatalf("%s is accepted", what)
	}
}

// TestNeighboursAcrossTheChecksum: a CRC catches what is changed in what it covers, if that
// is no longer than itself. Two neighbours of which one is of the checksum are not covered
// by that rule. Here it is for all secrets: with the last digits a and b of both parts, the
// swap changes the sum by XOR with one known value, and has to change it by
// (a-b)*62^5 to be missed; no sum makes both one.
func TestNeighboursAcrossTheChecksum(t *testing.T) {
	table := crc32.MakeTable(crc32.IEEE)
	for a := range 62 {
		for b := range 5 { // the first digit of what is below 2^32
			if a == b || a > 4 { // the new first digit too
				continue
			}
			xor := int64(table[digits[a]^digits[b]])
			diff := int64(a-b) * 62 * 62 * 62 * 62 * 62
			// x^xor = x + xor - 2*(x&xor): which bits of xor must x have?
			if twice := xor - diff; twice >= 0 && twice%2 == 0 && (twice/2)&^xor == 0 {
				t.Errorf("%c and %c may change places unseen", digits[a], digits[b])
			}
		}
	}
}

func TestGenerate(t *testing.T) {
	s, id, err := accesskey.Generate(rand.Reader)
	if err != nil || s.IsZero() || id.IsZero() {
		t.Fatalf("%s %s %v", s, id, err)
	}
	other, otherID, err := accesskey.Generate(rand.Reader)
	if err != nil || other.Public() == s.Public() || otherID == id {
		t.Fatalf("two keys are one: %v", err)
	}
	if _, err := ident.ParseKeyID(id.String()); err != nil {
		t.Error(err)
	}
	// What it is of: the first 32 bytes are the seed, the next 12 the id.
	fixed := append(repeatBytes(0x5a, 32), repeatBytes(0xff, 12)...)
	s, id, err = accesskey.Generate(bytes.NewReader(fixed))
	if err != nil || id.String() != "HK"+repeat("7", 18) || s.Reveal() != vectors[accepted](t, "accepted.json")[5].secret() {
		t.Errorf("%s %s %v", s.Public(), id, err)
	}
	for n := range len(fixed) {
		s, id, err := accesskey.Generate(bytes.NewReader(fixed[:n]))
		if !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) || !s.IsZero() || !id.IsZero() {
			t.Errorf("with %d bytes of randomness: %s %v", n, id, err)
		}
	}
}

func repeatBytes(b byte, n int) []byte { return bytes.Repeat([]byte{b}, n) }

// TestSigns: the key proves a request to the wire's rules, and no other does.
func TestSigns(t *testing.T) {
	s, body := generate(t), []byte(`{"nonce":"x"}`)
	k, err := s.Key()
	if err != nil {
		t.Fatal(err)
	}
	proof, err := wire.Prove(k, body)
	if err != nil {
		t.Fatal(err)
	}
	if err := wire.CheckIdentityProof(s.Public(), []string{proof}, body); err != nil {
		t.Error(err)
	}
	if err := wire.CheckIdentityProof(generate(t).Public(), []string{proof}, body); err == nil {
		t.Error("another key's proof holds")
	}
	if _, err := (accesskey.Secret{}).Key(); !errors.Is(err, accesskey.ErrInvalid) {
		t.Errorf("no secret has a key: %v", err)
	}
}

// TestSecretsAreNotPrinted: with any verb, in any place, by any encoder.
func TestSecretsAreNotPrinted(t *testing.T) {
	s := generate(t)
	key, err := s.Key()
	if err != nil {
		t.Fatal(err)
	}
	type inside struct {
		hidden  accesskey.Secret
		pointer *accesskey.Secret
		Shown   accesskey.Secret
	}
	in := inside{s, &s, s}
	var out bytes.Buffer
	for _, v := range []any{s, &s, in, &in, []accesskey.Secret{s}, map[string]accesskey.Secret{"a": s}, key, struct{ k any }{key}} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%t", "%p", "%b", "%c", "%U", "%T", "%20.50s", "%!"} {
			fmt.Fprintf(&out, verb+"\n", v)
		}
		fmt.Fprintln(&out, v, reflect.ValueOf(v))
		for _, h := range []slog.Handler{slog.NewTextHandler(&out, nil), slog.NewJSONHandler(&out, nil)} {
			slog.New(h).Info("a key", "v", v, slog.Group("g", "v", v))
		}
		if data, err := json.Marshal(v); err == nil {
			out.Write(data)
		}
		_ = gob.NewEncoder(&out).Encode(v) // what it cannot encode it does not tell
	}
	fmt.Fprintf(&out, "%v\n", fmt.Errorf("with %v", s))
	reveal := s.Reveal()
	seed, err := key.Seed()
	if err != nil {
		t.Fatal(err)
	}
	_, raw, err := nkeys.DecodeSeed(seed)
	if err != nil {
		t.Fatal(err)
	}
	for what, secret := range map[string]string{
		"text": reveal[4:47], "text in hex": hex.EncodeToString([]byte(reveal[4:47])), "text in numbers": strings.Trim(fmt.Sprintf("%d", []byte(reveal[4:47])), "[]"),
		"seed": string(raw), "seed in hex": hex.EncodeToString(raw), "seed in numbers": strings.Trim(fmt.Sprintf("%d", raw), "[]"), "nkey seed": string(seed),
	} {
		if strings.Contains(strings.ToLower(out.String()), strings.ToLower(secret)) {
			t.Errorf("the %s is printed", what)
		}
	}
	if n := strings.Count(out.String(), "hks_[redacted]"); n < 100 {
		t.Errorf("it is said %d times that there is a secret", n)
	}
}

func FuzzParse(f *testing.F) {
	for _, v := range vectors[accepted](f, "accepted.json") {
		f.Add(v.secret())
	}
	for _, v := range vectors[refused](f, "refused.json") {
		f.Add(v.secret())
	}
	f.Add("HKABCDEFGHIJKLMNOPQR")
	f.Add("hks_" + repeat("\xff", 49))
	f.Add(repeat("hks_", 1000))
	f.Fuzz(func(t *testing.T, s string) {
		got, err := accesskey.Parse(s)
		if err != nil {
			refuse(t, "it", s)
			return
		}
		if got.Reveal() != s || got.IsZero() {
			t.Error("another text is read as the same secret")
		}
		if _, err := got.Key(); err != nil {
			t.Error(err)
		}
	})
}
