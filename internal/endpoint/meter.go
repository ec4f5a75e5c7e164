package endpoint

import "sync/atomic"

// Meter counts the requests of one endpoint that never came to its handler, and those that
// are at work. The methods of a nil one count nothing.
type Meter struct {
	atWork                    atomic.Int64
	busy, limited, unanswered atomic.Uint64
}

// Metered is what a Meter has counted.
type Metered struct {
	AtWork int64 // now
	// Turned away since the start: because too many were at work; by Admit, with an answer;
	// and by Admit without one.
	Busy, Limited, Unanswered uint64
}

// Read gives it as it is now.
func (m *Meter) Read() Metered {
	return Metered{AtWork: m.atWork.Load(), Busy: m.busy.Load(), Limited: m.limited.Load(), Unanswered: m.unanswered.Load()}
}

// refused counts what Admit did not let in.
func (m *Meter) refused(r Response) {
	switch {
	case m == nil:
	case r.Silent:
		m.unanswered.Add(1)
	default:
		m.limited.Add(1)
	}
}

func (m *Meter) full() {
	if m != nil {
		m.busy.Add(1)
	}
}

func (m *Meter) working(n int64) {
	if m != nil {
		m.atWork.Add(n)
	}
}
