package diskcopy

import (
	"encoding/binary"
	"errors"
)

// Faults say what goes wrong on a disk. Each may be nil.
type Faults struct {
	Write    func(n int) (int, error) // how much of n bytes is written
	Sync     func() error
	Truncate func() error
	Read     func(off int64, n int) error
	Rename   func() error
	SyncDir  func() error
}

// OpenWith is Open on a disk with faults.
func OpenWith(path string, secret []byte, about About, f *Faults) (*Copy, error) {
	return open(path, secret, about, faulty{osDisk{}, f})
}

type faulty struct {
	disk
	f *Faults
}

type faultyFile struct {
	file
	f *Faults
}

func (d faulty) open(path string) (file, bool, error) {
	f, w, err := d.disk.open(path)
	if err != nil {
		return nil, false, err
	}
	return faultyFile{f, d.f}, w, nil
}

func (d faulty) create(path string) (file, error) {
	f, err := d.disk.create(path)
	if err != nil {
		return nil, err
	}
	return faultyFile{f, d.f}, nil
}

func (d faulty) rename(from, to string) error {
	if d.f.Rename != nil {
		if err := d.f.Rename(); err != nil {
			return err
		}
	}
	return d.disk.rename(from, to)
}

func (d faulty) syncDir(dir string) error {
	if d.f.SyncDir != nil {
		if err := d.f.SyncDir(); err != nil {
			return err
		}
	}
	return d.disk.syncDir(dir)
}

func (f faultyFile) WriteAt(b []byte, off int64) (int, error) {
	if f.f.Write == nil {
		return f.file.WriteAt(b, off)
	}
	n, err := f.f.Write(len(b))
	m, werr := f.file.WriteAt(b[:n], off)
	return m, errors.Join(err, werr)
}

func (f faultyFile) ReadAt(b []byte, off int64) (int, error) {
	if f.f.Read != nil {
		if err := f.f.Read(off, len(b)); err != nil {
			return 0, err
		}
	}
	return f.file.ReadAt(b, off)
}

func (f faultyFile) Sync() error {
	if f.f.Sync != nil {
		if err := f.f.Sync(); err != nil {
			return err
		}
	}
	return f.file.Sync()
}

func (f faultyFile) Truncate(n int64) error {
	if f.f.Truncate != nil {
		if err := f.f.Truncate(); err != nil {
			return err
		}
	}
	return f.file.Truncate(n)
}

// Frames parts a whole file into its header and its frames.
func Frames(data []byte) (head []byte, frames [][]byte) {
	n := len(magic) + saltSize
	n += 2 + int(binary.BigEndian.Uint16(data[n:])) + overhead
	head, data = data[:n], data[n:]
	for len(data) > 0 {
		n := 4 + int(binary.BigEndian.Uint32(data))
		frames, data = append(frames, data[:n]), data[n:]
	}
	return head, frames
}

// SealedFile is a file with one frame of whatever records.
func SealedFile(secret []byte, about About, plain []byte) []byte {
	head, chain, err := newHeader(keysOf(secret), make([]byte, saltSize), about.text())
	if err != nil {
		panic(err)
	}
	return append(head, chain.seal(nil, plain)...)
}

// Records are the records of a file's frames, opened.
func Records(data, secret []byte, about About) (plain []byte) {
	_, chain, err := readHeader(keysOf(secret), about.text(), data)
	if err != nil {
		panic(err)
	}
	_, frames := Frames(data)
	for _, f := range frames {
		p, err := chain.aead.Open(nil, nil, f[4:], chain.place())
		if err != nil {
			panic(err)
		}
		chain.passed(f)
		plain = append(plain, p...)
	}
	return plain
}
