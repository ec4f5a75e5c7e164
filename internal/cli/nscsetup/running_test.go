package nscsetup

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/herald-nats/herald/internal/cli"
	"github.com/herald-nats/herald/internal/natsconn"
	"github.com/herald-nats/herald/internal/uptest"
	"github.com/herald-nats/herald/pkg/doctor"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/keystore"
	"github.com/herald-nats/herald/pkg/platform"
	"github.com/herald-nats/herald/pkg/subject"
	"github.com/herald-nats/herald/pkg/trust"
)

// running is a platform that runs, and the program on its folder.
type running struct {
	*testing.T
	*uptest.Platform
}

func startPlatform(t *testing.T, o uptest.Options) running {
	t.Helper()
	// Registered first, so that it is called last.
	t.Cleanup(func() {
		if err := uptest.Leaks(); err != nil {
			t.Errorf("goroutines are left: %v", err)
		}
	})
	p, err := uptest.Start(t.TempDir(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	return running{t, p}
}

// run runs the program on the platform's folder.
func (r running) run(args ...string) (code int, stdout, stderr string) {
	r.Helper()
	var out, errs bytes.Buffer
	ctx, cancel := context.WithTimeout(r.Context(), time.Minute)
	defer cancel()
	code = Run(ctx, cli.IO{In: strings.NewReader(""), Out: &out, Err: &errs}, append([]string{"--dir", r.Dir}, args...))
	return code, out.String(), errs.String()
}

// doctor gives the ids of what doctor finds, each with where it was, and the exit code.
func (r running) doctor(args ...string) (code int, found map[string][]string, all []doctor.Finding) {
	r.Helper()
	code, stdout, stderr := r.run(append([]string{"doctor", "--json"}, args...)...)
	var report doctorReport
	if err := json.Unmarshal([]byte(stdout), &report); err != nil {
		r.Fatalf("doctor said %q and %q: %v", stdout, stderr, err)
	}
	found = map[string][]string{}
	for _, f := range report.Findings {
		found[f.ID] = append(found[f.ID], f.Where...)
		slices.Sort(found[f.ID])
	}
	return code, found, report.Findings
}

// eventually waits until f gives "".
func (r running) eventually(within time.Duration, f func() string) {
	r.Helper()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	end := time.After(within)
	for {
		why := f()
		if why == "" {
			return
		}
		select {
		case <-tick.C:
		case <-end:
			r.Fatalf("not within %v: %s", within, why)
		}
	}
}

// lacks says which of some findings were not found, at these places; "" if none.
func lacks(found map[string][]string, want map[string][]string) string {
	for id, where := range want {
		for _, w := range where {
			if !slices.Contains(found[id], w) {
				return fmt.Sprintf("no %s at %s in %v", id, w, found)
			}
		}
	}
	return ""
}

// A whole platform with its services: how it is when it is well, when a region is away,
// and when a link is cut.
func TestStatusAndDoctor(t *testing.T) {
	r := startPlatform(t, uptest.Options{})
	sgp, sfo, ams := regionOf("sgp"), regionOf("sfo"), regionOf("ams")

	// Well. The services follow the ledger from a moment after their start on.
	well := func() string {
		code, stdout, stderr := r.run("status", "--json")
		if code != cli.OK {
			return fmt.Sprintf("status: %d, %s", code, stderr)
		}
		var s struct {
			InLine  bool `json:"in_line"`
			Servers []struct {
				Unanswered []string `json:"unanswered"`
			} `json:"servers"`
			Accounts []struct {
				Same int `json:"same"`
			} `json:"accounts"`
			Services []struct {
				Name   string         `json:"name"`
				Region string         `json:"region"`
				Ages   map[string]any `json:"ages_ns"`
				Never  []string       `json:"never"`
			} `json:"services"`
		}
		if err := json.Unmarshal([]byte(stdout), &s); err != nil {
			t.Fatal(err)
		}
		var services []string
		for _, v := range s.Services {
			services = append(services, v.Region+" "+v.Name)
			if len(v.Ages) == 0 || len(v.Never) > 0 {
				return fmt.Sprintf("service %+v", v)
			}
		}
		// An issuer is two instances: one issues, one renews.
		want := []string{
			"ams issuer", "ams issuer", "ams registrar", "sfo issuer", "sfo issuer", "sfo registrar", "sgp issuer", "sgp issuer", "sgp registrar",
		}
		if !s.InLine || len(s.Servers) != 9 || !slices.Equal(services, want) || slices.ContainsFunc(s.Accounts, func(a struct {
			Same int `json:"same"`
		},
		) bool {
			return a.Same != 9
		}) {
			return fmt.Sprintf("in line %v, %d servers, services %v, accounts %v", s.InLine, len(s.Servers), services, s.Accounts)
		}
		// A trial on one machine has no more than this to be told.
		code, found, _ := r.doctor()
		if want := []string{"issuer-single", "region-one-machine", "registrar-single"}; code != cli.OK || !slices.Equal(sorted(found), want) {
			return fmt.Sprintf("doctor: %d, %v", code, found)
		}
		return ""
	}
	r.eventually(60*time.Second, well)
	if code, stdout, _ := r.run("status"); code != cli.OK || !strings.Contains(stdout, "7 of 7 in line on 9 servers") ||
		!strings.Contains(stdout, "ams (home)") || strings.Count(stdout, "1 registrar, version ") != 3 || strings.Count(stdout, "1 issuer, version ") != 3 {
		t.Errorf("status: %d\n%s", code, stdout)
	}
	for failOn, want := range map[string]int{"error": cli.OK, "warning": cli.Failed, "info": cli.Failed, "never": cli.OK, "fatal": cli.Usage} {
		if code, _, _ := r.run("doctor", "--fail-on", failOn); code != want {
			t.Errorf("--fail-on %s: %d, want %d", failOn, code, want)
		}
	}

	// A region away.
	if err := r.Up.Cluster.StopRegion(t.Context(), sgp); err != nil {
		t.Fatal(err)
	}
	r.eventually(60*time.Second, func() string {
		code, stdout, stderr := r.run("status")
		if code != cli.Partial || !strings.Contains(stderr, "3 of 9 servers do not answer: sgp-1, sgp-2, sgp-3") || !strings.Contains(stdout, "7 of 7 in line on 6 servers") {
			return fmt.Sprintf("status: %d\n%s%s", code, stdout, stderr)
		}
		code, found, _ := r.doctor()
		if code != cli.Failed || found["issuer-missing"] != nil {
			return fmt.Sprintf("doctor: %d, %v", code, found)
		}
		return lacks(found, map[string][]string{
			"region-silent": {"region sgp"}, "jetstream-away": {"server sgp-1", "server sgp-2", "server sgp-3"},
		})
	})
	if err := r.Up.Cluster.StartRegion(t.Context(), sgp); err != nil {
		t.Fatal(err)
	}
	// One server of a region away.
	if err := r.Up.Cluster.StopNode(t.Context(), "sfo-3"); err != nil {
		t.Fatal(err)
	}
	r.eventually(60*time.Second, func() string {
		_, found, _ := r.doctor()
		return lacks(found, map[string][]string{
			"server-silent": {"server sfo-3"}, "region-thin": {"region sfo"}, "jetstream-away": {"server sfo-3"}, "stream-thin": {"stream AUDIT_sfo of account LEDGER"},
		})
	})
	if err := r.Up.Cluster.StartNode(t.Context(), "sfo-3"); err != nil {
		t.Fatal(err)
	}
	// A link cut: both ends are there, and do not see each other.
	if err := r.Up.Cluster.Cut(ams, sfo); err != nil {
		t.Fatal(err)
	}
	r.eventually(60*time.Second, func() string {
		code, stdout, stderr := r.run("status")
		if code != cli.Failed || !strings.Contains(stderr, "ams has no gateway to sfo; sfo has no gateway to ams") || strings.Contains(stdout, "does not answer") {
			return fmt.Sprintf("status: %d\n%s%s", code, stdout, stderr)
		}
		if strings.Count(stdout, "1 registrar, version ") != 3 {
			return "services of the region that is cut off are not asked: " + stdout
		}
		_, found, _ := r.doctor()
		return lacks(found, map[string][]string{"region-cut-off": {"region sfo"}, "gateway-missing": {"region ams", "region sfo"}})
	})
	if err := r.Up.Cluster.Heal(ams, sfo); err != nil {
		t.Fatal(err)
	}
	r.eventually(90*time.Second, well)
}

func sorted(found map[string][]string) []string {
	var ids []string
	for id := range found {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return ids
}

func regionOf(name string) ident.Region {
	r, err := ident.ParseRegion(name)
	if err != nil {
		panic(err)
	}
	return r
}

// Status says since when: a watch that is not on a terminal writes what there is, and then
// a line for each change.
func TestStatusWatch(t *testing.T) {
	r := startPlatform(t, uptest.Options{Regions: []string{"ams"}, Bare: true})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	out := &byLine{found: make(chan string, 64)}
	done := make(chan int, 1)
	go func() {
		done <- Run(ctx, cli.IO{In: strings.NewReader(""), Out: out, Err: out}, []string{"--dir", r.Dir, "status", "--watch", "--every", "500ms"})
	}()
	wait := func(want string) {
		t.Helper()
		end := time.After(60 * time.Second)
		for {
			select {
			case line := <-out.found:
				if strings.Contains(line, want) {
					return
				}
			case code := <-done:
				t.Fatalf("it ended with %d", code)
			case <-end:
				t.Fatalf("no %q", want)
			}
		}
	}
	wait("7 of 7 in line on 3 servers")
	if err := r.Up.Cluster.StopNode(t.Context(), "ams-2"); err != nil {
		t.Fatal(err)
	}
	wait("server ams-2: does not answer (before: answers, for ")
	if err := r.Up.Cluster.StartNode(t.Context(), "ams-2"); err != nil {
		t.Fatal(err)
	}
	wait("server ams-2: answers (before: does not answer, for ")
	cancel()
	if code := <-done; code != cli.OK {
		t.Errorf("ended with %d", code)
	}
}

// byLine passes on what is written, by lines.
type byLine struct {
	rest  string
	found chan string
}

func (l *byLine) Write(b []byte) (int, error) {
	l.rest += string(b)
	for {
		line, rest, ok := strings.Cut(l.rest, "\n")
		if !ok {
			return len(b), nil
		}
		l.rest = rest
		l.found <- line
	}
}

// What servers hold that they should not, and what the folder has: pushed and written, and
// found.
func TestDoctorFindsWhatWasPushed(t *testing.T) {
	r := startPlatform(t, uptest.Options{Regions: []string{"ams"}, Bare: true})
	p := r.Up.Platform
	_, before, _ := r.doctor()
	// Without services; and this is one region.
	if want := []string{"issuer-missing", "region-alone", "region-one-machine", "registrar-missing"}; !slices.Equal(sorted(before), want) {
		t.Fatalf("at first: %v", before)
	}
	code, stdout, _ := r.run("status")
	if code != cli.OK || !strings.Contains(stdout, "no registrar answers") {
		t.Errorf("status: %d\n%s", code, stdout)
	}
	finds := func(want map[string][]string) {
		t.Helper()
		r.eventually(30*time.Second, func() string {
			_, found, _ := r.doctor()
			return lacks(found, want)
		})
	}

	// An account that has ended, and is fat with revocations.
	chat := r.claims(platform.ChatIn, 100)
	chat.Expires = time.Now().Add(-time.Minute).Unix()
	for range 6000 {
		chat.RevokeAt(newUser(t), time.Now())
	}
	r.push(chat, r.signer())
	finds(map[string][]string{"account-expired": {"account CHAT"}, "account-fat": {"account CHAT"}})

	// One that another operator signed, with whatever version.
	foreign, err := keystore.Generate(keystore.Operator)
	if err != nil {
		t.Fatal(err)
	}
	r.push(r.claims(platform.Guest, 100), foreign)
	finds(map[string][]string{"account-foreign": {"account GUEST"}})
	code, _, stderr := r.run("status")
	if code != cli.Failed || !strings.Contains(stderr, "account GUEST is not in line: 3 servers with one that does not verify") {
		t.Errorf("status: %d, %s", code, stderr)
	}
	r.push(r.claims(platform.Guest, 100), r.signer())

	// Two that differ and have one version.
	auth := r.claims(platform.Auth, 0)
	auth.Description = "another"
	r.push(auth, r.signer())
	finds(map[string][]string{"account-conflict": {"account AUTH"}})
	r.push(r.claims(platform.Auth, 100), r.signer())

	// In the system account: a key of no role, a role with more rights, an export, and
	// somebody who is connected by that key.
	thief, err := keystore.Generate(keystore.Account)
	if err != nil {
		t.Fatal(err)
	}
	system := r.claims(platform.System, 100)
	system.SigningKeys.Add(thief.Public())
	system.Exports.Add(&jwt.Export{Name: "all", Subject: "$SYS.REQ.>", Type: jwt.Service})
	for _, scope := range system.SigningKeys {
		if s, ok := scope.(*jwt.UserScope); ok && s.Role == platform.RoleSetup {
			s.Template.Pub.Allow.Add("$SYS.REQ.SERVER.*.RELOAD")
		}
	}
	r.push(system, r.signer())
	finds(map[string][]string{"system-key": {"role SYS/" + thief.Public()}})
	nc := r.connect(p.Operator.System(), thief)
	finds(map[string][]string{
		"system-key": {"role SYS/" + thief.Public()}, "system-rights": {"role SYS/setup"}, "system-export": {"account SYS"},
		"system-user": {"server " + nc.ConnectedServerName()},
	})
	nc.Close()
	r.push(r.claims(platform.System, 101), r.signer())

	// A stream with one replica in the ledger.
	r.stream()
	finds(map[string][]string{"stream-single": {"stream ONE of account LEDGER"}})

	// In the folder: a role of nobody, one that cannot work, a certificate near its end, no
	// spare keys, a credential that is over.
	r.write("platform.yaml", string(r.read("platform.yaml"))+`
accounts:
  - name: APP
    roles:
      - {name: idle, publish: {allow: [a]}, connection_types: [STANDARD]}
      - {name: web, publish: {allow: [a]}, connection_types: [WEBSOCKET]}
`)
	r.write("operator/tls/ca/1/servers.crt", certificate(t, 10*24*time.Hour))
	expired, err := p.Mint(platform.Auth, platform.RoleIssuer, time.Now().Add(-2*time.Hour), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	seed, err := expired.Key.Seed()
	if err != nil {
		t.Fatal(err)
	}
	creds, err := jwt.FormatUserConfig(expired.Token, seed)
	if err != nil {
		t.Fatal(err)
	}
	r.write("issuers/ams/auth.creds", string(creds))
	spare, err := filepath.Glob(filepath.Join(r.Dir, "operator", "signing", "spare*"))
	if err != nil || len(spare) == 0 {
		t.Fatalf("spare keys: %v, %v", spare, err)
	}
	for _, s := range spare {
		if err := os.Remove(s); err != nil {
			t.Fatal(err)
		}
	}
	folder := map[string][]string{
		"role-unused": {"role APP/idle"}, "role-broken": {"role APP/web"}, "certificate-ending": {"operator/tls/ca/1/servers.crt"},
		"credential-expired": {"issuers/ams/auth.creds"}, "spare-missing": {"the operator"},
	}
	finds(folder)
	// The folder alone tells the same of itself, but not who listens.
	code, found, all := r.doctor("--offline")
	delete(folder, "role-broken")
	if why := lacks(found, folder); why != "" || code != cli.Failed || found[doctor.NobodyAnswers] != nil || found["account-fat"] != nil {
		t.Errorf("--offline: %d, %s", code, why)
	}
	for _, f := range all {
		if f.Why == "" || f.Do == "" || strings.Contains(fmt.Sprint(f), string(seed)) {
			t.Errorf("finding %+v", f)
		}
	}

	// Nobody there.
	if err := r.Up.Cluster.StopRegion(t.Context(), regionOf("ams")); err != nil {
		t.Fatal(err)
	}
	if code, _, stderr := r.run("status"); code != cli.Unavailable || !strings.Contains(stderr, "hint: are the servers up") {
		t.Errorf("status of nobody: %d, %s", code, stderr)
	}
	code, found, _ = r.doctor()
	if why := lacks(found, map[string][]string{doctor.NobodyAnswers: {"the platform"}, "role-unused": {"role APP/idle"}}); why != "" || code != cli.Failed {
		t.Errorf("doctor of nobody: %d, %s", code, why)
	}
}

// claims are an account's claims as the folder has them, under a version; 0: its own.
func (r running) claims(account string, version uint64) *jwt.AccountClaims {
	r.Helper()
	h, ok := r.Up.Platform.Account(account)
	if !ok {
		r.Fatalf("no account %s", account)
	}
	_, c, err := r.Up.Platform.Claims(h)
	if err != nil {
		r.Fatal(err)
	}
	if version > 0 {
		c.Tags = jwt.TagList{fmt.Sprint(trust.TagBase, version)}
	}
	return c
}

func (r running) signer() *keystore.Key {
	r.Helper()
	s, err := r.Up.Platform.Signer()
	if err != nil {
		r.Fatal(err)
	}
	return s.Key()
}

// push gives an account to all servers, as somebody in SYS may who verifies nothing. (Not
// as SYS/setup: what changes that role's template closes its connections.)
func (r running) push(c *jwt.AccountClaims, key *keystore.Key) {
	r.Helper()
	token, err := c.Encode(key.Pair())
	if err != nil {
		r.Fatal(err)
	}
	nc := r.dial(platform.System, platform.RoleRegistrar)
	defer nc.Close()
	inbox, err := nc.SubscribeSync(nc.NewInbox())
	if err != nil {
		r.Fatal(err)
	}
	if err := nc.PublishRequest(subject.ClaimsUpdate, inbox.Subject, []byte(token)); err != nil {
		r.Fatal(err)
	}
	for range r.Up.Cluster.Servers() {
		m, err := inbox.NextMsg(10 * time.Second)
		if err != nil {
			r.Fatalf("pushing %s: %v", c.Name, err)
		}
		if bytes.Contains(m.Data, []byte(`"error"`)) {
			r.Fatalf("pushing %s: %s", c.Name, m.Data)
		}
	}
}

func (r running) dial(account, role string) *nats.Conn {
	r.Helper()
	u, err := r.Up.Platform.Mint(account, role, time.Now(), time.Minute)
	if err != nil {
		r.Fatal(err)
	}
	return r.dialAs(u.Token, u.Key)
}

// connect connects with a user of an account that a key signed which has no template.
func (r running) connect(account ident.AccountKey, signer *keystore.Key) *nats.Conn {
	r.Helper()
	key, err := keystore.Generate(keystore.User)
	if err != nil {
		r.Fatal(err)
	}
	c := jwt.NewUserClaims(key.Public())
	c.Name, c.IssuerAccount = "thief", account.String()
	token, err := c.Encode(signer.Pair())
	if err != nil {
		r.Fatal(err)
	}
	return r.dialAs(token, key)
}

func (r running) dialAs(token string, key *keystore.Key) *nats.Conn {
	r.Helper()
	user, err := ident.ParseUserKey(key.Public())
	if err != nil {
		r.Fatal(err)
	}
	nc, err := natsconn.Dial(r.Context(), natsconn.Options{
		URLs: r.Up.Cluster.URLs(regionOf("ams")), Name: "test", InboxPrefix: subject.ServiceInboxPrefix(user), Credential: natsconn.Static{Token: token, Key: key},
	})
	if err != nil {
		r.Fatal(err)
	}
	return nc
}

// stream makes a stream with one replica in the ledger.
func (r running) stream() {
	r.Helper()
	nc := r.dial(platform.Ledger, platform.RoleSetup)
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		r.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(r.Context(), 20*time.Second)
	defer cancel()
	if _, err := js.CreateStream(ctx, jetstream.StreamConfig{Name: "ONE", Subjects: []string{"one"}, Replicas: 1}); err != nil {
		r.Fatal(err)
	}
}

func (r running) read(name string) []byte {
	r.Helper()
	data, err := os.ReadFile(filepath.Join(r.Dir, name))
	if err != nil {
		r.Fatal(err)
	}
	return data
}

func (r running) write(name, data string) {
	r.Helper()
	path := filepath.Join(r.Dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		r.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(data), 0o600); err != nil {
		r.Fatal(err)
	}
}

func newUser(t *testing.T) string {
	t.Helper()
	k, err := keystore.Generate(keystore.User)
	if err != nil {
		t.Fatal(err)
	}
	return k.Public()
}

// certificate is a self-signed one that ends so soon.
func certificate(t *testing.T, left time.Duration) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"},
		NotBefore: time.Now().Add(-300 * 24 * time.Hour), NotAfter: time.Now().Add(left),
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}
