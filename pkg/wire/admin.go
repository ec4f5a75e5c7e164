package wire

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/herald-nats/herald/pkg/ident"
)

// AdminRequest is what an administrator asks of a registrar on auth.v1.admin.<verb>: who it is
// about, of which there is one, and why.
type AdminRequest struct {
	Identity ident.Identity `json:"identity,omitzero"`
	Name     ident.Name     `json:"name,omitzero"` // whoever holds it
	User     ident.UserKey  `json:"user,omitzero"` // one nkey, of Account or of each that it is known in
	Account  ident.Label    `json:"account,omitzero"`
	Region   ident.Region   `json:"region,omitzero"` // for VerbRotations: its key
	Why      string         `json:"why,omitempty"`
	// Seen are the versions of what the administrator saw, by key, as AdminAnswer has them. Who
	// is resumed must not have been denied again since.
	Seen map[string]uint64 `json:"seen,omitempty"`
	// Wait is for how many seconds the answer may wait for servers that do not know yet.
	Wait int `json:"wait,omitempty"`
}

// What administrators may ask: the last word of the subject.
const (
	VerbRevoke  = "revoke"
	VerbSuspend = "suspend"
	VerbResume  = "resume"
	VerbShow    = "show"
	VerbReceipt = "receipt"
	// VerbRotations asks how keys stand that are being replaced: role keys of an account, the key of
	// a region, or, of the account DOOR, the callout key.
	VerbRotations = "rotations"
)

// Bounds of what administrators ask.
const (
	MaxWhy       = 256 // bytes
	MaxAdminWait = 60  // seconds; servers forget after two minutes to whom an answer goes
	maxSeen      = 64
)

// DecodeAdminRequest reads a request strictly.
func DecodeAdminRequest(body []byte) (AdminRequest, *Error) {
	var r AdminRequest
	bad := func(err error) (AdminRequest, *Error) {
		return AdminRequest{}, Errorf(BadRequest, "see docs/protocol.md", "this request cannot be understood: %s", err)
	}
	if len(body) > MaxRequest {
		return AdminRequest{}, Errorf(TooLarge, "see docs/protocol.md", "a request has %d bytes at most", MaxRequest)
	}
	err := fill(
		body, field{"identity", &r.Identity, false}, field{"name", &r.Name, false}, field{"user", &r.User, false}, field{"account", &r.Account, false},
		field{"region", &r.Region, false},
		field{"why", &r.Why, false}, field{"seen", &r.Seen, false}, field{"wait", &r.Wait, false},
	)
	if err == nil {
		err = r.check()
	}
	if err != nil {
		return bad(err)
	}
	return r, nil
}

// CheckWhy refuses a reason that is more than a line.
func CheckWhy(s string) error {
	if len(s) > MaxWhy || strings.IndexFunc(s, unicode.IsControl) >= 0 || !utf8.ValidString(s) {
		return fmt.Errorf("why is one line of %d bytes at most", MaxWhy)
	}
	return nil
}

func (r *AdminRequest) check() error {
	about := 0
	for _, is := range []bool{!r.Identity.IsZero(), !r.Name.IsZero(), !r.User.IsZero(), !r.Account.IsZero() && r.User.IsZero(), !r.Region.IsZero()} {
		if is {
			about++
		}
	}
	switch {
	case about != 1 || !r.Account.IsZero() && (!r.Identity.IsZero() || !r.Name.IsZero()):
		return errors.New("it is about one of identity, name, user, account and region")
	case CheckWhy(r.Why) != nil:
		return CheckWhy(r.Why)
	case len(r.Seen) > maxSeen:
		return fmt.Errorf("more than %d versions were seen", maxSeen)
	case r.Wait < 0 || r.Wait > MaxAdminWait:
		return fmt.Errorf("it waits for %d seconds at most", MaxAdminWait)
	}
	return nil
}

// Encode gives the request's body.
func (r AdminRequest) Encode() ([]byte, error) {
	if err := r.check(); err != nil {
		return nil, err
	}
	return json.Marshal(r)
}

// AdminAnswer is what a registrar answers.
type AdminAnswer struct {
	RequestID string `json:"request_id"`
	// Standing is how each that the request is about stands now.
	Standing []Denial `json:"standing"`
	// Receipt is the registrar's word on what servers hold, as trust.Receipt; empty where
	// nothing was asked to be done.
	Receipt string `json:"receipt,omitempty"`
	// Unstored: it is in force, and the region's stream does not have it yet. The registrar goes
	// on trying.
	Unstored bool `json:"unstored,omitempty"`
	// Rotations are what VerbRotations asks for.
	Rotations []Rotation `json:"rotations,omitempty"`
}

// Rotation is how a key stands that is being replaced.
type Rotation struct {
	Role    ident.Label `json:"role,omitzero"` // none: it is a region's key, or the callout key
	Stage   string      `json:"stage"`         // "add", "issue" or "drop"
	From    string      `json:"from"`          // the key that goes
	To      string      `json:"to"`
	Waiting []string    `json:"waiting,omitempty"` // for what the next stage waits, for people to read
	// Until is when the last credential by the key that goes ends, in seconds since 1970, as far
	// as records tell.
	Until int64 `json:"until,omitempty"`
}

// Denial is how an identity, a user or an account stands.
type Denial struct {
	Key     string `json:"key"`     // the ledger's
	Version uint64 `json:"version"` // 0: it was never denied
	State   string `json:"state"`   // StateFree, StateSuspended or StateRevoked
	At      int64  `json:"at,omitempty"`
	By      string `json:"by,omitempty"`
	Why     string `json:"why,omitempty"`
	// Users is how many it is about, as far as this registrar knows: whose credential lives, or
	// 1 where it is one user or a whole account. Who came by auth callout is not among them.
	Users int `json:"users"`
}

// States of a Denial.
const (
	StateFree      = "free"
	StateSuspended = "suspended"
	StateRevoked   = "revoked"
)

// maxAdminAnswer bounds an answer.
const maxAdminAnswer = 512 << 10

// DecodeAdminAnswer reads an answer. What a later version adds is passed over.
func DecodeAdminAnswer(body []byte) (AdminAnswer, error) {
	var a AdminAnswer
	if len(body) > maxAdminAnswer {
		return a, fmt.Errorf("an answer of %d bytes", len(body))
	}
	if err := json.Unmarshal(body, &a); err != nil {
		return AdminAnswer{}, fmt.Errorf("an answer that cannot be read: %w", err)
	}
	for _, d := range a.Standing {
		if d.State != StateFree && d.State != StateSuspended && d.State != StateRevoked || len(d.Key) > 512 {
			return AdminAnswer{}, errors.New("an answer out of shape")
		}
	}
	for _, r := range a.Rotations {
		if len(r.Stage) > 16 || len(r.From) > 64 || len(r.To) > 64 || len(r.Waiting) > 256 {
			return AdminAnswer{}, errors.New("an answer out of shape")
		}
	}
	return a, nil
}
