package nscstore

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/nats-io/jwt/v2"

	"github.com/herald-nats/herald/pkg/keystore"
)

// Bounds of what is read. A platform of 100,000 accounts with three keys and
// two users each is within them.
const (
	maxFiles = 2_000_000
	maxBytes = 2 << 30
	maxInfo  = 4 << 10
)

// Read reads an operator, by the name of its folder, and its part of the
// keystore, and verifies all of it: that the operator's keys signed the
// operator and the accounts, that the accounts' keys signed the users, that
// seeds belong to the keys they are named by, that only their owner can read
// them, and that nothing else lies there. All that is wrong is reported at
// once: the error is *Problems. Without such an operator it is ErrNoStore.
//
// Expiry is not looked at, and nothing of what the tokens grant.
//
// The two folders may be links, nothing below them. Credentials of other
// operators in the same keystore are not looked at; the seeds are, because
// nothing but the tokens of all operators tells whose they are.
func Read(d Dirs, operator string) (*Store, error) {
	if err := validName(operator); err != nil {
		return nil, fmt.Errorf("the operator's name: %w: %w", ErrNoStore, err)
	}
	r := reader{layout: layout{dirs: d, name: operator}}
	if _, err := os.Lstat(r.info()); err != nil {
		return nil, fmt.Errorf("%s is no folder of an operator: %w: %w", show(r.operatorDir()), ErrNoStore, err)
	}
	s := &Store{Name: operator, Keys: make(map[string]*keystore.Key)}
	r.stores(s)
	if d.Keystore != "" {
		r.users = make(map[[2]string]*User)
		for _, a := range s.Accounts {
			for i := range a.Users {
				r.users[[2]string{a.Name(), a.Users[i].Name()}] = &a.Users[i]
			}
		}
		r.keystore(s)
	}
	s.sorted()
	s.check(r.layout, &r.found)
	if err := r.found.err(); err != nil {
		return nil, err
	}
	return s, nil
}

// reader walks the folders and remembers what is wrong and how much it read.
type reader struct {
	layout
	found Problems
	users map[[2]string]*User // by account and name, once the stores are read
	files int
	bytes int64
	full  bool // a bound was reached
}

func (r *reader) stores(s *Store) {
	for _, e := range r.list(r.operatorDir()) {
		path := filepath.Join(r.operatorDir(), e.Name())
		switch {
		case e.Name() == infoFile:
			if data, ok := r.read(path, e, maxInfo); ok {
				managed, err := parseInfo(data, s.Name)
				r.note(path, err)
				s.Managed = managed
			}
		case path == r.operator():
			if data, ok := r.read(path, e, jwt.MaxTokenSize+2); ok {
				op, err := ParseOperator(string(data))
				r.note(path, err)
				s.Operator = op
			}
		case e.Name() == accountsPart:
			for _, a := range r.folder(path, e) {
				r.account(s, filepath.Join(path, a.Name()), a)
			}
		default:
			r.unexpected(path, e)
		}
	}
	if _, err := os.Lstat(r.operator()); err != nil {
		r.note(r.operator(), fmt.Errorf("the operator's JWT is missing: %w", bare(err)))
	}
}

// account reads one folder of accounts/. What a user's token needs of its
// account is looked at later, when all are read.
func (r *reader) account(s *Store, dir string, e fs.DirEntry) {
	if passed(e.Name()) {
		return
	}
	name := e.Name()
	if !r.note(dir, validName(name)) {
		return
	}
	var acc Account
	entries := r.folder(dir, e)
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		switch {
		case path == r.layout.account(name):
			data, ok := r.read(path, e, jwt.MaxTokenSize+2)
			if !ok {
				continue
			}
			a, err := ParseAccount(string(data))
			if err == nil && a.Name() != name {
				err = fmt.Errorf("it is the JWT of account %.64q: %w", a.Name(), ErrInvalid)
			}
			if r.note(path, err) {
				a.Users = acc.Users
				acc = a
			}
		case e.Name() == usersPart:
			for _, e := range r.folder(path, e) {
				if u, ok := r.user(filepath.Join(path, e.Name()), e); ok {
					acc.Users = append(acc.Users, u)
				}
			}
		default:
			r.unexpected(path, e)
		}
	}
	if !acc.IsZero() {
		s.Accounts = append(s.Accounts, acc)
		return
	}
	if _, err := os.Lstat(r.layout.account(name)); errors.Is(err, fs.ErrNotExist) && len(entries) > 0 {
		r.note(r.layout.account(name), fmt.Errorf("the account's JWT is missing: %w", fs.ErrNotExist))
	}
}

func (r *reader) user(path string, e fs.DirEntry) (User, bool) {
	name, ok := strings.CutSuffix(e.Name(), jwtExt)
	if !ok {
		r.unexpected(path, e)
		return User{}, false
	}
	if !r.note(path, validName(name)) {
		return User{}, false
	}
	data, ok := r.read(path, e, jwt.MaxTokenSize+2)
	if !ok {
		return User{}, false
	}
	u, err := ParseUser(string(data))
	if err == nil && u.Name() != name {
		err = fmt.Errorf("it is the JWT of user %.64q: %w", u.Name(), ErrInvalid)
	}
	return u, r.note(path, err)
}

func (r *reader) keystore(s *Store) {
	var keys, creds, other bool
	for _, e := range r.list(r.dirs.Keystore) {
		path := filepath.Join(r.dirs.Keystore, e.Name())
		switch e.Name() {
		case keysPart:
			keys = true
			for _, e := range r.folder(path, e) {
				r.keys(s, filepath.Join(path, e.Name()), e)
			}
		case credsPart:
			creds = true
			for _, e := range r.folder(path, e) {
				// Those of other operators are theirs.
				if dir := filepath.Join(path, e.Name()); dir == r.credsDir() {
					for _, e := range r.folder(dir, e) {
						r.creds(s, filepath.Join(dir, e.Name()), e)
					}
				}
			}
		default:
			// Stores, the tool's own settings, other operators: the keystore
			// may share its folder with anything but seeds.
			other = other || !passed(e.Name())
			if ext := filepath.Ext(e.Name()); ext == keyExt || ext == credsExt {
				r.unexpected(path, e)
			}
		}
	}
	if !keys && !creds && other {
		r.note(r.dirs.Keystore, fmt.Errorf("the keystore has neither %s nor %s in it (nsc keys migrate makes them of an old one): %w", keysPart, credsPart, ErrInvalid))
	}
}

// keys reads one folder of keys/: those of a kind.
func (r *reader) keys(s *Store, dir string, e fs.DirEntry) {
	kind, ok := kinds()[e.Name()]
	if !ok {
		r.unexpected(dir, e)
		return
	}
	for _, shard := range r.folder(dir, e) {
		sub := filepath.Join(dir, shard.Name())
		if passed(shard.Name()) {
			continue
		}
		for _, e := range r.folder(sub, shard) {
			path := filepath.Join(sub, e.Name())
			pub, ok := strings.CutSuffix(e.Name(), keyExt)
			if is, valid := kindOf(pub); !ok || !valid || is != kind || path != r.key(pub) {
				r.unexpected(path, e)
				continue
			}
			data, ok := r.secret(path, e)
			if !ok {
				continue
			}
			k, err := parseKey(pub, data)
			if r.note(path, err) {
				s.Keys[pub] = k
			}
		}
	}
}

// creds reads one folder of creds/OPERATOR/: those of an account.
func (r *reader) creds(s *Store, dir string, e fs.DirEntry) {
	account := e.Name()
	if passed(account) || !r.note(dir, validName(account)) {
		return
	}
	for _, e := range r.folder(dir, e) {
		path := filepath.Join(dir, e.Name())
		name, ok := strings.CutSuffix(e.Name(), credsExt)
		if !ok {
			r.unexpected(path, e)
			continue
		}
		if !r.note(path, validName(name)) {
			continue
		}
		data, ok := r.secret(path, e)
		if !ok {
			continue
		}
		u, err := parseCreds(data)
		if !r.note(path, err) {
			continue
		}
		if of := r.users[[2]string{account, name}]; of != nil && of.token == u.token {
			of.Creds = u.Creds
			continue
		}
		s.Strays = append(s.Strays, Stray{Account: account, Name: name, User: u})
	}
}

// note remembers a problem, and tells whether there was none.
func (r *reader) note(path string, err error) bool {
	if err != nil {
		r.found.add(path, bare(err))
	}
	return err == nil
}

// bare takes the path off an error of the file system: the problem names it.
func bare(err error) error {
	if pe := (*fs.PathError)(nil); errors.As(err, &pe) {
		return pe.Err
	}
	return err
}

// passed tells what is not nsc's and harmless: people keep stores under git,
// and machines leave traces. A file that nsc would read is never passed over.
func passed(name string) bool {
	switch name {
	case ".git", ignoreFile, ".gitattributes", ".gitkeep", ".DS_Store":
		return true
	}
	return false
}

func (r *reader) unexpected(path string, e fs.DirEntry) {
	if !passed(e.Name()) {
		r.note(path, fmt.Errorf("%s: %w", describe(e.Type()), ErrUnexpected))
	}
}

func describe(m fs.FileMode) string {
	switch {
	case m.IsRegular():
		return "a file"
	case m.IsDir():
		return "a folder"
	case m&fs.ModeSymlink != 0:
		return "a link"
	default:
		return "neither file nor folder"
	}
}

// folder lists a folder that must be one.
func (r *reader) folder(path string, e fs.DirEntry) []fs.DirEntry {
	if !e.IsDir() {
		r.unexpected(path, e)
		return nil
	}
	return r.list(path)
}

// list lists a folder, sorted. One that is not there is empty.
func (r *reader) list(path string) []fs.DirEntry {
	f, err := os.Open(path) // #nosec G304 -- the caller names its own folder
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		r.note(path, err)
		return nil
	}
	defer func() { _ = f.Close() }() // read only: closing cannot lose anything
	var all []fs.DirEntry
	for {
		some, err := f.ReadDir(1024)
		all = append(all, some...)
		if r.files += len(some); r.files > maxFiles {
			r.over(path, fmt.Errorf("more than %d files: %w", maxFiles, ErrTooLarge))
			return nil
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			r.note(path, err)
			return nil
		}
	}
	slices.SortFunc(all, func(a, b fs.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	return all
}

// over remembers once that a bound is reached; all that follows is beyond it.
func (r *reader) over(path string, err error) {
	if !r.full {
		r.full = true
		r.note(path, err)
	}
}

// read reads a file that is no secret.
func (r *reader) read(path string, e fs.DirEntry, most int64) ([]byte, bool) {
	if !e.Type().IsRegular() {
		r.unexpected(path, e)
		return nil, false
	}
	if r.full {
		return nil, false
	}
	data, err := readFile(path, most)
	return r.got(path, data, err)
}

// secret reads a file that only its owner may read.
func (r *reader) secret(path string, e fs.DirEntry) ([]byte, bool) {
	if !e.Type().IsRegular() {
		r.unexpected(path, e)
		return nil, false
	}
	if r.full {
		return nil, false
	}
	data, err := keystore.ReadSecret(path)
	return r.got(path, data, err)
}

func (r *reader) got(path string, data []byte, err error) ([]byte, bool) {
	if r.bytes += int64(len(data)); r.bytes > maxBytes {
		r.over(path, fmt.Errorf("more than %d bytes in all: %w", int64(maxBytes), ErrTooLarge))
		return nil, false
	}
	return data, r.note(path, err)
}

func readFile(path string, most int64) ([]byte, error) {
	// Without waiting at a pipe, and not through a link that came since the
	// folder was listed.
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK|syscall.O_NOFOLLOW, 0) // #nosec G304 -- a file below the folder that the caller named
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // read only: closing cannot lose anything
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s: %w", describe(info.Mode()), ErrUnexpected)
	}
	data, err := io.ReadAll(io.LimitReader(f, most+1))
	if err != nil {
		return nil, err
	}
	if int64(len(data)) > most {
		return nil, fmt.Errorf("more than %d bytes: %w", most, ErrTooLarge)
	}
	return data, nil
}

// info is the file by which nsc knows an operator's folder, with its members
// in the order in which nsc writes them.
type info struct {
	Managed bool   `json:"managed"`
	Name    string `json:"name"`
	Kind    string `json:"kind"`
	Version string `json:"version"`
}

// infoVersion is the one version of the layout that there ever was.
const infoVersion = "1"

func formatInfo(name string, managed bool) ([]byte, error) {
	return json.Marshal(info{Managed: managed, Name: name, Kind: jwt.OperatorClaim, Version: infoVersion})
}

// parseInfo reads a .nsc file and tells whether the operator is managed.
func parseInfo(data []byte, name string) (managed bool, err error) {
	var i info
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(&i); err != nil {
		return false, fmt.Errorf("reading it: %w: %s", ErrInvalid, brief(err.Error()))
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return false, fmt.Errorf("there is something behind it: %w", ErrInvalid)
	}
	switch {
	case i.Kind != jwt.OperatorClaim:
		return false, fmt.Errorf("a store of kind %.32q, not of an operator: %w", i.Kind, ErrInvalid)
	case i.Version != infoVersion:
		return false, fmt.Errorf("a store of version %.32q, not %q: %w", i.Version, infoVersion, ErrInvalid)
	case i.Name != name:
		return false, fmt.Errorf("it is that of operator %.64q, and the folder is that of %.64q: %w", i.Name, name, ErrInvalid)
	}
	return i.Managed, nil
}

// parseKey reads a .nk file: the seed of the public key that it is named by.
func parseKey(pub string, data []byte) (*keystore.Key, error) {
	kind, ok := kindOf(pub)
	if !ok {
		return nil, keystore.ErrKind
	}
	k, err := keystore.Parse(kind, data)
	if err != nil {
		return nil, err
	}
	if k.Public() != pub {
		return nil, fmt.Errorf("it has the seed of another key, %s: %w", k.Public(), ErrInvalid)
	}
	return k, nil
}

// parseCreds reads a creds file: a user JWT and the seed of that user. The
// text around them may be any: nsc had others before.
func parseCreds(data []byte) (User, error) {
	if n := bytes.Count(data, []byte("-----BEGIN ")); n != 2 {
		return User{}, fmt.Errorf("%d blocks instead of a JWT and a seed: %w", n, ErrInvalid)
	}
	token, err := jwt.ParseDecoratedJWT(data)
	if err != nil {
		return User{}, fmt.Errorf("no JWT: %w", ErrInvalid)
	}
	u, err := ParseUser(token)
	if err != nil {
		return User{}, err
	}
	// The errors of these are not shown: they were given a secret.
	pair, err := jwt.ParseDecoratedUserNKey(data)
	if err != nil {
		return User{}, fmt.Errorf("no seed of a user: %w", keystore.ErrKind)
	}
	seed, err := pair.Seed()
	if err != nil {
		return User{}, fmt.Errorf("no seed of a user: %w", keystore.ErrKind)
	}
	if u.Creds, err = keystore.Parse(keystore.User, seed); err != nil {
		return User{}, err
	}
	if u.Creds.Public() != u.Key() {
		return User{}, fmt.Errorf("the seed is that of %s, the JWT that of %s: %w", u.Creds.Public(), u.Key(), ErrInvalid)
	}
	return u, nil
}
