package ident_test

import (
	"encoding"
	"encoding/base32"
	"encoding/binary"
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
		kindOf("identity", ident.ParseIdentity), kindOf("key id", ident.ParseKeyID), kindOf("invite id", ident.ParseInviteID),
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

func TestKeyIDs(t *testing.T) {
	k := find(t, "key id")
	for _, s := range []string{"HKABCDEFGHIJKLMNOPQR", "HK234567234567234567", "HKHKHKHKHKHKHKHKHKHK"} {
		check(t, k, s, true)
	}
	for _, s := range []string{
		"HK", "HKABCDEFGHIJKLMNOPQ", "HKABCDEFGHIJKLMNOPQRS", "hkABCDEFGHIJKLMNOPQR", "HKabcdefghijklmnopqr", "KHABCDEFGHIJKLMNOPQR",
		"HK0BCDEFGHIJKLMNOPQR", "HK1BCDEFGHIJKLMNOPQR", "HK8BCDEFGHIJKLMNOPQR", "HKABCDEFGHIJKLMNOPQ\n", "HKABCDEFGHIJKLMNOPQ=", "HKABCDEFGH.JKLMNOPQR",
		"AHKBCDEFGHIJKLMNOPQR",
	} {
		check(t, k, s, false)
	}
}

func TestInviteIDs(t *testing.T) {
	k := find(t, "invite id")
	for _, s := range []string{strings.Repeat("a", 26), "abcdefghijklmnopqrstuvwxyz", strings.Repeat("27", 13)} {
		check(t, k, s, true)
	}
	for _, s := range []string{
		strings.Repeat("a", 25), strings.Repeat("a", 27), strings.Repeat("A", 26), strings.Repeat("a", 25) + "A", strings.Repeat("a", 25) + "1",
		strings.Repeat("a", 25) + "0", strings.Repeat("a", 25) + "8", strings.Repeat("a", 25) + "\n", strings.Repeat("a", 25) + "=", strings.Repeat("a.", 13),
		strings.Repeat("é", 13),
	} {
		check(t, k, s, false)
	}
	// Registrars of all versions must give a code one id: these are fixed.
	for code, want := range map[string]string{
		"": "6qorsmvgw66qqvteftulb6dfor", "HI-ABCD": "lhnj2whnsaobmpouwyp6p6p3bm", "hi-abcd": "ocqmnoms53waw2cnwejnqlkdm2",
	} {
		i := ident.InviteOf(code)
		if i.String() != want || i.IsZero() {
			t.Errorf("the id of %q is %s, want %s", code, i, want)
		}
		check(t, k, i.String(), true)
	}
}

func TestIdentities(t *testing.T) {
	k := find(t, "identity")
	pub, key := public(t, nkeys.PrefixByteUser), "HKABCDEFGHIJKLMNOPQR"
	long := strings.Repeat("s", 255)
	for _, s := range []string{
		"open:" + pub, "invite:" + pub, "key:" + key, "oidc:google:1234567890", "oidc:g:x", "oidc:Corp_1-x:a:b:c", "oidc:corp:auth0|5f7c8ec7c33c6c004bbafe82",
		"oidc:corp:ann@example.com", "oidc:corp: ", "oidc:corp:*", "oidc:corp::", "oidc:corp:" + long,
	} {
		check(t, k, s, true)
	}
	for _, s := range []string{
		pub, "open", "open:", ":" + pub, "Open:" + pub, "open::" + pub, "open:" + pub + ":", "open:" + pub + "\n", "open:*",
		"open:" + public(t, nkeys.PrefixByteAccount), " open:" + pub, "open:" + key,
		"invite", "invite:", "invite:" + key, "invite:" + public(t, nkeys.PrefixByteAccount), "invite:" + pub + ":",
		"key", "key:", "key:" + pub, "key:" + key + ":", "key:" + strings.ToLower(key), "KEY:" + key, "access_key:" + key,
		"oidc", "oidc:", "oidc:google", "oidc:google:", "oidc::x", "oidc::", "oidc:goo gle:x", "oidc:goo.gle:x", "OIDC:google:x",
		"oidc:google:" + long + "s", "oidc:google:a\x00", "oidc:google:a\n", "oidc:google:\x7f", "oidc:google:é", "oidc:google:\x1b[2J", "oidc:google:\xff",
		"oidc:" + strings.Repeat("p", 33) + ":x", "guest:" + pub,
	} {
		check(t, k, s, false)
	}
	if (ident.Identity{}).String() != "" || !(ident.Identity{}).IsZero() || (ident.Identity{}).Kind() != "" {
		t.Error("the zero identity is somebody")
	}
}

// TestIdentityKinds: what makes an identity and what reads it agree, and no two
// kinds are one.
func TestIdentityKinds(t *testing.T) {
	pub := public(t, nkeys.PrefixByteUser)
	u, err := ident.ParseUserKey(pub)
	if err != nil {
		t.Fatal(err)
	}
	key, err := ident.ParseKeyID("HKABCDEFGHIJKLMNOPQR")
	if err != nil {
		t.Fatal(err)
	}
	google, err := ident.ParseLabel("google")
	if err != nil {
		t.Fatal(err)
	}
	ann, err := ident.OIDCIdentity(google, "ann")
	if err != nil {
		t.Fatal(err)
	}
	seen := map[ident.Identity]bool{}
	for text, i := range map[string]ident.Identity{
		"open:" + pub: ident.OpenIdentity(u), "invite:" + pub: ident.InviteIdentity(u), "key:" + key.String(): ident.KeyIdentity(key), "oidc:google:ann": ann,
	} {
		kind, _, _ := strings.Cut(text, ":")
		if i.Kind() != kind || i.IsZero() || i.String() != text {
			t.Errorf("%s: %s %s", text, i.Kind(), i)
		}
		if back, err := ident.ParseIdentity(text); err != nil || back != i {
			t.Errorf("%s is read as %s, %v", text, back, err)
		}
		seen[i] = true
	}
	if len(seen) != 4 {
		t.Errorf("%d identities of 4 kinds", len(seen))
	}
	for what, tc := range map[string]struct {
		provider ident.Label
		subject  string
	}{
		"no provider": {ident.Label{}, "ann"}, "no subject": {google, ""}, "too long a subject": {google, strings.Repeat("a", 256)},
		"a line end": {google, "a\n"}, "another script": {google, "анна"},
	} {
		if i, err := ident.OIDCIdentity(tc.provider, tc.subject); !errors.Is(err, ident.ErrInvalid) || !i.IsZero() {
			t.Errorf("%s: %s, %v", what, i, err)
		}
	}
}

// An identity's token is one token of a subject, whatever a provider calls its
// people, and no two identities have one.
func TestIdentityTokens(t *testing.T) {
	subject := rapid.StringMatching(`[ -~]{1,40}`)
	provider := rapid.StringMatching(`[A-Za-z0-9_-]{1,4}`)
	draw := func(r *rapid.T, who string) ident.Identity {
		i, err := ident.ParseIdentity("oidc:" + provider.Draw(r, who+"'s provider") + ":" + subject.Draw(r, who))
		if err != nil {
			r.Fatal(err)
		}
		return i
	}
	rapid.Check(t, func(r *rapid.T) {
		a, b := draw(r, "a"), draw(r, "b")
		if (a == b) != (a.Token() == b.Token()) || a.Token() == "" || strings.ContainsAny(a.Token(), ".*> =\t") {
			r.Fatalf("%s %s: %s %s", a, b, a.Token(), b.Token())
		}
	})
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
		"HKABCDEFGHIJKLMNOPQR", "key:HKABCDEFGHIJKLMNOPQR", "oidc:google:a:b", "abcdefghijklmnopqrstuvwxyz",
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
			longest, never := 63, " *>\t\r\n\x00" // "invite:" and an nkey
			if k.name == "identity" && strings.HasPrefix(s, "oidc:") {
				longest, never = len("oidc::")+32+255, "\t\r\n\x00"
			}
			if strings.ContainsAny(s, never) || len(s) > longest {
				t.Fatalf("%s %q is accepted", k.name, s)
			}
		}
	})
}

// One key is one identity: nkeys decodes eight spellings of each, and only one is its
// own.
func TestKeysHaveOneSpelling(t *testing.T) {
	for kind, c := range map[nkeys.PrefixByte]func(string) error{
		nkeys.PrefixByteUser:    func(s string) error { _, err := ident.ParseUserKey(s); return err },
		nkeys.PrefixByteAccount: func(s string) error { _, err := ident.ParseAccountKey(s); return err },
		nkeys.PrefixByteCurve:   func(s string) error { _, err := ident.ParseSealKey(s); return err },
	} {
		raw := make([]byte, 32)
		raw[5] = 7
		for low := range 8 {
			data := append([]byte{byte(kind) | byte(low)}, raw...)
			data = binary.LittleEndian.AppendUint16(data, crc16(data))
			s := base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(data)
			if _, err := nkeys.Decode(kind, []byte(s)); err != nil {
				t.Fatalf("%s: nkeys does not decode it: nothing is tested: %v", s, err)
			}
			if err := c(s); (err == nil) != (low == 0) {
				t.Errorf("%s: %v", s, err)
			}
		}
	}
}

// crc16 is nkeys' checksum: CRC-16/XMODEM.
func crc16(data []byte) (crc uint16) {
	for _, b := range data {
		crc ^= uint16(b) << 8
		for range 8 {
			if crc&0x8000 != 0 {
				crc = crc<<1 ^ 0x1021
			} else {
				crc <<= 1
			}
		}
	}
	return crc
}

// TestErrorsTellNoSecrets: what is put into the wrong place is often what must be told nobody,
// and errors go to logs and, in the clear, to callers.
func TestErrorsTellNoSecrets(t *testing.T) {
	kp, err := nkeys.CreateUser()
	if err != nil {
		t.Fatal(err)
	}
	seed, err := kp.Seed()
	if err != nil {
		t.Fatal(err)
	}
	pub, err := kp.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	for _, secret := range []string{
		string(seed), " " + string(seed) + "\n", string(seed[:50]), strings.ToLower(string(seed)),
		"hks_" + strings.Repeat("a1B2c3D", 7), "hks_" + strings.Repeat("a", 20), "HERALD_KEY_SECRET=hks_" + strings.Repeat("a1B2c3D", 7),
		"HI-7K3M-9QXR-T2VB-4N8C-WJPX", "hi-7k3m-9qxr-t2vb-4n8c-wjpx", "HI 7K3M 9QXR T2VB 4N8C WJPX",
		"eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJhbGljZSIsImF1ZCI6ImEifQ.c2lnbmF0dXJl", "ghp_" + strings.Repeat("a1B2c3D", 6),
	} {
		for _, k := range kinds() {
			if _, _, err := k.parse(secret); err != nil {
				for i := 0; i+10 <= len(secret); i++ {
					if strings.Contains(err.Error(), secret[i:i+10]) {
						t.Errorf("%s: %q says %q", k.name, secret, err)
						break
					}
				}
			}
		}
	}
	// What is public, and what is short, is shown.
	for _, s := range []string{pub, "Alice Smith"} {
		if _, err := ident.ParseRegion(s); err == nil || !strings.Contains(err.Error(), s) {
			t.Errorf("%q: %v", s, err)
		}
	}
}

// TestIdentityTags: what stands in a subject for an identity is one word of letters and
// digits, whatever a provider calls its people, and no two identities have one.
func TestIdentityTags(t *testing.T) {
	for s, want := range map[string]string{
		"key:HKABCDEFGHIJKLMNOPQR": "hkabcdefghijklmnopqr",
		"oidc:corp:alice":          "xyy5m5c2aqtvfto6nwmhy7o2fvuus5iy",
	} {
		id, err := ident.ParseIdentity(s)
		if err != nil || id.Tag() != want {
			t.Errorf("%s: %q %v", s, id.Tag(), err)
		}
	}
	subject := rapid.StringMatching(`[ -~]{1,40}`)
	draw := func(r *rapid.T, who string) ident.Identity {
		i, err := ident.ParseIdentity("oidc:corp:" + subject.Draw(r, who))
		if err != nil {
			r.Fatal(err)
		}
		return i
	}
	rapid.Check(t, func(r *rapid.T) {
		a, b := draw(r, "a"), draw(r, "b")
		strange := func(c rune) bool { return (c < 'a' || c > 'z') && (c < '2' || c > '7') }
		if (a == b) != (a.Tag() == b.Tag()) || len(a.Tag()) != 32 || strings.IndexFunc(a.Tag(), strange) >= 0 {
			r.Fatalf("%s %s: %s %s", a, b, a.Tag(), b.Tag())
		}
	})
}
