package platform_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/ledger"
	"github.com/herald-nats/herald/pkg/platform"
	"github.com/herald-nats/herald/pkg/platform/manifest"
	"github.com/herald-nats/herald/pkg/trust"
)

// The folder goes over to another home wholly, also when it was cut off between its files; the rest of
// platform.yaml stays as its author wrote it.
func TestMoveHome(t *testing.T) {
	p := initial(t)
	sfo, err := ident.ParseRegion("sfo")
	if err != nil {
		t.Fatal(err)
	}
	was, err := os.ReadFile(p.Dir.File())
	if err != nil {
		t.Fatal(err)
	}
	text := bytes.Replace(was, []byte("home: ams"), []byte("home:  'ams' # in the cellar"), 1)
	if bytes.Equal(text, was) {
		t.Fatalf("no home in %s", was)
	}
	if err := os.WriteFile(p.Dir.File(), text, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := p.OperatorKey(filepath.Join(p.Dir.Operator(), "signing", "nscsetup.nk")); !errors.Is(err, platform.ErrNotPlatform) {
		t.Errorf("a signing key as the operator key: %v", err)
	}
	full := movedTo(t, p, "sfo")

	// Cut off after platform.yaml was written.
	moved := bytes.Replace(text, []byte("home:  'ams'"), []byte("home: sfo"), 1)
	if err := os.WriteFile(p.Dir.File(), moved, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := platform.Open(string(p.Dir)); !errors.Is(err, manifest.ErrInvalid) {
		t.Errorf("a file that says another home than is in force: %v", err)
	}
	again, err := platform.OpenMoving(string(p.Dir), sfo)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // again changes nothing
		if err := again.MoveHome(full, nil, time.Now()); err != nil {
			t.Fatal(err)
		}
	}
	open, err := platform.Open(string(p.Dir))
	if err != nil {
		t.Fatal(err)
	}
	if open.Document.Home != sfo || open.File.Home != sfo || open.Document.Version.Epoch != 2 {
		t.Errorf("home %s, by the file %s, version %s", open.Document.Home, open.File.Home, open.Document.Version)
	}
	if got, err := os.ReadFile(p.Dir.File()); err != nil || !bytes.Equal(got, moved) {
		t.Errorf("platform.yaml: %v\n%s", err, got)
	}
	if _, err := platform.OpenApplied(string(p.Dir)); err != nil {
		t.Errorf("the file as it was applied: %v", err)
	}
	for _, r := range open.File.Regions {
		_, err := os.Stat(filepath.Join(open.Dir.Registrar(r.Name), platform.HomeCreds))
		if (err == nil) != (r.Name == sfo) {
			t.Errorf("the credential of who decides, in %s: %v", r.Name, err)
		}
	}
}

// A file in which home has no line of its own stays as it is, and what to do is said.
func TestMoveHomeInAnOddFile(t *testing.T) {
	p := initial(t)
	text, err := os.ReadFile(p.Dir.File())
	if err != nil {
		t.Fatal(err)
	}
	odd := bytes.Replace(text, []byte("home: ams"), []byte("\"home\": ams"), 1)
	if err := os.WriteFile(p.Dir.File(), odd, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := p.MoveHome(movedTo(t, p, "sfo"), nil, time.Now()); err == nil || !strings.Contains(err.Error(), "write 'home: sfo'") {
		t.Errorf("no line of its own: %v", err)
	}
	if got, err := os.ReadFile(p.Dir.File()); err != nil || !bytes.Equal(got, odd) {
		t.Errorf("it was changed: %v", err)
	}
}

// movedTo is a platform document by which home is another region.
func movedTo(t *testing.T, p *platform.Platform, to string) string {
	t.Helper()
	home, err := ident.ParseRegion(to)
	if err != nil {
		t.Fatal(err)
	}
	key, err := p.OperatorKey("")
	if err != nil {
		t.Fatal(err)
	}
	proof, err := trust.SignEpoch(key, 2, home, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	d, err := p.Full.Move(ledger.Move{To: home, Last: 3}, proof, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	signer, err := p.Signer()
	if err != nil {
		t.Fatal(err)
	}
	full, err := signer.Document(d, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return full
}
