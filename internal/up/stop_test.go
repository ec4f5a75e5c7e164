package up_test

import (
	"context"
	"log/slog"
	"path/filepath"
	"testing"
	"time"

	"github.com/herald-nats/herald/internal/service"
	"github.com/herald-nats/herald/internal/uptest"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/platform"
)

// TestStopsWithARegionDown: services whose servers are gone have nobody to
// answer to, and must not hold up the end: neither inside `nscsetup up` nor as
// a process of their own, which is what the second service stands for.
func TestStopsWithARegionDown(t *testing.T) {
	p, err := uptest.Start(t.TempDir(), uptest.Options{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	ams, err := ident.ParseRegion("ams")
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := service.Load(filepath.Join(p.Up.Platform.Dir.Issuer(ams), platform.ServiceFile))
	if err != nil {
		t.Fatal(err)
	}
	apart, err := cfg.Start(ctx, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Up.Cluster.StopRegion(ctx, ams); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if err := apart.Drain(ctx); err != nil {
		t.Errorf("a service without servers: %v", err)
	}
	if took := time.Since(began); took > time.Second {
		t.Errorf("a service without servers took %v to end", took)
	}
	began = time.Now()
	if err := p.Close(); err != nil {
		t.Error(err)
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("the platform took %v to stop; the bound is 5 s", took)
	}
}
