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

// TutorialAccess is where programs of the 2020 NATS tutorial ask for a creds file. It is in
// no account unless the platform file turns it on.
const TutorialAccess = "chat.req.access"

// Callout is the auth callout's door of the issuing service, which servers ask through the
// account DOOR; there it is Authentication, where they look for it.
const (
	Callout        = "auth.v1.callout"
	Authentication = "$SYS.REQ.USER.AUTH"
)

// AdminAll are the subjects that administrators may ask of registrars.
const AdminAll = "auth.v1.admin.*"

// Admin is where administrators ask for one thing, which is one word.
func Admin(verb string) string { return "auth.v1.admin." + verb }

// Patterns of permissions. The server expands {{subject()}} to the user's own
// nkey and {{tag(region)}} to the value of that tag in the user JWT; a name is
// never used, because a user named "*" would then be everyone.
const (
	// UserInbox is the one inbox of a public user: nobody else's is readable.
	UserInbox = "_INBOX_{{subject()}}.>"
	// CalloutInbox is the same of who came in by auth callout: their nkey is a new one each
	// time and not theirs to know, so the inbox is their identity's; see ident.Identity.Tag.
	CalloutInbox = "_INBOX_{{tag(kid)}}.>"
	// ServiceInbox is the inbox of one service process.
	ServiceInbox = "_INBOX.svc.{{subject()}}.>"
	// ImportedReplies is where answers to imported requests go; the subject is
	// made by the server, so an answer cannot be aimed at anything else.
	ImportedReplies = "_R_.>"
	// ReplyPrefix begins every reply subject that a service may answer.
	ReplyPrefix = "_R_."
	// ServiceInfo is micro's discovery, answered by every service.
	ServiceInfo = "$SRV.>"
	// Audit is where a service's records go: its region's, under its own key.
	Audit = "audit.{{tag(region)}}.{{subject()}}"
	// AuditExport is the same for the export, which knows no templates.
	AuditExport = "audit.*.*"
	// LedgerNews is what a region's mirror republishes.
	LedgerNews = "ledger.{{tag(region)}}.>"
	// LedgerNewsExport is the same for the export.
	LedgerNewsExport = "ledger.>"
)

// The ledger's streams, all of them in LEDGER. What is decided in home is a bucket
// there, and in each region a mirror of it; denials are a stream of each region,
// which sources the other regions'; records of issuance are a stream of each region.
const (
	// DecisionsStream is home's bucket.
	DecisionsStream = "KV_decisions"
	// MovingStream is a copy of it while home moves. No region's mirror is called that.
	MovingStream = "DECISIONS-MOVING"
	// DecisionsPrefix begins the subjects of its keys.
	DecisionsPrefix = "$KV.decisions."
	// Decisions is what home's registrars may write.
	Decisions = DecisionsPrefix + ">"
	// Bases are the base claims of accounts among them.
	Bases = DecisionsPrefix + "base.*"
	// DecisionsRead asks the leader for an entry; its answers always have a body.
	DecisionsRead = "$JS.API.STREAM.MSG.GET." + DecisionsStream
	// DenialsAll are the denials of all regions.
	DenialsAll = "denials.>"
	// OwnDenials is what a region's registrars may write.
	OwnDenials = "denials.{{tag(region)}}.>"
	// PeersAll is where registrars talk to each other, and OwnPeers where those of one
	// region are talked to.
	PeersAll = "peers.>"
	OwnPeers = "peers.{{tag(region)}}.>"
	// EveryPeer is where all registrars listen. No region's name has capitals.
	EveryPeer = "peers.ALL.>"
	// PeerDigests is where each tells what it knows, in sum.
	PeerDigests = "peers.ALL.digest"
	// LiveAll is where registrars tell news to a region at once; LedgerNews has it.
	LiveAll = "ledger.*.live.>"
	// RecordNewsAll is what the streams of records republish, of all regions.
	RecordNewsAll = "records.>"
)

// Patterns of requests to JetStream, by import. Readers may read every stream of the
// ledger by direct get, which needs neither a consumer nor the meta leader; issuers
// those that hold no records.
const (
	directGet = "$JS.API.DIRECT.GET."
	// StreamCreate, StreamUpdate and StreamInfo are the set-up tool's alone.
	StreamCreate = "$JS.API.STREAM.CREATE.*"
	StreamUpdate = "$JS.API.STREAM.UPDATE.*"
	StreamInfo   = "$JS.API.STREAM.INFO.*"
)

// StreamDelete deletes a stream: for who moves home, and of few streams.
func StreamDelete(stream string) string { return "$JS.API.STREAM.DELETE." + stream }

// MirrorStream is a region's mirror of what is decided in home.
func MirrorStream(r ident.Region) string { return "DECISIONS_" + r.String() }

// DenialsStream is a region's stream of denials.
func DenialsStream(r ident.Region) string { return "DENIALS_" + r.String() }

// RecordsStream is a region's stream of records.
func RecordsStream(r ident.Region) string { return "AUDIT_" + r.String() }

// DirectGet asks for entries of a stream, in batches.
func DirectGet(stream string) string { return directGet + stream }

// Decision is the subject of a key of home's bucket.
func Decision(key string) string { return DecisionsPrefix + key }

// DenialsPrefix begins the subjects of the denials that a region writes.
func DenialsPrefix(r ident.Region) string { return "denials." + r.String() + "." }

// Denials are the denials that a region writes.
func Denials(r ident.Region) string { return DenialsPrefix(r) + ">" }

// AuditPrefix begins the subjects of a region's records; what follows is the issuer.
func AuditPrefix(r ident.Region) string { return "audit." + r.String() + "." }

// LedgerNewsPrefix begins what is told in a region: "decisions.", "denials." or
// "live.", and a key.
func LedgerNewsPrefix(r ident.Region) string { return "ledger." + r.String() + "." }

// Live is where a key's new entry is told to a region at once.
func Live(r ident.Region, key string) string { return LedgerNewsPrefix(r) + "live." + key }

// PeerCompare is where a region is asked to compare what it knows with what another
// does.
func PeerCompare(r ident.Region) string { return "peers." + r.String() + ".compare" }

// PeerEntries is where a region is sent what it lacks.
func PeerEntries(r ident.Region) string { return "peers." + r.String() + ".entries" }

// RecordNewsPrefix begins what a region's stream of records republishes.
func RecordNewsPrefix(r ident.Region) string { return "records." + r.String() + "." }

// The system account's.
const (
	ClaimsUpdate    = "$SYS.REQ.CLAIMS.UPDATE"
	ClaimsLookupAny = "$SYS.REQ.ACCOUNT.*.CLAIMS.LOOKUP"
	ServerPing      = "$SYS.REQ.SERVER.PING"
	ServerAccountz  = "$SYS.REQ.SERVER.*.ACCOUNTZ"
	ServerKick      = "$SYS.REQ.SERVER.*.KICK"
	ServerStats     = "$SYS.SERVER.*.STATSZ"
)

// ServerKickOf has a server, by its nkey, close a connection.
func ServerKickOf(server string) string {
	return "$SYS.REQ.SERVER." + server + ".KICK"
}

// ServerPingOf asks every server for one of its monitoring pages, such as VARZ.
func ServerPingOf(page string) string { return ServerPing + "." + page }

// RegistrarInfo is micro's discovery of registrars, as ADMIN sees it: the subject
// itself is that of issuers there.
const RegistrarInfo = "registrars." + ServiceInfo

// ClaimsLookup asks every server for the JWT that it holds of one account.
func ClaimsLookup(a ident.AccountKey) string {
	return "$SYS.REQ.ACCOUNT." + a.String() + ".CLAIMS.LOOKUP"
}

// UserInboxPrefix is the inbox prefix (nats.CustomInboxPrefix) that a public
// user's connection must have; see UserInbox.
func UserInboxPrefix(k ident.UserKey) string { return "_INBOX_" + k.String() }

// ServiceInboxPrefix is the inbox prefix of a service; see ServiceInbox.
func ServiceInboxPrefix(k ident.UserKey) string { return "_INBOX.svc." + k.String() }

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
