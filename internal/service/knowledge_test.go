package service

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/keystore"
	"github.com/herald-nats/herald/pkg/ledger"
	"github.com/herald-nats/herald/pkg/ledger/diskcopy"
	"github.com/herald-nats/herald/pkg/platform"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// That the copy cannot be written shows, and that it is written again; the log has each
// once. Without any copy it shows from the beginning.
func TestCopyFailing(t *testing.T) {
	region, err := ident.ParseRegion("ams")
	if err != nil {
		t.Fatal(err)
	}
	name, err := ident.ParseName("test")
	if err != nil {
		t.Fatal(err)
	}
	root := filepath.Join(t.TempDir(), "platform")
	_, err = platform.Init(t.Context(), root, platform.Spec{
		Name: name, Regions: []ident.Region{region}, Home: region, Nodes: platform.MinNodes, Port: 2000,
	}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	c, err := Load(filepath.Join(root, "issuers", "ams", platform.ServiceFile))
	if err != nil {
		t.Fatal(err)
	}
	key, err := keystore.Generate(keystore.User)
	if err != nil {
		t.Fatal(err)
	}
	self, err := ident.ParseUserKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	secret, err := key.Seed()
	if err != nil {
		t.Fatal(err)
	}

	var log strings.Builder
	k := &knowledge{log: slog.New(slog.NewTextHandler(&log, nil)), now: time.Now}
	k.projection = ledger.NewProjection(k.told)
	// With positions it is complete at once, as with a copy that has them.
	k.follower = &ledger.Follower{Projection: k.projection, Opener: c.opener, Positions: map[string]uint64{}, Log: k.log}
	k.projection.Apply(c.entry)
	shows := func(want bool, when string) {
		t.Helper()
		if got := k.stats().CopyFailing; got != want {
			t.Errorf("%s: failing is %t\n%s", when, got, log.String())
		}
	}
	about := diskcopy.About{Operator: c.operator, Region: region, Service: self}
	k.openCopy(filepath.Join(c.dir, platform.ServiceFile, copyFile), secret, about, c.opener)
	shows(true, "where there can be no folder")

	dir := filepath.Join(t.TempDir(), "state")
	k.openCopy(filepath.Join(dir, copyFile), secret, about, c.opener)
	shows(false, "before anything was written")
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	k.flush()
	shows(true, "without the folder")
	k.flush()
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	k.flush()
	shows(false, "with the folder")
	k.close()
	for _, said := range []string{"working without a copy", "cannot be written", "is written again"} {
		if n := strings.Count(log.String(), said); n != 1 {
			t.Errorf("%q was said %d times:\n%s", said, n, log.String())
		}
	}
}
