package registrar

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"golang.org/x/time/rate"

	"github.com/herald-nats/herald/internal/wait"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/subject"
	"github.com/herald-nats/herald/pkg/trust"
)

// Watcher keeps accounts on all servers as they should be, for as long as it runs. It
// looks at all of them at once, when a server appears that the last look did not reach,
// and now and then; at those that changed, when they change; and once more at those that
// it pushed, because another may have overwritten them at the same moment.
type Watcher struct {
	Resolver *Resolver
	// Known gives the account JWTs that the registrar knows, in any order.
	Known func() []string
	// Changed says that Known gives others than before; one message may stand for many
	// changes. nil: they never change.
	Changed <-chan struct{}
	// Spread gives numbers from 0 to 1, by which registrars do not all look at once.
	Spread func() float64
	// Repaired is told of each account that was put right where somebody had pushed over it,
	// with what is in force, and by whom what was there was signed; may be nil.
	Repaired func(s Standing, by []string)
	Log      *slog.Logger
	Now      func() time.Time
	// Every is how often all accounts are looked at. 0: every minute, or less often where
	// there are many.
	Every time.Duration

	mu    sync.Mutex
	stats WatcherStats
	// latest are the JWTs that were last found or put in force, and servers is how many there
	// were at the last look at all.
	latest  map[ident.AccountKey]string
	sizes   map[ident.AccountKey]AccountSize
	servers int
	// rush are accounts that are brought to servers at once, and touched those that are looked
	// at soon, because who is revoked in them has changed.
	rush, touched map[ident.AccountKey]bool
	wake          chan struct{}
	// suspect are accounts over which somebody pushed less, true if it is no registrar's doing;
	// flood says that so much is pushed that all are.
	suspect map[ident.AccountKey]bool
	flood   chan struct{}
	// asked are questions that wait, and asking tells that somebody asks the servers now.
	asked  []*confirmation
	asking bool
	fat    map[ident.AccountKey]bool // of which it was said that they are large

	// Run's own.
	reached  map[string]bool             // ids of servers that the last look at all accounts reached
	looked   map[string]bool             // the same, without those that appeared since
	lagging  map[ident.AccountKey]bool   // of which servers need not hold yet who is revoked
	seen     map[string]bool             // tokens that were looked at
	again    []string                    // tokens that are looked at once more
	inLine   map[ident.AccountKey]uint64 // base versions that all servers held
	outside  map[ident.AccountKey]string // accounts out of line, and what was said of them
	conflict map[ident.AccountKey]bool   // those of them that have a conflict
	failures int                         // looks in a row that left somebody behind
	replayed map[ident.AccountKey]bool   // accounts over which somebody was heard to push less, while they are looked at
}

// WatcherStats are what a Watcher tells of itself. What is counted is counted since the
// start.
type WatcherStats struct {
	Looks       uint64 // at all accounts or at some
	Failed      uint64 // looks that ended with an error
	Pushed      uint64 // accounts that were pushed, each time
	Overwritten uint64 // accounts that somebody had pushed over, of this platform, each time
	Foreign     uint64 // JWTs on servers that are not believed, each time that one is found
	OutOfLine   int    // accounts that some server did not hold as it should at the last look at them
	Conflicts   int    // those of them that cannot be pushed because of trust.ErrConflict
	Behind      int    // servers that did not answer the last look, or refused something
	// InLine is when a look at all accounts last found each on every server, or brought it
	// there. Zero: never.
	InLine time.Time
	// Largest are the largest accounts, and Limit is how many bytes servers take of one: of
	// one that is larger nobody can be revoked any more. The slice is not to be changed.
	Largest []AccountSize
	Limit   int64
}

// AccountSize is how many bytes an account's JWT has.
type AccountSize struct {
	Name  string
	Bytes int
}

// largest is how many accounts Largest has at most.
const largest = 50

// Stats gives them. It may be called by any goroutine.
func (w *Watcher) Stats() WatcherStats {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.stats
}

const (
	// appeared is how long to wait after a new server's first sign of life before asking
	// it: servers of a region come up together.
	appeared = 300 * time.Millisecond
	// watchEvery is how often all accounts are looked at, up to watchMany of them. Beyond
	// it is less often, in proportion: each look has every server send every account.
	watchEvery = time.Minute
	watchMany  = 1000
	// watchRetry is when a look at all that left somebody behind is made again, and
	// watchRetries how often in a row it is so soon.
	watchRetry   = 5 * time.Second
	watchRetries = 3
	// watchBound bounds a look at up to watchMany accounts.
	watchBound = 2 * time.Minute
	// touchedAfter is when accounts are looked at in which somebody was revoked: whoever revoked
	// them has pushed them by then, so that others find nothing to do.
	touchedAfter = time.Second
	// rushGather is how long more is waited for that is pushed at once with the same JWT, and
	// rushEvery how far pushes are apart at least while there is more and more: each one has
	// every server take the whole account anew.
	rushGather = 5 * time.Millisecond
	rushEvery  = 250 * time.Millisecond
	// rushBound bounds one push of that kind.
	rushBound = 5 * time.Second
	// watchNames is how many accounts a line of the log names.
	watchNames = 10
)

// Touch says that who is revoked in accounts has changed. now: it is this registrar that brings
// it to the servers, at once. Otherwise another does, and this one looks later whether it did.
func (w *Watcher) Touch(now bool, accounts ...ident.AccountKey) {
	if len(accounts) == 0 {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.touched == nil {
		w.rush, w.touched = map[ident.AccountKey]bool{}, map[ident.AccountKey]bool{}
	}
	for _, a := range accounts {
		w.touched[a] = true
		if now {
			w.rush[a] = true
		}
	}
	if now {
		select {
		case w.woken() <- struct{}{}:
		default:
		}
	}
}

// woken is the channel by which who rushes hears of more; w.mu is held.
func (w *Watcher) woken() chan struct{} {
	if w.wake == nil {
		w.wake = make(chan struct{}, 1)
	}
	return w.wake
}

// taken empties a set of accounts.
func (w *Watcher) taken(set *map[ident.AccountKey]bool) (accounts []ident.AccountKey) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for a := range *set {
		accounts = append(accounts, a)
	}
	clear(*set)
	return accounts
}

// suspects are accounts over which somebody pushed less.
func (w *Watcher) suspects() []ident.AccountKey {
	w.mu.Lock()
	for a, replayed := range w.suspect {
		if replayed {
			w.replayed[a] = true
		}
	}
	w.mu.Unlock()
	return w.taken(&w.suspect)
}

// over tells whether somebody who is no registrar was heard to push less over an account.
func (w *Watcher) over(a ident.AccountKey) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.suspect[a] || w.replayed[a]
}

// tokens are the JWTs that were last in force of accounts, and how many servers there were. Of
// an account that was not looked at yet it is the one that the registrar knows.
func (w *Watcher) tokens(accounts []ident.AccountKey) (tokens []string, servers int) {
	w.mu.Lock()
	servers = w.servers
	unseen := map[ident.AccountKey]bool{}
	for _, a := range accounts {
		if t := w.latest[a]; t != "" {
			tokens = append(tokens, t)
		} else {
			unseen[a] = true
		}
	}
	w.mu.Unlock()
	if len(unseen) == 0 {
		return tokens, servers
	}
	for _, t := range w.Known() {
		if a, err := w.Resolver.op.OpenAccount(t); err == nil && unseen[a.Account] {
			tokens = append(tokens, t)
		}
	}
	return tokens, servers
}

// rushes pushes at once what must not wait for a look at others, until ctx ends.
func (w *Watcher) rushes(ctx context.Context) {
	w.mu.Lock()
	wake := w.woken()
	w.mu.Unlock()
	var last time.Time // when the last push ended
	for {
		select {
		case <-ctx.Done():
			return
		case <-wake:
		}
		if wait.For(ctx, max(rushGather, rushEvery-w.Now().Sub(last))) != nil {
			return
		}
		tokens, servers := w.tokens(w.taken(&w.rush))
		if len(tokens) == 0 {
			continue
		}
		bound, cancel := context.WithTimeout(ctx, rushBound)
		if _, err := w.Resolver.Rush(bound, tokens, servers); err != nil && ctx.Err() == nil {
			w.Log.Error("who was revoked could not be told to the servers at once; it is tried again", "error", err)
		}
		cancel()
		last = w.Now()
	}
}

// Confirm brings accounts to all servers and says how these stand to them. expected are the
// names of the servers that there should be. With patience it goes on until all servers that
// there should be have them and have kept them, or ctx ends; an end of ctx is no error then.
//
// Those who ask while servers are asked for others share the next question.
func (w *Watcher) Confirm(ctx context.Context, accounts []ident.AccountKey, expected []string, patience bool) (Report, error) {
	var last *Report
	for {
		c := &confirmation{accounts: accounts, expected: expected, done: make(chan struct{})}
		w.confirm(c)
		select {
		case <-c.done:
		case <-ctx.Done():
			if last != nil { // which says who is behind
				return *last, nil
			}
			return Report{}, fmt.Errorf("asking the servers: %w", context.Cause(ctx))
		}
		rep, err := c.rep, c.err
		if err == nil {
			last = &rep
		}
		if err == nil && patience && rep.Pushed() > 0 && rep.Err() == nil {
			// Another that had looked before may have pushed after.
			if wait.For(ctx, settle) == nil {
				continue
			}
		}
		if err != nil || !patience || rep.Err() == nil || wait.For(ctx, confirmEvery) != nil {
			return rep, err
		}
	}
}

// confirmation is one question of how servers stand to accounts.
type confirmation struct {
	accounts []ident.AccountKey
	expected []string
	done     chan struct{}
	rep      Report
	err      error
}

// confirm has a question answered. Who asks first does it for all that ask meanwhile.
func (w *Watcher) confirm(c *confirmation) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.asked = append(w.asked, c)
	if w.asking {
		return
	}
	w.asking = true
	go func() {
		for first := true; ; first = false {
			if !first {
				time.Sleep(rushEvery) // others ask meanwhile
			}
			w.mu.Lock()
			all := w.asked
			w.asked = nil
			w.asking = len(all) > 0
			w.mu.Unlock()
			if len(all) == 0 {
				return
			}
			w.confirmAll(all)
		}
	}()
}

func (w *Watcher) confirmAll(all []*confirmation) {
	of := map[ident.AccountKey]bool{}
	names := map[string]bool{}
	for _, c := range all {
		for _, a := range c.accounts {
			of[a] = true
		}
		for _, n := range c.expected {
			names[n] = true
		}
	}
	known, _ := w.tokens(slices.Collect(maps.Keys(of)))
	ctx, cancel := context.WithTimeout(context.Background(), confirmBound)
	defer cancel()
	rep, err := w.Resolver.run(ctx, known, slices.Sorted(maps.Keys(names)), true, missedNow)
	for _, c := range all {
		c.rep, c.err = rep.only(c.accounts), err
		close(c.done)
	}
}

// only is the report on some of its accounts.
func (r Report) only(accounts []ident.AccountKey) Report {
	out := Report{Servers: r.Servers}
	all := true
	for _, s := range r.Accounts {
		if slices.Contains(accounts, s.Account) {
			out.Accounts = append(out.Accounts, s)
			all = all && s.Err == nil && s.InLine >= s.Servers
		}
	}
	if !all || len(accounts) == 0 {
		out.Behind = r.Behind
	}
	return out
}

// confirmBound bounds one question.
const confirmBound = 20 * time.Second

// confirmEvery is how often servers are asked that are waited for.
const confirmEvery = time.Second

// Run watches until ctx ends.
func (w *Watcher) Run(ctx context.Context) error {
	servers := make(chan string, 256) // ids; when full, others follow in seconds
	sub, err := w.Resolver.nc.Subscribe(subject.ServerStats, func(m *nats.Msg) {
		v, err := alive(m.Data)
		if err != nil || v.ID == "" {
			return
		}
		w.Resolver.Clock.Heard(v.ID, v.Time)
		select {
		case servers <- v.ID:
		default:
		}
	})
	if err != nil {
		return fmt.Errorf("listening for servers: %w", err)
	}
	defer func() { _ = sub.Unsubscribe() }() // fails only if the connection is gone
	w.flood = make(chan struct{}, 1)
	limit := rate.NewLimiter(overheardSecond, overheardBurst)
	pushes, err := w.Resolver.nc.Subscribe(subject.ClaimsUpdate, func(m *nats.Msg) { w.overheard(limit, m) })
	if err != nil {
		return fmt.Errorf("listening for pushes: %w", err)
	}
	defer func() { _ = pushes.Unsubscribe() }() // likewise

	w.seen, w.reached = map[string]bool{}, map[string]bool{}
	w.mu.Lock()
	w.latest, w.sizes, w.fat = map[ident.AccountKey]string{}, map[ident.AccountKey]AccountSize{}, map[ident.AccountKey]bool{}
	w.mu.Unlock()
	w.looked, w.lagging, w.replayed = map[string]bool{}, map[ident.AccountKey]bool{}, map[ident.AccountKey]bool{}
	var rushing sync.WaitGroup
	defer rushing.Wait()
	rushing.Go(func() { w.rushes(ctx) })
	soon := time.NewTicker(touchedAfter)
	defer soon.Stop()
	w.inLine, w.outside, w.conflict = map[ident.AccountKey]uint64{}, map[ident.AccountKey]string{}, map[ident.AccountKey]bool{}
	all, some := time.NewTimer(0), time.NewTimer(settle)
	defer all.Stop()
	defer some.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case id := <-servers:
			if !w.reached[id] {
				w.reached[id] = true // one look, not one for each sign of life
				all.Reset(appeared + w.upTo(appeared))
			}
			continue
		case <-w.Changed:
			var tokens []string
			for _, t := range w.Known() {
				if !w.seen[t] {
					tokens = append(tokens, t)
				}
			}
			w.again = append(w.again, w.look(ctx, tokens, false)...)
		case <-w.flood:
			all.Reset(touchedAfter)
		case <-soon.C:
			if tokens, _ := w.tokens(w.suspects()); len(tokens) > 0 {
				w.again = append(w.again, w.look(ctx, tokens, false)...)
			}
			clear(w.replayed)
			accounts := w.taken(&w.touched)
			tokens, _ := w.tokens(accounts)
			if len(tokens) == 0 {
				continue
			}
			for _, a := range accounts {
				w.lagging[a] = true
			}
			w.again = append(w.again, w.look(ctx, tokens, false)...)
		case <-some.C:
			tokens := w.again
			w.again = w.look(ctx, tokens, false)
		case <-all.C:
			w.seen = map[string]bool{}
			w.again = w.look(ctx, w.Known(), true)
			all.Reset(w.next())
		}
		if len(w.again) > 0 {
			some.Reset(settle * time.Duration(1+min(w.failures, 20)))
		}
	}
}

func (w *Watcher) upTo(d time.Duration) time.Duration { return time.Duration(w.Spread() * float64(d)) }

// next is when all accounts are looked at again.
func (w *Watcher) next() time.Duration {
	if 0 < w.failures && w.failures <= watchRetries {
		return watchRetry + w.upTo(watchRetry)
	}
	every := w.Every
	if every == 0 {
		every = watchEvery * time.Duration(1+len(w.seen)/watchMany)
	}
	return every*3/4 + w.upTo(every/2)
}

// look converges accounts, notes what came of it, and gives what is to be looked at once
// more.
func (w *Watcher) look(ctx context.Context, tokens []string, all bool) (again []string) {
	if len(tokens) == 0 {
		return nil
	}
	old := make(map[string]bool, len(tokens))
	for _, t := range tokens {
		old[t], w.seen[t] = w.seen[t], true
	}
	bound, cancel := context.WithTimeout(ctx, watchBound*time.Duration(1+len(tokens)/watchMany))
	defer cancel()
	rep, err := w.Resolver.Converge(bound, tokens, nil)
	if ctx.Err() != nil {
		return nil // the service stops
	}
	fresh := 0
	for _, s := range rep.Servers {
		if !w.looked[s.ID] {
			fresh++
		}
	}
	w.tell(rep, err, fresh)
	w.note(rep, err, all, fresh)
	if all {
		w.reached = make(map[string]bool, len(rep.Servers))
		for _, s := range rep.Servers {
			w.reached[s.ID] = true
		}
		w.looked = maps.Clone(w.reached)
	}
	if err != nil && !all {
		return tokens
	}
	for _, s := range rep.Accounts {
		// Who is behind and does not take it is left to the next look at all.
		if s.Pushed && (len(s.Found) > 0 || !old[s.Token]) {
			again = append(again, s.Token)
		}
		w.seen[s.Token] = true
	}
	return again
}

// tell says in the log what was found and done. Nothing is said where nothing was.
func (w *Watcher) tell(rep Report, err error, fresh int) {
	if err != nil {
		w.Log.Warn("servers may lack accounts", "error", err)
	}
	for _, b := range rep.Behind {
		w.Log.Warn("a server does not hold all accounts as it should", "server", b.Server, "accounts", b.Accounts, "why", b.Why)
	}
	var brought, repaired, foreign list
	for _, s := range rep.Accounts {
		for _, f := range s.Found {
			if f.Foreign {
				foreign.add(s.Name, f.Issuer)
			}
		}
		if s.Pushed && w.Repaired != nil && s.Version > 0 && (w.overwritten(s, fresh) || slices.ContainsFunc(s.Found, func(f Found) bool { return f.Foreign })) {
			var by []string
			for _, f := range s.Found {
				by = append(by, f.Issuer)
			}
			slices.Sort(by)
			w.Repaired(s, slices.Compact(by))
		}
		switch {
		case !s.Pushed:
		case w.overwritten(s, fresh):
			for _, f := range s.Found {
				repaired.add(s.Name, f.Issuer)
			}
		default:
			brought.add(s.Name, "")
		}
		said := w.outside[s.Account]
		switch {
		case s.Err != nil && s.Err.Error() != said:
			w.Log.Error("an account is not pushed", "account", s.Name, "version", s.Version, "error", s.Err)
			w.outside[s.Account] = s.Err.Error()
		case s.Err == nil && said != "":
			w.Log.Info("an account can be pushed again", "account", s.Name, "version", s.Version)
		}
	}
	if foreign.n > 0 {
		w.Log.Error("servers held accounts that no key of this platform's operator signed; they are replaced", foreign.args()...)
	}
	if repaired.n > 0 {
		w.Log.Warn("accounts had been pushed over; they are repaired", repaired.args()...)
	}
	if brought.n > 0 {
		w.Log.Info("brought accounts to servers that lacked them or had an older version", brought.args()...)
	}
}

// overwritten tells whether servers held all that should be in force of an account before,
// and then less: more of them than there are fresh ones, which were away, and not because
// somebody was revoked since.
func (w *Watcher) overwritten(s Standing, fresh int) bool {
	version, ok := w.inLine[s.Account]
	heard := w.over(s.Account)
	if !heard && (!ok || version != s.Version || w.lagging[s.Account]) {
		return false
	}
	less := 0
	for _, f := range s.Found {
		if !f.Foreign {
			less += f.Servers
		}
	}
	return less > fresh || heard && less > 0
}

func (w *Watcher) note(rep Report, err error, all bool, fresh int) {
	var overwritten, foreign uint64
	if all {
		asked := make(map[ident.AccountKey]bool, len(rep.Accounts))
		for _, s := range rep.Accounts {
			asked[s.Account] = true
		}
		maps.DeleteFunc(w.outside, func(a ident.AccountKey, _ string) bool { return !asked[a] })
		maps.DeleteFunc(w.conflict, func(a ident.AccountKey, _ bool) bool { return !asked[a] })
	}
	for _, s := range rep.Accounts {
		if w.overwritten(s, fresh) {
			overwritten++
		}
		for _, f := range s.Found {
			if f.Foreign {
				foreign++
			}
		}
		delete(w.conflict, s.Account)
		if s.Err == nil && s.InLine >= s.Servers {
			w.inLine[s.Account] = s.Version
			delete(w.outside, s.Account)
			delete(w.lagging, s.Account)
			continue
		}
		if s.Err == nil {
			w.outside[s.Account] = ""
		} else if errors.Is(s.Err, trust.ErrConflict) {
			w.conflict[s.Account] = true
		}
	}
	w.failures++
	if err == nil && len(rep.Behind) == 0 {
		w.failures = 0
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if all {
		w.servers = len(rep.Servers)
		w.latest = make(map[ident.AccountKey]string, len(rep.Accounts))
		w.sizes = make(map[ident.AccountKey]AccountSize, len(rep.Accounts))
	}
	for _, s := range rep.Accounts {
		if s.Token != "" {
			w.latest[s.Account] = s.Token
			w.weigh(s)
		}
	}
	s := &w.stats
	s.Largest, s.Limit = w.largest(), w.limit()
	s.Looks++
	if err != nil {
		s.Failed++
	}
	s.Pushed += uint64(rep.Pushed()) // #nosec G115 -- a number of accounts
	s.Overwritten += overwritten
	s.Foreign += foreign
	s.OutOfLine, s.Conflicts, s.Behind = len(w.outside), len(w.conflict), len(rep.Behind)
	if all && err == nil && rep.InLine() == len(rep.Accounts) {
		s.InLine = w.Now()
	}
}

// weigh notes how large an account is, and warns once it is half of what servers take; w.mu is
// held.
func (w *Watcher) weigh(s Standing) {
	was := w.sizes[s.Account].Bytes
	w.sizes[s.Account] = AccountSize{s.Name, len(s.Token)}
	half := int(w.limit() / 2)
	if len(s.Token) > half && !w.fat[s.Account] {
		w.Log.Warn("an account has grown to half of what servers take: beyond that nobody in it can be revoked any more",
			"account", s.Name, "bytes", len(s.Token), "limit", 2*half, "hint", "revocations are dropped after 31 days; to suspend and resume the whole account replaces all of them by one")
		w.fat[s.Account] = true
	}
	if len(s.Token) <= half && was > 0 {
		delete(w.fat, s.Account)
	}
}

// limit is how many bytes an account's JWT may have: what servers take, and what anybody of this
// platform believes.
func (w *Watcher) limit() int64 { return min(w.Resolver.nc.MaxPayload(), trust.MaxToken) }

// largest are the largest accounts; w.mu is held.
func (w *Watcher) largest() []AccountSize {
	all := slices.Collect(maps.Values(w.sizes))
	slices.SortFunc(all, func(a, b AccountSize) int { return cmp.Or(cmp.Compare(b.Bytes, a.Bytes), cmp.Compare(a.Name, b.Name)) })
	return all[:min(len(all), largest)]
}

// list is accounts for one line of the log, and who signed what was found of them.
type list struct {
	n      int
	last   string
	names  []string
	issuer []string
}

// add takes an account; several times in a row is once.
func (l *list) add(name, issuer string) {
	if l.n == 0 || name != l.last {
		l.n, l.last = l.n+1, name
		if len(l.names) < watchNames {
			l.names = append(l.names, name)
		}
	}
	if issuer != "" && len(l.issuer) < watchNames && !slices.Contains(l.issuer, issuer) {
		l.issuer = append(l.issuer, issuer)
	}
}

func (l *list) args() []any {
	args := []any{"accounts", l.names, "number", l.n}
	if len(l.issuer) > 0 {
		args = append(args, "signed_by", l.issuer)
	}
	return args
}
