package survey

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/herald-nats/herald/pkg/doctor/seen"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/subject"
)

// ErrNobody: no server answered at all.
var ErrNobody = errors.New("no server answered")

// Options say what a look is to reach.
type Options struct {
	// Expect are the servers that should be there. Without any a look takes Quiet longer.
	Expect []seen.Node
	// Dial connects in SYS to one of these servers, all of one region, directly: they did
	// not answer where it was looked first. They may be down, or only out of its reach.
	// nil: it is not tried. Take closes what it gives.
	Dial func(ctx context.Context, nodes []seen.Node) (*nats.Conn, error)
	// Now is the clock that servers' clocks are held against.
	Now func() time.Time
	// Quiet is how long nobody has to answer; 0: Quiet.
	Quiet time.Duration

	page int // how many accounts a page of JSZ has; 0: jsPage
}

// Take looks at all servers. ctx bounds it: when its deadline is over, what was seen until
// then is given. Its error is ErrNobody, or that the connection failed, or that ctx was
// canceled.
func Take(ctx context.Context, nc *nats.Conn, o Options) (*seen.Platform, error) {
	o.Quiet, o.page = cmp.Or(o.Quiet, Quiet), cmp.Or(o.page, jsPage)
	began := o.Now()
	first, err := o.look(ctx, nc, o.Expect)
	if err != nil {
		return nil, err
	}
	views := []*view{first}
	if silent := o.silent(views); o.Dial != nil && len(silent) > 0 {
		views = append(views, o.further(ctx, silent)...)
	}
	p := whole(views)
	if len(p.Servers) == 0 {
		return nil, fmt.Errorf("looking at the servers: %w", ErrNobody)
	}
	p.At, p.Silent = began, o.silent(views)
	p.Took = o.Now().Sub(began)
	return p, nil
}

// silent are those that no view saw.
func (o Options) silent(views []*view) []seen.Node {
	out := []seen.Node{}
	for _, n := range o.Expect {
		if !slices.ContainsFunc(views, func(v *view) bool { return v.named(n.Name) != nil }) {
			out = append(out, n)
		}
	}
	return out
}

// further looks from where those are who did not answer, from all their regions at once.
func (o Options) further(ctx context.Context, silent []seen.Node) []*view {
	regions := map[ident.Region][]seen.Node{}
	for _, n := range silent {
		regions[n.Region] = append(regions[n.Region], n)
	}
	var (
		views []*view
		mu    sync.Mutex
		work  sync.WaitGroup
	)
	for _, nodes := range regions {
		work.Go(func() {
			nc, err := o.Dial(ctx, nodes)
			if err != nil {
				return // nobody is there: they stay silent
			}
			defer nc.Close()
			v, err := o.look(ctx, nc, nodes)
			if err != nil {
				return
			}
			mu.Lock()
			defer mu.Unlock()
			views = append(views, v)
		})
	}
	work.Wait()
	slices.SortFunc(views, func(a, b *view) int { return cmp.Compare(a.at.Region.String(), b.at.Region.String()) })
	return views
}

// view is what one connection sees.
type view struct {
	at      seen.View
	servers map[string]*sighting // by id
	js      *jetStream
}

// sighting is a server, as far as it has answered.
type sighting struct {
	seen.Server
	pages  map[string]bool // those that came
	sample []sample
}

// sample is one measurement of a clock.
type sample struct {
	least, most time.Duration // the server's clock is ahead by something between them
	rtt         time.Duration
}

func (v *view) named(name string) *sighting {
	for _, s := range v.servers {
		if s.Name == name {
			return s
		}
	}
	return nil
}

// Rounds of the clocks: each a question to all servers, so long after the one before. The
// pages are asked for with the last, because answering them delays the others.
const (
	rounds     = 3
	roundEvery = 30 * time.Millisecond
)

// pages are those that come once from every server.
func pages() []string { return []string{pageVars, pageGateways, pageRoutes, pageHealth, pageJS} }

// look asks everyone for everything over one connection.
func (o Options) look(ctx context.Context, nc *nats.Conn, expect []seen.Node) (*view, error) {
	t, err := newTalk(nc)
	if err != nil {
		return nil, err
	}
	defer t.end()
	v := &view{servers: map[string]*sighting{}, js: &jetStream{streams: map[streamID][]group{}, more: map[string]int{}}}
	asked := map[string]time.Time{} // by tag, when
	for round := range rounds {
		tag := pageStats + strconv.Itoa(round)
		asked[tag] = o.Now()
		if err := t.ask(tag, subject.ServerPingOf(pageStats), nil); err != nil {
			return nil, err
		}
		if round == rounds-1 {
			for _, page := range pages() {
				asked[page] = o.Now()
				if err := t.ask(page, subject.ServerPingOf(page), o.body(page)); err != nil {
					return nil, err
				}
			}
		}
		if err := nc.FlushWithContext(ctx); err != nil && !over(ctx) {
			return nil, fmt.Errorf("asking the servers: %w", err)
		}
		if round < rounds-1 {
			if err := o.collect(ctx, t, v, asked, until(roundEvery)); err != nil {
				return nil, err
			}
		}
	}
	if err := o.collect(ctx, t, v, asked, v.complete(expect, o.Quiet)); err != nil {
		return nil, err
	}
	if err := o.morePages(ctx, t, v, asked); err != nil {
		return nil, err
	}
	v.at.Server, v.at.Sees = clean(nc.ConnectedServerName(), maxText), []string{}
	for id, s := range v.servers {
		v.at.Sees = append(v.at.Sees, id)
		if s.Name == v.at.Server {
			v.at.Region = s.Region
		}
	}
	slices.Sort(v.at.Sees)
	return v, nil
}

// body is what a page is asked with.
func (o Options) body(page string) any {
	if page != pageJS {
		return nil
	}
	return jsRequest{Accounts: true, Streams: true, Config: true, Limit: o.page}
}

// patience says how much longer to wait for an answer; 0 is no longer. It is asked before
// each.
type patience func(now time.Time) time.Duration

// until waits for so long in all.
func until(d time.Duration) patience {
	var end time.Time
	return func(now time.Time) time.Duration {
		if end.IsZero() {
			end = now.Add(d)
		}
		return end.Sub(now)
	}
}

// complete waits until all that are expected and all that answered have answered
// everything, and then as long again as the slowest took, for those whom nobody expects;
// or until it was quiet for so long.
func (v *view) complete(expect []seen.Node, quiet time.Duration) patience {
	var (
		began, end time.Time
		slack      = 20 * time.Millisecond
	)
	return func(now time.Time) time.Duration {
		if began.IsZero() {
			began = now
		}
		if len(expect) == 0 || !v.have(expect) {
			end = time.Time{}
			return quiet
		}
		if end.IsZero() {
			end = now.Add(min(now.Sub(began)+slack, quiet))
		}
		return end.Sub(now)
	}
}

// have tells whether all that are expected and all that answered have answered everything.
func (v *view) have(expect []seen.Node) bool {
	want := rounds + len(pages())
	for _, n := range expect {
		if v.named(n.Name) == nil {
			return false
		}
	}
	for _, s := range v.servers {
		if len(s.pages) < want {
			return false
		}
	}
	return true
}

// collect takes answers as long as patience lasts.
func (o Options) collect(ctx context.Context, t *talk, v *view, asked map[string]time.Time, p patience) error {
	for {
		wait := p(o.Now())
		if wait <= 0 || over(ctx) {
			wait = 0
		}
		tag, m, err := t.next(ctx, wait)
		if err != nil {
			return err
		}
		if m == nil {
			return nil
		}
		v.take(tag, m.Data, asked[tag], o.Now())
	}
}

// take takes one answer. One that cannot be read is as if it had not come.
func (v *view) take(tag string, data []byte, asked, came time.Time) {
	a, err := open(data)
	if err != nil {
		return
	}
	s := v.servers[a.Server.ID]
	if s == nil {
		if len(v.servers) == maxServers {
			return
		}
		s = &sighting{Server: seen.Server{ID: a.Server.ID, Name: a.Server.Name, Cluster: a.Server.Cluster, Version: a.Server.Version}, pages: map[string]bool{}}
		if r, err := ident.ParseRegion(a.Server.Cluster); err == nil {
			s.Region = r
		}
		v.servers[s.ID] = s
	}
	page, _, _ := strings.Cut(tag, "-") // JSZ-256-… is a further page
	switch {
	case s.pages[tag]:
		return // it has answered that
	case strings.HasPrefix(tag, pageStats):
		if a.Server.Time.IsZero() {
			return
		}
		s.sample = append(s.sample, sample{a.Server.Time.Sub(came), a.Server.Time.Sub(asked), came.Sub(asked)})
	case a.Error != nil || read(page, a.Data, &s.Server, v.js) != nil:
		return
	}
	s.pages[tag] = true
}

// morePages asks those for the rest who have more on JSZ than one page.
func (o Options) morePages(ctx context.Context, t *talk, v *view, asked map[string]time.Time) error {
	pending := map[string]bool{}
	for name, total := range v.js.more {
		for offset := o.page; offset < total; offset += o.page {
			tag := fmt.Sprintf("%s-%d-%s", pageJS, offset, token(name))
			asked[tag], pending[tag] = o.Now(), true
			r := jsRequest{Accounts: true, Streams: true, Config: true, Offset: offset, Limit: o.page, Server: name, Exact: true}
			if err := t.ask(tag, subject.ServerPingOf(pageJS), r); err != nil {
				return err
			}
		}
	}
	if len(pending) == 0 {
		return nil
	}
	return o.collect(ctx, t, v, asked, func(time.Time) time.Duration {
		for _, s := range v.servers {
			for tag := range s.pages {
				delete(pending, tag)
			}
		}
		if len(pending) == 0 {
			return 0
		}
		return o.Quiet
	})
}

// token makes a server's name one token of a subject, which no two names share.
func token(name string) string { return fmt.Sprintf("%x", name) }

// whole puts views together. A server that several saw is as the first saw it.
func whole(views []*view) *seen.Platform {
	p := &seen.Platform{Servers: []seen.Server{}}
	js := &jetStream{streams: map[streamID][]group{}}
	known := map[string]bool{}
	for _, v := range views {
		p.Views = append(p.Views, v.at)
		js.meta = append(js.meta, v.js.meta...)
		for id, all := range v.js.streams {
			js.streams[id] = append(js.streams[id], all...)
		}
		for id, s := range v.servers {
			if known[id] {
				continue
			}
			known[id] = true
			s.Clock = clock(s.sample)
			for _, page := range append([]string{pageStats}, pages()...) {
				if !s.answered(page) {
					s.Unanswered = append(s.Unanswered, page)
				}
			}
			p.Servers = append(p.Servers, s.Server)
		}
	}
	slices.SortFunc(p.Servers, func(a, b seen.Server) int {
		return cmp.Or(cmp.Compare(a.Cluster, b.Cluster), cmp.Compare(a.Name, b.Name), cmp.Compare(a.ID, b.ID))
	})
	p.JetStream = js.whole()
	return p
}

func (s *sighting) answered(page string) bool {
	for tag := range s.pages {
		if tag == page || page == pageStats && strings.HasPrefix(tag, page) {
			return true
		}
	}
	return false
}

// clock is what samples have in common. If they have nothing, a clock was set meanwhile,
// and the quickest says best how it is.
func clock(all []sample) seen.Clock {
	if len(all) == 0 {
		return seen.Clock{}
	}
	quick, least, most := all[0], all[0].least, all[0].most
	for _, s := range all {
		if s.rtt < quick.rtt {
			quick = s
		}
		least, most = max(least, s.least), min(most, s.most)
	}
	if least > most {
		least, most = quick.least, quick.most
	}
	return seen.Clock{Ahead: (least + most) / 2, Bound: max((most-least)/2, 1), RTT: quick.rtt}
}
