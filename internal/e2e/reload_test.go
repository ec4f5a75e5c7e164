package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats.go"

	"github.com/herald-nats/herald/internal/cli"
	"github.com/herald-nats/herald/internal/natsconn"
	"github.com/herald-nats/herald/pkg/client"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/keystore"
	"github.com/herald-nats/herald/pkg/platform"
	"github.com/herald-nats/herald/pkg/subject"
	"github.com/herald-nats/herald/pkg/wire"
)

// served is a provisioner that runs beside a test, with metrics.
type served struct {
	*process
	stdout, stderr *output
	metrics        string // where they are
}

// serve runs provisioner with configurations, and waits until all services are ready.
func (w *world) serve(t *testing.T, args []string, configs ...string) *served {
	t.Helper()
	path, err := exec.LookPath("provisioner")
	if err != nil {
		t.Fatal(err)
	}
	args = append([]string{"run", "--json", "--metrics", "127.0.0.1:0"}, args...)
	for _, c := range configs {
		args = append(args, "--config", c)
	}
	s := &served{stdout: &output{}, stderr: &output{}}
	cmd := exec.Command(path, args...) // #nosec G204 -- the program that is tested
	cmd.Env, cmd.Stdout, cmd.Stderr = w.vars(t.TempDir()), s.stdout, s.stderr
	if s.process, err = startProcess(cmd); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = s.stop(os.Kill, soon) }) // mostly gone already
	if !eventually(soon, func() bool { return strings.Count(s.stdout.String(), `"event":"ready"`) == len(configs) || s.ended() }) || s.ended() {
		t.Fatalf("it is not ready: %s%s", s.stdout.String(), s.stderr.String())
	}
	var first struct{ Event, URL string }
	if err := json.NewDecoder(strings.NewReader(s.stdout.String())).Decode(&first); err != nil || first.Event != "metrics" {
		t.Fatalf("%s: %v", s.stdout.String(), err)
	}
	s.metrics = first.URL
	return s
}

// health asks /readyz or /healthz.
func (s *served) health(t *testing.T, path string) (int, string) {
	t.Helper()
	c := http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: soon}
	r, err := c.Get(strings.TrimSuffix(s.metrics, "/metrics") + path)
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(r.Body)
	if err := errors.Join(err, r.Body.Close()); err != nil {
		t.Fatal(err)
	}
	return r.StatusCode, string(body)
}

// renewCreds makes a service's credential anew for the same nkey, as `nscsetup up` does in
// time, with another end.
func (w *world) renewCreds(t *testing.T, path, role string) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	c, err := natsconn.ParseCreds(data)
	if err != nil {
		t.Fatal(err)
	}
	claims, err := jwt.DecodeUserClaims(c.Token)
	if err != nil {
		t.Fatal(err)
	}
	key, err := keystore.Load(filepath.Join(w.running.Dir, "operator", "roles", role+".nk"), keystore.Account)
	if err != nil {
		t.Fatal(err)
	}
	claims.Expires -= 3600
	token, err := claims.Encode(key.Pair())
	if err != nil {
		t.Fatal(err)
	}
	seed, err := c.Key.Seed()
	if err != nil {
		t.Fatal(err)
	}
	if data, err = jwt.FormatUserConfig(token, seed); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// reload changes the configuration of an issuer and a registrar under load: what is good is
// taken over, what is not is refused whole, and no request is lost by either.
func (w *world) reload(t *testing.T) {
	const callers = 3
	dir := t.TempDir()
	for _, folder := range []string{"issuers", "registrars"} {
		if err := copyService(filepath.Join(w.running.Dir, folder, "ams"), filepath.Join(dir, folder)); err != nil {
			t.Fatal(err)
		}
	}
	issuer, registrar := filepath.Join(dir, "issuers"), filepath.Join(dir, "registrars")
	s := w.serve(t, nil, filepath.Join(issuer, platform.ServiceFile), filepath.Join(registrar, platform.ServiceFile))
	if code, body := s.health(t, "/readyz"); code != http.StatusOK || strings.Count(body, `"ok":true`) != 3 {
		t.Errorf("ready is %d %s", code, body)
	}
	if code, _ := s.health(t, "/healthz"); code != http.StatusOK {
		t.Errorf("well is %d", code)
	}

	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	asking, enoughAsked := context.WithCancel(ctx)
	defer enoughAsked()
	got := &answers{ids: map[string]bool{}, codes: map[string]int{}}
	var work sync.WaitGroup
	for range callers {
		name := w.running.Name("reload")
		work.Go(func() { w.ask(asking, ctx, name, got) })
	}
	// more waits until the issuer took requests anew.
	more := func(when string) {
		t.Helper()
		before := len(s.stderr.accepted())
		if !eventually(soon, func() bool { return len(s.stderr.accepted()) > before+5 || s.ended() }) || s.ended() {
			t.Fatalf("%s: the issuer is not asked any more", when)
		}
	}
	const of = "region=ams,service="
	good, bad := 0.0, 0.0
	// hup has it read everything again, and waits for the outcome, which both services count.
	hup := func(when, outcome string, n *float64) map[string]float64 {
		t.Helper()
		*n++
		if err := s.cmd.Process.Signal(syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		var m map[string]float64
		if !eventually(soon, func() bool {
			m = scrape(t, s.metrics)
			return m["herald_reloads_total{outcome="+outcome+","+of+"issuer}"] == *n && m["herald_reloads_total{outcome="+outcome+","+of+"registrar}"] == *n
		}) {
			t.Fatalf("%s: it is not %s: %s", when, outcome, s.stderr.String())
		}
		more(when)
		return m
	}
	more("at first")

	ends := "herald_credential_expires_in_seconds{file=auth.creds," + of + "issuer}"
	first := scrape(t, s.metrics)[ends]
	for range 3 {
		w.renewCreds(t, filepath.Join(issuer, platform.AuthCreds), "AUTH.issuer")
		w.renewCreds(t, filepath.Join(registrar, platform.LedgerCreds), "LEDGER.registrar")
		w.renewCreds(t, filepath.Join(registrar, platform.HomeCreds), "LEDGER.home")
		hup("new credentials", "ok", &good)
	}
	if now := scrape(t, s.metrics)[ends]; first-now < 3*3600-60 || first-now > 3*3600+60 {
		t.Errorf("the credential ends in %g s, and at first it was %g", now, first)
	}
	if code, body := s.health(t, "/readyz"); code != http.StatusOK {
		t.Errorf("ready is %d %s", code, body)
	}

	// What must not be taken over, each of it put right again.
	config := filepath.Join(issuer, platform.ServiceFile)
	other := func(from string) func() error {
		return func() error {
			data, err := os.ReadFile(filepath.Join(string(w.foreign.Dir), from))
			if err != nil {
				return err
			}
			return os.WriteFile(filepath.Join(dir, filepath.Dir(filepath.Dir(from)), filepath.Base(from)), data, 0o600)
		}
	}
	replaced := func(path, text string) func() error {
		return func() error { return os.WriteFile(path, []byte(text), 0o600) }
	}
	curve, err := keystore.Generate(keystore.Curve)
	if err != nil {
		t.Fatal(err)
	}
	for what, c := range map[string]struct {
		path  string
		spoil func() error
		says  string
	}{
		"a key that there is not":   {config, replaced(config, "service: issuer\nregion: ams\ncolour: blue\n"), "colour"},
		"another region":            {config, replaced(config, "service: issuer\nregion: sfo\n"), "region changed: it needs a restart"},
		"another state":             {config, replaced(config, "service: issuer\nregion: ams\nstate: elsewhere\n"), "state changed: it needs a restart"},
		"other servers":             {config, replaced(config, "service: issuer\nregion: ams\nurls: [\"nats://127.0.0.1:4\"]\n"), "urls changed: it needs a restart"},
		"a role key is gone":        {filepath.Join(issuer, "roles", "CHAT.member.nk"), func() error { return os.Remove(filepath.Join(issuer, "roles", "CHAT.member.nk")) }, "CHAT/member"},
		"another's credential":      {filepath.Join(issuer, platform.AuthCreds), other("issuers/ams/" + platform.AuthCreds), platform.AuthCreds},
		"an authority of no shape":  {filepath.Join(issuer, "ca.pem"), replaced(filepath.Join(issuer, "ca.pem"), "none\n"), "ca.pem"},
		"another's signing key":     {filepath.Join(registrar, platform.SigningFile), other("registrars/ams/" + platform.SigningFile), "signing key"},
		"another callout key":       {filepath.Join(issuer, platform.CalloutKeyFile), func() error { return keystore.Save(filepath.Join(issuer, platform.CalloutKeyFile), curve) }, "callout key changed: it needs a restart"},
		"a credential that is gone": {filepath.Join(registrar, platform.SystemCreds), func() error { return os.Remove(filepath.Join(registrar, platform.SystemCreds)) }, platform.SystemCreds},
	} {
		was, err := os.ReadFile(c.path)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
		// A good change of the other service, which is to be refused with it.
		w.renewCreds(t, filepath.Join(issuer, platform.AuthCreds), "AUTH.issuer")
		auth, err := os.ReadFile(filepath.Join(issuer, platform.AuthCreds))
		if err != nil {
			t.Fatal(err)
		}
		said := len(s.stderr.String())
		connected := strings.Count(s.stderr.String(), `"msg":"reconnected"`)
		if err := c.spoil(); err != nil {
			t.Fatal(err)
		}
		hup(what, "refused", &bad)
		var line struct{ Level, Msg, Error, Hint string }
		for l := range strings.Lines(s.stderr.String()[said:]) {
			if strings.Contains(l, "the configuration is refused") {
				if err := json.Unmarshal([]byte(l), &line); err != nil {
					t.Errorf("%s: %s: %v", what, l, err)
				}
			}
		}
		if line.Level != "ERROR" || !strings.Contains(line.Error, c.says) || line.Hint == "" {
			t.Errorf("%s: the log says %+v", what, line)
		}
		if n := strings.Count(s.stderr.String(), `"msg":"reconnected"`); n != connected {
			t.Errorf("%s: a part of it was taken over", what)
		}
		if was == nil {
			err = os.Remove(c.path)
		} else {
			if c.path == filepath.Join(issuer, platform.AuthCreds) {
				was = auth
			}
			err = os.WriteFile(c.path, was, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	// A key more, and all is right again.
	more1, err := keystore.Generate(keystore.Account)
	if err != nil {
		t.Fatal(err)
	}
	seed1, err := more1.Seed()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(issuer, "roles", "CHAT.other.nk"), append(seed1, '\n'), 0o600); err != nil {
		t.Fatal(err)
	}
	here := "herald_role_keys{" + of + "issuer,state=here}"
	before := scrape(t, s.metrics)[here]
	if m := hup("a role key more", "ok", &good); m[here] != before+1 {
		t.Errorf("%g role keys, and %g before", m[here], before)
	}

	w.lines(t, s)
	enoughAsked()
	work.Wait()
	for _, err := range got.lost {
		t.Errorf("a request got no answer: %v", err)
	}
	// Now and then a server says that nobody is there for one that is on its way; see drain.
	if len(got.codes) > 0 || got.nobody > callers {
		t.Errorf("requests were refused: %v; %d met nobody", got.codes, got.nobody)
	}
	// Each request is counted once, whatever was reloaded meanwhile. One that its caller gave up
	// and asked anew may still be at work, or its line on the way.
	for deadline := time.Now().Add(soon); ; time.Sleep(20 * time.Millisecond) {
		issued := strings.Count(s.stderr.String(), `"msg":"issued"`)
		n := scrape(t, s.metrics)["herald_requests_total{door=issue,outcome=ok,"+of+"issuer,way=open}"]
		if n == float64(issued) {
			break
		}
		if time.Now().After(deadline) {
			t.Errorf("%g requests are counted, and %d were issued", n, issued)
			break
		}
	}
	code, err := s.stop(syscall.SIGTERM, soon)
	if err != nil || code != 0 {
		_, race, _ := strings.Cut(s.stderr.String(), "WARNING: DATA RACE")
		t.Errorf("exit code %d, %v: %s", code, err, race)
	}
	if seed.MatchString(s.stdout.String() + s.stderr.String()) {
		t.Error("a seed was logged")
	}
}

// lines: whoever is answered finds the request's id in the issuer's log, which says of which
// service and region it is: what was issued, renewed and refused.
func (w *world) lines(t *testing.T, s *served) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), soon)
	defer cancel()
	key, err := keystore.Generate(keystore.User)
	if err != nil {
		t.Fatal(err)
	}
	urls := []string{w.url("ams")}
	name := w.running.Name("lines")
	c, err := w.running.Public.Obtain(ctx, urls, key, client.Wish{Name: name})
	if err != nil {
		t.Fatal(err)
	}
	member, err := natsconn.Dial(ctx, natsconn.Options{
		URLs: urls, Name: "member", Credential: natsconn.Static{Token: c.JWT, Key: key}, InboxPrefix: subject.UserInboxPrefix(c.User.Key),
	})
	if err != nil {
		t.Fatal(err)
	}
	defer member.Close()
	guest, err := w.running.Public.DialGuest(ctx, urls)
	if err != nil {
		t.Fatal(err)
	}
	defer guest.Close()
	issue := func(name ident.Name) func() (*nats.Msg, error) {
		return func() (*nats.Msg, error) {
			other, err := keystore.Generate(keystore.User)
			if err != nil {
				return nil, err
			}
			m, err := w.request(name, other)
			if err != nil {
				return nil, err
			}
			return guest.RequestMsgWithContext(ctx, m)
		}
	}
	for message, ask := range map[string]func() (*nats.Msg, error){
		"issued":  func() (*nats.Msg, error) { return issue(w.running.Name("lines"))() },
		"refused": issue(name), // it is taken
		"renewed": func() (*nats.Msg, error) { return member.RequestWithContext(ctx, subject.Renew, []byte("{}")) },
	} {
		// Another issuer of the region may answer instead, now and then.
		found := eventually(soon, func() bool {
			m, err := ask()
			if err != nil {
				t.Fatal(err)
			}
			id := m.Header.Get(wire.HeaderRequestID)
			return id != "" && slices.ContainsFunc(strings.Split(s.stderr.String(), "\n"), func(l string) bool {
				var line struct{ Msg, Request, Service, Region string }
				return json.Unmarshal([]byte(l), &line) == nil && line.Request == id && line.Msg == message && line.Service == "issuer" && line.Region == "ams"
			})
		})
		if !found {
			t.Errorf("no request that was %s has its line", message)
		}
	}
}

// ending: a service that is told to end answers what it has taken, waits no longer than it
// may, and ends at once when it is told again.
func (w *world) ending(t *testing.T) {
	for name, c := range map[string]struct {
		drain string
		again bool // a second signal
		code  int
	}{
		"in its time": {"1s", false, cli.Unavailable}, "told again": {"5m", true, -1},
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "issuer")
			if err := copyService(filepath.Join(w.running.Dir, "issuers", "sgp"), dir); err != nil {
				t.Fatal(err)
			}
			link := newLink(t, strings.TrimPrefix(w.url("sgp"), "nats://"))
			config := filepath.Join(dir, platform.ServiceFile)
			if err := os.WriteFile(config, []byte("service: issuer\nregion: sgp\nurls: [\"nats://"+link.address+"\"]\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			s := w.serve(t, []string{"--drain", c.drain}, config)
			link.frozen.Store(true) // the server hears and says nothing any more
			if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil {
				t.Fatal(err)
			}
			if !eventually(soon, func() bool { return strings.Contains(s.stderr.String(), `"msg":"draining"`) }) {
				t.Fatal("it does not drain")
			}
			if c.again {
				if code, body := s.health(t, "/readyz"); code != http.StatusServiceUnavailable || !strings.Contains(body, "it ends") {
					t.Errorf("ready is %d %s", code, body)
				}
				if code, _ := s.health(t, "/healthz"); code != http.StatusOK {
					t.Errorf("well is %d", code)
				}
				if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil {
					t.Fatal(err)
				}
			}
			select {
			case <-s.done:
			case <-time.After(soon):
				t.Fatal("it does not end")
			}
			if code := s.cmd.ProcessState.ExitCode(); code != c.code {
				t.Errorf("exit code %d, want %d: %s", code, c.code, s.stderr.String())
			}
		})
	}
}

// link passes bytes on between a client and a server until it is frozen.
type link struct {
	address string
	frozen  atomic.Bool
}

func newLink(t *testing.T, to string) *link {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	k := &link{address: l.Addr().String()}
	var mu sync.Mutex
	conns := map[net.Conn]bool{}
	var work sync.WaitGroup
	pass := func(to, from net.Conn) {
		defer func() { _, _ = to.Close(), from.Close() }()
		b := make([]byte, 64<<10)
		for {
			n, err := from.Read(b)
			if err != nil {
				return
			}
			if k.frozen.Load() {
				continue
			}
			if _, err := to.Write(b[:n]); err != nil {
				return
			}
		}
	}
	work.Go(func() {
		for {
			near, err := l.Accept()
			if err != nil {
				return // closed
			}
			far, err := net.Dial("tcp", to)
			if err != nil {
				_ = near.Close()
				continue
			}
			mu.Lock()
			conns[near], conns[far] = true, true
			mu.Unlock()
			work.Go(func() { pass(near, far) })
			work.Go(func() { pass(far, near) })
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		mu.Lock()
		for c := range maps.Keys(conns) {
			_ = c.Close()
		}
		mu.Unlock()
		work.Wait()
	})
	return k
}
