// Package manifest is platform.yaml: what an operator describes. It reads the file,
// says everything that is wrong with it at once and where, and adds what Herald itself
// needs, so that all accounts of a platform can be looked at alike. It knows no keys, no
// servers and no files: who compiles, renders or applies a description does that
// elsewhere.
//
// Every key is documented on its field here; docs/platform.md and the JSON Schema are
// made from these comments and tags. A sentence that begins with "Default:" is the key's
// default. The tags are yaml (the key), required, enum (the values of a text), form (how a
// text is written), least and most (of a number).
package manifest

import (
	"time"

	"github.com/herald-nats/herald/pkg/ident"
)

// FileName is the platform file's name in a platform folder.
const FileName = "platform.yaml"

// MinNodes is the fewest nodes of a region: the ledger keeps three replicas in
// home, and JetStream elects nobody in clusters of one that only gateways join.
const MinNodes = 3

// File is a platform, as its operator describes it. Unknown and duplicate keys are
// refused; what is left out has the default that its key names.
type File struct {
	// What the platform is called; clients keep its keys under this name.
	Name ident.Name `yaml:"name" required:"true"`
	// The region whose quorum decides names, policy and changes of accounts.
	Home ident.Region `yaml:"home" required:"true"`
	// Settings that all servers share.
	Servers Servers `yaml:"servers"`
	// Which connections are encrypted, and who must show a certificate.
	TLS TLS `yaml:"tls"`
	// The regions: one NATS cluster each, linked by gateways.
	Regions []Region `yaml:"regions" required:"true"`
	// How long credentials live where neither a grant nor a role says otherwise.
	Credentials Credentials `yaml:"credentials"`
	// The chat that the platform comes with.
	Chat Chat `yaml:"chat" required:"true"`
	// The door of the 2020 NATS tutorial's chat: whoever sends a name to chat.req.access as a
	// guest gets a creds file, as by a grant to open. Default: there is none.
	TutorialDoor *TutorialDoor `yaml:"tutorial_door"`
	// Accounts beside those that Herald brings: SYS, LEDGER, READERS, AUTH, GUEST, ADMIN, DOOR and
	// CHAT. An entry named CHAT adds to that account (but no streams and no callout); one
	// named SYS may add exports, which need only; the others cannot be changed.
	Accounts []Account `yaml:"accounts"`
	// OpenID providers whose tokens show who asks: of people with a login, of programs, of CI
	// jobs, of pods. docs/identities.md has how each is set up.
	Providers []Provider `yaml:"providers"`
	// Names for identities, so that grants can be read.
	Identities []Identity `yaml:"identities"`
	// Who may have which role; at least one grant. Somebody who asks for nothing in particular
	// gets what is most particular: grants to the identity, then to its category, to the
	// category that this one is in, to its kind, and to DEFAULT; of those to the same the one
	// that asks for more, and then the first. What is granted to nobody is given to nobody.
	Grants []Grant `yaml:"grants" required:"true"`
	// The role, as ACCOUNT/ROLE, of the user that servers take for whoever connects without
	// credentials. The role must be public and have bearer: true, and its account bearers in
	// its limits. Default: none, and who has no credentials is refused.
	DefaultSentinel RoleRef `yaml:"default_sentinel"`
	// Whether plain NATS clients of any language come in without a creds file: with an access
	// key's id and secret as user and password, or with a login's token, by auth callout. It
	// makes the account DOOR, and whoever connects without credentials is asked about there:
	// default_sentinel is DOOR/sentinel then, and no other. Default: false.
	Callout bool `yaml:"callout"`

	source *source // what it was read from, if it was
}

// Servers are settings that all nats-servers share.
type Servers struct {
	// How long a client may take to prove who it is, from 100ms to 1m. Default: 2s.
	AuthTimeout Duration `yaml:"auth_timeout"`
	// The largest message, from 64KiB to 64MiB. Account JWTs must fit, too. Default: 1MiB.
	MaxPayload Size `yaml:"max_payload"`
	// How many clients one server takes. Default: 65536.
	MaxConnections int64 `yaml:"max_connections" least:"1"`
	// Where, on each server's machine, the rendered configuration is put: certificates are
	// looked for in the folder tls below it. Default: /etc/nats.
	ConfigDir string `yaml:"config_dir" form:"path"`
	// Where, on each server's machine, JetStream and the accounts are stored; not in
	// config_dir. Default: /var/lib/nats.
	DataDir string `yaml:"data_dir" form:"path"`
}

// Values of Mode.
const (
	ModeOff    = "off"
	ModeServer = "server"
	ModeMutual = "mutual"
)

// Mode says how a kind of connection is encrypted: off, server (the server shows a
// certificate) or mutual (both sides do).
type Mode string

// TLS says which connections are encrypted. Certificates come from `nscsetup tls`, or
// from a certificate authority of your own, under the same file names.
type TLS struct {
	// Connections of clients: off, server or mutual. Default: off.
	Clients Mode `yaml:"clients" enum:"off,server,mutual"`
	// Routes between the servers of a region: off or mutual. Default: off.
	Routes Mode `yaml:"routes" enum:"off,mutual"`
	// Gateways between regions: off or mutual. Default: off.
	Gateways Mode `yaml:"gateways" enum:"off,mutual"`
	// Websockets: off, server or mutual. Where it is off, servers are told so (no_tls), and
	// what members say crosses the network in the clear: leave it off only behind a proxy
	// that does TLS, or on one machine. Default: off.
	Websockets Mode `yaml:"websockets" enum:"off,server,mutual"`
	// Leafnodes: off, server or mutual. Default: off.
	Leafnodes Mode `yaml:"leafnodes" enum:"off,server,mutual"`
}

// Any tells whether anything is encrypted.
func (t TLS) Any() bool {
	for _, m := range []Mode{t.Clients, t.Routes, t.Gateways, t.Websockets, t.Leafnodes} {
		if m.On() {
			return true
		}
	}
	return false
}

// On tells whether connections of this mode are encrypted.
func (m Mode) On() bool { return m == ModeServer || m == ModeMutual }

// Region is one NATS cluster.
type Region struct {
	// The name of the region, of its cluster and of its gateway: lower-case letters and
	// digits, such as ams.
	Name ident.Region `yaml:"name" required:"true"`
	// The cluster's name, where it is written out; it must be the region's. Placement of
	// streams goes by it.
	Cluster string `yaml:"cluster" form:"region"`
	// host:port where the other regions reach this one: a load balancer in front of the
	// nodes' gateways, or one of these.
	Gateway string `yaml:"gateway" required:"true" form:"address"`
	// The gateway's name, where it is written out; it must be the cluster's: servers refuse
	// to start with another.
	GatewayName string `yaml:"gateway_name" form:"region"`
	// host:port that clients are told, such as a load balancer's; at most 64. Default: each
	// node's client address.
	Clients []string `yaml:"clients" form:"address"`
	// What JetStream of each node may use.
	JetStream NodeStore `yaml:"jetstream"`
	// The region's servers; at least three.
	Nodes []Node `yaml:"nodes" required:"true"`
}

// NodeStore is how much JetStream of one server may use.
type NodeStore struct {
	// How much in memory. Default: 64MiB.
	Memory Size `yaml:"memory"`
	// How much on disk. Default: 1GiB.
	Disk Size `yaml:"disk"`
}

// Node is one server. Each address is host:port; it is where the server listens, and
// where others find it. No address is there twice.
type Node struct {
	// Unique in the platform; the server's name.
	Name ident.Name `yaml:"name" required:"true"`
	// Where clients connect.
	Client string `yaml:"client" required:"true" form:"address"`
	// Where the region's other nodes connect.
	Cluster string `yaml:"cluster" required:"true" form:"address"`
	// Where this node takes gateway connections.
	Gateway string `yaml:"gateway" required:"true" form:"address"`
	// Where clients connect by websocket. Default: nowhere.
	Websocket string `yaml:"websocket" form:"address"`
	// Where leafnodes connect. Default: nowhere.
	Leafnode string `yaml:"leafnode" form:"address"`
	// Where the monitoring pages are, without TLS and without a login: choose an address
	// that only your own can reach. Default: nowhere.
	Monitor string `yaml:"monitor" form:"address"`
	// The address to listen on, where it differs from the host that others use, such as
	// 0.0.0.0 in a container. A monitor on a loopback address stays there. Default: the host
	// of each address.
	Listen string `yaml:"listen" form:"host"`
}

// Credentials are lifetimes of what issuers give, in whole seconds.
type Credentials struct {
	// How long a credential lives if nothing else is asked for; never longer than longest.
	// Default: 1h.
	Lifetime Duration `yaml:"lifetime"`
	// The longest that is given, at most 31 days. Default: 12h.
	Longest Duration `yaml:"longest"`
	// How long credentials are renewed from when their holder showed who they are; then they
	// have to show it again. None lives longer. At most 31 days. Default: 12h.
	Session Duration `yaml:"session"`
	// How much may be asked of one issuer from one host. Default: 5000 at once, and 6000 a
	// minute.
	PerHost *Rate `yaml:"per_host"`
	// How much one identity may ask of one issuer, for new credentials and for renewals
	// apart. Default: 1000 at once, and 1200 a minute.
	PerIdentity *Rate `yaml:"per_identity"`
	// How many names one identity may have and choose another. Those that come with a grant,
	// a login or an access key are not chosen. Default: 64.
	Names *int64 `yaml:"names" least:"1" most:"100000"`
	// Whether a credential is given where nobody can take note of it: required gives none,
	// best_effort keeps the record on the issuer's disk until it can be stored, as far as there
	// is room. Default: best_effort.
	Audit string `yaml:"audit" enum:"required,best_effort"`
}

// AuditRequired is the value of credentials.audit by which nothing is given that is not recorded.
const AuditRequired = "required"

// Rate bounds requests.
type Rate struct {
	// How many there may be at once.
	Burst int64 `yaml:"burst" required:"true" least:"1" most:"1000000"`
	// How many a minute after that.
	PerMinute int64 `yaml:"per_minute" required:"true" least:"1" most:"60000000"`
}

// Chat is what the chat has.
type Chat struct {
	// Its rooms; clients come into the first.
	Rooms []Room `yaml:"rooms" required:"true"`
}

// Room is a room of the chat.
type Room struct {
	// The room's name, such as KUBECON.
	Name ident.Label `yaml:"name" required:"true"`
	// The room's channels, in the order in which they are shown.
	Channels []ident.Label `yaml:"channels" required:"true"`
}

// TutorialSentence is what whoever opens the tutorial's door says that they know: all guests
// are one user with one inbox, and the answer has a seed in it.
const TutorialSentence = "every guest can read every seed that this door gives"

// TutorialDoor opens the tutorial's door.
type TutorialDoor struct {
	// What one has to know of it, in these words: "every guest can read every seed that this
	// door gives". Any other text is refused.
	IKnow string `yaml:"i_know" required:"true"`
}

// On tells whether it is open; there may be none.
func (d *TutorialDoor) On() bool { return d != nil && d.IKnow == TutorialSentence }

// Account is a NATS account: subjects, streams and users apart from all others.
type Account struct {
	// The account's name, such as ORDERS.
	Name ident.Label `yaml:"name" required:"true"`
	// What the account is for, for people.
	Description string `yaml:"description"`
	// A page about it.
	InfoURL string `yaml:"info_url" form:"url"`
	// Tags of the account, in lower case, such as key:value, which templates may use as
	// {{account-tag(key)}}. The key base is Herald's own.
	Tags []string `yaml:"tags" form:"tag"`
	// What the account may use of the servers. Default: no limit but for leafnodes, of
	// which it has none.
	Limits Limits `yaml:"limits"`
	// Streams and buckets of the account. Default: it has none.
	JetStream *JetStream `yaml:"jetstream"`
	// What other accounts may import.
	Exports []Export `yaml:"exports"`
	// What the account takes from others.
	Imports []Import `yaml:"imports"`
	// Subjects that become others as messages come in, with weights. Rights to publish are
	// looked at after that.
	Mappings []Mapping `yaml:"mappings"`
	// The account's roles: a scoped signing key each, with what its users may do.
	Roles []Role `yaml:"roles"`
	// Where traces of messages go that a client asked to have traced (by the header
	// traceparent), and of how many of a hundred.
	Trace *Trace `yaml:"trace"`
	// In whose name the account's JetStream traffic runs between servers: system or owner.
	// Default: system.
	ClusterTraffic string `yaml:"cluster_traffic" enum:"system,owner"`
	// Who decides over users of this account instead of their JWT alone: auth callout. It is
	// asked about everyone who comes to the account, so have one of its own for it.
	Callout *Callout `yaml:"callout"`

	own      bool // Herald's, not the operator's
	services bool // Herald's services are in it
}

// Limits are what an account may use; what is left out is without limit. 0 is none at all.
type Limits struct {
	// Connections of users at a time.
	Connections *int64 `yaml:"connections" least:"0"`
	// Leafnode connections at a time. Default: 0.
	Leafnodes *int64 `yaml:"leafnodes" least:"0"`
	// Subscriptions of one connection.
	Subscriptions *int64 `yaml:"subscriptions" least:"0"`
	// The largest message, at most that of servers.
	Payload *Size `yaml:"payload"`
	// Bytes that may be sent; servers of this version do not look at it.
	Data *Size `yaml:"data"`
	// Imports that the account may have, with the two that granted roles need.
	Imports *int64 `yaml:"imports" least:"0"`
	// Exports that the account may have.
	Exports *int64 `yaml:"exports" least:"0"`
	// Whether exports may have wildcards. Default: true.
	WildcardExports *bool `yaml:"wildcard_exports"`
	// Whether users may be bearers: who has their JWT needs no key. Roles with bearer need
	// it. Default: false.
	Bearers bool `yaml:"bearers"`
}

// JetStream is what an account may store. What is left out is without limit, within
// what the servers have.
type JetStream struct {
	// Limits for all streams alike. Not beside tiers.
	StoreLimits `yaml:",inline"`
	// Limits for streams with one replica and with three: R1, R3. Of a tier that is not
	// named there are no streams.
	Tiers map[string]StoreLimits `yaml:"tiers" enum:"R1,R3"`
}

// StoreLimits are limits of what is stored. To servers 0 is no limit for all but memory
// and disk, and so is refused.
type StoreLimits struct {
	// In memory, over all streams and replicas; 0 is none.
	Memory *Size `yaml:"memory"`
	// On disk, over all streams and replicas; 0 is none.
	Disk *Size `yaml:"disk"`
	// Streams.
	Streams *int64 `yaml:"streams" least:"1"`
	// Consumers.
	Consumers *int64 `yaml:"consumers" least:"1"`
	// Messages that a consumer may have unacknowledged.
	AckPending *int64 `yaml:"ack_pending" least:"1"`
	// The largest stream in memory.
	MemoryStream *Size `yaml:"memory_stream" least:"1"`
	// The largest stream on disk.
	DiskStream *Size `yaml:"disk_stream" least:"1"`
	// Whether each stream must say how large it may grow. Default: false.
	BytesRequired bool `yaml:"bytes_required"`
}

// Export is what other accounts may import. Of one type, no two of an account overlap.
type Export struct {
	// What it is, for people.
	Name string `yaml:"name"`
	// The subject or pattern that is offered.
	Subject string `yaml:"subject" required:"true" form:"subject"`
	// stream (messages go out) or service (requests come in).
	Type string `yaml:"type" enum:"stream,service" required:"true"`
	// How a service answers: single, stream or chunked. Default: single.
	Response string `yaml:"response" enum:"single,stream,chunked"`
	// How long a service may take for its first answer. Default: the server's own.
	Threshold Duration `yaml:"threshold"`
	// The accounts that may import it. Servers ask for no activation: imports are signed by
	// the operator, and nscsetup signs no others. Not beside account_token_position.
	// Default: every account of the platform.
	Only []ident.Label `yaml:"only"`
	// The number, from 1, of a * in the subject that must be the importing account's key; so
	// nobody can speak for another account. Imports have {{account-subject()}} there.
	AccountTokenPosition int64 `yaml:"account_token_position" least:"1"`
	// Where latencies of a service with a single answer are published, and of how many of a
	// hundred requests; 0 is those alone that ask for it by a header.
	Latency *Trace `yaml:"latency"`
	// Whether catalogues may show it. Default: false.
	Advertise bool `yaml:"advertise"`
	// Whether requests to a service may be traced through it. Default: false.
	AllowTrace bool `yaml:"allow_trace"`
	// What it is for, for people.
	Description string `yaml:"description"`
	// A page about it.
	InfoURL string `yaml:"info_url" form:"url"`
}

// Import is what an account takes from another. No two services of an account have the
// same subject here; of streams no message comes twice.
type Import struct {
	// What it is, for people.
	Name string `yaml:"name"`
	// The account that exports it.
	From ident.Label `yaml:"from" required:"true"`
	// The subject as it is there. The word {{account-subject()}} is this account's key, where
	// the export asks for it (account_token_position).
	Subject string `yaml:"subject" required:"true" form:"subject"`
	// The subject as it is here, with a * for each of the subject, or each named once as $1,
	// $2 and so on. Default: the same.
	To string `yaml:"to" form:"subject"`
	// stream or service, as it is exported.
	Type string `yaml:"type" enum:"stream,service" required:"true"`
	// Whether a service is told who asks: account, key and JWT of the user. Herald's own
	// services always are. Default: false.
	Share bool `yaml:"share"`
	// Whether messages of a stream may be traced through it. Default: false.
	AllowTrace bool `yaml:"allow_trace"`
}

// Mapping turns a subject into others.
type Mapping struct {
	// The subject as it comes in; it may have wildcards.
	Subject string `yaml:"subject" required:"true" form:"subject"`
	// What becomes of it.
	To []MappedTo `yaml:"to" required:"true"`
}

// MappedTo is one thing that a subject becomes. What weights do not give to any stays
// with the subject.
type MappedTo struct {
	// The subject that it becomes. $1 is the first * of what comes in; functions of servers
	// are written without spaces, such as {{partition(3,1)}}.
	Subject string `yaml:"subject" required:"true" form:"mapping"`
	// Of how many of a hundred messages. Default: what the others in the same cluster leave.
	Weight int64 `yaml:"weight" least:"1" most:"100"`
	// In this cluster alone; it is a region's name. Default: in all that no entry names.
	Cluster string `yaml:"cluster" form:"region"`
}

// Trace is where something is told and of how much.
type Trace struct {
	// The subject, without wildcards.
	Subject string `yaml:"subject" required:"true" form:"subject"`
	// Of how many of a hundred. Default: 100.
	Sampling *int64 `yaml:"sampling" least:"0" most:"100"`
}

// Callout is external authorization of an account.
type Callout struct {
	// Public nkeys of the users who are not asked about: those of the service that decides.
	Users []ident.UserKey `yaml:"users" required:"true"`
	// Accounts that it may put users into. Default: this one alone.
	Accounts []ident.Label `yaml:"accounts"`
	// The public xkey that requests are sealed to. Default: they are not sealed.
	XKey string `yaml:"xkey" form:"xkey"`
}

// Role is a scoped signing key of an account, and what users under it may do. Every
// server takes that from the account, whatever the user's JWT says.
type Role struct {
	// The role's name, such as member.
	Name ident.Label `yaml:"name" required:"true"`
	// What it is for, for people.
	Description string `yaml:"description"`
	// Whether anyone may come to hold it: a person with a login, an invited guest, whoever
	// asks. Stricter rules hold for such roles. Grants to kinds of identities need it, but
	// for the kind key: access keys are given out one by one. Default: false.
	Public bool `yaml:"public"`
	// Whether it is meant to write: in an account with streams, any right to publish is a
	// right to write, because the answer lands where the sender says. Granted roles publish:
	// they ask for renewal. Default: false.
	Writes bool `yaml:"writes"`
	// What its users may publish. Default: nothing.
	Publish Permission `yaml:"publish"`
	// What its users may subscribe to. Default: nothing.
	Subscribe Permission `yaml:"subscribe"`
	// Lets its users answer requests on whatever subject the request names. Not for public
	// roles; services are better reached by import, and publish to _R_.>.
	AllowResponses *Responses `yaml:"allow_responses"`
	// How long its credentials live if nothing else is asked for; never longer than longest.
	// Default: that of credentials.
	Lifetime Duration `yaml:"lifetime"`
	// The longest that is given. Default: that of credentials.
	Longest Duration `yaml:"longest"`
	// Subscriptions of one connection. Default: no limit; 32 for public roles.
	Subscriptions *int64 `yaml:"subscriptions" least:"1"`
	// The largest message. Default: no limit; 20KiB for public roles.
	Payload *Size `yaml:"payload" least:"1"`
	// Bytes that may be sent; servers of this version do not look at it.
	Data *Size `yaml:"data" least:"1"`
	// How its users may connect. Public roles must name them, and not LEAFNODE or
	// LEAFNODE_WS. Default: STANDARD.
	ConnectionTypes []string `yaml:"connection_types" enum:"STANDARD,WEBSOCKET,LEAFNODE,LEAFNODE_WS,MQTT,MQTT_WS,IN_PROCESS"`
	// Networks that its users may connect from, such as 10.0.0.0/8. Default: any.
	Networks []string `yaml:"networks" form:"network"`
	// Hours of the day in which its users may be connected. Default: all.
	Hours []Hours `yaml:"hours"`
	// The time zone of the hours, such as Europe/Amsterdam; not without hours. Default: that
	// of each server.
	TimeZone string `yaml:"time_zone"`
	// Whether who has a JWT of this role needs no key. Not for roles that are granted, and
	// only where the account's limits have bearers. Default: false.
	Bearer bool `yaml:"bearer"`
	// Whether the role is for those who come in by auth callout, and for nobody else. Granted,
	// it has the inbox _INBOX_{{tag(kid)}}.> and does not ask for renewal. Not with networks,
	// which servers do not look at then: access keys have their own. Default: false.
	Callout bool `yaml:"callout"`
}

// Permission is what may be published or subscribed to. Subjects may have wildcards and
// templates: {{subject()}} is the user's own nkey, {{tag(key)}} the value of one of its
// tags, {{account-subject()}} the account's key, {{account-name()}} its name and
// {{account-tag(key)}} the value of one of its tags. {{name()}} is refused: whoever asks
// for a credential chooses the name, and a user named * would be everyone. An account's
// name and tags are the operator's own, and have no wildcards.
type Permission struct {
	// What is allowed; what is not on this list is not. Default: nothing.
	Allow []string `yaml:"allow" form:"subject"`
	// What is not allowed although it is on the other list.
	Deny []string `yaml:"deny" form:"subject"`
}

// Responses are rights to answer.
type Responses struct {
	// How many answers to one request. Default: 1.
	Max int64 `yaml:"max" least:"1"`
	// For how long after the request. Default: 2m.
	Expires Duration `yaml:"expires"`
}

// Hours is a part of the day; 22:00 to 06:00 is a night.
type Hours struct {
	// From, as 08:00 or 08:00:00.
	Start string `yaml:"start" required:"true" form:"clock"`
	// Until, as 18:00 or 18:00:00.
	End string `yaml:"end" required:"true" form:"clock"`
}

// Provider is an OpenID provider: who it is, and which of its tokens are believed.
type Provider struct {
	// The provider's name here, which is a part of identities: oidc:<provider>:<subject>. A
	// provider under an old name takes over the identities of the one before.
	Name ident.Label `yaml:"name" required:"true"`
	// The issuer, exactly as tokens have it in iss: an https address.
	Issuer string `yaml:"issuer" required:"true"`
	// Whom a token must be for (aud), one of them: the client ids of programs that people log
	// in with, or the name that the provider has for this platform.
	Audiences []string `yaml:"audiences" required:"true"`
	// Clients whose tokens are taken beside those of audiences (azp). Default: none.
	AuthorizedParties []string `yaml:"authorized_parties"`
	// Which tokens are taken: id and access. Default: id.
	Tokens []string `yaml:"tokens" enum:"id,access"`
	// How tokens may be signed. Default: RS256.
	Algorithms []string `yaml:"algorithms" enum:"RS256,RS384,RS512,PS256,PS384,PS512,ES256,ES384,ES512,EdDSA"`
	// The claim that says who it is; one that is never given to anybody else. Default: sub.
	SubjectClaim string `yaml:"subject_claim"`
	// The claim that is the name here, taken as it is: who has none that could be one is
	// refused. Default: none, and users ask for a name.
	NameClaim string `yaml:"name_claim"`
	// The claim with the groups. Default: none.
	GroupsClaim string `yaml:"groups_claim"`
	// What tokens must say besides, all of it, such as email_verified.
	Required []ClaimIs `yaml:"required"`
	// How old a token may be, where it ends later. Default: until it ends.
	MaxAge Duration `yaml:"max_age"`
	// Where the provider's keys are, for one without discovery. Default: where discovery
	// says.
	JWKSURL string `yaml:"jwks_url"`
	// Certificates in PEM that vouch for the provider's hosts. Default: those of the system
	// that issuers run on.
	CA string `yaml:"ca"`
}

// Identity gives an identity a name.
type Identity struct {
	// The name that grants use; not that of a kind. One with dots is in a category:
	// services.billing is in services.
	Name ident.Name `yaml:"name" required:"true"`
	// Who it is: open:<nkey>, key:<key id>, invite:<nkey> or oidc:<provider>:<subject>.
	Identity ident.Identity `yaml:"identity" required:"true"`
}

// Grant gives a role of CHAT, ADMIN or one of your accounts. Those of Herald's services
// and of guests are given when the platform is made.
type Grant struct {
	// To whom: the name of an identity, or an identity written out; those of a category,
	// such as services.DEFAULT; a kind of identities: open (whoever asks), invite (who has an
	// invitation for this role), key (who has an access key for it) or oidc (who has a
	// login); or DEFAULT, everybody. Kinds and DEFAULT need a public role, but for key, and
	// for logins with groups or claims.
	To string `yaml:"to" required:"true"`
	// The provider that must vouch; of logins alone. Default: any.
	Provider ident.Label `yaml:"provider"`
	// Groups of the provider, one of which they must be in. Default: none.
	Groups []string `yaml:"groups"`
	// What the provider must say besides, all of it. Default: nothing.
	Claims []ClaimIs `yaml:"claims"`
	// The account of the role.
	Account ident.Label `yaml:"account" required:"true"`
	// The role. Its users may also ask for platform information and renewal, and have an
	// inbox of their own, in every account.
	Role ident.Label `yaml:"role" required:"true"`
	// The name that goes with it; of grants to one identity alone. Default: what the login,
	// the access key or the invitation says, and else what is asked for.
	Name ident.Name `yaml:"name"`
	// How long credentials live if nothing else is asked for; never longer than longest.
	// Default: the role's.
	Lifetime Duration `yaml:"lifetime"`
	// The longest that is given; no longer than what the role itself says. Default: the
	// role's.
	Longest Duration `yaml:"longest"`
	// Tags that users get beside Herald's own, as key:value in lower case. Templates may use
	// them as {{tag(key)}}; what the role's templates name must be here. The keys identity,
	// region, kid, oidc, proven, met and by are Herald's own.
	Tags []string `yaml:"tags" form:"tag"`
}

// ClaimIs asks for what a provider says.
type ClaimIs struct {
	// The claim's name, such as repository; realm_access.roles is roles within realm_access.
	Claim string `yaml:"claim" required:"true"`
	// Its values, one of which it must have; true and numbers are written as text. One that
	// ends in * is the beginning of one.
	Values []string `yaml:"values" required:"true"`
}

// RoleRef names a role as ACCOUNT/ROLE; the zero value names none.
type RoleRef struct{ Account, Role ident.Label }

// Duration is a length of time, written as 500ms, 30m, 1h30m or 7d.
type Duration time.Duration

// Size is a number of bytes, written as 512, 64KiB, 1MiB, 10GiB or 1TiB.
type Size int64
