package diskcopy

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"runtime"
	"sync"
	"time"

	"github.com/herald-nats/herald/pkg/ledger"
)

// Load fills a projection from the copy; it is called once, before the first Flush. A
// copy that is missing or empty loads nothing, and so does one that is cut off or
// damaged at its beginning: Loaded tells. Names are believed because they are sealed;
// of all other entries, which are few, the signature is verified again.
//
// With ErrForeign nothing was loaded, and the caller goes on without: the next Flush
// sets the file aside as <path>.<hash>.bad and writes a new one. What is left of a
// damaged copy is written anew by the next Flush; the damaged file, and one of this
// service's that another operator JWT verified, is kept as <path>.bad until there is
// another such. Load itself writes nothing.
func (c *Copy) Load(p *ledger.Projection, now func() time.Time) (Loaded, error) {
	if c.file == nil || c.loaded {
		return Loaded{}, fmt.Errorf("loading the ledger's copy %s, which is closed or loaded: %w", c.path, fs.ErrInvalid)
	}
	size, err := c.file.Size()
	if err != nil {
		return Loaded{}, fmt.Errorf("loading the ledger's copy %s: %w", c.path, err)
	}
	c.loaded = true
	if size == 0 {
		c.rewrite = true
		return Loaded{}, nil
	}
	head := make([]byte, min(size, maxHeader))
	if _, err := c.file.ReadAt(head, 0); err != nil {
		return c.damaged(Loaded{}, 0, fmt.Errorf("%w: %w", ErrDamaged, err)), nil
	}
	headSize, chain, err := readHeader(c.keys, c.about.text(), head)
	switch {
	case errors.Is(err, errShort):
		c.rewrite, c.aside = true, asideOf(c.path, head)
		return Loaded{Cut: size}, nil
	case errors.Is(err, errOutdated):
		c.rewrite, c.aside = true, c.path+".bad"
		return Loaded{}, fmt.Errorf("%s: %w", c.path, err)
	case err != nil:
		c.rewrite, c.aside = true, asideOf(c.path, head)
		return Loaded{}, fmt.Errorf("%s: %w", c.path, err)
	}
	c.chain, c.size = chain, int64(headSize)
	return c.loadFrames(p, ledger.Opener{Operator: c.about.Operator, Now: now}, size), nil
}

// damaged notes that the file is not what was written from some place on.
func (c *Copy) damaged(l Loaded, at int64, err error) Loaded {
	c.rewrite, c.aside = true, c.path+".bad"
	l.Damage = fmt.Errorf("%s at byte %d: %w", c.path, at, err)
	return l
}

// loadFrames opens one frame after another, up to the first that is not good, and has
// what is in them restored on all processors. In which order they are restored does
// not matter: of two entries about one key the one holds that beats the other.
func (c *Copy) loadFrames(p *ledger.Projection, o ledger.Opener, size int64) Loaded {
	var (
		r       = restorer{copy: c, projection: p, opener: o}
		in      = bufio.NewReaderSize(io.NewSectionReader(c.file, c.size, size-c.size), frameSize)
		frames  = make(chan opened, 2*runtime.GOMAXPROCS(0))
		buffers sync.Pool // of *[]byte
		workers sync.WaitGroup
		l       Loaded
		base    int64 // where what was written at once ends
		last    int64 // and the last mark that counts
		err     error
	)
	c.restore(make(map[ledger.Key]ledger.Sum))
	defer c.restore(nil)
	for range runtime.GOMAXPROCS(0) {
		workers.Go(func() {
			for f := range frames {
				r.frame(f)
				buffers.Put(&f.plain)
			}
		})
	}
	for {
		var plain []byte
		var n int64
		if b, ok := buffers.Get().(*[]byte); ok {
			plain = *b
		}
		if plain, n, err = c.chain.next(in, size-c.size, plain); err != nil {
			break
		}
		frames <- opened{at: c.size, end: c.size + n, plain: plain}
		c.size += n
	}
	close(frames)
	workers.Wait()

	switch {
	case errors.Is(err, errShort):
		l.Cut = size - c.size
	case !errors.Is(err, io.EOF):
		l = c.damaged(l, c.size, err)
	}
	if r.err != nil {
		l = c.damaged(l, r.errAt, fmt.Errorf("%w: %w", ErrDamaged, r.err))
	}
	for _, m := range r.marks {
		if m.base {
			base = max(base, m.end)
		}
		// Marks are found in any order; the last counts that is before all trouble.
		if m.positions != nil && m.end > last && (r.err == nil || m.end <= r.errAt) {
			c.mark, last = mark{positions: m.positions, written: m.written}, m.end
		}
	}
	if l.Refused, l.Refusal = r.refused, r.refusal; l.Refused > 0 {
		c.mark = mark{} // positions would pass over what was not restored
	}
	l.Positions, l.Written = c.mark.positions, c.mark.written
	names, decided, denials := p.Len()
	l.Names, l.Others = names, decided+denials
	c.due = base + max(base, minAppended)
	c.counted(r.records)
	return l
}

// restore says that Load is at work, or is done.
func (c *Copy) restore(entries map[ledger.Key]ledger.Sum) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.restoring = entries
}

// willRestore says that the next change of an entry, to what it is here, is none that
// is to be written: a projection calls Note for it, but it is in the file.
func (c *Copy) willRestore(e ledger.Entry) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.restoring[e.Key] = e.Sum
}

// opened is a frame that was opened.
type opened struct {
	at, end int64
	plain   []byte
}

// restorer applies frames to a projection. Its frame method may be called by several.
type restorer struct {
	copy       *Copy
	projection *ledger.Projection
	opener     ledger.Opener

	mu      sync.Mutex
	marks   []markAt
	records int
	refused int
	refusal error
	err     error // of the first frame that is not understood
	errAt   int64
}

type markAt struct {
	mark
	end int64
}

func (r *restorer) frame(f opened) {
	records := 0
	err := decode(f.plain, sink{
		name: func(k ledger.KnownName) {
			r.projection.RestoreName(k)
			records++
		},
		entry: func(key, token string) {
			r.entry(key, token)
			records++
		},
		mark: func(m mark) {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.marks = append(r.marks, markAt{m, f.end})
		},
	})
	r.mu.Lock()
	defer r.mu.Unlock()
	r.records += records
	if err != nil && (r.err == nil || f.at < r.errAt) {
		r.err, r.errAt = err, f.at
	}
}

func (r *restorer) entry(key, token string) {
	e, err := r.opener.Open(key, token)
	if err != nil {
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.refused++; r.refusal == nil {
			r.refusal = err
		}
		return
	}
	r.copy.willRestore(e)
	r.projection.Apply(e)
}
