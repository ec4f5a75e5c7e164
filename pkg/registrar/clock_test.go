package registrar_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/herald-nats/herald/pkg/registrar"
)

// TestClock: it takes more than half of the servers that were heard lately to say that a clock is
// wrong, and by more than regions may differ.
func TestClock(t *testing.T) {
	const apart = registrar.ClockApart
	real := time.Unix(1_700_000_000, 0)
	for what, c := range map[string]struct {
		ahead []time.Duration // of this clock before each server's
		wrong string
	}{
		"nobody is heard":            {nil, ""},
		"all agree":                  {[]time.Duration{0, time.Second, -time.Second}, ""},
		"as far as regions may":      {[]time.Duration{apart, apart, apart}, ""},
		"an hour ahead":              {[]time.Duration{time.Hour, time.Hour + time.Second, time.Hour}, "1h0m0s ahead of"},
		"an hour behind":             {[]time.Duration{-time.Hour, -time.Hour, -time.Hour}, "1h0m0s behind"},
		"the region agrees":          {[]time.Duration{0, 0, 0, time.Hour, time.Hour, time.Hour, time.Hour, time.Hour, time.Hour}, "ahead of"},
		"one server is wrong":        {[]time.Duration{0, 0, time.Hour}, ""},
		"half of them":               {[]time.Duration{0, 0, time.Hour, time.Hour}, ""},
		"half of them, behind":       {[]time.Duration{-time.Hour, -time.Hour, 0, 0}, ""},
		"some ahead and some behind": {[]time.Duration{-time.Hour, 0, time.Hour}, ""},
	} {
		now := real
		clock := &registrar.Clock{Now: func() time.Time { return now }}
		for i, a := range c.ahead {
			clock.Heard(string(rune('a'+i)), now.Add(time.Hour)) // what it says last counts
			clock.Heard(string(rune('a'+i)), now.Add(-a))
		}
		err := clock.Err()
		if c.wrong == "" && err != nil || c.wrong != "" && (!errors.Is(err, registrar.ErrClock) || !strings.Contains(err.Error(), c.wrong)) {
			t.Errorf("%s: %v", what, err)
		}
		if _, ok := clock.Ahead(); ok != (len(c.ahead) > 0) {
			t.Errorf("%s: heard %t", what, ok)
		}
		// Who is silent says nothing.
		now = now.Add(2 * time.Minute)
		if err := clock.Err(); err != nil {
			t.Errorf("%s, after a silence: %v", what, err)
		}
	}
	var none *registrar.Clock
	none.Heard("a", real)
	if err := none.Err(); err != nil {
		t.Errorf("without a clock: %v", err)
	}
}
