package apply_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats.go"

	"github.com/herald-nats/herald/internal/apply"
	"github.com/herald-nats/herald/internal/uptest"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/keystore"
	"github.com/herald-nats/herald/pkg/ledger"
	"github.com/herald-nats/herald/pkg/ledger/jetstream"
	"github.com/herald-nats/herald/pkg/platform"
	"github.com/herald-nats/herald/pkg/platform/manifest"
	"github.com/herald-nats/herald/pkg/platform/plan"
	"github.com/herald-nats/herald/pkg/policy"
	"github.com/herald-nats/herald/pkg/registrar"
)

// shared is a platform of two regions with its services: whatever apply does, it does
// beside registrars.
var shared *uptest.Platform //nolint:gochecknoglobals // one for the test binary

func TestMain(m *testing.M) {
	if dir := os.Getenv(victimDir); dir != "" {
		os.Exit(victim(dir))
	}
	os.Exit(run(m))
}

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "apply")
	if err != nil {
		panic(err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	if shared, err = uptest.Start(dir, uptest.Options{Regions: []string{"ams", "sfo"}}); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	code := m.Run()
	if err := shared.Close(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return code
}

// folder is a copy of the platform's folder, as another operator has it, with what is in
// force now taken over: its platform.yaml is that of the running platform's beginning and
// says nothing of what other tests made.
func folder(t testing.TB) string {
	t.Helper()
	return copyOf(t, shared.Dir)
}

// copyOf is a copy of a folder, without what its servers store.
func copyOf(t testing.TB, of string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "platform")
	for _, part := range []string{"operator", "public", "issuers", "registrars", platform.FileName} {
		if err := filepath.WalkDir(filepath.Join(of, part), func(path string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			rel, err := filepath.Rel(of, path)
			if err != nil {
				return err
			}
			if d.IsDir() && d.Name() == "state" {
				return fs.SkipDir // services' copies of the ledger, which change meanwhile
			}
			if d.IsDir() {
				return os.MkdirAll(filepath.Join(dir, rel), 0o700)
			}
			data, err := os.ReadFile(path) // #nosec G122 -- a folder of the test's own
			if err != nil {
				return err
			}
			if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, rel)), 0o700); err != nil {
				return err
			}
			return os.WriteFile(filepath.Join(dir, rel), data, 0o600)
		}); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// edit changes a folder's platform.yaml.
func edit(t testing.TB, dir string, f func(*manifest.File)) {
	t.Helper()
	path := platform.Dir(dir).File()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	file, err := manifest.Parse(path, data)
	if err != nil {
		t.Fatal(err)
	}
	f(file)
	if err := os.WriteFile(path, file.Render(), 0o600); err != nil {
		t.Fatal(err)
	}
}

func tool(t testing.TB, dir string) *apply.Tool {
	t.Helper()
	p, err := platform.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	return &apply.Tool{Platform: p, Now: time.Now}
}

func bounded(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// doApply applies and wants it in force on every server.
func doApply(t testing.TB, dir string) *apply.Result {
	t.Helper()
	r, err := tool(t, dir).Apply(bounded(t), nil)
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Behind) > 0 || r.InLine != r.Accounts || r.Servers != 6 {
		t.Fatalf("%d of %d accounts on all of %d servers, behind: %+v", r.InLine, r.Accounts, r.Servers, r.Behind)
	}
	return r
}

// mustPlan plans with what the ledger has.
func mustPlan(t testing.TB, dir string) *plan.Plan {
	t.Helper()
	tl := tool(t, dir)
	force, err := tl.Look(bounded(t))
	if err != nil {
		t.Fatal(err)
	}
	p, err := tl.Plan(force)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// quiet wants a plan without changes and conflicts.
func quiet(t testing.TB, dir string) *plan.Plan {
	t.Helper()
	p := mustPlan(t, dir)
	if !p.Empty() {
		t.Errorf("something would change: %+v %+v %+v", p.Accounts, p.Document, p.Conflicts)
	}
	return p
}

var serial atomic.Int64 //nolint:gochecknoglobals // names are fresh over all tests

// fresh is a name that no other test has.
func fresh(prefix string) string { return prefix + strconv.FormatInt(serial.Add(1), 10) }

func must[T any](t testing.TB) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// account is an account with a role for services.
func account(name string) manifest.Account {
	var a manifest.Account
	if err := a.Name.UnmarshalText([]byte(name)); err != nil {
		panic(err)
	}
	a.Roles = []manifest.Role{role("service", name+".>")}
	return a
}

func role(name string, subjects ...string) manifest.Role {
	var r manifest.Role
	if err := r.Name.UnmarshalText([]byte(name)); err != nil {
		panic(err)
	}
	r.Publish.Allow = subjects
	r.Subscribe.Allow = append(slices.Clone(subjects), "_INBOX.svc.{{subject()}}.>")
	return r
}

func withAccounts(more ...manifest.Account) func(*manifest.File) {
	return func(f *manifest.File) { f.Accounts = append(f.Accounts, more...) }
}

// inForce is an account as the ledger has it.
func inForce(t testing.TB, name string) *jwt.AccountClaims {
	t.Helper()
	force, err := tool(t, shared.Dir).Look(bounded(t))
	if err != nil {
		t.Fatal(err)
	}
	k, ok := force.State.Accounts[name]
	if !ok {
		return nil
	}
	c, err := k.Claims()
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// connect is a user of a role of an account, made from the keys of a folder, in a region.
func connect(dir, account, role, region string, opts ...nats.Option) (*nats.Conn, error) {
	p, err := platform.Open(dir)
	if err != nil {
		return nil, err
	}
	u, err := p.Mint(account, role, time.Now(), time.Hour)
	if err != nil {
		return nil, err
	}
	for _, r := range p.File.Regions {
		if r.Name.String() == region {
			opts = append(opts, nats.UserJWT(func() (string, error) { return u.Token, nil }, u.Key.Sign), nats.Timeout(5*time.Second))
			return nats.Connect(strings.Join(p.File.ClientURLs(r), ","), opts...)
		}
	}
	return nil, fmt.Errorf("no region %s", region)
}

func TestApply(t *testing.T) {
	dir := folder(t)
	name := fresh("APP")
	edit(t, dir, withAccounts(account(name)))
	if p := mustPlan(t, dir); len(p.Accounts) != 1 || p.Accounts[0].How != plan.Create || p.Accounts[0].Name != name {
		t.Errorf("the plan: %+v", p.Accounts)
	}
	// A plan makes nothing, not even keys.
	if _, err := os.Stat(filepath.Join(dir, "operator", "accounts", name+".nk")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the plan made a key: %v", err)
	}
	r := doApply(t, dir)
	if len(r.Plan.Accounts) != 1 {
		t.Errorf("done: %+v", r.Plan.Accounts)
	}
	quiet(t, dir)
	if again := doApply(t, dir); !again.Plan.Empty() || again.Version != r.Version {
		t.Errorf("a second run changed something: %+v", again)
	}
	for _, region := range []string{"ams", "sfo"} {
		nc, err := connect(dir, name, "service", region)
		if err != nil {
			t.Errorf("in %s: %v", region, err)
			continue
		}
		nc.Close()
	}
	// The other folder, which says nothing of it, leaves it alone, and has it then.
	p := quiet(t, shared.Dir)
	if !slices.Contains(p.Elsewhere, "account "+name) {
		t.Errorf("elsewhere: %v", p.Elsewhere)
	}
}

func TestBusy(t *testing.T) {
	dir := folder(t)
	tl := tool(t, dir)
	entered, leave := make(chan struct{}), make(chan struct{})
	var once sync.Once
	tl.Step = func(string) {
		once.Do(func() { close(entered); <-leave })
	}
	done := make(chan error, 1)
	go func() {
		_, err := tl.Apply(bounded(t), nil)
		done <- err
	}()
	<-entered
	if _, err := tool(t, dir).Apply(bounded(t), nil); !errors.Is(err, apply.ErrBusy) {
		t.Errorf("two at once on one folder: %v", err)
	}
	close(leave)
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// Two operators with a folder each apply at the same moment, beside registrars: nothing of
// either is lost, in accounts and in the platform document.
func TestTwoAtOnce(t *testing.T) {
	for range 3 {
		var dirs, names []string
		for range 2 {
			dir, name := folder(t), fresh("BOTH")
			edit(t, dir, func(f *manifest.File) {
				a := account(name)
				a.Roles[0].Public, a.Roles[0].ConnectionTypes = true, []string{"STANDARD"}
				f.Accounts = append(f.Accounts, a)
				f.Grants = append(f.Grants, manifest.Grant{To: "open", Account: a.Name, Role: a.Roles[0].Name})
			})
			dirs, names = append(dirs, dir), append(names, name)
		}
		var wg sync.WaitGroup
		for _, dir := range dirs {
			wg.Go(func() {
				if _, err := tool(t, dir).Apply(bounded(t), nil); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		force, err := tool(t, shared.Dir).Look(bounded(t))
		if err != nil {
			t.Fatal(err)
		}
		for i, name := range names {
			if _, ok := force.State.Accounts[name]; !ok {
				t.Errorf("account %s is lost", name)
			}
			if !slices.ContainsFunc(force.State.Document.Policy.Offers, func(o policy.Offer) bool { return o.Account.String() == name }) {
				t.Errorf("the grant of %s is lost", name)
			}
			quiet(t, dirs[i])
			doApply(t, dirs[i])
		}
	}
}

func TestConflict(t *testing.T) {
	first, name := folder(t), fresh("CONF")
	edit(t, first, withAccounts(account(name)))
	doApply(t, first)
	second := copyOf(t, first)
	change := func(dir, subject string) {
		edit(t, dir, func(f *manifest.File) {
			i := slices.IndexFunc(f.Accounts, func(a manifest.Account) bool { return a.Name.String() == name })
			f.Accounts[i].Roles[0].Publish.Allow = []string{subject}
		})
	}
	change(first, "first.>")
	change(second, "second.>")
	doApply(t, first)
	r, err := tool(t, second).Apply(bounded(t), nil)
	if !errors.Is(err, apply.ErrConflict) || len(r.Plan.Conflicts) != 1 {
		t.Fatalf("%v, %+v", err, r)
	}
	if c := inForce(t, name); !strings.Contains(fmt.Sprint(plan.Statements(c, plan.Names{})), "first.>") {
		t.Error("the conflict was not left alone")
	}
	tl := tool(t, second)
	tl.Override = true
	if _, err := tl.Apply(bounded(t), nil); err != nil {
		t.Fatal(err)
	}
	if c := inForce(t, name); !strings.Contains(fmt.Sprint(plan.Statements(c, plan.Names{})), "second.>") {
		t.Error("overriding did nothing")
	}
	// Taking over what is in force ends the conflict, too.
	change(first, "second.>")
	quiet(t, first)
	doApply(t, first)
}

// Not confirmed is not done.
func TestConfirm(t *testing.T) {
	dir, name := folder(t), fresh("ASK")
	edit(t, dir, withAccounts(account(name)))
	no := errors.New("no")
	if _, err := tool(t, dir).Apply(bounded(t), func(p *plan.Plan) error {
		if len(p.Accounts) != 1 {
			t.Errorf("asked about %+v", p.Accounts)
		}
		return no
	}); !errors.Is(err, no) {
		t.Errorf("%v", err)
	}
	if inForce(t, name) != nil {
		t.Error("it was done without a yes")
	}
}

// Who loses a role is cut off and stays so, also when a role of that name comes again; who
// has another role does not notice; who has a changed one comes back.
func TestCuts(t *testing.T) {
	dir, name := folder(t), fresh("CUT")
	a := account(name)
	a.Roles = append(a.Roles, role("gone", "x.>"), role("stays", "y.>"))
	edit(t, dir, withAccounts(a))
	doApply(t, dir)
	closed := map[string]chan struct{}{}
	conns := map[string]*nats.Conn{}
	back := make(chan struct{}, 1)
	for _, r := range []string{"service", "gone", "stays"} {
		ch := make(chan struct{})
		closed[r] = ch
		opts := []nats.Option{nats.DisconnectErrHandler(func(*nats.Conn, error) { closeOnce(ch) }), nats.ReconnectWait(50 * time.Millisecond)}
		if r == "service" {
			opts = append(opts, nats.MaxReconnects(-1), nats.ReconnectHandler(func(*nats.Conn) { back <- struct{}{} }))
		} else {
			opts = append(opts, nats.NoReconnect())
		}
		nc, err := connect(dir, name, r, "ams", opts...)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(nc.Close)
		conns[r] = nc
	}
	edit(t, dir, func(f *manifest.File) {
		i := slices.IndexFunc(f.Accounts, func(a manifest.Account) bool { return a.Name.String() == name })
		roles := f.Accounts[i].Roles
		roles[0].Publish.Allow = append(roles[0].Publish.Allow, "more.>")
		f.Accounts[i].Roles = []manifest.Role{roles[0], roles[2]}
	})
	p := mustPlan(t, dir)
	if len(p.Accounts) != 1 || !slices.EqualFunc(p.Accounts[0].Cut, []plan.Cut{{Role: "gone"}, {Role: "service", Back: true}},
		func(a, b plan.Cut) bool { return a.Role == b.Role && a.Back == b.Back }) {
		t.Errorf("the plan cuts %+v", p.Accounts)
	}
	old, err := platform.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	oldUser, err := old.Mint(name, "gone", time.Now(), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	doApply(t, dir)
	await(t, closed["gone"], "the one whose role is gone stays connected")
	await(t, back, "the one whose role changed does not come back")
	select {
	case <-closed["stays"]:
		t.Error("the one whose role stays was cut off")
	default:
	}
	if err := conns["stays"].Flush(); err != nil {
		t.Error(err)
	}
	edit(t, dir, func(f *manifest.File) {
		i := slices.IndexFunc(f.Accounts, func(a manifest.Account) bool { return a.Name.String() == name })
		f.Accounts[i].Roles = append(f.Accounts[i].Roles, role("gone", "x.>"))
	})
	doApply(t, dir)
	nc, err := connect(dir, name, "gone", "sfo")
	if err != nil {
		t.Fatalf("the role that came again: %v", err)
	}
	nc.Close()
	if _, err := nats.Connect(strings.Join(shared.Public.Document.Regions[0].URLs, ","),
		nats.UserJWT(func() (string, error) { return oldUser.Token, nil }, oldUser.Key.Sign)); !errors.Is(err, nats.ErrAuthorization) {
		t.Errorf("a credential of the role that was gone: %v", err)
	}
	retired, err := os.ReadDir(filepath.Join(dir, "operator", "retired"))
	if err != nil || len(retired) != 1 {
		t.Errorf("retired keys: %v %v", retired, err)
	}
}

func closeOnce(ch chan struct{}) {
	select {
	case <-ch:
	default:
		close(ch)
	}
}

func await[T any](t *testing.T, ch <-chan T, what string) {
	t.Helper()
	select {
	case <-ch:
	case <-time.After(20 * time.Second):
		t.Fatal(what)
	}
}

func TestClose(t *testing.T) {
	dir, name := folder(t), fresh("SHUT")
	edit(t, dir, withAccounts(account(name)))
	doApply(t, dir)
	ended := make(chan struct{})
	nc, err := connect(dir, name, "service", "sfo", nats.NoReconnect(), nats.ClosedHandler(func(*nats.Conn) { close(ended) }))
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	before := inForce(t, name).Subject
	edit(t, dir, func(f *manifest.File) {
		f.Accounts = slices.DeleteFunc(f.Accounts, func(a manifest.Account) bool { return a.Name.String() == name })
	})
	if p := mustPlan(t, dir); len(p.Accounts) != 1 || p.Accounts[0].How != plan.Close {
		t.Errorf("the plan: %+v", p.Accounts)
	}
	doApply(t, dir)
	await(t, ended, "a user of the closed account stays connected")
	quiet(t, dir)
	// It can be opened again: the same account, with what it stored, and new keys of roles.
	edit(t, dir, withAccounts(account(name)))
	doApply(t, dir)
	if after := inForce(t, name).Subject; after != before {
		t.Errorf("it is another account: %s, was %s", after, before)
	}
	nc2, err := connect(dir, name, "service", "ams")
	if err != nil {
		t.Fatal(err)
	}
	nc2.Close()
}

// What others pushed to servers, such as a revocation, is not lost by an apply.
func TestRevocationStays(t *testing.T) {
	dir, name := folder(t), fresh("REV")
	edit(t, dir, withAccounts(account(name)))
	doApply(t, dir)
	p := tool(t, dir).Platform
	victim := must[*keystore.Key](t)(keystore.Generate(keystore.User))
	c := *inForce(t, name)
	c.RevokeAt(victim.Public(), time.Now())
	signer := must[platform.Signer](t)(p.Signer())
	token, err := signer.Account(&c, 1, time.Now().Add(2*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	tl := tool(t, dir)
	sys, err := tl.Dial(bounded(t), platform.System, platform.RoleSetup)
	if err != nil {
		t.Fatal(err)
	}
	defer sys.Close()
	resolver := registrar.NewResolver(sys, p.Operator, signer.Key(), time.Now)
	if rep, err := resolver.Converge(bounded(t), []string{token}, nil); err != nil || rep.Err() != nil {
		t.Fatal(err, rep.Err())
	}
	edit(t, dir, func(f *manifest.File) {
		i := slices.IndexFunc(f.Accounts, func(a manifest.Account) bool { return a.Name.String() == name })
		f.Accounts[i].Description = "changed"
	})
	doApply(t, dir)
	rep, err := resolver.Survey(bounded(t), []string{held(t, dir, name)}, nil)
	if err != nil {
		t.Fatal(err)
	}
	content, err := rep.Accounts[0].Content()
	if err != nil {
		t.Fatal(err)
	}
	if content.Revocations()[victim.Public()] == 0 {
		t.Error("the revocation is lost")
	}
	claims, err := content.Claims()
	if err != nil || claims.Description != "changed" {
		t.Errorf("the change is lost: %v %v", claims, err)
	}
}

// held is the JWT that a folder has of an account.
func held(t *testing.T, dir, name string) string {
	t.Helper()
	p := tool(t, dir).Platform
	h, ok := p.Account(name)
	if !ok {
		t.Fatalf("no account %s in the folder", name)
	}
	token, _, err := p.Claims(h)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// Servers that are away are named, and the rest is done.
func TestServersAway(t *testing.T) {
	dir, name := folder(t), fresh("AWAY")
	edit(t, dir, withAccounts(account(name)))
	node := "sfo-3"
	if err := shared.Up.Cluster.StopNode(bounded(t), node); err != nil {
		t.Fatal(err)
	}
	r, err := tool(t, dir).Apply(bounded(t), nil)
	if serr := shared.Up.Cluster.StartNode(bounded(t), node); serr != nil {
		t.Fatal(serr)
	}
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Behind) != 1 || r.Behind[0].Server != node {
		t.Errorf("behind: %+v", r.Behind)
	}
	nc, err := connect(dir, name, "service", "ams")
	if err != nil {
		t.Fatal(err)
	}
	nc.Close()
	// It is back, and in line without anybody's doing: registrars saw it come.
	deadline := time.Now().Add(20 * time.Second)
	for {
		r, err := tool(t, dir).Apply(bounded(t), nil)
		if err == nil && len(r.Behind) == 0 && r.InLine == r.Accounts {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%v %+v", err, r)
		}
	}
}

const (
	victimDir  = "HERALD_TEST_APPLY"
	victimStep = "HERALD_TEST_STEP"
)

// victim applies in a process of its own, which ends at a step as if it had been killed;
// without a step it runs to the end and prints the steps.
func victim(dir string) int {
	p, err := platform.Open(dir)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	at, _ := strconv.Atoi(os.Getenv(victimStep))
	n := 0
	tl := &apply.Tool{Platform: p, Now: time.Now, Step: func(what string) {
		n++
		if n == at {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		}
		fmt.Println(what)
	}}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if _, err := tl.Apply(ctx, nil); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// Killed at each of its steps, a run is gone on with by the next: it ends with everything
// in force, with the keys that were made, and without conflicts with itself.
func TestKilledAtEveryStep(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	step, more := 1+rand.IntN(2), 2 // #nosec G404 -- one half of the steps, and the other half another time
	if os.Getenv("HERALD_LONG") != "" {
		step, more = 1, 1
	}
	for ; ; step += more {
		// A new account, a changed one that loses a role, one that closes, and a grant.
		dir := folder(t)
		names := []string{fresh("KN"), fresh("KC"), fresh("KX")}
		changed := account(names[1])
		changed.Roles = append(changed.Roles, role("gone", "x.>"))
		edit(t, dir, withAccounts(changed, account(names[2])))
		doApply(t, dir)
		edit(t, dir, func(f *manifest.File) {
			n := len(f.Accounts)
			f.Accounts[n-2].Roles = f.Accounts[n-2].Roles[:1]
			f.Accounts[n-2].Description = "changed"
			a := account(names[0])
			a.Roles[0].Public, a.Roles[0].ConnectionTypes = true, []string{"STANDARD"}
			f.Accounts[n-1] = a
			f.Grants = append(f.Grants, manifest.Grant{To: "open", Account: a.Name, Role: a.Roles[0].Name})
		})
		cmd := exec.CommandContext(bounded(t), self)
		cmd.Env = append(os.Environ(), victimDir+"="+dir, victimStep+"="+strconv.Itoa(step))
		out, err := cmd.CombinedOutput()
		steps := strings.Split(strings.TrimSpace(string(out)), "\n")
		killed := err != nil && cmd.ProcessState.Sys().(syscall.WaitStatus).Signal() == syscall.SIGKILL
		if !killed && err != nil {
			t.Fatalf("step %d: %v\n%s", step, err, out)
		}
		seeds := seedsOf(t, dir)
		if p := mustPlan(t, dir); len(p.Conflicts) > 0 {
			t.Errorf("killed after %q: conflicts with itself: %+v", steps[len(steps)-1], p.Conflicts)
		}
		doApply(t, dir)
		quiet(t, dir)
		for path, seed := range seeds {
			if !slices.Contains(values(seedsOf(t, dir)), seed) {
				t.Errorf("killed after %q: the seed of %s is lost", steps[len(steps)-1], path)
			}
		}
		for _, n := range names[:2] {
			nc, err := connect(dir, n, "service", "sfo")
			if err != nil {
				t.Errorf("killed after %q: account %s: %v", steps[len(steps)-1], n, err)
				continue
			}
			nc.Close()
		}
		if c := inForce(t, names[2]); !slices.Contains(c.Tags, "closed") {
			t.Errorf("killed after %q: %s is open", steps[len(steps)-1], names[2])
		}
		if !killed {
			t.Logf("%d steps: %s", len(steps), strings.Join(steps, "; "))
			if len(steps) < 12 {
				t.Errorf("only %d steps", len(steps))
			}
			return
		}
	}
}

func seedsOf(t *testing.T, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	if err := filepath.WalkDir(filepath.Join(dir, "operator"), func(path string, d fs.DirEntry, err error) error {
		if err != nil || filepath.Ext(path) != ".nk" {
			return err
		}
		data, err := os.ReadFile(path) // #nosec G122 -- a folder of the test's own
		out[path] = string(data)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return out
}

func values(m map[string]string) []string {
	var out []string
	for _, v := range m {
		out = append(out, v)
	}
	return out
}

// What the ledger has without this operator's signature is never believed.
func TestForeignLedger(t *testing.T) {
	dir := folder(t)
	tl := tool(t, dir)
	other, err := platform.Init(bounded(t), filepath.Join(t.TempDir(), "other"), platform.Spec{
		Name: tl.Platform.File.Name, Regions: []ident.Region{tl.Platform.File.Home}, Home: tl.Platform.File.Home, Nodes: 3, Port: 20000,
	}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	signer := must[platform.Signer](t)(other.Signer())
	setup, err := tl.Dial(bounded(t), platform.Ledger, platform.RoleSetup)
	if err != nil {
		t.Fatal(err)
	}
	defer setup.Close()
	store, err := jetstream.NewDecisions(setup)
	if err != nil {
		t.Fatal(err)
	}
	token, revision, err := store.Get(bounded(t), ledger.PlatformKey())
	if err != nil {
		t.Fatal(err)
	}
	forged, err := signer.Document(other.Full, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if err := store.Put(bounded(t), ledger.PlatformKey(), forged, revision); err != nil {
		t.Fatal(err)
	}
	_, lerr := tl.Look(bounded(t))
	_, aerr := tool(t, dir).Apply(bounded(t), nil)
	_, revision, err = store.Get(bounded(t), ledger.PlatformKey())
	if err != nil {
		t.Fatal(err)
	}
	if err := store.Put(bounded(t), ledger.PlatformKey(), token, revision); err != nil {
		t.Fatal(err)
	}
	if !errors.Is(lerr, ledger.ErrDamaged) || !errors.Is(aerr, ledger.ErrDamaged) {
		t.Errorf("a document of another operator: %v, %v", lerr, aerr)
	}
	doApply(t, dir)
}
