package apply

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
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
	// Patience is how long home must not answer until it counts as gone; 0: longer than an election
	// takes.
	Patience time.Duration
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
	// ErrFollows: nothing is to be taken back: the region's mirror follows home.
	ErrFollows = errors.New("its mirror follows home")
	// ErrNoMover: the platform has no role that may move home.
	ErrNoMover = errors.New("this folder has no key of role LEDGER/mover")
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
	if t.Platform.Document.Home == o.To {
		return nil, fmt.Errorf("region %s: %w", o.To, ErrIsHome)
	}
	t.Platform.File.Home = o.To // where to connect, and to record
	t.step("connect")
	bucket, done, err := s.bucket(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	d, err := s.moveBucket(ctx, bucket, o, out)
	if err != nil {
		return nil, err
	}
	defer func() { out.Unrecorded = t.Record(ctx, s.changes) }()
	// It is a position in the bucket that is gone.
	if err := os.Remove(filepath.Join(t.Platform.Dir.Operator(), positionFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("forgetting how far the former home was read: %w", err)
	}
	t.step("open the ledger")
	if _, err := s.ledger(ctx); err != nil {
		return out, err
	}
	force, err := s.lookUntil(ctx)
	if err != nil {
		return out, err
	}
	full, err := s.crown(ctx, o, d, force, out)
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
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, fmt.Errorf("%w: %w", ErrNoMover, err)
	}
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

// gone asks in every region that can be reached, the former home too, where home's bucket has a
// leader: from one alone it may seem to be gone where a link is cut. It gives what there is in To,
// and refuses what is elsewhere.
func (s *session) gone(ctx context.Context, o Move) (jetstream.Found, error) {
	var (
		asked sync.WaitGroup
		mu    sync.Mutex
		there jetstream.Found
		errs  []error
		heard int
	)
	for _, r := range s.Platform.Document.Regions {
		// Where to connect was said: nothing else can be reached from here.
		if len(s.URLs) > 0 && !slices.ContainsFunc(r.URLs, func(u string) bool { return slices.Contains(s.URLs, u) }) {
			continue
		}
		asked.Go(func() {
			f, err := s.goneIn(ctx, r, o.Patience)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err != nil:
				errs = append(errs, fmt.Errorf("asking in region %s: %w", r.Name, err))
			case !f.Region.IsZero() && f.Region != o.To:
				errs = append(errs, fmt.Errorf("region %s: %w", f.Region, jetstream.ErrHomeAnswers))
			case !f.Region.IsZero():
				there, heard = f, heard+1
			default:
				heard++
			}
		})
	}
	asked.Wait()
	err := errors.Join(errs...)
	// A region that is away says nothing.
	if heard > 0 && !errors.Is(err, jetstream.ErrHomeAnswers) {
		err = nil
	}
	return there, err
}

// dialBound bounds reaching a region: of one that is gone nobody answers.
const dialBound = 5 * time.Second

func (s *session) goneIn(ctx context.Context, r trust.Region, patience time.Duration) (jetstream.Found, error) {
	near := *s.Tool
	near.URLs = r.URLs
	dctx, cancel := context.WithTimeout(ctx, dialBound)
	defer cancel()
	nc, err := near.Dial(dctx, platform.Ledger, platform.RoleMover)
	if err != nil {
		return jetstream.Found{}, err
	}
	defer nc.Close()
	b, err := jetstream.NewBucket(nc)
	if err != nil {
		return jetstream.Found{}, err
	}
	b.Patience = patience
	return b.Gone(ctx)
}

// newest is the newest platform document that any mirror has, or this folder: another may have
// changed it, or moved home before.
func (s *session) newest(ctx context.Context) (*ledger.Document, error) {
	nc, err := s.Dial(ctx, platform.Readers, platform.RoleReader)
	if err != nil {
		return nil, err
	}
	defer nc.Close()
	newest := s.Platform.Full
	for _, r := range s.Platform.Document.Regions {
		entries, err := jetstream.KindSource(nc, r.Name, ledger.KindPlatform).Read(ctx, 0, few)
		if err != nil {
			continue // it is away; which mirrors have to answer Furthest sees to
		}
		for _, stored := range entries {
			e, err := s.opener().Open(stored.Subject, stored.Data)
			if err != nil {
				continue // a mirror has what somebody put there
			}
			if d, ok := e.Body.(*ledger.Document); ok && d.Public.Version.Rank() > newest.Public.Version.Rank() {
				newest = d
			}
		}
	}
	return newest, ctx.Err()
}

// moveBucket moves home's bucket, unless it was. It gives the platform document before.
func (s *session) moveBucket(ctx context.Context, b *jetstream.Bucket, o Move, out *Moved) (*ledger.Document, error) {
	s.step("see whether home answers")
	there, err := s.gone(ctx, o)
	if err != nil {
		return nil, err
	}
	d, err := s.newest(ctx)
	if err != nil {
		return nil, err
	}
	was := d.Public.Home
	if was == o.To {
		if !there.Made {
			return nil, fmt.Errorf("region %s: %w", o.To, ErrIsHome)
		}
		return d, nil // another folder moved it: this one follows
	}
	out.Epoch = d.Public.Version.Epoch + 1
	others := slices.DeleteFunc(s.regions(), func(r ident.Region) bool { return r == was || slices.Contains(o.Without, r) })
	from := o.To
	if !there.Made {
		var last uint64
		if from, last, err = b.Furthest(ctx, others, d.Epoch()); err != nil {
			return nil, err
		}
		if o.Confirm != nil {
			if err := o.Confirm(from, last); err != nil {
				return nil, err
			}
		}
	}
	out.Last, err = b.Move(ctx, o.To, from, out.Epoch, func(ctx context.Context) error {
		s.step("see whether home answers still not")
		there, err := s.gone(ctx, o)
		if err == nil && there.Made {
			err = fmt.Errorf("it was made meanwhile: %w", jetstream.ErrHomeAnswers)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	// Before anything is decided there, by which they would go beyond.
	return d, b.Follow(ctx, others, out.Epoch, out.Last)
}

func (s *session) regions() []ident.Region {
	var out []ident.Region
	for _, r := range s.Platform.Document.Regions {
		out = append(out, r.Name)
	}
	return out
}

// crown puts the platform document by which the new home decides, unless it is there. It gives it
// as it was signed.
func (s *session) crown(ctx context.Context, o Move, known *ledger.Document, force Force, out *Moved) (string, error) {
	d := force.State.Document
	// What was put last may have gone with the home that took it.
	if d == nil || known.Public.Version.Rank() > d.Public.Version.Rank() {
		d = known
	}
	token := force.document.Token
	if d.Public.Version.Epoch < out.Epoch {
		s.step("write the platform document")
		proof, err := trust.SignEpoch(o.Key, out.Epoch, o.To, s.Now())
		if err != nil {
			return "", err
		}
		if d, err = d.Move(ledger.Move{To: o.To, Last: out.Last, Of: d.Public.Version.Rank(), By: o.By, Why: o.Why}, proof, s.Now()); err != nil {
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
	if d.Public.Home != o.To || len(d.Moves) == 0 {
		return "", fmt.Errorf("another run made %s home: %w", d.Public.Home, ledger.ErrConflict)
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

// Return takes a former home, or a region that was given up when home moved, for a region as any
// other: what it decided alone is taken over where home did not decide otherwise, and its mirror
// follows home again. confirm, if not nil, is asked before anything is changed; listed is told
// what became of all before the mirror, which is all that tells of it, is made anew. It may be run again.
func (t *Tool) Return(ctx context.Context, from ident.Region, confirm, listed func([]Alone) error) (unrecorded, err error) {
	lock, err := t.lock()
	if err != nil {
		return nil, err
	}
	defer func() { _ = lock.Close() }() // it held nothing but the lock
	signer, err := t.Platform.Signer()
	if err != nil {
		return nil, err
	}
	s := &session{Tool: t, signer: signer, result: &Result{}, changes: &Changes{Door: "home return", Now: t.Now}}
	defer s.close()
	t.step("connect")
	store, err := s.ledger(ctx)
	if err != nil {
		return nil, err
	}
	force, err := s.lookUntil(ctx)
	if err != nil {
		return nil, err
	}
	if force.State.Document == nil {
		return nil, fmt.Errorf("the platform document: %w", ledger.ErrNotFound)
	}
	moves := force.State.Document.Moves
	if len(moves) == 0 || from == force.State.Document.Public.Home {
		return nil, fmt.Errorf("region %s: %w", from, ErrFollows)
	}
	// Whoever was away for the last of several moves may have been for those before.
	m := moves[len(moves)-1]
	for _, o := range moves {
		if o.From == from {
			m = o
			break
		}
	}
	m.From = from
	bucket, done, err := s.bucket(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	epoch := force.State.Document.Epoch()
	switch follows, err := bucket.Follows(ctx, from, epoch); {
	case follows:
		return nil, fmt.Errorf("region %s: %w", from, ErrFollows)
	case errors.Is(err, ledger.ErrNotFound):
		// A run before this one had listed all, and removed it.
		return nil, bucket.Remake(ctx, from, epoch)
	case err != nil:
		return nil, err
	}
	defer func() { unrecorded = t.Record(ctx, s.changes) }()
	t.step("read what it has")
	alone, err := s.alone(ctx, m, store)
	if err != nil {
		return nil, err
	}
	all := make([]Alone, len(alone))
	for i, a := range alone {
		all[i] = a.Alone
	}
	if confirm != nil {
		if err := confirm(all); err != nil {
			return nil, err
		}
	}
	t.step("take it over")
	for i, a := range alone {
		if a.Fate != TakenOver {
			continue
		}
		switch taken, err := s.takeOver(ctx, a, store); {
		case err != nil:
			return nil, errors.Join(err, listed(all[:i]))
		case taken:
			s.changes.Decided(a.entry)
		default:
			all[i].Fate = Overruled // a moment ago
		}
	}
	if err := listed(all); err != nil {
		return nil, err
	}
	return nil, bucket.Remake(ctx, from, epoch)
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
		// It may be there by a try whose answer was lost, or be on its way by one: servers refuse
		// another meanwhile.
		have, revision, gerr := store.Get(ctx, a.entry.Key)
		switch {
		case gerr == nil && have == a.entry.Token:
			return nil
		case gerr == nil && revision == a.revision, errors.Is(gerr, ledger.ErrNotFound):
			return fmt.Errorf("%s is being written: %w", a.entry.Key, ledger.ErrUnavailable)
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
	// A mirror that is back may go on with what the new home decides.
	if later(e, m) {
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
	// What the operator says, nobody says elsewhere; and claims that follow it have their place
	// beside it alone.
	if base, ok := e.Body.(ledger.Base); e.Key == ledger.PlatformKey() || ok && base.Follows > m.Of {
		a.Fate = Refused
	}
	return a, true, nil
}

// later tells whether an entry was decided after a move.
func later(e ledger.Entry, m ledger.Move) bool {
	switch body := e.Body.(type) {
	case *ledger.Document:
		return body.Public.Version.Epoch >= m.Epoch
	case ledger.Base: // whose version is that of the JWT in it
		return body.Follows > ledger.Floor(m.Epoch+1)
	}
	return e.Version > ledger.Floor(m.Epoch)
}
