package uptest

import (
	"regexp"

	"github.com/herald-nats/herald/pkg/ledger"
)

// bases are the base claims of accounts in what a service knows.
var bases = regexp.MustCompile(`base\.A[A-Z2-7]{55}\x00[^\x00]*\x00`) //nolint:gochecknoglobals // a pattern

// Known is what a service knows, in canonical form, but for the base claims of accounts:
// registrars need them and issuers do not.
func Known(p *ledger.Projection) []byte { return bases.ReplaceAll(p.Dump(), nil) }
