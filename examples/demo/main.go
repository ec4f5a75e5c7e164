// Command demo shows Herald at work on one machine: three regions with their
// round trips, an issuer and a registrar in each as processes of their own, and
// a chat between people in different regions. With a terminal it opens the
// chat; without one it plays a scripted conversation, prints a transcript and
// exits 0 only if everything held that it claims.
package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"golang.org/x/term"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:])
	stop()
	os.Exit(code)
}

func run(ctx context.Context, args []string) int {
	if len(args) > 0 && args[0] == "peer" {
		return report(runPeer(ctx, args[1:]))
	}
	interactive := term.IsTerminal(int(os.Stdin.Fd())) && term.IsTerminal(int(os.Stdout.Fd())) && len(args) == 0 // #nosec G115 -- descriptors are small
	s, err := newStage()
	if err != nil {
		return report(err)
	}
	err = s.open(ctx)
	if err == nil {
		if interactive {
			err = talk(ctx, s)
		} else {
			err = play(ctx, s)
		}
	}
	if ctx.Err() != nil {
		err = nil // ended by Ctrl-C
	}
	return report(errors.Join(err, s.close(err)))
}

func report(err error) int {
	if err == nil {
		return 0
	}
	fmt.Fprintf(os.Stderr, "error: %v\nhint: the logs in the demo's folder say more\n", err)
	return 1
}

// Regions of the demo. Home is not the one that people in it call nearest, so
// that unplugging that one leaves names to be decided.
const (
	near = "ams"
	far  = "sgp"
	west = "sfo"
	home = far
)

// open makes the platform and starts it: the servers in one process, and one
// provisioner for each region.
func (s *stage) open(ctx context.Context) error {
	if _, code, stderr, err := s.run(ctx, nil, "nscsetup", "init", s.platform, "--name", "demo", "--home", home, "--json"); err != nil || code != 0 {
		return fmt.Errorf("nscsetup init: exit %d: %s%w", code, stderr, orNil(err))
	}
	up, err := s.start("up", nil, "nscsetup", "up", s.platform, "--wan", "--services", "none", "--json")
	if err != nil {
		return err
	}
	ready, err := up.wait(60*time.Second, "ready line", event("ready"))
	if err != nil {
		return err
	}
	say("%v servers in 3 regions hold %v accounts each, ready in %v ms", ready["servers"], ready["accounts"], ready["took_ms"])
	var provisioners []*proc
	for _, r := range []string{home, near, west} {
		p, err := s.start("provisioner-"+r, nil, "provisioner", "run", "--json",
			"--config", s.platform+"/registrars/"+r+"/provisioner.yaml", "--config", s.platform+"/issuers/"+r+"/provisioner.yaml")
		if err != nil {
			return err
		}
		provisioners = append(provisioners, p)
	}
	for _, p := range provisioners {
		for range 2 {
			if _, err := p.wait(30*time.Second, "ready line", event("ready")); err != nil {
				return err
			}
		}
	}
	say("an issuer and a registrar answer in each region, in three processes of their own")
	return nil
}

var errNone = errors.New("it ended")

func orNil(err error) error {
	if err == nil {
		return errNone
	}
	return err
}

func say(format string, args ...any) { fmt.Printf(format+"\n", args...) }

func newReader(b []byte) io.Reader { return bytes.NewReader(b) }

// limited keeps the beginning of what a program says on stderr.
type limited struct{ b []byte }

func (l *limited) Write(p []byte) (int, error) {
	const most = 4 << 10
	if room := most - len(l.b); room > 0 {
		l.b = append(l.b, p[:min(room, len(p))]...)
	}
	return len(p), nil
}
