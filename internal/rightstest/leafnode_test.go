package rightstest

import (
	"encoding/json"
	"fmt"
	"net"
	"strings"
	"testing"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats-server/v2/server"

	"github.com/herald-nats/herald/pkg/keystore"
)

// hub is one server of the platform as somebody could run it: with leafnodes.
// It has the platform's accounts, each changed as the test says and signed anew.
func hub(t *testing.T, change func(*jwt.AccountClaims)) (leafs string) {
	t.Helper()
	op, err := jwt.DecodeOperatorClaims(shared.Public.Operator.Token())
	if err != nil {
		t.Fatal(err)
	}
	signing := load(t, dir().Operator()+"/signing/nscsetup.nk", keystore.Operator)
	resolver := &server.MemAccResolver{}
	for _, c := range accounts(t) {
		if change != nil {
			change(c)
		}
		token, err := c.Encode(signing.Pair())
		if err != nil {
			t.Fatal(err)
		}
		if err := resolver.Store(c.Subject, token); err != nil {
			t.Fatal(err)
		}
	}
	opts := &server.Options{
		ServerName: "hub", Host: "127.0.0.1", Port: server.RANDOM_PORT, NoSigs: true, NoLog: true,
		TrustedOperators: []*jwt.OperatorClaims{op}, SystemAccount: op.SystemAccount, AccountResolver: resolver,
	}
	opts.LeafNode.Host, opts.LeafNode.Port = "127.0.0.1", server.RANDOM_PORT
	srv, err := server.NewServer(opts)
	if err != nil {
		t.Fatal(err)
	}
	srv.Start()
	t.Cleanup(func() { srv.Shutdown(); srv.WaitForShutdown() })
	if !srv.ReadyForConnections(patience) {
		t.Fatal("the hub is not ready")
	}
	return fmt.Sprintf("127.0.0.1:%d", opts.LeafNode.Port)
}

// leaf tries to be a leafnode on a credential. The answer is the server's.
func leaf(t *testing.T, u user, addr string) error {
	t.Helper()
	r, nonce := greet(t, addr)
	hello := map[string]any{
		"jwt": u.token, "sig": r.sign(u, nonce), "server_id": "NLEAF", "name": "leaf", "cluster": "leafs",
		"version": "2.15.2", "headers": true, "protocol": 1,
	}
	r.write("CONNECT ", must(json.Marshal(hello)), "\r\nPING\r\n")
	if err := r.until("PONG"); err != nil {
		return fmt.Errorf("%w %v", err, r.errs)
	}
	return nil
}

// 48: plain member creds opened a leafnode, and a renewal from behind it was in
// the leaf's name. Two things prevent it, and each is enough: the template's
// connection types and the account's limit. Without both it works, which shows
// that what is tried here is what would work.
func TestLeafnodes(t *testing.T) {
	alice, _ := member(t, "ams", "alice")
	users := []user{alice, guest(t), issuerOf(t, "ams"), registrarOf(t, "ams")}
	anyType := func(c *jwt.AccountClaims) {
		for _, s := range scopes(t, c) {
			s.Template.AllowedConnectionTypes = nil
		}
	}
	anyNumber := func(c *jwt.AccountClaims) { c.Limits.LeafNodeConn = jwt.NoLimit }
	for _, c := range []struct {
		what   string
		change func(*jwt.AccountClaims)
	}{
		{"as the platform is", nil},
		{"without the account's limit", anyNumber},
		{"without the connection types", anyType},
	} {
		addr := hub(t, c.change)
		for _, u := range users {
			err := leaf(t, u, addr)
			if err == nil {
				t.Errorf("%s: %s opens a leafnode", c.what, u.what)
			} else if strings.Contains(err.Error(), "timeout") {
				t.Errorf("%s: %s: %v", c.what, u.what, err)
			}
		}
	}
	addr := hub(t, func(c *jwt.AccountClaims) { anyType(c); anyNumber(c) })
	for _, u := range users {
		if err := leaf(t, u, addr); err != nil {
			t.Errorf("with both guards gone %s is refused still, so nothing was shown: %v", u.what, err)
		}
	}
}

// 48: no server of the platform listens for leafnodes, websockets or MQTT; and
// none of its listeners takes a credential for a leafnode.
func TestNoLeafnodeListener(t *testing.T) {
	alice, _ := member(t, "ams", "alice")
	for _, s := range shared.Up.Cluster.Servers() {
		err := leaf(t, alice, strings.TrimPrefix(s.URL, "nats://"))
		// On a client port it is a client, with no more rights than that: what a
		// leafnode does next is not understood.
		if err == nil {
			r := enter(t, alice, s.Region.String())
			r.write("LS+ chat.KUBECON.dms.x\r\n")
			if err := r.until("PONG"); err == nil {
				t.Errorf("%s understands a leafnode's protocol", s.Name)
			}
		}
	}
	for _, r := range shared.Up.Platform.File.Regions {
		for _, n := range r.Nodes {
			for _, addr := range []string{n.Cluster, n.Gateway, r.Gateway} {
				if conn, err := net.Dial("tcp", addr); err != nil {
					t.Errorf("%s: %v", addr, err)
				} else if err := conn.Close(); err != nil {
					t.Error(err)
				}
				rejected(t, alice, addr)
			}
		}
	}
}

// rejected: a route's or gateway's listener does not take a user for a client.
func rejected(t *testing.T, u user, addr string) {
	t.Helper()
	r, nonce := greet(t, addr)
	hello := map[string]any{"jwt": u.token, "sig": r.sign(u, nonce), "lang": "raw", "version": "0", "protocol": 1}
	r.write("CONNECT ", must(json.Marshal(hello)), "\r\nPING\r\n")
	if err := r.until("PONG"); err == nil {
		t.Errorf("%s takes a member", addr)
	}
}
