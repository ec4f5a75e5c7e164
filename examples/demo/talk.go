package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// talk opens the chat beside a friendly peer in another region.
func talk(ctx context.Context, s *stage) error {
	second, err := s.secondPerson()
	if err != nil {
		return err
	}
	public := filepath.Join(s.platform, "public")
	peer, err := s.start("peer", s.person("peer-home"), "demo", "peer", public, far, second)
	if err != nil {
		return err
	}
	if _, err := peer.wait(20*time.Second, "ready line", event("ready")); err != nil {
		return err
	}
	say("\nA second person, in another terminal:  %s\n", second)
	setup := "nscsetup --dir " + quote(s.platform) + " region "
	c := exec.CommandContext(context.WithoutCancel(ctx), filepath.Join(s.bin, "chat"), // #nosec G204 -- our own program
		"--platform", public, "--name", "alice", "--region", near,
		"--bind", "F9=unplug "+near+"="+setup+"stop "+near,
		"--bind", "F10=plug in "+near+"="+setup+"start "+near)
	c.Env, c.Dir = s.env, s.dir
	// The chat has the terminal: Ctrl-C is a key there.
	c.Stdin, c.Stdout, c.Stderr = os.Stdin, os.Stdout, os.Stderr
	if err := c.Run(); err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) && exit.ExitCode() == 130 {
			return nil
		}
		return fmt.Errorf("the chat: %w", err)
	}
	return nil
}

// secondPerson writes what a second person has to run, so that it is short
// enough to be typed.
func (s *stage) secondPerson() (string, error) {
	var b strings.Builder
	b.WriteString("#!/bin/sh\n# Joins the demo as a second person, with folders of their own.\n")
	for _, e := range s.person("second-home") {
		name, value, _ := strings.Cut(e, "=")
		b.WriteString("export " + name + "=" + quote(value) + "\n")
	}
	b.WriteString("exec " + quote(filepath.Join(s.bin, "chat")) + " --platform " + quote(filepath.Join(s.platform, "public")) +
		" --name \"${1:-carol}\" --region " + west + "\n")
	path := filepath.Join(s.dir, "second")
	if err := os.WriteFile(path, []byte(b.String()), 0o600); err != nil {
		return "", fmt.Errorf("writing what a second person runs: %w", err)
	}
	return "sh " + path, nil
}

func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }
