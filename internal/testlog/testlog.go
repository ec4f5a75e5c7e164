// Package testlog keeps what something writes, for tests that read it meanwhile.
package testlog

import (
	"bytes"
	"log/slog"
	"slices"
	"strings"
	"sync"
)

// Log is read while others write. The zero value is empty and ready.
type Log struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *Log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

// Bytes are what was written so far.
func (l *Log) Bytes() []byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.buf.Bytes())
}

func (l *Log) String() string { return string(l.Bytes()) }

// Logger writes it, as text and all of it.
func (l *Log) Logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(l, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// Tail are the last lines that have a text in them, n at most.
func (l *Log) Tail(n int, text string) string {
	var lines []string
	for line := range strings.Lines(l.String()) {
		if strings.Contains(line, text) {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines[max(0, len(lines)-n):], "")
}
