package jetstream_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"

	"github.com/herald-nats/herald/internal/natsconn"
	"github.com/herald-nats/herald/internal/uptest"
	"github.com/herald-nats/herald/pkg/audit"
	"github.com/herald-nats/herald/pkg/audit/audittest"
	"github.com/herald-nats/herald/pkg/audit/stream"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/keystore"
	"github.com/herald-nats/herald/pkg/ledger"
	"github.com/herald-nats/herald/pkg/ledger/jetstream"
	"github.com/herald-nats/herald/pkg/ledger/ledgertest"
	"github.com/herald-nats/herald/pkg/platform"
	"github.com/herald-nats/herald/pkg/subject"
)

// running is the platform of this test binary: one region with its three nodes,
// so that the streams have the three replicas that they have in earnest.
var running *uptest.Platform //nolint:gochecknoglobals // TestMain has no other way to hand it on

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) (code int) {
	dir, err := os.MkdirTemp("", "herald-ledger-*")
	if err != nil {
		return failed(err)
	}
	defer func() {
		if err := os.RemoveAll(dir); err != nil {
			code = failed(err)
		}
	}()
	if running, err = uptest.Start(dir, uptest.Options{Regions: []string{"ams"}, Bare: true}); err != nil {
		return failed(err)
	}
	code = m.Run()
	if err := running.Close(); err != nil {
		return failed(err)
	}
	return code
}

func failed(err error) int {
	fmt.Fprintln(os.Stderr, err)
	return 1
}

func ams(t testing.TB) ident.Region {
	t.Helper()
	r, err := ident.ParseRegion("ams")
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// dial connects as a user of a role, with the rights that a service has and no more.
func dial(t testing.TB, account, role string) (*nats.Conn, ident.UserKey) {
	t.Helper()
	nc, key := dialed(t, account, role)
	self, err := ident.ParseUserKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	return nc, self
}

func dialed(t testing.TB, account, role string) (*nats.Conn, *keystore.Key) {
	t.Helper()
	u, err := running.Up.Platform.Mint(account, role, time.Now(), 10*time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	key, err := ident.ParseUserKey(u.Key.Public())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	nc, err := natsconn.Dial(ctx, natsconn.Options{
		URLs: running.Public.Document.Regions[0].URLs, Name: t.Name(), InboxPrefix: subject.ServiceInboxPrefix(key),
		Credential: natsconn.Static{Token: u.Token, Key: u.Key},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return nc, u.Key
}

// issuer connects as one that writes records.
func issuer(t testing.TB) (*nats.Conn, *audittest.Scribe) {
	t.Helper()
	nc, key := dialed(t, platform.Auth, platform.RoleIssuer)
	return nc, audittest.ScribeOf(t, key)
}

func reader(t testing.TB) *nats.Conn {
	t.Helper()
	nc, _ := dial(t, platform.Readers, platform.RoleReader)
	return nc
}

func decisions(t *testing.T) *jetstream.Decisions {
	t.Helper()
	nc, _ := dial(t, platform.Ledger, platform.RoleHome)
	s, err := jetstream.NewDecisions(nc)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// Each test of the suites has connections of its own.
func TestConformance(t *testing.T) {
	t.Run("decisions", func(t *testing.T) {
		ledgertest.Decisions(t, func(t *testing.T) ledger.DecisionStore { return decisions(t) })
	})
	t.Run("mirror of decisions", func(t *testing.T) {
		ledgertest.DecisionSource(t, func(t *testing.T) (ledger.DecisionStore, ledger.Source) {
			return decisions(t), jetstream.MirrorSource(reader(t), ams(t))
		})
	})
	t.Run("mirror of decisions, as an issuer", func(t *testing.T) {
		ledgertest.DecisionSource(t, func(t *testing.T) (ledger.DecisionStore, ledger.Source) {
			nc, _ := dial(t, platform.Auth, platform.RoleIssuer)
			return decisions(t), jetstream.MirrorSource(nc, ams(t))
		})
	})
	t.Run("denials", func(t *testing.T) {
		ledgertest.Denials(t, func(t *testing.T) (ledger.DenialStore, ledger.Source) {
			write, _ := dial(t, platform.Ledger, platform.RoleRegistrar)
			read := reader(t)
			return jetstream.NewDenials(write, read, ams(t)), jetstream.DenialsSource(read, ams(t))
		})
	})
	t.Run("blocks of records", func(t *testing.T) {
		audittest.Store(t, func(t *testing.T) (audit.Store, ledger.Source, *audittest.Scribe) {
			nc, w := issuer(t)
			return stream.New(nc, ams(t), w.User), jetstream.RecordsSource(reader(t), ams(t)), w
		})
	})
}

// Two registrars are two processes: what one writes decides for the other.
func TestTwoRegistrars(t *testing.T) {
	a, b := decisions(t), decisions(t)
	key := ledger.NameKey(ledgertest.Name(t, "two"))
	if err := a.Put(t.Context(), key, "a", 0); err != nil {
		t.Fatal(err)
	}
	if err := b.Put(t.Context(), key, "b", 0); !errors.Is(err, ledger.ErrConflict) {
		t.Errorf("got %v, want ErrConflict", err)
	}
}

// Setup is called at each start: the second changes nothing.
func TestSetupAgain(t *testing.T) {
	s := decisions(t)
	key := ledger.NameKey(ledgertest.Name(t, "kept"))
	if err := s.Put(t.Context(), key, "kept", 0); err != nil {
		t.Fatal(err)
	}
	nc, _ := dial(t, platform.Ledger, platform.RoleSetup)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := jetstream.Setup(ctx, nc, ams(t), []ident.Region{ams(t)}); err != nil {
		t.Fatal(err)
	}
	js, err := natsjs.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	// What servers have of each has all that is asked for, and so nothing is updated.
	for _, want := range jetstream.Configs(ams(t)) {
		s, err := js.Stream(ctx, want.Name)
		if err != nil {
			t.Fatal(err)
		}
		have := s.CachedInfo().Config
		if !jetstream.HasAll(have, want) {
			t.Errorf("%s would be updated: %+v has not all of %+v", want.Name, have, want)
		}
		for what, change := range map[string]func(*natsjs.StreamConfig){
			"replicas": func(c *natsjs.StreamConfig) { c.Replicas = 1 },
			"size":     func(c *natsjs.StreamConfig) { c.MaxMsgSize = max(c.MaxMsgSize, 0) + 1 },
			"placement": func(c *natsjs.StreamConfig) {
				c.Placement = &natsjs.Placement{Cluster: "elsewhere"}
			},
			"a source more": func(c *natsjs.StreamConfig) {
				c.Sources = append(slices.Clone(c.Sources), &natsjs.StreamSource{Name: "X"})
			},
			"no republishing": func(c *natsjs.StreamConfig) { c.RePublish = &natsjs.RePublish{Source: "a", Destination: "b"} },
			"direct get":      func(c *natsjs.StreamConfig) { c.AllowDirect = !c.AllowDirect },
		} {
			other := want
			change(&other)
			if jetstream.HasAll(have, other) {
				t.Errorf("%s would not be updated for %s", want.Name, what)
			}
		}
	}
	if err := s.Put(t.Context(), key, "other", 0); !errors.Is(err, ledger.ErrConflict) {
		t.Errorf("after a second Setup: got %v, want ErrConflict", err)
	}
}

// What the design rests on is what the servers have, and not only what was asked for:
// they change some settings by themselves (a mirror of a stream that allows direct
// gets answers for that stream, whatever its configuration said).
func TestStreams(t *testing.T) {
	nc, _ := dial(t, platform.Ledger, platform.RoleSetup)
	js, err := natsjs.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{subject.DecisionsStream, "DECISIONS_ams", "DENIALS_ams", "AUDIT_ams"} {
		s, err := js.Stream(t.Context(), name)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		c := s.CachedInfo().Config
		if c.Replicas != 3 || !c.DenyDelete || !c.DenyPurge || c.AllowRollup || c.AllowMsgTTL || c.Storage != natsjs.FileStorage {
			t.Errorf("%s: %+v", name, c)
		}
		if home := name == subject.DecisionsStream; c.AllowDirect == home || c.MirrorDirect {
			t.Errorf("%s: direct get %t, for its origin %t", name, c.AllowDirect, c.MirrorDirect)
		}
		if denials := name == "DENIALS_ams"; c.NoAck != denials || denials && c.Duplicates != 0 {
			t.Errorf("%s: no acknowledgement: %t, duplicates for %v", name, c.NoAck, c.Duplicates)
		}
	}
}

// What a registrar publishes is answered by nothing: an answer would land on whatever
// subject of LEDGER it chose. That a message is a duplicate is such an answer too, and
// nats-server gives it whatever NoAck says.
func TestDenialsAnswerNothing(t *testing.T) {
	nc, _ := dial(t, platform.Ledger, platform.RoleRegistrar)
	sub, err := nc.SubscribeSync(nc.NewInbox())
	if err != nil {
		t.Fatal(err)
	}
	src := jetstream.DenialsSource(reader(t), ams(t))
	before, err := src.Last(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		m := nats.NewMsg(subject.DenialsPrefix(ams(t)) + "x")
		m.Reply, m.Data = sub.Subject, []byte("x")
		m.Header.Set(nats.MsgIdHdr, "same")
		if err := nc.PublishMsg(m); err != nil {
			t.Fatal(err)
		}
	}
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		if last, err := src.Last(t.Context()); err == nil && last >= before+3 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("they are not all stored: some were taken for duplicates")
		}
	}
	if m, err := sub.NextMsg(100 * time.Millisecond); err == nil {
		t.Errorf("answered with %s", m.Data)
	}
}

// A denial that is not there in time is not told as written; and there is no answer
// that could be aimed at anything.
func TestDenialsAreLookedFor(t *testing.T) {
	write, key := dial(t, platform.Ledger, platform.RoleRegistrar)
	d := jetstream.NewDenials(write, reader(t), ams(t))
	write.Close()
	if err := d.Append(t.Context(), ledger.RevocationKey(ledgertest.Account(t), key), "x"); !errors.Is(err, ledger.ErrUnavailable) {
		t.Errorf("over a closed connection: %v", err)
	}
	write, _ = dial(t, platform.Ledger, platform.RoleRegistrar)
	blind := reader(t)
	d = jetstream.NewDenials(write, blind, ams(t))
	blind.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if err := d.Append(ctx, ledger.RevocationKey(ledgertest.Account(t), key), "x"); !errors.Is(err, ledger.ErrUnavailable) {
		t.Errorf("where nobody can look: %v", err)
	}
}

func TestClosedConnection(t *testing.T) {
	nc, _ := dial(t, platform.Ledger, platform.RoleHome)
	s, err := jetstream.NewDecisions(nc)
	if err != nil {
		t.Fatal(err)
	}
	read := reader(t)
	nc.Close()
	read.Close()
	key := ledger.NameKey(ledgertest.Name(t, "closed"))
	if _, _, err := s.Get(t.Context(), key); !errors.Is(err, ledger.ErrUnavailable) {
		t.Errorf("Get: %v", err)
	}
	if err := s.Put(t.Context(), key, "x", 0); !errors.Is(err, ledger.ErrUnavailable) {
		t.Errorf("Put: %v", err)
	}
	src := jetstream.MirrorSource(read, ams(t))
	if _, err := src.Read(t.Context(), 0, 1); !errors.Is(err, ledger.ErrUnavailable) {
		t.Errorf("Read: %v", err)
	}
	if _, err := src.Last(t.Context()); !errors.Is(err, ledger.ErrUnavailable) {
		t.Errorf("Last: %v", err)
	}
	w := audittest.NewScribe(t)
	if err := stream.New(read, ams(t), w.User).Append(t.Context(), w.Block(t)); !errors.Is(err, audit.ErrUnavailable) {
		t.Errorf("Append: %v", err)
	}
}

// News of what is decided, of denials and what registrars tell come as hints, under
// the keys that they are about.
func TestHints(t *testing.T) {
	hints, err := jetstream.Hints(reader(t), ams(t))
	if err != nil {
		t.Fatal(err)
	}
	s := decisions(t)
	write, user := dial(t, platform.Ledger, platform.RoleRegistrar)
	name, revoked := ledger.NameKey(ledgertest.Name(t, "hint.ed")), ledger.RevocationKey(ledgertest.Account(t), user)
	if err := s.Put(t.Context(), name, "decided", 0); err != nil {
		t.Fatal(err)
	}
	if err := jetstream.NewDenials(write, reader(t), ams(t)).Append(t.Context(), revoked, "denied"); err != nil {
		t.Fatal(err)
	}
	if err := write.Publish(subject.Live(ams(t), revoked.String()), []byte("told")); err != nil {
		t.Fatal(err)
	}
	want := []string{name.String() + " decided", revoked.String() + " denied", revoked.String() + " told"}
	for deadline := time.After(10 * time.Second); len(want) > 0; {
		select {
		case h := <-hints:
			if i := slices.Index(want, h.Subject+" "+h.Data); i >= 0 {
				want = slices.Delete(want, i, i+1)
			}
		case <-deadline:
			t.Fatalf("not heard: %q", want)
		}
	}
}

// Reading from a moment on begins with the first record of that moment.
func TestBefore(t *testing.T) {
	nc, w := issuer(t)
	src := jetstream.RecordsSource(reader(t), ams(t))
	put := func() uint64 {
		t.Helper()
		before, err := src.Last(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if err := stream.New(nc, ams(t), w.User).Append(t.Context(), w.Block(t)); err != nil {
			t.Fatal(err)
		}
		for {
			if last, err := src.Last(t.Context()); err == nil && last > before {
				return last
			}
			time.Sleep(time.Millisecond)
		}
	}
	first := put()
	time.Sleep(20 * time.Millisecond)
	between := time.Now()
	time.Sleep(20 * time.Millisecond)
	second := put()
	for at, want := range map[time.Time]uint64{
		between: second - 1, between.Add(-24 * time.Hour): 0, between.Add(time.Hour): second,
	} {
		got, err := src.Before(t.Context(), at)
		// A replica that is behind answers for what it has, which is earlier.
		for until := time.Now().Add(10 * time.Second); err == nil && got < want && time.Now().Before(until); got, err = src.Before(t.Context(), at) {
			time.Sleep(time.Millisecond)
		}
		if err != nil || got != want {
			t.Errorf("before %v: %d %v, want %d (first %d)", at, got, err, want, first)
		}
	}
}

// A connection that is closed leaves no goroutine.
func TestNoLeaks(t *testing.T) {
	ignore := goleak.IgnoreCurrent()
	t.Run("use", func(t *testing.T) {
		if _, _, err := decisions(t).Get(t.Context(), ledger.NameKey(ledgertest.Name(t, "leak"))); !errors.Is(err, ledger.ErrNotFound) {
			t.Error(err)
		}
		if _, err := jetstream.MirrorSource(reader(t), ams(t)).Read(t.Context(), 0, 10); err != nil {
			t.Error(err)
		}
	})
	// The servers have goroutines of their own that come and go.
	goleak.VerifyNone(t, append(uptest.LeftByServers(), ignore, goleak.IgnoreAnyFunction("github.com/nats-io/nats-server/v2/server.(*Server).startGoRoutine.func1"))...)
}
