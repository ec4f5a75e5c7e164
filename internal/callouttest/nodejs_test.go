package callouttest

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
)

// nodejs names the folder with examples/callout-nodejs and what it needs from npm; `make nodejs`
// sets it. Nothing is downloaded by a test.
const nodejs = "HERALD_NODEJS"

// TestNodeJS: nats.js, as it comes from npm, comes in by its own user and password alone.
func TestNodeJS(t *testing.T) {
	dir := os.Getenv(nodejs)
	if dir == "" {
		t.Skip("make nodejs runs it")
	}
	k := newKey(t)
	worker := jwtOf(t, "ORDERS", "worker")
	orders := heard(t, worker, "orders.placed")
	if _, err := worker.Subscribe("orders.price", func(m *nats.Msg) { _ = m.Respond(append([]byte("4 for "), m.Data...)) }); err != nil {
		t.Fatal(err)
	}
	// By then issuers know the key.
	comesIn(t, nats.UserInfo(k.id, k.secret))
	run := func(secret string) (string, error) {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		c := exec.CommandContext(ctx, "node", filepath.Join(dir, "index.mjs"))
		c.Env = append(os.Environ(), "NATS_URL="+urls(), "HERALD_KEY_ID="+k.id, "HERALD_KEY_SECRET="+secret)
		var out bytes.Buffer
		c.Stdout, c.Stderr = &out, &out
		err := c.Run()
		return out.String(), err
	}
	out, err := run(k.secret)
	if err != nil || out != "orders.price: 4 for apples\norders.placed: 3 apples\n" {
		t.Fatalf("%v\n%s", err, out)
	}
	if m, err := orders.NextMsg(patience); err != nil || string(m.Data) != "3 apples" {
		t.Errorf("in its account: %v", err)
	}
	var exit *exec.ExitError
	out, err = run(newKey(t).secret)
	if !errors.As(err, &exit) || exit.ExitCode() != 1 || !strings.Contains(strings.ToLower(out), "authorization") {
		t.Errorf("with another's secret: %v\n%s", err, out)
	}
}
