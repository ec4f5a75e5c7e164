package callout

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"sync"

	"github.com/nats-io/nkeys"
	"golang.org/x/crypto/nacl/box"

	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/keystore"
)

// Key is the callout key, which opens what servers seal to it: passwords are in there. It
// remembers what it has in common with each server's xkey, which takes most of the time that
// opening and sealing take (nkeys computes it each time). It is safe for concurrent use, and
// printing one shows its public half.
type Key struct {
	key    *keystore.Key
	secret func() *[32]byte
	mu     sync.RWMutex
	shared map[ident.SealKey]func() *[32]byte // behind functions, which fmt does not follow
}

// maxServers bounds how many servers' xkeys are remembered.
const maxServers = 4096

// NewKey prepares an xkey; another key is keystore.ErrKind.
func NewKey(key *keystore.Key) (*Key, error) {
	seed, err := key.Seed()
	if err != nil {
		return nil, err
	}
	prefix, raw, err := nkeys.DecodeSeed(seed)
	if err != nil || prefix != nkeys.PrefixByteCurve || len(raw) != 32 {
		return nil, fmt.Errorf("the callout key: %w", keystore.ErrKind)
	}
	secret := [32]byte(raw)
	return &Key{key: key, secret: func() *[32]byte { return &secret }, shared: make(map[ident.SealKey]func() *[32]byte)}, nil
}

// Public is the public half: what servers seal to. Of no key it is empty.
func (k *Key) Public() string {
	if k == nil {
		return ""
	}
	return k.key.Public()
}

// String is the public half.
func (k *Key) String() string { return k.key.Public() }

// with gives what the key has in common with another's.
func (k *Key) with(other ident.SealKey) (*[32]byte, error) {
	k.mu.RLock()
	known := k.shared[other]
	k.mu.RUnlock()
	if known != nil {
		return known(), nil
	}
	raw, err := nkeys.Decode(nkeys.PrefixByteCurve, []byte(other.String()))
	if err != nil || len(raw) != 32 {
		return nil, fmt.Errorf("the xkey of a server: %w", keystore.ErrKind)
	}
	var shared [32]byte
	pub := [32]byte(raw)
	box.Precompute(&shared, &pub, k.secret())
	return &shared, nil
}

// remember keeps it, of a server that showed that it has the other half.
func (k *Key) remember(other ident.SealKey, shared *[32]byte) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.shared[other] != nil {
		return
	}
	if len(k.shared) >= maxServers {
		clear(k.shared) // servers make a new one at each start
	}
	k.shared[other] = func() *[32]byte { return shared }
}

// What is sealed begins with the version and a nonce; nkeys has it so.
const (
	version  = nkeys.XKeyVersionV1
	nonceLen = 24
	headLen  = len(version) + nonceLen
)

// errSealed: it could not be opened.
var errSealed = errors.New("it is not sealed to this callout key")

func (k *Key) open(from ident.SealKey, sealed []byte) ([]byte, error) {
	if len(sealed) <= headLen || !bytes.HasPrefix(sealed, []byte(version)) {
		return nil, fmt.Errorf("%w: it is not sealed", ErrRequest)
	}
	shared, err := k.with(from)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrRequest, err)
	}
	nonce := [nonceLen]byte(sealed[len(version):headLen])
	out, ok := box.OpenAfterPrecomputation(nil, sealed[headLen:], &nonce, shared)
	if !ok {
		return nil, fmt.Errorf("%w: %w", ErrRequest, errSealed)
	}
	k.remember(from, shared)
	return out, nil
}

func (k *Key) seal(to ident.SealKey, body []byte) ([]byte, error) {
	shared, err := k.with(to)
	if err != nil {
		return nil, err
	}
	var nonce [nonceLen]byte
	_, _ = rand.Read(nonce[:]) // never fails, as of Go 1.24
	out := make([]byte, 0, headLen+len(body)+box.Overhead)
	out = append(append(out, version...), nonce[:]...)
	return box.SealAfterPrecomputation(out, body, &nonce, shared), nil
}
