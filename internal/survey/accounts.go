package survey

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/herald-nats/herald/pkg/doctor/seen"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/registrar"
	"github.com/herald-nats/herald/pkg/subject"
	"github.com/herald-nats/herald/pkg/trust"
)

// named is of how many accounts that are not in line it is asked which servers are not:
// one question to all servers for each.
const named = 32

// Accounts asks all servers that a connection in SYS reaches how they stand to accounts,
// in the order of known: account JWTs that verify up to the operator, as somebody knows
// them. servers are those that are there, by id, with their names. When ctx's deadline is
// over an error tells that.
func Accounts(ctx context.Context, nc *nats.Conn, o *trust.Operator, known []string, servers map[string]string, now func() time.Time) ([]seen.Standing, error) {
	rep, err := registrar.NewResolver(nc, o, nil, now).Survey(ctx, known, slices.Sorted(maps.Values(servers)))
	if err != nil {
		return nil, err
	}
	all := make([]seen.Standing, 0, len(rep.Accounts))
	left := named
	for _, a := range rep.Accounts {
		s := standing(a)
		if !s.InLine() && left > 0 {
			left--
			if s.Astray, err = astray(ctx, nc, o, a, servers); err != nil {
				return nil, err
			}
		}
		all = append(all, s)
	}
	return all, nil
}

// standing is what is shown of a standing.
func standing(a registrar.Standing) seen.Standing {
	s := seen.Standing{
		Key: a.Account, Name: a.Name, Version: a.Version, Same: a.InLine, Lacking: a.Lacked, Size: len(a.Token),
		Conflict: errors.Is(a.Err, trust.ErrConflict),
	}
	for _, f := range a.Found {
		if f.Foreign {
			s.Foreign += f.Servers
		} else {
			s.Behind += f.Servers
		}
	}
	s.Unread = max(a.Servers-s.Same-s.Lacking-s.Foreign-s.Behind, 0)
	if c := readShown(a.Token); c.Issued > 0 {
		s.Changed, s.Expires = time.Unix(c.Issued, 0), c.expires()
	}
	return s
}

// astray names the servers that work with something else than what should be in force. Of
// those that do not have the account in memory nobody can tell what is on their disks.
func astray(ctx context.Context, nc *nats.Conn, o *trust.Operator, a registrar.Standing, servers map[string]string) ([]string, error) {
	memory, err := Memory(ctx, nc, a.Account, len(servers), 0)
	if err != nil {
		return nil, err
	}
	want, err := a.Content()
	if err != nil {
		return nil, nil //nolint:nilerr // a conflict: nobody is right
	}
	var names []string
	for _, m := range memory {
		if m.Token == a.Token {
			continue
		}
		if is, err := o.OpenAccount(m.Token); err == nil {
			if says, err := is.Content(); err == nil && says.Equal(want) {
				continue
			}
		}
		if name := servers[m.Server]; name != "" {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names, nil
}

// Loaded tells which accounts each server has in memory, by the server's id: those that
// it has users of, or imports for. expect is how many servers there are; 0 is unknown.
func Loaded(ctx context.Context, nc *nats.Conn, expect int, quiet time.Duration) (map[string]Load, error) {
	all := map[string]Load{}
	err := pings(ctx, nc, pageAccounts, nil, expect, quiet, func(a answer) error {
		var v struct {
			Accounts []string `json:"accounts"`
		}
		if err := json.Unmarshal(a.Data, &v); err != nil {
			return err
		}
		l := Load{Server: a.Server.Name, Accounts: make(map[string]bool, len(v.Accounts))}
		for _, key := range v.Accounts {
			l.Accounts[key] = true
		}
		all[a.Server.ID] = l
		return nil
	})
	return all, err
}

// Load is what one server has in memory.
type Load struct {
	Server   string          // its name
	Accounts map[string]bool // by key
}

// Memory asks all servers how they work with one account. A server that does not have it
// in memory gives nothing.
func Memory(ctx context.Context, nc *nats.Conn, account ident.AccountKey, expect int, quiet time.Duration) ([]seen.Memory, error) {
	all := []seen.Memory{}
	request := struct {
		Account string `json:"account"`
	}{account.String()}
	err := pings(ctx, nc, pageAccounts, request, expect, quiet, func(a answer) error {
		if a.Error != nil { // 500 is how a server says that it has none
			return nil
		}
		var v struct {
			Account *struct {
				Key      string    `json:"account_name"`
				Token    string    `json:"jwt"`
				Updated  time.Time `json:"update_time"`
				Expired  bool      `json:"expired"`
				Complete bool      `json:"complete"`
			} `json:"account_detail"`
		}
		if err := json.Unmarshal(a.Data, &v); err != nil {
			return err
		}
		if v.Account == nil || v.Account.Key != account.String() {
			return nil
		}
		all = append(all, seen.Memory{
			Server: a.Server.ID, Account: account, Token: v.Account.Token, Updated: v.Account.Updated,
			Expired: v.Account.Expired, Complete: v.Account.Complete,
		})
		return nil
	})
	return all, err
}

// pings asks all servers for one page, until expect of them have answered or it is quiet.
// take is called once for each server; what it cannot read is passed over.
func pings(ctx context.Context, nc *nats.Conn, page string, request any, expect int, quiet time.Duration, take func(answer) error) error {
	t, err := newTalk(nc)
	if err != nil {
		return err
	}
	defer t.end()
	if err := t.ask(page, subject.ServerPingOf(page), request); err != nil {
		return err
	}
	came := map[string]bool{}
	for expect == 0 || len(came) < expect {
		_, m, err := t.next(ctx, cmp.Or(quiet, Quiet))
		if err != nil {
			return fmt.Errorf("asking for %s: %w", page, err)
		}
		if m == nil {
			return nil
		}
		a, err := open(m.Data)
		if err != nil || came[a.Server.ID] || len(came) == maxServers {
			continue
		}
		if take(a) == nil {
			came[a.Server.ID] = true
		}
	}
	return nil
}
