package nscmap_test

import (
	"fmt"
	"testing"

	"github.com/nats-io/jwt/v2"

	"github.com/herald-nats/herald/pkg/nscmap"
)

// BenchmarkFrom moves an operator of 10,000 accounts, each with a role, a user and an
// import.
func BenchmarkFrom(b *testing.B) {
	m := newMaker(b)
	hub := m.account("HUB")
	hub.Exports.Add(&jwt.Export{Subject: "news.>", Type: jwt.Stream})
	for i := range 10_000 {
		c := m.account(fmt.Sprintf("ACC%d", i))
		role := m.role(c, "svc")
		c.Imports.Add(&jwt.Import{Account: hub.Subject, Subject: "news.>", Type: jwt.Stream})
		m.user(c, "u1", role.Key)
	}
	s := m.store()
	b.ResetTimer()
	for range b.N {
		moved, err := nscmap.From(s, nscmap.Options{Into: into(b), Now: now()})
		if err != nil || len(moved.Refused) > 0 {
			b.Fatal(err, moved.Refused)
		}
	}
}
