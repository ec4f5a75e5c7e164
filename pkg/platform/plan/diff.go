package plan

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/nats-io/jwt/v2"

	"github.com/herald-nats/herald/pkg/trust"
)

// Line is one line of a diff: what is added or removed.
type Line struct {
	Op   string `json:"op"` // "+" or "-"
	Text string `json:"text"`
}

func (l Line) String() string { return l.Op + " " + l.Text }

// diff gives what is in one list of statements and not in the other. Lines about one
// thing stand together, the old before the new.
func diff(before, after []string) []Line {
	count := map[string]int{}
	for _, s := range before {
		count[s]++
	}
	for _, s := range after {
		count[s]--
	}
	var out []Line
	for s, n := range count {
		op := "-"
		if n < 0 {
			op, n = "+", -n
		}
		for range n {
			out = append(out, Line{op, s})
		}
	}
	slices.SortFunc(out, func(a, b Line) int {
		ta, _, _ := strings.Cut(a.Text, ":")
		tb, _, _ := strings.Cut(b.Text, ":")
		if c := strings.Compare(ta, tb); c != 0 {
			return c
		}
		if c := strings.Compare(b.Op, a.Op); c != 0 { // "-" is before "+"
			return c
		}
		return strings.Compare(a.Text, b.Text)
	})
	return out
}

// Names are what people are told instead of keys.
type Names struct {
	// Accounts are the names of accounts, by their keys.
	Accounts map[string]string
	// Unmade tells whether a key stands for one that is not made yet.
	Unmade func(key string) bool
}

// Statements says what account claims say, a statement for each right, limit, export and
// so on, for people.
func Statements(c *jwt.AccountClaims, names Names) []string {
	if c == nil {
		return nil
	}
	s := &statements{names: names}
	s.add("key: %s", s.key(c.Subject))
	s.text("description", c.Description)
	s.text("info url", c.InfoURL)
	for _, t := range c.Tags {
		if !strings.HasPrefix(t, trust.TagBase) {
			s.add("tag: %s", t)
		}
	}
	s.limits(c.Limits)
	for _, scope := range c.SigningKeys {
		s.role(scope)
	}
	for pub, scope := range c.SigningKeys {
		if scope == nil {
			s.add("signing key without a role: %s", pub)
		}
	}
	for _, e := range c.Exports {
		s.export(e)
	}
	for _, i := range c.Imports {
		s.imported(i)
	}
	for from, to := range c.Mappings {
		for _, t := range to {
			s.add("mapping %s: to %s, %d%%%s", from, t.Subject, t.GetWeight(), in(t.Cluster))
		}
	}
	if t := c.Trace; t != nil {
		s.add("trace: to %s, %d%%", t.Destination, t.Sampling)
	}
	s.text("cluster traffic", string(c.ClusterTraffic))
	for _, u := range c.Authorization.AuthUsers {
		s.add("callout: not asked about user %s", u)
	}
	for _, a := range c.Authorization.AllowedAccounts {
		s.add("callout: may put users into %s", s.account(a))
	}
	s.text("callout xkey", c.Authorization.XKey)
	if p := c.DefaultPermissions; !emptyPermissions(p) {
		s.permissions("users without a role", p)
	}
	slices.Sort(s.out)
	return s.out
}

func in(cluster string) string {
	if cluster == "" {
		return ""
	}
	return " in " + cluster
}

func emptyPermissions(p jwt.Permissions) bool {
	return len(p.Pub.Allow)+len(p.Pub.Deny)+len(p.Sub.Allow)+len(p.Sub.Deny) == 0 && p.Resp == nil
}

type statements struct {
	names Names
	out   []string
}

func (s *statements) key(k string) string {
	if s.names.Unmade != nil && s.names.Unmade(k) {
		return "that apply makes"
	}
	return k
}

func (s *statements) add(format string, args ...any) {
	s.out = append(s.out, fmt.Sprintf(format, args...))
}

func (s *statements) text(what, value string) {
	if value != "" {
		s.add("%s: %s", what, value)
	}
}

func (s *statements) account(key string) string {
	if n := s.names.Accounts[key]; n != "" {
		return n
	}
	return key
}

// number is a limit, which is said where there is one.
func (s *statements) number(what string, n, none int64) {
	if n != none {
		s.add("%s: %s", what, limit(n))
	}
}

func limit(n int64) string {
	if n < 0 {
		return "without limit"
	}
	return strconv.FormatInt(n, 10)
}

func (s *statements) limits(l jwt.OperatorLimits) {
	s.number("limit of connections", l.Conn, jwt.NoLimit)
	s.number("limit of leafnodes", l.LeafNodeConn, 0)
	s.number("limit of subscriptions", l.Subs, jwt.NoLimit)
	s.number("limit of payload", l.Payload, jwt.NoLimit)
	s.number("limit of data", l.Data, jwt.NoLimit)
	s.number("limit of imports", l.Imports, jwt.NoLimit)
	s.number("limit of exports", l.Exports, jwt.NoLimit)
	if !l.WildcardExports {
		s.add("exports: no wildcards")
	}
	if !l.DisallowBearer {
		s.add("bearers: allowed")
	}
	if l.JetStreamLimits != (jwt.JetStreamLimits{}) {
		s.jetstream("JetStream", l.JetStreamLimits)
	}
	for _, tier := range slices.Sorted(maps.Keys(l.JetStreamTieredLimits)) {
		s.jetstream("JetStream "+tier, l.JetStreamTieredLimits[tier])
	}
}

func (s *statements) jetstream(what string, l jwt.JetStreamLimits) {
	s.add("%s: memory %s", what, limit(l.MemoryStorage))
	s.add("%s: disk %s", what, limit(l.DiskStorage))
	s.number(what+": streams", l.Streams, jwt.NoLimit)
	s.number(what+": consumers", l.Consumer, jwt.NoLimit)
	s.number(what+": pending acknowledgements", l.MaxAckPending, jwt.NoLimit)
	s.number(what+": largest stream in memory", l.MemoryMaxStreamBytes, jwt.NoLimit)
	s.number(what+": largest stream on disk", l.DiskMaxStreamBytes, jwt.NoLimit)
	if l.MaxBytesRequired {
		s.add("%s: streams must say how large they grow", what)
	}
}

func (s *statements) role(scope jwt.Scope) {
	u, ok := scope.(*jwt.UserScope)
	if !ok || u == nil {
		return
	}
	what := "role " + u.Role
	s.add("%s: key %s", what, s.key(u.Key))
	if u.Description != "" {
		s.add("%s: %s", what, u.Description)
	}
	t := u.Template
	s.permissions(what, t.Permissions)
	for _, c := range t.AllowedConnectionTypes {
		s.add("%s: connects as %s", what, c)
	}
	for _, n := range t.Src {
		s.add("%s: connects from %s", what, n)
	}
	for _, h := range t.Times {
		s.add("%s: from %s to %s %s", what, h.Start, h.End, t.Locale)
	}
	s.number(what+": limit of subscriptions", t.Subs, jwt.NoLimit)
	s.number(what+": limit of payload", t.Payload, jwt.NoLimit)
	s.number(what+": limit of data", t.Data, jwt.NoLimit)
	if t.BearerToken {
		s.add("%s: bearer", what)
	}
}

func (s *statements) permissions(what string, p jwt.Permissions) {
	for _, l := range []struct {
		how  string
		list jwt.StringList
	}{
		{"may publish", p.Pub.Allow},
		{"may not publish", p.Pub.Deny},
		{"may subscribe to", p.Sub.Allow},
		{"may not subscribe to", p.Sub.Deny},
	} {
		for _, subj := range l.list {
			s.add("%s: %s %s", what, l.how, subj)
		}
	}
	if r := p.Resp; r != nil {
		s.add("%s: may answer anywhere, %d times within %s", what, r.MaxMsgs, r.Expires)
	}
}

func (s *statements) export(e *jwt.Export) {
	text := fmt.Sprintf("export: %s %s (%s)", e.Type, e.Subject, e.Name)
	if e.Type == jwt.Service && e.ResponseType != "" {
		text += ", answers " + strings.ToLower(string(e.ResponseType))
	}
	if e.ResponseThreshold != 0 {
		text += ", first answer within " + e.ResponseThreshold.String()
	}
	if e.AccountTokenPosition != 0 {
		text += ", account in token " + strconv.FormatUint(uint64(e.AccountTokenPosition), 10)
	}
	if l := e.Latency; l != nil {
		text += fmt.Sprintf(", latency of %d%% to %s", l.Sampling, l.Results)
	}
	for _, f := range []struct {
		on   bool
		text string
	}{{e.TokenReq, ", by activation"}, {e.Advertise, ", advertised"}, {e.AllowTrace, ", traced"}} {
		if f.on {
			text += f.text
		}
	}
	if e.Description != "" {
		text += ": " + e.Description
	}
	if e.InfoURL != "" {
		text += " " + e.InfoURL
	}
	s.add("%s", text)
}

func (s *statements) imported(i *jwt.Import) {
	text := fmt.Sprintf("import: %s %s from %s (%s)", i.Type, i.Subject, s.account(i.Account), i.Name)
	if i.LocalSubject != "" {
		text += ", here " + string(i.LocalSubject)
	}
	for _, f := range []struct {
		on   bool
		text string
	}{{i.Share, ", tells who asks"}, {i.AllowTrace, ", traced"}, {i.Token != "", ", with an activation"}} {
		if f.on {
			text += f.text
		}
	}
	s.add("%s", text)
}
