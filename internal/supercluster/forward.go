package supercluster

import (
	"bytes"
	"context"
	"io"
	"time"

	"golang.org/x/sync/semaphore"
)

// How much may be under way in one direction of one connection. It bounds memory,
// and with it throughput: at the longest delay, 85 ms, to about 190 MB/s.
const (
	underWay  = 16 << 20 // bytes
	chunks    = 4096     // reads; full, the kernel gathers bytes, so the next read is larger
	chunkSize = 64 << 10 // bytes of one read at most
)

// chunk is what was read at once.
type chunk struct {
	due   time.Time
	bytes []byte
}

// forward copies head and then src to dst, each byte delay after it was read (nil:
// at once; a delay may grow while it runs, but not shrink), until
// either ends or ctx does. What was read before src ended is still delivered.
// stop must end ctx, and close src and dst then, which is what ends a blocked read
// or write; it has been called when forward returns.
func forward(ctx context.Context, stop func(), dst io.Writer, head []byte, src io.Reader, delay func() time.Duration) {
	defer stop()
	if delay == nil {
		if _, err := dst.Write(head); err != nil {
			return
		}
		// From connection to connection, so that the kernel can do it by itself.
		_, _ = io.Copy(dst, src) // however it ended, the session is over
		return
	}
	queue := make(chan chunk, chunks)
	room := semaphore.NewWeighted(underWay)
	done := make(chan struct{})
	go func() {
		defer close(done)
		if !deliver(ctx, dst, queue, room) {
			stop() // nobody takes it any more, so reading is pointless
		}
	}()
	collect(ctx, io.MultiReader(bytes.NewReader(head), src), queue, room, delay)
	close(queue)
	<-done
}

// collect reads from src into queue until src or ctx ends.
func collect(ctx context.Context, src io.Reader, queue chan<- chunk, room *semaphore.Weighted, delay func() time.Duration) {
	buf := make([]byte, chunkSize)
	for {
		n, err := src.Read(buf)
		if n > 0 {
			c := chunk{due: time.Now().Add(delay()), bytes: append([]byte(nil), buf[:n]...)}
			if room.Acquire(ctx, int64(n)) != nil {
				return
			}
			select {
			case queue <- c:
			case <-ctx.Done():
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// deliver writes what is in queue when it is due, until queue is closed and empty.
// It returns false if dst refused or ctx ended before that.
func deliver(ctx context.Context, dst io.Writer, queue <-chan chunk, room *semaphore.Weighted) bool {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for c := range queue {
		if wait := time.Until(c.due); wait > 0 {
			timer.Reset(wait)
			select {
			case <-timer.C:
			case <-ctx.Done():
				return false
			}
		}
		if _, err := dst.Write(c.bytes); err != nil {
			return false
		}
		room.Release(int64(len(c.bytes)))
	}
	return true
}
