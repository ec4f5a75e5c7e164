package registrar

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/ledger"
	"github.com/herald-nats/herald/pkg/subject"
)

// Mirrors sees that every region hears what home decided, also where its mirror of
// home's bucket is behind: after a cut, or after the death of the server that it copied
// from, a mirror may take half a minute. It is home's registrars' work: they alone ask
// the bucket itself.
type Mirrors struct {
	Origin ledger.Source                  // home's bucket
	Copies map[ident.Region]ledger.Source // each region's mirror
	// Fork gives up to which position home's bucket has what the home before it had decided; false
	// if home never moved. What a mirror has beyond may be something else. nil: home never moves.
	Fork func() (uint64, bool)
	// Publish sends a message in LEDGER, to whoever is there; it may be lost.
	Publish func(subject string, data []byte) error
	Log     *slog.Logger
	Now     func() time.Time

	mu   sync.Mutex
	told map[ident.Region]toldUpTo
}

// toldUpTo is what a region that is behind was told lately.
type toldUpTo struct {
	seq   uint64
	at    time.Time
	since time.Time // since when it is behind
	said  bool      // that it is, in the log
}

const (
	// mirrorsEvery is how often mirrors are compared with the bucket.
	mirrorsEvery = time.Second
	// tellAtOnce bounds what a region is told at once.
	tellAtOnce = 256
	// tellAgain is when a region that is still behind is told again.
	tellAgain = 5 * time.Second
	// longBehind is when it is worth a line in the log.
	longBehind = 15 * time.Second
)

// Run compares until ctx ends.
func (m *Mirrors) Run(ctx context.Context) { every(ctx, mirrorsEvery, func() { m.Compare(ctx) }) }

// Compare tells each region that can be reached what its mirror lacks.
func (m *Mirrors) Compare(ctx context.Context) {
	last, err := m.Origin.Last(ctx)
	if err != nil {
		return // home's decider says so when it is asked something
	}
	var work sync.WaitGroup
	for r, c := range m.Copies {
		work.Go(func() { m.compare(ctx, r, c, last) })
	}
	work.Wait()
}

func (m *Mirrors) compare(ctx context.Context, r ident.Region, c ledger.Source, last uint64) {
	has, err := c.Last(ctx)
	if err != nil {
		return // it is cut off, or its servers are away: it is told when it is back
	}
	if fork, ok := m.forked(ctx, c); ok {
		has = fork
	}
	now := m.Now()
	m.mu.Lock()
	if m.told == nil {
		m.told = make(map[ident.Region]toldUpTo)
	}
	t := m.told[r]
	m.mu.Unlock()
	if has == last {
		t = toldUpTo{}
	} else if t.since.IsZero() {
		t.since = now
	}
	if !t.since.IsZero() && !t.said && now.Sub(t.since) > longBehind {
		t.said = true
		// A mirror that is ahead of its origin follows it never again.
		m.Log.Error("a mirror does not follow home's bucket", "mirror", r.String(), "has", has, "bucket", last, "since", t.since,
			"hint", "if home has moved, run 'nscsetup home return' for its region")
	}
	if has < last {
		from := has
		if t.seq > has && now.Sub(t.at) < tellAgain {
			from = t.seq
		}
		entries, err := m.Origin.Read(ctx, from, tellAtOnce)
		for _, e := range entries {
			if m.Publish(subject.Live(r, e.Subject), []byte(e.Data)) != nil {
				break
			}
			t.seq, t.at = e.Seq, now
		}
		if err != nil && len(entries) == 0 {
			m.Log.Debug("home's bucket cannot be read now", "error", err)
		}
	}
	m.mu.Lock()
	m.told[r] = t
	m.mu.Unlock()
}

// forked tells whether a mirror has something else than the bucket from a position on, as that of a
// former home may, or of a region that was given up when home moved. It may go on after that with
// what the bucket has later, so its last position says nothing. It is told all until it is made anew.
func (m *Mirrors) forked(ctx context.Context, c ledger.Source) (uint64, bool) {
	if m.Fork == nil {
		return 0, false
	}
	fork, ok := m.Fork()
	if !ok {
		return 0, false
	}
	theirs, err := c.Read(ctx, fork, 1)
	if err != nil || len(theirs) == 0 {
		return 0, false
	}
	ours, err := m.Origin.Read(ctx, fork, 1)
	return fork, err == nil && (len(ours) == 0 || ours[0] != theirs[0])
}
