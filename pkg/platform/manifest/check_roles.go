package manifest

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
	_ "time/tzdata" // a time zone must not be unknown where the file is checked, such as in a container

	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/subject"
)

// roleAt is a role of the file while it is checked.
type roleAt struct {
	Role           // as the file has it
	at      string // its path
	full    Role   // with what every credential needs, if it is granted
	account *accountAt
}

func (r *roleAt) called() string { return called("role", r.Name) }

func (c *checker) roles(a *accountAt) {
	names := make([]ident.Label, 0, len(a.full.Roles))
	for _, r := range a.full.Roles {
		names = append(names, r.Name)
	}
	before := len(a.before.Roles)
	once(c, names, "role", func(i int) string { return fmt.Sprintf("%s.roles[%d].name", a.at, i-before) })
	for i := range a.Roles {
		r := &roleAt{Role: a.Roles[i], at: a.at + ".roles[" + strconv.Itoa(i) + "]", full: a.full.Roles[before+i], account: a}
		c.role(r)
	}
}

func (c *checker) role(r *roleAt) {
	c.text(r.at+".description", r.Description)
	publish := c.patterns(r, "publish.allow", r.Publish.Allow)
	c.patterns(r, "publish.deny", r.Publish.Deny)
	subscribe := c.patterns(r, "subscribe.allow", r.Subscribe.Allow)
	c.patterns(r, "subscribe.deny", r.Subscribe.Deny)
	c.systemRights(r, "publish", publish)
	c.systemRights(r, "subscribe", subscribe)
	c.listening(r, subscribe)
	c.writing(r)
	if r.Public {
		c.public(r, publish)
	}
	c.roleLimits(r)
	c.whence(r)
	if r.Callout {
		c.byCallout(r)
	}
}

// byCallout checks a role for those who come in by auth callout.
func (c *checker) byCallout(r *roleAt) {
	if len(r.Networks) > 0 {
		c.bad(r.at+".networks", "give networks to the access keys", "%s is for auth callout, where servers do not look at networks", r.called())
	}
	for i, t := range r.ConnectionTypes {
		if t == "LEAFNODE" || t == "LEAFNODE_WS" {
			c.bad(fmt.Sprintf("%s.connection_types[%d]", r.at, i), "leave it out", "%s is for auth callout, and leafnodes do not come in by it", r.called())
		}
	}
	if !c.f.Callout && c.granted(RoleRef{r.account.Name, r.Name}) {
		c.bad(r.at+".callout", "say callout: true at the top of the file, too", "%s is granted to who comes in by auth callout, which is off", r.called())
	}
}

// patterns reads a list of subjects; what cannot be read is left empty in its place.
func (c *checker) patterns(r *roleAt, key string, list []string) []pattern {
	if len(list) == 0 {
		return nil
	}
	out := make([]pattern, len(list))
	for i, s := range list {
		if s == "" {
			c.bad(fmt.Sprintf("%s.%s[%d]", r.at, key, i), "remove it", "a subject is empty")
			continue
		}
		p, reason, hint := parsePattern(s)
		if reason == "" {
			reason, hint = c.accountTagsOf(r, p)
		}
		if reason != "" {
			c.bad(fmt.Sprintf("%s.%s[%d]", r.at, key, i), hint, "%s", reason)
			continue
		}
		out[i] = p
	}
	once(c, list, "subject", func(i int) string { return fmt.Sprintf("%s.%s[%d]", r.at, key, i) })
	return out
}

// accountTagsOf checks that the account has the tags that a pattern names: where one is
// not there, servers drop what is allowed, and refuse the user for what is denied.
func (c *checker) accountTagsOf(r *roleAt, p pattern) (reason, hint string) {
	for _, key := range p.tags(fnAccountTag) {
		values := valuesOf(r.account.full.Tags, key)
		if len(values) == 0 {
			return fmt.Sprintf("%s has no tag %s", r.account.called(), key), "add " + key + ":value to its tags"
		}
		for _, v := range values {
			if !isWord(v) {
				return fmt.Sprintf("the tag %s:%s of %s is more than one word of a subject", key, v, r.account.called()), "write the value without dots"
			}
		}
	}
	return "", ""
}

// valuesOf are the values of a key in a list of tags.
func valuesOf(tags []string, key string) []string {
	var values []string
	for _, t := range tags {
		if v, ok := strings.CutPrefix(t, key+":"); ok {
			values = append(values, v)
		}
	}
	return values
}

// systemRights refuses rights to what servers answer: a right to look there may be one
// to change.
func (c *checker) systemRights(r *roleAt, key string, allow []pattern) {
	for i, p := range allow {
		if p.text != "" && p.reaches(systemArea, r.account.Name.String()) {
			c.bad(fmt.Sprintf("%s.%s.allow[%d]", r.at, key, i), "name your own subjects, such as orders.>", "%q reaches what servers answer, %s: whoever may look there may also change it", p.text, systemArea)
		}
	}
}

// listening refuses rights to read what is for others.
func (c *checker) listening(r *roleAt, allow []pattern) {
	account := r.account.Name.String()
	for i, p := range allow {
		refuse := func(hint, format string) {
			c.bad(fmt.Sprintf("%s.subscribe.allow[%d]", r.at, i), hint, format, p.text)
		}
		switch {
		case p.text == "":
		case p.inInboxes(account) && !p.ownInbox():
			refuse("have "+subject.UserInbox+", and the same prefix in the client", "with %q users read each other's answers")
		case p.reaches(replyArea, account):
			refuse("a service publishes to _R_.>; nobody subscribes to it", "with %q users read answers to other accounts")
		case p.reaches(issuingArea, account):
			refuse("choose other subjects: "+issuingArea+" is Herald's", "with %q users hear others ask for credentials, and could answer")
		}
	}
}

// writing holds that beside streams nobody publishes who is not meant to write: the
// answer to any request lands where its sender says, also in a stream.
func (c *checker) writing(r *roleAt) {
	if r.account.full.JetStream == nil || r.Writes {
		return
	}
	const hint = "say writes: true if that is meant, or have the role in an account without streams, which imports what it needs"
	switch {
	case len(r.Publish.Allow) > 0:
		c.bad(r.at+".publish", hint, "%s has streams, and %s may publish: that is a right to write to any of them", r.account.called(), r.called())
	case len(r.full.Publish.Allow) > 0:
		c.bad(r.at, hint, "%s has streams, and %s is granted: asking for renewal is a right to write to any of them", r.account.called(), r.called())
	case r.AllowResponses != nil:
		c.bad(r.at+".allow_responses", hint, "%s has streams, and %s may answer: that is a right to write to any of them", r.account.called(), r.called())
	}
}

// public holds what anybody may come to have to stricter rules.
func (c *checker) public(r *roleAt, publish []pattern) {
	if r.account.full.JetStream != nil {
		c.bad(r.at+".public", "have public roles in an account without streams, which imports what it needs", "%s is public, and %s has streams: whoever is beside streams can write and delete", r.called(), r.account.called())
	}
	if r.account.full.services {
		c.bad(r.at+".public", "have public roles in accounts of their own", "%s is public, and Herald's services are in %s", r.called(), r.account.called())
	}
	if r.AllowResponses != nil {
		c.bad(r.at+".allow_responses", "export the service, import it where its users are, and let it publish to _R_.>", "%s is public: with allow_responses it could write wherever a request says", r.called())
	}
	if len(r.ConnectionTypes) == 0 {
		c.bad(r.at, "say connection_types: [STANDARD, WEBSOCKET]", "%s is public, and names no connection_types", r.called())
	}
	for i, t := range r.ConnectionTypes {
		if t == "LEAFNODE" || t == "LEAFNODE_WS" {
			c.bad(fmt.Sprintf("%s.connection_types[%d]", r.at, i), "leave it out", "%s is public: through a leafnode, whoever is behind it would ask in the name of one user", r.called())
		}
	}
	for i, p := range publish {
		if p.text == "" {
			continue
		}
		reach, by := c.reaches(r.account.index, p)
		if reach == 0 {
			continue
		}
		at := fmt.Sprintf("%s.publish.allow[%d]", r.at, i)
		if reach&reachStreams != 0 {
			c.bad(at, "answer history and the like by a service", "%s is public: with %q%s its users make and change streams and consumers, and a consumer delivers wherever its maker says", r.called(), p.text, by)
		}
		if reach&reachSystem != 0 {
			c.bad(at, "have such rights in roles that are not public", "%s is public: %q%s reaches the servers' own account", r.called(), p.text, by)
		}
	}
}

// place is a subject in an account, or an import's of a kind.
type place struct {
	account int
	subject string
	kind    string
}

// reach is where a right to publish comes to.
type reach uint8

const (
	reachStreams reach = 1 << iota // streams and consumers are made and changed there
	reachSystem                    // the servers' own account
)

// streamAreas are the requests by which streams and consumers are made and changed, also
// those of a JetStream domain. Reading by direct get is none of them.
func streamAreas() []string {
	var all []string
	for _, api := range []string{"$JS.API.", "$JS.*.API."} {
		for _, what := range []string{
			"CONSUMER.>", "STREAM.CREATE.>", "STREAM.UPDATE.>", "STREAM.DELETE.>", "STREAM.PURGE.>", "STREAM.RESTORE.>", "STREAM.SNAPSHOT.>",
			"STREAM.MSG.DELETE.>", "STREAM.PEER.>", "STREAM.LEADER.>", "ACCOUNT.>", "META.>", "SERVER.>",
		} {
			all = append(all, api+what)
		}
	}
	return all
}

// reaches tells where a right to publish in an account comes to, in the account itself
// and by its imports; by names the import.
func (c *checker) reaches(account int, p pattern) (all reach, by string) {
	name := c.all[account].Name.String()
	if p.reaches(jetStreamArea, name) && slices.ContainsFunc(c.streamAreas, func(area string) bool { return p.reaches(area, name) }) {
		all |= reachStreams
	}
	for i := range c.all[account].Imports {
		imp := &c.all[account].Imports[i]
		if imp.Type != service || !p.reaches(withKey(imp.local()), name) {
			continue
		}
		if more := c.comesTo(imp, 0); more&^all != 0 {
			all |= more
			by = fmt.Sprintf(", which is %q of %s,", imp.Subject, imp.From)
		}
	}
	return all, by
}

// comesTo tells where requests by an import come to.
func (c *checker) comesTo(imp *Import, depth int) reach {
	j, ok := c.accounts[imp.From]
	if !ok || depth > 16 {
		return 0
	}
	there := withKey(imp.Subject)
	at := place{j, there, ""}
	if known, ok := c.reach[at]; ok {
		return known
	}
	c.reach[at] = 0 // where it goes in a circle, nothing is added
	var all reach
	if c.all[j].Name.String() == System {
		all |= reachSystem
	}
	if slices.ContainsFunc(c.streamAreas, func(area string) bool { return subject.Overlaps(there, area) }) {
		all |= reachStreams
	}
	c.trades(j, tradeHere).near(there, func(i int) bool {
		if next := &c.all[j].Imports[i]; next.Type == service && subject.Overlaps(there, withKey(next.local())) {
			all |= c.comesTo(next, depth+1)
		}
		return true
	})
	c.reach[at] = all
	return all
}

func (c *checker) roleLimits(r *roleAt) {
	const none = "is no limit to servers"
	notNegative(c, r.at, ".subscriptions", r.Subscriptions, 1, none)
	notNegative(c, r.at, ".data", r.Data, 1, none)
	notNegative(c, r.at, ".payload", r.Payload, 1, none)
	if r.Payload != nil {
		c.rolePayload(r)
	}
	if a := r.AllowResponses; a != nil {
		if a.Max < 0 {
			c.bad(r.at+".allow_responses.max", "leave it out for one", "max cannot be below 0")
		}
		if a.Expires < 0 {
			c.bad(r.at+".allow_responses.expires", "leave it out for 2m", "expires cannot be below 0")
		}
	}
	if r.Lifetime != 0 || r.Longest != 0 {
		c.lifetimes(r.at, r.Lifetime, r.Longest, c.longest(Role{}))
	}
	if l := r.account.Limits; r.Bearer && !l.Bearers {
		c.bad(r.at+".bearer", "say limits: {bearers: true} at the account, or leave bearer out", "%s has bearers, and %s refuses them", r.called(), r.account.called())
	}
}

func (c *checker) longest(r Role) Duration {
	_, longest := c.f.Lifetimes(r)
	return longest
}

func (c *checker) rolePayload(r *roleAt) {
	most, whose := c.f.Servers.MaxPayload, "servers.max_payload"
	if most == 0 {
		most = DefaultMaxPayload
	}
	if l := r.account.Limits.Payload; l != nil && *l < most {
		most, whose = *l, "the account's limits.payload"
	}
	if *r.Payload > most {
		c.bad(r.at+".payload", "make one of them larger or smaller", "payload %s of %s is larger than %s, %s", *r.Payload, r.called(), whose, most)
	}
}

// whence checks from where, how and when users of a role may connect.
func (c *checker) whence(r *roleAt) {
	once(c, r.ConnectionTypes, "connection type", func(i int) string { return fmt.Sprintf("%s.connection_types[%d]", r.at, i) })
	for i, s := range r.Networks {
		p, err := netip.ParsePrefix(s)
		switch at := fmt.Sprintf("%s.networks[%d]", r.at, i); {
		case err != nil:
			c.bad(at, "such as 10.0.0.0/8, or 192.0.2.7/32 for one address", "%.64q is not a network", s)
		case p.Masked().String() != s:
			c.bad(at, "did you mean "+p.Masked().String()+"?", "%.64q is not how this network is written", s)
		}
	}
	once(c, r.Networks, "network", func(i int) string { return fmt.Sprintf("%s.networks[%d]", r.at, i) })
	for i, h := range r.Hours {
		at := fmt.Sprintf("%s.hours[%d]", r.at, i)
		start, startOK := c.clock(at+".start", h.Start)
		end, endOK := c.clock(at+".end", h.End)
		if startOK && endOK && start.Equal(end) {
			c.bad(at, "leave hours out for the whole day", "hours that end when they start are none")
		}
	}
	if r.TimeZone == "" {
		return
	}
	at := r.at + ".time_zone"
	if _, err := time.LoadLocation(r.TimeZone); err != nil || r.TimeZone == "Local" {
		c.bad(at, "such as Europe/Amsterdam or UTC", "there is no time zone %.64q", r.TimeZone)
	} else if len(r.Hours) == 0 {
		c.bad(at, "add hours, or leave it out", "time_zone is for hours, and %s has none", r.called())
	}
}

// clock reads a time of day.
func (c *checker) clock(path, s string) (time.Time, bool) {
	if s == "" {
		return time.Time{}, false // missing
	}
	for _, layout := range []string{"15:04", "15:04:05"} {
		if t, err := time.Parse(layout, s); err == nil && len(s) == len(layout) {
			return t, true
		}
	}
	c.bad(path, "such as 08:00 or 17:30:00", "%.32q is not a time of day", s)
	return time.Time{}, false
}
