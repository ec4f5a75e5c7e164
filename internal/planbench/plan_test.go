package planbench

import (
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/herald-nats/herald/internal/apply"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/platform"
	"github.com/herald-nats/herald/pkg/platform/manifest"
)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// large makes a platform folder with so many accounts of its own, each with a role.
func large(tb testing.TB, accounts int) string {
	tb.Helper()
	ams := must(ident.ParseRegion("ams"))
	f := platform.NewFile(platform.Spec{
		Name: must(ident.ParseName("large")), Regions: []ident.Region{ams}, Home: ams, Nodes: 3, Port: 20000,
	})
	for i := range accounts {
		name := fmt.Sprintf("APP%05d", i)
		conns := int64(100)
		f.Accounts = append(f.Accounts, manifest.Account{
			Name: must(ident.ParseLabel(name)), Description: "an application", Limits: manifest.Limits{Connections: &conns},
			Roles: []manifest.Role{{
				Name:      must(ident.ParseLabel("service")),
				Publish:   manifest.Permission{Allow: []string{name + ".>", "_R_.>"}},
				Subscribe: manifest.Permission{Allow: []string{name + ".>", "_INBOX_{{subject()}}.>"}},
			}},
		})
	}
	dir := filepath.Join(tb.TempDir(), "large")
	began := time.Now()
	if _, err := platform.Create(tb.Context(), dir, f, time.Now(), nil); err != nil {
		tb.Fatal(err)
	}
	tb.Logf("%d accounts made in %.1f s", accounts, time.Since(began).Seconds())
	return dir
}

// BenchmarkPlan is `nscsetup plan --offline` as a whole, from reading the folder on: what
// is unchanged, and one change.
func BenchmarkPlan(b *testing.B) {
	for _, n := range []int{1000, 10000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			dir := large(b, n)
			for b.Loop() {
				p, err := platform.Open(dir)
				if err != nil {
					b.Fatal(err)
				}
				t := &apply.Tool{Platform: p, Now: time.Now}
				pl, err := t.Plan(t.Local())
				if err != nil || !pl.Empty() {
					b.Fatal(err, pl)
				}
			}
			b.ReportMetric(b.Elapsed().Seconds()/float64(b.N)*1e6/float64(n), "µs/account")
		})
	}
}
