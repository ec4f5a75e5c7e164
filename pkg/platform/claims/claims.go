// Package claims makes what NATS enforces of what an operator describes: a manifest's
// accounts become account claims, its grants the policy, and the rest the public part of
// the platform document. It is pure: keys come in by their public half, nothing is signed
// here, and equal descriptions give equal claims.
package claims

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/jwt/v2"

	"github.com/herald-nats/herald/pkg/authn/oidc"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/ledger"
	"github.com/herald-nats/herald/pkg/platform/manifest"
	"github.com/herald-nats/herald/pkg/policy"
	"github.com/herald-nats/herald/pkg/trust"
)

// Keys are the public keys of a platform.
type Keys struct {
	// Accounts are by name.
	Accounts map[ident.Label]ident.AccountKey
	// Roles are by account and role. Their keys are account nkeys.
	Roles map[manifest.RoleRef]ident.AccountKey
	// Turning are roles whose keys are being replaced, with both; Roles has the one in use.
	Turning map[manifest.RoleRef]trust.Role
	// Regions are the region keys.
	Regions map[ident.Region]ident.SealKey
	// Resealing are regions whose keys are being replaced, with both; Regions has the one that is
	// sealed to.
	Resealing map[ident.Region]trust.Region
	// Callout is what servers seal requests of auth callout to; zero where that is off.
	Callout ident.SealKey
}

// Follow takes from a platform document which keys its roles and regions have now: registrars
// replace them step by step.
func (k *Keys) Follow(p *trust.Platform) {
	k.Turning = map[manifest.RoleRef]trust.Role{}
	for _, a := range p.Accounts {
		if k.Accounts[a.Name] != a.Key {
			continue
		}
		for _, r := range a.Roles {
			ref := manifest.RoleRef{Account: a.Name, Role: r.Name}
			if _, ok := k.Roles[ref]; !ok {
				continue
			}
			k.Roles[ref] = r.Key
			if len(r.Keys()) > 1 {
				k.Turning[ref] = r
			}
		}
	}
	k.Resealing = map[ident.Region]trust.Region{}
	for _, r := range p.Regions {
		k.Regions[r.Name] = r.SealKey
		if len(r.SealKeys()) > 1 {
			k.Resealing[r.Name] = r
		}
	}
}

// all are the keys of a role, the one in use first.
func (k Keys) all(ref manifest.RoleRef) []ident.AccountKey {
	if r, ok := k.Turning[ref]; ok {
		return r.Keys()
	}
	if key, ok := k.Roles[ref]; ok {
		return []ident.AccountKey{key}
	}
	return nil
}

// ErrNoKey is wrapped where a key is missing.
var ErrNoKey = errors.New("no key")

// Compiler makes claims of a manifest.
type Compiler struct {
	file *manifest.File
	all  []manifest.Account
	keys Keys
}

// New prepares to make the claims of a file that was checked.
func New(f *manifest.File, keys Keys) *Compiler {
	return &Compiler{file: f, all: f.AllAccounts(), keys: keys}
}

// Accounts are all accounts, Herald's own first.
func (c *Compiler) Accounts() []manifest.Account { return c.all }

// Account gives the base claims of an account: all but who signs, when, and revocations.
// version is the version of the base claims, which becomes a tag.
func (c *Compiler) Account(a manifest.Account, version uint64) (*jwt.AccountClaims, error) {
	key, ok := c.keys.Accounts[a.Name]
	if !ok {
		return nil, fmt.Errorf("account %s: %w", a.Name, ErrNoKey)
	}
	out := jwt.NewAccountClaims(key.String())
	out.Name = a.Name.String()
	out.Description, out.InfoURL = a.Description, a.InfoURL
	out.Tags.Add(trust.TagBase + strconv.FormatUint(version, 10))
	out.Tags.Add(a.Tags...)
	out.Limits = limits(a)
	for _, r := range a.Roles {
		scopes, err := c.scopes(a, r)
		if err != nil {
			return nil, err
		}
		for _, s := range scopes {
			out.SigningKeys.AddScopedSigner(s)
		}
	}
	for _, e := range a.Exports {
		out.Exports.Add(export(e))
	}
	for _, i := range a.Imports {
		imp, err := c.imported(key, i)
		if err != nil {
			return nil, fmt.Errorf("account %s: %w", a.Name, err)
		}
		out.Imports.Add(imp)
	}
	for _, m := range a.Mappings {
		to := make([]jwt.WeightedMapping, 0, len(m.To))
		for _, t := range m.To {
			to = append(to, jwt.WeightedMapping{Subject: jwt.Subject(t.Subject), Weight: uint8(t.Weight), Cluster: t.Cluster}) // #nosec G115 -- checked: at most 100
		}
		out.AddMapping(jwt.Subject(m.Subject), to...)
	}
	if t := a.Trace; t != nil {
		out.Trace = &jwt.MsgTrace{Destination: jwt.Subject(t.Subject), Sampling: int(sampling(t))}
	}
	out.ClusterTraffic = jwt.ClusterTraffic(a.ClusterTraffic)
	if a.Callout != nil {
		if err := c.callout(&out.Authorization, a.Callout); err != nil {
			return nil, fmt.Errorf("account %s: %w", a.Name, err)
		}
		if a.Own() {
			// Passwords are in the requests: without a key they would go in the clear.
			if c.keys.Callout.IsZero() {
				return nil, fmt.Errorf("auth callout: %w", ErrNoKey)
			}
			out.Authorization.XKey = c.keys.Callout.String()
		}
	}
	var vr jwt.ValidationResults
	out.Validate(&vr)
	if errs := vr.Errors(); len(errs) > 0 {
		return nil, fmt.Errorf("account %s: %w", a.Name, errors.Join(errs...))
	}
	return out, nil
}

// Closed gives the base claims of an account that is no more. An account is not deleted:
// a server that missed it would bring the account back. A closed one has no roles and
// takes no connections, and like any other change it reaches the servers that were away.
func Closed(name ident.Label, key ident.AccountKey, version uint64) *jwt.AccountClaims {
	out := jwt.NewAccountClaims(key.String())
	out.Name = name.String()
	out.Tags.Add(trust.TagBase+strconv.FormatUint(version, 10), TagClosed)
	out.Limits = jwt.OperatorLimits{} // none of anything
	out.Limits.DisallowBearer = true
	return out
}

// TagClosed is the tag of an account that is no more.
const TagClosed = "closed"

// IsClosed tells whether claims are those of an account that is no more.
func IsClosed(c *jwt.AccountClaims) bool { return slices.Contains(c.Tags, TagClosed) }

func limits(a manifest.Account) jwt.OperatorLimits {
	l := a.Limits
	out := jwt.OperatorLimits{
		NatsLimits: jwt.NatsLimits{Subs: or(l.Subscriptions, jwt.NoLimit), Data: or(l.Data, jwt.NoLimit), Payload: or(l.Payload, jwt.NoLimit)},
		AccountLimits: jwt.AccountLimits{
			Imports: or(l.Imports, jwt.NoLimit), Exports: or(l.Exports, jwt.NoLimit), WildcardExports: l.WildcardExports == nil || *l.WildcardExports,
			DisallowBearer: !l.Bearers, Conn: or(l.Connections, jwt.NoLimit), LeafNodeConn: or(l.Leafnodes, 0),
		},
	}
	js := a.JetStream
	switch {
	case js == nil:
	case len(js.Tiers) > 0:
		out.JetStreamTieredLimits = jwt.JetStreamTieredLimits{}
		for name, s := range js.Tiers {
			out.JetStreamTieredLimits[name] = store(s)
		}
	default:
		out.JetStreamLimits = store(js.StoreLimits)
	}
	return out
}

func store(s manifest.StoreLimits) jwt.JetStreamLimits {
	return jwt.JetStreamLimits{
		MemoryStorage: or(s.Memory, jwt.NoLimit), DiskStorage: or(s.Disk, jwt.NoLimit),
		Streams: or(s.Streams, jwt.NoLimit), Consumer: or(s.Consumers, jwt.NoLimit),
		MaxAckPending: or(s.AckPending, jwt.NoLimit), MemoryMaxStreamBytes: or(s.MemoryStream, jwt.NoLimit),
		DiskMaxStreamBytes: or(s.DiskStream, jwt.NoLimit), MaxBytesRequired: s.BytesRequired,
	}
}

// or is what v points to, or what holds where it was left out.
func or[T ~int64](v *T, otherwise int64) int64 {
	if v == nil {
		return otherwise
	}
	return int64(*v)
}

// scopes are a role as its scoped signing key, or keys while one is replaced.
func (c *Compiler) scopes(a manifest.Account, r manifest.Role) ([]*jwt.UserScope, error) {
	ref := manifest.RoleRef{Account: a.Name, Role: r.Name}
	keys := c.keys.all(ref)
	if len(keys) == 0 {
		return nil, fmt.Errorf("role %s: %w", ref, ErrNoKey)
	}
	all := make([]*jwt.UserScope, len(keys))
	for i, key := range keys {
		s := jwt.NewUserScope()
		s.Key, s.Role, s.Description, s.Template = key.String(), r.Name.String(), r.Description, Template(r)
		all[i] = s
	}
	return all, nil
}

// Template is what users under a role may do.
func Template(r manifest.Role) jwt.UserPermissionLimits {
	var t jwt.UserPermissionLimits
	subs, payload := int64(jwt.NoLimit), int64(jwt.NoLimit)
	if r.Public {
		subs, payload = manifest.PublicSubs, manifest.PublicPayload
	}
	t.NatsLimits = jwt.NatsLimits{Subs: or(r.Subscriptions, subs), Data: or(r.Data, jwt.NoLimit), Payload: or(r.Payload, payload)}
	t.Pub, t.Sub = permission(r.Publish), permission(r.Subscribe)
	if resp := r.AllowResponses; resp != nil {
		t.Resp = &jwt.ResponsePermission{MaxMsgs: int(cmp.Or(resp.Max, 1)), Expires: cmp.Or(time.Duration(resp.Expires), 2*time.Minute)}
	}
	types := r.ConnectionTypes
	if len(types) == 0 {
		types = []string{jwt.ConnectionTypeStandard}
	}
	t.AllowedConnectionTypes.Add(types...)
	t.Src.Add(r.Networks...)
	for _, h := range r.Hours {
		t.Times = append(t.Times, jwt.TimeRange{Start: clock(h.Start), End: clock(h.End)})
	}
	t.Locale, t.BearerToken = r.TimeZone, r.Bearer
	return t
}

// permission gives what is on the list and nothing else: for a server an empty list
// allows everything.
func permission(p manifest.Permission) jwt.Permission {
	var out jwt.Permission
	out.Allow.Add(p.Allow...)
	out.Deny.Add(p.Deny...)
	if len(p.Allow) == 0 {
		out.Deny = jwt.StringList{">"}
	}
	return out
}

// clock is a time of day as servers read it.
func clock(s string) string {
	if len(s) == len("08:00") {
		return s + ":00"
	}
	return s
}

// export is what other accounts may import. That only some may needs no activation tokens:
// imports are in accounts' claims, which the operator alone signs, and a manifest whose
// imports an export does not allow is refused.
func export(e manifest.Export) *jwt.Export {
	out := &jwt.Export{
		Name: e.Name, Subject: jwt.Subject(e.Subject), Type: kind(e.Type), Advertise: e.Advertise, AllowTrace: e.AllowTrace,
		AccountTokenPosition: uint(max(e.AccountTokenPosition, 0)), ResponseThreshold: time.Duration(e.Threshold), // #nosec G115 -- not negative
		Info: jwt.Info{Description: e.Description, InfoURL: e.InfoURL},
	}
	if out.Name == "" {
		out.Name = e.Subject
	}
	if out.Type == jwt.Service {
		out.ResponseType = map[string]jwt.ResponseType{
			"": jwt.ResponseTypeSingleton, "single": jwt.ResponseTypeSingleton, "stream": jwt.ResponseTypeStream, "chunked": jwt.ResponseTypeChunked,
		}[e.Response]
	}
	if l := e.Latency; l != nil {
		out.Latency = &jwt.ServiceLatency{Results: jwt.Subject(l.Subject), Sampling: jwt.SamplingRate(sampling(l))}
	}
	return out
}

func sampling(t *manifest.Trace) int64 { return or(t.Sampling, 100) }

func kind(s string) jwt.ExportType {
	if s == "service" {
		return jwt.Service
	}
	return jwt.Stream
}

// imported is an import of the account with a key. Files have names where an export wants
// the key of who imports it (account_token_position): {{account-subject()}} stands for it.
func (c *Compiler) imported(self ident.AccountKey, i manifest.Import) (*jwt.Import, error) {
	from, ok := c.keys.Accounts[i.From]
	if !ok {
		return nil, fmt.Errorf("import from %s: %w", i.From, ErrNoKey)
	}
	out := &jwt.Import{
		Name: i.Name, Subject: jwt.Subject(named(i.Subject, self)), Account: from.String(), Type: kind(i.Type),
		LocalSubject: jwt.RenamingSubject(named(i.To, self)), Share: i.Share, AllowTrace: i.AllowTrace,
	}
	if out.Name == "" {
		out.Name = i.From.String() + " " + i.Subject
	}
	return out, nil
}

func named(subject string, self ident.AccountKey) string {
	return strings.ReplaceAll(subject, "{{account-subject()}}", self.String())
}

func (c *Compiler) callout(out *jwt.ExternalAuthorization, in *manifest.Callout) error {
	for _, u := range in.Users {
		out.AuthUsers.Add(u.String())
	}
	for _, name := range in.Accounts {
		key, ok := c.keys.Accounts[name]
		if !ok {
			return fmt.Errorf("callout for %s: %w", name, ErrNoKey)
		}
		out.AllowedAccounts.Add(key.String())
	}
	out.XKey = in.XKey
	return nil
}

// Public gives the public part of the platform document, without its version and the
// operator's word for it. Of the accounts it has Herald's own and those of which
// something is granted: what clients and issuers need to verify credentials.
func (c *Compiler) Public(operator string) (*trust.Platform, error) {
	f := c.file
	p := &trust.Platform{Name: f.Name.String(), Operator: operator, Home: f.Home, TutorialDoor: f.TutorialDoor.On()}
	for _, r := range f.Regions {
		seal, ok := c.keys.Regions[r.Name]
		if !ok {
			return nil, fmt.Errorf("region %s: %w", r.Name, ErrNoKey)
		}
		p.Regions = append(p.Regions, trust.Region{
			Name: r.Name, URLs: f.ClientURLs(r), SealKey: seal, Next: c.keys.Resealing[r.Name].Next, Former: c.keys.Resealing[r.Name].Former,
		})
	}
	granted := map[ident.Label]bool{}
	open := map[manifest.RoleRef]*trust.Lifetimes{}
	for _, g := range f.Grants {
		granted[g.Account] = true
		ref := manifest.RoleRef{Account: g.Account, Role: g.Role}
		if g.To == ident.KindOpen && open[ref] == nil {
			o := c.offer(g)
			open[ref] = &trust.Lifetimes{Default: int64(o.Default.Duration() / time.Second), Longest: int64(o.Longest.Duration() / time.Second)}
		}
	}
	for _, a := range c.all {
		if !a.Own() && !granted[a.Name] {
			continue
		}
		acc := trust.Account{Name: a.Name, Key: c.keys.Accounts[a.Name]}
		if acc.Key.IsZero() {
			return nil, fmt.Errorf("account %s: %w", a.Name, ErrNoKey)
		}
		for _, r := range a.Roles {
			ref := manifest.RoleRef{Account: a.Name, Role: r.Name}
			key, ok := c.keys.Roles[ref]
			if !ok {
				return nil, fmt.Errorf("role %s: %w", ref, ErrNoKey)
			}
			turning := c.keys.Turning[ref]
			acc.Roles = append(acc.Roles, trust.Role{Name: r.Name, Key: key, Next: turning.Next, Former: turning.Former, Open: open[ref]})
		}
		p.Accounts = append(p.Accounts, acc)
		if a.Own() && a.Name.String() == manifest.ChatIn {
			p.Chat = trust.Chat{Account: a.Name}
		}
	}
	for _, r := range f.Chat.Rooms {
		p.Chat.Rooms = append(p.Chat.Rooms, trust.Room{Name: r.Name, Channels: r.Channels})
	}
	return p, nil
}

// Policy gives who may have what, in the file's order.
func (c *Compiler) Policy() (policy.Policy, error) {
	named := map[string]ident.Identity{}
	for _, i := range c.file.Identities {
		named[i.Name.String()] = i.Identity
	}
	cr := c.file.Credentials
	p := policy.Policy{Session: policy.Seconds(cr.Session), PerHost: rate(cr.PerHost), PerIdentity: rate(cr.PerIdentity)}
	for _, i := range c.file.Identities {
		// Those that are in no category are named by offers themselves.
		if strings.Contains(i.Name.String(), ".") {
			p.Identities = append(p.Identities, policy.Named{Name: i.Name, Identity: i.Identity})
		}
	}
	for _, g := range c.file.Grants {
		o := c.offer(g)
		switch id, ok := named[g.To]; {
		case ok:
			o.Identity = &id
		case slices.Contains(manifest.Kinds(), g.To):
			o.Kind = g.To
		case g.To == manifest.Everyone:
			o.Everyone = true
		case strings.HasSuffix(g.To, "."+manifest.Everyone):
			o.Category = strings.TrimSuffix(g.To, "."+manifest.Everyone)
		default:
			id, err := ident.ParseIdentity(g.To)
			if err != nil {
				return policy.Policy{}, fmt.Errorf("a grant of %s/%s: %w", g.Account, g.Role, err)
			}
			o.Identity = &id
		}
		p.Offers = append(p.Offers, o)
	}
	return p, nil
}

func rate(r *manifest.Rate) *policy.Rate {
	if r == nil {
		return nil
	}
	return &policy.Rate{Burst: int(r.Burst), PerMinute: int(r.PerMinute)}
}

// offer is the offer of a grant, but for whom it is for.
func (c *Compiler) offer(g manifest.Grant) policy.Offer {
	var r manifest.Role
	if i := slices.IndexFunc(c.all, func(a manifest.Account) bool { return a.Name == g.Account }); i >= 0 {
		r, _ = c.all[i].Role(g.Role)
	}
	def, longest := c.file.Lifetimes(r)
	def, longest = cmp.Or(g.Lifetime, def), cmp.Or(g.Longest, longest)
	o := policy.Offer{
		Account: g.Account, Role: g.Role, Tags: g.Tags, Name: g.Name, Provider: g.Provider, Groups: g.Groups,
		Default: policy.Seconds(min(def, longest)), Longest: policy.Seconds(longest), Callout: r.Callout,
	}
	for _, cl := range g.Claims {
		o.Claims = append(o.Claims, policy.Claim{Name: cl.Claim, Values: cl.Values})
	}
	return o
}

// Providers are those whose tokens show who asks.
func (c *Compiler) Providers() []oidc.Provider { return c.file.OIDC() }

// AuditRequired tells whether what grants something is recorded first, or not granted.
func (c *Compiler) AuditRequired() bool { return c.file.Credentials.Audit == manifest.AuditRequired }

// Servers are those of each region.
func (c *Compiler) Servers() []ledger.Servers {
	var out []ledger.Servers
	for _, r := range c.file.Regions {
		s := ledger.Servers{Region: r.Name}
		for _, n := range r.Nodes {
			s.Names = append(s.Names, n.Name)
		}
		if len(s.Names) > 0 {
			out = append(out, s)
		}
	}
	return out
}

// Names are the rules for names.
func (c *Compiler) Names() ledger.NameRules {
	r := ledger.DefaultNameRules()
	if n := c.file.Credentials.Names; n != nil {
		r.Most = int(*n)
	}
	return r
}
