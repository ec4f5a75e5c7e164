// Package testlog keeps what something writes, for tests that read it meanwhile.
package testlog

import (
	"bytes"
	"log/slog"
	"slices"
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
