package ledger

import (
	"bytes"

	"github.com/herald-nats/herald/pkg/ident"
)

// nameTable is a hash table of names that only grows. A Go map would do, but a
// look-up among a million is a few times to the memory and little else: here it is
// once to the slots and once to the row, which has the name in it.
type nameTable struct {
	// slots is open addressing with linear probing: the hash in the upper half, the
	// row's number plus one in the lower. 0 is free. A power of two, at most 3/4 full.
	slots []uint64
	rows  [][]nameRow // in chunks, so that growing moves no row
	n     int
}

// nameRow fills two lines of a processor's cache, and starts where one starts: a chunk
// is as large as what the allocator aligns to pages.
type nameRow struct {
	text nameText
	name
	_ [8]byte
}

const rowsPerChunk = 1 << 8

// nameText is a name as its bytes and zeros, which no name has.
type nameText [maxName]byte

// maxName is how long a name can be.
const maxName = 32

func textOf(n ident.Name) (t nameText) {
	copy(t[:], n.String())
	return t
}

func (t *nameText) name() ident.Name {
	n, _ := ident.ParseName(string(bytes.TrimRight(t[:], "\x00"))) // it was made of a name
	return n
}

// find gives the row of a name, nil if there is none. It is the caller's lock that
// makes what it gives last.
func (t *nameTable) find(hash uint32, n ident.Name) *name {
	if t.n == 0 {
		return nil
	}
	text := textOf(n)
	mask := len(t.slots) - 1
	for i := int(hash) & mask; ; i = (i + 1) & mask {
		s := t.slots[i]
		if s == 0 {
			return nil
		}
		if uint32(s>>32) == hash {
			if r := t.row(s); r.text == text {
				return &r.name
			}
		}
	}
}

func (t *nameTable) row(slot uint64) *nameRow {
	i := int(uint32(slot)) - 1 // #nosec G115 -- the lower half
	return &t.rows[i/rowsPerChunk][i%rowsPerChunk]
}

// add adds a name that is not there.
func (t *nameTable) add(hash uint32, n ident.Name, e name) {
	if 4*(t.n+1) > 3*len(t.slots) {
		t.grow()
	}
	if t.n%rowsPerChunk == 0 {
		t.rows = append(t.rows, make([]nameRow, rowsPerChunk))
	}
	t.rows[t.n/rowsPerChunk][t.n%rowsPerChunk] = nameRow{text: textOf(n), name: e}
	t.n++
	t.put(uint64(hash)<<32 | uint64(t.n)) // #nosec G115 -- positive
}

func (t *nameTable) put(slot uint64) {
	mask := len(t.slots) - 1
	i := int(slot>>32) & mask // #nosec G115 -- the upper half
	for t.slots[i] != 0 {
		i = (i + 1) & mask
	}
	t.slots[i] = slot
}

func (t *nameTable) grow() {
	old := t.slots
	t.slots = make([]uint64, max(16, 2*len(old)))
	for _, s := range old {
		if s != 0 {
			t.put(s)
		}
	}
}

// all calls f with every row.
func (t *nameTable) all(f func(*nameRow)) {
	for i := range t.n {
		f(&t.rows[i/rowsPerChunk][i%rowsPerChunk])
	}
}
