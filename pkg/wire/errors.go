package wire

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"
)

// Code is what went wrong with a request, for programs.
type Code string

// The codes, with the numbers that go into micro's error header.
const (
	BadRequest     Code = "bad_request"      // 400
	BadName        Code = "bad_name"         // 400
	TooLarge       Code = "too_large"        // 400
	NotSealed      Code = "not_sealed"       // 400
	BadProof       Code = "bad_proof"        // 401
	BadIdentity    Code = "bad_identity"     // 401
	Expired        Code = "expired"          // 401
	ClockSkew      Code = "clock_skew"       // 401
	Replayed       Code = "replayed"         // 401
	NoGrant        Code = "no_grant"         // 403
	Suspended      Code = "suspended"        // 403
	Revoked        Code = "revoked"          // 403
	RoleNotGranted Code = "role_not_granted" // 403
	NameTaken      Code = "name_taken"       // 409
	WrongRegion    Code = "wrong_region"     // 421
	RateLimited    Code = "rate_limited"     // 429
	Unavailable    Code = "unavailable"      // 503
	ReadOnly       Code = "read_only"        // 503
)

// Number is the code's number for Nats-Service-Error-Code; 0 for an unknown one.
func (c Code) Number() int {
	switch c {
	case BadRequest, BadName, TooLarge, NotSealed:
		return 400
	case BadProof, BadIdentity, Expired, ClockSkew, Replayed:
		return 401
	case NoGrant, Suspended, Revoked, RoleNotGranted:
		return 403
	case NameTaken:
		return 409
	case WrongRegion:
		return 421
	case RateLimited:
		return 429
	case Unavailable, ReadOnly:
		return 503
	default:
		return 0
	}
}

// Error is the body of an error answer: what a caller is told, and no more.
// Why it happened is in the log, under the same request id.
type Error struct {
	Code         Code   `json:"code"`
	Message      string `json:"message"` // one sentence for a person
	Hint         string `json:"hint,omitempty"`
	RetryAfterMS int64  `json:"retry_after_ms"` // 0: repeating it will not help
	RequestID    string `json:"request_id,omitempty"`
}

// Errorf makes an Error. A message that quotes too much of a request is cut: a
// caller refuses a long one.
func Errorf(code Code, hint, format string, args ...any) *Error {
	message := fmt.Sprintf(format, args...)
	if len(message) > maxText {
		message = strings.ToValidUTF8(message[:maxText], "")
	}
	return &Error{Code: code, Message: message, Hint: hint}
}

func (e *Error) Error() string { return string(e.Code) + ": " + e.Message }

// Is makes errors.Is(err, &wire.Error{Code: c}) compare codes.
func (e *Error) Is(target error) bool {
	t, ok := target.(*Error)
	return ok && t.Code == e.Code
}

// RetryAfter says when to ask again; 0 for errors that time does not heal.
func (e *Error) RetryAfter() time.Duration { return time.Duration(e.RetryAfterMS) * time.Millisecond }

// maxText bounds each text of an error answer: somebody prints them.
const maxText = 400

// maxRetry bounds how long an error answer may send somebody away: who answers
// first need not be an issuer that can be trusted.
const maxRetry = time.Hour

// DecodeError reads the body of an error answer.
func DecodeError(body []byte) (*Error, error) {
	if len(body) > MaxAnswer {
		return nil, fmt.Errorf("an error answer of %d bytes", len(body))
	}
	var e Error
	// Fields that a later version adds are passed over: an error that cannot
	// be read helps nobody.
	if err := json.Unmarshal(body, &e); err != nil {
		return nil, fmt.Errorf("an error answer that is not JSON: %w", err)
	}
	if e.Code.Number() == 0 {
		return nil, fmt.Errorf("an error answer with the unknown code %.40q", e.Code)
	}
	if len(e.Message) > maxText || len(e.Hint) > maxText || len(e.RequestID) > maxText || e.RetryAfterMS < 0 || e.RetryAfterMS > maxRetry.Milliseconds() {
		return nil, fmt.Errorf("an error answer (%s) out of shape", e.Code)
	}
	return &e, nil
}
