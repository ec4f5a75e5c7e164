package jetstream_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"go.uber.org/goleak"

	"github.com/herald-nats/herald/internal/natsconn"
	"github.com/herald-nats/herald/internal/uptest"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/ledger"
	"github.com/herald-nats/herald/pkg/ledger/jetstream"
	"github.com/herald-nats/herald/pkg/ledger/ledgertest"
	"github.com/herald-nats/herald/pkg/platform"
	"github.com/herald-nats/herald/pkg/subject"
)

// running is the platform of this test binary: one region with its three nodes,
// so that the bucket has the three replicas that it has in earnest.
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

// dial connects to LEDGER as a user of a role, with the rights that a registrar
// or the set-up tool has and no more.
func dial(t *testing.T, role string) *nats.Conn {
	t.Helper()
	p, err := platform.Open(running.Dir)
	if err != nil {
		t.Fatal(err)
	}
	u, err := p.Mint(platform.Ledger, role, time.Now(), 10*time.Minute)
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
		URLs: p.Document.Regions[0].URLs, Name: t.Name(), InboxPrefix: subject.ServiceInboxPrefix(key),
		Credential: natsconn.Static{Token: u.Token, Key: u.Key},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return nc
}

func names(t *testing.T) *jetstream.Names {
	t.Helper()
	s, err := jetstream.NewNames(dial(t, platform.RoleRegistrar))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestConformance(t *testing.T) {
	// Each test of the suite has a connection of its own.
	ledgertest.Names(t, func(t *testing.T) ledger.NameStore { return names(t) })
}

// Two registrars are two processes: what one writes decides for the other.
func TestTwoRegistrars(t *testing.T) {
	a, b := names(t), names(t)
	n := ledgertest.Name(t, "two")
	if err := a.PutName(t.Context(), n, "a", 0); err != nil {
		t.Fatal(err)
	}
	if err := b.PutName(t.Context(), n, "b", 0); !errors.Is(err, ledger.ErrConflict) {
		t.Errorf("got %v, want ErrConflict", err)
	}
}

// Setup is called at each start: the second changes nothing.
func TestSetupAgain(t *testing.T) {
	s := names(t)
	n := ledgertest.Name(t, "kept")
	if err := s.PutName(t.Context(), n, "kept", 0); err != nil {
		t.Fatal(err)
	}
	home, err := ident.ParseRegion("ams")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := jetstream.Setup(ctx, dial(t, platform.RoleSetup), home); err != nil {
		t.Fatal(err)
	}
	if err := s.PutName(t.Context(), n, "other", 0); !errors.Is(err, ledger.ErrConflict) {
		t.Errorf("after a second Setup: got %v, want ErrConflict", err)
	}
}

// A registrar decides names and nothing else: it can neither make nor drop the
// bucket, nor remove what is in it.
func TestRegistrarCannotDestroy(t *testing.T) {
	nc := dial(t, platform.RoleRegistrar)
	s := names(t)
	n := ledgertest.Name(t, "stays")
	if err := s.PutName(t.Context(), n, "stays", 0); err != nil {
		t.Fatal(err)
	}
	for _, subj := range []string{
		"$JS.API.STREAM.DELETE." + subject.NamesStream, "$JS.API.STREAM.PURGE." + subject.NamesStream,
		"$JS.API.STREAM.MSG.DELETE." + subject.NamesStream, "$JS.API.STREAM.CREATE.X", "$JS.API.STREAM.UPDATE." + subject.NamesStream,
		"$JS.API.CONSUMER.CREATE." + subject.NamesStream,
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		m, err := nc.RequestWithContext(ctx, subj, []byte(`{"seq":1}`))
		cancel()
		if err == nil {
			t.Errorf("%s is answered: %s", subj, m.Data)
		}
	}
	if err := s.PutName(t.Context(), n, "other", 0); !errors.Is(err, ledger.ErrConflict) {
		t.Errorf("it is gone: %v", err)
	}
	// Messages of the bucket's owner are not removed by a roll-up either.
	m := nats.NewMsg("$KV." + subject.NamesBucket + "." + subject.Name(n))
	m.Header.Set("Nats-Rollup", "sub")
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if ack, err := nc.RequestMsgWithContext(ctx, m); err == nil && !hasError(ack.Data) {
		t.Errorf("a roll-up is accepted: %s", ack.Data)
	}
}

func hasError(data []byte) bool {
	for i := range data {
		if i+7 <= len(data) && string(data[i:i+7]) == `"error"` {
			return true
		}
	}
	return false
}

func TestClosedConnection(t *testing.T) {
	nc := dial(t, platform.RoleRegistrar)
	s, err := jetstream.NewNames(nc)
	if err != nil {
		t.Fatal(err)
	}
	nc.Close()
	n := ledgertest.Name(t, "closed")
	if _, _, err := s.Name(t.Context(), n); !errors.Is(err, ledger.ErrUnavailable) {
		t.Errorf("Name: %v", err)
	}
	if err := s.PutName(t.Context(), n, "x", 0); !errors.Is(err, ledger.ErrUnavailable) {
		t.Errorf("PutName: %v", err)
	}
}

// A connection that is closed leaves no goroutine.
func TestNoLeaks(t *testing.T) {
	ignore := goleak.IgnoreCurrent()
	t.Run("use", func(t *testing.T) {
		if _, _, err := names(t).Name(t.Context(), ledgertest.Name(t, "leak")); !errors.Is(err, ledger.ErrNotFound) {
			t.Error(err)
		}
	})
	// The servers have goroutines of their own that come and go.
	goleak.VerifyNone(t, ignore, goleak.IgnoreAnyFunction("github.com/nats-io/nats-server/v2/server.(*Server).startGoRoutine.func1"))
}
