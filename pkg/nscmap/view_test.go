package nscmap_test

import (
	"fmt"
	"maps"
	"math"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nkeys"

	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/permission"
)

// view is what nats-server 2.15.2 makes of an account JWT (updateAccountClaimsWithRefresh,
// applyAccountLimits, processClientOrLeafAuthentication): written from the server's code,
// not from the package that is tested. Two JWTs with one view are one to servers.
func view(c *jwt.AccountClaims, names map[string]string) map[string]string {
	v := map[string]string{"key": c.Subject, "expires": fmt.Sprint(c.Expires), "tags": fmt.Sprint(slices.Compact(slices.Sorted(slices.Values(tags(c)))))}
	clamp := func(n int64) string {
		// -1 is no limit, and so is what no server can count to.
		if n == jwt.NoLimit || n >= math.MaxInt32 {
			return "none"
		}
		return fmt.Sprint(n)
	}
	l := c.Limits
	payload := clamp(l.Payload)
	if l.Payload > 64<<20 {
		payload = "none" // a server takes no more
	}
	v["limits"] = fmt.Sprintf("subs %s payload %s data %d conns %s leafs %s bearer %v wildcards %v imports %d exports %d",
		clamp(l.Subs), payload, l.Data, clamp(l.Conn), clamp(l.LeafNodeConn), !l.DisallowBearer, l.WildcardExports, l.Imports, l.Exports)
	store := func(j jwt.JetStreamLimits) string {
		atMost := func(n int64) int64 {
			if n > 0 {
				return n
			}
			return -1
		}
		return fmt.Sprint(j.MemoryStorage, j.DiskStorage, atMost(j.Streams), atMost(j.Consumer), atMost(j.MemoryMaxStreamBytes),
			atMost(j.DiskMaxStreamBytes), j.MaxBytesRequired, atMost(j.MaxAckPending))
	}
	if l.IsJSEnabled() {
		if l.MemoryStorage != 0 || l.DiskStorage != 0 {
			v["jetstream"] = store(l.JetStreamLimits)
		} else {
			for tier, t := range l.JetStreamTieredLimits {
				if t.MemoryStorage != 0 || t.DiskStorage != 0 { // nothing fits into the others
					v["jetstream "+tier] = store(t)
				}
			}
		}
	}
	for _, e := range c.Exports {
		k := "export " + e.Type.String() + " " + string(e.Subject)
		response := e.ResponseType
		if e.Type == jwt.Service && response == "" {
			response = jwt.ResponseTypeSingleton
		}
		latency := ""
		if e.Latency != nil && e.Type == jwt.Service && response == jwt.ResponseTypeSingleton {
			latency = fmt.Sprint(*e.Latency)
		}
		v[k] = fmt.Sprint(response, e.ResponseThreshold, e.AccountTokenPosition, latency, e.AllowTrace, e.Advertise, e.Description, e.InfoURL)
	}
	for _, i := range c.Imports {
		v[fmt.Sprint("import ", i.Type, " ", names[i.Account], " ", i.Subject, " ", i.LocalSubject)] = fmt.Sprint(i.Share, i.AllowTrace)
	}
	for from, to := range c.Mappings {
		for _, m := range to {
			v[fmt.Sprint("mapping ", from, " ", m.Subject, " ", m.Cluster)] = fmt.Sprint(m.GetWeight())
		}
	}
	if t := c.Trace; t != nil {
		n := t.Sampling
		if n <= 0 || n > 100 {
			n = 100
		}
		v["trace"] = fmt.Sprint(t.Destination, " ", n)
	}
	if c.ClusterTraffic == jwt.ClusterTrafficOwner {
		v["traffic"] = "owner"
	}
	if a := c.Authorization; len(a.AuthUsers) > 0 {
		var allowed []string
		for _, k := range a.AllowedAccounts {
			allowed = append(allowed, names[k])
		}
		v["callout"] = fmt.Sprint(a.AuthUsers, allowed, a.XKey)
	}
	for key, scope := range c.SigningKeys {
		s, ok := scope.(*jwt.UserScope)
		if !ok || s == nil {
			v["key "+key] = "no role"
			continue
		}
		v["role "+key] = limitsView(s.Template, l) + " " + s.Description
	}
	return v
}

func tags(c *jwt.AccountClaims) []string {
	return slices.DeleteFunc(slices.Clone(c.Tags), func(t string) bool { return strings.HasPrefix(t, "base:") })
}

// limitsView is what a role has beside its permissions.
func limitsView(t jwt.UserPermissionLimits, l jwt.OperatorLimits) string {
	least := func(role, account int64) string {
		switch {
		case role == jwt.NoLimit:
			role = account
		case account != jwt.NoLimit:
			role = min(role, account)
		}
		return fmt.Sprint(role)
	}
	payload := t.Payload
	if payload > 64<<20 {
		payload = jwt.NoLimit
	}
	account := l.Payload
	if account > 64<<20 {
		account = jwt.NoLimit
	}
	types := slices.Clone(t.AllowedConnectionTypes)
	if len(types) == 0 {
		types = []string{"STANDARD", "WEBSOCKET", "LEAFNODE", "LEAFNODE_WS", "MQTT", "MQTT_WS", "IN_PROCESS"}
	}
	nets := map[string]bool{}
	for _, s := range t.Src {
		if _, n, err := net.ParseCIDR(s); err == nil {
			nets[n.String()] = true
		} else {
			nets["bad "+s] = true
		}
	}
	var hours []string
	for _, h := range t.Times {
		a, aerr := time.Parse("15:04:05", h.Start)
		b, berr := time.Parse("15:04:05", h.End)
		hours = append(hours, fmt.Sprint(a, aerr, b, berr))
	}
	zone := t.Locale
	if len(hours) == 0 {
		zone = ""
	}
	slices.Sort(types)
	return fmt.Sprint(least(t.Subs, l.Subs), " ", least(payload, account), " ", t.Data, " ", t.BearerToken, " ", t.ProxyRequired, " ", slices.Compact(types),
		slices.Sorted(maps.Keys(nets)), hours, zone)
}

// verdicts are what users of a role may do, asked of pkg/permission, which is held against
// real servers elsewhere.
func verdicts(t tb, c *jwt.AccountClaims, key string, subjects []string) (out []string, open map[string]bool) {
	t.Helper()
	s, ok := c.SigningKeys[key].(*jwt.UserScope)
	if !ok {
		t.Fatalf("no role %s", key)
	}
	acc := must[permission.Account](t)(permission.AccountOf(c, false))
	acc.Name = "" // accounts may be renamed where no template asks for the name
	pub := must[[]byte](t)(nkeys.Encode(nkeys.PrefixByteUser, make([]byte, 32)))
	user := permission.User{Key: must[ident.UserKey](t)(ident.ParseUserKey(string(pub))), Name: "n", Tags: jwt.TagList{"team:red", "team:blue"}, Account: acc}
	open = map[string]bool{}
	r, err := permission.For(s.Template, user)
	if err != nil {
		return []string{err.Error()}, open
	}
	for _, subj := range subjects {
		say := func(what string, v permission.Verdict, err error) {
			var filtered []string
			for _, r := range v.Filtered {
				filtered = append(filtered, r.Expanded())
			}
			out = append(out, fmt.Sprint(what, " ", subj, " ", v.Allowed, v.OnlyAsReply, filtered, err != nil))
			open[what+" "+subj] = v.Allowed && err == nil
		}
		v, err := r.Publish(subj)
		say("publish", v, err)
		for _, queue := range []string{"", "g"} {
			v, err := r.Subscribe(subj, queue)
			say("subscribe "+queue, v, err)
		}
	}
	replies, may := r.Replies()
	return append(out, fmt.Sprint(replies, may)), open
}
