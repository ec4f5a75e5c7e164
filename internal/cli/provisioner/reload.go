package provisioner

import (
	"context"
	"log/slog"
	"time"

	"github.com/herald-nats/herald/internal/service"
)

// reloadWait bounds what a reload waits for: connections by new credentials.
const reloadWait = 20 * time.Second

// reload reads the configurations of all services again. Nothing changes before all of them
// are found to be good.
func reload(ctx context.Context, running []*service.Running, log *slog.Logger) {
	var changes []*service.Change
	for _, r := range running {
		c, err := r.Prepare()
		if err != nil {
			log.Error("the configuration is refused, and nothing of it is used", "config", r.Path(), "error", err, "hint", hint(err))
			reloaded(running, false)
			return
		}
		changes = append(changes, c)
	}
	ctx, cancel := context.WithTimeout(ctx, reloadWait)
	defer cancel()
	for i, c := range changes {
		changed := c.Apply(ctx, log)
		log.Info("the configuration was read again", "config", running[i].Path(), "changed", changed)
	}
	reloaded(running, true)
}

func reloaded(running []*service.Running, ok bool) {
	for _, r := range running {
		r.Reloaded(ok)
	}
}
