package supercluster

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strconv"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/herald-nats/herald/pkg/ident"
)

// load reads a server's configuration and adds what embedding needs, and nothing that
// changes what the server is to others. What `nats-server -t` would complain about is
// refused. The options hold the accounts' folder open: who does not start a server from them calls
// release.
func load(path string) (*server.Options, error) {
	o := &server.Options{
		NoSigs:                 true, // signals are the program's, not its servers'
		NoLog:                  true, // the server gets a logger
		DisableJetStreamBanner: true,
	}
	if err := o.ProcessConfigFile(path); err != nil {
		release(o)
		return nil, fmt.Errorf("%w: %s: %w", ErrConfig, path, err)
	}
	return o, nil
}

func release(o *server.Options) {
	if o != nil && o.AccountResolver != nil {
		o.AccountResolver.Close()
	}
}

// site is what a configuration says of where a server is.
type site struct {
	region  ident.Region
	name    string
	scheme  string // of client URLs
	client  string // host:port, as all of them
	cluster string // "": alone
	gateway string // "": the only region
	relay   string // where other regions are told to come
	// Listeners that nothing here connects to.
	websocket, leafnode, monitor string
}

func siteOf(o *server.Options) (site, error) {
	var s site
	var errs []error
	at := func(what, host string, port int) string {
		if port <= 0 {
			errs = append(errs, fmt.Errorf("%s has no definite port", what))
		}
		return net.JoinHostPort(host, strconv.Itoa(port))
	}
	region, err := ident.ParseRegion(o.Cluster.Name)
	if err != nil {
		errs = append(errs, fmt.Errorf("the cluster's name: %w", err))
	}
	if o.ServerName == "" {
		errs = append(errs, errors.New("server_name is missing"))
	}
	s.region, s.name, s.scheme = region, o.ServerName, "nats://"
	if o.TLSConfig != nil {
		s.scheme = "tls://"
	}
	s.client = at("listen", o.Host, o.Port)
	if o.Cluster.Port != 0 {
		s.cluster = at("cluster.listen", o.Cluster.Host, o.Cluster.Port)
	}
	if o.Gateway.Name != "" || o.Gateway.Port != 0 {
		s.gateway, s.relay = at("gateway.listen", o.Gateway.Host, o.Gateway.Port), o.Gateway.Advertise
	}
	if o.Websocket.Port != 0 {
		s.websocket = at("websocket.listen", o.Websocket.Host, o.Websocket.Port)
	}
	if o.LeafNode.Port != 0 {
		s.leafnode = at("leafnodes.listen", o.LeafNode.Host, o.LeafNode.Port)
	}
	if o.HTTPPort != 0 {
		s.monitor = at("http", o.HTTPHost, o.HTTPPort)
	}
	return s, errors.Join(errs...)
}

// assemble reads the files and binds the relays. No server exists
// yet when it returns; on an error nothing is left listening.
func assemble(ctx context.Context, f Files) (_ *Supercluster, err error) {
	s := &Supercluster{turn: make(chan struct{}, 1)}
	s.give()
	defer func() {
		if err != nil {
			s.abandon()
		}
	}()
	log := newLog(f.Log)
	for _, path := range f.Paths {
		n, err := newNode(path, log)
		if err != nil {
			return nil, err
		}
		r := s.region(n.at.region)
		if r == nil {
			r = &region{name: n.at.region}
			s.regions = append(s.regions, r)
		}
		r.nodes = append(r.nodes, n)
		s.total++
	}
	if err := s.check(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrConfig, err)
	}
	s.wan = newWAN(f.WAN, s.regions)
	var listeners []*listener
	for _, r := range s.regions {
		for _, n := range r.nodes {
			listeners = append(listeners, n.listeners()...)
		}
		if len(s.regions) > 1 {
			r.relay = newRelay(r, s.wan, &listener{what: relayOf(r.name), addr: r.nodes[0].at.relay})
			listeners = append(listeners, r.relay.at)
		}
	}
	if err := claim(ctx, listeners); err != nil {
		return nil, err
	}
	for i, r := range s.regions {
		if r.relay == nil {
			continue
		}
		// To a node its region's relay is another region: that it may be asked to prove.
		other := s.regions[(i+1)%len(s.regions)]
		err := r.relay.listen(ctx)
		if err == nil {
			if r.relay.passesFor, err = readGatewayFiles(other.nodes[0].file); err != nil {
				r.relay.close()
			}
		}
		if err != nil {
			for _, bound := range s.regions[:i] {
				bound.relay.close()
			}
			return nil, err
		}
	}
	return s, nil
}

// abandon lets go what nodes that never started hold.
func (s *Supercluster) abandon() {
	for _, n := range s.allNodes() {
		n.forget()
	}
}

// check tells whether the files are one supercluster.
func (s *Supercluster) check() error {
	if len(s.regions) == 0 {
		return errors.New("no server")
	}
	names := map[string]bool{}
	var errs []error
	for _, r := range s.regions {
		if len(r.nodes) == 1 && len(s.regions) > 1 {
			errs = append(errs, fmt.Errorf("region %s has one node; beside other regions each needs two or more", r.name))
		}
		for _, n := range r.nodes {
			if names[n.at.name] {
				errs = append(errs, fmt.Errorf("node %s is there twice", n.at.name))
			}
			names[n.at.name] = true
			errs = append(errs, n.checkPeers(s.regions))
		}
	}
	return errors.Join(errs...)
}

// checkPeers holds what a node knows of other regions against where these are. An
// address beside a region's relay would be a way around it.
func (n *node) checkPeers(regions []*region) error {
	gateways := n.next.Gateway.Gateways
	if len(regions) == 1 {
		if n.at.gateway != "" {
			return fmt.Errorf("%s has a gateway, and there is no other region", n)
		}
		return nil
	}
	if n.at.cluster == "" || n.at.gateway == "" || n.at.relay == "" {
		return fmt.Errorf("%s has no cluster, no gateway or nothing to advertise it by", n)
	}
	var errs []error
	for _, r := range regions {
		relay := r.nodes[0].at.relay
		if r.name == n.at.region {
			if n.at.relay != relay {
				errs = append(errs, fmt.Errorf("%s advertises gateway %s, and %s advertises %s", n, n.at.relay, r.nodes[0], relay))
			}
			continue
		}
		known := 0
		for _, g := range gateways {
			if g.Name != r.name.String() {
				continue
			}
			known++
			if i := slices.IndexFunc(g.URLs, func(u *url.URL) bool { return u.Host != relay }); i >= 0 {
				errs = append(errs, fmt.Errorf("%s looks for region %s at %s, and it is at %s", n, r.name, g.URLs[i].Host, relay))
			}
		}
		if known != 1 {
			errs = append(errs, fmt.Errorf("%s has %d gateways to region %s", n, known, r.name))
		}
	}
	if len(gateways) > len(regions)-1 {
		errs = append(errs, fmt.Errorf("%s has %d gateways to %d other regions", n, len(gateways), len(regions)-1))
	}
	return errors.Join(errs...)
}
