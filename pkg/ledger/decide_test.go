package ledger_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/ledger"
	"github.com/herald-nats/herald/pkg/ledger/ledgertest"
	"github.com/herald-nats/herald/pkg/ledger/memory"
	"github.com/herald-nats/herald/pkg/trust"
)

// store lets a test say what a store does.
type store struct {
	get  func() (string, uint64, error)
	put  func(token string, revision uint64) error
	gets int
	puts int
}

func (s *store) Get(context.Context, ledger.Key) (string, uint64, error) {
	s.gets++
	return s.get()
}

func (s *store) Put(_ context.Context, _ ledger.Key, token string, revision uint64) error {
	s.puts++
	return s.put(token, revision)
}

func missing() (string, uint64, error) { return "", 0, ledger.ErrNotFound }

// claim claims a name on a store; waits take no time in a bubble of synctest.
func claim(p *ledgertest.Platform, s ledger.DecisionStore, n ident.Name, id ident.Identity) (ledger.Entry, error) {
	return p.Decider(s, 0).Claim(context.Background(), ledger.Claim{Name: n, Identity: id, Expires: now()}, now())
}

func TestDecidingThatConflictsForEver(t *testing.T) {
	p, alice, a := newPlatform(t), name(t, "alice"), open(t)
	synctest.Test(t, func(t *testing.T) {
		s := &store{get: missing, put: func(string, uint64) error { return ledger.ErrConflict }}
		_, err := claim(p, s, alice, a)
		want(t, "for ever", err, ledger.ErrConflict)
		if s.puts < 2 || s.puts > 10 {
			t.Errorf("it tried %d times", s.puts)
		}
		ctx, cancel := context.WithCancel(t.Context())
		s = &store{get: missing, put: func(string, uint64) error { cancel(); return ledger.ErrConflict }}
		_, err = p.Decider(s, 0).Claim(ctx, ledger.Claim{Name: alice, Identity: a, Expires: now()}, now())
		want(t, "a context that ends between two tries", err, ledger.ErrUnavailable)
		if s.puts != 1 {
			t.Errorf("it tried %d times", s.puts)
		}
	})
}

// What is stored is believed for its signature: a store that was written by somebody
// else gives nobody a name and takes none away, nor is that written over.
func TestDecidingBelievesNoStrangersEntry(t *testing.T) {
	p, other := newPlatform(t), ledgertest.NewPlatform(t, "other", now())
	alice, a := name(t, "alice"), open(t)
	mine := ledger.Name{Holder: a, Claimed: 1}
	good := p.Entry(t, ledger.NameKey(alice), 1, false, now(), mine).Token
	for what, token := range map[string]string{
		"another operator's": other.Entry(t, ledger.NameKey(alice), 1, false, now(), mine).Token,
		"another name's":     p.Entry(t, ledger.NameKey(name(t, "bob")), 1, false, now(), mine).Token,
		"nobody's":           p.Token(t, p.Signing[0], trust.Entry{Subject: "name.alice", Version: 1, At: 1}, map[string]int{"until": 3}),
		"bodiless":           p.Token(t, p.Signing[0], trust.Entry{Subject: "name.alice", Version: 1, At: 1}, nil),
		"the operator key's": p.Token(t, p.Root, trust.Entry{Subject: "name.alice", Version: 1, At: 1}, mine),
		"garbage":            "x", "nothing": "", "cut": good[:len(good)-2],
	} {
		s := &store{get: func() (string, uint64, error) { return token, 3, nil }, put: func(string, uint64) error {
			t.Errorf("%s entry is overwritten", what)
			return nil
		}}
		_, err := claim(p, s, alice, a)
		want(t, what, err, ledger.ErrDamaged)
	}
	s := &store{get: func() (string, uint64, error) { return good, 3, nil }}
	if _, err := claim(p, s, alice, a); err != nil {
		t.Error(err)
	}
}

func TestDecidingPassesErrorsOn(t *testing.T) {
	p, alice, a := newPlatform(t), name(t, "alice"), open(t)
	down := fmt.Errorf("%w: no quorum", ledger.ErrUnavailable)
	s := &store{get: func() (string, uint64, error) { return "", 0, down }}
	_, err := claim(p, s, alice, a)
	want(t, "reading", err, ledger.ErrUnavailable)
	if s.puts != 0 {
		t.Error("it wrote blindly")
	}
	// Whether a write was stored is unknown: it must not be told as done, nor tried blindly.
	s = &store{get: missing, put: func(string, uint64) error { return down }}
	_, err = claim(p, s, alice, a)
	want(t, "writing", err, ledger.ErrUnavailable)
	if s.puts != 1 {
		t.Errorf("it wrote %d times", s.puts)
	}
	d, broken := p.Decider(s, 0), errors.New("no key")
	d.Signer = signer(func(trust.Entry) (string, error) { return "", broken })
	_, err = d.Claim(t.Context(), ledger.Claim{Name: alice, Identity: a, Expires: now()}, now())
	want(t, "signing", err, broken)
	// A key that is none of this operator's: what it signs would lock the name.
	d.Signer = ledgertest.NewPlatform(t, "other", now()).Signer(0)
	_, err = d.Claim(t.Context(), ledger.Claim{Name: alice, Identity: a, Expires: now()}, now())
	want(t, "signing with a stranger's key", err, ledger.ErrDamaged)
	_, err = p.Decider(s, 0).Claim(t.Context(), ledger.Claim{Name: alice, Identity: a}, now().Add(day))
	want(t, "dated by a clock that is wrong", err, ledger.ErrAhead)
	if s.puts != 1 {
		t.Errorf("it wrote %d times", s.puts)
	}
}

type signer func(trust.Entry) (string, error)

func (s signer) Sign(e trust.Entry) (string, error) { return s(e) }

// A store that has less than was seen decides nothing, or a name would be given twice.
func TestDecidingOnAStoreThatLostSomething(t *testing.T) {
	h := newHome(t)
	alice, a, b := name(t, "alice"), open(t), open(t)
	e, err := h.Claim(t.Context(), ledger.Claim{Name: alice, Identity: a, Expires: now()}, now())
	if err != nil {
		t.Fatal(err)
	}
	seen := ledger.NewProjection(nil)
	seen.Apply(e)
	synctest.Test(t, func(t *testing.T) {
		var empty memory.Decisions
		d := h.Platform.Decider(&empty, 1)
		d.Known = seen.Version
		for _, id := range []ident.Identity{a, b} {
			_, err := d.Claim(t.Context(), ledger.Claim{Name: alice, Identity: id, Expires: now()}, now())
			want(t, "claiming", err, ledger.ErrLost)
		}
		_, err := d.Release(t.Context(), alice, ident.Identity{}, ident.Identity{}, now())
		want(t, "releasing", err, ledger.ErrLost)
		if last, _ := empty.Last(t.Context()); last != 0 {
			t.Error("something was written")
		}
		_, err = d.Claim(t.Context(), ledger.Claim{Name: name(t, "bob"), Identity: b, Expires: now()}, now())
		want(t, "another name", err, nil)

		// A leader that is a moment behind catches up.
		s := &store{put: func(string, uint64) error { t.Error("written"); return nil }}
		s.get = func() (string, uint64, error) {
			if s.gets < 4 {
				return missing()
			}
			return e.Token, 1, nil
		}
		d.Store = s
		_, err = d.Claim(t.Context(), ledger.Claim{Name: alice, Identity: b, Expires: now()}, now())
		want(t, "by another", err, ledger.ErrTaken)
		// And an older version than was seen is as good as none.
		seen.Apply(h.Entry(t, ledger.NameKey(alice), 2, false, now(), ledger.Name{Holder: b}))
		_, err = d.Claim(t.Context(), ledger.Claim{Name: alice, Identity: a, Expires: now()}, now())
		want(t, "upon an older version", err, ledger.ErrLost)
	})
}

// stepped runs several claims one store access at a time, in an order that the
// property test draws: every interleaving that there can be.
type stepped struct {
	s    ledger.DecisionStore
	turn chan struct{} // one access may pass
	done chan struct{} // it has
}

func (s *stepped) Get(ctx context.Context, k ledger.Key) (string, uint64, error) {
	<-s.turn
	defer func() { s.done <- struct{}{} }()
	return s.s.Get(ctx, k)
}

func (s *stepped) Put(ctx context.Context, k ledger.Key, token string, r uint64) error {
	<-s.turn
	defer func() { s.done <- struct{}{} }()
	return s.s.Put(ctx, k, token, r)
}

func TestAnyInterleavingGivesEachNameToOne(t *testing.T) {
	p := newPlatform(t)
	ids := []ident.Identity{open(t), open(t), open(t)}
	names := []ident.Name{name(t, "alice"), name(t, "bob")}
	type claimed struct {
		id    ident.Identity
		name  ident.Name
		s     *stepped
		entry ledger.Entry
		err   error
		over  chan struct{}
	}
	property := func(r *rapid.T) {
		var mem memory.Decisions
		claims := make([]*claimed, rapid.IntRange(2, 6).Draw(r, "claims"))
		var wg sync.WaitGroup
		for i := range claims {
			c := &claimed{
				id: rapid.SampledFrom(ids).Draw(r, "who"), name: rapid.SampledFrom(names).Draw(r, "what"),
				s: &stepped{&mem, make(chan struct{}), make(chan struct{})}, over: make(chan struct{}),
			}
			claims[i] = c
			wg.Go(func() {
				defer close(c.over)
				c.entry, c.err = claim(p, c.s, c.name, c.id)
			})
		}
		for left := append([]*claimed(nil), claims...); len(left) > 0; {
			i := rapid.IntRange(0, len(left)-1).Draw(r, "next")
			select {
			case left[i].s.turn <- struct{}{}:
				<-left[i].s.done
			case <-left[i].over:
				left = append(left[:i], left[i+1:]...)
			}
		}
		wg.Wait()
		for _, n := range names {
			owners := make(map[ident.Identity]string)
			for _, c := range claims {
				switch {
				case c.name != n:
				case c.err == nil:
					if had, ok := owners[c.id]; ok && had != c.entry.Token {
						r.Fatalf("%s was given to %s in two entries", n, c.id)
					}
					owners[c.id] = c.entry.Token
				case !errors.Is(c.err, ledger.ErrTaken):
					r.Fatalf("%s: %v", n, c.err)
				}
			}
			for _, c := range claims {
				if _, ok := owners[c.id]; c.name == n && (len(owners) != 1 || ok != (c.err == nil)) {
					r.Fatalf("%s is given to %d, and %s got %v", n, len(owners), c.id, c.err)
				}
			}
		}
	}
	checkInBubble(t, property)
}

// insist asks again until there is an answer, as whoever lost one does. It gives up
// at an error that says that something of ours is wrong.
func insist(do func() (ledger.Entry, error)) (ledger.Entry, error) {
	for {
		e, err := do()
		if !errors.Is(err, ledger.ErrUnavailable) && !errors.Is(err, ledger.ErrConflict) {
			return e, err
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// Requests and answers are lost, come twice and late; whoever asks again until there
// is an answer gets the truth, and there is one owner.
func TestFaultsGiveNoNameToTwo(t *testing.T) {
	p, alice := newPlatform(t), name(t, "alice")
	ids := []ident.Identity{open(t), open(t), open(t), open(t)}
	property := func(r *rapid.T) {
		var mem memory.Decisions
		faults := ledgertest.NewFaults(rapid.Uint64().Draw(r, "seed"), rapid.IntRange(1, 4).Draw(r, "one in"))
		flaky := faults.Decisions(&mem)
		var wg sync.WaitGroup
		errs := make([]error, 2*len(ids))
		for i := range errs {
			wg.Go(func() {
				d := p.Decider(flaky, i%2)
				_, errs[i] = insist(func() (ledger.Entry, error) {
					return d.Claim(context.Background(), ledger.Claim{Name: alice, Identity: ids[i/2], Expires: now()}, now())
				})
			})
		}
		time.Sleep(300 * time.Millisecond) // where all calls fail, nothing would ever end
		faults.Heal()
		wg.Wait()
		token, _, err := mem.Get(context.Background(), ledger.NameKey(alice))
		if err != nil {
			r.Fatal(err)
		}
		e, err := p.Opener().Open("name.alice", token)
		if err != nil {
			r.Fatal(err)
		}
		owner := e.Body.(ledger.Name).Holder
		for i, err := range errs {
			if ids[i/2] == owner && err != nil || ids[i/2] != owner && !errors.Is(err, ledger.ErrTaken) {
				r.Fatalf("%s has it, and %s was told %v", owner, ids[i/2], err)
			}
		}
	}
	checkInBubble(t, property)
}

// An invitation is used exactly as often as allowed, whatever is lost and asked again.
func TestFaultsUseNoInvitationTwice(t *testing.T) {
	p, id := newPlatform(t), ident.InviteOf("code")
	var users []ident.UserKey
	for range 4 {
		users = append(users, ledgertest.User(t))
	}
	property := func(r *rapid.T) {
		var mem memory.Decisions
		faults := ledgertest.NewFaults(rapid.Uint64().Draw(r, "seed"), rapid.IntRange(1, 4).Draw(r, "one in"))
		flaky := faults.Decisions(&mem)
		uses := rapid.IntRange(1, len(users)+1).Draw(r, "uses")
		if _, err := p.Decider(&mem, 0).CreateInvite(context.Background(), id, invite(t, uses), now()); err != nil {
			r.Fatal(err)
		}
		var wg sync.WaitGroup
		errs := make([]error, 2*len(users)) // each user asks twice, with nonces of its own
		for i := range errs {
			wg.Go(func() {
				_, errs[i] = insist(func() (ledger.Entry, error) {
					return p.Decider(flaky, i%2).Redeem(context.Background(), id, users[i/2], fmt.Sprint(i), now())
				})
			})
		}
		time.Sleep(300 * time.Millisecond)
		faults.Heal()
		wg.Wait()
		token, _, err := mem.Get(context.Background(), ledger.InviteKey(id))
		if err != nil {
			r.Fatal(err)
		}
		e, err := p.Opener().Open(ledger.InviteKey(id).String(), token)
		if err != nil {
			r.Fatal(err)
		}
		used := make(map[ident.UserKey]bool)
		for _, u := range e.Body.(ledger.Invite).Redeemed {
			used[u.User] = true
		}
		if n := len(e.Body.(ledger.Invite).Redeemed); n != len(used) || n != min(uses, len(users)) {
			r.Fatalf("%d uses by %d users, of %d", n, len(used), uses)
		}
		for i, err := range errs {
			if used[users[i/2]] != (err == nil) || err != nil && !errors.Is(err, ledger.ErrSpent) {
				r.Fatalf("whether it has redeemed: %t; it was told %v", used[users[i/2]], err)
			}
		}
	}
	checkInBubble(t, property)
}

// What is decided in an epoch beats all that was decided in one before, whichever of it was
// decided more often: a home that was given up may have gone on by itself.
func TestDecidingInAnEpochBeatsAllBefore(t *testing.T) {
	p := newPlatform(t)
	alice, a, b := name(t, "alice"), open(t), open(t)
	old, fresh := &memory.Decisions{}, &memory.Decisions{}
	former, next := p.Decider(old, 0), p.Decider(fresh, 1)
	next.Epoch = 2
	var last ledger.Entry
	for i := range 5 { // a name that is extended gets a new version each time
		e, err := former.Claim(t.Context(), ledger.Claim{Name: alice, Identity: a, Expires: now().Add(time.Duration(i*48) * time.Hour), Chosen: true}, now())
		if err != nil {
			t.Fatal(err)
		}
		last = e
	}
	other, err := next.Claim(t.Context(), ledger.Claim{Name: alice, Identity: b, Expires: now()}, now())
	if err != nil {
		t.Fatal(err)
	}
	if !other.Beats(last) || last.Beats(other) || last.Version < 5 || last.Version > ledger.Floor(2) || other.Version <= ledger.Floor(2) {
		t.Errorf("version %d of an epoch against %d of the next", last.Version, other.Version)
	}
	if ledger.Floor(0) != 0 || ledger.Floor(1) != 0 {
		t.Error("the first epoch has a floor")
	}
}

// What home's registrar knows, and the bucket lost with the home before, is so still: a name that
// was given is nobody else's, and is written again when its holder comes. In the
// same epoch a bucket that has less is refused, as ever.
func TestDecidingRecallsWhatAHomeTookWithIt(t *testing.T) {
	p := newPlatform(t)
	alice, a, b := name(t, "alice"), open(t), open(t)
	known := ledger.NewProjection(nil)
	e, err := p.Decider(&memory.Decisions{}, 0).Claim(t.Context(), ledger.Claim{Name: alice, Identity: a, Expires: now().Add(time.Hour)}, now())
	if err != nil {
		t.Fatal(err)
	}
	known.Apply(e)
	decider := func(epoch uint32) *ledger.Decider {
		d := p.Decider(&memory.Decisions{}, 1)
		d.Epoch, d.Known, d.Recall = epoch, known.Version, known.Recall
		return d
	}
	claim := func(d *ledger.Decider, id ident.Identity) (ledger.Entry, error) {
		return d.Claim(context.Background(), ledger.Claim{Name: alice, Identity: id, Expires: now().Add(time.Hour)}, now())
	}
	synctest.Test(t, func(t *testing.T) {
		_, err := claim(decider(0), a)
		want(t, "in the epoch in which it was lost", err, ledger.ErrLost)
		d := decider(2)
		_, err = claim(d, b)
		want(t, "another's name", err, ledger.ErrTaken)
		again, err := claim(d, a)
		if err != nil || again.Token == "" || again.Version <= ledger.Floor(2) {
			t.Fatalf("its holder: %+v %v", again, err)
		}
		if n, ok := again.Body.(ledger.Name); !ok || n.Holder != a {
			t.Errorf("it is %+v", again.Body)
		}
		stored, _, err := d.Store.Get(t.Context(), ledger.NameKey(alice))
		if err != nil || stored != again.Token {
			t.Errorf("what is stored: %v", err)
		}
		_, err = claim(d, b)
		want(t, "another's name, once it is stored", err, ledger.ErrTaken)
	})
}
