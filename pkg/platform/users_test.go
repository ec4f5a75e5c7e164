package platform_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"

	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/keystore"
	"github.com/herald-nats/herald/pkg/permission"
	"github.com/herald-nats/herald/pkg/platform"
	"github.com/herald-nats/herald/pkg/platform/manifest"
)

// withOrders makes a platform with an account of the operator's own.
func withOrders(t testing.TB, dir string) *platform.Platform {
	t.Helper()
	f := platform.NewFile(spec(t, 14000, "ams", "sfo"))
	conns := func(r ...manifest.Role) []manifest.Role { return r }
	f.Accounts = append(f.Accounts, manifest.Account{
		Name: parse(t, ident.ParseLabel, "ORDERS"),
		Roles: conns(
			manifest.Role{
				Name:      parse(t, ident.ParseLabel, "service"),
				Publish:   manifest.Permission{Allow: []string{"orders.{{tag(team)}}.>", "_R_.>"}},
				Subscribe: manifest.Permission{Allow: []string{"orders.*.new", "_INBOX_{{subject()}}.>"}},
			},
			manifest.Role{
				Name:      parse(t, ident.ParseLabel, "strict"),
				Publish:   manifest.Permission{Allow: []string{"orders.>"}, Deny: []string{"orders.{{tag(team)}}.secret"}},
				Subscribe: manifest.Permission{Allow: []string{"_INBOX_{{subject()}}.>"}},
			},
		),
	})
	p, err := platform.Create(t.Context(), dir, f, now(), nil)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func service(t testing.TB) manifest.RoleRef { return parse(t, manifest.ParseRoleRef, "ORDERS/service") }

func users(p *platform.Platform) platform.StaticUsers {
	return platform.StaticUsers{Platform: p, Now: now}
}

func reopen(t testing.TB, p *platform.Platform) *platform.Platform {
	t.Helper()
	return parse(t, platform.Open, string(p.Dir))
}

// holds reads a creds file as NATS clients do.
func holds(t testing.TB, path string) (*jwt.UserClaims, *keystore.Key) {
	t.Helper()
	data, err := keystore.ReadSecret(path)
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
	seed, err := pair.Seed()
	if err != nil {
		t.Fatal(err)
	}
	key, err := keystore.Parse(keystore.User, seed)
	if err != nil {
		t.Fatal(err)
	}
	if c.Subject != key.Public() {
		t.Fatalf("%s: a JWT for %s with the seed of %s", path, c.Subject, key.Public())
	}
	return c, key
}

func TestAddUser(t *testing.T) {
	p := withOrders(t, filepath.Join(t.TempDir(), "demo"))
	n := platform.NewUser{
		Of: service(t), Name: parse(t, ident.ParseName, "mail"), Life: 24 * time.Hour, Tags: []string{"team:eu"},
		Region: parse(t, ident.ParseRegion, "sfo"),
	}
	m, err := users(p).Add(t.Context(), n)
	if err != nil {
		t.Fatal(err)
	}
	if want := filepath.Join(p.Dir.Operator(), "users", "ORDERS.service.mail.creds"); m.File != want || m.Unfinished != "" || m.Granted || len(m.Ignored) > 0 {
		t.Errorf("%+v", m)
	}
	c, _ := holds(t, m.File)
	_, claims := held(t, p, "ORDERS")
	scope, ok := claims.SigningKeys[c.Issuer].(*jwt.UserScope)
	if !ok || scope.Role != "service" || c.IssuerAccount != claims.Subject {
		t.Errorf("signed by %s for %s", c.Issuer, c.IssuerAccount)
	}
	if c.Name != "mail" || c.Subject != m.Key.String() || c.IssuedAt != now().Unix() || c.Expires != now().Add(24*time.Hour).Unix() || !c.HasEmptyPermissions() ||
		strings.Join(c.Tags, " ") != "region:sfo team:eu" || c.ID == "" || c.ID != m.Last().ID {
		t.Errorf("%+v", c)
	}
	// What is on record is public, and the folder's modes are kept.
	got, err := users(reopen(t, p)).All()
	if err != nil || len(got) != 1 || got[0].Key != m.Key || got[0].Of() != n.Of || got[0].Creds != "users/ORDERS.service.mail.creds" ||
		len(got[0].Issued) != 1 || got[0].Last().Expires != c.Expires {
		t.Errorf("%+v, %v", got, err)
	}
	record, err := os.ReadFile(filepath.Join(p.Dir.Operator(), "users", "ORDERS.service.mail.json"))
	if err != nil || seedPattern().Match(record) {
		t.Errorf("the record has a seed, or cannot be read: %v", err)
	}
	for path, mode := range map[string]fs.FileMode{m.File: 0o600, filepath.Dir(m.File): 0o700} {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != mode {
			t.Errorf("%s: %v, %v", path, info.Mode(), err)
		}
	}
	// Again, and with another file: it is there, and stays.
	before := tree(t, string(p.Dir))
	again := n
	again.Creds = filepath.Join(t.TempDir(), "other.creds")
	for _, n := range []platform.NewUser{n, again} {
		if _, err := users(p).Add(t.Context(), n); !errors.Is(err, platform.ErrUserExists) {
			t.Errorf("twice: %v", err)
		}
	}
	if after := tree(t, string(p.Dir)); !equalTrees(before, after) {
		t.Error("a refusal changed the folder")
	}
}

func held(t testing.TB, p *platform.Platform, name string) (string, *jwt.AccountClaims) {
	t.Helper()
	h, ok := p.Account(name)
	if !ok {
		t.Fatalf("no account %s", name)
	}
	token, c, err := p.Claims(h)
	if err != nil {
		t.Fatal(err)
	}
	return token, c
}

func equalTrees(a, b map[string]string) bool { return fmt.Sprint(a) == fmt.Sprint(b) }

func seedPattern() *regexp.Regexp { return regexp.MustCompile(`S[OAUXCN][A-Z2-7]{56}`) }

func TestAddUserElsewhere(t *testing.T) {
	p := withOrders(t, filepath.Join(t.TempDir(), "demo"))
	out := filepath.Join(t.TempDir(), "x.creds")
	n := platform.NewUser{Of: service(t), Name: parse(t, ident.ParseName, "mail"), Life: time.Hour, Creds: out}
	m, err := users(p).Add(t.Context(), n)
	if err != nil {
		t.Fatal(err)
	}
	if m.File != out || m.Creds != out {
		t.Errorf("%s, %s", m.File, m.Creds)
	}
	holds(t, out)
	// The template asks for a tag that the user does not have.
	if len(m.Ignored) != 1 || m.Ignored[0].Rule.Written != "orders.{{tag(team)}}.>" {
		t.Errorf("ignored: %+v", m.Ignored)
	}
	// What is there is not overwritten, and nothing is left of the try.
	n.Name = parse(t, ident.ParseName, "other")
	before := tree(t, filepath.Dir(out))
	if _, err := users(p).Add(t.Context(), n); !errors.Is(err, platform.ErrUserExists) {
		t.Errorf("over a file: %v", err)
	}
	if !equalTrees(before, tree(t, filepath.Dir(out))) {
		t.Error("the refused try changed something")
	}
	if _, err := users(p).Get(n.Of, n.Name); !errors.Is(err, platform.ErrNoUser) {
		t.Errorf("the refused user is on record: %v", err)
	}
	// One that comes while the user is made is not overwritten either.
	late := filepath.Join(t.TempDir(), "late.creds")
	n.Creds = late
	s := users(p)
	s.Step = func(what string) {
		if what == "creds" {
			if err := os.WriteFile(late, []byte("not ours\n"), 0o600); err != nil {
				t.Error(err)
			}
		}
	}
	if _, err := s.Add(t.Context(), n); !errors.Is(err, platform.ErrUserExists) {
		t.Errorf("over a file that came late: %v", err)
	}
	if data, err := os.ReadFile(late); err != nil || string(data) != "not ours\n" {
		t.Errorf("it is %q, %v", data, err)
	}
	if entries, err := os.ReadDir(filepath.Dir(late)); err != nil || len(entries) != 1 {
		t.Errorf("there is more beside it: %v, %v", entries, err)
	}
	n.Name = parse(t, ident.ParseName, "third")
	n.Creds = filepath.Join(t.TempDir(), "missing", "x.creds")
	if _, err := users(p).Add(t.Context(), n); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("into a folder that is not there: %v", err)
	}
	// A dangling link is something, too.
	link := filepath.Join(t.TempDir(), "link.creds")
	if err := os.Symlink(filepath.Join(t.TempDir(), "nowhere"), link); err != nil {
		t.Fatal(err)
	}
	n.Creds = link
	if _, err := users(p).Add(t.Context(), n); !errors.Is(err, platform.ErrUserExists) {
		t.Errorf("over a link: %v", err)
	}
}

func TestAddUserRefuses(t *testing.T) {
	p := withOrders(t, filepath.Join(t.TempDir(), "demo"))
	name := parse(t, ident.ParseName, "mail")
	long := make([]string, 8)
	for i := range long {
		long[i] = fmt.Sprintf("team:%c%s", 'a'+i, strings.Repeat("x", 400))
	}
	before := tree(t, string(p.Dir))
	for _, tt := range []struct {
		name string
		role string
		n    platform.NewUser
		want error
	}{
		{"registrar", "SYS/registrar", platform.NewUser{Life: time.Hour}, platform.ErrReserved},
		{"set-up", "SYS/setup", platform.NewUser{Life: time.Hour}, platform.ErrReserved},
		{"home", "LEDGER/home", platform.NewUser{Life: time.Hour}, platform.ErrReserved},
		{"reader", "READERS/reader", platform.NewUser{Life: time.Hour}, platform.ErrReserved},
		{"issuer", "AUTH/issuer", platform.NewUser{Life: time.Hour}, platform.ErrReserved},
		{"guest", "GUEST/guest", platform.NewUser{Life: time.Hour}, platform.ErrReserved},
		{"no account", "NONE/service", platform.NewUser{Life: time.Hour}, platform.ErrNoRole},
		{"no role", "ORDERS/none", platform.NewUser{Life: time.Hour}, platform.ErrNoRole},
		{"no life", "ORDERS/service", platform.NewUser{}, platform.ErrUserInvalid},
		{"too long", "ORDERS/service", platform.NewUser{Life: platform.MaxStaticLife + 1}, platform.ErrUserInvalid},
		{"no tag", "ORDERS/service", platform.NewUser{Life: time.Hour, Tags: []string{"team"}}, platform.ErrUserInvalid},
		{"upper tag", "ORDERS/service", platform.NewUser{Life: time.Hour, Tags: []string{"team:EU"}}, platform.ErrUserInvalid},
		{"wildcard tag", "ORDERS/service", platform.NewUser{Life: time.Hour, Tags: []string{"team:*"}}, platform.ErrUserInvalid},
		{"own tag", "ORDERS/service", platform.NewUser{Life: time.Hour, Tags: []string{"region:ams"}}, platform.ErrUserInvalid},
		{"identity", "ORDERS/service", platform.NewUser{Life: time.Hour, Tags: []string{"identity:open"}}, platform.ErrUserInvalid},
		{"twice", "ORDERS/service", platform.NewUser{Life: time.Hour, Tags: []string{"team:a", "team:a"}}, platform.ErrUserInvalid},
		{"no region", "ORDERS/service", platform.NewUser{Life: time.Hour, Region: parse(t, ident.ParseRegion, "sgp")}, platform.ErrUserInvalid},
		{"CONNECT", "ORDERS/service", platform.NewUser{Life: time.Hour, Tags: long}, platform.ErrUserInvalid},
		{"a denial without its tag", "ORDERS/strict", platform.NewUser{Life: time.Hour}, permission.ErrRefused},
	} {
		tt.n.Of, tt.n.Name = parse(t, manifest.ParseRoleRef, tt.role), name
		if _, err := users(p).Add(t.Context(), tt.n); !errors.Is(err, tt.want) {
			t.Errorf("%s: %v, want %v", tt.name, err, tt.want)
		}
	}
	delete(before, "operator")
	after := tree(t, string(p.Dir))
	for path := range after {
		if _, ok := before[path]; !ok && !strings.HasSuffix(path, "users") && !strings.HasSuffix(path, ".lock") && path != "operator" {
			t.Errorf("a refusal left %s", path)
		}
	}
}

// TestNotInForce: what the file has and is not applied has no users yet.
func TestNotInForce(t *testing.T) {
	p := withOrders(t, filepath.Join(t.TempDir(), "demo"))
	data, err := os.ReadFile(p.Dir.File())
	if err != nil {
		t.Fatal(err)
	}
	data = bytes.Replace(data, []byte("name: strict"), []byte("name: lenient"), 1)
	if err := os.WriteFile(p.Dir.File(), data, 0o600); err != nil {
		t.Fatal(err)
	}
	p = reopen(t, p)
	n := platform.NewUser{Of: parse(t, manifest.ParseRoleRef, "ORDERS/lenient"), Name: parse(t, ident.ParseName, "mail"), Life: time.Hour}
	if _, err := users(p).Add(t.Context(), n); !errors.Is(err, platform.ErrNotInForce) {
		t.Errorf("a new role: %v", err)
	}
	// The old one is in force still.
	n.Of, n.Tags = parse(t, manifest.ParseRoleRef, "ORDERS/strict"), []string{"team:eu"}
	if _, err := users(p).Add(t.Context(), n); err != nil {
		t.Errorf("an old role: %v", err)
	}
}

func TestRenewUser(t *testing.T) {
	p := withOrders(t, filepath.Join(t.TempDir(), "demo"))
	n := platform.NewUser{Of: service(t), Name: parse(t, ident.ParseName, "mail"), Life: time.Hour, Tags: []string{"team:eu"}}
	s := users(p)
	if _, err := s.Renew(t.Context(), n.Of, n.Name, time.Hour, ""); !errors.Is(err, platform.ErrNoUser) {
		t.Errorf("renewing nobody: %v", err)
	}
	m, err := s.Add(t.Context(), n)
	if err != nil {
		t.Fatal(err)
	}
	first, key := holds(t, m.File)
	at := now().Add(30 * time.Minute)
	s.Now = func() time.Time { return at }
	m, err = s.Renew(t.Context(), n.Of, n.Name, 48*time.Hour, "")
	if err != nil {
		t.Fatal(err)
	}
	c, same := holds(t, m.File)
	if same.Public() != key.Public() || c.ID == first.ID || c.Expires != at.Add(48*time.Hour).Unix() || strings.Join(c.Tags, " ") != "team:eu" {
		t.Errorf("%+v", c)
	}
	// Both may hold still, so both are on record; later only those that do.
	if u, err := s.Get(n.Of, n.Name); err != nil || len(u.Issued) != 2 || u.Last().ID != c.ID || u.Unfinished != "" {
		t.Errorf("%+v, %v", u, err)
	}
	at = now().Add(2 * time.Hour)
	if m, err = s.Renew(t.Context(), n.Of, n.Name, time.Hour, ""); err != nil || len(m.Issued) != 2 || m.Issued[0].ID != c.ID {
		t.Errorf("%+v, %v", m, err)
	}
	// The file was moved.
	moved := filepath.Join(t.TempDir(), "moved.creds")
	if err := os.Rename(m.File, moved); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Renew(t.Context(), n.Of, n.Name, time.Hour, ""); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a file that is not there: %v", err)
	}
	if m, err = s.Renew(t.Context(), n.Of, n.Name, time.Hour, moved); err != nil || m.File != moved {
		t.Errorf("%+v, %v", m, err)
	}
	if m, err = s.Renew(t.Context(), n.Of, n.Name, time.Hour, ""); err != nil || m.File != moved {
		t.Errorf("where it is was forgotten: %+v, %v", m, err)
	}
	// Another user's file, and one that others can read.
	n.Name = parse(t, ident.ParseName, "other")
	other, err := s.Add(t.Context(), n)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Renew(t.Context(), n.Of, n.Name, time.Hour, moved); !errors.Is(err, platform.ErrUserInvalid) {
		t.Errorf("another's file: %v", err)
	}
	if err := os.Chmod(other.File, 0o644); err != nil { // #nosec G302 -- to see it refused
		t.Fatal(err)
	}
	if _, err := s.Renew(t.Context(), n.Of, n.Name, time.Hour, ""); !errors.Is(err, keystore.ErrExposed) {
		t.Errorf("an exposed file: %v", err)
	}
	if _, err := s.Renew(t.Context(), n.Of, n.Name, platform.MaxStaticLife+time.Second, ""); !errors.Is(err, platform.ErrUserInvalid) {
		t.Errorf("too long: %v", err)
	}
}

// TestUsersAtOnce: of several who make one user at once, one does.
func TestUsersAtOnce(t *testing.T) {
	p := withOrders(t, filepath.Join(t.TempDir(), "demo"))
	var (
		wg   sync.WaitGroup
		errs [8]error
	)
	for i := range errs {
		wg.Go(func() {
			_, errs[i] = users(p).Add(t.Context(), platform.NewUser{Of: service(t), Name: parse(t, ident.ParseName, "mail"), Life: time.Hour})
		})
	}
	wg.Wait()
	made := 0
	for _, err := range errs {
		switch {
		case err == nil:
			made++
		case !errors.Is(err, platform.ErrUserExists):
			t.Error(err)
		}
	}
	u, err := users(p).Get(service(t), parse(t, ident.ParseName, "mail"))
	if made != 1 || err != nil {
		t.Fatalf("made %d times, %v", made, err)
	}
	if c, _ := holds(t, p.Dir.CredsFile(u)); c.ID != u.Last().ID {
		t.Error("the record is of another credential than the file")
	}
}

// A run that is killed at any step is finished by the next, and no file with a seed is
// left that nobody knows of.
func TestUsersKilled(t *testing.T) {
	const stepEnv, dirEnv, renewEnv = "HERALD_TEST_KILL_AT", "HERALD_TEST_DIR", "HERALD_TEST_RENEW"
	n := platform.NewUser{Of: service(t), Name: parse(t, ident.ParseName, "mail"), Life: time.Hour}
	work := func(s platform.StaticUsers, renew bool) (platform.MadeUser, error) {
		if renew {
			return s.Renew(t.Context(), n.Of, n.Name, 2*time.Hour, "")
		}
		return s.Add(t.Context(), n)
	}
	if at := os.Getenv(stepEnv); at != "" {
		s := users(parse(t, platform.Open, os.Getenv(dirEnv)))
		s.Step = func(what string) {
			if what == at {
				_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
				select {} // it takes a moment
			}
		}
		_, err := work(s, os.Getenv(renewEnv) != "")
		t.Fatalf("it was not killed: %v", err)
	}
	for _, renew := range []bool{false, true} {
		for _, step := range []string{"record", "creds", "done"} {
			t.Run(fmt.Sprintf("%s, renewing %t", step, renew), func(t *testing.T) {
				p := withOrders(t, filepath.Join(t.TempDir(), "demo"))
				var before string
				if renew {
					m, err := users(p).Add(t.Context(), n)
					if err != nil {
						t.Fatal(err)
					}
					before = m.Key.String()
				}
				cmd := exec.Command(os.Args[0], "-test.run", "^TestUsersKilled$")
				cmd.Env = append(os.Environ(), stepEnv+"="+step, dirEnv+"="+string(p.Dir))
				if renew {
					cmd.Env = append(cmd.Env, renewEnv+"=1")
				}
				out, err := cmd.CombinedOutput()
				var exit *exec.ExitError
				if !errors.As(err, &exit) || exit.ExitCode() != -1 {
					t.Fatalf("it was not killed: %v\n%s", err, out)
				}
				// A credential that is in its file is on record, whatever happened.
				if u, err := users(p).Get(n.Of, n.Name); err == nil {
					if data, err := os.ReadFile(p.Dir.CredsFile(u)); err == nil && !bytes.Contains(data, []byte("JWT")) {
						t.Error("half a file")
					} else if err == nil {
						c, key := holds(t, p.Dir.CredsFile(u))
						known := false
						for _, i := range u.Issued {
							known = known || i.ID == c.ID
						}
						if !known || key.Public() != u.Key.String() {
							t.Errorf("a credential that is not on record: %s", c.ID)
						}
					}
				} else if step != "record" {
					t.Errorf("nothing is on record: %v", err)
				}
				if step == "creds" {
					// What it leaves if it is killed a moment later, while it writes.
					dir, base := filepath.Join(p.Dir.Operator(), "users"), ".ORDERS.service.mail.creds"
					if u, err := users(p).Get(n.Of, n.Name); err != nil {
						t.Fatal(err)
					} else if base += "." + u.Key.String()[1:9]; renew {
						base = ".ORDERS.service.mail.creds-12345"
					}
					k, err := keystore.Generate(keystore.User)
					if err != nil {
						t.Fatal(err)
					}
					if err := keystore.Save(filepath.Join(dir, base), k); err != nil {
						t.Fatal(err)
					}
				}
				m, err := work(users(p), renew)
				if err != nil {
					t.Fatalf("the next run: %v", err)
				}
				c, key := holds(t, m.File)
				if u, err := users(p).Get(n.Of, n.Name); err != nil || u.Unfinished != "" || u.Last().ID != c.ID || u.Key.String() != key.Public() {
					t.Errorf("%+v, %v", u, err)
				}
				if renew && key.Public() != before {
					t.Error("the key is another")
				}
				seeds := 0
				for path, content := range tree(t, filepath.Join(p.Dir.Operator(), "users")) {
					if seedPattern().MatchString(content) {
						if seeds++; !strings.HasSuffix(path, "ORDERS.service.mail.creds") {
							t.Errorf("a seed is left in %s", path)
						}
					}
				}
				if seeds != 1 {
					t.Errorf("%d files with seeds", seeds)
				}
			})
		}
	}
}

// TestUnfinishedStays: a run that was cut off in another way than it could be is not
// finished by guessing.
func TestUnfinishedStays(t *testing.T) {
	p := withOrders(t, filepath.Join(t.TempDir(), "demo"))
	n := platform.NewUser{Of: service(t), Name: parse(t, ident.ParseName, "mail"), Life: time.Hour}
	m, err := users(p).Add(t.Context(), n)
	if err != nil {
		t.Fatal(err)
	}
	record := filepath.Join(p.Dir.Operator(), "users", "ORDERS.service.mail.json")
	unfinished := func(what string) {
		data, err := os.ReadFile(record)
		if err != nil {
			t.Fatal(err)
		}
		data = regexp.MustCompile(`\n}\n$`).ReplaceAll(data, []byte(",\n  \"unfinished\": \""+what+"\"\n}\n"))
		if err := os.WriteFile(record, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	unfinished(platform.UnfinishedRenewal)
	// Its file was moved away: making the user anew would forget a key that somebody has.
	if err := os.Rename(m.File, m.File+".moved"); err != nil {
		t.Fatal(err)
	}
	if _, err := users(p).Add(t.Context(), n); !errors.Is(err, platform.ErrUserExists) {
		t.Errorf("made anew: %v", err)
	}
	if _, err := users(p).Renew(t.Context(), n.Of, n.Name, time.Hour, m.File+".moved"); err != nil {
		t.Error(err)
	}
	unfinished(platform.UnfinishedNew)
	if err := os.WriteFile(m.File+".moved", []byte("something else\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := users(p).Add(t.Context(), n); !errors.Is(err, platform.ErrUserExists) {
		t.Errorf("over another file: %v", err)
	}
	if data, err := os.ReadFile(m.File + ".moved"); err != nil || string(data) != "something else\n" {
		t.Errorf("the file is %q, %v", data, err)
	}
}

// TestRecordsAreChecked: a record that is not one is said to be, by its name.
func TestRecordsAreChecked(t *testing.T) {
	p := withOrders(t, filepath.Join(t.TempDir(), "demo"))
	n := platform.NewUser{Of: service(t), Name: parse(t, ident.ParseName, "mail"), Life: time.Hour}
	if _, err := users(p).Add(t.Context(), n); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(p.Dir.Operator(), "users")
	data, err := os.ReadFile(filepath.Join(dir, "ORDERS.service.mail.json"))
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{
		"copied": string(data), "empty": "{}", "broken": "{", "strange": `{"account":"../x"}`,
	} {
		path := filepath.Join(dir, "ORDERS.service."+name+".json")
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := users(p).All(); !errors.Is(err, platform.ErrNotPlatform) || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
}

func TestCompletionNames(t *testing.T) {
	p := withOrders(t, filepath.Join(t.TempDir(), "demo"))
	if _, err := users(p).Add(t.Context(), platform.NewUser{Of: service(t), Name: parse(t, ident.ParseName, "a.b"), Life: time.Hour}); err != nil {
		t.Fatal(err)
	}
	d := p.Dir
	for _, tt := range []struct{ got, want any }{
		{d.AccountNames(), []string{"ADMIN", "AUTH", "CHAT", "GUEST", "LEDGER", "ORDERS", "READERS", "SYS"}},
		{d.RoleNames("ORDERS"), []string{"service", "strict"}},
		{d.RegionNames(), []string{"ams", "sfo"}},
		{d.UserNames("ORDERS/service"), []string{"a.b"}},
		{d.UserNames("ORDERS/strict"), []string(nil)},
		{d.UserNames("ORDERS"), []string(nil)},
		{d.RoleNames("../accounts/ORDERS"), []string(nil)},
		{d.RoleNames("NONE"), []string(nil)},
		{platform.Dir(t.TempDir()).AccountNames(), []string(nil)},
		{platform.Dir("/none").RegionNames(), []string(nil)},
	} {
		if fmt.Sprint(tt.got) != fmt.Sprint(tt.want) {
			t.Errorf("%v, want %v", tt.got, tt.want)
		}
	}
}
