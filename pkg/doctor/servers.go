package doctor

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/herald-nats/herald/pkg/doctor/seen"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/wire"
)

// Thresholds.
const (
	// clockApart is how far clocks may be apart: credentials are dated by the second.
	clockApart = time.Second
	// enoughServers keep a quorum when one of them is gone.
	enoughServers = 3
	// oldest is the oldest server whose fixes this platform rests on.
	oldest = "2.14.7"
	// fullAt is the part of its connections, of a hundred, at which a server is nearly full.
	fullAt = 80
	// connectRest is what a CONNECT has beside the user JWT, in bytes: the signature of the
	// nonce, and what the client says of itself, with a name of up to 256 bytes.
	connectRest = 86 + 256 + 410
)

// servers looks who is there.
func (r *report) servers() {
	silent := map[ident.Region][]string{}
	for _, n := range r.Seen.Silent {
		silent[n.Region] = append(silent[n.Region], n.Name)
	}
	for _, d := range r.Described.Regions {
		gone := silent[d.Name]
		if len(gone) > 1 && len(gone) == len(d.Nodes) {
			r.add("region-silent", Error, region(d.Name), "none of its %d servers answers", len(gone))
			continue
		}
		for _, name := range gone {
			r.add("server-silent", Error, server(name), "it does not answer")
		}
	}
	known := described(r.Described)
	count := map[string]int{}
	for _, s := range r.Seen.Servers {
		count[s.Name]++
		if count[s.Name] == 2 {
			r.add("server-twice", Error, server(s.Name), "two servers have this name")
		}
		if !slices.Contains(known, s.Name) {
			r.add("server-unknown", Warning, server(s.Name), "the platform file has no such server; it says that it is of cluster %q", s.Cluster)
		} else if at := r.home(s.Name); at != s.Region {
			r.add("server-elsewhere", Error, server(s.Name), "the platform file has it in %s; it says that it is of cluster %q", at, s.Cluster)
		}
		if len(s.Unanswered) > 0 {
			r.add("server-terse", Info, server(s.Name), "it did not answer %s, and was not examined for what is on there", list(s.Unanswered))
		}
		if s.Health != "" && s.Health != "ok" {
			r.add("server-unhealthy", Error, server(s.Name), "it says: %s", s.Health)
		}
		if s.MaxConnections > 0 && s.Connections*100 >= s.MaxConnections*fullAt {
			r.add("server-full", Warning, server(s.Name), "%d of at most %d connections", s.Connections, s.MaxConnections)
		}
		if s.SlowConsumers > 0 {
			r.add("slow-consumers", Info, server(s.Name), "since its start it closed %d connections that did not read fast enough", s.SlowConsumers)
		}
	}
	for _, v := range r.Seen.Views[min(1, len(r.Seen.Views)):] {
		first := r.Seen.Views[0]
		var cut []string
		for _, id := range v.Sees {
			if s, ok := r.Seen.Server(id); ok && !slices.Contains(first.Sees, id) {
				cut = append(cut, s.Name)
			}
		}
		if len(cut) > 0 {
			r.add("region-cut-off", Error, region(v.Region), "%s can be reached from %s and not from %s", list(cut), v.Region, first.Region)
		}
	}
}

// home is the region in which a server is described.
func (r *report) home(name string) ident.Region {
	for _, d := range r.Described.Regions {
		for _, n := range d.Nodes {
			if n.Name == name {
				return d.Name
			}
		}
	}
	return ident.Region{}
}

// clocks holds all clocks against that in the middle, which most agree with.
func (r *report) clocks() {
	var measured []seen.Server
	for _, s := range r.Seen.Servers {
		if s.Clock.Bound > 0 {
			measured = append(measured, s)
		}
	}
	if len(measured) == 0 {
		return
	}
	slices.SortStableFunc(measured, func(a, b seen.Server) int { return cmp.Compare(a.Clock.Ahead, b.Clock.Ahead) })
	middle := measured[len(measured)/2]
	bad := func(apart time.Duration) Severity {
		if apart >= wire.MaxSkew {
			return Error
		}
		return Warning
	}
	for _, s := range measured {
		if apart := s.Clock.Apart(middle.Clock); apart >= clockApart {
			r.add("clock-apart", bad(apart), server(s.Name), "its clock is at least %s %s that of %s", span(apart), ahead(s.Clock.Ahead > middle.Clock.Ahead), middle.Name)
		}
	}
	if apart := middle.Clock.Apart(seen.Clock{Bound: 1}); apart >= clockApart {
		r.add("clock-here", bad(apart), "this machine", "its clock is at least %s %s that of %s", span(apart), ahead(middle.Clock.Ahead < 0), middle.Name)
	}
}

func ahead(is bool) string {
	if is {
		return "ahead of"
	}
	return "behind"
}

// versions looks for old and for different servers.
func (r *report) versions() {
	have := map[string][]string{}
	for _, s := range r.Seen.Servers {
		if s.Version == "" {
			continue
		}
		have[s.Version] = append(have[s.Version], s.Name)
		if older(s.Version, oldest) {
			r.add("version-old", Error, server(s.Name), "it is nats-server %s", s.Version)
		}
	}
	if len(have) < 2 {
		return
	}
	var text []string
	for version, servers := range have {
		text = append(text, fmt.Sprintf("%s (%s)", version, list(servers)))
	}
	slices.Sort(text)
	r.add("version-mix", Warning, "the servers", "they are of %d versions: %s", len(have), strings.Join(text, "; "))
}

// older tells whether version a is before b. What is no version is not older.
func older(a, b string) bool {
	pa, rest, ok := parts(a)
	if !ok {
		return false
	}
	pb, _, _ := parts(b)
	if c := slices.Compare(pa[:], pb[:]); c != 0 {
		return c < 0
	}
	return rest // 2.14.7-RC.1 comes before 2.14.7
}

func parts(version string) (p [3]int, pre bool, ok bool) {
	version, _, _ = strings.Cut(strings.TrimPrefix(version, "v"), "+")
	version, _, pre = strings.Cut(version, "-")
	words := strings.Split(version, ".")
	if len(words) != len(p) {
		return p, pre, false
	}
	for i, w := range words {
		n, err := strconv.Atoi(w)
		if err != nil || n < 0 {
			return p, pre, false
		}
		p[i] = n
	}
	return p, pre, true
}

// operators looks whom the servers trust.
func (r *report) operators() {
	kinds := map[string][]string{}
	for _, s := range r.Seen.Servers {
		if !s.Answered("VARZ") {
			continue
		}
		if len(s.Operators) != 1 || s.Operators[0].Key != r.Operator.Key || s.SystemAccount != r.Operator.SystemAccount {
			r.add("operator-foreign", Error, server(s.Name), "it trusts %s, with system account %s", trusted(s.Operators), cmp.Or(s.SystemAccount, "none"))
			continue
		}
		o := s.Operators[0]
		kinds[o.ID] = append(kinds[o.ID], s.Name)
		var unknown, missing []string
		for _, k := range o.SigningKeys {
			if !slices.Contains(r.Operator.SigningKeys, k) {
				unknown = append(unknown, k)
			}
		}
		for _, k := range r.Operator.SigningKeys {
			if !slices.Contains(o.SigningKeys, k) {
				missing = append(missing, k)
			}
		}
		switch {
		case len(unknown) > 0:
			r.add("operator-old", Error, server(s.Name), "it takes signatures of %s, which the folder's operator JWT does not name", list(unknown))
		case len(missing) > 0:
			r.add("operator-old", Error, server(s.Name), "it refuses signatures of %s, which the folder's operator JWT names", list(missing))
		case !o.Strict:
			r.add("operator-lax", Error, server(s.Name), "it also takes what identity keys signed")
		case o.ID != r.Operator.ID:
			r.add("operator-old", Warning, server(s.Name), "its operator JWT, of %s, is not the folder's, of %s", o.Issued.UTC().Format(time.DateTime), r.Operator.Issued.UTC().Format(time.DateTime))
		}
	}
	if len(kinds) > 1 {
		var text []string
		for _, servers := range kinds {
			text = append(text, list(servers))
		}
		slices.Sort(text)
		r.add("operator-differs", Error, "the servers", "they have %d different operator JWTs: %s", len(kinds), strings.Join(text, "; "))
	}
}

func trusted(all []seen.Operator) string {
	if len(all) == 0 {
		return "no operator"
	}
	var keys []string
	for _, o := range all {
		keys = append(keys, o.Key)
	}
	return "operator " + strings.Join(keys, " and ")
}

// links looks at routes inside regions and gateways between them.
func (r *report) links() {
	for _, u := range r.Seen.Unlinked() {
		r.add("gateway-missing", Error, "region "+u.From, "%s %s no gateway to region %s", list(u.Servers), plural(len(u.Servers), "has", "have"), u.To)
	}
	for _, s := range r.Seen.Servers {
		if !s.Answered("ROUTEZ") {
			continue
		}
		var missing []string
		for _, o := range r.Seen.Servers {
			if o.Cluster == s.Cluster && o.Name != s.Name && !slices.Contains(s.Routes, o.Name) {
				missing = append(missing, o.Name)
			}
		}
		if len(missing) > 0 {
			r.add("route-missing", Error, server(s.Name), "it has no route to %s", list(missing))
		}
	}
}

// listeners looks for what is open to others.
func (r *report) listeners() {
	for _, s := range r.Seen.Servers {
		for _, l := range s.Listeners {
			if l.TLS || loopback(l.Host) {
				continue
			}
			switch l.Kind {
			case seen.Clients, seen.Websockets, seen.Leafnodes:
				r.add("clients-in-the-clear", Warning, server(s.Name), "it takes %s without TLS on %s", l.Kind, host(l.Host))
			case seen.Routes, seen.Gateways:
				r.add("links-in-the-clear", Warning, server(s.Name), "it takes %s without TLS on %s", l.Kind, host(l.Host))
			case seen.Monitoring:
				r.add("monitoring-open", Warning, server(s.Name), "its monitoring pages are on %s, for whoever asks", host(l.Host))
			}
		}
	}
}

// loopback tells whether only this machine reaches an address.
func loopback(host string) bool {
	if host == "localhost" {
		return true
	}
	a, err := netip.ParseAddr(host)
	return err == nil && a.Unmap().IsLoopback()
}

func host(h string) string {
	if a, err := netip.ParseAddr(h); h == "" || err == nil && a.IsUnspecified() {
		return "every address of its machine"
	}
	return h
}

// regions looks what the loss of something would take along.
func (r *report) regions() {
	all := 0
	for _, d := range r.Described.Regions {
		all += len(d.Nodes)
	}
	for _, d := range r.Described.Regions {
		up := 0
		for _, n := range d.Nodes {
			if slices.ContainsFunc(r.Seen.Servers, func(s seen.Server) bool { return s.Name == n.Name }) {
				up++
			}
		}
		if up > 0 && up < enoughServers {
			sev := Warning
			if up == 1 {
				sev = Error // with two of three gone, streams have no leader
			}
			r.add("region-thin", sev, region(d.Name), "%s of its %d", count(up, "server is up", "servers are up"), len(d.Nodes))
		}
		if len(r.Described.Regions) > 1 && 2*(all-len(d.Nodes)) <= all {
			r.add("region-heavy", Warning, region(d.Name), "it has %d of all %d servers: without it JetStream has no majority", len(d.Nodes), all)
		}
		if h := one(d.Nodes); len(d.Nodes) > 1 && h != "" {
			sev := Warning
			if loopback(h) {
				sev = Info // a trial
			}
			r.add("region-one-machine", sev, region(d.Name), "all its servers are on %s", h)
		}
	}
	if len(r.Described.Regions) == 1 {
		r.add("region-alone", Info, region(r.Described.Home), "it is the only region")
	}
}

// one is the host of all nodes; "" where they have several.
func one(nodes []Node) string {
	h := ""
	for _, n := range nodes {
		if n.Host == "" || h != "" && n.Host != h {
			return ""
		}
		h = n.Host
	}
	return h
}

// limits looks at limits of servers that must be equal, and large enough.
func (r *report) limits() {
	payload, line := map[int][]string{}, map[int][]string{}
	for _, s := range r.Seen.Servers {
		if s.Answered("VARZ") {
			payload[s.MaxPayload] = append(payload[s.MaxPayload], s.Name)
			line[s.MaxControlLine] = append(line[s.MaxControlLine], s.Name)
		}
	}
	r.mixed("payload-mix", "max_payload", payload)
	r.mixed("control-line-mix", "max_control_line", line)
	least, ok := smallest(line)
	if !ok {
		return
	}
	for _, c := range r.Credentials {
		if c.Size+connectRest > least {
			r.add("control-line-short", Warning, c.Where, "its user JWT has %d bytes; a CONNECT may have %d in all (max_control_line)", c.Size, least)
		}
	}
}

func (r *report) mixed(id, what string, by map[int][]string) {
	if len(by) < 2 {
		return
	}
	var text []string
	for value, servers := range by {
		text = append(text, fmt.Sprintf("%d (%s)", value, list(servers)))
	}
	slices.Sort(text)
	r.add(id, Warning, "the servers", "their %s differs: %s", what, strings.Join(text, "; "))
}

func smallest(by map[int][]string) (int, bool) {
	least, ok := 0, false
	for v := range by {
		if v > 0 && (!ok || v < least) {
			least, ok = v, true
		}
	}
	return least, ok
}
