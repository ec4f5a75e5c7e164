package stream_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"go.uber.org/goleak"

	"github.com/herald-nats/herald/pkg/audit"
	"github.com/herald-nats/herald/pkg/audit/stream"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/keystore"
)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// A block that was sent before its server went is not waited for until its time is over: a service
// that ends, or somebody who asks for a credential, would wait with it. What a stream does with
// blocks is tested with real ones, in pkg/ledger/jetstream.
func TestAppendWithoutAServer(t *testing.T) {
	defer goleak.VerifyNone(t)
	srv := must(server.NewServer(&server.Options{Host: "127.0.0.1", Port: -1, NoLog: true, NoSigs: true}))
	srv.Start()
	defer srv.WaitForShutdown()
	defer srv.Shutdown()
	if !srv.ReadyForConnections(10 * time.Second) {
		t.Fatal("the server does not start")
	}
	nc := must(nats.Connect(srv.ClientURL()))
	defer nc.Close()
	came := make(chan struct{}, 1)
	// Somebody who takes a block and never answers.
	must(nc.Subscribe("audit.>", func(*nats.Msg) { came <- struct{}{} }))
	s := stream.New(nc, must(ident.ParseRegion("ams")), must(ident.ParseUserKey(must(keystore.Generate(keystore.User)).Public())))
	ended := make(chan error, 1)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	go func() { ended <- s.Append(ctx, audit.Sealed{Data: make([]byte, 128)}) }()
	<-came
	srv.Shutdown()
	select {
	case err := <-ended:
		if !errors.Is(err, audit.ErrUnavailable) || ctx.Err() != nil {
			t.Error(err)
		}
	case <-ctx.Done():
		t.Fatal("it waits for an answer that nobody can give")
	}
	if err := s.Append(ctx, audit.Sealed{Data: make([]byte, 128)}); !errors.Is(err, audit.ErrUnavailable) || ctx.Err() != nil {
		t.Errorf("without a connection: %v", err)
	}
}
