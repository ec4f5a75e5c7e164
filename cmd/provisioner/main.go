// Command provisioner; see internal/cli/provisioner.
package main

import (
	"github.com/herald-nats/herald/internal/cli"
	"github.com/herald-nats/herald/internal/cli/provisioner"
)

func main() { cli.Main(provisioner.Run) }
