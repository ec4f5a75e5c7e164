package ident_test

import (
	"encoding"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/nats-io/nkeys"
	"pgregory.net/rapid"

	"github.com/herald-nats/herald/pkg/ident"
)

// value is what every identifier can.
type value interface {
	comparable
	fmt.Stringer
	encoding.TextMarshaler
	IsZero() bool
}

// kind is one type of identifier with its parser, without its type.
type kind struct {
	name  string
	parse func(string) (string, bool, error) // String, IsZero, the error
	json  func([]byte) (string, error)       // through encoding/json
}

func kindOf[T value](name string, parse func(string) (T, error)) kind {
	return kind{
		name: name,
		parse: func(s string) (string, bool, error) {
			v, err := parse(s)
			var zero T
			if err != nil && v != zero {
				return v.String(), v.IsZero(), fmt.Errorf("a value beside an error: %w", errBeside)
			}
			return v.String(), v.IsZero(), err
		},
		json: func(data []byte) (string, error) {
			var v T
			err := json.Unmarshal(data, &v)
			return v.String(), err
		},
	}
}

var errBeside = errors.New("not zero")

func kinds() []kind {
	return []kind{
		kindOf("name", ident.ParseName), kindOf("region", ident.ParseRegion), kindOf("label", ident.ParseLabel),
		kindOf("user key", ident.ParseUserKey), kindOf("account key", ident.ParseAccountKey), kindOf("seal key", ident.ParseSealKey),
		kindOf("identity", ident.ParseIdentity),
	}
}

func find(t testing.TB, name string) kind {
	t.Helper()
	for _, k := range kinds() {
		if k.name == name {
			return k
		}
	}
	t.Fatal(name)
	return kind{}
}

func check(t *testing.T, k kind, s string, ok bool) {
	t.Helper()
	got, zero, err := k.parse(s)
	quoted, jerr := json.Marshal(s)
	if jerr != nil {
		t.Fatal(jerr)
	}
	viaJSON, jsonErr := k.json(quoted)
	if ok {
		if err != nil || got != s || zero {
			t.Errorf("%s %q: got %q, %v", k.name, s, got, err)
		}
		if jsonErr != nil || viaJSON != s {
			t.Errorf("%s %q through JSON: got %q, %v", k.name, s, viaJSON, jsonErr)
		}
		return
	}
	if err == nil || got != "" || !zero || errors.Is(err, errBeside) {
		t.Errorf("%s %q is accepted as %q, %v", k.name, s, got, err)
		return
	}
	if !errors.Is(err, ident.ErrInvalid) {
		t.Errorf("%s %q: the error does not wrap ErrInvalid: %v", k.name, s, err)
	}
	if msg := err.Error(); len(msg) > 1000 || strings.ContainsAny(msg, "\r\n\x00\x1b\u202e") {
		t.Errorf("%s %.20q: the error is not harmless to print: %q", k.name, s, msg)
	}
	if jsonErr == nil || viaJSON != "" {
		t.Errorf("%s %q is accepted through JSON", k.name, s)
	}
}

// strange is refused by every parser.
func strange() []string {
	return []string{
		"", " ", "a b", " a", "a ", "a\n", "\na", "\x00", "a\x00", "a\x00b", "*", ">", "a.*", "a.>", "$SYS", "a/b", `a\b`, "a:b", "a=b", "{{subject()}}",
		"é", "ａ", "аlice", "a\u0301", "a\u200b", "a\u202eb", "\ufeffa", "٣", "\xff", "a\xffb", "'", `"`, "a,b", "a;b", "~", "%61", "a\x1b[2J",
		strings.Repeat("a", 1<<16),
	}
}

func TestStrangeTextsAreRefused(t *testing.T) {
	for _, k := range kinds() {
		for _, s := range strange() {
			check(t, k, s, false)
		}
	}
}

func TestNames(t *testing.T) {
	k := find(t, "name")
	for _, s := range []string{
		"a", "0", "z9", "alice", "a.b", "a_b", "a-b", "a.b_c-d", "1.2.3", strings.Repeat("a", 32), strings.Repeat("a.", 15) + "ab",
	} {
		check(t, k, s, true)
	}
	for _, s := range []string{
		strings.Repeat("a", 33), strings.Repeat("a.", 16), "A", "Alice", "aLice", ".", "_", "-", ".a", "_a", "-a", "a.", "a_", "a-",
		"a..b", "a__b", "a--b", "a._b", "a-.b", "a_-b", "a.b..c", "a+b", "a@b",
	} {
		check(t, k, s, false)
	}
}

func TestRegions(t *testing.T) {
	k := find(t, "region")
	for _, s := range []string{"a", "ams", "z0", "us1east2", strings.Repeat("a", 16)} {
		check(t, k, s, true)
	}
	for _, s := range []string{strings.Repeat("a", 17), "0", "1a", "AMS", "Ams", "a-b", "a_b", "a.b", "-a"} {
		check(t, k, s, false)
	}
}

func TestLabels(t *testing.T) {
	k := find(t, "label")
	for _, s := range []string{"a", "A", "0", "_", "-", "--", "CHAT", "ARCHIVE-ams", "General", strings.Repeat("Z", 32)} {
		check(t, k, s, true)
	}
	for _, s := range []string{strings.Repeat("A", 33), "a.b", ".", "A.", "a*"} {
		check(t, k, s, false)
	}
}

func public(t testing.TB, prefix nkeys.PrefixByte) string {
	t.Helper()
	pair, err := nkeys.CreatePair(prefix)
	if err != nil {
		t.Fatal(err)
	}
	pub, err := pair.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	return pub
}

func seedOf(t testing.TB, prefix nkeys.PrefixByte) string {
	t.Helper()
	pair, err := nkeys.CreatePair(prefix)
	if err != nil {
		t.Fatal(err)
	}
	seed, err := pair.Seed()
	if err != nil {
		t.Fatal(err)
	}
	return string(seed)
}

func TestKeys(t *testing.T) {
	prefixes := map[string]nkeys.PrefixByte{
		"user key": nkeys.PrefixByteUser, "account key": nkeys.PrefixByteAccount, "seal key": nkeys.PrefixByteCurve,
		"operator": nkeys.PrefixByteOperator, "server": nkeys.PrefixByteServer, "cluster": nkeys.PrefixByteCluster,
	}
	for name, prefix := range prefixes {
		if name == "operator" || name == "server" || name == "cluster" {
			continue
		}
		k := find(t, name)
		pub := public(t, prefix)
		check(t, k, pub, true)
		for other, p := range prefixes {
			if other != name {
				check(t, k, public(t, p), false)
			}
		}
		check(t, k, seedOf(t, prefix), false)
		for i := range pub {
			for _, c := range []byte{'A', 'B', '2', '7'} {
				if pub[i] != c {
					check(t, k, pub[:i]+string(c)+pub[i+1:], false) // the checksum catches every one
					break
				}
			}
		}
		for _, s := range []string{
			pub[:55], pub + "A", pub[1:], "A" + pub, strings.ToLower(pub), pub[:28] + "\n" + pub[28:], pub[:55] + "=", pub + "=", pub + "\n",
			pub[:1], pub[:1] + strings.Repeat("B", 55), strings.Repeat(pub, 2), pub[:55] + "\n", pub[:54] + "\r\n", pub[:30] + "\n" + pub[31:],
		} {
			check(t, k, s, false)
		}
	}
}

// nkeys passes over line ends and looks at no length, so that a key of 31 bytes
// and a line end would be 56 characters: in a subject, a second protocol line.
func TestKeysWithLineEnds(t *testing.T) {
	for name, prefix := range map[string]nkeys.PrefixByte{"user key": nkeys.PrefixByteUser, "account key": nkeys.PrefixByteAccount, "seal key": nkeys.PrefixByteCurve} {
		short, err := nkeys.Encode(prefix, make([]byte, 31))
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range []string{string(short) + "\n", string(short[:20]) + "\r" + string(short[20:])} {
			if len(s) != 56 {
				t.Fatalf("%d characters", len(s))
			}
			check(t, find(t, name), s, false)
		}
	}
}

func TestIdentities(t *testing.T) {
	k := find(t, "identity")
	pub := public(t, nkeys.PrefixByteUser)
	check(t, k, "open:"+pub, true)
	for _, s := range []string{
		pub, "open", "open:", ":" + pub, "Open:" + pub, "open::" + pub, "open:" + pub + ":", "open:" + pub + "\n", "oidc:google:x", "open:*",
		"open:" + public(t, nkeys.PrefixByteAccount), " open:" + pub,
	} {
		check(t, k, s, false)
	}
	u, err := ident.ParseUserKey(pub)
	if err != nil {
		t.Fatal(err)
	}
	i := ident.OpenIdentity(u)
	if i.Kind() != "open" || i.IsZero() || i.String() != "open:"+pub {
		t.Errorf("%s %s", i.Kind(), i)
	}
	if (ident.Identity{}).String() != "" || !(ident.Identity{}).IsZero() {
		t.Error("the zero identity is somebody")
	}
}

// Zero values are what JSON leaves where a member is missing; none may be read back.
func TestZeroIsNotReadBack(t *testing.T) {
	for _, k := range kinds() {
		if s, err := k.json([]byte(`""`)); err == nil {
			t.Errorf("%s: an empty text is read as %q", k.name, s)
		}
		for _, data := range []string{"1", "true", "{}", "[]"} {
			if _, err := k.json([]byte(data)); err == nil {
				t.Errorf("%s: %s is read", k.name, data)
			}
		}
	}
}

func nameGen() *rapid.Generator[string] {
	return rapid.StringMatching(`[a-z0-9]([._-]?[a-z0-9]){0,15}`)
}

func TestParseStringProperty(t *testing.T) {
	gens := map[string]*rapid.Generator[string]{
		"name": nameGen(), "region": rapid.StringMatching(`[a-z][a-z0-9]{0,15}`), "label": rapid.StringMatching(`[A-Za-z0-9_-]{1,32}`),
	}
	for name, gen := range gens {
		k := find(t, name)
		rapid.Check(t, func(r *rapid.T) {
			s := gen.Draw(r, "s")
			if got, zero, err := k.parse(s); err != nil || got != s || zero {
				r.Fatalf("%s %q: %q %v", name, s, got, err)
			}
		})
	}
	for name, prefix := range map[string]nkeys.PrefixByte{"user key": nkeys.PrefixByteUser, "account key": nkeys.PrefixByteAccount, "seal key": nkeys.PrefixByteCurve} {
		k := find(t, name)
		rapid.Check(t, func(r *rapid.T) {
			raw := rapid.SliceOfN(rapid.Byte(), 32, 32).Draw(r, "key")
			pub, err := nkeys.Encode(prefix, raw)
			if err != nil {
				r.Fatal(err)
			}
			if got, _, err := k.parse(string(pub)); err != nil || got != string(pub) {
				r.Fatalf("%s %s: %q %v", name, pub, got, err)
			}
		})
	}
}

// A token has no dot, and no two names have one token.
func TestTokens(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		a, err := ident.ParseName(nameGen().Draw(r, "a"))
		if err != nil {
			r.Fatal(err)
		}
		b, err := ident.ParseName(nameGen().Draw(r, "b"))
		if err != nil {
			r.Fatal(err)
		}
		if (a == b) != (a.Token() == b.Token()) || strings.ContainsAny(a.Token(), ".*> ") {
			r.Fatalf("%s %s: %s %s", a, b, a.Token(), b.Token())
		}
	})
}

func FuzzParse(f *testing.F) {
	for _, s := range append(strange(), "alice", "a.b", "ams", "CHAT", "open:U", "open:UAB2CB576PHBBPQ5ODORRZ2LYCMWPZGWGCN2KDK7DXOIMZASKUY3RLKK",
		"UAB2CB576PHBBPQ5ODORRZ2LYCMWPZGWGCN2KDK7DXOIMZASKUY3RLKK", "XA2YA4WWGZMIBUNO5IZJVX4REE4DQUPNEGRI4O3V5FS5BUWNCZRFI2LE") {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		for _, k := range kinds() {
			got, zero, err := k.parse(s)
			if errors.Is(err, errBeside) || (err == nil) == zero || err == nil && got != s {
				t.Fatalf("%s %q: %q %v", k.name, s, got, err)
			}
			if err != nil {
				continue
			}
			if strings.ContainsAny(s, " *>\t\r\n\x00") || len(s) > 61 {
				t.Fatalf("%s %q is accepted", k.name, s)
			}
		}
	})
}
