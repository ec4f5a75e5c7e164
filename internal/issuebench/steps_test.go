package issuebench

import (
	"context"
	"encoding/json"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/herald-nats/herald/pkg/subject"
	"github.com/herald-nats/herald/pkg/wire"
)

// BenchmarkSteps measures the larger steps of a request, each alone and on one processor, with
// a request as it arrives: which of them are worth looking at.
func BenchmarkSteps(b *testing.B) {
	w := newWorld(b, "ams")
	came := make(chan *nats.Msg, 1)
	r := w.answering(b, subject.Issue, func(_ *reference, m *nats.Msg) { came <- m })
	d := w.issueDoor(b)
	asked := d.prepare(1)(0)
	asked.Reply = d.conns[0].NewInbox()
	if err := d.conns[0].PublishMsg(asked); err != nil {
		b.Fatal(err)
	}
	m := <-came
	r.stop(b)
	issuer := w.issuer(b)
	answer := must(wire.DecodeAnswer(d.one(b).Data))
	w.stop(b, issuer)
	info := must(wire.DecodeRequestInfo(m.Header[wire.HeaderInfo]))
	guest, document, at := info.JWT, w.Public.Document, time.Now()
	payload := make([]byte, 700)
	for _, step := range []struct {
		name string
		do   func() error
	}{
		{"sign", func() error { _, err := w.secret.Sign(payload); return err }},
		{"check-proof", func() error { return refused(wire.CheckProof(w.keys[0], m.Header[wire.HeaderProof], m.Data)) }},
		{"decode-request", func() error { _, err := wire.DecodeRequest(m.Data); return refused(err) }},
		{"decode-request-info", func() error { _, err := wire.DecodeRequestInfo(m.Header[wire.HeaderInfo]); return err }},
		{"verify-guest", func() error { _, err := document.VerifyUser(guest, at); return err }},
		{"verify-member", func() error { _, err := document.VerifyUser(answer.JWT, at); return err }},
		{"encode-answer", func() error { _, err := json.Marshal(answer); return err }}, // #nosec G117 -- it is what an answer is for
		{"urls", func() error { document.URLs(w.home); return nil }},
		{"log-line", func() error {
			w.log.Info("issued", "request", "0123456789abcdef", "user", info.User, "identity", "key:"+w.access.ID.String(), "name", "bench",
				"account", "ORDERS", "role", "service", "expires", answer.Expires, "took", time.Millisecond)
			return nil
		}},
		{"context", func() error {
			_, cancel := context.WithTimeout(b.Context(), time.Minute)
			cancel()
			return nil
		}},
	} {
		b.Run(step.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if err := step.do(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// refused is a refusal as an error: nil is none.
func refused(err *wire.Error) error {
	if err == nil {
		return nil
	}
	return err
}
