package policy_test

import (
	"encoding/json"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/herald-nats/herald/pkg/authn"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/policy"
)

// FuzzPolicy: a policy as a document brings it either is refused or decides: to whom an offer
// is, no longer than it says, and the same with and without an explanation.
func FuzzPolicy(f *testing.F) {
	const open = `{"offers":[{"kind":"open","account":"CHAT","role":"member","default":60,"longest":3600,"tags":["a:b"]}]}`
	for _, data := range []string{
		open, `{}`, `null`, `[]`, `{"offers":[{}]}`, `{"offers":[{"kind":"open","everyone":true,"account":"A","role":"b","default":1,"longest":1}]}`,
		`{"offers":[{"kind":"oidc","provider":"corp","groups":["ops"],"claims":[{"name":"a","values":["x*","xy"]}],"account":"A","role":"b","default":1,"longest":9}],"session":60}`,
		`{"offers":[{"category":"services","account":"A","role":"b","default":1,"longest":9},{"identity":"oidc:corp:alice","account":"A","role":"b","name":"alice","default":1,"longest":9}],"identities":[{"name":"services.mail","identity":"oidc:corp:alice"}],"per_host":{"burst":1,"per_minute":1}}`,
		`{"offers":[{"everyone":true,"account":"A","role":"b","default":-1,"longest":99999999999}]}`,
	} {
		f.Add([]byte(data), "oidc:corp:alice", "alice", "ops", "xy")
		f.Add([]byte(data), "key:HKAAAAAAAAAAAAAAAAAA", "", "", "")
	}
	f.Fuzz(func(t *testing.T, data []byte, who, wish, group, claim string) {
		var p policy.Policy
		if json.Unmarshal(data, &p) != nil {
			return
		}
		if p.Check() != nil {
			return
		}
		again, err := json.Marshal(p)
		if err != nil {
			t.Fatal(err)
		}
		var q policy.Policy
		if err := json.Unmarshal(again, &q); err != nil {
			t.Fatalf("what was read cannot be read again: %s: %v", again, err)
		}
		id, err := ident.ParseIdentity(who)
		if err != nil {
			return
		}
		name, _ := ident.ParseName(wish)
		a := policy.Asker{Who: authn.Who{Identity: id, Provider: id.Provider(), Groups: []string{group}, Claims: map[string][]string{"a": {claim}}}}
		w := policy.Wish{Name: name, TTL: time.Hour}
		x := policy.NewIndex(p)
		g, werr := x.Decide(a, w, now())
		e := x.Explain(a, w, now())
		if !reflect.DeepEqual(e.Grant, g) || (werr == nil) != (e.Err == nil) || werr != nil && *werr != *e.Err {
			t.Fatalf("%+v %v, and explained %+v %v", g, werr, e.Grant, e.Err)
		}
		if other, oerr := policy.NewIndex(q).Decide(a, w, now()); !reflect.DeepEqual(other, g) || (oerr == nil) != (werr == nil) {
			t.Fatalf("%+v %v, and read again %+v %v", g, werr, other, oerr)
		}
		if werr != nil {
			if werr.Code.Number() == 0 || !reflect.DeepEqual(g, policy.Grant{}) {
				t.Fatalf("%+v beside %v", g, werr)
			}
			return
		}
		o := p.Offers[g.Line]
		to := o.Kind == id.Kind() || o.Everyone || o.Identity != nil && *o.Identity == id || o.Category != "" &&
			slices.ContainsFunc(p.Identities, func(n policy.Named) bool { return n.Identity == id })
		if !to || g.Identity != id || g.Account != o.Account || g.Role != o.Role || g.TTL > o.Longest.Duration() || g.Name.IsZero() || !o.Name.IsZero() && g.Name != o.Name {
			t.Fatalf("%s gives %+v to %s", o, g, id)
		}
		if len(o.Groups) > 0 && !slices.Contains(o.Groups, group) || !o.Provider.IsZero() && o.Provider != id.Provider() {
			t.Fatalf("%s, and it does not hold for %+v", o, a)
		}
	})
}
