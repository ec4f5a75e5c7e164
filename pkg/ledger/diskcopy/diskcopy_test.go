package diskcopy_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/herald-nats/herald/pkg/keystore"
	"github.com/herald-nats/herald/pkg/ledger"
	"github.com/herald-nats/herald/pkg/ledger/diskcopy"
)

func TestRoundTrip(t *testing.T) {
	s := newService(t, newHome(t))
	if s.loaded.Names != 0 || s.loaded.Positions != nil || !s.loaded.Written.IsZero() {
		t.Fatalf("a missing copy: %+v", s.loaded)
	}
	s.apply(
		s.name(t, "open", 1, 3), s.name(t, "in.vite", 2, 4), s.name(t, "key", 3, 5), s.name(t, "oidc", 4, 6),
		s.suspension(t, 3, 1), s.invite(t, 1, 1),
	)
	want := s.p.Dump()
	positions := map[string]uint64{"home": 42, "ams": 1<<63 + 1}
	if err := s.copy.Flush(s.p, positions, now()); err != nil {
		t.Fatal(err)
	}
	info := must[os.FileInfo](t)(os.Stat(s.path))
	if info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v", info.Mode())
	}
	s.restart()
	l := s.loaded
	if !bytes.Equal(s.p.Dump(), want) || l.Names != 4 || l.Others != 2 || !maps.Equal(l.Positions, positions) || !l.Written.Equal(now()) {
		t.Errorf("%+v", l)
	}
	if l.Cut != 0 || l.Damage != nil || l.Refused != 0 {
		t.Errorf("%+v", l)
	}
	// Dump has no Denies of names.
	if k, _ := s.p.KnownName(nameOf(t, "key")); !k.Denies {
		t.Error("a name that is gone came back")
	}
	if s.copy.Pending() != 0 {
		t.Errorf("%d of what was loaded are to be written again", s.copy.Pending())
	}
	_, _, ok := s.p.Name(nameOf(t, "in.vite"))
	if !ok {
		t.Error("the dotted name is not there")
	}
}

// TestModel: whatever is applied and flushed, also over failing disks, a copy has what
// was known at its last flush, of whichever it is.
func TestModel(t *testing.T) {
	h := newHome(t)
	// Signing is what costs; the same entries serve all runs.
	var pool []ledger.Entry
	for i := range 12 {
		for v := range uint64(5) {
			pool = append(pool, h.name(t, fmt.Sprintf("n%d", i), v+1, i+int(v)))
		}
	}
	for i := range 6 {
		for v := range uint64(3) {
			pool = append(pool, h.suspension(t, i*4+3, v+1), h.invite(t, i, v+1))
		}
	}
	big := make([]ledger.Entry, 40)
	for i := range big {
		big[i] = h.entry(t, ledger.InviteKey(inviteID(i)), 1, false, bigInvite(t))
	}
	// Each run writes and syncs some dozens of files; all hundred are for the long tests.
	runs := 0
	rapid.Check(t, func(rt *rapid.T) {
		if runs++; runs > 25 && os.Getenv("HERALD_LONG") == "" {
			return
		}
		s := &service{home: h, t: t, path: filepath.Join(t.TempDir(), "c")}
		s.start()
		defer func() { s.stop() }()
		written := s.p.Dump()
		var position, writtenAt uint64
		flush := func() error {
			position++
			return s.copy.Flush(s.p, map[string]uint64{"home": position}, now())
		}
		rt.Repeat(map[string]func(*rapid.T){
			"apply": func(rt *rapid.T) {
				for _, e := range rapid.SliceOfN(rapid.SampledFrom(pool), 1, 20).Draw(rt, "entries") {
					s.p.Apply(e)
				}
			},
			"apply much": func(rt *rapid.T) { s.apply(rapid.SampledFrom(big).Draw(rt, "entry")) },
			"flush": func(rt *rapid.T) {
				if err := flush(); err != nil {
					rt.Fatal(err)
				}
				written, writtenAt = s.p.Dump(), position
			},
			"flush that fails": func(rt *rapid.T) {
				left := rapid.IntRange(0, 3000).Draw(rt, "bytes")
				kind := rapid.IntRange(0, 3).Draw(rt, "kind")
				fail := func() error { return errFull }
				switch kind {
				case 0:
					s.faults.Write = func(n int) (int, error) { return room(&left, n) }
				case 1:
					s.faults.Sync = fail
				case 2:
					s.faults.Write, s.faults.Truncate = func(n int) (int, error) { return room(&left, n) }, fail
				case 3:
					s.faults.Rename = fail
				}
				err := flush()
				s.faults = diskcopy.Faults{}
				if err == nil || errors.Is(err, diskcopy.ErrNotCompacted) {
					written, writtenAt = s.p.Dump(), position
				}
			},
			"restart": func(rt *rapid.T) {
				s.restart()
				if !bytes.Equal(s.p.Dump(), written) || s.loaded.Positions["home"] != writtenAt {
					rt.Fatalf("at %d, not %d: %+v", s.loaded.Positions["home"], writtenAt, s.loaded)
				}
				if s.loaded.Damage != nil || s.loaded.Refused > 0 {
					rt.Fatalf("%+v", s.loaded)
				}
			},
		})
	})
}

// TestCompaction: the file does not grow without end, and nothing is lost when it is
// written anew.
func TestCompaction(t *testing.T) {
	s := newService(t, newHome(t))
	a, b := s.entry(t, ledger.InviteKey(inviteID(1)), 1, false, bigInvite(t)), s.name(t, "alice", 1, 3)
	s.apply(a, b)
	s.flush(1)
	inode := func() os.FileInfo { return must[os.FileInfo](t)(os.Stat(s.path)) }
	first, rewrites := inode(), 0
	for v := range uint64(200) {
		s.apply(s.entry(t, ledger.InviteKey(inviteID(1)), v+2, false, bigInvite(t)))
		s.flush(v + 2)
		if next := inode(); !os.SameFile(first, next) {
			first, rewrites = next, rewrites+1
		}
	}
	if size := first.Size(); size > 3<<20 {
		t.Errorf("%d bytes for two entries", size)
	}
	if rewrites < 1 || rewrites > 20 {
		t.Errorf("written anew %d times in 200", rewrites)
	}
	want := s.p.Dump()
	s.restart()
	if !bytes.Equal(s.p.Dump(), want) || s.loaded.Positions["home"] != 201 {
		t.Error("not what was known")
	}
}

// TestManyChanges: keys are not kept without bound when nobody flushes.
func TestManyChanges(t *testing.T) {
	s := newService(t, newHome(t))
	s.flush(1)
	e := s.name(t, "alice", 1, 3)
	for i := range 1<<16 + 10 {
		s.p.RestoreName(ledger.KnownName{Name: nameOf(t, fmt.Sprintf("n%d", i)), Holder: holder(t, 3), Version: 1})
		e.Key = ledger.NameKey(nameOf(t, fmt.Sprintf("n%d", i)))
		s.copy.Note(e)
	}
	if s.copy.Pending() != 1<<16 {
		t.Errorf("%d keys are kept", s.copy.Pending())
	}
	s.flush(2)
	want := s.p.Dump()
	s.restart()
	if s.loaded.Names != 1<<16+10 || !bytes.Equal(s.p.Dump(), want) {
		t.Errorf("%d names", s.loaded.Names)
	}
}

// TestRepeatedChanges: many changes of one key cost one record.
func TestRepeatedChanges(t *testing.T) {
	s := newService(t, newHome(t))
	s.flush(1)
	before := len(s.read())
	for v := range uint64(50) {
		s.apply(s.name(t, "alice", v+1, 3))
	}
	s.flush(2)
	if grown := len(s.read()) - before; grown > 200 {
		t.Errorf("%d bytes for one name", grown)
	}
}

// TestWithoutPositions: what was not read to its end is not taken for complete.
func TestWithoutPositions(t *testing.T) {
	s := newService(t, newHome(t))
	flush := func() {
		t.Helper()
		if err := s.copy.Flush(s.p, nil, now().Add(time.Hour)); err != nil {
			t.Fatal(err)
		}
	}
	s.apply(s.name(t, "alice", 1, 3))
	flush()
	s.restart()
	if s.loaded.Names != 1 || s.loaded.Positions != nil || !s.loaded.Written.IsZero() {
		t.Errorf("%+v", s.loaded)
	}
	s.flush(7)
	s.apply(s.name(t, "bob", 1, 3))
	flush()
	flush() // of nothing
	s.restart()
	// All up to 7 is there still, and that was so then.
	if s.loaded.Names != 2 || s.loaded.Positions["home"] != 7 || !s.loaded.Written.Equal(now()) {
		t.Errorf("%+v", s.loaded)
	}
}

// TestPositionsStay: positions that were written hold until there are others, also
// where all is written anew.
func TestPositionsStay(t *testing.T) {
	s := newService(t, newHome(t))
	positions := map[string]uint64{"home": 7}
	if err := s.copy.Flush(s.p, positions, now()); err != nil {
		t.Fatal(err)
	}
	positions["home"] = 1000 // it is the caller's
	for range 2 {
		s.faults.Sync = func() error { return errFull }
		s.apply(s.name(t, "alice", s.p.Version(ledger.NameKey(nameOf(t, "alice")))+1, 3))
		is(t, s.copy.Flush(s.p, nil, now()), errFull)
		s.faults = diskcopy.Faults{}
		before := must[os.FileInfo](t)(os.Stat(s.path))
		if err := s.copy.Flush(s.p, nil, now()); err != nil {
			t.Fatal(err)
		}
		// The system may take for written what it could not write.
		if os.SameFile(before, must[os.FileInfo](t)(os.Stat(s.path))) {
			t.Error("after a failed sync it was appended to")
		}
		s.restart()
		if s.loaded.Positions["home"] != 7 || !s.loaded.Written.Equal(now()) || s.loaded.Names != 1 {
			t.Errorf("%+v", s.loaded)
		}
	}
}

// TestGrownBase: a start is no reason to write a large file anew.
func TestGrownBase(t *testing.T) {
	s := newService(t, newHome(t))
	for i := range 40 {
		s.apply(s.entry(t, ledger.InviteKey(inviteID(i)), 1, false, bigInvite(t)))
	}
	s.flush(1)
	first := must[os.FileInfo](t)(os.Stat(s.path))
	if first.Size() < 2<<20 {
		t.Fatalf("%d bytes prove nothing", first.Size())
	}
	s.restart()
	for range 3 {
		s.flush(2)
	}
	if !os.SameFile(first, must[os.FileInfo](t)(os.Stat(s.path))) {
		t.Error("it was written anew")
	}
}

// TestRefused: an entry that is not believed now would be passed over by positions.
func TestRefused(t *testing.T) {
	s := newService(t, newHome(t))
	s.apply(s.suspension(t, 3, 1), s.name(t, "alice", 1, 3))
	s.flush(5)
	s.stop()
	c := must[*diskcopy.Copy](t)(diskcopy.Open(s.path, secret(), s.about))
	l, err := c.Load(ledger.NewProjection(nil), func() time.Time { return now().Add(-time.Hour) })
	if err != nil || l.Refused != 1 || !errors.Is(l.Refusal, ledger.ErrAhead) || l.Positions != nil || l.Names != 1 {
		t.Errorf("%+v %v", l, err)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	s.start()
	if s.loaded.Refused != 0 || s.loaded.Positions["home"] != 5 {
		t.Errorf("when the clock is right again: %+v", s.loaded)
	}
}

func TestMisuse(t *testing.T) {
	h := newHome(t)
	path := filepath.Join(t.TempDir(), "c")
	if _, err := diskcopy.Open(path, []byte("short"), h.about); err == nil {
		t.Error("a secret of 5 bytes")
	}
	if _, err := diskcopy.Open(path, secret(), diskcopy.About{}); err == nil {
		t.Error("about nothing")
	}
	c := must[*diskcopy.Copy](t)(diskcopy.Open(path, secret(), h.about))
	p := ledger.NewProjection(c.Note)
	is(t, c.Flush(p, nil, now()), fs.ErrInvalid) // not loaded
	if _, err := c.Load(p, now); err != nil {
		t.Error(err)
	}
	_, err := c.Load(p, now)
	is(t, err, fs.ErrInvalid)
	if err := errors.Join(c.Close(), c.Close()); err != nil {
		t.Error(err)
	}
	is(t, c.Flush(p, nil, now()), fs.ErrInvalid)
	c.Note(h.name(t, "alice", 1, 3)) // by a projection that goes on
}

func TestInUse(t *testing.T) {
	s := newService(t, newHome(t))
	for range 2 { // also after the file was replaced
		_, err := diskcopy.Open(s.path, secret(), s.about)
		is(t, err, diskcopy.ErrInUse)
		s.flush(1)
	}
	s.restart()
}

// TestInUseWhileReplaced: there is no moment between the old file and the new one in
// which another process is given either.
func TestInUseWhileReplaced(t *testing.T) {
	s := newService(t, newHome(t))
	done := make(chan struct{})
	var work sync.WaitGroup
	for range 4 {
		work.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				c, err := diskcopy.Open(s.path, secret(), s.about)
				if !errors.Is(err, diskcopy.ErrInUse) {
					t.Errorf("a file that is in use: %v", err)
				}
				if err == nil {
					_ = c.Close()
				}
			}
		})
	}
	for v := range uint64(100) {
		// After a failed sync the next flush replaces the file.
		s.faults.Sync = func() error { return errFull }
		s.apply(s.name(t, "alice", v+1, 3))
		is(t, s.copy.Flush(s.p, nil, now()), errFull)
		s.faults = diskcopy.Faults{}
		s.flush(v)
	}
	close(done)
	work.Wait()
}

// TestConcurrentNotes: notes are taken while a flush is at work, and none is lost.
func TestConcurrentNotes(t *testing.T) {
	s := newService(t, newHome(t))
	var entries []ledger.Entry
	for i := range 400 {
		entries = append(entries, s.name(t, fmt.Sprintf("n%d", i%100), uint64(i/100+1), i))
	}
	var work sync.WaitGroup
	for w := range 4 {
		work.Go(func() {
			for i := w; i < len(entries); i += 4 {
				s.p.Apply(entries[i])
			}
		})
	}
	done := make(chan struct{})
	go func() { work.Wait(); close(done) }()
	for flushing := true; flushing; {
		select {
		case <-done:
			flushing = false
		default:
		}
		s.flush(1)
	}
	want := s.p.Dump()
	s.restart()
	if !bytes.Equal(s.p.Dump(), want) {
		t.Error("not what was known")
	}
}

// TestForeign: a copy that is not this service's is neither believed nor lost.
func TestForeign(t *testing.T) {
	h := newHome(t)
	key := userKey(t, 8)
	resigned := h.about
	// The same operator with another signing key.
	resigned.Operator = reSigned(t)
	for name, tc := range map[string]struct {
		secret []byte
		about  diskcopy.About
	}{
		"another secret":             {[]byte("the seed of another service"), h.about},
		"another operator":           {secret(), homeOf(t, 2).about},
		"the operator's other JWT":   {secret(), resigned},
		"another region":             {secret(), diskcopy.About{Operator: h.op, Region: region(t, "sfo"), Service: h.about.Service}},
		"another service's own nkey": {secret(), diskcopy.About{Operator: h.op, Region: h.about.Region, Service: key}},
	} {
		t.Run(name, func(t *testing.T) {
			s := newService(t, h)
			s.apply(s.name(t, "alice", 1, 3))
			s.flush(5)
			s.stop()
			was := s.read()

			c := must[*diskcopy.Copy](t)(diskcopy.Open(s.path, tc.secret, tc.about))
			p := ledger.NewProjection(c.Note)
			l, err := c.Load(p, now)
			is(t, err, diskcopy.ErrForeign)
			if n, _, _ := p.Len(); n != 0 || l.Positions != nil {
				t.Errorf("%d names, %+v", n, l)
			}
			if !bytes.Equal(s.read(), was) {
				t.Error("it was changed before there was another")
			}
			if err := c.Flush(p, map[string]uint64{"home": 1}, now()); err != nil {
				t.Fatal(err)
			}
			aside := must[[]string](t)(filepath.Glob(s.path + ".*bad"))
			if len(aside) != 1 || !bytes.Equal(must[[]byte](t)(os.ReadFile(aside[0])), was) {
				t.Errorf("set aside: %v", aside)
			}
			if err := c.Close(); err != nil {
				t.Error(err)
			}
			// Whoever it belongs to gets it back.
			if err := os.Rename(aside[0], s.path); err != nil {
				t.Fatal(err)
			}
			s.start()
			if s.loaded.Positions["home"] != 5 {
				t.Errorf("%+v", s.loaded)
			}
		})
	}
}

// TestForeignTwice: what was set aside is not overwritten by what begins like it.
func TestForeignTwice(t *testing.T) {
	h := newHome(t)
	s := newService(t, h)
	s.apply(s.entry(t, ledger.InviteKey(inviteID(1)), 1, false, bigInvite(t))) // longer than what is looked at
	s.flush(1)
	older := s.read()
	s.apply(s.name(t, "alice", 1, 3))
	s.flush(2)
	newer := s.read()
	s.about.Region = region(t, "sfo")
	for _, data := range [][]byte{older, newer} {
		s.stop()
		s.write(data)
		is(t, s.open(), diskcopy.ErrForeign)
		// Also when it is tried again.
		s.faults.Rename = func() error { return errFull }
		is(t, s.copy.Flush(s.p, nil, now()), errFull)
		s.faults = diskcopy.Faults{}
		s.flush(1)
	}
	var kept [][]byte
	for _, path := range must[[]string](t)(filepath.Glob(s.path + ".*bad")) {
		kept = append(kept, must[[]byte](t)(os.ReadFile(path)))
	}
	if len(kept) != 2 || !slices.ContainsFunc(kept, func(b []byte) bool { return bytes.Equal(b, older) }) ||
		!slices.ContainsFunc(kept, func(b []byte) bool { return bytes.Equal(b, newer) }) {
		t.Errorf("%d are kept", len(kept))
	}
}

// TestExposed: a file that others may read or that is no file is not opened.
func TestExposed(t *testing.T) {
	s := newService(t, newHome(t))
	s.flush(1)
	s.stop()
	for _, mode := range []fs.FileMode{0o640, 0o604, 0o620, 0o666} {
		if err := os.Chmod(s.path, mode); err != nil {
			t.Fatal(err)
		}
		_, err := diskcopy.Open(s.path, secret(), s.about)
		is(t, err, keystore.ErrExposed)
	}
	if err := os.Chmod(s.path, 0o600); err != nil {
		t.Fatal(err)
	}
	s.start() // what was refused is not locked
	_, err := diskcopy.Open(t.TempDir(), secret(), s.about)
	if err == nil {
		t.Error("a folder was opened")
	}
}

// TestLeftover: a crash before the new file had the name leaves it behind.
func TestLeftover(t *testing.T) {
	s := newService(t, newHome(t))
	known := s.small()
	s.stop()
	if err := os.WriteFile(s.path+".new", s.read()[:100], 0o600); err != nil {
		t.Fatal(err)
	}
	s.start()
	if at := s.check(known, "with a leftover"); at != 4 {
		t.Errorf("at %d", at)
	}
	if left := must[[]string](t)(filepath.Glob(s.path + ".*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

// TestCrashes: whatever of the writing that makes a new file is the last that happened
// before a crash, there is the old copy or the new.
func TestCrashes(t *testing.T) {
	crash := errors.New("crashed")
	for name, fault := range map[string]diskcopy.Faults{
		"writing":  {Write: func(int) (int, error) { return 10, crash }},
		"syncing":  {Sync: func() error { return crash }},
		"renaming": {Rename: func() error { return crash }},
		"folder":   {SyncDir: func() error { return crash }},
	} {
		t.Run(name, func(t *testing.T) {
			s := newService(t, newHome(t))
			known := s.small()
			s.write(append(s.read(), 0xff, 0xff, 0xff, 0xff, 1)) // so that all is written anew
			s.restart()
			s.apply(s.name(t, "late", 1, 3))
			known[5] = s.p.Dump()
			s.faults = fault
			err := s.copy.Flush(s.p, map[string]uint64{"home": 5}, now())
			is(t, err, crash)
			s.faults = diskcopy.Faults{}
			if _, err := os.Stat(s.path + ".new"); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("room is taken by what was not finished: %v", err)
			}
			s.restart()
			at := s.check(known, name)
			if want := map[bool]uint64{false: 4, true: 5}[name == "folder"]; at != want {
				t.Errorf("at %d", at)
			}
		})
	}
}

func TestFailedFolderSync(t *testing.T) {
	s := newService(t, newHome(t))
	s.faults.SyncDir = func() error { return errFull }
	is(t, s.copy.Flush(s.p, nil, now()), errFull)
	is(t, s.copy.Flush(s.p, nil, now()), errFull) // until it is done
	s.faults.SyncDir = nil
	s.flush(1)
}
