package registrar

import (
	"github.com/nats-io/nats.go"
	"golang.org/x/time/rate"

	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/trust"
)

// Whoever is in SYS may push anything over an account, and no server tells of it. But a push is a
// message on a subject, which registrars hear as servers do. What is less than an account should
// be, or not this platform's at all, has it looked at within a second instead of a minute.

// overheardSecond and overheardBurst bound how many pushes are looked into. Beyond that, all
// accounts are looked at: it is no registrar who pushes so.
const (
	overheardSecond = 500
	overheardBurst  = 20_000
)

// overheard is a push that another may have made; it runs on the subscription's goroutine.
func (w *Watcher) overheard(limit *rate.Limiter, m *nats.Msg) {
	account, err := ident.ParseAccountKey(peek(m.Data).Subject)
	if err != nil {
		return // servers do not take it either
	}
	w.mu.Lock()
	latest := w.latest[account]
	w.mu.Unlock()
	if latest == "" || latest == string(m.Data) {
		return // of another's account; or what should be in force
	}
	if !limit.Allow() {
		select {
		case w.flood <- struct{}{}:
		default:
		}
		return
	}
	less, replayed := w.less(string(m.Data), latest)
	if !less {
		return // news: what makes it known to all says so itself
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.suspect == nil {
		w.suspect = map[ident.AccountKey]bool{}
	}
	w.suspect[account] = w.suspect[account] || replayed
}

// racing is how much older than another a JWT may be that a registrar pushes at the same moment.
const racing = 10 // seconds

// less tells whether what was pushed lacks something of what was in force, and whether that is no
// registrar's doing, who had not heard of it yet: it is foreign, or was signed long before.
func (w *Watcher) less(pushed, latest string) (less, replayed bool) {
	have, err := w.Resolver.op.OpenAccount(latest)
	if err != nil {
		return false, false // it was this platform's when it was noted
	}
	got, err := w.Resolver.op.OpenAccount(pushed)
	if err != nil {
		return true, true
	}
	had, err := have.Content()
	gets, err2 := got.Content()
	if err != nil || err2 != nil {
		return true, true
	}
	all, err := trust.Join(gets, had)
	less = err != nil || all.Conflict() != nil || !all.Equal(gets)
	return less, less && got.IssuedAt+racing < have.IssuedAt
}
