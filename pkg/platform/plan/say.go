package plan

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/ledger"
	"github.com/herald-nats/herald/pkg/policy"
	"github.com/herald-nats/herald/pkg/trust"
)

// sayPart says what a part of the platform document says, a statement for each thing that
// may change by itself.
func sayPart(key, value string) []string {
	var out []string
	add := func(format string, args ...any) { out = append(out, key+": "+fmt.Sprintf(format, args...)) }
	var err error
	read := func(v any) bool {
		err = json.Unmarshal([]byte(value), v)
		return err == nil
	}
	switch {
	case strings.HasPrefix(key, partRegion):
		var r trust.Region
		if read(&r) {
			add("region key %s%s", r.SealKey, beside(r.Next, r.Former))
			for _, u := range r.URLs {
				add("clients at %s", u)
			}
		}
	case strings.HasPrefix(key, partAccount):
		var a trust.Account
		if read(&a) {
			add("key %s", a.Key)
			for _, r := range a.Roles {
				text := fmt.Sprintf("role %s, key %s%s", r.Name, r.Key, beside(r.Next, r.Former))
				if r.Open != nil {
					text += ", open to whoever asks"
				}
				add("%s", text)
			}
		}
	case strings.HasPrefix(key, partRoom):
		var r trust.Room
		if read(&r) {
			for _, c := range r.Channels {
				add("channel %s", c)
			}
		}
	case strings.HasPrefix(key, partGrant):
		var o policy.Offer
		if read(&o) {
			add("for %s, at most %s", o.Default.Duration(), o.Longest.Duration())
			if !o.Name.IsZero() {
				add("under the name %s", o.Name)
			}
			for _, t := range o.Tags {
				add("tag %s", t)
			}
		}
	case strings.HasPrefix(key, partLogins):
		var v map[string]json.RawMessage
		if read(&v) {
			for _, k := range slices.Sorted(maps.Keys(v)) {
				if k != "name" {
					add("%s %s", strings.ReplaceAll(k, "_", " "), v[k])
				}
			}
		}
	case strings.HasPrefix(key, partWho):
		var n policy.Named
		if read(&n) {
			add("%s", n.Identity)
		}
	case key == partHost, key == partEach:
		var r policy.Rate
		if read(&r) {
			add("%d requests at once, and %d a minute", r.Burst, r.PerMinute)
		}
	case key == partSession:
		var s policy.Seconds
		if read(&s) {
			add("a proof is needed again after %s", s.Duration())
		}
	case key == partNames:
		var n ledger.NameRules
		if read(&n) {
			add("lapse after %s, rest for %s, %d for each identity", n.Lapse, n.Rest, n.AtMost())
		}
	case strings.HasPrefix(key, partServers):
		var r ledger.Servers
		if read(&r) {
			for _, n := range r.Names {
				add("%s", n)
			}
		}
	case key == partHome:
		var r ident.Region
		if read(&r) {
			add("%s", r)
		}
	default:
		var s string
		if read(&s) {
			add("%s", s)
		}
	}
	if err != nil {
		add("%s", value)
	}
	return out
}

// beside says which other key there is while one is being replaced.
func beside[K interface {
	String() string
	IsZero() bool
}](next, former K,
) string {
	switch {
	case !next.IsZero():
		return ", then " + next.String()
	case !former.IsZero():
		return ", before " + former.String()
	}
	return ""
}
