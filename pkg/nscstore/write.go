package nscstore

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	"github.com/nats-io/jwt/v2"

	"github.com/herald-nats/herald/pkg/keystore"
)

// Write makes dir, in one of the forms, with a store in it that nsc opens.
// dir must not exist or be empty, else the error wraps fs.ErrExist: nothing is
// ever overwritten. What does not hold together is *Problems, whose files are
// those that would have been written.
//
// dir appears at once and complete, and all of it is on the disk then. Until
// that it is made in a folder beside it, .NAME.partial, of which a killed Write
// leaves a part; the next one clears it. While another process is at it, the
// error is ErrBusy. All files are 0600 and all folders 0700, as nsc makes them.
func Write(dir string, form Form, s *Store) error {
	return write(dir, form, s, func() {})
}

// write is Write; step is called before each change on the disk.
func write(dir string, form Form, s *Store, step func()) error {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return fmt.Errorf("writing a store of nsc: %w", err)
	}
	if err := s.writable(layout{dirs: form.In(dir), name: s.Name}); err != nil {
		return err
	}
	if err := vacant(dir); err != nil {
		return err
	}
	part := filepath.Join(filepath.Dir(dir), "."+filepath.Base(dir)+".partial")
	step()
	done, err := claim(part, step)
	if err != nil {
		return fmt.Errorf("making %s: %w", part, err)
	}
	defer done()
	w := writer{dirs: map[string]bool{part: true}, step: step}
	w.store(layout{dirs: form.In(part), name: s.Name}, s)
	w.sync()
	if w.err == nil {
		step()
		w.err = move(part, dir)
	}
	if w.err != nil {
		return errors.Join(fmt.Errorf("writing a store of nsc: %w", w.err), os.RemoveAll(part))
	}
	step()
	return syncDir(filepath.Dir(dir))
}

// writable is what Read would have against the store.
func (s *Store) writable(l layout) error {
	var found Problems
	if s.Operator.IsZero() {
		found.add(l.operator(), fmt.Errorf("the operator's JWT is missing: %w", fs.ErrNotExist))
	}
	s.check(l, &found)
	return found.err()
}

// vacant tells whether dir can be made: it is not there, or an empty folder.
func vacant(dir string) error {
	entries, err := os.ReadDir(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("looking whether the folder is empty: %w", err)
	case len(entries) > 0:
		return fmt.Errorf("%s is not empty: %w", show(dir), fs.ErrExist)
	}
	return nil
}

// claim makes an empty folder that is this process's alone until done is
// called, or clears what a killed process left in it.
func claim(path string, step func()) (done func(), err error) {
	if err := os.Mkdir(path, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_DIRECTORY, 0) // #nosec G304 -- beside the folder that the caller named
	if err != nil {
		return nil, err
	}
	release := func() { _ = f.Close() }                                                 // the lock goes with it
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil { // #nosec G115 -- a descriptor is small
		release()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			err = ErrBusy
		}
		return nil, err
	}
	if err = owned(f, path); err == nil {
		step()
		err = clearDir(f, path)
	}
	if err != nil {
		release()
		return nil, err
	}
	return release, nil
}

// owned tells whether the folder that was opened is the one that lies at path,
// and nobody else can put or take anything there: a parent such as /tmp is open
// to others.
func owned(f *os.File, path string) error {
	mine, err := f.Stat()
	if err != nil {
		return err
	}
	now, err := os.Lstat(path)
	// Whoever had the lock before may have moved the folder away, finished.
	if errors.Is(err, fs.ErrNotExist) || err == nil && !os.SameFile(mine, now) {
		return ErrBusy
	}
	if err != nil {
		return err
	}
	if st, ok := mine.Sys().(*syscall.Stat_t); !ok || int(st.Uid) != os.Geteuid() || mine.Mode().Perm()&0o077 != 0 {
		return fmt.Errorf("a folder that others own or can open: %w", ErrUnexpected)
	}
	return nil
}

func clearDir(f *os.File, path string) error {
	names, err := f.Readdirnames(-1)
	for _, name := range names {
		err = errors.Join(err, os.RemoveAll(filepath.Join(path, name)))
	}
	return err
}

// move gives a folder its name, in one step, where there is none or an empty
// one. os.Rename would refuse the empty one.
func move(from, to string) error {
	err := syscall.Rename(from, to)
	if errors.Is(err, syscall.ENOTEMPTY) || errors.Is(err, syscall.EEXIST) {
		return fmt.Errorf("%s is not empty: %w", show(to), fs.ErrExist)
	}
	return err
}

// writer keeps the first error: then nothing more is written.
type writer struct {
	dirs map[string]bool // made
	step func()
	err  error
}

func (w *writer) store(l layout, s *Store) {
	data, err := formatInfo(s.Name, s.Managed)
	w.keep(err)
	w.file(l.info(), data)
	w.file(l.operator(), []byte(s.Operator.token))
	w.dir(l.accountsDir())
	for _, a := range s.Accounts {
		w.file(l.account(a.Name()), []byte(a.token))
		for _, u := range a.Users {
			w.file(l.user(a.Name(), u.Name()), []byte(u.token))
			if u.Creds != nil {
				w.creds(l.creds(a.Name(), u.Name()), u)
			}
		}
	}
	for _, c := range s.Strays {
		w.creds(l.creds(c.Account, c.Name), c.User)
	}
	for _, pub := range slices.Sorted(maps.Keys(s.Keys)) {
		seed, err := s.Keys[pub].Seed()
		w.keep(err)
		w.file(l.key(pub), seed) // without a line end, like nsc: it compares bytes
	}
	if creds := filepath.Dir(l.credsDir()); w.dirs[l.keysDir()] || w.dirs[creds] {
		// nsc makes all three with the first key.
		w.dir(l.keysDir())
		w.dir(creds)
		w.file(filepath.Join(l.dirs.Keystore, ignoreFile), []byte(ignore))
	}
}

// ignore is what nsc keeps beside seeds, for whoever has them under git.
const ignore = `# ignore all nk files 
**/*.nk

# ignore all creds files
**/*.creds
`

func (w *writer) creds(path string, u User) {
	seed, err := u.Creds.Seed()
	w.keep(err)
	if w.err != nil {
		return
	}
	data, err := jwt.FormatUserConfig(u.token, seed)
	w.keep(err)
	w.file(path, data)
}

func (w *writer) file(path string, data []byte) {
	w.dir(filepath.Dir(path))
	if w.err != nil {
		return
	}
	w.step()
	w.keep(keystore.WriteSecret(path, data))
}

// dir makes a folder and those above it.
func (w *writer) dir(path string) {
	if w.err != nil || w.dirs[path] {
		return
	}
	w.dir(filepath.Dir(path))
	if w.err != nil {
		return
	}
	w.step()
	if err := os.Mkdir(path, 0o700); err != nil {
		w.keep(err)
		return
	}
	w.dirs[path] = true
}

// sync brings the names of what was made to the disk; its bytes are there.
func (w *writer) sync() {
	for _, path := range slices.Sorted(maps.Keys(w.dirs)) {
		if w.err == nil {
			w.keep(syncDir(path))
		}
	}
}

func (w *writer) keep(err error) {
	if w.err == nil {
		w.err = err
	}
}

func syncDir(path string) error {
	f, err := os.Open(path) // #nosec G304 -- a folder that this package made, or the one above it
	if err != nil {
		return fmt.Errorf("bringing a folder to the disk: %w", err)
	}
	err = errors.Join(f.Sync(), f.Close())
	if err != nil {
		return fmt.Errorf("bringing a folder to the disk: %w", err)
	}
	return nil
}
