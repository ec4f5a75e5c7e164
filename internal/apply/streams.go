package apply

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/ledger"
	"github.com/herald-nats/herald/pkg/ledger/jetstream"
	"github.com/herald-nats/herald/pkg/platform/manifest"
	"github.com/herald-nats/herald/pkg/trust"
)

// ErrMoved: home was moved from another folder.
var ErrMoved = errors.New("home was moved from another folder")

// streamsTry bounds bringing the streams of a ledger that is there up to date.
const streamsTry = 3 * time.Second

// streams makes the ledger's streams. Where they are there already, those of a region that
// is away wait for the next run: what is decided needs home alone.
func (s *session) streams(ctx context.Context, store *jetstream.Decisions) error {
	s.step("make the streams")
	there, err := s.isThere(ctx, store)
	if err != nil {
		return err
	}
	var regions []ident.Region
	for _, r := range s.Platform.File.Regions {
		regions = append(regions, r.Name)
	}
	if !there || !s.away {
		return jetstream.Setup(ctx, s.setup, s.Platform.File.Home, regions)
	}
	try, cancel := context.WithTimeout(ctx, streamsTry)
	defer cancel()
	err = jetstream.Setup(try, s.setup, s.Platform.File.Home, regions)
	if err != nil && ctx.Err() == nil && !errors.Is(err, ledger.ErrLost) {
		s.result.Streams = err
		return nil
	}
	return err
}

// thereTry bounds finding out whether there is a ledger, where some servers are away: a
// region that has just gone may have taken leaders with it, and others are elected.
const thereTry = 8 * time.Second

// isThere tells whether there is a ledger of the file's regions. If no server is away and
// it does not answer, it is not there: its streams are made then, which changes nothing
// about those that are there.
func (s *session) isThere(ctx context.Context, store *jetstream.Decisions) (bool, error) {
	var token string
	missing := false
	ask := func(ctx context.Context) (err error) {
		token, _, err = store.Get(ctx, ledger.PlatformKey())
		if missing = jetstream.Missing(err); missing {
			return nil // Setup finds out whether it is lost
		}
		return err
	}
	var err error
	if s.away {
		actx, cancel := context.WithTimeout(ctx, thereTry)
		err = s.until(actx, ask)
		cancel()
	} else {
		try, cancel := context.WithTimeout(ctx, decisionTry)
		err = ask(try)
		cancel()
	}
	base, berr := s.Platform.Base()
	switch {
	case berr != nil:
		return false, berr
	case err != nil && s.away && len(base.Applied) > 0 && !errors.Is(err, ledger.ErrNotFound):
		// This folder has applied before, so there is a ledger, and home does not answer:
		// nothing can be decided.
		return false, fmt.Errorf("home, %s, decides nothing: %w", s.Platform.File.Home, err)
	case err != nil, missing:
		return false, nil
	}
	e, err := s.opener().Open(ledger.PlatformKey().String(), token)
	if err != nil {
		return false, nil // what is there is no document: the set-up leaves it as it is
	}
	d, _ := e.Body.(*ledger.Document)
	if d == nil {
		return false, nil
	}
	if d.Public.Home != s.Platform.File.Home {
		return false, fmt.Errorf("this folder has %s as home, and home is %s by platform document %s: %w", s.Platform.File.Home, d.Public.Home, d.Public.Version, ErrMoved)
	}
	return sameRegions(d.Public, s.Platform.File), nil
}

func sameRegions(p *trust.Platform, f *manifest.File) bool {
	if len(p.Regions) != len(f.Regions) {
		return false
	}
	for _, r := range f.Regions {
		if _, ok := p.Region(r.Name); !ok {
			return false
		}
	}
	return true
}
