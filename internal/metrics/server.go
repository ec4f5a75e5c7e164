package metrics

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/herald-nats/herald/internal/service"
	"github.com/herald-nats/herald/pkg/ident"
)

// ErrAddress: an address is not HOST:PORT.
var ErrAddress = errors.New("not an address of the form HOST:PORT")

const (
	// readWait and writeWait bound one request, and idleWait a connection without one:
	// Prometheus asks every few seconds, or every minute.
	readWait  = 5 * time.Second
	writeWait = 10 * time.Second
	idleWait  = 2 * time.Minute
	// lastWait is how long an answer that is under way may hold the end up.
	lastWait = time.Second
	// atOnce is how many are answered at the same time.
	atOnce = 4
	// maxHeader bounds the header of a request, in bytes.
	maxHeader = 16 << 10
)

// Server answers at /metrics, /healthz and /readyz until it is closed.
type Server struct {
	url  string // without a path
	http *http.Server
	done chan struct{} // closed when nothing is accepted any more

	mu       sync.Mutex
	expected []Named
	services []func() service.Stats
}

// Named is a service by what tells it from the others of a process.
type Named struct {
	Service string       `json:"service"`
	Region  ident.Region `json:"region"`
}

// Listen answers at host:port, for no service yet: with what the process and the Go
// runtime tell, and that it is not ready before all that are expected were added and
// are. The host must be written, because leaving it out would mean every
// interface; port 0 is any that is free. Whoever reaches the address is answered.
//
// ErrAddress; otherwise what the system says, such as syscall.EADDRINUSE.
func Listen(ctx context.Context, address string, log *slog.Logger, now func() time.Time, expected ...Named) (*Server, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil || host == "" {
		return nil, fmt.Errorf("%q is %w", address, ErrAddress)
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		return nil, fmt.Errorf("%q is %w", address, ErrAddress)
	}
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("listening for metrics: %w", err)
	}
	_, port, err = net.SplitHostPort(l.Addr().String())
	if err != nil {
		return nil, errors.Join(fmt.Errorf("listening for metrics: %w", err), l.Close())
	}

	s := &Server{url: "http://" + net.JoinHostPort(host, port), done: make(chan struct{}), expected: expected}
	all := prometheus.NewRegistry()
	for _, c := range []prometheus.Collector{
		newCollector(s.stats, now), collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	} {
		if err := all.Register(c); err != nil {
			return nil, errors.Join(fmt.Errorf("registering metrics: %w", err), l.Close())
		}
	}
	errs := slog.NewLogLogger(log.Handler(), slog.LevelWarn)
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(all, promhttp.HandlerOpts{ErrorLog: errs, MaxRequestsInFlight: atOnce}))
	mux.HandleFunc("GET /healthz", s.healthz)
	mux.HandleFunc("GET /readyz", s.readyz)
	s.http = &http.Server{
		Handler: mux, ErrorLog: errs, MaxHeaderBytes: maxHeader,
		ReadHeaderTimeout: readWait, ReadTimeout: readWait, WriteTimeout: writeWait, IdleTimeout: idleWait,
	}
	go func() {
		defer close(s.done)
		if err := s.http.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			log.Error("metrics are not served any more", "error", err)
		}
	}()
	return s, nil
}

// URL is where the metrics are, with the port that was chosen.
func (s *Server) URL() string { return s.url + "/metrics" }

// Add adds what a service tells of itself. No two may be of the same kind and region:
// nothing would tell their metrics apart.
func (s *Server) Add(stats func() service.Stats) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.services = append(s.services, stats)
}

func (s *Server) stats() []service.Stats {
	s.mu.Lock()
	services := slices.Clone(s.services)
	s.mu.Unlock()
	all := make([]service.Stats, len(services))
	for i, stats := range services {
		all[i] = stats()
	}
	return all
}

// Close stops listening and waits for answers that are under way, a second at most and
// not beyond the end of ctx; then it closes what is left. Nobody is owed an answer:
// a reader asks again.
func (s *Server) Close(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, lastWait)
	defer cancel()
	if s.http.Shutdown(ctx) != nil {
		_ = s.http.Close() // of connections that are cut off on purpose
	}
	<-s.done
}
