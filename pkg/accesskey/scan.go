package accesskey

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	"github.com/herald-nats/herald/pkg/ident"
)

// Form is how a secret stands in a text.
type Form string

// The forms that Scan knows.
const (
	// FormPlain is ASCII, or a text that has ASCII as it is, such as UTF-8.
	FormPlain Form = "plain"
	// FormUTF16 is UTF-16 of either byte order.
	FormUTF16 Form = "utf-16"
	// FormBase64 is base64 of a text in one of the others.
	FormBase64 Form = "base64"
)

// Found is one text with the shape of a secret, and where it is.
type Found struct {
	// Offset, in bytes from the beginning, from 0. Of base64, which may be of much more than
	// the secret, it is the first character that has a part of the secret.
	Offset int64
	// Line from 1; a line ends after each byte 0x0A.
	Line int64
	// Column in bytes, from 1, of the first character.
	Column int64
	// Form is how it stands there.
	Form Form
	// Start are the first 8 characters, so that a person can find it again; of base64, what
	// they are decoded. The 4 that are of the secret tell 24 of its 256 bits.
	Start string
	// Real tells whether it was made by Generate: its checksum holds. Others are examples,
	// accidents, or secrets that were altered.
	Real bool
	// Public is the public half, by which a platform can tell whose it is. Zero if it is
	// not real.
	Public ident.UserKey
}

const (
	// scanBuffer is how much is looked at in one go, in bytes: it stays in a core's cache.
	scanBuffer = 128 << 10
	// before and after are how many bytes around a match in UTF-16 are looked at, at most;
	// wideLen is how long one is, from the h to the last character.
	before  = 3
	after   = 3
	wideLen = 2*secretLen - 1
	// span is how long a match in base64 may be, in bytes, with what is between its lines.
	span = 4 << 10
)

// Scan calls found for everything in r that is a secret or has the shape of one, in the order
// of the text. The input may be of any kind, its lines of any length. An error of r or of
// found ends it and is given back; what was found before it was told. What it holds of the
// input is 128 KiB, overwritten by the next part.
//
// What begins with hks_ and has 49 digits of base62 behind it, of which the last are their
// checksum, is a secret whatever is around it: the end of an escape such as \n or %3D, or
// other letters. What only looks like one is told if it stands alone, as
// \bhks_[0-9A-Za-z]{49}\b. All this holds for UTF-16 of either byte order, too.
//
// In base64 real ones alone are found, of plain text and of UTF-16. It may be a part of
// longer base64, of either alphabet, and itself in UTF-16. Between its characters may be line
// ends with any bytes but letters and digits around them: indentation, marks of quotes and
// comments, a diff's + and -. The escapes \n and \r are line ends as well. From the first
// character to the last it may have 4 KiB.
//
// Not found is what was compressed, encoded twice, as base64 of base64, or in another way, as
// in hexadecimal digits, and a secret of which a character is itself an escape, or which is
// broken into lines without being base64.
func Scan(r io.Reader, found func(Found) error) error {
	s := scanner{buf: make([]byte, 0, scanBuffer), line: 1, needles: needles()}
	for {
		n, err := r.Read(s.buf[len(s.buf):cap(s.buf)])
		if n < 0 || n > cap(s.buf)-len(s.buf) {
			return errors.New("scanning: a reader that counts wrongly")
		}
		s.buf = s.buf[:len(s.buf)+n]
		switch {
		case err == io.EOF:
			return s.look(true, found)
		case err != nil:
			return errors.Join(s.look(true, found), fmt.Errorf("scanning: %w", err))
		case len(s.buf) == cap(s.buf):
			if err := s.look(false, found); err != nil {
				return err
			}
		}
	}
}

// A needle is what all secrets of a form have in them, wherever and whichever they are.
type needle struct {
	text string
	form Form
	// step is how many bytes a character of the secret has, 2 in UTF-16.
	step int
	// lead is, in base64, how many characters before the needle have a part of the secret,
	// and skip how many bits of the first are of what is before the secret.
	lead, skip int

	rare int // the character of the needle to look for in this buf
	from int // where in buf to go on looking
	at   int // where the next match may begin; len(buf) if nowhere
}

const (
	plainPrefix = "hks_"
	// In big-endian text there is a zero before it as well, in little-endian behind it.
	widePrefix = "h\x00k\x00s\x00_\x00"
)

// needles are all of them. Those of base64 are the characters that have bits of the prefix
// alone, after as many bytes as are left by threes. None is a + or a /, and so they are of
// both alphabets.
func needles() [8]needle {
	return [...]needle{
		{text: plainPrefix, form: FormPlain, step: 1},
		{text: widePrefix, form: FormUTF16, step: 2},
		{text: "aGtzX", form: FormBase64, step: 1},
		{text: "hrc1", form: FormBase64, step: 1, lead: 1, skip: 2},
		{text: "oa3Nf", form: FormBase64, step: 1, lead: 1, skip: 4},
		{text: "aABrAHMAXw", form: FormBase64, step: 2},
		{text: "gAawBzAF8A", form: FormBase64, step: 2, lead: 1, skip: 2},
		{text: "oAGsAcwBfA", form: FormBase64, step: 2, lead: 1, skip: 4},
	}
}

// scanner holds a part of the input, and what was before it.
type scanner struct {
	buf     []byte
	next    int // the first byte of buf at which a match may begin; those before are context
	needles [8]needle

	base      int64 // where buf[0] is in the input
	counted   int   // the first byte of buf whose line end is not counted
	line      int64 // of buf[counted], from 1
	lineStart int64 // where that line begins in the input
}

// look finds what begins in buf, keeps what a match could begin in that goes on behind it,
// and drops the rest.
func (s *scanner) look(last bool, found func(Found) error) error {
	// A match that begins before end can be told.
	end := len(s.buf)
	if !last {
		end = max(s.next, len(s.buf)-span)
	}
	s.choose()
	for i := range s.needles {
		s.needles[i].from = s.next
		s.seek(&s.needles[i])
	}
	for {
		n := &s.needles[0]
		for i := range s.needles[1:] {
			if m := &s.needles[i+1]; m.at < n.at {
				n = m
			}
		}
		if n.at >= end {
			break
		}
		if f, ok := s.check(n); ok {
			if err := found(f); err != nil {
				return err
			}
		}
		s.seek(n)
	}
	s.count(end)
	keep := max(0, end-before)
	s.base += int64(keep)
	s.counted -= keep
	s.next = end - keep
	s.buf = s.buf[:copy(s.buf, s.buf[keep:])]
	return nil
}

// choose takes the character of each needle that is the rarest here. Whether the input is
// prose, numbers or base64, some are so rare that looking for one byte alone, which is what
// a processor does fastest, leaves little to look at. And no line end can break one byte.
func (s *scanner) choose() {
	const every = 127 // a prime, so that columns of a table are no pattern in it
	var seen [256]int
	for i := s.next; i < len(s.buf); i += every {
		seen[s.buf[i]]++
	}
	for i := range s.needles {
		n := &s.needles[i]
		n.rare = 0
		for j := range len(n.text) {
			if seen[n.text[j]] < seen[n.text[n.rare]] {
				n.rare = j
			}
		}
	}
}

// seek goes on to the next place at which a match of n may begin.
func (s *scanner) seek(n *needle) {
	for {
		i := bytes.IndexByte(s.buf[n.from:], n.text[n.rare])
		if i < 0 {
			n.at = len(s.buf)
			return
		}
		i += n.from
		n.from = i + 1
		if n.at = s.begin(n, i); n.at >= 0 {
			return
		}
	}
}

// begin gives where a match of n begins whose rare character is at i, -1 if there is none.
func (s *scanner) begin(n *needle, i int) int {
	if n.form != FormBase64 {
		at := i - n.rare
		if at < s.next || !bytes.HasPrefix(s.buf[at:], []byte(n.text)) {
			return -1
		}
		return at
	}
	// Most are nothing, which their neighbours tell.
	if n.rare+1 < len(n.text) && !near(s.at(i+1), n.text[n.rare+1]) || n.rare > 0 && !near(s.at(i-1), n.text[n.rare-1]) {
		return -1
	}
	at, limit := i, min(len(s.buf), i+span)
	for j := n.rare + 1; j < len(n.text); j++ {
		if i, _ = s.behind(i, limit); i < 0 || s.buf[i] != n.text[j] {
			return -1
		}
	}
	for j := n.rare - 1; j >= -n.lead; j-- {
		if at = s.ahead(at); at < 0 || j >= 0 && s.buf[at] != n.text[j] {
			return -1
		}
	}
	return at
}

// behind gives where the character of base64 behind that at i is, -1 if there is none before
// limit. A + or - between them may be of the base64 or be a mark of a diff, as may be others
// that only one alphabet has: it tells whether there is one that could be a character.
func (s *scanner) behind(i, limit int) (at int, signs bool) {
	broken := false
	for j := i + 1; j < limit; j++ {
		c := s.buf[j]
		reached := broken || j == i+1 || j == i+2 && s.buf[i+1] == 0
		switch {
		case s.escaped(j) || c == '\n' || c == '\r':
			broken = true
		case value62(c) >= 0 && reached:
			return j, signs
		case value62(c) >= 0:
			return -1, signs
		case !mark(c):
			return -1, signs
		case reached && (c == '+' || c == '/' || c == '-' || c == '_'):
			signs = true
		}
	}
	return -1, signs
}

// ahead is behind in the other direction.
func (s *scanner) ahead(i int) int {
	broken := false
	for j := i - 1; j >= max(s.next, i-span); j-- {
		c := s.buf[j]
		switch {
		case s.escaped(j) || c == '\n' || c == '\r':
			broken = true
		case value62(c) >= 0 && (broken || j == i-1 || j == i-2 && s.buf[i-1] == 0):
			return j
		case !mark(c):
			return -1
		}
	}
	return -1
}

// near tells whether c, beside a character of base64, is its neighbour, or may be between
// them: the letter of an escaped line end, too.
func near(c, neighbour byte) bool { return c == neighbour || mark(c) || c == 'n' || c == 'r' }

// mark tells whether c may be between two characters of base64: of ASCII, all that is printed
// and is no letter or digit, the tab, the line ends, and the zero of UTF-16.
func mark(c byte) bool {
	const (
		low  uint64 = 1<<0 | 1<<'\t' | 1<<'\n' | 1<<'\r' | 0xfc00ffff<<32 // 0x20 to 0x2f, 0x3a to 0x3f
		high uint64 = 1 | 0x1f<<('['-64) | 1<<('`'-64) | 0xf<<('{'-64)    // @, and around the letters
	)
	if c < 64 {
		return low>>c&1 != 0
	}
	return c < 128 && high>>(c-64)&1 != 0
}

// escaped tells whether the byte at i is the letter of an escaped line end.
func (s *scanner) escaped(i int) bool {
	return (s.buf[i] == 'n' || s.buf[i] == 'r') && s.at(i-1) == '\\'
}

// at is a byte of buf; 0, which is no part of a word, where there is none.
func (s *scanner) at(i int) byte {
	if i < 0 || i >= len(s.buf) {
		return 0
	}
	return s.buf[i]
}

// check tells what begins at n.at, and whether it is to be told.
func (s *scanner) check(n *needle) (Found, bool) {
	f := Found{Form: n.form}
	switch n.form {
	case FormBase64:
		if !s.base64(n, &f) {
			return f, false
		}
	case FormUTF16:
		if n.at+wideLen > len(s.buf) || !f.read(s.buf[n.at:n.at+wideLen], n.step) || !f.Real && !s.alone16(n.at) {
			return f, false
		}
	default:
		end := n.at + secretLen
		if end > len(s.buf) || !f.read(s.buf[n.at:end], n.step) || !f.Real && (isWord(s.at(n.at-1)) || isWord(s.at(end))) {
			return f, false
		}
	}
	s.count(n.at)
	f.Offset = s.base + int64(n.at)
	f.Line, f.Column = s.line, f.Offset-s.lineStart+1
	return f, true
}

// read reads a text that begins with the prefix, of which each character has step bytes, and
// tells whether it has the shape of a secret.
func (f *Found) read(data []byte, step int) bool {
	var text [secretLen]byte
	for i, c := range data {
		if !shaped(i, c, step) {
			return false
		}
		text[i/step] |= c // what is not of a character is zero
	}
	f.Start = string(text[:8])
	if secret, err := Parse(string(text[:])); err == nil {
		f.Real, f.Public = true, secret.Public()
	}
	return true
}

// shaped tells whether byte i of a secret, of which each character has step bytes, may be c.
func shaped(i int, c byte, step int) bool {
	switch {
	case i%step != 0:
		return c == 0
	case i/step < len(prefix):
		return c == prefix[i/step]
	default:
		return value62(c) >= 0
	}
}

// alone16 tells whether a match in UTF-16 that begins at i is a word. Which byte order it is
// of cannot be told for sure in the middle of a file. What is the end of a word in one of
// them is taken for it: beside letters of other scripts that finds too much rather than too
// little, and the checksum tells.
func (s *scanner) alone16(i int) bool {
	behind := i + wideLen
	return (s.at(i-3) != 0 || !isWord(s.at(i-2)) || s.at(i-1) != 0) &&
		(s.at(behind) != 0 || !isWord(s.at(behind+1)) || s.at(behind+2) != 0)
}

// base64 reads what begins at n.at and tells whether it is a secret.
func (s *scanner) base64(n *needle, f *Found) bool {
	size := n.step*(secretLen-1) + 1
	data := make([]byte, 0, wideLen)
	i, limit := n.at, min(len(s.buf), n.at+span)
	sum, bits := sextet(s.buf[i]), 6-n.skip
	for bits+6 < 8*(size-len(data)) {
		if i, _ = s.behind(i, limit); i < 0 {
			return false
		}
		if sum, bits = sum<<6|sextet(s.buf[i]), bits+6; bits >= 8 {
			bits -= 8
			c := byte(sum >> bits) // #nosec G115 -- the low byte; what is above was taken
			if !shaped(len(data), c, n.step) {
				return false // before the rest is walked through
			}
			data = append(data, c)
		}
	}
	// The last has a part of what comes after, and so may be any of the 64. What is no letter
	// or digit among them begins with bits that are all set.
	i, signs := s.behind(i, limit)
	whole := func(last int) bool {
		return f.read(append(data, byte((sum<<6|last)>>(bits-2))), n.step) && f.Real // #nosec G115 -- as above
	}
	return i >= 0 && whole(sextet(s.buf[i])) || signs && whole(63)
}

// sextet is what a letter or digit is worth in base64.
func sextet(c byte) int {
	switch {
	case c <= '9':
		return int(c-'0') + 52
	case c <= 'Z':
		return int(c - 'A')
	default:
		return int(c-'a') + 26
	}
}

// isWord is \w of regular expressions over bytes.
func isWord(c byte) bool { return value62(c) >= 0 || c == '_' }

// count counts the line ends before i.
func (s *scanner) count(i int) {
	part := s.buf[s.counted:i]
	s.line += int64(bytes.Count(part, []byte{'\n'}))
	if j := bytes.LastIndexByte(part, '\n'); j >= 0 {
		s.lineStart = s.base + int64(s.counted+j+1)
	}
	s.counted = i
}
