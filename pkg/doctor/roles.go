package doctor

import (
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/jwt/v2"

	"github.com/herald-nats/herald/pkg/doctor/seen"
	"github.com/herald-nats/herald/pkg/subject"
)

// roles looks for roles that nobody can use.
func (r *report) roles() {
	for _, role := range r.Roles {
		if role.Closed {
			continue
		}
		where := "role " + role.Account + "/" + role.Name
		if role.Own && slices.Contains(role.Template.Pub.Allow, subject.TutorialAccess) {
			r.add("tutorial-door", Warning, where, "it may ask for creds files at %s, and every guest can read every seed in them", subject.TutorialAccess)
		}
		if why := r.unusable(role); why != "" {
			r.add("role-broken", Warning, where, "nobody can use it: %s", why)
		} else if !role.Own && !role.Granted && role.Static == 0 {
			r.add("role-unused", Info, where, "nobody has it: no grant names it, and no static user is of it")
		}
	}
}

// unusable says why nobody can use a role; "" if somebody can.
func (r *report) unusable(role Role) string {
	t := role.Template
	switch {
	case role.Limits.Conn == 0:
		return "its account may have no connections"
	case t.BearerToken && role.Limits.DisallowBearer:
		return "it is a bearer's, and its account refuses those"
	case t.Subs == 0 || role.Limits.Subs == 0:
		return "its connections may have no subscription, and are closed at once"
	case len(t.Src) > 0 && !slices.ContainsFunc(t.Src, isNetwork):
		return "none of its networks is one"
	case len(t.Times) > 0 && !slices.ContainsFunc(t.Times, hasTime):
		return "none of its hours has any time in it"
	case idle(t.Pub) && idle(t.Sub):
		return "it may neither publish nor subscribe"
	}
	return r.unreachable(t.AllowedConnectionTypes)
}

// unreachable says why nobody can connect in one of these ways.
func (r *report) unreachable(types jwt.StringList) string {
	if len(types) == 0 {
		return "" // every way
	}
	listens := map[string]bool{}
	var known []string
	if r.Seen != nil {
		for _, s := range r.Seen.Servers {
			for _, l := range s.Listeners {
				listens[l.Kind] = true
			}
		}
	}
	for _, t := range types {
		kind, ok := listenerOf(strings.ToUpper(t))
		if !ok {
			continue
		}
		// Without a look at the servers nothing is known of their listeners.
		if len(listens) == 0 || kind == "" || listens[kind] {
			return ""
		}
		known = append(known, t)
	}
	if len(known) == 0 {
		return "it names no way to connect that servers know: " + list(types)
	}
	return "it connects by " + list(known) + " only, and no server listens for that"
}

// listenerOf is the listener that takes a type of connections: "" is one that is not
// looked at.
func listenerOf(t string) (string, bool) {
	switch t {
	case jwt.ConnectionTypeStandard:
		return seen.Clients, true
	case jwt.ConnectionTypeWebsocket, jwt.ConnectionTypeLeafnodeWS, jwt.ConnectionTypeMqttWS:
		return seen.Websockets, true
	case jwt.ConnectionTypeLeafnode:
		return seen.Leafnodes, true
	case jwt.ConnectionTypeMqtt, jwt.ConnectionTypeInProcess:
		return "", true
	default:
		return "", false
	}
}

func isNetwork(s string) bool { _, err := netip.ParsePrefix(s); return err == nil }

// hasTime tells whether a server may find itself in these hours: strictly between their
// ends, over midnight if the end is before the start.
func hasTime(h jwt.TimeRange) bool {
	start, err := time.Parse(time.TimeOnly, h.Start)
	if err != nil {
		return false
	}
	end, err := time.Parse(time.TimeOnly, h.End)
	return err == nil && !start.Equal(end)
}

// idle tells whether nothing is allowed.
func idle(p jwt.Permission) bool {
	denied := func(s string) bool { return slices.Contains(p.Deny, ">") || slices.Contains(p.Deny, s) }
	if len(p.Allow) == 0 {
		return denied(">")
	}
	return !slices.ContainsFunc(p.Allow, func(s string) bool { return !denied(s) })
}
