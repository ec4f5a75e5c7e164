package accesskey_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"unicode/utf16"

	"pgregory.net/rapid"

	"github.com/herald-nats/herald/pkg/accesskey"
)

func scan(t testing.TB, r io.Reader) []accesskey.Found {
	t.Helper()
	var all []accesskey.Found
	if err := accesskey.Scan(r, func(f accesskey.Found) error { all = append(all, f); return nil }); err != nil {
		t.Fatal(err)
	}
	return all
}

// expect is what Scan has to find, by the regular expression of which it is a fast form.
func expect(data []byte) []accesskey.Found {
	var all []accesskey.Found
	for _, at := range regexp.MustCompile(`\bhks_[0-9A-Za-z]{49}\b`).FindAllIndex(data, -1) {
		text := string(data[at[0]:at[1]])
		f := accesskey.Found{
			Offset: int64(at[0]), Line: int64(1 + bytes.Count(data[:at[0]], []byte("\n"))), Column: int64(at[0] - bytes.LastIndexByte(data[:at[0]], '\n')),
			Start: text[:8],
		}
		if s, err := accesskey.Parse(text); err == nil {
			f.Real, f.Public = true, s.Public()
		}
		all = append(all, f)
	}
	return all
}

func same(t testing.TB, what string, got, want []accesskey.Found) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s: found\n%+v\nwant\n%+v", what, got, want)
	}
}

func TestScanTells(t *testing.T) {
	s, fake := generate(t), "hks_"+repeat("0", 49)
	text := "one\ntwo " + s.Reveal() + "\n\n" + fake + "," + s.Reveal()
	got := scan(t, strings.NewReader(text))
	same(t, "three", got, []accesskey.Found{
		{Offset: 8, Line: 2, Column: 5, Start: s.Reveal()[:8], Real: true, Public: s.Public()},
		{Offset: 63, Line: 4, Column: 1, Start: "hks_0000"},
		{Offset: 117, Line: 4, Column: 55, Start: s.Reveal()[:8], Real: true, Public: s.Public()},
	})
	if strings.Contains(fmt.Sprintf("%+v %#v", got, got), s.Reveal()[4:10]) {
		t.Error("what is found tells the secret")
	}
}

func TestScanBoundaries(t *testing.T) {
	s := generate(t).Reveal()
	for text, n := range map[string]int{
		"": 0, "hks_": 0, s: 1, s[:52]: 0, s + "\n": 1, "(" + s + ")": 1, `"` + s + `"`: 1, "=" + s + ";": 1, "-" + s + "-": 1, "\x00" + s + "\x00": 1, "\xff" + s + "\xff": 1,
		"é" + s + "é": 1, "a" + s: 0, "_" + s: 0, "0" + s: 0, s + "a": 0, s + "_": 0, s + "9": 0, s + s: 0, s + " " + s: 2, s + "-" + s: 2, "hks_" + s: 0, "hks_-" + s: 1,
		"hks" + s: 0, "hks-" + s: 1, strings.ToUpper(s): 0, s[:20] + "\n" + s[20:]: 0, "https://x/?k=" + s + "&y": 1, `\n` + s: 0, // of an escape, n is a letter: as the expression has it
	} {
		got := scan(t, strings.NewReader(text))
		if len(got) != n {
			t.Errorf("%q: %d found, want %d", strings.ReplaceAll(text, s, "S"), len(got), n)
		}
		same(t, "the expression", got, expect([]byte(text)))
	}
}

// TestScanAcrossReads: wherever a secret lies, also over the end of a buffer of any length.
func TestScanAcrossReads(t *testing.T) {
	const buffer = 128 << 10
	s := generate(t)
	for _, around := range []string{"x y", "\n", "\x00 "} {
		data := bytes.Repeat([]byte(around), buffer/len(around)+200)
		for at := buffer - 130; at <= buffer+130; at++ {
			with := func(front, behind string) []byte {
				d := bytes.Clone(data)
				copy(d[at-len(front):], front+s.Reveal()+behind)
				return d
			}
			got := scan(t, bytes.NewReader(with(" ", " ")))
			if len(got) != 1 || got[0].Offset != int64(at) || got[0].Public != s.Public() || around == "\n" && (got[0].Line != int64(at) || got[0].Column != 2) {
				t.Errorf("%q at %d: found %+v", around, at, got)
			}
			for _, no := range [][]byte{with(" ", "x"), with("_", " ")} {
				if got := scan(t, bytes.NewReader(no)); len(got) != 0 {
					t.Errorf("%q at %d, as a part of a word: found %+v", around, at, got)
				}
			}
		}
	}
	for _, order := range []binary.AppendByteOrder{binary.LittleEndian, binary.BigEndian} {
		pad := wide(order, repeat("ab c\n", buffer/10+100))
		for units := buffer/2 - 130; units <= buffer/2+30; units++ {
			for text, n := range map[string]int{" " + s.Reveal(): 1, " " + s.Reveal() + " ": 1, " " + s.Reveal() + "x y": 0, "x" + s.Reveal(): 0} {
				if got := scan(t, io.MultiReader(bytes.NewReader(pad[:2*units]), bytes.NewReader(wide(order, text)))); len(got) != n || n > 0 && got[0].Offset/2 != int64(units+1) {
					t.Errorf("UTF-16 %s behind %d: found %+v", order, units, got)
				}
			}
		}
	}
}

// pieces are what the random inputs are made of.
func pieces() *rapid.Generator[string] {
	return rapid.OneOf(
		rapid.Custom(func(t *rapid.T) string { return secrets().Draw(t, "s").Reveal() }),
		rapid.Custom(func(t *rapid.T) string {
			s := secrets().Draw(t, "s").Reveal()
			return s[:rapid.IntRange(0, len(s)).Draw(t, "cut")]
		}),
		rapid.StringMatching(`hks_[0-9A-Za-z]{47,51}`),
		rapid.SampledFrom([]string{" ", "\n", "\r\n", "h", "hk", "hks", "hks_", "_", "-", "\x00", "x", "0", "é", "\xff", "h\x00k\x00s\x00_", "=", `"`}),
		rapid.Custom(func(t *rapid.T) string {
			return repeat(rapid.SampledFrom([]string{"h", "hks_", "word ", "\n", "\x00", "A"}).Draw(t, "filler"), rapid.IntRange(0, 40_000).Draw(t, "times"))
		}),
		rapid.Custom(func(t *rapid.T) string { return string(rapid.SliceOf(rapid.Byte()).Draw(t, "bytes")) }),
	)
}

func TestScanIsTheExpression(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		data := []byte(strings.Join(rapid.SliceOfN(pieces(), 0, 20).Draw(t, "pieces"), ""))
		var r io.Reader = bytes.NewReader(data)
		switch rapid.IntRange(0, 3).Draw(t, "reader") {
		case 0:
			r = iotest.HalfReader(r)
		case 1:
			r = iotest.DataErrReader(r)
		case 2:
			r = &uneven{r, rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0))}
		}
		var got []accesskey.Found
		if err := accesskey.Scan(r, func(f accesskey.Found) error { got = append(got, f); return nil }); err != nil {
			t.Fatal(err)
		}
		if want := expect(data); !slices.Equal(got, want) {
			t.Fatalf("found %+v, want %+v", got, want)
		}
	})
}

// uneven gives parts of any length, none too.
type uneven struct {
	r io.Reader
	n *rand.Rand
}

func (u *uneven) Read(p []byte) (int, error) { return u.r.Read(p[:u.n.IntN(min(len(p), 1000)+1)]) }

func wide(order binary.AppendByteOrder, s string) []byte {
	var out []byte
	for _, u := range utf16.Encode([]rune(s)) {
		out = order.AppendUint16(out, u)
	}
	return out
}

// TestScanUTF16: as text for text, at twice the offset, and one byte on in big-endian text,
// of which the first byte of each character is zero.
func TestScanUTF16(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		words := rapid.SliceOfN(rapid.OneOf(
			rapid.Custom(func(t *rapid.T) string { return secrets().Draw(t, "s").Reveal() }),
			rapid.StringMatching(`hks_[0-9A-Za-z]{48,50} `), // before 乁, of which a byte is a letter, it could not be told
			rapid.SampledFrom([]string{"汉乁", "é", "word", "hks_", "\n", "\u0a0a", "😀", "", "hks_" + repeat("\u4e31", 49)}),
		), 0, 12).Draw(t, "words")
		text := strings.Join(words, rapid.SampledFrom([]string{" ", "\n", `"`, " 乁", "乁 "}).Draw(t, "between"))
		// The expression, over runes of which each is one unit here.
		units := make([]byte, 0, len(text))
		for _, u := range utf16.Encode([]rune(text)) {
			if u > 0x7f {
				u = 0x80
			}
			units = append(units, byte(u))
		}
		want := expect(units)
		for _, order := range []binary.AppendByteOrder{binary.LittleEndian, binary.BigEndian} {
			for _, front := range []string{"", "\xff\xfe", "\x01"} {
				data := append([]byte(front), wide(order, text)...)
				var got []accesskey.Found
				if err := accesskey.Scan(bytes.NewReader(data), func(f accesskey.Found) error { got = append(got, f); return nil }); err != nil {
					t.Fatal(err)
				}
				if len(got) != len(want) {
					t.Fatalf("%s: found %+v, want %+v", order, got, want)
				}
				for i, w := range want {
					offset := 2*w.Offset + int64(len(front))
					if order.String() == "BigEndian" {
						offset++
					}
					line := int64(1 + bytes.Count(data[:offset], []byte("\n")))
					column := offset - int64(bytes.LastIndexByte(data[:offset], '\n'))
					if g := got[i]; g.Offset != offset || g.Line != line || g.Column != column || g.Start != w.Start || g.Real != w.Real || g.Public != w.Public {
						t.Fatalf("%s: found %+v for %+v", order, g, w)
					}
				}
			}
		}
	})
}

func TestScanEnds(t *testing.T) {
	s, mine := generate(t).Reveal(), errors.New("enough")
	calls := 0
	err := accesskey.Scan(strings.NewReader(s+" "+s), func(accesskey.Found) error { calls++; return mine })
	if !errors.Is(err, mine) || calls != 1 {
		t.Errorf("%d calls, %v", calls, err)
	}
	broken := errors.New("the disk is broken")
	calls = 0
	err = accesskey.Scan(io.MultiReader(strings.NewReader(s+" "), iotest.ErrReader(broken)), func(accesskey.Found) error { calls++; return nil })
	if !errors.Is(err, broken) || calls != 1 {
		t.Errorf("%d calls, %v", calls, err)
	}
	if err := accesskey.Scan(boastful{}, func(accesskey.Found) error { return nil }); err == nil {
		t.Error("a reader that counts wrongly is believed")
	}
}

// boastful says that it read more than there was room for.
type boastful struct{}

func (boastful) Read(p []byte) (int, error) { return len(p) + 1, nil }

func TestScanHoldsLittle(t *testing.T) {
	r := &endless{}
	n := testing.AllocsPerRun(1, func() {
		r.left = 8 << 20
		if got := scan(t, r); len(got) != 0 {
			t.Errorf("found %+v", got)
		}
	})
	if n > 20 {
		t.Errorf("%v allocations for 8 MiB in one line", n)
	}
}

// endless is one long line that might always begin a secret.
type endless struct{ left int }

func (e *endless) Read(p []byte) (int, error) {
	n := min(len(p), e.left)
	if n == 0 {
		return 0, io.EOF
	}
	for i := range p[:n] {
		p[i] = "hks_"[i%4]
	}
	e.left -= n
	return n, nil
}

func FuzzScan(f *testing.F) {
	s := generate(f).Reveal()
	f.Add([]byte(s), 7)
	f.Add([]byte("a\n"+s+"\x00"+s+"_"), 1)
	f.Add(wide(binary.LittleEndian, "\n"+s+" "), 3)
	f.Add(wide(binary.BigEndian, "\n"+s+" "), 300)
	f.Add([]byte(repeat("hks_", 100)), 64)
	f.Add([]byte("hks_"+repeat("z", 49)), 64)
	f.Fuzz(func(t *testing.T, data []byte, pad int) {
		// Moved about over the end of the buffer.
		pad = (128<<10 - 200) + int(uint(pad)%400)
		want := expect(data)
		for i := range want {
			if want[i].Offset += int64(pad); want[i].Line == 1 {
				want[i].Column += int64(pad)
			}
		}
		data = append(bytes.Repeat([]byte{'.'}, pad), data...)
		var plain []accesskey.Found
		last := int64(-1)
		for _, found := range scan(t, bytes.NewReader(data)) {
			if found.Offset <= last {
				t.Fatalf("%+v is behind what was found before", found)
			}
			last = found.Offset
			if len(found.Start) != 8 || found.Real == found.Public.IsZero() || found.Line < 1 || found.Column < 1 {
				t.Errorf("%+v", found)
			}
			if data[found.Offset+1] != 0 {
				plain = append(plain, found)
			}
		}
		same(t, "the expression", plain, want)
	})
}

func BenchmarkScan(b *testing.B) {
	random := rand.New(rand.NewPCG(1, 2))
	words := strings.Fields("the whole history of this thing which has shown that they who have much of a hash shall keep checks for hks and tasks if err nil return func")
	var text bytes.Buffer
	for text.Len() < 8<<20 {
		text.WriteString(words[random.IntN(len(words))])
		text.WriteByte(" \n"[min(1, random.IntN(10)/9)])
	}
	noise := make([]byte, 8<<20)
	for i := range noise {
		noise[i] = byte(random.Uint32())
	}
	s := generate(b).Reveal()
	for name, data := range map[string][]byte{
		"text": text.Bytes(), "binary": noise, "utf16": wide(binary.LittleEndian, text.String()),
		"all-h": bytes.Repeat([]byte("h"), 8<<20), "all-prefix": bytes.Repeat([]byte("hks_"), 2<<20),
		"a-secret-each-64KiB": bytes.Repeat(append(append([]byte(nil), text.Bytes()[:64<<10]...), " "+s+"\n"...), 128),
	} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(data)))
			b.ReportAllocs()
			for b.Loop() {
				if err := accesskey.Scan(bytes.NewReader(data), func(accesskey.Found) error { return nil }); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
