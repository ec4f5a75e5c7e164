package serverconf

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"path"
	"strconv"
	"time"

	"github.com/herald-nats/herald/pkg/platform/manifest"
)

// What is the same for all servers.
const (
	// resolverInterval is how often the servers of a region compare their accounts.
	// Registrars look, too, and across regions; this is for what they have not seen yet.
	resolverInterval = "1m"
	// A server that is asked to leave (lame duck) says so, waits for the grace period, and
	// parts with its clients over the rest, so that they do not come to the others all at once.
	lameDuckGrace    = 10 * time.Second
	lameDuckDuration = 30 * time.Second
	// maxPayload is what a server may hold back for one client: nothing larger could be sent.
	maxPayload = 64 << 20
)

// server is one node and where the others are, all of it looked at.
type server struct {
	f       *manifest.File
	in      Input
	region  manifest.Region
	node    manifest.Node
	folders Folders
	listen  string // host, where it is another than that of the addresses

	client, cluster, gateway     address // gateway is the node's own
	websocket, leafnode, monitor *address
	advertise                    *address // to clients
	reached                      address  // where other regions reach this one
	routes                       []address
	remotes                      []remote
	total                        int // servers of the platform
}

// remote is another region.
type remote struct {
	name    string
	gateway address
	times   int // how often the address counts
}

func render(f *manifest.File, r manifest.Region, index int, in Input) (Config, error) {
	s, err := newServer(f, r, index, in)
	if err != nil {
		return Config{}, err
	}
	return Config{Region: r.Name, Node: s.node.Name, Text: s.text()}, nil
}

func newServer(f *manifest.File, r manifest.Region, index int, in Input) (*server, error) {
	s := &server{f: f, in: in, region: r, node: r.Nodes[index]}
	var errs []error
	bad := func(format string, args ...any) {
		errs = append(errs, fmt.Errorf("%w: region %s, node %s: %s", ErrInvalid, r.Name, s.node.Name, fmt.Sprintf(format, args...)))
	}
	parse := func(key, value string) address {
		a, err := parseAddress(value)
		if err != nil {
			bad("%s: %v", key, err)
		}
		return a
	}
	maybe := func(key, value string) *address {
		if value == "" {
			return nil
		}
		a := parse(key, value)
		return &a
	}
	if r.Name.IsZero() || s.node.Name.IsZero() {
		bad("a name is missing")
	}
	// Another cluster name is another cluster, and with another gateway name the server
	// does not start, though it finds nothing wrong with its configuration before.
	if cmp.Or(r.Cluster, r.Name.String()) != r.Name.String() || cmp.Or(r.GatewayName, r.Name.String()) != r.Name.String() {
		bad("cluster and gateway are called %.40q and %.40q: both must have the region's name", r.Cluster, r.GatewayName)
	}
	if s.listen = s.node.Listen; s.listen != "" {
		if err := checkHost(s.listen); err != nil {
			bad("listen: %v", err)
		}
	}
	s.client = parse("client", s.node.Client)
	s.websocket = maybe("websocket", s.node.Websocket)
	s.leafnode = maybe("leafnode", s.node.Leafnode)
	s.monitor = maybe("monitor", s.node.Monitor)
	if n := len(r.Clients); n > 0 {
		// A server tells one address. It tells its clients those of the others as well, so
		// that together they tell all.
		s.advertise = maybe("clients", r.Clients[index%n])
	}
	if len(r.Nodes) > 1 || len(f.Regions) > 1 {
		s.cluster = parse("cluster", s.node.Cluster)
	}
	for i, other := range r.Nodes {
		if i != index {
			s.routes = append(s.routes, parse("cluster of node "+other.Name.String(), other.Cluster))
		}
	}
	if len(f.Regions) > 1 {
		s.gateway = parse("gateway", s.node.Gateway)
		s.reached = parse("gateway of the region", r.Gateway)
	}
	for _, other := range f.Regions {
		s.total += len(other.Nodes)
		if other.Name != r.Name {
			s.remotes = append(s.remotes, remote{other.Name.String(), parse("gateway of region "+other.Name.String(), other.Gateway), 1})
		}
	}
	s.count()
	s.folders = s.place()
	if s.folders.TLS == "" || s.folders.Data == "" {
		bad("it has no folder for certificates or for data")
	}
	if p := f.Servers.MaxPayload; p < 0 || p > maxPayload {
		bad("max_payload: %d bytes are not between 1 and 64MiB", p)
	}
	if f.Servers.AuthTimeout < 0 || f.Servers.MaxConnections < 0 || r.JetStream.Memory < 0 || r.JetStream.Disk < 0 || f.Servers.MaxConnections > math.MaxInt32 {
		bad("a limit of its is out of range")
	}
	for _, l := range []Listener{Client, Route, Gateway, Websocket, Leafnode} {
		switch m := l.Mode(f.TLS); {
		case m == "", m == manifest.ModeOff, m == manifest.ModeMutual:
		case m == manifest.ModeServer && l != Route && l != Gateway:
		default:
			bad("tls of %s cannot be %.20q", l, m)
		}
	}
	return s, errors.Join(errs...)
}

// count sees to it that a server that starts for the first time waits for more than half
// of all servers. It takes the number of routes plus the number of gateway URLs for the
// size of JetStream's meta group, and while all logs are empty a leader must have that
// many votes. With fewer than half, two leaders can be elected, and there are two meta groups, whose
// streams know nothing of each other. With all of them, two servers that stand at the same
// moment would keep each other from it, for four seconds at least. A region's one address
// counts once; so where that is too few, it is written several times.
func (s *server) count() {
	if len(s.remotes) == 0 {
		return // routes to all but itself are more than half, and two is the least that counts
	}
	for told := len(s.routes) + len(s.remotes); told < s.total/2+1; told++ {
		fewest := &s.remotes[0]
		for i := range s.remotes {
			if s.remotes[i].times < fewest.times {
				fewest = &s.remotes[i]
			}
		}
		fewest.times++
	}
}

func (s *server) place() Folders {
	if s.in.Folders != nil {
		return s.in.Folders(s.region.Name, s.node.Name)
	}
	return Folders{
		TLS:  path.Join(cmp.Or(s.f.Servers.ConfigDir, manifest.DefaultConfigDir), TLSFolder),
		Data: cmp.Or(s.f.Servers.DataDir, manifest.DefaultDataDir),
	}
}

// text is the whole file. The order is that of reading: who it is, who is trusted, where
// accounts and streams are, who connects.
func (s *server) text() []byte {
	t := &text{}
	t.note(
		"nats-server.conf of node "+s.node.Name.String()+" in region "+s.region.Name.String()+", platform "+s.f.Name.String()+".",
		"",
		"Rendered by nscsetup from platform.yaml: change that and render again. There is no",
		"secret in it. `nats-server -t -c "+FileName+"` checks it.",
	)
	for _, part := range []func(*text){
		s.identity, s.trust, s.accounts, s.jetstream, s.clients, s.websockets, s.leafnodes, s.routing, s.gateways, s.monitoring, s.running,
	} {
		part(t)
	}
	return []byte(t.b.String())
}

func (s *server) identity(t *text) {
	t.blank()
	t.note("JetStream knows its peers by their names: this one stays when the machine changes.")
	t.str("server_name", s.node.Name.String())
}

func (s *server) trust(t *text) {
	t.blank()
	t.note(
		"Whom this server trusts: accounts that a signing key of this operator signed. It is",
		"read at the start only: a changed operator needs a restart of each server.",
	)
	t.str("operator", s.in.Operator.Token())
	t.str("system_account", s.in.Operator.System().String())
	if s.in.Sentinel != "" {
		t.blank()
		t.note("Whoever connects without credentials is this user, of role " + s.f.Sentinel().String() + ".")
		t.str("default_sentinel", s.in.Sentinel)
	}
}

func (s *server) accounts(t *text) {
	t.blank()
	t.note(
		"Every server has all accounts on its disk. Registrars and nscsetup bring them; the",
		"servers of a region also compare theirs now and then. Deletes are off: a server that",
		"missed one would bring the account back.",
	)
	t.block("resolver", func() {
		t.str("type", "full")
		t.str("dir", s.folders.Resolver())
		t.raw("allow_delete", false)
		t.str("interval", resolverInterval)
		// Below the time that a client has: who is refused shall hear why.
		t.str("timeout", (s.authTimeout() / 20 * 19).String())
	})
	t.blank()
	t.note("The system account, so that whoever brings the others can connect. A newer one on the", "disk is left alone.")
	t.block("resolver_preload", func() { t.str(s.in.Operator.System().String(), s.in.System) })
}

func (s *server) authTimeout() time.Duration {
	return time.Duration(cmp.Or(s.f.Servers.AuthTimeout, manifest.DefaultAuthTimeout))
}

func (s *server) jetstream(t *text) {
	t.blank()
	t.note("Streams and buckets. What each account may use of this is in the account.")
	t.block("jetstream", func() {
		t.str("store_dir", s.folders.JetStream())
		t.raw("max_mem", cmp.Or(s.region.JetStream.Memory, manifest.DefaultMemory))
		t.raw("max_file", cmp.Or(s.region.JetStream.Disk, manifest.DefaultDisk))
	})
}

func (s *server) clients(t *text) {
	t.blank()
	t.note(
		"Clients. max_control_line stays at the server's 4 KiB: it bounds the CONNECT line, in",
		"which a client's JWT has to fit.",
	)
	t.str("listen", s.at(s.client))
	switch {
	case s.advertise != nil:
		t.str("client_advertise", s.advertise.String())
	case s.listen != "":
		t.str("client_advertise", s.client.String())
	}
	t.raw("max_connections", cmp.Or(s.f.Servers.MaxConnections, manifest.DefaultMaxConnections))
	t.raw("max_payload", cmp.Or(s.f.Servers.MaxPayload, manifest.DefaultMaxPayload))
	t.note("How long a client may take to prove who it is, by websocket too.")
	t.block("authorization", func() { t.str("timeout", s.authTimeout().String()) })
	s.tls(t, Client, false)
}

func (s *server) websockets(t *text) {
	if s.websocket == nil {
		return
	}
	t.blank()
	t.note("Clients in browsers. Any page may connect: what counts is the JWT and the key behind", "it, and no browser sends those by itself.")
	t.block("websocket", func() {
		t.str("listen", s.at(*s.websocket))
		s.advertised(t, *s.websocket)
		s.tls(t, Websocket, false)
		if !Websocket.Mode(s.f.TLS).On() {
			t.note("Without TLS: for a proxy in front of it that has TLS, or for tests.")
			t.raw("no_tls", true)
		}
	})
}

func (s *server) leafnodes(t *text) {
	if s.leafnode == nil {
		return
	}
	t.blank()
	t.note("Servers at the edge, each with the credentials of a user that may be a leafnode.")
	t.block("leafnodes", func() {
		t.str("listen", s.at(*s.leafnode))
		s.advertised(t, *s.leafnode)
		s.tls(t, Leafnode, false)
	})
}

// routing is the cluster.
func (s *server) routing(t *text) {
	t.blank()
	if s.cluster == (address{}) {
		t.note("The region's name; it has no other server.")
		t.block("cluster", func() { t.str("name", s.region.Name.String()) })
		return
	}
	t.note("The other servers of the region. Whoever reaches this port is one of them: keep it", "closed to everybody else.")
	t.block("cluster", func() {
		t.str("name", s.region.Name.String())
		t.str("listen", s.at(s.cluster))
		s.advertised(t, s.cluster)
		t.list("routes", func() {
			for _, r := range s.routes {
				t.line(quote(s.url(Route, r, 1)))
			}
		})
		s.tls(t, Route, allNames(s.routes))
	})
}

func (s *server) gateways(t *text) {
	if len(s.remotes) == 0 {
		return
	}
	t.blank()
	t.note(
		"The other regions. The gateway is called as the cluster is: with another name the",
		"server does not start. Keep the port closed to all but the other regions' servers.",
	)
	t.block("gateway", func() {
		t.str("name", s.region.Name.String())
		t.str("listen", s.at(s.gateway))
		t.note("Where the other regions reach this one.")
		t.str("advertise", s.reached.String())
		t.raw("reject_unknown_cluster", true)
		if s.repeats() {
			t.note(
				"A server that starts for the first time takes its routes and the URLs here for all",
				"servers that there are, and JetStream waits for so many. An address that stands here",
				"several times counts as often: together they are more than half of "+strconv.Itoa(s.total)+", so that two",
				"parts of the platform never begin apart. What is behind the slash means nothing.",
			)
		}
		t.list("gateways", func() {
			for _, r := range s.remotes {
				t.block("", func() { s.remote(t, r) })
			}
		})
		all := make([]address, 0, len(s.remotes))
		for _, r := range s.remotes {
			all = append(all, r.gateway)
		}
		s.tls(t, Gateway, allNames(all))
	})
}

func (s *server) repeats() bool {
	for _, r := range s.remotes {
		if r.times > 1 {
			return true
		}
	}
	return false
}

func (s *server) remote(t *text, r remote) {
	t.str("name", r.name)
	t.list("urls", func() {
		for i := range r.times {
			t.line(quote(s.url(Gateway, r.gateway, i+1)))
		}
	})
}

func (s *server) monitoring(t *text) {
	if s.monitor == nil {
		return
	}
	t.blank()
	t.note("Monitoring pages, without TLS and without a login: only your own may reach them.")
	// Who keeps them to the machine itself does not mean to open them with the rest.
	if s.monitor.loopback() {
		t.str("http", s.monitor.String())
		return
	}
	t.str("http", s.at(*s.monitor))
}

func (s *server) running(t *text) {
	t.blank()
	t.note(
		"A server that is told to leave (`nats-server --signal ldm`, SIGUSR2) parts with its",
		"clients one after the other. Whoever stops it waits for longer than this.",
	)
	t.str("lame_duck_grace_period", lameDuckGrace.String())
	t.str("lame_duck_duration", lameDuckDuration.String())
	t.blank()
	t.note("The log goes to standard error, for systemd or the container to keep.")
	t.raw("logtime", true)
	t.raw("logtime_utc", true)
}

// at is where to listen.
func (s *server) at(a address) string {
	if s.listen != "" {
		a.host = s.listen
	}
	return a.String()
}

// advertised tells others an address that is not the one it listens on.
func (s *server) advertised(t *text, a address) {
	if s.listen != "" {
		t.str("advertise", a.String())
	}
}

// url is where a server dials another. Two that differ in nth alone are one address;
// servers look at nothing behind it, and pass over a URL that is there twice.
func (s *server) url(l Listener, a address, nth int) string {
	u := "nats://" + a.String()
	if l.Mode(s.f.TLS).On() {
		u = "tls://" + a.String()
	}
	if nth > 1 {
		u += "/" + strconv.Itoa(nth)
	}
	return u
}

// tls is the block of one listener. known tells that all who may connect are dialed by
// DNS names; their certificates must then be for one of these names, too. (Servers
// compare names only; IP addresses in certificates they pass over.)
func (s *server) tls(t *text, l Listener, known bool) {
	mode := l.Mode(s.f.TLS)
	if !mode.On() {
		return
	}
	file := func(name string) string { return path.Join(s.folders.TLS, name) }
	t.block("tls", func() {
		t.str("cert_file", file(l.Cert()))
		t.str("key_file", file(l.Key()))
		if mode != manifest.ModeMutual {
			return
		}
		if l != Route && l != Gateway {
			t.note("Who signs for clients; the others' authority, which signs for servers, does not.")
			t.str("ca_file", file(ClientsCA))
			t.raw("verify", true)
			return
		}
		t.str("ca_file", file(ServersCA))
		t.raw("verify", true)
		if known {
			t.note("And the certificate must be for a host that this server itself would dial.")
			t.raw("verify_cert_and_check_known_urls", true)
		}
	})
}

func allNames(all []address) bool {
	for _, a := range all {
		if !a.name() {
			return false
		}
	}
	return len(all) > 0
}
