package client

import (
	"context"
	"errors"
	"strconv"
	"testing"
	"time"

	natsserver "github.com/nats-io/nats-server/v2/test"
	"github.com/nats-io/nats.go"

	"github.com/herald-nats/herald/pkg/wire"
)

// asked gives a connection on which serve sees each try with its number, from 1.
func asked(t *testing.T, serve func(nc *nats.Conn, try int, m *nats.Msg)) *nats.Conn {
	t.Helper()
	srv := natsserver.RunRandClientPortServer()
	t.Cleanup(srv.Shutdown)
	nc, err := nats.Connect(srv.ClientURL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	tries := 0
	if serve != nil {
		if _, err := nc.Subscribe("ask", func(m *nats.Msg) { tries++; serve(nc, tries, m) }); err != nil {
			t.Fatal(err)
		}
	}
	return nc
}

func build() (*nats.Msg, error) { return nats.NewMsg("ask"), nil }

// TestAskTakesALateAnswer: an issuer that needs longer than a try is patient answers in
// vain only if the answers to earlier tries are thrown away.
func TestAskTakesALateAnswer(t *testing.T) {
	t.Parallel()
	var first *nats.Msg
	nc := asked(t, func(_ *nats.Conn, try int, m *nats.Msg) {
		switch try {
		case 1:
			first = m
		case 2:
			if err := first.Respond([]byte("to the first try")); err != nil {
				t.Error(err)
			}
		}
	})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	var got string
	if err := ask(ctx, nc, build, func(m *nats.Msg) error { got = string(m.Data); return nil }); err != nil || got != "to the first try" {
		t.Errorf("%q: %v", got, err)
	}
	if n := nc.NumSubscriptions(); n != 1 {
		t.Errorf("%d subscriptions are left", n)
	}
}

// TestAsk: what is not believed is passed over, a refusal that cannot heal ends it, and one
// that can is followed by another try when it says so.
func TestAsk(t *testing.T) {
	t.Parallel()
	refuse := func(nc *nats.Conn, m *nats.Msg, e *wire.Error) {
		r := nats.NewMsg(m.Reply)
		r.Data = []byte(strconv.FormatInt(e.RetryAfterMS, 10))
		if err := nc.PublishMsg(r); err != nil {
			t.Error(err)
		}
	}
	take := func(m *nats.Msg) error {
		switch s := string(m.Data); s {
		case "good":
			return nil
		case "forged":
			return errors.New("not believed")
		default:
			ms, err := strconv.ParseInt(s, 10, 64)
			if err != nil {
				t.Error(err)
			}
			return &wire.Error{Code: wire.Unavailable, RetryAfterMS: ms}
		}
	}
	for name, c := range map[string]struct {
		serve func(nc *nats.Conn, try int, m *nats.Msg)
		tries int
		want  error
	}{
		"forged, then good": {func(nc *nats.Conn, _ int, m *nats.Msg) {
			_ = nc.Publish(m.Reply, []byte("forged"))
			_ = nc.Publish(m.Reply, []byte("good"))
		}, 1, nil},
		"refused for good": {func(nc *nats.Conn, _ int, m *nats.Msg) { refuse(nc, m, &wire.Error{}) }, 1, &wire.Error{Code: wire.Unavailable}},
		"refused for now": {func(nc *nats.Conn, try int, m *nats.Msg) {
			if try < 3 {
				refuse(nc, m, &wire.Error{RetryAfterMS: 1})
				return
			}
			_ = nc.Publish(m.Reply, []byte("good"))
		}, 3, nil},
		"nobody there": {nil, 0, ErrUnreachable},
		"nothing else than forgeries": {func(nc *nats.Conn, _ int, m *nats.Msg) {
			_ = nc.Publish(m.Reply, []byte("forged"))
		}, 2, ErrUnreachable},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tries := 0
			serve := c.serve
			if serve != nil {
				serve = func(nc *nats.Conn, try int, m *nats.Msg) { tries = try; c.serve(nc, try, m) }
			}
			nc := asked(t, serve)
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
			defer cancel()
			err := ask(ctx, nc, build, take)
			if !errors.Is(err, c.want) {
				t.Errorf("%v, and not %v", err, c.want)
			}
			nc.Close()
			if tries != c.tries {
				t.Errorf("%d tries, and not %d", tries, c.tries)
			}
		})
	}
}

// TestAskHoldsFewSubscriptions: a role may have few.
func TestAskHoldsFewSubscriptions(t *testing.T) {
	t.Parallel()
	most := 0
	nc := asked(t, func(nc *nats.Conn, try int, m *nats.Msg) {
		most = max(most, nc.NumSubscriptions()-1)
		answer := []byte("again")
		if try == 3*maxTries {
			answer = []byte("done")
		}
		_ = nc.Publish(m.Reply, answer)
	})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	err := ask(ctx, nc, build, func(m *nats.Msg) error {
		if string(m.Data) == "done" {
			return nil
		}
		return &wire.Error{Code: wire.Unavailable, RetryAfterMS: 1}
	})
	if err != nil {
		t.Fatal(err)
	}
	nc.Close()
	if most > maxTries {
		t.Errorf("%d tries were waited for at once", most)
	}
}

// TestAskForgetsWhereOthersLooked: all guests see where one of them is answered, and could
// have an issuer refuse something there for good.
func TestAskForgetsWhereOthersLooked(t *testing.T) {
	t.Parallel()
	var seen []string
	nc := asked(t, func(nc *nats.Conn, try int, m *nats.Msg) {
		seen = append(seen, m.Reply)
		if try == 1 {
			_ = nc.Publish(m.Reply, []byte("busy"))
			return
		}
		_ = nc.Publish(seen[0], []byte("refused for good"))
		_ = nc.Publish(m.Reply, []byte("good"))
	})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	err := ask(ctx, nc, build, func(m *nats.Msg) error {
		switch string(m.Data) {
		case "good":
			return nil
		case "busy":
			return &wire.Error{Code: wire.Unavailable, RetryAfterMS: 1}
		default:
			return &wire.Error{Code: wire.BadRequest}
		}
	})
	if err != nil {
		t.Error(err)
	}
	nc.Close()
	// nats.go's own names have a part that all of a connection share.
	if len(seen) != 2 || seen[0][:len(seen[0])-20] == seen[1][:len(seen[1])-20] {
		t.Errorf("one inbox tells of the next: %q", seen)
	}
}

// TestAskWhereProofEnds: a proof that cannot be made again does not throw away the answer to the
// one before.
func TestAskWhereProofEnds(t *testing.T) {
	t.Parallel()
	failed := make(chan struct{})
	nc := asked(t, func(_ *nats.Conn, _ int, m *nats.Msg) {
		<-failed
		_ = m.Respond([]byte("good"))
	})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	tries, noProof := 0, errors.New("no proof")
	err := ask(ctx, nc, func() (*nats.Msg, error) {
		if tries++; tries == 1 {
			return build()
		}
		if tries == 2 {
			close(failed)
		}
		return nil, noProof
	}, func(*nats.Msg) error { return nil })
	if err != nil {
		t.Error(err)
	}
	if err := ask(ctx, nc, func() (*nats.Msg, error) { return nil, noProof }, func(*nats.Msg) error { return nil }); !errors.Is(err, noProof) {
		t.Errorf("without any proof: %v", err)
	}
}
