package nscsetup

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/herald-nats/herald/internal/apply"
	"github.com/herald-nats/herald/internal/cli"
	"github.com/herald-nats/herald/pkg/audit"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/ledger"
	"github.com/herald-nats/herald/pkg/ledger/jetstream"
	"github.com/herald-nats/herald/pkg/platform"
)

// readBatch is how many entries are asked for at a time.
const readBatch = 1000

// reader reads the ledger, from one region's copies of it.
type reader struct {
	tool   *apply.Tool
	region ident.Region
	nc     *nats.Conn
	opener ledger.Opener
	// refused names entries that are not believed.
	refused []string
}

// reader connects to read the ledger; the zero region is home.
func (g *globals) reader(ctx context.Context, p *platform.Platform, region ident.Region) (*reader, error) {
	t := g.tool(p)
	if region.IsZero() {
		region = p.File.Home
	}
	dctx, cancel := context.WithTimeout(ctx, lookWait)
	defer cancel()
	nc, err := t.Dial(dctx, platform.Readers, platform.RoleReader)
	if err != nil {
		return nil, noLedger(ctx, err)
	}
	return &reader{
		tool: t, region: region, nc: nc,
		opener: ledger.Opener{Operator: p.Operator, Now: t.Now, Check: platform.CheckDocument},
	}, nil
}

func (r *reader) close() { r.nc.Close() }

// noLedger says what to do where the ledger cannot be asked.
func noLedger(ctx context.Context, err error) error {
	if ctx.Err() != nil && !errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return errors.Join(ctx.Err(), err)
	}
	return cli.Errorf(cli.Unavailable, "are the servers up, and are their addresses those of platform.yaml? another region's copy is read with --region", "%w", err)
}

// entries gives every entry of a kind to f, in the order in which they were decided. One
// that is not believed is noted, and passed over.
func (r *reader) entries(ctx context.Context, k ledger.Kind, f func(ledger.Entry)) error {
	return r.all(ctx, "reading the ledger in "+r.region.String(), jetstream.KindSource(r.nc, r.region, k), 0, func(s ledger.Stored) {
		e, err := r.opener.Open(s.Subject, s.Data)
		if err != nil {
			r.refused = append(r.refused, fmt.Sprintf("%.80q", s.Subject))
			return
		}
		f(e)
	})
}

// denials are all revocations and suspensions that the region knows.
func (r *reader) denials(ctx context.Context) (*ledger.Projection, error) {
	p := ledger.NewProjection(nil)
	err := r.all(ctx, "reading the denials in "+r.region.String(), jetstream.DenialsSource(r.nc, r.region), 0, func(s ledger.Stored) {
		e, err := r.opener.Open(s.Subject, s.Data)
		if err != nil {
			r.refused = append(r.refused, fmt.Sprintf("%.80q", s.Subject))
			return
		}
		p.Apply(e)
	})
	return p, err
}

// records gives the records of what a region issued since a moment to f.
func (r *reader) records(ctx context.Context, of ident.Region, since time.Time, f func(audit.Record)) error {
	return r.requests(ctx, of, since, func(rec audit.Record) {
		if rec.Granted() {
			f(rec)
		}
	})
}

// requests gives everything that services recorded in a region since a moment to f. What is
// of a block whose signature does not hold is noted, and passed over.
func (r *reader) requests(ctx context.Context, of ident.Region, since time.Time, f func(audit.Record)) error {
	source := jetstream.RecordsSource(r.nc, of)
	from, err := source.Before(ctx, since)
	if err != nil {
		return noLedger(ctx, fmt.Errorf("reading the records of %s: %w", of, err))
	}
	return r.all(ctx, "reading the records of "+of.String(), source, from, func(s ledger.Stored) {
		b, err := audit.Open(s.Subject, s.Data)
		if err != nil {
			r.refused = append(r.refused, fmt.Sprintf("%.80q", s.Subject))
			return
		}
		for _, rec := range b.Content {
			f(rec)
		}
	})
}

// all gives what is in a source after a position to f.
func (r *reader) all(ctx context.Context, what string, source ledger.Source, from uint64, f func(ledger.Stored)) error {
	fail := func(err error) error { return noLedger(ctx, fmt.Errorf("%s: %w", what, err)) }
	last, err := source.Last(ctx)
	if err != nil {
		return fail(err)
	}
	for at := from; at < last; {
		batch, err := source.Read(ctx, at, readBatch)
		if err != nil {
			return fail(err)
		}
		if len(batch) == 0 {
			break
		}
		for _, s := range batch {
			f(s)
			at = s.Seq
		}
		if r.tool.Progress != nil {
			r.tool.Progress(what, int(at-from), int(max(last, at)-from)) // #nosec G115 -- far below
		}
	}
	return nil
}

// verdict is an error if something was not believed.
func (r *reader) verdict() error {
	if len(r.refused) == 0 {
		return nil
	}
	return cli.Errorf(cli.Failed, "somebody wrote there who may not, or a disk lost something: see 'nscsetup doctor'",
		"%d entries are not believed, and not shown; the first is that of %s", len(r.refused), r.refused[0])
}

// decided asks the leader for one entry. It is ledger.ErrNotFound if there is none.
func (g *globals) decided(ctx context.Context, p *platform.Platform, key ledger.Key) (ledger.Entry, error) {
	ctx, cancel := context.WithTimeout(ctx, lookWait)
	defer cancel()
	t := g.tool(p)
	nc, err := t.Dial(ctx, platform.Ledger, platform.RoleSetup)
	if err != nil {
		return ledger.Entry{}, noHome(ctx, err)
	}
	defer nc.Close()
	store, err := jetstream.NewDecisions(nc)
	if err != nil {
		return ledger.Entry{}, err
	}
	token, _, err := store.Get(ctx, key)
	if errors.Is(err, ledger.ErrNotFound) {
		return ledger.Entry{}, err
	}
	if err != nil {
		return ledger.Entry{}, noHome(ctx, fmt.Errorf("asking home's leader: %w", err))
	}
	e, err := ledger.Opener{Operator: p.Operator, Now: t.Now}.Open(key.String(), token)
	if err != nil {
		return e, cli.Errorf(cli.Failed, "somebody wrote there who may not, or a disk lost something: see 'nscsetup doctor'", "%w", err)
	}
	return e, nil
}

// noHome says what to do where home cannot be asked.
func noHome(ctx context.Context, err error) error {
	if ctx.Err() != nil && !errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return errors.Join(ctx.Err(), err)
	}
	return cli.Errorf(cli.Unavailable, "are home's servers up, and are their addresses those of platform.yaml? 'nscsetup list' reads other regions' copies with --region", "%w", err)
}
