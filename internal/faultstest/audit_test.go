package faultstest

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/herald-nats/herald/internal/cli"
	"github.com/herald-nats/herald/internal/cli/nscsetup"
	"github.com/herald-nats/herald/pkg/keystore"
	"github.com/herald-nats/herald/pkg/ledger"
	"github.com/herald-nats/herald/pkg/ledger/jetstream"
	"github.com/herald-nats/herald/pkg/platform"
	"github.com/herald-nats/herald/pkg/wire"
)

// TestRecordsCannotBeStored: a stream that is full, and one without a quorum. Where records are
// not required credentials go on, what was recorded waits on the disk, or in memory where
// there is none, and all of it is stored in order once it can be. Where they are required no
// credential is given meanwhile.
func TestRecordsCannotBeStored(t *testing.T) {
	w := newWorld(t, false)
	alice := newUser(t)
	if err := w.obtain("sfo", alice, "alice"); err != nil {
		t.Fatal(err)
	}
	w.equal(within(10 * time.Second))
	issuer := func() waits {
		return waits{w.service("issuer/sfo").Stats().Records.Waiting, w.service("issuer/sfo").Stats().Records.Dropped}
	}
	faults := []struct {
		name        string
		begin, stop func()
	}{
		{"full", func() { w.bound("AUDIT_sfo", true) }, func() { w.bound("AUDIT_sfo", false) }},
		{"without a quorum", func() { w.nodes(w.Up.Cluster.StopNode) }, func() { w.nodes(w.Up.Cluster.StartNode) }},
	}
	const each = 5
	given := 1
	for _, f := range faults {
		f.begin()
		for i := range each {
			if err := w.obtain("sfo", alice, "alice"); err != nil {
				t.Errorf("best effort, %s: credential %d: %v", f.name, i, err)
			}
			given++
		}
		if got := issuer(); got.waiting == 0 || got.dropped != 0 {
			t.Errorf("best effort, %s: %+v", f.name, got)
		}
		if info, err := os.Stat(filepath.Join(w.folder("issuer/sfo"), "state", "audit.spool")); err != nil || info.Size() == 0 {
			t.Errorf("best effort, %s: nothing waits on the disk: %v", f.name, err)
		}
		f.stop()
		eventually(t, within(40*time.Second), f.name+": what waited is stored", func() bool { return issuer().waiting == 0 })
		w.inOrder(alice, given)
	}

	// Without a disk it waits in memory.
	w.stop("issuer/sfo")
	state := filepath.Join(w.folder("issuer/sfo"), "state")
	if err := os.Rename(state, state+".away"); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(state, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	w.start("issuer/sfo")
	w.bound("AUDIT_sfo", true)
	for range each {
		if err := w.obtain("sfo", alice, "alice"); err != nil {
			t.Errorf("best effort, without a disk: %v", err)
		}
		given++
	}
	if got := issuer(); got.waiting == 0 || got.dropped != 0 {
		t.Errorf("best effort, without a disk: %+v", got)
	}
	w.bound("AUDIT_sfo", false)
	eventually(t, within(20*time.Second), "what waited in memory is stored", func() bool { return issuer().waiting == 0 })
	w.inOrder(alice, given)

	w.require()
	for _, f := range faults {
		if err := w.obtain("sfo", alice, "alice"); err != nil {
			t.Fatalf("required, before it is %s: %v", f.name, err)
		}
		f.begin()
		for i := range each {
			if err := w.obtain("sfo", alice, "alice"); code(err) != wire.Unavailable {
				t.Errorf("required, %s: credential %d: %v", f.name, i, err)
			}
		}
		if n := w.service("issuer/sfo").Stats().Records.Refused; n == 0 {
			t.Errorf("required, %s: none is said to be refused", f.name)
		}
		f.stop()
		eventually(t, within(40*time.Second), f.name+": credentials are given again", func() bool { return w.obtain("sfo", alice, "alice") == nil })
	}
	w.inOrder(alice, given+2*len(faults))
}

// waits is how much of an issuer's records is not stored.
type waits struct {
	waiting int
	dropped uint64
}

// bound bounds a stream to what it has, as the set-up tool may, or lifts the bound.
func (w *world) bound(name string, full bool) {
	w.t.Helper()
	nc := w.dial(platform.Ledger, platform.RoleSetup, "ams")
	js := must(natsjs.New(nc))
	s, err := js.Stream(w.t.Context(), name)
	if err != nil {
		w.t.Fatal(err)
	}
	info := must(s.Info(w.t.Context()))
	c := info.Config
	c.MaxBytes = -1
	if full {
		c.MaxBytes = int64(info.State.Bytes) + 1 //nolint:gosec // small
	}
	if _, err := js.UpdateStream(w.t.Context(), c); err != nil {
		w.t.Fatalf("%s: %v", name, err)
	}
}

// nodes stops two of sfo's three servers, or starts them: JetStream has no quorum there.
func (w *world) nodes(f func(context.Context, string) error) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	for _, node := range []string{"sfo-2", "sfo-3"} {
		if err := f(ctx, node); err != nil {
			w.t.Fatal(err)
		}
	}
}

// require puts a document in force by which records are required.
func (w *world) require() {
	w.t.Helper()
	d := *w.Up.Platform.Full
	public := *d.Public
	public.Version.Number++
	d.Public, d.AuditRequired = &public, true
	token := must(d.Sign(w.signer("ams"), time.Now()))
	decider := &ledger.Decider{
		Store: must(jetstream.NewDecisions(w.dial(platform.Ledger, platform.RoleHome, "ams"))), Opener: w.opener(), Signer: w.signer("ams"),
	}
	if _, err := decider.PutDocument(w.t.Context(), token); err != nil {
		w.t.Fatal(err)
	}
	eventually(w.t, within(20*time.Second), "records are required", func() bool { return w.service("issuer/sfo").Stats().Records.Required })
}

// inOrder holds that audit verify finds nothing, and that a user's credentials are recorded, so
// many at least: a record may be there of one that was not handed out.
func (w *world) inOrder(user *keystore.Key, least int) {
	w.t.Helper()
	run := func(args ...string) (int, string) {
		var out, errs bytes.Buffer
		code := nscsetup.Run(w.t.Context(), cli.IO{In: strings.NewReader(""), Out: &out, Err: &errs}, append([]string{"--dir", w.Dir, "audit"}, args...))
		return code, out.String() + errs.String()
	}
	eventually(w.t, within(20*time.Second), "what is stored can be read, and is in order", func() bool {
		code, said := run("verify")
		if code == cli.Failed {
			w.t.Fatalf("%s", said)
		}
		return code == cli.OK
	})
	eventually(w.t, within(20*time.Second), fmt.Sprintf("%d credentials are recorded", least), func() bool {
		code, said := run("search", "--user", user.Public(), "--what", "issue", "--region", "sfo")
		return code == cli.OK && strings.Count(said, "\n") >= least
	})
}
