package platform

import (
	"fmt"
	"slices"
	"time"

	"github.com/nats-io/jwt/v2"

	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/keystore"
	"github.com/herald-nats/herald/pkg/policy"
	"github.com/herald-nats/herald/pkg/subject"
	"github.com/herald-nats/herald/pkg/trust"
)

// Names of accounts.
const (
	System  = "SYS"
	Ledger  = "LEDGER"
	Readers = "READERS"
	Auth    = "AUTH"
	Guest   = "GUEST"
	ChatIn  = "CHAT"
)

// Names of roles.
const (
	RoleRegistrar = "registrar"
	RoleHome      = "home"
	RoleReader    = "reader"
	RoleSetup     = "setup"
	RoleIssuer    = "issuer"
	RoleGuest     = "guest"
	RoleMember    = "member"
)

// role is what the holder of a user JWT under one role key may do, as every
// server enforces it from the account JWT.
type role struct {
	name     string
	pub, sub []string
	public   bool // anyone may come to hold it
	open     bool // on offer to identities that proved nothing but an nkey
}

// account is one account of the platform.
type account struct {
	name      string
	roles     []role
	exports   []*jwt.Export
	imports   []wants
	jetstream bool
}

// wants is an import: what, of which account.
type wants struct {
	from    string
	subject string
	kind    jwt.ExportType
}

// accounts is the table of accounts and rights of docs/architecture.md.
//
// Any right to send a request in an account is a right to make the answer land
// on any subject of that account. So every service sits in an account with none
// but its own kind and is reached by import; there the reply is the server's
// own, and services may publish to nothing else (never allow_responses).
func accounts(f *File) []account {
	room := f.Chat.Room
	// The streams of a region: what holds, and with the records everything.
	whatHolds := []func(ident.Region) string{subject.MirrorStream, subject.DenialsStream}
	everything := append(slices.Clone(whatHolds), subject.RecordsStream)
	return []account{
		{
			name: System,
			roles: []role{{
				name: RoleRegistrar,
				pub: []string{
					subject.ClaimsUpdate, subject.ClaimsLookupAny, subject.ServerPing,
					subject.ServerAccountz, subject.ServerKick,
				},
				sub: []string{subject.ServerStats, subject.ServiceInbox},
			}},
		},
		{
			name: Ledger, jetstream: true,
			roles: []role{
				{
					// Of every region. Beside streams a right to ask is a right to
					// write: the empty 404 of a direct get, with a reply of
					// $JS.API.STREAM.DELETE.<stream>, deletes one. So registrars ask
					// nothing here (they read in READERS), and nothing that they
					// publish is answered: the streams of denials have NoAck.
					name: RoleRegistrar,
					pub:  []string{subject.ImportedReplies, subject.OwnDenials, subject.LiveAll, subject.PeersAll},
					sub:  []string{subject.AdminAll, subject.OwnPeers, subject.EveryPeer, subject.ServiceInbox},
				},
				{
					// Of home's registrars, who decide. What it asks is answered with
					// acknowledgements and entries: never with nothing, which deletes.
					name: RoleHome,
					pub:  []string{subject.ImportedReplies, subject.Decisions, subject.DecisionsRead},
					sub:  []string{subject.HomeAll, subject.ServiceInbox},
				},
				{
					name: RoleSetup,
					pub: []string{
						subject.StreamCreate, subject.StreamUpdate, subject.StreamInfo,
						subject.Decisions, subject.DecisionsRead,
					},
					sub: []string{subject.ServiceInbox},
				},
			},
			exports: append(
				[]*jwt.Export{
					service("claims of names", subject.HomeClaim, jwt.ResponseTypeSingleton),
					service("redemption of invites", subject.HomeRedeem, jwt.ResponseTypeSingleton),
					service("records of issuers", subject.AuditExport, jwt.ResponseTypeSingleton),
					{Name: "news of the ledger", Subject: subject.LedgerNewsExport, Type: jwt.Stream},
					{Name: "news of records", Subject: subject.RecordNewsAll, Type: jwt.Stream},
				},
				gets(f, everything...)...,
			),
		},
		{
			// Registrars read here, by import like issuers, because in an account with
			// streams they must not ask; and not in AUTH, because records are none of
			// issuers' business. What arrives here is believed for its signature.
			name: Readers,
			roles: []role{{
				name: RoleReader,
				pub:  getSubjects(f, everything...),
				sub:  []string{subject.LedgerNews, subject.RecordNewsAll, subject.ServiceInbox},
			}},
			imports: append(
				importsOf(Ledger, jwt.Service, getSubjects(f, everything...)...),
				importsOf(Ledger, jwt.Stream, subject.LedgerNewsExport, subject.RecordNewsAll)...,
			),
		},
		{
			name: Auth,
			roles: []role{{
				name: RoleIssuer,
				pub: append(
					[]string{subject.ImportedReplies, subject.Audit, subject.HomeClaim, subject.HomeRedeem},
					getSubjects(f, whatHolds...)...,
				),
				sub: []string{
					subject.Info, subject.Issue, subject.Renew, subject.Callout,
					subject.ServiceInfo, subject.LedgerNews, subject.ServiceInbox,
				},
			}},
			exports: []*jwt.Export{
				service("platform information", subject.Info, jwt.ResponseTypeSingleton),
				service("issue of credentials", subject.Issue, jwt.ResponseTypeSingleton),
				service("renewal of credentials", subject.Renew, jwt.ResponseTypeSingleton),
			},
			imports: slices.Concat(
				importsOf(Ledger, jwt.Service, subject.HomeClaim, subject.HomeRedeem, subject.AuditExport),
				importsOf(Ledger, jwt.Service, getSubjects(f, whatHolds...)...),
				importsOf(Ledger, jwt.Stream, subject.LedgerNewsExport),
			),
		},
		{
			name: Guest,
			roles: []role{{
				name: RoleGuest, public: true,
				pub: []string{subject.Info, subject.Issue},
				sub: []string{subject.UserInbox},
			}},
			imports: importsOf(Auth, jwt.Service, subject.Info, subject.Issue),
		},
		{
			name: ChatIn,
			roles: []role{{
				name: RoleMember, public: true, open: true,
				pub: []string{
					subject.Info, subject.Renew, subject.Posts(room), subject.DMs(room),
					subject.Online(room), subject.History(room), subject.Marks(room),
				},
				sub: []string{subject.UserInbox, subject.Posts(room), subject.Online(room), subject.OwnDMs(room)},
			}},
			imports: importsOf(Auth, jwt.Service, subject.Info, subject.Renew),
		},
	}
}

func service(name, subj string, response jwt.ResponseType) *jwt.Export {
	return &jwt.Export{Name: name, Subject: jwt.Subject(subj), Type: jwt.Service, ResponseType: response}
}

// getSubjects are the direct gets of some streams of each region. Home's bucket itself
// has none: what it has is read from home's mirror.
func getSubjects(f *File, streams ...func(ident.Region) string) []string {
	var out []string
	for _, r := range f.Regions {
		for _, of := range streams {
			out = append(out, subject.DirectGet(of(r.Name)))
		}
	}
	return out
}

// gets are their exports. A batch is many answers to one request.
func gets(f *File, streams ...func(ident.Region) string) []*jwt.Export {
	var out []*jwt.Export
	for _, s := range getSubjects(f, streams...) {
		out = append(out, service("reading by "+s, s, jwt.ResponseTypeStream))
	}
	return out
}

func importsOf(from string, kind jwt.ExportType, subjects ...string) []wants {
	var out []wants
	for _, s := range subjects {
		out = append(out, wants{from, s, kind})
	}
	return out
}

// What public users may cost.
const (
	publicPayload = 20 << 10 // bytes: the largest request, its headers and what sealing adds
	publicSubs    = 32
)

// template is a role's rights as the account JWT has them.
func (r role) template() jwt.UserPermissionLimits {
	var t jwt.UserPermissionLimits
	t.NatsLimits = jwt.NatsLimits{Subs: jwt.NoLimit, Data: jwt.NoLimit, Payload: jwt.NoLimit}
	t.Pub.Allow.Add(r.pub...)
	t.Sub.Allow.Add(r.sub...)
	if r.public {
		t.Payload, t.Subs = publicPayload, publicSubs
		// With plain member creds one could otherwise open a leafnode and ask in
		// the name of whoever is behind it.
		t.AllowedConnectionTypes.Add(jwt.ConnectionTypeStandard, jwt.ConnectionTypeWebsocket)
	} else {
		t.AllowedConnectionTypes.Add(jwt.ConnectionTypeStandard)
	}
	return t
}

// keys are all private keys of a platform, as init makes them.
type keys struct {
	operator *keystore.Key
	signing  map[string]*keystore.Key // by holder: a region, "nscsetup" or "spare"
	accounts map[string]*keystore.Key
	roles    map[string]*keystore.Key // by account.role
	regions  map[ident.Region]*keystore.Key
	guest    *keystore.Key
}

// claims are the account's claims, unsigned.
func (a account) claims(k *keys) (*jwt.AccountClaims, error) {
	c := jwt.NewAccountClaims(k.accounts[a.name].Public())
	c.Name = a.name
	c.Limits.LeafNodeConn = 0
	c.Limits.DisallowBearer = true
	if a.jetstream {
		c.Limits.JetStreamLimits = jwt.JetStreamLimits{
			MemoryStorage: jwt.NoLimit, DiskStorage: jwt.NoLimit, Streams: jwt.NoLimit, Consumer: jwt.NoLimit,
			MaxAckPending: jwt.NoLimit, MemoryMaxStreamBytes: jwt.NoLimit, DiskMaxStreamBytes: jwt.NoLimit,
		}
	}
	for _, r := range a.roles {
		scope := jwt.NewUserScope()
		scope.Key = k.roles[a.name+"."+r.name].Public()
		scope.Role = r.name
		scope.Template = r.template()
		c.SigningKeys.AddScopedSigner(scope)
	}
	c.Exports = slices.Clone(a.exports)
	for _, w := range a.imports {
		imp := &jwt.Import{
			Name: w.from + " " + w.subject, Subject: jwt.Subject(w.subject),
			Account: k.accounts[w.from].Public(), Type: w.kind,
		}
		// The responder is told by the server who asks.
		imp.Share = w.kind == jwt.Service
		c.Imports.Add(imp)
	}
	var vr jwt.ValidationResults
	c.Validate(&vr)
	if vr.IsBlocking(true) {
		return nil, fmt.Errorf("account %s: %v", a.name, vr.Errors())
	}
	return c, nil
}

// publicPart is the public part of the platform document, in its first version.
func publicPart(f *File, k *keys, now time.Time) (*trust.Platform, error) {
	p := &trust.Platform{Name: f.Name.String(), Operator: k.operator.Public(), Version: trust.Version{Epoch: 1, Number: 1}, Home: f.Home}
	var err error
	if p.EpochProof, err = trust.SignEpoch(k.operator, p.Version.Epoch, now); err != nil {
		return nil, err
	}
	for _, r := range f.Regions {
		seal, err := ident.ParseSealKey(k.regions[r.Name].Public())
		if err != nil {
			return nil, err
		}
		p.Regions = append(p.Regions, trust.Region{Name: r.Name, URLs: r.URLs(), SealKey: seal})
	}
	for _, a := range accounts(f) {
		name, err := ident.ParseLabel(a.name)
		if err != nil {
			return nil, err
		}
		key, err := ident.ParseAccountKey(k.accounts[a.name].Public())
		if err != nil {
			return nil, err
		}
		acc := trust.Account{Name: name, Key: key}
		for _, r := range a.roles {
			rname, err := ident.ParseLabel(r.name)
			if err != nil {
				return nil, err
			}
			rkey, err := ident.ParseAccountKey(k.roles[a.name+"."+r.name].Public())
			if err != nil {
				return nil, err
			}
			tr := trust.Role{Name: rname, Key: rkey}
			if r.open {
				tr.Open = &trust.Lifetimes{Default: int64(f.Credentials.Lifetime / time.Second), Longest: int64(f.Credentials.Longest / time.Second)}
			}
			acc.Roles = append(acc.Roles, tr)
		}
		p.Accounts = append(p.Accounts, acc)
		if a.name == ChatIn {
			p.Chat = trust.Chat{Account: name, Room: f.Chat.Room, Channels: f.Chat.Channels}
		}
	}
	return p, nil
}

// offers are the roles that are on offer, to whom, and for how long.
func offers(f *File) (policy.Policy, error) {
	var p policy.Policy
	for _, a := range accounts(f) {
		for _, r := range a.roles {
			if !r.open {
				continue
			}
			account, err := ident.ParseLabel(a.name)
			if err != nil {
				return policy.Policy{}, err
			}
			name, err := ident.ParseLabel(r.name)
			if err != nil {
				return policy.Policy{}, err
			}
			p.Offers = append(p.Offers, policy.Offer{
				Kind: ident.KindOpen, Account: account, Role: name,
				Default: policy.Seconds(f.Credentials.Lifetime), Longest: policy.Seconds(f.Credentials.Longest),
			})
		}
	}
	return p, nil
}
