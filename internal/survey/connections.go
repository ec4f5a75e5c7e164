package survey

import (
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/herald-nats/herald/pkg/doctor/seen"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/subject"
)

// connPage is how many connections one page has; with the JWT of each it is about 1 MiB.
const connPage = 512

// connRequest asks one server for a page of the connections of an account.
type connRequest struct {
	Account string `json:"acc"`
	Auth    bool   `json:"auth"`
	Offset  int    `json:"offset,omitempty"`
	Limit   int    `json:"limit"`
	Server  string `json:"server_name"`
	Exact   bool   `json:"exact_match"`
}

// Connections are all clients of some accounts, on all servers, by account, region, server
// and age. It is a picture of the moments in which it was taken: whoever comes or goes
// meanwhile may be missing. expect is how many servers there are; 0 is unknown.
//
// Only servers that have an account in memory are asked for its connections: the others
// have none, and would load it to find that out.
func Connections(ctx context.Context, nc *nats.Conn, accounts []ident.AccountKey, expect int, quiet time.Duration) ([]seen.Connection, error) {
	return connectionsBy(ctx, nc, accounts, expect, quiet, connPage)
}

// connectionsBy is Connections, with so many on a page.
func connectionsBy(ctx context.Context, nc *nats.Conn, accounts []ident.AccountKey, expect int, quiet time.Duration, page int) ([]seen.Connection, error) {
	loaded, err := Loaded(ctx, nc, expect, quiet)
	if err != nil {
		return nil, err
	}
	t, err := newTalk(nc)
	if err != nil {
		return nil, err
	}
	defer t.end()
	c := &connections{talk: t, open: map[string]connRequest{}, seen: map[connID]bool{}, all: []seen.Connection{}}
	for _, account := range accounts {
		for _, l := range loaded {
			if l.Accounts[account.String()] {
				c.todo = append(c.todo, connRequest{Account: account.String(), Auth: true, Limit: page, Server: l.Server, Exact: true})
			}
		}
	}
	if err := c.run(ctx, cmp.Or(quiet, Quiet)); err != nil {
		return nil, err
	}
	slices.SortFunc(c.all, func(a, b seen.Connection) int {
		return cmp.Or(
			cmp.Compare(a.Account.String(), b.Account.String()), cmp.Compare(a.Region.String(), b.Region.String()),
			cmp.Compare(a.Server, b.Server), cmp.Compare(a.ID, b.ID),
		)
	})
	return c.all, nil
}

// connections are the pages of one call.
type connections struct {
	*talk
	todo []connRequest
	open map[string]connRequest // by tag
	sent int
	seen map[connID]bool
	all  []seen.Connection
}

type connID struct {
	server string
	id     uint64
}

// connsInFlight is how many pages are under way at a time.
const connsInFlight = 8

func (c *connections) run(ctx context.Context, quiet time.Duration) error {
	for len(c.todo)+len(c.open) > 0 && !over(ctx) {
		for len(c.open) < connsInFlight && len(c.todo) > 0 {
			r := c.todo[0]
			c.todo = c.todo[1:]
			c.sent++
			tag := fmt.Sprint(c.sent)
			if err := c.ask(tag, subject.ServerPingOf(pageConns), r); err != nil {
				return err
			}
			c.open[tag] = r
		}
		tag, m, err := c.next(ctx, quiet)
		if err != nil {
			return err
		}
		if m == nil {
			clear(c.open) // those servers are gone, and their connections with them
			continue
		}
		r, ok := c.open[tag]
		if !ok {
			continue
		}
		delete(c.open, tag)
		c.take(r, m.Data)
	}
	return nil
}

// take takes a page, and asks for the next one where there is one.
func (c *connections) take(r connRequest, data []byte) {
	a, err := open(data)
	if err != nil || a.Error != nil {
		return
	}
	var v struct {
		Total       int `json:"total"`
		Connections []*struct {
			ID      uint64    `json:"cid"`
			Type    string    `json:"type"`
			Kind    string    `json:"kind"`
			Start   time.Time `json:"start"`
			Name    string    `json:"name"`
			User    string    `json:"authorized_user"`
			Account string    `json:"account"`
			JWT     string    `json:"jwt"`
			Issuer  string    `json:"issuer_key"`
		} `json:"connections"`
	}
	if json.Unmarshal(a.Data, &v) != nil {
		return
	}
	account, err := ident.ParseAccountKey(r.Account)
	if err != nil {
		return
	}
	region, _ := ident.ParseRegion(a.Server.Cluster) // zero is no region of ours
	for _, i := range v.Connections {
		if i == nil || i.Account != r.Account || c.seen[connID{a.Server.ID, i.ID}] {
			continue
		}
		c.seen[connID{a.Server.ID, i.ID}] = true
		u := readShown(i.JWT)
		c.all = append(c.all, seen.Connection{
			Server: a.Server.Name, Region: region, ID: i.ID, Account: account,
			User: clean(i.User, maxText), Name: u.Name, Issuer: clean(i.Issuer, maxText),
			Kind: clean(cmp.Or(i.Type, i.Kind), maxText), Client: clean(i.Name, maxText), Since: i.Start, Expires: u.expires(),
		})
	}
	if len(v.Connections) == r.Limit && r.Offset+r.Limit < v.Total {
		r.Offset += r.Limit
		c.todo = append(c.todo, r)
	}
}

// shown is what is shown of a JWT that somebody else has verified.
type shown struct {
	Name   string `json:"name"`
	Issued int64  `json:"iat"`
	Until  int64  `json:"exp"`
}

// expires is when it ends; zero: never.
func (c shown) expires() time.Time {
	if c.Until <= 0 {
		return time.Time{}
	}
	return time.Unix(c.Until, 0)
}

// readShown reads the payload of a JWT; it is zero where there is none. Of a bearer
// servers show no JWT.
func readShown(token string) shown {
	var c shown
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return c
	}
	data, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil || json.Unmarshal(data, &c) != nil {
		return shown{}
	}
	c.Name = clean(c.Name, maxText)
	return c
}
