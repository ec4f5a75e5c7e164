package identitytest

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/herald-nats/herald/internal/cli"
	"github.com/herald-nats/herald/internal/cli/nscsetup"
	"github.com/herald-nats/herald/internal/wait"
	"github.com/herald-nats/herald/pkg/client"
	"github.com/herald-nats/herald/pkg/platform"
	"github.com/herald-nats/herald/pkg/wire"
)

// TestReplayOfRefusals: what was refused to a program is what a changed file is held against.
func TestReplayOfRefusals(t *testing.T) {
	id := accessKey(t, "--grant", "ORDERS/service")
	nc, key, called := guest(t, region("sgp")), newKey(t), shared.Name("replayed")
	if _, err := issue(t, nc, key, client.Wish{Identity: id, Name: called}, wire.BadIdentity); err != nil {
		t.Fatal(err)
	}
	_, err := issue(t, nc, key, client.Wish{Identity: id, Account: label("ORDERS"), Role: label("reader"), Name: called}, "")
	refusedAs(t, "a role that the key is not for", err, wire.RoleNotGranted)

	who := "key:" + id.ID.String()
	data := string(must(os.ReadFile(platform.Dir(shared.Dir).File())))
	changed := strings.Replace(data, "\ngrants:\n", "\ngrants:\n  - {to: \""+who+"\", account: ORDERS, role: reader, lifetime: 10m}\n", 1)
	if changed == data {
		t.Fatalf("there are no grants in\n%s", data)
	}
	file := filepath.Join(t.TempDir(), "new.yaml")
	if err := os.WriteFile(file, []byte(changed), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for {
		var out, errs bytes.Buffer
		code := nscsetup.Run(ctx, cli.IO{In: strings.NewReader(""), Out: &out, Err: &errs}, []string{"--dir", shared.Dir, "replay", file})
		var row string
		for line := range strings.Lines(out.String()) {
			if f := strings.Join(strings.Fields(line), " "); strings.HasPrefix(f, who+" ORDERS/reader ") {
				row = f
			}
		}
		if code == cli.Failed && row == who+" ORDERS/reader "+called.String()+" refused: role_not_granted for 10m" {
			return
		}
		if wait.For(ctx, 100*time.Millisecond) != nil {
			t.Fatalf("%d\n%s%s", code, out.String(), errs.String())
		}
	}
}
