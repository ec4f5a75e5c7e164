package doctor

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/herald-nats/herald/pkg/doctor/seen"
)

// awayFor is how long a peer was not heard of until it is away. That it is offline servers
// say at once of those only that they saw leave.
const awayFor = 10 * time.Second

func away(p seen.Peer) bool { return p.Offline || !p.Current && p.Active >= awayFor }

// jetStream looks at the group that places streams.
func (r *report) jetStream() {
	leaders := map[string][]string{}
	for _, s := range r.Seen.Servers {
		switch {
		case !s.Answered("JSZ"):
		case !s.JetStream:
			r.add("jetstream-off", Error, server(s.Name), "it runs without JetStream")
		default:
			leaders[s.MetaLeader] = append(leaders[s.MetaLeader], s.Name)
		}
	}
	if len(leaders) == 0 {
		return
	}
	if without := leaders[""]; len(without) > 0 {
		where := "the servers"
		if len(leaders) > 1 {
			where = "some servers"
		}
		r.add("jetstream-leaderless", Error, where, "%s %s no meta leader", list(without), plural(len(without), "knows", "know"))
	}
	delete(leaders, "")
	if l := r.Seen.JetStream.Leader; l != "" && r.Seen.Leads() == "" {
		r.add("jetstream-leaderless", Error, "the servers", "%s, who led, does not answer", l)
	}
	if len(leaders) > 1 {
		var text []string
		for leader, servers := range leaders {
			text = append(text, fmt.Sprintf("%s for %s", leader, list(servers)))
		}
		slices.Sort(text)
		r.add("jetstream-split", Error, "the servers", "they have several meta leaders: %s", strings.Join(text, "; "))
	}
	known := described(r.Described)
	for _, p := range r.Seen.JetStream.Peers {
		switch {
		case !slices.Contains(known, p.Name) && away(p):
			r.add("jetstream-ghost", Warning, "peer "+p.Name, "JetStream counts it, and the platform file has no such server")
		case away(p):
			r.add("jetstream-away", Warning, server(p.Name), "JetStream misses it%s", since(p.Active))
		case !p.Current:
			r.add("jetstream-behind", Info, server(p.Name), "it is behind JetStream's leader, by %s", count(int(min(p.Lag, 1<<31)), "operation", "operations")) // #nosec G115 -- bounded
		}
	}
	if n := r.Seen.JetStream.Size; n > len(known) && len(known) > 0 {
		r.add("jetstream-ghost", Warning, "JetStream", "it counts %d servers, the platform file %d", n, len(known))
	}
}

// since says when a peer was heard of; long ago is never.
func since(d time.Duration) string {
	if d <= 0 || d > 365*24*time.Hour {
		return ""
	}
	return ": it was heard of " + span(d) + " ago"
}

// streams looks at every stream.
func (r *report) streams() {
	names := map[string]string{}
	for _, a := range r.Accounts {
		names[a.Key.String()] = a.Name
	}
	for _, s := range r.Seen.JetStream.Streams {
		account, ours := names[s.Account]
		if account == "" {
			account = s.Account
		}
		where := fmt.Sprintf("stream %s of account %s", s.Name, account)
		if s.Leader == "" {
			r.add("stream-leaderless", Error, where, "it has no leader in %s", s.Cluster)
			continue
		}
		if s.Replicas == 1 {
			sev := Info
			if ours && account == ledgerAccount {
				sev = Warning
			}
			r.add("stream-single", sev, where, "it has one replica, on %s", s.Leader)
		}
		var behind, gone []string
		for _, p := range s.Peers {
			switch {
			case away(p):
				gone = append(gone, p.Name)
			case !p.Current:
				behind = append(behind, p.Name)
			}
		}
		if len(gone) > 0 {
			r.add("stream-thin", Warning, where, "its %s on %s %s away", plural(len(gone), "replica", "replicas"), list(gone), plural(len(gone), "is", "are"))
		}
		if len(behind) > 0 {
			r.add("stream-behind", Info, where, "its %s on %s %s not current", plural(len(behind), "replica", "replicas"), list(behind), plural(len(behind), "is", "are"))
		}
	}
}

// ledgerAccount is the account in which all that the platform stores is.
const ledgerAccount = "LEDGER"
