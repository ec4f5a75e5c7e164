package doctor

import (
	"maps"
	"slices"
)

// Kind is what all findings of one id have in common.
type Kind struct {
	ID  string
	Why string // why it matters
	Do  string // what to do about it
}

// Kinds are all kinds of findings, by id.
func Kinds() []Kind {
	all := kinds()
	out := make([]Kind, 0, len(all))
	for _, id := range slices.Sorted(maps.Keys(all)) {
		out = append(out, all[id])
	}
	return out
}

func kinds() map[string]Kind {
	all := map[string]Kind{}
	for _, part := range [][]Kind{serverKinds(), linkKinds(), jetStreamKinds(), trustKinds(), serviceKinds(), lifeKinds()} {
		for _, k := range part {
			all[k.ID] = k
		}
	}
	return all
}

func serverKinds() []Kind {
	return []Kind{
		{
			NobodyAnswers,
			"Nothing can be said about servers, accounts and services.",
			"Start the servers, and see that this machine reaches the addresses of platform.yaml.",
		},
		{
			"server-silent",
			"Its region has one server less to lose, and it hears of no change until it is back.",
			"Look at its log and start it again. Registrars bring it what it missed.",
		},
		{
			"region-silent",
			"Its clients go to other regions, and revocations are not known there until it is back. Where it is home, no name and no invite can be had.",
			"Look at the region's machines and network; start its servers.",
		},
		{
			"region-cut-off",
			"Both sides work, and do not hear of each other's changes: a revocation of the one side is not known on the other.",
			"Look at the network between the two, and at the gateway addresses of platform.yaml. Nothing has to be repaired by hand when the link is back.",
		},
		{
			"server-twice",
			"JetStream tells servers apart by name: with two of one name it loses replicas.",
			"Stop one of them, and give it the name that platform.yaml has for it.",
		},
		{
			"server-unknown",
			"It belongs to this supercluster and has all accounts, but nobody counts on it, and changes are not confirmed by it.",
			"Add it to platform.yaml and apply, or stop it.",
		},
		{
			"server-elsewhere",
			"Streams and clients are placed by the name of the cluster.",
			"Correct its configuration: render it anew with 'nscsetup config render'.",
		},
		{
			"server-terse",
			"What is not examined is not known to be right.",
			"Run doctor again; if it stays, look at the server's load and its log.",
		},
		{
			"server-unhealthy",
			"The server itself says that it does not serve all that it should.",
			"Look at its log. After a start it may only need time to catch up.",
		},
		{
			"server-full",
			"When it is full it refuses clients.",
			"Raise servers.max_connections in platform.yaml, or add servers.",
		},
		{
			"slow-consumers",
			"Those clients lost messages. A few are usual over weak links.",
			"If they are many, look at who they are ('nats server report connections') and at the network.",
		},
		{
			"clock-apart",
			"Credentials and revocations are dated. Behind a slow clock what was just issued is not valid yet; a fast one lets credentials escape revocation; from 30 s apart issuers refuse requests.",
			"Let all machines set their clocks by NTP.",
		},
		{
			"clock-here",
			"What this machine signs is dated by its clock: users of the set-up tool are refused, and accounts look older or newer than they are.",
			"Set this machine's clock by NTP.",
		},
		{
			"version-old",
			"The platform's safety rests on fixes that servers before 2.14.7 lack.",
			"Upgrade it, one server of a region at a time.",
		},
		{
			"version-mix",
			"Usual while servers are upgraded one by one, and nothing to stay with: what one allows another may refuse.",
			"Finish the upgrade.",
		},
		{
			"region-thin",
			"Streams of the region have three replicas and need two. With two servers it can lose none, with one it has lost its streams.",
			"Start the servers that are missing.",
		},
		{
			"region-heavy",
			"JetStream decides by majority of all servers. Without it streams that exist go on, but nothing new can be made anywhere.",
			"Use three regions of the same size, or accept it.",
		},
		{
			"region-one-machine",
			"One machine that fails takes the whole region along.",
			"Spread its servers over machines, and zones where there are any.",
		},
		{
			"region-alone",
			"When it is gone, everything is.",
			"Add regions in platform.yaml, if the platform is more than a trial.",
		},
		{
			"payload-mix",
			"An account JWT that fits one server may not fit another, and a message that one takes another drops.",
			"Use the configuration of 'nscsetup config render' on all servers, and reload them.",
		},
		{
			"control-line-mix",
			"A user that one server accepts another refuses.",
			"Use the configuration of 'nscsetup config render' on all servers, and reload them.",
		},
		{
			"control-line-short",
			"A user JWT travels in CONNECT, and a server refuses a CONNECT that is longer than max_control_line.",
			"Shorten its tags and name, or raise max_control_line on all servers.",
		},
		{
			"resolver-partial",
			"A server without a full resolver keeps no accounts of its own: what it knows of them depends on others, and nobody can see it.",
			"Give every server the resolver of 'nscsetup config render' (type: full).",
		},
	}
}

func linkKinds() []Kind {
	return []Kind{
		{
			"gateway-missing",
			"Gateways pass nothing on: regions that have none between them do not hear each other at all, also not through a third.",
			"Look at the network between the two and at the gateway addresses in platform.yaml; a server dials again by itself.",
		},
		{
			"route-missing",
			"Servers of a region pass nothing on either: clients of the one do not hear those of the other.",
			"Look at the network between them and at the cluster addresses in platform.yaml.",
		},
		{
			"clients-in-the-clear",
			"Whoever is on the way reads all messages and changes them. Credentials cannot be stolen that way, but for those of bearers: seeds are not sent.",
			"Turn TLS on in platform.yaml, and issue certificates with 'nscsetup tls'.",
		},
		{
			"links-in-the-clear",
			"Whoever is on the way reads everything, and whoever reaches that address may join as a server, which reads and sends anything in any account.",
			"Turn mutual TLS on for routes and gateways in platform.yaml, or let a firewall keep others away.",
		},
		{
			"monitoring-open",
			"The pages show accounts, users and addresses of clients.",
			"Choose a monitor address that only your own can reach.",
		},
	}
}

func jetStreamKinds() []Kind {
	return []Kind{
		{
			"jetstream-off",
			"Streams cannot be placed on it, so that its region has fewer to choose from.",
			"Turn JetStream on: use the configuration of 'nscsetup config render'.",
		},
		{
			"jetstream-leaderless",
			"Without a meta leader no stream and no consumer can be made. Streams that exist go on where they have a majority.",
			"Start servers until more than half of all run and reach each other.",
		},
		{
			"jetstream-split",
			"Only one of them has a majority; the others will find out.",
			"Run doctor again. If it stays, the servers belong to several superclusters: look at their gateways.",
		},
		{
			"jetstream-away",
			"It counts towards the majority that JetStream needs.",
			"Start it, or remove it for good ('nats server cluster peer-remove').",
		},
		{
			"jetstream-behind",
			"It catches up; until then it cannot lead.",
			"Wait; if it stays, look at its disk and its load.",
		},
		{
			"jetstream-ghost",
			"A server that is no more counts towards the majority that JetStream needs.",
			"Remove it ('nats server cluster peer-remove').",
		},
		{
			"stream-leaderless",
			"Nothing can be written to it, and reads go unanswered.",
			"Start the servers that have its replicas: it needs more than half of them.",
		},
		{
			"stream-single",
			"When that server is gone, so is the stream: at least until it is back.",
			"Give the stream three replicas.",
		},
		{
			"stream-thin",
			"It has fewer replicas to lose than it was made for.",
			"Start those servers.",
		},
		{
			"stream-behind",
			"A read from that replica gives what was, and it cannot lead.",
			"Wait; if it stays, look at that server's disk and load.",
		},
	}
}

func trustKinds() []Kind {
	return []Kind{
		{
			"operator-foreign",
			"It believes accounts of somebody else, and none of this platform.",
			"Give it the configuration of 'nscsetup config render', and restart it.",
		},
		{
			"operator-differs",
			"What one server takes as signed by the operator another refuses. Servers read the operator JWT only when they start.",
			"Restart all servers with the newest operator JWT, one of a region at a time, before any account is signed with a new key.",
		},
		{
			"operator-old",
			"It refuses accounts that are signed with a key that it does not know, or still takes those of a key that was withdrawn.",
			"Restart it with the folder's operator JWT. If the folder is the older one, restore it.",
		},
		{
			"operator-lax",
			"The identity keys of operator and accounts need not be online; with this server one that is stolen is as good as a signing key.",
			"Restart it with the folder's operator JWT.",
		},
		{
			"spare-missing",
			"When a signing key is stolen a new one needs a restart of all servers first. A spare that they know already can be used at once.",
			"Add a spare operator signing key to the operator JWT, and restart all servers, one of a region at a time.",
		},
		{
			"system-key",
			"Whoever holds that key makes users of the system account, who may push any account.",
			"Find out who added it; take it out of the account with 'nscsetup apply', and treat all operator signing keys as stolen if nobody knows.",
		},
		{
			"system-rights",
			"In the system account a right to ask is a right to push: an answer lands wherever its asker wants.",
			"Bring the account back to what the platform file says, with 'nscsetup apply'.",
		},
		{
			"system-export",
			"Other accounts can ask the servers through it.",
			"Bring the account back to what the platform file says, with 'nscsetup apply'.",
		},
		{
			"system-user",
			"It may be anybody, and may push any account.",
			"Close the connection by taking its key out of the account, and find out who it is.",
		},
		{
			"system-forever",
			"Its creds file, once copied, is of use for ever.",
			"Replace it by one with an end, and revoke it.",
		},
		{
			"system-static",
			"Whoever gets its creds file may push any account, until it ends. Registrars and the set-up tool have short-lived users of their own.",
			"Use accounts of administrators instead (ADMIN), and let it end.",
		},
		{
			"account-astray",
			"Servers that are not in line allow what was taken back, and refuse what was granted.",
			"Registrars bring it in line within seconds, if they run and reach the servers. See 'nscsetup status'; 'nscsetup apply' does it, too.",
		},
		{
			"account-foreign",
			"Servers store what they are sent, whoever signed it, and then refuse all users of the account.",
			"Find out who pushed it: it takes a user of SYS. Registrars hear of it and push the right one within seconds, and look at all accounts about once a minute besides.",
		},
		{
			"account-conflict",
			"Two changed the account at once, and neither knew of the other. Registrars push neither.",
			"Decide with 'nscsetup plan' and 'nscsetup apply': a newer version ends it.",
		},
		{
			"account-fat",
			"An account JWT travels as one message; above max_payload it cannot be pushed, and no user can be revoked any more.",
			"Raise servers.max_payload in platform.yaml before that. What fills it are mostly revocations, which go when they are older than the longest lifetime.",
		},
	}
}

func serviceKinds() []Kind {
	return []Kind{
		{
			"issuer-missing",
			"Requests of its clients go to another region, as long as one answers.",
			"Start an issuer there: 'provisioner run --config' with its folder.",
		},
		{
			"issuer-single",
			"While it restarts, requests of its clients go to another region.",
			"Start a second one on another machine, with the same folder.",
		},
		{
			"registrar-missing",
			"Nobody there decides names (in home), keeps the region's revocations, or brings accounts to servers that come back.",
			"Start a registrar there: 'provisioner run --config' with its folder.",
		},
		{
			"registrar-single",
			"While it restarts nobody brings accounts to the region's servers.",
			"Start a second one on another machine, with the same folder.",
		},
		{
			"service-stale",
			"It decides by what it knows: what was revoked since, it does not know.",
			"Look at its log, at the links between regions and at the streams of LEDGER.",
		},
		{
			"service-no-copy",
			"It works. If it starts while JetStream is away, it has nothing to start from.",
			"Make room on its disk, or set state in provisioner.yaml to a folder that it may write.",
		},
		{
			"service-mix",
			"Usual during an upgrade, and nothing to stay with.",
			"Finish the upgrade.",
		},
		{
			"document-mix",
			"They go by different policies: what one grants another refuses.",
			"Wait a moment; if it stays, look at the log of those with the older one.",
		},
		{
			"role-broken",
			"Credentials of it are made and refused by every server.",
			"Correct the role in platform.yaml and apply.",
		},
		{
			"tutorial-door",
			"All guests are one user with one inbox. Whoever comes in by that door is whoever listened.",
			"Take tutorial_door out of platform.yaml once the tutorial is over, and apply.",
		},
		{
			"role-unused",
			"A key that nobody needs can only be stolen.",
			"Grant it, or take it out of platform.yaml.",
		},
	}
}

func lifeKinds() []Kind {
	return []Kind{
		{
			"account-expired",
			"Servers refuse its users. /healthz does not tell.",
			"Sign it anew: 'nscsetup apply'.",
		},
		{
			"account-ending",
			"When it has ended servers refuse its users.",
			"Sign it anew: 'nscsetup apply'.",
		},
		{
			"credential-expired",
			"Who uses it is refused.",
			"Make a new one: 'nscsetup up' renews those of services by itself; for a static user 'nscsetup add user ACCOUNT/ROLE NAME --renew'. Delete the file of one that was meant to end.",
		},
		{
			"credential-ending",
			"When it has ended who uses it is refused. Whoever should renew it did not.",
			"Make a new one: 'nscsetup up' renews those of services by itself; for a static user 'nscsetup add user ACCOUNT/ROLE NAME --renew'.",
		},
		{
			"certificate-expired",
			"Connections with it are refused.",
			"'nscsetup tls rotate', and reload the servers.",
		},
		{
			"certificate-ending",
			"When it has ended connections with it are refused.",
			"'nscsetup tls rotate', and reload the servers.",
		},
		{
			"certificate-early",
			"Until then connections with it are refused.",
			"See that the clock of whoever issued it is right.",
		},
	}
}
