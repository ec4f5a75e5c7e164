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
	"sync"
	"testing"
	"time"

	"github.com/herald-nats/herald/internal/apply"
	"github.com/herald-nats/herald/internal/cli"
	"github.com/herald-nats/herald/internal/service"
	"github.com/herald-nats/herald/internal/wait"
	"github.com/herald-nats/herald/pkg/client"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/invite"
	"github.com/herald-nats/herald/pkg/keystore"
	"github.com/herald-nats/herald/pkg/ledger"
	"github.com/herald-nats/herald/pkg/platform"
)

// reseals begins to replace a region's key.
func reseals(t *testing.T, args ...string) turning {
	t.Helper()
	code, out, errs := folder(t, append([]string{"rotate", "region-key", "--json"}, args...)...)
	var r turning
	if err := json.Unmarshal([]byte(out), &r); err != nil || code != cli.OK {
		t.Fatalf("%v: %d %s%s", args, code, out, errs)
	}
	return r
}

// invited is somebody with an invitation, which is a secret: it is sealed to a region key.
func invited(t *testing.T) *person {
	t.Helper()
	file := filepath.Join(t.TempDir(), "code")
	done(t, "invite", "create", "CHAT/member", "--out", file)
	code := strings.TrimSpace(string(must(os.ReadFile(file))))
	key := must(keystore.Generate(keystore.User))
	p := &person{name: shared.Name("invited"), key: key, user: must(ident.ParseUserKey(key.Public()))}
	p.wish = client.Wish{Name: p.name, Identity: client.Invited{Code: must(invite.Parse(code))}}
	p.asks(t, "ams")
	return p
}

// askers have guests ask in a region until what it gives is called, which fails the test if one of
// them was refused. One of them never hears of another platform document than it began with.
func askers(t *testing.T, in string) (stop func() (asked int)) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var (
		all   sync.WaitGroup
		mu    sync.Mutex
		asked int
	)
	for _, follows := range []bool{true, false} {
		p, known := invited(t), shared.Public
		nc, err := known.DialGuest(ctx, urls(region(in)))
		if err != nil {
			t.Fatal(err)
		}
		all.Go(func() {
			defer nc.Close()
			for wait.For(ctx, 200*time.Millisecond) == nil {
				bound, done := context.WithTimeout(context.WithoutCancel(ctx), 20*time.Second)
				c, err := known.Issue(bound, nc, p.key, p.wish)
				done()
				if err != nil {
					t.Errorf("who asks in %s meanwhile (and follows: %t): %v", in, follows, err)
					return
				}
				if follows {
					known = c.Platform
				}
				mu.Lock()
				asked++
				mu.Unlock()
			}
		})
	}
	var once sync.Once
	stop = func() int {
		once.Do(func() { cancel(); all.Wait() })
		return asked
	}
	t.Cleanup(func() { stop() })
	return stop
}

// another is one more issuer of a region, from a copy of its folder as it is now.
func another(t *testing.T, in string) (dir string, start func() (*service.Running, error)) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "issuer")
	if err := os.CopyFS(dir, os.DirFS(filepath.Join(shared.Dir, "issuers", in))); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(filepath.Join(dir, "state")); err != nil {
		t.Fatal(err)
	}
	for _, pattern := range []string{"*.nk", "*.creds", "roles/*.nk"} {
		for _, path := range must(filepath.Glob(filepath.Join(dir, pattern))) {
			if err := os.Chmod(path, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	return dir, func() (*service.Running, error) {
		c, err := service.Load(filepath.Join(dir, platform.ServiceFile))
		if err != nil {
			return nil, err
		}
		c.Pace = time.Second
		return c.Start(t.Context(), log.Logger())
	}
}

// runs starts it.
func runs(t *testing.T, start func() (*service.Running, error)) *service.Running {
	t.Helper()
	s, err := start()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { drains(t, s) })
	return s
}

func drains(t *testing.T, s *service.Running) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), soon)
	defer cancel()
	if err := s.Drain(ctx); err != nil {
		t.Error(err)
	}
}

// untilKey waits until the rotation of a key stands so.
func untilKey(t *testing.T, what, region string, is func(turning) bool) turning {
	t.Helper()
	return untilOf(t, what, func(r turning) bool { return r.Region == region }, is)
}

// regionFiles are the public keys that the folder has for a region's issuers: the one in use, and
// the one beside it.
func regionFiles(t *testing.T, in string) (use, beside string) {
	t.Helper()
	dir := filepath.Join(shared.Dir, "issuers", in)
	use = must(keystore.Load(filepath.Join(dir, platform.SealKeyFile), keystore.Curve)).Public()
	if k, err := keystore.Load(filepath.Join(dir, platform.SealKeyBeside), keystore.Curve); err == nil {
		beside = k.Public()
	}
	return use, beside
}

// tidiedKeys has the folder brought after what is in force.
func tidiedKeys(t *testing.T, in string) {
	t.Helper()
	for end := time.Now().Add(soon); ; {
		left, _ := filepath.Glob(filepath.Join(shared.Dir, "operator", "rotating", "regions", in+".nk"))
		if len(left) == 0 {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("in the folder: %v", left)
		}
		tell(t, "rotate", "status")
	}
}

func sealKey(s string) ident.SealKey { return must(ident.ParseSealKey(s)) }

// handed is a key as a registrar of home knows it from the ledger.
func handed(key ledger.Key) (ledger.Handed, bool) {
	for _, s := range shared.Up.Running() {
		if s.Service == service.Registrar && s.Region.String() == "ams" {
			return s.Known().Handed(key)
		}
	}
	return ledger.Handed{}, false
}

// No role's key is replaced beside these: folders of issuers are copied and brought here, and have role keys.

// TestRotateRegionKey: a region's key is replaced, and nobody who asks there meanwhile is refused,
// whatever document they know; role keys that the ledger has sealed to it can be opened by the new
// one; what is sealed to the former one is opened by nobody in the end. An issuer that has the new key
// from the ledger alone could open nothing after its next start: the former key stays, and it is
// named, until the folder was brought. Until then the rotation can be taken back.
func TestRotateRegionKey(t *testing.T) {
	const in = "sgp"
	account := turned(7)
	newKey(t, account+"/service")
	role := rotates(t, account+"/service")
	before, _ := regionFiles(t, in)
	_, fromBefore := another(t, in)
	dir, start := another(t, in)
	late := runs(t, start)
	stop := askers(t, in)
	waits := func(r turning) bool {
		return r.Stage == "issue" && len(r.Waiting) == 1 && strings.Contains(r.Waiting[0], late.Writer) && strings.Contains(r.Waiting[0], "issuers/"+in)
	}

	first := reseals(t, in)
	if first.From != before || first.To == before || first.Stage != "add" || first.Region != in {
		t.Fatalf("%+v", first)
	}
	if code, _, errs := folder(t, "rotate", "region-key", in); code != cli.Refused || !strings.Contains(errs, "replaced already") {
		t.Errorf("again: %d %s", code, errs)
	}
	untilKey(t, "it is waited for", in, waits)
	if held := late.Stats().Issuer.Held; !held.RegionKey {
		t.Errorf("who has it from the ledger: %+v", held)
	}
	if use, beside := regionFiles(t, in); use != first.To || beside != first.From {
		t.Errorf("the issuers' folder has %s and %s", use, beside)
	}
	if code, _, errs := folder(t, "rotate", "undo", "region-key", in); code != cli.OK {
		t.Fatal(errs)
	}
	untilKey(t, "it is taken back", in, stage(""))
	tidiedKeys(t, in)
	if use, beside := regionFiles(t, in); use != first.From || beside != "" {
		t.Errorf("taken back: the issuers' folder has %s and %s", use, beside)
	}
	if _, ok := handed(ledger.SealKeyKey(sealKey(first.To))); ok {
		t.Error("the key that was taken back is in the ledger")
	}

	r := reseals(t, in, "--why", "yearly")
	if r.From != first.From || r.To == first.To {
		t.Errorf("%+v after %+v", r, first)
	}
	untilKey(t, "it is waited for", in, waits)
	bound, cancel := context.WithTimeout(t.Context(), soon)
	defer cancel()
	if err := shared.Up.StopIssuer(bound, region(in)); err != nil {
		t.Fatal(err)
	}
	if err := shared.Up.StartIssuer(bound, region(in)); err != nil {
		t.Fatalf("an issuer that starts meanwhile: %v", err)
	}
	planned(t)
	data := must(os.ReadFile(filepath.Join(shared.Dir, "issuers", in, platform.SealKeyFile)))
	if err := os.WriteFile(filepath.Join(dir, platform.SealKeyFile), data, 0o600); err != nil {
		t.Fatal(err)
	}
	untilKey(t, "the folder was brought", in, stage(""))
	refused := strings.Count(log.String(), "wrong_region")
	for end := time.Now().Add(soon); strings.Count(log.String(), "wrong_region") == refused; time.Sleep(50 * time.Millisecond) { // issuers tell nobody
		if time.Now().After(end) {
			t.Fatal("what is sealed to the former key is not refused")
		}
	}
	if n := stop(); n < 10 {
		t.Errorf("%d were answered", n)
	}
	if _, ok := handed(ledger.SealKeyKey(sealKey(r.To))); ok {
		t.Error("the new key is in the ledger, sealed to the former one")
	}
	h, ok := handed(ledger.RoleKeyKey(must(ident.ParseAccountKey(role.To))))
	if !ok || len(h.Sealed[sealKey(r.To)]) == 0 || len(h.Sealed[sealKey(r.From)]) != 0 || len(h.Sealed[sealKey(first.To)]) != 0 {
		t.Errorf("the role key is sealed to %v", h.Sealed)
	}
	tidiedKeys(t, in)
	planned(t)
	aside := filepath.Join(shared.Dir, "operator", "retired", "region."+in+"."+r.From+".nk")
	if use, beside := regionFiles(t, in); use != r.To || beside != "" {
		t.Errorf("the issuers' folder has %s and %s", use, beside)
	}
	if _, err := os.Stat(aside); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(strings.ReplaceAll(aside, r.From, r.To)); err == nil {
		t.Error("the key in use is among those that were put aside")
	}
	code, out, _ := tell(t, "audit", "search", "--what", "change", "--key", "platform.document", "--json")
	if code != cli.OK || !strings.Contains(out, "the region key of "+in) || !strings.Contains(out, "yearly") {
		t.Errorf("it is not recorded: %d", code)
	}
	if s, err := fromBefore(); err == nil || !strings.Contains(err.Error(), "another region key") {
		if err == nil {
			drains(t, s)
		}
		t.Errorf("an issuer that starts from a folder of before: %v", err)
	}
	_, fromNow := another(t, in)
	if held := runs(t, fromNow).Stats().Issuer.Held; !held.RegionKey || len(held.Lacking) != 0 {
		t.Errorf("from the folder as it is: %+v", held)
	}
	for what, args := range map[string][]string{
		"no such region": {"rotate", "region-key", "nowhere"},
		"taking back":    {"rotate", "undo", "region-key", in},
		"of nothing":     {"rotate", "undo", "region-key"},
	} {
		if code, _, errs := folder(t, args...); code == cli.OK || !strings.Contains(errs, "hint:") {
			t.Errorf("%s: %d %s", what, code, errs)
		}
	}
}

// TestRotateRegionKeyEmergency: the former key is good for nothing at once; the new one is not in the
// ledger, and issuers take it over when it is brought; other regions answer until then.
func TestRotateRegionKeyEmergency(t *testing.T) {
	const in = "ams"
	before, _ := regionFiles(t, in)
	account := turned(8)
	newKey(t, account+"/service")
	role := rotates(t, account+"/service")
	dir, start := another(t, in)
	thief := runs(t, start) // whose folder nobody brings up to date at first
	stop := askers(t, in)
	if code, _, errs := tell(t, "rotate", "region-key", in, "--emergency"); code != cli.Usage || !strings.Contains(errs, "--yes") {
		t.Errorf("without a question: %d %s", code, errs)
	}
	r := reseals(t, in, "--emergency", "--yes", "--why", "stolen")
	if r.From != before || r.Stage != "drop" || !slices.Contains(r.Exposed, "the key of role "+account+"/service") {
		t.Errorf("%+v", r)
	}
	if use, beside := regionFiles(t, in); use != r.To || beside != "" {
		t.Errorf("the issuers' folder has %s and %s", use, beside)
	}
	p := invited(t)
	for end := time.Now().Add(soon); p.cred.Region.String() != in || p.cred.Issuer == ""; p.asks(t, in) {
		if time.Now().After(end) {
			t.Fatal("the region's issuers do not take the key over")
		}
	}
	untilKey(t, "who has the former key is named", in, func(r turning) bool { return strings.Contains(strings.Join(r.Waiting, " "), thief.Writer) })
	if held := thief.Stats().Issuer.Held; held.RegionKey {
		t.Errorf("who has the former key alone: %+v", held)
	}
	if _, ok := handed(ledger.SealKeyKey(sealKey(r.To))); ok {
		t.Error("the new key is in the ledger")
	}
	h, ok := handed(ledger.RoleKeyKey(must(ident.ParseAccountKey(role.To))))
	if !ok || len(h.Sealed[sealKey(r.To)]) == 0 || len(h.Sealed[sealKey(r.From)]) != 0 {
		t.Errorf("the role key is sealed to %v", h.Sealed)
	}
	// Then it is brought there, too, and taken over without a restart; what it replaced is not taken
	// back.
	former := must(os.ReadFile(filepath.Join(dir, platform.SealKeyFile)))
	names := []string{platform.SealKeyFile, platform.FullFile}
	for _, path := range must(filepath.Glob(filepath.Join(shared.Dir, "issuers", in, "roles", "*.nk"))) {
		names = append(names, filepath.Join("roles", filepath.Base(path)))
	}
	for _, name := range names {
		data := must(os.ReadFile(filepath.Join(shared.Dir, "issuers", in, name)))
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	change, err := thief.Prepare()
	if err != nil {
		t.Fatalf("a reload: %v", err)
	}
	if changed := change.Apply(t.Context(), log.Logger()); !slices.Contains(changed, "keys") || !thief.Stats().Issuer.Held.RegionKey {
		t.Errorf("a reload changed %v: %+v", changed, thief.Stats().Issuer.Held)
	}
	if err := os.WriteFile(filepath.Join(dir, platform.SealKeyFile), former, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := thief.Prepare(); !errors.Is(err, service.ErrConfig) {
		t.Errorf("a reload with the former key: %v", err)
	}
	untilKey(t, "it is over", in, stage(""))
	if n := stop(); n < 5 {
		t.Errorf("%d were answered", n)
	}
	tidiedKeys(t, in)
	planned(t)
}

// TestRotateRegionKeyCutOff: a run that ends between any two of its steps is gone on with by the next,
// or begun anew: one rotation comes of it, and nothing is left in the folder.
func TestRotateRegionKeyCutOff(t *testing.T) {
	if os.Getenv("HERALD_LONG") == "" {
		t.Skip("of make chaos and make test-long")
	}
	in := region("sfo")
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
			_, err = tool.RotateRegion(t.Context(), apply.SealRotation{Region: in, By: "test", Emergency: emergency})
		}()
		<-ended
		return steps, err
	}
	for _, emergency := range []bool{false, true} {
		for at := 1; ; at++ {
			// Without HERALD_LONG those alone after which something is half done: the key is handed out,
			// and the document not written; the document is, and the folder does not know.
			if os.Getenv("HERALD_LONG") == "" {
				if at > 6 {
					break
				}
				if !emergency && at != 6 || emergency && at != 5 {
					continue
				}
			}
			steps, _ := rotate(emergency, at)
			whole := steps < at
			_, err := rotate(emergency, 0)
			if err != nil && !errors.Is(err, ledger.ErrRotating) {
				t.Fatalf("emergency %t, after it ended before step %d: %v", emergency, at, err)
			}
			untilKey(t, "it is over", in.String(), stage(""))
			tidiedKeys(t, in.String())
			planned(t)
			doc := must(shared.Public.Update(must(platform.OpenApplied(shared.Dir)).Full.PublicToken)).Document
			r, _ := doc.Region(in)
			if use, beside := regionFiles(t, in.String()); use != r.SealKey.String() || beside != "" || len(r.SealKeys()) != 1 {
				t.Errorf("emergency %t, step %d: the issuers' folder has %s and %s, the document %v", emergency, at, use, beside, r.SealKeys())
			}
			p := invited(t)
			p.asks(t, in.String())
			if whole {
				break
			}
		}
	}
}
