// Package jetstream keeps the ledger in NATS JetStream: home's bucket of decisions
// with a mirror in each region, a stream of denials in each region that sources the
// others', and a stream of records in each region. All of them have three replicas
// and are in the account LEDGER; who reads, and who is not a registrar, reaches them
// by import.
package jetstream

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"

	"github.com/herald-nats/herald/internal/wait"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/ledger"
	"github.com/herald-nats/herald/pkg/subject"
	"github.com/herald-nats/herald/pkg/trust"
)

const (
	replicas = 3
	// perDenial is how many entries about one key a stream of denials keeps. One would
	// do if they came in order and once; two registrars of a region may write at one
	// moment, and one that does not find what it wrote writes it again.
	perDenial = 3
	// maxDenial bounds a denial: who and why at their longest, all of it escaped.
	maxDenial = 16 << 10
	// RecordsKept is how long records are kept; longer than ledger.MaxLife.
	RecordsKept = 90 * 24 * time.Hour
	// duplicates is how long a stream knows what was published to it.
	duplicates = 2 * time.Minute
	// setupTry bounds one request of Setup. What is asked before the meta group, or a
	// stream, has a leader is never answered.
	setupTry = 2 * time.Second
)

// Setup makes the ledger's streams, or brings their configuration up to date, and
// tries again what fails until ctx ends. It needs the right to create streams, which
// nothing that runs has: it is the set-up tool's user that calls it. Streams are
// managed as streams, not through the KV API, whose update silently resets fields.
//
// An error that wraps ledger.ErrLost: home's bucket was deleted and is not made anew;
// everything else is there.
func Setup(ctx context.Context, nc *nats.Conn, home ident.Region, regions []ident.Region) error {
	js, err := jetstream.New(nc)
	if err != nil {
		return fmt.Errorf("setting up the ledger: %w", err)
	}
	// What others copy from comes first: a mirror or a source that does not find its
	// origin asks again after a wait that grows, up to 40 s.
	var origins, alone, mirrors, sourcing []jetstream.StreamConfig
	lost := notLost(ctx, js, regions)
	if lost == nil {
		origins = append(origins, decisions(home))
	}
	for _, r := range regions {
		origins = append(origins, records(r))
		alone = append(alone, denials(r, nil)) // unless it is there
		sourcing = append(sourcing, denials(r, regions))
		if lost == nil {
			mirrors = append(mirrors, mirror(r))
		}
	}
	for _, step := range []struct {
		configs []jetstream.StreamConfig
		set     func(context.Context, jetstream.StreamConfig) (jetstream.Stream, error)
	}{{origins, upToDate(js)}, {alone, js.CreateStream}, {mirrors, upToDate(js)}} {
		if err := together(step.configs, func(c jetstream.StreamConfig) error { return ensure(ctx, js, c, step.set) }); err != nil {
			return errors.Join(err, lost)
		}
	}
	// One after the other: see upToDate.
	for _, c := range sourcing {
		if err := ensure(ctx, js, c, upToDate(js)); err != nil {
			return errors.Join(err, lost)
		}
	}
	return lost
}

// upToDate makes a stream or updates it, and leaves one alone that is as it should be: an
// update is a decision of the meta leader, and two of them at once are a data race in
// nats-server 2.15.2 where a stream has sources (StreamSource.setIndexName).
func upToDate(js jetstream.JetStream) func(context.Context, jetstream.StreamConfig) (jetstream.Stream, error) {
	return func(ctx context.Context, c jetstream.StreamConfig) (jetstream.Stream, error) {
		s, err := js.Stream(ctx, c.Name)
		if err == nil {
			if hasAll(s.CachedInfo().Config, c) {
				return s, nil
			}
			c = kept(c, s.CachedInfo().Config)
		}
		return js.CreateOrUpdateStream(ctx, c)
	}
}

// hasAll tells whether a stream has all that is asked for. Servers fill in what is not.
func hasAll(have, want jetstream.StreamConfig) bool {
	asked, ok := members(want)
	found, also := members(have)
	if !ok || !also {
		return false
	}
	for name, value := range asked {
		if !within(value, found[name]) {
			return false
		}
	}
	return true
}

func members(c jetstream.StreamConfig) (map[string]any, bool) {
	data, err := json.Marshal(c)
	if err != nil {
		return nil, false
	}
	var m map[string]any
	return m, json.Unmarshal(data, &m) == nil
}

// within tells whether a value is there with all its members; lists are of one length.
func within(want, have any) bool {
	switch want := want.(type) {
	case map[string]any:
		have, ok := have.(map[string]any)
		if !ok {
			return false
		}
		for name, value := range want {
			if !within(value, have[name]) {
				return false
			}
		}
		return true
	case []any:
		have, ok := have.([]any)
		return ok && slices.EqualFunc(want, have, within)
	case float64:
		have, _ := have.(float64)
		return want == have || want == 0 || want == -1 && have <= 0
	case bool:
		have, _ := have.(bool)
		return want == have
	default:
		return want == nil || want == "" || want == have
	}
}

// notLost refuses to make home's bucket where there are mirrors of one: it was deleted,
// and they have what it had. An empty one beside them would give names away a second
// time, and a mirror that is ahead of its origin follows it never again.
func notLost(ctx context.Context, js jetstream.JetStream, regions []ident.Region) error {
	stream := func(name string) (jetstream.Stream, error) {
		try, cancel := context.WithTimeout(ctx, setupTry)
		defer cancel()
		return js.Stream(try, name)
	}
	if _, err := stream(subject.DecisionsStream); !errors.Is(err, jetstream.ErrStreamNotFound) {
		return nil // it is there, or nobody can tell now: whoever makes it finds out
	}
	for _, r := range regions {
		s, err := stream(subject.MirrorStream(r))
		for err != nil && !errors.Is(err, jetstream.ErrStreamNotFound) {
			if wait.For(ctx, 100*time.Millisecond) != nil {
				return fmt.Errorf("home's bucket %s is gone, and nobody tells whether %s has what it had: %w",
					subject.DecisionsStream, subject.MirrorStream(r), unavailable(err))
			}
			s, err = stream(subject.MirrorStream(r))
		}
		if err == nil && s.CachedInfo().State.LastSeq > 0 {
			return fmt.Errorf("home's bucket %s is gone, and %s has what it had: it is not made anew, empty: %w",
				subject.DecisionsStream, subject.MirrorStream(r), ledger.ErrLost)
		}
	}
	return nil
}

func together(configs []jetstream.StreamConfig, f func(jetstream.StreamConfig) error) error {
	var g errgroup.Group
	for _, c := range configs {
		g.Go(func() error { return f(c) })
	}
	return g.Wait()
}

// ensure makes one stream, or updates it, until it is there or ctx ends. Refusals
// that pass: the meta leader takes a server for offline that it has not heard of yet
// (10005); a server that loads the account for the first time tries out its folder
// for streams and removes it, with the stream that is being made there (10049).
func ensure(ctx context.Context, js jetstream.JetStream, c jetstream.StreamConfig, set func(context.Context, jetstream.StreamConfig) (jetstream.Stream, error)) error {
	for pause := 20 * time.Millisecond; ; pause = min(2*pause, 500*time.Millisecond) {
		try, cancel := context.WithTimeout(ctx, setupTry)
		_, err := set(try, c)
		cancel()
		if err == nil || errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) {
			return nil
		}
		var api *jetstream.APIError
		if errors.As(err, &api) && api.Code == 400 && api.ErrorCode != offlinePeer {
			return fmt.Errorf("setting up stream %s: %w", c.Name, err)
		}
		if wait.For(ctx, pause) != nil {
			return fmt.Errorf("setting up stream %s: %w: %w", c.Name, ledger.ErrUnavailable, err)
		}
	}
}

// offlinePeer: no suitable peers for placement.
const offlinePeer jetstream.ErrorCode = 10005

func decisions(home ident.Region) jetstream.StreamConfig {
	return jetstream.StreamConfig{
		Name:              subject.DecisionsStream,
		Description:       "what is decided in home; signed by registrars",
		Subjects:          []string{subject.Decisions},
		MaxMsgsPerSubject: 1,
		MaxMsgSize:        trust.MaxEntry + 4<<10,
		Replicas:          replicas,
		Placement:         &jetstream.Placement{Cluster: home.String()},
		Discard:           jetstream.DiscardNew,
		Duplicates:        duplicates,
		// No direct get: nats-server has every mirror of a stream that allows it answer
		// for that stream, whatever its configuration says of MirrorDirect. Who asks
		// home from a region that is cut off would be answered by the region's own
		// mirror, and told that nothing is new.
		AllowDirect: false,
		DenyDelete:  true,
		DenyPurge:   true,
	}
}

func mirror(r ident.Region) jetstream.StreamConfig {
	return jetstream.StreamConfig{
		Name:              subject.MirrorStream(r),
		Description:       "what is decided in home, for " + r.String(),
		Mirror:            &jetstream.StreamSource{Name: subject.DecisionsStream},
		MaxMsgsPerSubject: 1,
		Replicas:          replicas,
		Placement:         &jetstream.Placement{Cluster: r.String()},
		AllowDirect:       true,
		DenyDelete:        true,
		DenyPurge:         true,
		RePublish: &jetstream.RePublish{
			Source: subject.Decisions, Destination: subject.LedgerNewsPrefix(r) + "decisions.>",
		},
	}
}

// denials is a region's stream of denials, with copies of those of other regions.
func denials(r ident.Region, others []ident.Region) jetstream.StreamConfig {
	c := jetstream.StreamConfig{
		Name:              subject.DenialsStream(r),
		Description:       "revocations and suspensions: what " + r.String() + " wrote, and copies of what the others did",
		Subjects:          []string{subject.Denials(r)},
		MaxMsgsPerSubject: perDenial,
		MaxMsgSize:        maxDenial,
		Replicas:          replicas,
		Placement:         &jetstream.Placement{Cluster: r.String()},
		Discard:           jetstream.DiscardNew,
		AllowDirect:       true,
		DenyDelete:        true,
		DenyPurge:         true,
		// No acknowledgement: it would land wherever the writer's reply subject says, on
		// any subject of this account. Who writes looks whether it is there.
		NoAck:     true,
		RePublish: &jetstream.RePublish{Source: subject.DenialsAll, Destination: subject.LedgerNewsPrefix(r) + "denials.>"},
	}
	// And nothing is told of duplicates, either: nats-server answers those whatever NoAck
	// says, and so any registrar could have that answer land in home's bucket. A window of
	// 0 is its default of two minutes, but not for a stream that has a source. So each has
	// one, which gives nothing: no issuer is called that.
	c.Sources = []*jetstream.StreamSource{{Name: subject.RecordsStream(r), FilterSubject: subject.AuditPrefix(r) + "nobody"}}
	for _, o := range others {
		if o != r {
			// What the other wrote itself, and not what it has copied.
			c.Sources = append(c.Sources, &jetstream.StreamSource{Name: subject.DenialsStream(o), FilterSubject: subject.Denials(o)})
		}
	}
	return c
}

func records(r ident.Region) jetstream.StreamConfig {
	return jetstream.StreamConfig{
		Name:        subject.RecordsStream(r),
		Description: "records of what services did in " + r.String(),
		Subjects:    []string{subject.AuditPrefix(r) + "*"},
		// Bounded by servers' max_payload alone, and by who reads: a stream that has this one as
		// its source, as the denials do, must take messages as long as it does.
		MaxMsgSize: -1,
		MaxAge:     RecordsKept,
		// Whoever gives it a bound has it refuse what is new, which its writers notice, and not
		// drop what is old, which nobody does.
		Discard:     jetstream.DiscardNew,
		Replicas:    replicas,
		Placement:   &jetstream.Placement{Cluster: r.String()},
		Duplicates:  duplicates,
		AllowDirect: true,
		DenyDelete:  true,
		DenyPurge:   true,
		RePublish: &jetstream.RePublish{
			Source: subject.AuditPrefix(r) + "*", Destination: subject.RecordNewsPrefix(r) + "{{wildcard(1)}}",
		},
	}
}
