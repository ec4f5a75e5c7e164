package uptest

import "go.uber.org/goleak"

// Leaks finds goroutines that are left after everything was closed. It passes over those
// of nats-server 2.15.2 that outlive its shutdown:
//
//   - a stream that mirrors or sources another waits up to 30 s for the answer to its
//     request for a consumer, and looks at nothing else meanwhile (setupMirrorConsumer and
//     trySetupSourceConsumer);
//   - a server whose disk was wiped, and that is given an account while it makes that
//     account's streams anew, may open a stream's store twice and close it once
//     (flushStreamStateLoop, and the clock of ats.Register that it holds).
func Leaks() error { return goleak.Find(LeftByServers()...) }

// LeftByServers are the options of goleak that Leaks uses, for tests that compare.
func LeftByServers() []goleak.Option {
	const stream = "github.com/nats-io/nats-server/v2/server.(*stream)."
	return []goleak.Option{
		goleak.IgnoreAnyFunction(stream + "setupMirrorConsumer.func3"),
		goleak.IgnoreAnyFunction(stream + "trySetupSourceConsumer.func3"),
		goleak.IgnoreAnyFunction(stream + "trySetupSourceConsumer.func2"),
		goleak.IgnoreAnyFunction("github.com/nats-io/nats-server/v2/server.(*fileStore).flushStreamStateLoop"),
		goleak.IgnoreAnyFunction("github.com/nats-io/nats-server/v2/server/ats.Register.func1"),
	}
}
