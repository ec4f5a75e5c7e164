package diskcopy

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
)

// A file is a header and frames.
//
//	header  magic, salt (32), length of what it is about (2), that, a seal of all this
//	frame   length of the rest (4), nonce (12), records, encrypted, tag (16)
//
// Numbers are big-endian. Each file has a key of its own, from the secret and the
// salt. Frames are sealed with random nonces, because a frame that a crash cut off, or
// that did not fit the disk, is followed by another in its place: with counted ones
// two contents would share a nonce, and that breaks GCM. Authenticated beside its
// content is a frame's number and the tag of the one before it, or the header's hash:
// so it opens in no other file and in no other place, nor in its own place behind
// another past than the one that it was written after.
const (
	magic    = "herald ledger copy 1\n"
	saltSize = 32
	tagSize  = 16
	overhead = 12 + tagSize
	maxAbout = 1 << 10
	// maxHeader bounds a header.
	maxHeader = int64(len(magic) + saltSize + 2 + maxAbout + overhead)
	// frameSize is from what size on records are sealed as a frame.
	frameSize = 128 << 10
	// maxPlain bounds a frame: frameSize, and one entry more.
	maxPlain = 1 << 20
)

// keys gives the key of the file with some salt. The secret is behind it, because
// what is printed by mistake must not tell it.
type keys func(salt []byte) (cipher.AEAD, error)

func keysOf(secret []byte) keys {
	secret = bytes.Clone(secret)
	return func(salt []byte) (cipher.AEAD, error) {
		key, err := hkdf.Key(sha256.New, secret, salt, "herald/v1/ledger copy", 32)
		if err != nil {
			return nil, fmt.Errorf("deriving the key of a copy: %w", err)
		}
		block, err := aes.NewCipher(key)
		if err != nil {
			return nil, fmt.Errorf("deriving the key of a copy: %w", err)
		}
		return cipher.NewGCMWithRandomNonce(block)
	}
}

// newHeader gives a header and the chain of the frames behind it.
func newHeader(k keys, salt, about []byte) ([]byte, chain, error) {
	aead, err := k(salt)
	if err != nil {
		return nil, chain{}, err
	}
	head := append([]byte(magic), salt...)
	head = binary.BigEndian.AppendUint16(head, uint16(len(about))) // #nosec G115 -- some 200 bytes
	head = append(head, about...)
	head = aead.Seal(head, nil, nil, head) // #nosec G407 -- this AEAD makes its nonces itself
	return head, chainOf(aead, head), nil
}

// errShort: there is the beginning of something and not all of it.
var errShort = errors.New("it ends too early")

// readHeader reads a header that must be about what is given. errShort, ErrForeign.
func readHeader(k keys, about, data []byte) (size int, c chain, err error) {
	const fixed = len(magic) + saltSize + 2
	if n := min(len(data), len(magic)); string(data[:n]) != magic[:n] {
		return 0, c, fmt.Errorf("it begins with %.24q: %w", data[:n], ErrForeign)
	}
	if len(data) < fixed {
		return 0, c, errShort
	}
	length := int(binary.BigEndian.Uint16(data[fixed-2:]))
	if length > maxAbout {
		return 0, c, fmt.Errorf("its header is out of shape: %w", ErrForeign)
	}
	size = fixed + length + overhead
	if len(data) < size {
		return 0, c, errShort
	}
	sealed := data[:fixed+length]
	if err := sameAs(about, sealed[fixed:]); err != nil {
		return 0, c, err
	}
	aead, err := k(sealed[len(magic) : fixed-2])
	if err != nil {
		return 0, c, err
	}
	if _, err := aead.Open(nil, nil, data[len(sealed):size], sealed); err != nil {
		return 0, c, fmt.Errorf("it is sealed with another secret, or its header was altered: %w", ErrForeign)
	}
	return size, chainOf(aead, data[:size]), nil
}

// chain is the place of the next frame.
type chain struct {
	aead cipher.AEAD
	prev [tagSize]byte
	n    uint64
}

func chainOf(aead cipher.AEAD, head []byte) chain {
	c := chain{aead: aead}
	sum := sha256.Sum256(head)
	copy(c.prev[:], sum[:])
	return c
}

func (c *chain) place() []byte {
	return binary.BigEndian.AppendUint64(c.prev[:tagSize:tagSize], c.n)
}

func (c *chain) passed(box []byte) {
	copy(c.prev[:], box[len(box)-tagSize:])
	c.n++
}

// seal appends the next frame to dst.
func (c *chain) seal(dst, plain []byte) []byte {
	dst = binary.BigEndian.AppendUint32(dst, uint32(len(plain)+overhead)) // #nosec G115 -- bounded by maxPlain
	dst = c.aead.Seal(dst, nil, plain, c.place())                         // #nosec G407 -- this AEAD makes its nonces itself
	c.passed(dst)
	return dst
}

// next reads and opens the next frame of r, of which left bytes are left, and tells
// its size; buf is to be written over. io.EOF at the end; errShort if a write was not
// finished here; ErrDamaged.
func (c *chain) next(r io.Reader, left int64, buf []byte) (plain []byte, size int64, err error) {
	if left == 0 {
		return nil, 0, io.EOF
	}
	var head [4]byte
	if left < int64(len(head)) {
		return nil, 0, errShort
	}
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, 0, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	length := int64(binary.BigEndian.Uint32(head[:]))
	size = int64(len(head)) + length
	switch {
	case length == 0 && onlyZeros(r):
		return nil, 0, errShort // the file had grown, and its content was not written
	case length <= overhead || length > maxPlain+overhead:
		return nil, 0, fmt.Errorf("%w: a frame of %d bytes", ErrDamaged, length)
	case size > left:
		return nil, 0, errShort
	}
	box := slices.Grow(buf[:0], int(length))[:length]
	if _, err := io.ReadFull(r, box); err != nil {
		return nil, 0, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	after := *c
	after.passed(box) // as it is before it is opened in its place
	plain, err = c.aead.Open(box[:0], nil, box, c.place())
	if err != nil {
		return nil, 0, fmt.Errorf("%w: frame %d was not sealed to be here", ErrDamaged, c.n)
	}
	*c = after
	return plain, size, nil
}

func onlyZeros(r io.Reader) bool {
	var b [4 << 10]byte
	for {
		n, err := r.Read(b[:])
		if len(bytes.Trim(b[:n], "\x00")) > 0 {
			return false
		}
		if err != nil {
			return errors.Is(err, io.EOF)
		}
	}
}
