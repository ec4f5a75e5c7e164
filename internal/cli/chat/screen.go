package chat

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"

	"github.com/herald-nats/herald/internal/cli"
	"github.com/herald-nats/herald/pkg/chat"
	"github.com/herald-nats/herald/pkg/chat/tui"
	"github.com/herald-nats/herald/pkg/ident"
)

func runScreen(ctx context.Context, g *globals) (err error) {
	if t := os.Getenv("TERM"); !cli.Terminal(g.In) || !cli.Terminal(g.Out) || t == "" || t == "dumb" {
		return cli.Errorf(cli.Usage, "without one use 'chat send', 'chat tail' and 'chat who'", "the screen needs a terminal that can move its cursor (TERM)")
	}
	binds, err := parseBinds(g.binds)
	if err != nil {
		return err
	}
	r, err := g.enter(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.leave()) }()
	user, err := ident.ParseUserKey(r.key.Public())
	if err != nil {
		return err
	}
	state, err := chat.NewState(chat.Config{
		Channels: r.channels, Name: r.name, Key: user, Region: r.region(), Expires: r.current().Expires, Now: time.Now(),
	})
	if err != nil {
		return err
	}
	var running sync.WaitGroup
	defer running.Wait()
	bctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var bindings []tui.Binding
	for _, b := range binds {
		key, _ := tui.ParseKey(b.key) // parseBinds has looked
		bindings = append(bindings, tui.Binding{Key: key, Label: b.label, Run: func() {
			running.Go(func() { r.bus.Tell(chat.Notice{Text: b.run(bctx, r.region())}) })
		}})
	}
	return tui.Run(ctx, tui.Config{State: state, Events: r.bus.Events(), Do: r.bus.Do, Clock: time.Now, Bindings: bindings})
}

// bind is a key that runs a command of the user's.
type bind struct{ key, label, command string }

func parseBinds(specs []string) ([]bind, error) {
	var binds []bind
	for _, s := range specs {
		parts := strings.SplitN(s, "=", 3)
		if len(parts) != 3 || parts[0] == "" || parts[2] == "" {
			return nil, cli.Errorf(cli.Usage, "write KEY=LABEL=COMMAND, such as 'F9=unplug=nscsetup region stop ams'", "--bind %q cannot be read", s)
		}
		if _, ok := tui.ParseKey(parts[0]); !ok {
			return nil, cli.Errorf(cli.Usage, "choose one of F2 to F12", "--bind: %q cannot be bound", parts[0])
		}
		binds = append(binds, bind{parts[0], parts[1], parts[2]})
	}
	return binds, nil
}

// run runs the command with the shell, as the user who typed it, and gives its
// last line. It is told the region of the connection as HERALD_REGION.
func (b bind) run(ctx context.Context, region ident.Region) string {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, "/bin/sh", "-c", b.command) // #nosec G204 -- the user's own --bind
	cmd.Env = append(os.Environ(), "HERALD_REGION="+region.String())
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	text := b.label + ": " + lines[len(lines)-1]
	if err != nil {
		text += " (" + err.Error() + ")"
	}
	return text
}
