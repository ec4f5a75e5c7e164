package jetstream

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/herald-nats/herald/internal/wait"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/ledger"
	"github.com/herald-nats/herald/pkg/subject"
)

// Errors of moving home's bucket.
var (
	// ErrHomeAnswers: the bucket has a leader. It is not to be taken away from who decides.
	ErrHomeAnswers = errors.New("home's bucket has a leader")
	// ErrAway: a mirror that may have more than the others cannot be asked.
	ErrAway = errors.New("its mirror does not answer")
	// ErrForked: a mirror may have what another home than the last one decided.
	ErrForked = errors.New("its mirror may have what home does not have")
)

const (
	// GoneAfter is how long a bucket must be without a leader until it counts as gone. An
	// election takes 10 s at most.
	GoneAfter = 12 * time.Second
	moveEvery = 100 * time.Millisecond
)

// What streams say of themselves, as metadata: it is there before and beside the platform document.
const (
	// metaEpoch is, of the bucket, the epoch that it was made for, and of a mirror the last one
	// in which it was known to have nothing that home does not have.
	metaEpoch = "herald.epoch"
	// metaLast is up to which position the bucket has what the former one had.
	metaLast = "herald.last"
	// metaRun is the run that made the bucket and its copy.
	metaRun = "herald.run"
)

// Bucket moves home's bucket, with the rights of the set-up tool's role mover.
//
// A stream whose servers are gone has no leader, but the rest of the supercluster can still
// decide that there is none of that name any more. So the bucket is deleted, and made again
// in another region with what its mirror has, at the same positions: the mirrors of all other
// regions go on with it as if nothing had been. Servers of the former home learn when they are back that
// it is deleted, and take nothing more into it, which fences whoever still decides there; what
// they had decided meanwhile their region's mirror has.
//
// The new one is made as a mirror and promoted, which keeps positions. It cannot mirror the
// region's own mirror, which mirrors it (nats-server: detected cycle), so there is a copy between.
type Bucket struct {
	js jetstream.JetStream
	// Patience is how long a bucket must be without a leader; 0: GoneAfter.
	Patience time.Duration
	// Step is told of each step before it is taken; nil tells nobody.
	Step func(what string)
}

// NewBucket uses a connection in LEDGER with the rights of the role mover.
func NewBucket(nc *nats.Conn) (*Bucket, error) {
	js, err := jetstream.New(nc)
	if err != nil {
		return nil, fmt.Errorf("moving home's bucket: %w", err)
	}
	return &Bucket{js: js}, nil
}

func (b *Bucket) step(what string) {
	if b.Step != nil {
		b.Step(what)
	}
}

func (b *Bucket) patience() time.Duration {
	if b.Patience > 0 {
		return b.Patience
	}
	return GoneAfter
}

// info asks what a stream is: ErrNotFound, or ErrUnavailable where it has no leader.
func (b *Bucket) info(ctx context.Context, name string) (*jetstream.StreamInfo, error) {
	try, cancel := context.WithTimeout(ctx, setupTry)
	defer cancel()
	s, err := b.js.Stream(try, name)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return nil, fmt.Errorf("stream %s: %w", name, ledger.ErrNotFound)
	}
	if err != nil {
		return nil, fmt.Errorf("stream %s: %w", name, unavailable(err))
	}
	return s.CachedInfo(), nil
}

// Found is what there is of home's bucket.
type Found struct {
	Region ident.Region // where its leader is; zero: it has none, or is not there
	Epoch  uint32       // that it was made for; 0: the first
	Last   uint64       // up to which position it has what the former one had
	Made   bool         // it takes what is decided: it is no copy that is being made
}

// Gone looks whether home's bucket has no leader, for as long as an election takes, or is not
// there: then it gives the zero region.
func (b *Bucket) Gone(ctx context.Context) (Found, error) {
	for began := time.Now(); ; {
		i, err := b.info(ctx, subject.DecisionsStream)
		switch {
		case err == nil:
			return found(i)
		case errors.Is(err, ledger.ErrNotFound):
			return Found{}, nil
		case !errors.Is(err, ledger.ErrUnavailable):
			return Found{}, err
		case time.Since(began) > b.patience():
			return Found{}, nil
		}
		if err := wait.For(ctx, moveEvery); err != nil {
			return Found{}, fmt.Errorf("asking home's bucket: %w", err)
		}
	}
}

func found(i *jetstream.StreamInfo) (f Found, err error) {
	if i.Config.Placement == nil {
		return f, fmt.Errorf("stream %s is in no region: %w", i.Config.Name, ledger.ErrDamaged)
	}
	f.Region, err = ident.ParseRegion(i.Config.Placement.Cluster)
	f.Epoch, f.Made = epochOf(i), i.Config.Mirror == nil
	f.Last, _ = strconv.ParseUint(i.Config.Metadata[metaLast], 10, 64) // 0 in the first epoch
	return f, err
}

func epochOf(i *jetstream.StreamInfo) uint32 {
	n, _ := strconv.ParseUint(i.Config.Metadata[metaEpoch], 10, 32) // what is not there is the first
	return uint32(n)
}

// Furthest is the region whose mirror has most of what home decided in an epoch, 0 being the first.
// All regions are asked until they answer: ErrAway names one that does not, ErrForked one
// that may have what another home decided.
func (b *Bucket) Furthest(ctx context.Context, regions []ident.Region, epoch uint32) (ident.Region, uint64, error) {
	b.step("ask mirrors how far they are")
	var (
		best ident.Region
		last uint64
	)
	for _, r := range regions {
		var i *jetstream.StreamInfo
		err := b.until(ctx, GoneAfter, func() (err error) {
			i, err = b.info(ctx, subject.MirrorStream(r))
			return err
		})
		if err != nil {
			return best, 0, fmt.Errorf("region %s: %w: %w", r, ErrAway, err)
		}
		if epochOf(i) < epoch {
			return best, 0, fmt.Errorf("region %s: %w", r, ErrForked)
		}
		if best.IsZero() || i.State.LastSeq > last {
			best, last = r, i.State.LastSeq
		}
	}
	if last == 0 {
		return best, 0, fmt.Errorf("no mirror has anything: %w", ledger.ErrLost)
	}
	return best, last, nil
}

// Move makes home's bucket in a region for an epoch, with what the mirror of from has, unless it
// is there. It may be called again after it was cut off. It gives up to which position the new one
// has what the former one had.
//
// still tells whether home is gone still: it is asked right before the bucket is deleted.
func (b *Bucket) Move(ctx context.Context, to, from ident.Region, epoch uint32, still func(context.Context) error) (last uint64, err error) {
	var had Found
	switch have, err := b.info(ctx, subject.DecisionsStream); {
	case err == nil:
		if had, err = b.ours(have, to, epoch); err != nil {
			return 0, err
		}
	case !errors.Is(err, ledger.ErrNotFound) && !errors.Is(err, ledger.ErrUnavailable):
		return 0, err
	}
	if had.Made {
		b.step("remove the copy")
		return had.Last, b.remove(ctx, subject.MovingStream)
	}
	// What another run left is nothing to go on with: a mirror may have been made anew since.
	run := rand.Text()
	b.step("copy what home had decided")
	if err := b.remove(ctx, subject.MovingStream); err != nil {
		return 0, err
	}
	last, err = b.copied(ctx, jetstream.StreamConfig{
		Name: subject.MovingStream, Description: "a copy of what was decided in home, while home moves to " + to.String(),
		MaxMsgsPerSubject: 1, Replicas: replicas, Placement: &jetstream.Placement{Cluster: to.String()}, Metadata: map[string]string{metaRun: run},
	}, subject.MirrorStream(from))
	if err != nil {
		return 0, err
	}
	if err := still(ctx); err != nil {
		return 0, err
	}
	b.step("delete the bucket of the home that is gone")
	if err := b.removeGone(ctx, to, epoch); err != nil {
		return 0, err
	}
	b.step("make the bucket")
	bucket := decisions(to)
	bucket.Metadata = map[string]string{metaRun: run, metaEpoch: strconv.FormatUint(uint64(epoch), 10), metaLast: strconv.FormatUint(last, 10)}
	if _, err = b.copied(ctx, bucket, subject.MovingStream); err != nil {
		return 0, err
	}
	b.step("remove the copy")
	return last, b.remove(ctx, subject.MovingStream)
}

// ours refuses a bucket that has a leader and was not made for this move.
func (b *Bucket) ours(i *jetstream.StreamInfo, to ident.Region, epoch uint32) (Found, error) {
	f, err := found(i)
	if err == nil && (f.Region != to || f.Epoch != epoch) {
		err = fmt.Errorf("it is in %s: %w", f.Region, ErrHomeAnswers)
	}
	return f, err
}

// removeGone deletes home's bucket, as long as it has no leader, or is one that another run of
// this move was making.
func (b *Bucket) removeGone(ctx context.Context, to ident.Region, epoch uint32) error {
	return b.until(ctx, 0, func() error {
		switch i, err := b.info(ctx, subject.DecisionsStream); {
		case errors.Is(err, ledger.ErrNotFound):
			return nil
		case err == nil:
			if f, err := b.ours(i, to, epoch); err != nil || f.Made {
				return errors.Join(err, fmt.Errorf("it was made meanwhile: %w", ErrHomeAnswers))
			}
		}
		return b.ask(ctx, subject.DecisionsStream)
	})
}

// copied makes a stream as a mirror of another, waits until it has all of it, and promotes it.
func (b *Bucket) copied(ctx context.Context, c jetstream.StreamConfig, of string) (last uint64, err error) {
	mirror := c
	mirror.Subjects, mirror.Mirror = nil, &jetstream.StreamSource{Name: of}
	if err := ensure(ctx, b.js, mirror, b.js.CreateStream); err != nil {
		return 0, err
	}
	err = b.until(ctx, 0, func() error {
		source, err := b.info(ctx, of)
		if err != nil {
			return err
		}
		have, err := b.info(ctx, c.Name)
		if err != nil {
			return err
		}
		if have.Config.Metadata[metaRun] != c.Metadata[metaRun] {
			return fmt.Errorf("stream %s: another run makes it: %w", c.Name, ledger.ErrConflict)
		}
		last = have.State.LastSeq
		if have.State.LastSeq < source.State.LastSeq || have.State.Msgs != source.State.Msgs {
			return fmt.Errorf("stream %s has %d of %d: %w", c.Name, have.State.Msgs, source.State.Msgs, ledger.ErrUnavailable)
		}
		return nil
	})
	if err != nil {
		return 0, err
	}
	return last, ensure(ctx, b.js, c, b.js.UpdateStream)
}

// remove deletes a stream. Where its servers are gone nobody answers: it is looked at again.
func (b *Bucket) remove(ctx context.Context, name string) error {
	return b.until(ctx, 0, func() error {
		if _, err := b.info(ctx, name); errors.Is(err, ledger.ErrNotFound) {
			return nil
		}
		return b.ask(ctx, name)
	})
}

// ask asks for the end of a stream, which is to be looked at again.
func (b *Bucket) ask(ctx context.Context, name string) error {
	try, cancel := context.WithTimeout(ctx, setupTry)
	defer cancel()
	if err := b.js.DeleteStream(try, name); err != nil && !errors.Is(err, jetstream.ErrStreamNotFound) {
		return fmt.Errorf("deleting stream %s: %w", name, unavailable(err))
	}
	return nil
}

// Follow notes of mirrors that they have nothing beyond a position of the bucket, which is so for those
// that followed the home before the move. A mirror that has, or cannot be asked, is made anew by
// Remake when its region is back.
func (b *Bucket) Follow(ctx context.Context, regions []ident.Region, epoch uint32, last uint64) error {
	b.step("note which mirrors follow")
	for _, r := range regions {
		err := b.until(ctx, GoneAfter, func() error {
			i, err := b.info(ctx, subject.MirrorStream(r))
			if err != nil || i.State.LastSeq > last || epochOf(i) >= epoch {
				return err
			}
			return b.mark(ctx, r, epoch)
		})
		if err != nil && !errors.Is(err, ledger.ErrUnavailable) && !errors.Is(err, ledger.ErrNotFound) {
			return err
		}
	}
	return nil
}

func (b *Bucket) mark(ctx context.Context, r ident.Region, epoch uint32) error {
	c := mirror(r)
	c.Metadata = map[string]string{metaEpoch: strconv.FormatUint(uint64(epoch), 10)}
	try, cancel := context.WithTimeout(ctx, setupTry)
	defer cancel()
	if _, err := b.js.UpdateStream(try, c); err != nil {
		return fmt.Errorf("stream %s: %w", c.Name, unavailable(err))
	}
	return nil
}

// Follows tells whether a region's mirror is known to have nothing that home does not have, in an
// epoch. ErrNotFound: it has no mirror.
func (b *Bucket) Follows(ctx context.Context, r ident.Region, epoch uint32) (bool, error) {
	var i *jetstream.StreamInfo
	err := b.until(ctx, GoneAfter, func() (err error) {
		i, err = b.info(ctx, subject.MirrorStream(r))
		return err
	})
	return err == nil && epochOf(i) >= epoch, err
}

// Remake makes a region's mirror anew, and waits until it has all that the bucket has.
func (b *Bucket) Remake(ctx context.Context, r ident.Region, epoch uint32) error {
	b.step("make the mirror anew")
	c := mirror(r)
	if err := b.remove(ctx, c.Name); err != nil {
		return err
	}
	c.Metadata = map[string]string{metaEpoch: strconv.FormatUint(uint64(epoch), 10)}
	if err := ensure(ctx, b.js, c, b.js.CreateStream); err != nil {
		return err
	}
	return b.until(ctx, 0, func() error {
		origin, err := b.info(ctx, subject.DecisionsStream)
		if err != nil {
			return err
		}
		have, err := b.info(ctx, c.Name)
		if err == nil && have.State.LastSeq < origin.State.LastSeq {
			err = fmt.Errorf("stream %s is at %d of %d: %w", c.Name, have.State.LastSeq, origin.State.LastSeq, ledger.ErrUnavailable)
		}
		return err
	})
}

// until tries again what ErrUnavailable may heal, until ctx ends or, unless it is 0, for a while.
func (b *Bucket) until(ctx context.Context, most time.Duration, f func() error) error {
	for began := time.Now(); ; {
		err := f()
		if err == nil || !errors.Is(err, ledger.ErrUnavailable) || most > 0 && time.Since(began) > most || wait.For(ctx, moveEvery) != nil {
			return err
		}
	}
}

// kept gives a stream's configuration with what the one that is there says of itself.
func kept(c jetstream.StreamConfig, have jetstream.StreamConfig) jetstream.StreamConfig {
	c.Metadata = maps.Clone(have.Metadata)
	return c
}
