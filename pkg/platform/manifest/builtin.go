package manifest

import (
	"crypto/sha256"
	"slices"
	"time"

	"github.com/nats-io/nkeys"

	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/subject"
)

// Names of Herald's own accounts.
const (
	System  = "SYS"
	Ledger  = "LEDGER"
	Readers = "READERS"
	Auth    = "AUTH"
	Guest   = "GUEST"
	Admin   = "ADMIN"
	Door    = "DOOR"
	ChatIn  = "CHAT"
)

// Names of their roles.
const (
	RoleRegistrar = "registrar"
	RoleHome      = "home"
	RoleReader    = "reader"
	RoleSetup     = "setup"
	RoleMover     = "mover"
	RoleIssuer    = "issuer"
	RoleGuest     = "guest"
	RoleAdmin     = "admin"
	RoleMember    = "member"
	RoleSentinel  = "sentinel"
)

// Bounds of public roles that say nothing else.
const (
	PublicPayload = 20 << 10 // bytes: the largest request, its headers and what sealing adds
	PublicSubs    = 32
)

// Pages are the monitoring pages that the set-up tool reads of all servers at once.
func Pages() []string {
	return []string{"VARZ", "CONNZ", "ROUTEZ", "GATEWAYZ", "JSZ", "ACCOUNTZ", "HEALTHZ", "STATSZ"}
}

// AllAccounts are the accounts of the platform: Herald's own, with what the file adds to
// them, and then the file's. What they may do is the table of docs/architecture.md.
//
// Roles that are granted have the rights that every credential needs: to ask for
// information and renewal, and an inbox of their own. Herald's own services are told who
// asks, and weights of mappings that were left out are what the others leave. Imports may
// still have {{account-subject()}} in their subjects.
func (f *File) AllAccounts() []Account {
	all, _ := f.merged()
	return all
}

// merged is AllAccounts, and for each account of the file where it is among them.
func (f *File) merged() (all []Account, at []int) {
	all = f.builtin()
	own := make(map[ident.Label]int, len(all))
	for i, a := range all {
		own[a.Name] = i
	}
	all = slices.Grow(all, len(f.Accounts))
	at = make([]int, len(f.Accounts))
	for i := range f.Accounts {
		a := f.Accounts[i]
		a.Imports, a.Mappings = shared(a.Imports, own), weighted(a.Mappings)
		if j, ok := own[a.Name]; ok {
			all[j], at[i] = merge(all[j], a), j
			continue
		}
		all, at[i] = append(all, a), len(all)
	}
	granted := make(map[RoleRef]bool, len(f.Grants))
	for _, g := range f.Grants {
		granted[RoleRef{g.Account, g.Role}] = true
	}
	for i := range all {
		grantable(&all[i], granted)
	}
	return all, at
}

// shared tells Herald's own services who asks, whatever the file says: without it they
// answer nobody.
func shared(list []Import, own map[ident.Label]int) []Import {
	out, copied := list, false
	for i, imp := range list {
		if _, ok := own[imp.From]; !ok || imp.Type != service || imp.Share {
			continue
		}
		if !copied {
			out, copied = slices.Clone(list), true
		}
		out[i].Share = true
	}
	return out
}

// weighted fills in the weights that were left out: what the others in the same cluster
// leave of a hundred.
func weighted(list []Mapping) []Mapping {
	out := list
	for i, m := range list {
		if !slices.ContainsFunc(m.To, func(t MappedTo) bool { return t.Weight == 0 }) {
			continue
		}
		given := map[string]int64{}
		for _, t := range m.To {
			given[t.Cluster] += t.Weight
		}
		to := slices.Clone(m.To)
		for k, t := range to {
			if t.Weight == 0 {
				to[k].Weight = 100 - given[t.Cluster]
			}
		}
		if &out[0] == &list[0] {
			out = slices.Clone(list)
		}
		out[i].To = to
	}
	return out
}

// merge adds what the file says of one of Herald's accounts to it.
func merge(own, more Account) Account {
	own.Exports = slices.Concat(own.Exports, more.Exports)
	own.Imports = slices.Concat(own.Imports, more.Imports)
	own.Mappings = slices.Concat(own.Mappings, more.Mappings)
	own.Roles = slices.Concat(own.Roles, more.Roles)
	own.Tags = slices.Concat(own.Tags, more.Tags)
	own.Limits = more.Limits
	if more.Description != "" {
		own.Description = more.Description
	}
	if more.InfoURL != "" {
		own.InfoURL = more.InfoURL
	}
	if more.Trace != nil {
		own.Trace = more.Trace
	}
	return own
}

// grantable gives the granted roles of an account what every credential needs.
func grantable(a *Account, granted map[RoleRef]bool) {
	any, asks := false, false
	roles := a.Roles
	for i := range roles {
		if !granted[RoleRef{a.Name, roles[i].Name}] {
			continue
		}
		if !any { // what the file has stays as it is
			any, roles = true, slices.Clone(roles)
		}
		r := &roles[i]
		if r.Callout {
			// There is nothing to renew: who comes by callout has no credential to show, and
			// comes again.
			r.Subscribe.Allow = add(r.Subscribe.Allow, subject.CalloutInbox)
			continue
		}
		asks = true
		r.Publish.Allow = add(r.Publish.Allow, subject.Info, subject.Renew)
		r.Subscribe.Allow = add(r.Subscribe.Allow, subject.UserInbox)
	}
	a.Roles = roles
	if !asks {
		return
	}
	for _, s := range []string{subject.Info, subject.Renew} {
		if !slices.ContainsFunc(a.Imports, func(i Import) bool {
			return i.From.String() == Auth && i.Subject == s && i.local() == s && i.Type == service
		}) {
			a.Imports = append(slices.Clone(a.Imports), imports(Auth, service, s)...)
		}
	}
}

// add appends what is not there, to a list of its own.
func add(to []string, more ...string) []string {
	out := slices.Clone(to)
	for _, s := range more {
		if !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	return out
}

// Own tells whether the account is one that Herald brings.
func (a Account) Own() bool { return a.own }

// HasServices tells whether Herald's services are in the account: nobody public may be.
func (a Account) HasServices() bool { return a.services }

// Role finds a role by name.
func (a Account) Role(name ident.Label) (Role, bool) {
	i := slices.IndexFunc(a.Roles, func(r Role) bool { return r.Name == name })
	if i < 0 {
		return Role{}, false
	}
	return a.Roles[i], true
}

// Region finds a region by name.
func (f *File) Region(name ident.Region) (Region, bool) {
	i := slices.IndexFunc(f.Regions, func(r Region) bool { return r.Name == name })
	if i < 0 {
		return Region{}, false
	}
	return f.Regions[i], true
}

// Kinds of exports and imports.
const (
	stream  = "stream"
	service = "service"
)

// builtin are Herald's own accounts. Of an account everything is said in one place: who
// may do what, what it offers, what it takes.
func (f *File) builtin() []Account {
	// The streams of a region: what holds, and with the records everything.
	whatHolds := []func(ident.Region) string{subject.MirrorStream, subject.DenialsStream}
	everything := append(slices.Clone(whatHolds), subject.RecordsStream)
	all := []Account{
		{
			Name: label(System), own: true, services: true,
			Description: "system account of the servers",
			Roles: []Role{
				internal(RoleRegistrar, "brings accounts to servers",
					[]string{
						subject.ClaimsUpdate, subject.ClaimsLookupAny, subject.ServerPing,
						subject.ServerAccountz, subject.ServerKick,
					},
					// It hears what others push, as servers do: nobody else tells of it.
					[]string{subject.ServerStats, subject.ClaimsUpdate, subject.ServiceInbox}),
				internal(RoleSetup, "the set-up tool's: brings accounts to servers, and looks at them",
					append([]string{subject.ClaimsUpdate, subject.ClaimsLookupAny, subject.ServerPing}, pings()...),
					[]string{subject.ServerStats, subject.ServiceInbox}),
			},
		},
		{
			Name: label(Ledger), own: true, services: true, JetStream: &JetStream{},
			Description: "all that the platform stores",
			Roles: []Role{
				// Of every region. Beside streams a right to ask is a right to
				// write: the empty 404 of a direct get, with a reply of
				// $JS.API.STREAM.DELETE.<stream>, deletes one. So registrars ask
				// nothing here (they read in READERS), and nothing that they
				// publish is answered: the streams of denials have NoAck.
				internal(RoleRegistrar, "writes denials, and answers administrators",
					[]string{subject.ImportedReplies, subject.OwnDenials, subject.LiveAll, subject.PeersAll},
					[]string{subject.AdminAll, subject.OwnPeers, subject.EveryPeer, subject.ServiceInfo, subject.ServiceInbox}),
				// Of home's registrars, who decide. What it asks is answered with
				// acknowledgements and entries: never with nothing, which deletes.
				internal(RoleHome, "decides",
					[]string{subject.ImportedReplies, subject.Decisions, subject.DecisionsRead},
					[]string{subject.HomeAll, subject.ServiceInbox}),
				internal(RoleSetup, "the set-up tool's: makes the streams, and writes and records what the operator decided",
					[]string{
						subject.StreamCreate, subject.StreamUpdate, subject.StreamInfo,
						subject.Decisions, subject.DecisionsRead, subject.Audit,
					},
					[]string{subject.ServiceInbox}),
				// Nothing that runs may delete a stream, and not the set-up tool at each of its
				// runs, either.
				internal(RoleMover, "the set-up tool's when home moves: has another region's servers keep home's bucket",
					append([]string{
						subject.StreamCreate, subject.StreamUpdate, subject.StreamInfo,
						subject.StreamDelete(subject.DecisionsStream), subject.StreamDelete(subject.MovingStream),
					}, f.mirrorDeletes()...),
					[]string{subject.ServiceInbox}),
			},
			Exports: append(
				[]Export{
					{Name: "claims of names", Subject: subject.HomeClaim, Type: service},
					{Name: "redemption of invites", Subject: subject.HomeRedeem, Type: service},
					{Name: "records of services", Subject: subject.AuditExport, Type: service},
					{Name: "administration", Subject: subject.AdminAll, Type: service},
					{Name: "discovery of registrars", Subject: subject.ServiceInfo, Type: service, Response: stream},
					{Name: "news of the ledger", Subject: subject.LedgerNewsExport, Type: stream},
					{Name: "news of records", Subject: subject.RecordNewsAll, Type: stream},
				},
				f.gets(everything...)...,
			),
		},
		{
			// Registrars read here, by import like issuers, because in an account with
			// streams they must not ask; and not in AUTH, because records are none of
			// issuers' business. What arrives here is believed for its signature. Registrars
			// record from here what they state, for the same reason: an acknowledgement could
			// be aimed anywhere in LEDGER.
			Name: label(Readers), own: true, services: true,
			Description: "where registrars read the ledger",
			Roles: []Role{
				internal(RoleReader, "reads the ledger, and records", append([]string{subject.Audit}, f.getSubjects(everything...)...),
					[]string{subject.LedgerNews, subject.RecordNewsAll, subject.ServiceInbox}),
			},
			Imports: slices.Concat(
				imports(Ledger, service, subject.AuditExport),
				imports(Ledger, service, f.getSubjects(everything...)...),
				imports(Ledger, stream, subject.LedgerNewsExport, subject.RecordNewsAll),
			),
		},
		{
			Name: label(Auth), own: true, services: true,
			Description: "the issuing service",
			Roles: []Role{
				internal(RoleIssuer, "answers requests for credentials",
					append(
						[]string{subject.ImportedReplies, subject.Audit, subject.HomeClaim, subject.HomeRedeem},
						f.getSubjects(whatHolds...)...,
					),
					append(
						[]string{
							subject.Info, subject.Issue, subject.Renew, subject.Callout,
							subject.ServiceInfo, subject.LedgerNews, subject.ServiceInbox,
						},
						f.tutorial()...,
					)),
			},
			Exports: append(
				[]Export{
					{Name: "platform information", Subject: subject.Info, Type: service},
					{Name: "issue of credentials", Subject: subject.Issue, Type: service},
					{Name: "renewal of credentials", Subject: subject.Renew, Type: service},
					{Name: "discovery of issuers", Subject: subject.ServiceInfo, Type: service, Response: stream},
				},
				f.tutorialExports()...,
			),
			Imports: slices.Concat(
				imports(Ledger, service, subject.HomeClaim, subject.HomeRedeem, subject.AuditExport),
				imports(Ledger, service, f.getSubjects(whatHolds...)...),
				imports(Ledger, stream, subject.LedgerNewsExport),
			),
		},
		{
			Name: label(Guest), own: true,
			Description: "where anyone may ask for a credential",
			Roles: []Role{public(RoleGuest, "asks for a credential",
				append([]string{subject.Info, subject.Issue}, f.tutorial()...), []string{subject.UserInbox})},
			Imports: imports(Auth, service, append([]string{subject.Info, subject.Issue}, f.tutorial()...)...),
		},
		{
			Name: label(Admin), own: true,
			Description: "where administrators look at services, and deny and resume people and programs",
			Roles:       []Role{administrator()},
			Imports: append(slices.Concat(imports(Auth, service, subject.ServiceInfo), imports(Ledger, service, subject.AdminAll)),
				Import{From: label(Ledger), Subject: subject.ServiceInfo, To: subject.RegistrarInfo, Type: service, Share: true}),
		},
		{
			Name: label(ChatIn), own: true,
			Description: "the chat",
			Roles:       []Role{f.member()},
			Imports:     imports(Auth, service, subject.Info, subject.Renew),
		},
	}
	if f.Callout {
		all = f.door(all)
	}
	return all
}

// door adds what auth callout needs: the account that clients without a credential come to,
// and where its servers ask issuers about them.
func (f *File) door(all []Account) []Account {
	auth := slices.IndexFunc(all, func(a Account) bool { return a.Name.String() == Auth })
	all[auth].Exports = append(all[auth].Exports, Export{Name: "auth callout", Subject: subject.Callout, Type: service})
	// Servers ask about everyone who comes here, also with a credential of this account: so
	// nobody else is in it.
	sentinel := public(RoleSentinel, "whoever connects without credentials, until it is known who they are", nil, nil)
	sentinel.Bearer = true
	in := imports(Auth, service, subject.Callout)
	in[0].To = subject.Authentication
	return append(all, Account{
		Name: label(Door), own: true, services: true,
		Description: "where plain NATS clients come in", Limits: Limits{Bearers: true},
		Roles: []Role{sentinel}, Imports: in,
		Callout: &Callout{Users: []ident.UserKey{nobody()}, Accounts: f.behindDoor()},
	})
}

// behindDoor are the accounts of which a role is granted to those who come by auth callout.
func (f *File) behindDoor() []ident.Label {
	var all []ident.Label
	for _, a := range f.Accounts {
		if !slices.Contains(all, a.Name) && slices.ContainsFunc(a.Roles, func(r Role) bool {
			return r.Callout && slices.ContainsFunc(f.Grants, func(g Grant) bool { return g.Account == a.Name && g.Role == r.Name })
		}) {
			all = append(all, a.Name)
		}
	}
	return all
}

// nobody is the user about whom servers do not ask issuers. They want one to be named, and
// nobody has its key: its public half is a hash.
func nobody() ident.UserKey {
	sum := sha256.Sum256([]byte("herald/v1/callout\nnobody"))
	pub, err := nkeys.Encode(nkeys.PrefixByteUser, sum[:])
	if err != nil {
		panic(err) // 32 bytes are a key
	}
	key, err := ident.ParseUserKey(string(pub))
	if err != nil {
		panic(err)
	}
	return key
}

// Sentinel is the role of the user that servers take for whoever connects without
// credentials; zero: they refuse them.
func (f *File) Sentinel() RoleRef {
	if f.Callout {
		return RoleRef{label(Door), label(RoleSentinel)}
	}
	return f.DefaultSentinel
}

// tutorial is the subject of the tutorial's door, where that is open: where it is not, no
// account knows of it.
func (f *File) tutorial() []string {
	if !f.TutorialDoor.On() {
		return nil
	}
	return []string{subject.TutorialAccess}
}

func (f *File) tutorialExports() []Export {
	var out []Export
	for _, s := range f.tutorial() {
		out = append(out, Export{Name: "creds files for the tutorial's programs", Subject: s, Type: service})
	}
	return out
}

func (f *File) member() Role {
	pub, sub := []string{subject.Info, subject.Renew}, []string{subject.UserInbox}
	for _, r := range f.Chat.Rooms {
		pub = append(pub, subject.Posts(r.Name), subject.DMs(r.Name), subject.Online(r.Name), subject.History(r.Name), subject.Marks(r.Name))
		sub = append(sub, subject.Posts(r.Name), subject.Online(r.Name), subject.OwnDMs(r.Name))
	}
	return public(RoleMember, "talks", pub, sub)
}

// internal is a role of Herald's own services.
func internal(name, what string, pub, sub []string) Role {
	return Role{
		Name: label(name), Description: what, Writes: true,
		Publish: Permission{Allow: pub}, Subscribe: Permission{Allow: sub}, ConnectionTypes: []string{standard},
	}
}

// adminLifetime and adminLongest are how long administrators' credentials live: who is no
// administrator any more is none soon.
const (
	adminLifetime = Duration(15 * time.Minute)
	adminLongest  = Duration(time.Hour)
)

// administrator is who denies and resumes. It is granted like any role, to whom the file names.
func administrator() Role {
	r := internal(RoleAdmin, "looks at services, denies and resumes",
		[]string{subject.ServiceInfo, subject.RegistrarInfo, subject.AdminAll}, []string{subject.ServiceInbox})
	r.Lifetime, r.Longest = adminLifetime, adminLongest
	return r
}

// public is a role that anyone may come to hold. With plain creds one could otherwise
// open a leafnode and ask in the name of whoever is behind it.
func public(name, what string, pub, sub []string) Role {
	return Role{
		Name: label(name), Description: what, Public: true,
		Publish: Permission{Allow: pub}, Subscribe: Permission{Allow: sub}, ConnectionTypes: []string{standard, websocket},
	}
}

// Connection types of Herald's own roles.
const (
	standard  = "STANDARD"
	websocket = "WEBSOCKET"
)

func imports(from, kind string, subjects ...string) []Import {
	out := make([]Import, 0, len(subjects))
	for _, s := range subjects {
		// The responder is told by the server who asks.
		out = append(out, Import{From: label(from), Subject: s, Type: kind, Share: kind == service})
	}
	return out
}

// mirrorDeletes are what deletes the regions' mirrors of home's bucket.
func (f *File) mirrorDeletes() []string {
	var out []string
	for _, r := range f.Regions {
		out = append(out, subject.StreamDelete(subject.MirrorStream(r.Name)))
	}
	return out
}

// getSubjects are the direct gets of every region's streams.
func (f *File) getSubjects(streams ...func(ident.Region) string) []string {
	var out []string
	for _, r := range f.Regions {
		for _, of := range streams {
			out = append(out, subject.DirectGet(of(r.Name)))
		}
	}
	return out
}

func (f *File) gets(streams ...func(ident.Region) string) []Export {
	var out []Export
	for _, s := range f.getSubjects(streams...) {
		out = append(out, Export{Name: "reading by " + s, Subject: s, Type: service, Response: stream})
	}
	return out
}

func pings() []string {
	var out []string
	for _, p := range Pages() {
		out = append(out, subject.ServerPingOf(p))
	}
	return out
}

// label is a name that is written here, and so is valid.
func label(s string) ident.Label {
	l, err := ident.ParseLabel(s)
	if err != nil {
		panic(err)
	}
	return l
}
