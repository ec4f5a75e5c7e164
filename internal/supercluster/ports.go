package supercluster

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"math/big"
	"net"
	"strconv"
	"syscall"
)

// listener is one address that something of ours will listen on.
type listener struct {
	what string // such as "cluster listener of node ams-1 in region ams"
	addr string // host:port as configured; with its port once it was claimed
}

// Ports that we choose lie below those that Linux and others give to outgoing
// connections. A port from that range could be taken by somebody's connection
// between a StopNode and its StartNode, or between claim and the server's own bind.
const (
	firstPort, lastPort = 20000, 32000
	portTries           = 200
)

// claim finds out whether every listener's address is free, and fills in the
// ports that are 0. All of them are held at once, so that no two are the same,
// and let go before claim returns: the servers bind them themselves.
// An error names the listener and wraps syscall.EADDRINUSE if its port is taken.
func claim(ctx context.Context, listeners []*listener) (err error) {
	held := make([]net.Listener, 0, len(listeners))
	defer func() {
		for _, l := range held {
			err = errors.Join(err, l.Close())
		}
	}()
	for _, want := range listeners {
		l, bound, err := bind(ctx, want.addr)
		if err != nil {
			return fmt.Errorf("%s: %w", want.what, err)
		}
		held = append(held, l)
		want.addr = bound
	}
	return nil
}

// bind listens on a host:port and says on which one; port 0 is any free one.
// The host stays as it was written: it is what others are told to connect to.
func bind(ctx context.Context, addr string) (net.Listener, string, error) {
	host, port, err := splitHostPort(addr)
	if err != nil {
		return nil, "", err
	}
	if port != 0 {
		l, err := listen(ctx, addr)
		return l, addr, err
	}
	for range portTries {
		n, err := rand.Int(rand.Reader, big.NewInt(lastPort-firstPort))
		if err != nil {
			return nil, "", fmt.Errorf("choosing a port on %s: %w", host, err)
		}
		addr = net.JoinHostPort(host, strconv.Itoa(firstPort+int(n.Int64())))
		l, err := listen(ctx, addr)
		if errors.Is(err, syscall.EADDRINUSE) {
			continue
		}
		return l, addr, err
	}
	return nil, "", fmt.Errorf("no free port on %s in %d tries: %w", host, portTries, syscall.EADDRINUSE)
}

func listen(ctx context.Context, addr string) (net.Listener, error) {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("listening on %s: %w", addr, err)
	}
	return l, nil
}

// splitHostPort wants both: an empty host would mean every interface, which
// nobody should get by leaving something out.
func splitHostPort(addr string) (host string, port int, err error) {
	host, p, err := net.SplitHostPort(addr)
	if err != nil {
		return "", 0, fmt.Errorf("%w: address %q: %w", ErrConfig, addr, err)
	}
	n, err := strconv.ParseUint(p, 10, 16)
	if err != nil || host == "" {
		return "", 0, fmt.Errorf("%w: address %q is not host:port", ErrConfig, addr)
	}
	return host, int(n), nil
}
