package e2e

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/herald-nats/herald/internal/cli"
	"github.com/herald-nats/herald/internal/uptest"
	"github.com/herald-nats/herald/pkg/platform"
)

// scripts runs testdata/script.
func (w *world) scripts(t *testing.T) {
	dir := w.mkdir(t, "scripts")
	testscript.Run(t, testscript.Params{
		Dir:                filepath.Join("testdata", "script"),
		WorkdirRoot:        dir, // removed with everything else
		RequireUniqueNames: true,
		// A program that was to end and serves instead is killed, and its script fails,
		// long before all tests are.
		Deadline: time.Now().Add(6 * time.Minute),
		Setup: func(e *testscript.Env) error {
			e.Vars = append(e.Vars, w.vars(filepath.Join(e.WorkDir, "home"))...)
			e.Vars = append(e.Vars, "ESC=\x1b", "BEL=\a")
			e.Values[processes{}] = map[string]*process{}
			e.Values[snapshots{}] = map[string]string{}
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits": exits, "start": start, "end": end, "waitfor": waitfor,
			"ports": ports, "listen": listen,
			"append": appendFile, "replace": replaceIn,
			"copytree": copytree, "removetree": removetree, "modes": modes, "noseed": noseed,
			"snapshot": snapshot, "unchanged": unchanged,
			"fromjson": fromJSON, "member": w.member,
			"nscstore": nscStore, "connects": connects, "cutoff": cutoff, "revokedin": revokedIn, "samestore": sameStore,
		},
	})
}

// Keys of testscript's values.
type (
	processes struct{}
	snapshots struct{}
)

// usage ends the script that calls a command wrongly.
func usage(ts *testscript.TestScript, neg bool, ok bool, text string) {
	if neg || !ok {
		ts.Fatalf("usage: %s", text)
	}
}

// exits runs a program and looks at how it ends: with this code, with nothing
// secret said, and, if it is an error, with one error line and one hint line.
func exits(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, len(args) >= 2, "exits CODE PROGRAM ARGS...")
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	var exit *exec.ExitError
	if err := ts.Exec(args[1], args[2:]...); errors.As(err, &exit) {
		got = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	if got != want {
		ts.Fatalf("%s: exit code %d, want %d", strings.Join(args[1:], " "), got, want)
	}
	ts.Check(complained(got, ts.ReadFile("stdout"), ts.ReadFile("stderr")))
}

// problem is one of several problems of a platform file, or its hint.
var problem = regexp.MustCompile(`^(\S+platform\.yaml:\d+:\d+: |platform\.yaml:\d+:\d+: |    \S)`)

// complained looks at what a program said before it ended with code.
func complained(code int, stdout, stderr string) error {
	if s := seed.FindString(stdout + stderr); s != "" {
		return fmt.Errorf("a seed was written: %.4s…", s)
	}
	var lines []string
	count := map[string]int{}
	for _, l := range strings.Split(strings.TrimSuffix(stderr, "\n"), "\n") {
		if strings.HasPrefix(l, "{") {
			continue // services log JSON to stderr
		}
		if problem.MatchString(l) {
			continue // all that is wrong with a platform file, each with its place and a hint
		}
		lines = append(lines, l)
		word, _, _ := strings.Cut(l, " ")
		count[word]++
	}
	n := len(lines)
	switch {
	case code == cli.OK && count["error:"]+count["hint:"] > 0:
		return errors.New("exit code 0 with an error")
	case code == cli.OK:
		return nil
	case strings.TrimSpace(stderr) == "" && stdout != "" && (code == cli.Failed || code == cli.Usage):
		return nil // an answer: no, or that something would change
	case count["error:"] != 1 || count["hint:"] != 1 || n < 2 || !strings.HasPrefix(lines[n-2], "error: ") || !strings.HasPrefix(lines[n-1], "hint: "):
		return errors.New("there is not one error: line with one hint: line behind it")
	case len(lines[n-2]) < len("error: x") || len(lines[n-1]) < len("hint: x"):
		return errors.New("the error or the hint is empty")
	case code != cli.Usage && strings.HasPrefix(lines[n-1], "hint: see ") && strings.Contains(lines[n-1], "--help"):
		return fmt.Errorf("no hint of its own: %s", lines[n-1])
	}
	if n > 2 {
		return fmt.Errorf("stderr has more than the error: %s", lines[0])
	}
	return nil
}

// seed is what a seed of any kind looks like; a public key may have the same
// letters somewhere inside.
var seed = regexp.MustCompile(`\bS[OAUXCN][A-Z2-7]{56}\b`) //nolint:gochecknoglobals // a constant in all but name

// start runs a program beside the script; its streams go to NAME.out and
// NAME.err. It is killed at the end of the script if it still runs.
func start(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, len(args) >= 2, "start NAME PROGRAM ARGS...")
	path, err := exec.LookPath(args[1])
	ts.Check(err)
	cmd := exec.Command(path, args[2:]...)
	cmd.Dir = ts.MkAbs(".")
	cmd.Env = environ(ts)
	var files [2]*os.File
	for i, ext := range []string{".out", ".err"} {
		files[i], err = os.Create(ts.MkAbs(args[0] + ext))
		ts.Check(err)
	}
	cmd.Stdout, cmd.Stderr = files[0], files[1]
	p, err := startProcess(cmd)
	ts.Check(errors.Join(err, files[0].Close(), files[1].Close())) // the process has its own
	running := ts.Value(processes{}).(map[string]*process)         //nolint:errcheck,forcetypeassert // set above
	running[args[0]] = p
	ts.Defer(func() { _, _ = p.stop(os.Kill, time.Minute) }) // mostly gone already
}

// environ is the script's environment as far as programs here look at it.
func environ(ts *testscript.TestScript) []string {
	var env []string
	for _, name := range []string{
		"PATH", "HOME", "TMPDIR", "GORACE", "GOCOVERDIR", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "NATS_URL", "NATS_CREDS",
	} {
		if v := ts.Getenv(name); v != "" {
			env = append(env, name+"="+v)
		}
	}
	return env
}

// end sends a signal to what start began ("-" for none) and looks at how it
// ends, and at whether that takes no longer than it may.
func end(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, len(args) == 4, "end NAME INT|TERM|- CODE WITHIN")
	p := ts.Value(processes{}).(map[string]*process)[args[0]] //nolint:errcheck,forcetypeassert // set above
	if p == nil {
		ts.Fatalf("%s was not started", args[0])
	}
	var sig os.Signal
	switch args[1] {
	case "INT":
		sig = os.Interrupt
	case "TERM":
		sig = syscall.SIGTERM
	case "-":
	default:
		ts.Fatalf("signal %s", args[1])
	}
	want, err := strconv.Atoi(args[2])
	ts.Check(err)
	within, err := time.ParseDuration(args[3])
	ts.Check(err)
	got, err := p.stop(sig, within)
	stdout, stderr := ts.ReadFile(args[0]+".out"), ts.ReadFile(args[0]+".err")
	ts.Logf("[%s.out]\n%s[%s.err]\n%s", args[0], stdout, args[0], stderr)
	ts.Check(err)
	if got != want {
		ts.Fatalf("%s: exit code %d, want %d", args[0], got, want)
	}
	ts.Check(complained(got, stdout, stderr))
}

// waitfor waits until what start began has written a line that matches, to its
// streams or to a file NAME.log.
func waitfor(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, len(args) == 3, "waitfor NAME.out|NAME.err|NAME.log REGEXP WITHIN")
	re, err := regexp.Compile("(?m)" + args[1])
	ts.Check(err)
	within, err := time.ParseDuration(args[2])
	ts.Check(err)
	name, _, _ := strings.Cut(args[0], ".")
	p := ts.Value(processes{}).(map[string]*process)[name] //nolint:errcheck,forcetypeassert // set above
	if p == nil {
		ts.Fatalf("%s was not started", name)
	}
	over := false
	matches := func() bool {
		data, err := os.ReadFile(ts.MkAbs(args[0]))
		if errors.Is(err, fs.ErrNotExist) {
			return false // a log, not begun yet
		}
		ts.Check(err)
		return re.Match(data)
	}
	found := eventually(within, func() bool {
		over = over || p.ended() // before reading: then all that it wrote is there
		return matches() || over
	})
	if !found || !matches() {
		ts.Logf("[%s.out]\n%s[%s.err]\n%s", name, ts.ReadFile(name+".out"), name, ts.ReadFile(name+".err"))
		ts.Fatalf("no %q in %s (ended: %v)", args[1], args[0], over)
	}
}

// ports sets PORT and PORT1 to the first two of a block that nobody else uses
// until the end of the script.
func ports(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, len(args) == 1, "ports N")
	n, err := strconv.Atoi(args[0])
	ts.Check(err)
	p, err := uptest.Reserve(context.Background(), n)
	ts.Check(err)
	ts.Defer(func() { ts.Check(p.Release()) })
	ts.Setenv("PORT", strconv.Itoa(p.First))
	ts.Setenv("PORT1", strconv.Itoa(p.First+1))
}

// listen takes a port until the end of the script.
func listen(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, len(args) == 1, "listen PORT")
	l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", args[0]))
	ts.Check(err)
	ts.Defer(func() { ts.Check(l.Close()) })
}

// copytree copies a folder with its modes; what is there already is replaced.
func copytree(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, len(args) == 2, "copytree FROM TO")
	from, to := ts.MkAbs(args[0]), ts.MkAbs(args[1])
	ts.Check(filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		into := filepath.Join(to, rel)
		if d.IsDir() {
			return os.MkdirAll(into, info.Mode().Perm())
		}
		data, err := os.ReadFile(path) // #nosec G122 -- a script's own folder
		if err != nil {
			return err
		}
		if err := os.RemoveAll(into); err != nil {
			return err
		}
		return os.WriteFile(into, data, info.Mode().Perm())
	}))
}

// appendFile writes a file behind another.
func appendFile(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, len(args) == 2, "append FILE FROM")
	path := ts.MkAbs(args[0])
	ts.Check(os.WriteFile(path, []byte(ts.ReadFile(args[0])+ts.ReadFile(args[1])), 0o600))
}

// replaceIn replaces a text in a file, which must be there.
func replaceIn(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, len(args) == 3, "replace FILE OLD NEW")
	data := ts.ReadFile(args[0])
	if !strings.Contains(data, args[1]) {
		ts.Fatalf("%s does not have %q", args[0], args[1])
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(strings.ReplaceAll(data, args[1], args[2])), 0o600))
}

func removetree(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, len(args) == 1, "removetree DIR")
	ts.Check(os.RemoveAll(ts.MkAbs(args[0])))
}

// modes holds a platform folder's modes against the rule: its owner alone may
// read anything but what is in public.
func modes(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, len(args) == 1, "modes DIR")
	dir := ts.MkAbs(args[0])
	ts.Check(filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		public := rel == "public" || strings.HasPrefix(rel, "public"+string(filepath.Separator))
		want := fs.FileMode(0o600)
		switch {
		case public && d.IsDir():
			want = 0o755
		case public:
			want = 0o644
		case d.IsDir():
			want = 0o700
		}
		if got := info.Mode().Perm(); got != want {
			return fmt.Errorf("%s has mode %#o, want %#o", rel, got, want)
		}
		return nil
	}))
}

// noseed looks for seeds in files, or in all files of folders.
func noseed(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, len(args) > 0, "noseed FILE|DIR|stdout|stderr...")
	for _, name := range args {
		if name == "stdout" || name == "stderr" {
			if seed.MatchString(ts.ReadFile(name)) {
				ts.Fatalf("%s has a seed", name)
			}
			continue
		}
		ts.Check(filepath.WalkDir(ts.MkAbs(name), func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			data, err := os.ReadFile(path) // #nosec G122 -- a script's own folder
			if err == nil && seed.Match(data) {
				err = fmt.Errorf("%s has a seed", path)
			}
			return err
		}))
	}
}

// snapshot remembers a folder under a name, and unchanged compares it: names,
// modes, times of change and contents.
func snapshot(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, len(args) == 2, "snapshot NAME DIR")
	taken := ts.Value(snapshots{}).(map[string]string) //nolint:errcheck,forcetypeassert // set above
	taken[args[0]] = treeHash(ts, args[1])
}

func unchanged(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, len(args) == 2, "unchanged NAME DIR")
	taken := ts.Value(snapshots{}).(map[string]string) //nolint:errcheck,forcetypeassert // set above
	if taken[args[0]] == "" || taken[args[0]] != treeHash(ts, args[1]) {
		ts.Fatalf("%s is not as it was", args[1])
	}
}

func treeHash(ts *testscript.TestScript, dir string) string {
	h := sha256.New()
	ts.Check(filepath.WalkDir(ts.MkAbs(dir), func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && d.Name() == "state" {
			return filepath.SkipDir // a service's own copy of the ledger, which it writes
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		fmt.Fprintf(h, "%q %v\n", path, info.Mode())
		if !d.IsDir() {
			fmt.Fprintf(h, "%v\n", info.ModTime().UnixNano())
		}
		if !info.Mode().IsRegular() {
			return nil
		}
		data, err := os.ReadFile(path) // #nosec G122 -- a script's own folder
		fmt.Fprintf(h, "%d %q\n", len(data), data)
		return err
	}))
	return hex.EncodeToString(h.Sum(nil))
}

// fromJSON sets a variable to a field of the first JSON object that was written.
func fromJSON(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, len(args) == 3, "fromjson VAR stdout|FILE FIELD")
	var v map[string]any
	ts.Check(json.NewDecoder(strings.NewReader(ts.ReadFile(args[1]))).Decode(&v))
	if v[args[2]] == nil {
		ts.Fatalf("%s has no %s", args[1], args[2])
	}
	ts.Setenv(args[0], fmt.Sprint(v[args[2]]))
}

// member makes a creds file of a member of the platform that runs, or of the
// foreign one, as its operator could: good for a lifetime that may be over.
func (w *world) member(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, len(args) == 3, "member running|foreign LIFE FILE")
	p := w.running.Up.Platform
	if args[0] == "foreign" {
		p = w.foreign
	}
	life, err := time.ParseDuration(args[1])
	ts.Check(err)
	now := time.Now()
	if life < 0 {
		now, life = now.Add(2*life), -life
	}
	u, err := p.Mint(p.Document.Chat.Account.String(), platform.RoleMember, now, life)
	ts.Check(err)
	s, err := u.Key.Seed()
	ts.Check(err)
	data, err := jwt.FormatUserConfig(u.Token, s)
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[2]), data, 0o600))
}

// The commands above are what the scripts believe, so they are tried themselves.
func TestComplained(t *testing.T) {
	for _, tt := range []struct {
		name   string
		code   int
		stdout string
		stderr string
		ok     bool
	}{
		{"nothing", cli.OK, "", "", true},
		{"data", cli.OK, "data\n", "Next: do this\n", true},
		{"error without a code", cli.OK, "", "error: x y\nhint: z\n", false},
		{"error", cli.Config, "", "error: x y\nhint: z\n", true},
		{"no hint", cli.Config, "", "error: x y\n", false},
		{"two errors", cli.Config, "", "error: a\nerror: x y\nhint: z\n", false},
		{"empty hint", cli.Config, "", "error: x y\nhint: \n", false},
		{"more", cli.Config, "", "panic: a\nerror: x y\nhint: z\n", false},
		{"log", cli.Config, "", "{\"level\":\"INFO\"}\nerror: x y\nhint: z\n", true},
		{"no hint of its own", cli.Config, "", "error: x y\nhint: see 'chat --help'\n", false},
		{"seed", cli.OK, "SU" + strings.Repeat("A", 56) + "\n", "", false},
	} {
		if err := complained(tt.code, tt.stdout, tt.stderr); (err == nil) != tt.ok {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
}
