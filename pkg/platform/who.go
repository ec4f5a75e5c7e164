package platform

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/nats-io/jwt/v2"

	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/keystore"
	"github.com/herald-nats/herald/pkg/platform/manifest"
	"github.com/herald-nats/herald/pkg/trust"
)

// Who gives a function that says what a public key is on this platform, such as "role
// CHAT/member", and nothing for a key that is none of its keys.
func (p *Platform) Who() (func(public string) string, error) {
	who := make(map[string]string, 2*len(p.held)+16)
	for _, h := range p.held {
		who[h.Key.String()] = "account " + h.Name
		for role, key := range h.Roles {
			who[key.String()] = "role " + h.Name + "/" + role
		}
		for role, key := range h.Beside {
			who[key.String()] = "role " + h.Name + "/" + role
		}
	}
	for _, r := range p.Document.Regions {
		for _, k := range r.SealKeys() {
			who[k.String()] = "region key of " + r.Name.String()
		}
	}
	if key, err := keystore.Load(p.Dir.calloutKey(), keystore.Curve); err == nil {
		who[key.Public()] = "the callout key"
	}
	who[p.Operator.Key()] = "the operator"
	signing, err := p.SigningKeys()
	if err != nil {
		return nil, err
	}
	for public, holder := range signing {
		who[public] = "operator signing key of " + holder
	}
	users, err := StaticUsers{Platform: p}.All()
	if err != nil {
		return nil, err
	}
	if guest, err := os.ReadFile(filepath.Join(p.Dir.Public(), GuestFile)); err == nil {
		if token, err := jwt.ParseDecoratedJWT(guest); err == nil {
			if c, err := jwt.DecodeUserClaims(token); err == nil {
				who[c.Subject] = "the guest"
			}
		}
	}
	for _, u := range users {
		who[u.Key.String()] = "user " + u.Name.String() + " of " + u.Of().String()
	}
	return func(public string) string {
		if s := who[public]; s != "" || !p.Operator.Signs(public) {
			return s
		}
		return "an operator signing key in reserve"
	}, nil
}

// SigningKeys are the operator signing keys that somebody has, by the public key: who has
// it, "nscsetup" or "registrars of <region>".
func (p *Platform) SigningKeys() (map[string]string, error) {
	out := map[string]string{}
	key, err := keystore.Load(p.Dir.signingKey(holderTool), keystore.Operator)
	switch {
	case err == nil:
		out[key.Public()] = holderTool
	case !errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("the set-up tool's signing key: %w", err)
	}
	for _, r := range p.Document.Regions {
		data, err := os.ReadFile(p.Dir.dealt(r.Name))
		switch {
		case err == nil:
			out[strings.TrimSpace(string(data))] = "registrars of " + r.Name.String()
		case !errors.Is(err, fs.ErrNotExist):
			return nil, fmt.Errorf("the signing key of region %s: %w", r.Name, err)
		}
	}
	return out, nil
}

// What follows reads names alone, verifies nothing and gives nothing rather than an
// error: it is for the completion of command lines, which must be quick on a platform of
// ten thousand accounts, and say nothing.

// AccountNames are the names of the accounts that this folder has in force.
func (d Dir) AccountNames() []string {
	names, err := accountFiles(filepath.Join(d.Operator(), "accounts"), ".jwt")
	if err != nil {
		return nil
	}
	return names
}

// RoleNames are the names of an account's roles.
func (d Dir) RoleNames(account string) []string {
	name, err := ident.ParseLabel(account)
	if err != nil {
		return nil // it may be a path
	}
	token, err := readPart(filepath.Join(d.Operator(), "accounts", name.String()+".jwt"))
	if err != nil {
		return nil
	}
	c, err := jwt.DecodeAccountClaims(strings.TrimSpace(token))
	if err != nil {
		return nil
	}
	var names []string
	for _, scope := range c.SigningKeys {
		if s, ok := scope.(*jwt.UserScope); ok && s != nil {
			names = append(names, s.Role)
		}
	}
	slices.Sort(names)
	return names
}

// RegionNames are the names of the platform's regions.
func (d Dir) RegionNames() []string {
	operator, err := readPart(filepath.Join(d.Operator(), OperatorFile))
	if err != nil {
		return nil
	}
	op, err := trust.ParseOperator(operator)
	if err != nil {
		return nil
	}
	token, err := readPart(filepath.Join(d.Public(), DocumentFile))
	if err != nil {
		return nil
	}
	doc, err := op.OpenPlatform(token)
	if err != nil {
		return nil
	}
	var names []string
	for _, r := range doc.Regions {
		names = append(names, r.Name.String())
	}
	return names
}

// UserNames are the names of a role's static users.
func (d Dir) UserNames(of string) []string {
	ref, err := manifest.ParseRoleRef(of)
	if err != nil {
		return nil
	}
	files, err := accountFiles(d.usersDir(), ".json")
	if err != nil {
		return nil
	}
	var names []string
	for _, f := range files {
		if name, ok := strings.CutPrefix(f, ref.Account.String()+"."+ref.Role.String()+"."); ok {
			names = append(names, name)
		}
	}
	return names
}
