package registrar

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"maps"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/herald-nats/herald/pkg/subject"
	"github.com/herald-nats/herald/pkg/trust"
)

const (
	// What may be under way at once, in answers and in bytes of them: enough that servers
	// never wait for the next request, and far less than the 64 MiB at which a server takes
	// a client that does not read them for dead.
	maxDue      = 8 << 10
	maxDueBytes = 16 << 20
	// firstDue is what may be under way before it is seen how large answers are.
	firstDue = 512
	// answerSize is more than an answer to UPDATE has, and an empty one to LOOKUP with what
	// surrounds it.
	answerSize = 1 << 10

	// patience is how long to wait without any answer at all until what is under way is given
	// up. A server that sends all its accounts to another of its cluster, as they do each
	// minute while they differ, answers nothing meanwhile: that was seconds with 20,000.
	patience = 15 * time.Second

	// maxPushes bounds how often one pass pushes an account again because somebody else
	// pushed it meanwhile.
	maxPushes = 4

	noAnswer = "it does not answer"
)

// item is one account in a pass. It belongs to the pass, and to a judge while that has it.
type item struct {
	st      Standing
	opened  []trust.AccountJWT       // verified, no two the same
	says    map[string]trust.Content // what some of opened say, by token
	size    int                      // bytes of the largest
	held    []held                   // what servers answered last, no two the same
	answers int                      // how many answered, with or without one
	asked   int                      // answers that are under way are for so many requests
	push    *trust.AccountJWT        // what is to be pushed now
	pushes  int                      // how often that was done
	missing map[int]string           // who did not take the last push, and why
}

// held is a JWT that servers hold.
type held struct {
	data    []byte
	servers int
}

// request is one request that is under way.
type request struct {
	it       *item
	push     bool
	answered []bool // by server, of a push
	got      int
	cost     int
}

// pass is one Converge or Survey. One goroutine owns it, and with it every item that is
// not with a judge.
type pass struct {
	*Resolver
	push    bool
	servers []Server
	index   map[string]int // of servers, by id
	gone    []bool         // servers that are not waited for any more
	mute    int            // how many servers answer no LOOKUP, though they are there

	inbox  string
	under  map[uint64]*request
	serial uint64
	due    int // answers
	bytes  int
	// What servers said so far that they hold, in answers and bytes: it may be much larger
	// than what is known.
	heldAnswers, heldBytes int

	look, send []*item // that are to be asked for, and pushed
	judges     chan *item
	judged     chan *item
	judging    int
}

func (r *Resolver) run(ctx context.Context, known, expected []string, push bool, long time.Duration) (Report, error) {
	items, err := r.open(known)
	if err != nil {
		return Report{}, err
	}
	p := &pass{Resolver: r, push: push, under: make(map[uint64]*request), index: make(map[string]int)}
	if p.servers, err = r.find(ctx, expected, long); err != nil {
		return Report{}, err
	}
	if len(p.servers) == 0 {
		return p.report(items, expected), fmt.Errorf("no server answers: %w", ErrBehind)
	}
	for i, s := range p.servers {
		p.index[s.ID] = i
	}
	p.gone = make([]bool, len(p.servers))
	err = p.work(ctx, items)
	return p.report(items, expected), err
}

// open verifies what the caller knows, and puts together what is of one account.
func (r *Resolver) open(known []string) ([]*item, error) {
	opened, errs := make([]trust.AccountJWT, len(known)), make([]error, len(known))
	spread(len(known), func(i int) { opened[i], errs[i] = r.op.OpenAccount(known[i]) })
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("nothing is sent: %w", err)
	}
	var items []*item
	of := make(map[string]*item, len(known))
	for _, a := range opened {
		it := of[a.Account.String()]
		if it == nil {
			it = &item{st: Standing{Account: a.Account, Name: a.Name, Version: a.Version}}
			items, of[a.Account.String()] = append(items, it), it
		}
		it.add(a)
	}
	return items, nil
}

func (it *item) add(a trust.AccountJWT) {
	if !slices.ContainsFunc(it.opened, func(b trust.AccountJWT) bool { return a.Token == b.Token }) {
		it.opened = append(it.opened, a)
		it.size = max(it.size, len(a.Token))
	}
}

// work asks for all items and pushes what is to be pushed.
func (p *pass) work(ctx context.Context, items []*item) error {
	p.inbox = p.nc.NewInbox() + "."
	msgs := make(chan *nats.Msg, 2*maxDue)
	sub, err := p.nc.ChanSubscribe(p.inbox+"*", msgs)
	if err != nil {
		return fmt.Errorf("subscribing for answers: %w", err)
	}
	defer func() { _ = sub.Unsubscribe() }() // fails only if the connection is gone

	// Each pass begins elsewhere, so that of several registrars that see a region come back
	// empty each does a part of the work, and finds the rest done.
	h := fnv.New32a()
	_, _ = h.Write([]byte(p.inbox)) // a hash never fails to write
	at := int(h.Sum32()>>1) % max(1, len(items))
	p.look = slices.Concat(items[at:], items[:at])

	p.judges, p.judged = make(chan *item, len(items)), make(chan *item, len(items))
	var judges sync.WaitGroup
	for range min(len(items), runtime.GOMAXPROCS(0)) {
		judges.Go(func() {
			for it := range p.judges {
				p.judge(it, len(p.servers), p.push)
				p.judged <- it
			}
		})
	}
	defer judges.Wait()
	defer close(p.judges)

	ticker := time.NewTicker(p.patience / 10)
	defer ticker.Stop()
	missing := false
	for still := 0; ; {
		if err := p.fill(); err != nil {
			return err
		}
		if len(p.under) == 0 && p.judging == 0 && len(p.look) == 0 && len(p.send) == 0 {
			return nil
		}
		select {
		case m := <-msgs:
			p.answer(m)
			still = 0
		case it := <-p.judged:
			p.judging--
			if it.push != nil {
				p.send = append(p.send, it)
			}
		case <-ticker.C:
			if still++; len(p.under) > 0 && still == 1 && !missing {
				missing = true // once: who is there and silent is waited for
				if err := p.miss(ctx); err != nil {
					return err
				}
			}
			if len(p.under) > 0 && still > 10 {
				if err := p.giveUp(ctx); err != nil {
					return err
				}
				still = 0
			}
		case <-ctx.Done():
			return fmt.Errorf("waiting for the servers' answers: %w", context.Cause(ctx))
		}
	}
}

// fill sends as much as may be under way. Pushes go first: the longer they come after
// the look, the more of others' they overwrite.
func (p *pass) fill() error {
	for p.due < min(maxDue, firstDue+2*p.heldAnswers) && p.bytes < maxDueBytes {
		switch {
		case len(p.send) > 0:
			it := p.send[0]
			p.send = p.send[1:]
			if err := p.sendPush(it); err != nil {
				return err
			}
		case len(p.look) > 0:
			it := p.look[0]
			p.look = p.look[1:]
			each := max(it.size, 2*p.heldBytes/max(1, p.heldAnswers)) + answerSize
			if err := p.ask(it, subject.ClaimsLookup(it.st.Account), nil, each); err != nil {
				return err
			}
		default:
			return nil
		}
	}
	return nil
}

// sendPush pushes, and right behind it asks back. A server works on one after the other.
func (p *pass) sendPush(it *item) error {
	token := it.push.Token
	it.push, it.pushes, it.missing = nil, it.pushes+1, nil
	it.held, it.answers = nil, 0
	if int64(len(token)) > p.nc.MaxPayload() {
		it.st.Err = fmt.Errorf("its JWT has %d bytes: %w", len(token), nats.ErrMaxPayload)
		return nil
	}
	it.st.Pushed = true
	if err := p.ask(it, subject.ClaimsUpdate, []byte(token), answerSize); err != nil {
		return err
	}
	return p.ask(it, subject.ClaimsLookup(it.st.Account), nil, len(token)+answerSize)
}

// ask sends one request for an item, a push if it has data.
func (p *pass) ask(it *item, subj string, data []byte, each int) error {
	p.serial++
	if err := p.nc.PublishRequest(subj, p.inbox+strconv.FormatUint(p.serial, 36), data); err != nil {
		return fmt.Errorf("asking %s: %w", subj, err)
	}
	q := &request{it: it, push: data != nil, cost: each * len(p.servers)}
	if q.push {
		q.answered = make([]bool, len(p.servers))
	}
	it.asked++
	p.under[p.serial] = q
	p.due += len(p.servers)
	p.bytes += q.cost
	return nil
}

// answer takes one answer.
func (p *pass) answer(m *nats.Msg) {
	serial, err := strconv.ParseUint(m.Subject[len(p.inbox):], 36, 64)
	q := p.under[serial]
	if err != nil || q == nil {
		return // of a request that was given up
	}
	q.got++
	if q.push {
		p.stored(q, m.Data)
	} else {
		q.it.hold(m.Data)
		p.heldAnswers, p.heldBytes = p.heldAnswers+1, p.heldBytes+len(m.Data)
	}
	if p.complete(q) {
		p.finish(serial, q)
	}
}

// hold notes what one server holds.
func (it *item) hold(data []byte) {
	it.answers++
	if len(data) == 0 {
		return
	}
	for i := range it.held {
		if bytes.Equal(it.held[i].data, data) {
			it.held[i].servers++
			return
		}
	}
	it.held = append(it.held, held{data, 1})
}

// stored notes what one server says of a push.
func (p *pass) stored(q *request, data []byte) {
	var v struct {
		Server struct {
			ID string `json:"id"`
		} `json:"server"`
		Data *struct {
			Code int `json:"code"`
		} `json:"data"`
		Error *struct {
			Description string `json:"description"`
		} `json:"error"`
	}
	if json.Unmarshal(data, &v) != nil {
		return // whoever that was has not said that it stored anything
	}
	i, ok := p.index[v.Server.ID]
	if !ok {
		return // it came after the ping; the next look has it
	}
	q.answered[i] = true
	p.gone[i] = false
	switch {
	case v.Error != nil:
		q.it.lacks(i, fmt.Sprintf("it refuses: %.200s", v.Error.Description))
	case v.Data == nil || v.Data.Code != 200:
		q.it.lacks(i, "it refuses, and does not say why")
	}
}

func (it *item) lacks(server int, why string) {
	if it.missing == nil {
		it.missing = make(map[int]string)
	}
	it.missing[server] = why
}

// complete tells whether nobody else is waited for.
func (p *pass) complete(q *request) bool {
	if !q.push {
		return q.got >= p.there()-p.mute
	}
	for i, answered := range q.answered {
		if !answered && !p.gone[i] {
			return false
		}
	}
	return true
}

// there is how many servers are waited for.
func (p *pass) there() int {
	n := 0
	for _, gone := range p.gone {
		if !gone {
			n++
		}
	}
	return n
}

// finish ends a request, and gives its item to a judge if it was the last one.
func (p *pass) finish(serial uint64, q *request) {
	delete(p.under, serial)
	p.due -= len(p.servers)
	p.bytes -= q.cost
	for i, answered := range q.answered {
		if !answered {
			q.it.lacks(i, noAnswer)
		}
	}
	if q.it.asked--; q.it.asked == 0 {
		p.judging++
		p.judges <- q.it
	}
}

// miss asks who is there still, once nobody has answered for a moment, and waits no more in this
// pass for who is not: a region that goes down while it is asked must not hold up what others are
// told. Who is only slow is waited for.
func (p *pass) miss(ctx context.Context) error {
	alive, err := p.alive(ctx, missed)
	if err != nil || len(alive) == 0 {
		return err
	}
	for i, s := range p.servers {
		p.gone[i] = p.gone[i] || !alive[s.ID]
	}
	for _, serial := range slices.Sorted(maps.Keys(p.under)) {
		if q := p.under[serial]; p.complete(q) {
			p.finish(serial, q)
		}
	}
	return nil
}

// alive are the ids of those servers of the pass that answer a ping.
func (p *pass) alive(ctx context.Context, patience time.Duration) (map[string]bool, error) {
	names := make([]string, len(p.servers))
	for i, s := range p.servers {
		names[i] = s.Name
	}
	found, err := p.find(ctx, names, patience)
	ids := make(map[string]bool, len(found))
	for _, s := range found {
		ids[s.ID] = true
	}
	return ids, err
}

// giveUp ends all requests that are under way. Who is to be waited for in what follows of
// this pass, it finds out: not for a server that does not answer a ping, and not for one
// that answered none of the pushes of which another answered some. If there were no pushes,
// then for as many less as lack in all looks.
func (p *pass) giveUp(ctx context.Context) error {
	alive, err := p.alive(ctx, missed)
	if err != nil {
		return err
	}
	answers, pushes := make([]int, len(p.servers)), false
	for _, q := range p.under {
		pushes = pushes || q.push
		for i, answered := range q.answered {
			if answered {
				answers[i]++
			}
		}
	}
	for i, s := range p.servers {
		p.gone[i] = !alive[s.ID] ||
			pushes && answers[i] == 0 && slices.Max(answers) > 0
	}
	p.mute = 0
	if there := p.there(); !pushes {
		lack := there
		for _, q := range p.under {
			lack = min(lack, max(0, there-q.got))
		}
		if lack < there {
			p.mute = lack
		}
	}
	for _, serial := range slices.Sorted(maps.Keys(p.under)) {
		p.finish(serial, p.under[serial])
	}
	return nil
}

// report puts together what was found and done.
func (p *pass) report(items []*item, expected []string) Report {
	rep := Report{Servers: p.servers, Accounts: make([]Standing, len(items))}
	behind := map[string]*Behind{}
	add := func(name, why string, accounts int) {
		if behind[name] == nil {
			behind[name] = &Behind{Server: name, Why: why}
		}
		behind[name].Accounts += accounts
	}
	for _, name := range expected {
		if !slices.ContainsFunc(p.servers, func(s Server) bool { return s.Name == name }) && behind[name] == nil {
			add(name, noAnswer, len(items))
		}
	}
	servers := len(p.servers) + len(behind)
	for i, it := range items {
		for _, at := range slices.Sorted(maps.Keys(it.missing)) {
			add(p.servers[at].Name, it.missing[at], 1)
		}
		for at, gone := range p.gone {
			if _, counted := it.missing[at]; gone && !counted && it.st.InLine < len(p.servers) {
				add(p.servers[at].Name, noAnswer, 1)
			}
		}
		it.st.Servers, it.st.opened = servers, it.opened
		rep.Accounts[i] = it.st
	}
	for _, name := range slices.Sorted(maps.Keys(behind)) {
		rep.Behind = append(rep.Behind, *behind[name])
	}
	return rep
}
