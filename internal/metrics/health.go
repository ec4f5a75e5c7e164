package metrics

import (
	"encoding/json"
	"net/http"
	"slices"

	"github.com/herald-nats/herald/internal/service"
)

// health is the body of /healthz and /readyz.
type health struct {
	OK       bool            `json:"ok"`
	Services []serviceHealth `json:"services"`
}

type serviceHealth struct {
	Named
	OK  bool     `json:"ok"`
	Why []string `json:"why,omitempty"`
}

// healthz answers 200 as long as a restart would not help: a service that starts, or waits
// for servers, is well.
func (s *Server) healthz(w http.ResponseWriter, _ *http.Request) {
	s.answer(w, func(st service.Status) bool { return !st.Closed }, true)
}

// readyz answers 200 while every service of the process takes requests.
func (s *Server) readyz(w http.ResponseWriter, _ *http.Request) {
	s.answer(w, func(st service.Status) bool { return st.Ready }, false)
}

// answer tells of each service whether it is ok, in the order in which they start.
func (s *Server) answer(w http.ResponseWriter, ok func(service.Status) bool, starting bool) {
	h := health{OK: true, Services: []serviceHealth{}}
	stats := s.stats()
	for _, n := range s.expected {
		one := serviceHealth{Named: n, OK: starting}
		if i := slices.IndexFunc(stats, func(st service.Stats) bool { return Named{st.Service, st.Region} == n }); i >= 0 {
			one.OK = ok(stats[i].Status)
			if !one.OK {
				one.Why = stats[i].Status.Why
			}
		} else if !starting {
			one.Why = []string{"it starts"}
		}
		h.OK = h.OK && one.OK
		h.Services = append(h.Services, one)
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	if !h.OK {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	// Who asked and went has nobody to be told.
	_ = json.NewEncoder(w).Encode(h)
}
