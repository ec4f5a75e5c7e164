package faultstest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/herald-nats/herald/internal/service"
	"github.com/herald-nats/herald/internal/uptest"
	"github.com/herald-nats/herald/pkg/client"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/keystore"
	"github.com/herald-nats/herald/pkg/ledger"
	"github.com/herald-nats/herald/pkg/platform"
	"github.com/herald-nats/herald/pkg/wire"
)

// all are the services of all regions.
func all() []string {
	var names []string
	for _, r := range regions() {
		names = append(names, service.Registrar+"/"+r, service.Issuer+"/"+r)
	}
	return names
}

// equal waits until all services know the same, byte for byte, but for base claims.
func (w *world) equal(within time.Duration) time.Duration {
	w.t.Helper()
	var differ string
	began := time.Now()
	for {
		want := uptest.Known(w.service("issuer/ams").Known())
		differ = ""
		for _, name := range all() {
			if got := uptest.Known(w.service(name).Known()); !bytes.Equal(got, want) {
				differ += fmt.Sprintf(" %s(%d/%d)", name, len(got), len(want))
			}
		}
		if differ == "" {
			return time.Since(began)
		}
		if time.Since(began) > within {
			w.t.Fatalf("not equal after %v:%s", within, differ)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// obtain asks a region's issuer for a credential.
func (w *world) obtain(in string, key *keystore.Key, name string) error {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), 5*time.Second)
	defer cancel()
	r, _ := w.Public.Document.Region(region(in))
	_, err := w.Public.Obtain(ctx, r.URLs, key, client.Wish{Name: must(ident.ParseName(name))})
	return err
}

func code(err error) wire.Code {
	var werr *wire.Error
	if errors.As(err, &werr) {
		return werr.Code
	}
	return ""
}

// A region that is cut off from all others issues and denies by itself, its issuer
// starts again from its mirror or its disk, and after healing everybody knows the
// same, also what was decided and denied on either side meanwhile.
func TestRegionCutOff(t *testing.T) {
	names, cuts := 3000, []time.Duration{5 * time.Second}
	if long() {
		names, cuts = 100_000, []time.Duration{5 * time.Second, 20 * time.Second, 45 * time.Second, 120 * time.Second}
	}
	w := newWorld(t, false)
	w.preload(names)
	t.Logf("%d names are known everywhere after %v", names, w.equal(60*time.Second))

	known, here, there := newUser(t), newUser(t), newUser(t)
	for key, name := range map[*keystore.Key]string{known: "known", here: "suspended-here", there: "suspended-there"} {
		if err := w.obtain("sgp", key, name); err != nil {
			t.Fatal(err)
		}
	}
	w.equal(10 * time.Second)

	for i, cut := range cuts {
		w.cut("sgp")
		began := time.Now()

		// What was given goes on; what needs home does not.
		if err := w.obtain("sgp", known, "known"); err != nil {
			t.Errorf("a name that was given, in a region that is cut off: %v", err)
		}
		if err := w.obtain("sgp", newUser(t), fmt.Sprintf("new-%d", i)); code(err) != wire.ReadOnly {
			t.Errorf("a new name, in a region that is cut off: %v", err)
		}

		// Its issuer starts again, from the disk and from the mirror.
		w.stop("issuer/sgp")
		disk := w.start("issuer/sgp")
		w.stop("issuer/sgp")
		if err := os.RemoveAll(filepath.Join(w.folder("issuer/sgp"), "state")); err != nil {
			t.Fatal(err)
		}
		mirror := w.start("issuer/sgp")
		t.Logf("cut %v: its issuer with %d names is ready in %v from the disk, in %v from the mirror", cut, names, disk, mirror)
		// From the mirror every signature is verified anew, some 45 µs each: what a hundred
		// thousand take depends on the machine, and is told (docs/performance.md).
		if limit := 2 * time.Second; disk > limit || (mirror > limit && !raceEnabled && !long()) {
			t.Errorf("that is more than %v", limit)
		}
		if err := w.obtain("sgp", known, "known"); err != nil {
			t.Errorf("after its issuer started again: %v", err)
		}

		// Both sides suspend, and both sides enforce what they know.
		sgp, ams := w.service("registrar/sgp").Denials(), w.service("registrar/ams").Denials()
		w.suspend(sgp, here, i%2 == 0)
		w.suspend(ams, there, i%2 == 0)
		w.enforced("sgp", here, "suspended-here", i%2 == 0)
		w.enforced("ams", there, "suspended-there", i%2 == 0)
		// A revocation, too: what is issued from then on is dated after it.
		before := time.Now().Add(time.Duration(5*(i+1)) * time.Second)
		if _, err := sgp.Revoke(t.Context(), w.chat(), userKey(known), before, ledger.Revocation{By: "test"}); err != nil {
			t.Fatal(err)
		}
		w.datedAfter("sgp", known, "known", before)
		if i == 0 {
			if err := w.obtain("sgp", there, "suspended-there"); err != nil {
				t.Errorf("sgp knows of a suspension that nobody could tell it: nothing is cut: %v", err)
			}
		}
		// The rest of the world goes on deciding.
		decided := newUser(t)
		if err := w.obtain("sfo", decided, fmt.Sprintf("decided-%d", i)); err != nil {
			t.Errorf("a new name elsewhere: %v", err)
		}

		time.Sleep(cut - time.Since(began)) // the length of the cut is what is tested
		w.heal("sgp")
		t.Logf("cut %v: all projections are equal %v after healing", cut, w.equal(within(5*time.Second)))
		w.enforced("sgp", there, "suspended-there", i%2 == 0)
		w.enforced("sfo", here, "suspended-here", i%2 == 0)
		w.datedAfter("ams", known, "known", before)
		if err := w.obtain("sgp", newUser(t), fmt.Sprintf("decided-%d", i)); code(err) != wire.NameTaken {
			t.Errorf("a name that was given elsewhere meanwhile: %v", err)
		}
	}
}

// within gives a slow machine with the race detector its time; the figure itself is
// held where nothing slows it down.
func within(d time.Duration) time.Duration {
	if raceEnabled {
		return 3 * d
	}
	return d
}

type denier interface {
	Suspend(ctx context.Context, key ledger.Key, suspend bool, seen uint64, s ledger.Suspension) (ledger.Entry, error)
}

// suspend suspends an identity, or ends that, and sees that it is stored.
func (w *world) suspend(d denier, key *keystore.Key, suspend bool) {
	w.t.Helper()
	k := ledger.IdentitySuspension(openIdentity(key))
	var seen uint64
	if e, ok := w.service("registrar/ams").Known().Get(k); ok {
		seen = e.Version
	}
	e, err := d.Suspend(w.t.Context(), k, suspend, seen, ledger.Suspension{By: "test", Why: "to see what happens"})
	if err != nil || e.Denies != suspend {
		w.t.Fatalf("suspending: %+v %v", e, err)
	}
}

func userKey(k *keystore.Key) ident.UserKey { return must(ident.ParseUserKey(k.Public())) }

// chat is the account that credentials are for.
func (w *world) chat() ident.AccountKey {
	a, _ := w.Public.Document.Account(must(ident.ParseLabel(platform.ChatIn)))
	return a.Key
}

// datedAfter sees that a credential outlives a revocation until before.
func (w *world) datedAfter(in string, key *keystore.Key, name string, before time.Time) {
	w.t.Helper()
	r, _ := w.Public.Document.Region(region(in))
	ctx, cancel := context.WithTimeout(w.t.Context(), 5*time.Second)
	defer cancel()
	c, err := w.Public.Obtain(ctx, r.URLs, key, client.Wish{Name: must(ident.ParseName(name))})
	if err != nil {
		w.t.Errorf("%s in %s, after a revocation: %v", name, in, err)
	} else if c.User.IssuedAt.Unix() <= before.Unix() {
		w.t.Errorf("%s in %s has a credential of %s, revoked until %s", name, in, c.User.IssuedAt, before)
	}
}

// enforced sees that an issuer does what a suspension says, at once.
func (w *world) enforced(in string, key *keystore.Key, name string, suspended bool) {
	w.t.Helper()
	want := wire.Code("")
	if suspended {
		want = wire.Suspended
	}
	var err error
	took := eventually(w.t, 2*time.Second, fmt.Sprintf("%s in %s, suspended %t", name, in, suspended), func() bool {
		err = w.obtain(in, key, name)
		return code(err) == want && (want != "" || err == nil)
	})
	w.t.Logf("%s in %s: suspended %t after %v", name, in, suspended, took)
}
