package tui

import (
	"strconv"

	"github.com/gdamore/tcell/v2"
)

// ParseKey reads the name of a key that can be bound: "F2" to "F12".
func ParseKey(name string) (tcell.Key, bool) {
	if len(name) < 2 || name[0] != 'F' {
		return 0, false
	}
	n, err := strconv.Atoi(name[1:])
	if err != nil || n < 2 || n > 12 || name != "F"+strconv.Itoa(n) {
		return 0, false
	}
	return tcell.KeyF1 + tcell.Key(n-1), true
}
