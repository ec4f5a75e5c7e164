package wire_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/keystore"
	"github.com/herald-nats/herald/pkg/wire"
)

func answer(t testing.TB) wire.Answer {
	t.Helper()
	return wire.Answer{
		JWT: "a.b.c", Account: must[ident.AccountKey](t)(ident.ParseAccountKey(key(t, keystore.Account).Public())),
		AccountName: must[ident.Label](t)(ident.ParseLabel("CHAT")), Role: must[ident.Label](t)(ident.ParseLabel("member")),
		Name: must[ident.Name](t)(ident.ParseName("alice")), Expires: 1790003600, RenewAt: 1790002700,
		URLs: []string{"nats://127.0.0.1:4222", "tls://[::1]:4222", "ws://h:80", "wss://h"}, Region: must[ident.Region](t)(ident.ParseRegion("ams")),
		Issuer: key(t, keystore.User).Public(),
	}
}

func TestDecodeAnswer(t *testing.T) {
	good := encode(t, answer(t))
	got, err := wire.DecodeAnswer(good)
	if err != nil || fmt.Sprint(got) == fmt.Sprint(wire.Answer{}) || got.Name.String() != "alice" || len(got.URLs) != 4 {
		t.Fatalf("%+v %v", got, err)
	}
	with := func(member string, value any) []byte {
		var m map[string]any
		if err := json.Unmarshal(good, &m); err != nil {
			t.Fatal(err)
		}
		if value == nil {
			delete(m, member)
		} else {
			m[member] = value
		}
		return must[[]byte](t)(json.Marshal(m))
	}
	if _, err := wire.DecodeAnswer(with("later", map[string]any{"x": 1})); err != nil {
		t.Errorf("a member of a later version is refused: %v", err)
	}
	urls := func(n int) []string { return slices.Repeat([]string{"nats://h:1"}, n) }
	if _, err := wire.DecodeAnswer(with("urls", urls(64))); err != nil {
		t.Errorf("64 URLs: %v", err)
	}
	for what, data := range map[string][]byte{
		"nothing": nil, "null": []byte("null"), "a list": []byte("[]"), "half": good[:len(good)-1],
		"two":               append(slices.Clone(good), good...),
		"no jwt":            with("jwt", nil),
		"a jwt too long":    with("jwt", strings.Repeat("x", 3<<10+1)),
		"no account":        with("account", nil),
		"no name":           with("name", nil),
		"no role":           with("role", nil),
		"no account_name":   with("account_name", nil),
		"no region":         with("region", nil),
		"a user as account": with("account", key(t, keystore.User).Public()),
		"another name":      with("name", "Alice"),
		"expires 0":         with("expires", 0), "expires before 1970": with("expires", -1), "no expires": with("expires", nil),
		"renew_at 0": with("renew_at", 0), "expires a text": with("expires", "1"),
		"an endless issuer": with("issuer", strings.Repeat("U", 65)),
		"65 URLs":           with("urls", urls(65)),
		"a URL of files":    with("urls", []string{"file:///x"}),
		"a URL with a user": with("urls", []string{"nats://u:p@h:1"}),
		"a bare host":       with("urls", []string{"h:4222"}),
		"a web page":        with("urls", []string{"https://h"}),
		"a long URL":        with("urls", []string{"nats://" + strings.Repeat("h", 256)}),
		"a URL of control":  with("urls", []string{"nats://h\x1b[2J:1"}),
		"an empty URL":      with("urls", []string{""}),
		"too large":         append(slices.Clone(good), []byte(strings.Repeat(" ", wire.MaxAnswer))...),
	} {
		a, err := wire.DecodeAnswer(data)
		if err == nil {
			t.Errorf("an answer with %s is accepted", what)
		} else if a.JWT != "" && len(data) <= wire.MaxAnswer && a.URLs != nil {
			t.Errorf("an answer with %s: something is given beside the error", what)
		}
	}
}

func TestDecodeInfo(t *testing.T) {
	const good = `{"platform":"a.b.c","time":1790000000123,"region":"ams","issuer":"U"}`
	i, err := wire.DecodeInfo([]byte(good))
	if err != nil || i.Platform != "a.b.c" || i.Time != 1790000000123 || i.Region.String() != "ams" || i.Issuer != "U" {
		t.Fatalf("%+v %v", i, err)
	}
	if _, err := wire.DecodeInfo([]byte(strings.Replace(good, "{", `{"later":[1],`, 1))); err != nil {
		t.Errorf("a member of a later version is refused: %v", err)
	}
	for what, data := range map[string]string{
		"nothing": "", "an empty object": "{}", "null": "null",
		"no document":       strings.Replace(good, "a.b.c", "", 1),
		"no time":           strings.Replace(good, "time", "tim", 1),
		"time 0":            strings.Replace(good, "1790000000123", "0", 1),
		"no region":         strings.Replace(good, "region", "regio", 1),
		"no region's name":  strings.Replace(good, "ams", "AMS", 1),
		"an endless issuer": strings.Replace(good, `"U"`, `"`+strings.Repeat("U", 65)+`"`, 1),
		"too large":         good + strings.Repeat(" ", wire.MaxAnswer),
	} {
		if i, err := wire.DecodeInfo([]byte(data)); err == nil || i != (wire.Info{}) {
			t.Errorf("information with %s: %+v %v", what, i, err)
		}
	}
}

func TestDecodeRequestInfo(t *testing.T) {
	const good = `{"acc":"A","user":"U","jwt":"j","kind":"Client","svc":"s","host":"127.0.0.1","rtt":5,"server":{"x":1}}`
	got, err := wire.DecodeRequestInfo([]string{good})
	if err != nil || got != (wire.RequestInfo{Account: "A", User: "U", JWT: "j", Kind: "Client", Service: "s", Host: "127.0.0.1"}) {
		t.Fatalf("%+v %v", got, err)
	}
	for what, values := range map[string][]string{
		"none": nil, "two": {good, good}, "an empty one": {""}, "a list": {"[]"}, "half": {good[:20]},
		"a wrong type": {`{"acc":1}`}, "an endless host": {strings.Replace(good, "127.0.0.1", strings.Repeat("1", wire.MaxHost+1), 1)}, "too large": {good + strings.Repeat(" ", 8<<10)},
	} {
		if i, err := wire.DecodeRequestInfo(values); err == nil || i != (wire.RequestInfo{}) {
			t.Errorf("%s: %+v %v", what, i, err)
		}
	}
}

// codes are all codes that there are.
func codes() []wire.Code {
	return []wire.Code{
		wire.BadRequest, wire.BadName, wire.TooLarge, wire.NotSealed, wire.BadProof, wire.BadIdentity, wire.Expired,
		wire.ClockSkew, wire.Replayed, wire.NoGrant, wire.Suspended, wire.Revoked, wire.RoleNotGranted, wire.NameTaken,
		wire.WrongRegion, wire.RateLimited, wire.Unavailable, wire.ReadOnly,
	}
}

// TestCodesAreThoseOfTheProtocol reads the table of docs/protocol.md.
func TestCodesAreThoseOfTheProtocol(t *testing.T) {
	doc := must[[]byte](t)(os.ReadFile("../../docs/protocol.md"))
	row := regexp.MustCompile(`(?m)^\| ([0-9]{3}) \| ([^|]*) \|`)
	in := regexp.MustCompile("`([a-z_]+)`")
	documented := map[wire.Code]int{}
	for _, m := range row.FindAllStringSubmatch(string(doc), -1) {
		for _, c := range in.FindAllStringSubmatch(m[2], -1) {
			documented[wire.Code(c[1])] = must[int](t)(strconv.Atoi(m[1]))
		}
	}
	for _, c := range codes() {
		n, ok := documented[c]
		if !ok {
			t.Errorf("docs/protocol.md does not list %s", c)
		}
		if c.Number() == 0 || c.Number() != n {
			t.Errorf("%s is %d here and %d in docs/protocol.md", c, c.Number(), n)
		}
		delete(documented, c)
	}
	for c, n := range documented {
		t.Errorf("docs/protocol.md lists %s (%d), which there is not", c, n)
	}
	// The list above is complete: the source has no other.
	src := must[[]byte](t)(os.ReadFile("errors.go"))
	if n := len(regexp.MustCompile(`(?m)^\t\w+ +Code = "`).FindAll(src, -1)); n != len(codes()) {
		t.Errorf("errors.go has %d codes, this test knows %d", n, len(codes()))
	}
	if wire.Code("").Number() != 0 || wire.Code("teapot").Number() != 0 {
		t.Error("an unknown code has a number")
	}
}

func TestError(t *testing.T) {
	for _, c := range codes() {
		e := wire.Errorf(c, "do that", "what %d", 1)
		e.RetryAfterMS, e.RequestID = 1500, "id"
		got, err := wire.DecodeError(must[[]byte](t)(json.Marshal(e)))
		if err != nil || *got != *e || got.RetryAfter() != 1500*time.Millisecond || !errors.Is(got, &wire.Error{Code: c}) {
			t.Errorf("%s: %+v %v", c, got, err)
		}
	}
	if errors.Is(wire.Errorf(wire.BadName, "", ""), &wire.Error{Code: wire.NameTaken}) {
		t.Error("two codes are one")
	}
	if got := wire.Errorf(wire.NameTaken, "", "x").Error(); got != "name_taken: x" {
		t.Error(got)
	}
	long := strings.Repeat("x", 401)
	for what, data := range map[string]string{
		"nothing": "", "null": "null", "no code": `{"message":"x"}`, "an unknown code": `{"code":"teapot"}`,
		"other case": `{"code":"NAME_TAKEN"}`, "a negative wait": `{"code":"unavailable","retry_after_ms":-1}`,
		"an endless wait": `{"code":"unavailable","retry_after_ms":9223372036854775808}`,
		"a long message":  `{"code":"unavailable","message":"` + long + `"}`,
		"a long hint":     `{"code":"unavailable","hint":"` + long + `"}`,
		"a long id":       `{"code":"unavailable","request_id":"` + long + `"}`,
		"too large":       `{"code":"unavailable"}` + strings.Repeat(" ", wire.MaxAnswer),
	} {
		if e, err := wire.DecodeError([]byte(data)); err == nil || e != nil {
			t.Errorf("%s: %+v", what, e)
		}
	}
	if e, err := wire.DecodeError([]byte(`{"code":"unavailable","later":1}`)); err != nil || e.Code != wire.Unavailable {
		t.Errorf("a member of a later version: %v", err)
	}
}

// What an issuer says of the strangest request must be readable by its caller.
func TestErrorsStayReadable(t *testing.T) {
	for _, s := range []string{strings.Repeat("\U0010fffe", 100), strings.Repeat("\x1b", 100), strings.Repeat("\u2028", 100)} {
		quoted := string(must[[]byte](t)(json.Marshal(s)))
		for _, body := range []string{`{"user_key":` + quoted + `}`, `{` + quoted + `:1}`, `{` + quoted + `:1,` + quoted + `:2}`} {
			_, err := wire.DecodeRequest([]byte(body))
			if err == nil {
				t.Fatalf("%.40s is accepted", body)
			}
			if _, derr := wire.DecodeError(must[[]byte](t)(json.Marshal(err))); derr != nil {
				t.Errorf("what the caller of %.40q is told cannot be read: %v", body, derr)
			}
		}
	}
}

// A stolen issuer must not send callers away for years, nor make them ask again
// at once because the time wraps around.
func TestRetryAfterIsBounded(t *testing.T) {
	for ms, ok := range map[int64]bool{0: true, 1: true, 3_600_000: true, 3_600_001: false, 1 << 40: false, 1<<63 - 1: false} {
		data := fmt.Sprintf(`{"code":"unavailable","retry_after_ms":%d}`, ms)
		e, err := wire.DecodeError([]byte(data))
		if (err == nil) != ok || (ok && e.RetryAfter() != time.Duration(ms)*time.Millisecond) {
			t.Errorf("%d ms: %v %v", ms, e, err)
		}
	}
}
