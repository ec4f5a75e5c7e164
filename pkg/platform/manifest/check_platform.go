package manifest

import (
	"cmp"
	"fmt"
	"net"
	"net/netip"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/ledger"
	"github.com/herald-nats/herald/pkg/policy"
)

// Defaults of what servers share.
const (
	DefaultAuthTimeout    = Duration(2 * time.Second)
	DefaultMaxPayload     = Size(1 << 20)
	DefaultMaxConnections = 65536
	DefaultConfigDir      = "/etc/nats"
	DefaultDataDir        = "/var/lib/nats"
)

// Defaults of what JetStream of one server may use.
const (
	DefaultMemory = Size(64 << 20)
	DefaultDisk   = Size(1 << 30)
)

const (
	minPayload = 64 << 10 // the ledger's entries, and account JWTs of some roles
	maxPayload = 64 << 20 // servers do not start with more: it is what they buffer
)

func (c *checker) servers() {
	s := c.f.Servers
	if d := time.Duration(s.AuthTimeout); s.AuthTimeout != 0 && (d < 100*time.Millisecond || d > time.Minute) {
		c.bad("servers.auth_timeout", "clients far away need a second or two", "auth_timeout is %s; it is from 100ms to 1m", s.AuthTimeout)
	}
	if s.MaxPayload != 0 && (s.MaxPayload < minPayload || s.MaxPayload > maxPayload) {
		c.bad("servers.max_payload", "the default is "+DefaultMaxPayload.String(), "max_payload is %s; it is from %s to %s", s.MaxPayload, Size(minPayload), Size(maxPayload))
	}
	if s.MaxConnections < 0 {
		c.bad("servers.max_connections", "leave it out for the default", "max_connections cannot be below 0")
	}
	c.folder("servers.config_dir", s.ConfigDir)
	c.folder("servers.data_dir", s.DataDir)
	config, data := cmp.Or(s.ConfigDir, DefaultConfigDir), cmp.Or(s.DataDir, DefaultDataDir)
	if data == config || strings.HasPrefix(data, config+"/") {
		c.bad("servers.data_dir", "choose folders apart: one is replaced when the configuration is", "data_dir %s is in config_dir %s", data, config)
	}
}

func (c *checker) folder(key, dir string) {
	if dir != "" && (!path.IsAbs(dir) || path.Clean(dir) != dir || dir == "/" || !isPath(dir)) {
		c.bad(key, "such as "+DefaultConfigDir, "%.120q is not the path of a folder, from / on and in its shortest form", dir)
	}
}

// isPath tells whether a path has nothing that a configuration or a shell would read as
// something else.
func isPath(s string) bool {
	for i := range len(s) {
		if c := s[i]; !lower(c|0x20) && strings.IndexByte("/._-+@", c) < 0 {
			return false
		}
	}
	return true
}

// address is host:port, taken apart.
type address struct {
	host string
	port int
}

// tutorial refuses whoever opens that door without saying what it does.
func (c *checker) tutorial() {
	if d := c.f.TutorialDoor; d != nil && d.IKnow != "" && !d.On() {
		c.bad("tutorial_door.i_know", "leave tutorial_door out, or write i_know: "+strconv.Quote(TutorialSentence),
			"the tutorial's door is opened by one sentence only, which says what it does")
	}
}

// parseAddress accepts host:port in one spelling: what is written in two ways would not
// be seen to be the same.
func parseAddress(s string) (a address, reason, hint string) {
	hint = "such as 10.0.0.1:4222, nats.example.com:4222 or [fd00::1]:4222"
	host, port, err := net.SplitHostPort(s)
	if err != nil || host == "" {
		return a, fmt.Sprintf("%.120q is not host:port", s), hint
	}
	n, err := strconv.Atoi(port)
	if err != nil || n < 1 || n > 65535 || strconv.Itoa(n) != port {
		return a, fmt.Sprintf("%.120q: %.32q is not a port from 1 to 65535", s, port), hint
	}
	if reason, hint := wrongHost(host); reason != "" {
		return a, fmt.Sprintf("%.120q: %s", s, reason), hint
	}
	return address{host, n}, "", ""
}

// Bounds of what clients are told of a region; see wire.CheckURLs.
const (
	maxHost = 240
	maxURLs = 64
)

// wrongHost says what is wrong with a host's name or IP address.
func wrongHost(host string) (reason, hint string) {
	if ip, err := netip.ParseAddr(host); err == nil {
		if ip.Zone() != "" {
			return fmt.Sprintf("%q is an address on one machine's own link", host), "choose one that others can reach"
		}
		if ip.String() != host || ip.Is4In6() {
			return fmt.Sprintf("%q is not how this address is written", host), "write " + ip.Unmap().String()
		}
		return "", ""
	}
	if len(host) > maxHost {
		return fmt.Sprintf("a host's name of %d letters is longer than clients take", len(host)), fmt.Sprintf("use one of at most %d", maxHost)
	}
	numeric := true
	for label := range strings.SplitSeq(host, ".") {
		ok := label != "" && len(label) <= 63 && label[0] != '-' && label[len(label)-1] != '-'
		for i := range len(label) {
			ok = ok && (lower(label[i]) || label[i] == '-' || label[i] == '_')
			numeric = numeric && '0' <= label[i] && label[i] <= '9'
		}
		if !ok {
			return fmt.Sprintf("%.120q is neither a host's name in lower case nor an IP address", host), "write names in lower case, so that each has one spelling"
		}
	}
	if numeric {
		return fmt.Sprintf("%q is not an IP address", host), "such as 10.0.0.1"
	}
	return "", ""
}

func (c *checker) regions() {
	names := make([]ident.Region, 0, len(c.f.Regions))
	clusters := map[string]int{}
	nodes := map[ident.Name]string{}
	used := map[string]string{} // address → key
	for i, r := range c.f.Regions {
		at := fmt.Sprintf("regions[%d]", i)
		names = append(names, r.Name)
		c.cluster(at, r, i, clusters)
		c.regionAddresses(at, r, used)
		if n := len(r.Nodes); n > 0 && n < MinNodes {
			c.bad(at+".nodes", "the ledger keeps three replicas, and JetStream elects nobody among fewer", "%s has %d of at least %d nodes", called("region", r.Name), n, MinNodes)
		}
		for k, n := range r.Nodes {
			c.node(fmt.Sprintf("%s.nodes[%d]", at, k), n, nodes, used)
		}
		if r.JetStream.Memory < 0 || r.JetStream.Disk < 0 {
			c.bad(at+".jetstream", "leave it out for the default", "a size cannot be below 0")
		}
	}
	once(c, names, "region", func(i int) string { return fmt.Sprintf("regions[%d].name", i) })
	if _, ok := c.f.Region(c.f.Home); !ok && !c.f.Home.IsZero() {
		c.missing("home", "regions", "name one of them: "+c.regionNames(), "home is %s, which is none of the regions", c.f.Home)
	}
}

func (c *checker) regionNames() string {
	var all []string
	for _, r := range c.f.Regions {
		all = append(all, r.Name.String())
	}
	return strings.Join(all, ", ")
}

func (c *checker) cluster(at string, r Region, i int, clusters map[string]int) {
	name := r.Cluster
	if name == "" {
		name = r.Name.String()
	}
	if first, ok := clusters[name]; ok && r.Cluster != "" {
		c.bad(at+".cluster", "each region is a cluster of its own: servers of two with one name would become one", "cluster %.64q is that of regions[%d] already", name, first)
	} else if r.Cluster != "" && r.Cluster != r.Name.String() && !r.Name.IsZero() {
		c.bad(at+".cluster", "leave the key out", "the cluster of region %s is called %.64q: placement of streams goes by the region's name", r.Name, r.Cluster)
	}
	if _, ok := clusters[name]; !ok && name != "" {
		clusters[name] = i
	}
	if r.GatewayName != "" && r.GatewayName != r.Name.String() && !r.Name.IsZero() {
		c.bad(at+".gateway_name", "leave the key out", "the gateway of region %s is called %.64q: servers start only where it has the cluster's name", r.Name, r.GatewayName)
	}
}

func (c *checker) regionAddresses(at string, r Region, used map[string]string) {
	own := false // one of its nodes' gateways
	for _, n := range r.Nodes {
		own = own || n.Gateway == r.Gateway
	}
	if own {
		c.wellFormed(at+".gateway", r.Gateway)
	} else {
		c.address(at+".gateway", r.Gateway, used)
	}
	for i, s := range r.Clients {
		c.wellFormed(fmt.Sprintf("%s.clients[%d]", at, i), s)
	}
	if n := len(c.f.ClientURLs(r)); n > maxURLs {
		c.bad(at, "name some in clients, or a load balancer", "clients of %s are told %d addresses, and take at most %d", called("region", r.Name), n, maxURLs)
	}
	once(c, r.Clients, "address", func(i int) string { return fmt.Sprintf("%s.clients[%d]", at, i) })
}

// wellFormed checks an address that others may have, too. It is about how it is written.
func (c *checker) wellFormed(path, s string) (address, bool) {
	if s == "" {
		return address{}, false // missing, or left out
	}
	a, reason, hint := parseAddress(s)
	if reason == "" && isAny(a.host) {
		reason, hint = fmt.Sprintf("nobody can connect to %q", s), "give the address that others use, and this one as listen"
	}
	if reason != "" {
		c.bad(path, hint, "%s", reason)
		return a, false
	}
	return a, true
}

func isAny(host string) bool {
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.IsUnspecified()
}

// address checks one that nobody else may have.
func (c *checker) address(path, s string, used map[string]string) (address, bool) {
	a, ok := c.wellFormed(path, s)
	if !ok {
		return a, false
	}
	if who, taken := used[s]; taken {
		c.bad(path, "choose another port", "%s is taken: it is %s", s, who)
		return a, true
	}
	used[s] = path
	return a, true
}

// isLoopback tells whether an address can be reached on its own machine alone.
func isLoopback(addr string) bool {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return false
	}
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.IsLoopback()
}

func (c *checker) node(at string, n Node, names map[ident.Name]string, used map[string]string) {
	if first, ok := names[n.Name]; ok {
		c.bad(at+".name", "a server's name is its own in the whole platform", "a node is called %s already: %s", n.Name, first)
	} else if !n.Name.IsZero() {
		names[n.Name] = at
	}
	if n.Listen != "" {
		if reason, hint := wrongHost(n.Listen); reason != "" {
			c.bad(at+".listen", hint, "%s", reason)
		}
	}
	ports := map[int]string{}
	for _, e := range []struct{ key, addr string }{
		{"client", n.Client},
		{"cluster", n.Cluster},
		{"gateway", n.Gateway},
		{"websocket", n.Websocket},
		{"leafnode", n.Leafnode},
		{"monitor", n.Monitor},
	} {
		taken := used
		if e.key == "monitor" && isLoopback(e.addr) && !isLoopback(n.Client) {
			taken = map[string]string{} // each machine has a loopback of its own
		}
		a, ok := c.address(at+"."+e.key, e.addr, taken)
		if !ok || n.Listen == "" {
			continue
		}
		if first, taken := ports[a.port]; taken {
			c.bad(at+"."+e.key, "choose another port", "port %d is that of %s, and both listen on %s", a.port, first, n.Listen)
			continue
		}
		ports[a.port] = e.key
	}
}

func (c *checker) credentials() {
	cr := c.f.Credentials
	c.lifetimes("credentials", cr.Lifetime, cr.Longest, DefaultLongest)
	c.rate("credentials.per_host", cr.PerHost)
	c.rate("credentials.per_identity", cr.PerIdentity)
	if n := cr.Names; n != nil && (*n < 1 || *n > ledger.MaxMostNames) {
		c.bad("credentials.names", "leave it out to have the default", "names is %d; it is from 1 to %d", *n, ledger.MaxMostNames)
	}
	switch t := time.Duration(cr.Session); {
	case cr.Session == 0:
	case t < policy.Shortest || t%time.Second != 0:
		c.bad("credentials.session", "credentials count whole seconds", "session is %s; it is at least 1s, and whole seconds", cr.Session)
	case t > ledger.MaxLife:
		c.bad("credentials.session", "have them show again who they are", "session is %s, longer than %s", cr.Session, Duration(ledger.MaxLife))
	}
}

// Bounds of what may be asked.
const (
	maxBurst     = 1_000_000
	maxPerMinute = 60_000_000
)

func (c *checker) rate(at string, r *Rate) {
	if r == nil {
		return
	}
	const hint = "leave both out to have the default"
	if r.Burst < 1 || r.Burst > maxBurst {
		c.bad(at+".burst", hint, "burst is %d; it is from 1 to %d", r.Burst, maxBurst)
	}
	if r.PerMinute < 1 || r.PerMinute > maxPerMinute {
		c.bad(at+".per_minute", hint, "per_minute is %d; it is from 1 to %d", r.PerMinute, maxPerMinute)
	}
}

// lifetimes checks a pair of lifetimes, given the longest where none is named. A lifetime
// that is left out needs no check: it is cut to the longest.
func (c *checker) lifetimes(at string, lifetime, longest, otherwise Duration) {
	bounds := func(key string, d Duration) bool {
		switch t := time.Duration(d); {
		case d == 0:
		case t < policy.Shortest || t%time.Second != 0:
			c.bad(at+"."+key, "credentials count whole seconds", "%s is %s; it is at least 1s, and whole seconds", key, d)
			return false
		case t > ledger.MaxLife:
			c.bad(at+"."+key, "a credential that lives longer would be forgotten before it ends", "%s is %s; it is at most %s", key, d, Duration(ledger.MaxLife))
			return false
		}
		return true
	}
	if lifetimeOK, longestOK := bounds("lifetime", lifetime), bounds("longest", longest); !lifetimeOK || !longestOK || lifetime == 0 {
		return
	}
	switch {
	case longest == 0 && lifetime > otherwise:
		c.bad(at+".lifetime", "name longest, too", "lifetime is %s, and the longest is %s where none is named", lifetime, otherwise)
	case longest != 0 && lifetime > longest:
		c.bad(at+".lifetime", "make one of them longer or shorter", "lifetime %s is longer than longest, %s", lifetime, longest)
	}
}

func (c *checker) chat() {
	names := make([]ident.Label, 0, len(c.f.Chat.Rooms))
	for i, r := range c.f.Chat.Rooms {
		names = append(names, r.Name)
		once(c, r.Channels, "channel", func(k int) string { return fmt.Sprintf("chat.rooms[%d].channels[%d]", i, k) })
	}
	c.size("chat", c.accounts[label(ChatIn)])
	once(c, names, "room", func(i int) string { return fmt.Sprintf("chat.rooms[%d].name", i) })
}
