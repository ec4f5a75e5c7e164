package survey

import (
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/herald-nats/herald/pkg/doctor/seen"
)

// shows fails on text that may not be shown as it is.
func shows(t *testing.T, text ...string) {
	t.Helper()
	for _, s := range text {
		if len(s) > maxReason || strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) || unicode.Is(unicode.Bidi_Control, r) }) {
			t.Fatalf("%.100q of %d bytes may not be shown", s, len(s))
		}
	}
}

// Whatever somebody answers in a server's stead, it is taken or not, and what is taken may
// be shown.
func FuzzPages(f *testing.F) {
	const server = `{"server":{"id":"N","name":"ams-1","cluster":"ams","ver":"2.15.2","time":"2026-11-21T12:00:00Z"},`
	for _, seed := range []string{
		`"statsz":{}}`, `"data":{"server_name":"x","mem":1,"host":"0.0.0.0","port":1,"websocket":{"port":2,"no_tls":true},"trusted_operators_claim":[null,{"sub":"O","nats":{"signing_keys":["b","a"]}}]}}`,
		`"data":{"outbound_gateways":{"sfo":null},"inbound_gateways":{"sfo":[{}],"sgp":[]}}}`, `"data":{"routes":[{"remote_name":"a"},{"remote_name":"a"}]}}`,
		`"data":{"status":"unavailable","error":"no\nwell"}}`,
		`"data":{"total":2,"meta_cluster":{"leader":"ams-1","cluster_size":3,"replicas":[null,{"name":"b","active":1}]},"account_details":[null,{"id":"A","stream_detail":[{"name":"S","cluster":{"leader":"","replicas":[]},"config":{"num_replicas":3}}]}]}}`,
		`"error":{"code":500,"description":"no"}}`, `"data":[]}`, `"data":null}`,
	} {
		for tag := range 8 {
			f.Add(uint8(tag), []byte(server+seed))
		}
	}
	f.Fuzz(func(t *testing.T, tag uint8, data []byte) {
		tags := append(pages(), pageStats+"0", pageJS+"-256-00", "unknown")
		v := &view{servers: map[string]*sighting{}, js: &jetStream{streams: map[streamID][]group{}, more: map[string]int{}}}
		at := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
		for range 2 {
			v.take(tags[int(tag)%len(tags)], data, at, at.Add(time.Millisecond))
		}
		p := whole([]*view{v})
		for _, s := range p.Servers {
			shows(t, s.ID, s.Name, s.Cluster, s.Version, s.Health, s.SystemAccount, s.MetaLeader)
			shows(t, s.Outbound...)
			shows(t, s.Inbound...)
			shows(t, s.Routes...)
			for _, l := range s.Listeners {
				shows(t, l.Kind, l.Host)
			}
			for _, o := range s.Operators {
				shows(t, o.Key, o.Name, o.ID, o.SystemAccount)
				shows(t, o.SigningKeys...)
			}
			if s.Clock.Bound < 0 {
				t.Fatalf("clock %+v", s.Clock)
			}
		}
		for _, s := range p.JetStream.Streams {
			shows(t, s.Account, s.Name, s.Cluster, s.Leader)
			for _, r := range s.Peers {
				shows(t, r.Name)
			}
		}
		_ = p.Unlinked()
	})
}

// The same of services and of connections.
func FuzzServices(f *testing.F) {
	f.Add([]byte(`{"name":"issuer","id":"i","version":"1","started":"2026-11-21T12:00:00Z","endpoints":[null,{"subject":"a","data":{"region":"ams","document":"1.1","age":{"a":"1s","b":"never","c":"-1s"},"copy_failing":true}}]}`))
	f.Add([]byte(`{"server":{"id":"N","name":"ams-1","cluster":"ams"},"data":{"total":1,"connections":[null,{"cid":1,"account":"A","authorized_user":"U","jwt":"a.e30.b","type":"nats"}]}}`))
	f.Add([]byte(`{"name":"\u202e","id":"\u001b"}`))
	account := newAccountKey()
	f.Fuzz(func(t *testing.T, data []byte) {
		if s, err := readService(data); err == nil {
			shows(t, s.Name, s.ID, s.Version, s.Region, s.Document)
			shows(t, s.Subjects...)
			shows(t, s.Never...)
			for source, age := range s.Ages {
				shows(t, source)
				if age < 0 {
					t.Fatalf("an age of %v", age)
				}
			}
		}
		// Whose account it is, is not for the answer to say.
		c := &connections{seen: map[connID]bool{}, all: []seen.Connection{}}
		c.take(connRequest{Account: account.String(), Limit: 1}, []byte(strings.ReplaceAll(string(data), `"account":"A"`, `"account":"`+account.String()+`"`)))
		for _, s := range c.all {
			shows(t, s.Server, s.User, s.Name, s.Issuer, s.Kind, s.Client)
			if s.Account != account {
				t.Fatalf("account %s", s.Account)
			}
		}
	})
}

// Of an account's connections only its own are taken, and each once.
func TestConnectionsOfOne(t *testing.T) {
	account, other := newAccountKey(), newAccountKey()
	c := &connections{seen: map[connID]bool{}, all: []seen.Connection{}}
	page := []byte(`{"server":{"id":"N","name":"ams-1","cluster":"ams"},"data":{"total":3,"connections":[` +
		`{"cid":1,"account":"` + account.String() + `"},{"cid":2,"account":"` + other.String() + `"},{"cid":3}]}}`)
	for range 2 {
		c.take(connRequest{Account: account.String(), Limit: 3}, page)
	}
	if len(c.all) != 1 || c.all[0].ID != 1 || c.all[0].Account != account || c.all[0].Region != reg("ams") {
		t.Errorf("connections %+v", c.all)
	}
	if len(c.todo) != 0 {
		t.Errorf("there is no next page, and it is asked for: %+v", c.todo)
	}
}
