package manifest_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"
	"pgregory.net/rapid"

	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/issuer"
	"github.com/herald-nats/herald/pkg/keystore"
	"github.com/herald-nats/herald/pkg/platform/manifest"
	"github.com/herald-nats/herald/pkg/policy"
)

// The rules about what servers would refuse, or accept and silently not do, are held here
// against a real one.

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// world is a server and the operator of its accounts.
type world struct {
	server   *server.Server
	resolver *server.MemAccResolver
	operator nkeys.KeyPair
}

func start(t *testing.T) *world {
	t.Helper()
	w := &world{resolver: &server.MemAccResolver{}, operator: must(nkeys.CreateOperator())}
	system := must(must(nkeys.CreateAccount()).PublicKey())
	op := jwt.NewOperatorClaims(must(w.operator.PublicKey()))
	op.SystemAccount = system
	token := must(op.Encode(w.operator))
	claims := must(jwt.DecodeOperatorClaims(token))
	w.store(t, jwt.NewAccountClaims(system))
	s, err := server.NewServer(&server.Options{
		Host: "127.0.0.1", Port: -1, NoLog: true, NoSigs: true, NoSystemAccount: false,
		TrustedOperators: []*jwt.OperatorClaims{claims}, SystemAccount: system, AccountResolver: w.resolver,
		JetStream: true, StoreDir: t.TempDir(),
	})
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	if !s.ReadyForConnections(20 * time.Second) {
		t.Fatal("the server does not start")
	}
	w.server = s
	return w
}

func (w *world) store(t interface{ Fatal(...any) }, c *jwt.AccountClaims) {
	token, err := c.Encode(w.operator)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.resolver.Store(c.Subject, token); err != nil {
		t.Fatal(err)
	}
}

// claimsOf are the parts of an account's claims that are about trade and mappings.
func claimsOf(a manifest.Account, keys map[ident.Label]string) *jwt.AccountClaims {
	kinds := map[string]jwt.ExportType{"stream": jwt.Stream, "service": jwt.Service}
	c := jwt.NewAccountClaims(keys[a.Name])
	c.Name = a.Name.String()
	for _, e := range a.Exports {
		c.Exports.Add(&jwt.Export{Name: e.Subject, Subject: jwt.Subject(e.Subject), Type: kinds[e.Type]})
	}
	for _, i := range a.Imports {
		c.Imports.Add(&jwt.Import{
			Name: i.Subject, Subject: jwt.Subject(i.Subject), Account: keys[i.From], Type: kinds[i.Type],
			LocalSubject: jwt.RenamingSubject(i.To), Share: i.Share,
		})
	}
	for _, m := range a.Mappings {
		var to []jwt.WeightedMapping
		for _, t := range m.To {
			to = append(to, jwt.WeightedMapping{Subject: jwt.Subject(t.Subject), Weight: uint8(t.Weight), Cluster: t.Cluster})
		}
		c.AddMapping(jwt.Subject(m.Subject), to...)
	}
	return c
}

// trading draws a platform of three accounts that trade, right or wrong.
func trading(t *rapid.T, f *manifest.File) {
	names := []string{"A", "B", "C"}
	kind := rapid.SampledFrom([]string{"stream", "service"})
	words := rapid.SampledFrom([]string{"a", "b", "*", "*", "c"})
	pattern := func(what string) string {
		s := strings.Join(rapid.SliceOfN(words, 0, 2).Draw(t, what), ".")
		if first := rapid.SampledFrom([]string{"a", "b", "c", "d", "*"}).Draw(t, "first"); s == "" {
			s = first
		} else {
			s = first + "." + s
		}
		if rapid.IntRange(0, 3).Draw(t, "rest") == 0 {
			s += ".>"
		}
		return s
	}
	for _, name := range names {
		a := manifest.Account{Name: must(ident.ParseLabel(name))}
		for i := range rapid.IntRange(1, 3).Draw(t, "exports") {
			// Most do not overlap, as most that are meant do not.
			s := pattern("export")
			if rapid.IntRange(0, 7).Draw(t, "apart") > 0 {
				s = strings.ToLower(name) + fmt.Sprint(i) + "." + s
			}
			a.Exports = append(a.Exports, manifest.Export{Subject: s, Type: kind.Draw(t, "type")})
		}
		f.Accounts = append(f.Accounts, a)
	}
	for i := range f.Accounts {
		for range rapid.IntRange(0, 3).Draw(t, "imports") {
			from := f.Accounts[(i+rapid.IntRange(1, 2).Draw(t, "from"))%3]
			e := rapid.SampledFrom(from.Exports).Draw(t, "of")
			imp := manifest.Import{From: from.Name, Subject: e.Subject, Type: e.Type}
			if rapid.Bool().Draw(t, "narrower") {
				imp.Subject = strings.Replace(imp.Subject, "*", "x", 1)
			}
			if rapid.Bool().Draw(t, "renamed") {
				imp.To = renamed(t, imp.Subject)
			}
			f.Accounts[i].Imports = append(f.Accounts[i].Imports, imp)
		}
		for k := range rapid.IntRange(0, 2).Draw(t, "mappings") {
			m := manifest.Mapping{Subject: fmt.Sprintf("m%d.", k) + pattern("mapped")}
			for k := range rapid.IntRange(1, 2).Draw(t, "targets") {
				m.To = append(m.To, manifest.MappedTo{Subject: fmt.Sprintf("t%d.", k) + strings.ReplaceAll(renamed(t, m.Subject), "*", "$1"), Weight: rapid.Int64Range(0, 60).Draw(t, "weight")})
			}
			f.Accounts[i].Mappings = append(f.Accounts[i].Mappings, m)
		}
	}
}

// renamed is a subject with places for the wildcards of another, or with other ones.
func renamed(t *rapid.T, of string) string {
	to := []string{rapid.SampledFrom([]string{"x", "y", "z"}).Draw(t, "to")}
	n := 0
	for _, w := range strings.Split(of, ".") {
		switch w {
		case "*":
			n++
			place := fmt.Sprintf("$%d", n)
			if rapid.IntRange(0, 4).Draw(t, "odd") == 0 {
				place = rapid.SampledFrom([]string{"*", "$1", "$2", fmt.Sprintf("{{wildcard(%d)}}", n)}).Draw(t, "place")
			}
			to = append(to, place)
		case ">":
			to = append(to, ">")
		}
	}
	if rapid.IntRange(0, 15).Draw(t, "more") == 0 {
		to = append(to, rapid.SampledFrom([]string{"$1", "*", "w", ">"}).Draw(t, "last"))
	}
	return strings.Join(to, ".")
}

// TestServersDoWhatIsAccepted holds the rules of exports, imports and mappings: where
// Check finds nothing, jwt finds nothing, and a server has all of it.
func TestServersDoWhatIsAccepted(t *testing.T) {
	w := start(t)
	base, err := manifest.Parse("base.yaml", []byte(complete("")))
	if err != nil {
		t.Fatal(err)
	}
	accepted := 0
	rapid.Check(t, func(t *rapid.T) {
		f := manifest.Bare(base)
		trading(t, f)
		if problems := f.Check(); len(problems) > 0 {
			return
		}
		accepted++
		keys := map[ident.Label]string{}
		all := slices.DeleteFunc(f.AllAccounts(), manifest.Account.Own)
		for _, a := range all {
			keys[a.Name] = must(must(nkeys.CreateAccount()).PublicKey())
		}
		for _, a := range all {
			c := claimsOf(a, keys)
			var vr jwt.ValidationResults
			c.Validate(&vr)
			if errs := vr.Errors(); len(errs) > 0 {
				t.Fatalf("account %s: %v\n%s", a.Name, errors.Join(errs...), f.Render())
			}
			w.store(t, c)
		}
		for _, a := range all {
			if err := w.has(a, keys); err != nil {
				t.Fatalf("account %s: %v\n%s", a.Name, err, f.Render())
			}
		}
	})
	t.Logf("%d were accepted", accepted)
	if accepted == 0 {
		t.Error("nothing was accepted: the test says nothing")
	}
}

// has asks the server for all that an account is to have.
func (w *world) has(a manifest.Account, keys map[ident.Label]string) error {
	if _, err := w.server.LookupAccount(keys[a.Name]); err != nil {
		return err
	}
	z, err := w.server.Accountz(&server.AccountzOptions{Account: keys[a.Name]})
	if err != nil {
		return err
	}
	got := z.Account
	if !got.Complete || len(got.Exports) != len(a.Exports) || len(got.Mappings) != len(a.Mappings) {
		return fmt.Errorf("the server has complete: %v, %d of %d exports, %d of %d mappings", got.Complete, len(got.Exports), len(a.Exports), len(got.Mappings), len(a.Mappings))
	}
	for _, imp := range a.Imports {
		if !slices.ContainsFunc(got.Imports, func(i server.ExtImport) bool {
			return !i.Invalid && i.Account == keys[imp.From] && string(i.Subject) == imp.Subject && i.Type.String() == imp.Type
		}) {
			return fmt.Errorf("the server does not have the import of %s %q of %s", imp.Type, imp.Subject, imp.From)
		}
	}
	return nil
}

// TestMappings holds what is accepted of a mapping's target to the server's word.
func TestMappings(t *testing.T) {
	for _, tc := range []struct{ from, to string }{
		{"a", "b"},
		{"a.*", "b.$1"},
		{"a.*.*", "b.$2.$1"},
		{"a.*", "b"},
		{"a.>", "b.>"},
		{"a.*.>", "$1.b.>"},
		{"a.*", "$1"},
		{"a", "{{random(5)}}"},
		{"a", "b.{{partition(5)}}"},
		{"a.*.*", "b.{{wildcard(2)}}"},
		{"a.*.*", "b.{{partition(10,1,2)}}"},
		{"a.*", "b.{{split(1,-)}}"},
		{"a.*", "b.{{splitfromleft(1,3)}}"},
		{"a.*", "b.{{splitfromright(1,3)}}"},
		{"a.*", "b.{{slicefromleft(1,3)}}"},
		{"a.*", "b.{{slicefromright(1,3)}}"},
		{"a.*", "b.{{left(1,3)}}"},
		{"a.*", "b.{{right(1,3)}}"},
		{"a.*", "b.{{random(3)}}.$1"},
	} {
		if reason := manifest.WrongMapping(tc.from, tc.to); reason != "" {
			t.Errorf("%s to %s is refused: %s", tc.from, tc.to, reason)
		}
		if err := server.ValidateMapping(tc.from, tc.to); err != nil {
			t.Errorf("%s to %s: the server says %v", tc.from, tc.to, err)
		}
	}
	words := rapid.SampledFrom([]string{
		"a", "*", ">", "$1", "$2", "$0", "$x", "$", "{{wildcard(1)}}", "{{wildcard(2)}}", "{{wildcard(0)}}", "{{wildcard()}}", "{{partition(3)}}", "{{partition(3,1)}}",
		"{{partition(3,2)}}", "{{partition()}}", "{{partition(x)}}", "{{split(1,-)}}", "{{split(1)}}", "{{split(1,)}}", "{{left(1,2)}}", "{{left(1)}}", "{{left(2,1)}}",
		"{{random(2)}}", "{{random(2,2)}}", "{{random()}}", "{{nonsense(1)}}", "{{}}", "{{x", "x}}", "x{{left(1,1)}}", "{{Wildcard(1)}}", "", "a b", "a*",
	})
	rapid.Check(t, func(t *rapid.T) {
		from := strings.Join(rapid.SliceOfN(rapid.SampledFrom([]string{"a", "*", ">", "*"}), 1, 3).Draw(t, "from"), ".")
		to := strings.Join(rapid.SliceOfN(words, 1, 3).Draw(t, "to"), ".")
		if manifest.WrongMapping(from, to) != "" {
			return
		}
		if err := server.ValidateMapping(from, to); err != nil && server.IsValidSubject(from) {
			t.Fatalf("%q to %q is accepted, and the server says %v", from, to, err)
		}
	})
}

// TestLocalSubjects holds what is accepted of an import's subject here to jwt's word.
func TestLocalSubjects(t *testing.T) {
	words := rapid.SampledFrom([]string{"a", "b", "*", ">", "$1", "$2", "$3", "$01", "$+1", "$x", "", "a b", "{{wildcard(1)}}"})
	agreed := 0
	rapid.Check(t, func(t *rapid.T) {
		there := strings.Join(rapid.SliceOfN(rapid.SampledFrom([]string{"a", "*", "*"}), 1, 3).Draw(t, "there"), ".") + rapid.SampledFrom([]string{"", ".>"}).Draw(t, "rest")
		here := strings.Join(rapid.SliceOfN(words, 1, 4).Draw(t, "here"), ".")
		if manifest.WrongLocal(there, here) != "" {
			return
		}
		agreed++
		var vr jwt.ValidationResults
		jwt.RenamingSubject(here).Validate(jwt.Subject(there), &vr)
		if errs := vr.Errors(); len(errs) > 0 {
			t.Fatalf("%q as %q is accepted, and jwt says %v", there, here, errs)
		}
	})
	if agreed == 0 {
		t.Error("nothing was accepted: the test says nothing")
	}
}

// TestConnectSize holds the size of a CONNECT to what a server takes from a real client
// with a credential that a real issuer made: whatever is said to fit fits, and what is
// said not to is not far from it.
func TestConnectSize(t *testing.T) {
	w := start(t)
	account, role := must(keystore.Generate(keystore.Account)), must(keystore.Generate(keystore.Account))
	user := must(keystore.Generate(keystore.User))
	c := jwt.NewAccountClaims(account.Public())
	scope := jwt.NewUserScope()
	scope.Key, scope.Role = role.Public(), "member"
	c.SigningKeys.AddScopedSigner(scope)
	w.store(t, c)
	label := must(ident.ParseLabel("A"))
	i := issuer.New(issuer.RoleKey{Account: label, AccountKey: must(ident.ParseAccountKey(account.Public())), Role: label, Key: role})
	connects := func(tags []string) error {
		own := []string{
			"identity:" + strings.Repeat("i", 6), "region:" + strings.Repeat("r", 16), "oidc:" + strings.Repeat("o", 32+1+255),
			"proven:" + strings.Repeat("p", 12), "met:" + strings.Repeat("m", 16),
		}
		cred, err := i.Mint(policy.Grant{
			Account: label, Role: label, Name: must(ident.ParseName(strings.Repeat("n", 32))), TTL: time.Hour, Tags: append(own, tags...),
		}, must(ident.ParseUserKey(user.Public())), time.Now(), 0.123456789012345)
		if err != nil {
			t.Fatal(err)
		}
		nc, err := nats.Connect(w.server.ClientURL(), nats.Name(strings.Repeat("n", 256)), nats.NoReconnect(), nats.Timeout(10*time.Second),
			nats.UserJWT(func() (string, error) { return cred.JWT, nil }, user.Sign))
		if err != nil {
			return err
		}
		defer nc.Close()
		return nc.Flush()
	}
	tags := func(size int) []string {
		var all []string
		for n := 0; size > 0; n++ {
			tag := fmt.Sprintf("t%d:%s", n, strings.Repeat("v", min(size, 300)))
			all, size = append(all, tag), size-300
		}
		return all
	}
	fits := func(ok func(size int) bool) int { // the largest size that is ok
		low, high := 0, 8192
		for low < high {
			if mid := (low + high + 1) / 2; ok(mid) {
				low = mid
			} else {
				high = mid - 1
			}
		}
		return low
	}
	said := fits(func(size int) bool { return manifest.ConnectSize(tags(size)) <= manifest.MaxConnect })
	if err := connects(tags(said)); err != nil {
		t.Errorf("%d bytes of tags are said to fit, and the server says %v", said, err)
	}
	most := fits(func(size int) bool { return connects(tags(size)) == nil })
	t.Logf("%d bytes of tags are said to fit, and %d do", said, most)
	if most < said || most > said+300 {
		t.Errorf("%d bytes of tags are said to fit, and %d do", said, most)
	}
	// What is not looked at always fits.
	if n := manifest.ConnectSize(tags(1024)); n > manifest.MaxConnect {
		t.Errorf("tags that are taken to be small give a CONNECT of %d bytes", n)
	}
}
