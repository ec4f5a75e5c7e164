package jetstream

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/herald-nats/herald/internal/wait"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/ledger"
	"github.com/herald-nats/herald/pkg/subject"
	"github.com/herald-nats/herald/pkg/trust"
)

// Source implements ledger.Source by direct get, through an import of AUTH or READERS.
// That needs neither a consumer nor the meta leader, so it works on either side of a
// cut that has a replica.
type Source struct {
	nc     *nats.Conn
	ask    string                           // the direct get's subject
	filter string                           // the subjects that are read
	key    func(subj string) (string, bool) // what a subject is called in Stored
}

var (
	_ ledger.Source = (*Source)(nil)
	_ ledger.Marked = (*Source)(nil)
)

// MirrorSource reads a region's mirror of what is decided in home.
func MirrorSource(nc *nats.Conn, r ident.Region) *Source {
	return &Source{nc, subject.DirectGet(subject.MirrorStream(r)), subject.Decisions, decisionKey}
}

// BasesSource reads the base claims of accounts from a region's mirror.
func BasesSource(nc *nats.Conn, r ident.Region) *Source {
	return &Source{nc, subject.DirectGet(subject.MirrorStream(r)), subject.Bases, decisionKey}
}

// DenialsSource reads what a region has of all regions' denials.
func DenialsSource(nc *nats.Conn, r ident.Region) *Source {
	return &Source{nc, subject.DirectGet(subject.DenialsStream(r)), subject.DenialsAll, denialKey}
}

// RecordsSource reads a region's records.
func RecordsSource(nc *nats.Conn, r ident.Region) *Source {
	return &Source{
		nc, subject.DirectGet(subject.RecordsStream(r)), subject.AuditPrefix(r) + "*",
		func(s string) (string, bool) { return strings.CutPrefix(s, "audit.") },
	}
}

func decisionKey(subj string) (string, bool) { return strings.CutPrefix(subj, subject.DecisionsPrefix) }

// denialKey passes over which region wrote the entry: it holds whoever wrote it.
func denialKey(subj string) (string, bool) {
	rest, ok := strings.CutPrefix(subj, "denials.")
	_, key, ok2 := strings.Cut(rest, ".")
	return key, ok && ok2
}

const (
	// answerWait bounds the time to each answer. A replica nearby takes a millisecond,
	// one in another region a round trip.
	answerWait = 800 * time.Millisecond
	// maxBytes bounds one batch, so that it fits what a connection buffers.
	maxBytes = 4 << 20
)

// request is a direct get, as ADR-31 of NATS has it.
type request struct {
	Seq       uint64     `json:"seq,omitempty"`
	LastFor   string     `json:"last_by_subj,omitempty"`
	NextFor   string     `json:"next_by_subj,omitempty"`
	Batch     int        `json:"batch,omitempty"`
	MaxBytes  int        `json:"max_bytes,omitempty"`
	StartTime *time.Time `json:"start_time,omitempty"`
}

// message is one message of an answer.
type message struct {
	subject   string
	seq, prev uint64 // prev: the one before it in the same answer
	data      string
	at        time.Time // when it was stored; zero if it does not say
}

// errNone: the stream has no such message.
var errNone = errors.New("no message")

// Read implements ledger.Source.
func (s *Source) Read(ctx context.Context, after uint64, limit int) ([]ledger.Stored, error) {
	msgs, err := s.batch(ctx, request{Seq: after + 1, NextFor: s.filter, Batch: limit, MaxBytes: maxBytes})
	if err != nil {
		return nil, err
	}
	out := make([]ledger.Stored, 0, len(msgs))
	for _, m := range msgs {
		key, _ := s.key(m.subject) // what has none is refused by who opens it
		out = append(out, ledger.Stored{Subject: key, Data: m.data, Seq: m.seq})
	}
	return out, nil
}

// Last implements ledger.Source.
func (s *Source) Last(ctx context.Context) (uint64, error) {
	m, err := s.one(ctx, request{LastFor: s.filter})
	if errors.Is(err, errNone) {
		return 0, nil
	}
	return m.seq, err
}

// Ends implements ledger.Marked.
func (s *Source) Ends(ctx context.Context) (first, last ledger.Mark, err error) {
	for _, end := range []struct {
		ask  request
		mark *ledger.Mark
	}{{request{Seq: 1, NextFor: s.filter}, &first}, {request{LastFor: s.filter}, &last}} {
		m, err := s.one(ctx, end.ask)
		if errors.Is(err, errNone) {
			return ledger.Mark{}, ledger.Mark{}, nil
		}
		if err != nil {
			return ledger.Mark{}, ledger.Mark{}, err
		}
		*end.mark = ledger.Mark{Seq: m.seq, At: m.at}
	}
	return first, last, nil
}

// Before gives the position before the first message that was stored at or after a
// moment: reading after it gives that one.
//
// Each question may be answered by another replica, one of which is behind. Where one knows
// of nothing since and another's newest is from then, they are asked again.
func (s *Source) Before(ctx context.Context, t time.Time) (uint64, error) {
	for try := 0; ; try++ {
		msgs, err := s.batch(ctx, request{StartTime: &t, NextFor: s.filter, Batch: 1})
		if err != nil {
			return 0, err
		}
		if len(msgs) > 0 {
			return msgs[0].seq - 1, nil
		}
		m, err := s.one(ctx, request{LastFor: s.filter})
		switch {
		case errors.Is(err, errNone):
			return 0, nil
		case err != nil:
			return 0, err
		case m.at.Before(t):
			return m.seq, nil
		case try == behindTries || wait.For(ctx, behindPause) != nil:
			return m.seq - 1, nil // what is known to be since then
		}
	}
}

// How often, and after how long, replicas that differ are asked again.
const (
	behindTries = 20
	behindPause = 20 * time.Millisecond
)

// has tells whether the entries that are kept under a subject, or under those that a
// pattern matches, include this token.
func (s *Source) has(ctx context.Context, subj, token string) (bool, error) {
	m, err := s.one(ctx, request{LastFor: subj})
	if errors.Is(err, errNone) {
		return false, nil
	}
	if err != nil || m.data == token {
		return err == nil, err
	}
	msgs, err := s.batch(ctx, request{Seq: 1, NextFor: subj, Batch: 64 * perDenial, MaxBytes: maxBytes})
	for _, m := range msgs {
		if m.data == token {
			return true, nil
		}
	}
	return false, err
}

// one asks for a single message.
func (s *Source) one(ctx context.Context, r request) (message, error) {
	data, err := json.Marshal(r)
	if err != nil {
		return message{}, fmt.Errorf("asking the ledger: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, answerWait)
	defer cancel()
	m, err := s.nc.RequestWithContext(ctx, s.ask, data)
	if err != nil {
		return message{}, unavailable(err)
	}
	return read(m)
}

// batch asks for several. What it gives is without gaps: each message says which one
// came before it, and an answer that lost one is cut off there.
func (s *Source) batch(ctx context.Context, r request) ([]message, error) {
	data, err := json.Marshal(r)
	if err != nil {
		return nil, fmt.Errorf("asking the ledger: %w", err)
	}
	// As long as the answer may be, and its end. What SubscribeSync makes is for 65,536 messages,
	// which is half a megabyte for each time that somebody looks whether there is news.
	answers := make(chan *nats.Msg, r.Batch+2)
	sub, err := s.nc.ChanSubscribe(s.nc.NewInbox(), answers)
	if err != nil {
		return nil, unavailable(err)
	}
	defer func() { _ = sub.Unsubscribe() }() // fails only if the connection is gone
	if err := s.nc.PublishRequest(s.ask, sub.Subject, data); err != nil {
		return nil, unavailable(err)
	}
	var msgs []message
	patience := time.NewTimer(answerWait)
	defer patience.Stop()
	for {
		select {
		case <-ctx.Done():
			err = context.Cause(ctx)
		case <-patience.C:
			err = nats.ErrTimeout
		case m := <-answers:
			var one message
			if one, err = read(m); err == nil {
				if n := len(msgs); n > 0 && one.prev != msgs[n-1].seq {
					return msgs, nil
				}
				msgs = append(msgs, one)
				patience.Reset(answerWait)
				continue
			}
		}
		// The end, or a replica that went away in the middle: what came is whole.
		if errors.Is(err, errNone) || len(msgs) > 0 {
			return msgs, nil
		}
		return nil, unavailable(err)
	}
}

// read reads one answer to a direct get. errNone: there is nothing, or no more.
func read(m *nats.Msg) (message, error) {
	switch status := m.Header.Get("Status"); status {
	case "":
	case "204", "404":
		return message{}, errNone
	default:
		return message{}, fmt.Errorf("%w: status %.3s %.80q", ledger.ErrUnavailable, status, m.Header.Get("Description"))
	}
	seq, err := strconv.ParseUint(m.Header.Get("Nats-Sequence"), 10, 64)
	if err != nil || seq == 0 {
		return message{}, fmt.Errorf("%w: an answer that is no message", ledger.ErrUnavailable)
	}
	prev, _ := strconv.ParseUint(m.Header.Get("Nats-Last-Sequence"), 10, 64) // only a batch has it
	at, _ := time.Parse(time.RFC3339Nano, m.Header.Get("Nats-Time-Stamp"))
	return message{subject: m.Header.Get("Nats-Subject"), seq: seq, prev: prev, data: string(m.Data), at: at}, nil
}

// Hints subscribes to a region's news and hands on each as a hint. Where the reader
// is slower than the news, hints are dropped: comparing finds what they would have
// said. The channel is never closed; the subscription ends with the connection.
func Hints(nc *nats.Conn, r ident.Region) (<-chan ledger.Stored, error) {
	prefix := subject.LedgerNewsPrefix(r)
	hints := make(chan ledger.Stored, 4096)
	_, err := nc.Subscribe(prefix+">", func(m *nats.Msg) {
		if key, ok := hintKey(strings.TrimPrefix(m.Subject, prefix), len(m.Data)); ok {
			select {
			case hints <- ledger.Stored{Subject: key, Data: string(m.Data)}:
			default:
			}
		}
	})
	if err != nil {
		return nil, fmt.Errorf("listening for news of the ledger: %w", err)
	}
	return hints, nil
}

// hintKey gives the key of a hint: what is decided in home is told by the mirror,
// denials by their stream, and either by registrars. What is longer than it can be there
// is dropped, before it waits in memory and anybody has looked at its signature.
func hintKey(s string, size int) (string, bool) {
	from, key, _ := strings.Cut(s, ".")
	longest := maxDenial
	switch from {
	case "decisions":
		longest = trust.MaxEntry
	case "denials":
		_, key, _ = strings.Cut(key, ".")
	case "live":
	default:
		return "", false
	}
	ok := from == "live" || ledger.IsDenial(key) == (from == "denials")
	return key, key != "" && ok && size <= longest
}

// RecordNews calls f whenever some region has new records; f must not block.
func RecordNews(nc *nats.Conn, f func(region string)) error {
	_, err := nc.Subscribe(subject.RecordNewsAll, func(m *nats.Msg) {
		if t := strings.Split(m.Subject, "."); len(t) == 3 {
			f(t[1])
		}
	})
	if err != nil {
		return fmt.Errorf("listening for records: %w", err)
	}
	return nil
}
