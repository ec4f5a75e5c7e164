package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"
)

// stage is a fresh temporary folder with a platform in it, and the processes
// that run there. Nothing of the user's own is read or written: HOME and the
// XDG folders are in it too.
type stage struct {
	dir      string
	bin      string // where the built programs are
	platform string
	env      []string
	procs    []*proc
}

func newStage() (*stage, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("finding the programs: %w", err)
	}
	s := &stage{bin: filepath.Dir(self)}
	if s.dir, err = os.MkdirTemp("", "herald-demo-"); err != nil {
		return nil, fmt.Errorf("making a folder: %w", err)
	}
	s.platform = filepath.Join(s.dir, "demo")
	s.env = append(s.person("home"), "PATH="+s.bin+":"+os.Getenv("PATH"), "TERM="+os.Getenv("TERM"), "COLORTERM="+os.Getenv("COLORTERM"))
	return s, nil
}

// person is the environment of one more person on the same machine.
func (s *stage) person(name string) []string {
	home := filepath.Join(s.dir, name)
	return []string{
		"HOME=" + home, "XDG_CONFIG_HOME=" + filepath.Join(home, "config"), "XDG_DATA_HOME=" + filepath.Join(home, "data"),
		"XDG_CACHE_HOME=" + filepath.Join(home, "cache"), "XDG_STATE_HOME=" + filepath.Join(home, "state"),
	}
}

func (s *stage) command(ctx context.Context, program string, args ...string) *exec.Cmd {
	c := exec.CommandContext(ctx, filepath.Join(s.bin, program), args...) // #nosec G204 -- our own programs
	c.Env, c.Dir = s.env, s.dir
	return c
}

// proc is a program that runs beside the demo and says what happens as JSON.
type proc struct {
	name  string
	cmd   *exec.Cmd
	lines chan map[string]any
	work  sync.WaitGroup
	done  chan struct{}
	err   error
	log   *os.File
}

// start runs a program with --json in a process group of its own, so that a
// Ctrl-C in the terminal reaches the demo alone, which then ends the others in
// order.
func (s *stage) start(name string, extraEnv []string, program string, args ...string) (*proc, error) {
	p := &proc{name: name, lines: make(chan map[string]any, 1024), done: make(chan struct{})}
	var err error
	if p.log, err = os.Create(filepath.Join(s.dir, name+".log")); err != nil { // #nosec G304 -- in our own folder
		return nil, fmt.Errorf("making a log: %w", err)
	}
	p.cmd = s.command(context.Background(), program, args...)
	p.cmd.Env = append(p.cmd.Env, extraEnv...)
	p.cmd.Stderr = p.log
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("starting %s: %w", name, err)
	}
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting %s: %w", name, err)
	}
	s.procs = append(s.procs, p)
	p.work.Go(func() { p.read(out) })
	go func() {
		p.work.Wait() // Wait closes the pipe, so everything is read first
		p.err = p.cmd.Wait()
		_ = p.log.Close() // a log: its lines were written one by one
		close(p.done)
	}()
	return p, nil
}

func (p *proc) read(out io.Reader) {
	defer close(p.lines)
	sc := bufio.NewScanner(out)
	sc.Buffer(nil, 1<<20)
	for sc.Scan() {
		_, _ = fmt.Fprintf(p.log, "%s\n", sc.Bytes()) // for whoever looks why the demo failed
		var v map[string]any
		if json.Unmarshal(sc.Bytes(), &v) == nil {
			p.lines <- v
		}
	}
}

// wait takes lines until one is wanted.
func (p *proc) wait(within time.Duration, what string, wanted func(map[string]any) bool) (map[string]any, error) {
	t := time.NewTimer(within)
	defer t.Stop()
	for {
		select {
		case v, ok := <-p.lines:
			if !ok {
				<-p.done
				return nil, fmt.Errorf("%s ended while %s was awaited: %w (see %s)", p.name, what, p.err, p.log.Name())
			}
			if wanted(v) {
				return v, nil
			}
		case <-t.C:
			return nil, fmt.Errorf("%s: no %s within %s (see %s)", p.name, what, within, p.log.Name())
		}
	}
}

func event(name string) func(map[string]any) bool {
	return func(v map[string]any) bool { return v["event"] == name }
}

// end stops the process with a signal, and kills it if it does not end.
func (p *proc) end(sig syscall.Signal, within time.Duration) error {
	select {
	case <-p.done:
		return nil
	default:
	}
	if err := p.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("ending %s: %w", p.name, err)
	}
	go func() {
		for range p.lines { //nolint:revive // nobody wants them any more; the pipe must empty
		}
	}()
	t := time.NewTimer(within)
	defer t.Stop()
	select {
	case <-p.done:
		return nil
	case <-t.C:
		_ = p.cmd.Process.Kill() // if it is gone by now, all the better
		<-p.done
		return fmt.Errorf("%s did not end within %s and was killed", p.name, within)
	}
}

// close ends everything in the opposite order of its start, and removes the
// folder unless something went wrong in it.
func (s *stage) close(failed error) error {
	var errs []error
	for i := len(s.procs) - 1; i >= 0; i-- {
		errs = append(errs, s.procs[i].end(syscall.SIGTERM, 10*time.Second))
	}
	if failed != nil || errors.Join(errs...) != nil {
		fmt.Fprintln(os.Stderr, "The demo's files are kept in", s.dir)
	} else {
		errs = append(errs, os.RemoveAll(s.dir))
	}
	return errors.Join(errs...)
}

// run runs a program to its end and gives its JSON lines and its exit code.
func (s *stage) run(ctx context.Context, extraEnv []string, program string, args ...string) ([]map[string]any, int, string, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	c := s.command(ctx, program, args...)
	c.Env = append(c.Env, extraEnv...)
	var stderr limited
	c.Stderr = &stderr
	out, err := c.Output()
	var exit *exec.ExitError
	code := 0
	if errors.As(err, &exit) {
		code = exit.ExitCode()
	} else if err != nil {
		return nil, 0, "", fmt.Errorf("running %s: %w", program, err)
	}
	var lines []map[string]any
	dec := json.NewDecoder(newReader(out))
	for {
		var v map[string]any
		if dec.Decode(&v) != nil {
			break
		}
		lines = append(lines, v)
	}
	return lines, code, string(stderr.b), nil
}
