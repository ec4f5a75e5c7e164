// Package serverconf is the configuration of nats-servers: the complete text of
// nats-server.conf for every node of a platform, made from what the operator describes
// (pkg/platform/manifest) and from what all servers trust. `nscsetup config render` hands
// it out, and `nscsetup up` starts its servers from it, so what is tested is what is
// deployed.
//
// It makes text and refuses what would not be one server's configuration: whoever wrote
// the description can say where a server listens, and cannot say anything else in its
// place. There is no secret in the text. The package writes no file and reads none;
// certificates are named in the text by the file names that are spelt here.
package serverconf

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"path"
	"slices"
	"strconv"

	"github.com/nats-io/jwt/v2"

	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/platform/manifest"
	"github.com/herald-nats/herald/pkg/trust"
)

// FileName is what a node's configuration is called.
const FileName = "nats-server.conf"

// Certificates are looked for in a node's folder for them, under these names; each
// listener has a certificate and a key of its own (Listener.Cert, Listener.Key).
const (
	// TLSFolder is the folder's name beside the configuration.
	TLSFolder = "tls"
	// ServersCA are the authorities that sign for servers.
	ServersCA = "ca.pem"
	// ClientsCA are the authorities that sign for clients and leafnodes. They are others:
	// to a route or a gateway whoever shows a certificate of ServersCA is a server of the
	// platform, and sees all accounts.
	ClientsCA = "clients-ca.pem"
)

// Listener is a kind of connection that a server takes.
type Listener string

// The listeners that can be encrypted.
const (
	Client    Listener = "client"
	Route     Listener = "route"
	Gateway   Listener = "gateway"
	Websocket Listener = "websocket"
	Leafnode  Listener = "leafnode"
)

// Cert is the file name of the listener's certificate.
func (l Listener) Cert() string { return string(l) + ".crt" }

// Key is the file name of the certificate's private key.
func (l Listener) Key() string { return string(l) + ".key" }

// Mode is how the description wants connections of this kind to be encrypted.
func (l Listener) Mode(t manifest.TLS) manifest.Mode {
	switch l {
	case Client:
		return t.Clients
	case Route:
		return t.Routes
	case Gateway:
		return t.Gateways
	case Websocket:
		return t.Websockets
	case Leafnode:
		return t.Leafnodes
	default:
		return manifest.ModeOff
	}
}

// Listeners are those that a node of a platform needs a certificate for, in the order in
// which they stand in its configuration.
func Listeners(f *manifest.File, n manifest.Node) []Listener {
	var ls []Listener
	for _, l := range []Listener{Client, Route, Gateway, Websocket, Leafnode} {
		absent := l == Gateway && len(f.Regions) == 1 || l == Websocket && n.Websocket == "" || l == Leafnode && n.Leafnode == ""
		if !absent && l.Mode(f.TLS).On() {
			ls = append(ls, l)
		}
	}
	return ls
}

// TLSFile is a file in a node's folder for certificates.
type TLSFile struct {
	Name   string
	Secret bool // a private key
}

// TLSFiles are all that a node's configuration names there: nothing if nothing is
// encrypted.
func TLSFiles(f *manifest.File, n manifest.Node) []TLSFile {
	var files []TLSFile
	servers, clients := false, false
	for _, l := range Listeners(f, n) {
		files = append(files, TLSFile{l.Cert(), false}, TLSFile{l.Key(), true})
		among := l == Route || l == Gateway
		servers = servers || among
		clients = clients || !among && l.Mode(f.TLS) == manifest.ModeMutual
	}
	if clients {
		files = append([]TLSFile{{ClientsCA, false}}, files...)
	}
	if servers {
		files = append([]TLSFile{{ServersCA, false}}, files...)
	}
	return files
}

// ErrInvalid is wrapped when the description or the Input cannot be one server's
// configuration. The text says which key.
var ErrInvalid = errors.New("no server can be configured so")

// Input is what servers need and no description holds. None of it is secret.
type Input struct {
	// Operator is whom all servers trust.
	Operator *trust.Operator
	// System is the JWT of the operator's system account. Servers have it from the start,
	// so that whoever brings the other accounts can connect.
	System string
	// Sentinel is the JWT of the bearer user that whoever connects without credentials is
	// taken for; it belongs to the role that is the description's Sentinel, and is there if and
	// only if there is one.
	Sentinel string
	// Folders are a node's folders. Nil: those of servers.config_dir and servers.data_dir,
	// which are the same on every machine.
	Folders func(ident.Region, ident.Name) Folders
}

// Folders are where one server finds and stores things, on its own machine.
type Folders struct {
	TLS  string // certificates and their keys
	Data string // has the folders jetstream and resolver
}

// JetStream is where streams are stored.
func (d Folders) JetStream() string { return path.Join(d.Data, "jetstream") }

// Resolver is where account JWTs are stored.
func (d Folders) Resolver() string { return path.Join(d.Data, "resolver") }

// Config is one node's configuration.
type Config struct {
	Region ident.Region
	Node   ident.Name
	Text   []byte
}

// Path is where the configuration lies in a tree of all of them, with slashes.
func (c Config) Path() string { return path.Join(c.Region.String(), c.Node.String(), FileName) }

// All renders the configuration of every node, in the description's order. Equal
// arguments give equal bytes. The error wraps ErrInvalid and names everything that is
// wrong; trust.ErrUntrusted if a JWT does not end at the operator.
func All(f *manifest.File, in Input) ([]Config, error) {
	if err := in.check(f); err != nil {
		return nil, err
	}
	var all []Config
	var errs []error
	for _, r := range f.Regions {
		for i := range r.Nodes {
			c, err := render(f, r, i, in)
			all, errs = append(all, c), append(errs, err)
		}
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return all, nil
}

// Render is All for one node.
func Render(f *manifest.File, region ident.Region, node ident.Name, in Input) ([]byte, error) {
	if err := in.check(f); err != nil {
		return nil, err
	}
	r, ok := f.Region(region)
	i := slices.IndexFunc(r.Nodes, func(n manifest.Node) bool { return n.Name == node })
	if !ok || i < 0 {
		return nil, fmt.Errorf("%w: there is no node %s in region %s", ErrInvalid, node, region)
	}
	c, err := render(f, r, i, in)
	return c.Text, err
}

func (in Input) check(f *manifest.File) error {
	if in.Operator == nil {
		return fmt.Errorf("%w: there is no operator", ErrInvalid)
	}
	sys, err := in.Operator.VerifyAccount(in.System)
	if err != nil {
		return fmt.Errorf("%w: the system account: %w", ErrInvalid, err)
	}
	if key := in.Operator.System().String(); sys.Subject != key {
		return fmt.Errorf("%w: the operator's system account is %s, and the JWT is that of %s", ErrInvalid, key, sys.Subject)
	}
	if ref := f.Sentinel(); ref.IsZero() != (in.Sentinel == "") {
		return fmt.Errorf("%w: default_sentinel is %q, and there is a JWT for it: %t", ErrInvalid, ref, in.Sentinel != "")
	}
	if in.Sentinel == "" {
		return nil
	}
	// A scoped user has no permissions of its own, so its role says that it is a bearer.
	// A server takes one that is not, and then lets whoever connects as it wait.
	if _, err := jwt.DecodeUserClaims(in.Sentinel); err != nil {
		return fmt.Errorf("%w: the JWT of default_sentinel: %w", ErrInvalid, err)
	}
	return nil
}

// address is a host:port that was looked at.
type address struct {
	host string
	port int
}

func (a address) String() string { return net.JoinHostPort(a.host, strconv.Itoa(a.port)) }

// name tells whether the host is a DNS name, and no IP address.
func (a address) name() bool {
	_, err := netip.ParseAddr(a.host)
	return err != nil
}

// loopback tells whether nobody on another machine can mean this one.
func (a address) loopback() bool {
	ip, err := netip.ParseAddr(a.host)
	return err == nil && ip.IsLoopback() || a.host == "localhost"
}

// parseAddress accepts an IP address or a DNS name, and a port in its one spelling. An
// empty host would mean every interface, which nobody should get by leaving something out.
func parseAddress(s string) (address, error) {
	host, p, err := net.SplitHostPort(s)
	if err != nil {
		return address{}, fmt.Errorf("%.80q is not host:port", s)
	}
	port, err := strconv.Atoi(p)
	if err != nil || port < 1 || port > 65535 || strconv.Itoa(port) != p {
		return address{}, fmt.Errorf("%.80q has no port between 1 and 65535", s)
	}
	if err := checkHost(host); err != nil {
		return address{}, err
	}
	return address{host, port}, nil
}

// checkHost accepts what can be the host of a URL and of a certificate.
func checkHost(host string) error {
	if ip, err := netip.ParseAddr(host); err == nil && ip.Zone() == "" {
		return nil
	}
	if host == "" || len(host) > 253 || host[0] == '.' || host[0] == '-' {
		return fmt.Errorf("%.80q is no host", host)
	}
	for i := range len(host) {
		c := host[i]
		if (c|0x20 < 'a' || c|0x20 > 'z') && (c < '0' || c > '9') && c != '.' && c != '-' && c != '_' {
			return fmt.Errorf("%.80q is no host: an IP address, or letters, digits, '.', '-' and '_'", host)
		}
	}
	return nil
}
