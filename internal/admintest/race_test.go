//go:build race

package admintest

// slower is by how much the race detector makes everything slower, and figures with it.
const slower = 10
