package audit_test

import (
	"encoding/base64"
	"errors"
	"fmt"
	"math"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/herald-nats/herald/pkg/audit"
	"github.com/herald-nats/herald/pkg/audit/audittest"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/ledger"
)

// book is a region's stream: what two writers wrote, one of them in two chains.
type book struct {
	all  []ledger.Stored
	a, b *audittest.Scribe
	now  time.Time
}

func newBook(t *testing.T) *book {
	t.Helper()
	k := &book{a: audittest.NewScribe(t), b: audittest.NewScribe(t), now: time.Now()}
	k.a.JWT, k.b.JWT = "a", "b"
	first := *k.a // of the chain before
	at := k.now.Add(-time.Hour)
	put := func(w *audittest.Scribe, h audit.Head, n int) audit.Sealed {
		at = at.Add(20 * time.Second)
		h.At = at.UnixMilli()
		var records []audit.Record
		for range n {
			records = append(records, audittest.Record(t, at, time.Hour))
		}
		b := w.Head(t, h, records...)
		k.all = append(k.all, ledger.Stored{Subject: w.Under(), Data: string(b.Data), Seq: uint64(len(k.all) + 1)}) //nolint:gosec // small
		return b
	}
	var last audit.Sealed
	for i := range 20 {
		put(k.b, audit.Head{}, i%3)
		last = put(&first, audit.Head{End: i == 19}, i%4)
	}
	put(k.a, audit.Head{After: &last.Ref}, 1)
	for range 20 {
		put(k.a, audit.Head{}, 2)
		put(k.b, audit.Head{}, 1)
	}
	put(k.a, audit.Head{End: true}, 0)
	put(k.b, audit.Head{End: true}, 0)
	return k
}

// check verifies what is stored, and gives the problems that are found.
func (k *book) check(all []ledger.Stored) (audit.Report, []audit.Problem) {
	v := audit.Verifier{Region: k.a.Region, From: 1, Verify: func(token string, who ident.UserKey, _ time.Time) ([]audit.What, error) {
		if token == "a" && who == k.a.User || token == "b" && who == k.b.User {
			return []audit.What{audit.Issue}, nil
		}
		return nil, errors.New("a stranger")
	}}
	for _, s := range all {
		v.Add(s.Seq, s.Subject, s.Data)
	}
	r := v.Done(k.now.Add(time.Hour))
	var problems []audit.Problem
	for _, f := range r.Findings {
		problems = append(problems, f.Problem)
	}
	slices.Sort(problems)
	return r, slices.Compact(problems)
}

// anybody may write of everything.
func anybody(string, ident.UserKey, time.Time) ([]audit.What, error) {
	return []audit.What{audit.Issue, audit.Renew, audit.Refuse, audit.Change}, nil
}

// renumber gives positions as a stream that was written anew has them.
func renumber(all []ledger.Stored) []ledger.Stored {
	out := slices.Clone(all)
	for i := range out {
		out[i].Seq = uint64(i + 1) //nolint:gosec // small
	}
	return out
}

// Each way to tamper is found, also by who can write the stream anew, so that its positions
// show nothing.
func TestVerify(t *testing.T) {
	k := newBook(t)
	if r, problems := k.check(k.all); len(problems) > 0 || r.Blocks != len(k.all) || r.Chains != 3 {
		t.Fatalf("%+v", r)
	}
	n := len(k.all)
	without := func(from, to int) []ledger.Stored { return renumber(slices.Delete(slices.Clone(k.all), from, to)) }
	with := func(at int, s ledger.Stored) []ledger.Stored {
		all := slices.Clone(k.all)
		all[at] = s
		return all
	}
	stranger := audittest.NewScribe(t)
	stranger.JWT = "a"
	liar := *stranger
	liar.User = k.a.User
	for what, c := range map[string]struct {
		all  []ledger.Stored
		want []audit.Problem
	}{
		"one removed":                   {without(10, 11), []audit.Problem{audit.Missing}},
		"several removed":               {without(10, 30), []audit.Problem{audit.Missing}},
		"removed, and the gap is there": {slices.Delete(slices.Clone(k.all), 10, 11), []audit.Problem{audit.Missing}},
		"the first of the stream":       {slices.Clone(k.all)[1:], []audit.Problem{audit.Missing}},
		"the end of one chain":          {without(n-2, n-1), []audit.Problem{audit.Unended}},
		"the end of everything":         {without(n-6, n), []audit.Problem{audit.Unended}},
		"the end of an earlier chain":   {without(39, 40), []audit.Problem{audit.Missing}},
		"a chain's beginning":           {without(40, 43), []audit.Problem{audit.Missing}},
		"altered":                       {with(10, ledger.Stored{Subject: k.all[10].Subject, Seq: 11, Data: strings.Replace(k.all[10].Data, `"role":"member"`, `"role":"nember"`, 1)}), []audit.Problem{audit.Altered, audit.Missing}},
		"a record cut out":              {with(10, ledger.Stored{Subject: k.all[10].Subject, Seq: 11, Data: cutLine(k.all[10].Data)}), []audit.Problem{audit.Altered, audit.Missing}},
		"under another writer":          {with(10, ledger.Stored{Subject: k.b.Under(), Seq: 11, Data: k.all[11].Data}), []audit.Problem{audit.Altered, audit.Missing}},
		"two exchanged":                 {exchanged(k.all, 10, 12), []audit.Problem{audit.Moved}},
		"moved far":                     {exchanged(k.all, 1, 31), []audit.Problem{audit.Moved}},
		"repeated":                      {renumber(slices.Insert(slices.Clone(k.all), 20, k.all[10])), []audit.Problem{audit.Repeated}},
		"repeated at once":              {renumber(slices.Insert(slices.Clone(k.all), 11, k.all[10])), []audit.Problem{audit.Repeated}},
		"repeated at the end":           {renumber(append(slices.Clone(k.all), k.all[10])), []audit.Problem{audit.Repeated}},
		"forged by a stranger":          {renumber(append(slices.Clone(k.all), ledger.Stored{Subject: stranger.Under(), Data: string(stranger.Head(t, audit.Head{End: true}).Data)})), []audit.Problem{audit.Forged}},
		"forged in a writer's name":     {renumber(append(slices.Clone(k.all), ledger.Stored{Subject: liar.Under(), Data: string(liar.Head(t, audit.Head{End: true}).Data)})), []audit.Problem{audit.Altered}},
		"another in a block's place":    {renumber(append(slices.Clone(k.all), ledger.Stored{Subject: k.b.Under(), Data: forked(t, k)})), []audit.Problem{audit.Forked}},
	} {
		r, problems := k.check(c.all)
		if !slices.Equal(problems, c.want) {
			t.Errorf("%s: %v, want %v: %+v", what, problems, c.want, r.Findings)
		}
		for _, f := range r.Findings {
			if f.Why == "" || f.Region.IsZero() {
				t.Errorf("%s: %+v", what, f)
			}
		}
	}
}

// forked is a block that the writer b signed, and that is not the one of that number: of who
// has its key, and writes its history anew.
func forked(t *testing.T, k *book) string {
	t.Helper()
	b, err := audit.Open(k.all[2].Subject, k.all[2].Data)
	if err != nil {
		t.Fatal(err)
	}
	h := b.Head
	s, err := audit.Seal(h, []audit.Record{audittest.Record(t, k.now, time.Hour)}, k.b.Key)
	if err != nil {
		t.Fatal(err)
	}
	return string(s.Data)
}

// cutLine takes a record out of a block.
func cutLine(data string) string {
	lines := strings.SplitAfter(data, "\n")
	return strings.Join(slices.Delete(lines, 1, 2), "")
}

func exchanged(all []ledger.Stored, i, j int) []ledger.Stored {
	out := slices.Clone(all)
	out[i], out[j] = out[j], out[i]
	return renumber(out)
}

// Whatever is done to a stream shows: blocks taken out, put in again, exchanged, bytes changed.
func TestVerifyProperty(t *testing.T) {
	k := newBook(t)
	rapid.Check(t, func(r *rapid.T) {
		all := slices.Clone(k.all)
		for range rapid.IntRange(1, 3).Draw(r, "times") {
			i := rapid.IntRange(0, len(all)-1).Draw(r, "block")
			switch rapid.IntRange(0, 3).Draw(r, "what") {
			case 0:
				all = slices.Delete(all, i, i+1)
			case 1:
				all = slices.Insert(all, rapid.IntRange(0, len(all)).Draw(r, "to"), all[i])
			case 2:
				j := rapid.IntRange(0, len(all)-1).Draw(r, "with")
				if all[i].Subject != all[j].Subject { // two writers' blocks come in any order
					continue
				}
				all[i], all[j] = all[j], all[i]
			default:
				data := []byte(all[i].Data)
				data[rapid.IntRange(0, len(data)-1).Draw(r, "byte")] ^= byte(1 << rapid.IntRange(0, 6).Draw(r, "bit"))
				all[i].Data = string(data)
			}
		}
		changed := !slices.EqualFunc(ofEach(all), ofEach(k.all), slices.Equal)
		if _, problems := k.check(renumber(all)); (len(problems) > 0) != changed {
			r.Fatalf("changed %t, found %v", changed, problems)
		}
	})
}

// ofEach are the blocks of each writer.
func ofEach(all []ledger.Stored) [][]string {
	by := map[string][]string{}
	for _, s := range all {
		by[s.Subject] = append(by[s.Subject], s.Data)
	}
	var subjects []string
	for s := range by {
		subjects = append(subjects, s)
	}
	slices.Sort(subjects)
	var out [][]string
	for _, s := range subjects {
		out = append(out, append([]string{s}, by[s]...))
	}
	return out
}

// What a stream dropped for its age is not missed.
func TestVerifyTrimmed(t *testing.T) {
	k := newBook(t)
	v := audit.Verifier{Region: k.a.Region, Verify: anybody}
	for _, s := range k.all[30:] {
		v.Add(s.Seq, s.Subject, s.Data)
	}
	if r := v.Done(k.now); len(r.Findings) > 0 {
		t.Errorf("%+v", r.Findings)
	}
}

// What is too long for whoever reads it is not written.
func TestSealTooLong(t *testing.T) {
	w := audittest.NewScribe(t)
	var records []audit.Record
	for range 400 {
		r := audittest.Record(t, time.Now(), time.Hour)
		r.Why = strings.Repeat("x", 512)
		records = append(records, r)
	}
	if _, err := audit.Seal(audit.Head{Region: w.Region, Writer: w.User, N: 1, At: 1}, records, w.Key); !errors.Is(err, audit.ErrDamaged) {
		t.Errorf("got %v, want ErrDamaged", err)
	}
}

// When a block was written is its writer's own word: who says that it was in the first minutes
// that are left of a stream has no beginning, and nothing that shows who it is, all the same.
func TestVerifyBackdated(t *testing.T) {
	k := newBook(t)
	first, err := audit.Open(k.all[30].Subject, k.all[30].Data)
	if err != nil {
		t.Fatal(err)
	}
	for what, n := range map[string]int{"at the end": len(k.all), "in the middle": 60} {
		w := audittest.NewScribe(t)
		w.Block(t) // which nobody stores
		b := w.Head(t, audit.Head{At: first.At, End: true}, audittest.Record(t, time.UnixMilli(first.At), time.Hour))
		v := audit.Verifier{Region: w.Region, Verify: func(token string, _ ident.UserKey, _ time.Time) ([]audit.What, error) {
			if token == "" {
				return nil, errors.New("a stranger")
			}
			return []audit.What{audit.Issue}, nil
		}}
		all := slices.Insert(slices.Clone(k.all), n, ledger.Stored{Subject: w.Under(), Data: string(b.Data)})
		for i, s := range all[30:] {
			v.Add(uint64(i+31), s.Subject, s.Data) //nolint:gosec // small
		}
		var problems []audit.Problem
		for _, f := range v.Done(k.now).Findings {
			problems = append(problems, f.Problem)
		}
		if !slices.Equal(problems, []audit.Problem{audit.Forged, audit.Missing}) {
			t.Errorf("%s: %v", what, problems)
		}
	}
}

// Who cuts off a stream's beginning does not look like time that went by.
func TestVerifyCutOff(t *testing.T) {
	k := newBook(t)
	for kept, want := range map[time.Duration]bool{0: false, 90 * time.Minute: false, 24 * time.Hour: true} {
		v := audit.Verifier{Region: k.a.Region, Verify: anybody, Kept: kept}
		for _, s := range k.all[30:] {
			v.Add(s.Seq, s.Subject, s.Data)
		}
		r := v.Done(k.now)
		if got := len(r.Findings) > 0; got != want || got && (r.Findings[0].Problem != audit.Missing || r.Findings[0].First != 1) {
			t.Errorf("kept for %v: %+v", kept, r.Findings)
		}
	}
}

// So it is with who cut it off where services were started again. A service that did not run for
// longer than anything is kept has nothing of before.
func TestVerifyCutOffBetween(t *testing.T) {
	now := time.Now()
	for _, c := range []struct {
		kept, off time.Duration // off: before the chain that is there, for so long
		want      int
	}{
		{0, time.Hour, 0}, {24 * time.Hour, time.Hour, 1}, {24 * time.Hour, 25 * time.Hour, 0}, {4 * time.Hour, time.Hour, 0},
	} {
		w := audittest.NewScribe(t)
		w.JWT = "x"
		before := *w
		at := now.Add(-3 * time.Hour)
		gone := before.Head(t, audit.Head{At: at.Add(-c.off).UnixMilli()})
		v := audit.Verifier{Region: w.Region, Verify: anybody, From: 7, Kept: c.kept}
		// Another's, so that the chain is not the first of the stream.
		o := audittest.NewScribe(t)
		o.JWT = "x"
		v.Add(7, o.Under(), string(o.Head(t, audit.Head{At: at.Add(-time.Minute).UnixMilli(), End: true}).Data))
		v.Add(8, w.Under(), string(w.Head(t, audit.Head{At: at.UnixMilli(), After: &gone.Ref}).Data))
		v.Add(9, w.Under(), string(w.Head(t, audit.Head{At: now.UnixMilli(), End: true}).Data))
		r := v.Done(now)
		if len(r.Findings) != c.want || c.want > 0 && (r.Findings[0].Problem != audit.Missing || r.Findings[0].Chain != gone.Chain) {
			t.Errorf("kept for %v, off for %v: %+v", c.kept, c.off, r.Findings)
		}
	}
}

// A service that got another nkey goes on in its folder, which knows the chain of the one before.
func TestVerifyAnotherKey(t *testing.T) {
	k := newBook(t)
	before, after := audittest.NewScribe(t), audittest.NewScribe(t)
	before.JWT, after.JWT = "x", "x"
	last := before.Head(t, audit.Head{At: k.now.UnixMilli(), End: true})
	for what, c := range map[string]struct {
		names audit.Ref
		want  int
	}{
		"as it was":       {last.Ref, 0},
		"another sum":     {audit.Ref{Chain: last.Chain, N: last.N, Sum: strings.Repeat("A", 43)}, 1},
		"a block more":    {audit.Ref{Chain: last.Chain, N: last.N + 1, Sum: last.Sum}, 1},
		"no such a chain": {audit.Ref{Chain: strings.Repeat("A", 22), N: last.N, Sum: last.Sum}, 1},
	} {
		w := *after
		v := audit.Verifier{Region: before.Region, Verify: anybody}
		v.Add(1, before.Under(), string(last.Data))
		v.Add(2, w.Under(), string(w.Head(t, audit.Head{At: k.now.UnixMilli(), After: &c.names, End: true}).Data))
		if r := v.Done(k.now); len(r.Findings) != c.want {
			t.Errorf("%s: %+v", what, r.Findings)
		}
	}
}

// A writer that lives, or that crashed and came back, has no end to miss.
func TestVerifyUnended(t *testing.T) {
	k := newBook(t)
	w := audittest.NewScribe(t)
	v := audit.Verifier{Region: w.Region, Verify: anybody}
	w.JWT = "x"
	b := w.Head(t, audit.Head{At: k.now.UnixMilli()})
	v.Add(1, w.Under(), string(b.Data))
	if r := v.Done(k.now.Add(2 * audit.HeadEvery)); len(r.Findings) > 0 {
		t.Errorf("it lives: %+v", r.Findings)
	}
	if r := v.Done(k.now.Add(time.Hour)); len(r.Findings) != 1 || r.Findings[0].Problem != audit.Unended {
		t.Errorf("it is silent: %+v", r.Findings)
	}
	next := *audittest.ScribeOf(t, w.Key)
	next.JWT = "x"
	v = audit.Verifier{Region: w.Region, Verify: v.Verify}
	v.Add(1, w.Under(), string(b.Data))
	c := next.Head(t, audit.Head{At: k.now.Add(time.Hour).UnixMilli(), After: &b.Ref})
	v.Add(2, w.Under(), string(c.Data))
	if r := v.Done(k.now.Add(time.Hour)); len(r.Findings) > 0 {
		t.Errorf("it came back: %+v", r.Findings)
	}
}

// A living writer knows how far its chain is, and so whether its end is there.
func TestVerifyLiving(t *testing.T) {
	w := audittest.NewScribe(t)
	w.JWT = "x"
	for _, c := range []struct {
		chain string // of what a writer says; empty: its own
		n     uint64
		want  []uint64 // the blocks that are missing
	}{{n: 0}, {n: 2}, {n: 3, want: []uint64{3, 3}}, {n: 9, want: []uint64{3, 9}}, {chain: "other", n: 2, want: []uint64{1, 2}}, {chain: "other"}} {
		w := *w
		v := audit.Verifier{Region: w.Region, Verify: anybody}
		var last audit.Sealed
		for seq := range 2 {
			last = w.Block(t)
			v.Add(uint64(seq+1), w.Under(), string(last.Data)) //nolint:gosec // small
		}
		if c.chain == "" {
			c.chain = last.Chain
		}
		v.Living(c.chain, c.n)
		r := v.Done(time.Now())
		var got []uint64
		for _, f := range r.Findings {
			if f.Problem != audit.Missing || f.Chain != c.chain {
				t.Errorf("%+v", f)
			}
			got = append(got, f.First, f.Last)
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s, %d: missing %v, want %v", c.chain, c.n, got, c.want)
		}
	}
}

// Which blocks are gone is told in order, also where some of them stand elsewhere.
func TestVerifyGaps(t *testing.T) {
	w := audittest.NewScribe(t)
	w.JWT = "x"
	var all []ledger.Stored
	for range 12 {
		all = append(all, ledger.Stored{Subject: w.Under(), Data: string(w.Block(t).Data)})
	}
	for _, c := range []struct {
		there, gone []uint64 // blocks, and the first and the last of those that are missing
	}{
		{[]uint64{1, 2, 12}, []uint64{3, 11}},
		{[]uint64{1, 5, 9, 12}, []uint64{2, 4, 6, 8, 10, 11}},
		{[]uint64{1, 12, 6}, []uint64{2, 5, 7, 11}},
		{[]uint64{1, 12, 2, 11, 7, 6, 8}, []uint64{3, 5, 9, 10}},
		{[]uint64{1, 4, 12, 5, 3, 2, 11}, []uint64{6, 10}},
		{[]uint64{1, 3, 2, 4, 7, 6, 5, 8, 9, 10, 12, 11}, nil},
	} {
		v := audit.Verifier{Region: w.Region, Verify: anybody}
		for i, n := range c.there {
			v.Add(uint64(i+1), w.Under(), all[n-1].Data) //nolint:gosec // small
		}
		var gone []uint64
		for _, f := range v.Done(time.Now()).Findings {
			if f.Problem == audit.Missing {
				gone = append(gone, f.First, f.Last)
			}
		}
		if !slices.Equal(gone, c.gone) {
			t.Errorf("%v: %v are missing, want %v", c.there, gone, c.gone)
		}
	}
}

// The number of a block is its writer's own word: a great one costs whoever verifies nothing.
func TestVerifyFarNumbers(t *testing.T) {
	w := audittest.NewScribe(t)
	v := audit.Verifier{Region: w.Region, Verify: anybody}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	const chains = 300
	for i := range chains {
		chain := base64.RawURLEncoding.EncodeToString(fmt.Appendf(nil, "%016d", i))
		for j, n := range []uint64{1, math.MaxUint64} {
			h := audit.Head{Region: w.Region, Writer: w.User, Chain: chain, N: n, At: time.Now().UnixMilli(), JWT: "x", End: true}
			if n > 1 {
				h.Prev = strings.Repeat("A", 43)
			}
			b, err := audit.Seal(h, nil, w.Key)
			if err != nil {
				t.Fatal(err)
			}
			v.Add(uint64(2*i+j+1), w.Under(), string(b.Data)) //nolint:gosec // small
		}
	}
	r := v.Done(time.Now())
	runtime.ReadMemStats(&after)
	if len(r.Findings) != chains || r.Findings[0].Problem != audit.Missing || r.Findings[0].Last != math.MaxUint64-1 {
		t.Errorf("%d findings, the first is %+v", len(r.Findings), r.Findings[0])
	}
	if took := after.TotalAlloc - before.TotalAlloc; took > 100<<20 {
		t.Errorf("%d MiB for %d blocks", took>>20, 2*chains)
	}
}

// Who may write of changes alone is not believed about credentials.
func TestVerifyWhat(t *testing.T) {
	w := audittest.NewScribe(t)
	w.JWT = "x"
	v := audit.Verifier{Region: w.Region, Verify: func(string, ident.UserKey, time.Time) ([]audit.What, error) { return []audit.What{audit.Change}, nil }}
	v.Add(1, w.Under(), string(w.Block(t, audit.Record{What: audit.Change, At: time.Now().UnixMilli(), Key: "name.alice", Version: 1}).Data))
	if r := v.Done(time.Now()); len(r.Findings) > 0 {
		t.Errorf("%+v", r.Findings)
	}
	v.Add(2, w.Under(), string(w.Block(t, audittest.Record(t, time.Now(), time.Hour)).Data))
	if r := v.Done(time.Now()); len(r.Findings) != 1 || r.Findings[0].Problem != audit.Forged || r.Findings[0].Seq != 2 {
		t.Errorf("%+v", r.Findings)
	}
}

// Where positions are those of a file, lines that were exchanged show by them, of whomever
// they are.
func TestVerifyPositions(t *testing.T) {
	k := newBook(t)
	all := slices.Clone(k.all)
	all[50], all[51] = all[51], all[50]
	if k.all[50].Subject == k.all[51].Subject {
		t.Fatal("they are of one writer, whose chain shows it")
	}
	if _, problems := k.check(all); !slices.Contains(problems, audit.Moved) {
		t.Errorf("%v", problems)
	}
}

func FuzzOpen(f *testing.F) {
	w := audittest.NewScribe(f)
	r := audittest.Record(f, time.Now(), time.Hour)
	full := string(w.Head(f, audit.Head{JWT: "x", Resent: []audit.Span{{Chain: strings.Repeat("A", 22), First: 1, Last: 2}}}, r, r).Data)
	for _, s := range []string{full, full[:len(full)/2], "", "\n", "{}\n", "null\n" + strings.Repeat("A", 86), string(w.Block(f).Data)} {
		f.Add(s, false)
		f.Add(s, true)
	}
	f.Fuzz(func(t *testing.T, data string, sign bool) {
		if sign { // so that what is behind the signature is reached
			end := strings.LastIndexByte(data, '\n') + 1
			sig, err := w.Key.Sign([]byte("herald/v1/audit\n" + data[:end]))
			if err != nil {
				t.Fatal(err)
			}
			data = data[:end] + base64.RawURLEncoding.EncodeToString(sig)
		}
		b, err := audit.Open(w.Under(), data)
		if err != nil {
			if !errors.Is(err, audit.ErrDamaged) {
				t.Fatalf("%v", err)
			}
			return
		}
		if b.Writer != w.User || b.Region != w.Region || b.N == 0 || b.Records != len(b.Content) {
			t.Fatalf("believed: %+v", b)
		}
		for _, r := range b.Content {
			if r.Region != w.Region || r.Issuer != w.User || r.At <= 0 || r.Granted() && (r.Expires <= r.Issued || r.Identity.IsZero()) {
				t.Fatalf("believed: %+v", r)
			}
		}
		again, err := audit.Seal(b.Head, b.Content, w.Key)
		if err != nil {
			t.Fatalf("what was read cannot be written: %v", err)
		}
		if c, err := audit.Open(w.Under(), string(again.Data)); err != nil || fmt.Sprint(c.Content) != fmt.Sprint(b.Content) {
			t.Fatalf("%+v became %+v: %v", b, c, err)
		}
	})
}
