package survey

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/herald-nats/herald/pkg/doctor/seen"
	"github.com/herald-nats/herald/pkg/subject"
)

// verbStats ends the subjects on which every service of the micro protocol tells how it is.
const verbStats = "STATS"

// maxServices bounds how many instances are looked at.
const maxServices = 4096

// Services asks all issuers and registrars how they are, over a connection in ADMIN. It
// takes Quiet, because nobody knows how many there are.
func Services(ctx context.Context, nc *nats.Conn, quiet time.Duration) ([]seen.Service, error) {
	t, err := newTalk(nc)
	if err != nil {
		return nil, err
	}
	defer t.end()
	for i, all := range []string{subject.ServiceInfo, subject.RegistrarInfo} {
		if err := t.ask(fmt.Sprint(i), strings.TrimSuffix(all, ">")+verbStats, nil); err != nil {
			return nil, err
		}
	}
	known := map[string]bool{}
	out := []seen.Service{}
	for {
		_, m, err := t.next(ctx, cmp.Or(quiet, Quiet))
		if err != nil {
			return nil, err
		}
		if m == nil {
			break
		}
		s, err := readService(m.Data)
		if err != nil || known[s.ID] || len(out) == maxServices {
			continue
		}
		known[s.ID] = true
		out = append(out, s)
	}
	slices.SortFunc(out, func(a, b seen.Service) int {
		return cmp.Or(cmp.Compare(a.Region, b.Region), cmp.Compare(a.Name, b.Name), cmp.Compare(a.ID, b.ID))
	})
	return out, nil
}

// readService reads what a service tells of itself.
func readService(data []byte) (seen.Service, error) {
	if len(data) > maxAnswer {
		return seen.Service{}, fmt.Errorf("an answer of %d bytes", len(data))
	}
	var v struct {
		Name      string    `json:"name"`
		ID        string    `json:"id"`
		Version   string    `json:"version"`
		Started   time.Time `json:"started"`
		Endpoints []*struct {
			Subject string          `json:"subject"`
			Data    json.RawMessage `json:"data"`
		} `json:"endpoints"`
	}
	if err := json.Unmarshal(data, &v); err != nil {
		return seen.Service{}, fmt.Errorf("a service's answer: %w", err)
	}
	if v.ID == "" || v.Name == "" {
		return seen.Service{}, errors.New("an answer of nobody")
	}
	s := seen.Service{
		Name: clean(v.Name, maxText), ID: clean(v.ID, maxText), Version: clean(v.Version, maxText), Started: v.Started,
		Subjects: []string{}, Ages: map[string]time.Duration{},
	}
	for _, e := range v.Endpoints {
		if e == nil {
			continue
		}
		s.Subjects = append(s.Subjects, clean(e.Subject, maxText))
		says(&s, e.Data)
	}
	return s, nil
}

// never is how a service says that it never read a source.
const never = "never"

// says takes what a service says of itself beside the micro protocol; what it does not say
// stays as it is. All endpoints of an instance say the same.
func says(s *seen.Service, data json.RawMessage) {
	var v struct {
		Region      string            `json:"region"`
		Document    string            `json:"document"`
		Ages        map[string]string `json:"age"`
		CopyFailing bool              `json:"copy_failing"`
		Audit       struct {
			Chain string `json:"chain"`
			N     uint64 `json:"n"`
		} `json:"audit"`
	}
	if len(data) == 0 || json.Unmarshal(data, &v) != nil {
		return
	}
	s.Region, s.Document, s.CopyFailing = clean(v.Region, maxText), clean(v.Document, maxText), v.CopyFailing
	s.Chain, s.Block = clean(v.Audit.Chain, maxText), v.Audit.N
	clear(s.Ages)
	s.Never = nil
	for source, age := range v.Ages {
		source = clean(source, maxText)
		d, err := time.ParseDuration(age)
		switch {
		case age == never:
			s.Never = append(s.Never, source)
		case err == nil && d >= 0:
			s.Ages[source] = d
		}
	}
	slices.Sort(s.Never)
}
