package ledgertest

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"

	"github.com/herald-nats/herald/pkg/ledger"
)

// Faults makes stores and sources fail as networks and disks do, by dice of which one
// seed always gives the same throws. It is safe for concurrent use.
type Faults struct {
	mu     sync.Mutex
	dice   *rand.Rand
	oneIn  int
	healed bool
	late   []func() // writes that are still on their way
}

// NewFaults lets one call in oneIn fail, on average.
func NewFaults(seed uint64, oneIn int) *Faults {
	return &Faults{dice: rand.New(rand.NewPCG(seed, 0)), oneIn: max(oneIn, 1)} // #nosec G404 -- faults, not secrets
}

// Heal ends all faults. What is still on its way arrives.
func (f *Faults) Heal() {
	f.mu.Lock()
	f.healed = true
	late := f.late
	f.late = nil
	f.mu.Unlock()
	for _, write := range late {
		write()
	}
}

// throw gives 1 to n where something is to fail, 0 where not. First it lets a late
// write arrive, now and then.
func (f *Faults) throw(n int) int {
	f.mu.Lock()
	var arrives func()
	if len(f.late) > 0 && f.dice.IntN(2) == 0 {
		i := f.dice.IntN(len(f.late))
		arrives = f.late[i]
		f.late = slices.Delete(f.late, i, i+1)
	}
	what := 0
	if !f.healed && f.dice.IntN(f.oneIn) == 0 {
		what = 1 + f.dice.IntN(n)
	}
	f.mu.Unlock()
	if arrives != nil {
		arrives()
	}
	return what
}

func (f *Faults) upTo(n int) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.dice.IntN(n)
}

// write lets a write through, loses it, loses its answer, does it twice, or does it
// after its caller has given up.
func (f *Faults) write(ctx context.Context, do func(context.Context) error) error {
	switch f.throw(5) {
	case 1:
		return fmt.Errorf("%w: the request is lost", ledger.ErrUnavailable)
	case 2:
		_ = do(ctx)
		return fmt.Errorf("%w: the answer is lost", ledger.ErrUnavailable)
	case 3:
		err := do(ctx)
		_ = do(ctx)
		return err
	case 4:
		_ = do(ctx)
		return do(ctx) // the second one's answer comes first
	case 5:
		f.mu.Lock()
		defer f.mu.Unlock()
		f.late = append(f.late, func() { _ = do(context.WithoutCancel(ctx)) })
		return fmt.Errorf("%w: the request is late", ledger.ErrUnavailable)
	}
	return do(ctx)
}

// Decisions is a store that fails.
func (f *Faults) Decisions(s ledger.DecisionStore) ledger.DecisionStore { return decisions{s, f} }

type decisions struct {
	s ledger.DecisionStore
	f *Faults
}

func (d decisions) Get(ctx context.Context, key ledger.Key) (string, uint64, error) {
	if d.f.throw(1) != 0 {
		return "", 0, fmt.Errorf("%w: no answer", ledger.ErrUnavailable)
	}
	return d.s.Get(ctx, key)
}

func (d decisions) Put(ctx context.Context, key ledger.Key, token string, revision uint64) error {
	return d.f.write(ctx, func(ctx context.Context) error { return d.s.Put(ctx, key, token, revision) })
}

// Denials is a store that fails.
func (f *Faults) Denials(s ledger.DenialStore) ledger.DenialStore { return denials{s, f} }

type denials struct {
	s ledger.DenialStore
	f *Faults
}

func (d denials) Append(ctx context.Context, key ledger.Key, token string) error {
	return d.f.write(ctx, func(ctx context.Context) error { return d.s.Append(ctx, key, token) })
}

// Source is a source that fails: it gives no answer, puts what nobody signed beside
// what is there, gives entries twice, in disorder or again, and its last position is
// one of before. All that is there is given in the end.
func (f *Faults) Source(s ledger.Source) ledger.Source { return &source{s: s, f: f} }

type source struct {
	s ledger.Source
	f *Faults

	mu   sync.Mutex
	last uint64
}

func (s *source) Read(ctx context.Context, after uint64, limit int) ([]ledger.Stored, error) {
	what := s.f.throw(7)
	if what == 1 {
		return nil, fmt.Errorf("%w: no answer", ledger.ErrUnavailable)
	}
	got, err := s.s.Read(ctx, after, limit)
	if err != nil || len(got) == 0 {
		return got, err
	}
	switch what {
	case 2: // cut off within the entries: fewer than there are
		return got[:1+s.f.upTo(len(got))], nil
	case 3:
		return s.beside(got, func(token string) string { return token[:s.f.upTo(len(token)+1)] }), nil
	case 4:
		return s.beside(got, s.flip), nil
	case 5: // unsigned, or signed for another key
		return s.beside(got, func(string) string {
			return [...]string{"", "x", "eyJ0eXAiOiJKV1QiLCJhbGciOiJlZDI1NTE5LW5rZXkifQ.e30.", got[s.f.upTo(len(got))].Data}[s.f.upTo(4)]
		}), nil
	case 6:
		got = append(got, got...)
		for i := range got {
			j := s.f.upTo(i + 1)
			got[i], got[j] = got[j], got[i]
		}
		return got, nil
	case 7: // what was read long ago comes first, or last
		old, err := s.s.Read(ctx, 0, 1+s.f.upTo(limit))
		if err != nil {
			return nil, err
		}
		if s.f.upTo(2) == 0 {
			return append(got, old...), nil
		}
		return append(old, got...), nil
	}
	return got, nil
}

// beside puts another entry before each, with its key and position.
func (s *source) beside(got []ledger.Stored, other func(token string) string) []ledger.Stored {
	out := make([]ledger.Stored, 0, 2*len(got))
	for _, e := range got {
		bad := e
		bad.Data = other(e.Data)
		out = append(out, bad, e)
	}
	return out
}

func (s *source) flip(token string) string {
	if token == "" {
		return "x"
	}
	i, bit := s.f.upTo(len(token)), byte(1)<<s.f.upTo(8)
	var b strings.Builder
	b.WriteString(token[:i])
	b.WriteByte(token[i] ^ bit)
	b.WriteString(token[i+1:])
	return b.String()
}

func (s *source) Last(ctx context.Context) (uint64, error) {
	what := s.f.throw(2)
	if what == 1 {
		return 0, fmt.Errorf("%w: no answer", ledger.ErrUnavailable)
	}
	last, err := s.s.Last(ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	if err == nil && what == 2 {
		return s.last, nil
	}
	s.last = last
	return last, err
}
