package registrar_test

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/herald-nats/herald/pkg/audit"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/keystore"
	"github.com/herald-nats/herald/pkg/ledger"
	"github.com/herald-nats/herald/pkg/registrar"
)

// hinges is a Doorkeeper whose servers a test plays.
type hinges struct {
	*registrar.Doorkeeper
	mu     sync.Mutex
	gone   map[ident.Identity]bool
	away   map[string]bool
	kicked map[uint64]int
}

func newHinges() *hinges {
	h := &hinges{gone: map[ident.Identity]bool{}, away: map[string]bool{}, kicked: map[uint64]int{}}
	h.Doorkeeper = &registrar.Doorkeeper{
		Holdings: ledger.NewHoldings(), Log: slog.New(slog.DiscardHandler), Now: time.Now,
		Gone: func(id ident.Identity) bool { h.mu.Lock(); defer h.mu.Unlock(); return h.gone[id] },
		Kick: func(_ context.Context, server string, client uint64) error {
			h.mu.Lock()
			defer h.mu.Unlock()
			if h.away[server] {
				return errors.New("no answer")
			}
			h.kicked[client]++
			return nil
		},
	}
	return h
}

func (h *hinges) set(f func()) { h.mu.Lock(); defer h.mu.Unlock(); f() }

func (h *hinges) times(client uint64) int { h.mu.Lock(); defer h.mu.Unlock(); return h.kicked[client] }

// comes is the record of a connection, as registrars read it.
func (h *hinges) comes(id ident.Identity, server string, client uint64) {
	key := func(k keystore.Kind) string { return must(keystore.Generate(k)).Public() }
	r := audit.Record{
		Identity: id, User: must(ident.ParseUserKey(key(keystore.User))), Account: must(ident.ParseAccountKey(key(keystore.Account))),
		Issued: time.Now().Unix(), Expires: time.Now().Add(time.Hour).Unix(), Server: server, Client: client,
	}
	h.Holdings.Add(ledger.Credential{Identity: id, Account: r.Account, User: r.User, Issued: r.Issued, Expires: r.Expires, Server: server, Client: client}, time.Now())
	h.Issued(r)
}

// TestDoorkeeper: whoever is gone is disconnected wherever they are, as soon as it is known of
// both, and nobody else is.
func TestDoorkeeper(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHinges()
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { h.Run(ctx); close(done) }()
		defer func() { cancel(); <-done }()
		id := must(ident.ParseKeyID("HKAAAAAAAAAAAAAAAAAA"))
		mail, other := ident.KeyIdentity(id), ident.KeyIdentity(must(ident.ParseKeyID("HKBBBBBBBBBBBBBBBBBB")))
		news := func() { h.Changed(ledger.Entry{Key: ledger.AccessKeyKey(id)}); synctest.Wait() }
		h.comes(mail, "a", 1)
		h.comes(mail, "b", 2)
		h.comes(mail, "", 0) // by another door: its credential holds until it ends
		h.comes(other, "a", 3)
		news()
		if h.times(1)+h.times(2)+h.times(3)+h.times(0) != 0 {
			t.Fatal("somebody who is not gone is disconnected")
		}
		h.set(func() { h.gone[mail], h.away["b"] = true, true })
		news()
		if h.times(1) != 1 || h.times(3) != 0 || h.times(0) != 0 {
			t.Errorf("%d, %d, %d times", h.times(1), h.times(3), h.times(0))
		}
		// A record may come later than the news.
		h.comes(mail, "a", 4)
		time.Sleep(3 * time.Second)
		synctest.Wait()
		if h.times(4) != 1 {
			t.Error("who came at the same moment stays")
		}
		// A server that was away is asked until it answers, and then no more.
		time.Sleep(time.Minute)
		if h.times(2) != 0 {
			t.Fatal("a server that is away has closed a connection")
		}
		h.set(func() { h.away["b"] = false })
		time.Sleep(time.Minute)
		if h.times(2) != 1 || h.times(1) != 1 || h.Stats().Disconnected != 3 {
			t.Errorf("%d and %d times, %d in all", h.times(2), h.times(1), h.Stats().Disconnected)
		}
		// Who is let in again meanwhile is left alone.
		h.set(func() { h.away["b"] = true })
		h.comes(mail, "b", 5)
		time.Sleep(3 * time.Second)
		h.set(func() { h.gone[mail] = false })
		time.Sleep(3 * time.Second)
		h.set(func() { h.away["b"] = false })
		time.Sleep(time.Minute)
		if h.times(5) != 0 {
			t.Error("who may come again is disconnected")
		}
		// A credential that has ended is nobody's connection.
		h.set(func() { h.gone[other] = true; h.away["a"] = true })
		h.Changed(ledger.Entry{Key: ledger.AccessKeyKey(must(ident.ParseKeyID("HKBBBBBBBBBBBBBBBBBB")))})
		time.Sleep(2 * time.Hour)
		h.set(func() { h.away["a"] = false })
		time.Sleep(time.Minute)
		if h.times(3) != 0 {
			t.Error("a connection that ended by itself is closed")
		}
	})
}
