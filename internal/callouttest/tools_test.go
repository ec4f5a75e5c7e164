package callouttest

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"

	"github.com/herald-nats/herald/internal/cli"
	"github.com/herald-nats/herald/internal/cli/nscsetup"
)

// ends runs nscsetup, which must end so, and gives all that it writes.
func ends(t *testing.T, code int, args ...string) string {
	t.Helper()
	var out bytes.Buffer
	if got := nscsetup.Run(t.Context(), cli.IO{In: strings.NewReader(""), Out: &out, Err: &out}, append([]string{"--dir", shared.Dir}, args...)); got != code {
		t.Errorf("nscsetup %s: %d, and not %d\n%s", strings.Join(args, " "), got, code, out.String())
	}
	return out.String()
}

// TestTools: what operators are told of who comes by auth callout is what issuers do.
func TestTools(t *testing.T) {
	k := newKey(t)
	comesIn(t, nats.UserInfo(k.id, k.secret))
	if s := ends(t, cli.OK, "explain", "--key", k.id, "--callout"); !strings.Contains(s, "ORDERS/service") {
		t.Error(s)
	}
	if s := ends(t, cli.Failed, "explain", "--key", k.id); !strings.Contains(s, "it is for who comes by auth callout") {
		t.Error(s)
	}
	if s := ends(t, cli.OK, "doctor"); strings.Contains(s, "DOOR") {
		t.Errorf("it finds fault with DOOR:\n%s", s)
	}
	data, err := os.ReadFile(filepath.Join(shared.Dir, "platform.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	const grant = "{to: key, account: ORDERS, role: service}"
	next := filepath.Join(t.TempDir(), "next.yaml")
	if err := os.WriteFile(next, bytes.Replace(data, []byte(grant), []byte(strings.Replace(grant, "}", ", lifetime: 10m}", 1)), 1), 0o600); err != nil {
		t.Fatal(err)
	}
	if s := ends(t, cli.Failed, "replay", next); !strings.Contains(s, "key:"+k.id) {
		t.Errorf("a grant that is changed changes nothing:\n%s", s)
	}
	if s := ends(t, cli.OK, "plan"); !strings.Contains(s, "nothing would change") {
		t.Error(s)
	}
	create := []string{"access-key", "create", "--owner", "tests", "--grant", "ORDERS/service"}
	if s := ends(t, cli.Usage, append(create, "--name", shared.Name("no").String())...); !strings.Contains(s, "hint: say --password") {
		t.Error(s)
	}
	if s := ends(t, cli.Usage, append(create, "--password")...); !strings.Contains(s, "--name") {
		t.Error(s)
	}
}
