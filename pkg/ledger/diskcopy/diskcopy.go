// Package diskcopy is a projection's copy on a disk: with it a service starts while
// JetStream cannot be reached, without verifying a million signatures again, and can
// say how old its knowledge is.
//
// The copy is sealed by a secret of the service and bound to its platform, region and
// own key. What was altered, re-ordered, repeated or taken from another copy is not
// believed; what a crash cut off is only what came last. It is a copy: nothing is in
// it alone, so every trouble with it ends in reading the ledger again, and a file that
// is not understood is set aside, never overwritten.
//
// It does not protect from somebody who puts an older copy of the same service back in
// its place: what is old is dated so, and followers read on from there. It follows
// nothing, keeps no clock and starts no goroutine that outlives a call.
package diskcopy

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path/filepath"
	"sync"
	"time"

	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/ledger"
	"github.com/herald-nats/herald/pkg/trust"
)

// Errors that callers tell apart. A file that others may read is refused with
// keystore.ErrExposed.
var (
	// ErrInUse: another process has the file open.
	ErrInUse = errors.New("another process uses this copy of the ledger")
	// ErrForeign: the file is no copy of this service's: another platform's, region's
	// or service's, sealed with another secret, verified by other signing keys, of
	// another version, or no copy at all.
	ErrForeign = errors.New("not this service's copy of the ledger")
	// ErrDamaged: from some place on the file is not what was written.
	ErrDamaged = errors.New("a damaged copy of the ledger")
	// ErrNotCompacted: what changed is on the disk, but the file could not be made
	// smaller.
	ErrNotCompacted = errors.New("the copy of the ledger could not be made smaller")
)

// About is what a copy belongs to. All of it is in the file, readable.
type About struct {
	// Operator is whose signatures were verified. A copy that was verified by another
	// operator JWT, be it of the same operator, is ErrForeign: entries that a signing
	// key made which is no longer believed would come back by it, and those that a new
	// one made were refused and are behind the positions.
	Operator *trust.Operator
	Region   ident.Region
	Service  ident.UserKey // of the service that the copy is for
}

// text is what a header says.
func (a About) text() []byte {
	return fmt.Appendf(nil, "%s %s %s %x", a.Operator.Key(), a.Region, a.Service, sha256.Sum256([]byte(a.Operator.Token())))
}

// Loaded is what Load found.
type Loaded struct {
	// Names and Others are how much the projection knows now.
	Names, Others int
	// Positions are where to read on, by the name of the log: all up to there is known.
	// nil: the copy is not known to be complete up to anywhere, because there is none,
	// none of its marks is left, or entries were refused; everything must be read.
	Positions map[string]uint64
	// Written is the moment that Positions were true of; zero without Positions.
	Written time.Time
	// Cut is how many bytes of an unfinished write were found at the end, and were not
	// used. It is what a crash leaves; the next Flush cuts them off. Apart from zeros it
	// is less than a frame, about 1 MiB at most.
	Cut int64
	// Damage wraps ErrDamaged and names the place from which on the file is not what
	// was written. What is before it was used, what is behind it was not.
	Damage error
	// Refused is how many entries of the copy are not believed now, and Refusal why the
	// first of them is not: ledger.ErrAhead, if the clock went back.
	Refused int
	Refusal error
}

// Copy is the copy on a disk. One goroutine at a time calls Load, Flush and Close;
// Note and Pending may be called by any.
type Copy struct {
	path  string
	about About
	keys  keys
	disk  disk

	file     file
	writable bool
	loaded   bool
	chain    chain
	size     int64 // of what is good; what the file has beyond it is to be cut off
	due      int64 // the size from which on it is compacted
	mark     mark
	records  int
	rewrite  bool   // nothing may be appended to this file
	aside    string // where to set this file aside before it is replaced
	unsynced bool   // the folder: the file may not be there after a crash

	mu        sync.Mutex
	changed   map[ledger.Key]struct{}
	all       bool // so much changed that all is written anew
	most      int  // how many changed keys are kept
	restoring map[ledger.Key]ledger.Sum
}

const (
	// minAppended is how much is appended at least before a file is written anew.
	minAppended = 1 << 20
	// minChanged is how many changed keys are kept at least.
	minChanged = 1 << 16
	// minSecret is the least that a secret may have, in bytes.
	minSecret = 16
)

// Open opens the copy at a path, or begins one: an empty file, in a folder that is
// made 0700 if it is missing. The secret is whatever only this service has, such as
// its seed; keys are derived from it. A copy that can be read but not written is
// opened too.
//
// ErrInUse; keystore.ErrExposed; fs.ErrInvalid, if it is no regular file; otherwise
// what the system says. After an error the caller works without a copy.
func Open(path string, secret []byte, about About) (*Copy, error) {
	return open(path, secret, about, osDisk{})
}

func open(path string, secret []byte, about About, d disk) (*Copy, error) {
	if len(secret) < minSecret || about.Operator == nil || about.Region.IsZero() || about.Service.IsZero() {
		return nil, fmt.Errorf("opening the ledger's copy %s: without a secret, or without saying whose it is", path)
	}
	c := &Copy{
		path: path, about: about, keys: keysOf(secret), disk: d,
		changed: make(map[ledger.Key]struct{}), most: minChanged,
	}
	var err error
	if c.file, c.writable, err = d.open(path); err != nil {
		return nil, fmt.Errorf("opening the ledger's copy %s: %w", path, err)
	}
	// The file is locked, so nobody is writing there.
	if err := d.remove(c.temporary()); err != nil && !errors.Is(err, fs.ErrNotExist) && c.writable {
		return nil, errors.Join(fmt.Errorf("removing an unfinished copy: %w", err), c.file.Close())
	}
	return c, nil
}

// temporary is where a new file is written; only who has locked the copy does.
func (c *Copy) temporary() string { return c.path + ".new" }

// Close gives the file up. What was noted and not flushed is not in it.
func (c *Copy) Close() error {
	if c.file == nil {
		return nil
	}
	err := c.file.Close()
	c.file = nil
	if err != nil {
		return fmt.Errorf("closing the ledger's copy %s: %w", c.path, err)
	}
	return nil
}

// Note says that an entry came to hold. It is what a projection calls when something
// changed: it keeps the key and does no more.
func (c *Copy) Note(e ledger.Entry) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if sum, ok := c.restoring[e.Key]; c.all || ok && sum == e.Sum {
		return
	}
	c.changed[e.Key] = struct{}{}
	if len(c.changed) > c.most {
		// As many as the file has: writing all of it costs no more.
		clear(c.changed)
		c.all = true
	}
}

// Pending is how many entries changed since the last Flush; when all of them are to be
// written, it is as many as the copy has, at least.
func (c *Copy) Pending() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.all {
		return c.most
	}
	return len(c.changed)
}

func (c *Copy) take() (changed map[ledger.Key]struct{}, all bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	changed, all = c.changed, c.all
	c.changed, c.all = make(map[ledger.Key]struct{}), false
	return changed, all
}

func (c *Copy) putBack(changed map[ledger.Key]struct{}, all bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.all = c.all || all
	if c.all {
		clear(c.changed)
		return
	}
	maps.Copy(c.changed, changed)
}

// Flush writes what changed since the last one, and has it on the disk when it
// returns. p is the projection that Load filled and whose changes are noted.
//
// positions are how far each log was read, and now is the moment that this is true of.
// They must have been taken before Flush is called: all up to there must have been
// noted. nil says nothing of how far; it is to be given as long as the logs were not
// read once up to their end, because who loads positions takes the copy for complete.
//
// The cost is that of what changed, and now and then, in proportion, that of all: then
// the file is written anew beside the old one and put in its place. After an error the
// old copy is as it was, and a later Flush writes what this one did not; after
// ErrNotCompacted nothing is left to write. Other errors are the system's, such as
// syscall.ENOSPC and fs.ErrPermission.
func (c *Copy) Flush(p *ledger.Projection, positions map[string]uint64, now time.Time) error {
	if c.file == nil || !c.loaded {
		// Without having loaded it, it would be replaced by less than it has.
		return fmt.Errorf("writing the ledger's copy %s, which is not loaded: %w", c.path, fs.ErrInvalid)
	}
	if err := c.syncDir(); err != nil {
		return err
	}
	changed, all := c.take()
	next := c.mark
	if positions != nil {
		next = mark{positions: maps.Clone(positions), written: now}
	}
	err := c.write(p, changed, all, next, positions != nil)
	if err == nil {
		c.mark = next
		if c.size <= c.due {
			return nil
		}
		if err = c.writeAll(p, next); err == nil {
			return nil
		}
		// Not at each Flush in vain.
		c.due = c.size + max(c.size/4, minAppended)
		return fmt.Errorf("%w: %w", ErrNotCompacted, err)
	}
	c.putBack(changed, all)
	return err
}

func (c *Copy) write(p *ledger.Projection, changed map[ledger.Key]struct{}, all bool, m mark, marked bool) error {
	if all || c.rewrite || !c.writable {
		return c.writeAll(p, m)
	}
	if len(changed) == 0 && !marked {
		return nil
	}
	return c.append(p, changed, m)
}

// append writes changes behind what is good.
func (c *Copy) append(p *ledger.Projection, changed map[ledger.Key]struct{}, m mark) error {
	w := writer{to: c.file, chain: c.chain, at: c.size}
	err := c.file.Truncate(c.size) // of what a crash or a failed write left
	if err == nil {
		err = w.changes(p, changed)
	}
	if err == nil {
		err = w.end(m)
	}
	if err == nil {
		if err = c.file.Sync(); err != nil {
			// What the system gave up to write, it may take for written the next time.
			c.rewrite = true
		}
	}
	if err != nil {
		if terr := c.file.Truncate(c.size); terr != nil {
			c.rewrite = true
			err = errors.Join(err, terr)
		}
		return fmt.Errorf("appending to the ledger's copy %s: %w", c.path, err)
	}
	c.chain, c.size = w.chain, w.at
	c.counted(c.records + w.records)
	return nil
}

// writeAll writes everything into a new file and puts it in the place of the old one.
func (c *Copy) writeAll(p *ledger.Projection, m mark) error {
	f, err := c.disk.create(c.temporary())
	if err != nil {
		return fmt.Errorf("making a new copy of the ledger: %w", err)
	}
	w := writer{to: f}
	err = w.begin(c.keys, c.about)
	if err == nil {
		err = w.all(p)
	}
	if err == nil {
		m.base = true
		err = w.end(m)
	}
	if err == nil {
		err = f.Sync()
	}
	if err == nil && c.aside != "" {
		err = c.setAside()
	}
	if err == nil {
		err = c.disk.rename(c.temporary(), c.path)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("writing the ledger's copy %s anew: %w", c.path, err), f.Close(), c.disk.remove(c.temporary()))
	}
	// Everything in the old one was synced; closing it gives its lock up, now that the
	// new one, locked before it had the name, has it.
	_ = c.file.Close()
	c.file, c.writable, c.rewrite, c.aside = f, true, false, ""
	c.chain, c.size = w.chain, w.at
	c.due = c.size + max(c.size, minAppended)
	c.counted(w.records)
	c.unsynced = true
	return c.syncDir()
}

// setAside gives the file another name beside its own. What is not ours is never
// overwritten; of copies of ours that are of no use the last is kept, for people to
// look at.
func (c *Copy) setAside() error {
	if c.aside == c.path+".bad" {
		if err := c.disk.remove(c.aside); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return c.disk.link(c.path, c.aside)
	}
	err := c.disk.link(c.path, c.aside+".bad")
	for n := 2; errors.Is(err, fs.ErrExist) && n < 10; n++ {
		err = c.disk.link(c.path, fmt.Sprintf("%s.%d.bad", c.aside, n))
	}
	return err
}

// syncDir makes the name of a new file last.
func (c *Copy) syncDir() error {
	if !c.unsynced {
		return nil
	}
	if err := c.disk.syncDir(filepath.Dir(c.path)); err != nil {
		return fmt.Errorf("putting the ledger's copy %s in place: %w", c.path, err)
	}
	c.unsynced = false
	return nil
}

func (c *Copy) counted(records int) {
	c.records = records
	c.mu.Lock()
	defer c.mu.Unlock()
	c.most = max(minChanged, records)
}

// writer writes a file, or its continuation.
type writer struct {
	to      file
	chain   chain
	at      int64 // where the next frame goes
	records int
	plain   []byte // records that are not written yet
	boxed   []byte
}

func (w *writer) begin(k keys, about About) error {
	salt := make([]byte, saltSize)
	_, _ = rand.Read(salt) // never fails, as of Go 1.24
	head, chain, err := newHeader(k, salt, about.text())
	if err != nil {
		return err
	}
	w.chain = chain
	return w.write(head)
}

// all writes every name and every other entry.
func (w *writer) all(p *ledger.Projection) error {
	var err error
	p.Names(func(k ledger.KnownName) bool {
		w.plain = appendName(w.plain, k)
		err = w.added()
		return err == nil
	})
	for _, list := range [][]ledger.Entry{p.Decided(), p.Denials(nil)} {
		for _, e := range list {
			if err == nil {
				w.plain = appendEntry(w.plain, e)
				err = w.added()
			}
		}
	}
	return err
}

// changes writes the entries of some keys as they are now.
func (w *writer) changes(p *ledger.Projection, keys map[ledger.Key]struct{}) error {
	for k := range keys {
		if n := k.Name(); !n.IsZero() {
			if known, ok := p.KnownName(n); ok {
				w.plain = appendName(w.plain, known)
			}
		} else if e, ok := p.Get(k); ok {
			w.plain = appendEntry(w.plain, e)
		}
		if err := w.added(); err != nil {
			return err
		}
	}
	return nil
}

func (w *writer) added() error {
	w.records++
	if len(w.plain) < frameSize {
		return nil
	}
	return w.frame()
}

// end writes the mark that all before it is complete up to some positions.
func (w *writer) end(m mark) error {
	w.plain = appendMark(w.plain, m)
	return w.frame()
}

func (w *writer) frame() error {
	if len(w.plain) > maxPlain {
		return fmt.Errorf("%d bytes in one frame: %w", len(w.plain), fs.ErrInvalid)
	}
	w.boxed = w.chain.seal(w.boxed[:0], w.plain)
	w.plain = w.plain[:0]
	return w.write(w.boxed)
}

func (w *writer) write(b []byte) error {
	n, err := w.to.WriteAt(b, w.at)
	w.at += int64(n)
	return err
}

// asideOf begins the name of a place for a file that is not ours, by how that begins.
func asideOf(path string, begins []byte) string {
	sum := sha256.Sum256(begins)
	return fmt.Sprintf("%s.%x", path, sum[:6])
}

// errOutdated: it is this service's, but was verified by another operator JWT.
var errOutdated = fmt.Errorf("verified by another operator JWT: %w", ErrForeign)

// sameAs tells whether two texts of headers are the same, or says how they differ.
func sameAs(want, have []byte) error {
	if bytes.Equal(want, have) {
		return nil
	}
	fields := [...]string{"platform", "region", "service"}
	a, b := bytes.Split(want, []byte(" ")), bytes.Split(have, []byte(" "))
	for i, f := range fields {
		if i < len(b) && !bytes.Equal(a[i], b[i]) {
			return fmt.Errorf("of %s %.64q: %w", f, b[i], ErrForeign)
		}
	}
	if len(a) == len(b) {
		return errOutdated
	}
	return fmt.Errorf("of %.64q: %w", have, ErrForeign)
}
