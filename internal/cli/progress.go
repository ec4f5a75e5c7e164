package cli

import (
	"fmt"
	"sync"
	"time"
)

// progressAfter is how long something takes before its progress is shown: what is over in
// a moment needs none.
const progressAfter = 500 * time.Millisecond

// progressEvery is how often it is shown anew.
const progressEvery = 100 * time.Millisecond

// Progress gives a function that shows on stderr how far a long step is; nil where stderr
// is no terminal. It writes over its own line, and takes it away at the end of the step.
// It may be called from any goroutine.
func Progress(stdio IO) func(what string, done, of int) {
	if !Terminal(stdio.Err) {
		return nil
	}
	var (
		mu            sync.Mutex
		what          string
		began, lately time.Time
		shown         bool
	)
	return func(w string, done, of int) {
		mu.Lock()
		defer mu.Unlock()
		now := time.Now()
		if w != what {
			what, began = w, now
		}
		switch {
		case done >= of:
			if shown {
				_, _ = fmt.Fprint(stdio.Err, "\r\x1b[K")
				shown = false
			}
			what = ""
		case now.Sub(began) >= progressAfter && now.Sub(lately) >= progressEvery:
			_, _ = fmt.Fprintf(stdio.Err, "\r\x1b[K%s: %d of %d", w, done, of)
			shown, lately = true, now
		}
	}
}
