package platform

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/nats-io/jwt/v2"

	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/keystore"
)

// User is a short-lived user of a role, for the set-up tool's own connections.
type User struct {
	Token string
	Key   *keystore.Key
}

// Mint makes a user of a role with a key of its own, for one piece of work of
// the set-up tool: it needs the role's key from operator/.
func (p *Platform) Mint(account, role string, now time.Time, life time.Duration) (User, error) {
	return p.MintFor("nscsetup", account, role, now, life)
}

// MintFor is Mint for a user of that name, by which services know who it is.
func (p *Platform) MintFor(name, account, role string, now time.Time, life time.Duration) (User, error) {
	roleKey, err := keystore.Load(p.Dir.roleKey(account, role), keystore.Account)
	if err != nil {
		return User{}, fmt.Errorf("the key of role %s/%s: %w", account, role, err)
	}
	accKey, err := p.accountKey(account)
	if err != nil {
		return User{}, err
	}
	user, err := keystore.Generate(keystore.User)
	if err != nil {
		return User{}, err
	}
	token, err := serviceJWT(roleKey, accKey.String(), user.Public(), name, p.File.Home.String(), now, life)
	if err != nil {
		return User{}, err
	}
	return User{Token: token, Key: user}, nil
}

func (p *Platform) accountKey(name string) (ident.AccountKey, error) {
	label, err := ident.ParseLabel(name)
	if err != nil {
		return ident.AccountKey{}, err
	}
	if h, ok := p.Account(label.String()); ok {
		return h.Key, nil
	}
	return ident.AccountKey{}, fmt.Errorf("the platform has no account %s: %w", name, ErrNotPlatform)
}

// RenewServices gives services whose credential has less than half of its life
// left a new one for the same nkey, and names the files that it replaced.
func (p *Platform) RenewServices(now time.Time) ([]string, error) {
	var renewed []string
	for _, r := range p.File.Regions {
		all := []creds{{filepath.Join(p.Dir.Issuer(r.Name), AuthCreds), Auth, RoleIssuer}}
		for _, c := range registrarCreds(p.File.Home, r.Name) {
			c.file = filepath.Join(p.Dir.Registrar(r.Name), c.file)
			all = append(all, c)
		}
		for _, c := range all {
			did, err := p.renewService(c.file, c.account, c.role, now)
			if errors.Is(err, os.ErrNotExist) {
				continue // given away: its holder keeps it
			}
			if err != nil {
				return renewed, fmt.Errorf("renewing %s: %w", c.file, err)
			}
			if did {
				renewed = append(renewed, c.file)
			}
		}
	}
	return renewed, nil
}

func (p *Platform) renewService(path, account, role string, now time.Time) (bool, error) {
	data, err := keystore.ReadSecret(path)
	if err != nil {
		return false, err
	}
	token, err := jwt.ParseDecoratedJWT(data)
	if err != nil {
		return false, fmt.Errorf("no user JWT: %w", err)
	}
	old, err := jwt.DecodeUserClaims(token)
	if err != nil {
		return false, fmt.Errorf("reading the user JWT: %w", err)
	}
	if time.Unix(old.Expires, 0).Sub(now) > ServiceLife/2 {
		return false, nil
	}
	pair, err := jwt.ParseDecoratedUserNKey(data)
	if err != nil {
		return false, errors.New("no user seed")
	}
	seed, err := pair.Seed()
	if err != nil {
		return false, errors.New("no user seed")
	}
	key, err := keystore.Parse(keystore.User, seed)
	if err != nil {
		return false, err
	}
	roleKey, err := keystore.Load(p.Dir.roleKey(account, role), keystore.Account)
	if err != nil {
		return false, err
	}
	region := ""
	for _, t := range old.Tags {
		if len(t) > len("region:") && t[:len("region:")] == "region:" {
			region = t[len("region:"):]
		}
	}
	fresh, err := serviceJWT(roleKey, old.IssuerAccount, key.Public(), old.Name, region, now, ServiceLife)
	if err != nil {
		return false, err
	}
	data, err = credsFile(fresh, key)
	if err != nil {
		return false, err
	}
	return true, keystore.ReplaceSecret(path, data)
}
