package faultstest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/herald-nats/herald/internal/cli"
	"github.com/herald-nats/herald/internal/uptest"
	"github.com/herald-nats/herald/internal/wait"
	"github.com/herald-nats/herald/pkg/accesskey"
	"github.com/herald-nats/herald/pkg/client"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/ledger"
	"github.com/herald-nats/herald/pkg/wire"
)

// accessKey makes an access key for members of the chat.
func (w *world) accessKey() client.AccessKey {
	w.t.Helper()
	file := filepath.Join(w.t.TempDir(), "key")
	w.nscsetup(cli.OK, "access-key", "create", "--owner", "tests", "--grant", "CHAT/member", "--out", file)
	var k client.AccessKey
	for line := range strings.Lines(string(must(os.ReadFile(file)))) {
		switch name, v, _ := strings.Cut(strings.TrimSpace(line), "="); name {
		case "HERALD_KEY_ID":
			k.ID = must(ident.ParseKeyID(v))
		case "HERALD_KEY_SECRET":
			k.Secret = must(accesskey.Parse(v))
		}
	}
	return k
}

// device is another nkey of the identity that an access key shows.
func (w *world) device(k client.AccessKey, name string) *visitor {
	key := newUser(w.t)
	return &visitor{name: name, key: key, user: userKey(key), shows: k, refused: map[string]time.Time{}}
}

// stays connects, and gives what is closed when the server closes it.
func (w *world) stays(v *visitor, url string) <-chan struct{} {
	w.t.Helper()
	closed := make(chan struct{})
	nc, err := w.comeIn(v, v.newest(), url, nats.ClosedHandler(func(*nats.Conn) { close(closed) }))
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { nc.Close(); <-closed })
	return closed
}

// newest is the credential that a visitor got last.
func (v *visitor) newest() string {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.tokens[len(v.tokens)-1]
}

// shut waits until a connection is closed by its server.
func (w *world) shut(what string, patience time.Duration, closed <-chan struct{}) {
	w.t.Helper()
	select {
	case <-closed:
	case <-time.After(patience):
		w.t.Errorf("%s stays connected", what)
	}
}

// denied waits until servers take none of a visitor's credentials.
func (w *world) denied(v *visitor, patience time.Duration, urls ...string) {
	w.t.Helper()
	for _, url := range urls {
		for i, token := range v.tokens {
			var err error
			eventually(w.t, patience, fmt.Sprintf("%s denies credential %d of %s", url, i, v.name), func() bool {
				err = w.connect(v, token, url)
				return errors.Is(err, nats.ErrAuthorization)
			})
		}
	}
}

func (w *world) urls(in string) []string {
	r, _ := w.Public.Document.Region(region(in))
	return r.URLs
}

// TestAllCutOff: every link between the regions is cut. Each region goes on giving credentials to
// who has a name, and revokes, with its own administrators, for itself; none but home gives new
// names. Once the links are back there is one truth: all servers deny all who were revoked, all
// services know the same, and who was given a credential meanwhile is found by their identity.
func TestAllCutOff(t *testing.T) {
	if !long() {
		t.Skip("of make chaos and make test-long; TestCutOff of admintest is the short one")
	}
	const cut = 120 * time.Second
	w := newWorldOf(t, uptest.Options{More: "\n  - {to: key, account: CHAT, role: member}\n"}, nil)
	access := w.accessKey()
	program := w.device(access, "program")
	eventually(t, 20*time.Second, "the program comes", func() bool { return w.asks(t.Context(), program, "ams", 5*time.Second) == nil })
	resident, gone, devices := map[string]*visitor{}, map[string]*visitor{}, []*visitor{program}
	here, elsewhere := map[string]<-chan struct{}{}, map[string]<-chan struct{}{}
	next := map[string]string{"ams": "sfo", "sfo": "sgp", "sgp": "ams"}
	for _, r := range regions() {
		resident[r], gone[r] = w.visitor("resident-"+r, r), w.visitor("gone-"+r, r)
		here[r], elsewhere[r] = w.stays(gone[r], w.urls(r)[0]), w.stays(gone[r], w.urls(next[r])[1])
	}
	// Suspended before, and while the links are cut resumed in one region and revoked in another.
	disputed := w.visitor("disputed", "ams")
	about := wire.AdminRequest{Identity: openIdentity(disputed.key)}
	suspended, err := w.administer(t.Context(), "ams", wire.VerbSuspend, about)
	if err != nil {
		t.Fatal(err)
	}
	w.equal(within(10 * time.Second))

	for i, r := range regions() {
		for _, other := range regions()[i+1:] {
			if err := w.Up.Cluster.Cut(region(r), region(other)); err != nil {
				t.Fatal(err)
			}
		}
	}
	began := time.Now()
	var work sync.WaitGroup
	for _, r := range regions() {
		device := w.device(access, "program")
		devices = append(devices, device)
		work.Go(func() {
			a, err := w.administer(t.Context(), r, wire.VerbRevoke, gone[r].identity())
			if err != nil || a.Word.Region != r || a.Word.Denied != 3 || a.Word.Servers != servers || a.Unstored {
				t.Errorf("revoking in %s: %v %+v", r, err, a.Word)
			}
			verb, about := wire.VerbRevoke, about
			if r == "sfo" {
				verb, about.Seen = wire.VerbResume, map[string]uint64{suspended.Standing[0].Key: suspended.Standing[0].Version}
			}
			if r != "ams" {
				if _, err := w.administer(t.Context(), r, verb, about); err != nil {
					t.Errorf("%s in %s: %v", verb, r, err)
				}
			}
		})
		if err := w.asks(t.Context(), device, r, 5*time.Second); err != nil {
			t.Errorf("another nkey of a program, in %s: %v", r, err)
		}
		newcomer := w.obtain(r, newUser(t), "newcomer-"+r)
		if r == "ams" && newcomer != nil || r != "ams" && code(newcomer) != wire.ReadOnly {
			t.Errorf("a new name in %s: %v", r, newcomer)
		}
		w.shut("who was revoked in "+r, within(2*time.Second), here[r])
		w.denied(gone[r], within(2*time.Second), w.urls(r)...)
		if err := w.obtain(r, gone[r].key, gone[r].name); code(err) != wire.Revoked {
			t.Errorf("who was revoked asks in %s: %v", r, err)
		}
		if err := w.connect(gone[r], gone[r].newest(), w.urls(next[r])[0]); err != nil {
			t.Errorf("who was revoked in %s, where nobody can have heard of it: %v", r, err)
		}
	}
	given := 0
	for time.Since(began) < cut {
		for _, r := range regions() {
			if err := w.asks(t.Context(), resident[r], r, 5*time.Second); err != nil {
				t.Errorf("%s, cut off for %s: %v", r, time.Since(began), err)
			}
			given++
		}
		if wait.For(t.Context(), 500*time.Millisecond) != nil {
			t.Fatal("the test ends")
		}
	}
	work.Wait()
	for _, r := range regions() {
		select {
		case <-elsewhere[r]:
			t.Errorf("who was revoked in %s is out elsewhere: nothing is cut", r)
		default:
		}
	}
	for i, r := range regions() {
		for _, other := range regions()[i+1:] {
			if err := w.Up.Cluster.Heal(region(r), region(other)); err != nil {
				t.Fatal(err)
			}
		}
	}
	healed := time.Now()
	t.Logf("cut for %s, %d credentials were given; all services know the same %s after healing", healed.Sub(began).Round(time.Millisecond), given, w.equal(within(5*time.Second)))
	all := w.Public.Document.URLs(region("ams"))
	for _, r := range regions() {
		w.shut("elsewhere, who was revoked in "+r, within(5*time.Second), elsewhere[r])
		w.denied(gone[r], within(5*time.Second), all...)
	}
	w.denied(disputed, within(5*time.Second), all...)
	t.Logf("all servers deny all who were revoked %s after healing", time.Since(healed).Round(time.Millisecond))
	for _, r := range regions() {
		for _, v := range gone {
			if err := w.obtain(r, v.key, v.name); code(err) != wire.Revoked {
				t.Errorf("%s asks in %s: %v", v.name, r, err)
			}
		}
		// Of two that went on from the same, whoever denies holds.
		if err := w.obtain(r, disputed.key, disputed.name); code(err) != wire.Revoked {
			t.Errorf("who was resumed in one region and revoked in another asks in %s: %v", r, err)
		}
		eventually(t, within(20*time.Second), "a name that home gave meanwhile is known in "+r, func() bool {
			return code(w.obtain(r, newUser(t), "newcomer-ams")) == wire.NameTaken
		})
	}

	// Who was given something meanwhile is known everywhere: by the identity all its nkeys are found.
	for _, r := range regions() {
		eventually(t, within(20*time.Second), "the registrar of "+r+" knows of all nkeys", func() bool {
			held := w.service("registrar/"+r).Holdings().Of(ident.KeyIdentity(access.ID), time.Now())
			return !slices.ContainsFunc(devices, func(d *visitor) bool {
				return !slices.ContainsFunc(held, func(h ledger.Held) bool { return h.User == d.user })
			})
		})
	}
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	a, err := w.administer(ctx, "sgp", wire.VerbRevoke, wire.AdminRequest{Identity: ident.KeyIdentity(access.ID), Wait: 10})
	if err != nil || !everywhere(a) || len(a.Word.Users) != len(devices) {
		t.Errorf("revoking the program: %v %+v", err, a.Word)
	}
	for _, d := range devices {
		for _, url := range all {
			if err := w.connect(d, d.newest(), url); !errors.Is(err, nats.ErrAuthorization) {
				t.Errorf("after the receipt, a device of the program at %s: %v", url, err)
			}
		}
	}
	for _, r := range regions() {
		if err := w.asks(ctx, resident[r], r, 5*time.Second); err != nil {
			t.Errorf("who was never meant, in %s: %v", r, err)
		}
		for _, url := range all {
			if err := w.connect(resident[r], resident[r].newest(), url); err != nil {
				t.Errorf("who was never meant, at %s: %v", url, err)
			}
		}
	}
	w.equal(within(10 * time.Second))
}
