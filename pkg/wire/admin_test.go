package wire_test

import (
	"reflect"
	"strings"
	"testing"

	"github.com/herald-nats/herald/pkg/keystore"
	"github.com/herald-nats/herald/pkg/wire"
)

// What administrators ask is about one, and says nothing that is not known.
func TestAdminRequest(t *testing.T) {
	user := "UDXU4RCSJNZOIQHZNWXHXORDPRTGNJAHAHFRGZNEEJCPQTT2M7NLCNF4"
	for _, good := range []string{
		`{"name":"alice"}`, `{"identity":"oidc:corp:alice","why":"left"}`, `{"user":"` + user + `"}`, `{"user":"` + user + `","account":"CHAT"}`, `{"account":"CHAT","wait":60}`,
		`{"name":"alice","seen":{"suspension.identity.x":3}}`,
	} {
		if strings.Contains(good, user) {
			good = strings.ReplaceAll(good, user, fixed(t, keystore.User, 1).Public())
		}
		r, err := wire.DecodeAdminRequest([]byte(good))
		if err != nil {
			t.Errorf("%s: %v", good, err)
			continue
		}
		back, err := wire.DecodeAdminRequest(must[[]byte](t)(r.Encode()))
		if err != nil || !reflect.DeepEqual(back, r) {
			t.Errorf("%s: %+v %+v %v", good, r, back, err)
		}
	}
	for _, bad := range []string{
		``, `null`, `[]`, `{}`, `{"name":"alice","account":"CHAT"}`, `{"identity":"oidc:corp:alice","name":"alice"}`, `{"identity":"oidc:corp:alice","account":"CHAT"}`,
		`{"name":"Alice"}`, `{"name":"*"}`, `{"user":"U"}`, `{"account":"a b"}`, `{"name":"alice","wait":-1}`, `{"name":"alice","wait":61}`, `{"name":"alice","wait":"1"}`,
		`{"name":"alice","name":"bob"}`, `{"name":"alice","Why":"x"}`, `{"name":"alice","why":"a\u0000b"}`, `{"name":"alice","why":"` + strings.Repeat("x", 257) + `"}`,
		`{"name":"alice","seen":{"x":-1}}`, `{"name":"alice"} {}`, `{"name":"alice","force":true}`, `{"name":"` + strings.Repeat("a", wire.MaxRequest) + `"}`,
	} {
		if r, err := wire.DecodeAdminRequest([]byte(bad)); err == nil {
			t.Errorf("%.80s: %+v", bad, r)
		}
	}
}

func FuzzDecodeAdminRequest(f *testing.F) {
	shapes(f, `{"name":"alice","why":"left","wait":3,"seen":{"a":1}}`, `{"account":"CHAT"}`, `{"identity":"oidc:corp:alice"}`)
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := wire.DecodeAdminRequest(data)
		if err != nil {
			readable(t, err)
			return
		}
		back, err := wire.DecodeAdminRequest(must[[]byte](t)(r.Encode()))
		if len(r.Seen) == 0 {
			r.Seen = nil // {} and none say the same
		}
		if err != nil || !reflect.DeepEqual(back, r) {
			t.Fatalf("%+v\n%+v %v", r, back, err)
		}
	})
}

func FuzzDecodeAdminAnswer(f *testing.F) {
	shapes(f, `{"request_id":"r","standing":[{"key":"k","version":1,"state":"revoked","at":1,"by":"b","why":"w","users":2}],"receipt":"a.b.c","unstored":true}`)
	f.Fuzz(func(t *testing.T, data []byte) {
		a, err := wire.DecodeAdminAnswer(data)
		if err != nil {
			return
		}
		for _, d := range a.Standing {
			if d.State != wire.StateFree && d.State != wire.StateSuspended && d.State != wire.StateRevoked {
				t.Fatalf("%+v", d)
			}
		}
	})
}
