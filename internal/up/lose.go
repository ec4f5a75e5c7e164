package up

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/herald-nats/herald/internal/service"
	"github.com/herald-nats/herald/internal/supercluster"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/platform"
)

// ErrNoServices: the platform's services are processes of their own.
var ErrNoServices = errors.New("the services do not run here")

// StopIssuer ends a region's issuer. Ending what has ended does nothing.
func (u *Up) StopIssuer(ctx context.Context, r ident.Region) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	if len(u.Services) == 0 {
		return ErrNoServices
	}
	return u.end(ctx, service.Issuer, r)
}

// end ends a service of a region, if it runs; u.mu is held.
func (u *Up) end(ctx context.Context, what string, r ident.Region) error {
	i := u.running(what, r)
	if i < 0 {
		return nil
	}
	s := u.Services[i]
	u.Services = slices.Delete(u.Services, i, i+1)
	return s.Drain(ctx)
}

// RestartRegistrar ends a region's registrar, and starts it from its folder.
func (u *Up) RestartRegistrar(ctx context.Context, r ident.Region) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	if len(u.Services) == 0 {
		return ErrNoServices
	}
	if _, ok := u.Platform.File.Region(r); !ok {
		return fmt.Errorf("starting the registrar of %q: %w", r, supercluster.ErrUnknown)
	}
	if err := u.end(ctx, service.Registrar, r); err != nil {
		return err
	}
	return u.serve(ctx, u.Platform.Dir.Registrar(r))
}

// serve starts the service that a folder is for; u.mu is held.
func (u *Up) serve(ctx context.Context, folder string) error {
	c, err := service.Load(filepath.Join(folder, platform.ServiceFile))
	if err != nil {
		return err
	}
	c.Pace = u.pace
	s, err := c.Start(ctx, u.log)
	if err != nil {
		return err
	}
	u.Services = append(u.Services, s)
	return nil
}

// StartIssuer starts a region's issuer again.
func (u *Up) StartIssuer(ctx context.Context, r ident.Region) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	if _, ok := u.Platform.File.Region(r); !ok {
		return fmt.Errorf("starting the issuer of %q: %w", r, supercluster.ErrUnknown)
	}
	if u.running(service.Issuer, r) >= 0 {
		return nil
	}
	return u.serve(ctx, u.Platform.Dir.Issuer(r))
}

// running is where a region's service is among those that run; u.mu is held.
func (u *Up) running(what string, r ident.Region) int {
	return slices.IndexFunc(u.Services, func(s *service.Running) bool { return s.Region == r && s.Service == what })
}

// LoseDisk stops the last server of a region, empties its disk, and starts it. What it had
// others of its region have, too: nothing is lost. It gives the server's URL.
func (u *Up) LoseDisk(ctx context.Context, r ident.Region) (url string, err error) {
	region, ok := u.Platform.File.Region(r)
	urls := u.Cluster.URLs(r)
	if !ok || len(urls) == 0 {
		return "", fmt.Errorf("a server of %q: %w", r, supercluster.ErrUnknown)
	}
	node := region.Nodes[len(urls)-1].Name.String()
	if err := u.Cluster.StopNode(ctx, node); err != nil {
		return "", err
	}
	err = os.RemoveAll(filepath.Join(u.Platform.Dir.Data(), r.String(), node))
	// It starts again whoever asked for it has gone away meanwhile.
	sctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), controlWait)
	defer cancel()
	return urls[len(urls)-1], errors.Join(err, u.Cluster.StartNode(sctx, node))
}

// Running are the services that run now.
func (u *Up) Running() []*service.Running {
	u.mu.Lock()
	defer u.mu.Unlock()
	return slices.Clone(u.Services)
}
