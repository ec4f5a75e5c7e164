package diskcopy_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/herald-nats/herald/pkg/ledger"
	"github.com/herald-nats/herald/pkg/ledger/diskcopy"
)

var errFull = fmt.Errorf("write c: %w", syscall.ENOSPC)

// room writes as much as there is left.
func room(left *int, n int) (int, error) {
	if n > *left {
		n, *left = *left, 0
		return n, errFull
	}
	*left -= n
	return n, nil
}

// TestFull: on a full disk what was flushed stays, and later there is room.
func TestFull(t *testing.T) {
	for name, faults := range map[string]func(*diskcopy.Faults){
		"write": func(f *diskcopy.Faults) { left := 50; f.Write = func(n int) (int, error) { return room(&left, n) } },
		"sync":  func(f *diskcopy.Faults) { f.Sync = func() error { return errFull } },
		"write and truncate": func(f *diskcopy.Faults) {
			left := 50
			f.Write = func(n int) (int, error) { return room(&left, n) }
			f.Truncate = func() error {
				if left > 0 { // before the write
					return nil
				}
				return syscall.EIO
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newService(t, newHome(t))
			known := s.small()
			s.apply(s.name(t, "late", 1, 3))
			faults(&s.faults)
			for range 3 {
				is(t, s.copy.Flush(s.p, map[string]uint64{"home": 5}, now()), syscall.ENOSPC)
			}
			known[5] = s.p.Dump()
			// Another service that reads it now has what was before.
			before := s.read()
			s.faults = diskcopy.Faults{}
			o := &service{home: s.home, t: t, path: filepath.Join(t.TempDir(), "c")}
			o.write(before)
			o.start()
			if at := o.check(known, "while it is full"); at != 4 {
				t.Errorf("at %d", at)
			}
			o.stop()
			s.flush(5)
			s.restart()
			if at := s.check(known, "with room again"); at != 5 || s.loaded.Cut > 0 {
				t.Errorf("at %d, %+v", at, s.loaded)
			}
		})
	}
}

// TestNoRoomToCompact: what changed is written where there is no room for two files.
func TestNoRoomToCompact(t *testing.T) {
	s := newService(t, newHome(t))
	s.flush(1)
	s.faults.Rename = func() error { return errFull }
	failed := 0
	for v := range uint64(60) {
		s.apply(s.entry(t, ledger.InviteKey(inviteID(1)), v+1, false, bigInvite(t)))
		err := s.copy.Flush(s.p, map[string]uint64{"home": v + 2}, now())
		if err != nil {
			is(t, err, diskcopy.ErrNotCompacted)
			is(t, err, syscall.ENOSPC)
			failed++
		}
	}
	if failed < 1 || failed > 6 {
		t.Errorf("tried to compact %d times", failed)
	}
	s.restart()
	if s.loaded.Positions["home"] != 61 {
		t.Errorf("%+v", s.loaded)
	}
	s.faults = diskcopy.Faults{}
	s.flush(62)
	if size := len(s.read()); size > 200<<10 {
		t.Errorf("%d bytes", size)
	}
}

// TestFullFileSystem is TestFull with a file system of its own.
func TestFullFileSystem(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=256k,mode=0700"); err != nil {
		t.Skipf("no file system can be mounted here: %v", err)
	}
	t.Cleanup(func() {
		// Also where the test failed and left a file open.
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	s := &service{home: newHome(t), t: t, path: filepath.Join(dir, "c")}
	s.start()
	known := s.small()
	filler := filepath.Join(dir, "filler")
	if err := os.WriteFile(filler, make([]byte, 160<<10), 0o600); err != nil {
		t.Fatal(err)
	}
	s.apply(s.entry(t, ledger.InviteKey(inviteID(1)), 1, false, bigInvite(t)), s.entry(t, ledger.InviteKey(inviteID(2)), 1, false, bigInvite(t)))
	known[5] = s.p.Dump()
	for range 2 {
		is(t, s.copy.Flush(s.p, map[string]uint64{"home": 5}, now()), syscall.ENOSPC)
	}
	s.restart()
	if at := s.check(known, "full"); at != 4 || s.loaded.Cut > 0 {
		t.Errorf("at %d, %+v", at, s.loaded)
	}
	s.apply(s.entry(t, ledger.InviteKey(inviteID(1)), 1, false, bigInvite(t)), s.entry(t, ledger.InviteKey(inviteID(2)), 1, false, bigInvite(t)))
	is(t, s.copy.Flush(s.p, nil, now()), syscall.ENOSPC)
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	s.flush(5)
	s.restart()
	if at := s.check(known, "with room"); at != 5 {
		t.Errorf("at %d", at)
	}
	s.stop()
}

// TestMain runs a test again as nobody, and with little room, where that is asked for:
// root may write anywhere, so that where tests run as root, as in CI, modes would
// refuse nobody. The process gives its rights up by itself, because the test's program
// lies where only its owner may enter.
func TestMain(m *testing.M) {
	if os.Getenv("HERALD_TEST_AS") != "" && os.Getuid() == 0 {
		const nobody = 65534
		for _, err := range []error{syscall.Setgroups(nil), syscall.Setgid(nobody), syscall.Setuid(nobody)} {
			if err != nil {
				fmt.Fprintln(os.Stderr, "becoming nobody:", err)
				os.Exit(99)
			}
		}
	}
	os.Exit(m.Run())
}

// again runs a test in a process of its own, with a folder that everybody may write.
func again(t *testing.T, as string) {
	t.Helper()
	dir := must[string](t)(os.MkdirTemp("", "herald-copy-"))
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(must[string](t)(os.Executable()), "-test.run=^"+t.Name()+"$", "-test.v", "-test.timeout=60s")
	cmd.Env = append(os.Environ(), "HERALD_TEST_AS="+as, "TMPDIR="+dir)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("as %s: %v\n%s", as, err, out)
	}
}

// TestPermissions: where nothing may be written, what is there is read.
func TestPermissions(t *testing.T) {
	if os.Getenv("HERALD_TEST_AS") == "" {
		again(t, "nobody")
		return
	}
	s := newService(t, newHome(t))
	known := s.small()
	dir := filepath.Dir(s.path)
	chmod := func(path string, mode fs.FileMode) {
		t.Helper()
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
	}
	late := s.name(t, "late", 1, 3)
	chmod(s.path, 0o400)
	chmod(dir, 0o500)
	s.restart()
	if at := s.check(known, "read only"); at != 4 {
		t.Errorf("at %d", at)
	}
	s.apply(late)
	known[5] = s.p.Dump()
	is(t, s.copy.Flush(s.p, map[string]uint64{"home": 5}, now()), fs.ErrPermission)
	_, err := diskcopy.Open(s.path, secret(), s.about)
	is(t, err, diskcopy.ErrInUse)
	// A file that may not be written in a folder that may: it is replaced.
	chmod(dir, 0o700)
	s.flush(5)
	s.restart()
	if at := s.check(known, "writable again"); at != 5 {
		t.Errorf("at %d", at)
	}
	s.stop()
	// A folder that may not be written is no trouble until the file is replaced.
	chmod(dir, 0o500)
	s.start()
	s.flush(6)
	s.stop()
	pipe := filepath.Join(dir, "..", "pipe")
	if err := syscall.Mkfifo(pipe, 0o400); err != nil {
		t.Fatal(err)
	}
	_, err = diskcopy.Open(pipe, secret(), s.about) // nobody writes to it
	is(t, err, fs.ErrInvalid)
	chmod(s.path, 0)
	_, err = diskcopy.Open(s.path, secret(), s.about)
	is(t, err, fs.ErrPermission)
	_, err = diskcopy.Open(filepath.Join(dir, "new"), secret(), s.about)
	is(t, err, fs.ErrPermission)
	_, err = diskcopy.Open(filepath.Join(dir, "folder", "new"), secret(), s.about)
	is(t, err, fs.ErrPermission)
	chmod(s.path, 0o600)
	chmod(dir, 0o700)
	s.start()
}

// TestCramped: a write that ends half done by the system's own doing, for whoever runs
// the tests. Its number is another than that of a full disk.
func TestCramped(t *testing.T) {
	if os.Getenv("HERALD_TEST_AS") == "" {
		again(t, "cramped")
		return
	}
	s := newService(t, newHome(t))
	known := s.small()
	signal.Ignore(syscall.SIGXFSZ)
	size := uint64(len(s.read()))
	limit := syscall.Rlimit{Cur: size + 100, Max: 1 << 30}
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &limit); err != nil {
		t.Skipf("no limit can be set: %v", err)
	}
	s.apply(s.suspension(t, 3, 1))
	known[5] = s.p.Dump()
	is(t, s.copy.Flush(s.p, map[string]uint64{"home": 5}, now()), syscall.EFBIG)
	s.restart()
	if at := s.check(known, "cramped"); at != 4 || s.loaded.Cut > 0 {
		t.Errorf("at %d: %+v", at, s.loaded)
	}
	s.apply(s.suspension(t, 3, 1))
	limit.Cur = limit.Max
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &limit); err != nil {
		t.Fatal(err)
	}
	s.flush(5)
	s.restart()
	s.check(known, "with room")
}

// TestPipe: opening does not wait for somebody at the other end.
func TestPipe(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pipe")
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Skip(err)
	}
	_, err := diskcopy.Open(path, secret(), newHome(t).about)
	if !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("%v", err)
	}
}
