package registrar_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/herald-nats/herald/internal/testlog"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/ledger"
	"github.com/herald-nats/herald/pkg/ledger/ledgertest"
	"github.com/herald-nats/herald/pkg/ledger/memory"
	"github.com/herald-nats/herald/pkg/registrar"
)

// behind is a mirror that is at some position, or away.
type behind struct {
	memory.Decisions
	at  uint64
	err error
}

func (b *behind) Last(context.Context) (uint64, error) { return b.at, b.err }

// What a region's mirror lacks is told to that region, in order and once in a while;
// one that lacks nothing, or cannot be reached, is told nothing; one that stays behind,
// or is ahead, which only a bucket made anew explains, is said in the log.
func TestMirrors(t *testing.T) {
	var origin memory.Decisions
	var keys []string
	for i := range 5 {
		k := ledger.NameKey(ledgertest.Name(t, fmt.Sprint("n", i)))
		keys = append(keys, k.String())
		if err := origin.Put(t.Context(), k, "token of "+k.String(), 0); err != nil {
			t.Fatal(err)
		}
	}
	ams, sfo, sgp := must(ident.ParseRegion("ams")), must(ident.ParseRegion("sfo")), must(ident.ParseRegion("sgp"))
	equal, late, away := &behind{at: 5}, &behind{at: 2}, &behind{err: errors.New("cut off")}
	now := time.Now()
	log := new(testlog.Log)
	var sent []string
	fail := false
	m := &registrar.Mirrors{
		Origin: &origin, Copies: map[ident.Region]ledger.Source{ams: equal, sfo: late, sgp: away},
		Publish: func(subj string, data []byte) error {
			if fail {
				return errors.New("closed")
			}
			sent = append(sent, subj+" "+string(data))
			return nil
		},
		Log: log.Logger(), Now: func() time.Time { return now },
	}
	compare := func() []string {
		t.Helper()
		sent = nil
		m.Compare(t.Context())
		return sent
	}
	lacking := func(from int) (out []string) {
		for _, k := range keys[from:] {
			out = append(out, "ledger.sfo.live."+k+" token of "+k)
		}
		return out
	}
	if got := compare(); !slices.Equal(got, lacking(2)) {
		t.Errorf("told %q", got)
	}
	if got := compare(); len(got) != 0 {
		t.Errorf("told again at once: %q", got)
	}
	now = now.Add(6 * time.Second)
	late.at = 3
	if got := compare(); !slices.Equal(got, lacking(3)) {
		t.Errorf("later: %q", got)
	}
	now = now.Add(6 * time.Second)
	fail = true
	compare()
	fail = false
	if got := compare(); !slices.Equal(got, lacking(3)) {
		t.Errorf("after a message that was not sent: %q", got)
	}
	away.err, away.at = nil, 4
	if got := compare(); len(got) != 1 || !strings.HasPrefix(got[0], "ledger.sgp.live."+keys[4]) {
		t.Errorf("a region that is back: %q", got)
	}
	if strings.Contains(log.String(), "does not follow") {
		t.Error("said too soon")
	}
	late.at, away.at, equal.at = 5, 5, 9
	compare()
	now = now.Add(20 * time.Second)
	for range 3 {
		if got := compare(); len(got) != 0 {
			t.Errorf("a mirror that is ahead is told %q", got)
		}
	}
	if n := strings.Count(log.String(), "does not follow"); n != 1 || !strings.Contains(log.String(), "mirror=ams") {
		t.Errorf("said %d times: %s", n, log.String())
	}
}
