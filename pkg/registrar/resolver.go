package registrar

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/subject"
	"github.com/herald-nats/herald/pkg/trust"
)

// quiet is how long to wait for one more server to answer before taking the
// round as complete: several times the longest round trip between regions.
const quiet = 600 * time.Millisecond

// Resolver brings account JWTs to the servers of all regions, and asks them
// back, over a connection in SYS. It pushes nothing that does not verify up to
// the operator: servers store what an unknown operator signed.
type Resolver struct {
	nc *nats.Conn
	op *trust.Operator
}

// NewResolver uses a connection in SYS with the rights of a registrar.
func NewResolver(nc *nats.Conn, op *trust.Operator) *Resolver { return &Resolver{nc: nc, op: op} }

// Server is one server of the supercluster.
type Server struct {
	ID      string `json:"id"`
	Name    string `json:"name"`
	Cluster string `json:"cluster"`
}

// Servers asks who is there: until want have answered, or no other has
// answered for a while. want 0 is not knowing how many there are.
func (r *Resolver) Servers(ctx context.Context, want int) ([]Server, error) {
	var found []Server
	err := r.gather(ctx, map[string]string{"ping": subject.ServerPing}, func(_ string, m *nats.Msg) (bool, error) {
		var v struct {
			Server Server `json:"server"`
		}
		if err := json.Unmarshal(m.Data, &v); err != nil {
			return false, fmt.Errorf("a server's answer to a ping cannot be read: %w", err)
		}
		if !slices.ContainsFunc(found, func(s Server) bool { return s.ID == v.Server.ID }) {
			found = append(found, v.Server)
		}
		return want > 0 && len(found) >= want, nil
	})
	if err != nil {
		return nil, fmt.Errorf("asking who is there: %w", err)
	}
	return found, nil
}

// Push sends account JWTs to every server and returns when each of servers has
// stored each of them. Servers that did not are named in the error.
func (r *Resolver) Push(ctx context.Context, accounts []string, servers []Server) error {
	type missing map[string]string // server id → name
	inbox := r.nc.NewInbox()
	sub, err := r.nc.SubscribeSync(inbox + ".*")
	if err != nil {
		return fmt.Errorf("pushing accounts: %w", err)
	}
	defer func() { _ = sub.Unsubscribe() }() // fails only if the connection is gone

	waiting := make(map[string]missing, len(accounts))
	for _, token := range accounts {
		c, err := r.op.VerifyAccount(token)
		if err != nil {
			return fmt.Errorf("not pushed: %w", err)
		}
		m := missing{}
		for _, s := range servers {
			m[s.ID] = s.Name
		}
		waiting[c.Subject] = m
		// All are sent before the first answer is awaited: thousands of
		// accounts a second instead of one for each round trip.
		if err := r.nc.PublishRequest(subject.ClaimsUpdate, inbox+"."+c.Subject, []byte(token)); err != nil {
			return fmt.Errorf("pushing account %s: %w", c.Name, err)
		}
	}
	left := len(accounts) * len(servers)
	for left > 0 {
		m, err := sub.NextMsgWithContext(ctx)
		if err != nil {
			names := map[string]bool{}
			for _, w := range waiting {
				for _, n := range w {
					names[n] = true
				}
			}
			return fmt.Errorf("%d of %d answers are missing, from %s: %w", left, len(accounts)*len(servers), joinKeys(names), err)
		}
		var v struct {
			Server Server `json:"server"`
			Data   *struct {
				Code int `json:"code"`
			} `json:"data"`
			Error *struct {
				Description string `json:"description"`
			} `json:"error"`
		}
		if err := json.Unmarshal(m.Data, &v); err != nil {
			return fmt.Errorf("a server's answer to a push cannot be read: %w", err)
		}
		account := m.Subject[strings.LastIndexByte(m.Subject, '.')+1:]
		if v.Error != nil || v.Data == nil || v.Data.Code != 200 {
			why := "no reason"
			if v.Error != nil {
				why = v.Error.Description
			}
			return fmt.Errorf("server %s refused account %s: %s", v.Server.Name, account, why)
		}
		if _, ok := waiting[account][v.Server.ID]; ok {
			delete(waiting[account], v.Server.ID)
			left--
		}
	}
	return nil
}

// Confirm asks every server for every account and returns when want servers
// hold each JWT, byte for byte.
func (r *Resolver) Confirm(ctx context.Context, accounts []string, want int) error {
	held, err := r.held(ctx, accounts, want)
	if err != nil {
		return err
	}
	for _, h := range held {
		if h.same < want {
			return fmt.Errorf("account %s is held by %d of %d servers", h.name, h.same, want)
		}
	}
	return nil
}

// holding is how servers stand to one account JWT.
type holding struct {
	token, name          string
	same, lacking, other int // servers
}

// held asks all servers for accounts, all at once, until want servers have
// answered for each, or it has been quiet.
func (r *Resolver) held(ctx context.Context, accounts []string, want int) ([]*holding, error) {
	all := make([]*holding, 0, len(accounts))
	byKey := make(map[string]*holding, len(accounts))
	subjects := make(map[string]string, len(accounts))
	for _, token := range accounts {
		c, err := r.op.VerifyAccount(token)
		if err != nil {
			return nil, err
		}
		key, err := ident.ParseAccountKey(c.Subject)
		if err != nil {
			return nil, fmt.Errorf("account %s: %w", c.Name, err)
		}
		h := &holding{token: token, name: c.Name}
		all, byKey[c.Subject] = append(all, h), h
		subjects[c.Subject] = subject.ClaimsLookup(key)
	}
	answers := 0
	err := r.gather(ctx, subjects, func(tag string, m *nats.Msg) (bool, error) {
		h := byKey[tag]
		switch {
		case h == nil:
			return false, nil
		case len(m.Data) == 0:
			h.lacking++
		case string(m.Data) == h.token:
			h.same++
		default:
			h.other++
		}
		answers++
		return want > 0 && answers >= want*len(accounts), nil
	})
	return all, err
}

// Repair pushes those accounts again that some of the servers do not have:
// what a region needs that was made anew. It leaves an account alone where any
// server holds another version of it: which one is right is not told by time,
// and a push replaces newer ones. want is how many servers there should be, 0
// if that is not known. It gives the names of what it pushed.
func (r *Resolver) Repair(ctx context.Context, accounts []string, want int) ([]string, error) {
	servers, err := r.Servers(ctx, want)
	if err != nil {
		return nil, err
	}
	held, err := r.held(ctx, accounts, len(servers))
	if err != nil {
		return nil, err
	}
	var push, names []string
	for _, h := range held {
		if h.lacking > 0 && h.other == 0 {
			push, names = append(push, h.token), append(names, h.name)
		}
	}
	if len(push) == 0 {
		return nil, nil
	}
	return names, r.Push(ctx, push, servers)
}

// gather sends a request to each subject and takes the answers, each with the
// tag of its request, until take says that it is enough or it has been quiet.
func (r *Resolver) gather(ctx context.Context, subjects map[string]string, take func(tag string, m *nats.Msg) (enough bool, err error)) error {
	inbox := r.nc.NewInbox()
	sub, err := r.nc.SubscribeSync(inbox + ".*")
	if err != nil {
		return fmt.Errorf("subscribing for answers: %w", err)
	}
	defer func() { _ = sub.Unsubscribe() }() // fails only if the connection is gone
	for tag, subj := range subjects {
		if err := r.nc.PublishRequest(subj, inbox+"."+tag, nil); err != nil {
			return fmt.Errorf("asking %s: %w", subj, err)
		}
	}
	for {
		wctx, cancel := context.WithTimeout(ctx, quiet)
		m, err := sub.NextMsgWithContext(wctx)
		cancel()
		switch {
		case ctx.Err() != nil:
			return fmt.Errorf("waiting for the servers' answers: %w", ctx.Err())
		case errors.Is(err, context.DeadlineExceeded):
			return nil
		case err != nil:
			return fmt.Errorf("waiting for the servers' answers: %w", err)
		}
		enough, err := take(m.Subject[len(inbox)+1:], m)
		if enough || err != nil {
			return err
		}
	}
}

func joinKeys(m map[string]bool) string {
	var s []string
	for k := range m {
		s = append(s, k)
	}
	slices.Sort(s)
	return strings.Join(s, ", ")
}
