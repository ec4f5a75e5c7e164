package audit

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nkeys"

	"github.com/herald-nats/herald/pkg/ident"
)

const (
	// MaxBlock bounds a block, in bytes; servers take no message beyond their max_payload,
	// which is 1 MiB.
	MaxBlock = 256 << 10
	// maxRecords bounds the records of a block.
	maxRecords = 1024
	// format is the first member of each block's first line.
	format = 1
	// signs begins what is signed, so that no signature for something else is one of a block.
	signs = "herald/v1/audit\n"
)

// Head is the first line of a block.
type Head struct {
	Format int           `json:"herald_audit"`
	Region ident.Region  `json:"region"`
	Writer ident.UserKey `json:"writer"`
	// Chain is the writer's own: one for each time that it was started. N counts its blocks
	// from 1, and Prev is the sum of the block before.
	Chain string `json:"chain"`
	N     uint64 `json:"n"`
	Prev  string `json:"prev,omitempty"`
	At    int64  `json:"at"` // milliseconds since 1970
	// Records is how many lines follow; none is a mere sign of life.
	Records int `json:"records"`
	// Dropped is how many records were given up since the block before, because there was
	// no room for them.
	Dropped uint64 `json:"dropped,omitempty"`
	// End: the writer stopped in order, and this is its last block.
	End bool `json:"end,omitempty"`
	// After is, in a first block, what this writer last knew of its chain before.
	After *Ref `json:"after,omitempty"`
	// Resent are blocks that may be there twice: they were stored again after nobody had
	// answered for longer than a stream remembers.
	Resent []Span `json:"resent,omitempty"`
	// JWT is the writer's own credential, in the first block and then once in a while: it
	// shows up to the operator who the writer is.
	JWT string `json:"jwt,omitempty"`
}

// Ref names a block.
type Ref struct {
	Chain string `json:"chain"`
	N     uint64 `json:"n"`
	Sum   string `json:"sum"`
	At    int64  `json:"at,omitempty"` // when it was made, milliseconds since 1970
}

// Span names blocks of a chain that follow each other.
type Span struct {
	Chain string `json:"chain"`
	First uint64 `json:"first"`
	Last  uint64 `json:"last"`
}

// Block is one that was read, and is what its writer signed.
type Block struct {
	Head
	Sum     string // of all of it but its signature
	Content []Record
}

// Sealed is a block as it is stored.
type Sealed struct {
	Ref
	At   time.Time
	Data []byte
}

// ID is the block's own, by which a stream knows one that is stored again. It is the
// signature, which nobody else can make: whoever could name a block before it is stored
// could store something else by that name under their own subject, and the block would be
// acknowledged as one that is there.
func (s Sealed) ID() string { return string(s.Data[max(0, len(s.Data)-signatureLength):]) }

// Signer signs blocks; keystore.Key is one.
type Signer interface {
	Sign(data []byte) ([]byte, error)
}

// newChain names a chain.
func newChain() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails, as of Go 1.24
	return base64.RawURLEncoding.EncodeToString(b[:])
}

// Seal makes a block of a head and records. A tool that has a few things to record once
// makes a chain of one block: N is 1, End is set.
func Seal(h Head, records []Record, s Signer) (Sealed, error) {
	var lines []byte
	for _, r := range records {
		line, err := r.encode()
		if err != nil {
			return Sealed{}, err
		}
		lines = append(lines, line...)
	}
	h.Records = len(records)
	if h.Chain == "" {
		h.Chain = newChain()
	}
	return seal(h, lines, s)
}

// seal makes a block of a head and encoded records.
func seal(h Head, lines []byte, s Signer) (Sealed, error) {
	h.Format = format
	head, err := json.Marshal(h) // #nosec G117 -- a JWT that shows who the writer is, and is of no use without its seed
	if err != nil {
		return Sealed{}, fmt.Errorf("encoding a block: %w", err)
	}
	data := make([]byte, 0, len(signs)+len(head)+1+len(lines)+base64.RawURLEncoding.EncodedLen(64))
	data = append(data, signs...)
	data = append(append(data, head...), '\n')
	data = append(data, lines...)
	sig, err := s.Sign(data)
	if err != nil {
		return Sealed{}, fmt.Errorf("signing a block: %w", err)
	}
	sum := sumOf(data)
	data = base64.RawURLEncoding.AppendEncode(data, sig)
	if n := len(data) - len(signs); n > MaxBlock {
		return Sealed{}, fmt.Errorf("a block of %d bytes, and %d are read: %w", n, MaxBlock, ErrDamaged)
	}
	return Sealed{Ref{h.Chain, h.N, sum, h.At}, time.UnixMilli(h.At), data[len(signs):]}, nil
}

func sumOf(signed []byte) string {
	sum := sha256.Sum256(signed)
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// Open reads a block that was found under a region's and a writer's subject,
// "<region>.<writer>". Nothing of it is looked at before its size and its signature are.
// One that says otherwise, or is out of shape, is ErrDamaged.
//
// Servers let nobody but that writer publish there; that it is of this platform shows by
// the JWT in its chain, which is the Verifier's business.
func Open(subject, data string) (Block, error) {
	if len(data) > MaxBlock {
		return Block{}, fmt.Errorf("a block of %d bytes: %w", len(data), ErrDamaged)
	}
	where, key, _ := strings.Cut(subject, ".")
	region, err := ident.ParseRegion(where)
	if err != nil {
		return Block{}, fmt.Errorf("a block under %.80q: %w", subject, ErrDamaged)
	}
	writer, err := ident.ParseUserKey(key)
	if err != nil {
		return Block{}, fmt.Errorf("a block under %.80q: %w", subject, ErrDamaged)
	}
	end := strings.LastIndexByte(data, '\n') + 1
	signed := append([]byte(signs), data[:end]...)
	if err := verify(writer, signed, data[end:]); err != nil {
		return Block{}, err
	}
	b := Block{Sum: sumOf(signed)}
	first, rest, _ := strings.Cut(data[:end], "\n")
	if err := strictly([]byte(first), &b.Head); err != nil {
		return Block{}, fmt.Errorf("the head of a block: %w", err)
	}
	if err := b.check(); err != nil {
		return Block{}, err
	}
	if b.Region != region || b.Writer != writer {
		return Block{}, fmt.Errorf("a block of %s in %s under %.80q: %w", b.Writer, b.Region, subject, ErrDamaged)
	}
	if strings.Count(rest, "\n") != b.Records {
		return Block{}, fmt.Errorf("block %d of %s says that it has %d records: %w", b.N, b.Chain, b.Records, ErrDamaged)
	}
	b.Content = make([]Record, 0, b.Records)
	lines := json.NewDecoder(strings.NewReader(rest))
	lines.DisallowUnknownFields()
	end = 0
	for line := range strings.Lines(rest) {
		var r Record
		if len(line) > MaxRecord+1 {
			return Block{}, fmt.Errorf("a record of %d bytes: %w", len(line), ErrDamaged)
		}
		if err := lines.Decode(&r); err != nil {
			return Block{}, fmt.Errorf("a record that cannot be read: %w: %w", ErrDamaged, err)
		}
		// Each is one line: so it can be read by whatever reads lines.
		if end += len(line); lines.InputOffset() != int64(end-1) {
			return Block{}, fmt.Errorf("a record that is not one line: %w", ErrDamaged)
		}
		if err := r.check(); err != nil {
			return Block{}, err
		}
		r.Region, r.Issuer = b.Region, b.Writer
		b.Content = append(b.Content, r)
	}
	return b, nil
}

// strictly decodes a line that has nothing else than what is known. Who writes more is
// newer, and then this reader would miss what it says.
func strictly(line []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(line))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return fmt.Errorf("a line that cannot be read: %w: %w", ErrDamaged, err)
	}
	if d.More() {
		return fmt.Errorf("a line with something behind its end: %w", ErrDamaged)
	}
	return nil
}

// errSignature: somebody else wrote it, or changed it.
var errSignature = errors.New("the signature is not the writer's")

func verify(writer ident.UserKey, signed []byte, signature string) error {
	// Strict, and of one length: a signature has one spelling.
	sig, err := base64.RawURLEncoding.Strict().DecodeString(signature)
	if err != nil || len(sig) != 64 || len(signature) != signatureLength {
		return fmt.Errorf("a block without a signature: %w: %w", ErrDamaged, errSignature)
	}
	k, err := nkeys.FromPublicKey(writer.String())
	if err != nil {
		return fmt.Errorf("reading a writer's key: %w", err)
	}
	if k.Verify(signed, sig) != nil {
		return fmt.Errorf("a block of %s: %w: %w", writer, ErrDamaged, errSignature)
	}
	return nil
}

const (
	chainLength = 22
	sumLength   = 43
	// signatureLength is that of a signature's 64 bytes as they are written.
	signatureLength = 86
	maxJWT          = 8 << 10
	maxSpans        = 16
)

func (h Head) check() error {
	switch {
	case h.Format != format:
		return fmt.Errorf("a block of format %d, and %d is known: %w", h.Format, format, ErrDamaged)
	case !isText(h.Chain, chainLength), h.N == 0, h.At <= 0, h.Records < 0 || h.Records > maxRecords, len(h.JWT) > maxJWT, len(h.Resent) > maxSpans:
	case (h.N == 1) != (h.Prev == ""), h.Prev != "" && !isText(h.Prev, sumLength):
	case h.After != nil && (h.N != 1 || !isText(h.After.Chain, chainLength) || h.After.N == 0 || h.After.At < 0 || !isText(h.After.Sum, sumLength)):
	default:
		for _, s := range h.Resent {
			if !isText(s.Chain, chainLength) || s.First == 0 || s.Last < s.First {
				return fmt.Errorf("block %d: blocks that were stored again, out of shape: %w", h.N, ErrDamaged)
			}
		}
		return nil
	}
	return fmt.Errorf("the head of block %d, out of shape: %w", h.N, ErrDamaged)
}

// isText tells whether a text is base64url of a length.
func isText(s string, length int) bool {
	if len(s) != length {
		return false
	}
	_, err := base64.RawURLEncoding.DecodeString(s)
	return err == nil
}
