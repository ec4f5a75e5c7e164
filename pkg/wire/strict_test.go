package wire

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"testing"
	"unicode/utf8"
)

// object is members by encoding/json's own decoder.
func object(data []byte) (map[string]json.RawMessage, error) {
	if !utf8.Valid(data) {
		return nil, errors.New("not valid UTF-8")
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	tok, err := dec.Token()
	if err != nil {
		return nil, errors.New("not JSON")
	}
	if tok != json.Delim('{') {
		return nil, errors.New("not a JSON object")
	}
	members := make(map[string]json.RawMessage)
	for dec.More() {
		tok, err := dec.Token()
		if err != nil {
			return nil, errors.New("not JSON")
		}
		name, ok := tok.(string)
		if !ok {
			return nil, errors.New("not JSON")
		}
		if _, twice := members[name]; twice {
			return nil, fmt.Errorf("the field %.40q is there twice", name)
		}
		var v json.RawMessage
		if err := dec.Decode(&v); err != nil {
			return nil, errors.New("not JSON")
		}
		members[name] = v
	}
	if _, err := dec.Token(); err != nil { // the closing brace
		return nil, errors.New("not JSON")
	}
	if dec.More() || len(bytes.TrimSpace(data[dec.InputOffset():])) > 0 {
		return nil, errors.New("there is something behind the JSON object")
	}
	return members, nil
}

// FuzzMembers holds members against encoding/json: the same is refused, and what is read is
// the same, value by value.
func FuzzMembers(f *testing.F) {
	for _, s := range []string{
		`{}`, ` { "a" : 1 , "b":"x" } `, `{"a":{"b":[1,2,{"c":"}"}]},"d":"\"},{"}`, `{"a":null,"a":1}`, `{"\u0061":1,"a":2}`,
		`{"a":1}{`, `{"a":1} x`, `[]`, `"{"`, `1`, ``, `{`, `{"a"`, `{"a":}`, `{"a":1,}`, `{"a":-1.5e+3,"b":true,"c":false}`,
		"{\"a\":\"\x80\"}", "{\"a\":\"\\ud800\"}", `{"a":"\\"}`, `{"a":"\\\"","b":[]}`, "\n{\t\"a\"\r:[ ] }\n",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		got, err := members(data)
		want, wantErr := object(data)
		if (err != nil) != (wantErr != nil) {
			if err != nil && len(want) > maxMembers {
				return
			}
			t.Fatalf("%q: %v, and encoding/json says %v", data, err, wantErr)
		}
		if err != nil {
			return
		}
		if len(got) != len(want) {
			t.Fatalf("%q: %d members, want %d", data, len(got), len(want))
		}
		for _, m := range got {
			if w, ok := want[string(m.name)]; !ok || !bytes.Equal(w, m.raw) {
				t.Fatalf("%q: %q is %q, want %q", data, m.name, m.raw, w)
			}
			// A value is decoded as encoding/json decodes it.
			var a, b string
			if errA, errB := decode(m.raw, &a), json.Unmarshal(m.raw, &b); (errA != nil) != (errB != nil) || errA == nil && a != b {
				t.Fatalf("%q is %q (%v), want %q (%v)", m.raw, a, errA, b, errB)
			}
		}
	})
}

func BenchmarkDecodeRequest(b *testing.B) {
	body := []byte(`{"user_key":"UAB2CB576PHBBPQ5ODORRZ2LYCMWPZGWGCN2KDK7DXOIMZASKUY3RLKK","time":1790000000123,"nonce":"YGFiY2RlZmdoaWprbG1ubw","name":"alice","ttl":"30m","reply_key":"XB42MMPO3YN7TSMPCIBSZXVN2DT2A6JZR7DYNOEMZBDOZCNPQWSRVX6J","identity":{"type":"access_key","key_id":"HKABCDEFGHIJKLMNOPQR"}}`)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := DecodeRequest(body); err != nil {
			b.Fatal(err)
		}
	}
}
