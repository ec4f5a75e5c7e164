package permission

import (
	"fmt"
	"strings"

	"github.com/nats-io/jwt/v2"

	"github.com/herald-nats/herald/pkg/subject"
)

// Verdict is what a server answers, and why.
type Verdict struct {
	Allowed bool
	// OnlyAsReply: it is denied, but for an answer to a request that came with this as
	// its reply subject, within the limits of Rights.Replies.
	OnlyAsReply bool
	// Rule is the line that decided. It is zero where none did: where all is allowed that
	// is not denied, or where what is allowed does not have it; Note says which.
	Rule Rule
	// Filtered are the denials that an allowed subscription overlaps. It is made, and
	// what they match is not delivered to it.
	Filtered []Rule
	// Note is what else there is to say to a person, or empty. It is one sentence without a
	// full stop, or several with "; " between.
	Note string
}

// String is one line for people.
func (v Verdict) String() string {
	s := "denied"
	if v.Allowed {
		s = "allowed"
	}
	if !v.Rule.IsZero() {
		s += " by " + v.Rule.String()
	}
	if v.Note != "" {
		s += ": " + v.Note
	}
	return s
}

func (v *Verdict) note(format string, args ...any) {
	if v.Note != "" {
		v.Note += "; "
	}
	v.Note += fmt.Sprintf(format, args...)
}

// implied is a denial that is in the servers and in no list.
func implied(d Direction, subj, queue string) Rule {
	return Rule{Source: FromServer, Direction: d, Effect: Deny, Index: -1, Subject: subj, Queue: queue}
}

// calloutRequests is where servers ask an account for authentication. Its users cannot
// ask in their place.
const calloutRequests = "$SYS.REQ.USER.AUTH"

// Publish decides upon one message. It is asked for the subject as it would be sent:
// servers let a wildcard through and take it for a word like any other, so "a.*" here is
// not every subject of that form. The error wraps ErrSubject.
func (r *Rights) Publish(subj string) (Verdict, error) {
	if !subject.ValidPattern(subj) {
		return Verdict{}, fmt.Errorf("publishing to %.256q: %w", subj, ErrSubject)
	}
	var v Verdict
	if subject.HasWildcard(subj) {
		v.note("servers take a wildcard for a word like any other where one publishes: this is not about what it would match")
	}
	// Where gateways route replies; it is looked at before anything else.
	for _, reserved := range []string{"_GR_.>", "$GR.>"} {
		if subject.Matches(reserved, subj) {
			v.Rule = implied(Publishing, reserved, "")
			v.note("reserved for servers")
			return v, nil
		}
	}
	r.decidePublish(&v, subj)
	const raft = "$NRG.>"
	if !r.account.System && subject.Matches(raft, subj) && (v.Allowed || v.OnlyAsReply) {
		return Verdict{Rule: implied(Publishing, raft, ""), Note: "reserved for servers"}, nil
	}
	return v, nil
}

func (r *Rights) decidePublish(v *Verdict, subj string) {
	v.Allowed = !r.publish.only
	for _, rule := range r.publish.allow {
		if subject.Matches(rule.Subject, subj) {
			v.Allowed, v.Rule = true, rule
			break
		}
	}
	for _, rule := range r.publish.deny {
		if (v.Allowed || rule.Index < 0) && subject.Matches(rule.Subject, subj) {
			v.deny(rule)
			break
		}
	}
	if !v.Allowed && v.Rule.IsZero() {
		v.note("not among what is allowed")
	}
	if v.Allowed && r.account.Callout && subj == calloutRequests {
		v.Allowed, v.Rule = false, implied(Publishing, calloutRequests, "")
		v.note("the account's users are authenticated by what answers there")
	}
	switch {
	case v.Allowed && v.Rule.IsZero():
		v.note("all is allowed that is not denied")
	case !v.Allowed && r.replies != nil:
		v.OnlyAsReply = true
		v.note("only as a reply, %s", limits(*r.replies))
	}
}

// deny is the verdict by a rule that denies; it explains the one that nobody wrote.
func (v *Verdict) deny(by Rule) {
	v.Allowed, v.Rule = false, by
	if by.Index < 0 {
		v.note("no line that allows something could be expanded for this user")
	}
}

// limits says how often and how long one may reply.
func limits(p jwt.ResponsePermission) string {
	many, long := "any number of times", "at any time"
	if p.MaxMsgs == 1 {
		many = "once"
	} else if p.MaxMsgs > 0 {
		many = fmt.Sprintf("up to %d times", p.MaxMsgs)
	}
	if p.Expires > 0 {
		long = "within " + p.Expires.String()
	}
	return many + " " + long
}

// systemQueue is the servers' own queue group.
const systemQueue = "_sys_"

// Subscribe decides upon a subscription, with wildcards or without; queue is its queue
// group, or empty. The error wraps ErrSubject.
//
// Servers compare the words of the subscription, not what they mean. So who may
// subscribe to "a.*" may subscribe to "a.>" as well, and gets all that is under it: Note
// says so. In the same way a denial of "a.*" keeps one from "a.>", but not from "*.b",
// which is Filtered.
func (r *Rights) Subscribe(pattern, queue string) (Verdict, error) {
	if !subject.ValidPattern(pattern) {
		return Verdict{}, fmt.Errorf("subscribing to %.256q: %w", pattern, ErrSubject)
	}
	if strings.ContainsAny(queue, " \t\r\n") {
		return Verdict{}, fmt.Errorf("subscribing with the queue group %.256q: %w", queue, ErrSubject)
	}
	v := Verdict{Allowed: !r.subscribe.only}
	if r.subscribe.only {
		r.allowSubscribe(&v, pattern, queue)
	}
	if v.Allowed {
		r.denySubscribe(&v, pattern, queue)
	}
	if v.Allowed && queue == systemQueue {
		v = Verdict{Rule: implied(Subscribing, ">", systemQueue), Note: "reserved for servers"}
	}
	if !v.Allowed {
		return v, nil
	}
	if v.Rule.IsZero() {
		v.note("all is allowed that is not denied")
	} else if !subject.Covers(v.Rule.Subject, pattern) {
		v.note("servers take > for one word here: more is delivered than the line says")
	}
	for _, rule := range r.subscribe.deny {
		if (rule.Queue == "" || queue != "" && queueMatches(queue, rule.Queue)) && subject.Overlaps(rule.Subject, pattern) {
			v.Filtered = append(v.Filtered, rule)
		}
	}
	if len(v.Filtered) > 0 {
		v.note("what is denied within it is not delivered")
	}
	return v, nil
}

func (r *Rights) allowSubscribe(v *Verdict, pattern, queue string) {
	var plain, group, other Rule // for anybody, for this queue group, for another
	for _, rule := range r.subscribe.allow {
		if !subject.Matches(rule.Subject, pattern) {
			continue
		}
		switch {
		case rule.Queue == "":
			plain = better(plain, rule, pattern)
		case queue != "" && queueMatches(queue, rule.Queue):
			group = better(group, rule, pattern)
		default:
			other = better(other, rule, pattern)
		}
	}
	switch {
	case !group.IsZero():
		v.Allowed, v.Rule = true, group
	case !plain.IsZero() && (queue == "" || other.IsZero()):
		v.Allowed, v.Rule = true, plain
	case !other.IsZero() && queue != "":
		// As soon as one queue group is named for a subject, no other may have it.
		v.Rule = other
		v.note("for another queue group")
	case !other.IsZero():
		v.Rule = other
		v.note("for a queue group only")
	default:
		v.note("not among what is allowed")
	}
}

// better is the first rule, unless only the second allows all that pattern means.
func better(have, next Rule, pattern string) Rule {
	if have.IsZero() || !subject.Covers(have.Subject, pattern) && subject.Covers(next.Subject, pattern) {
		return next
	}
	return have
}

func (r *Rights) denySubscribe(v *Verdict, pattern, queue string) {
	var plain, group Rule
	for _, rule := range r.subscribe.deny {
		if !subject.Matches(rule.Subject, pattern) {
			continue
		}
		if rule.Queue == "" && plain.IsZero() {
			plain = rule
		}
		if rule.Queue != "" && queue != "" && group.IsZero() && queueMatches(queue, rule.Queue) {
			group = rule
		}
	}
	if plain.IsZero() {
		plain = group
	}
	if !plain.IsZero() {
		v.deny(plain)
	}
}

// queueMatches compares the name of a queue group with that of a rule, which may have
// wildcards. A word of the rule that begins with "*" is any word (isSubsetMatchTokenized
// looks at its first byte alone).
func queueMatches(queue, of string) bool {
	if queue == of {
		return true
	}
	if !subject.HasWildcard(of) {
		return false
	}
	for {
		w, restOf, moreOf := strings.Cut(of, ".")
		q, rest, more := strings.Cut(queue, ".")
		switch {
		case w == ">":
			return true // also where the name has nothing more between its dots
		case q == "" || q == ">":
			return false
		case q == "*" && w != "*":
			return false
		case q != "*" && w[0] != '*' && q != w:
			return false
		case !moreOf || !more:
			return moreOf == more
		}
		of, queue = restOf, rest
	}
}

// Reach are the rules by which the user may publish to, or is delivered, anything that
// is in pattern, in some queue group or in none: for linters. It may name a rule too many,
// where several denials together leave nothing of it, and none too few, but for replies,
// which have their own limits (Replies). Where all is allowed that is not denied, the
// rule says ">" and is the server's.
func (r *Rights) Reach(d Direction, pattern string) []Rule {
	s := r.publish
	if d == Subscribing {
		s = r.subscribe
	}
	allow := s.allow
	if !s.only {
		allow = []Rule{{Source: FromServer, Direction: d, Effect: Allow, Index: -1, Subject: ">"}}
	}
	var reach []Rule
	for _, rule := range allow {
		if subject.Overlaps(widest(d, rule.Subject), pattern) && !shadowed(s.deny, rule.Subject, pattern) {
			reach = append(reach, rule)
		}
	}
	return reach
}

// shadowed tells whether one denial leaves nothing of a rule, or nothing of pattern. One
// for a queue group leaves everything to the others.
func shadowed(deny []Rule, rule, pattern string) bool {
	for _, d := range deny {
		if d.Queue == "" && (subject.Covers(d.Subject, rule) || subject.Covers(d.Subject, pattern)) {
			return true
		}
	}
	return false
}

// widest is the widest that one may have with a rule; see Rights.Subscribe.
func widest(d Direction, rule string) string {
	if d == Subscribing && (rule == "*" || strings.HasSuffix(rule, ".*")) {
		return rule[:len(rule)-1] + ">"
	}
	return rule
}
