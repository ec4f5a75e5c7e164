package supercluster

import (
	"errors"
	"fmt"
	"io"
	"sync"
	"time"
)

// log is where all servers' lines go, whole and one at a time.
type log struct {
	mu sync.Mutex
	w  io.Writer // nil: nowhere
}

func newLog(w io.Writer) *log { return &log{w: w} }

func (l *log) line(server, level, format string, v []any) {
	if l.w == nil {
		return
	}
	text := fmt.Sprintf("%s %s %s %s\n", time.Now().UTC().Format("15:04:05.000"), level, server, fmt.Sprintf(format, v...))
	l.mu.Lock()
	defer l.mu.Unlock()
	// A log that cannot be written to is no reason to stop servers, and there is
	// nowhere else to say so.
	_, _ = io.WriteString(l.w, text)
}

// serverLog is one server's logger, for one run of it. It is the server's way to
// tell of a fatal error too: an embedded server must not end the process.
type serverLog struct {
	*log
	server string
	fatal  chan error // the first fatal error; holds one
}

func newServerLog(l *log, server string) *serverLog {
	return &serverLog{log: l, server: server, fatal: make(chan error, 1)}
}

// errFatal is what an error of a server wraps that would have ended its process.
var errFatal = errors.New("server gave up")

// Fatalf keeps the error for whoever starts the server. It returns, and the
// server goes on as far as it can, so it must be shut down.
func (l *serverLog) Fatalf(format string, v ...any) {
	l.line(l.server, "FTL", format, v)
	err := fmt.Errorf("%w: %s", errFatal, fmt.Sprintf(format, v...))
	// Servers format their errors into text; keep the error itself, such as a taken port.
	for _, a := range v {
		if cause, ok := a.(error); ok {
			err = &fatalError{err, cause}
		}
	}
	select {
	case l.fatal <- err:
	default:
	}
}

// fatalError reads as text, which has the cause in it already, and unwraps to both.
type fatalError struct{ text, cause error }

func (e *fatalError) Error() string   { return e.text.Error() }
func (e *fatalError) Unwrap() []error { return []error{e.text, e.cause} }

// Noticef, Warnf, Errorf, Debugf and Tracef make it a server.Logger.
func (l *serverLog) Noticef(format string, v ...any) { l.line(l.server, "INF", format, v) }

// Warnf logs a warning.
func (l *serverLog) Warnf(format string, v ...any) { l.line(l.server, "WRN", format, v) }

// Errorf logs an error.
func (l *serverLog) Errorf(format string, v ...any) { l.line(l.server, "ERR", format, v) }

// Debugf is not called: the servers' debug lines are off.
func (l *serverLog) Debugf(format string, v ...any) { l.line(l.server, "DBG", format, v) }

// Tracef is not called: the servers' trace lines are off.
func (l *serverLog) Tracef(format string, v ...any) { l.line(l.server, "TRC", format, v) }
