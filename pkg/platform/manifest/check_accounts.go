package manifest

import (
	"cmp"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/subject"
)

// accountAt is one of the file's accounts while it is checked.
type accountAt struct {
	Account         // as the file has it
	at      string  // its path
	full    Account // with everything that Herald adds
	index   int     // of full among all accounts
	before  Account // what Herald has of that name, which comes first in every list
}

func (a *accountAt) called() string { return called("account", a.Name) }

func (c *checker) eachAccount() {
	seen := make(map[ident.Label]int, len(c.f.Accounts))
	for i := range c.f.Accounts {
		a := &accountAt{Account: c.f.Accounts[i], at: "accounts[" + strconv.Itoa(i) + "]", index: c.at[i]}
		a.full = c.all[a.index]
		if first, ok := seen[a.Name]; ok && !a.Name.IsZero() {
			c.bad(a.at+".name", "put everything into one entry", "account %s is there twice: it is number %d already", a.Name, first+1)
			if a.full.own {
				continue // what it says was merged with the first
			}
		}
		seen[a.Name] = i
		if !a.full.own && slices.Contains(OwnAccounts(), a.Name.String()) {
			c.bad(a.at+".name", "take another name", "%s is the name of Herald's own account for auth callout, which callout: true makes", a.Name)
		}
		if a.full.own {
			a.before = c.own[a.index]
			if !c.mayChange(a) {
				continue
			}
		}
		c.account(a)
	}
}

// mayChange refuses additions to Herald's own accounts, but for some to CHAT and SYS.
func (c *checker) mayChange(a *accountAt) bool {
	var not []string
	refuse := func(given bool, key string) {
		if given {
			not = append(not, key)
		}
	}
	switch a.Name.String() {
	case ChatIn:
	case System:
		refuse(a.Imports != nil, "imports")
		refuse(a.Mappings != nil, "mappings")
		refuse(a.Roles != nil, "roles")
		refuse(a.Tags != nil, "tags")
		refuse(a.Trace != nil, "trace")
		refuse(a.Limits != (Limits{}), "limits")
		refuse(a.Description != "", "description")
		refuse(a.InfoURL != "", "info_url")
	default:
		c.bad(a.at+".name", "take another name: an entry CHAT adds to that account, and one SYS may add exports", "%s is Herald's own account, which cannot be changed", a.Name)
		return false
	}
	refuse(a.JetStream != nil, "jetstream")
	refuse(a.Callout != nil, "callout")
	refuse(a.ClusterTraffic != "", "cluster_traffic")
	for _, key := range not {
		why := "members are in it, and whoever is beside streams can write and delete"
		if a.Name.String() == System {
			why = "only registrars and the set-up tool are in it: whoever may look there may also change what servers hold. Others import what it exports"
		}
		c.bad(a.at+"."+key, why, "%s cannot have %s of your own", a.Name, key)
	}
	return true
}

func (c *checker) account(a *accountAt) {
	c.text(a.at+".description", a.Description)
	c.url(a.at+".info_url", a.InfoURL)
	c.accountTags(a)
	c.limits(a)
	c.jetStream(a)
	c.exports(a)
	c.imports(a)
	c.mappings(a)
	if a.Trace != nil {
		c.trace(a.at+".trace", *a.Trace, 1)
	}
	c.callout(a)
	c.roles(a)
	if !a.full.own {
		c.size(a.at, a.index)
	}
}

// maxAccount is the largest account JWT, in bytes, that services read. They must also
// fit into a message.
const maxAccount = 1 << 20

// size refuses an account whose JWT could not be brought to servers. It counts what is
// there at least; who makes the JWT knows.
func (c *checker) size(at string, index int) {
	a := &c.all[index]
	n := 0
	for i := range a.Roles {
		r := &a.Roles[i]
		n += len(`{"kind":"user_scope","key":"","role":"","template":{},"description":""},`) + 56 + len(r.Name.String()) + len(r.Description)
		for _, list := range [][]string{r.Publish.Allow, r.Publish.Deny, r.Subscribe.Allow, r.Subscribe.Deny} {
			for _, s := range list {
				n += len(s) + len(`"",`)
			}
		}
	}
	for i := range a.Exports {
		n += len(`{"name":"","subject":"","type":"stream"},`) + 2*len(a.Exports[i].Subject)
	}
	for i := range a.Imports {
		n += len(`{"name":"","subject":"","account":"","type":"stream"},`) + 56 + 2*len(a.Imports[i].Subject) + len(a.Imports[i].To)
	}
	for i := range a.Mappings {
		for _, t := range a.Mappings[i].To {
			n += len(`{"subject":""},`) + len(t.Subject)
		}
	}
	n = n / 3 * 4 // base64
	if most := min(maxAccount, max(minPayload, int(cmp.Or(c.f.Servers.MaxPayload, DefaultMaxPayload)))); n > most {
		c.bad(at, "part it into several accounts", "account %s is too large to be brought to servers: its JWT has at least %d bytes, of %d", a.Name, n, most)
	}
}

func (c *checker) url(path, s string) {
	if s == "" {
		return
	}
	if u, err := url.Parse(s); err != nil || u.Hostname() == "" || u.Scheme == "" || len(s) > 2048 {
		c.bad(path, "such as https://example.com/orders", "%.120q is not the address of a page", s)
	}
}

func (c *checker) accountTags(a *accountAt) {
	for i, tag := range a.Tags {
		at := fmt.Sprintf("%s.tags[%d]", a.at, i)
		key, _, _ := strings.Cut(tag, ":")
		switch {
		case key == tagBase:
			c.bad(at, "use another key", "tags that begin with base are Herald's own: they number what it wrote")
		case !isTagValue(tag):
			c.bad(at, "servers lower-case tags: write key:value of a-z, 0-9 and . _ - / @ +", "%.80q is not a tag", tag)
		}
	}
	once(c, a.Tags, "tag", func(i int) string { return fmt.Sprintf("%s.tags[%d]", a.at, i) })
}

func (c *checker) limits(a *accountAt) {
	at, l := a.at+".limits", a.Limits
	if l == (Limits{}) {
		return
	}
	notNegative(c, at, ".connections", l.Connections, 0, "")
	notNegative(c, at, ".leafnodes", l.Leafnodes, 0, "")
	notNegative(c, at, ".subscriptions", l.Subscriptions, 0, "")
	notNegative(c, at, ".data", l.Data, 0, "")
	notNegative(c, at, ".imports", l.Imports, 0, "")
	notNegative(c, at, ".exports", l.Exports, 0, "")
	notNegative(c, at, ".payload", l.Payload, 0, "")
	if most := cmp.Or(c.f.Servers.MaxPayload, DefaultMaxPayload); l.Payload != nil && *l.Payload > most {
		c.bad(at+".payload", "make one of them larger or smaller", "payload %s is larger than servers take: servers.max_payload is %s", *l.Payload, most)
	}
	if n := int64(len(a.full.Imports)); l.Imports != nil && *l.Imports >= 0 && n > *l.Imports {
		c.bad(at+".imports", "imports that Herald adds for granted roles count, too", "the account has %d imports, and may have %d", n, *l.Imports)
	}
	if n := int64(len(a.full.Exports)); l.Exports != nil && *l.Exports >= 0 && n > *l.Exports {
		c.bad(at+".exports", "raise the limit, or export less", "the account has %d exports, and may have %d", n, *l.Exports)
	}
}

func (c *checker) jetStream(a *accountAt) {
	js := a.JetStream
	if js == nil {
		return
	}
	if len(js.Tiers) == 0 {
		c.store(a.at+".jetstream", js.StoreLimits)
		return
	}
	if js.StoreLimits != (StoreLimits{}) {
		c.bad(a.at+".jetstream", "say it in each of the tiers", "limits for all streams stand beside tiers, and servers take one or the other")
	}
	for name, limits := range js.Tiers {
		c.store(a.at+".jetstream.tiers."+name, limits)
	}
}

func (c *checker) store(at string, l StoreLimits) {
	const none = "is none to servers"
	notNegative(c, at, ".memory", l.Memory, 0, "")
	notNegative(c, at, ".disk", l.Disk, 0, "")
	notNegative(c, at, ".streams", l.Streams, 1, none)
	notNegative(c, at, ".consumers", l.Consumers, 1, none)
	notNegative(c, at, ".ack_pending", l.AckPending, 1, none)
	notNegative(c, at, ".memory_stream", l.MemoryStream, 1, none)
	notNegative(c, at, ".disk_stream", l.DiskStream, 1, none)
	if l.Memory != nil && *l.Memory == 0 && l.Disk != nil && *l.Disk == 0 {
		c.bad(at, "leave out jetstream for an account without streams", "nothing may be stored, neither in memory nor on disk")
	}
}

// trace checks where something is told; least is the smallest sampling.
func (c *checker) trace(at string, t Trace, least int64) {
	if t.Subject != "" {
		if reason, hint := wrongSubject(t.Subject); reason != "" {
			c.bad(at+".subject", hint, "%s", reason)
		}
	}
	if s := t.Sampling; s != nil && (*s < least || *s > 100) {
		c.bad(at+".sampling", "it is how many of a hundred", "sampling is %d; it is from %d to 100", *s, least)
	}
}

func (c *checker) callout(a *accountAt) {
	co := a.Callout
	if co == nil {
		return
	}
	at := a.at + ".callout"
	once(c, co.Users, "user", func(i int) string { return fmt.Sprintf("%s.users[%d]", at, i) })
	once(c, co.Accounts, "account", func(i int) string { return fmt.Sprintf("%s.accounts[%d]", at, i) })
	for i, name := range co.Accounts {
		where := fmt.Sprintf("%s.accounts[%d]", at, i)
		j, ok := c.accounts[name]
		switch {
		case name.IsZero():
		case !ok:
			c.missing(where, "accounts", c.nearAccount(name), "there is no account %s", name)
		case c.all[j].services:
			c.bad(where, "name accounts of users", "callout would let users into %s, where Herald's services are", name)
		}
	}
	if co.XKey != "" {
		if _, err := ident.ParseSealKey(co.XKey); err != nil {
			reason, hint := parts(err)
			c.bad(at+".xkey", hint, "%s", reason)
		}
	}
	for i, r := range a.Roles {
		if !r.Name.IsZero() && c.granted(RoleRef{a.Name, r.Name}) {
			c.bad(fmt.Sprintf("%s.roles[%d]", a.at, i), "have an account of its own for callout, with nobody else in it", "role %s is granted, and callout is asked about everyone who comes to this account, also with a credential", r.Name)
		}
	}
}

func (c *checker) granted(ref RoleRef) bool {
	return slices.ContainsFunc(c.f.Grants, func(g Grant) bool { return g.Account == ref.Account && g.Role == ref.Role })
}

// nearAccount is a hint for who named an account that is not there.
func (c *checker) nearAccount(name ident.Label) string {
	if len(c.problems) > maxProblems {
		return "" // nobody will read it
	}
	names := make([]string, len(c.all))
	for i, a := range c.all {
		names[i] = a.Name.String()
	}
	if near := nearest(name.String(), names); near != "" {
		return "did you mean " + near + "?"
	}
	return "add it to accounts, or name one that is there"
}

func (c *checker) mappings(a *accountAt) {
	subjects := make([]string, len(a.Mappings))
	for i, m := range a.Mappings {
		at := fmt.Sprintf("%s.mappings[%d]", a.at, i)
		subjects[i] = m.Subject
		if m.Subject != "" {
			if reason, hint := plainPattern(m.Subject); reason != "" {
				c.bad(at+".subject", hint, "%s", reason)
			} else if area := taken(m.Subject); area != "" {
				c.bad(at+".subject", "map subjects of your own", "%q takes what is Herald's or the servers' own: %s", m.Subject, area)
			}
		}
		c.mappedTo(at, m)
	}
	once(c, subjects, "the mapping of", func(i int) string { return fmt.Sprintf("%s.mappings[%d].subject", a.at, i) })
}

// taken is the area of Herald's or the servers' own subjects that a pattern is in.
func taken(s string) string {
	if strings.HasPrefix(s, "_INBOX_") {
		return "_INBOX_"
	}
	for _, area := range []string{issuingArea, systemArea, replyArea, jetStreamArea, "_INBOX.>"} {
		if subject.Overlaps(s, area) {
			return area
		}
	}
	return ""
}

func (c *checker) mappedTo(at string, m Mapping) {
	to := make([]string, len(m.To))
	total, open := map[string]int64{}, map[string]int{}
	for i, t := range m.To {
		to[i] = t.Subject
		where := fmt.Sprintf("%s.to[%d]", at, i)
		if t.Subject != "" && m.Subject != "" {
			if reason, hint := wrongMapping(m.Subject, t.Subject); reason != "" {
				c.bad(where+".subject", hint, "%s", reason)
			}
		}
		if t.Cluster != "" && !slices.ContainsFunc(c.f.Regions, func(r Region) bool { return r.Name.String() == t.Cluster }) {
			c.missing(where+".cluster", "regions", "a cluster has its region's name: "+c.regionNames(), "there is no cluster %.64q", t.Cluster)
		}
		switch {
		case t.Weight < 0 || t.Weight > 100:
			c.bad(where+".weight", "it is how many of a hundred messages", "weight is %d; it is from 1 to 100", t.Weight)
			continue
		case t.Weight == 0:
			open[t.Cluster]++
		}
		total[t.Cluster] += t.Weight
		switch {
		case total[t.Cluster] > 100:
			c.bad(where+".weight", "make them 100 in each cluster", "weights of %q come to %d of a hundred messages", m.Subject, total[t.Cluster])
		case open[t.Cluster] > 1 || open[t.Cluster] == 1 && total[t.Cluster] == 100:
			c.bad(where, "give each a weight", "nothing is left of %q: one alone may leave its weight out, and gets what the others leave", m.Subject)
			open[t.Cluster] = 0
		}
	}
	once(c, to, "the target", func(i int) string { return fmt.Sprintf("%s.to[%d].subject", at, i) })
}
