package platform

import (
	"fmt"
	"slices"
	"time"

	"github.com/nats-io/jwt/v2"

	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/keystore"
	"github.com/herald-nats/herald/pkg/subject"
	"github.com/herald-nats/herald/pkg/trust"
)

// Names of accounts.
const (
	System = "SYS"
	Ledger = "LEDGER"
	Auth   = "AUTH"
	Guest  = "GUEST"
	ChatIn = "CHAT"
)

// Names of roles.
const (
	RoleRegistrar = "registrar"
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
					name: RoleRegistrar,
					// No direct get: its 404 has no body, and with the reply
					// $JS.API.STREAM.DELETE.KV_names that deletes the stream.
					pub: []string{subject.ImportedReplies, subject.NamesKeys, subject.NamesInfo, subject.NamesRead},
					sub: []string{subject.HomeAll, subject.AdminAll, subject.ServiceInbox},
				},
				{
					name: RoleSetup,
					pub:  []string{subject.NamesInfo, subject.NamesCreate, subject.NamesUpdate},
					sub:  []string{subject.ServiceInbox},
				},
			},
			exports: []*jwt.Export{
				service("claims of names", subject.HomeClaim, jwt.ResponseTypeSingleton),
				service("redemption of invites", subject.HomeRedeem, jwt.ResponseTypeSingleton),
				service("reading of names", subject.NamesGet, jwt.ResponseTypeStream),
				service("batched reading of names", subject.NamesGetAny, jwt.ResponseTypeStream),
				service("records of issuers", subject.AuditExport, jwt.ResponseTypeSingleton),
				{Name: "news of the ledger", Subject: subject.LedgerNewsExport, Type: jwt.Stream},
			},
		},
		{
			name: Auth,
			roles: []role{{
				name: RoleIssuer,
				pub: []string{
					subject.ImportedReplies, subject.Audit, subject.HomeClaim, subject.HomeRedeem,
					subject.NamesGet, subject.NamesGetAny,
				},
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
			imports: []wants{
				{Ledger, subject.HomeClaim, jwt.Service},
				{Ledger, subject.HomeRedeem, jwt.Service},
				{Ledger, subject.NamesGet, jwt.Service},
				{Ledger, subject.NamesGetAny, jwt.Service},
				{Ledger, subject.AuditExport, jwt.Service},
				{Ledger, subject.LedgerNewsExport, jwt.Stream},
			},
		},
		{
			name: Guest,
			roles: []role{{
				name: RoleGuest, public: true,
				pub: []string{subject.Info, subject.Issue},
				sub: []string{subject.UserInbox},
			}},
			imports: []wants{
				{Auth, subject.Info, jwt.Service},
				{Auth, subject.Issue, jwt.Service},
			},
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
			imports: []wants{
				{Auth, subject.Info, jwt.Service},
				{Auth, subject.Renew, jwt.Service},
			},
		},
	}
}

func service(name, subj string, response jwt.ResponseType) *jwt.Export {
	return &jwt.Export{Name: name, Subject: jwt.Subject(subj), Type: jwt.Service, ResponseType: response}
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

// document is the public part of the platform document.
func document(f *File, k *keys) (*trust.Platform, error) {
	p := &trust.Platform{Name: f.Name.String(), Operator: k.operator.Public(), Version: 1, Home: f.Home}
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
