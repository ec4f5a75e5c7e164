package admintest

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats.go"

	"github.com/herald-nats/herald/internal/apply"
	"github.com/herald-nats/herald/internal/cli"
	"github.com/herald-nats/herald/internal/service"
	"github.com/herald-nats/herald/pkg/ledger"
	"github.com/herald-nats/herald/pkg/platform"
	"github.com/herald-nats/herald/pkg/platform/manifest"
)

// turning is what `rotate --json` says.
type turning struct {
	Role, Region, Stage, From, To string
	Waiting, Exposed              []string
	Cut                           []struct{ Name string }
	Behind                        []struct{ Server string }
}

// folder runs nscsetup until no other test has the folder.
func folder(t *testing.T, args ...string) (code int, out, errs string) {
	t.Helper()
	for {
		code, out, errs = tell(t, args...)
		if code != cli.Resource {
			return code, out, errs
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func rotates(t *testing.T, args ...string) turning {
	t.Helper()
	code, out, errs := folder(t, append([]string{"rotate", "role", "--json"}, args...)...)
	var r turning
	if err := json.Unmarshal([]byte(out), &r); err != nil || code != cli.OK {
		t.Fatalf("%v: %d %s%s", args, code, out, errs)
	}
	return r
}

// turns is how a role's rotation stands; nothing if there is none.
func turns(t *testing.T, role string) turning {
	t.Helper()
	return turnsOf(t, func(r turning) bool { return r.Role == role })
}

func turnsOf(t *testing.T, of func(turning) bool) turning {
	t.Helper()
	var all []turning
	if err := json.Unmarshal([]byte(done(t, "rotate", "status", "--json")), &all); err != nil {
		t.Fatal(err)
	}
	for _, r := range all {
		if of(r) {
			return r
		}
	}
	return turning{}
}

// until waits until a rotation stands so.
func until(t *testing.T, what, role string, is func(turning) bool) turning {
	t.Helper()
	return untilOf(t, what, func(r turning) bool { return r.Role == role }, is)
}

func untilOf(t *testing.T, what string, of, is func(turning) bool) turning {
	t.Helper()
	end := time.Now().Add(90 * time.Second)
	for {
		r := turnsOf(t, of)
		if is(r) {
			return r
		}
		if time.Now().After(end) {
			t.Fatalf("%s: waiting in vain; it stands so: %+v\n%s", what, r, log.Tail(20, "being replaced"))
		}
		time.Sleep(100 * time.Millisecond) // registrars tell nobody
	}
}

func stage(s string) func(turning) bool { return func(r turning) bool { return r.Stage == s } }

// signedBy is the role key by which a credential was signed.
func signedBy(p *person) string { return must(jwt.DecodeUserClaims(p.cred.JWT)).Issuer }

// roleKeys are the keys that each server has for roles of an account.
func roleKeys(t *testing.T, account string) []string {
	t.Helper()
	a, _ := shared.Up.Platform.Account(account)
	var all []string
	for _, token := range held(t, system(t), a.Key.String()) {
		keys := must(jwt.DecodeAccountClaims(token)).SigningKeys.Keys()
		slices.Sort(keys)
		all = append(all, strings.Join(keys, " "))
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// planned waits until nothing would change by platform.yaml: between two steps of a registrar the
// document says one thing of a role's keys and the account another.
func planned(t *testing.T) {
	t.Helper()
	for end := time.Now().Add(soon); ; {
		code, out, errs := tell(t, "plan", "--exit-code")
		if code == cli.OK && !strings.Contains(out, "elsewhere") {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("plan: %d %s%s", code, out, errs)
		}
	}
}

// tidied has the folder brought after what is in force, which a look does not where another test has
// the folder.
func tidied(t *testing.T, account string) {
	t.Helper()
	for end := time.Now().Add(soon); ; {
		left, _ := filepath.Glob(filepath.Join(shared.Dir, "operator", "rotating", account+".*"))
		if len(left) == 0 {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("in the folder: %v", left)
		}
		tell(t, "rotate", "status")
	}
}

// TestRotateRole: a role's key is replaced and nobody notices. Credentials by the former key are
// good until they end, also static users'; none by it lives when it goes; the folder has the new
// one then, and works by it.
func TestRotateRole(t *testing.T) {
	t.Parallel()
	account := turned(0)
	role := account + "/service"
	access, _ := newKey(t, role)
	p := joinsBy(t, "ams", account, access)
	before := signedBy(p)
	file := filepath.Join(t.TempDir(), "static.creds")
	done(t, "add", "user", role, shared.Name("static").String(), "--out", file, "--ttl", "30s")
	static := time.Now().Add(29 * time.Second)

	issuer := filepath.Join(t.TempDir(), "issuer")
	if err := os.CopyFS(issuer, os.DirFS(filepath.Join(shared.Dir, "issuers", "sfo"))); err != nil {
		t.Fatal(err)
	}
	r := rotates(t, role, "--why", "yearly")
	if r.From != before || r.To == before || r.Stage != "add" {
		t.Fatalf("%+v", r)
	}
	if code, _, errs := folder(t, "rotate", "role", role); code != cli.Refused || !strings.Contains(errs, "replaced already") {
		t.Errorf("again: %d %s", code, errs)
	}
	if code, _, errs := tell(t, "add", "user", role, shared.Name("static").String(), "--out", file+"2"); code != cli.Refused || !strings.Contains(errs, "being replaced") {
		t.Errorf("a static user meanwhile: %d %s", code, errs)
	}
	until(t, "everybody has the new key", role, func(r turning) bool { return r.Stage != "add" })
	if got := roleKeys(t, account); len(got) != 1 || !strings.Contains(got[0], r.From) || !strings.Contains(got[0], r.To) {
		t.Errorf("servers have %v", got)
	}
	old := p.connects(t, urls(region("sgp"))[0])
	for _, in := range []string{"ams", "sfo", "sgp"} {
		fresh := joinsBy(t, in, account, access)
		end := time.Now().Add(slower * 5 * time.Second)
		for signedBy(fresh) != r.To && time.Now().Before(end) {
			time.Sleep(50 * time.Millisecond) // an issuer tells nobody that it has read
			fresh.asks(t, in)
		}
		if signedBy(fresh) != r.To {
			t.Errorf("%s issues by another key", in)
		}
		for _, url := range allURLs() {
			nc, err := fresh.dial(url)
			if err != nil {
				t.Fatalf("%s: %v", url, err)
			}
			nc.Close()
		}
	}
	select {
	case <-old:
		if time.Now().Before(p.cred.Expires) {
			t.Error("who had a credential is out before it ended")
		}
	default:
	}
	// Tools that work by the folder go on while it is replaced.
	planned(t)
	until(t, "the former key is gone", role, func(r turning) bool { return r.Stage == "" })
	if time.Now().Before(static) {
		t.Error("it is gone, and a static user has a credential by it")
	}
	if got := roleKeys(t, account); len(got) != 1 || got[0] != r.To {
		t.Errorf("servers have %v", got)
	}
	planned(t)
	tidied(t, account)
	made := filepath.Join(t.TempDir(), "static.creds")
	done(t, "add", "user", role, shared.Name("static").String(), "--out", made)
	nc, err := nats.Connect(allURLs()[0], nats.UserCredentials(made))
	if err != nil {
		t.Fatalf("what the folder makes afterwards: %v", err)
	}
	nc.Close()
	left, _ := filepath.Glob(filepath.Join(shared.Dir, "operator", "rotating", account+".*"))
	aside, _ := filepath.Glob(filepath.Join(shared.Dir, "operator", "retired", account+".service."+before+".nk"))
	if len(left) != 0 || len(aside) != 1 {
		t.Errorf("in the folder: %v, %v", left, aside)
	}
	code, out, _ := tell(t, "audit", "search", "--what", "change", "--key", "platform.document", "--json")
	if code != cli.OK || !strings.Contains(out, "the key of role "+role) || !strings.Contains(out, "yearly") {
		t.Errorf("it is not recorded: %d", code)
	}
	startsFromBefore(t, issuer)
	for what, args := range map[string][]string{
		"services":    {"rotate", "role", "SYS/registrar"},
		"no such":     {"rotate", "role", "NOBODY/here"},
		"taking back": {"rotate", "undo", role},
	} {
		if code, _, errs := folder(t, args...); code != cli.Refused || !strings.Contains(errs, "hint:") {
			t.Errorf("%s: %d %s", what, code, errs)
		}
	}
}

// startsFromBefore shows that an issuer whose folder is from before has the key that is in use: it
// is in the ledger, sealed to its region's key.
func startsFromBefore(t *testing.T, folder string) {
	t.Helper()
	if err := errors.Join(os.RemoveAll(filepath.Join(folder, "state")), os.Chmod(filepath.Join(folder, "region.nk"), 0o600)); err != nil {
		t.Fatal(err)
	}
	roles := must(filepath.Glob(filepath.Join(folder, "roles", "*.nk")))
	for _, path := range append(roles, must(filepath.Glob(filepath.Join(folder, "*.creds")))...) {
		if err := os.Chmod(path, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c, err := service.Load(filepath.Join(folder, platform.ServiceFile))
	if err != nil {
		t.Fatal(err)
	}
	s, err := c.Start(t.Context(), log.Logger())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Drain(context.Background()) }() // the test's platform goes on without it
	if held := s.Stats().Issuer.Held; len(held.Lacking) != 0 || held.Offered == 0 {
		t.Errorf("from a folder of before: %+v", held)
	}
}

// TestRotateUndo: until the former key goes, it can be had back; what was issued by the new one
// is good until it ends.
func TestRotateUndo(t *testing.T) {
	t.Parallel()
	account := turned(1)
	role := account + "/service"
	access, _ := newKey(t, role)
	p := joinsBy(t, "sfo", account, access)
	before := signedBy(p)
	r := rotates(t, role)
	until(t, "it is issued by the new key", role, stage("issue"))
	for signedBy(p) != r.To {
		time.Sleep(50 * time.Millisecond) // as above
		p.asks(t, "sfo")
	}
	if code, _, errs := folder(t, "rotate", "undo", role); code != cli.OK {
		t.Fatal(errs)
	}
	if back := turns(t, role); back.Stage != "issue" || back.To != before || back.From != r.To {
		t.Errorf("%+v", back)
	}
	for _, url := range allURLs()[:3] {
		nc, err := p.dial(url)
		if err != nil {
			t.Fatalf("by the key that goes: %v", err)
		}
		nc.Close()
	}
	ends := p.cred.Expires
	until(t, "the new key is gone", role, func(r turning) bool { return r.Stage == "" })
	if time.Now().Before(ends) {
		t.Error("it is gone, and somebody has a credential by it")
	}
	if got := roleKeys(t, account); len(got) != 1 || got[0] != before {
		t.Errorf("servers have %v", got)
	}
	p.asks(t, "sfo")
	if signedBy(p) != before {
		t.Error("it is not issued by the key that was taken back")
	}
}

// TestRotateEmergency: whoever has a credential by the former key is out at once, is named, and
// cannot come by it any more; who shows who they are is in again.
func TestRotateEmergency(t *testing.T) {
	t.Parallel()
	account := turned(longLived)
	role := account + "/service"
	access, _ := newKey(t, role)
	p := joinsBy(t, "ams", account, access)
	stolen := *p
	out := p.connects(t, urls(region("sgp"))[0])
	if code, _, errs := tell(t, "rotate", "role", role, "--emergency"); code != cli.Usage || !strings.Contains(errs, "--yes") {
		t.Errorf("without a question: %d %s", code, errs)
	}
	began := time.Now()
	r := rotates(t, role, "--emergency", "--yes", "--why", "stolen")
	goesOut(t, "who had a credential", soon, out)
	t.Logf("out after %s", time.Since(began))
	if len(r.Cut) != 1 || len(r.Behind) != 0 || r.From != signedBy(&stolen) {
		t.Errorf("%+v", r)
	}
	if got := roleKeys(t, account); len(got) != 1 || got[0] != r.To {
		t.Errorf("servers have %v", got)
	}
	stolen.isOut(t, allURLs()...)
	ctx, cancel := context.WithTimeout(t.Context(), soon)
	defer cancel()
	for signedBy(p) != r.To {
		if err := p.tries(ctx, "sfo"); err != nil && ctx.Err() != nil {
			t.Fatal(err)
		}
	}
	p.connects(t, urls(region("ams"))[0])
	until(t, "it is over", role, func(r turning) bool { return r.Stage == "" })
}

// TestRotateAndApply: what platform.yaml changes of the role meanwhile holds for both keys.
func TestRotateAndApply(t *testing.T) {
	account := turned(3)
	role := account + "/service"
	access, _ := newKey(t, role)
	p := joinsBy(t, "ams", account, access)
	r := rotates(t, role)
	until(t, "it is issued by the new key", role, stage("issue"))
	path := filepath.Join(shared.Dir, "platform.yaml")
	was := must(os.ReadFile(path))
	head, tail, ok := strings.Cut(string(was), "- name: "+account+"\n")
	if !ok {
		t.Fatal("the file has changed")
	}
	if err := os.WriteFile(path, []byte(head+"- name: "+account+"\n"+strings.Replace(tail, `["turns.>"]`, `["turns.>", "more.>"]`, 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	done(t, "apply", "--yes")
	if got := roleKeys(t, account); len(got) != 1 || !strings.Contains(got[0], r.From) || !strings.Contains(got[0], r.To) {
		t.Errorf("servers have %v", got)
	}
	p.asks(t, "ams")
	nc, err := p.dial(urls(region("ams"))[0])
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	// The server says what it refuses before it answers to what comes behind.
	if err := errors.Join(nc.Publish("other.of.it", nil), nc.Flush()); err != nil || !errors.Is(nc.LastError(), nats.ErrPermissionViolation) {
		t.Fatalf("what it may not: %v, %v", err, nc.LastError())
	}
	nc, err = p.dial(urls(region("ams"))[0])
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	if err := errors.Join(nc.Publish("more.of.it", nil), nc.Flush(), nc.LastError()); err != nil {
		t.Error(err)
	}
	until(t, "the former key is gone", role, func(r turning) bool { return r.Stage == "" })
	if got := roleKeys(t, account); len(got) != 1 || got[0] != r.To {
		t.Errorf("servers have %v", got)
	}
	if err := os.WriteFile(path, was, 0o600); err != nil {
		t.Fatal(err)
	}
	done(t, "apply", "--yes")
}

// TestRotateWhileCut: a region that hears of nothing holds the rotation up, and is named; its
// issuers go on by the former key; when it is back the rotation goes on by itself.
func TestRotateWhileCut(t *testing.T) {
	account := turned(4)
	role := account + "/service"
	access, _ := newKey(t, role)
	p, there := joinsBy(t, "ams", account, access), joinsBy(t, "sgp", account, access)
	before := signedBy(p)
	heal := cut(t, "sgp")
	defer heal()
	rotates(t, role)
	r := until(t, "the region is waited for", role, func(r turning) bool { return strings.Contains(strings.Join(r.Waiting, " "), "sgp-1") })
	if r.Stage != "add" {
		t.Errorf("%+v", r)
	}
	ctx, cancel := context.WithTimeout(t.Context(), soon)
	defer cancel()
	if err := there.tries(ctx, "sgp"); err != nil || signedBy(there) != before {
		t.Errorf("in the region that is cut off: %v", err)
	}
	heal()
	until(t, "it goes on", role, func(r turning) bool { return r.Stage != "add" })
	until(t, "the former key is gone", role, func(r turning) bool { return r.Stage == "" })
	there.asks(t, "sgp")
	if signedBy(there) != r.To {
		t.Error("the region issues by the former key")
	}
}

// TestRotateCutOff: a run that ends between any two of its steps is gone on with by the next, or
// begun anew: one rotation comes of it, and nothing is left in the folder.
func TestRotateCutOff(t *testing.T) {
	account := turned(5)
	role := account + "/service"
	ref := must(manifest.ParseRoleRef(role))
	newKey(t, role)
	rotate := func(emergency bool, at int) (steps int, err error) {
		p := must(platform.OpenApplied(shared.Dir))
		tool := &apply.Tool{Platform: p, Log: slog.New(slog.DiscardHandler), Now: time.Now}
		ended := make(chan struct{})
		tool.Step = func(string) {
			if steps++; steps == at {
				runtime.Goexit() // what is deferred is the connections and the lock, which end with a process
			}
		}
		go func() {
			defer close(ended)
			_, err = tool.Rotate(t.Context(), apply.Rotation{Role: ref, By: "test", Emergency: emergency})
		}()
		<-ended
		return steps, err
	}
	for _, emergency := range []bool{false, true} {
		for at := 1; ; at++ {
			// Without HERALD_LONG those alone after which something is half done: the key is handed
			// out, and the document not written; the document is, and the servers do not know.
			if os.Getenv("HERALD_LONG") == "" {
				if at > 7 {
					break
				}
				if at != 5 && (!emergency || at != 7) {
					continue
				}
			}
			steps, _ := rotate(emergency, at)
			whole := steps < at
			_, err := rotate(emergency, 0)
			if err != nil && !errors.Is(err, ledger.ErrRotating) {
				t.Fatalf("emergency %t, after it ended before step %d: %v", emergency, at, err)
			}
			r := turns(t, role)
			if r.Stage == "add" {
				tell(t, "rotate", "undo", role) // which is quicker, if it is not too late
			}
			until(t, "it is over", role, func(r turning) bool { return r.Stage == "" })
			tidied(t, account)
			planned(t)
			if whole {
				break
			}
		}
	}
}

// TestRotateUnattended: a rotation that ended while nobody looked is over for the folder, too, and
// does not stand for the next: an emergency has a key of its own.
func TestRotateUnattended(t *testing.T) {
	if os.Getenv("HERALD_LONG") == "" {
		t.Skip("of make chaos and make test-long")
	}
	account := turned(6)
	role := account + "/service"
	newKey(t, role)
	first := rotates(t, role)
	for end := time.Now().Add(90 * time.Second); ; {
		if got := roleKeys(t, account); len(got) == 1 && got[0] == first.To {
			break
		}
		if time.Now().After(end) {
			t.Fatal("it does not end")
		}
		time.Sleep(100 * time.Millisecond) // servers tell nobody
	}
	// Nobody has looked: no other test runs beside this one.
	if left, _ := filepath.Glob(filepath.Join(shared.Dir, "operator", "rotating", account+".*")); len(left) != 1 {
		t.Fatalf("in the folder: %v", left)
	}
	second := rotates(t, role, "--emergency", "--yes")
	if second.From != first.To || second.To == first.To || second.To == first.From {
		t.Errorf("%+v after %+v", second, first)
	}
	if got := roleKeys(t, account); len(got) != 1 || got[0] != second.To {
		t.Errorf("servers have %v", got)
	}
	until(t, "it is over", role, func(r turning) bool { return r.Stage == "" })
}
