//go:build !race

package admintest

const slower = 1
