package metrics

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/herald-nats/herald/internal/endpoint"
	"github.com/herald-nats/herald/internal/service"
	"github.com/herald-nats/herald/internal/uptest"
	"github.com/herald-nats/herald/pkg/audit"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/ledger"
	"github.com/herald-nats/herald/pkg/provision"
	own "github.com/herald-nats/herald/pkg/registrar"
	"github.com/herald-nats/herald/pkg/trust"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func now() time.Time { return time.Unix(1_800_000_000, 0) }

func start(t *testing.T, address string) *Server {
	t.Helper()
	// What a request that outlives its test says has nobody to be told.
	s, err := Listen(t.Context(), address, slog.New(slog.DiscardHandler), now)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close(context.Background()) })
	return s
}

// get gives the status and the body. The connection is not kept, so that no goroutine is.
func get(t *testing.T, url string) (int, string) {
	t.Helper()
	c := http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 10 * time.Second}
	r, err := c.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(r.Body)
	if err := errors.Join(err, r.Body.Close()); err != nil {
		t.Fatal(err)
	}
	return r.StatusCode, string(body)
}

// ours are an answer's lines about Herald, without the comments.
func ours(body string) string {
	var lines []string
	for l := range strings.Lines(body) {
		if strings.HasPrefix(l, "herald_") {
			lines = append(lines, l)
		}
	}
	return strings.Join(lines, "")
}

func services(t *testing.T) (issuer, registrar service.Stats) {
	t.Helper()
	region, err := ident.ParseRegion("ams")
	if err != nil {
		t.Fatal(err)
	}
	issuer = service.Stats{
		Service: service.Issuer, Region: region, Document: trust.Version{Epoch: 1, Number: 2}, Names: 3, Decided: 4, Denials: 5,
		Complete: true, Ages: []ledger.Age{{Source: "decisions", Since: now().Add(-1500 * time.Millisecond)}, {Source: "denials"}},
		Ledger:         ledger.Stats{Applied: 6, Known: 7, Refused: 8, Ahead: 9, Hints: 10, HintsRefused: 11, Lost: 12, Failed: 13},
		CallersRefused: 30, Records: &audit.Stats{Waiting: 14, Dropped: 15, Failing: true, Records: 31, Blocks: 32, Refused: 33},
		Status: service.Status{Ready: true}, Reloads: service.Reloads{Done: 31, Refused: 32},
		Credentials: []service.Credential{{File: "auth.creds", Expires: now().Add(33 * time.Second)}, {File: "static.creds"}},
		Issuer: &service.IssuerStats{
			Held: provision.Held{Known: true, RegionKey: true, RoleKeys: 34, Lacking: make([]ident.AccountKey, 35)},
			Requests: provision.Measured{
				Requests: []provision.RequestCount{{Door: "issue", Way: "open", Outcome: "ok", Count: 36}, {Door: "info", Outcome: "rate_limited", Count: 37}},
				Times: []provision.StepTimes{{
					Door: "issue", Step: "sign", Count: 5, Sum: 1500 * time.Millisecond,
					Buckets: []provision.Bucket{{Most: 100 * time.Microsecond, Count: 3}, {Most: time.Second, Count: 4}},
				}},
				Queues: []provision.Queued{{Door: "issue", Metered: endpoint.Metered{AtWork: 38, Busy: 39, Limited: 40, Unanswered: 41}}},
			},
		},
	}
	behind := -52 * time.Second
	registrar = service.Stats{
		Service: service.Registrar, Region: region, Document: trust.Version{Epoch: 1, Number: 1}, CopyFailing: true,
		Status:      service.Status{Why: []string{"connection registrar-ams-ledger is being made again"}},
		Credentials: []service.Credential{{File: "ledger.creds", Expires: now().Add(-42 * time.Second)}},
		// Its clock was put back meanwhile.
		Ages: []ledger.Age{{Source: "denials", Since: now().Add(time.Hour)}},
		Registrar: &service.RegistrarStats{
			Unstored: 16, Holdings: 17, Revoking: 48, Clock: &behind, PeersRefused: 18, RecordsRefused: 19, Damaged: 20,
			Servers: own.WatcherStats{
				Looks: 21, Failed: 22, Pushed: 23, Overwritten: 24, Foreign: 25, OutOfLine: 26, Conflicts: 27, Behind: 28,
				InLine: now().Add(-29 * time.Second), Largest: []own.AccountSize{{Name: "CHAT", Bytes: 49}, {Name: "AUTH", Bytes: 50}}, Limit: 51,
			},
			Door: own.DoorStats{Disconnected: 45, Waiting: 46, Forgotten: 47},
		},
	}
	return issuer, registrar
}

// Each number is under its own name, and what is not known is absent.
func TestMetrics(t *testing.T) {
	s := start(t, "127.0.0.1:0")
	if code, body := get(t, s.URL()); code != http.StatusOK || ours(body) != "" || !strings.Contains(body, "go_goroutines ") {
		t.Errorf("without a service: %d %s", code, body)
	}
	issuer, registrar := services(t)
	s.Add(func() service.Stats { return issuer })
	s.Add(func() service.Stats { return registrar })
	const want = `herald_account_bytes{account="AUTH",region="ams",service="registrar"} 50
herald_account_bytes{account="CHAT",region="ams",service="registrar"} 49
herald_account_bytes_limit{region="ams",service="registrar"} 51
herald_accounts_age_seconds{region="ams",service="registrar"} 29
herald_accounts_conflicts{region="ams",service="registrar"} 27
herald_accounts_foreign_total{region="ams",service="registrar"} 25
herald_accounts_looks_failed_total{region="ams",service="registrar"} 22
herald_accounts_looks_total{region="ams",service="registrar"} 21
herald_accounts_out_of_line{region="ams",service="registrar"} 26
herald_accounts_overwritten_total{region="ams",service="registrar"} 24
herald_accounts_pushed_total{region="ams",service="registrar"} 23
herald_audit_blocks_total{region="ams",service="issuer"} 32
herald_audit_failing{region="ams",service="issuer"} 1
herald_audit_records_total{region="ams",service="issuer"} 31
herald_audit_refused_total{region="ams",service="issuer"} 33
herald_callers_refused_total{region="ams",service="issuer"} 30
herald_callers_refused_total{region="ams",service="registrar"} 0
herald_callout_disconnected_total{region="ams",service="registrar"} 45
herald_callout_disconnects_forgotten_total{region="ams",service="registrar"} 47
herald_callout_disconnects_waiting{region="ams",service="registrar"} 46
herald_clock_ahead_seconds{region="ams",service="registrar"} -52
herald_credential_expires_in_seconds{file="auth.creds",region="ams",service="issuer"} 33
herald_credential_expires_in_seconds{file="ledger.creds",region="ams",service="registrar"} -42
herald_denials_unstored{region="ams",service="registrar"} 16
herald_denials_waiting{region="ams",service="registrar"} 48
herald_holdings{region="ams",service="registrar"} 17
herald_home_damaged_total{region="ams",service="registrar"} 20
herald_ledger_age_seconds{log="decisions",region="ams",service="issuer"} 1.5
herald_ledger_age_seconds{log="denials",region="ams",service="registrar"} 0
herald_ledger_complete{region="ams",service="issuer"} 1
herald_ledger_complete{region="ams",service="registrar"} 0
herald_ledger_copy_failing{region="ams",service="issuer"} 0
herald_ledger_copy_failing{region="ams",service="registrar"} 1
herald_ledger_decided{region="ams",service="issuer"} 4
herald_ledger_decided{region="ams",service="registrar"} 0
herald_ledger_denials{region="ams",service="issuer"} 5
herald_ledger_denials{region="ams",service="registrar"} 0
herald_ledger_entries_ahead_total{region="ams",service="issuer"} 9
herald_ledger_entries_ahead_total{region="ams",service="registrar"} 0
herald_ledger_entries_applied_total{region="ams",service="issuer"} 6
herald_ledger_entries_applied_total{region="ams",service="registrar"} 0
herald_ledger_entries_refused_total{region="ams",service="issuer"} 8
herald_ledger_entries_refused_total{region="ams",service="registrar"} 0
herald_ledger_hints_total{believed="false",region="ams",service="issuer"} 11
herald_ledger_hints_total{believed="false",region="ams",service="registrar"} 0
herald_ledger_hints_total{believed="true",region="ams",service="issuer"} 10
herald_ledger_hints_total{believed="true",region="ams",service="registrar"} 0
herald_ledger_lost_total{region="ams",service="issuer"} 12
herald_ledger_lost_total{region="ams",service="registrar"} 0
herald_ledger_names{region="ams",service="issuer"} 3
herald_ledger_names{region="ams",service="registrar"} 0
herald_ledger_reads_failed_total{region="ams",service="issuer"} 13
herald_ledger_reads_failed_total{region="ams",service="registrar"} 0
herald_peers_refused_total{region="ams",service="registrar"} 18
herald_platform_document_info{region="ams",service="issuer",version="1.2"} 1
herald_platform_document_info{region="ams",service="registrar",version="1.1"} 1
herald_ready{region="ams",service="issuer"} 1
herald_ready{region="ams",service="registrar"} 0
herald_records_dropped_total{region="ams",service="issuer"} 15
herald_records_refused_total{region="ams",service="registrar"} 19
herald_records_waiting{region="ams",service="issuer"} 14
herald_region_key_matches{region="ams",service="issuer"} 1
herald_reloads_total{outcome="ok",region="ams",service="issuer"} 31
herald_reloads_total{outcome="ok",region="ams",service="registrar"} 0
herald_reloads_total{outcome="refused",region="ams",service="issuer"} 32
herald_reloads_total{outcome="refused",region="ams",service="registrar"} 0
herald_request_seconds_bucket{door="issue",region="ams",service="issuer",step="sign",le="0.0001"} 3
herald_request_seconds_bucket{door="issue",region="ams",service="issuer",step="sign",le="1"} 4
herald_request_seconds_bucket{door="issue",region="ams",service="issuer",step="sign",le="+Inf"} 5
herald_request_seconds_sum{door="issue",region="ams",service="issuer",step="sign"} 1.5
herald_request_seconds_count{door="issue",region="ams",service="issuer",step="sign"} 5
herald_requests_at_work{door="issue",region="ams",service="issuer"} 38
herald_requests_total{door="info",outcome="rate_limited",region="ams",service="issuer",way=""} 37
herald_requests_total{door="issue",outcome="ok",region="ams",service="issuer",way="open"} 36
herald_requests_turned_away_total{door="issue",reason="busy",region="ams",service="issuer"} 39
herald_requests_turned_away_total{door="issue",reason="limited",region="ams",service="issuer"} 40
herald_requests_turned_away_total{door="issue",reason="unanswered",region="ams",service="issuer"} 41
herald_role_keys{region="ams",service="issuer",state="here"} 34
herald_role_keys{region="ams",service="issuer",state="missing"} 35
herald_servers_behind{region="ams",service="registrar"} 28
`
	code, body := get(t, s.URL())
	if got := ours(body); code != http.StatusOK || got != want {
		t.Errorf("%d, got\n%s\nwant\n%s", code, got, want)
	}
	// They are read when somebody asks.
	issuer.Names++
	if _, body = get(t, s.URL()); !strings.Contains(body, `herald_ledger_names{region="ams",service="issuer"} 4`) {
		t.Errorf("a name more is not shown:\n%s", ours(body))
	}
	if code, _ := get(t, strings.TrimSuffix(s.URL(), "metrics")); code != http.StatusNotFound {
		t.Errorf("elsewhere: %d", code)
	}
}

// docs/metrics.md has a row for each metric, and no other, with the type it has.
func TestDocumented(t *testing.T) {
	s := start(t, "127.0.0.1:0")
	issuer, registrar := services(t)
	s.Add(func() service.Stats { return issuer })
	s.Add(func() service.Stats { return registrar })
	_, body := get(t, s.URL())
	var have []string
	for _, m := range regexp.MustCompile(`(?m)^# TYPE (herald_\w+) (\w+)$`).FindAllStringSubmatch(body, -1) {
		have = append(have, m[1]+" "+m[2])
		if !regexp.MustCompile(`(?m)^# HELP ` + m[1] + ` \w.*\.$`).MatchString(body) {
			t.Errorf("%s has no help", m[1])
		}
	}
	root, err := uptest.Root()
	if err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile(filepath.Join(root, "docs", "metrics.md"))
	if err != nil {
		t.Fatal(err)
	}
	var told []string
	for _, m := range regexp.MustCompile("(?m)^\\| `(herald_\\w+)[^`]*` \\| (\\w+) \\|").FindAllStringSubmatch(string(page), -1) {
		told = append(told, m[1]+" "+m[2])
	}
	slices.Sort(have)
	slices.Sort(told)
	if !slices.Equal(have, told) {
		t.Errorf("docs/metrics.md has %v; the programs have %v", told, have)
	}
}

// health is a body of /healthz or /readyz.
func askHealth(t *testing.T, s *Server, path string) (int, health) {
	t.Helper()
	code, body := get(t, s.url+path)
	var h health
	if err := json.Unmarshal([]byte(body), &h); err != nil {
		t.Fatalf("%s: %s: %v", path, body, err)
	}
	return code, h
}

// Ready is when every service of the process is; one that has not started yet is not. Well
// is what a restart would not help.
func TestHealth(t *testing.T) {
	issuer, registrar := services(t)
	s, err := Listen(t.Context(), "127.0.0.1:0", slog.New(slog.DiscardHandler), now,
		Named{service.Issuer, issuer.Region}, Named{service.Registrar, registrar.Region})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close(context.Background())
	wants := func(when string, ready, well int, why ...string) {
		t.Helper()
		code, h := askHealth(t, s, "/readyz")
		var said []string
		for _, one := range h.Services {
			said = append(said, one.Why...)
			if one.OK != (len(one.Why) == 0) {
				t.Errorf("%s: %+v", when, one)
			}
		}
		if code != ready || h.OK != (ready == http.StatusOK) || len(h.Services) != 2 || !slices.Equal(said, why) {
			t.Errorf("%s: ready is %d %+v", when, code, h)
		}
		if code, h := askHealth(t, s, "/healthz"); code != well || h.OK != (well == http.StatusOK) {
			t.Errorf("%s: well is %d %+v", when, code, h)
		}
	}
	const yes, no = http.StatusOK, http.StatusServiceUnavailable
	wants("before any has started", no, yes, "it starts", "it starts")
	s.Add(func() service.Stats { return issuer })
	wants("before the second has", no, yes, "it starts")
	s.Add(func() service.Stats { return registrar })
	wants("with one that is not", no, yes, registrar.Status.Why[0])
	registrar.Status = service.Status{Ready: true}
	wants("all", yes, yes)
	issuer.Status = service.Status{Why: []string{"a", "b"}, Closed: true}
	wants("with one that is closed", no, no, "a", "b")
}

func TestListenRefuses(t *testing.T) {
	s := start(t, "localhost:0")
	_, port, err := net.SplitHostPort(strings.TrimSuffix(strings.TrimPrefix(s.URL(), "http://"), "/metrics"))
	if err != nil {
		t.Fatal(err)
	}
	for address, want := range map[string]error{
		"localhost:" + port: syscall.EADDRINUSE,
		"192.0.2.1:0":       syscall.EADDRNOTAVAIL, // nobody's: RFC 5737
		"":                  ErrAddress,
		":0":                ErrAddress, // every interface
		"127.0.0.1":         ErrAddress,
		"127.0.0.1:http":    ErrAddress,
		"127.0.0.1:65536":   ErrAddress,
		"http://[::1]:1/":   ErrAddress,
	} {
		s, err := Listen(t.Context(), address, slog.New(slog.DiscardHandler), now)
		if err == nil {
			s.Close(t.Context())
		}
		if !errors.Is(err, want) {
			t.Errorf("%q: %v, want %v", address, err, want)
		}
	}
}

// Who connects and says nothing, or waits for an answer that does not come, does not
// hold the end up.
func TestClose(t *testing.T) {
	s := start(t, "127.0.0.1:0")
	asked, answer := make(chan struct{}), make(chan struct{})
	issuer, _ := services(t)
	s.Add(func() service.Stats { close(asked); <-answer; return issuer })
	address := strings.TrimSuffix(strings.TrimPrefix(s.URL(), "http://"), "/metrics")
	for i, say := range []string{"", "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"} {
		c, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = c.Close() }()
		if _, err := io.WriteString(c, say); err != nil {
			t.Fatal(err)
		}
		if i == 1 {
			<-asked
		}
	}
	defer close(answer)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	began := time.Now()
	s.Close(ctx)
	if took := time.Since(began); took > lastWait {
		t.Errorf("it took %s", took)
	}
	if c, err := net.Dial("tcp", address); err == nil {
		_ = c.Close()
		t.Error("it listens still")
	}
}
