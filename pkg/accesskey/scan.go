package accesskey

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	"github.com/herald-nats/herald/pkg/ident"
)

// Found is one text with the shape of a secret, and where it is.
type Found struct {
	// Offset, in bytes from the beginning, from 0.
	Offset int64
	// Line from 1; a line ends after each byte 0x0A.
	Line int64
	// Column in bytes, from 1, of the first character.
	Column int64
	// Start are the first 8 characters, so that a person can find it again. The 4 that are
	// of the secret tell 24 of its 256 bits.
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
	// before and after are how many bytes around a match are looked at, at most; wideLen is
	// how long one is in UTF-16, from the h to the last character.
	before  = 3
	after   = 3
	wideLen = 2*secretLen - 1
)

// Scan calls found for everything in r that has the shape of a secret, in the order of the
// text: \bhks_[0-9A-Za-z]{49}\b, in ASCII or in a text that has it as it is, such as UTF-8,
// and in UTF-16 of either byte order. The input may be of any kind, its lines of any length.
// An error of r or of found ends it and is given back; what was found before it was told.
// What it holds of the input is 128 KiB, overwritten by the next part.
func Scan(r io.Reader, found func(Found) error) error {
	s := scanner{buf: make([]byte, 0, scanBuffer), line: 1}
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

// scanner holds a part of the input, and what was before it.
type scanner struct {
	buf  []byte
	next int // the first byte of buf at which a match may begin; those before are context

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
		end = max(s.next, len(s.buf)-wideLen-after)
	}
	plain, wide := s.find(plainPrefix, s.next, end), end
	// Texts without a zero byte are most, and have nothing in UTF-16: they are searched once.
	if bytes.IndexByte(s.buf[s.next:], 0) >= 0 {
		wide = s.find(widePrefix, s.next, end)
	}
	for plain < end || wide < end {
		at, text := min(plain, wide), [secretLen]byte{}
		var ok bool
		if at == plain {
			ok = s.plain(at, &text)
			plain = s.find(plainPrefix, at+1, end)
		} else {
			ok = s.wide(at, &text)
			wide = s.find(widePrefix, at+1, end)
		}
		if ok {
			if err := found(s.tell(at, string(text[:]))); err != nil {
				return err
			}
		}
	}
	s.count(end)
	keep := max(0, end-before)
	s.base += int64(keep)
	s.counted -= keep
	s.next = end - keep
	s.buf = s.buf[:copy(s.buf, s.buf[keep:])]
	return nil
}

const (
	plainPrefix = "hks_"
	// In big-endian text there is a zero before it as well, in little-endian behind it.
	widePrefix = "h\x00k\x00s\x00_\x00"
)

// find gives where pattern begins at or behind from, and before end; end if nowhere.
func (s *scanner) find(pattern string, from, end int) int {
	// A match may begin before end and go on behind it.
	if i := bytes.Index(s.buf[from:min(len(s.buf), end+len(pattern)-1)], []byte(pattern)); i >= 0 {
		return from + i
	}
	return end
}

// at is a byte of buf; 0, which is no part of a word, where there is none.
func (s *scanner) at(i int) byte {
	if i < 0 || i >= len(s.buf) {
		return 0
	}
	return s.buf[i]
}

// plain copies the match that begins at i and tells whether it is one.
func (s *scanner) plain(i int, text *[secretLen]byte) bool {
	if isWord(s.at(i-1)) || isWord(s.at(i+secretLen)) || copy(text[:], s.buf[i:]) < secretLen {
		return false
	}
	return allDigits(text)
}

// wide is plain in UTF-16. Which byte order it is of cannot be told for sure in the middle of
// a file. What is the end of a word in one of them is taken for it: beside letters of other
// scripts that finds too much rather than too little, and the checksum tells.
func (s *scanner) wide(i int, text *[secretLen]byte) bool {
	if i+wideLen > len(s.buf) {
		return false
	}
	for j := range text {
		text[j] = s.buf[i+2*j]
		if j > 0 && s.buf[i+2*j-1] != 0 {
			return false
		}
	}
	behind := i + wideLen
	if s.at(i-3) == 0 && isWord(s.at(i-2)) && s.at(i-1) == 0 {
		return false
	}
	if s.at(behind) == 0 && isWord(s.at(behind+1)) && s.at(behind+2) == 0 {
		return false
	}
	return allDigits(text)
}

func allDigits(text *[secretLen]byte) bool {
	for _, c := range text[len(prefix):] {
		if value62(c) < 0 {
			return false
		}
	}
	return true
}

// isWord is \w of regular expressions over bytes.
func isWord(c byte) bool { return value62(c) >= 0 || c == '_' }

// tell says what begins at i.
func (s *scanner) tell(i int, text string) Found {
	s.count(i)
	f := Found{
		Offset: s.base + int64(i), Line: s.line, Column: s.base + int64(i) - s.lineStart + 1,
		Start: text[:8],
	}
	if secret, err := Parse(text); err == nil {
		f.Real, f.Public = true, secret.Public()
	}
	return f
}

// count counts the line ends before i.
func (s *scanner) count(i int) {
	part := s.buf[s.counted:i]
	s.line += int64(bytes.Count(part, []byte{'\n'}))
	if j := bytes.LastIndexByte(part, '\n'); j >= 0 {
		s.lineStart = s.base + int64(s.counted+j+1)
	}
	s.counted = i
}
