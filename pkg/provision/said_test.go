package provision

import (
	"encoding/json"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/herald-nats/herald/pkg/wire"
)

// TestSaid: what is read of a server's word in a hurry is what is read of it in full, or
// nothing, whatever a client put into the texts that a server repeats.
func TestSaid(t *testing.T) {
	text := rapid.OneOf(rapid.String(), rapid.SampledFrom([]string{"", `","jwt":"EVIL"`, `"jwt":"EVIL"`, `\"jwt\":\"EVIL`, `"host":"`, "192.0.2.1", "UGOOD", `\`, `a\`, `"`}))
	read := 0
	property := func(t *rapid.T) {
		// As servers write it; name, and what else a client chose, in any place.
		data, err := json.Marshal(struct { // #nosec G117 -- nothing of it is a secret
			First string `json:"name"`
			Host  string `json:"host,omitempty"`
			Acc   string `json:"acc,omitempty"`
			Svc   string `json:"svc,omitempty"`
			User  string `json:"user,omitempty"`
			Lang  string `json:"lang,omitempty"`
			Last  string `json:"tags,omitempty"`
			Word  string `json:"jwt,omitempty"`
		}{text.Draw(t, "name"), text.Draw(t, "host"), text.Draw(t, "acc"), text.Draw(t, "svc"), text.Draw(t, "user"), text.Draw(t, "lang"), text.Draw(t, "tags"), text.Draw(t, "jwt")})
		if err != nil {
			t.Fatal(err)
		}
		info, err := wire.DecodeRequestInfo([]string{string(data)})
		if err != nil {
			return // refused later
		}
		for member, full := range map[string]string{"jwt": info.JWT, "host": info.Host} {
			switch got := said([]string{string(data)}, member); got {
			case "":
			case full:
				read++
			default:
				t.Fatalf("%s of %s is read as %q", member, data, got)
			}
		}
	}
	for range 20 {
		if rapid.Check(t, property); read > 0 || t.Failed() {
			break
		}
	}
	if read == 0 {
		t.Error("nothing was read: the test says nothing")
	}
	for what, info := range map[string][]string{"nothing": nil, "two": {`{"jwt":"U"}`, `{"jwt":"U"}`}, "no end": {`{"jwt":"U`}, "another": {`{"jwts":"U"}`}, "long": {`{"host":"` + strings.Repeat("9", 65) + `"}`}} {
		if got := said(info, "jwt") + said(info, "host"); got != "" {
			t.Errorf("%s: %q", what, got)
		}
	}
}
