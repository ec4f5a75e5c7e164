package audit

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/wire"
)

// What is written by hand is what encoding/json writes.
func TestAppendRecord(t *testing.T) {
	text := rapid.SampledFrom([]string{"", "x", "<&>", "\u2028", "\"\\\n", "é", "\xff", strings.Repeat("y", 64)})
	number := rapid.SampledFrom([]int64{0, 1, -1, 1 << 62})
	must := func(err error) {
		if err != nil {
			t.Fatal(err)
		}
	}
	rapid.Check(t, func(r *rapid.T) {
		rec := Record{
			What: What(rapid.SampledFrom([]string{"issue", "refuse", "change"}).Draw(r, "what")), At: 1, Door: text.Draw(r, "door"), Request: text.Draw(r, "request"),
			Host: text.Draw(r, "host"), ID: text.Draw(r, "id"), Issued: number.Draw(r, "iat"), Expires: number.Draw(r, "exp"), Proven: number.Draw(r, "proven"),
			Met: text.Draw(r, "met"), By: text.Draw(r, "by"), Server: text.Draw(r, "server"), Client: uint64(number.Draw(r, "client")), Refused: wire.Code(text.Draw(r, "refused")), Count: int(number.Draw(r, "count")),
			Key: text.Draw(r, "key"), Version: uint64(number.Draw(r, "version")), Why: text.Draw(r, "why"), //nolint:gosec // any number
		}
		if rapid.Bool().Draw(r, "keys") {
			must(rec.User.UnmarshalText([]byte(userKey)))
			must(rec.Account.UnmarshalText([]byte(accountKey)))
			rec.Identity = ident.OpenIdentity(rec.User)
			must(rec.Role.UnmarshalText([]byte("member")))
			must(rec.Asked.UnmarshalText([]byte("CHAT")))
			must(rec.Name.UnmarshalText([]byte("alice")))
			must(rec.Given.UnmarshalText([]byte("bob")))
		}
		want, err := json.Marshal(rec)
		must(err)
		if got := rec.append(nil); string(got) != string(want) {
			r.Fatalf("%s\nwant\n%s", got, want)
		}
	})
	// None is forgotten: with everything set, as many members as there are fields that are written.
	written := 0
	for i := range reflect.TypeFor[Record]().NumField() {
		if reflect.TypeFor[Record]().Field(i).Tag.Get("json") != "-" {
			written++
		}
	}
	if written != 25 {
		t.Errorf("a record has %d members: is the new one written?", written)
	}
}

const (
	userKey    = "UAB2CB576PHBBPQ5ODORRZ2LYCMWPZGWGCN2KDK7DXOIMZASKUY3RLKK"
	accountKey = "AD6ZDV6TZ4OX3GZ46Z7U3GBWBLLYSZQVSLMF3VBCV4ADEI7OVAYAR7UA"
)
