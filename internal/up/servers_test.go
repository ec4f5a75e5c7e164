package up_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats.go"

	"github.com/herald-nats/herald/internal/up"
	"github.com/herald-nats/herald/internal/uptest"
	"github.com/herald-nats/herald/pkg/platform"
	"github.com/herald-nats/herald/pkg/platform/serverconf"
)

// lobby is a role for whoever has no credentials.
const lobby = `
accounts:
  - name: LOBBY
    limits: {bearers: true}
    roles:
      - name: anyone
        public: true
        bearer: true
        publish: {allow: [lobby.ask]}
        subscribe: {allow: ["lobby.news"]}
        connection_types: [STANDARD, WEBSOCKET]
default_sentinel: LOBBY/anyone
`

// A platform that takes in whoever comes: from its first start, at which neither the
// account nor its keys are there, and with the same configuration at each.
func TestDefaultSentinel(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), uptest.StartWait)
	defer cancel()
	p, ports, err := uptest.Init(ctx, t.TempDir(), uptest.Options{Regions: []string{"ams"}})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := ports.Release(); err != nil {
			t.Error(err)
		}
	}()
	file, err := os.ReadFile(p.Dir.File())
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(p.Dir.File(), append(file, lobby...), 0o600); err != nil {
		t.Fatal(err)
	}
	var first []byte
	for run := range 2 {
		u, err := up.Start(ctx, up.Config{Dir: string(p.Dir)})
		if err != nil {
			t.Fatal(err)
		}
		// Each first start signs accounts anew; the configuration stays.
		conf, err := os.ReadFile(filepath.Join(p.Dir.Data(), "config", "ams", "ams-2", serverconf.FileName))
		if err != nil {
			t.Fatal(err)
		}
		if run == 0 {
			first = conf
		} else if !bytes.Equal(conf, first) {
			t.Error("the second start has another configuration")
		}
		anyone(t, u)
		stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
		err = u.Close(stop)
		cancel()
		if err != nil {
			t.Fatal(err)
		}
	}
}

// anyone connects without credentials, and has the role's rights.
func anyone(t *testing.T, u *up.Up) {
	t.Helper()
	refused := make(chan error, 10)
	nc, err := nats.Connect(strings.Join(u.Cluster.URLs(u.Platform.File.Home), ","), nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
		refused <- err
	}))
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	if err := errors.Join(nc.Publish("lobby.ask", nil), nc.Flush()); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(nc.Publish("chat.KUBECON.posts.x", nil), nc.Flush()); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-refused:
		if !errors.Is(err, nats.ErrPermissionViolation) || !strings.Contains(err.Error(), "chat.KUBECON") {
			t.Error(err)
		}
	case <-time.After(5 * time.Second):
		t.Error("whoever comes may publish in the chat")
	}
}

// What servers are given is that of the folder, and stays the same while it says the same.
func TestServerInput(t *testing.T) {
	p, ports, err := uptest.Init(t.Context(), t.TempDir(), uptest.Options{Regions: []string{"ams"}})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := ports.Release(); err != nil {
			t.Error(err)
		}
	}()
	input := func() string {
		t.Helper()
		in, err := up.ServerInput(p, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		return in.System
	}
	kept := filepath.Join(p.Dir.Operator(), "preload.jwt")
	first := input()
	if data, err := os.ReadFile(kept); err != nil || strings.TrimSpace(string(data)) != first {
		t.Fatalf("it is not kept: %v", err)
	}
	if input() != first {
		t.Error("asked again it is another")
	}
	// What does not end at the operator is replaced, whatever it says.
	for what, data := range map[string]string{"damaged": first[:len(first)-4] + "AAAA", "none": "", "another account's": other(t, p)} {
		if err := os.WriteFile(kept, []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := input(); got != first {
			t.Errorf("%s: servers would be given %.30s…", what, got)
		}
	}
}

// other is the JWT of an account of the platform that is not the system account.
func other(t *testing.T, p *platform.Platform) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(p.Dir.Operator(), "accounts", "CHAT.jwt"))
	if err != nil {
		t.Fatal(err)
	}
	if c, err := jwt.DecodeAccountClaims(strings.TrimSpace(string(data))); err != nil || c.Name != "CHAT" {
		t.Fatal(err)
	}
	return string(data)
}
