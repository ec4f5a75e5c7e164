// Package wait is a sleep that ends with its context.
package wait

import (
	"context"
	"time"
)

// For waits for d, or until ctx ends, which is its error then.
func For(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
