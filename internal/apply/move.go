package apply

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/keystore"
	"github.com/herald-nats/herald/pkg/ledger"
	"github.com/herald-nats/herald/pkg/ledger/jetstream"
	"github.com/herald-nats/herald/pkg/platform"
	"github.com/herald-nats/herald/pkg/trust"
)

// Move is a home that is to be given up for another.
type Move struct {
	To      ident.Region
	By, Why string
	// Key is the operator key, whose word a new epoch takes.
	Key *keystore.Key
	// Without are regions that are away, too: what their mirrors alone have is given up.
	Without []ident.Region
	// Confirm is asked before anything is changed, with where what home had decided comes from,
	// and how much that is; its error ends the run. nil asks nobody.
	Confirm func(from ident.Region, entries uint64) error
}

// Moved is what became of it.
type Moved struct {
	ledger.Move
	Version trust.Version
	// Unrecorded is why what was decided is not in the records; nil if it is.
	Unrecorded error
}

// Errors of moving home, and of taking a former one back.
var (
	// ErrIsHome: the region is home.
	ErrIsHome = errors.New("it is home")
	// ErrNotMoved: home never was there.
	ErrNotMoved = errors.New("home did not move away from it")
)

// MoveHome has another region decide what home decided, which is gone for good. The order is such
// that no two regions ever decide at once for who hears both: the bucket of the old one is no
// more before the new one takes anything, and services follow the platform document, which is
// the first thing in it. Run again after it was cut off, it goes on.
//
// The registrars of the new home decide when they were started again from their folder.
func (t *Tool) MoveHome(ctx context.Context, o Move) (*Moved, error) {
	out := &Moved{}
	lock, err := t.lock()
	if err != nil {
		return nil, err
	}
	defer func() { _ = lock.Close() }() // it held nothing but the lock
	signer, err := t.Platform.Signer()
	if err != nil {
		return nil, err
	}
	s := &session{Tool: t, signer: signer, result: &Result{}, changes: &Changes{Door: "home move", Now: t.Now}}
	defer s.close()
	was := t.Platform.Document.Home
	t.Platform.File.Home = o.To // where to connect, and to record
	t.step("connect")
	bucket, done, err := s.bucket(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	if err := s.moveBucket(ctx, bucket, o, was, out); err != nil {
		return nil, err
	}
	defer func() { out.Unrecorded = t.Record(ctx, s.changes) }()
	t.step("open the ledger")
	if _, err := s.ledger(ctx); err != nil {
		return out, err
	}
	force, err := s.lookUntil(ctx)
	if err != nil {
		return out, err
	}
	full, err := s.crown(ctx, o, force, out)
	if err != nil {
		return out, err
	}
	t.step("write the folder")
	if err := t.Platform.MoveHome(full, slices.Collect(maps.Values(force.tokens)), t.Now()); err != nil {
		return out, err
	}
	out.Version = t.Platform.Document.Version
	return out, nil
}

// bucket connects as who may delete streams.
func (s *session) bucket(ctx context.Context) (*jetstream.Bucket, func(), error) {
	nc, err := s.Dial(ctx, platform.Ledger, platform.RoleMover)
	if err != nil {
		return nil, nil, err
	}
	b, err := jetstream.NewBucket(nc)
	if err != nil {
		nc.Close()
		return nil, nil, err
	}
	b.Step = func(what string) { s.step("%s", what) }
	return b, nc.Close, nil
}

// moveBucket moves home's bucket, unless it was.
func (s *session) moveBucket(ctx context.Context, b *jetstream.Bucket, o Move, was ident.Region, out *Moved) error {
	at, err := b.Gone(ctx)
	switch {
	case err != nil:
		return err
	case at == o.To && was == o.To:
		return fmt.Errorf("region %s: %w", o.To, ErrIsHome)
	case !at.IsZero() && at != o.To:
		return fmt.Errorf("region %s: %w", at, jetstream.ErrHomeAnswers)
	}
	var regions []ident.Region
	for _, r := range s.Platform.Document.Regions {
		if r.Name != was && !slices.Contains(o.Without, r.Name) {
			regions = append(regions, r.Name)
		}
	}
	if !slices.Contains(regions, o.To) {
		regions = append(regions, o.To) // a run before this one came as far as the folder
	}
	from, last, err := b.Furthest(ctx, regions)
	if err != nil {
		return err
	}
	if o.Confirm != nil {
		if err := o.Confirm(from, last); err != nil {
			return err
		}
	}
	out.Last, err = b.Move(ctx, o.To, from)
	return err
}

// crown puts the platform document by which the new home decides, unless it is there. It gives it
// as it was signed.
func (s *session) crown(ctx context.Context, o Move, force Force, out *Moved) (string, error) {
	d := force.State.Document
	// What was put last may have gone with the home that took it.
	if mine := s.Platform.Full; d == nil || mine.Public.Version.Rank() > d.Public.Version.Rank() {
		d = mine
	}
	token := force.document.Token
	if d.Public.Home != o.To {
		s.step("write the platform document")
		proof, err := trust.SignEpoch(o.Key, d.Public.Version.Epoch+1, o.To, s.Now())
		if err != nil {
			return "", err
		}
		if d, err = d.Move(ledger.Move{To: o.To, Last: out.Last, By: o.By, Why: o.Why}, proof, s.Now()); err != nil {
			return "", err
		}
		if token, err = s.signer.Document(d, s.Now()); err != nil {
			return "", fmt.Errorf("signing the platform document: %w", err)
		}
		if err := s.until(ctx, func(ctx context.Context) error {
			_, err := s.decider.PutDocument(ctx, token)
			return err
		}); err != nil {
			return "", err
		}
	}
	out.Move = d.Moves[len(d.Moves)-1]
	return token, nil
}

// Alone is something that a former home decided alone.
type Alone struct {
	Key     string
	Version uint64
	At      time.Time
	Body    any // as in ledger.Entry; nil: it is not believed
	Fate    Fate
}

// Fate is what becomes of what a former home decided alone.
type Fate string

// The fates.
const (
	// TakenOver: home has it now.
	TakenOver Fate = "taken over"
	// Overruled: home decided otherwise meanwhile.
	Overruled Fate = "overruled"
	// Refused: it is not believed, or is what home alone may say.
	Refused Fate = "refused"
)

// Return takes a former home, which is back, for a region as any other: what it decided alone is
// taken over where home did not decide otherwise, and its mirror follows home again. It gives all
// of that. confirm, if not nil, is asked before anything is changed. It may be run again.
func (t *Tool) Return(ctx context.Context, from ident.Region, confirm func([]Alone) error) (all []Alone, unrecorded, err error) {
	lock, err := t.lock()
	if err != nil {
		return nil, nil, err
	}
	defer func() { _ = lock.Close() }() // it held nothing but the lock
	signer, err := t.Platform.Signer()
	if err != nil {
		return nil, nil, err
	}
	s := &session{Tool: t, signer: signer, result: &Result{}, changes: &Changes{Door: "home return", Now: t.Now}}
	defer s.close()
	t.step("connect")
	store, err := s.ledger(ctx)
	if err != nil {
		return nil, nil, err
	}
	force, err := s.lookUntil(ctx)
	if err != nil {
		return nil, nil, err
	}
	if force.State.Document == nil {
		return nil, nil, fmt.Errorf("the platform document: %w", ledger.ErrNotFound)
	}
	m, ok := force.State.Document.Moved(from)
	if !ok {
		return nil, nil, fmt.Errorf("region %s: %w", from, ErrNotMoved)
	}
	defer func() { unrecorded = t.Record(ctx, s.changes) }()
	t.step("read what it has")
	alone, err := s.alone(ctx, m, store)
	if err != nil {
		return nil, nil, err
	}
	for _, a := range alone {
		all = append(all, a.Alone)
	}
	if confirm != nil {
		if err := confirm(all); err != nil {
			return all, nil, err
		}
	}
	t.step("take it over")
	for i, a := range alone {
		if a.Fate != TakenOver {
			continue
		}
		switch taken, err := s.takeOver(ctx, a, store); {
		case err != nil:
			return all, nil, err
		case taken:
			s.changes.Decided(a.entry)
		default:
			all[i].Fate = Overruled // a moment ago
		}
	}
	bucket, done, err := s.bucket(ctx)
	if err != nil {
		return all, nil, err
	}
	defer done()
	return all, nil, bucket.Remake(ctx, from)
}

// alone is something that was found, and where it would go.
type alone struct {
	Alone
	entry    ledger.Entry
	revision uint64 // of what home has under the key; 0: nothing
}

// takeOver puts an entry into home's bucket; false if there is another by now.
func (s *session) takeOver(ctx context.Context, a alone, store *jetstream.Decisions) (taken bool, err error) {
	err = s.until(ctx, func(ctx context.Context) error {
		err := store.Put(ctx, a.entry.Key, a.entry.Token, a.revision)
		if !errors.Is(err, ledger.ErrConflict) {
			return err
		}
		// It may be there by a try whose answer was lost.
		have, _, gerr := store.Get(ctx, a.entry.Key)
		if gerr == nil && have == a.entry.Token {
			return nil
		}
		return errors.Join(err, gerr)
	})
	if errors.Is(err, ledger.ErrConflict) && !errors.Is(err, ledger.ErrUnavailable) {
		return false, nil
	}
	return err == nil, err
}

// alone finds what a former home decided alone.
func (s *session) alone(ctx context.Context, m ledger.Move, store *jetstream.Decisions) ([]alone, error) {
	var out []alone
	source := jetstream.MirrorSource(s.reader, m.From)
	for from := m.Last; ; {
		batch, err := source.Read(ctx, from, 1000)
		if err != nil {
			return nil, fmt.Errorf("reading the mirror of %s: %w", m.From, err)
		}
		if len(batch) == 0 {
			return out, nil
		}
		for _, e := range batch {
			from = e.Seq
			a, is, err := s.judge(ctx, m, e, store)
			if err != nil {
				return nil, err
			}
			if is {
				out = append(out, a)
			}
		}
	}
}

// judge says whether an entry was decided by the former home alone, and what becomes of it.
func (s *session) judge(ctx context.Context, m ledger.Move, stored ledger.Stored, store *jetstream.Decisions) (alone, bool, error) {
	a := alone{Alone: Alone{Key: stored.Subject, Fate: Refused}}
	e, err := s.opener().Open(stored.Subject, stored.Data)
	if err != nil {
		return a, true, nil // somebody put it there, and nobody believes it
	}
	a.entry, a.Key, a.Version, a.At, a.Body = e, e.Key.String(), e.Version, e.At, e.Body
	// A mirror that is back goes on with what the new home decides.
	if e.Version > ledger.Floor(m.Epoch) {
		return a, false, nil
	}
	var have string
	err = s.until(ctx, func(ctx context.Context) (err error) {
		have, a.revision, err = store.Get(ctx, e.Key)
		return err
	})
	switch {
	case errors.Is(err, ledger.ErrNotFound):
		a.Fate, a.revision = TakenOver, 0
	case err != nil:
		return a, false, fmt.Errorf("asking home for %s: %w", e.Key, err)
	case have == stored.Data:
		return a, false, nil
	case a.revision > m.Last:
		a.Fate = Overruled
	default:
		cur, err := s.opener().Open(stored.Subject, have)
		if err != nil || e.Beats(cur) {
			a.Fate = TakenOver
		} else {
			a.Fate = Overruled
		}
	}
	if e.Key == ledger.PlatformKey() {
		a.Fate = Refused // what the operator says, nobody says elsewhere
	}
	return a, true, nil
}
