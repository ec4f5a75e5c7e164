package plan

import (
	"encoding/json"
	"fmt"
	"maps"
	"strings"

	"github.com/nats-io/jwt/v2"

	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/platform/manifest"
	"github.com/herald-nats/herald/pkg/trust"
)

// Rekeyed gives a base in which what registrars did to keys is this folder's doing: they
// replace them step by step after the folder said so, and that is no change that somebody else
// made. folder is what the folder last put in force.
func Rekeyed(b Base, folder, force State) Base {
	out := Base{Applied: maps.Clone(b.Applied), Intended: b.Intended}
	for name, was := range folder.Accounts {
		now, ok := force.Accounts[name]
		if !ok || now.Digest == was.Digest || was.Key != now.Key || b.Applied[keyOf(name)] != was.Digest {
			continue
		}
		before, err := was.Claims()
		after, err2 := now.Claims()
		if err == nil && err2 == nil && Digest(keyless(before)) == Digest(keyless(after)) {
			out.Applied[keyOf(name)] = now.Digest
		}
	}
	now := index(parts(force.Document))
	for _, p := range parts(folder.Document) {
		value, ok := now[p.key]
		if !ok || value == p.value || b.Applied[p.key] != digest(p.value) {
			continue
		}
		same := false
		switch {
		case strings.HasPrefix(p.key, partAccount):
			same = keylessAccount(p.value) == keylessAccount(value)
		case strings.HasPrefix(p.key, partRegion):
			same = keylessRegion(p.value) == keylessRegion(value)
		}
		if same {
			out.Applied[p.key] = digest(value)
		}
	}
	return out
}

// keyless gives claims in which roles stand by what they allow, and not by their keys.
func keyless(c *jwt.AccountClaims) *jwt.AccountClaims {
	out := *c
	out.SigningKeys = jwt.SigningKeys{}
	if c.Name == manifest.Door {
		out.Authorization.XKey = "" // the callout key
	}
	for key, s := range c.SigningKeys {
		u, ok := s.(*jwt.UserScope)
		if !ok || u == nil {
			out.SigningKeys[key] = s
			continue
		}
		v := *u
		v.Key = ""
		data, err := json.Marshal(&v)
		if err != nil {
			data = []byte(key)
		}
		v.Key = digest(string(data))
		out.SigningKeys[v.Key] = &v
	}
	return &out
}

func keylessRegion(value string) string {
	var r trust.Region
	if json.Unmarshal([]byte(value), &r) != nil {
		return value
	}
	return fmt.Sprint(r.Name, r.URLs)
}

func keylessAccount(value string) string {
	var a trust.Account
	if json.Unmarshal([]byte(value), &a) != nil {
		return value
	}
	for i := range a.Roles {
		a.Roles[i].Key, a.Roles[i].Next, a.Roles[i].Former = a.Key, ident.AccountKey{}, ident.AccountKey{}
	}
	data, err := json.Marshal(a)
	if err != nil {
		return value
	}
	return string(data)
}
