package rightstest

import (
	"bytes"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/herald-nats/herald/internal/uptest"
	"github.com/herald-nats/herald/pkg/client"
	"github.com/herald-nats/herald/pkg/keystore"
	"github.com/herald-nats/herald/pkg/subject"
)

// A seed is made by its holder and never sent: not in any message of a whole
// exchange, as somebody hears it who holds an issuer's and a registrar's
// credential and listens to all that these may hear.
func TestSeedsAreNotSent(t *testing.T) {
	key, err := keystore.Generate(keystore.User)
	if err != nil {
		t.Fatal(err)
	}
	auth, home := enter(t, issuerOf(t, "ams"), "ams"), enter(t, homeOf(t, "ams"), "ams")
	public := enter(t, guest(t), "ams")
	public.sub(public.inbox+".>", "")
	home.sub("auth.v1.home.*", "")
	for _, s := range []string{subject.Info, subject.Issue, subject.Renew, subject.Callout, "$SRV.>", "ledger.ams.>"} {
		auth.sub(s, "")
	}
	for _, r := range []*raw{auth, home, public} {
		r.allowed("the listener listens")
	}
	name := shared.Name("quiet")
	c, err := shared.Public.Obtain(bound(t), urls("ams"), key, client.Wish{Name: name})
	if err != nil {
		t.Fatal(err)
	}
	alice := user{"", c.JWT, key}
	enter(t, alice, "ams").ask(subject.Renew, nil, nil)

	// The claim, the request, the renewal and the sealed answer were heard.
	about := func(s string) func(msg) bool { return func(m msg) bool { return bytes.Contains(m.all(), []byte(s)) } }
	heard := []msg{
		home.wait("the claim", about("proof")),
		auth.wait("the request", about(name.String())),
		auth.wait("the renewal", func(m msg) bool { return m.subject == subject.Renew }),
		public.wait("the answer", about("Herald-Sealed")),
	}
	for _, r := range []*raw{auth, home, public} {
		r.sync()
		heard = append(heard, r.msgs...)
	}
	seed := alice.seed(t)
	forms := [][]byte{seed, seed[:20], []byte(b64(seed)), seed[1:], seed[2:]}
	for _, m := range heard {
		for _, f := range forms {
			if bytes.Contains(m.all(), f) {
				t.Errorf("the seed is in a message on %s", m.subject)
			}
		}
		if s := seeds().Find(m.all()); s != nil {
			t.Errorf("some seed is in a message on %s", m.subject)
		}
	}
}

// Each party's folder holds its own secrets and no other's, readable by their
// owner alone; public/ holds the guest, who is anyone.
func TestFolders(t *testing.T) {
	guestSeed := string(guest(t).seed(t))
	where := map[string][]string{} // seed → files
	eachFile(t, func(path string, data []byte) {
		for _, s := range seeds().FindAllString(string(data), -1) {
			where[s] = append(where[s], path)
		}
		info, err := os.Stat(filepath.Join(shared.Dir, path))
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasPrefix(path, "public/") && info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %#o", path, info.Mode().Perm())
		}
	})
	err := filepath.WalkDir(shared.Dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() || path == dir().Public() {
			return err
		}
		info, err := d.Info()
		if err == nil && info.Mode().Perm() != 0o700 && !strings.HasPrefix(path, dir().Data()+"/") {
			t.Errorf("%s has mode %#o", path, info.Mode().Perm())
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(where) < 20 {
		t.Fatalf("%d seeds were found: nothing is checked", len(where))
	}
	for seed, files := range where {
		parties := map[string]bool{}
		for _, f := range files {
			p := strings.Split(f, "/")
			switch p[0] {
			case "public":
				if seed != guestSeed {
					t.Errorf("%s holds a seed that is not the guest's", f)
				}
			case "issuers", "registrars":
				// Role keys are all issuers'; everything else is one service's.
				if p[0] == "issuers" && len(p) > 3 && p[2] == "roles" {
					parties["issuers"] = true
				} else {
					parties[p[0]+"/"+p[1]] = true
				}
				if strings.HasPrefix(seed, "SO") && p[0] == "issuers" {
					t.Errorf("%s holds an operator's key", f)
				}
				if strings.HasPrefix(seed, "SA") && p[0] == "registrars" {
					t.Errorf("%s holds an account's or role's key", f)
				}
			}
		}
		if len(parties) > 1 {
			t.Errorf("%v share a seed", files)
		}
	}
	// The operator's key is in one place.
	op := load(t, filepath.Join(dir().Operator(), "operator.nk"), keystore.Operator)
	seed, err := op.Seed()
	if err != nil {
		t.Fatal(err)
	}
	if files := where[string(seed)]; len(files) != 1 {
		t.Errorf("the operator's key is in %v", files)
	}
	// What the servers store is on disks of others one day.
	for _, r := range shared.Up.Platform.File.Regions {
		stored(t, filepath.Join(dir().Data(), r.Name.String()))
	}
}

func stored(t *testing.T, root string) {
	t.Helper()
	n := 0
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(path) // #nosec G122 -- a folder that this test made
		if err != nil {
			return err
		}
		n++
		if seeds().Find(data) != nil {
			t.Errorf("%s holds a seed", path)
		}
		return nil
	})
	if err != nil || n == 0 {
		t.Errorf("%s: %d files, %v", root, n, err)
	}
}

// The chat keeps its user's key where its user alone reads it, and prints none
// of it.
func TestUsersFolder(t *testing.T) {
	ctx := bound(t)
	bin, home := t.TempDir(), t.TempDir()
	if err := uptest.Build(ctx, bin, nil, "./cmd/chat"); err != nil {
		t.Fatal(err)
	}
	name := shared.Name("homely")
	cmd := exec.CommandContext(ctx, filepath.Join(bin, "chat"), "whoami", "--platform", dir().Public(), "--name", name.String(), "--region", "ams")
	cmd.Env = []string{"HOME=" + home, "PATH=" + os.Getenv("PATH"), "XDG_DATA_HOME=" + home + "/data", "XDG_CONFIG_HOME=" + home + "/config", "XDG_STATE_HOME=" + home + "/state"}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if err := noSecrets("what chat prints", out); err != nil {
		t.Error(err)
	}
	found := 0
	err = filepath.WalkDir(home, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == home {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		want := fs.FileMode(0o600)
		if d.IsDir() {
			want = 0o700
		}
		if info.Mode().Perm() != want {
			t.Errorf("%s has mode %#o, want %#o", path, info.Mode().Perm(), want)
		}
		if d.IsDir() {
			return nil
		}
		data, err := os.ReadFile(path) // #nosec G122 -- a folder that this test made
		if err != nil {
			return err
		}
		for _, s := range seeds().FindAll(data, -1) {
			found++
			if filepath.Base(path) != name.String()+".nk" {
				t.Errorf("%s holds the seed %.4s…", path, s)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if found != 1 {
		t.Errorf("%d seeds were found", found)
	}
}
