package serverconf_test

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nkeys"
	"go.uber.org/goleak"

	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/platform/manifest"
	"github.com/herald-nats/herald/pkg/platform/serverconf"
	"github.com/herald-nats/herald/pkg/trust"
)

func TestMain(m *testing.M) {
	flag.Bool("update", false, "write the golden files anew")
	goleak.VerifyTestMain(m)
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// root is an operator of a test's own with its system account.
type root struct {
	signer   nkeys.KeyPair
	operator *trust.Operator
	system   string // JWT
}

func newRoot() root {
	op, signer, sys := must(nkeys.CreateOperator()), must(nkeys.CreateOperator()), must(nkeys.CreateAccount())
	oc := jwt.NewOperatorClaims(must(op.PublicKey()))
	oc.Name, oc.SystemAccount, oc.StrictSigningKeyUsage = "acme", must(sys.PublicKey()), true
	oc.SigningKeys.Add(must(signer.PublicKey()))
	ac := jwt.NewAccountClaims(oc.SystemAccount)
	ac.Name = "SYS"
	return root{signer: signer, operator: must(trust.ParseOperator(must(oc.Encode(op)))), system: must(ac.Encode(signer))}
}

func (r root) input() serverconf.Input {
	return serverconf.Input{Operator: r.operator, System: r.system}
}

func name(s string) ident.Name     { return must(ident.ParseName(s)) }
func region(s string) ident.Region { return must(ident.ParseRegion(s)) }

// loopback is what `nscsetup init` makes: ports of 127.0.0.1 in a row, nothing else said.
func loopback(nodes int, regions ...string) *manifest.File {
	f := &manifest.File{Name: name("acme")}
	port := 4000
	next := func() string {
		port++
		return fmt.Sprintf("127.0.0.1:%d", port)
	}
	for _, r := range regions {
		mr := manifest.Region{Name: region(r), Gateway: next()}
		for i := range nodes {
			mr.Nodes = append(mr.Nodes, manifest.Node{Name: name(fmt.Sprintf("%s-%d", r, i+1)), Client: next(), Cluster: next(), Gateway: next()})
		}
		f.Regions = append(f.Regions, mr)
	}
	return f
}

// production says everything that can be said: names behind load balancers, containers
// that listen everywhere, TLS on all listeners.
func production() *manifest.File {
	f := &manifest.File{
		Name: name("acme"),
		Servers: manifest.Servers{
			AuthTimeout: manifest.Duration(5e9), MaxPayload: 8 << 20, MaxConnections: 10_000,
			ConfigDir: "/opt/acme/nats", DataDir: "/srv/nats",
		},
		TLS: manifest.TLS{
			Clients: manifest.ModeMutual, Routes: manifest.ModeMutual, Gateways: manifest.ModeMutual,
			Websockets: manifest.ModeServer, Leafnodes: manifest.ModeMutual,
		},
	}
	for _, r := range []string{"ams", "sfo", "sgp"} {
		host := func(n, port int) string { return fmt.Sprintf("nats-%d.%s.example.com:%d", n, r, port) }
		mr := manifest.Region{
			Name: region(r), Gateway: "gateway." + r + ".example.com:7222",
			Clients:   []string{"nats." + r + ".example.com:4222", "nats2." + r + ".example.com:4222"},
			JetStream: manifest.NodeStore{Memory: 2 << 30, Disk: 200 << 30},
		}
		for i := range 3 {
			mr.Nodes = append(mr.Nodes, manifest.Node{
				Name: name(fmt.Sprintf("%s-%d", r, i+1)), Client: host(i, 4222), Cluster: host(i, 6222), Gateway: host(i, 7222),
				Websocket: host(i, 8443), Leafnode: host(i, 7422), Monitor: "127.0.0.1:8222", Listen: "0.0.0.0",
			})
		}
		f.Regions = append(f.Regions, mr)
	}
	return f
}

// parse reads a configuration as `nats-server -t` does, to which a warning is a mistake
// as well; keys that servers do not know are one. Data is put where tests may write.
func parse(t testing.TB, text []byte) *server.Options {
	t.Helper()
	path := filepath.Join(t.TempDir(), serverconf.FileName)
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	o := &server.Options{}
	err := o.ProcessConfigFile(path)
	if o.AccountResolver != nil {
		t.Cleanup(o.AccountResolver.Close)
	}
	if err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	return o
}

// under puts the data of all nodes below a folder of the test's.
func under(dir string, in serverconf.Input) serverconf.Input {
	in.Folders = func(r ident.Region, n ident.Name) serverconf.Folders {
		at := filepath.Join(dir, r.String(), n.String())
		return serverconf.Folders{TLS: filepath.Join(at, "tls"), Data: at}
	}
	return in
}

func sorted(s []string) []string {
	slices.Sort(s)
	return s
}
