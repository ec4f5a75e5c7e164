// Package chat is the program for people who talk: a screen, and the same
// client without a screen for scripts and screen readers.
package chat

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/herald-nats/herald/internal/cli"
	"github.com/herald-nats/herald/pkg/chat/bus"
	"github.com/herald-nats/herald/pkg/client"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/keystore"
	"github.com/herald-nats/herald/pkg/trust"
	"github.com/herald-nats/herald/pkg/wire"
)

// globals are what every command shares.
type globals struct {
	cli.IO
	platform string
	context  string
	name     string
	server   string
	creds    string
	invite   string
	region   string
	room     string
	ttl      time.Duration
	log      string
	json     bool
	binds    []string
}

// startWait bounds joining: asking for a credential, in every region if need
// be, and connecting.
const startWait = 20 * time.Second

// Run executes one chat command and gives the exit code.
func Run(ctx context.Context, stdio cli.IO, args []string) int {
	g := &globals{IO: stdio}
	root := &cobra.Command{
		Use:   "chat",
		Short: "Talk on a Herald platform",
		Long: `chat joins a Herald platform and shows its channels and people. It makes an nkey
of its own, asks the nearest issuer for a short-lived credential, and renews it;
the nkey's seed stays on this machine.

Exit codes are the same for all of Herald's programs: 0 done, 1 failed, 2 usage,
3 partly done, 4 exists, 5 unavailable, 6 refused, 7 this machine, 8 folder or
file, 130 interrupted.`,
		Example: `  chat join demo.herald          # once
  chat --name alice
  chat send '#General' 'hello'   # without a screen
  chat tail --json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return runScreen(cmd.Context(), g) },
	}
	p := root.PersistentFlags()
	p.StringVar(&g.platform, "platform", "", "a public/ folder or context file, instead of a context")
	p.StringVar(&g.context, "context", "", "the context to use (default: the one joined last)")
	p.StringVar(&g.name, "name", "", "your `name` (default: as last time)")
	p.StringVarP(&g.server, "server", "s", os.Getenv("NATS_URL"), "server `URLs`, comma-separated, instead of the platform's (NATS_URL)")
	p.StringVar(&g.creds, "creds", os.Getenv("NATS_CREDS"), "use this creds `file` instead of asking for a credential (NATS_CREDS)")
	p.StringVar(&g.invite, "invite", "", "the `code` of an invitation that you came with; it is kept for the next time (HERALD_INVITE)")
	p.StringVar(&g.region, "region", "", "the `region` to connect to first (default: the nearest)")
	p.StringVar(&g.room, "room", "", "the `room` to come into (default: the platform's first)")
	p.DurationVar(&g.ttl, "ttl", 0, "ask for a credential of this lifetime")
	p.StringVar(&g.log, "log", "", "write a log to this `file`")
	p.BoolVar(&g.json, "json", false, "write JSON to stdout, one object a line")
	root.Flags().StringArrayVar(&g.binds, "bind", nil, "bind a key to a command: `KEY=LABEL=COMMAND`, such as 'F9=unplug=nscsetup region stop ams'")
	root.AddCommand(newJoin(g), newSend(g), newTail(g), newWho(g), newWhoami(g), newSnoop(g))
	return cli.Run(ctx, root, stdio, args, rules())
}

func rules() []cli.Rule {
	const again = "is the platform up, and are you connected to it? try again, or another --region"
	return []cli.Rule{
		{Is: client.ErrContext, Code: cli.Config, Hint: "give the file that 'nscsetup context export' wrote, or a platform's public/ folder"},
		{Is: client.ErrServer, Code: cli.Config, Hint: "ask the platform's operator for a new context file, and join with it: it says whose certificates are to be believed"},
		{Is: client.ErrUnreachable, Code: cli.Unavailable, Hint: again},
		{Is: trust.ErrExpired, Code: cli.Refused, Hint: "ask for a new credential: leave out --creds"},
		{Is: trust.ErrUntrusted, Code: cli.Refused, Hint: "that credential or file is another platform's"},
		{Is: bus.ErrRefused, Code: cli.Refused, Hint: "your credential does not allow it"},
		{Is: bus.ErrNotHere, Code: cli.Unavailable, Hint: "see who is there with 'chat who'"},
		{Is: bus.ErrNoChannel, Code: cli.Usage, Hint: "the room's channels are shown by 'chat whoami'"},
		{Is: bus.ErrNotConnected, Code: cli.Unavailable, Hint: again},
		{Is: bus.ErrUnconfirmed, Code: cli.Unavailable, Hint: again},
		{Is: ident.ErrInvalid, Code: cli.Usage, Hint: "names are 1 to 32 of a-z and 0-9 with single . _ or - between; regions are as 'nscsetup up' shows them"},
		{Is: keystore.ErrExposed, Code: cli.Config, Hint: "make it yours alone with chmod 600; if others could have read it, remove it and choose another name"},
		{Is: keystore.ErrKind, Code: cli.Config, Hint: "that file is no key of Herald's: remove it, and a new one is made"},
		{Is: os.ErrPermission, Code: cli.Config, Hint: "run it as the user who owns that, or choose your own"},
	}
}

// explain turns what the platform refused into an error with its own hint.
func explain(err error) error {
	var w *wire.Error
	if !errors.As(err, &w) {
		return err
	}
	code := cli.Refused
	switch w.Code.Number() {
	case 429, 503:
		code = cli.Unavailable
	case 400:
		code = cli.Usage
	}
	hint := w.Hint
	if hint == "" {
		hint = "ask the platform's operator"
	}
	if w.RequestID != "" {
		hint += " (request " + w.RequestID + ")"
	}
	return cli.Errorf(code, hint, "refused (%s): %s", w.Code, w.Message)
}

func (g *globals) logger() (*slog.Logger, io.Closer, error) {
	if g.log == "" {
		return slog.New(slog.DiscardHandler), io.NopCloser(nil), nil
	}
	f, err := os.OpenFile(g.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, nil, cli.Errorf(cli.Resource, "choose a file that you may write", "opening the log: %w", err)
	}
	return slog.New(slog.NewJSONHandler(f, nil)), f, nil
}
