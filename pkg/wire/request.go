// Package wire is the protocol between clients and issuers: requests, answers,
// error codes, proofs and sealing, as docs/protocol.md states them. It decodes
// strictly and decides nothing; it knows no connection.
package wire

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/nats-io/nkeys"

	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/subject"
)

// Bounds, in bytes and time.
const (
	MaxRequest  = 16 << 10         // a request's body
	MaxAnswer   = 64 << 10         // an answer's body
	MaxSkew     = 30 * time.Second // between a request's time and the issuer's clock
	nonceBytes  = 16
	proofPrefix = "v1 "
)

// Headers of requests and answers.
const (
	HeaderProof     = "Herald-Proof"          // the user key's signature
	HeaderIdentity  = "Herald-Identity-Proof" // the access key's signature
	HeaderSealed    = "Herald-Sealed"         // the body is sealed; by which xkey
	HeaderRequestID = "Herald-Request-Id"     // in answers: as in log and audit
	HeaderErrorCode = "Nats-Service-Error-Code"
	HeaderError     = "Nats-Service-Error"
	HeaderInfo      = "Nats-Request-Info" // set by the server on shared imports
)

// Signer signs with the nkey whose public key it tells.
type Signer interface {
	Public() string
	Sign(data []byte) ([]byte, error)
}

// Proof of who asks, of one of the kinds that docs/protocol.md lists. Each kind has its
// own members; the others are zero.
type Proof struct {
	Type  string      `json:"type"`
	Code  string      `json:"code,omitempty"`  // of an invitation; secret until it is used
	Token string      `json:"token,omitempty"` // of a provider: an ID or access token; secret
	KeyID ident.KeyID `json:"key_id,omitzero"` // of an access key, which signs as HeaderIdentity
}

// Kinds of proofs.
const (
	// ProofOpen proves nothing but to hold the user key.
	ProofOpen = "open"
	// ProofInvite is the code of an invitation.
	ProofInvite = "invite"
	// ProofKey is an access key's signature of the request.
	ProofKey = "access_key"
	// ProofOIDC is a token of an OpenID provider.
	ProofOIDC = "oidc"
)

// Bounds of what proofs bring, in bytes.
const (
	maxCode  = 64
	maxToken = 12 << 10
)

// tokenAlphabet is what a JWT is written in (RFC 7515, compact serialization).
const tokenAlphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_."

// errKind: a kind of proof that is not known here.
var errKind = errors.New("a kind of proof that is not known")

// fill reads a proof strictly, each kind with its own members.
func (p *Proof) fill(data []byte) error {
	var kind struct {
		Type string `json:"type"`
	}
	// The kind first: it says which members there may be.
	if err := json.Unmarshal(data, &kind); err != nil {
		return fill(data, field{"type", &p.Type, true})
	}
	which := field{"type", &p.Type, true}
	switch kind.Type {
	case ProofInvite:
		if err := fill(data, which, field{"code", &p.Code, true}); err != nil {
			return err
		}
		if p.Code == "" || len(p.Code) > maxCode {
			return fmt.Errorf("a code has 1 to %d characters", maxCode)
		}
	case ProofOIDC:
		if err := fill(data, which, field{"token", &p.Token, true}); err != nil {
			return err
		}
		if p.Token == "" || len(p.Token) > maxToken || strings.IndexFunc(p.Token, func(c rune) bool { return !strings.ContainsRune(tokenAlphabet, c) }) >= 0 {
			return fmt.Errorf("a token has 1 to %d characters of base64url and dots", maxToken)
		}
	case ProofKey:
		var id string
		if err := fill(data, which, field{"key_id", &id, true}); err != nil {
			return err
		}
		var err error
		// What is wrong with it is not quoted: it may be the secret.
		if p.KeyID, err = ident.ParseKeyID(id); err != nil {
			return errors.New("the field \"key_id\" is no access key's id: it is HK and 18 characters, and public")
		}
	case ProofOpen:
		return fill(data, which)
	default:
		if err := fill(data, which); err != nil {
			return err
		}
		return errKind
	}
	return nil
}

// Secret tells whether the proof holds something that others must not read.
func (p Proof) Secret() bool { return p.Type == ProofInvite || p.Type == ProofOIDC }

// Request asks for a credential. Optional fields are zero when absent: policy
// decides then.
type Request struct {
	UserKey  ident.UserKey
	Time     time.Time // to the millisecond
	Nonce    string    // 16 random bytes, base64url without padding
	Account  ident.Label
	Role     ident.Label
	Name     ident.Name
	TTL      time.Duration
	ReplyKey ident.SealKey // the answer is sealed to it
	Identity Proof
}

// NewNonce reads 16 random bytes.
func NewNonce(random io.Reader) (string, error) {
	var b [nonceBytes]byte
	if _, err := io.ReadFull(random, b[:]); err != nil {
		return "", fmt.Errorf("making a nonce: %w", err)
	}
	return base64.RawURLEncoding.EncodeToString(b[:]), nil
}

// Encode gives the body: plain JSON, the bytes that are signed.
func (r Request) Encode() ([]byte, error) {
	body := struct {
		UserKey  ident.UserKey  `json:"user_key"`
		Time     int64          `json:"time"`
		Nonce    string         `json:"nonce"`
		Account  *ident.Label   `json:"account,omitempty"`
		Role     *ident.Label   `json:"role,omitempty"`
		Name     *ident.Name    `json:"name,omitempty"`
		TTL      string         `json:"ttl,omitempty"`
		ReplyKey *ident.SealKey `json:"reply_key,omitempty"`
		Identity Proof          `json:"identity"`
	}{UserKey: r.UserKey, Time: r.Time.UnixMilli(), Nonce: r.Nonce, Identity: r.Identity}
	if !r.Account.IsZero() {
		body.Account = &r.Account
	}
	if !r.Role.IsZero() {
		body.Role = &r.Role
	}
	if !r.Name.IsZero() {
		body.Name = &r.Name
	}
	if !r.ReplyKey.IsZero() {
		body.ReplyKey = &r.ReplyKey
	}
	if r.TTL != 0 {
		body.TTL = r.TTL.String()
	}
	data, err := json.Marshal(body)
	if err != nil {
		return nil, fmt.Errorf("encoding a request: %w", err)
	}
	return data, nil
}

// DecodeRequest reads a body strictly: unknown and duplicate fields are
// refused. What it gives is of the right shape; nothing in it is proven.
func DecodeRequest(body []byte) (Request, *Error) {
	if len(body) > MaxRequest {
		return Request{}, Errorf(TooLarge, "send at most 16 KiB", "the request has %d bytes", len(body))
	}
	var (
		r        Request
		millis   int64
		ttl      *string
		identity json.RawMessage
		name     *string
	)
	var known error
	err := fill(body,
		field{"user_key", &r.UserKey, true},
		field{"time", &millis, true},
		field{"nonce", &r.Nonce, true},
		field{"account", &r.Account, false},
		field{"role", &r.Role, false},
		field{"name", &name, false},
		field{"ttl", &ttl, false},
		field{"reply_key", &r.ReplyKey, false},
		field{"identity", &identity, true},
	)
	if err == nil {
		switch known = r.Identity.fill(identity); {
		case errors.Is(known, errKind):
		case known != nil:
			err = fmt.Errorf("the field \"identity\": %w", known)
		}
	}
	if err != nil {
		return Request{}, Errorf(BadRequest, "see docs/protocol.md for the shape of a request", "the request cannot be read: %v", err)
	}
	asker := Request{ReplyKey: r.ReplyKey} // so that the refusal, which may quote the request, can be sealed
	if known != nil {
		return asker, Errorf(BadIdentity, "ask auth.v1.info which ways this platform knows", "identity type %.20q is not known here", r.Identity.Type)
	}
	if name != nil {
		if r.Name, err = ident.ParseName(*name); err != nil {
			return asker, Errorf(BadName, "a name is 1 to 32 of a-z and 0-9 with single . _ or - between them", "%v", err)
		}
	}
	if raw, err := decode64(r.Nonce); err != nil || len(raw) != nonceBytes {
		return asker, Errorf(BadRequest, "a nonce is 16 random bytes in base64url without padding", "the nonce is not one")
	}
	if ttl != nil {
		if r.TTL, err = time.ParseDuration(*ttl); err != nil || r.TTL <= 0 {
			return asker, Errorf(BadRequest, "a ttl is a duration such as 30m", "the ttl is not a positive duration")
		}
	}
	r.Time = time.UnixMilli(millis)
	return r, nil
}

// CheckTime refuses a request whose time is more than 30 s from now.
func (r Request) CheckTime(now time.Time) *Error {
	if d := now.Sub(r.Time); d > MaxSkew || d < -MaxSkew {
		return Errorf(ClockSkew, "set your clock, or take the server's time from auth.v1.info", "the request's time is more than 30 s from the issuer's")
	}
	return nil
}

// decode64 reads base64url without padding in its one form: encoding/base64
// passes over line ends, in strict mode too.
func decode64(s string) ([]byte, error) {
	if strings.ContainsAny(s, "\r\n") {
		return nil, base64.CorruptInputError(0)
	}
	return base64.RawURLEncoding.Strict().DecodeString(s)
}

// signed are the bytes that a proof is over: the subject is in them, so that
// what was signed for one endpoint says nothing to another.
func signed(subj string, body []byte) []byte {
	b := make([]byte, 0, len("herald/v1/")+len(subj)+1+len(body))
	b = append(b, "herald/v1/"...)
	b = append(b, subj...)
	b = append(b, '\n')
	return append(b, body...)
}

// Prove gives the value of the Herald-Proof header for a body; of an access key it is that
// of Herald-Identity-Proof.
func Prove(s Signer, body []byte) (string, error) {
	sig, err := s.Sign(signed(subject.Issue, body))
	if err != nil {
		return "", fmt.Errorf("signing a request: %w", err)
	}
	return proofPrefix + base64.RawURLEncoding.EncodeToString(sig), nil
}

// CheckProof verifies that the holder of key signed this body for auth.v1.issue.
func CheckProof(key ident.UserKey, proofs []string, body []byte) *Error {
	return checkProof(BadProof, HeaderProof, "user key", key, proofs, body)
}

// CheckIdentityProof verifies that the holder of an access key signed this body for
// auth.v1.issue: that the key is the platform's, the caller knows.
func CheckIdentityProof(key ident.UserKey, proofs []string, body []byte) *Error {
	return checkProof(BadIdentity, HeaderIdentity, "access key", key, proofs, body)
}

func checkProof(code Code, header, what string, key ident.UserKey, proofs []string, body []byte) *Error {
	hint := "sign the plain body with the " + what + " and send it as " + header + ": v1 <signature>"
	if len(proofs) != 1 || !strings.HasPrefix(proofs[0], proofPrefix) || len(proofs[0]) > 128 {
		return Errorf(code, hint, "there must be one %s header of version v1", header)
	}
	sig, err := decode64(proofs[0][len(proofPrefix):])
	if err != nil || len(sig) != ed25519.SignatureSize {
		return Errorf(code, hint, "the proof is not a signature")
	}
	if err := verify(key.String(), signed(subject.Issue, body), sig); err != nil {
		return Errorf(code, hint, "the proof is not the %s's signature of this body", what)
	}
	return nil
}

func verify(pub string, data, sig []byte) error {
	k, err := nkeys.FromPublicKey(pub)
	if err != nil {
		return fmt.Errorf("reading a public key: %w", err)
	}
	if err := k.Verify(data, sig); err != nil {
		return fmt.Errorf("verifying a signature: %w", err)
	}
	return nil
}

// ErrSeal: a sealed body could not be opened with this key.
var ErrSeal = errors.New("sealed to another key, or altered")

// Seal encrypts body to a curve key in the sender's name.
func Seal(from nkeys.KeyPair, to ident.SealKey, body []byte) ([]byte, error) {
	out, err := from.SealWithRand(body, to.String(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("sealing to %s: %w", to, err)
	}
	return out, nil
}

// Open decrypts what was sealed to own by the sender.
func Open(own nkeys.KeyPair, from ident.SealKey, sealed []byte) ([]byte, error) {
	if len(sealed) > MaxAnswer {
		return nil, fmt.Errorf("%d sealed bytes: %w", len(sealed), ErrSeal)
	}
	out, err := own.Open(sealed, from.String())
	if err != nil {
		return nil, ErrSeal
	}
	return out, nil
}
