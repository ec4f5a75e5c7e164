package client

import (
	"context"
	"math/rand/v2"
	"net"
	"net/url"
	"slices"
	"sync"
	"time"

	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/trust"
)

// probeWait bounds the search for the nearest region.
const probeWait = time.Second

// Nearest orders all client URLs of the platform: the regions by the time that
// a connection to one of their servers takes, those that do not answer last; a
// preferred region comes before all. Within a region the order is random, so
// that clients spread over its servers.
func (p *Platform) Nearest(ctx context.Context, prefer ident.Region) []string {
	ctx, cancel := context.WithTimeout(ctx, probeWait)
	defer cancel()
	type probed struct {
		trust.Region
		took time.Duration
	}
	regions := make([]probed, len(p.Document.Regions))
	var wg sync.WaitGroup
	for i, r := range p.Document.Regions {
		r.URLs = slices.Clone(r.URLs)
		rand.Shuffle(len(r.URLs), func(a, b int) { r.URLs[a], r.URLs[b] = r.URLs[b], r.URLs[a] }) // #nosec G404 -- it spreads load, it hides nothing
		regions[i] = probed{r, probeWait}
		wg.Go(func() {
			for _, u := range r.URLs {
				if took, ok := probe(ctx, u); ok {
					regions[i].took = took
					return
				}
			}
		})
	}
	wg.Wait()
	slices.SortStableFunc(regions, func(a, b probed) int {
		switch {
		case a.Name == prefer:
			return -1
		case b.Name == prefer:
			return 1
		default:
			return int(a.took - b.took)
		}
	})
	var urls []string
	for _, r := range regions {
		urls = append(urls, r.URLs...)
	}
	return urls
}

// probe measures how long a server takes to accept and to greet: the greeting
// is the first that crosses the whole way.
func probe(ctx context.Context, server string) (time.Duration, bool) {
	u, err := url.Parse(server)
	if err != nil {
		return 0, false
	}
	began := time.Now()
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp", u.Host)
	if err != nil {
		return 0, false
	}
	defer func() { _ = c.Close() }() // nothing was sent
	if deadline, ok := ctx.Deadline(); ok {
		if err := c.SetReadDeadline(deadline); err != nil {
			return 0, false
		}
	}
	var b [1]byte
	if _, err := c.Read(b[:]); err != nil {
		return 0, false
	}
	return time.Since(began), true
}
