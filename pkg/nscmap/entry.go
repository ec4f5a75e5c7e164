package nscmap

import (
	"slices"
	"strings"

	"github.com/nats-io/jwt/v2"

	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/platform/manifest"
)

// entry is the account in the platform file. Its claims are normal.
func (a *account) entry() manifest.Account {
	c := a.c
	out := manifest.Account{
		Name: a.name, Description: c.Description, InfoURL: c.InfoURL, Tags: slices.Clone(c.Tags),
		Limits: limitsOf(c.Limits), JetStream: streamsOf(c.Limits), ClusterTraffic: string(c.ClusterTraffic),
	}
	for _, e := range c.Exports {
		out.Exports = append(out.Exports, a.export(e))
	}
	for _, i := range c.Imports {
		out.Imports = append(out.Imports, a.imp(i))
	}
	for _, from := range sortedKeys(c.Mappings) {
		mapping := manifest.Mapping{Subject: string(from)}
		for _, to := range c.Mappings[from] {
			mapping.To = append(mapping.To, manifest.MappedTo{Subject: string(to.Subject), Weight: int64(to.Weight), Cluster: to.Cluster})
		}
		out.Mappings = append(out.Mappings, mapping)
	}
	for _, key := range sortedKeys(c.SigningKeys) {
		if scope, ok := c.SigningKeys[key].(*jwt.UserScope); ok && scope != nil {
			out.Roles = append(out.Roles, a.role(scope))
		}
	}
	slices.SortFunc(out.Roles, func(a, b manifest.Role) int { return strings.Compare(a.Name.String(), b.Name.String()) })
	if t := c.Trace; t != nil {
		out.Trace = &manifest.Trace{Subject: string(t.Destination)}
		if t.Sampling != 100 {
			n := int64(t.Sampling)
			out.Trace.Sampling = &n
		}
	}
	if c.Authorization.IsEnabled() {
		out.Callout = a.callout()
	}
	if a.own {
		return a.added(out)
	}
	return out
}

func limitsOf(l jwt.OperatorLimits) manifest.Limits {
	out := manifest.Limits{
		Connections: limit[int64](l.Conn), Subscriptions: limit[int64](l.Subs), Payload: limit[manifest.Size](l.Payload),
		Data: limit[manifest.Size](l.Data), Imports: limit[int64](l.Imports), Exports: limit[int64](l.Exports), Bearers: !l.DisallowBearer,
	}
	if l.LeafNodeConn != 0 {
		out.Leafnodes = limit[int64](l.LeafNodeConn)
	}
	if !l.WildcardExports {
		no := false
		out.WildcardExports = &no
	}
	return out
}

// limit is nil where there is none.
func limit[T ~int64](v int64) *T {
	if v == jwt.NoLimit {
		return nil
	}
	out := T(v)
	return &out
}

func streamsOf(l jwt.OperatorLimits) *manifest.JetStream {
	if !l.IsJSEnabled() {
		return nil
	}
	if len(l.JetStreamTieredLimits) == 0 {
		return &manifest.JetStream{StoreLimits: storeOf(l.JetStreamLimits)}
	}
	out := &manifest.JetStream{Tiers: map[string]manifest.StoreLimits{}}
	for tier, t := range l.JetStreamTieredLimits {
		out.Tiers[tier] = storeOf(t)
	}
	return out
}

func storeOf(l jwt.JetStreamLimits) manifest.StoreLimits {
	return manifest.StoreLimits{
		Memory: limit[manifest.Size](l.MemoryStorage), Disk: limit[manifest.Size](l.DiskStorage),
		Streams: limit[int64](l.Streams), Consumers: limit[int64](l.Consumer), AckPending: limit[int64](l.MaxAckPending),
		MemoryStream: limit[manifest.Size](l.MemoryMaxStreamBytes), DiskStream: limit[manifest.Size](l.DiskMaxStreamBytes),
		BytesRequired: l.MaxBytesRequired,
	}
}

func (a *account) role(s *jwt.UserScope) manifest.Role {
	t := s.Template
	out := manifest.Role{
		Name: a.roles[s.Key], Description: s.Description,
		Publish: permissionOf(t.Pub), Subscribe: permissionOf(t.Sub),
		Subscriptions: limit[int64](t.Subs), Payload: limit[manifest.Size](t.Payload), Data: limit[manifest.Size](t.Data),
		ConnectionTypes: slices.Clone(t.AllowedConnectionTypes), Networks: slices.Clone(t.Src), TimeZone: t.Locale, Bearer: t.BearerToken,
	}
	if r := t.Resp; r != nil {
		out.AllowResponses = &manifest.Responses{Max: int64(r.MaxMsgs), Expires: manifest.Duration(r.Expires)}
	}
	for _, h := range t.Times {
		out.Hours = append(out.Hours, manifest.Hours{Start: h.Start, End: h.End})
	}
	// It may write today; that it is meant to, its operator can take back.
	out.Writes = a.c.Limits.IsJSEnabled() && (len(out.Publish.Allow) > 0 || out.AllowResponses != nil)
	return out
}

// permissionOf is a normal permission. What nothing is allowed of, denies everything; the
// description says that by naming nothing.
func permissionOf(p jwt.Permission) manifest.Permission {
	if len(p.Allow) == 0 {
		return manifest.Permission{}
	}
	return manifest.Permission{Allow: slices.Clone(p.Allow), Deny: slices.Clone(p.Deny)}
}

func (a *account) export(e *jwt.Export) manifest.Export {
	out := manifest.Export{
		Subject: string(e.Subject), Type: e.Type.String(), Threshold: manifest.Duration(e.ResponseThreshold),
		Only: a.only[e], AccountTokenPosition: int64(min(e.AccountTokenPosition, 1<<20)), // #nosec G115 -- bounded
		Advertise: e.Advertise, AllowTrace: e.AllowTrace, Description: e.Description, InfoURL: e.InfoURL,
	}
	if e.Name != string(e.Subject) {
		out.Name = e.Name
	}
	switch e.ResponseType {
	case jwt.ResponseTypeStream:
		out.Response = "stream"
	case jwt.ResponseTypeChunked:
		out.Response = "chunked"
	}
	if l := e.Latency; l != nil {
		n := int64(l.Sampling)
		out.Latency = &manifest.Trace{Subject: string(l.Results), Sampling: &n}
	}
	return out
}

func (a *account) imp(i *jwt.Import) manifest.Import {
	from := a.m.byKey[i.Account].name
	out := manifest.Import{
		From: from, Subject: string(i.Subject), To: string(i.LocalSubject), Type: i.Type.String(), Share: i.Share, AllowTrace: i.AllowTrace,
	}
	if i.Name != from.String()+" "+string(i.Subject) {
		out.Name = i.Name
	}
	return out
}

func (a *account) callout() *manifest.Callout {
	in := a.c.Authorization
	out := &manifest.Callout{XKey: in.XKey}
	for _, u := range in.AuthUsers {
		key, err := ident.ParseUserKey(u)
		if err != nil {
			a.m.refuse(a.src, "its callout has a user "+line(u)+" that is none", "change that with nsc, or leave the account out")
			a.gone = true
			continue
		}
		out.Users = append(out.Users, key)
	}
	for _, k := range in.AllowedAccounts {
		of := a.m.byKey[k]
		switch {
		case k == jwt.AnyAccount:
			a.m.refuse(a.src, "its callout may put users into every account (*), and here it names them", "name the accounts with nsc (edit authcallout --allowed-account), or leave the account out")
			a.gone = true
		case of == nil:
			a.m.refuse(a.src, "its callout may put users into the account "+k+", which does not go along", "change that with nsc, or leave the account out")
			a.gone = true
		default:
			out.Accounts = append(out.Accounts, of.name)
		}
	}
	return out
}

// added is what the description says of an account that Herald itself has: what is more
// than that.
func (a *account) added(full manifest.Account) manifest.Account {
	out := full
	switch a.name.String() {
	case manifest.ChatIn:
	case manifest.System:
		// Its limits are those of Herald's, and so is what it is called.
		out.Limits, out.Description, out.InfoURL, out.Tags = manifest.Limits{}, "", "", nil
	default:
		return manifest.Account{Name: a.name}
	}
	own := builtin(a.m.o.Into, a.name)
	if out.Description == own.Description {
		out.Description = ""
	}
	out.Roles = slices.DeleteFunc(out.Roles, func(r manifest.Role) bool {
		_, ok := own.Role(r.Name)
		return ok
	})
	out.Exports = slices.DeleteFunc(out.Exports, func(e manifest.Export) bool {
		return slices.ContainsFunc(own.Exports, func(o manifest.Export) bool { return o.Subject == e.Subject && o.Type == e.Type })
	})
	out.Imports = slices.DeleteFunc(out.Imports, func(i manifest.Import) bool {
		return slices.ContainsFunc(own.Imports, func(o manifest.Import) bool {
			return o.From == i.From && o.Subject == i.Subject && o.Type == i.Type && (o.To == i.To || o.To == "" && i.To == i.Subject)
		})
	})
	return out
}

// empty tells whether an entry of the file says nothing but a name.
func empty(a manifest.Account) bool {
	return a.Description == "" && a.InfoURL == "" && len(a.Tags) == 0 && a.Limits == (manifest.Limits{}) && a.JetStream == nil &&
		len(a.Exports) == 0 && len(a.Imports) == 0 && len(a.Mappings) == 0 && len(a.Roles) == 0 && a.Trace == nil && a.ClusterTraffic == "" && a.Callout == nil
}

func sortedKeys[K ~string, V any](m map[K]V) []K {
	keys := make([]K, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
