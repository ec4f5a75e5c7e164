package certdir

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// Every change of the disk is one of the methods of disk, and each of them is either done
// or not when the machine stops. What makes a sequence of them safe is their order, which
// is told where it matters.
//
// Nothing here is written in place: a file appears under its name when all of it is on the
// disk. Until then it has unfinished behind its name; under the lock there is one writer,
// so what is found under such a name at the beginning is of a run that was killed.
const unfinished = ".unfinished"

// disk makes changes. The zero value is ready.
type disk struct {
	// before is called before each change; tests end the process there. Nil: nothing.
	before func(change string)
	// unsynced leaves out what only a machine that stops can tell from its absence: tests
	// that end the process many times would wait for the disk most of the time.
	unsynced bool
}

func (d disk) step(change, path string) {
	if d.before != nil {
		d.before(change + " " + path)
	}
}

// folder makes a folder, and those above it, or does nothing.
func (d disk) folder(path string, mode fs.FileMode) error {
	if info, err := os.Stat(path); err == nil && info.IsDir() {
		return nil
	}
	d.step("mkdir", path)
	if err := os.MkdirAll(path, mode); err != nil {
		return fmt.Errorf("making a folder for certificates: %w", err)
	}
	return d.sync(filepath.Dir(path))
}

// write puts data into a file that is not there under that name, and onto the disk.
func (d disk) write(path string, data []byte, mode fs.FileMode) error {
	if err := d.remove(path); err != nil {
		return err
	}
	d.step("create", path)
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode) // #nosec G304 -- a name in the caller's folder
	if err != nil {
		return fmt.Errorf("creating %s: %w", path, err)
	}
	d.step("fill", path)
	_, err = f.Write(data)
	if err == nil {
		err = f.Chmod(mode) // whatever the umask is
	}
	if err == nil && !d.unsynced {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return errors.Join(fmt.Errorf("writing %s: %w", path, err), os.Remove(path))
	}
	return nil
}

// replace gives a file a new content: who reads sees the old one or the new one.
func (d disk) replace(path string, data []byte, mode fs.FileMode) error {
	if err := d.write(path+unfinished, data, mode); err != nil {
		return err
	}
	return d.finish(path)
}

// finish gives what was written its name.
func (d disk) finish(path string) error {
	if err := d.rename(path+unfinished, path); err != nil {
		return err
	}
	return d.sync(filepath.Dir(path))
}

// same is replace for a file that has another content or mode, and tells whether it was.
func (d disk) same(path string, data []byte, mode fs.FileMode) (changed bool, err error) {
	have, err := readFile(path)
	if err == nil && bytes.Equal(have, data) {
		if info, err := os.Stat(path); err == nil && info.Mode().Perm() == mode {
			return false, nil
		}
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	return true, d.replace(path, data, mode)
}

func (d disk) rename(from, to string) error {
	d.step("rename", from)
	if err := os.Rename(from, to); err != nil {
		return fmt.Errorf("putting %s in place: %w", to, err)
	}
	return nil
}

// remove takes a file away, if it is there.
func (d disk) remove(path string) error {
	if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	d.step("remove", path)
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("removing %s: %w", path, err)
	}
	return nil
}

// sync sees to it that the names in a folder are on the disk.
func (d disk) sync(dir string) error {
	d.step("sync", dir)
	if d.unsynced {
		return nil
	}
	f, err := os.Open(dir) // #nosec G304 -- a folder of the caller's
	if err != nil {
		return fmt.Errorf("opening a folder of certificates: %w", err)
	}
	err = f.Sync()
	if errors.Is(err, syscall.EINVAL) {
		err = nil // a file system that does this by itself
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("writing the folder %s: %w", dir, err)
	}
	return nil
}

// maxFile bounds what is read: a bundle has a few KiB.
const maxFile = 256 << 10

func readFile(path string) ([]byte, error) {
	// Without waiting: opening a pipe that nobody writes to would never end.
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0) // #nosec G304 -- a name in the caller's folder
	if err != nil {
		return nil, fmt.Errorf("reading certificates: %w", err)
	}
	defer func() { _ = f.Close() }() // read only: closing cannot lose anything
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, fmt.Errorf("reading certificates: %w", err)
	}
	if len(data) > maxFile {
		return nil, fmt.Errorf("%s has more than %d bytes: %w", path, maxFile, ErrBroken)
	}
	return data, nil
}

// lock keeps others out until release; it ends with the process, however that ends.
func lock(dir string) (release func(), err error) {
	f, err := os.OpenFile(filepath.Join(dir, ".lock"), os.O_CREATE|os.O_RDWR, 0o600) // #nosec G304 -- a fixed name in the caller's folder
	if err != nil {
		return nil, fmt.Errorf("locking the certificates: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil { // #nosec G115 -- a descriptor is small
		return nil, errors.Join(fmt.Errorf("%s: %w", dir, ErrBusy), f.Close())
	}
	return func() { _ = f.Close() }, nil // nothing was written through it
}
