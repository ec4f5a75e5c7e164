//go:build race

package faultstest

// raceEnabled: the race detector makes everything some ten times slower, and figures
// that a test holds otherwise are only told.
const raceEnabled = true
