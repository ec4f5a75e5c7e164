package chat

import (
	"bytes"
	"crypto/sha256"
	"encoding/base32"
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

// Kind is what a message is; the values are those on the wire (nats.type).
type Kind string

// The kinds of messages.
const (
	KindPost   Kind = "chat-post"   // to a channel
	KindDM     Kind = "chat-dm"     // to one nkey
	KindOnline Kind = "chat-online" // a heartbeat
)

// Bounds of messages, in bytes. Who sends more is not read.
const (
	// MaxText bounds the text of a message, after Clean.
	MaxText = 4 << 10
	// MaxPost bounds a post or direct message on the wire: MaxText of
	// characters that JSON must escape, in base64, and the rest.
	MaxPost = 16 << 10
	// MaxHeartbeat bounds a heartbeat on the wire, user JWT included.
	MaxHeartbeat = 8 << 10
	// maxUserJWT bounds the user JWT inside (docs/protocol.md: under 1 KiB).
	maxUserJWT = 4 << 10
	// maxField bounds every other string of a message.
	maxField = 256
)

// Times of messages.
const (
	// HeartbeatEvery is how often a client says that it is there.
	HeartbeatEvery = 30 * time.Second
	// HeartbeatLives is how long a heartbeat holds (exp). After it has passed
	// without another, who sent it is offline.
	HeartbeatLives = 60 * time.Second
	// TimeSkew is how far the time in a message may be from the receiver's
	// clock before the message is doubted. It bounds for how long a message
	// can be replayed on its own subject, and how much the Roster's owners
	// must remember to notice that.
	TimeSkew = 2 * time.Minute
)

// Errors of Codec.Decode. What gives one is dropped and counted, not shown.
var (
	ErrTooLarge  = errors.New("message too large")
	ErrShape     = errors.New("not a chat message")
	ErrSignature = errors.New("signature does not hold")
	ErrTime      = errors.New("heartbeat is not of this time")
	// ErrText is given by the encoders for a text that is empty or too long.
	ErrText = errors.New("text is empty or too long")
)

// Doubt is why a message is shown as unverified; None is no reason.
type Doubt uint8

// The doubts, in the order in which they are looked for.
const (
	None          Doubt = iota
	NoAudience          // it does not say which subject it was meant for, as the 2020 tutorial's do not
	WrongAudience       // it was meant for another subject: somebody carried it here
	WrongTime           // its time is not now: somebody kept it, or a clock is wrong
	UnknownSender       // no heartbeat has shown whose nkey that is
	OtherName           // it claims another name than its nkey has
)

// String says the doubt in a few words for a person.
func (d Doubt) String() string {
	switch d {
	case None:
		return "none"
	case NoAudience:
		return "does not say where it belongs"
	case WrongAudience:
		return "was written for another place"
	case WrongTime:
		return "was written at another time"
	case UnknownSender:
		return "sender not known"
	case OtherName:
		return "claims another's name"
	default:
		return "unknown"
	}
}

// Status is what a heartbeat says of its sender (nats.status).
type Status string

// What a heartbeat may say; anything else is read as Here.
const (
	Here Status = ""        // at the keyboard
	Away Status = "away"    // connected, but has not typed for a while
	Gone Status = "offline" // the last heartbeat of a client that ends
)

// Message is one decoded message. Its signature holds. All its strings have
// been through Clean and may be shown, but only From is known to be true.
type Message struct {
	Kind    Kind
	From    ident.UserKey // who signed it
	Claimed string        // the name it claims: to be believed only as Roster.Judge does
	Subject string        // the NATS subject it came on
	Channel ident.Label   // of a post: by the subject it came on
	To      ident.UserKey // of a direct message: by the subject it came on
	Text    string
	Sent    time.Time    // by the sender's clock
	Got     time.Time    // by the receiver's
	Region  ident.Region // of a heartbeat: where the sender says it is
	Status  Status       // of a heartbeat
	Name    ident.Name   // of a heartbeat: what Verify found; zero if it found nothing
	Doubt   Doubt        // what is wrong with the message itself: NoAudience, WrongAudience, WrongTime
	Digest  [32]byte     // tells one signed message from another; jti cannot (two of the tutorial's in a second share it)
}

// Signer holds the seed of a user and signs with it; the seed stays there.
type Signer interface {
	Public() ident.UserKey
	Sign(data []byte) ([]byte, error)
}

// Verify checks a user JWT up to the platform's role keys, including its expiry
// at now, and says whose nkey and which name it is for. It must be pure: it is
// called for every heartbeat.
type Verify func(userJWT string, now time.Time) (ident.UserKey, ident.Name, error)

// header is the JOSE header as jwt/v2 writes it.
const header = `{"typ":"JWT","alg":"ed25519-nkey"}`

const algorithm = "ed25519-nkey"

// claims is a message as it is on the wire: NATS generic claims, so that the
// 2020 tutorial's clients can read it.
type claims struct {
	Audience  string  `json:"aud,omitempty"`
	Expires   float64 `json:"exp,omitempty"` // floats: a browser's JSON has no other numbers
	ID        string  `json:"jti,omitempty"`
	IssuedAt  float64 `json:"iat,omitempty"`
	Issuer    string  `json:"iss,omitempty"`
	Name      string  `json:"name,omitempty"`
	NotBefore float64 `json:"nbf,omitempty"`
	Subject   string  `json:"sub,omitempty"`
	Data      data    `json:"nats"`
}

type data struct {
	Text    string   `json:"msg,omitempty"`
	Region  string   `json:"region,omitempty"`
	Status  string   `json:"status,omitempty"`
	Tags    []string `json:"tags,omitempty"`
	TimeMS  int64    `json:"time_ms,omitempty"` // when, in milliseconds: iat is too coarse for latencies
	Type    Kind     `json:"type,omitempty"`
	UserJWT string   `json:"user_jwt,omitempty"`
	Version int      `json:"version,omitempty"`
}

// Outgoing is a message ready to be published.
type Outgoing struct {
	Subject string
	Data    []byte
	Digest  [32]byte // as Message.Digest of whoever receives it
}

// Encoder makes the messages of one user in one room. It is not safe for use by
// several goroutines unless its Signer and Rand are.
type Encoder struct {
	Room   ident.Label
	Name   ident.Name // what the platform gave this user
	Signer Signer
	Rand   io.Reader // of jti; crypto/rand.Reader
}

// Post makes a post to a channel. The text goes through Clean; ErrText if
// nothing is left of it or it is longer than MaxText.
func (e *Encoder) Post(channel ident.Label, text string, now time.Time) (Outgoing, error) {
	text, err := checkText(text)
	if err != nil {
		return Outgoing{}, err
	}
	return e.sign(claims{
		Audience: subject.Post(e.Room, channel),
		Subject:  channel.String(), // the tutorial's clients file a post by this
		Data:     data{Type: KindPost, Text: text},
	}, now)
}

// DM makes a direct message to one nkey; errors as of Post.
func (e *Encoder) DM(to ident.UserKey, text string, now time.Time) (Outgoing, error) {
	text, err := checkText(text)
	if err != nil {
		return Outgoing{}, err
	}
	return e.sign(claims{
		Audience: subject.DM(e.Room, to),
		Subject:  to.String(),
		Data:     data{Type: KindDM, Text: text},
	}, now)
}

// Online makes a heartbeat with the sender's own user JWT, by which others learn
// whose nkey this is, the region it is in and its status.
func (e *Encoder) Online(userJWT string, region ident.Region, status Status, now time.Time) (Outgoing, error) {
	return e.sign(claims{
		Audience: subject.Online(e.Room),
		Subject:  e.Signer.Public().String(), // the tutorial's clients know people by this
		Expires:  float64(now.Add(HeartbeatLives).Unix()),
		Data:     data{Type: KindOnline, UserJWT: userJWT, Region: region.String(), Status: string(status)},
	}, now)
}

func checkText(text string) (string, error) {
	// Measured before Clean, which would shorten it: a text is sent whole or not.
	if len(text) > MaxText {
		return "", fmt.Errorf("%w: %d bytes, at most %d", ErrText, len(text), MaxText)
	}
	if text = Clean(text); text == "" {
		return "", fmt.Errorf("%w: nothing to show in it", ErrText)
	}
	return text, nil
}

func (e *Encoder) sign(c claims, now time.Time) (Outgoing, error) {
	var id [16]byte
	if _, err := io.ReadFull(e.Rand, id[:]); err != nil {
		return Outgoing{}, fmt.Errorf("making a message id: %w", err)
	}
	c.ID = base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(id[:])
	c.Issuer = e.Signer.Public().String()
	c.Name = e.Name.String()
	c.IssuedAt = float64(now.Unix())
	c.Data.TimeMS = now.UnixMilli()
	c.Data.Version = 2 // of the JWT format, as jwt/v2 writes it

	var payload bytes.Buffer
	enc := json.NewEncoder(&payload)
	enc.SetEscapeHTML(false) // '<' would take six bytes
	if err := enc.Encode(c); err != nil {
		return Outgoing{}, fmt.Errorf("encoding a message: %w", err)
	}
	b64 := base64.RawURLEncoding
	signed := b64.EncodeToString([]byte(header)) + "." + b64.EncodeToString(bytes.TrimSpace(payload.Bytes()))
	sig, err := e.Signer.Sign([]byte(signed))
	if err != nil {
		return Outgoing{}, fmt.Errorf("signing a message: %w", err)
	}
	return Outgoing{
		Subject: c.Audience,
		Data:    []byte(signed + "." + b64.EncodeToString(sig)),
		Digest:  sha256.Sum256([]byte(signed)),
	}, nil
}

// Decoder reads what came on the subjects of one room.
type Decoder struct {
	Room   ident.Label
	Verify Verify // nil: nobody is verified
}

// Decode reads one message that came on subj at now. The signature is checked
// before anything in the message is used, the size before the signature. The
// errors are ErrTooLarge, ErrShape, ErrSignature and, for heartbeats, ErrTime.
//
// A heartbeat whose user JWT is missing, does not verify or is not its
// sender's has no Name, and is no error: the tutorial's clients send such.
func (d *Decoder) Decode(subj string, raw []byte, now time.Time) (Message, error) {
	m := Message{Subject: subj, Got: now}
	limit, err := d.place(&m)
	if err != nil {
		return Message{}, err
	}
	if len(raw) > limit {
		return Message{}, fmt.Errorf("%w: %d bytes, at most %d", ErrTooLarge, len(raw), limit)
	}
	c, digest, err := open(raw)
	if err != nil {
		return Message{}, err
	}
	m.Digest = digest
	if err := m.fill(c); err != nil {
		return Message{}, err
	}
	if m.Kind == KindOnline {
		return d.heartbeat(m, c)
	}
	switch age := now.Sub(m.Sent); {
	case c.Audience == "":
		m.Doubt = NoAudience
	case c.Audience != subj:
		m.Doubt = WrongAudience
	case age > TimeSkew || age < -TimeSkew:
		m.Doubt = WrongTime
	}
	return m, nil
}

// place fills in what the subject tells: kind and where it belongs.
func (d *Decoder) place(m *Message) (limit int, err error) {
	if m.Subject == subject.Online(d.Room) {
		m.Kind = KindOnline
		return MaxHeartbeat, nil
	}
	i := strings.LastIndexByte(m.Subject, '.')
	last := m.Subject[i+1:]
	if l, err := ident.ParseLabel(last); err == nil && m.Subject == subject.Post(d.Room, l) {
		m.Kind, m.Channel = KindPost, l
		return MaxPost, nil
	}
	if k, err := ident.ParseUserKey(last); err == nil && m.Subject == subject.DM(d.Room, k) {
		m.Kind, m.To = KindDM, k
		return MaxPost, nil
	}
	return 0, fmt.Errorf("%w: came on %.100q", ErrShape, m.Subject)
}

// open parts a token, checks its signature by the nkey that it names and reads
// what is in it.
func open(raw []byte) (claims, [32]byte, error) {
	var c claims
	var none [32]byte
	parts := bytes.Split(raw, []byte("."))
	if len(parts) != 3 {
		return c, none, fmt.Errorf("%w: %d parts, want 3", ErrShape, len(parts))
	}
	// Strict: of the spellings that base64 allows for the same bytes, one.
	b64 := base64.RawURLEncoding.Strict()
	decoded := make([][]byte, 3)
	for i, p := range parts {
		// Padding is not ours to forgive, and line breaks are skipped even by Strict.
		if bytes.ContainsAny(p, "\r\n") {
			return c, none, fmt.Errorf("%w: part %d is not base64", ErrShape, i+1)
		}
		b, err := b64.AppendDecode(nil, p)
		if err != nil {
			return c, none, fmt.Errorf("%w: part %d is not base64", ErrShape, i+1)
		}
		decoded[i] = b
	}
	var h struct {
		Type      string `json:"typ"`
		Algorithm string `json:"alg"`
	}
	if err := unmarshal(decoded[0], &h); err != nil || !strings.EqualFold(h.Type, "JWT") || !strings.EqualFold(h.Algorithm, algorithm) {
		return c, none, fmt.Errorf("%w: header is not of %s", ErrShape, algorithm)
	}
	if err := unmarshal(decoded[1], &c); err != nil {
		return c, none, err
	}
	iss, err := ident.ParseUserKey(c.Issuer)
	if err != nil {
		return c, none, fmt.Errorf("%w: iss is not a user nkey", ErrShape)
	}
	pub, err := nkeys.FromPublicKey(iss.String())
	if err != nil {
		return c, none, fmt.Errorf("%w: iss is not a user nkey", ErrShape)
	}
	signed := raw[:len(parts[0])+1+len(parts[1])]
	if err := pub.Verify(signed, decoded[2]); err != nil {
		return c, none, ErrSignature
	}
	return c, sha256.Sum256(signed), nil
}

// fill takes over what a message says after its signature was checked.
func (m *Message) fill(c claims) error {
	var err error
	if m.From, err = ident.ParseUserKey(c.Issuer); err != nil {
		return fmt.Errorf("%w: iss is not a user nkey", ErrShape)
	}
	if c.Data.Type != m.Kind {
		return fmt.Errorf("%w: a %.32q on the subject of a %s", ErrShape, c.Data.Type, m.Kind)
	}
	for _, s := range []string{c.Audience, c.ID, c.Name, c.Subject, c.Data.Region, c.Data.Status} {
		if len(s) > maxField {
			return fmt.Errorf("%w: a field of %d bytes", ErrShape, len(s))
		}
	}
	if len(c.Data.UserJWT) > maxUserJWT || len(c.Data.Text) > MaxText {
		return fmt.Errorf("%w: text or user JWT", ErrTooLarge)
	}
	if m.Sent, err = sentTime(c); err != nil {
		return err
	}
	m.Claimed = CleanName(c.Name)
	if m.Kind != KindOnline {
		if m.Text = Clean(c.Data.Text); m.Text == "" {
			return fmt.Errorf("%w: no text", ErrShape)
		}
	}
	return nil
}

// heartbeat checks what only heartbeats have. They do not wait in any queue, so
// one that is not of now is an error and not a doubt: it would bring people
// back who have gone. (Within TimeSkew, the Roster takes none twice.)
func (d *Decoder) heartbeat(m Message, c claims) (Message, error) {
	exp, err := unix(c.Expires)
	if err != nil {
		return Message{}, err
	}
	age := m.Got.Sub(m.Sent)
	// exp is by the sender's clock, like iat; age has bounded how far that is off.
	if age > TimeSkew || age < -TimeSkew || !exp.After(m.Sent) || exp.Add(TimeSkew).Before(m.Got) {
		return Message{}, ErrTime
	}
	// By this the tutorial's clients know people; two nkeys in one heartbeat
	// would be two people to them and to us.
	if c.Subject != m.From.String() {
		return Message{}, fmt.Errorf("%w: heartbeat of another nkey", ErrShape)
	}
	if c.Audience != "" && c.Audience != m.Subject {
		return Message{}, fmt.Errorf("%w: heartbeat for another room", ErrShape)
	}
	if r, err := ident.ParseRegion(c.Data.Region); err == nil {
		m.Region = r
	}
	switch s := Status(c.Data.Status); s {
	case Away, Gone:
		m.Status = s
	case Here:
	}
	if d.Verify != nil && c.Data.UserJWT != "" && c.Audience != "" {
		if key, name, err := d.Verify(c.Data.UserJWT, m.Got); err == nil && key == m.From {
			m.Name = name
		}
	}
	return m, nil
}

// sentTime prefers milliseconds where they agree with iat, which every client
// sends.
func sentTime(c claims) (time.Time, error) {
	iat, err := unix(c.IssuedAt)
	if err != nil {
		return time.Time{}, err
	}
	if ms := time.UnixMilli(c.Data.TimeMS); ms.Unix() == iat.Unix() {
		return ms, nil
	}
	return iat, nil
}

// unix refuses what no time library agrees on; the year 9999 is the last one
// that JSON and formats of times can carry.
func unix(sec float64) (time.Time, error) {
	const last = 253402300799
	if !(sec > 0 && sec <= last) { // also refuses NaN
		return time.Time{}, fmt.Errorf("%w: no time, or an impossible one", ErrShape)
	}
	return time.Unix(int64(sec), 0), nil
}

// unmarshal reads one JSON object and refuses what two readers could read
// differently: repeated names in any spelling, and anything after the object.
func unmarshal(b []byte, v any) error {
	if err := checkJSON(b); err != nil {
		return err
	}
	if err := json.Unmarshal(b, v); err != nil {
		return fmt.Errorf("%w: %s", ErrShape, "its JSON is not that of a message")
	}
	return nil
}

// maxDepth is more than any message has; jwt/v2's generic claims are maps.
const maxDepth = 4

func checkJSON(b []byte) error {
	dec := json.NewDecoder(bytes.NewReader(b))
	bad := fmt.Errorf("%w: not one JSON object with distinct names", ErrShape)
	if t, err := dec.Token(); err != nil || t != json.Delim('{') {
		return bad
	}
	if err := checkObject(dec, 1); err != nil {
		return bad
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return bad
	}
	return nil
}

// checkObject reads up to the end of an object whose '{' has been read.
func checkObject(dec *json.Decoder, depth int) error {
	if depth > maxDepth {
		return ErrShape
	}
	seen := make(map[string]bool)
	for dec.More() {
		t, err := dec.Token()
		if err != nil {
			return ErrShape
		}
		name, ok := t.(string)
		// encoding/json matches names in any case, also 'ſ' with 's'; other
		// readers do not.
		folded := strings.ToLower(name)
		if !ok || seen[folded] || strings.ContainsFunc(name, func(r rune) bool { return r >= 0x80 }) {
			return ErrShape
		}
		seen[folded] = true
		if err := checkValue(dec, depth); err != nil {
			return err
		}
	}
	if _, err := dec.Token(); err != nil {
		return ErrShape
	}
	return nil
}

func checkValue(dec *json.Decoder, depth int) error {
	t, err := dec.Token()
	if err != nil {
		return ErrShape
	}
	switch t {
	case json.Delim('{'):
		return checkObject(dec, depth+1)
	case json.Delim('['):
		if depth >= maxDepth {
			return ErrShape
		}
		for dec.More() {
			if err := checkValue(dec, depth+1); err != nil {
				return err
			}
		}
		if _, err := dec.Token(); err != nil {
			return ErrShape
		}
	}
	return nil
}
