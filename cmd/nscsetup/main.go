// Command nscsetup; see internal/cli/nscsetup.
package main

import (
	"github.com/herald-nats/herald/internal/cli"
	"github.com/herald-nats/herald/internal/cli/nscsetup"
)

func main() { cli.Main(nscsetup.Run) }
