package certdir

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/herald-nats/herald/pkg/certs"
	"github.com/herald-nats/herald/pkg/keystore"
)

// Reason is why a certificate is to be issued anew.
type Reason string

// The reasons.
const (
	Good    Reason = ""          // it is what it should be
	Missing Reason = "missing"   // there is none
	Damaged Reason = "damaged"   // certificate and key cannot be read, or are not a pair
	Foreign Reason = "authority" // another authority signed it than the one that signs now
	Moved   Reason = "hosts"     // it is for other hosts
	Misused Reason = "purpose"   // it is for another purpose
	Renamed Reason = "name"      // it is somebody else's
	Due     Reason = "due"       // two thirds of its life have passed
	Wished  Reason = "asked"     // it is good, and was asked for all the same
)

func (l Leaf) crt() string { return l.Path + ".crt" }
func (l Leaf) key() string { return l.Path + ".key" }

// look tells whether a certificate is as it should be, and which one is there. A key that
// others can read is an error, keystore.ErrExposed.
func (f *Folder) look(l Leaf, now time.Time) (Reason, certs.Certificate, error) {
	c, why, err := read(l)
	if err != nil || why != Good {
		return why, c, err
	}
	signing := f.signing.ofs[l.Request.Purpose.Signers()]
	if signing == nil {
		return "", c, fmt.Errorf("%s: purpose %.20q: %w", l.Name, l.Request.Purpose, certs.ErrPurpose)
	}
	hosts, err := certs.Hosts(l.Request.Hosts)
	switch {
	case err != nil:
		return "", c, fmt.Errorf("%s: %w", l.Name, err)
	case !c.IssuedBy(signing.Certificate()):
		return Foreign, c, nil
	case c.Purpose() != l.Request.Purpose:
		return Misused, c, nil
	case c.Name() != certs.CommonName(l.Request.Name):
		return Renamed, c, nil
	case !slices.Equal(c.Hosts(), hosts):
		return Moved, c, nil
	case c.Due(now):
		return Due, c, nil
	}
	return Good, c, nil
}

// read reads a certificate and sees that its key belongs to it.
func read(l Leaf) (certs.Certificate, Reason, error) {
	crt, err := readFile(l.crt())
	key, kerr := keystore.ReadSecret(l.key())
	none := certs.Certificate{}
	switch {
	case errors.Is(err, fs.ErrNotExist) && errors.Is(kerr, fs.ErrNotExist):
		return none, Missing, nil
	case errors.Is(err, fs.ErrNotExist) || errors.Is(kerr, fs.ErrNotExist):
		return none, Damaged, nil
	case err != nil || kerr != nil:
		return none, "", errors.Join(err, kerr)
	}
	all, err := certs.Parse(crt)
	if err != nil {
		return none, Damaged, nil
	}
	if _, err := certs.ParsePair(crt, key); err != nil {
		return none, Damaged, nil
	}
	return all[0], Good, nil
}

// issue issues a certificate unless it is good.
func (f *Folder) issue(l Leaf, why Reason, now time.Time, r *Report) error {
	if why == Good {
		r.Kept++
		return nil
	}
	q := l.Request
	q.Life = time.Duration(f.state.Settings.Leaf) * time.Second
	a := f.signing.ofs[q.Purpose.Signers()]
	if a == nil {
		return fmt.Errorf("%s: purpose %.20q: %w", l.Name, q.Purpose, certs.ErrPurpose)
	}
	pair, err := a.Issue(q, now)
	if err != nil {
		return err
	}
	if err := f.put(l, pair); err != nil {
		return err
	}
	c, bad, err := read(l)
	if err != nil || bad != Good {
		return errors.Join(fmt.Errorf("%s was written and is %s: %w", l.crt(), bad, ErrBroken), err)
	}
	r.Issued = append(r.Issued, Made{l, why, c})
	return nil
}

// put replaces a certificate and its key, which are two files. Both are on the disk before
// either gets its name, so that settle can finish it.
func (f *Folder) put(l Leaf, p certs.Pair) error {
	dir := filepath.Dir(l.Path)
	if err := f.disk.folder(dir, 0o700); err != nil {
		return err
	}
	for _, step := range []func() error{
		func() error { return f.disk.write(l.key()+unfinished, p.KeyPEM(), 0o600) },
		func() error { return f.disk.write(l.crt()+unfinished, p.CertificatePEM(), 0o600) },
		func() error { return f.disk.sync(dir) },
		func() error { return f.disk.rename(l.crt()+unfinished, l.crt()) },
		func() error { return f.disk.rename(l.key()+unfinished, l.key()) },
		func() error { return f.disk.sync(dir) },
	} {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// settle ends a put that was cut off: where one of the two files has its name already the
// other one gets its own, because only together are they of use; otherwise the new ones go.
func (f *Folder) settle(l Leaf) error {
	crt, key := l.crt(), l.key()
	if !there(crt+unfinished) && !there(key+unfinished) {
		return nil
	}
	switch {
	case pair(crt, key):
	case pair(crt, key+unfinished):
		if err := f.disk.finish(key); err != nil {
			return err
		}
	case pair(crt+unfinished, key):
		if err := f.disk.finish(crt); err != nil {
			return err
		}
	}
	return errors.Join(f.disk.remove(crt+unfinished), f.disk.remove(key+unfinished))
}

func there(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

func pair(crt, key string) bool {
	c, err := readFile(crt)
	if err != nil {
		return false
	}
	k, err := keystore.ReadSecret(key)
	if err != nil {
		return false
	}
	_, err = certs.ParsePair(c, k)
	return err == nil
}

// ReadPair reads a certificate and its key as PEM, for whoever brings them to a server.
// Those that are not there wrap fs.ErrNotExist, those that do not belong together
// ErrBroken.
func ReadPair(path string) (certificate, key []byte, err error) {
	l := Leaf{Path: path}
	if certificate, err = readFile(l.crt()); err != nil {
		return nil, nil, err
	}
	if key, err = keystore.ReadSecret(l.key()); err != nil {
		return nil, nil, err
	}
	if _, err := certs.ParsePair(certificate, key); err != nil {
		return nil, nil, fmt.Errorf("%s: %w: %w", l.crt(), ErrBroken, err)
	}
	return certificate, key, nil
}
