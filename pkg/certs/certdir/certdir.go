// Package certdir keeps the certificate authorities of a platform in a folder, and what
// they issue in the places where it is used. It knows how to make them, to renew what
// is due, and to replace the authorities themselves in stages, while everybody goes on
// trusting each other.
//
// It may be killed at any moment. One small file, state.json, says which authorities sign
// and are trusted; it is replaced as a whole, and all the rest is made to agree with it, by
// the run that changed it or by the next one. The key of an authority that anybody may
// trust is removed in one place alone: where the caller asked to drop it.
//
// It knows no regions, no NATS and no commands; who wants which certificate where is the
// caller's Plan. Keys are readable by their owner alone.
//
// In the folder:
//
//	state.json                         which generation signs, and which one is trusted beside it
//	ca-keys/<generation>/servers.crt   the authority for servers, servers.key its key
//	ca-keys/<generation>/clients.crt   the authority for clients, clients.key its key
package certdir

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/herald-nats/herald/pkg/certs"
	"github.com/herald-nats/herald/pkg/keystore"
)

// Errors that callers tell apart.
var (
	// ErrNone: there is no authority in the folder.
	ErrNone = errors.New("no certificate authority")
	// ErrExists: there is one already, or trusted certificates that are somebody else's.
	ErrExists = errors.New("there is a certificate authority already")
	// ErrBroken: what is in the folder is not what this package writes.
	ErrBroken = errors.New("the certificates' folder is damaged")
	// ErrBusy: another process works on the folder.
	ErrBusy = errors.New("somebody else is changing these certificates")
	// ErrStage: not at this stage of a rotation.
	ErrStage = errors.New("not at this stage")
)

// Stage is how far the replacement of the authorities is.
type Stage string

// The stages, in their order. From each one goes on to the next, and from Trusted and
// Issued also back to the one before.
const (
	// Steady: one generation signs and is trusted.
	Steady Stage = "steady"
	// Trusted: the new generation is trusted beside the old one, which signs.
	Trusted Stage = "trusted"
	// Issued: the new generation signs; the old one is still trusted.
	Issued Stage = "issued"
)

// Plan is what the platform wants: which certificates, and who is told whom to trust.
type Plan struct {
	// Name begins the authorities' names.
	Name    string
	Bundles []Bundle
	Leaves  []Leaf
}

// Bundle is a file with the authorities that its reader trusts.
type Bundle struct {
	Path   string
	Of     certs.Signers
	Public bool // 0644 in a folder of 0755
}

// Leaf is a certificate and its key: Path with ".crt" and with ".key" behind.
type Leaf struct {
	Name    string // for people, such as ams/ams-1/client
	Path    string
	Request certs.Request // its Life is Settings.Leaf
}

// Settings are what the operator decided about authorities and certificates.
type Settings struct {
	Authority time.Duration // how long authorities live; 0 is certs.AuthorityLife
	Leaf      time.Duration // how long certificates live; 0 is certs.LeafLife
	Permit    []string      // the only hosts that authorities may sign for; see certs.Terms
}

// state is state.json.
type state struct {
	Version int    `json:"version"`
	Stage   Stage  `json:"stage"`
	Signing string `json:"signing"`          // the generation that signs
	Beside  string `json:"beside,omitempty"` // the one that is trusted beside it
	// Doing is set while the rest does not agree yet.
	Doing bool `json:"doing,omitempty"`
	// Dropping is the generation whose keys are to be removed then.
	Dropping string   `json:"dropping,omitempty"`
	Settings settings `json:"settings"`
}

type settings struct {
	Authority int64    `json:"authority_seconds"`
	Leaf      int64    `json:"leaf_seconds"`
	Permit    []string `json:"permit,omitempty"`
}

const (
	stateFile    = "state.json"
	stateVersion = 1
	authorities  = "ca-keys" // no region is called so
	making       = ".making" // a generation that nobody has seen yet
)

// Folder is an open folder with authorities. Nobody else changes it until Close. It is for
// one goroutine.
type Folder struct {
	// Each, if not nil, is told of each certificate that was looked at: so many of all.
	Each func(done, all int)

	path    string
	disk    disk
	state   state
	signing generation
	beside  *generation
	release func()
}

// generation is a pair of authorities that are made, trusted and dropped together.
type generation struct {
	id  string
	ofs map[certs.Signers]*certs.Authority
}

// Open opens a folder that Init made: ErrNone if it was not. Whoever opens it must Close.
func Open(path string) (*Folder, error) { return openWith(path, disk{}) }

func openWith(path string, d disk) (*Folder, error) {
	if _, err := os.Stat(filepath.Join(path, stateFile)); errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s: %w", path, ErrNone) // and no lock is left there
	}
	release, err := lock(path)
	if err != nil {
		return nil, err
	}
	f := &Folder{path: path, disk: d, release: release}
	if err := f.load(); err != nil {
		release()
		return nil, err
	}
	return f, nil
}

// Close lets others in.
func (f *Folder) Close() { f.release() }

// Stage is how far the replacement of the authorities is.
func (f *Folder) Stage() Stage { return f.state.Stage }

// Unfinished tells that a change was cut off. The next one finishes it first.
func (f *Folder) Unfinished() bool { return f.state.Doing }

func (f *Folder) load() error {
	data, err := readFile(filepath.Join(f.path, stateFile))
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s: %w", f.path, ErrNone)
	}
	if err != nil {
		return err
	}
	if f.state, err = parseState(data); err != nil {
		return fmt.Errorf("%s: %w", f.path, err)
	}
	if f.signing, err = f.generation(f.state.Signing); err != nil {
		return err
	}
	f.beside = nil
	if f.state.Beside != "" {
		g, err := f.generation(f.state.Beside)
		if err != nil {
			return err
		}
		f.beside = &g
	}
	return nil
}

func parseState(data []byte) (state, error) {
	var s state
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&s); err != nil || dec.More() {
		return state{}, fmt.Errorf("%s cannot be read: %w", stateFile, ErrBroken)
	}
	ok := s.Version == stateVersion && validID(s.Signing) && s.Signing != s.Beside && s.Settings.Authority > 0 && s.Settings.Leaf > 0 &&
		s.Settings.Authority <= int64(maxLife/time.Second) && s.Settings.Leaf <= int64(maxLife/time.Second)
	switch s.Stage {
	case Steady:
		ok = ok && s.Beside == ""
	case Trusted, Issued:
		ok = ok && validID(s.Beside)
	default:
		ok = false
	}
	if s.Dropping != "" {
		ok = ok && s.Doing && validID(s.Dropping) && s.Dropping != s.Signing && s.Dropping != s.Beside
	}
	if !ok {
		return state{}, fmt.Errorf("%s is not of version %d, or says what cannot be: %w", stateFile, stateVersion, ErrBroken)
	}
	return s, nil
}

// maxLife is the longest life of anything: X.509 ends with the year 9999, and mistakes
// begin long before.
const maxLife = 100 * 365 * 24 * time.Hour

// validID tells whether s is the name of a generation: a date and a number. It becomes a
// folder.
func validID(s string) bool {
	date, n, ok := cutLast(s, "-")
	if !ok {
		return false
	}
	if _, err := time.Parse(time.DateOnly, date); err != nil {
		return false
	}
	i, err := strconv.Atoi(n)
	return err == nil && i > 0 && strconv.Itoa(i) == n
}

func cutLast(s, sep string) (before, after string, ok bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+len(sep):], true
}

// commit makes s the state. What is done before it counts for nothing if it does not
// happen, and what is to be done after it is done by the next run.
func (f *Folder) commit(s state) error {
	data, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return fmt.Errorf("writing %s: %w", stateFile, err)
	}
	if err := f.disk.replace(filepath.Join(f.path, stateFile), append(data, '\n'), 0o600); err != nil {
		return err
	}
	return f.load()
}

func (f *Folder) generation(id string) (generation, error) {
	g := generation{id: id, ofs: map[certs.Signers]*certs.Authority{}}
	for _, of := range []certs.Signers{certs.ForServers, certs.ForClients} {
		path := filepath.Join(f.path, authorities, id, string(of))
		cert, err := readFile(path + ".crt")
		if err != nil {
			return g, fmt.Errorf("%w: %w", ErrBroken, err)
		}
		key, err := keystore.ReadSecret(path + ".key")
		if err != nil {
			return g, fmt.Errorf("%w: %w", ErrBroken, err)
		}
		a, err := certs.ParseAuthority(cert, key)
		if err == nil && a.For() != of {
			err = fmt.Errorf("it is an authority for %s", a.For())
		}
		if err != nil {
			return g, fmt.Errorf("%s: %w: %w", path, ErrBroken, err)
		}
		g.ofs[of] = a
	}
	return g, nil
}

// found are the generations in the folder, whoever made them.
func (f *Folder) found() ([]string, error) {
	entries, err := os.ReadDir(filepath.Join(f.path, authorities))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading the authorities: %w", err)
	}
	var ids []string
	for _, e := range entries {
		if e.IsDir() && validID(e.Name()) {
			ids = append(ids, e.Name())
		}
	}
	return ids, nil
}

// prepare gives a generation that is in nobody's hands: one that a killed run has made and
// not put to use, or a new one. It is all there or not at all.
func (f *Folder) prepare(name string, set settings, now time.Time) (string, error) {
	ids, err := f.found()
	if err != nil {
		return "", err
	}
	var spare []string
	for _, id := range ids {
		if id != f.state.Signing && id != f.state.Beside {
			spare = append(spare, id)
		}
	}
	if len(spare) == 1 {
		if g, err := f.generation(spare[0]); err == nil && g.fits(name, set, now) {
			return spare[0], nil
		}
	}
	id := ""
	for n := 1; id == "" || slices.Contains(ids, id); n++ {
		id = now.UTC().Format(time.DateOnly) + "-" + strconv.Itoa(n)
	}
	all := filepath.Join(f.path, authorities)
	if err := f.disk.folder(all, 0o700); err != nil {
		return "", err
	}
	stage := filepath.Join(all, making)
	if err := f.clear(stage); err != nil {
		return "", err
	}
	if err := f.disk.folder(stage, 0o700); err != nil {
		return "", err
	}
	for _, of := range []certs.Signers{certs.ForServers, certs.ForClients} {
		terms := certs.Terms{Name: authorityName(name, of, id), For: of, Life: time.Duration(set.Authority) * time.Second}
		if of == certs.ForServers {
			terms.Permit = set.Permit // certificates of clients name no hosts
		}
		a, err := certs.NewAuthority(terms, now)
		if err != nil {
			return "", err
		}
		key, err := a.KeyPEM()
		if err != nil {
			return "", err
		}
		path := filepath.Join(stage, string(of))
		if err := errors.Join(f.disk.write(path+".key", key, 0o600), f.disk.write(path+".crt", a.CertificatePEM(), 0o600)); err != nil {
			return "", err
		}
	}
	if err := f.disk.sync(stage); err != nil {
		return "", err
	}
	if err := f.disk.rename(stage, filepath.Join(all, id)); err != nil {
		return "", err
	}
	return id, f.disk.sync(all)
}

func authorityName(name string, of certs.Signers, id string) string {
	return name + " " + string(of) + " " + id
}

// fits tells whether a spare generation is what a new one would be.
func (g generation) fits(name string, set settings, now time.Time) bool {
	a := g.ofs[certs.ForServers].Certificate()
	bound, err := certs.NewAuthority(certs.Terms{Name: name, For: certs.ForServers, Permit: set.Permit}, now)
	return err == nil && a.Name() == authorityName(name, certs.ForServers, g.id) && !a.Due(now) &&
		slices.Equal(a.Permits(), bound.Certificate().Permits()) &&
		a.NotAfter().Sub(a.NotBefore()) == time.Duration(set.Authority)*time.Second+certs.Backdate
}

// clear removes a folder of files.
func (f *Folder) clear(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("removing %s: %w", dir, err)
	}
	for _, e := range entries {
		if err := f.disk.remove(filepath.Join(dir, e.Name())); err != nil {
			return err
		}
	}
	if err := f.disk.remove(dir); err != nil {
		return err
	}
	return f.disk.sync(filepath.Dir(dir))
}

// trusted are the authorities that are to be trusted, the older first, so that a bundle
// with the same authorities has the same bytes whoever signs.
func (f *Folder) trusted(of certs.Signers) certs.Bundle {
	all := []generation{f.signing}
	if f.beside != nil {
		all = append(all, *f.beside)
	}
	slices.SortFunc(all, func(a, b generation) int {
		x, y := a.ofs[of].Certificate(), b.ofs[of].Certificate()
		if c := x.NotBefore().Compare(y.NotBefore()); c != 0 {
			return c
		}
		return strings.Compare(a.id, b.id)
	})
	certificates := make([]certs.Certificate, len(all))
	for i, g := range all {
		certificates[i] = g.ofs[of].Certificate()
	}
	return certs.NewBundle(certificates...)
}
