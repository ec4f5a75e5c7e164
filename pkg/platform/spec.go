package platform

import (
	"net"
	"strconv"

	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/platform/manifest"
)

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

// NewFile gives the platform file of a spec, on 127.0.0.1: a chat, open to whoever asks.
func NewFile(s Spec) *manifest.File {
	chat, _ := ident.ParseLabel(ChatIn)
	member, _ := ident.ParseLabel(RoleMember)
	general, _ := ident.ParseLabel("General")
	natsCh, _ := ident.ParseLabel("NATS")
	room, _ := ident.ParseLabel("KUBECON")
	f := &manifest.File{
		Name: s.Name, Home: s.Home,
		Credentials: manifest.Credentials{Lifetime: manifest.DefaultLifetime, Longest: manifest.DefaultLongest},
		Chat:        manifest.Chat{Rooms: []manifest.Room{{Name: room, Channels: []ident.Label{general, natsCh, room}}}},
		Grants:      []manifest.Grant{{To: ident.KindOpen, Account: chat, Role: member}},
	}
	port := s.Port
	next := func() string {
		port++
		return net.JoinHostPort("127.0.0.1", strconv.Itoa(port-1))
	}
	for _, name := range s.Regions {
		r := manifest.Region{Name: name, Gateway: next()}
		for i := range s.Nodes {
			node, _ := ident.ParseName(name.String() + "-" + strconv.Itoa(i+1)) // a region's name and a number are a name
			r.Nodes = append(r.Nodes, manifest.Node{Name: node, Client: next(), Cluster: next(), Gateway: next()})
		}
		f.Regions = append(f.Regions, r)
	}
	return f
}
