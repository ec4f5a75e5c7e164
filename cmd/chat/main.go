// Command chat; see internal/cli/chat.
package main

import (
	"github.com/herald-nats/herald/internal/cli"
	"github.com/herald-nats/herald/internal/cli/chat"
)

func main() { cli.Main(chat.Run) }
