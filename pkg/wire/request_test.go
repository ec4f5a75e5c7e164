package wire_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/keystore"
	"github.com/herald-nats/herald/pkg/wire"
)

// body writes a request by hand: members in the order given, each as JSON.
func body(members ...string) string { return "{" + strings.Join(members, ",") + "}" }

// secret has the shape of an access key's.
const secret = "hks_0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLM"

func TestDecodeRequestIsStrict(t *testing.T) {
	user := `"user_key":"` + key(t, keystore.User).Public() + `"`
	reply := key(t, keystore.Curve).Public()
	const (
		at    = `"time":1790000000123`
		nonce = `"nonce":"YGFiY2RlZmdoaWprbG1ubw"`
		open  = `"identity":{"type":"open"}`
	)
	ok := body(user, at, nonce, open)
	with := func(m string) string { return body(user, at, nonce, open, m) }
	padding := func(size int) string { return ok + strings.Repeat(" ", size-len(ok)) }
	for _, tc := range []struct {
		what string
		body string
		want wire.Code
	}{
		{"the least", ok, ""},
		{"white space around", " \n\t" + ok + "\r\n ", ""},
		{"another order", body(open, nonce, at, user), ""},
		{"an escaped member name", strings.Replace(ok, "nonce", `n\u006fnce`, 1), ""},
		{"all fields", with(`"account":"CHAT","role":"member","name":"alice","ttl":"30m","reply_key":"` + reply + `"`), ""},
		{"exactly 16 KiB", padding(wire.MaxRequest), ""},

		{"a byte more", padding(wire.MaxRequest + 1), wire.TooLarge},
		{"much more", strings.Repeat("x", 1<<20), wire.TooLarge},

		{"nothing", "", wire.BadRequest},
		{"null", "null", wire.BadRequest},
		{"a list", "[" + ok + "]", wire.BadRequest},
		{"a text", `"x"`, wire.BadRequest},
		{"half of it", ok[:len(ok)-1], wire.BadRequest},
		{"a comma too much", ok[:len(ok)-1] + ",}", wire.BadRequest},
		{"a second object behind it", ok + ok, wire.BadRequest},
		{"a letter behind it", ok + "x", wire.BadRequest},
		{"a closing brace behind it", ok + "}", wire.BadRequest},
		{"a NUL behind it", ok + "\x00", wire.BadRequest},
		{"a byte order mark", "\ufeff" + ok, wire.BadRequest},
		{"broken UTF-8 in a member", with(`"name":"a` + "\xff" + `"`), wire.BadRequest},
		{"broken UTF-8 in a member's name", with(`"` + "\xff" + `":1`), wire.BadRequest},
		{"deep nesting", with(`"x":` + strings.Repeat("[", 8000)), wire.BadRequest},

		{"an unknown field", with(`"admin":true`), wire.BadRequest},
		{"an empty field name", with(`"":1`), wire.BadRequest},
		{"other case", strings.Replace(ok, "nonce", "Nonce", 1), wire.BadRequest},
		{"other case beside it", with(`"Time":1`), wire.BadRequest},
		{"a field twice", with(at), wire.BadRequest},
		{"a field twice, once escaped", with(`"n\u006fnce":"YGFiY2RlZmdoaWprbG1ubw"`), wire.BadRequest},
		{"an optional field twice", with(`"name":"alice","name":"bob"`), wire.BadRequest},

		{"no user_key", body(at, nonce, open), wire.BadRequest},
		{"no time", body(user, nonce, open), wire.BadRequest},
		{"no nonce", body(user, at, open), wire.BadRequest},
		{"no identity", body(user, at, nonce), wire.BadRequest},

		{"user_key null", body(`"user_key":null`, at, nonce, open), wire.BadRequest},
		{"time null", body(user, `"time":null`, nonce, open), wire.BadRequest},
		{"nonce null", body(user, at, `"nonce":null`, open), wire.BadRequest},
		{"identity null", body(user, at, nonce, `"identity": null`), wire.BadRequest},
		{"type null", body(user, at, nonce, `"identity":{"type":null}`), wire.BadRequest},
		{"account null", with(`"account":null`), wire.BadRequest},
		{"role null", with(`"role": null `), wire.BadRequest},
		{"name null", with(`"name":null`), wire.BadRequest},
		{"ttl null", with(`"ttl":null`), wire.BadRequest},
		{"reply_key null", with(`"reply_key":null`), wire.BadRequest},

		{"user_key a number", body(`"user_key":1`, at, nonce, open), wire.BadRequest},
		{"user_key a list", body(`"user_key":["U"]`, at, nonce, open), wire.BadRequest},
		{"time a text", body(user, `"time":"1790000000123"`, nonce, open), wire.BadRequest},
		{"time with a fraction", body(user, `"time":1790000000123.5`, nonce, open), wire.BadRequest},
		{"time with an exponent", body(user, `"time":1.79e12`, nonce, open), wire.BadRequest},
		{"time beyond 64 bits", body(user, `"time":9223372036854775808`, nonce, open), wire.BadRequest},
		{"name a number", with(`"name":1`), wire.BadRequest},
		{"ttl a number", with(`"ttl":1800`), wire.BadRequest},
		{"identity a text", body(user, at, nonce, `"identity":"open"`), wire.BadRequest},
		{"identity a list", body(user, at, nonce, `"identity":[]`), wire.BadRequest},
		{"identity without a type", body(user, at, nonce, `"identity":{}`), wire.BadRequest},
		{"identity with more", body(user, at, nonce, `"identity":{"type":"open","token":"x"}`), wire.BadRequest},
		{"identity's type twice", body(user, at, nonce, `"identity":{"type":"open","type":"oidc"}`), wire.BadRequest},

		{"a token without a token", body(user, at, nonce, `"identity":{"type":"oidc"}`), wire.BadRequest},
		{"a token with a space", body(user, at, nonce, `"identity":{"type":"oidc","token":"a b"}`), wire.BadRequest},
		{"a token with a brace within", body(user, at, nonce, `"identity":{"type":"oidc","token":"a{b"}`), wire.BadRequest},
		{"a token", body(user, at, nonce, `"identity":{"type":"oidc","token":"a-b_.c.D0"}`), ""},
		{"an access key", body(user, at, nonce, `"identity":{"type":"access_key","key_id":"HKAAAAAAAAAAAAAAAAAA"}`), ""},
		{"an invitation", body(user, at, nonce, `"identity":{"type":"invite","code":"x"}`), ""},
		{"an empty token", body(user, at, nonce, `"identity":{"type":"oidc","token":""}`), wire.BadRequest},
		{"a token of more than 12 KiB", body(user, at, nonce, `"identity":{"type":"oidc","token":"`+strings.Repeat("x", 12<<10+1)+`"}`), wire.BadRequest},
		{"a token beside a code", body(user, at, nonce, `"identity":{"type":"oidc","token":"x","code":"y"}`), wire.BadRequest},
		{"an invitation without a code", body(user, at, nonce, `"identity":{"type":"invite","code":""}`), wire.BadRequest},
		{"a code of 65", body(user, at, nonce, `"identity":{"type":"invite","code":"`+strings.Repeat("x", 65)+`"}`), wire.BadRequest},
		{"an access key without an id", body(user, at, nonce, `"identity":{"type":"access_key"}`), wire.BadRequest},
		{"an access key with another id", body(user, at, nonce, `"identity":{"type":"access_key","key_id":"HKabc"}`), wire.BadRequest},
		{"an access key's secret as its id", body(user, at, nonce, `"identity":{"type":"access_key","key_id":"`+secret+`"}`), wire.BadRequest},
		{"an access key with a code", body(user, at, nonce, `"identity":{"type":"access_key","key_id":"HKAAAAAAAAAAAAAAAAAA","code":"x"}`), wire.BadRequest},

		{"another type", body(user, at, nonce, `"identity":{"type":"password"}`), wire.BadIdentity},
		{"another case", body(user, at, nonce, `"identity":{"type":"Open"}`), wire.BadIdentity},
		{"an empty type", body(user, at, nonce, `"identity":{"type":""}`), wire.BadIdentity},

		{"an empty name", with(`"name":""`), wire.BadName},
		{"a name that is none", with(`"name":"Alice"`), wire.BadName},
		{"everybody's name", with(`"name":"*"`), wire.BadName},
		{"a name of 33", with(`"name":"` + strings.Repeat("a", 33) + `"`), wire.BadName},

		{"an empty user_key", body(`"user_key":""`, at, nonce, open), wire.BadRequest},
		{"an account's key", body(`"user_key":"`+key(t, keystore.Account).Public()+`"`, at, nonce, open), wire.BadRequest},
		{"a seed as user_key", body(`"user_key":"SUAAAAAA"`, at, nonce, open), wire.BadRequest},
		{"an empty account", with(`"account":""`), wire.BadRequest},
		{"an account with a dot", with(`"account":"A.B"`), wire.BadRequest},
		{"an empty role", with(`"role":""`), wire.BadRequest},
		{"an empty reply_key", with(`"reply_key":""`), wire.BadRequest},
		{"a user's key as reply_key", with(`"reply_key":"` + key(t, keystore.User).Public() + `"`), wire.BadRequest},
		{"an empty ttl", with(`"ttl":""`), wire.BadRequest},
		{"a ttl without a unit", with(`"ttl":"30"`), wire.BadRequest},
		{"no ttl at all", with(`"ttl":"0s"`), wire.BadRequest},
		{"a negative ttl", with(`"ttl":"-1s"`), wire.BadRequest},
		{"an endless ttl", with(`"ttl":"9999999999h"`), wire.BadRequest},
		{"an empty nonce", body(user, at, `"nonce":""`, open), wire.BadRequest},
		{"a nonce of 15 bytes", body(user, at, `"nonce":"YGFiY2RlZmdoaWprbG1u"`, open), wire.BadRequest},
		{"a nonce of 17 bytes", body(user, at, `"nonce":"YGFiY2RlZmdoaWprbG1ub3A"`, open), wire.BadRequest},
		{"a nonce with padding", body(user, at, `"nonce":"YGFiY2RlZmdoaWprbG1ubw=="`, open), wire.BadRequest},
		{"a nonce with bits left over", body(user, at, `"nonce":"YGFiY2RlZmdoaWprbG1ubx"`, open), wire.BadRequest},
		{"a nonce with a line end", body(user, at, `"nonce":"YGFiY2RlZmdo\naWprbG1ubw"`, open), wire.BadRequest},
		{"a nonce in the other alphabet", body(user, at, `"nonce":"++++++++++++++++++++++"`, open), wire.BadRequest},
	} {
		r, err := wire.DecodeRequest([]byte(tc.body))
		if code(err) != tc.want {
			t.Errorf("%s: got %v, want %q", tc.what, err, tc.want)
		}
		if err != nil {
			if r != (wire.Request{}) {
				t.Errorf("%s: a request is given beside the error", tc.what)
			}
			if strings.Contains(err.Error()+err.Hint, secret[4:20]) {
				t.Errorf("%s: a secret is said: %v", tc.what, err)
			}
			if err.Hint == "" || err.Message == "" || strings.ContainsAny(err.Message, "\r\n\x00\x1b") {
				t.Errorf("%s: what the caller is told: %q, %q", tc.what, err.Message, err.Hint)
			}
		}
	}
}

func TestRequestRoundTrip(t *testing.T) {
	user, reply := key(t, keystore.User), key(t, keystore.Curve)
	all := full(t, user, reply)
	rapid.Check(t, func(r *rapid.T) {
		want := wire.Request{UserKey: all.UserKey, Identity: all.Identity}
		want.Time = time.UnixMilli(rapid.Int64().Draw(r, "time"))
		want.Nonce = base64.RawURLEncoding.EncodeToString(rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(r, "nonce"))
		if rapid.Bool().Draw(r, "account") {
			want.Account = all.Account
		}
		if rapid.Bool().Draw(r, "role") {
			want.Role = all.Role
		}
		if rapid.Bool().Draw(r, "name") {
			want.Name = all.Name
		}
		if rapid.Bool().Draw(r, "reply") {
			want.ReplyKey = all.ReplyKey
		}
		want.TTL = time.Duration(rapid.Int64Min(0).Draw(r, "ttl"))
		b, err := want.Encode()
		if err != nil {
			r.Fatal(err)
		}
		got, werr := wire.DecodeRequest(b)
		if werr != nil || got != want {
			r.Fatalf("%s\ngave %+v, %v\nwant %+v", b, got, werr, want)
		}
	})
}

func TestTimeWindow(t *testing.T) {
	r := wire.Request{Time: now()}
	for _, tc := range []struct {
		off time.Duration
		ok  bool
	}{
		{0, true},
		{30 * time.Second, true},
		{-30 * time.Second, true},
		{30*time.Second + time.Millisecond, false},
		{-30*time.Second - time.Millisecond, false},
		{30*time.Second + 1, false},
		{-30*time.Second - 1, false},
		{time.Hour, false},
		{-time.Hour, false},
	} {
		err := r.CheckTime(now().Add(tc.off))
		if (err == nil) != tc.ok || (err != nil && err.Code != wire.ClockSkew) {
			t.Errorf("%s away: %v", tc.off, err)
		}
	}
	// Differences beyond 292 years must not wrap around into the window.
	for _, millis := range []int64{-1 << 63, 1<<63 - 1, -1 << 62, 0} {
		if err := (wire.Request{Time: time.UnixMilli(millis)}).CheckTime(now()); code(err) != wire.ClockSkew {
			t.Errorf("a time of %d ms: %v", millis, err)
		}
	}
}

// subjectSigner signs as for another endpoint.
type subjectSigner struct {
	*keystore.Key
	from, to string
}

func (s subjectSigner) Sign(data []byte) ([]byte, error) {
	return s.Key.Sign(bytes.Replace(data, []byte(s.from), []byte(s.to), 1))
}

func TestProof(t *testing.T) {
	user, other := key(t, keystore.User), key(t, keystore.User)
	b, err := full(t, user, key(t, keystore.Curve)).Encode()
	if err != nil {
		t.Fatal(err)
	}
	proof := must[string](t)(wire.Prove(user, b))
	pub := userKey(t, user)
	if err := wire.CheckProof(pub, []string{proof}, b); err != nil {
		t.Fatalf("the one that the others differ from: %v", err)
	}
	if err := wire.CheckIdentityProof(pub, []string{proof}, b); err != nil {
		t.Fatalf("an access key's: %v", err)
	}
	if empty := must[string](t)(wire.Prove(user, nil)); wire.CheckProof(pub, []string{empty}, nil) != nil {
		t.Error("an empty body cannot be proved")
	}
	sig := strings.TrimPrefix(proof, "v1 ")
	flip := func(i int) string {
		raw := must[[]byte](t)(base64.RawURLEncoding.DecodeString(sig))
		raw[i] ^= 1
		return "v1 " + base64.RawURLEncoding.EncodeToString(raw)
	}
	for what, proofs := range map[string][]string{
		"none":                       nil,
		"an empty one":               {""},
		"two":                        {proof, proof},
		"a good and a bad one":       {proof, "v1 x"},
		"without a version":          {sig},
		"another version":            {"v2 " + sig},
		"other case":                 {"V1 " + sig},
		"two spaces":                 {"v1  " + sig},
		"no space":                   {"v1" + sig},
		"a space before":             {" " + proof},
		"a space behind":             {proof + " "},
		"a line end inside":          {proof[:20] + "\n" + proof[20:]},
		"a line end behind":          {proof + "\r\n"},
		"padding":                    {proof + "=="},
		"the other alphabet":         {"v1 " + strings.Repeat("+", 86)},
		"bits left over":             {proof[:len(proof)-1] + next(proof[len(proof)-1])},
		"63 bytes":                   {"v1 " + base64.RawURLEncoding.EncodeToString(make([]byte, 63))},
		"65 bytes":                   {"v1 " + base64.RawURLEncoding.EncodeToString(make([]byte, 65))},
		"zeros":                      {"v1 " + base64.RawURLEncoding.EncodeToString(make([]byte, 64))},
		"a very long one":            {"v1 " + strings.Repeat("A", 1<<20)},
		"altered in R":               {flip(0)},
		"altered in S":               {flip(63)},
		"somebody else's":            {must[string](t)(wire.Prove(other, b))},
		"of another body":            {must[string](t)(wire.Prove(user, append([]byte(" "), b...)))},
		"of another subject":         {must[string](t)(wire.Prove(subjectSigner{user, "auth.v1.issue", "auth.v1.renew"}, b))},
		"of another version":         {must[string](t)(wire.Prove(subjectSigner{user, "herald/v1/", "herald/v2/"}, b))},
		"without the line end":       {must[string](t)(wire.Prove(subjectSigner{user, "\n", ""}, b))},
		"of the body alone":          {must[string](t)(wire.Prove(subjectSigner{user, "herald/v1/auth.v1.issue\n", ""}, b))},
		"of a server's nonce's form": {must[string](t)(wire.Prove(subjectSigner{user, string(b), "nonce"}, b))},
	} {
		if err := wire.CheckProof(pub, proofs, b); code(err) != wire.BadProof {
			t.Errorf("a proof: %s: got %v", what, err)
		}
		// An access key proves in the same way, under a header of its own.
		if err := wire.CheckIdentityProof(pub, proofs, b); code(err) != wire.BadIdentity {
			t.Errorf("an access key's proof: %s: got %v", what, err)
		}
	}
	for i := range b {
		altered := bytes.Clone(b)
		altered[i] ^= 1
		if wire.CheckProof(pub, []string{proof}, altered) == nil {
			t.Errorf("byte %d of the body can be altered", i)
		}
	}
	for what, altered := range map[string][]byte{"shorter": b[:len(b)-1], "longer": append(bytes.Clone(b), ' '), "empty": nil} {
		if wire.CheckProof(pub, []string{proof}, altered) == nil {
			t.Errorf("the body can be made %s", what)
		}
	}
	if err := wire.CheckProof(userKey(t, other), []string{proof}, b); code(err) != wire.BadProof {
		t.Errorf("by another key: %v", err)
	}
	if err := wire.CheckProof(ident.UserKey{}, []string{proof}, b); code(err) != wire.BadProof {
		t.Errorf("by no key: %v", err)
	}
}

func next(c byte) string { return string(c ^ 1) }

func TestSealing(t *testing.T) {
	a, b, other := key(t, keystore.Curve), key(t, keystore.Curve), key(t, keystore.Curve)
	plain := []byte(`{"name":"alice"}`)
	sealed := must[[]byte](t)(wire.Seal(a.Pair(), sealKey(t, b), plain))
	if bytes.Contains(sealed, []byte("alice")) {
		t.Fatal("it is not sealed")
	}
	if got, err := wire.Open(b.Pair(), sealKey(t, a), sealed); err != nil || !bytes.Equal(got, plain) {
		t.Fatalf("B opens what A sealed: %q, %v", got, err)
	}
	refused := func(what string, err error) {
		t.Helper()
		if !errors.Is(err, wire.ErrSeal) {
			t.Errorf("%s: got %v, want ErrSeal", what, err)
		}
	}
	_, err := wire.Open(other.Pair(), sealKey(t, a), sealed)
	refused("another opens it", err)
	_, err = wire.Open(b.Pair(), sealKey(t, other), sealed)
	refused("another is named as its sender", err)
	_, err = wire.Open(b.Pair(), sealKey(t, b), sealed)
	refused("B itself is named as its sender", err)
	_, err = wire.Open(b.Pair(), ident.SealKey{}, sealed)
	refused("nobody is named as its sender", err)
	for i := range sealed {
		altered := bytes.Clone(sealed)
		altered[i] ^= 1
		_, err := wire.Open(b.Pair(), sealKey(t, a), altered)
		refused(fmt.Sprintf("byte %d altered", i), err)
	}
	for n := range len(sealed) {
		_, err := wire.Open(b.Pair(), sealKey(t, a), sealed[:n])
		refused(fmt.Sprintf("the first %d bytes", n), err)
	}
	_, err = wire.Open(b.Pair(), sealKey(t, a), make([]byte, wire.MaxAnswer+1))
	refused("too large", err)
	_, err = wire.Open(b.Pair(), sealKey(t, a), plain)
	refused("in the clear", err)
	if again := must[[]byte](t)(wire.Seal(a.Pair(), sealKey(t, b), plain)); bytes.Equal(again, sealed) {
		t.Error("sealed twice alike: the nonce is not random")
	}
	if _, err := wire.Seal(a.Pair(), ident.SealKey{}, plain); err == nil {
		t.Error("sealed to nobody")
	}
	if _, err := wire.Seal(key(t, keystore.User).Pair(), sealKey(t, b), plain); err == nil {
		t.Error("sealed by a user key")
	}
}

func TestNewNonce(t *testing.T) {
	n, err := wire.NewNonce(bytes.NewReader([]byte("`abcdefghijklmnopqrstuvw")))
	if err != nil || n != "YGFiY2RlZmdoaWprbG1ubw" {
		t.Errorf("%q %v", n, err)
	}
	if _, err := wire.NewNonce(strings.NewReader("short")); err == nil {
		t.Error("a nonce of too little randomness")
	}
}

func TestRenewRequest(t *testing.T) {
	for body, want := range map[string]time.Duration{
		"": 0, "{}": 0, `{"ttl":"30m"}`: 30 * time.Minute, ` {"ttl" : "1h30m"} `: 90 * time.Minute,
	} {
		if r, err := wire.DecodeRenewRequest([]byte(body)); err != nil || r.TTL != want {
			t.Errorf("%s: %v %v", body, r, err)
		}
	}
	for body, want := range map[string]wire.Code{
		"null": wire.BadRequest, "[]": wire.BadRequest, " ": wire.BadRequest, "{}{}": wire.BadRequest,
		`{"ttl":""}`: wire.BadRequest, `{"ttl":"0s"}`: wire.BadRequest, `{"ttl":"-1m"}`: wire.BadRequest, `{"ttl":30}`: wire.BadRequest,
		`{"ttl":null}`: wire.BadRequest, `{"TTL":"1m"}`: wire.BadRequest, `{"ttl":"1m","ttl":"2m"}`: wire.BadRequest,
		`{"user_key":"U"}`: wire.BadRequest, strings.Repeat(" ", wire.MaxRequest+1): wire.TooLarge,
	} {
		if r, err := wire.DecodeRenewRequest([]byte(body)); code(err) != want || r.TTL != 0 {
			t.Errorf("%.40s: %v %v, want %s", body, r, err, want)
		}
	}
	for _, ttl := range []time.Duration{0, time.Second, 90 * time.Minute, 1<<63 - 1} {
		if r, err := wire.DecodeRenewRequest(wire.RenewRequest{TTL: ttl}.Encode()); err != nil || r.TTL != ttl {
			t.Errorf("%s came back as %s, %v", ttl, r.TTL, err)
		}
	}
}

func TestClaim(t *testing.T) {
	want := wire.Claim{Body: []byte("{\"x\":\"\xff\"}"), Proof: "v1 x"}
	for _, host := range []string{"", "127.0.0.1", strings.Repeat("h", wire.MaxHost)} {
		want.Host = host
		data := must[[]byte](t)(json.Marshal(want))
		if got, err := wire.DecodeClaim(data); err != nil || !bytes.Equal(got.Body, want.Body) || got.Proof != want.Proof || got.Host != host {
			t.Fatalf("%+v %v", got, err)
		}
	}
	largest := must[[]byte](t)(json.Marshal(wire.Claim{Body: make([]byte, wire.MaxRequest), Proof: "v1 " + strings.Repeat("A", 86), Host: strings.Repeat("\x00", wire.MaxHost)}))
	if _, err := wire.DecodeClaim(largest); err != nil {
		t.Errorf("the largest request does not fit into a claim: %v", err)
	}
	for what, tc := range map[string]struct {
		data string
		want wire.Code
	}{
		"nothing":          {"", wire.BadRequest},
		"no proof":         {`{"body":"eA=="}`, wire.BadRequest},
		"no body":          {`{"proof":"x"}`, wire.BadRequest},
		"null":             {`{"body":null,"proof":"x"}`, wire.BadRequest},
		"a list of bytes":  {`{"body":[120],"proof":"x"}`, wire.BadRequest},
		"no base64":        {`{"body":"*","proof":"x"}`, wire.BadRequest},
		"without padding":  {`{"body":"eA","proof":"x"}`, wire.BadRequest},
		"more":             {`{"body":"eA==","proof":"x","identity":"open:U"}`, wire.BadRequest},
		"twice":            {`{"body":"eA==","body":"eQ==","proof":"x"}`, wire.BadRequest},
		"something behind": {`{"body":"eA==","proof":"x"} {}`, wire.BadRequest},
		"an endless host":  {`{"body":"eA==","proof":"x","host":"` + strings.Repeat("h", wire.MaxHost+1) + `"}`, wire.BadRequest},
		"a host of null":   {`{"body":"eA==","proof":"x","host":null}`, wire.BadRequest},
		"a list of hosts":  {`{"body":"eA==","proof":"x","host":["h"]}`, wire.BadRequest},
		"too large":        {strings.Repeat(" ", 2*wire.MaxRequest+1), wire.TooLarge},
	} {
		if c, err := wire.DecodeClaim([]byte(tc.data)); code(err) != tc.want || c.Body != nil || c.Proof != "" || c.Host != "" {
			t.Errorf("%s: %+v %v", what, c, err)
		}
	}
}
