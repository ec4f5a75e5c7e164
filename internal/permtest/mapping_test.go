package permtest

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats-server/v2/server"
	"pgregory.net/rapid"

	"github.com/herald-nats/herald/pkg/permission"
	"github.com/herald-nats/herald/pkg/permission/mapping"
)

// here is the cluster of the one server.
const here = "ams"

// source is a subject that is mapped.
func (g generator) source() string {
	words := make([]string, rapid.IntRange(1, 3).Draw(g.T, "words"))
	for i := range words {
		words[i] = g.oneOf("word", "a", "a", "b", "c", "*", "*")
	}
	if g.chance("full", 5) {
		words[len(words)-1] = ">"
	}
	return strings.Join(words, ".")
}

// destination is something that servers can map source to.
func (g generator) destination(source string) string {
	for {
		words := make([]string, rapid.IntRange(1, 3).Draw(g.T, "words"))
		for i := range words {
			words[i] = g.oneOf("word", "a", "b", "c", "x", "$1", "$2", "{{wildcard(1)}}", "{{partition(3)}}", "{{partition(3,1)}}", "{{random(3)}}", "{{left(1,1)}}")
		}
		if strings.HasSuffix(source, ">") {
			words = append(words, ">")
		}
		to := strings.Join(words, ".")
		if _, err := server.NewSubjectTransform(source, to); err == nil {
			return to
		}
	}
}

func (g generator) mappings() jwt.Mapping {
	all := jwt.Mapping{}
	for range rapid.IntRange(1, 3).Draw(g.T, "mappings") {
		source := g.source()
		left := map[string]int{"": 100, here: 100, "sfo": 100}
		var to []jwt.WeightedMapping
		for range rapid.IntRange(1, 3).Draw(g.T, "destinations") {
			w := jwt.WeightedMapping{Subject: jwt.Subject(g.destination(source)), Cluster: g.oneOf("cluster", "", "", here, "sfo")}
			if g.chance("itself", 2) && !strings.Contains(source, "*") && !strings.Contains(source, ">") {
				w.Subject = jwt.Subject(source)
			}
			if left[w.Cluster] == 0 || slices.ContainsFunc(to, func(o jwt.WeightedMapping) bool { return o.Subject == w.Subject }) {
				continue
			}
			weight := rapid.SampledFrom([]int{100, 50, 30}).Draw(g.T, "weight")
			w.Weight = uint8(min(weight, left[w.Cluster]))
			left[w.Cluster] -= int(w.Weight)
			to = append(to, w)
		}
		if len(to) > 0 {
			all[jwt.Subject(source)] = to
		}
	}
	return all
}

// outcomes is what a subject may become on this server.
func outcomes(all jwt.Mapping, subj string) []mapping.Outcome {
	of := must(mapping.Of(all, subj))
	named := map[string]bool{} // sources that name this cluster
	for _, o := range of {
		named[o.Source] = named[o.Source] || o.Cluster == here
	}
	return slices.DeleteFunc(of, func(o mapping.Outcome) bool { return named[o.Source] != (o.Cluster == here) })
}

// TestMappings: what is published becomes what the package says that it may, and the
// server asks for the right to that.
func TestMappings(t *testing.T) {
	const each = 6
	var asked, certain, chances, dropped, denied int
	rapid.Check(t, func(rt *rapid.T) {
		g := generator{rt}
		a := newAccount("A")
		a.claims.Mappings = g.mappings()
		template := jwt.UserPermissionLimits{Permissions: jwt.Permissions{Pub: jwt.Permission{
			Allow: jwt.StringList{g.source(), g.source(), "x.>"}, Deny: jwt.StringList{g.source()},
		}}}
		role := a.role(template.Permissions)
		u := a.sign(role, func(c *jwt.UserClaims) {})
		push(rt, a)
		rights := must(permission.For(template, permission.User{Key: u.nkey, Account: a.about()}))
		admin := enter(rt, a.user())
		defer admin.close()
		admin.sub(">", "", "1")
		sync(rt, admin)
		conn := enter(rt, u)
		defer conn.close()

		literal, _ := subjects(rights.Rules())
		for _, s := range literal {
			for range each {
				conn.pub(s, "", []byte(s))
			}
		}
		sync(rt, conn)
		sync(rt, admin)
		came := map[string][]string{} // by what was published
		for _, m := range admin.msgs {
			came[string(m.body)] = append(came[string(m.body)], m.subject)
		}
		refused := map[string]bool{} // that nothing explains yet
		for text := range conn.violations() {
			refused[text] = true
		}
		for _, s := range literal {
			asked++
			of := outcomes(a.claims.Mappings, s)
			may := map[string]bool{}
			for _, o := range of {
				if o.Subject == "" {
					dropped++
					delete(refused, `Permissions Violation for Publish to ""`)
					continue
				}
				v := must(rights.Publish(o.Subject))
				may[o.Subject] = v.Allowed
				if !v.Allowed {
					denied++
					delete(refused, fmt.Sprintf("Permissions Violation for Publish to %q", o.Subject))
				}
			}
			for _, as := range came[s] {
				if !may[as] {
					rt.Fatalf("%s came as %s, which it may not become, or is denied: %+v of %v", s, as, of, a.claims.Mappings)
				}
			}
			if len(of) > 1 {
				chances++
				continue
			}
			certain++
			if want := map[bool]int{true: each}[may[of[0].Subject]]; len(came[s]) != want {
				rt.Fatalf("%s came %d times, and not %d: %+v of %v", s, len(came[s]), want, of, a.claims.Mappings)
			}
		}
		for text := range refused {
			rt.Fatalf("nothing explains %q: %v", text, a.claims.Mappings)
		}
	})
	t.Logf("%d subjects: %d certain, %d by chance, %d outcomes dropped, %d denied", asked, certain, chances, dropped, denied)
	if min(certain, chances, denied) < 100 || dropped == 0 {
		t.Error("of something there was too little")
	}
}
