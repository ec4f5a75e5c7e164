package survey

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/nats-io/jwt/v2"

	"github.com/herald-nats/herald/pkg/doctor/seen"
)

// Pages that are asked of every server.
const (
	pageStats    = "STATSZ"
	pageVars     = "VARZ"
	pageGateways = "GATEWAYZ"
	pageRoutes   = "ROUTEZ"
	pageHealth   = "HEALTHZ"
	pageJS       = "JSZ"
	pageAccounts = "ACCOUNTZ"
	pageConns    = "CONNZ"
)

// read takes one page of a server into s.
func read(page string, data json.RawMessage, s *seen.Server, js *jetStream) error {
	if len(data) == 0 {
		return fmt.Errorf("an empty %s", page)
	}
	var err error
	switch page {
	case pageVars:
		err = readVars(data, s)
	case pageGateways:
		err = readGateways(data, s)
	case pageRoutes:
		err = readRoutes(data, s)
	case pageHealth:
		err = readHealth(data, s)
	case pageJS:
		err = readJetStream(data, s, js)
	default:
		err = errors.New("nobody asked for it")
	}
	if err != nil {
		return fmt.Errorf("%s of server %s: %w", page, s.Name, err)
	}
	return nil
}

// port is a listener as VARZ has it.
type port struct {
	Host  string    `json:"host"`
	Addr  string    `json:"addr"`         // routes call it so
	Port  int       `json:"port"`         // of all but routes
	Route int       `json:"cluster_port"` // of routes
	TLS   bool      `json:"tls_required"`
	Cert  time.Time `json:"tls_cert_not_after"`
	NoTLS bool      `json:"no_tls"` // websockets say it the other way round
}

func (p port) listener(kind string) seen.Listener {
	return seen.Listener{
		Kind: kind, Host: clean(cmp.Or(p.Host, p.Addr), maxText), Port: cmp.Or(p.Port, p.Route),
		TLS: p.TLS, CertUntil: p.Cert,
	}
}

func readVars(data []byte, s *seen.Server) error {
	var v struct {
		Start          time.Time             `json:"start"`
		Operators      []*jwt.OperatorClaims `json:"trusted_operators_claim"`
		System         string                `json:"system_account"`
		Memory         int64                 `json:"mem"`
		Connections    int                   `json:"connections"`
		MaxConnections int                   `json:"max_connections"`
		SlowConsumers  int64                 `json:"slow_consumers"`
		MaxPayload     int                   `json:"max_payload"`
		MaxControlLine int                   `json:"max_control_line"`
		Host           string                `json:"host"`
		Port           int                   `json:"port"`
		TLS            bool                  `json:"tls_required"`
		Cert           time.Time             `json:"tls_cert_not_after"`
		HTTPHost       string                `json:"http_host"`
		HTTPPort       int                   `json:"http_port"`
		HTTPSPort      int                   `json:"https_port"`
		Cluster        port                  `json:"cluster"`
		Gateway        port                  `json:"gateway"`
		Leaf           port                  `json:"leaf"`
		Websocket      port                  `json:"websocket"`
	}
	if err := json.Unmarshal(data, &v); err != nil {
		return err
	}
	s.Started, s.SystemAccount = v.Start, clean(v.System, maxText)
	s.Memory, s.Connections, s.MaxConnections = v.Memory, v.Connections, v.MaxConnections
	s.SlowConsumers, s.MaxPayload, s.MaxControlLine = v.SlowConsumers, v.MaxPayload, v.MaxControlLine
	for _, c := range v.Operators {
		if c != nil {
			s.Operators = append(s.Operators, Operator(c))
		}
	}
	websocket := v.Websocket
	websocket.TLS = !websocket.NoTLS
	ports := []seen.Listener{
		port{Host: v.Host, Port: v.Port, TLS: v.TLS, Cert: v.Cert}.listener(seen.Clients),
		websocket.listener(seen.Websockets), v.Leaf.listener(seen.Leafnodes),
		v.Cluster.listener(seen.Routes), v.Gateway.listener(seen.Gateways),
		port{Host: v.HTTPHost, Port: v.HTTPPort}.listener(seen.Monitoring),
		port{Host: v.HTTPHost, Port: v.HTTPSPort, TLS: true}.listener(seen.Monitoring),
	}
	for _, l := range ports {
		if l.Port > 0 { // others do not listen
			s.Listeners = append(s.Listeners, l)
		}
	}
	return nil
}

// Operator is what is looked at of an operator's claims.
func Operator(c *jwt.OperatorClaims) seen.Operator {
	keys := cleanAll(c.SigningKeys, maxText)
	slices.Sort(keys)
	return seen.Operator{
		Key: clean(c.Subject, maxText), Name: clean(c.Name, maxText), ID: clean(c.ID, maxText),
		Issued: time.Unix(c.IssuedAt, 0), SigningKeys: keys, SystemAccount: clean(c.SystemAccount, maxText),
		Strict: c.StrictSigningKeyUsage,
	}
}

func readGateways(data []byte, s *seen.Server) error {
	var v struct {
		Outbound map[string]json.RawMessage   `json:"outbound_gateways"`
		Inbound  map[string][]json.RawMessage `json:"inbound_gateways"`
	}
	if err := json.Unmarshal(data, &v); err != nil {
		return err
	}
	s.Outbound = cleanAll(slices.Sorted(maps.Keys(v.Outbound)), maxText)
	s.Inbound = []string{}
	for _, name := range slices.Sorted(maps.Keys(v.Inbound)) {
		if len(v.Inbound[name]) > 0 {
			s.Inbound = append(s.Inbound, clean(name, maxText))
		}
	}
	return nil
}

func readRoutes(data []byte, s *seen.Server) error {
	var v struct {
		Routes []struct {
			Name string `json:"remote_name"`
		} `json:"routes"`
	}
	if err := json.Unmarshal(data, &v); err != nil {
		return err
	}
	s.Routes = []string{}
	for _, r := range v.Routes {
		s.Routes = append(s.Routes, clean(r.Name, maxText))
	}
	// A pool has several connections to one server.
	slices.Sort(s.Routes)
	s.Routes = slices.Compact(s.Routes)
	return nil
}

func readHealth(data []byte, s *seen.Server) error {
	var v struct {
		Status string `json:"status"`
		Error  string `json:"error"`
	}
	if err := json.Unmarshal(data, &v); err != nil {
		return err
	}
	s.Health = clean(cmp.Or(v.Error, v.Status), maxReason)
	return nil
}

// jetStream is what servers say of JetStream, until all have.
type jetStream struct {
	meta    []group
	streams map[streamID][]group
	more    map[string]int // server name → how many accounts it has on all pages
}

type streamID struct{ account, name string }

// group is a group of replicas as one server sees it.
type group struct {
	server string
	leader string
	size   int
	peers  []seen.Peer
	stream seen.Stream // of a stream, its own
}

// jsPage is how many accounts one page of JSZ has.
const jsPage = 256

// jsRequest asks for a page of JSZ.
type jsRequest struct {
	Accounts bool   `json:"accounts"`
	Streams  bool   `json:"streams"`
	Config   bool   `json:"config"`
	Offset   int    `json:"offset,omitempty"`
	Limit    int    `json:"limit"`
	Server   string `json:"server_name,omitempty"`
	Exact    bool   `json:"exact_match,omitempty"`
}

type jsPeer struct {
	Name    string        `json:"name"`
	Current bool          `json:"current"`
	Offline bool          `json:"offline"`
	Active  time.Duration `json:"active"`
	Lag     uint64        `json:"lag"`
}

func peers(all []*jsPeer) []seen.Peer {
	out := make([]seen.Peer, 0, len(all))
	for _, p := range all {
		if p != nil {
			out = append(out, seen.Peer{Name: clean(p.Name, maxText), Current: p.Current, Offline: p.Offline, Lag: p.Lag, Active: p.Active})
		}
	}
	return out
}

func readJetStream(data []byte, s *seen.Server, js *jetStream) error {
	var v struct {
		Disabled bool `json:"disabled"`
		Total    int  `json:"total"`
		Meta     *struct {
			Leader string    `json:"leader"`
			Size   int       `json:"cluster_size"`
			Peers  []*jsPeer `json:"replicas"`
		} `json:"meta_cluster"`
		Accounts []*struct {
			ID      string `json:"id"`
			Streams []struct {
				Name    string `json:"name"`
				Cluster *struct {
					Name   string    `json:"name"`
					Leader string    `json:"leader"`
					Peers  []*jsPeer `json:"replicas"`
				} `json:"cluster"`
				Config *struct {
					Replicas int `json:"num_replicas"`
				} `json:"config"`
				State struct {
					Messages uint64 `json:"messages"`
					Bytes    uint64 `json:"bytes"`
				} `json:"state"`
			} `json:"stream_detail"`
		} `json:"account_details"`
	}
	if err := json.Unmarshal(data, &v); err != nil {
		return err
	}
	s.JetStream = !v.Disabled
	if v.Meta != nil {
		s.MetaLeader = clean(v.Meta.Leader, maxText)
		js.meta = append(js.meta, group{server: s.Name, leader: s.MetaLeader, size: v.Meta.Size, peers: peers(v.Meta.Peers)})
	}
	for _, a := range v.Accounts {
		if a == nil {
			continue
		}
		for _, st := range a.Streams {
			id := streamID{clean(a.ID, maxText), clean(st.Name, maxText)}
			g := group{server: s.Name, stream: seen.Stream{
				Account: id.account, Name: id.name, Messages: st.State.Messages, Bytes: st.State.Bytes,
			}}
			if st.Cluster != nil {
				g.leader, g.peers = clean(st.Cluster.Leader, maxText), peers(st.Cluster.Peers)
				g.stream.Cluster = clean(st.Cluster.Name, maxText)
			}
			if st.Config != nil {
				g.stream.Replicas = st.Config.Replicas
			}
			js.streams[id] = append(js.streams[id], g)
		}
	}
	if len(v.Accounts) > 0 {
		js.more[s.Name] = max(js.more[s.Name], v.Total)
	}
	return nil
}

// best is the view of whoever leads, or else of whoever knows a leader, or else any:
// members take a while to notice.
func best(all []group) group {
	slices.SortStableFunc(all, func(a, b group) int { return cmp.Compare(a.server, b.server) })
	out := all[0]
	for _, g := range all {
		switch {
		case g.leader != "" && g.leader == g.server:
			return g
		case out.leader == "" && g.leader != "":
			out = g
		}
	}
	return out
}

// seesPeers are the peers if this is the leader: nobody else knows how they are.
func (g group) seesPeers() []seen.Peer {
	if g.leader != g.server {
		return []seen.Peer{}
	}
	return g.peers
}

// whole puts together what servers said.
func (js *jetStream) whole() seen.JetStream {
	out := seen.JetStream{Peers: []seen.Peer{}, Streams: make([]seen.Stream, 0, len(js.streams))}
	if len(js.meta) > 0 {
		m := best(js.meta)
		out.Leader, out.Size, out.Peers = m.leader, m.size, m.seesPeers()
	}
	for _, all := range js.streams {
		g := best(all)
		s := g.stream
		s.Leader, s.Peers = g.leader, g.seesPeers()
		out.Streams = append(out.Streams, s)
	}
	slices.SortFunc(out.Streams, func(a, b seen.Stream) int {
		return cmp.Or(cmp.Compare(a.Account, b.Account), cmp.Compare(a.Name, b.Name))
	})
	return out
}
