package service

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/herald-nats/herald/internal/natsconn"
)

// Status is whether a service takes requests now. It names no key, and nothing of a
// configuration but names of files.
type Status struct {
	Ready bool     // it is subscribed, and each of its connections stands
	Why   []string // not; empty if it is
	// Closed: a connection was closed for good, as never happens while the service lives,
	// and only a restart helps.
	Closed bool
}

// connected notes a connection, which is closed with the service.
func (r *Running) connected(nc *nats.Conn) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.conns = append(r.conns, nc)
}

// drop closes one before that.
func (r *Running) drop(ctx context.Context, nc *nats.Conn) {
	r.mu.Lock()
	r.conns = slices.DeleteFunc(r.conns, func(c *nats.Conn) bool { return c == nc })
	r.mu.Unlock()
	natsconn.Close(ctx, nc)
}

// unsubscribed notes that a server refuses a subscription: it happens when the rights of a
// role changed, and to a connection that stands otherwise. What a connection was refused
// counts until it is another one.
//
// nats.go names no subscription then: which it is stands in the server's words.
func (r *Running) unsubscribed(d *dialed, err error) {
	if !errors.Is(err, nats.ErrPermissionViolation) {
		return
	}
	_, rest, ok := strings.Cut(err.Error(), `Subscription to "`)
	if subj, _, ended := strings.Cut(rest, `"`); ok && ended {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.refused[d] = subj
	}
}

// dialed is a connection before there is one: nats.go may tell of it earlier. Two may have one
// name, while one takes the place of the other.
type dialed struct{ name string }

// disconnected forgets what a connection was refused.
func (r *Running) disconnected(d *dialed) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.refused, d)
}

// Status gives it as it is now. It may be called by any goroutine.
func (r *Running) Status() Status {
	r.mu.Lock()
	conns, refused, draining := slices.Clone(r.conns), maps.Clone(r.refused), r.draining
	r.mu.Unlock()
	if draining {
		return Status{Why: []string{"it ends"}}
	}
	var s Status
	for _, d := range r.doors.all {
		if why := d.why(); why != "" {
			s.Why = append(s.Why, "it takes no requests for "+d.name+": "+why)
		}
	}
	away := false
	for _, nc := range conns {
		switch {
		case nc.IsClosed():
			s.Closed = true
			s.Why = append(s.Why, fmt.Sprintf("connection %s is closed", nc.Opts.Name))
		case !nc.IsConnected():
			away = true
			s.Why = append(s.Why, fmt.Sprintf("connection %s is being made again", nc.Opts.Name))
		}
	}
	for _, d := range slices.SortedFunc(maps.Keys(refused), func(a, b *dialed) int { return cmp.Compare(a.name, b.name) }) {
		s.Why = append(s.Why, fmt.Sprintf("connection %s may not subscribe to %s", d.name, refused[d]))
	}
	if away {
		// A server closes who has an old credential, and refuses them from then on.
		for _, c := range r.credentials() {
			if !c.Expires.IsZero() && !r.config.now().Before(c.Expires) {
				s.Why = append(s.Why, fmt.Sprintf("the credential in %s ended at %s", c.File, c.Expires.UTC().Format(time.DateTime)))
			}
		}
	}
	s.Ready = len(s.Why) == 0
	return s
}

// Credential is one of the service's own.
type Credential struct {
	File    string
	Expires time.Time // zero: never
}

// credentials are those in the folder now: a connection takes them when it is made again.
func (r *Running) credentials() []Credential {
	r.mu.Lock()
	creds := r.files.creds // never changed, but replaced
	r.mu.Unlock()
	var all []Credential
	for file, c := range creds {
		if expires, err := c.file.Expires(); err == nil {
			all = append(all, Credential{file, expires})
		}
	}
	slices.SortFunc(all, func(a, b Credential) int { return cmp.Compare(a.File, b.File) })
	return all
}
