// Package spool keeps blocks of records on a disk while they cannot be stored. Its files
// hold no secret: blocks are signed, and say what the log says too. They are readable by
// the service's user alone all the same, because they say who was where.
package spool

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/herald-nats/herald/pkg/audit"
)

const (
	// File holds the blocks, each behind its length in four bytes.
	File = "audit.spool"
	// LastFile names the last that was made, stored or not.
	LastFile = "audit.last"
	// Most bounds the file, in bytes: some 100,000 records.
	Most = 64 << 20

	header = 4
	mode   = 0o600
)

// ErrInUse: another process has the folder's spool.
var ErrInUse = errors.New("another process keeps its records in this folder")

// Spool implements audit.Buffer in a folder. One process uses it at a time: the file is
// locked until it is closed, also by the end of the process.
type Spool struct {
	dir    string
	f      *os.File
	most   int64
	blocks []block // those that wait, oldest first
	end    int64   // of the last one
	last   audit.Ref
}

type block struct{ at, length int64 }

var _ audit.Buffer = (*Spool)(nil)

// Open opens the spool of a folder, which it makes if need be. What a crash cut off at the
// end is removed: it was never said to be on disk.
func Open(dir string, most int64) (*Spool, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("making the folder of the spool: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(dir, File), os.O_RDWR|os.O_CREATE, mode) // #nosec G304 -- a fixed name in the service's own folder
	if err != nil {
		return nil, fmt.Errorf("opening the spool: %w", err)
	}
	if err := lock(f); err != nil {
		return nil, errors.Join(fmt.Errorf("opening the spool in %s: %w", dir, err), f.Close())
	}
	s := &Spool{dir: dir, f: f, most: most}
	if err := s.scan(); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	s.readLast()
	return s, nil
}

func lock(f *os.File) error {
	err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) // #nosec G115 -- a descriptor is small
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return ErrInUse
	}
	return err
}

// scan finds what is in the file.
func (s *Spool) scan() error {
	info, err := s.f.Stat()
	if err != nil {
		return fmt.Errorf("reading the spool: %w", err)
	}
	var h [header]byte
	for s.end+header <= info.Size() {
		if _, err := s.f.ReadAt(h[:], s.end); err != nil {
			return fmt.Errorf("reading the spool: %w", err)
		}
		length := int64(binary.BigEndian.Uint32(h[:]))
		if length == 0 || length > audit.MaxBlock || s.end+header+length > info.Size() {
			break
		}
		s.blocks = append(s.blocks, block{s.end + header, length})
		s.end += header + length
	}
	if s.end == info.Size() {
		return nil
	}
	if err := s.f.Truncate(s.end); err != nil {
		return fmt.Errorf("cutting off the end of the spool: %w", err)
	}
	return nil
}

// readLast reads what SetLast kept. Where that is not there, or is damaged, nothing is
// known: the next chain then names none before it.
func (s *Spool) readLast() {
	data, err := os.ReadFile(filepath.Join(s.dir, LastFile))
	if err != nil || json.Unmarshal(data, &s.last) != nil {
		s.last = audit.Ref{}
	}
}

// Room implements audit.Buffer.
func (s *Spool) Room(bytes int) bool { return s.end+header+int64(bytes) <= s.most }

// Add implements audit.Buffer.
func (s *Spool) Add(data []byte) error {
	if len(data) == 0 || len(data) > audit.MaxBlock {
		return fmt.Errorf("a block of %d bytes: %w", len(data), audit.ErrDamaged)
	}
	framed := binary.BigEndian.AppendUint32(make([]byte, 0, header+len(data)), uint32(len(data))) // #nosec G115 -- at most MaxBlock
	framed = append(framed, data...)
	_, err := s.f.WriteAt(framed, s.end)
	if err == nil {
		err = s.f.Sync()
	}
	if err != nil {
		// What is half there is written over by the next, or cut off at the next start.
		return errors.Join(fmt.Errorf("writing to the spool: %w", err), s.f.Truncate(s.end))
	}
	s.blocks = append(s.blocks, block{s.end + header, int64(len(data))})
	s.end += int64(len(framed))
	return nil
}

// First implements audit.Buffer.
func (s *Spool) First() ([]byte, error) {
	if len(s.blocks) == 0 {
		return nil, nil
	}
	return s.read(s.blocks[0])
}

func (s *Spool) read(b block) ([]byte, error) {
	data := make([]byte, b.length)
	if _, err := s.f.ReadAt(data, b.at); err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("reading the spool: %w", err)
	}
	return data, nil
}

// Forget implements audit.Buffer. The file shrinks once nothing waits.
func (s *Spool) Forget() error {
	if len(s.blocks) == 0 {
		return nil
	}
	s.blocks = s.blocks[1:]
	if len(s.blocks) > 0 {
		return nil
	}
	s.end = 0
	if err := s.f.Truncate(0); err != nil {
		return fmt.Errorf("emptying the spool: %w", err)
	}
	return nil
}

// Each implements audit.Buffer.
func (s *Spool) Each(f func([]byte)) error {
	for _, b := range s.blocks {
		data, err := s.read(b)
		if err != nil {
			return err
		}
		f(data)
	}
	return nil
}

// Len implements audit.Buffer.
func (s *Spool) Len() int { return len(s.blocks) }

// Last implements audit.Buffer.
func (s *Spool) Last() (audit.Ref, bool) { return s.last, s.last.N > 0 }

// SetLast implements audit.Buffer.
func (s *Spool) SetLast(r audit.Ref) error {
	data, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("encoding how far the chain is: %w", err)
	}
	path := filepath.Join(s.dir, LastFile)
	// Not synced: after a power failure an older one holds, or none, which claims less.
	if err := os.WriteFile(path+".new", data, mode); err != nil {
		return fmt.Errorf("keeping how far the chain is: %w", err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		return fmt.Errorf("keeping how far the chain is: %w", err)
	}
	s.last = r
	return nil
}

// Close closes the file; what waits stays in it.
func (s *Spool) Close() error {
	if err := s.f.Close(); err != nil && !errors.Is(err, fs.ErrClosed) {
		return fmt.Errorf("closing the spool: %w", err)
	}
	return nil
}
