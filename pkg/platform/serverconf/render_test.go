package serverconf_test

import (
	"errors"
	"fmt"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats-server/v2/conf"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nkeys"
	"pgregory.net/rapid"

	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/platform/manifest"
	"github.com/herald-nats/herald/pkg/platform/serverconf"
	"github.com/herald-nats/herald/pkg/trust"
)

// newBearer is the JWT of a user under somebody's role.
func newBearer() string {
	role, user, account := must(nkeys.CreateAccount()), must(nkeys.CreateUser()), must(nkeys.CreateAccount())
	c := jwt.NewUserClaims(must(user.PublicKey()))
	c.IssuerAccount = must(account.PublicKey())
	c.UserPermissionLimits = jwt.UserPermissionLimits{}
	return must(c.Encode(role))
}

// What servers read from the text is what the description says, and they would start:
// NewServer looks at what `nats-server -t` does not, such as the gateway's name.
func TestServersReadIt(t *testing.T) {
	r := newRoot()
	in := under(t.TempDir(), r.input())
	f := production()
	f.TLS = manifest.TLS{} // with certificates: the tests of internal/supercluster
	all, err := serverconf.All(f, in)
	if err != nil {
		t.Fatal(err)
	}
	if len(all) != 9 || all[4].Path() != "sfo/sfo-2/nats-server.conf" {
		t.Fatalf("%d files, the fifth at %s", len(all), all[4].Path())
	}
	o := parse(t, all[4].Text)
	at := in.Folders(region("sfo"), name("sfo-2"))
	for _, c := range []struct {
		what      string
		got, want any
	}{
		{"server_name", o.ServerName, "sfo-2"},
		{"listen", fmt.Sprint(o.Host, o.Port), fmt.Sprint("0.0.0.0", 4222)},
		{"client_advertise", o.ClientAdvertise, "nats2.sfo.example.com:4222"}, // the second of two
		{"max_connections", o.MaxConn, 10_000},
		{"max_payload", o.MaxPayload, int32(8 << 20)},
		{"max_control_line", o.MaxControlLine, int32(0)}, // the server's own
		{"authorization.timeout", o.AuthTimeout, 5.0},
		{"jetstream", o.JetStream, true},
		{"store_dir", o.StoreDir, filepath.Join(at.Data, "jetstream")},
		{"max_mem", o.JetStreamMaxMemory, int64(2 << 30)},
		{"max_file", o.JetStreamMaxStore, int64(200 << 30)},
		{"cluster", fmt.Sprint(o.Cluster.Name, o.Cluster.Host, o.Cluster.Port, o.Cluster.Advertise), fmt.Sprint("sfo", "0.0.0.0", 6222, "nats-1.sfo.example.com:6222")},
		{"gateway", fmt.Sprint(o.Gateway.Name, o.Gateway.Host, o.Gateway.Port, o.Gateway.Advertise), fmt.Sprint("sfo", "0.0.0.0", 7222, "gateway.sfo.example.com:7222")},
		{"reject_unknown_cluster", o.Gateway.RejectUnknown, true},
		{"websocket", fmt.Sprint(o.Websocket.Host, o.Websocket.Port, o.Websocket.Advertise, o.Websocket.NoTLS), fmt.Sprint("0.0.0.0", 8443, "nats-1.sfo.example.com:8443", true)},
		{"leafnodes", fmt.Sprint(o.LeafNode.Host, o.LeafNode.Port, o.LeafNode.Advertise), fmt.Sprint("0.0.0.0", 7422, "nats-1.sfo.example.com:7422")},
		// What is for the machine alone stays so, whatever listen is.
		{"http", fmt.Sprint(o.HTTPHost, o.HTTPPort), fmt.Sprint("127.0.0.1", 8222)},
		{"system_account", o.SystemAccount, r.operator.System().String()},
		{"operators", len(o.TrustedOperators), 1},
		{"operator", o.TrustedOperators[0].Subject, r.operator.Key()},
		{"lame duck", []time.Duration{o.LameDuckGracePeriod, o.LameDuckDuration}, []time.Duration{10 * time.Second, 30 * time.Second}},
		{"log", []any{o.LogFile, o.Syslog, o.Logtime}, []any{"", false, true}},
	} {
		if !reflect.DeepEqual(c.got, c.want) {
			t.Errorf("%s is %v, want %v", c.what, c.got, c.want)
		}
	}
	f.Regions[1].Nodes[1].Monitor = "nats-1.sfo.example.com:8222"
	if o := parse(t, must(serverconf.Render(f, region("sfo"), name("sfo-2"), in))); o.HTTPHost != "0.0.0.0" || o.HTTPPort != 8222 {
		t.Errorf("http is %s:%d", o.HTTPHost, o.HTTPPort)
	}
	var hosts []string
	for _, u := range o.Routes {
		hosts = append(hosts, u.Host)
	}
	if want := []string{"nats-0.sfo.example.com:6222", "nats-2.sfo.example.com:6222"}; !reflect.DeepEqual(hosts, want) {
		t.Errorf("routes to %v", hosts)
	}
	for _, c := range all {
		o := parse(t, c.Text)
		o.NoSigs, o.NoLog = true, true
		s, err := server.NewServer(o)
		if err != nil {
			t.Fatalf("%s would not start: %v", c.Node, err)
		}
		s.Shutdown()
	}
}

func TestDefaults(t *testing.T) {
	all, err := serverconf.All(loopback(3, "ams"), newRoot().input())
	if err != nil {
		t.Fatal(err)
	}
	m := must(conf.Parse(string(all[0].Text)))
	resolver, js, auth := m["resolver"].(map[string]any), m["jetstream"].(map[string]any), m["authorization"].(map[string]any)
	for _, c := range []struct{ what, got, want any }{
		{"dir", resolver["dir"], "/var/lib/nats/resolver"},
		{"interval", resolver["interval"], "1m"},
		// Less than a client has, so that who is refused hears it.
		{"timeout", resolver["timeout"], "1.9s"},
		{"store_dir", js["store_dir"], "/var/lib/nats/jetstream"},
		{"max_mem", js["max_mem"], int64(64 << 20)},
		{"max_file", js["max_file"], int64(1 << 30)},
		{"max_connections", m["max_connections"], int64(65536)},
		{"max_payload", m["max_payload"], int64(1 << 20)},
		{"timeout", auth["timeout"], "2s"},
	} {
		if c.got != c.want {
			t.Errorf("%v is %v, want %v", c.what, c.got, c.want)
		}
	}
	for _, absent := range []string{"gateway", "websocket", "leafnodes", "http", "tls", "default_sentinel", "client_advertise"} {
		if m[absent] != nil {
			t.Errorf("there is %s", absent)
		}
	}
}

// A server that starts for the first time waits for the number of routes and gateway URLs
// that it has. More than half of all servers, or two parts of a platform elect a leader
// each; no more than all, or nobody does.
func TestMetaGroupWaitsForMoreThanHalf(t *testing.T) {
	r := newRoot()
	in := under(t.TempDir(), r.input())
	rapid.Check(t, func(rt *rapid.T) {
		regions := []string{"ams", "fra", "hkg", "iad", "lhr", "nrt", "sfo", "sgp", "syd", "yul"}[:rapid.IntRange(2, 10).Draw(rt, "regions")]
		f := loopback(3, regions...)
		total, port := 0, 20000
		for i := range f.Regions {
			n := rapid.IntRange(2, 9).Draw(rt, "nodes")
			all := &f.Regions[i].Nodes
			for len(*all) < n {
				more := (*all)[0]
				port++
				more.Name = name(fmt.Sprintf("%s-%d", f.Regions[i].Name, len(*all)+1))
				more.Cluster = fmt.Sprintf("127.0.0.1:%d", port)
				*all = append(*all, more)
			}
			*all = (*all)[:n]
			total += n
		}
		for _, c := range must(serverconf.All(f, in)) {
			o := &server.Options{}
			err := o.ProcessConfigString(string(c.Text))
			o.AccountResolver.Close()
			if err != nil {
				rt.Fatal(err)
			}
			told, hosts := len(o.Routes), map[string]bool{}
			for _, g := range o.Gateway.Gateways {
				told += len(g.URLs)
				for _, u := range g.URLs {
					hosts[u.Host] = true
				}
			}
			if 2*told <= total || told > total {
				rt.Fatalf("%s waits for %d of %d", c.Node, told, total)
			}
			if len(hosts) != len(regions)-1 {
				rt.Fatalf("%s knows %d addresses of %d regions", c.Node, len(hosts), len(regions)-1)
			}
		}
	})
}

// Who writes folders into the description writes folders, and nothing else: a value is
// read back as it was, and there are no more keys than without it.
func TestNothingIsInjected(t *testing.T) {
	r := newRoot()
	keys := func(f *manifest.File) []string {
		c := must(serverconf.All(f, r.input()))[0]
		return paths("", must(conf.ParseWithChecks(string(c.Text))))
	}
	plain := keys(loopback(3, "ams", "sfo"))
	check := func(config, data string) error {
		f := loopback(3, "ams", "sfo")
		f.Servers.ConfigDir, f.Servers.DataDir = "/"+config, "/"+data
		f.TLS.Routes = manifest.ModeMutual
		c := must(serverconf.All(f, r.input()))[0]
		m, err := conf.Parse(string(c.Text))
		if err != nil {
			return err
		}
		if got, want := m["jetstream"].(map[string]any)["store_dir"], filepath.Join("/"+data, "jetstream"); got != want {
			return fmt.Errorf("store_dir is %q, want %q", got, want)
		}
		tls := m["cluster"].(map[string]any)["tls"].(map[string]any)
		if got, want := tls["key_file"], filepath.Join("/"+config, "tls", "route.key"); got != want {
			return fmt.Errorf("key_file is %q, want %q", got, want)
		}
		f.TLS.Routes = manifest.ModeOff
		if got := keys(f); !reflect.DeepEqual(got, plain) {
			return fmt.Errorf("there are other keys: %v", got)
		}
		return nil
	}
	for _, hostile := range []string{
		`x"` + "\n" + `no_auth_user: "root`,
		`x" } authorization { user: a, password: b`,
		"$HOME", "${PATH}", `"$PATH"`, "$system_account", "2a$bcrypt",
		"include /etc/passwd", "x\ninclude /etc/passwd\n", `x\`, `\"`, `\x41\x`, `\u0041`,
		"a\x00b", "a\r\nb", "# not a comment", "// nor this", "a;b", "{", "]", "'", "\xff\xfe", "Łódź", "a\u202eb\u2028c",
	} {
		if err := check(hostile, "data"); err != nil {
			t.Errorf("config_dir %q: %v", hostile, err)
		}
		if err := check("config", hostile); err != nil {
			t.Errorf("data_dir %q: %v", hostile, err)
		}
	}
	rapid.Check(t, func(rt *rapid.T) {
		if err := check(rapid.String().Draw(rt, "config"), string(rapid.SliceOf(rapid.Byte()).Draw(rt, "data"))); err != nil {
			rt.Fatal(err)
		}
	})
}

// paths are all keys of a configuration, with those that are around them. That the value
// is one token tells that it was read from the file and not from the environment.
func paths(at string, v any) []string {
	if tk, ok := v.(interface{ Value() any }); ok {
		v = tk.Value()
	}
	var all []string
	switch v := v.(type) {
	case map[string]any:
		for k, inside := range v {
			all = append(all, paths(at+"."+k, inside)...)
		}
	case []any:
		for _, inside := range v {
			all = append(all, paths(at+".-", inside)...)
		}
	default:
		all = append(all, at)
	}
	return sorted(all)
}

// What cannot be configured is refused, with the key that is wrong; an address is
// nothing but a host and a port.
func TestRefused(t *testing.T) {
	node := func(f *manifest.File) *manifest.Node { return &f.Regions[1].Nodes[2] }
	r, other := newRoot(), newRoot()
	for what, c := range map[string]struct {
		spoil func(*manifest.File, *serverconf.Input)
		want  string
	}{
		"no host":             {func(f *manifest.File, _ *serverconf.Input) { node(f).Client = ":4222" }, "region sfo, node sfo-3: client"},
		"no port":             {func(f *manifest.File, _ *serverconf.Input) { node(f).Cluster = "a" }, "cluster"},
		"port 0":              {func(f *manifest.File, _ *serverconf.Input) { node(f).Gateway = "a:0" }, "gateway"},
		"port by name":        {func(f *manifest.File, _ *serverconf.Input) { node(f).Client = "a:nats" }, "client"},
		"another spelling":    {func(f *manifest.File, _ *serverconf.Input) { node(f).Client = "a:04222" }, "client"},
		"user in an address":  {func(f *manifest.File, _ *serverconf.Input) { f.Regions[0].Gateway = "u:p@a:1" }, "gateway"},
		"path in an address":  {func(f *manifest.File, _ *serverconf.Input) { f.Regions[0].Gateway = "a/b?c:1" }, "gateway"},
		"a second line":       {func(f *manifest.File, _ *serverconf.Input) { node(f).Monitor = "a\nb:1" }, "monitor"},
		"a quote":             {func(f *manifest.File, _ *serverconf.Input) { node(f).Websocket = `a"b:1` }, "websocket"},
		"a zone":              {func(f *manifest.File, _ *serverconf.Input) { node(f).Leafnode = "[fe80::1%\"x]:1" }, "leafnode"},
		"a variable":          {func(f *manifest.File, _ *serverconf.Input) { node(f).Listen = "$HOST" }, "listen"},
		"clients":             {func(f *manifest.File, _ *serverconf.Input) { f.Regions[0].Clients = []string{"nats://a:1"} }, "clients"},
		"cluster name":        {func(f *manifest.File, _ *serverconf.Input) { f.Regions[0].Cluster = "fra" }, "must have the region's name"},
		"gateway name":        {func(f *manifest.File, _ *serverconf.Input) { f.Regions[0].GatewayName = "fra" }, "must have the region's name"},
		"one-sided gateways":  {func(f *manifest.File, _ *serverconf.Input) { f.TLS.Gateways = manifest.ModeServer }, "tls of gateway"},
		"a mode":              {func(f *manifest.File, _ *serverconf.Input) { f.TLS.Clients = "on" }, "tls of client"},
		"payload":             {func(f *manifest.File, _ *serverconf.Input) { f.Servers.MaxPayload = 65 << 20 }, "max_payload"},
		"connections":         {func(f *manifest.File, _ *serverconf.Input) { f.Servers.MaxConnections = -1 }, "out of range"},
		"no operator":         {func(_ *manifest.File, in *serverconf.Input) { in.Operator = nil }, "no operator"},
		"another's account":   {func(_ *manifest.File, in *serverconf.Input) { in.System = other.system }, "system account"},
		"not SYS":             {func(_ *manifest.File, in *serverconf.Input) { in.System = r.account() }, "is that of"},
		"no sentinel":         {func(f *manifest.File, _ *serverconf.Input) { withSentinel(f) }, "LOBBY/anyone"},
		"a sentinel too many": {func(_ *manifest.File, in *serverconf.Input) { in.Sentinel = newBearer() }, "default_sentinel"},
		"no user":             {func(f *manifest.File, in *serverconf.Input) { withSentinel(f); in.Sentinel = in.System }, "default_sentinel"},
		"no folder": {func(_ *manifest.File, in *serverconf.Input) {
			in.Folders = func(ident.Region, ident.Name) serverconf.Folders { return serverconf.Folders{} }
		}, "no folder"},
	} {
		f, in := loopback(3, "ams", "sfo"), r.input()
		c.spoil(f, &in)
		all, err := serverconf.All(f, in)
		if !errors.Is(err, serverconf.ErrInvalid) || all != nil {
			t.Errorf("%s: %v", what, err)
			continue
		}
		if !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v does not say %q", what, err, c.want)
		}
	}
	if _, err := serverconf.All(loopback(3, "ams"), serverconf.Input{Operator: r.operator, System: other.system}); !errors.Is(err, trust.ErrUntrusted) {
		t.Error(err)
	}
	if _, err := serverconf.Render(loopback(3, "ams"), region("ams"), name("ams-4"), r.input()); !errors.Is(err, serverconf.ErrInvalid) {
		t.Error(err)
	}
	if _, err := serverconf.Render(loopback(3, "ams"), region("fra"), name("ams-1"), r.input()); !errors.Is(err, serverconf.ErrInvalid) {
		t.Error(err)
	}
}

// account is the JWT of an account that is not the system account.
func (r root) account() string {
	c := jwt.NewAccountClaims(must(must(nkeys.CreateAccount()).PublicKey()))
	c.Name = "APP"
	return must(c.Encode(r.signer))
}

// The files that are asked for are those that the text names.
func TestTLSFiles(t *testing.T) {
	r := newRoot()
	for _, spoil := range []func(*manifest.File){
		func(*manifest.File) {},
		func(f *manifest.File) { f.TLS = manifest.TLS{} },
		func(f *manifest.File) { f.TLS = manifest.TLS{Clients: manifest.ModeServer} },
		func(f *manifest.File) {
			f.TLS = manifest.TLS{Gateways: manifest.ModeMutual, Websockets: manifest.ModeServer}
		},
		func(f *manifest.File) { f.TLS = manifest.TLS{Leafnodes: manifest.ModeMutual} },
		func(f *manifest.File) { f.Regions = f.Regions[:1] },
	} {
		f := production()
		spoil(f)
		want := map[string]bool{}
		for _, tf := range serverconf.TLSFiles(f, f.Regions[0].Nodes[0]) {
			want[tf.Name] = true
			if tf.Secret != strings.HasSuffix(tf.Name, ".key") {
				t.Errorf("%s is a secret: %t", tf.Name, tf.Secret)
			}
		}
		text := string(must(serverconf.All(f, r.input()))[0].Text)
		got := map[string]bool{}
		for _, m := range regexp.MustCompile(`_file: "/opt/acme/nats/tls/([^"]*)"`).FindAllStringSubmatch(text, -1) {
			got[m[1]] = true
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("the text names %v, TLSFiles %v", got, want)
		}
	}
}

func TestListeners(t *testing.T) {
	f := production()
	n := f.Regions[0].Nodes[0]
	all := []serverconf.Listener{serverconf.Client, serverconf.Route, serverconf.Gateway, serverconf.Websocket, serverconf.Leafnode}
	if got := serverconf.Listeners(f, n); !reflect.DeepEqual(got, all) {
		t.Error(got)
	}
	n.Websocket, n.Leafnode = "", ""
	f.TLS.Clients = manifest.ModeOff
	if got := serverconf.Listeners(f, n); !reflect.DeepEqual(got, all[1:3]) {
		t.Error(got)
	}
	f.Regions = f.Regions[:1]
	if got := serverconf.Listeners(f, n); !reflect.DeepEqual(got, all[1:2]) {
		t.Error(got)
	}
}
