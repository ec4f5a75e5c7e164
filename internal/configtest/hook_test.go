package configtest

import (
	"context"
	"crypto/rand"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/herald-nats/herald/internal/uptest"
	"github.com/herald-nats/herald/pkg/accesskey"
)

// repository is a git repository with the hook, in a folder of its own.
type repository struct {
	*testing.T
	dir string
	env []string
}

func newRepository(t *testing.T, path string) repository {
	t.Helper()
	home := t.TempDir()
	r := repository{t, t.TempDir(), []string{
		"PATH=" + path, "HOME=" + home, "TMPDIR=" + home, "GIT_CONFIG_NOSYSTEM=1", asNscsetup + "=1",
		"GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@example.com", "GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@example.com",
	}}
	r.git("init", "-q")
	hook := must(os.ReadFile(filepath.Join(must(uptest.Root()), "configs", "pre-commit", "pre-commit")))
	hooks := filepath.Join(r.dir, ".git", "hooks")
	if err := os.MkdirAll(hooks, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(hooks, "pre-commit"), hook, 0o700); err != nil { // #nosec G306 -- git runs it
		t.Fatal(err)
	}
	return r
}

func (r repository) run(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(r.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "git", args...) // #nosec G204 -- of this test
	cmd.Dir, cmd.Env = r.dir, r.env
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func (r repository) git(args ...string) {
	r.Helper()
	if out, err := r.run(args...); err != nil {
		r.Fatalf("git %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

func (r repository) write(name, text string) {
	r.Helper()
	path := filepath.Join(r.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		r.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		r.Fatal(err)
	}
}

// tools is a PATH with this test's program as nscsetup, before the machine's own.
func tools(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.Symlink(must(os.Executable()), filepath.Join(dir, "nscsetup")); err != nil {
		t.Fatal(err)
	}
	return dir + string(os.PathListSeparator) + os.Getenv("PATH")
}

// TestHook: a commit with a secret in what is staged is stopped, and no other.
func TestHook(t *testing.T) {
	s := must(accesskey.NewSecret(rand.Reader))
	secret := s.Reveal()
	r := newRepository(t, tools(t))
	stopped := func(what, file string) {
		t.Helper()
		out, err := r.run("commit", "-qm", what)
		if err == nil || !strings.Contains(out, file+":1:") || !strings.Contains(out, "the commit is stopped") {
			t.Errorf("%s: %v\n%s", what, err, out)
		}
		if strings.Contains(out, secret) {
			t.Errorf("%s: it shows the secret", what)
		}
	}
	r.write("deploy.env", "HERALD_KEY_SECRET="+secret+"\n")
	r.git("add", "deploy.env")
	stopped("the first commit", "deploy.env")

	// Taken out of the working tree, and still staged.
	r.write("deploy.env", "HERALD_KEY_SECRET=\n")
	stopped("what is staged alone", "deploy.env")
	r.git("add", "deploy.env")
	r.git("commit", "-qm", "without")

	// In the working tree, and not staged.
	r.write("deploy.env", secret)
	r.write("more", "nothing")
	r.git("add", "more")
	r.git("commit", "-qm", "what is not staged")

	r.write("a folder/with\na line end", secret)
	r.git("add", "a folder")
	if out, err := r.run("commit", "-qm", "an odd name"); err == nil {
		t.Errorf("an odd name: %s", out)
	}
	r.git("rm", "-rqf", "--cached", "a folder")

	// A rename, and a file that goes.
	r.git("checkout", "-q", "deploy.env")
	r.git("mv", "more", "other")
	r.git("rm", "-q", "deploy.env")
	r.git("commit", "-qm", "less")

	last := "0"
	if strings.HasSuffix(secret, last) {
		last = "1"
	}
	r.write("other", secret[:len(secret)-1]+last) // its checksum does not hold
	r.git("commit", "-qam", "what only looks like one")
	if left := must(filepath.Glob(filepath.Join(r.env[2][len("TMPDIR="):], "tmp.*"))); len(left) > 0 {
		t.Errorf("the hook leaves %v", left)
	}
}

// TestHookWithoutScanner: what cannot be scanned is not committed.
func TestHookWithoutScanner(t *testing.T) {
	r := newRepository(t, os.Getenv("PATH"))
	if _, err := exec.LookPath("nscsetup"); err == nil {
		r.env[0] = "PATH=/usr/bin:/bin"
	}
	r.write("file", "text")
	r.git("add", "file")
	if out, err := r.run("commit", "-qm", "unscanned"); err == nil || !strings.Contains(out, "not in the PATH") {
		t.Errorf("%v\n%s", err, out)
	}
}
