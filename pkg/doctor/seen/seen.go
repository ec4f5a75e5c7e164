// Package seen is what can be seen of a running platform at one moment, as plain data:
// what servers and services say of themselves, and how pkg/registrar found servers to stand
// to accounts. It judges nothing itself and asks nobody: internal/survey fills it,
// pkg/doctor draws conclusions from it, and `nscsetup status` shows it.
//
// Text in it comes from outside and was cleaned once, by whoever filled it: it may be
// shown as it is.
package seen

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/herald-nats/herald/pkg/ident"
)

// Platform is everything that was seen.
type Platform struct {
	At   time.Time     `json:"at"`      // when the look began, by the clock of who looked
	Took time.Duration `json:"took_ns"` // how long it was
	// Views are the places from where it was looked. The first saw most; there are more
	// only where it did not see all.
	Views     []View    `json:"views"`
	Servers   []Server  `json:"servers"` // by region and name
	Silent    []Node    `json:"silent"`  // servers that should be there and that no view saw
	JetStream JetStream `json:"jetstream"`
}

// View is a place from where it was looked.
type View struct {
	Server string       `json:"server"` // that the connection was to
	Region ident.Region `json:"region"` // its region
	// Sees are the ids of the servers that answered there.
	Sees []string `json:"sees"`
}

// Node is a server as somebody describes it.
type Node struct {
	Name   string       `json:"name"`
	Region ident.Region `json:"region"`
}

// Server is one server, as it says.
type Server struct {
	ID      string       `json:"id"` // a new one after each start
	Name    string       `json:"name"`
	Cluster string       `json:"cluster"`
	Region  ident.Region `json:"region"` // the same; zero where it is no name of a region
	Version string       `json:"version"`
	Clock   Clock        `json:"clock"`
	// Unanswered are the pages that were asked for and did not come, such as VARZ. What
	// would be on them is zero here.
	Unanswered []string `json:"unanswered,omitempty"`

	// Of VARZ.
	Started        time.Time  `json:"started"`
	Operators      []Operator `json:"operators"` // that it trusts
	SystemAccount  string     `json:"system_account"`
	Memory         int64      `json:"memory"` // bytes, resident
	Connections    int        `json:"connections"`
	MaxConnections int        `json:"max_connections"`
	SlowConsumers  int64      `json:"slow_consumers"` // that it closed since its start
	MaxPayload     int        `json:"max_payload"`    // bytes
	MaxControlLine int        `json:"max_control_line"`
	Listeners      []Listener `json:"listeners"`

	// Of GATEWAYZ: the regions that it has a connection to, and those that have one to it.
	Outbound []string `json:"outbound"`
	Inbound  []string `json:"inbound"`
	// Of ROUTEZ: the names of the servers that it has routes to.
	Routes []string `json:"routes"`
	// Of HEALTHZ: "ok", or what is wrong.
	Health string `json:"health"`
	// Of JSZ: who leads JetStream, as this server knows.
	JetStream  bool   `json:"jetstream"`
	MetaLeader string `json:"meta_leader"`
}

// Answered tells whether a page of it came.
func (s *Server) Answered(page string) bool { return !slices.Contains(s.Unanswered, page) }

// Clock is by how much a server's clock is ahead of the clock of who looked; negative:
// behind. A server stamps its answer at a moment between question and answer, so the
// true difference is certainly within Bound of Ahead.
type Clock struct {
	Ahead time.Duration `json:"ahead_ns"`
	Bound time.Duration `json:"bound_ns"` // half of the shortest round trip; 0: not measured
	RTT   time.Duration `json:"rtt_ns"`   // the shortest round trip
}

// Apart is by how much two clocks certainly differ, at least: 0 if they may agree.
func (c Clock) Apart(d Clock) time.Duration {
	if c.Bound == 0 || d.Bound == 0 {
		return 0
	}
	return max((c.Ahead-d.Ahead).Abs()-c.Bound-d.Bound, 0)
}

// Operator is an operator as a server trusts it. A server reads it once, when it starts.
type Operator struct {
	Key           string    `json:"key"`
	Name          string    `json:"name"`
	ID            string    `json:"jti"` // equal for equal claims
	Issued        time.Time `json:"issued"`
	SigningKeys   []string  `json:"signing_keys"` // sorted
	SystemAccount string    `json:"system_account"`
	Strict        bool      `json:"strict"` // it accepts the signing keys alone
}

// Kinds of listeners.
const (
	Clients    = "clients"
	Websockets = "websockets"
	Leafnodes  = "leafnodes"
	Routes     = "routes"
	Gateways   = "gateways"
	Monitoring = "monitoring"
)

// Listener is where a server listens.
type Listener struct {
	Kind string `json:"kind"`
	Host string `json:"host"` // "0.0.0.0" is every address
	Port int    `json:"port"`
	TLS  bool   `json:"tls"`
	// CertUntil is when its certificate ends; zero where it has none.
	CertUntil time.Time `json:"cert_until,omitzero"`
}

// JetStream is JetStream of the whole, put together from what servers say.
type JetStream struct {
	// Leader is the meta leader; "" where servers know none. For some seconds after it
	// went, servers go on naming it: see Leads.
	Leader  string   `json:"leader"`
	Size    int      `json:"size"`  // how many peers its group has
	Peers   []Peer   `json:"peers"` // the others, as the leader sees them; empty if it did not answer
	Streams []Stream `json:"streams"`
}

// Peer is a member of a group, as the group's leader sees it.
type Peer struct {
	Name    string        `json:"name"`
	Current bool          `json:"current"` // it has all
	Offline bool          `json:"offline"`
	Lag     uint64        `json:"lag"`       // operations that it lacks
	Active  time.Duration `json:"active_ns"` // since it was heard of
}

// Stream is a stream, of whatever account.
type Stream struct {
	Account  string `json:"account"` // the key
	Name     string `json:"name"`
	Cluster  string `json:"cluster"`
	Replicas int    `json:"replicas"` // that it is to have
	Leader   string `json:"leader"`   // "" where it has none
	Peers    []Peer `json:"peers"`    // its other replicas; empty if the leader did not answer
	Messages uint64 `json:"messages"`
	Bytes    uint64 `json:"bytes"`
}

// Standing is how servers stand to one account, by what resolvers have on disk. In line is
// what says the same as all that is known of the account together (trust.Join), whoever
// signed it and when.
type Standing struct {
	Key  ident.AccountKey `json:"key"`
	Name string           `json:"name"`
	// Version is that of the base claims that should be in force.
	Version uint64 `json:"version"`
	// Same, Behind, Lacking, Foreign and Unread are numbers of servers: in line; with
	// something older; with nothing; with what does not verify; that did not say.
	Same    int `json:"same"`
	Behind  int `json:"behind"`
	Lacking int `json:"lacking"`
	Foreign int `json:"foreign"`
	Unread  int `json:"unread"`
	// Conflict: there are different base claims of that version.
	Conflict bool `json:"conflict"`
	// Changed is when what is in force was signed.
	Changed time.Time `json:"changed,omitzero"`
	// Expires is when it ends; zero: never.
	Expires time.Time `json:"expires,omitzero"`
	// Size is that of its largest JWT, in bytes.
	Size int `json:"size"`
	// Astray are the servers that are not in line, as far as they could be told, by name.
	Astray []string `json:"astray,omitempty"`
}

// InLine tells whether every server that should say the account's content says it.
func (s Standing) InLine() bool {
	return !s.Conflict && s.Behind == 0 && s.Lacking == 0 && s.Foreign == 0 && s.Unread == 0
}

// Text says in a few words what is not in line; "" if everything is.
func (s Standing) Text() string {
	var text []string
	for _, p := range []struct {
		n    int
		what string
	}{{s.Lacking, "without it"}, {s.Behind, "with an older one"}, {s.Foreign, "with one that does not verify"}, {s.Unread, "that did not say"}} {
		if p.n > 0 {
			text = append(text, servers(p.n)+p.what)
		}
	}
	if s.Conflict {
		text = append(text, fmt.Sprintf("different claims of version %d", s.Version))
	}
	return strings.Join(text, ", ")
}

func servers(n int) string {
	if n == 1 {
		return "1 server "
	}
	return fmt.Sprintf("%d servers ", n)
}

// Memory is an account as one server works with it; a server that has none of its users
// and no import of it need not have it.
type Memory struct {
	Server  string           `json:"server"` // its id
	Account ident.AccountKey `json:"account"`
	Token   string           `json:"token"` // not verified
	Updated time.Time        `json:"updated"`
	Expired bool             `json:"expired"`
	// Complete: all that it imports is known to the server.
	Complete bool `json:"complete"`
}

// Connection is a client's connection.
type Connection struct {
	Server  string           `json:"server"` // its name
	Region  ident.Region     `json:"region"`
	ID      uint64           `json:"id"` // of the connection, on that server
	Account ident.AccountKey `json:"account"`
	User    string           `json:"user"` // the public nkey
	Name    string           `json:"name"` // of the user, from its JWT
	// Issuer is the key that signed the user: a role key, or a key of the account.
	Issuer  string    `json:"issuer"`
	Kind    string    `json:"kind"` // such as nats or websocket
	Client  string    `json:"client"`
	Since   time.Time `json:"since"`
	Expires time.Time `json:"expires,omitzero"` // zero: the user JWT never ends
}

// Service is one instance of a service. A process may run several.
type Service struct {
	Name    string    `json:"name"` // issuer or registrar
	ID      string    `json:"id"`
	Version string    `json:"version"`
	Started time.Time `json:"started"`
	// Subjects are those that it answers.
	Subjects []string `json:"subjects"`
	// Region, Document, Ages and the rest are what it says of itself; zero or empty where
	// it says nothing.
	Region   string `json:"region"`
	Document string `json:"document"` // version of the platform document that it goes by
	// Ages are how old its knowledge is, by source; Never are sources that it never read.
	Ages        map[string]time.Duration `json:"ages_ns"`
	Never       []string                 `json:"never,omitempty"`
	CopyFailing bool                     `json:"copy_failing"`
	// Chain is the chain of records that it writes, and Block how far that is stored; empty
	// where it writes none.
	Chain string `json:"audit_chain,omitempty"`
	Block uint64 `json:"audit_block,omitempty"`
}

// Oldest is the age of the oldest part of its knowledge; false where a part was never
// read, or nothing is known of it.
func (s Service) Oldest() (time.Duration, bool) {
	var oldest time.Duration
	for _, a := range s.Ages {
		oldest = max(oldest, a)
	}
	return oldest, len(s.Ages) > 0 && len(s.Never) == 0
}

// Server finds a server by id.
func (p *Platform) Server(id string) (*Server, bool) {
	i := slices.IndexFunc(p.Servers, func(s Server) bool { return s.ID == id })
	if i < 0 {
		return nil, false
	}
	return &p.Servers[i], true
}

// Leads is JetStream's leader, if it is there; "" if it does not answer, or there is none.
func (p *Platform) Leads() string {
	if slices.ContainsFunc(p.Servers, func(s Server) bool { return s.Name == p.JetStream.Leader }) {
		return p.JetStream.Leader
	}
	return ""
}

// In are the servers of a region.
func (p *Platform) In(r ident.Region) []*Server {
	var in []*Server
	for i := range p.Servers {
		if p.Servers[i].Region == r && !r.IsZero() {
			in = append(in, &p.Servers[i])
		}
	}
	return in
}

// Unlinked are the pairs of regions, of those with servers, between which a server has no
// connection out: From has none to To, as Servers say.
func (p *Platform) Unlinked() []Unlinked {
	names := map[string]bool{}
	for _, s := range p.Servers {
		names[s.Cluster] = true
	}
	missing := map[[2]string][]string{}
	for _, s := range p.Servers {
		if !s.Answered("GATEWAYZ") {
			continue
		}
		for to := range names {
			if to != s.Cluster && !slices.Contains(s.Outbound, to) {
				missing[[2]string{s.Cluster, to}] = append(missing[[2]string{s.Cluster, to}], s.Name)
			}
		}
	}
	out := make([]Unlinked, 0, len(missing))
	for pair, servers := range missing {
		slices.Sort(servers)
		out = append(out, Unlinked{From: pair[0], To: pair[1], Servers: servers})
	}
	slices.SortFunc(out, func(a, b Unlinked) int {
		return slices.Compare([]string{a.From, a.To}, []string{b.From, b.To})
	})
	return out
}

// Unlinked is a pair of regions that lacks gateways, one way.
type Unlinked struct {
	From    string   `json:"from"`
	To      string   `json:"to"`
	Servers []string `json:"servers"` // of From, that have no connection
}
