package accesskey_test

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/herald-nats/herald/pkg/accesskey"
)

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// scanPaths gives the paths of what is found, below dir.
func scanPaths(t *testing.T, dir string, opts accesskey.ScanOptions, paths ...string) ([]string, int, error) {
	t.Helper()
	var in []string
	n, err := accesskey.ScanPaths(t.Context(), paths, opts, func(path string, f accesskey.Found) error {
		rel, err := filepath.Rel(dir, path)
		if !f.Real {
			t.Errorf("%s: %+v", path, f)
		}
		in = append(in, rel)
		return err
	})
	return in, n, err
}

func TestScanPaths(t *testing.T) {
	dir, outside, s := t.TempDir(), t.TempDir(), generate(t).Reveal()
	write(t, filepath.Join(dir, "a", "x"), s)
	write(t, filepath.Join(dir, "a", "y"), "nothing")
	write(t, filepath.Join(dir, "b.txt"), "k: "+s+"\n")
	write(t, filepath.Join(dir, ".hidden"), s)
	write(t, filepath.Join(dir, ".git", "config"), s)
	write(t, filepath.Join(dir, "sub", ".git"), s) // a file of that name: a worktree's
	write(t, filepath.Join(outside, "secret"), s)
	for link, to := range map[string]string{"out": outside, "out-file": filepath.Join(outside, "secret"), "in": "a", "loop": ".", "nowhere": "nothing"} {
		if err := os.Symlink(to, filepath.Join(dir, link)); err != nil {
			t.Fatal(err)
		}
	}
	// Nobody writes to it: opening it would wait for ever.
	if err := syscall.Mkfifo(filepath.Join(dir, "pipe"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		what  string
		opts  accesskey.ScanOptions
		paths []string
		want  []string
		files int
	}{
		{"a folder", accesskey.ScanOptions{}, []string{dir}, []string{".hidden", "a/x", "b.txt", "sub/.git"}, 5},
		{"with git", accesskey.ScanOptions{Git: true}, []string{dir}, []string{".git/config", ".hidden", "a/x", "b.txt", "sub/.git"}, 6},
		{"git's folder by its name", accesskey.ScanOptions{}, []string{filepath.Join(dir, ".git")}, []string{".git/config"}, 1},
		{"a file", accesskey.ScanOptions{}, []string{filepath.Join(dir, "b.txt")}, []string{"b.txt"}, 1},
		{"two, in their order", accesskey.ScanOptions{}, []string{filepath.Join(dir, "b.txt"), filepath.Join(dir, "a")}, []string{"b.txt", "a/x"}, 3},
		{"a link by its name", accesskey.ScanOptions{}, []string{filepath.Join(dir, "in")}, []string{"in/x"}, 2},
		{"a link to a file by its name", accesskey.ScanOptions{}, []string{filepath.Join(dir, "out-file")}, []string{"out-file"}, 1},
		{"nothing", accesskey.ScanOptions{}, nil, nil, 0},
	} {
		got, n, err := scanPaths(t, dir, tc.opts, tc.paths...)
		if err != nil || !slices.Equal(got, tc.want) || n != tc.files {
			t.Errorf("%s: %v in %d files, %v", tc.what, got, n, err)
		}
	}
}

// TestScanPathsStaysInside: also where a file or a folder becomes a link that leads out after
// it was listed.
func TestScanPathsStaysInside(t *testing.T) {
	dir, outside, s := t.TempDir(), t.TempDir(), generate(t).Reveal()
	write(t, filepath.Join(dir, "a"), s)
	write(t, filepath.Join(dir, "file"), "nothing")
	write(t, filepath.Join(dir, "folder", "secret"), "nothing")
	write(t, filepath.Join(outside, "secret"), s)
	var in []string
	n, err := accesskey.ScanPaths(t.Context(), []string{dir}, accesskey.ScanOptions{}, func(path string, _ accesskey.Found) error {
		in = append(in, filepath.Base(path))
		for link, to := range map[string]string{"file": filepath.Join(outside, "secret"), "folder": outside} {
			if err := os.RemoveAll(filepath.Join(dir, link)); err != nil {
				return err
			}
			if err := os.Symlink(to, filepath.Join(dir, link)); err != nil {
				return err
			}
		}
		return nil
	})
	if !slices.Equal(in, []string{"a"}) || n != 1 || err == nil || strings.Count(err.Error(), "\n") != 1 || strings.Contains(err.Error(), "folder/secret") {
		t.Errorf("%v in %d files, %v", in, n, err) // nor are names listed
	}
}

// TestScanPathsReadErrors: also one in the middle of a file.
func TestScanPathsReadErrors(t *testing.T) {
	const unreadable = "/proc/self/mem" // at address 0 there is nothing, for root too
	if info, err := os.Stat(unreadable); err != nil || !info.Mode().IsRegular() {
		return // not on this system
	}
	if _, n, err := scanPaths(t, "/", accesskey.ScanOptions{}, unreadable); !errors.Is(err, syscall.EIO) || n != 0 || !strings.Contains(err.Error(), unreadable) {
		t.Errorf("%d files, %v", n, err)
	}
}

// TestScanPathsGoesOn: what cannot be read is told at the end, and hides nothing else.
func TestScanPathsGoesOn(t *testing.T) {
	dir, s := t.TempDir(), generate(t).Reveal()
	write(t, filepath.Join(dir, "z"), s)
	pipe := filepath.Join(dir, "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	missing := filepath.Join(dir, "missing")
	got, n, err := scanPaths(t, dir, accesskey.ScanOptions{}, missing, pipe, "/dev/null", filepath.Join(dir, "z"))
	if !slices.Equal(got, []string{"z"}) || n != 1 || !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%v in %d files, %v", got, n, err)
	}
	if err == nil || !strings.Contains(err.Error(), missing) || !strings.Contains(err.Error(), pipe+": not a regular file") ||
		!strings.Contains(err.Error(), "/dev/null: not a regular file") || strings.Count(err.Error(), "\n") != 2 {
		t.Errorf("%v", err)
	}

	deep := t.TempDir()
	write(t, filepath.Join(deep, "z"), s)
	if err := os.Mkdir(filepath.Join(deep, "closed"), 0); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(deep, "a"), s)
	if err := os.Chmod(filepath.Join(deep, "a"), 0); err != nil {
		t.Fatal(err)
	}
	got, n, err = scanPaths(t, deep, accesskey.ScanOptions{}, deep)
	if os.Geteuid() == 0 { // whom no mode stops
		if err != nil || n != 2 {
			t.Errorf("%v in %d files, %v", got, n, err)
		}
		return
	}
	if !slices.Equal(got, []string{"z"}) || n != 1 || !errors.Is(err, fs.ErrPermission) || !strings.Contains(err.Error(), filepath.Join(deep, "a")+":") ||
		!strings.Contains(err.Error(), filepath.Join(deep, "closed")+":") {
		t.Errorf("%v in %d files, %v", got, n, err)
	}
}

func TestScanPathsEnds(t *testing.T) {
	dir, s, mine := t.TempDir(), generate(t).Reveal(), errors.New("enough")
	write(t, filepath.Join(dir, "a"), s)
	write(t, filepath.Join(dir, "b"), s)
	calls := 0
	n, err := accesskey.ScanPaths(t.Context(), []string{dir, dir}, accesskey.ScanOptions{}, func(string, accesskey.Found) error { calls++; return mine })
	if !errors.Is(err, mine) || calls != 1 || n != 0 {
		t.Errorf("%d calls, %d files, %v", calls, n, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	calls = 0
	n, err = accesskey.ScanPaths(ctx, []string{dir, dir}, accesskey.ScanOptions{}, func(string, accesskey.Found) error { calls++; cancel(); return nil })
	if !errors.Is(err, context.Canceled) || calls != 1 || n != 0 {
		t.Errorf("%d calls, %d files, %v", calls, n, err)
	}
}

// TestNoSecretHere: the vectors are kept in parts, so that a scan of this repository, by
// this scanner or another, is quiet.
func TestNoSecretHere(t *testing.T) {
	n, err := accesskey.ScanPaths(t.Context(), []string{"."}, accesskey.ScanOptions{}, func(path string, f accesskey.Found) error {
		t.Errorf("%s:%d:%d: %s…", path, f.Line, f.Column, f.Start)
		return nil
	})
	if err != nil || n < 8 {
		t.Errorf("%d files, %v", n, err)
	}
}
