package supercluster

import (
	"context"
	"fmt"
	"path/filepath"

	"github.com/nats-io/jwt/v2"

	"github.com/herald-nats/herald/pkg/ident"
)

// trust is what all servers know before any account is pushed.
type trust struct {
	operator  *jwt.OperatorClaims
	account   string // public key of the system account
	systemJWT string
}

// assemble checks cfg, finds the ports and binds the relays. No server exists
// yet when it returns; on an error nothing is left listening.
func assemble(ctx context.Context, cfg Config) (*Supercluster, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	tr, err := cfg.trust()
	if err != nil {
		return nil, err
	}
	s := &Supercluster{turn: make(chan struct{}, 1), wan: newWAN(cfg)}
	s.give()
	settings := cfg.settings(tr)

	many := len(cfg.Regions) > 1
	var listeners []*listener
	for _, rc := range cfg.Regions {
		r := &region{name: rc.Name}
		for _, nc := range rc.Nodes {
			n := newNode(rc.Name, nc, filepath.Join(cfg.Dir, rc.Name.String(), nc.Name), settings)
			listeners = append(listeners, n.client)
			if many || len(rc.Nodes) > 1 {
				n.cluster = n.listener("cluster", nc.Cluster)
				listeners = append(listeners, n.cluster)
			}
			if many {
				n.gateway = n.listener("gateway", nc.Gateway)
				listeners = append(listeners, n.gateway)
			}
			r.nodes = append(r.nodes, n)
		}
		if many {
			r.relay = newRelay(r, s.wan, &listener{what: "relay of region " + rc.Name.String(), addr: rc.Gateway})
			listeners = append(listeners, r.relay.at)
		}
		s.regions = append(s.regions, r)
		s.total += len(r.nodes)
	}
	if err := claim(ctx, listeners); err != nil {
		return nil, err
	}
	for i, r := range s.regions {
		if r.relay == nil {
			continue
		}
		if err := r.relay.listen(ctx); err != nil {
			for _, bound := range s.regions[:i] {
				bound.relay.close()
			}
			return nil, err
		}
	}
	for _, r := range s.regions {
		for _, n := range r.nodes {
			n.peers(s.regions)
		}
	}
	return s, nil
}

func (cfg Config) check() error {
	if cfg.Dir == "" {
		return fmt.Errorf("%w: no folder for its data", ErrConfig)
	}
	if len(cfg.Regions) == 0 {
		return fmt.Errorf("%w: no region", ErrConfig)
	}
	regions, nodes := map[ident.Region]bool{}, map[string]bool{}
	for _, r := range cfg.Regions {
		switch {
		case r.Name.IsZero():
			return fmt.Errorf("%w: a region without a name", ErrConfig)
		case regions[r.Name]:
			return fmt.Errorf("%w: region %s is there twice", ErrConfig, r.Name)
		case len(r.Nodes) == 0:
			return fmt.Errorf("%w: region %s has no node", ErrConfig, r.Name)
		case len(r.Nodes) == 1 && len(cfg.Regions) > 1:
			return fmt.Errorf("%w: region %s has one node; beside other regions each needs two or more", ErrConfig, r.Name)
		}
		regions[r.Name] = true
		for _, n := range r.Nodes {
			// The name becomes a folder.
			if _, err := ident.ParseLabel(n.Name); err != nil {
				return fmt.Errorf("%w: node of region %s: %w", ErrConfig, r.Name, err)
			}
			if nodes[n.Name] {
				return fmt.Errorf("%w: node %s is there twice", ErrConfig, n.Name)
			}
			nodes[n.Name] = true
		}
	}
	return nil
}

func (cfg Config) trust() (trust, error) {
	op, err := jwt.DecodeOperatorClaims(cfg.Operator)
	if err != nil {
		return trust{}, fmt.Errorf("%w: operator JWT: %w", ErrConfig, err)
	}
	sys, err := jwt.DecodeAccountClaims(cfg.SystemAccount)
	if err != nil {
		return trust{}, fmt.Errorf("%w: system account JWT: %w", ErrConfig, err)
	}
	if op.SystemAccount != sys.Subject {
		return trust{}, fmt.Errorf("%w: the operator's system account is %q, the JWT given is that of %q", ErrConfig, op.SystemAccount, sys.Subject)
	}
	if !op.DidSign(sys) {
		return trust{}, fmt.Errorf("%w: system account %s is not signed by operator %s", ErrConfig, sys.Subject, op.Subject)
	}
	return trust{operator: op, account: sys.Subject, systemJWT: cfg.SystemAccount}, nil
}

func (cfg Config) settings(tr trust) settings {
	st := settings{trust: tr, log: newLog(cfg.Log), maxMemory: cfg.MaxMemory, maxStore: cfg.MaxStore}
	if st.maxMemory == 0 {
		st.maxMemory = DefaultMaxMemory
	}
	if st.maxStore == 0 {
		st.maxStore = DefaultMaxStore
	}
	return st
}
