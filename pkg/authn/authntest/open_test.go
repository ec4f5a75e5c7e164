package authntest_test

import (
	"testing"
	"time"

	"github.com/nats-io/nkeys"

	"github.com/herald-nats/herald/pkg/authn"
	"github.com/herald-nats/herald/pkg/authn/authntest"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/wire"
)

func TestOpen(t *testing.T) {
	authntest.Run(t, func(t *testing.T) authntest.Case {
		c := authntest.Case{Method: authn.Open{}}
		for range 2 {
			c.Good = append(c.Good, authn.Evidence{
				Request: wire.Request{UserKey: userKey(t), Identity: wire.Proof{Type: wire.ProofOpen}},
				Now:     time.Now(),
			})
		}
		return c
	})
}

func userKey(t *testing.T) ident.UserKey {
	t.Helper()
	pair, err := nkeys.CreateUser()
	if err != nil {
		t.Fatal(err)
	}
	pub, err := pair.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	k, err := ident.ParseUserKey(pub)
	if err != nil {
		t.Fatal(err)
	}
	return k
}
