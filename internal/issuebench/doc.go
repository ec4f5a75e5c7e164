// Package issuebench measures whole requests for credentials on a running platform, beside
// what the same connections, servers and imports carry when next to nothing is done for an
// answer. It holds nothing but its benchmarks and the soak test.
package issuebench
