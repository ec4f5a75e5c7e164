package registrar

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/herald-nats/herald/pkg/subject"
)

// settle is how long to wait after a new server's first sign of life before
// asking it: servers of a region come up together.
const settle = 300 * time.Millisecond

// repairWait bounds one repair.
const repairWait = 10 * time.Second

// Watch repairs what servers lack, at once and whenever a server appears that
// was not there: one that comes back with an empty disk hears of accounts from
// nobody else, since resolvers sync inside a cluster only. It returns when ctx
// ends.
func (r *Resolver) Watch(ctx context.Context, accounts []string, log *slog.Logger) error {
	news := make(chan string, 256) // a server's id; when full, another stat follows in seconds
	sub, err := r.nc.Subscribe(subject.ServerStats, func(m *nats.Msg) {
		var v struct {
			Server Server `json:"server"`
		}
		if json.Unmarshal(m.Data, &v) == nil && v.Server.ID != "" {
			select {
			case news <- v.Server.ID:
			default:
			}
		}
	})
	if err != nil {
		return fmt.Errorf("listening for servers: %w", err)
	}
	defer func() { _ = sub.Unsubscribe() }() // fails only if the connection is gone

	known := map[string]bool{}
	due := time.NewTimer(0) // the first look is now
	defer due.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case id := <-news:
			if !known[id] {
				known[id] = true
				due.Reset(settle)
			}
		case <-due.C:
			r.repair(ctx, accounts, log, due)
		}
	}
}

func (r *Resolver) repair(ctx context.Context, accounts []string, log *slog.Logger, due *time.Timer) {
	ctx, cancel := context.WithTimeout(ctx, repairWait)
	defer cancel()
	pushed, err := r.Repair(ctx, accounts, 0)
	switch {
	case err != nil && ctx.Err() == nil:
		log.Warn("some servers may lack accounts", "error", err)
		due.Reset(repairWait)
	case len(pushed) > 0:
		log.Info("brought accounts to servers that lacked them", "accounts", pushed)
	}
}
