// Package rightstest holds one claim to real servers: nobody but its owner can
// read a seed, a user's direct messages or another guest's answer, with any
// credential that Herald gives out. Each test is an attack that was seen to
// work against a platform laid out in another way; the facts that its comment
// numbers are those on which docs/architecture.md rests. It has no code but
// its tests.
//
// The attacks speak NATS's own protocol over TCP where a client library would
// be too well-behaved. That something did not happen is shown by what came
// behind it on the same path, never by waiting.
package rightstest
