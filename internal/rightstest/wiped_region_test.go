package rightstest

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/herald-nats/herald/pkg/client"
	"github.com/herald-nats/herald/pkg/keystore"
	"github.com/herald-nats/herald/pkg/platform"
	"github.com/herald-nats/herald/pkg/registrar"
)

// The one test here is the last of the package, as its file is: the streams of a
// region that is made anew take seconds until they have a leader.

// 1: resolvers sync inside a cluster only: a region that is made anew knows no
// account, and nobody there can connect, until a registrar brings them.
func TestRegionMadeAnew(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Second)
	defer cancel()
	at := region("sgp")
	alice, _ := member(t, "ams", "alice")
	if err := shared.Up.Cluster.StopRegion(ctx, at); err != nil {
		t.Fatal(err)
	}
	wiped := 0
	for _, r := range shared.Up.Platform.File.Regions {
		if r.Name != at {
			continue
		}
		for _, n := range r.Nodes {
			path := filepath.Join(dir().Data(), at.String(), n.Name.String())
			files, err := filepath.Glob(filepath.Join(path, "resolver", "*.jwt"))
			if err != nil {
				t.Fatal(err)
			}
			wiped += len(files)
			if err := os.RemoveAll(path); err != nil {
				t.Fatal(err)
			}
		}
	}
	if wiped < 3*len(accountTokens()) {
		t.Errorf("%d account JWTs were there: nothing is shown", wiped)
	}
	if err := shared.Up.Cluster.StartRegion(ctx, at); err != nil {
		t.Fatal(err)
	}
	// The registrars of the other regions have seen the servers come, and push.
	sys := attach(t, minted(t, platform.System, platform.RoleRegistrar), "ams")
	resolver := registrar.NewResolver(sys, shared.Up.Platform.Operator, nil, time.Now)
	var err error
	for {
		var rep registrar.Report
		rep, err = resolver.Survey(ctx, accountTokens(), serverNames())
		if err = errors.Join(err, rep.Err()); err == nil || ctx.Err() != nil {
			break
		}
	}
	if err != nil {
		t.Fatalf("nobody brought the accounts: %v", err)
	}
	for _, s := range shared.Up.Cluster.Servers() {
		if s.Region != at {
			continue
		}
		if _, err := dial(t, alice, s.URL); err != nil {
			t.Errorf("%s: %v", s.Name, err)
		}
		files, err := filepath.Glob(filepath.Join(dir().Data(), at.String(), s.Name, "resolver", "*.jwt"))
		if err != nil || len(files) < len(accountTokens()) {
			t.Errorf("%s stored %d accounts: %v", s.Name, len(files), err)
		}
	}
	// And the region's own services are back, on connections that waited.
	key, err := keystore.Generate(keystore.User)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := shared.Public.Obtain(ctx, urls("sgp"), key, client.Wish{Name: shared.Name("anew")}); err != nil {
		t.Error(err)
	}
}
