// Package platform is a platform's folder: every key, what is in force, and what each party
// is given of it. It makes files and claims; it dials nothing (internal/apply brings them to
// servers). What an operator describes is in manifest/, what becomes of that in claims/,
// what would change in plan/, and the servers' configuration in serverconf/.
package platform

import (
	"fmt"

	"github.com/herald-nats/herald/pkg/ledger"
	"github.com/herald-nats/herald/pkg/trust"
)

// CheckDocument refuses a platform document without which services could not go on:
// one that lacks an account or a role of theirs, or in which a name or a key stands for
// two things. It is for ledger.Opener: what it refuses leaves the old one in force.
func CheckDocument(d *ledger.Document) error {
	p := d.Public
	for account, roles := range map[string][]string{
		System: {RoleRegistrar}, Ledger: {RoleRegistrar, RoleHome, RoleSetup}, Readers: {RoleReader},
		Auth: {RoleIssuer}, Guest: {RoleGuest},
	} {
		if err := has(p, account, roles); err != nil {
			return err
		}
	}
	seen := map[string]bool{}
	once := func(what, value string) error {
		if value == "" || seen[what+value] {
			return fmt.Errorf("%s %q is missing or there twice", what, value)
		}
		seen[what+value] = true
		return nil
	}
	for _, r := range p.Regions {
		if err := once("region", r.Name.String()); err != nil {
			return err
		}
		for _, k := range r.SealKeys() {
			if err := once("region key", k.String()); err != nil {
				return fmt.Errorf("region %s: %w", r.Name, err)
			}
		}
	}
	for _, a := range p.Accounts {
		if err := once("account", a.Name.String()); err != nil {
			return err
		}
		if err := once("key", a.Key.String()); err != nil {
			return fmt.Errorf("account %s: %w", a.Name, err)
		}
		for _, r := range a.Roles {
			if err := once("role", a.Name.String()+"/"+r.Name.String()); err != nil {
				return err
			}
			for _, k := range r.Keys() {
				if err := once("key", k.String()); err != nil {
					return fmt.Errorf("role %s/%s: %w", a.Name, r.Name, err)
				}
			}
		}
	}
	return nil
}

func has(p *trust.Platform, account string, roles []string) error {
	for _, a := range p.Accounts {
		if a.Name.String() != account {
			continue
		}
		for _, want := range roles {
			found := false
			for _, r := range a.Roles {
				found = found || r.Name.String() == want
			}
			if !found {
				return fmt.Errorf("it has no role %s/%s, which services need", account, want)
			}
		}
		return nil
	}
	return fmt.Errorf("it has no account %s, which services need", account)
}
