// Package platform is what an operator describes and what becomes of it: the
// platform file, the folders with each party's keys, the accounts and roles.
// It makes files and claims; it dials nothing (internal/up brings them to
// servers).
package platform

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/goccy/go-yaml"

	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/ledger"
)

// FileName is the platform file's name in a platform folder.
const FileName = "platform.yaml"

// MinNodes is the fewest nodes of a region: the ledger keeps three replicas in
// home, and JetStream elects nobody in clusters of one that only gateways join.
const MinNodes = 3

// File is platform.yaml: what the operator decides. Unknown and duplicate keys
// are refused.
type File struct {
	// Name is what the platform is called; clients keep its keys under it.
	Name ident.Name `yaml:"name"`
	// Home is the region whose quorum decides names.
	Home ident.Region `yaml:"home"`
	// Regions are the clusters of the supercluster.
	Regions []Region `yaml:"regions"`
	// Credentials says how long credentials live.
	Credentials Credentials `yaml:"credentials"`
	// Chat is the room that the platform comes with.
	Chat Chat `yaml:"chat"`
}

// Region is one NATS cluster.
type Region struct {
	// Name is the region's, the cluster's and the gateway's name.
	Name ident.Region `yaml:"name"`
	// Gateway is host:port where the other regions reach this one.
	Gateway string `yaml:"gateway"`
	// Nodes are the region's servers; at least three.
	Nodes []Node `yaml:"nodes"`
}

// Node is one server. Each address is host:port.
type Node struct {
	// Name is unique in the platform.
	Name ident.Name `yaml:"name"`
	// Client is where clients connect.
	Client string `yaml:"client"`
	// Cluster is where the region's other nodes connect.
	Cluster string `yaml:"cluster"`
	// Gateway is where this node takes gateway connections.
	Gateway string `yaml:"gateway"`
}

// Credentials are the lifetimes of what issuers give to members.
type Credentials struct {
	// Lifetime is how long a credential lives if nothing else is asked for.
	Lifetime time.Duration `yaml:"lifetime"`
	// Longest is the longest that is given.
	Longest time.Duration `yaml:"longest"`
}

// Chat is a room and its channels.
type Chat struct {
	// Room is the name of the room.
	Room ident.Label `yaml:"room"`
	// Channels are the room's channels, in the order in which they are shown.
	Channels []ident.Label `yaml:"channels"`
}

// Parse reads a platform file and checks it. What is wrong with one key is said
// with its line; what does not go together, with the keys.
func Parse(data []byte) (*File, error) {
	var f File
	dec := yaml.NewDecoder(bytes.NewReader(data), yaml.DisallowUnknownField())
	if err := dec.Decode(&f); err != nil {
		if where := locate(data); where != nil {
			return nil, where
		}
		// The plain form is one line with the position; the pretty one draws
		// the source around it.
		return nil, errors.New(yaml.FormatError(err, false, false))
	}
	if err := dec.Decode(new(any)); !errors.Is(err, io.EOF) {
		return nil, errors.New("there is a second document behind the first")
	}
	if err := f.check(); err != nil {
		return nil, err
	}
	return &f, nil
}

func (f *File) check() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if f.Name.IsZero() {
		bad("name is missing")
	}
	seen := map[string]string{} // address → who has it
	address := func(who, addr string) {
		host, port, err := net.SplitHostPort(addr)
		n, perr := strconv.Atoi(port)
		switch {
		// One spelling of a port only: "+80" and "080" would hide that two are the same.
		case err != nil || perr != nil || host == "" || n < 1 || n > 65535 || strconv.Itoa(n) != port:
			bad("%s: %q is not host:port", who, addr)
		case seen[addr] != "":
			bad("%s: %s is already %s's", who, addr, seen[addr])
		default:
			seen[addr] = who
		}
	}
	home := false
	names := map[string]bool{}
	for i, r := range f.Regions {
		if r.Name.IsZero() {
			bad("regions: the name of number %d is missing", i+1)
		}
		if names[r.Name.String()] {
			bad("region %s is there twice", r.Name)
		}
		names[r.Name.String()] = true
		home = home || r.Name == f.Home
		address("region "+r.Name.String()+" gateway", r.Gateway)
		if len(r.Nodes) < MinNodes {
			bad("region %s has %d nodes; at least %d are needed", r.Name, len(r.Nodes), MinNodes)
		}
		for i, n := range r.Nodes {
			if n.Name.IsZero() {
				bad("region %s: the name of node %d is missing", r.Name, i+1)
			}
			if names["node "+n.Name.String()] {
				bad("node %s is there twice", n.Name)
			}
			names["node "+n.Name.String()] = true
			address("node "+n.Name.String()+" client", n.Client)
			address("node "+n.Name.String()+" cluster", n.Cluster)
			address("node "+n.Name.String()+" gateway", n.Gateway)
		}
	}
	if !home {
		bad("home is %q, which is none of the regions", f.Home)
	}
	if c := f.Credentials; c.Lifetime < time.Second || c.Longest < c.Lifetime || c.Longest > ledger.MaxLife {
		bad("credentials: lifetime must be at least 1s, and longest no shorter than it and at most %s", ledger.MaxLife)
	}
	if f.Chat.Room.IsZero() || len(f.Chat.Channels) == 0 || slices.ContainsFunc(f.Chat.Channels, ident.Label.IsZero) {
		bad("chat: a room and at least one channel are needed")
	}
	for i, c := range f.Chat.Channels {
		if slices.Contains(f.Chat.Channels[:i], c) {
			bad("chat: channel %s is there twice", c)
		}
	}
	return errors.Join(errs...)
}

// Region finds a region by name.
func (f *File) Region(name ident.Region) (Region, bool) {
	for _, r := range f.Regions {
		if r.Name == name {
			return r, true
		}
	}
	return Region{}, false
}

// URLs are the client URLs of a region.
func (r Region) URLs() []string {
	urls := make([]string, 0, len(r.Nodes))
	for _, n := range r.Nodes {
		urls = append(urls, "nats://"+n.Client)
	}
	return urls
}

// Spec is what a new platform is made from.
type Spec struct {
	Name    ident.Name
	Regions []ident.Region
	Home    ident.Region
	Nodes   int // in each region
	Port    int // the first of a block of ports; 0 chooses a block that is free
}

// Ports is how many ports the spec needs: for each region one where the other
// regions reach it, and three for each node.
func (s Spec) Ports() int { return len(s.Regions) * (1 + 3*s.Nodes) }

// NewFile gives the platform file of a spec, on 127.0.0.1.
func NewFile(s Spec) *File {
	general, _ := ident.ParseLabel("General")
	natsCh, _ := ident.ParseLabel("NATS")
	room, _ := ident.ParseLabel("KUBECON")
	f := &File{
		Name: s.Name, Home: s.Home,
		Credentials: Credentials{Lifetime: time.Hour, Longest: 12 * time.Hour},
		Chat:        Chat{Room: room, Channels: []ident.Label{general, natsCh, room}},
	}
	port := s.Port
	next := func() string {
		port++
		return net.JoinHostPort("127.0.0.1", strconv.Itoa(port-1))
	}
	for _, name := range s.Regions {
		r := Region{Name: name, Gateway: next()}
		for i := range s.Nodes {
			node, _ := ident.ParseName(name.String() + "-" + strconv.Itoa(i+1)) // a region's name and a number are a name
			r.Nodes = append(r.Nodes, Node{Name: node, Client: next(), Cluster: next(), Gateway: next()})
		}
		f.Regions = append(f.Regions, r)
	}
	return f
}

// Render writes the file as the operator will read and change it.
func (f *File) Render() []byte {
	var b bytes.Buffer
	p := func(format string, args ...any) { fmt.Fprintf(&b, format, args...) }
	p("# A Herald platform. Each key is explained where it stands; unknown keys are refused.\n\n")
	p("# What the platform is called. Clients keep their keys for it under this name.\nname: %s\n\n", scalar(f.Name.String()))
	p("# The region whose servers decide names: the ledger's three replicas are there.\nhome: %s\n\n", scalar(f.Home.String()))
	p("# Regions: one NATS cluster each, linked by gateways. Every address is host:port.\n")
	p("# gateway is where the other regions reach this one; client, cluster and gateway\n# of a node are where that server listens.\nregions:\n")
	for _, r := range f.Regions {
		p("  - name: %s\n    gateway: %q\n    nodes:\n", scalar(r.Name.String()), r.Gateway)
		for _, n := range r.Nodes {
			p("      - {name: %s, client: %q, cluster: %q, gateway: %q}\n", scalar(n.Name.String()), n.Client, n.Cluster, n.Gateway)
		}
	}
	p("\n# How long a member's credential lives: by default, and at most if more is asked for.\n")
	p("credentials:\n  lifetime: %s\n  longest: %s\n", short(f.Credentials.Lifetime), short(f.Credentials.Longest))
	p("\n# The chat's room and its channels, in the order in which they are shown.\nchat:\n  room: %s\n  channels: [", scalar(f.Chat.Room.String()))
	for i, c := range f.Chat.Channels {
		if i > 0 {
			p(", ")
		}
		p("%s", scalar(c.String()))
	}
	p("]\n")
	return b.Bytes()
}

// scalar quotes what YAML would not read as the text that it is: numbers, null,
// true, and what they were called in earlier versions.
func scalar(s string) string {
	switch strings.ToLower(s) {
	case "null", "true", "false", "yes", "no", "on", "off", "y", "n":
		return strconv.Quote(s)
	}
	if s != "" && (s[0]|0x20) >= 'a' && (s[0]|0x20) <= 'z' {
		return s
	}
	return strconv.Quote(s)
}

// short writes 1h for 1h0m0s.
func short(d time.Duration) string {
	s := d.String()
	if d%time.Minute == 0 {
		s = s[:len(s)-len("0s")]
		if d%time.Hour == 0 {
			s = s[:len(s)-len("0m")]
		}
	}
	return s
}
