package doctor

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/nats-io/jwt/v2"

	"github.com/herald-nats/herald/pkg/subject"
)

// spares looks for operator signing keys to change to.
func (r *report) spares() {
	if r.Operator.Key == "" {
		return
	}
	for _, k := range r.Spares {
		if slices.Contains(r.Operator.SigningKeys, k) {
			return
		}
	}
	r.add("spare-missing", Warning, "the operator", "none of its %s is spare", count(len(r.Operator.SigningKeys), "signing key", "signing keys"))
}

// systemAccount is the account whose users decide over all others.
const systemAccount = "SYS"

// system looks who may do what in the system account.
func (r *report) system() {
	want := r.System.Want
	if want == nil {
		return
	}
	for _, found := range r.System.Found {
		r.systemKeys(want, found)
		for _, e := range found.Exports {
			if e != nil && !slices.ContainsFunc(want.Exports, func(w *jwt.Export) bool {
				return w != nil && w.Type == e.Type && subject.Covers(string(w.Subject), string(e.Subject))
			}) {
				r.add("system-export", Error, "account "+systemAccount, "it exports %s %s, which the platform file does not", e.Type, e.Subject)
			}
		}
	}
	for _, c := range r.System.Connections {
		if _, ok := want.SigningKeys.GetScope(c.Issuer); !ok {
			r.add("system-user", Error, server(c.Server), "user %s (%s) is in %s by key %s, which is of no role there", c.User, cmp.Or(c.Name, "no name"), systemAccount, c.Issuer)
		} else if c.Expires.IsZero() {
			r.add("system-forever", Warning, server(c.Server), "user %s (%s) in %s has a credential without an end", c.User, cmp.Or(c.Name, "no name"), systemAccount)
		}
	}
	for _, name := range r.System.Static {
		r.add("system-static", Warning, "user "+name, "it is a static user of %s", systemAccount)
	}
}

// systemKeys holds the roles of a system account against those that it should have.
func (r *report) systemKeys(want, found *jwt.AccountClaims) {
	for key, scope := range found.SigningKeys {
		where := "role " + systemAccount + "/" + key
		us, scoped := scope.(*jwt.UserScope)
		if scoped && us.Role != "" {
			where = "role " + systemAccount + "/" + us.Role
		}
		wanted, known := want.SigningKeys.GetScope(key)
		ws, ok := wanted.(*jwt.UserScope)
		switch {
		case !known:
			r.add("system-key", Error, where, "the platform has no such role: its key is %s", key)
		case !scoped || !ok:
			r.add("system-key", Error, where, "key %s has no template: who holds it gives any right", key)
		default:
			for _, more := range excess(ws.Template, us.Template) {
				r.add("system-rights", Error, where, "its users may %s, which the role does not need", more)
			}
		}
	}
}

// excess says what a template allows that another does not.
func excess(want, found jwt.UserPermissionLimits) []string {
	var out []string
	for _, side := range []struct {
		verb        string
		want, found jwt.Permission
	}{{"publish", want.Pub, found.Pub}, {"subscribe to", want.Sub, found.Sub}} {
		out = append(out, beyond(side.verb, side.want, side.found)...)
	}
	if found.Resp != nil && want.Resp == nil {
		out = append(out, "answer on any subject that they are asked to")
	}
	if found.BearerToken && !want.BearerToken {
		out = append(out, "connect without a key")
	}
	for _, t := range found.AllowedConnectionTypes {
		if len(want.AllowedConnectionTypes) > 0 && !want.AllowedConnectionTypes.Contains(t) {
			out = append(out, "connect as "+t)
		}
	}
	if len(found.AllowedConnectionTypes) == 0 && len(want.AllowedConnectionTypes) > 0 {
		out = append(out, "connect in every way")
	}
	return out
}

func beyond(verb string, want, found jwt.Permission) []string {
	denied := func(s string) bool {
		return slices.ContainsFunc(found.Deny, func(d string) bool { return subject.Covers(d, s) })
	}
	allowed := []string(found.Allow)
	if len(allowed) == 0 {
		allowed = []string{">"} // for a server an empty list is everything
	}
	var out []string
	for _, s := range allowed {
		if denied(s) || slices.ContainsFunc(want.Allow, func(w string) bool { return subject.Covers(w, s) }) {
			continue
		}
		out = append(out, fmt.Sprintf("%s %s", verb, s))
	}
	for _, d := range want.Deny {
		if len(want.Allow) > 0 && !denied(d) {
			out = append(out, fmt.Sprintf("%s %s", verb, d))
		}
	}
	return out
}
