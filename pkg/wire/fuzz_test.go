package wire_test

import (
	"bytes"
	"encoding/json"
	"reflect"
	"strings"
	"testing"

	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/keystore"
	"github.com/herald-nats/herald/pkg/wire"
)

// shapes are JSON that goes wrong in the ways that JSON can.
func shapes(f *testing.F, more ...string) {
	for _, s := range append(more, "", "{}", "null", "[]", `""`, "{", `{"a":1,"a":2}`, `{"A":null}`, "{}{}", "\xff", `{"\u0000":1}`, `{"x":`+strings.Repeat("[", 100)) {
		f.Add([]byte(s))
	}
}

// readable: what a caller is told of a bad request, the caller can read.
func readable(t *testing.T, e *wire.Error) {
	t.Helper()
	if e.Code.Number() == 0 || e.Message == "" || e.Hint == "" {
		t.Fatalf("an error that says nothing: %+v", e)
	}
	if strings.ContainsAny(e.Message, "\r\n\x00\x1b") {
		t.Fatalf("control characters in an error: %q", e.Message)
	}
	if _, err := wire.DecodeError(must[[]byte](t)(json.Marshal(e))); err != nil {
		t.Fatalf("the caller cannot read %+v: %v", e, err)
	}
}

func FuzzDecodeRequest(f *testing.F) {
	b := must[[]byte](f)(full(f, fixed(f, keystore.User, 1), fixed(f, keystore.Curve, 2)).Encode())
	shapes(f, string(b), strings.Replace(string(b), "alice", "Alice", 1), strings.Replace(string(b), "open", "oidc", 1),
		strings.Replace(string(b), "time", "Time", 1), string(b)+" ", string(b)+"x",
		strings.Replace(string(b), `{"type":"open"}`, `{"type":"oidc","token":"a.b-_.c"}`, 1),
		strings.Replace(string(b), `{"type":"open"}`, `{"type":"invite","code":"HI-7K3M"}`, 1),
		strings.Replace(string(b), `{"type":"open"}`, `{"type":"access_key","key_id":"HKABCDEFGHIJKLMNOPQR"}`, 1),
		strings.Replace(string(b), `{"type":"open"}`, `{"type":"access_key","key_id":"HK<&>"}`, 1))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := wire.DecodeRequest(data)
		if err != nil {
			readable(t, err)
			return
		}
		if len(data) > wire.MaxRequest {
			t.Fatalf("%d bytes are accepted", len(data))
		}
		again := must[[]byte](t)(r.Encode())
		back, err := wire.DecodeRequest(again)
		if err != nil || back != r {
			t.Fatalf("%s\n%+v\n%+v %v", again, r, back, err)
		}
		_ = r.CheckTime(now())
	})
}

func FuzzDecodeAnswer(f *testing.F) {
	shapes(f, string(encode(f, answer(f))))
	f.Fuzz(func(t *testing.T, data []byte) {
		a, err := wire.DecodeAnswer(data)
		if err != nil {
			return
		}
		if a.URLs == nil {
			a.URLs = []string{} // null and none are the same list
		}
		back, err := wire.DecodeAnswer(encode(t, a))
		if back.URLs == nil {
			back.URLs = []string{}
		}
		if err != nil || !reflect.DeepEqual(a, back) {
			t.Fatalf("%+v\n%+v %v", a, back, err)
		}
	})
}

func FuzzDecodeInfo(f *testing.F) {
	shapes(f, `{"platform":"a.b.c","time":1790000000123,"region":"ams","issuer":"U"}`)
	f.Fuzz(func(t *testing.T, data []byte) {
		i, err := wire.DecodeInfo(data)
		if err != nil {
			return
		}
		encoded := must[[]byte](t)(json.Marshal(i))
		if len(encoded) > wire.MaxAnswer {
			return // grown by escapes
		}
		if back, err := wire.DecodeInfo(encoded); err != nil || back != i {
			t.Fatalf("%+v\n%+v %v", i, back, err)
		}
	})
}

func FuzzDecodeError(f *testing.F) {
	shapes(f, `{"code":"name_taken","message":"m","hint":"h","retry_after_ms":500,"request_id":"i"}`, `{"code":"unavailable"}`)
	f.Fuzz(func(t *testing.T, data []byte) {
		e, err := wire.DecodeError(data)
		if err != nil {
			return
		}
		if e.RetryAfter() < 0 || len(e.Error()) > 500 {
			t.Fatalf("out of bounds: %+v", e)
		}
		if back, err := wire.DecodeError(must[[]byte](t)(json.Marshal(e))); err != nil || *back != *e {
			t.Fatalf("%+v\n%+v %v", e, back, err)
		}
	})
}

func FuzzDecodeRenewRequest(f *testing.F) {
	shapes(f, `{"ttl":"30m"}`, `{"ttl":"1ns"}`, `{"ttl":".5h"}`, `{"ttl":"1µs"}`)
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := wire.DecodeRenewRequest(data)
		if err != nil {
			readable(t, err)
			return
		}
		if back, err := wire.DecodeRenewRequest(r.Encode()); err != nil || back != r {
			t.Fatalf("%+v\n%+v %v", r, back, err)
		}
	})
}

func FuzzDecodeClaim(f *testing.F) {
	shapes(f, `{"body":"eA==","proof":"v1 x"}`, `{"body":[1],"proof":"v1 x"}`, `{"body":"","proof":""}`, `{"body":"eA==","proof":"v1 x","host":"127.0.0.1"}`)
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := wire.DecodeClaim(data)
		if err != nil {
			readable(t, err)
			return
		}
		if len(c.Host) > wire.MaxHost {
			t.Fatalf("a host of %d bytes", len(c.Host))
		}
		encoded := must[[]byte](t)(json.Marshal(c))
		if len(encoded) > 2*wire.MaxRequest {
			return // grown by escapes in the proof, of which CheckProof takes 128 bytes
		}
		if back, err := wire.DecodeClaim(encoded); err != nil || !bytes.Equal(back.Body, c.Body) || back.Proof != c.Proof || back.Host != c.Host {
			t.Fatalf("%+v\n%+v %v", c, back, err)
		}
	})
}

func FuzzDecodeRequestInfo(f *testing.F) {
	shapes(f, `{"acc":"A","user":"U","jwt":"j","kind":"Client","svc":"s","host":"h"}`)
	f.Fuzz(func(t *testing.T, data []byte) {
		i, err := wire.DecodeRequestInfo([]string{string(data)})
		if err != nil {
			return
		}
		if n := len(i.Account) + len(i.User) + len(i.JWT) + len(i.Kind) + len(i.Service) + len(i.Host); n > 4*(8<<10) {
			t.Fatalf("%d bytes out of %d", n, len(data))
		}
	})
}

func FuzzCheckProof(f *testing.F) {
	user := fixed(f, keystore.User, 1)
	signed := []byte(`{"x":1}`)
	proof := must[string](f)(wire.Prove(user, signed))
	pub := must[ident.UserKey](f)(ident.ParseUserKey(user.Public()))
	for _, s := range []string{proof, "", "v1 ", "v2" + proof[2:], proof + "=", proof[:10] + "\n" + proof[10:], strings.Repeat("v1 ", 50)} {
		f.Add(s, signed)
		f.Add(s, []byte{})
	}
	f.Fuzz(func(t *testing.T, header string, body []byte) {
		// There is one header that proves one body.
		ok := wire.CheckProof(pub, []string{header}, body) == nil
		if ok != (header == proof && bytes.Equal(body, signed)) {
			t.Fatalf("accepted=%t: %q for %q", ok, header, body)
		}
	})
}

func FuzzOpen(f *testing.F) {
	a, b := fixed(f, keystore.Curve, 1), fixed(f, keystore.Curve, 2)
	from, to := sealKey(f, a), sealKey(f, b)
	// Sealed with a nonce that is always the same, so that all processes agree.
	sealed := must[[]byte](f)(a.Pair().SealWithRand([]byte("plain"), to.String(), bytes.NewReader(make([]byte, 24))))
	f.Add(sealed)
	f.Add([]byte{})
	f.Add([]byte("xkv1"))
	f.Add(sealed[:28])
	f.Add(make([]byte, 100))
	f.Fuzz(func(t *testing.T, data []byte) {
		out, err := wire.Open(b.Pair(), from, data)
		if err == nil != bytes.Equal(data, sealed) || len(out) > len(data) {
			t.Fatalf("opened %x: %q %v", data, out, err)
		}
	})
}
