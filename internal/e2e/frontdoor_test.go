package e2e

import "testing"

// TestFrontDoor runs everything against one platform, because a platform takes
// seconds to start. What runs together leaves it as it is; what unplugs a region
// comes after.
func TestFrontDoor(t *testing.T) {
	w := newWorld(t)
	absent := w.absent(t)
	t.Run("together", func(t *testing.T) {
		t.Run("two people", func(t *testing.T) { t.Parallel(); w.twoPeople(t) })
		t.Run("renewal", func(t *testing.T) { t.Parallel(); w.renewal(t) })
		t.Run("drain", func(t *testing.T) { t.Parallel(); w.drain(t) })
		t.Run("metrics", func(t *testing.T) { t.Parallel(); w.metrics(t) })
		t.Run("ending", func(t *testing.T) { t.Parallel(); w.ending(t) })
		t.Run("script", w.scripts) // these are parallel too
	})
	// By itself, because whoever asks in a region asks all of its issuers.
	t.Run("reload", w.reload)
	t.Run("unplug", w.unplug)
	t.Run("absent", absent)
}
