package nscsetup

import (
	"context"

	"github.com/herald-nats/herald/internal/apply"
	"github.com/herald-nats/herald/internal/survey"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/platform"
	"github.com/herald-nats/herald/pkg/platform/plan"
)

// connection is a live connection that a change closes.
type connection struct {
	Name   string `json:"name"`
	User   string `json:"user"`
	Server string `json:"server"`
	Region string `json:"region"`
}

// connections asks servers whose connections a plan closes, by ACCOUNT/ROLE. A role that
// is cut and has none is there, empty.
func connections(ctx context.Context, t *apply.Tool, pl *plan.Plan) (map[string][]connection, error) {
	nc, err := t.Dial(ctx, platform.System, platform.RoleSetup)
	if err != nil {
		return nil, err
	}
	defer nc.Close()
	role := map[string]string{} // by key
	out := map[string][]connection{}
	var accounts []ident.AccountKey
	for _, a := range pl.Accounts {
		if len(a.Cut) == 0 {
			continue
		}
		key, err := ident.ParseAccountKey(a.Key)
		if err != nil {
			return nil, err
		}
		accounts = append(accounts, key)
		for _, c := range a.Cut {
			role[c.Key] = a.Name + "/" + c.Role
			out[a.Name+"/"+c.Role] = []connection{}
		}
	}
	all, err := survey.Connections(ctx, nc, accounts, 0, 0)
	if err != nil {
		return nil, err
	}
	for _, c := range all {
		if r, ok := role[c.Issuer]; ok {
			out[r] = append(out[r], connection{Name: c.Name, User: c.User, Server: c.Server, Region: c.Region.String()})
		}
	}
	return out, nil
}
