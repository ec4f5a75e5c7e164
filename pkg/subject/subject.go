// Package subject spells every subject and permission pattern of the platform
// once, so that who asks, who answers and what the servers allow cannot drift
// apart. It refuses to build a subject from anything that is not a validated
// identifier.
package subject

import "github.com/herald-nats/herald/pkg/ident"

// The issuing service, answered in AUTH and reached by import only.
const (
	Info  = "auth.v1.info"
	Issue = "auth.v1.issue"
	Renew = "auth.v1.renew"
)

// What issuers ask of home's registrars, answered in LEDGER and reached by
// import only.
const (
	HomeClaim  = "auth.v1.home.claim"
	HomeRedeem = "auth.v1.home.redeem"
	HomeAll    = "auth.v1.home.*"
)

// Callout is the auth callout's door of the issuing service; see the table of
// rights in docs/architecture.md.
const Callout = "auth.v1.callout"

// AdminAll are the subjects that administrators may ask of registrars.
const AdminAll = "auth.v1.admin.*"

// Patterns of permissions. The server expands {{subject()}} to the user's own
// nkey and {{tag(region)}} to the value of that tag in the user JWT; a name is
// never used, because a user named "*" would then be everyone.
const (
	// UserInbox is the one inbox of a public user: nobody else's is readable.
	UserInbox = "_INBOX_{{subject()}}.>"
	// ServiceInbox is the inbox of one service process.
	ServiceInbox = "_INBOX.svc.{{subject()}}.>"
	// ImportedReplies is where answers to imported requests go; the subject is
	// made by the server, so an answer cannot be aimed at anything else.
	ImportedReplies = "_R_.>"
	// ReplyPrefix begins every reply subject that a service may answer.
	ReplyPrefix = "_R_."
	// ServiceInfo is micro's discovery, answered by every service.
	ServiceInfo = "$SRV.>"
	// Audit is where an issuer's records go: its region's, under its own key.
	Audit = "audit.{{tag(region)}}.{{subject()}}"
	// AuditExport is the same for the export, which knows no templates.
	AuditExport = "audit.*.*"
	// LedgerNews is what a region's mirror republishes.
	LedgerNews = "ledger.{{tag(region)}}.>"
	// LedgerNewsExport is the same for the export.
	LedgerNewsExport = "ledger.>"
)

// The bucket of name claims in LEDGER.
const (
	NamesBucket = "names"
	NamesStream = "KV_" + NamesBucket
	// NamesKeys is what the registrars of home may write.
	NamesKeys = "$KV." + NamesBucket + ".>"
	// NamesGet reads the last entry of one key by direct get; it needs neither
	// a consumer nor the meta leader.
	NamesGet = "$JS.API.DIRECT.GET." + NamesStream + ".$KV." + NamesBucket + ".>"
	// NamesGetAny reads by sequence or in batches.
	NamesGetAny = "$JS.API.DIRECT.GET." + NamesStream
	// NamesRead asks the leader for an entry; its answers always have a body.
	NamesRead = "$JS.API.STREAM.MSG.GET." + NamesStream
	NamesInfo = "$JS.API.STREAM.INFO." + NamesStream
	// NamesCreate and NamesUpdate are the set-up tool's alone.
	NamesCreate = "$JS.API.STREAM.CREATE." + NamesStream
	NamesUpdate = "$JS.API.STREAM.UPDATE." + NamesStream
)

// The system account's.
const (
	ClaimsUpdate    = "$SYS.REQ.CLAIMS.UPDATE"
	ClaimsLookupAny = "$SYS.REQ.ACCOUNT.*.CLAIMS.LOOKUP"
	ServerPing      = "$SYS.REQ.SERVER.PING"
	ServerAccountz  = "$SYS.REQ.SERVER.*.ACCOUNTZ"
	ServerKick      = "$SYS.REQ.SERVER.*.KICK"
	ServerStats     = "$SYS.SERVER.*.STATSZ"
)

// ClaimsLookup asks every server for the JWT that it holds of one account.
func ClaimsLookup(a ident.AccountKey) string {
	return "$SYS.REQ.ACCOUNT." + a.String() + ".CLAIMS.LOOKUP"
}

// UserInboxPrefix is the inbox prefix (nats.CustomInboxPrefix) that a public
// user's connection must have; see UserInbox.
func UserInboxPrefix(k ident.UserKey) string { return "_INBOX_" + k.String() }

// ServiceInboxPrefix is the inbox prefix of a service; see ServiceInbox.
func ServiceInboxPrefix(k ident.UserKey) string { return "_INBOX.svc." + k.String() }

// Name is the key of a name in the bucket of names.
func Name(n ident.Name) string { return n.Token() }

// NameGet asks for the last entry of one name by direct get.
func NameGet(n ident.Name) string {
	return "$JS.API.DIRECT.GET." + NamesStream + ".$KV." + NamesBucket + "." + Name(n)
}

// Post is where posts to one channel of a room go.
func Post(room, channel ident.Label) string {
	return "chat." + room.String() + ".posts." + channel.String()
}

// Posts are all posts of a room.
func Posts(room ident.Label) string { return "chat." + room.String() + ".posts.*" }

// DM is where direct messages to one user go.
func DM(room ident.Label, to ident.UserKey) string {
	return "chat." + room.String() + ".dms." + to.String()
}

// DMs is the pattern of everyone's direct messages: for the right to send.
func DMs(room ident.Label) string { return "chat." + room.String() + ".dms.*" }

// OwnDMs is the pattern of a user's own direct messages: for the right to read.
func OwnDMs(room ident.Label) string { return "chat." + room.String() + ".dms.{{subject()}}" }

// Online is where a room's heartbeats go.
func Online(room ident.Label) string { return "chat." + room.String() + ".online" }

// History is where pages of a room's past are asked for.
func History(room ident.Label) string { return "chat." + room.String() + ".history" }

// Marks is where read positions of a room are kept.
func Marks(room ident.Label) string { return "chat." + room.String() + ".marks" }
