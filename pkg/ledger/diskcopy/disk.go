package diskcopy

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/herald-nats/herald/pkg/keystore"
)

// disk is where files are. All files that it gives are locked: no other process is
// given the same.
type disk interface {
	// open opens the file with a name, or makes an empty one, and tells whether it may
	// be written.
	open(path string) (f file, writable bool, err error)
	// create makes a new, empty file in the place of whatever is there.
	create(path string) (file, error)
	rename(from, to string) error
	// link gives a file a second name, which must be free or its own already.
	link(from, to string) error
	remove(path string) error
	// syncDir makes the names in a folder last.
	syncDir(dir string) error
}

// file is a file of a disk.
type file interface {
	io.ReaderAt
	io.WriterAt
	io.Closer
	Truncate(size int64) error
	Sync() error
	Size() (int64, error)
}

type osDisk struct{}

type osFile struct{ *os.File }

func (f osFile) Size() (int64, error) {
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

func (osDisk) open(path string) (file, bool, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, false, err
	}
	// A file that is locked may be another one than that of the name by then: who had
	// it before put a new one in its place. The new one was locked before it had the
	// name, so that few turns are enough.
	for range 10 {
		f, writable, err := openFile(path)
		if err != nil {
			return nil, false, err
		}
		err = checkFile(f)
		if err == nil {
			err = lock(f)
		}
		if err != nil {
			return nil, false, errors.Join(err, f.Close())
		}
		if same, err := isAt(f, path); same {
			return osFile{f}, writable, nil
		} else if err != nil {
			return nil, false, errors.Join(err, f.Close())
		}
		_ = f.Close() // nothing was written
	}
	return nil, false, ErrInUse
}

func openFile(path string) (f *os.File, writable bool, err error) {
	// Without waiting: opening a pipe that nobody reads would never end.
	const flags = syscall.O_NONBLOCK
	f, err = os.OpenFile(path, os.O_RDWR|os.O_CREATE|flags, 0o600) // #nosec G304 -- the caller names its own file
	if errors.Is(err, fs.ErrPermission) || errors.Is(err, syscall.EROFS) {
		if r, rerr := os.OpenFile(path, os.O_RDONLY|flags, 0); rerr == nil { // #nosec G304 -- likewise
			return r, false, nil
		}
	}
	return f, true, err
}

func checkFile(f *os.File) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("it is no regular file: %w", fs.ErrInvalid)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return fmt.Errorf("it has mode %#o: %w", info.Mode().Perm(), keystore.ErrExposed)
	}
	return nil
}

// lock holds until the file is closed, also by the end of the process.
func lock(f *os.File) error {
	err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) // #nosec G115 -- a descriptor is small
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return ErrInUse
	}
	return err
}

// isAt tells whether the file still has that name.
func isAt(f *os.File, path string) (bool, error) {
	have, err := f.Stat()
	if err != nil {
		return false, err
	}
	there, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil && os.SameFile(have, there), err
}

func (osDisk) create(path string) (file, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600) // #nosec G304 -- beside the caller's own file
	if err != nil {
		return nil, err
	}
	if err := lock(f); err != nil {
		return nil, errors.Join(err, f.Close(), os.Remove(path))
	}
	return osFile{f}, nil
}

func (osDisk) rename(from, to string) error { return os.Rename(from, to) }
func (osDisk) remove(path string) error     { return os.Remove(path) }

func (osDisk) link(from, to string) error {
	err := os.Link(from, to)
	if errors.Is(err, fs.ErrExist) {
		a, aerr := os.Stat(from)
		b, berr := os.Stat(to)
		if aerr == nil && berr == nil && os.SameFile(a, b) {
			return nil
		}
	}
	return err
}

func (osDisk) syncDir(dir string) error {
	d, err := os.Open(dir) // #nosec G304 -- the folder of the caller's own file
	if err != nil {
		return err
	}
	err = d.Sync()
	if errors.Is(err, syscall.EINVAL) || errors.Is(err, syscall.ENOTSUP) {
		err = nil // a file system that has no such thing, as some network's
	}
	return errors.Join(err, d.Close())
}
