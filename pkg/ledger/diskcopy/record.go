package diskcopy

import (
	"encoding/base32"
	"encoding/binary"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nkeys"

	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/ledger"
)

// Records in a frame: a byte with the kind in its lower half and flags in its upper,
// and then
//
//	name   name, holder, until, rests, version, at, sum (16)
//	entry  key, token
//	mark   written, number of logs, and of each its name and position
//
// Texts have their length before them; all numbers are varints. The nkey of an open or
// invited holder is its bytes and their checksum alone.
const (
	kindName byte = iota + 1
	kindEntry
	kindMark
	kindMask byte = 0x0f

	flagDenies byte = 0x10 // of a name
	flagOpen   byte = 0x20
	flagInvite byte = 0x40

	flagBase   byte = 0x10 // of a mark: what is before it was written at once
	flagPlaced byte = 0x20 // it says how far logs were read
)

// mark says that all before it is known to be complete up to positions.
type mark struct {
	positions map[string]uint64 // nil: it says nothing of them
	written   time.Time
	base      bool
}

func appendName(b []byte, k ledger.KnownName) []byte {
	head, holder := kindName, []byte(nil)
	switch k.Holder.Kind() {
	case ident.KindOpen:
		head, holder = kindName|flagOpen, rawKey(k.Holder)
	case ident.KindInvite:
		head, holder = kindName|flagInvite, rawKey(k.Holder)
	}
	if holder == nil {
		head = kindName
	}
	if k.Denies {
		head |= flagDenies
	}
	b = appendText(append(b, head), k.Name.String())
	if holder != nil {
		b = append(b, holder...)
	} else {
		b = appendText(b, k.Holder.String())
	}
	b = binary.AppendVarint(b, k.Until)
	b = binary.AppendVarint(b, k.Rests)
	b = binary.AppendUvarint(b, k.Version)
	b = binary.AppendVarint(b, k.At)
	return append(b, k.Sum[:]...)
}

// rawSize is an nkey without its kind: 32 bytes and their checksum.
const rawSize = 34

// rawKey gives an identity's nkey without its kind, nil if that would not give it back:
// nkeys takes a kind for a user's that has other lower bits.
func rawKey(id ident.Identity) []byte {
	_, text, _ := strings.Cut(id.String(), ":")
	all, err := base32.StdEncoding.DecodeString(text)
	if err != nil || len(all) != 1+rawSize || all[0] != byte(nkeys.PrefixByteUser) {
		return nil
	}
	return all[1:]
}

// keyOf is the inverse of rawKey. The checksum is verified.
func keyOf(raw []byte) (ident.UserKey, error) {
	all := [1 + rawSize]byte{byte(nkeys.PrefixByteUser)}
	copy(all[1:], raw)
	var text [(1 + rawSize) * 8 / 5]byte
	base32.StdEncoding.Encode(text[:], all[:])
	return ident.ParseUserKey(string(text[:]))
}

func appendEntry(b []byte, e ledger.Entry) []byte {
	return appendText(appendText(append(b, kindEntry), e.Key.String()), e.Token)
}

func appendMark(b []byte, m mark) []byte {
	head := kindMark
	if m.base {
		head |= flagBase
	}
	if m.positions == nil {
		return append(b, head)
	}
	b = binary.AppendVarint(append(b, head|flagPlaced), m.written.UnixMilli())
	b = binary.AppendUvarint(b, uint64(len(m.positions)))
	for log, at := range m.positions {
		b = binary.AppendUvarint(appendText(b, log), at)
	}
	return b
}

func appendText(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

// sink takes what is in a frame.
type sink struct {
	name  func(ledger.KnownName)
	entry func(key, token string)
	mark  func(mark)
}

// decode gives each record of a frame to a sink. It is called with what was opened, so
// an error is no damage of the disk's but a mistake of ours.
func decode(plain []byte, s sink) error {
	d := decoder{rest: plain}
	for len(d.rest) > 0 && !d.bad {
		switch head := d.take(1)[0]; head & kindMask {
		case kindName:
			k, err := d.name(head)
			if err != nil {
				return err
			}
			if !d.bad {
				s.name(k)
			}
		case kindEntry:
			key, token := d.text(), d.text()
			if !d.bad {
				s.entry(string(key), string(token))
			}
		case kindMark:
			m := d.mark(head)
			if !d.bad {
				s.mark(m)
			}
		default:
			return fmt.Errorf("a record of kind %#x", head)
		}
	}
	if d.bad {
		return fmt.Errorf("a record that ends too early")
	}
	return nil
}

// decoder reads one record's parts; bad says that there was less than that.
type decoder struct {
	rest []byte
	bad  bool
}

func (d *decoder) take(n uint64) []byte {
	if n > uint64(len(d.rest)) {
		d.bad, d.rest = true, nil
		return nil
	}
	b := d.rest[:n]
	d.rest = d.rest[n:]
	return b
}

func (d *decoder) uvarint() uint64 {
	v, n := binary.Uvarint(d.rest)
	d.take(skip(n))
	return v
}

func (d *decoder) varint() int64 {
	v, n := binary.Varint(d.rest)
	d.take(skip(n))
	return v
}

// skip is what a varint takes; one that is no varint, more than there is.
func skip(n int) uint64 {
	if n <= 0 {
		return 1 << 63
	}
	return uint64(n)
}

func (d *decoder) text() []byte { return d.take(d.uvarint()) }

func (d *decoder) name(head byte) (k ledger.KnownName, err error) {
	name := d.text()
	var holder []byte
	raw := head&(flagOpen|flagInvite) != 0
	if raw {
		holder = d.take(rawSize)
	} else {
		holder = d.text()
	}
	k.Until, k.Rests, k.Version, k.At = d.varint(), d.varint(), d.uvarint(), d.varint()
	sum := d.take(uint64(len(k.Sum)))
	if d.bad {
		return k, nil
	}
	copy(k.Sum[:], sum)
	k.Denies = head&flagDenies != 0
	if k.Name, err = ident.ParseName(string(name)); err != nil {
		return k, err
	}
	if !raw {
		k.Holder, err = ident.ParseIdentity(string(holder))
		return k, err
	}
	key, err := keyOf(holder)
	if err != nil {
		return k, err
	}
	if k.Holder = ident.OpenIdentity(key); head&flagInvite != 0 {
		k.Holder = ident.InviteIdentity(key)
	}
	return k, nil
}

func (d *decoder) mark(head byte) mark {
	m := mark{base: head&flagBase != 0}
	if head&flagPlaced == 0 {
		return m
	}
	m.written = time.UnixMilli(d.varint())
	m.positions = make(map[string]uint64)
	for n := d.uvarint(); n > 0 && !d.bad; n-- {
		log := string(d.text())
		m.positions[log] = d.uvarint()
	}
	return m
}
