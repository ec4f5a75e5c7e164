package nscsetup

import (
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/herald-nats/herald/internal/cli"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/platform"
	"github.com/herald-nats/herald/pkg/platform/manifest"
)

// large makes a platform folder with so many accounts of the operator's, each with a role.
func large(tb testing.TB, accounts int) string {
	tb.Helper()
	ams := parse(tb, ident.ParseRegion, "ams")
	f := platform.NewFile(platform.Spec{
		Name: parse(tb, ident.ParseName, "large"), Regions: []ident.Region{ams}, Home: ams, Nodes: 3, Port: 20000,
	})
	for i := range accounts {
		name := fmt.Sprintf("APP%05d", i)
		f.Accounts = append(f.Accounts, manifest.Account{
			Name: parse(tb, ident.ParseLabel, name), Description: "an application",
			Roles: []manifest.Role{{
				Name:      parse(tb, ident.ParseLabel, "service"),
				Publish:   manifest.Permission{Allow: []string{name + ".>", "_R_.>"}},
				Subscribe: manifest.Permission{Allow: []string{name + ".>", "_INBOX_{{subject()}}.>"}},
			}},
		})
	}
	dir := filepath.Join(tb.TempDir(), "large")
	if _, err := platform.Create(tb.Context(), dir, f, time.Now(), nil); err != nil {
		tb.Fatal(err)
	}
	return dir
}

// BenchmarkLooking is what looks at a platform folder, as whole commands from reading the
// folder on. With ten thousand accounts each takes less than a second, and one more costs
// what the one before cost.
func BenchmarkLooking(b *testing.B) {
	for _, n := range []int{1000, 10000} {
		dir := large(b, n)
		if code, _, errs := run(b, "--dir", dir, "add", "user", "APP00500/service", "mail"); code != cli.OK {
			b.Fatal(errs)
		}
		creds := filepath.Join(dir, "operator", "users", "APP00500.service.mail.creds")
		for _, line := range []string{
			"list accounts", "list roles", "list users", "describe account APP00500", "describe role APP00500/service", "describe " + creds,
			"can APP00500/service publish APP00500.x --user mail", "__complete describe account APP0050",
		} {
			name, _, _ := strings.Cut(line, " /")
			b.Run(fmt.Sprintf("%d/%s", n, strings.ReplaceAll(name, "/", ".")), func(b *testing.B) {
				for b.Loop() {
					var errs strings.Builder
					args := append(strings.Fields(line), "--dir", dir)
					if strings.HasPrefix(line, "__complete") {
						args = append([]string{"__complete", "--dir=" + dir}, strings.Fields(line)[1:]...)
					}
					if code := Run(b.Context(), cli.IO{In: strings.NewReader(""), Out: io.Discard, Err: &errs}, args); code != cli.OK {
						b.Fatal(code, errs.String())
					}
				}
				b.ReportMetric(b.Elapsed().Seconds()/float64(b.N)*1e6/float64(n), "µs/account")
			})
		}
	}
}
