// Package ledger is what the platform knows and by which rules it decides.
//
// Its unit is the entry: one signed statement about one key, such as "name.alice",
// with a version. Of two entries about one key the one that Beats the other holds,
// and that is a total order; so whoever has seen the same entries, in whatever
// order and however often, knows the same. There are two classes of keys:
//
//   - Decided in home: names, invites, access keys, base claims of accounts, the
//     platform document. Home's registrars alone write them, by compare-and-set.
//   - Written anywhere: revocations and suspensions. Every region writes its own,
//     also when it is cut off; nobody has to be asked.
//
// Here are the rules, as functions of what is stored, and the small interfaces to
// where it is stored; what readers hold in memory (Projection) and how they keep up
// (Follower). The stores are in memory/ and jetstream/, held to one behaviour by
// ledgertest/; diskcopy/ is a projection's sealed copy on a disk. This package connects
// to nothing, reads no file and no clock.
package ledger

import (
	"context"
	"errors"
	"time"
)

// Errors that the stores and the rules give; all others wrap one of them or say
// that something of ours is wrong.
var (
	// ErrNotFound: there is no entry with that key.
	ErrNotFound = errors.New("the ledger has no such entry")
	// ErrConflict: somebody wrote the entry since it was read; read and decide again.
	ErrConflict = errors.New("changed by another writer")
	// ErrUnavailable: the store cannot be reached or has no quorum. Whether a
	// write was stored is then unknown. All decisions are idempotent: ask again.
	ErrUnavailable = errors.New("the ledger cannot be reached")
	// ErrDamaged: what is stored is no entry that belongs there: cut off, altered,
	// unsigned, signed by a stranger, or about another key.
	ErrDamaged = errors.New("an entry that is not believed")
	// ErrAhead: the entry is dated further ahead than clocks may differ.
	ErrAhead = errors.New("an entry from the future")
	// ErrLost: the store has less than was seen before.
	ErrLost = errors.New("the ledger has lost an entry")
	// ErrTaken: another identity holds the name.
	ErrTaken = errors.New("the name is another identity's")
	// ErrResting: the name was another identity's until lately.
	ErrResting = errors.New("the name rests before somebody else may have it")
	// ErrSpent: the invitation was used as often as it may be.
	ErrSpent = errors.New("the invitation is used up")
	// ErrExpired: the invitation's time is over.
	ErrExpired = errors.New("the invitation is over")
	// ErrOld: the statement is no newer than what holds.
	ErrOld = errors.New("not newer than what the ledger has")
)

// DecisionStore holds what is decided in home: one entry for each key, replaced by
// compare-and-set. It verifies nothing; who reads an entry opens it.
//
// Durability: when Put returns nil a quorum has the entry on disk. Order: the
// writes to one key are linearizable, and revisions of one key only grow; nothing
// is promised between keys. Concurrency: any number of processes. A context that
// ends makes either method return an error that wraps ErrUnavailable.
type DecisionStore interface {
	// Get gives the entry's token and its revision as the store's leader has it,
	// hence with the caller's own last write. ErrNotFound, ErrUnavailable.
	Get(ctx context.Context, key Key) (token string, revision uint64, err error)
	// Put writes the entry if its revision is still the given one, 0 being that
	// there is none. ErrConflict if it has changed; ErrUnavailable, after which the
	// entry may have been written or not, or may yet be.
	Put(ctx context.Context, key Key, token string, revision uint64) error
}

// DenialStore holds what one region wrote: revocations and suspensions.
//
// Durability: when Append returns nil a quorum of the region has the entry on disk.
// Order: none is needed. An entry that is appended twice is there once. Later
// entries about one key replace earlier ones, whatever their versions: the caller
// appends only what beats the entries that it knows.
type DenialStore interface {
	// Append writes an entry. ErrUnavailable, after which it may have been written.
	Append(ctx context.Context, key Key, token string) error
}

// Stored is an entry, or a block of records, as a Source has it.
type Stored struct {
	// Subject is the key that it is stored under; for a block, its region and writer.
	Subject string
	// Data is the entry's token, or the block; see pkg/audit.
	Data string
	// Seq is its position in the source, from 1.
	Seq uint64
}

// Mark is one entry of a source: its position, and when it was stored there.
type Mark struct {
	Seq uint64
	At  time.Time
}

// Marked is what a Source may have besides: by it a follower knows a stream that was
// made anew, also once it has as much as the old one had.
type Marked interface {
	// Ends are the oldest and the newest that there is, zero if there is nothing. In
	// one stream both only grow. ErrUnavailable.
	Ends(ctx context.Context) (first, last Mark, err error)
}

// Source is a store as those read it who follow it. Positions only grow; of several
// entries about one key a source may have the last one only.
//
// What it gives is what one replica has, which may be a moment behind. It needs no
// quorum, no consumer and no leader.
type Source interface {
	// Read gives what is after a position, oldest first, at most limit of it and
	// nothing at the end. ErrUnavailable.
	Read(ctx context.Context, after uint64, limit int) ([]Stored, error)
	// Last is the position of the newest, 0 if there is nothing. ErrUnavailable.
	Last(ctx context.Context) (uint64, error)
}
