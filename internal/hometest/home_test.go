package hometest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/herald-nats/herald/internal/apply"
	"github.com/herald-nats/herald/internal/cli"
	"github.com/herald-nats/herald/internal/cli/nscsetup"
	"github.com/herald-nats/herald/internal/testlog"
	"github.com/herald-nats/herald/internal/uptest"
	"github.com/herald-nats/herald/pkg/client"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/keystore"
	"github.com/herald-nats/herald/pkg/ledger"
	"github.com/herald-nats/herald/pkg/ledger/jetstream"
	"github.com/herald-nats/herald/pkg/platform"
	"github.com/herald-nats/herald/pkg/wire"
)

// The one platform of all tests here, which go on from each other: home moves away from ams, and back.
//
//nolint:gochecknoglobals // a platform is started once, in TestMain
var (
	shared *uptest.Platform
	log    testlog.Log
)

func TestMain(m *testing.M) {
	os.Exit(uptest.Main(m, func(dir string) (stop func() error, err error) {
		if shared, err = uptest.Start(dir, uptest.Options{Log: &log}); err != nil {
			return nil, err
		}
		end, err := shared.Up.Control(context.Background())
		return func() error { return errors.Join(end(), shared.Close()) }, err
	}))
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func region(s string) ident.Region { return must(ident.ParseRegion(s)) }

func name(s string) ident.Name { return must(ident.ParseName(s)) }

// tell runs nscsetup and gives how it ended, and what it wrote.
func tell(t *testing.T, args ...string) (code int, out, errs string) {
	t.Helper()
	return run(t, append([]string{"--dir", shared.Dir}, args...)...)
}

func run(t *testing.T, args ...string) (code int, out, errs string) {
	t.Helper()
	var o, e bytes.Buffer
	code = nscsetup.Run(t.Context(), cli.IO{In: strings.NewReader(""), Out: &o, Err: &e}, args)
	return code, o.String(), e.String()
}

// who is somebody with a name of their choice.
type who struct {
	key  *keystore.Key
	name ident.Name
}

func somebody(n string) who { return who{must(keystore.Generate(keystore.User)), name(n)} }

func (w who) identity() ident.Identity {
	return ident.OpenIdentity(must(ident.ParseUserKey(w.key.Public())))
}

// obtains asks a region's issuer once.
func (w who) obtains(ctx context.Context, in string) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	r, _ := shared.Public.Document.Region(region(in))
	_, err := shared.Public.Obtain(ctx, r.URLs, w.key, client.Wish{Name: w.name})
	return err
}

func code(err error) wire.Code {
	var werr *wire.Error
	if errors.As(err, &werr) {
		return werr.Code
	}
	return ""
}

// eventually waits until it is so; nobody tells.
func eventually(t *testing.T, within time.Duration, what string, is func() error) time.Duration {
	t.Helper()
	began := time.Now()
	for {
		err := is()
		if err == nil {
			return time.Since(began)
		}
		if time.Since(began) > within {
			t.Fatalf("%s: not within %v: %v", what, within, err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// gets asks until it is given.
func (w who) gets(t *testing.T, in string, within time.Duration) time.Duration {
	t.Helper()
	return eventually(t, within, w.name.String()+" in "+in, func() error { return w.obtains(t.Context(), in) })
}

// isTaken asks until it is told that the name is another's.
func (w who) isTaken(t *testing.T, in string) {
	t.Helper()
	eventually(t, 30*time.Second, w.name.String()+" is another's, in "+in, func() error {
		if err := w.obtains(t.Context(), in); code(err) != wire.NameTaken {
			return errors.Join(errors.New("it is not refused so"), err)
		}
		return nil
	})
}

func cut(t *testing.T, off string) (heal func()) {
	t.Helper()
	each := func(f func(a, b ident.Region) error) {
		for _, r := range shared.Up.Platform.File.Regions {
			if r.Name != region(off) {
				if err := f(region(off), r.Name); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	each(shared.Up.Cluster.Cut)
	return func() { each(shared.Up.Cluster.Heal) }
}

// equal waits until all services know the same, byte for byte, but for base claims.
func equal(t *testing.T, within time.Duration) {
	t.Helper()
	eventually(t, within, "all services know the same", func() error {
		all := shared.Up.Running()
		if len(all) != 6 {
			t.Fatalf("%d services run", len(all))
		}
		want := uptest.Known(all[0].Known())
		for _, s := range all[1:] {
			if got := uptest.Known(s.Known()); !bytes.Equal(got, want) {
				return errors.New(s.Service + " of " + s.Region.String() + " knows other things")
			}
		}
		return nil
	})
}

// restart starts a region's registrar again, from its folder.
func restart(t *testing.T, in string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := shared.Up.RestartRegistrar(ctx, region(in)); err != nil {
		t.Fatal(err)
	}
}

// mover is a tool that cannot reach a region, as one on its side of a cut cannot.
func mover(t *testing.T, to, off string) (*apply.Tool, apply.Move) {
	t.Helper()
	p := must(platform.OpenMoving(shared.Dir, region(to)))
	tool := &apply.Tool{Platform: p, Log: slog.New(slog.DiscardHandler), Now: time.Now}
	for _, r := range p.Document.Regions {
		if r.Name.String() != off {
			tool.URLs = append(tool.URLs, r.URLs...)
		}
	}
	return tool, apply.Move{To: region(to), By: "test", Key: must(p.OperatorKey("")), Patience: 2 * time.Second}
}

// endsBefore moves home, and is ended before a step.
func endsBefore(t *testing.T, to, off, step string) {
	t.Helper()
	tool, m := mover(t, to, off)
	var err error
	ended, reached := make(chan struct{}), false
	tool.Step = func(what string) {
		if what == step {
			reached = true
			runtime.Goexit() // what is deferred is the connections and the lock, which end with a process
		}
	}
	go func() {
		defer close(ended)
		_, err = tool.MoveHome(t.Context(), m)
	}()
	<-ended
	if !reached {
		t.Fatalf("it did not come to step %q: %v", step, err)
	}
}

// loner is who decides in one region with the rights of the set-up tool, whatever else there is.
func loner(t *testing.T, in string) *jetstream.Decisions {
	t.Helper()
	tool := &apply.Tool{Platform: must(platform.Open(shared.Dir)), Log: slog.New(slog.DiscardHandler), Now: time.Now}
	r, _ := shared.Public.Document.Region(region(in))
	tool.URLs = r.URLs
	nc := must(tool.Dial(t.Context(), platform.Ledger, platform.RoleSetup))
	t.Cleanup(nc.Close)
	return must(jetstream.NewDecisions(nc))
}

// cutAlone cuts a region off, which is home, and has it give names alone. It does so only for some
// seconds: a machine that is busy may be late, and it is cut off again.
func cutAlone(t *testing.T, off string, claims ...who) (heal func()) {
	t.Helper()
	for try := 1; ; try++ {
		heal = cut(t, off)
		errs := make([]error, len(claims))
		var asked sync.WaitGroup
		for i, w := range claims {
			asked.Go(func() {
				for end := time.Now().Add(15 * time.Second); ; {
					if errs[i] = w.obtains(t.Context(), off); errs[i] == nil || time.Now().After(end) {
						return
					}
				}
			})
		}
		asked.Wait()
		err := errors.Join(errs...)
		if err == nil {
			// If these are not known elsewhere by now, they were decided alone.
			return heal
		}
		heal()
		if try == 3 {
			t.Fatalf("%s does not decide alone: %v", off, err)
		}
		t.Logf("cut off again: %v", err)
		equal(t, 60*time.Second)
	}
}

// TestHomeMoves: home is cut off, and decides alone until it notices. Another region is
// made home, which has everything that home had decided before, and decides. When the former
// home is back it decides nothing any more; what it decided alone is listed, and is taken over
// but for what was decided otherwise. In the end everybody knows the same.
func TestHomeMoves(t *testing.T) {
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the last of what was said:\n%s", log.Tail(60, "\"level\""))
		}
	})
	before := somebody("before")
	before.gets(t, "ams", 20*time.Second)
	before.gets(t, "sgp", 20*time.Second) // so it is known there
	equal(t, 60*time.Second)

	if code, _, errs := tell(t, "home", "move", "sfo", "--yes"); code != cli.Refused || !strings.Contains(errs, "has a leader") {
		t.Fatalf("home is there, and is moved: %d %s", code, errs)
	}
	if code, _, errs := tell(t, "home", "return", "ams", "--yes"); code != cli.Refused {
		t.Fatalf("home never moved away from ams, and returns: %d %s", code, errs)
	}
	stale := filepath.Join(t.TempDir(), "stale")
	if err := os.CopyFS(stale, os.DirFS(shared.Dir)); err != nil {
		t.Fatal(err)
	}
	tighten(t, stale)
	bucket := loner(t, "ams")
	token, revision, err := bucket.Get(t.Context(), ledger.PlatformKey())
	if err != nil {
		t.Fatal(err)
	}

	alone, both, late := somebody("alone"), somebody("both"), somebody("late")
	heal := cutAlone(t, "ams", alone, both)
	// So does somebody who changes the platform there.
	if err := bucket.Put(t.Context(), ledger.PlatformKey(), renumbered(t, token), revision); err != nil {
		t.Fatal(err)
	}
	// A region that is alone has no majority of JetStream's meta group, and servers that know it
	// answer no question about a message of a stream.
	given := 0
	took := eventually(t, 60*time.Second, "the former home decides nothing", func() error {
		err := somebody("alone-"+strconv.Itoa(given)).obtains(t.Context(), "ams")
		if code(err) == wire.ReadOnly {
			return nil
		}
		if err == nil {
			given++
		}
		time.Sleep(200 * time.Millisecond) // each is a name more
		return errors.Join(errors.New("it is not refused so"), err)
	})
	t.Logf("alone, home gave %d names more, for %v", given, took)
	before.gets(t, "ams", 10*time.Second)
	if err := somebody("nobody").obtains(t.Context(), "sgp"); code(err) != wire.ReadOnly {
		t.Errorf("home is away, and a new name is answered so: %v", err)
	}
	// Whoever reaches it does not take it for gone.
	if code, _, errs := tell(t, "home", "move", "sfo", "--yes"); code != cli.Refused || !strings.Contains(errs, "has a leader") {
		t.Fatalf("home is there, cut off, and is moved: %d %s", code, errs)
	}

	// Ended before any of its steps it goes on when it is run again.
	steps := []string{"make the bucket", "write the platform document"}
	if os.Getenv("HERALD_LONG") != "" {
		steps = []string{
			"connect", "see whether home answers", "ask mirrors how far they are", "copy what home had decided", "see whether home answers still not",
			"delete the bucket of the home that is gone", "make the bucket", "remove the copy", "note which mirrors follow", "open the ledger",
			"write the platform document", "write the folder",
		}
	}
	for _, step := range steps {
		endsBefore(t, "sfo", "ams", step)
	}
	tool, m := mover(t, "sfo", "ams")
	if _, err := tool.MoveHome(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	restart(t, "sfo")
	if code, _, errs := tell(t, "home", "move", "sfo", "--yes"); code != cli.Refused || !strings.Contains(errs, "it is home") {
		t.Errorf("it is moved where it is: %d %s", code, errs)
	}
	anew, other := somebody("anew"), somebody("both")
	t.Logf("a new name in sfo after %v", anew.gets(t, "sfo", 30*time.Second))
	t.Logf("a new name in sgp after %v", other.gets(t, "sgp", 30*time.Second))
	before.gets(t, "sgp", 10*time.Second)
	somebody("before").isTaken(t, "sfo")
	somebody("anew").isTaken(t, "sgp")

	heal()
	// Fenced: what is asked there is decided in sfo.
	t.Logf("a new name in ams %v after healing", late.gets(t, "ams", 60*time.Second))
	somebody("anew").isTaken(t, "ams")
	t.Logf("all know of it %v later", eventually(t, 60*time.Second, "all know where home is", func() error {
		for _, s := range shared.Up.Running() {
			if d, _ := s.Known().Document(); d.Public.Home != region("sfo") {
				return errors.New(s.Service + " of " + s.Region.String() + " knows " + d.Public.Home.String())
			}
		}
		return nil
	}))
	// Its mirror may have what home does not have: nothing is made of it.
	tool, m = mover(t, "sgp", "")
	if _, err := tool.MoveHome(t.Context(), m); !errors.Is(err, jetstream.ErrHomeAnswers) {
		t.Errorf("home is there, and is moved on: %v", err)
	}

	var got []struct{ Key, Says, Fate string }
	var out, errs string
	eventually(t, 60*time.Second, "it returns", func() error {
		var c int
		if c, out, errs = tell(t, "home", "return", "ams", "--yes", "--json"); c != cli.Partial {
			return errors.New(errs)
		}
		return nil
	})
	if err := json.Unmarshal([]byte(out), &got); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	want := map[string]string{"name.alone": "taken over", "name.both": "overruled", "platform.document": "refused"}
	for i := range given {
		want["name.alone-"+strconv.Itoa(i)] = "taken over"
	}
	for _, a := range got {
		if _, ok := want[a.Key]; !ok && strings.HasPrefix(a.Key, "name.alone-") {
			want[a.Key] = "taken over" // it was given, and the answer lost
		}
		if want[a.Key] != a.Fate {
			t.Errorf("%s, %s: %s", a.Key, a.Says, a.Fate)
		}
		delete(want, a.Key)
	}
	if len(want) > 0 {
		t.Errorf("not listed: %v in %s", want, out)
	}
	equal(t, 90*time.Second)
	for _, s := range shared.Up.Running() {
		for n, w := range map[string]who{"both": other, "alone": alone, "late": late, "anew": anew, "before": before} {
			if held, gone, ok := s.Known().Name(name(n)); !ok || gone || held.Holder != w.identity() {
				t.Errorf("%s of %s: %s is held by %s", s.Service, s.Region, n, held.Holder)
			}
		}
	}
	both.isTaken(t, "ams")
	alone.gets(t, "sgp", 10*time.Second)
	if code, out, errs := tell(t, "home", "return", "ams", "--yes", "--json"); code != cli.Refused || !strings.Contains(errs, "follows home") {
		t.Errorf("again: %d %s %s", code, out, errs)
	}

	// The folder is as it should be: nothing is to be done, and services start from it.
	if code, out, errs := tell(t, "plan"); code != cli.OK {
		t.Errorf("plan: %d %s %s", code, out, errs)
	}
	if _, err := os.Stat(filepath.Join(shared.Dir, "registrars", "ams", platform.HomeCreds)); err == nil {
		t.Error("the former home has the credential of one who decides")
	}
	// Another operator's folder does not bring it back, and can follow.
	as := func(args ...string) []string { return append([]string{"--dir", stale}, args...) }
	if code, _, errs := run(t, as("apply", "--yes")...); code != cli.Config || !strings.Contains(errs, "home is sfo") {
		t.Errorf("a folder of before applies: %d %s", code, errs)
	}
	if code, out, errs := run(t, as("home", "move", "sfo", "--yes")...); code != cli.OK || !strings.Contains(out, "home is sfo") {
		t.Errorf("a folder of before follows: %d %s %s", code, out, errs)
	}
	// A registrar of the former home that starts with the folder of before decides nothing.
	restart(t, "ams")
	somebody("at-last").gets(t, "ams", 20*time.Second)
	equal(t, 60*time.Second)
	if m, ok := must(platform.Open(shared.Dir)).Full.Moved(region("ams")); !ok || m.To != region("sfo") || m.By == "" || m.Epoch != 2 || m.Last == 0 {
		t.Errorf("the document tells of it so: %+v %t", m, ok)
	}
	if os.Getenv("HERALD_LONG") != "" {
		movesBack(t)
	}
}

// movesBack loses the second home, too, with all its servers, and moves home to the first.
func movesBack(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	if err := shared.Up.Cluster.StopRegion(ctx, region("sfo")); err != nil {
		t.Fatal(err)
	}
	if code, out, errs := tell(t, "home", "move", "ams", "--yes", "--why", "a test"); code != cli.OK || !strings.Contains(out, "home is ams, by platform document 3.1") || !strings.Contains(out, "and decides") {
		t.Fatalf("%d %s %s", code, out, errs)
	}
	somebody("third").gets(t, "sgp", 30*time.Second)
	somebody("anew").isTaken(t, "ams")
	if err := shared.Up.Cluster.StartRegion(ctx, region("sfo")); err != nil {
		t.Fatal(err)
	}
	eventually(t, 90*time.Second, "sfo returns", func() error {
		if c, out, errs := tell(t, "home", "return", "sfo", "--yes", "--json"); c != cli.OK || strings.TrimSpace(out) != "[]" {
			return errors.New(out + errs)
		}
		return nil
	})
	somebody("fourth").gets(t, "sfo", 60*time.Second)
	equal(t, 90*time.Second)
}

// renumbered is a platform document as its next version, as somebody signs it in the home that is cut off.
func renumbered(t *testing.T, token string) string {
	t.Helper()
	p := must(platform.Open(shared.Dir))
	d := must(ledger.Opener{Operator: p.Operator, Now: time.Now}.Open(ledger.PlatformKey().String(), token)).Body.(*ledger.Document)
	d.Public.Version.Number++
	return must(must(p.Signer()).Document(d, time.Now()))
}

// tighten has a copied folder's files as they have to be.
func tighten(t *testing.T, dir string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir():
			return os.Chmod(path, 0o700) // #nosec G122 -- a folder of the test's own
		default:
			return os.Chmod(path, 0o600) // #nosec G122 -- likewise
		}
	})
	if err != nil {
		t.Fatal(err)
	}
}
