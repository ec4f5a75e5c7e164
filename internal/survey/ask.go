package survey

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode"

	"github.com/nats-io/nats.go"
)

// Quiet is how long nobody has to answer until whoever has not answered by then is
// taken not to: several times the longest round trip between regions, and what a busy
// server takes.
const Quiet = 2 * time.Second

// Bounds of what is taken from outside.
const (
	maxAnswer  = 16 << 20 // bytes of one answer
	maxServers = 1024     // that are looked at
	maxText    = 128      // bytes of a name
	maxReason  = 512      // bytes of what a server says is wrong
)

// talk is requests and their answers, of one look.
type talk struct {
	nc    *nats.Conn
	sub   *nats.Subscription
	inbox string
}

// newTalk begins to listen; end stops.
func newTalk(nc *nats.Conn) (*talk, error) {
	t := &talk{nc: nc, inbox: nc.NewInbox()}
	var err error
	if t.sub, err = nc.SubscribeSync(t.inbox + ".*"); err != nil {
		return nil, fmt.Errorf("listening for answers: %w", err)
	}
	return t, nil
}

func (t *talk) end() { _ = t.sub.Unsubscribe() } // fails only if the connection is gone

// ask sends a request. Its answers come with the tag, one token of a subject.
func (t *talk) ask(tag, subj string, body any) error {
	var data []byte
	if body != nil {
		var err error
		if data, err = json.Marshal(body); err != nil {
			return fmt.Errorf("asking %s: %w", subj, err)
		}
	}
	if err := t.nc.PublishRequest(subj, t.inbox+"."+tag, data); err != nil {
		return fmt.Errorf("asking %s: %w", subj, err)
	}
	return nil
}

// next waits for an answer; nil when none came in time, also when ctx's deadline is
// over: what came until then is all that there is.
//
// That nobody listens on a subject, which a server says at once, is no answer of anybody.
func (t *talk) next(ctx context.Context, within time.Duration) (tag string, m *nats.Msg, err error) {
	for {
		began := time.Now()
		if tag, m, err = t.wait(ctx, within); !errors.Is(err, nats.ErrNoResponders) {
			return tag, m, err
		}
		within -= time.Since(began)
	}
}

func (t *talk) wait(ctx context.Context, within time.Duration) (tag string, m *nats.Msg, err error) {
	if ctx.Err() == nil && within > 0 {
		wctx, cancel := context.WithTimeout(ctx, within)
		m, err = t.sub.NextMsgWithContext(wctx)
		cancel()
	} else if m, err = t.sub.NextMsg(time.Nanosecond); errors.Is(err, nats.ErrTimeout) {
		err = context.DeadlineExceeded
	}
	switch {
	case err == nil:
		return m.Subject[len(t.inbox)+1:], m, nil
	case errors.Is(ctx.Err(), context.Canceled):
		return "", nil, fmt.Errorf("waiting for answers: %w", ctx.Err())
	case errors.Is(err, context.DeadlineExceeded):
		return "", nil, nil
	default:
		return "", nil, fmt.Errorf("waiting for answers: %w", err)
	}
}

// over tells whether the time of a look is up.
func over(ctx context.Context) bool { return ctx.Err() != nil }

// answer is what every page of a server comes in.
type answer struct {
	Server struct {
		ID      string    `json:"id"`
		Name    string    `json:"name"`
		Cluster string    `json:"cluster"`
		Version string    `json:"ver"`
		Time    time.Time `json:"time"` // when it was sent
	} `json:"server"`
	Data  json.RawMessage `json:"data"`
	Stats json.RawMessage `json:"statsz"`
	Error *struct {
		Code        int    `json:"code"`
		Description string `json:"description"`
	} `json:"error"`
}

// open decodes what every page comes in.
func open(data []byte) (answer, error) {
	var a answer
	if len(data) > maxAnswer {
		return a, fmt.Errorf("an answer of %d bytes", len(data))
	}
	if err := json.Unmarshal(data, &a); err != nil {
		return a, fmt.Errorf("an answer that cannot be read: %w", err)
	}
	a.Server.ID, a.Server.Name = clean(a.Server.ID, maxText), clean(a.Server.Name, maxText)
	a.Server.Cluster, a.Server.Version = clean(a.Server.Cluster, maxText), clean(a.Server.Version, maxText)
	if a.Server.ID == "" {
		return a, errors.New("an answer of nobody")
	}
	return a, nil
}

// clean makes text from outside harmless to show: one line, bounded, without what moves
// a cursor or turns the direction of writing.
func clean(s string, most int) string {
	if len(s) > most {
		s = s[:most]
	}
	return strings.Map(func(r rune) rune {
		switch {
		case r == unicode.ReplacementChar, !unicode.IsPrint(r), unicode.Is(unicode.Bidi_Control, r):
			return '?'
		default:
			return r
		}
	}, strings.ToValidUTF8(s, "?"))
}

func cleanAll(all []string, most int) []string {
	out := make([]string, 0, len(all))
	for _, s := range all {
		out = append(out, clean(s, most))
	}
	return out
}
