package platform

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/herald-nats/herald/pkg/certs"
	"github.com/herald-nats/herald/pkg/certs/certdir"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/platform/manifest"
	"github.com/herald-nats/herald/pkg/platform/serverconf"
)

// ErrNoCertificate: a server is to have TLS, and the folder has no certificate for it.
var ErrNoCertificate = errors.New("a certificate is missing")

// TLS is the folder with the certificate authorities and the servers' certificates.
func (d Dir) TLS() string { return filepath.Join(d.Operator(), "tls") }

// NodeTLS is where a node's certificates are: what is in there goes, under the same names,
// into the folder that the node's configuration names.
func (d Dir) NodeTLS(region ident.Region, node ident.Name) string {
	return filepath.Join(d.TLS(), region.String(), node.String())
}

// Tool is what nscsetup itself connects with: whom it trusts and what it shows.
func (d Dir) Tool() string { return filepath.Join(d.Operator(), "client") }

// Certificates is what a platform needs of certificates, and who is to trust whom: by the
// modes of f.TLS. Folders of parties that are not there were given away, and are left out.
//
// A certificate of a server names all addresses of its kind in its region, and not those of its
// node alone: servers tell clients and each other addresses, often without names, and
// whoever follows one goes on expecting the name that it knew first.
func (d Dir) Certificates(f *manifest.File) (certdir.Plan, error) {
	return d.certificates(f, func(dir string) bool {
		info, err := os.Stat(dir)
		return err == nil && info.IsDir()
	})
}

func (d Dir) certificates(f *manifest.File, has func(party string) bool) (certdir.Plan, error) {
	p := certdir.Plan{Name: f.Name.String(), Bundles: []certdir.Bundle{
		{Path: filepath.Join(d.Public(), certs.AuthoritiesFile), Of: certs.ForServers, Public: true},
	}}
	party := func(dir, name string) {
		if !has(dir) {
			return
		}
		p.Bundles = append(p.Bundles, certdir.Bundle{Path: filepath.Join(dir, certs.AuthoritiesFile), Of: certs.ForServers})
		if f.TLS.Clients == manifest.ModeMutual {
			p.Leaves = append(p.Leaves, clientLeaf(dir, name))
		}
	}
	for _, r := range f.Regions {
		party(d.Registrar(r.Name), "registrar-"+r.Name.String())
		party(d.Issuer(r.Name), "issuer-"+r.Name.String())
	}
	if has(d.Operator()) {
		p.Bundles = append(p.Bundles, certdir.Bundle{Path: filepath.Join(d.Tool(), certs.AuthoritiesFile), Of: certs.ForServers})
		if f.TLS.Clients == manifest.ModeMutual {
			p.Leaves = append(p.Leaves, clientLeaf(d.Tool(), "nscsetup"))
		}
	}
	for _, r := range f.Regions {
		for _, n := range r.Nodes {
			if err := d.node(&p, f, r, n); err != nil {
				return certdir.Plan{}, err
			}
		}
	}
	return p, nil
}

func clientLeaf(dir, name string) certdir.Leaf {
	return certdir.Leaf{
		Name: name, Path: filepath.Join(dir, trimExt(certs.ClientFile)),
		Request: certs.Request{Name: name, Purpose: certs.Client},
	}
}

func trimExt(name string) string { return name[:len(name)-len(filepath.Ext(name))] }

// node adds what one server needs.
func (d Dir) node(p *certdir.Plan, f *manifest.File, r manifest.Region, n manifest.Node) error {
	dir := d.NodeTLS(r.Name, n.Name)
	for _, file := range serverconf.TLSFiles(f, n) {
		if of, ok := bundle(file.Name); ok {
			p.Bundles = append(p.Bundles, certdir.Bundle{Path: filepath.Join(dir, file.Name), Of: of})
		}
	}
	for _, l := range serverconf.Listeners(f, n) {
		hosts, err := hostsOf(r, l)
		if err != nil {
			return fmt.Errorf("region %s: %s: %w", r.Name, l, err)
		}
		purpose := certs.Server
		if l == serverconf.Route || l == serverconf.Gateway {
			purpose = certs.Peer
		}
		p.Leaves = append(p.Leaves, certdir.Leaf{
			Name: r.Name.String() + "/" + n.Name.String() + "/" + string(l),
			Path: filepath.Join(dir, trimExt(l.Cert())),
			Request: certs.Request{
				Name: n.Name.String() + " " + string(l), Purpose: purpose, Hosts: hosts,
			},
		})
	}
	return nil
}

// bundle tells whether a file of a node's has authorities, and which.
func bundle(name string) (certs.Signers, bool) {
	switch name {
	case serverconf.ServersCA:
		return certs.ForServers, true
	case serverconf.ClientsCA:
		return certs.ForClients, true
	}
	return "", false
}

// hostsOf are the hosts under which a region's listeners of a kind are found.
func hostsOf(r manifest.Region, l serverconf.Listener) ([]string, error) {
	var addrs []string
	for _, n := range r.Nodes {
		addrs = append(addrs, map[serverconf.Listener]string{
			serverconf.Client: n.Client, serverconf.Route: n.Cluster, serverconf.Gateway: n.Gateway,
			serverconf.Websocket: n.Websocket, serverconf.Leafnode: n.Leafnode,
		}[l])
	}
	switch l {
	case serverconf.Client, serverconf.Websocket:
		addrs = append(addrs, r.Clients...)
	case serverconf.Gateway:
		addrs = append(addrs, r.Gateway)
	}
	var hosts []string
	for _, a := range addrs {
		if a == "" {
			continue // not every node has a websocket
		}
		host, _, err := net.SplitHostPort(a)
		if err != nil {
			return nil, fmt.Errorf("%.80q is not host:port: %w", a, certs.ErrHost)
		}
		hosts = append(hosts, host)
	}
	return certs.Hosts(hosts)
}

// MakeTLS makes authorities and all certificates of a platform that is being made in a
// folder: for Create.
func MakeTLS(f *manifest.File, set certdir.Settings, now time.Time) func(Dir) error {
	return func(d Dir) error {
		plan, err := d.certificates(f, func(string) bool { return true })
		if err != nil {
			return err
		}
		if _, err := certdir.Init(d.TLS(), plan, set, now); err != nil {
			return err
		}
		folder, err := certdir.Open(d.TLS())
		if err != nil {
			return err
		}
		defer folder.Close()
		_, err = folder.Issue(plan, certdir.Want{}, now)
		return err
	}
}

// InitTLS is Init of a platform whose clients, routes and gateways have TLS: with
// authorities and all certificates.
func InitTLS(ctx context.Context, dir string, s Spec, now time.Time) (*Platform, error) {
	if s.Port == 0 {
		port, err := freeBlock(ctx, s.Ports())
		if err != nil {
			return nil, err
		}
		s.Port = port
	}
	f := NewFile(s)
	f.TLS = manifest.TLS{Clients: manifest.ModeServer, Routes: manifest.ModeMutual, Gateways: manifest.ModeMutual}
	return Create(ctx, dir, f, now, MakeTLS(f, certdir.Settings{}, now))
}

// TLSFile is a file in a node's folder for certificates.
type TLSFile struct {
	serverconf.TLSFile
	Data []byte
}

// TLSFiles are the files that a node's configuration looks for in its folder for
// certificates, as far as the platform folder has them, and the names of those that it
// lacks. They may come from `nscsetup tls` or from anywhere else. The error wraps
// certs.ErrInvalid or certdir.ErrBroken where a server could not start with them: what
// should be authorities is not, or a key is another certificate's.
func (d Dir) TLSFiles(f *manifest.File, region ident.Region, n manifest.Node) (files []TLSFile, missing []string, err error) {
	dir := d.NodeTLS(region, n.Name)
	pairs := map[string]bool{}
	for _, l := range serverconf.Listeners(f, n) {
		crt, key, err := certdir.ReadPair(filepath.Join(dir, trimExt(l.Cert())))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, nil, fmt.Errorf("node %s in region %s: %w", n.Name, region, err)
		}
		pairs[l.Cert()], pairs[l.Key()] = true, true
		if err != nil {
			missing = append(missing, l.Cert(), l.Key())
			continue
		}
		files = append(files, TLSFile{serverconf.TLSFile{Name: l.Cert()}, crt}, TLSFile{serverconf.TLSFile{Name: l.Key(), Secret: true}, key})
	}
	for _, file := range serverconf.TLSFiles(f, n) {
		if pairs[file.Name] {
			continue
		}
		data, err := os.ReadFile(filepath.Join(dir, file.Name)) // #nosec G304 -- a fixed name in the platform folder
		if errors.Is(err, fs.ErrNotExist) {
			missing = append(missing, file.Name)
			continue
		}
		if err == nil {
			_, err = certs.ParseBundle(data)
		}
		if err != nil {
			return nil, nil, fmt.Errorf("%s: %w", filepath.Join(dir, file.Name), err)
		}
		files = append(files, TLSFile{file, data})
	}
	return files, missing, nil
}

// HasTLS tells whether the folder has every certificate that its servers need to start:
// ErrNoCertificate names one that it has not.
func (d Dir) HasTLS(f *manifest.File) error {
	for _, r := range f.Regions {
		for _, n := range r.Nodes {
			_, missing, err := d.TLSFiles(f, r.Name, n)
			if err != nil {
				return err
			}
			if len(missing) > 0 {
				return fmt.Errorf("node %s in region %s: %s: %w", n.Name, r.Name, missing[0], ErrNoCertificate)
			}
		}
	}
	return nil
}
