package nscmap

import (
	"fmt"
	"slices"
	"strings"

	"github.com/nats-io/jwt/v2"

	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/platform/manifest"
)

// imports brings the imports of all accounts into one form, and then the exports that are
// private: who may import them is to be seen in the imports alone.
func (m *mover) imports() {
	m.importers = map[string][]importer{}
	for _, a := range m.accounts {
		a.c.Imports = slices.DeleteFunc(a.c.Imports, func(i *jwt.Import) bool { return !a.imported(i) })
		for _, i := range a.c.Imports {
			m.importers[i.Account] = append(m.importers[i.Account], importer{a, i})
		}
	}
	refused := map[*jwt.Import]bool{}
	for _, a := range m.accounts {
		a.only = map[*jwt.Export][]ident.Label{}
		a.c.Exports = slices.DeleteFunc(a.c.Exports, func(e *jwt.Export) bool {
			of := a.importersOf(e)
			return a.system && !a.needed(e, of) || e.TokenReq && !a.private(e, of, refused)
		})
	}
	for _, a := range m.accounts {
		a.c.Imports = slices.DeleteFunc(a.c.Imports, func(i *jwt.Import) bool { return refused[i] })
		for _, i := range a.c.Imports {
			i.Token = ""
		}
		for _, e := range a.c.Exports {
			e.TokenReq, e.Revocations = false, nil
		}
	}
}

// importer is an account with one of its imports.
type importer struct {
	of *account
	i  *jwt.Import
}

// importersOf are those who import an export.
func (a *account) importersOf(e *jwt.Export) []importer {
	var all []importer
	for _, i := range a.m.importers[a.key] {
		if i.i.Type == e.Type && i.i.Subject.IsContainedIn(e.Subject) {
			all = append(all, i)
		}
	}
	return all
}

func (a *account) itemOf(i *jwt.Import) string {
	from := i.Account
	if f := a.m.byKey[i.Account]; f != nil {
		from = f.src
	}
	return a.item("imports", from, i.Type.String(), string(i.Subject))
}

// imported brings one import into form; false if it is refused.
func (a *account) imported(i *jwt.Import) bool {
	from := a.m.byKey[i.Account]
	switch {
	case from == nil:
		a.m.refuse(a.itemOf(i), "the account that it is from is not in the store, or does not go along", "bring that account along, or leave the import out")
		return false
	case i.GetTo() != "":
		a.m.refuse(a.itemOf(i), "it says in the old way (to) what it is called here", "make it anew with nsc, with --local-subject, or leave it out")
		return false
	}
	if i.Name == "" {
		i.Name = from.name.String() + " " + string(i.Subject)
	}
	if i.Type == jwt.Service && from.own && !i.Share {
		i.Share = true
		a.m.note(a.itemOf(i), "%s is told who asks (share): services of Herald's accounts always are", from.name)
	}
	return true
}

// needed tells whether anybody imports what the system account exports. nsc has it export
// something from the start.
func (a *account) needed(e *jwt.Export, of []importer) bool {
	if len(of) > 0 {
		return true
	}
	a.m.note(a.itemOfExport(e), "nobody imports it, and it does not go along: Herald's system account exports to named accounts alone")
	return false
}

func (a *account) itemOfExport(e *jwt.Export) string {
	return a.item("exports", e.Type.String(), string(e.Subject))
}

// private finds the accounts that may import an export that asks for an activation. They
// are named in the description, where whoever else imports it is refused. False if it is
// refused itself; imports that are go into refused.
func (a *account) private(e *jwt.Export, of []importer, refused map[*jwt.Import]bool) bool {
	var holders []ident.Label
	for _, b := range of {
		if why := a.inactive(e, b.of, b.i); why != "" {
			a.m.refuse(b.of.itemOf(b.i), why, "give it a new activation with nsc, or leave the import out")
			refused[b.i] = true
		} else if !slices.Contains(holders, b.of.name) {
			holders = append(holders, b.of.name)
		}
	}
	if len(holders) == 0 {
		a.m.refuse(a.itemOfExport(e), "it is private, and no account of the store has an activation for it: here it would be everybody's",
			"leave it out, and add it when somebody is to import it")
		return false
	}
	slices.SortFunc(holders, func(a, b ident.Label) int { return strings.Compare(a.String(), b.String()) })
	a.only[e] = holders
	a.m.note(a.itemOfExport(e), "it is private by activations; here platform.yaml names who may import it (only), and servers do not ask")
	return true
}

// inactive says why servers would not let an import through, or not for ever; it looks
// as they do (checkActivation).
func (a *account) inactive(e *jwt.Export, importer *account, i *jwt.Import) string {
	if i.Token == "" {
		return "it has no activation, and what it imports is private: servers do not let it through"
	}
	var vr jwt.ValidationResults
	i.Validate(importer.key, &vr)
	act, err := jwt.DecodeActivationClaims(i.Token)
	if err != nil || vr.IsBlocking(true) {
		return "its activation is not good for it: servers do not let it through"
	}
	if act.IssuerAccount != "" && (act.IssuerAccount != a.key || !a.signs(act.Issuer)) {
		return "its activation is signed by nobody who may: servers do not let it through"
	}
	now := a.m.o.Now.Unix()
	switch {
	case act.NotBefore > now:
		return "its activation begins on " + date(act.NotBefore)
	case act.Expires != 0 && act.Expires <= now:
		return "its activation expired on " + date(act.Expires)
	case act.Expires != 0:
		return fmt.Sprintf("its activation expires on %s, and what platform.yaml allows does not", date(act.Expires))
	}
	for _, key := range []string{act.Subject, jwt.All} {
		if at, ok := e.Revocations[key]; ok && at >= act.IssuedAt {
			return "its activation is revoked: servers do not let it through"
		}
	}
	return ""
}

// signs tells whether a key is one of the account's signing keys as they were: also of one
// that does not go along.
func (a *account) signs(key string) bool { return a.m.was[a.key].SigningKeys.Contains(key) }

// tagged tells whether the account is one of Herald's own, made by it.
func (a *account) tagged() bool { return slices.Contains(a.m.was[a.key].Tags, OwnTag) }

// builtin is one of Herald's own accounts as it is without the file's additions.
func builtin(f *manifest.File, name ident.Label) manifest.Account {
	bare := *f
	bare.Accounts, bare.Grants = nil, nil
	all := bare.AllAccounts()
	i := slices.IndexFunc(all, func(a manifest.Account) bool { return a.Name == name })
	if i < 0 {
		return manifest.Account{}
	}
	return all[i]
}
