package manifest

import (
	"fmt"
	"slices"
	"strings"

	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/subject"
)

// Areas of subjects that are Herald's or the servers' own.
const (
	issuingArea   = "auth.v1.>"
	systemArea    = "$SYS.>"
	replyArea     = subject.ImportedReplies
	jetStreamArea = "$JS.>"
	calloutDoor   = "$SYS.REQ.USER.AUTH" // where servers ask about users
)

func (c *checker) exports(a *accountAt) {
	for i, e := range a.Exports {
		at := fmt.Sprintf("%s.exports[%d]", a.at, i)
		c.text(at+".name", e.Name)
		c.text(at+".description", e.Description)
		c.url(at+".info_url", e.InfoURL)
		c.exportSubject(at, a, e)
		c.exportOptions(at, a, e)
		once(c, e.Only, "account", func(k int) string { return fmt.Sprintf("%s.only[%d]", at, k) })
		for k, name := range e.Only {
			where := fmt.Sprintf("%s.only[%d]", at, k)
			if _, ok := c.accounts[name]; !ok && !name.IsZero() {
				c.missing(where, "accounts", c.nearAccount(name), "there is no account %s", name)
			} else if name == a.Name {
				c.bad(where, "name accounts that may import it", "an account needs no import of its own")
			}
		}
	}
	for _, kind := range []string{stream, service} {
		c.exportsOnce(a, kind)
	}
}

func (c *checker) exportSubject(at string, a *accountAt, e Export) {
	if e.Subject == "" {
		return
	}
	if reason, hint := plainPattern(e.Subject); reason != "" {
		c.bad(at+".subject", hint, "%s", reason)
		return
	}
	if w := a.Limits.WildcardExports; w != nil && !*w && subject.HasWildcard(e.Subject) {
		c.bad(at+".subject", "export subjects one by one, or leave wildcard_exports out", "%q has a wildcard, and wildcard_exports is false", e.Subject)
	}
	if a.Name.String() != System {
		return
	}
	if len(e.Only) == 0 {
		c.bad(at, "name the accounts of your administrators in only", "an export of SYS without only is for every account")
	}
	for _, area := range []string{
		"$SYS.REQ.CLAIMS.>", "$SYS.REQ.ACCOUNT.*.CLAIMS.UPDATE", "$SYS.REQ.SERVER.*.RELOAD", "$SYS.REQ.SERVER.*.KICK", "$SYS.REQ.SERVER.*.LDM", calloutDoor,
	} {
		if e.Type == service && subject.Overlaps(e.Subject, area) && !subject.Covers("$SYS.REQ.SERVER.PING.>", e.Subject) {
			c.bad(at+".subject", "export what only looks, such as $SYS.REQ.SERVER.PING.VARZ", "%q lets others change what servers hold: %s is for registrars and the set-up tool", e.Subject, area)
			break
		}
	}
}

func (c *checker) exportOptions(at string, a *accountAt, e Export) {
	if e.Type == stream {
		const hint = "leave it out for streams, or export a service"
		if e.Response != "" {
			c.bad(at+".response", hint, "response is for services: a stream has no answers")
		}
		if e.Threshold != 0 {
			c.bad(at+".threshold", hint, "threshold is for services: a stream has no answers")
		}
		if e.Latency != nil {
			c.bad(at+".latency", hint, "latency is for services: a stream has no answers")
		}
		if e.AllowTrace {
			c.bad(at+".allow_trace", "say it at the import", "allow_trace is for services; for a stream its importer says it")
		}
	}
	if e.Threshold < 0 {
		c.bad(at+".threshold", "leave it out for the servers' own", "threshold cannot be below 0")
	}
	if l := e.Latency; l != nil && e.Type == service {
		c.trace(at+".latency", *l, 0)
		if e.Response != "" && e.Response != "single" {
			c.bad(at+".latency", "leave it out, or have response: single", "servers measure the latency of services with a single answer only")
		}
		if slices.ContainsFunc(a.full.Exports, func(o Export) bool { return o.Type == service && subject.Covers(o.Subject, l.Subject) }) {
			c.bad(at+".latency.subject", "choose a subject that is not exported", "%q is exported as a service itself", l.Subject)
		}
	}
	c.tokenPosition(at, e)
}

func (c *checker) tokenPosition(at string, e Export) {
	n := e.AccountTokenPosition
	if n == 0 {
		return
	}
	words := strings.Split(e.Subject, ".")
	switch {
	case len(e.Only) > 0:
		c.bad(at+".account_token_position", "have one of them", "where it is set, servers do not look at only")
	case n < 0 || n > int64(len(words)):
		c.bad(at+".account_token_position", "count the words from 1", "%q has %d words, and no number %d", e.Subject, len(words), n)
	case words[n-1] != "*":
		c.bad(at+".account_token_position", "it is the number of a * in the subject, from 1", "word %d of %q is %s, not *", n, e.Subject, words[n-1])
	}
}

// exportsOnce refuses exports of one kind that overlap. jwt refuses those that are
// within each other; of others that overlap, servers take for an import whichever they
// come upon.
func (c *checker) exportsOnce(a *accountAt, kind string) {
	var subjects []string
	var from []int // in the account's full list
	for i, e := range a.full.Exports {
		if reason, _ := plainPattern(e.Subject); e.Type == kind && reason == "" {
			subjects, from = append(subjects, e.Subject), append(from, i)
		}
	}
	for i, j := range overlapping(subjects) {
		at := from[i] - len(a.before.Exports)
		if j < 0 || at < 0 {
			continue
		}
		where := fmt.Sprintf("%s.exports[%d].subject", a.at, at)
		if subjects[i] == subjects[j] {
			c.bad(where, "remove one of them", "%s %q is exported twice", kind, subjects[i])
		} else {
			c.bad(where, "export one of them, or what does not overlap", "%s %q overlaps %q, which is exported, too", kind, subjects[i], subjects[j])
		}
	}
}

func (c *checker) imports(a *accountAt) {
	unclear := map[int]bool{}
	for i, imp := range a.Imports {
		at := fmt.Sprintf("%s.imports[%d]", a.at, i)
		c.text(at+".name", imp.Name)
		if imp.Share && imp.Type == stream {
			c.bad(at+".share", "leave it out for streams", "share is for services: nobody is asked for a stream")
		}
		if imp.AllowTrace && imp.Type == service {
			c.bad(at+".allow_trace", "say it at the export", "allow_trace is for streams; for a service its exporter says it")
		}
		if c.importSubjects(at, a, imp) {
			c.exported(at, a, imp)
			c.cycle(at, a, imp)
		} else {
			unclear[len(a.before.Imports)+i] = true
		}
	}
	c.importsOnce(a, unclear)
}

// importSubjects checks how an import's subjects are written, there and here.
func (c *checker) importSubjects(at string, a *accountAt, imp Import) bool {
	if imp.Subject == "" {
		return false
	}
	there := withKey(imp.Subject)
	if reason, hint := plainPattern(there); reason != "" {
		if strings.ContainsAny(there, "{}") {
			hint = "{{account-subject()}} alone is known here, as a whole word: the importing account's key"
		}
		c.bad(at+".subject", hint, "%s", reason)
		return false
	}
	here := withKey(imp.To)
	if here != "" {
		if reason, hint := wrongLocal(there, here); reason != "" {
			c.bad(at+".to", hint, "%s", reason)
			return false
		}
	}
	return c.importArea(at, a, imp)
}

// importArea refuses imports whose subject here is what Herald or the servers answer.
func (c *checker) importArea(at string, a *accountAt, imp Import) bool {
	where := at + ".subject"
	if imp.To != "" {
		where = at + ".to"
	}
	fromOwn := false
	if j, ok := c.accounts[imp.From]; ok {
		fromOwn = c.all[j].own
	}
	local := withKey(imp.local())
	switch {
	case subject.Overlaps(local, systemArea):
		if local != calloutDoor || a.Callout == nil || imp.Type != service {
			c.bad(where, "give it another subject here, as to; "+calloutDoor+" is for an account with callout", "%q takes in what servers answer themselves, %s", local, systemArea)
			return false
		}
	case imp.Type == service && subject.Overlaps(local, issuingArea) && (!fromOwn || local != imp.Subject):
		c.bad(where, "give it another subject here, as to", "%q would take requests for credentials to %q of %s", local, imp.Subject, imp.From)
		return false
	case imp.Type == service && a.full.JetStream != nil && subject.Overlaps(local, jetStreamArea),
		imp.Type == stream && a.full.JetStream != nil && (subject.Overlaps(local, "$JS.API.>") || subject.Overlaps(local, "$JS.*.API.>")):
		c.bad(where, "give it another subject here, as to", "%q is where the account's own streams are asked", local)
		return false
	case subject.Overlaps(local, replyArea), subject.Overlaps(local, "_INBOX.>"), strings.HasPrefix(local, "_INBOX_"):
		c.bad(where, "give it another subject here, as to", "%q is where answers go", local)
		return false
	}
	return true
}

// ownKey is the importing account's key in an import's subject.
const ownKey = "{{" + fnAccountSubject + "}}"

// withKey puts a key in place of ownKey, for what only looks at the shape of a subject.
// Whose it is makes no difference.
func withKey(s string) string {
	if !strings.Contains(s, ownKey) {
		return s
	}
	words := strings.Split(s, ".")
	for i, w := range words {
		if w == ownKey {
			words[i] = strings.Repeat("A", 56) // a key as any other: 32 bytes of 0
		}
	}
	return strings.Join(words, ".")
}

// exported looks for what is imported among what the other account exports.
func (c *checker) exported(at string, a *accountAt, imp Import) {
	if imp.From.IsZero() || imp.Type != stream && imp.Type != service {
		return
	}
	j, ok := c.accounts[imp.From]
	switch {
	case !ok:
		c.missing(at+".from", "accounts", c.nearAccount(imp.From), "there is no account %s", imp.From)
		return
	case imp.From == a.Name:
		c.bad(at+".from", "what is in the account is there without an import", "an account cannot import from itself")
		return
	case imp.From.String() == Ledger || imp.From.String() == Readers:
		c.bad(at+".from", "credentials and their issuers are reached in "+Auth, "%s is for Herald's own services alone", imp.From)
		return
	}
	from := c.all[j]
	there := withKey(imp.Subject)
	found, other := -1, false // other: as the other kind
	c.trades(j, tradeExports).near(there, func(i int) bool {
		if subject.Covers(from.Exports[i].Subject, there) {
			if from.Exports[i].Type == imp.Type {
				found = i
			} else {
				other = true
			}
		}
		return found < 0
	})
	if found < 0 {
		c.notExported(at, imp, from, other)
		return
	}
	c.permitted(at, a, imp, from.Exports[found], there)
}

// trade is what of an account is looked through: its exports, the subjects of its imports
// there, or here.
type trade struct {
	account int
	what    uint8
}

const (
	tradeExports uint8 = iota
	tradeThere
	tradeHere
)

// trades is the index of an account's exports or imports, made when it is first needed.
func (c *checker) trades(account int, what uint8) *index {
	key := trade{account, what}
	if x := c.traded[key]; x != nil {
		return x
	}
	x := new(index)
	c.traded[key] = x
	a := &c.all[account]
	if what == tradeExports {
		for i := range a.Exports {
			x.add(a.Exports[i].Subject, i)
		}
		return x
	}
	for i := range a.Imports {
		if what == tradeThere {
			x.add(withKey(a.Imports[i].Subject), i)
		} else {
			x.add(withKey(a.Imports[i].local()), i)
		}
	}
	return x
}

func (c *checker) notExported(at string, imp Import, from Account, other bool) {
	if other {
		kinds := map[string]string{stream: service, service: stream}
		c.bad(at+".type", "it is a "+kinds[imp.Type], "%s exports %q as a %s, not as a %s", imp.From, imp.Subject, kinds[imp.Type], imp.Type)
		return
	}
	var offers []string
	for _, e := range from.Exports {
		if e.Type == imp.Type && len(offers) < 8 {
			offers = append(offers, e.Subject)
		}
	}
	hint := imp.From.String() + " exports no " + imp.Type
	if len(offers) > 0 {
		hint = "of " + imp.From.String() + " there is " + strings.Join(offers, ", ")
		if near := nearest(imp.Subject, offers); near != "" {
			hint = "did you mean " + near + "?"
		}
	}
	c.missing(at+".subject", "accounts.exports", hint, "%s exports no %s %q", imp.From, imp.Type, imp.Subject)
}

// permitted checks that an export is for the account.
func (c *checker) permitted(at string, a *accountAt, imp Import, e Export, there string) {
	if len(e.Only) > 0 && !slices.Contains(e.Only, a.Name) {
		c.bad(at, "add "+a.Name.String()+" to its only", "%s exports %q to some accounts only, and %s is none of them", imp.From, e.Subject, a.Name)
	}
	n := e.AccountTokenPosition
	words := strings.Split(there, ".")
	switch {
	case n <= 0 && strings.Contains(imp.Subject, ownKey):
		c.bad(at+".subject", "write out the subject, or have the export ask for the key", "%s does not ask for the account's key in %q", imp.From, e.Subject)
	case n > 0 && (n > int64(len(words)) || !isAccountKey(words[n-1])):
		c.bad(at+".subject", "have {{account-subject()}} as that word", "word %d of %q must be the importing account's key: %s asks for it", n, imp.Subject, imp.From)
	}
}

func isAccountKey(s string) bool {
	_, err := ident.ParseAccountKey(s)
	return err == nil
}

// importsOnce refuses imports that bring one thing twice. Of services there is one on
// each subject: a request would go to both. Streams may come together on a subject, but
// each message once.
//
// In unclear are those whose subjects were refused.
func (c *checker) importsOnce(a *accountAt, unclear map[int]bool) {
	var services, streams []string
	var serviceAt, streamAt []int
	for i, imp := range a.full.Imports {
		if unclear[i] || imp.Subject == "" {
			continue
		}
		switch imp.Type {
		case service:
			services, serviceAt = append(services, withKey(imp.local())), append(serviceAt, i)
		case stream:
			streams, streamAt = append(streams, imp.From.String()+"."+withKey(imp.Subject)), append(streamAt, i)
		}
	}
	c.twice(a, services, serviceAt)
	c.twice(a, streams, streamAt)
}

// twice reports the imports of a list that overlap earlier ones. An import that Herald
// adds comes last, and what it meets is the file's.
func (c *checker) twice(a *accountAt, patterns []string, from []int) {
	first, n := len(a.before.Imports), len(a.Imports)
	for i, j := range overlapping(patterns) {
		if j < 0 {
			continue
		}
		mine, other := from[i], from[j]
		if mine-first >= n {
			mine, other = other, mine
		}
		if mine < first || mine-first >= n {
			continue // both are Herald's
		}
		where := fmt.Sprintf("%s.imports[%d]", a.at, mine-first)
		m, o := a.full.Imports[mine], a.full.Imports[other]
		switch {
		case m.Subject == o.Subject && m.From == o.From && (m.Type == stream || m.local() == o.local()):
			c.bad(where, "remove one of them", "%s %q of %s is imported twice; servers pass over the second", m.Type, m.Subject, m.From)
		case m.Type == stream:
			c.bad(where, "remove one of them, or import what does not overlap", "stream %q of %s overlaps %q, which is imported, too: messages would come twice", m.Subject, m.From, o.Subject)
		default:
			c.bad(where, "give it another subject here, as to", "%s %q is %q here, which overlaps %q, imported from %s", m.Type, m.Subject, m.local(), o.local(), o.From)
		}
	}
}

// cycle refuses an import through which a message would come back to where it was: of the
// last of these, servers make nothing, and which is the last is chance. It looks as
// servers do (checkServiceImportsForCycles, checkStreamImportsForCycles), who take for a
// circle also what comes together again.
func (c *checker) cycle(at string, a *accountAt, imp Import) {
	j, ok := c.accounts[imp.From]
	if !ok || j == a.index {
		return
	}
	starts := []string{withKey(imp.local())}
	if imp.Type == stream && imp.To != "" {
		starts = append(starts, withKey(imp.Subject))
	}
	for _, s := range starts {
		way := c.comesBack(j, s, imp.Type, map[int]bool{a.index: true})
		if way == nil {
			continue
		}
		names := []string{a.Name.String()}
		for _, k := range slices.Backward(way) {
			names = append(names, c.all[k].Name.String())
		}
		c.bad(at, "remove one of these imports, or give it another subject", "%s %q goes in a circle: %s", imp.Type, imp.Subject, strings.Join(names, " from "))
		return
	}
}

// comesBack gives, the last first, the way of imports from an account to one that was
// met before.
func (c *checker) comesBack(account int, s, kind string, met map[int]bool) []int {
	here := place{account, s, kind}
	if c.noWay[here] {
		return nil
	}
	a := &c.all[account]
	exports, what := kind == service, tradeThere
	if kind == stream {
		what = tradeHere
		c.trades(account, tradeExports).near(s, func(i int) bool {
			exports = a.Exports[i].Type == stream && subject.Overlaps(a.Exports[i].Subject, s)
			return !exports
		})
	}
	var way []int
	if exports {
		c.trades(account, what).near(s, func(i int) bool {
			way = c.through(account, &a.Imports[i], s, kind, met)
			return way == nil
		})
	}
	if way != nil {
		return append(way, account)
	}
	// Who is met again is met again from wherever one begins.
	c.noWay[here] = true
	return nil
}

// through is comesBack by one import.
func (c *checker) through(account int, imp *Import, s, kind string, met map[int]bool) []int {
	next, ok := c.accounts[imp.From]
	if !ok || imp.Type != kind || next == account { // that one is refused for itself
		return nil
	}
	local := withKey(imp.local())
	seen := local
	if kind == service {
		seen = withKey(imp.Subject)
	}
	if !subject.Overlaps(s, seen) {
		return nil
	}
	if met[next] {
		return []int{next}
	}
	met[account] = true
	if subject.Covers(s, local) {
		s = local
	}
	return c.comesBack(next, s, kind, met)
}
