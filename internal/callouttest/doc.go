// Package callouttest holds the callout door against a running platform: who comes in by it, with
// what rights, and who does not. It has only tests.
package callouttest
