package nscstore

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Names of nsc's files and folders.
const (
	infoFile     = ".nsc"
	accountsPart = "accounts"
	usersPart    = "users"
	keysPart     = "keys"
	credsPart    = "creds"
	storesPart   = "stores"
	jwtExt       = ".jwt"
	keyExt       = ".nk"
	credsExt     = ".creds"
	ignoreFile   = ".gitignore"
)

// Dirs are the two folders that nsc works with.
type Dirs struct {
	// Stores has a folder for each operator: what `nsc --data-dir` names.
	Stores string
	// Keystore has keys/ and creds/ in it: what `nsc --keystore-dir` or
	// $NKEYS_PATH names. Empty where there are no seeds at all.
	Keystore string
}

// Form is how the two folders lie in one.
type Form int

// The forms that Write makes. Locate finds others, too.
const (
	// Plain has stores/, keys/ and creds/ side by side. nsc works on it with
	// `--data-dir DIR/stores --keystore-dir DIR`.
	Plain Form = iota
	// Home is the data folder of nsc, $XDG_DATA_HOME/nats/nsc: it has stores/
	// and, one level deeper, keys/keys/ and keys/creds/.
	Home
)

// In is where the two folders of a form are below dir.
func (f Form) In(dir string) Dirs {
	d := Dirs{Stores: filepath.Join(dir, storesPart), Keystore: dir}
	if f == Home {
		d.Keystore = filepath.Join(dir, keysPart)
	}
	return d
}

// Locate finds the two folders below dir, in any of the forms that nsc has or
// had: that of its data folder (stores/ and keys/keys/), of `--all-dirs` (the
// operators' folders beside keys/ and creds/), of `nsc fix` (operators/ and
// keys/keys/), of ~/.nsc (nats/, with the keys in ~/.nkeys), and Plain.
// Where there is none, or more than one, the error is ErrNoStore.
func Locate(dir string) (Dirs, error) {
	if _, err := os.Stat(dir); err != nil {
		return Dirs{}, fmt.Errorf("looking for a store of nsc: %w", err)
	}
	var stores []string
	for _, part := range []string{storesPart, "operators", "nats", "."} {
		path := filepath.Join(dir, part)
		names, err := Operators(Dirs{Stores: path})
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return Dirs{}, err
		}
		if len(names) > 0 {
			stores = append(stores, path)
		}
	}
	switch len(stores) {
	case 1:
	case 0:
		return Dirs{}, fmt.Errorf("%s has no folder of an operator, with a file %s: %w", show(dir), infoFile, ErrNoStore)
	default:
		return Dirs{}, fmt.Errorf("%s has operators in %s: %w: say which folder is meant", show(dir), show(strings.Join(stores, " and in ")), ErrNoStore)
	}
	keys, err := locateKeys(dir)
	return Dirs{Stores: stores[0], Keystore: keys}, err
}

// locateKeys finds the keystore that belongs to the stores of dir; "" for none.
func locateKeys(dir string) (string, error) {
	deep, plain := filepath.Join(dir, keysPart), false
	for kind := range kinds() {
		plain = plain || isDir(filepath.Join(dir, keysPart, kind))
	}
	plain = plain || isDir(filepath.Join(dir, credsPart))
	isDeep := isDir(filepath.Join(deep, keysPart)) || isDir(filepath.Join(deep, credsPart))
	old := filepath.Join(filepath.Dir(filepath.Clean(dir)), ".nkeys")
	switch {
	case plain && isDeep:
		return "", fmt.Errorf("%s has a keystore, and %s is one: %w: say which is meant", show(dir), show(deep), ErrNoStore)
	case plain:
		return dir, nil
	case isDir(deep):
		return deep, nil
	case filepath.Base(filepath.Clean(dir)) == ".nsc" && isDir(old):
		return old, nil
	default:
		return "", nil
	}
}

func isDir(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}

// Operators are the names of the operators in a folder of stores, sorted: of
// its folders those that have the file by which nsc knows them.
func Operators(d Dirs) ([]string, error) {
	var r reader
	var names []string
	for _, e := range r.list(d.Stores) {
		if _, err := os.Lstat(filepath.Join(d.Stores, e.Name(), infoFile)); err == nil {
			names = append(names, e.Name())
		}
	}
	if err := r.found.err(); err != nil {
		return nil, err
	}
	if r.files == 0 {
		if _, err := os.Stat(d.Stores); err != nil {
			return nil, fmt.Errorf("looking for operators: %w", err)
		}
	}
	slices.Sort(names)
	return names, nil
}

// layout is where the files of one operator are.
type layout struct {
	dirs Dirs
	name string
}

func (l layout) operatorDir() string { return filepath.Join(l.dirs.Stores, l.name) }
func (l layout) info() string        { return filepath.Join(l.operatorDir(), infoFile) }
func (l layout) operator() string    { return filepath.Join(l.operatorDir(), l.name+jwtExt) }
func (l layout) accountsDir() string { return filepath.Join(l.operatorDir(), accountsPart) }
func (l layout) keysDir() string     { return filepath.Join(l.dirs.Keystore, keysPart) }
func (l layout) credsDir() string    { return filepath.Join(l.dirs.Keystore, credsPart, l.name) }

func (l layout) account(name string) string {
	return filepath.Join(l.accountsDir(), name, name+jwtExt)
}

func (l layout) user(account, name string) string {
	return filepath.Join(l.accountsDir(), account, usersPart, name+jwtExt)
}

func (l layout) creds(account, name string) string {
	return filepath.Join(l.credsDir(), account, name+credsExt)
}

// key is where the seed of a public key lies: keys/A/BC/ABC….nk.
func (l layout) key(pub string) string {
	return filepath.Join(l.keysDir(), pub[:1], pub[1:3], pub+keyExt)
}
