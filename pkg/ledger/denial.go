package ledger

import (
	"fmt"
	"time"
)

// Revocation ends every credential of a user in an account that was issued at or
// before a moment. That moment is the entry's version, so that the later one holds
// and nothing takes a revocation back.
type Revocation struct {
	Before int64  `json:"-"`             // seconds since 1970: the entry's version
	By     string `json:"by,omitempty"`  // who decided it, for people to read
	Why    string `json:"why,omitempty"` // and the reason
}

// Ends is when no credential is alive any more that the revocation ends: none lives for
// longer than MaxLife, in whatever account, since any may have static users. After that
// servers need not be told of it.
func (r Revocation) Ends() time.Time { return time.Unix(r.Before, 0).Add(MaxLife) }

// Suspension keeps an identity, a user or an account from being given credentials,
// or ends that. The entry's version is a counter: who resumes or suspends adds one to
// what they saw, the later counter holds, and of two with one counter the one that
// suspends (Entry.Denies).
type Suspension struct {
	By  string `json:"by,omitempty"`
	Why string `json:"why,omitempty"`
	// Revoked: they are not expected back, and are told so. Who resumes them may all the same.
	Revoked bool `json:"revoked,omitempty"`
}

// maxWhy bounds what people write beside a decision.
const maxWhy = 512

// Revoke states that a user's credentials issued at or before a moment are over, or those of
// a whole account; see RevocationKey and EverybodyKey. It gives nil if an equal or later
// revocation is there: cur, which may be nil.
// The result is to be appended to the own region's DenialStore.
func Revoke(o Opener, s Signer, key Key, cur *Entry, before time.Time, r Revocation, now time.Time) (*Entry, error) {
	if key.Kind() != KindRevocation || before.Unix() <= 0 || len(r.By) > maxWhy || len(r.Why) > maxWhy {
		return nil, fmt.Errorf("revoking %s: out of shape: %w", key, ErrDamaged)
	}
	version := uint64(before.Unix()) // #nosec G115 -- positive
	if cur != nil && cur.Version >= version {
		return nil, nil
	}
	return stated(o, s, draft{key: key, version: version, denies: true, at: now, body: r})
}

// Suspend states that who the key is about is suspended, or is no longer. seen is the
// counter that whoever decides this saw, 0 if none: if the ledger has a later one,
// cur, the answer is ErrOld, so that a replayed resume undoes no newer suspension.
// It gives nil if it is so already.
func Suspend(o Opener, s Signer, key Key, cur *Entry, suspend bool, seen uint64, r Suspension, now time.Time) (*Entry, error) {
	if key.Kind() != KindSuspension || len(r.By) > maxWhy || len(r.Why) > maxWhy {
		return nil, fmt.Errorf("suspending %s: out of shape: %w", key, ErrDamaged)
	}
	var have uint64
	if cur != nil {
		have = cur.Version
	}
	suspended := cur != nil && cur.Denies
	switch {
	case suspend && suspended && (isRevoked(cur) || !r.Revoked), !suspend && !suspended && have == seen:
		return nil, nil
	case !suspend && have != seen:
		return nil, fmt.Errorf("%s is at %d: %w", key, have, ErrOld)
	}
	return stated(o, s, draft{key: key, version: have + 1, denies: suspend, at: now, body: r})
}

// isRevoked tells whether a suspension says that they are not expected back.
func isRevoked(e *Entry) bool {
	b, _ := e.Body.(Suspension)
	return b.Revoked
}

func stated(o Opener, s Signer, d draft) (*Entry, error) {
	token, err := d.sign(s)
	if err != nil {
		return nil, err
	}
	e, err := o.Open(d.key.s, token)
	if err != nil {
		return nil, fmt.Errorf("what was signed is not believed: %w", err)
	}
	return &e, nil
}
