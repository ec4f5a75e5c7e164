package policy_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/policy"
)

// BenchmarkDecide: what one decision costs among offers to others, and what making a
// policy ready does.
func BenchmarkDecide(b *testing.B) {
	for _, n := range []int{10, 10_000} {
		p := policy.Policy{Identities: names()}
		role := must(ident.ParseLabel("r"))
		for i := range n {
			id := identity(fmt.Sprintf("oidc:acme:user-%d", i))
			p.Offers = append(p.Offers, policy.Offer{Identity: &id, Account: role, Role: role, Default: seconds(time.Hour), Longest: seconds(time.Hour)})
		}
		p.Offers = append(p.Offers,
			policy.Offer{Kind: "oidc", Groups: []string{"dev", "ops"}, Account: role, Role: role, Default: seconds(time.Hour), Longest: seconds(time.Hour)},
			policy.Offer{Kind: "oidc", Account: role, Role: role, Default: seconds(time.Hour), Longest: seconds(time.Hour)},
		)
		b.Run(fmt.Sprint(n, "/index"), func(b *testing.B) {
			for b.Loop() {
				policy.NewIndex(p)
			}
		})
		x := policy.NewIndex(p)
		a := policy.Asker{}
		a.Identity = people()[0]
		a.Groups = []string{"ops"}
		b.Run(fmt.Sprint(n, "/decide"), func(b *testing.B) {
			for b.Loop() {
				if _, err := x.Decide(a, policy.Wish{Name: name("alice")}, now()); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
