package manifest_test

import (
	"fmt"
	"strings"
	"testing"

	"go.yaml.in/yaml/v4"

	"github.com/herald-nats/herald/pkg/platform/manifest"
)

// many is a platform file with n accounts of a usual kind.
func many(n int) []byte {
	var b strings.Builder
	b.WriteString(complete("# as it is\n" + "grants: [{to: open, account: CHAT, role: member}]\n"))
	for _, key := range []string{"name", "home", "regions", "chat"} {
		b.WriteString(base()[key])
	}
	b.WriteString("accounts:\n")
	for i := range n {
		fmt.Fprintf(&b, `  - name: APP%d
    limits: {connections: 100, payload: 64KiB}
    roles:
      - name: member
        public: true
        publish: {allow: ["app.%d.>", x.y]}
        subscribe: {allow: ["_INBOX_{{subject()}}.>"]}
        connection_types: [STANDARD, WEBSOCKET]
`, i, i)
	}
	return []byte(b.String())
}

// BenchmarkParse10000Accounts reads and checks a file of 10,000 accounts.
func BenchmarkParse10000Accounts(b *testing.B) {
	data := many(10_000)
	b.SetBytes(int64(len(data)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := manifest.Parse("platform.yaml", data); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkYAML10000Accounts is what of it is the YAML library's part, to compare with in
// the same run.
func BenchmarkYAML10000Accounts(b *testing.B) {
	data := many(10_000)
	b.SetBytes(int64(len(data)))
	b.ReportAllocs()
	for b.Loop() {
		var n yaml.Node
		if err := yaml.Load(data, &n); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkCheck10000Accounts checks them without reading.
func BenchmarkCheck10000Accounts(b *testing.B) {
	f, err := manifest.Parse("platform.yaml", many(10_000))
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if p := f.Check(); len(p) > 0 {
			b.Fatal(p)
		}
	}
}

// BenchmarkRender10000Accounts writes them.
func BenchmarkRender10000Accounts(b *testing.B) {
	f, err := manifest.Parse("platform.yaml", many(10_000))
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		f.Render()
	}
}

// BenchmarkCheckTrade checks one account that trades with 5,000 others, in both
// directions.
func BenchmarkCheckTrade(b *testing.B) {
	var t strings.Builder
	t.WriteString(complete(""))
	t.WriteString("accounts:\n  - name: HUB\n    exports: [{subject: \"orders.*\", type: service, account_token_position: 2}]\n    imports:\n")
	const n = 5000
	for i := range n {
		fmt.Fprintf(&t, "      - {from: S%d, subject: status, to: status.s%d, type: service}\n", i, i)
	}
	for i := range n {
		fmt.Fprintf(&t, `  - name: S%d
    exports: [{subject: status, type: service}]
    imports: [{from: HUB, subject: "orders.{{account-subject()}}", to: orders, type: service}]
`, i)
	}
	f, err := manifest.Parse("platform.yaml", []byte(t.String()))
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if p := f.Check(); len(p) > 0 {
			b.Fatal(p)
		}
	}
}
