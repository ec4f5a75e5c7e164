package mapping_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/nats-io/jwt/v2"

	"github.com/herald-nats/herald/pkg/permission/mapping"
)

// to is such as "a.b 30 ams".
func to(all ...string) []jwt.WeightedMapping {
	var out []jwt.WeightedMapping
	for _, s := range all {
		var w jwt.WeightedMapping
		_, _ = fmt.Sscanf(s, "%s %d %s", &w.Subject, &w.Weight, &w.Cluster) // what is not there stays zero
		out = append(out, w)
	}
	return out
}

// internal/permtest holds Of against a server; this is to be read.
func TestOf(t *testing.T) {
	all := jwt.Mapping{
		"plain":    to("other"),
		"orders.*": to("v2.orders.$1"),
		"half.*":   to("new.$1 50"),
		"loss":     to("loss 90"),
		"here":     to("near 100 ams", "far"),
		"only":     to("near 100 ams"),
		"dice":     to("side.{{random(3)}}"),
		"spread.*": to("p.{{partition(3,1)}}.$1"),
		"lit":      to("p.{{partition(1000)}}"),
		"rest.>":   to("all.>"),
		"many":     to("side.{{random(100000)}}"),
		"broken.*": to("x.$2"),
		"*.both":   to("first"),
		"in.*":     to("second.$1"),
		"a.*":      to("b.$1"),
	}
	for subj, want := range map[string]string{
		"nothing":   "nothing 100 by ''",
		"plain":     "other 100 by 'plain'",
		"plain.x":   "plain.x 100 by ''",
		"orders.eu": "v2.orders.eu 100 by 'orders.*'",
		"half.x":    "new.x 50 by 'half.*', half.x 50 by 'half.*'",
		"loss":      "loss 90 by 'loss',  10 by 'loss'",
		"here":      "far 100 by 'here', near 100 by 'here' in ams",
		"only":      "only 100 by 'only', near 100 by 'only' in ams",
		"dice":      "side.0 100 by 'dice', side.1 100 by 'dice', side.2 100 by 'dice'",
		"spread.x":  "p.0.x 100 by 'spread.*'",
		"rest.a.b":  "all.a.b 100 by 'rest.>'",
		"broken.x":  "broken.x 100 by ''",
		"in.both":   "first 100 by '*.both', second.both 100 by 'in.*'",
		// To publish to a wildcard is to publish to that word; and once is enough.
		"a.*": "b.* 100 by 'a.*'",
		"b.x": "b.x 100 by ''",
	} {
		of, err := mapping.Of(all, subj)
		if err != nil {
			t.Errorf("%s: %v", subj, err)
		}
		var got []string
		for _, o := range of {
			s := fmt.Sprintf("%s %d by '%s'", o.Subject, o.Percent, o.Source)
			if o.Cluster != "" {
				s += " in " + o.Cluster
			}
			got = append(got, s)
		}
		if got := strings.Join(got, ", "); got != want {
			t.Errorf("%s: %s, and not %s", subj, got, want)
		}
	}
	if _, err := mapping.Of(all, "many"); !errors.Is(err, mapping.ErrMany) {
		t.Errorf("many: %v", err)
	}
	// Whether such a mapping sees the subject's words depends on which one servers look at first.
	of, err := mapping.Of(all, "lit")
	if err != nil || len(of) != 2 || !slices.ContainsFunc(of, func(o mapping.Outcome) bool { return o.Subject == "p.261" }) {
		t.Errorf("lit: %v %v", of, err)
	}
}
