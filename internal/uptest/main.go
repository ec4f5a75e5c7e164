package uptest

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
)

// Main runs the tests of a package that share what start starts, in a folder that goes away,
// and gives their exit code. stop is called when they are over; then nothing may be left
// running.
func Main(tests interface{ Run() int }, start func(dir string) (stop func() error, err error)) (code int) {
	fail := func(err error) {
		if err != nil {
			fmt.Fprintln(os.Stderr, "FAIL:", err)
			code = 1
		}
	}
	dir, err := os.MkdirTemp("", "herald-test-*")
	if err != nil {
		fail(err)
		return code
	}
	defer func() { fail(os.RemoveAll(dir)) }()
	stop, err := start(dir)
	if err != nil {
		fail(err)
		return code
	}
	code = tests.Run()
	fail(errors.Join(stop(), Leaks()))
	return code
}

// Log is a log that tests read while others write. The zero value is empty and ready.
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
