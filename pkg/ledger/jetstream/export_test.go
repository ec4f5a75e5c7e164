package jetstream

import (
	"github.com/nats-io/nats.go/jetstream"

	"github.com/herald-nats/herald/pkg/ident"
)

// HasAll tells whether a stream has all that is asked for.
func HasAll(have, want jetstream.StreamConfig) bool { return hasAll(have, want) }

// Configs are the streams of a platform of one region.
func Configs(r ident.Region) []jetstream.StreamConfig {
	return []jetstream.StreamConfig{decisions(r), records(r), denials(r, []ident.Region{r}), mirror(r)}
}
