package platform_test

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"sort"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"

	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/keystore"
	"github.com/herald-nats/herald/pkg/ledger"
	"github.com/herald-nats/herald/pkg/platform"
	"github.com/herald-nats/herald/pkg/platform/manifest"
	"github.com/herald-nats/herald/pkg/policy"
	"github.com/herald-nats/herald/pkg/trust"
)

func now() time.Time { return time.Unix(1750000000, 0) }

// initial makes a platform of two regions in a folder that is not there yet.
func parse[T any](t testing.TB, f func(string) (T, error), s string) T {
	t.Helper()
	v, err := f(s)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func spec(t testing.TB, port int, regions ...string) platform.Spec {
	t.Helper()
	s := platform.Spec{Name: parse(t, ident.ParseName, "demo"), Nodes: 3, Port: port}
	for _, r := range regions {
		s.Regions = append(s.Regions, parse(t, ident.ParseRegion, r))
	}
	s.Home = s.Regions[0]
	return s
}

func initial(t *testing.T) *platform.Platform {
	t.Helper()
	p, err := platform.Init(t.Context(), filepath.Join(t.TempDir(), "demo"), spec(t, 14000, "ams", "sfo"), now())
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// tree is every path below a folder, with its mode and content.
// tokens are the JWTs of a platform's accounts.
func tokens(t *testing.T, p *platform.Platform) []string {
	t.Helper()
	all, err := p.Tokens()
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func tree(t *testing.T, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	if err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		out[rel] = info.Mode().String()
		if d.Type().IsRegular() {
			data, err := os.ReadFile(path) // #nosec G122 -- a folder of the test's own
			if err != nil {
				return err
			}
			out[rel] += "\n" + string(data)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return out
}

func same(a, b map[string]string) bool {
	if len(a) != len(b) {
		return false
	}
	for k, v := range a {
		if b[k] != v {
			return false
		}
	}
	return true
}

func TestInit(t *testing.T) {
	p := initial(t)
	d := p.Dir
	ams, sfo := p.File.Regions[0].Name, p.File.Regions[1].Name
	for path, entry := range tree(t, string(d)) {
		mode, content, _ := strings.Cut(entry, "\n")
		dir, public := strings.HasPrefix(mode, "d"), path == "public" || strings.HasPrefix(path, "public"+string(filepath.Separator))
		want := "-rw-------"
		switch {
		case dir && public:
			want = "drwxr-xr-x"
		case dir:
			want = "drwx------"
		case public:
			want = "-rw-r--r--"
		}
		if mode != want {
			t.Errorf("%s has mode %s, want %s", path, mode, want)
		}
		// The one seed in public/ is the guest's, whom anybody may be.
		if public && filepath.Base(path) != platform.GuestFile && strings.Contains(content, "SEED") {
			t.Errorf("%s holds a seed", path)
		}
		if strings.Contains(path, ".init-") {
			t.Errorf("%s is left behind", path)
		}
	}
	seeds := func(dir string) []string {
		var out []string
		for path := range tree(t, dir) {
			if strings.HasSuffix(path, ".nk") || strings.HasSuffix(path, ".creds") {
				out = append(out, path)
			}
		}
		sort.Strings(out)
		return out
	}
	for dir, want := range map[string][]string{
		d.Public():       {"guest.creds"},
		d.Issuer(ams):    {"auth.creds", "region.nk", "roles/CHAT.member.nk"},
		d.Registrar(ams): {"home.creds", "ledger.creds", "readers.creds", "signing.nk", "sys.creds"},
		d.Registrar(sfo): {"ledger.creds", "readers.creds", "signing.nk", "sys.creds"},
	} {
		if got := seeds(dir); !slices.Equal(got, want) {
			t.Errorf("secrets in %s: %v, want %v", dir, got, want)
		}
	}
	// Each party has secrets of its own: no two folders share a seed, but for the
	// role keys, which are in all regions and in operator/.
	found := map[string]string{}
	for path, entry := range tree(t, string(d)) {
		if !strings.HasSuffix(path, ".nk") || strings.Contains(path, "roles") {
			continue
		}
		_, seed, _ := strings.Cut(entry, "\n")
		if other, twice := found[seed]; twice {
			t.Errorf("%s and %s are one key", path, other)
		}
		found[seed] = path
	}
	if p.Document.Version != (trust.Version{Epoch: 1, Number: 1}) || p.Document.Operator != p.Operator.Key() || len(p.Held()) != 7 {
		t.Errorf("version %s, %d accounts", p.Document.Version, len(p.Held()))
	}
	first, err := p.Operator.VerifyAccount(tokens(t, p)[0])
	if err != nil || first.Subject != p.Operator.System().String() {
		t.Errorf("the first account is not the system account: %v", err)
	}
	// A signing key each: one can be taken away without the others.
	for _, r := range []ident.Region{ams, sfo} {
		k, err := keystore.Load(filepath.Join(d.Registrar(r), platform.SigningFile), keystore.Operator)
		if err != nil || !p.Operator.Signs(k.Public()) {
			t.Errorf("the registrar of %s: %v", r, err)
		}
	}
}

// TestDocument: services get the whole platform document, clients its public part,
// and that is the same everywhere.
func TestDocument(t *testing.T) {
	p := initial(t)
	d := p.Dir
	ams, sfo := p.File.Regions[0].Name, p.File.Regions[1].Name
	opener := ledger.Opener{Operator: p.Operator, Now: now}
	for _, dir := range []string{d.Operator(), d.Issuer(ams), d.Issuer(sfo), d.Registrar(ams), d.Registrar(sfo)} {
		data, err := os.ReadFile(filepath.Join(dir, platform.FullFile))
		if err != nil {
			t.Error(err)
			continue
		}
		if got := strings.TrimSpace(string(data)); got != p.FullToken {
			t.Errorf("%s has another document", dir)
		}
		if _, err := os.Stat(filepath.Join(dir, platform.DocumentFile)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s has the public part as well: %v", dir, err)
		}
	}
	e, err := opener.Open(ledger.PlatformKey().String(), p.FullToken)
	if err != nil || e.Version != p.Document.Version.Rank() || !e.At.Equal(now()) {
		t.Fatalf("%+v %v", e, err)
	}
	if _, err := os.Stat(filepath.Join(d.Public(), platform.FullFile)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the policy is public: %v", err)
	}
	public, err := os.ReadFile(filepath.Join(d.Public(), platform.DocumentFile))
	if err != nil || strings.TrimSpace(string(public)) != p.Full.PublicToken {
		t.Errorf("public/ has another document than the ledger: %v", err)
	}
	if p.Document != p.Full.Public || p.Full.Names != ledger.DefaultNameRules() {
		t.Errorf("%+v", p.Full)
	}
	chat, member := parse(t, ident.ParseLabel, "CHAT"), parse(t, ident.ParseLabel, "member")
	want := []policy.Offer{{
		Kind: "open", Account: chat, Role: member,
		Default: policy.Seconds(p.File.Credentials.Lifetime), Longest: policy.Seconds(p.File.Credentials.Longest),
	}}
	if !reflect.DeepEqual(p.Full.Policy.Offers, want) {
		t.Errorf("on offer: %+v", p.Full.Policy.Offers)
	}
	// What clients are told of lifetimes is what policy gives.
	acc, _ := p.Document.Account(chat)
	if o := acc.Roles[0].Open; o == nil || o.Default != int64(want[0].Default.Duration()/time.Second) || o.Longest != int64(want[0].Longest.Duration()/time.Second) {
		t.Errorf("clients are told %+v", o)
	}
	// The operator key set the epoch, and no signing key did.
	proof, err := jwt.DecodeGeneric(p.Document.EpochProof)
	if err != nil || proof.Issuer != p.Operator.Key() {
		t.Errorf("the epoch is set by %+v, %v", proof, err)
	}
}

func TestInitChangesNothingThatIsThere(t *testing.T) {
	p := initial(t)
	before := tree(t, string(p.Dir))
	if _, err := platform.Init(t.Context(), string(p.Dir), spec(t, 15000, "ams"), now()); !errors.Is(err, platform.ErrExists) {
		t.Errorf("over a platform: %v", err)
	}
	if !same(before, tree(t, string(p.Dir))) {
		t.Error("a second init changed something")
	}
	// Anything counts, also what is hidden, and leftovers beside it stay.
	for _, name := range []string{"x", ".hidden", ".initx"} {
		dir := t.TempDir()
		if err := errors.Join(os.WriteFile(filepath.Join(dir, name), []byte("mine"), 0o600), os.Mkdir(filepath.Join(dir, ".init-1"), 0o700)); err != nil {
			t.Fatal(err)
		}
		before := tree(t, dir)
		if _, err := platform.Init(t.Context(), dir, spec(t, 15000, "ams"), now()); !errors.Is(err, platform.ErrExists) {
			t.Errorf("over %s: %v", name, err)
		}
		if !same(before, tree(t, dir)) {
			t.Errorf("init changed a folder with %s", name)
		}
	}
}

func TestInitThatFailsLeavesNothing(t *testing.T) {
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	noPorts, noNodes, badHome, twice := spec(t, 65530, "ams"), spec(t, 15000, "ams"), spec(t, 15000, "ams"), spec(t, 15000, "ams", "ams")
	noNodes.Nodes, badHome.Home = 2, parse(t, ident.ParseRegion, "sfo")
	many := spec(t, 0, "ams")
	many.Nodes = 10000
	for _, tc := range []struct {
		what string
		ctx  context.Context
		spec platform.Spec
		want error
	}{
		{"ended before", cancelled, spec(t, 15000, "ams"), context.Canceled},
		{"ports beyond 65535", t.Context(), noPorts, manifest.ErrInvalid},
		{"two nodes", t.Context(), noNodes, manifest.ErrInvalid},
		{"a home that is no region", t.Context(), badHome, manifest.ErrInvalid},
		{"a region twice", t.Context(), twice, manifest.ErrInvalid},
		{"more ports than there are", t.Context(), many, platform.ErrNoPorts},
	} {
		parent := t.TempDir()
		dir := filepath.Join(parent, "demo")
		if p, err := platform.Init(tc.ctx, dir, tc.spec, now()); !errors.Is(err, tc.want) || p != nil {
			t.Errorf("%s: %v", tc.what, err)
		}
		if left := tree(t, parent); len(left) != 1 {
			t.Errorf("%s: left behind: %v", tc.what, left)
		}
		// A folder that was there stays, empty.
		if _, err := platform.Init(tc.ctx, parent, tc.spec, now()); !errors.Is(err, tc.want) {
			t.Errorf("%s: %v", tc.what, err)
		}
		if left := tree(t, parent); len(left) != 1 {
			t.Errorf("%s: left behind in the folder: %v", tc.what, left)
		}
	}
	// The parent is missing, or a file.
	parent := t.TempDir()
	if _, err := platform.Init(t.Context(), filepath.Join(parent, "a", "b"), spec(t, 15000, "ams"), now()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a missing parent: %v", err)
	}
	if left := tree(t, parent); len(left) != 1 {
		t.Errorf("left behind: %v", left)
	}
	file := filepath.Join(parent, "file")
	if err := os.WriteFile(file, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{file, filepath.Join(file, "demo")} {
		if _, err := platform.Init(t.Context(), dir, spec(t, 15000, "ams"), now()); err == nil {
			t.Errorf("%s is a platform", dir)
		}
	}
	if data, err := os.ReadFile(file); err != nil || string(data) != "mine" {
		t.Errorf("a file became %q, %v", data, err)
	}
}

func TestInitAfterOneThatWasKilled(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "demo")
	old := filepath.Join(dir, ".init-123", "operator")
	if err := errors.Join(os.MkdirAll(old, 0o700), os.WriteFile(filepath.Join(old, "operator.nk"), []byte("half"), 0o600)); err != nil {
		t.Fatal(err)
	}
	if _, err := platform.Open(dir); !errors.Is(err, platform.ErrNotPlatform) {
		t.Errorf("what a killed init left is opened: %v", err)
	}
	if _, err := platform.Init(t.Context(), dir, spec(t, 15000, "ams"), now()); err != nil {
		t.Fatal(err)
	}
	for path := range tree(t, dir) {
		if strings.Contains(path, ".init-") {
			t.Errorf("%s is left behind", path)
		}
	}
}

func TestOpen(t *testing.T) {
	p := initial(t)
	dir := string(p.Dir)
	if q, err := platform.Open(dir); err != nil || q.Operator.Key() != p.Operator.Key() {
		t.Fatal(err)
	}
	other := initial(t)
	read := func(path string) []byte {
		t.Helper()
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	signed := func(q *platform.Platform, at time.Time) []byte {
		t.Helper()
		k, err := keystore.Load(filepath.Join(q.Dir.Operator(), "signing", "nscsetup.nk"), keystore.Operator)
		if err != nil {
			t.Fatal(err)
		}
		token, err := ledger.SignDocument(ledger.KeySigner{Key: k}, p.Document, p.Full.Policy, p.Full.Names, at)
		if err != nil {
			t.Fatal(err)
		}
		return []byte(token)
	}
	later, strange := signed(p, time.Now().AddDate(1, 0, 0)), signed(other, now())
	for _, tc := range []struct {
		what   string
		path   string
		change func([]byte) []byte // nil: it is removed
		want   error
	}{
		{"another name", p.Dir.File(), replace("name: demo", "name: other"), manifest.ErrInvalid},
		{"another home", p.Dir.File(), replace("home: ams", "home: sfo"), manifest.ErrInvalid},
		{"an unknown key", p.Dir.File(), replace("home:", "colour: red\nhome:"), manifest.ErrInvalid},
		{"an empty file", p.Dir.File(), replace("", ""), nil},
		{"no platform file", p.Dir.File(), nil, platform.ErrNotPlatform},
		{"no operator JWT", filepath.Join(p.Dir.Operator(), platform.OperatorFile), nil, platform.ErrNotPlatform},
		{"no document", filepath.Join(p.Dir.Operator(), platform.FullFile), nil, platform.ErrNotPlatform},
		{"the public part as the document", filepath.Join(p.Dir.Operator(), platform.FullFile), func([]byte) []byte {
			return read(filepath.Join(p.Dir.Public(), platform.DocumentFile))
		}, platform.ErrNotPlatform},
		{"a document from next year", filepath.Join(p.Dir.Operator(), platform.FullFile), func([]byte) []byte { return later }, platform.ErrNotPlatform},
		{"a document that a stranger signed", filepath.Join(p.Dir.Operator(), platform.FullFile), func([]byte) []byte { return strange }, platform.ErrNotPlatform},
		{"an altered document", filepath.Join(p.Dir.Operator(), platform.FullFile), func(b []byte) []byte {
			b = bytes.Clone(b)
			b[len(b)/2] ^= 1
			return b
		}, platform.ErrNotPlatform},
		{"another platform's operator", filepath.Join(p.Dir.Operator(), platform.OperatorFile), func([]byte) []byte {
			return read(filepath.Join(other.Dir.Operator(), platform.OperatorFile))
		}, platform.ErrNotPlatform},
		{"another platform's document", filepath.Join(p.Dir.Operator(), platform.FullFile), func([]byte) []byte {
			return read(filepath.Join(other.Dir.Operator(), platform.FullFile))
		}, platform.ErrNotPlatform},
		{"another platform's account", filepath.Join(p.Dir.Operator(), "accounts", "CHAT.jwt"), func([]byte) []byte {
			return read(filepath.Join(other.Dir.Operator(), "accounts", "CHAT.jwt"))
		}, platform.ErrNotPlatform},
	} {
		before := read(tc.path)
		if tc.change == nil {
			if err := os.Remove(tc.path); err != nil {
				t.Fatal(err)
			}
		} else if err := os.WriteFile(tc.path, tc.change(before), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := platform.Open(dir); !errors.Is(err, tc.want) {
			t.Errorf("%s: got %v, want %v", tc.what, err, tc.want)
		}
		if err := os.WriteFile(tc.path, before, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := platform.Open(t.TempDir()); !errors.Is(err, platform.ErrNotPlatform) {
		t.Errorf("an empty folder: %v", err)
	}
	if _, err := platform.Open(filepath.Join(dir, "none")); !errors.Is(err, platform.ErrNotPlatform) {
		t.Errorf("no folder: %v", err)
	}
	// What does not touch clients may be changed.
	change := replace("lifetime: 1h", "lifetime: 30m")
	if err := os.WriteFile(p.Dir.File(), change(read(p.Dir.File())), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := platform.Open(dir); err != nil {
		t.Errorf("another lifetime: %v", err)
	}
}

func replace(old, with string) func([]byte) []byte {
	return func(b []byte) []byte { return bytes.Replace(b, []byte(old), []byte(with), 1) }
}

func TestRenewServices(t *testing.T) {
	p := initial(t)
	ams := p.File.Regions[0].Name
	path := filepath.Join(p.Dir.Issuer(ams), platform.AuthCreds)
	claims := func() (*jwt.UserClaims, string) {
		t.Helper()
		data, err := keystore.ReadSecret(path) // checks the mode as well
		if err != nil {
			t.Fatal(err)
		}
		token, err := jwt.ParseDecoratedJWT(data)
		if err != nil {
			t.Fatal(err)
		}
		c, err := jwt.DecodeUserClaims(token)
		if err != nil {
			t.Fatal(err)
		}
		pair, err := jwt.ParseDecoratedUserNKey(data)
		if err != nil {
			t.Fatal(err)
		}
		pub, err := pair.PublicKey()
		if err != nil {
			t.Fatal(err)
		}
		return c, pub
	}
	first, key := claims()
	if first.Subject != key || first.Expires != now().Add(platform.ServiceLife).Unix() {
		t.Fatalf("made: %+v", first.ClaimsData)
	}
	half := now().Add(platform.ServiceLife / 2)
	if renewed, err := p.RenewServices(half.Add(-time.Second)); err != nil || len(renewed) != 0 {
		t.Errorf("a second before half of its life: %v %v", renewed, err)
	}
	renewed, err := p.RenewServices(half.Add(time.Second))
	if err != nil || len(renewed) != 9 {
		t.Fatalf("past half of its life: %v %v", renewed, err)
	}
	second, key2 := claims()
	if key2 != key || second.Subject != key || second.Name != first.Name || second.Issuer != first.Issuer ||
		second.IssuerAccount != first.IssuerAccount || !slices.Equal(second.Tags, first.Tags) || !second.HasEmptyPermissions() {
		t.Errorf("renewed, it is another user: %+v", second)
	}
	if second.Expires != half.Add(time.Second).Add(platform.ServiceLife).Unix() || second.ID == first.ID {
		t.Errorf("expires %d, jti %s", second.Expires, second.ID)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if _, err := p.Document.VerifyUser(token(t, path), half); err != nil {
		t.Errorf("the renewed user: %v", err)
	}
	if renewed, err := p.RenewServices(half.Add(time.Second)); err != nil || len(renewed) != 0 {
		t.Errorf("at once again: %v %v", renewed, err)
	}

	for _, c := range []struct{ file, account, role string }{
		{platform.LedgerCreds, platform.Ledger, platform.RoleRegistrar},
		{platform.HomeCreds, platform.Ledger, platform.RoleHome},
		{platform.ReaderCreds, platform.Readers, platform.RoleReader},
		{platform.SystemCreds, platform.System, platform.RoleRegistrar},
	} {
		u, err := p.Document.VerifyUser(token(t, filepath.Join(p.Dir.Registrar(ams), c.file)), half.Add(platform.ServiceLife))
		if err != nil || u.Account.String() != c.account || u.Role.String() != c.role {
			t.Errorf("%s renewed is of %s/%s, %v", c.file, u.Account, u.Role, err)
		}
	}

	// A part that was given away is its holder's to keep; one that others can
	// read is an error.
	if err := os.RemoveAll(p.Dir.Registrar(ams)); err != nil {
		t.Fatal(err)
	}
	late := half.Add(platform.ServiceLife)
	if renewed, err := p.RenewServices(late); err != nil || len(renewed) != 5 {
		t.Errorf("with one part given away: %v %v", renewed, err)
	}
	if err := os.Chmod(path, 0o640); err != nil {
		t.Fatal(err)
	}
	if _, err := p.RenewServices(late.Add(platform.ServiceLife)); !errors.Is(err, keystore.ErrExposed) {
		t.Errorf("exposed creds: %v", err)
	}
}

func token(t *testing.T, path string) string {
	t.Helper()
	data, err := keystore.ReadSecret(path)
	if err != nil {
		t.Fatal(err)
	}
	tok, err := jwt.ParseDecoratedJWT(data)
	if err != nil {
		t.Fatal(err)
	}
	return tok
}

func TestMint(t *testing.T) {
	p := initial(t)
	u, err := p.Mint(platform.Ledger, platform.RoleRegistrar, now(), time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	got, err := p.Document.VerifyUser(u.Token, now())
	if err != nil || got.Key.String() != u.Key.Public() || got.Account.String() != platform.Ledger || got.Role.String() != platform.RoleRegistrar {
		t.Errorf("%+v %v", got, err)
	}
	if _, err := p.Document.VerifyUser(u.Token, now().Add(time.Minute)); err == nil {
		t.Error("it does not expire")
	}
	for _, bad := range [][2]string{{"NONE", "registrar"}, {platform.Ledger, "none"}, {platform.Ledger, platform.RoleIssuer}, {"..", ".."}} {
		if _, err := p.Mint(bad[0], bad[1], now(), time.Minute); err == nil {
			t.Errorf("%v is minted", bad)
		}
	}
}

// TestInitTwice: of several inits of one folder at the same moment one makes
// the platform, whole, and the others change nothing.
func TestInitTwice(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "p")
	errs := make(chan error, 4)
	for range cap(errs) {
		go func() {
			_, err := platform.Init(t.Context(), dir, spec(t, 14000, "ams"), now())
			errs <- err
		}()
	}
	made := 0
	for range cap(errs) {
		switch err := <-errs; {
		case err == nil:
			made++
		case !errors.Is(err, platform.ErrExists):
			t.Error(err)
		}
	}
	if made != 1 {
		t.Errorf("%d inits made a platform", made)
	}
	if _, err := platform.Open(dir); err != nil {
		t.Error(err)
	}
}
