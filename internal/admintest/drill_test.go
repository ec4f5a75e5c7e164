package admintest

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"

	"github.com/herald-nats/herald/internal/cli"
	"github.com/herald-nats/herald/internal/drill"
	"github.com/herald-nats/herald/pkg/ident"
)

// TestDrills: what is rehearsed on a platform that runs is as the table says, and all is put back.
func TestDrills(t *testing.T) {
	stop, err := shared.Up.Control(context.Background()) //nolint:usetesting // it is stopped after the test's context has ended
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := stop(); err != nil {
			t.Error(err)
		}
	})
	refused(t)
	if slower > 1 { // what is promised to operators is not promised with the race detector
		c := drill.Config{Public: shared.Public, Slower: slower, Machine: still{}, Admin: func(_ context.Context, r ident.Region) (*nats.Conn, error) { return dialAdmin(r.String()) }}
		rep, err := drill.Run(t.Context(), c, drill.RevokeUnderCut)
		if err != nil || !rep.OK() {
			t.Errorf("%v %+v", err, rep.Findings)
		}
		return
	}
	names := []string{drill.Restore}
	if os.Getenv("HERALD_LONG") != "" {
		names = []string{"all"}
	}
	code, out, errs := tell(t, append([]string{"drill", "--json"}, names...)...)
	var reports []drill.Report
	if err := json.Unmarshal([]byte(out), &reports); err != nil || code != cli.OK {
		for _, r := range reports {
			for _, f := range r.Findings {
				if !f.OK {
					t.Errorf("%s: %+v", r.Drill, f)
				}
			}
		}
		t.Fatalf("%d %v\n%s", code, err, errs)
	}
	for _, r := range reports {
		t.Logf("%s: %d findings, %s", r.Drill, len(r.Findings), r.Took)
		if !r.OK() || r.About == "" || len(r.Findings) < 5 {
			t.Errorf("%+v", r)
		}
	}
	for _, l := range shared.Up.Cluster.Links() {
		if l.Cut {
			t.Errorf("the link of %s and %s is cut", l.A, l.B)
		}
	}
}

// refused are drills that cannot be.
func refused(t *testing.T) {
	t.Helper()
	for what, c := range map[string]struct {
		args []string
		code int
		says string
	}{
		"no such drill":     {[]string{"drill", "flood"}, cli.Usage, "there is no drill"},
		"no such region":    {[]string{"drill", "cut", "--region", "xyz"}, cli.Usage, "has no region"},
		"home as a region":  {[]string{"drill", "region-loss", "--region", "ams"}, cli.Usage, "home-loss"},
		"nothing at all":    {[]string{"drill"}, cli.Usage, "hint:"},
		"with a link apart": {[]string{"drill", "restore"}, cli.Unavailable, "nscsetup link heal"},
	} {
		if what == "with a link apart" {
			if err := shared.Up.Cluster.Cut(region("sfo"), region("sgp")); err != nil {
				t.Fatal(err)
			}
		}
		code, _, errs := tell(t, c.args...)
		if what == "with a link apart" {
			if err := shared.Up.Cluster.Heal(region("sfo"), region("sgp")); err != nil {
				t.Fatal(err)
			}
		}
		if code != c.code || !strings.Contains(errs, c.says) {
			t.Errorf("%s: %d %s", what, code, errs)
		}
	}
}

// still is a machine that does what it is told but for one thing.
type still struct{ not string }

func (s still) Cut(_ context.Context, a, b ident.Region) error {
	if s.not == "cut" {
		return nil
	}
	return shared.Up.Cluster.Cut(a, b)
}

func (s still) Heal(_ context.Context, a, b ident.Region) error { return shared.Up.Cluster.Heal(a, b) }

func (s still) StopRegion(ctx context.Context, r ident.Region) error {
	if s.not == "stop" {
		return nil
	}
	return shared.Up.Cluster.StopRegion(ctx, r)
}

func (s still) StartRegion(ctx context.Context, r ident.Region) error {
	return shared.Up.Cluster.StartRegion(ctx, r)
}

func (s still) StopIssuer(ctx context.Context, r ident.Region) error {
	if s.not == "issuer" {
		return nil
	}
	return shared.Up.StopIssuer(ctx, r)
}

func (s still) StartIssuer(ctx context.Context, r ident.Region) error {
	return shared.Up.StartIssuer(ctx, r)
}

func (s still) LoseDisk(context.Context, ident.Region) (string, error) {
	return "", errors.New("it cannot be emptied")
}

// TestDrillsSee: a drill sees what is not as it should be, and puts back what it took away where it
// cannot go on.
func TestDrillsSee(t *testing.T) {
	c := drill.Config{Public: shared.Public, Slower: slower, Admin: func(_ context.Context, r ident.Region) (*nats.Conn, error) { return dialAdmin(r.String()) }}
	for _, d := range []struct{ not, drill, what string }{
		{"cut", drill.Cut, "messages"}, {"stop", drill.HomeLoss, "new names"}, {"issuer", drill.IssuerLoss, "credentials"},
	} {
		c.Machine = still{d.not}
		rep, err := drill.Run(t.Context(), c, d.drill)
		if err != nil {
			t.Errorf("%s: %v", d.drill, err)
		}
		if rep.OK() || !slices.ContainsFunc(rep.Findings, func(f drill.Finding) bool { return !f.OK && f.What == d.what }) {
			t.Errorf("%s: it does not see that nothing was away: %+v", d.drill, rep.Findings)
		}
	}
	c.Machine = still{}
	if rep, err := drill.Run(t.Context(), c, drill.Restore); err == nil || rep.OK() && len(rep.Findings) > 1 {
		t.Errorf("%+v %v", rep, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	c.Tell = func(what string) {
		if strings.HasPrefix(what, "heal") {
			cancel()
		}
	}
	if _, err := drill.Run(ctx, c, drill.RevokeUnderCut); !errors.Is(err, context.Canceled) {
		t.Errorf("it was ended: %v", err)
	}
	for _, l := range shared.Up.Cluster.Links() {
		if l.Cut {
			t.Errorf("the link of %s and %s is cut", l.A, l.B)
		}
	}
	for _, n := range []string{"flood", ""} {
		if _, err := drill.Run(t.Context(), c, n); !errors.Is(err, drill.ErrUnknown) {
			t.Errorf("%q: %v", n, err)
		}
	}
}
