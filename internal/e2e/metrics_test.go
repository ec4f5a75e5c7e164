package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/herald-nats/herald/internal/natsconn"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/ledger"
	"github.com/herald-nats/herald/pkg/ledger/jetstream"
	"github.com/herald-nats/herald/pkg/platform"
	"github.com/herald-nats/herald/pkg/subject"
)

// metrics runs an issuer and a registrar in one process and asks it for metrics, as
// Prometheus does: all are there, with values that this platform can have; and what
// somebody writes to home's bucket without a signing key shows.
func (w *world) metrics(t *testing.T) {
	dir := t.TempDir()
	for _, folder := range []string{"issuers", "registrars"} {
		if err := copyService(filepath.Join(w.running.Dir, folder, "ams"), filepath.Join(dir, folder)); err != nil {
			t.Fatal(err)
		}
	}
	// The registrar is to have no copy: its folder's place is taken.
	if err := os.WriteFile(filepath.Join(dir, "registrars", "state"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	path, err := exec.LookPath("provisioner")
	if err != nil {
		t.Fatal(err)
	}
	var stdout, stderr output
	cmd := exec.Command(path, "run", "--json", "--metrics", "127.0.0.1:0",
		"--config", filepath.Join(dir, "issuers", platform.ServiceFile), "--config", filepath.Join(dir, "registrars", platform.ServiceFile))
	cmd.Env, cmd.Stdout, cmd.Stderr = w.vars(t.TempDir()), &stdout, &stderr
	p, err := startProcess(cmd)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _, _ = p.stop(os.Kill, soon) }() // mostly gone already
	if !eventually(soon, func() bool { return strings.Count(stdout.String(), `"event":"ready"`) == 2 || p.ended() }) || p.ended() {
		t.Fatalf("it is not ready: %s%s", stdout.String(), stderr.String())
	}
	var first struct{ Event, URL string }
	if err := json.NewDecoder(strings.NewReader(stdout.String())).Decode(&first); err != nil || first.Event != "metrics" {
		t.Fatalf("%s: %v", stdout.String(), err)
	}
	if n, ok := listening(t, cmd.Process.Pid); ok && n != 1 {
		t.Errorf("it listens at %d ports", n)
	}

	got := scrape(t, first.URL)
	value := func(name string) float64 {
		t.Helper()
		v, ok := got[name]
		if !ok {
			t.Errorf("there is no %s", name)
		}
		return v
	}
	known := eventually(soon, func() bool {
		got = scrape(t, first.URL)
		ages := 0
		for name := range got {
			if strings.HasPrefix(name, "herald_ledger_age_seconds{") {
				ages++
			}
		}
		return ages == 4 && got["herald_ledger_names{region=ams,service=registrar}"] > 0
	})
	if !known {
		t.Errorf("some ages, or all names, are not known: %v", got)
	}
	for _, s := range []string{"issuer", "registrar"} {
		of := "region=ams,service=" + s
		for name, most := range map[string]float64{
			"ledger_names{%s}": 1e4, "ledger_decided{%s}": 10, "ledger_denials{%s}": 0, "ledger_complete{%s}": 1,
			"ledger_age_seconds{log=decisions,%s}": 60, "ledger_age_seconds{log=denials,%s}": 60,
			"ledger_entries_applied_total{%s}": 1e4, "ledger_entries_refused_total{%s}": 0, "ledger_entries_ahead_total{%s}": 0,
			"ledger_hints_total{believed=true,%s}": 1e4, "ledger_hints_total{believed=false,%s}": 0,
			"ledger_lost_total{%s}": 0, "ledger_reads_failed_total{%s}": 1e3, "platform_document_info{%s,version=1.1}": 1,
		} {
			name = "herald_" + fmt.Sprintf(name, of)
			if v := value(name); v < 0 || v > most {
				t.Errorf("%s is %g", name, v)
			}
		}
		for _, name := range []string{"ledger_names{%s}", "ledger_decided{%s}", "ledger_complete{%s}", "platform_document_info{%s,version=1.1}"} {
			if v := value("herald_" + fmt.Sprintf(name, of)); v < 1 {
				t.Errorf("%s of the %s is %g", name, s, v)
			}
		}
	}
	for name, want := range map[string]float64{
		"herald_ledger_copy_failing{region=ams,service=issuer}": 0, "herald_ledger_copy_failing{region=ams,service=registrar}": 1,
		"herald_records_waiting{region=ams,service=issuer}": 0, "herald_records_dropped_total{region=ams,service=issuer}": 0,
		"herald_denials_unstored{region=ams,service=registrar}": 0,
	} {
		if v := value(name); v != want {
			t.Errorf("%s is %g, want %g", name, v, want)
		}
	}
	if v := value("herald_holdings{region=ams,service=registrar}"); v < 0 || v > 1e4 {
		t.Errorf("%g identities hold a user", v)
	}
	if value("go_goroutines{}") < 1 || runtime.GOOS == "linux" && value("process_open_fds{}") < 1 {
		t.Error("the process tells nothing of itself")
	}

	// Somebody has home's right to write, and no signing key.
	decisions, err := jetstream.NewDecisions(w.dialHome(t))
	if err != nil {
		t.Fatal(err)
	}
	if err := decisions.Put(t.Context(), ledger.NameKey(w.running.Name("unsigned")), "not an entry", 0); err != nil {
		t.Fatal(err)
	}
	refused := func() bool {
		got = scrape(t, first.URL)
		return !slices.ContainsFunc([]string{
			"ledger_entries_refused_total{region=ams,service=issuer}", "ledger_entries_refused_total{region=ams,service=registrar}",
			"ledger_hints_total{believed=false,region=ams,service=issuer}", "ledger_hints_total{believed=false,region=ams,service=registrar}",
		}, func(name string) bool { return got["herald_"+name] < 1 })
	}
	if !eventually(soon, refused) {
		t.Errorf("an entry that nobody signed does not show: %v", got)
	}

	code, err := p.stop(syscall.SIGTERM, soon)
	if err != nil || code != 0 {
		t.Errorf("exit code %d, %v: %s", code, err, stderr.String())
	}
	if r, err := http.Get(first.URL); err == nil {
		_ = r.Body.Close()
		t.Error("it answers still")
	}
	if s := seed.FindString(stdout.String() + stderr.String()); s != "" {
		t.Error("a seed was logged")
	}
}

// copyService copies a service's folder, without its state: that changes, since the
// service runs, and is locked.
func copyService(from, to string) error {
	return filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		if d.IsDir() {
			if d.Name() == "state" {
				return fs.SkipDir
			}
			return os.Mkdir(filepath.Join(to, rel), 0o700)
		}
		data, err := os.ReadFile(path) // #nosec G122 -- the test's own folder
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(to, rel), data, 0o600)
	})
}

// dialHome connects with the rights of home's registrar in LEDGER.
func (w *world) dialHome(t *testing.T) *nats.Conn {
	t.Helper()
	u, err := w.running.Up.Platform.Mint(platform.Ledger, platform.RoleHome, time.Now(), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	key, err := ident.ParseUserKey(u.Key.Public())
	if err != nil {
		t.Fatal(err)
	}
	nc, err := natsconn.Dial(t.Context(), natsconn.Options{
		URLs: []string{w.url("ams")}, Name: "test", InboxPrefix: subject.ServiceInboxPrefix(key), Credential: natsconn.Static{Token: u.Token, Key: u.Key},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return nc
}

// nkey is what a key or a seed looks like.
var nkey = regexp.MustCompile(`[A-Z2-7]{56}`) //nolint:gochecknoglobals // a constant in all but name

// scrape asks for metrics and gives the values of counters and gauges by name and
// labels, as in herald_ledger_names{region=ams,service=issuer}. It fails if there is
// what looks like a seed or a key.
func scrape(t *testing.T, url string) map[string]float64 {
	t.Helper()
	c := http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: soon}
	r, err := c.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	var text strings.Builder
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := parser.TextToMetricFamilies(io.TeeReader(r.Body, &text))
	if err := errors.Join(err, r.Body.Close()); err != nil || r.StatusCode != http.StatusOK {
		t.Fatalf("%s: %v", r.Status, err)
	}
	if s := nkey.FindString(text.String()); s != "" {
		t.Errorf("a metric has a key: %s", s)
	}
	values := map[string]float64{}
	for name, f := range families {
		if strings.HasPrefix(name, "herald_") && f.GetHelp() == "" {
			t.Errorf("%s has no help", name)
		}
		for _, m := range f.GetMetric() {
			labels := make([]string, len(m.GetLabel()))
			for i, l := range m.GetLabel() {
				labels[i] = l.GetName() + "=" + l.GetValue()
			}
			slices.Sort(labels)
			values[name+"{"+strings.Join(labels, ",")+"}"] = m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	return values
}

// listening counts the TCP ports at which a process listens; false where the system
// does not tell.
func listening(t *testing.T, pid int) (int, bool) {
	t.Helper()
	if runtime.GOOS != "linux" {
		return 0, false
	}
	proc := fmt.Sprintf("/proc/%d/", pid)
	open := map[string]bool{}
	fds, err := os.ReadDir(proc + "fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds {
		if to, err := os.Readlink(proc + "fd/" + fd.Name()); err == nil { // some are closed meanwhile
			open[to] = true
		}
	}
	n := 0
	for _, file := range []string{"tcp", "tcp6"} {
		data, err := os.ReadFile(proc + "net/" + file)
		if errors.Is(err, os.ErrNotExist) {
			continue // a system without IPv6
		}
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(data)) {
			// The fourth column is the state, 0A for listening; the tenth is the inode.
			f := strings.Fields(line)
			if len(f) > 9 && f[3] == "0A" && open["socket:["+f[9]+"]"] {
				n++
			}
		}
	}
	return n, true
}
