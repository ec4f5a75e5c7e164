package jetstream

import (
	"context"
	"errors"
	"fmt"
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
)

const (
	// goneAfter is how long a bucket must be without a leader until it counts as gone. An
	// election takes 10 s at most.
	goneAfter = 12 * time.Second
	moveEvery = 100 * time.Millisecond
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

// Gone tells whether home's bucket has no leader, for as long as an election takes, or is not
// there; where tells in which region it is otherwise, the zero region if it is gone.
func (b *Bucket) Gone(ctx context.Context) (where ident.Region, err error) {
	b.step("see whether home answers")
	for began := time.Now(); ; {
		i, err := b.info(ctx, subject.DecisionsStream)
		switch {
		case err == nil:
			return ident.ParseRegion(i.Config.Placement.Cluster)
		case errors.Is(err, ledger.ErrNotFound):
			return ident.Region{}, nil
		case !errors.Is(err, ledger.ErrUnavailable):
			return ident.Region{}, err
		case time.Since(began) > goneAfter:
			return ident.Region{}, nil
		}
		if err := wait.For(ctx, moveEvery); err != nil {
			return ident.Region{}, fmt.Errorf("asking home's bucket: %w", err)
		}
	}
}

// Furthest is the region whose mirror has most of home's bucket, and up to which position. All
// regions are asked until they answer; ErrAway names one that does not.
func (b *Bucket) Furthest(ctx context.Context, regions []ident.Region) (ident.Region, uint64, error) {
	b.step("ask mirrors how far they are")
	var (
		best ident.Region
		last uint64
	)
	for _, r := range regions {
		var i *jetstream.StreamInfo
		err := b.until(ctx, goneAfter, func() (err error) {
			i, err = b.info(ctx, subject.MirrorStream(r))
			return err
		})
		if err != nil {
			return best, 0, fmt.Errorf("region %s: %w: %w", r, ErrAway, err)
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

// Move makes home's bucket in a region, with what the mirror of from has. It may be called again
// after it was cut off. last is up to which position the new one has what the former one had.
func (b *Bucket) Move(ctx context.Context, to, from ident.Region) (last uint64, err error) {
	have, err := b.at(ctx, to)
	if err != nil && !errors.Is(err, ledger.ErrNotFound) && !errors.Is(err, ledger.ErrUnavailable) {
		return 0, err
	}
	if err == nil && have.Config.Mirror == nil {
		b.step("remove the copy")
		return have.State.LastSeq, b.remove(ctx, subject.MovingStream)
	}
	moving := jetstream.StreamConfig{
		Name: subject.MovingStream, Description: "a copy of what was decided in home, while home moves to " + to.String(),
		MaxMsgsPerSubject: 1, Replicas: replicas, Placement: &jetstream.Placement{Cluster: to.String()},
	}
	bucket := decisions(to)
	begun := err == nil && have.Config.Mirror != nil // the bucket is being made of the copy
	if !begun {
		b.step("copy what home had decided")
		if err := b.unlessOf(ctx, moving, subject.MirrorStream(from)); err != nil {
			return 0, err
		}
		if _, err := b.copied(ctx, moving, subject.MirrorStream(from)); err != nil {
			return 0, err
		}
		if _, err := b.at(ctx, to); err == nil || errors.Is(err, ErrHomeAnswers) {
			return 0, fmt.Errorf("home is back: %w", ErrHomeAnswers)
		}
		b.step("delete the bucket of the home that is gone")
		if err := b.remove(ctx, subject.DecisionsStream); err != nil {
			return 0, err
		}
	}
	b.step("make the bucket")
	if last, err = b.copied(ctx, bucket, subject.MovingStream); err != nil {
		return 0, err
	}
	b.step("remove the copy")
	return last, b.remove(ctx, subject.MovingStream)
}

// at is home's bucket, if it is in a region or has no leader: ErrHomeAnswers if it is elsewhere.
func (b *Bucket) at(ctx context.Context, to ident.Region) (*jetstream.StreamInfo, error) {
	i, err := b.info(ctx, subject.DecisionsStream)
	if err == nil && (i.Config.Placement == nil || i.Config.Placement.Cluster != to.String()) {
		err = fmt.Errorf("it is not in %s: %w", to, ErrHomeAnswers)
	}
	return i, err
}

// unlessOf removes a copy that another run left and that is not what is wanted now: of another
// region, or of a while ago.
func (b *Bucket) unlessOf(ctx context.Context, c jetstream.StreamConfig, of string) error {
	have, err := b.info(ctx, c.Name)
	if errors.Is(err, ledger.ErrNotFound) {
		return nil
	}
	if err == nil && have.Config.Placement != nil && have.Config.Placement.Cluster == c.Placement.Cluster {
		if m := have.Config.Mirror; m != nil && m.Name == of {
			return nil
		}
		source, err := b.info(ctx, of)
		if err == nil && have.Config.Mirror == nil && have.State.LastSeq == source.State.LastSeq && have.State.LastTime.Equal(source.State.LastTime) {
			return nil
		}
	}
	return b.remove(ctx, c.Name)
}

// copied makes a stream as a mirror of another, waits until it has all of it, and promotes it.
func (b *Bucket) copied(ctx context.Context, c jetstream.StreamConfig, of string) (last uint64, err error) {
	mirror := c
	mirror.Subjects, mirror.Mirror = nil, &jetstream.StreamSource{Name: of}
	have, err := b.info(ctx, c.Name)
	switch {
	case err == nil && have.Config.Mirror == nil:
		return have.State.LastSeq, nil // it was promoted
	case errors.Is(err, ledger.ErrNotFound):
		if err := ensure(ctx, b.js, mirror, b.js.CreateStream); err != nil {
			return 0, err
		}
	case err != nil && !errors.Is(err, ledger.ErrUnavailable):
		return 0, err
	}
	err = b.until(ctx, 0, func() error {
		source, err := b.info(ctx, of)
		if err != nil {
			return err
		}
		if have, err = b.info(ctx, c.Name); err != nil {
			return err
		}
		if have.State.LastSeq < source.State.LastSeq || have.State.Msgs != source.State.Msgs {
			return fmt.Errorf("stream %s has %d of %d: %w", c.Name, have.State.Msgs, source.State.Msgs, ledger.ErrUnavailable)
		}
		return nil
	})
	if err != nil {
		return 0, err
	}
	return have.State.LastSeq, ensure(ctx, b.js, c, b.js.UpdateStream)
}

// remove deletes a stream. Where its servers are gone nobody answers: it is looked at again.
func (b *Bucket) remove(ctx context.Context, name string) error {
	return b.until(ctx, 0, func() error {
		if _, err := b.info(ctx, name); errors.Is(err, ledger.ErrNotFound) {
			return nil
		}
		try, cancel := context.WithTimeout(ctx, setupTry)
		defer cancel()
		if err := b.js.DeleteStream(try, name); err != nil && !errors.Is(err, jetstream.ErrStreamNotFound) {
			return fmt.Errorf("deleting stream %s: %w", name, unavailable(err))
		}
		return nil
	})
}

// Remake makes a region's mirror anew, and waits until it has all that the bucket has.
func (b *Bucket) Remake(ctx context.Context, r ident.Region) error {
	b.step("make the mirror anew")
	c := mirror(r)
	if err := b.remove(ctx, c.Name); err != nil {
		return err
	}
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
