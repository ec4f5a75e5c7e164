package jetstream

import (
	"github.com/nats-io/nats.go"

	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/ledger"
	"github.com/herald-nats/herald/pkg/subject"
)

// KindSource reads what was decided about one kind of thing from a region's mirror. It is
// for kinds that home decides.
func KindSource(nc *nats.Conn, r ident.Region, k ledger.Kind) *Source {
	return &Source{nc, subject.DirectGet(subject.MirrorStream(r)), subject.Decision(string(k) + ".>"), decisionKey}
}
