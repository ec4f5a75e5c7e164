// Package keystore is where seeds rest: files that only their owner may read,
// and keys in memory that are ready to sign. It refuses to overwrite a seed
// and to read one that others can read; it never logs or prints one.
package keystore

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/nats-io/nkeys"
)

// Errors that callers tell apart.
var (
	// ErrExposed: the file's mode lets others than its owner read it.
	ErrExposed = errors.New("others can read this secret file")
	// ErrKind: the seed is of another kind than asked for, or no seed at all.
	ErrKind = errors.New("not a seed of the kind that belongs here")
)

// Kind is the kind of a key.
type Kind nkeys.PrefixByte

// The kinds of keys that Herald has.
const (
	Operator = Kind(nkeys.PrefixByteOperator)
	Account  = Kind(nkeys.PrefixByteAccount)
	User     = Kind(nkeys.PrefixByteUser)
	Server   = Kind(nkeys.PrefixByteServer)
	Curve    = Kind(nkeys.PrefixByteCurve)
)

// Key is a private key in memory. Unlike an nkeys.KeyPair it derives its
// signing key once, not at each signature (18 µs instead of 32).
// It is safe for concurrent use; printing one, with any verb, shows its public
// key only: the secrets are behind functions, because fmt follows a pointer where
// the verb does not fit it, also in a field that no String method guards.
type Key struct {
	kind Kind
	pub  string
	priv func() ed25519.PrivateKey // nil for a curve key
	pair func() nkeys.KeyPair
}

// Generate makes a new key from the machine's randomness.
func Generate(kind Kind) (*Key, error) {
	pair, err := nkeys.CreatePair(nkeys.PrefixByte(kind))
	if err != nil {
		return nil, fmt.Errorf("making a key: %w", err)
	}
	return fromPair(kind, pair)
}

// Parse takes an encoded seed ("SU…", "SX…"). The error never holds the seed.
func Parse(kind Kind, seed []byte) (*Key, error) {
	seed = bytes.TrimSpace(seed)
	prefix, raw, err := nkeys.DecodeSeed(seed)
	if err != nil || prefix != nkeys.PrefixByte(kind) {
		return nil, ErrKind
	}
	// One seed has one spelling; nkeys passes over line ends and spare bits.
	if one, err := nkeys.EncodeSeed(prefix, raw); err != nil || !bytes.Equal(one, seed) {
		return nil, ErrKind
	}
	pair, err := nkeys.FromSeed(seed)
	if err != nil {
		return nil, ErrKind
	}
	return fromPair(kind, pair)
}

func fromPair(kind Kind, pair nkeys.KeyPair) (*Key, error) {
	pub, err := pair.PublicKey()
	if err != nil {
		return nil, fmt.Errorf("deriving a public key: %w", err)
	}
	k := &Key{kind: kind, pub: pub, pair: func() nkeys.KeyPair { return pair }}
	if kind != Curve {
		seed, err := pair.Seed()
		if err != nil {
			return nil, fmt.Errorf("deriving a signing key: %w", err)
		}
		_, raw, err := nkeys.DecodeSeed(seed)
		if err != nil {
			return nil, fmt.Errorf("deriving a signing key: %w", err)
		}
		priv := ed25519.NewKeyFromSeed(raw)
		k.priv = func() ed25519.PrivateKey { return priv }
	}
	return k, nil
}

// Public is the encoded public key.
func (k *Key) Public() string { return k.pub }

// String is the public key, so that a key that is printed by mistake tells no secret.
func (k *Key) String() string { return k.pub }

// GoString is String, for %#v.
func (k *Key) GoString() string { return "keystore.Key(" + k.pub + ")" }

// Sign gives the ed25519 signature of data. Curve keys cannot sign.
func (k *Key) Sign(data []byte) ([]byte, error) {
	if k.priv == nil {
		return nil, fmt.Errorf("signing with %s: %w", k.pub, ErrKind)
	}
	return ed25519.Sign(k.priv(), data), nil
}

// AppendSign is Sign that appends to b, for who signs much: the signature needs no memory of
// its own.
func (k *Key) AppendSign(b, data []byte) ([]byte, error) {
	if k.priv == nil {
		return b, fmt.Errorf("signing with %s: %w", k.pub, ErrKind)
	}
	return append(b, ed25519.Sign(k.priv(), data)...), nil
}

// Pair is the key as libraries of NATS want it. Curve keys seal and open with it.
func (k *Key) Pair() nkeys.KeyPair { return k.pair() }

// Seed is the encoded secret. Whoever calls this answers for where it goes.
func (k *Key) Seed() ([]byte, error) {
	seed, err := k.pair().Seed()
	if err != nil {
		return nil, fmt.Errorf("encoding the seed of %s: %w", k.pub, err)
	}
	return seed, nil
}

// Save writes the seed to a file of its own, 0600, in a folder that is made
// 0700 if it is missing. An existing file is never overwritten: the error then
// wraps fs.ErrExist.
func Save(path string, k *Key) error {
	seed, err := k.Seed()
	if err != nil {
		return err
	}
	return WriteSecret(path, append(seed, '\n'))
}

// WriteSecret writes data to a new file, 0600, in a folder that is made 0700
// if it is missing; what was written is on the disk when it returns. An
// existing file is never overwritten (fs.ErrExist), and after an error no file
// is left.
func WriteSecret(path string, data []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("making the folder of a secret: %w", err)
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600) // #nosec G304 -- the caller names its own file
	if err != nil {
		return fmt.Errorf("creating a secret file: %w", err)
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return errors.Join(fmt.Errorf("writing a secret file: %w", err), os.Remove(path))
	}
	return nil
}

// ReplaceSecret is WriteSecret for a file that may exist: a reader sees the
// old content or the new, never a part.
func ReplaceSecret(path string, data []byte) error {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("making the folder of a secret: %w", err)
	}
	f, err := os.CreateTemp(dir, "."+filepath.Base(path)+"-*") // made 0600
	if err != nil {
		return fmt.Errorf("creating a secret file: %w", err)
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("replacing the secret file %s: %w", path, err), os.Remove(f.Name()))
	}
	return nil
}

// maxSecret bounds what is read as a secret: creds files have about 2 KiB.
const maxSecret = 64 << 10

// ReadSecret reads a file that only its owner may read. A mode that lets the
// group or others in is ErrExposed: who could read it may have it already.
func ReadSecret(path string) ([]byte, error) {
	// Without waiting: opening a pipe that nobody writes to would never end.
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0) // #nosec G304 -- the caller names its own file
	if err != nil {
		return nil, fmt.Errorf("opening a secret file: %w", err)
	}
	defer func() { _ = f.Close() }() // read only: closing cannot lose anything
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("reading a secret file: %w", err)
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s: %w", path, fs.ErrInvalid)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("%s has mode %#o: %w", path, info.Mode().Perm(), ErrExposed)
	}
	data, err := io.ReadAll(io.LimitReader(f, maxSecret+1))
	if err != nil {
		return nil, fmt.Errorf("reading a secret file: %w", err)
	}
	if len(data) > maxSecret {
		return nil, fmt.Errorf("%s has more than %d bytes: %w", path, maxSecret, ErrKind)
	}
	return data, nil
}

// Load reads a key that Save wrote.
func Load(path string, kind Kind) (*Key, error) {
	data, err := ReadSecret(path)
	if err != nil {
		return nil, err
	}
	k, err := Parse(kind, data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return k, nil
}

// LoadOrCreate reads a key, or makes and saves a new one where there is none.
// Two processes that do it at once end up with one key.
func LoadOrCreate(path string, kind Kind) (*Key, error) {
	k, err := Load(path, kind)
	if err == nil || !errors.Is(err, fs.ErrNotExist) {
		return k, err
	}
	k, err = Generate(kind)
	if err != nil {
		return nil, err
	}
	// Written beside and linked into place, so that the other process never
	// reads a file that is only half there.
	seed, err := k.Seed()
	if err != nil {
		return nil, err
	}
	tmp := path + "." + k.Public()[1:9]
	if err := WriteSecret(tmp, append(seed, '\n')); err != nil {
		return nil, err
	}
	err = os.Link(tmp, path)
	if rerr := os.Remove(tmp); rerr != nil {
		return nil, fmt.Errorf("making %s: %w", path, rerr)
	}
	switch {
	case errors.Is(err, fs.ErrExist):
		return Load(path, kind)
	case err != nil:
		return nil, fmt.Errorf("making %s: %w", path, err)
	}
	return k, nil
}
