package keystore_test

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/nats-io/nkeys"

	"github.com/herald-nats/herald/pkg/keystore"
)

func kinds() []keystore.Kind {
	return []keystore.Kind{keystore.Operator, keystore.Account, keystore.User, keystore.Server, keystore.Curve}
}

func newKey(t testing.TB, kind keystore.Kind) *keystore.Key {
	t.Helper()
	k, err := keystore.Generate(kind)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func seed(t testing.TB, k *keystore.Key) []byte {
	t.Helper()
	s, err := k.Seed()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func raw(t testing.TB, k *keystore.Key) []byte {
	t.Helper()
	_, r, err := nkeys.DecodeSeed(seed(t, k))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func mode(t *testing.T, path string) fs.FileMode {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info.Mode().Perm()
}

// files are all files below a folder.
func files(t *testing.T, dir string) []string {
	t.Helper()
	var out []string
	if err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			out = append(out, path)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return out
}

func TestParse(t *testing.T) {
	for _, kind := range kinds() {
		k := newKey(t, kind)
		for _, s := range [][]byte{seed(t, k), append(seed(t, k), '\n'), append([]byte(" \r\n"), seed(t, k)...)} {
			got, err := keystore.Parse(kind, s)
			if err != nil || got.Public() != k.Public() || !bytes.Equal(seed(t, got), seed(t, k)) {
				t.Errorf("%c: %v", k.Public()[0], err)
			}
		}
		for _, other := range kinds() {
			if other == kind {
				continue
			}
			if got, err := keystore.Parse(other, seed(t, k)); !errors.Is(err, keystore.ErrKind) || got != nil {
				t.Errorf("a seed of %c as another kind: %v %v", k.Public()[0], got, err)
			}
		}
	}
	s := string(seed(t, newKey(t, keystore.User)))
	for what, bad := range map[string]string{
		"nothing":           "",
		"a public key":      newKey(t, keystore.User).Public(),
		"a broken checksum": s[:57] + string(other(s[57])),
		"another letter":    s[:20] + string(other(s[20])) + s[21:],
		"one short":         s[:57],
		"one more":          s + "A",
		"lower case":        strings.ToLower(s),
		"a space inside":    s[:20] + " " + s[20:],
		"two":               s + "\n" + s,
		"not base32":        "SU" + strings.Repeat("1", 56),
		"endless":           strings.Repeat("A", 1<<20),
	} {
		k, err := keystore.Parse(keystore.User, []byte(bad))
		if !errors.Is(err, keystore.ErrKind) || k != nil {
			t.Errorf("%s: %v %v", what, k, err)
			continue
		}
		if len(bad) > 10 && len(bad) < 1000 && strings.Contains(err.Error(), bad[2:40]) {
			t.Errorf("%s: the error holds what was given: %v", what, err)
		}
	}
}

func other(c byte) byte {
	if c == 'A' {
		return 'B'
	}
	return 'A'
}

func TestSign(t *testing.T) {
	data := []byte("what is signed")
	for _, kind := range kinds() {
		k := newKey(t, kind)
		sig, err := k.Sign(data)
		if kind == keystore.Curve {
			if !errors.Is(err, keystore.ErrKind) || sig != nil {
				t.Errorf("a curve key signs: %v", err)
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		pub, err := nkeys.FromPublicKey(k.Public())
		if err != nil {
			t.Fatal(err)
		}
		if err := pub.Verify(data, sig); err != nil {
			t.Errorf("nkeys: %v", err)
		}
		theirs, err := k.Pair().Sign(data)
		if err != nil || !bytes.Equal(sig, theirs) {
			t.Errorf("nkeys signs otherwise: %v", err)
		}
	}
}

// A key that is printed by mistake, in any way that programs print, tells none
// of its secrets: neither the seed, nor the bytes in it, in no usual notation.
func TestPrintingShowsNoSecret(t *testing.T) {
	for _, kind := range kinds() {
		k := newKey(t, kind)
		secrets := []string{string(seed(t, k))[2:50], strings.ToLower(string(seed(t, k)))[2:50]}
		r := raw(t, k)[:16]
		decimal := decimals(r)
		secrets = append(secrets, hex.EncodeToString(r), strings.ToUpper(hex.EncodeToString(r)), decimal,
			strings.ReplaceAll(decimal, " ", ", "), strings.ReplaceAll(decimal, " ", ","), string(r),
			strings.Trim(strings.TrimPrefix(fmt.Sprintf("%#v", r), "[]byte"), "{}"))
		s := seed(t, k)[:16]
		secrets = append(secrets, decimals(s), hex.EncodeToString(s))
		check := func(what, text string) {
			t.Helper()
			for _, secret := range secrets {
				if strings.Contains(text, secret) {
					t.Errorf("%s of a %c key shows its secret", what, k.Public()[0])
					return
				}
			}
		}
		type hidden struct{ k *keystore.Key }
		type shown struct{ K *keystore.Key }
		type value struct{ k keystore.Key }
		things := map[string]any{
			"a key": k, "a key's value": *k, "a struct with a key": shown{k}, "a struct with a hidden key": hidden{k},
			"a struct with a value": value{*k}, "a pointer to it": &value{*k}, "a list": []*keystore.Key{k}, "a list of values": []keystore.Key{*k},
			"a map": map[string]*keystore.Key{"k": k}, "a pointer to a pointer": &k, "any": []any{k, *k},
		}
		for what, v := range things {
			for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "% x", "%o", "%b", "%t", "%c", "%U"} {
				check(verb+" of "+what, fmt.Sprintf(verb, v))
			}
			var b bytes.Buffer
			for _, h := range []slog.Handler{slog.NewJSONHandler(&b, nil), slog.NewTextHandler(&b, nil)} {
				slog.New(h).Info("x", "v", v)
			}
			check("slog of "+what, b.String())
			if data, err := json.Marshal(v); err == nil {
				check("JSON of "+what, string(data))
			}
		}
		for _, verb := range []string{"%v", "%+v", "%s"} {
			if got := fmt.Sprintf(verb, k); got != k.Public() {
				t.Errorf("%s gives %s", verb, got)
			}
		}
		if got := fmt.Sprintf("%#v", k); got != "keystore.Key("+k.Public()+")" {
			t.Errorf("%%#v gives %s", got)
		}
		_, err := keystore.Parse(keystore.Account, seed(t, newKey(t, keystore.User)))
		check("an error", fmt.Sprintf("%+v", err))
	}
}

// decimals are bytes as fmt prints a list of them.
func decimals(b []byte) string {
	out := make([]string, len(b))
	for i, c := range b {
		out[i] = strconv.Itoa(int(c))
	}
	return strings.Join(out, " ")
}

func TestSave(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "a", "b", "user.nk")
	k := newKey(t, keystore.User)
	if err := keystore.Save(path, k); err != nil {
		t.Fatal(err)
	}
	if m := mode(t, path); m != 0o600 {
		t.Errorf("the file has mode %#o", m)
	}
	for _, d := range []string{filepath.Dir(path), filepath.Join(dir, "a")} {
		if m := mode(t, d); m != 0o700 {
			t.Errorf("the folder has mode %#o", m)
		}
	}
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := keystore.Save(path, newKey(t, keystore.User)); !errors.Is(err, fs.ErrExist) {
		t.Errorf("a second Save: %v", err)
	}
	if after, err := os.ReadFile(path); err != nil || !bytes.Equal(before, after) {
		t.Errorf("a second Save changed the file: %v", err)
	}
	got, err := keystore.Load(path, keystore.User)
	if err != nil || got.Public() != k.Public() {
		t.Errorf("Load: %v", err)
	}
	if _, err := keystore.Load(path, keystore.Account); !errors.Is(err, keystore.ErrKind) {
		t.Errorf("Load as another kind: %v", err)
	}
	if _, err := keystore.Load(path+"x", keystore.User); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Load of nothing: %v", err)
	}
	if n := len(files(t, dir)); n != 1 {
		t.Errorf("%d files", n)
	}
}

func TestWriteSecretLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	folder := filepath.Join(dir, "folder")
	file := filepath.Join(dir, "file")
	target := filepath.Join(dir, "target")
	link := filepath.Join(dir, "link")
	for _, err := range []error{os.Mkdir(folder, 0o700), os.WriteFile(file, []byte("x"), 0o600), os.Symlink(target, link)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	before := files(t, dir)
	for what, path := range map[string]string{
		"a folder": folder, "an existing file": file, "a file as folder": filepath.Join(file, "x"),
		// Following it would put the secret where somebody else chose.
		"a dangling link": link,
		"a NUL":           filepath.Join(dir, "a\x00b"),
	} {
		if err := keystore.WriteSecret(path, []byte("secret")); err == nil {
			t.Errorf("%s: no error", what)
		}
		if what == "a NUL" || what == "a folder" {
			continue
		}
	}
	if after := files(t, dir); strings.Join(before, " ") != strings.Join(after, " ") {
		t.Errorf("files before %v, after %v", before, after)
	}
	if data, err := os.ReadFile(file); err != nil || string(data) != "x" {
		t.Errorf("an existing file became %q, %v", data, err)
	}
	// A folder is where the file should come: what was written beside is removed.
	if err := keystore.ReplaceSecret(folder, []byte("secret")); err == nil {
		t.Error("a folder was replaced")
	}
	if after := files(t, dir); strings.Join(before, " ") != strings.Join(after, " ") {
		t.Errorf("after ReplaceSecret onto a folder: %v", after)
	}
}

func TestReplaceSecret(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "sub", "x.creds")
	for _, data := range []string{"first", "second"} {
		if err := keystore.ReplaceSecret(path, []byte(data)); err != nil {
			t.Fatal(err)
		}
		got, err := keystore.ReadSecret(path)
		if err != nil || string(got) != data || mode(t, path) != 0o600 || mode(t, filepath.Dir(path)) != 0o700 {
			t.Errorf("%q, %v, %#o", got, err, mode(t, path))
		}
	}
	// What was exposed is not any more.
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := keystore.ReplaceSecret(path, []byte("third")); err != nil || mode(t, path) != 0o600 {
		t.Errorf("%v, %#o", err, mode(t, path))
	}
	if n := len(files(t, dir)); n != 1 {
		t.Errorf("%d files are left", n)
	}
}

func TestExposed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "user.nk")
	if err := keystore.Save(path, newKey(t, keystore.User)); err != nil {
		t.Fatal(err)
	}
	for m, ok := range map[fs.FileMode]bool{
		0o600: true, 0o400: true, 0o700: true,
		0o640: false, 0o604: false, 0o644: false, 0o620: false, 0o602: false, 0o610: false, 0o601: false, 0o660: false, 0o666: false,
	} {
		if err := os.Chmod(path, m); err != nil {
			t.Fatal(err)
		}
		k, err := keystore.Load(path, keystore.User)
		if ok && err != nil || !ok && (!errors.Is(err, keystore.ErrExposed) || k != nil) {
			t.Errorf("mode %#o: %v", m, err)
		}
		if k, err := keystore.LoadOrCreate(path, keystore.User); !ok && (err == nil || k != nil) {
			t.Errorf("LoadOrCreate at mode %#o: %v", m, err)
		}
	}
}

func TestReadSecretBounds(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "x")
	if err := os.WriteFile(path, make([]byte, 64<<10), 0o600); err != nil {
		t.Fatal(err)
	}
	if data, err := keystore.ReadSecret(path); err != nil || len(data) != 64<<10 {
		t.Errorf("64 KiB: %v", err)
	}
	if err := os.WriteFile(path, make([]byte, 64<<10+1), 0o600); err != nil {
		t.Fatal(err)
	}
	if data, err := keystore.ReadSecret(path); err == nil || data != nil {
		t.Error("a byte more")
	}
	if _, err := keystore.ReadSecret(dir); err == nil {
		t.Error("a folder")
	}
	if _, err := keystore.ReadSecret("/dev/null"); err == nil {
		t.Error("a device")
	}
	if _, err := keystore.ReadSecret(filepath.Join(dir, "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("nothing: %v", err)
	}
}

// envRace makes the test binary one of several processes that want one key.
const envRace = "KEYSTORE_TEST_RACE"

func TestLoadOrCreateRace(t *testing.T) {
	if path := os.Getenv(envRace); path != "" {
		k, err := keystore.LoadOrCreate(path, keystore.User)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Println("KEY", k.Public())
		return
	}
	race(t, 4) // among processes, too
	for range 10 {
		race(t, 0)
	}
}

func race(t *testing.T, processes int) {
	t.Helper()
	dir := t.TempDir()
	path := filepath.Join(dir, "sub", "user.nk")
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	const routines = 64
	var (
		mu   sync.Mutex
		keys = map[string]int{}
		wg   sync.WaitGroup
	)
	found := func(pub string, err error) {
		mu.Lock()
		defer mu.Unlock()
		if err != nil {
			t.Error(err)
		}
		keys[pub]++
	}
	start := make(chan struct{})
	for range processes {
		wg.Go(func() {
			c := exec.Command(self, "-test.run", "^TestLoadOrCreateRace$", "-test.v")
			c.Env = append(os.Environ(), envRace+"="+path)
			<-start
			out, err := c.CombinedOutput()
			_, after, _ := strings.Cut(string(out), "KEY ")
			found(strings.SplitN(after, "\n", 2)[0], err)
		})
	}
	for range routines {
		wg.Go(func() {
			<-start
			k, err := keystore.LoadOrCreate(path, keystore.User)
			if err != nil {
				found("", err)
				return
			}
			found(k.Public(), nil)
		})
	}
	close(start)
	wg.Wait()
	if len(keys) != 1 {
		t.Errorf("%d keys came of it: %v", len(keys), keys)
	}
	k, err := keystore.Load(path, keystore.User)
	if err != nil || keys[k.Public()] != processes+routines {
		t.Errorf("the file has another key: %v %v", k, err)
	}
	if left := files(t, dir); len(left) != 1 || mode(t, path) != 0o600 {
		t.Errorf("left behind: %v", left)
	}
}

func TestLoadOrCreateKeepsWhatItCannotRead(t *testing.T) {
	path := filepath.Join(t.TempDir(), "user.nk")
	if err := os.WriteFile(path, []byte("half a se"), 0o600); err != nil {
		t.Fatal(err)
	}
	if k, err := keystore.LoadOrCreate(path, keystore.User); !errors.Is(err, keystore.ErrKind) || k != nil {
		t.Errorf("%v %v", k, err)
	}
	if data, err := os.ReadFile(path); err != nil || string(data) != "half a se" {
		t.Errorf("it became %q, %v", data, err)
	}
}

func FuzzParse(f *testing.F) {
	for i, kind := range kinds() {
		s, err := nkeys.EncodeSeed(nkeys.PrefixByte(kind), bytes.Repeat([]byte{byte(i)}, 32))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(uint8(i), s)
		f.Add(uint8(i+1), s)
		f.Add(uint8(i), append([]byte("\n "), s[:57]...))
	}
	f.Add(uint8(0), []byte(""))
	f.Fuzz(func(t *testing.T, n uint8, data []byte) {
		kind := kinds()[int(n)%len(kinds())]
		k, err := keystore.Parse(kind, data)
		if err != nil {
			if k != nil {
				t.Fatal("a key beside an error")
			}
			return
		}
		if !bytes.Equal(seed(t, k), bytes.TrimSpace(data)) {
			t.Fatalf("%q is read as another seed", data)
		}
		again, err := keystore.Parse(kind, seed(t, k))
		if err != nil || again.Public() != k.Public() {
			t.Fatalf("read, written and read: %v", err)
		}
	})
}
