package audit

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/herald-nats/herald/pkg/ident"
)

// Problem is what is wrong with a chain.
type Problem string

// What a Verifier finds.
const (
	// Missing: blocks that must have been there are not.
	Missing Problem = "missing"
	// Altered: the signature is not the writer's, or what is signed is no block.
	Altered Problem = "altered"
	// Forged: whoever wrote it is not one of this platform's services.
	Forged Problem = "forged"
	// Moved: a block stands behind one that was written after it.
	Moved Problem = "moved"
	// Repeated: a block is there again.
	Repeated Problem = "repeated"
	// Forked: two different blocks say that they are the same one.
	Forked Problem = "forked"
	// Unended: a chain ends without a word. Its writer crashed, or its end was removed.
	Unended Problem = "unended"
	// Dropped: the writer itself says that it gave records up.
	Dropped Problem = "dropped"
)

// Finding is one thing that is wrong.
type Finding struct {
	Problem Problem       `json:"problem"`
	Region  ident.Region  `json:"region"`
	Seq     uint64        `json:"seq,omitempty"` // in the region's stream; 0: of no message
	Writer  ident.UserKey `json:"writer,omitzero"`
	Chain   string        `json:"chain,omitempty"`
	First   uint64        `json:"first,omitempty"` // the blocks that it is about
	Last    uint64        `json:"last,omitempty"`
	At      int64         `json:"at,omitempty"` // milliseconds: of the block beside it
	Why     string        `json:"why"`
}

// Verifier holds a region's blocks against each other. They are added in the order in which
// they are stored, from the oldest that there is.
type Verifier struct {
	Region ident.Region
	// Verify tells whether a JWT is that of a writer of this platform, in this region, at
	// a moment: up to the operator, and not only by the JWT's own word; and what such a
	// writer has to tell of.
	Verify func(token string, writer ident.UserKey, at time.Time) ([]What, error)
	// From is the position that the first block is expected to have; 0 knows nothing.
	From uint64
	// Kept is how long the stream keeps what is stored, if all of that is added: who cuts its
	// beginning off must not look like time that went by. 0 is of a part, and knows nothing.
	Kept time.Duration

	chains   map[string]*chain // by writer and chain
	order    []*chain
	resent   map[ident.UserKey][]Span // that writers say of their own
	living   map[string]uint64        // what living writers say was stored, by chain
	seq      uint64
	first    int64 // when the first block was written
	latest   int64 // and the latest of those that were added
	whole    bool  // the stream has its first message: nothing was dropped for its age
	findings []Finding
	blocks   int
	records  int
}

type chain struct {
	writer      ident.UserKey
	id          string
	began, n    uint64
	firstAt, at int64
	sums        map[uint64]string // of the blocks that were seen
	gaps        []Span            // of those that were not, in order
	again       []Finding         // blocks that are there twice
	tells       map[What]Finding  // the first block with a record of this kind
	may         []What            // of which its writer has to tell
	ended, told bool
	forged      error
	after       *Ref
	next        bool // another chain is after this one
	late        bool // what is before it was not dropped for its age, by where it stands
}

// Report is what a Verifier came to.
type Report struct {
	Blocks   int       `json:"blocks"`
	Records  int       `json:"records"`
	Chains   int       `json:"chains"`
	Findings []Finding `json:"findings"`
}

func (v *Verifier) found(f Finding) {
	f.Region = v.Region
	v.findings = append(v.findings, f)
}

// Add looks at a message of the region's stream: at its position, under "<region>.<writer>".
// It gives the block's records, none if it is not believed.
func (v *Verifier) Add(seq uint64, subject, data string) []Record {
	switch {
	case v.seq == 0 && v.From != 0 && seq > v.From:
		v.found(Finding{Problem: Missing, Seq: v.From, Why: fmt.Sprintf("the stream has no message from %d to %d", v.From, seq-1)})
	case v.seq != 0 && seq > v.seq+1:
		v.found(Finding{Problem: Missing, Seq: v.seq + 1, Why: fmt.Sprintf("the stream has no message from %d to %d", v.seq+1, seq-1)})
	case v.seq != 0 && seq <= v.seq: // no stream has that; a file may
		v.found(Finding{Problem: Moved, Seq: seq, Why: fmt.Sprintf("message %d stands behind message %d", seq, v.seq)})
	}
	v.whole = v.whole || seq == 1
	v.seq = max(v.seq, seq)
	b, err := Open(subject, data)
	if err != nil {
		v.found(Finding{Problem: Altered, Seq: seq, Why: err.Error()})
		return nil
	}
	if b.Region != v.Region {
		v.found(Finding{Problem: Forged, Seq: seq, Writer: b.Writer, Why: "it is of another region"})
		return nil
	}
	v.blocks++
	v.records += len(b.Content)
	if v.first == 0 {
		v.first = b.At
	}
	c := v.chain(b)
	v.latest = max(v.latest, b.At)
	of := Finding{Seq: seq, Writer: b.Writer, Chain: b.Chain, First: b.N, Last: b.N, At: b.At}
	if sum, ok := c.sums[b.N]; ok {
		of.Problem, of.Why = Repeated, "the same block stands before"
		if sum != b.Sum {
			of.Problem, of.Why = Forked, "another block of this number stands before"
			v.found(of)
			return b.Content
		}
		c.again = append(c.again, of)
		return nil
	}
	v.link(c, b, of)
	return b.Content
}

func (v *Verifier) chain(b Block) *chain {
	if v.chains == nil {
		v.chains, v.resent = make(map[string]*chain), make(map[ident.UserKey][]Span)
	}
	key := b.Writer.String() + b.Chain
	c := v.chains[key]
	if c == nil {
		c = &chain{
			writer: b.Writer, id: b.Chain, began: b.N, n: b.N - 1, firstAt: b.At,
			sums: make(map[uint64]string), tells: make(map[What]Finding),
			// By the others' clocks too: when it was is the writer's own word.
			late: max(b.At, v.latest)-v.first > silence.Milliseconds(),
		}
		v.chains[key] = c
		v.order = append(v.order, c)
	}
	return c
}

// link holds a block against those of its chain.
func (v *Verifier) link(c *chain, b Block, of Finding) {
	c.sums[b.N] = b.Sum
	switch {
	case b.N <= c.n: // one that was missing, or one from before the first that was seen
		c.fill(b.N)
		of.Problem, of.Why = Moved, fmt.Sprintf("it stands behind block %d", c.n)
		v.found(of)
		c.began = min(c.began, b.N)
	default:
		if b.N > c.n+1 { // however much that is: a number is the writer's own word
			c.gaps = append(c.gaps, Span{First: c.n + 1, Last: b.N - 1})
		}
		c.n, c.at = b.N, b.At
		c.ended = b.End
	}
	if before, ok := c.sums[b.N-1]; ok && before != b.Prev {
		of.Problem, of.Why = Forked, fmt.Sprintf("it does not follow the block %d that is there", b.N-1)
		v.found(of)
	}
	if b.Dropped > 0 {
		of.Problem, of.Why = Dropped, fmt.Sprintf("its writer had no room for %d records before it", b.Dropped)
		v.found(of)
	}
	if b.After != nil {
		c.after = b.After
	}
	v.resent[b.Writer] = append(v.resent[b.Writer], b.Resent...)
	for _, r := range b.Content {
		if _, ok := c.tells[r.What]; !ok {
			of.Problem, of.Why = Forged, fmt.Sprintf("a record of %q is none that its writer has to make", r.What)
			c.tells[r.What] = of
		}
	}
	if b.JWT != "" && c.forged == nil {
		c.told = true
		c.may, c.forged = v.Verify(b.JWT, b.Writer, time.UnixMilli(b.At))
	}
}

// Living is what a living writer says of itself: how far the chain is that it writes. It
// has to be asked before the last of the stream is read, and so knows of nothing newer: a
// chain that is shorter has lost its end.
func (v *Verifier) Living(chain string, n uint64) {
	if v.living == nil {
		v.living = make(map[string]uint64)
	}
	v.living[chain] = max(v.living[chain], n)
}

// lives holds the ends of chains against what living writers say.
func (v *Verifier) lives() {
	for _, c := range v.order {
		if n := v.living[c.id]; n > c.n {
			v.found(Finding{
				Problem: Missing, Writer: c.writer, Chain: c.id, First: c.n + 1, Last: n, At: c.at,
				Why: fmt.Sprintf("the end of the chain is gone: its writer lives, and stored block %d", n),
			})
		}
		delete(v.living, c.id)
	}
	for _, id := range slices.Sorted(maps.Keys(v.living)) {
		if n := v.living[id]; n > 0 {
			v.found(Finding{Problem: Missing, Chain: id, First: 1, Last: n, Why: "nothing is there of a chain whose writer lives"})
		}
	}
}

// Done gives what was found, once everything was added. A chain that is silent for longer
// than a living writer is has ended. seenUntil is the moment up to which the stream was
// read.
func (v *Verifier) Done(seenUntil time.Time) Report {
	for _, c := range v.order {
		c.late = c.late || v.whole
		if c.after != nil {
			v.follow(c, seenUntil)
		}
	}
	for _, c := range v.order {
		v.end(c, seenUntil)
	}
	v.lives()
	// Those of no message come last.
	slices.SortStableFunc(v.findings, func(a, b Finding) int { return cmp.Compare(a.Seq-1, b.Seq-1) })
	return Report{Blocks: v.blocks, Records: v.records, Chains: len(v.order), Findings: v.findings}
}

// follow holds a chain's beginning against the end of the one before it.
func (v *Verifier) follow(c *chain, until time.Time) {
	of := Finding{Problem: Missing, Writer: c.writer, Chain: c.after.Chain, First: c.after.N, Last: c.after.N, At: c.firstAt}
	before := v.chains[c.writer.String()+c.after.Chain]
	if before == nil {
		// It may be from before the oldest that there is.
		gone := c.late
		if at := c.after.At; at > 0 && !v.whole {
			gone = at-v.first > silence.Milliseconds() || v.young(at, until)
		}
		if gone && !v.elsewhere(*c.after) {
			of.Why = "a chain that its writer's next one names is not there, or nothing of its last minutes"
			v.found(of)
		}
		return
	}
	before.next = true
	switch sum, ok := before.sums[c.after.N]; {
	case !ok && c.after.N > before.n:
		of.First = before.n + 1
		of.Why = "the end of the chain is gone: its writer's next one names a later block"
		v.found(of)
	case ok && sum != c.after.Sum:
		of.Problem, of.Why = Forked, "its writer's next chain names another block of this number"
		v.found(of)
	}
}

// elsewhere tells whether a block is there of another writer: a service that got another nkey
// goes on in the folder of the one before. Its sum is nobody's to choose. It excuses nothing
// of that chain's end, which is another's word.
func (v *Verifier) elsewhere(r Ref) bool {
	return slices.ContainsFunc(v.order, func(c *chain) bool { return c.id == r.Chain && c.sums[r.N] == r.Sum })
}

// silence is how long a living writer says nothing at most, with a margin.
const silence = 3 * HeadEvery

// keptMargin is by how much a stream may seem to keep what is stored for less long: clocks
// differ, and a machine that sleeps writes no block a minute.
const keptMargin = time.Hour

// young tells whether what was written then cannot have been dropped for its age.
func (v *Verifier) young(at int64, until time.Time) bool {
	return v.Kept > 0 && until.Sub(time.UnixMilli(at)) < v.Kept-keptMargin
}

// end tells what is wrong with a chain as a whole.
func (v *Verifier) end(c *chain, until time.Time) {
	of := Finding{Writer: c.writer, Chain: c.id, First: c.began, Last: c.n, At: c.at}
	switch {
	case c.forged != nil:
		of.Problem, of.Why = Forged, c.forged.Error()
		v.found(of)
	case !c.told && (c.began == 1 || c.late || c.at-c.firstAt > silence.Milliseconds()):
		of.Problem, of.Why = Forged, "nothing in it shows that its writer is of this platform"
		v.found(of)
	}
	if c.forged == nil && c.told {
		for _, what := range slices.Sorted(maps.Keys(c.tells)) {
			if !slices.Contains(c.may, what) {
				v.found(c.tells[what])
			}
		}
	}
	if c.began > 1 && (c.late || v.young(c.firstAt, until)) {
		// What is dropped for its age goes from the stream's beginning, where every
		// living chain has a block, and one that is as old as blocks get.
		v.found(Finding{Problem: Missing, Writer: c.writer, Chain: c.id, First: 1, Last: c.began - 1, At: c.firstAt, Why: "the beginning of the chain is gone"})
	}
	for _, span := range c.gaps {
		v.found(Finding{Problem: Missing, Writer: c.writer, Chain: c.id, First: span.First, Last: span.Last, At: c.at, Why: "these blocks are gone from the middle of the chain"})
	}
	for _, again := range c.again {
		if !slices.ContainsFunc(v.resent[c.writer], func(s Span) bool { return s.Chain == c.id && s.First <= again.First && again.Last <= s.Last }) {
			v.found(again)
		}
	}
	if !c.ended && !c.next && until.Sub(time.UnixMilli(c.at)) > silence {
		of.Problem, of.Why = Unended, "its writer crashed, or the end was removed"
		v.found(of)
	}
}

// fill takes a block out of the gaps, if it is in one.
func (c *chain) fill(n uint64) {
	i, ok := slices.BinarySearchFunc(c.gaps, n, func(s Span, n uint64) int {
		if s.First <= n && n <= s.Last {
			return 0
		}
		return cmp.Compare(s.First, n)
	})
	if !ok {
		return
	}
	var left []Span
	if s := c.gaps[i]; s.First < n {
		left = append(left, Span{First: s.First, Last: n - 1})
	}
	if s := c.gaps[i]; n < s.Last {
		left = append(left, Span{First: n + 1, Last: s.Last})
	}
	c.gaps = slices.Replace(c.gaps, i, i+1, left...)
}
