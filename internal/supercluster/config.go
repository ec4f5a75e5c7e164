package supercluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/platform/manifest"
	"github.com/herald-nats/herald/pkg/platform/serverconf"
	"github.com/herald-nats/herald/pkg/trust"
)

// Config is a supercluster of whatever size for tests and benchmarks, with as little said
// as possible. Start makes a description of it and goes the way of every platform.
type Config struct {
	// Dir is where all servers keep their state and their configuration; see Write.
	Dir string
	// Operator is the JWT of the operator that all servers trust. It must keep to signing
	// keys and name the system account.
	Operator string
	// SystemAccount is the JWT of that account. Every server has it from the
	// start, so that whoever pushes the other accounts can connect. A newer one
	// that the resolver holds already is left alone.
	SystemAccount string
	// Regions are the clusters, at least one.
	Regions []Region
	// WAN and Log are those of Files.
	WAN bool
	Log io.Writer
	// MaxMemory and MaxStore limit each server's JetStream, in bytes; 0 means
	// the defaults of a platform.
	MaxMemory, MaxStore int64
}

// Region is one cluster of Config.
type Region struct {
	// Name is also the name of the cluster and of its gateway, and what streams
	// are placed by.
	Name ident.Region
	// Gateway is the host:port where the region's relay listens for other
	// regions. Port 0 is any free one. Not used when there is only one region.
	Gateway string
	// Nodes are the region's servers.
	Nodes []Node
}

// Node is one server of a Region. The addresses are host:port with an IP or a
// name as host; port 0 is any free one, which the node keeps over StopNode and
// StartNode. Nothing listens on another address than these.
type Node struct {
	Name    string // as ident.ParseName accepts it, unique in the supercluster
	Client  string // where clients connect
	Cluster string // where the other nodes of the region connect
	Gateway string // where the region's own relay connects; not used when there is only one region
}

// Start chooses the ports that are 0, writes the configuration and starts the servers
// from it; see StartFiles.
func Start(ctx context.Context, cfg Config) (*Supercluster, error) {
	paths, err := cfg.write(ctx)
	if err != nil {
		return nil, fmt.Errorf("starting supercluster: %w", err)
	}
	return StartFiles(ctx, Files{Paths: paths, WAN: cfg.WAN, Log: cfg.Log})
}

func (cfg Config) write(ctx context.Context) ([]string, error) {
	f, err := cfg.describe()
	if err != nil {
		return nil, err
	}
	op, err := trust.ParseOperator(cfg.Operator)
	if err != nil {
		return nil, fmt.Errorf("%w: operator JWT: %w", ErrConfig, err)
	}
	if err := choosePorts(ctx, f); err != nil {
		return nil, err
	}
	return Write(cfg.Dir, f, serverconf.Input{Operator: op, System: cfg.SystemAccount})
}

// describe makes a description of it, which may be smaller than that of a platform may be.
func (cfg Config) describe() (*manifest.File, error) {
	bad := func(format string, args ...any) (*manifest.File, error) {
		return nil, fmt.Errorf("%w: %w", ErrConfig, fmt.Errorf(format, args...))
	}
	if cfg.Dir == "" {
		return bad("no folder for its data")
	}
	if len(cfg.Regions) == 0 {
		return bad("no region")
	}
	name, err := ident.ParseName("supercluster")
	if err != nil {
		return nil, err
	}
	f := &manifest.File{Name: name}
	seen := map[string]bool{}
	for _, r := range cfg.Regions {
		switch {
		case r.Name.IsZero():
			return bad("a region without a name")
		case seen["region "+r.Name.String()]:
			return bad("region %s is there twice", r.Name)
		case len(r.Nodes) == 0:
			return bad("region %s has no node", r.Name)
		}
		seen["region "+r.Name.String()] = true
		region := manifest.Region{
			Name: r.Name, Gateway: r.Gateway,
			JetStream: manifest.NodeStore{Memory: manifest.Size(cfg.MaxMemory), Disk: manifest.Size(cfg.MaxStore)},
		}
		for _, n := range r.Nodes {
			// The name becomes a folder.
			name, err := ident.ParseName(n.Name)
			if err != nil {
				return bad("node of region %s: %w", r.Name, err)
			}
			if seen["node "+n.Name] {
				return bad("node %s is there twice", n.Name)
			}
			seen["node "+n.Name] = true
			region.Nodes = append(region.Nodes, manifest.Node{Name: name, Client: n.Client, Cluster: n.Cluster, Gateway: n.Gateway})
		}
		f.Regions = append(f.Regions, region)
	}
	return f, nil
}

// choosePorts replaces port 0 by free ports, no two of them the same.
func choosePorts(ctx context.Context, f *manifest.File) error {
	var all []*listener
	var at []*string
	add := func(what string, addr *string) {
		all, at = append(all, &listener{what: what, addr: *addr}), append(at, addr)
	}
	for i := range f.Regions {
		r := &f.Regions[i]
		if len(f.Regions) > 1 {
			add(relayOf(r.Name), &r.Gateway)
		}
		for j := range r.Nodes {
			n := &r.Nodes[j]
			who := nodeOf(r.Name, n.Name.String())
			add("client listener of "+who, &n.Client)
			if len(f.Regions) > 1 || len(r.Nodes) > 1 {
				add("cluster listener of "+who, &n.Cluster)
			}
			if len(f.Regions) > 1 {
				add("gateway listener of "+who, &n.Gateway)
			}
			for what, addr := range map[string]*string{"websocket": &n.Websocket, "leafnode": &n.Leafnode, "monitoring": &n.Monitor} {
				if *addr != "" {
					add(what+" listener of "+who, addr)
				}
			}
		}
	}
	if err := claim(ctx, all); err != nil {
		return err
	}
	for i, l := range all {
		*at[i] = l.addr
	}
	return nil
}

// How listeners are named to people.
func relayOf(r ident.Region) string { return "relay of region " + r.String() }

func nodeOf(r ident.Region, name string) string { return "node " + name + " in region " + r.String() }

// configFolder is where Write puts configuration, below its folder.
const configFolder = "config"

// Write renders the configuration of all nodes for servers on this machine and gives the
// paths for Files. Configuration is written to dir/config/<region>/<node>/nats-server.conf,
// and says that the node stores in dir/<region>/<node>, with its certificates in the folder tls beside
// the file; in.Folders, if there is one, says otherwise. What is stored there is used:
// streams and accounts survive a Close and a StartFiles, as long as the regions and nodes
// are the same, by name. Folders are 0700 and files 0600; a file that is as it has to be
// is not written. The error wraps ErrConfig if f cannot be rendered.
func Write(dir string, f *manifest.File, in serverconf.Input) ([]string, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("finding the servers' folder: %w", err)
	}
	if in.Folders == nil {
		in.Folders = func(r ident.Region, n ident.Name) serverconf.Folders {
			return serverconf.Folders{
				TLS:  filepath.Join(dir, configFolder, r.String(), n.String(), serverconf.TLSFolder),
				Data: filepath.Join(dir, r.String(), n.String()),
			}
		}
	}
	all, err := serverconf.All(f, in)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrConfig, err)
	}
	paths := make([]string, 0, len(all))
	for _, c := range all {
		at := in.Folders(c.Region, c.Node)
		path := filepath.Join(dir, configFolder, filepath.FromSlash(c.Path()))
		// Servers would make theirs so that others may look.
		for _, d := range []string{filepath.Dir(path), at.JetStream(), at.Resolver()} {
			if err := os.MkdirAll(d, 0o700); err != nil {
				return nil, fmt.Errorf("making a folder of node %s: %w", c.Node, err)
			}
		}
		if err := writeFile(path, c.Text); err != nil {
			return nil, fmt.Errorf("writing the configuration of node %s: %w", c.Node, err)
		}
		paths = append(paths, path)
	}
	return paths, nil
}

// writeFile writes what is not there yet. A part of it, after a crash, is written again
// by the next start.
func writeFile(path string, text []byte) error {
	old, err := os.ReadFile(path) // #nosec G304 -- below the caller's own folder
	if err == nil && bytes.Equal(old, text) {
		return nil
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return os.WriteFile(path, text, 0o600)
}
