package diskcopy_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"

	"github.com/herald-nats/herald/pkg/ledger"
	"github.com/herald-nats/herald/pkg/ledger/diskcopy"
)

// TestTruncated: whatever is cut off, what is before it is used, the service starts,
// and goes on.
func TestTruncated(t *testing.T) {
	s := newService(t, newHome(t))
	known := s.small()
	whole := s.read()
	head, frames := diskcopy.Frames(whole)
	s.stop()
	late := s.name(t, "late", 1, 3)
	for n := range len(whole) + 1 {
		s.write(whole[:n])
		s.start()
		// As many frames as are whole.
		good, want := len(head), uint64(0)
		for _, f := range frames {
			if good+len(f) > n {
				break
			}
			good, want = good+len(f), want+1
		}
		if n < len(head) {
			good = 0
		}
		if at := s.check(known, "cut"); at != want || s.loaded.Cut != int64(n-good) || s.loaded.Damage != nil {
			t.Fatalf("%d of %d bytes: at %d, not %d; %+v", n, len(whole), at, want, s.loaded)
		}
		s.apply(late)
		s.flush(9)
		after := s.p.Dump()
		s.restart()
		if !bytes.Equal(s.p.Dump(), after) || s.loaded.Positions["home"] != 9 || s.loaded.Cut != 0 {
			t.Fatalf("%d bytes, and then a flush: %+v", n, s.loaded)
		}
		s.stop()
	}
	s.start()
}

// TestFlipped: no bit of a file can be another.
func TestFlipped(t *testing.T) {
	s := newService(t, newHome(t))
	known := s.small()
	whole := s.read()
	s.stop()
	for i := range whole {
		for _, mask := range []byte{1, 2, 4, 8, 16, 32, 64, 128, 0xff} {
			if os.Getenv("HERALD_LONG") == "" && mask != 1<<(i%8) {
				continue
			}
			bad := bytes.Clone(whole)
			bad[i] ^= mask
			s.write(bad)
			err := s.open()
			if err != nil && !errors.Is(err, diskcopy.ErrForeign) {
				t.Fatalf("byte %d: %v", i, err)
			}
			at := s.check(known, "flipped")
			if at == 4 || err == nil && s.loaded.Damage == nil && s.loaded.Cut == 0 {
				t.Fatalf("byte %d: nothing was noticed: %+v", i, s.loaded)
			}
			s.stop()
		}
	}
	s.write(whole)
	s.start()
}

// TestDamaged: what is damaged is told, kept, and written anew.
func TestDamaged(t *testing.T) {
	s := newService(t, newHome(t))
	known := s.small()
	for range 2 {
		bad := s.read()
		_, frames := diskcopy.Frames(bad)
		last := len(bad) - len(frames[len(frames)-1])
		bad[last+40] ^= 1
		s.stop()
		s.write(bad)
		s.start()
		is(t, s.loaded.Damage, diskcopy.ErrDamaged)
		s.check(known, "damaged")
		if !bytes.Contains([]byte(s.loaded.Damage.Error()), []byte(s.path+" at byte ")) {
			t.Errorf("%v", s.loaded.Damage)
		}
		s.flush(3)
		if !bytes.Equal(must[[]byte](t)(os.ReadFile(s.path+".bad")), bad) {
			t.Error("what was damaged was not kept")
		}
		s.apply(s.name(t, "more", s.p.Version(ledger.NameKey(nameOf(t, "more")))+1, 3))
		known[3] = s.p.Dump()
		s.flush(3)
		s.restart()
		if s.loaded.Damage != nil {
			t.Errorf("%+v", s.loaded)
		}
		s.apply(s.name(t, "more", s.p.Version(ledger.NameKey(nameOf(t, "more")))+1, 3))
		s.flush(4)
		known[4] = s.p.Dump()
	}
}

// TestBadSector: what cannot be read is damage, and all before it is used.
func TestBadSector(t *testing.T) {
	s := newService(t, newHome(t))
	known := s.small()
	head, frames := diskcopy.Frames(s.read())
	for _, from := range []int{0, len(head) + len(frames[0])} {
		s.stop()
		s.faults.Read = func(off int64, n int) error {
			if off+int64(n) > int64(from) {
				return syscall.EIO
			}
			return nil
		}
		s.start()
		is(t, s.loaded.Damage, syscall.EIO)
		s.check(known, "unreadable")
	}
	s.faults = diskcopy.Faults{}
}

// TestZeros: a file that had grown when the power failed, and whose content had not
// been written, is cut off, not damaged.
func TestZeros(t *testing.T) {
	s := newService(t, newHome(t))
	known := s.small()
	s.stop()
	s.write(append(s.read(), make([]byte, 10000)...))
	s.start()
	if at := s.check(known, "with zeros"); at != 4 || s.loaded.Cut != 10000 || s.loaded.Damage != nil {
		t.Errorf("%+v", s.loaded)
	}
	s.flush(5)
	s.restart()
	if s.loaded.Cut != 0 {
		t.Errorf("%+v", s.loaded)
	}
}

// TestMovedFrames: a frame opens in its place only.
func TestMovedFrames(t *testing.T) {
	s := newService(t, newHome(t))
	known := s.small()
	whole := s.read()
	head, frames := diskcopy.Frames(whole)
	s.stop()
	// A copy of the same service, by the same secret, from another time.
	other := newService(t, s.home)
	other.small()
	otherHead, otherFrames := diskcopy.Frames(other.read())
	// The same file as it would be had a crash cut the third frame off, and others
	// been written in its place.
	s.write(slices.Concat(head, frames[0], frames[1]))
	s.start()
	s.apply(s.name(t, "mallory", 1, 3))
	s.flush(3)
	s.apply(s.name(t, "mallory", 2, 3))
	s.flush(4)
	_, branch := diskcopy.Frames(s.read())
	s.stop()

	with := func(i int, f ...[]byte) [][]byte { return slices.Concat(frames[:i], f, frames[i+1:]) }
	for name, tc := range map[string]struct {
		head   []byte
		frames [][]byte
		at     uint64
	}{
		"swapped":                {head, [][]byte{frames[0], frames[2], frames[1], frames[3]}, 1},
		"the first swapped":      {head, [][]byte{frames[1], frames[0], frames[2], frames[3]}, 0},
		"repeated":               {head, with(1, frames[1], frames[1]), 2},
		"the last repeated":      {head, with(3, frames[3], frames[3]), 4},
		"left out":               {head, with(1), 1},
		"the first left out":     {head, with(0), 0},
		"the last left out":      {head, with(3), 3}, // an older copy; nothing tells
		"of another copy":        {head, with(1, otherFrames[1]), 1},
		"of another copy, first": {head, with(0, otherFrames[0]), 0},
		"all of another copy":    {head, otherFrames, 0},
		"under another header":   {otherHead, frames, 0},
		"of another past":        {head, with(2, branch[2]), 3},
		"behind another past":    {head, with(3, branch[3]), 3},
	} {
		t.Run(name, func(t *testing.T) {
			s.write(slices.Concat(tc.head, slices.Concat(tc.frames...)))
			s.start()
			defer s.stop()
			if name == "of another past" {
				// Its own frame, as it was written once: what it says was so, and
				// nothing behind it opens.
				if s.loaded.Positions["home"] != 3 || s.loaded.Damage == nil || s.p.Version(ledger.NameKey(nameOf(t, "mallory"))) != 1 {
					t.Errorf("%+v", s.loaded)
				}
				return
			}
			if at := s.check(known, name); at != tc.at {
				t.Errorf("at %d, not %d: %+v", at, tc.at, s.loaded)
			}
			if (s.loaded.Damage == nil) != (name == "the last left out") {
				t.Errorf("%+v", s.loaded)
			}
		})
	}
	s.start()
}

// TestUnknownRecords: what was sealed and is not understood is no reason to fail, nor
// to go on behind it.
func TestUnknownRecords(t *testing.T) {
	h := newHome(t)
	for name, plain := range map[string][]byte{
		"kind":            {0x0e},
		"name cut off":    {0x01, 5, 'a'},
		"name of rubbish": append([]byte{0x21, 1, '?'}, make([]byte, 52)...),
		"no holder":       append([]byte{0x01, 1, 'a', 0}, make([]byte, 20)...),
		"long varint":     {0x23, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f},
		"long text":       {0x02, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01},
		"many logs":       {0x23, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01},
	} {
		t.Run(name, func(t *testing.T) {
			s := &service{home: h, t: t, path: filepath.Join(t.TempDir(), "c")}
			s.write(diskcopy.SealedFile(secret(), h.about, plain))
			s.start()
			defer s.stop()
			is(t, s.loaded.Damage, diskcopy.ErrDamaged)
			if s.loaded.Positions != nil || s.loaded.Names != 0 {
				t.Errorf("%+v", s.loaded)
			}
		})
	}
}

// TestFrameLengths: no length that a file states is taken on trust.
func TestFrameLengths(t *testing.T) {
	s := newService(t, newHome(t))
	known := s.small()
	whole := s.read()
	head, frames := diskcopy.Frames(whole)
	s.stop()
	for _, length := range []uint32{0, 1, 15, 16, 27, 28, 29, 1 << 20, 1<<20 + 29, 1<<31 - 1, 1 << 31, 1<<32 - 1} {
		bad := bytes.Clone(whole)
		binary.BigEndian.PutUint32(bad[len(head)+len(frames[0]):], length)
		s.write(bad)
		s.start()
		if at := s.check(known, "length"); at != 1 || s.loaded.Damage == nil && s.loaded.Cut == 0 {
			t.Errorf("length %d: at %d, %+v", length, at, s.loaded)
		}
		s.stop()
	}
	s.start()
}

// FuzzLoad: whatever the file is, loading it ends, and gives nothing that was not
// known.
func FuzzLoad(f *testing.F) {
	h := newHome(f)
	s := newService(f, h)
	known := s.small()
	f.Add(s.read())
	f.Add([]byte{})
	f.Add([]byte("herald ledger copy 1\n"))
	f.Add(binary.BigEndian.AppendUint32(diskcopy.SealedFile(secret(), h.about, nil), 1<<31))
	path := filepath.Join(f.TempDir(), "c")
	f.Fuzz(func(t *testing.T, data []byte) {
		s := &service{home: h, t: t, path: path}
		s.write(data)
		if err := s.open(); err != nil {
			is(t, err, diskcopy.ErrForeign)
		}
		defer s.stop()
		at, ok := known[s.loaded.Positions["home"]]
		// Another process has other nonces: there its own seeds load.
		if names, _, _ := s.p.Len(); names > 0 && (!ok || !bytes.Equal(s.p.Dump(), at)) {
			t.Errorf("%d names from nowhere", names)
		}
	})
}

// FuzzRecords: whatever was sealed, reading it ends, and what comes of it comes back
// when it is written again.
func FuzzRecords(f *testing.F) {
	h := newHome(f)
	s := newService(f, h)
	s.small()
	f.Add(diskcopy.Records(s.read(), secret(), h.about))
	f.Add([]byte{0x23, 0, 1, 1, 'a', 5})
	path := filepath.Join(f.TempDir(), "c")
	f.Fuzz(func(t *testing.T, plain []byte) {
		if len(plain) == 0 || len(plain) > 1<<20 {
			return
		}
		s := &service{home: h, t: t, path: path}
		s.write(diskcopy.SealedFile(secret(), h.about, plain))
		s.start()
		defer func() { s.stop() }()
		want, positions := s.p.Dump(), s.loaded.Positions
		if err := s.copy.Flush(s.p, positions, now()); err != nil {
			t.Fatal(err)
		}
		s.restart()
		if !bytes.Equal(s.p.Dump(), want) || len(s.loaded.Positions) != len(positions) {
			t.Errorf("%+v", s.loaded)
		}
	})
}
