package faultstest

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
	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/herald-nats/herald/internal/natsconn"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/keystore"
	"github.com/herald-nats/herald/pkg/ledger"
	"github.com/herald-nats/herald/pkg/ledger/jetstream"
	"github.com/herald-nats/herald/pkg/platform"
	"github.com/herald-nats/herald/pkg/registrar"
	"github.com/herald-nats/herald/pkg/subject"
	"github.com/herald-nats/herald/pkg/wire"
)

// hand is somebody who can do everything in LEDGER, as no role can: an operator who
// gave themselves the right, for the worst that a hand can do.
func (w *world) hand() *nats.Conn {
	w.t.Helper()
	load := func(kind keystore.Kind, path ...string) *keystore.Key {
		k, err := keystore.Load(filepath.Join(append([]string{w.Dir, "operator"}, path...)...), kind)
		if err != nil {
			w.t.Fatal(err)
		}
		return k
	}
	signing := load(keystore.Operator, "signing", "nscsetup.nk")
	token, err := os.ReadFile(filepath.Join(w.Dir, "operator", "accounts", "LEDGER.jwt"))
	if err != nil {
		w.t.Fatal(err)
	}
	claims := must(w.Up.Platform.Operator.VerifyAccount(string(token)))
	role := must(keystore.Generate(keystore.Account))
	claims.SigningKeys.Add(role.Public())
	// A version of its own: registrars take it for a change, and leave it.
	claims.Tags.Remove("base:1")
	claims.Tags.Add("base:100")
	changed := must(claims.Encode(signing.Pair()))
	sys := w.dial(platform.System, platform.RoleRegistrar, "ams")
	ctx, cancel := context.WithTimeout(w.t.Context(), 20*time.Second)
	defer cancel()
	rep, err := registrar.NewResolver(sys, w.Up.Platform.Operator, signing, time.Now).Converge(ctx, []string{changed}, nil)
	if err = errors.Join(err, rep.Err()); err != nil {
		w.t.Fatal(err)
	}
	user := newUser(w.t)
	uc := jwt.NewUserClaims(user.Public())
	uc.Name, uc.IssuerAccount = "hand", claims.Subject
	userToken := must(uc.Encode(role.Pair()))
	r, _ := w.Up.Platform.Document.Region(region("ams"))
	nc, err := natsconn.Dial(ctx, natsconn.Options{
		URLs: r.URLs, Name: "hand", InboxPrefix: subject.ServiceInboxPrefix(must(ident.ParseUserKey(user.Public()))),
		Credential: natsconn.Static{Token: userToken, Key: user},
	})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(nc.Close)
	return nc
}

// Streams that are deleted by hand: what is known is kept and enforced, the log and
// the counters say what is lost; when the streams are there again, denials are stored
// again by whoever knows them, and home gives nobody a name that was another's.
func TestStreamsDeletedByHand(t *testing.T) {
	w := newWorld(t, false)
	alice, mallory := newUser(t), newUser(t)
	for key, name := range map[string]string{"alice": "alice", "mallory": "mallory"} {
		k := alice
		if key == "mallory" {
			k = mallory
		}
		if err := w.obtain("ams", k, name); err != nil {
			t.Fatal(err)
		}
	}
	w.suspend(w.service("registrar/ams").Denials(), mallory, true)
	eventually(t, within(20*time.Second), "what follows from a suspension is known", func() bool {
		return w.service("issuer/sgp").Known().RevokedBefore(w.chat(), must(ident.ParseUserKey(mallory.Public()))) > 0
	})
	w.equal(within(10 * time.Second))
	before := w.service("issuer/sgp").Known().Dump()

	// Every follower has seen what its region's mirror has.
	read := w.dial(platform.Readers, platform.RoleReader, "ams")
	eventually(t, within(60*time.Second), "the mirrors have what there is", func() bool {
		a, err := jetstream.MirrorSource(read, region("ams")).Last(t.Context())
		b, err2 := jetstream.MirrorSource(read, region("sgp")).Last(t.Context())
		return err == nil && err2 == nil && a == b && a > 0
	})
	since := time.Now().Add(2 * ledger.CompareEvery)
	eventually(t, within(10*time.Second), "the followers have compared", func() bool {
		for _, a := range w.service("registrar/sgp").Follower().Ages() {
			if a.Since.Before(since) {
				return false
			}
		}
		return true
	})

	js := must(natsjs.New(w.hand()))
	for _, stream := range []string{subject.DecisionsStream, "DECISIONS_sgp", "DENIALS_ams", "DENIALS_sfo", "DENIALS_sgp"} {
		// DenyDelete is about messages; a stream goes by who may delete streams.
		if err := js.DeleteStream(t.Context(), stream); err != nil {
			t.Fatalf("deleting %s: %v", stream, err)
		}
	}
	if err := w.obtain("sgp", alice, "alice"); err != nil {
		t.Errorf("with the streams gone: %v", err)
	}
	w.enforced("sgp", mallory, "mallory", true)
	if err := w.obtain("sfo", newUser(t), "bob"); code(err) != wire.ReadOnly {
		t.Errorf("a new name, with home's bucket gone: %v", err)
	}
	if now := w.service("issuer/sgp").Known().Dump(); !bytes.Equal(now, before) {
		t.Error("what is known has changed")
	}
	// A suspension that is made now is in force, though nobody can store it.
	eve := newUser(t)
	if err := w.obtain("ams", eve, "alice-2"); code(err) != wire.ReadOnly {
		t.Errorf("a new name, with home's bucket gone: %v", err)
	}
	key := ledger.IdentitySuspension(openIdentity(alice))
	_, err := w.service("registrar/sfo").Denials().Suspend(t.Context(), key, true, 0, ledger.Suspension{By: "test"})
	if err == nil || !strings.Contains(err.Error(), "in force") {
		t.Errorf("a suspension that nobody can store: %v", err)
	}
	w.enforced("sgp", alice, "alice", true)

	// An issuer that starts now has its copy on the disk, and says how old it is.
	w.stop("issuer/sgp")
	if took := w.start("issuer/sgp"); took > within(2*time.Second) {
		t.Errorf("without a stream to read an issuer starts in %v", took)
	}
	if !strings.Contains(w.log.String(), "what is known is from the copy on the disk") {
		t.Error("it does not say so")
	}
	w.enforced("sgp", mallory, "mallory", true)
	w.enforced("sgp", alice, "alice", true)

	// The operator makes them anew.
	var all []ident.Region
	for _, r := range regions() {
		all = append(all, region(r))
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	err = jetstream.Setup(ctx, w.dial(platform.Ledger, platform.RoleSetup, "ams"), region("ams"), all)
	if !errors.Is(err, ledger.ErrLost) || !strings.Contains(err.Error(), subject.DecisionsStream) {
		t.Fatalf("home's bucket is made anew beside mirrors that have what it had: %v", err)
	}
	lacks := ""
	defer func() { t.Logf("lacking last: %s", lacks) }()
	eventually(t, within(20*time.Second), "all denials are stored again in every region", func() bool {
		for _, r := range regions() {
			stored, err := jetstream.DenialsSource(read, region(r)).Read(t.Context(), 0, 100)
			if err != nil {
				lacks = r + ": " + err.Error()
				return false
			}
			lacks = r
			has := map[string]bool{}
			for _, s := range stored {
				has[s.Subject] = true
			}
			if !has[key.String()] || !has[ledger.IdentitySuspension(openIdentity(mallory)).String()] {
				return false
			}
		}
		return true
	})
	eventually(t, within(10*time.Second), "the log says that a stream is another one", func() bool {
		return strings.Contains(w.log.String(), "has less than before, or is another one")
	})
	if err := w.obtain("ams", eve, "alice"); code(err) != wire.NameTaken {
		t.Errorf("a name that the bucket has lost, by an issuer that knows it: %v", err)
	}
	if err := w.obtain("sfo", eve, "eve"); code(err) != wire.ReadOnly {
		t.Errorf("a new name, without a bucket: %v", err)
	}

	// Whoever makes an empty one by hand all the same: nobody loses a name by it.
	if _, err := js.CreateStream(t.Context(), natsjs.StreamConfig{
		Name: subject.DecisionsStream, Subjects: []string{subject.Decisions}, Replicas: 3, Placement: &natsjs.Placement{Cluster: "ams"},
	}); err != nil {
		t.Fatal(err)
	}
	// Home's registrar itself, asked by an issuer that knows nothing.
	d := &ledger.Decider{
		Store: must(jetstream.NewDecisions(w.dial(platform.Ledger, platform.RoleHome, "ams"))), Opener: w.opener(), Signer: w.signer("ams"),
		Rules: ledger.DefaultNameRules(), Known: w.service("registrar/ams").Known().Version,
	}
	if _, err := d.Claim(t.Context(), ledger.Claim{Name: must(ident.ParseName("alice")), Identity: openIdentity(eve), Expires: time.Now().Add(time.Hour)}, time.Now()); err == nil {
		t.Error("a name that the bucket has lost is given to another")
	}
}

// Streams that are full: nothing new is decided and nobody is told otherwise, what is
// denied is in force and said not to be stored, and when there is room again it is.
func TestFullStreams(t *testing.T) {
	w := newWorld(t, false)
	alice, mallory := newUser(t), newUser(t)
	if err := w.obtain("sfo", alice, "alice"); err != nil {
		t.Fatal(err)
	}
	w.equal(within(10 * time.Second))
	js := must(natsjs.New(w.hand()))
	// room bounds a stream to what it has, or lifts the bound.
	room := func(full bool) {
		t.Helper()
		for _, name := range []string{subject.DecisionsStream, "DENIALS_sfo"} {
			info := must(must(js.Stream(t.Context(), name)).Info(t.Context()))
			c := info.Config
			c.MaxBytes = -1
			if full {
				c.MaxBytes = int64(info.State.Bytes) + 1
			}
			if _, err := js.UpdateStream(t.Context(), c); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
		}
	}
	room(true)
	if err := w.obtain("sfo", mallory, "mallory"); code(err) != wire.ReadOnly {
		t.Errorf("a new name, with home's bucket full: %v", err)
	}
	if err := w.obtain("sfo", alice, "alice"); err != nil {
		t.Errorf("a name that was given: %v", err)
	}
	key := ledger.IdentitySuspension(openIdentity(alice))
	sfo := w.service("registrar/sfo")
	if _, err := sfo.Denials().Suspend(t.Context(), key, true, 0, ledger.Suspension{By: "test"}); !errors.Is(err, ledger.ErrUnavailable) {
		t.Errorf("a suspension that cannot be stored: %v", err)
	}
	// The suspension, and the revocation that follows from it.
	if n := sfo.Stats().Registrar.Unstored; n < 1 || n > 2 {
		t.Errorf("%d denials are said not to be stored", n)
	}
	for _, r := range regions() {
		w.enforced(r, alice, "alice", true)
	}
	room(false)
	eventually(t, within(20*time.Second), "what is in force is stored", func() bool { return sfo.Stats().Registrar.Unstored == 0 })
	eventually(t, within(20*time.Second), "new names are given again", func() bool { return w.obtain("sfo", mallory, "mallory") == nil })
	w.equal(within(10 * time.Second))
}
