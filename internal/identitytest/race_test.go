//go:build race

package identitytest

// slower is by how much longer credentials live where the race detector slows all else down.
const slower = 2
