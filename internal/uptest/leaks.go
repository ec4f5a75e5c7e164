package uptest

import "go.uber.org/goleak"

// Leaks finds goroutines that are left after everything was closed. It passes over two
// of nats-server's own that outlive its shutdown: a stream that mirrors or sources
// another waits up to 30 s for the answer to its request for a consumer, and looks at
// nothing else meanwhile (nats-server 2.15.2, setupMirrorConsumer and
// trySetupSourceConsumer).
func Leaks() error { return goleak.Find(LeftByServers()...) }

// LeftByServers are the options of goleak that Leaks uses, for tests that compare.
func LeftByServers() []goleak.Option {
	const stream = "github.com/nats-io/nats-server/v2/server.(*stream)."
	return []goleak.Option{
		goleak.IgnoreAnyFunction(stream + "setupMirrorConsumer.func3"),
		goleak.IgnoreAnyFunction(stream + "trySetupSourceConsumer.func3"),
		goleak.IgnoreAnyFunction(stream + "trySetupSourceConsumer.func2"),
	}
}
