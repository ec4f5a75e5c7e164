package registrar_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/ledger"
	"github.com/herald-nats/herald/pkg/ledger/ledgertest"
	"github.com/herald-nats/herald/pkg/ledger/memory"
	"github.com/herald-nats/herald/pkg/registrar"
	"github.com/herald-nats/herald/pkg/subject"
)

// stream is a region's stream of denials: what the region wrote, and late copies of
// what the others did. Of each key it has the last that each region wrote.
type stream struct {
	own    *memory.Denials
	born   int                     // how often own was lost
	copies map[int]*memory.Denials // by the region that wrote
	copied map[int]position        // how far each region's was copied
	down   bool
}

// position is how far one stream was read, and which of its lives that was.
type position struct {
	born int
	seq  uint64
}

// Append implements ledger.DenialStore. When it is down a write may come through, and
// only its answer is lost.
func (s *stream) Append(ctx context.Context, key ledger.Key, token string) error {
	if s.down {
		if len(token)%2 == 0 {
			_ = s.own.Append(ctx, key, token)
		}
		return fmt.Errorf("%w: no quorum", ledger.ErrUnavailable)
	}
	return s.own.Append(ctx, key, token)
}

// node is one registrar.
type node struct {
	*registrar.Denials
	region int
	read   map[int]position // how far its region's stream was read, by who wrote
	skew   time.Duration
	holds  map[ledger.Key]ledger.Entry // the last that came to hold, to see that none goes back
}

// message is on its way to the nodes of a region, to one of them or to all.
type message struct {
	from, to   int
	subj, kind string
	data       []byte
}

// world is regions, what is between them, and a clock.
type world struct {
	*ledgertest.Platform
	doc     ledger.Entry
	dice    *rand.Rand
	names   []ident.Region
	streams []*stream
	nodes   []*node
	cut     map[[2]int]bool
	queue   []message
	fail    func(format string, args ...any)
	sent    map[string]int // messages by kind
}

// threeRegions is a document of regions ams, sfo and sgp.
func threeRegions(t testing.TB, p *ledgertest.Platform) (ledger.Entry, []ident.Region) {
	t.Helper()
	public := p.Public(t, 1, 1)
	sgp := public.Regions[0]
	sgp.Name = must(ident.ParseRegion("sgp"))
	public.Regions = append(public.Regions, sgp)
	token := must(ledger.SignDocument(p.Signer(0), public, p.Policy(t), ledger.DefaultNameRules(), p.Now()))
	var names []ident.Region
	for _, r := range public.Regions {
		names = append(names, r.Name)
	}
	return must(p.Opener().Open(ledger.PlatformKey().String(), token)), names
}

func newWorld(p *ledgertest.Platform, doc ledger.Entry, names []ident.Region, seed uint64, registrars []int, fail func(string, ...any)) *world {
	w := &world{
		Platform: p, doc: doc, names: names, cut: map[[2]int]bool{}, fail: fail, sent: map[string]int{},
		dice: rand.New(rand.NewPCG(seed, 1)), //nolint:gosec // faults, not secrets
	}
	for r := range names {
		w.streams = append(w.streams, &stream{own: new(memory.Denials), copies: map[int]*memory.Denials{}, copied: map[int]position{}})
		for range registrars[r] {
			w.nodes = append(w.nodes, nil)
			w.start(len(w.nodes)-1, r, time.Duration(w.dice.IntN(120)-60)*time.Second)
		}
	}
	return w
}

// start makes a registrar that knows the document and nothing else.
func (w *world) start(i, region int, skew time.Duration) {
	n := &node{region: region, read: map[int]position{}, skew: skew, holds: map[ledger.Key]ledger.Entry{}}
	now := func() time.Time { return w.Now().Add(skew) }
	n.Denials = &registrar.Denials{
		Region: w.names[region], Self: userOf(byte(i)), Store: w.streams[region],
		Opener: ledger.Opener{Operator: w.Operator, Now: now}, Signer: w.Signer(i % 2),
		Publish: func(subj string, data []byte) error { return w.publish(region, subj, data) },
		Log:     slog.New(slog.DiscardHandler), Now: now,
	}
	n.Projection = ledger.NewProjection(func(e ledger.Entry) {
		if old, ok := n.holds[e.Key]; ok && !e.Beats(old) {
			w.fail("registrar %d: %s went from version %d back to %d", i, e.Key, old.Version, e.Version)
		}
		n.holds[e.Key] = e
		n.Changed(e)
	})
	n.Projection.Apply(w.doc)
	w.nodes[i] = n
}

// publish is what the servers do: whoever may hear a subject gets a copy.
func (w *world) publish(from int, subj string, data []byte) error {
	kind := subj[strings.LastIndexByte(subj, '.')+1:]
	if subj == subject.PeerDigests {
		w.sent[kind]++
		for to := range w.names {
			w.queue = append(w.queue, message{from, to, subj, kind, data})
		}
		return nil
	}
	if key, ok := strings.CutPrefix(subj, subject.DenialsPrefix(w.names[from])); ok {
		if w.dice.IntN(5) > 0 { // nobody acknowledges it
			_ = w.streams[from].Append(context.Background(), must(ledger.ParseKey(key)), string(data))
		}
		return nil
	}
	for to, r := range w.names {
		live, isLive := strings.CutPrefix(subj, subject.Live(r, ""))
		if isLive {
			kind = "live"
		}
		if isLive || subj == subject.PeerCompare(r) || subj == subject.PeerEntries(r) {
			w.sent[kind]++
			w.queue = append(w.queue, message{from, to, live, kind, data})
			return nil
		}
	}
	w.fail("nobody hears %q", subj)
	return nil
}

// deliver lets one message arrive, maybe again later, or not at all where its link is cut.
func (w *world) deliver(lossy bool) {
	i := w.dice.IntN(len(w.queue))
	m := w.queue[i]
	again := lossy && w.dice.IntN(8) == 0
	if !again {
		w.queue[i] = w.queue[len(w.queue)-1]
		w.queue = w.queue[:len(w.queue)-1]
	}
	if w.cut[[2]int{m.from, m.to}] || lossy && w.dice.IntN(5) == 0 {
		return
	}
	var to []*node
	for _, n := range w.nodes {
		if n.region == m.to {
			to = append(to, n)
		}
	}
	if m.kind == "compare" { // by a queue group: one of them has it
		to = to[w.dice.IntN(len(to)):][:1]
	}
	for _, n := range to {
		if lossy && w.dice.IntN(10) == 0 {
			continue
		}
		if m.kind != "live" {
			n.Message(m.kind, m.data)
		} else if e, err := n.Opener.Open(m.subj, string(m.data)); err == nil { // as a follower takes a hint
			n.Projection.Apply(e)
		}
	}
}

// follow lets a registrar read its region's stream, as a follower does.
func (w *world) follow(n *node) {
	s := w.streams[n.region]
	sources := map[int]*memory.Denials{n.region: s.own}
	for r, c := range s.copies {
		sources[r] = c
	}
	for r := range w.names {
		src, ok := sources[r]
		if !ok {
			continue
		}
		born := 0
		if r == n.region {
			born = s.born
		}
		at := n.read[r]
		if at.born != born {
			at = position{born: born}
			n.Emptied()
		}
		got, _ := src.Read(context.Background(), at.seq, 1000)
		for _, e := range got {
			at.seq = e.Seq
			opened, err := n.Opener.Open(e.Subject, e.Data)
			switch {
			case errors.Is(err, ledger.ErrAhead):
				w.fail("an entry from the future, within two minutes of skew: %v", err)
			case err != nil:
				n.Spoilt(e.Subject)
			default:
				n.Projection.Apply(opened)
				n.Stored(opened)
			}
		}
		n.read[r] = at
	}
}

// source lets a region's stream copy some of what another has written.
func (w *world) source(to, from int) {
	s, f := w.streams[to], w.streams[from]
	if to == from || s.down || w.cut[[2]int{from, to}] {
		return
	}
	if s.copies[from] == nil {
		s.copies[from] = new(memory.Denials)
	}
	at := s.copied[from]
	if at.born != f.born {
		at = position{born: f.born}
	}
	got, _ := f.own.Read(context.Background(), at.seq, 1+w.dice.IntN(4))
	for _, e := range got {
		at.seq = e.Seq
		if k, err := ledger.ParseKey(e.Subject); err == nil {
			_ = s.copies[from].Append(context.Background(), k, e.Data)
		}
	}
	s.copied[from] = at
}

// settle heals everything and lets the registrars do what they do every second.
func (w *world) settle(rounds int, sourcing bool) {
	clear(w.cut)
	for _, s := range w.streams {
		s.down = false
	}
	for range rounds {
		w.Advance(time.Second)
		for i, n := range w.nodes {
			if sourcing {
				for from := range w.names {
					w.source(n.region, from)
				}
			}
			w.follow(n)
			n.Digest()
			for steps := 0; len(w.queue) > 0; steps++ {
				if steps > 100_000 {
					w.fail("registrars talk without end: %v", w.sent)
					return
				}
				w.deliver(false)
			}
			w.nodes[i].Adopt(context.Background())
		}
	}
}

// stored is what somebody knows who reads a region's stream and nothing else.
func (w *world) stored(region int) *ledger.Projection {
	p := ledger.NewProjection(nil)
	p.Apply(w.doc)
	s := w.streams[region]
	for _, src := range append([]*memory.Denials{s.own}, copiesOf(s)...) {
		got, _ := src.Read(context.Background(), 0, 10_000)
		for _, e := range got {
			if opened, err := w.nodes[0].Opener.Open(e.Subject, e.Data); err == nil {
				p.Apply(opened)
			}
		}
	}
	return p
}

func copiesOf(s *stream) []*memory.Denials {
	var all []*memory.Denials
	for _, c := range s.copies {
		all = append(all, c)
	}
	return all
}

// TestDenialsConverge: whatever the network loses, doubles, delays and puts out of
// order, whatever link is cut and whichever store fails: once all works again, all
// registrars know the same, each region's own stream has all of it, and nothing that was
// stated and stored is undone.
func TestDenialsConverge(t *testing.T) {
	p := ledgertest.NewPlatform(t, "demo", time.Unix(1790000000, 0))
	doc, names := threeRegions(t, p)
	keys := []ledger.Key{
		ledger.IdentitySuspension(ident.OpenIdentity(userOf(1))), ledger.UserSuspension(accountOf(1), userOf(1)),
		ledger.AccountSuspension(accountOf(1)),
	}
	ctx := context.Background()
	began := p.Now()
	rapid.Check(t, func(rt *rapid.T) {
		p.Advance(began.Sub(p.Now())) // so that a failing run fails again
		registrars := rapid.SampledFrom([][]int{{1, 1, 1}, {2, 1, 1}, {2, 2, 1}}).Draw(rt, "registrars")
		w := newWorld(p, doc, names, rapid.Uint64().Draw(rt, "network"), registrars, rt.Fatalf)
		// A stream that loses what it has, and a registrar that forgets: not both in one
		// run, or what only they had is gone for good.
		forgetful := rapid.Bool().Draw(rt, "restarts")
		var stated []ledger.Entry
		anyNode := rapid.IntRange(0, len(w.nodes)-1)
		anyRegion := rapid.IntRange(0, len(names)-1)
		alone := func(region int) bool { return registrars[region] == 1 }
		outcome := func(e ledger.Entry, err error) {
			switch {
			case err == nil:
				if !e.Key.IsZero() {
					stated = append(stated, e)
				}
			case errors.Is(err, ledger.ErrUnavailable):
				if !forgetful {
					stated = append(stated, e) // in force, and kept by this registrar
				}
			case !errors.Is(err, ledger.ErrOld):
				rt.Fatalf("%v", err)
			}
		}
		rt.Repeat(map[string]func(*rapid.T){
			"suspend": func(rt *rapid.T) {
				n := w.nodes[anyNode.Draw(rt, "by")]
				outcome(n.Suspend(ctx, rapid.SampledFrom(keys).Draw(rt, "whom"), true, 0, ledger.Suspension{By: n.Region.String()}))
			},
			"resume": func(rt *rapid.T) {
				n, k := w.nodes[anyNode.Draw(rt, "by")], rapid.SampledFrom(keys).Draw(rt, "whom")
				cur, _ := n.Projection.Get(k)
				// Also by who saw less than there is.
				seen := cur.Version - min(cur.Version, rapid.SampledFrom([]uint64{0, 0, 0, 1}).Draw(rt, "behind"))
				e, err := n.Suspend(ctx, k, false, seen, ledger.Suspension{By: n.Region.String()})
				if seen != cur.Version && cur.Denies && err == nil {
					rt.Fatalf("a resume upon version %d undid version %d", seen, cur.Version)
				}
				outcome(e, err)
			},
			"revoke": func(rt *rapid.T) {
				n := w.nodes[anyNode.Draw(rt, "by")]
				before := w.Now().Add(-time.Duration(rapid.IntRange(0, 20).Draw(rt, "ago")) * time.Second)
				outcome(n.Revoke(ctx, accountOf(1), userOf(byte(rapid.IntRange(1, 3).Draw(rt, "whom"))), before, ledger.Revocation{}))
			},
			"time passes": func(rt *rapid.T) { w.Advance(time.Duration(rapid.IntRange(1, 3000).Draw(rt, "ms")) * time.Millisecond) },
			"messages": func(rt *rapid.T) {
				for range rapid.IntRange(1, 12).Draw(rt, "arrive") {
					if len(w.queue) > 0 {
						w.deliver(true)
					}
				}
			},
			"digest": func(rt *rapid.T) { w.nodes[anyNode.Draw(rt, "of")].Digest() },
			"adopt":  func(rt *rapid.T) { w.nodes[anyNode.Draw(rt, "by")].Adopt(ctx) },
			"follow": func(rt *rapid.T) { w.follow(w.nodes[anyNode.Draw(rt, "who")]) },
			"source": func(rt *rapid.T) { w.source(anyRegion.Draw(rt, "to"), anyRegion.Draw(rt, "from")) },
			"link": func(rt *rapid.T) {
				a, b := anyRegion.Draw(rt, "a"), anyRegion.Draw(rt, "b")
				cut := rapid.Bool().Draw(rt, "cut") && a != b
				w.cut[[2]int{a, b}], w.cut[[2]int{b, a}] = cut, cut
			},
			"store": func(rt *rapid.T) { w.streams[anyRegion.Draw(rt, "of")].down = rapid.Bool().Draw(rt, "down") },
			"what nobody signed": func(rt *rapid.T) {
				r := anyRegion.Draw(rt, "in")
				if forgetful {
					return // it would take the place of the one entry that a memory's key has
				}
				_ = w.streams[r].own.Append(ctx, rapid.SampledFrom(keys).Draw(rt, "under"), "x")
			},
			"a stream is lost": func(rt *rapid.T) {
				if s := w.streams[anyRegion.Draw(rt, "of")]; !forgetful {
					s.own, s.born = new(memory.Denials), s.born+1
				}
			},
			"a registrar starts anew": func(rt *rapid.T) {
				i := anyNode.Draw(rt, "which")
				if n := w.nodes[i]; forgetful && alone(n.region) {
					w.start(i, n.region, n.skew)
					w.follow(w.nodes[i])
				}
			},
		})
		w.settle(8, rapid.Bool().Draw(rt, "sourcing"))
		want := w.nodes[0].Projection
		for i, n := range w.nodes {
			if !bytes.Equal(n.Projection.Dump(), want.Dump()) {
				rt.Fatalf("registrars 0 and %d know different things", i)
			}
			if n.Unstored() > 0 {
				rt.Fatalf("registrar %d still looks after %d entries", i, n.Unstored())
			}
		}
		for r := range names {
			if !bytes.Equal(w.stored(r).Dump(), want.Dump()) {
				rt.Fatalf("the stream of %s does not have what is known", names[r])
			}
		}
		for _, e := range stated {
			if holds, ok := want.Get(e.Key); !ok || e.Beats(holds) {
				rt.Fatalf("%s was at version %d, denied %t, and is at %d, denied %t", e.Key, e.Version, e.Denies, holds.Version, holds.Denies)
			}
		}
		// And then there is silence but for the digests.
		clear(w.sent)
		w.settle(3, false)
		if len(w.sent) != 1 || w.sent["digest"] != 3*len(w.nodes) {
			rt.Fatalf("all know the same, and they send %v", w.sent)
		}
	})
}

// FuzzMessage: whatever comes from another registrar, nothing is believed without a
// signature, nothing is sent without bounds, and the registrar goes on.
func FuzzMessage(f *testing.F) {
	p := ledgertest.NewPlatform(f, "demo", time.Unix(1790000000, 0))
	doc, names := threeRegions(f, p)
	good := must(ledger.Suspend(p.Opener(), p.Signer(0), ledger.AccountSuspension(accountOf(1)), nil, true, 0, ledger.Suspension{}, p.Now()))
	entries := string(must(json.Marshal(map[string]any{"entries": []map[string]string{{"key": good.Key.String(), "token": good.Token}}})))
	for _, kind := range []string{"digest", "compare", "entries", "", "x"} {
		for _, data := range []string{
			"", "{", "null", "[]", "{}", entries, `{"entries":[{"key":"","token":""}]}`, `{"entries":[null]}`,
			`{"region":"sfo","root":"AAAA"}`, `{"region":"sfo","buckets":"AAAA"}`, `{"region":"*.>","root":"AAAA"}`, `{"region":"sfo","root":null}`,
		} {
			f.Add(kind, []byte(data))
		}
	}
	f.Fuzz(func(t *testing.T, kind string, data []byte) {
		w := newWorld(p, doc, names, 0, []int{1, 1, 1}, t.Fatalf)
		n := w.nodes[0]
		if _, err := n.Suspend(t.Context(), ledger.AccountSuspension(accountOf(2)), true, 0, ledger.Suspension{}); err != nil {
			t.Fatal(err)
		}
		before := n.Projection.Dump()
		w.queue = nil
		// The regions that messages name are any; the world would fail for those that it has not.
		sent := 0
		n.Publish = func(string, []byte) error { sent++; return nil }
		n.Message(kind, data)
		if sent > 2 {
			t.Errorf("%d messages for one", sent)
		}
		if after := n.Projection.Dump(); !bytes.Equal(before, after) && !bytes.Contains(data, []byte(good.Token)) {
			t.Error("something was believed that nobody signed")
		}
		n.Adopt(t.Context())
	})
}
