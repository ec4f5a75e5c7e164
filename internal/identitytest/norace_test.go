//go:build !race

package identitytest

const slower = 1
