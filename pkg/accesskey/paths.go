package accesskey

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// ScanOptions say what ScanPaths looks at.
type ScanOptions struct {
	// Git also looks into folders named .git. What is in them is compressed for the most
	// part, so that little is found there: the history is better scanned by piping
	// git log -p into Scan.
	Git bool
}

// ScanPaths scans files, and folders with all that is in them, in the order of names, and
// calls found with the path of each file. It gives how many files were read to the end.
//
// A path that is given may be a symbolic link; those met in a folder are not followed, nor
// does anything that is put there meanwhile lead out of it. What is no regular file is not
// read; one that is given by itself is an error. Folders named .git are left out unless
// asked for, or given.
//
// What cannot be read is passed over, and told at the end: the error joins one for each,
// with its path. An error of found, or the end of ctx, ends it.
func ScanPaths(ctx context.Context, paths []string, opts ScanOptions, found func(path string, f Found) error) (int, error) {
	w := walker{ctx: ctx, opts: opts, found: found}
	for _, p := range paths {
		if err := w.scan(p); err != nil {
			return w.files, errors.Join(append(w.unread, err)...)
		}
	}
	return w.files, errors.Join(w.unread...)
}

type walker struct {
	ctx    context.Context // of one call
	opts   ScanOptions
	found  func(string, Found) error
	files  int
	unread []error
}

// pass remembers what could not be read.
func (w *walker) pass(path string, err error) {
	w.unread = append(w.unread, fmt.Errorf("scanning %s: %w", path, err))
}

// scan scans one path that was given. An error ends everything.
func (w *walker) scan(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		w.pass(path, err)
		return w.ctx.Err()
	}
	if !info.IsDir() {
		// Without waiting: opening a pipe that nobody writes to would never end.
		f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0) // #nosec G304 -- the caller names its own files
		return w.file(path, f, err)
	}
	root, err := os.OpenRoot(path)
	if err != nil {
		w.pass(path, err)
		return w.ctx.Err()
	}
	defer func() { _ = root.Close() }() // read only: closing cannot lose anything
	return fs.WalkDir(root.FS(), ".", func(name string, d fs.DirEntry, err error) error {
		full := filepath.Join(path, filepath.FromSlash(name))
		switch {
		case w.ctx.Err() != nil:
			return w.ctx.Err()
		case err != nil:
			w.pass(full, err) // a folder that cannot be listed, or not to its end
			return nil
		case d.IsDir():
			if d.Name() == ".git" && !w.opts.Git {
				return fs.SkipDir
			}
			return nil
		case !d.Type().IsRegular():
			return nil
		}
		f, err := root.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
		return w.file(full, f, err)
	})
}

// file scans and closes one file; err is that of opening it. An error ends everything.
func (w *walker) file(path string, f *os.File, err error) error {
	if err != nil {
		w.pass(path, err)
		return w.ctx.Err()
	}
	defer func() { _ = f.Close() }() // read only: closing cannot lose anything
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = errNoFile
	}
	if err != nil {
		w.pass(path, err)
		return w.ctx.Err()
	}
	var stop error
	err = Scan(untilDone{w.ctx, f}, func(found Found) error {
		stop = w.found(path, found)
		return stop
	})
	switch {
	case stop != nil:
		return stop
	case w.ctx.Err() != nil:
		return w.ctx.Err()
	case err != nil:
		w.pass(path, err)
	default:
		w.files++
	}
	return nil
}

// errNoFile: a device, a pipe or a socket.
var errNoFile = errors.New("not a regular file")

// untilDone reads until its context ends.
type untilDone struct {
	ctx context.Context // of one call
	r   io.Reader
}

func (u untilDone) Read(p []byte) (int, error) {
	if err := u.ctx.Err(); err != nil {
		return 0, err
	}
	return u.r.Read(p)
}
