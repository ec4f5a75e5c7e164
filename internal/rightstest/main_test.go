package rightstest

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats.go"

	"github.com/herald-nats/herald/internal/natsconn"
	"github.com/herald-nats/herald/internal/testlog"
	"github.com/herald-nats/herald/internal/uptest"
	"github.com/herald-nats/herald/internal/wait"
	"github.com/herald-nats/herald/pkg/client"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/keystore"
	"github.com/herald-nats/herald/pkg/ledger"
	"github.com/herald-nats/herald/pkg/ledger/jetstream"
	"github.com/herald-nats/herald/pkg/platform"
	"github.com/herald-nats/herald/pkg/subject"
	"github.com/herald-nats/herald/pkg/trust"
	"github.com/herald-nats/herald/pkg/wire"
)

// The one platform of all tests here, and what its servers and services log.
//
//nolint:gochecknoglobals // nine servers are started once, in TestMain
var (
	shared *uptest.Platform
	logs   testlog.Log
)

func TestMain(m *testing.M) {
	os.Exit(uptest.Main(m, func(dir string) (stop func() error, err error) {
		if shared, err = uptest.Start(dir, uptest.Options{Log: &logs}); err != nil {
			return nil, err
		}
		// After everything that happened here: no log is a place for a secret.
		stop = func() error { return errors.Join(shared.Close(), noSecrets("the log", logs.Bytes())) }
		if err := mirrored(); err != nil {
			return nil, errors.Join(err, stop())
		}
		return stop, nil
	}))
}

// mirrored waits until every region's mirror has what home has decided.
func mirrored() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute) // a mirror that missed its origin tries again late
	defer cancel()
	u, err := shared.Up.Platform.Mint(platform.Readers, platform.RoleReader, time.Now(), time.Minute)
	if err != nil {
		return err
	}
	nc, err := natsconn.Dial(ctx, natsconn.Options{
		URLs: urls("ams"), Name: "test", InboxPrefix: subject.ServiceInboxPrefix(must(ident.ParseUserKey(u.Key.Public()))),
		Credential: natsconn.Static{Token: u.Token, Key: u.Key},
	})
	if err != nil {
		return err
	}
	defer nc.Close()
	for _, r := range shared.Public.Document.Regions {
		for last := uint64(0); last == 0; {
			if last, err = jetstream.MirrorSource(nc, r.Name).Last(ctx); err != nil && ctx.Err() != nil {
				return fmt.Errorf("the mirror of %s: %w", r.Name, err)
			}
			if last == 0 && wait.For(ctx, 10*time.Millisecond) != nil {
				return fmt.Errorf("the mirror of %s has nothing", r.Name)
			}
		}
	}
	return nil
}

// seeds matches every nkey seed, of whatever kind.
func seeds() *regexp.Regexp { return regexp.MustCompile(`S[OAUXNC][A-Z2-7]{56}`) }

func noSecrets(where string, data []byte) error {
	if s := seeds().Find(data); s != nil {
		return fmt.Errorf("%s holds a seed: %.6s…", where, s)
	}
	if i := bytes.Index(data, []byte("eyJ0eXAiOiJKV1Qi")); i >= 0 {
		return fmt.Errorf("%s holds a JWT: %.120q", where, data[max(0, i-60):])
	}
	return nil
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// bound is the time that one test may take.
func bound(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 25*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func dir() platform.Dir            { return shared.Up.Platform.Dir }
func region(s string) ident.Region { return must(ident.ParseRegion(s)) }
func label(s string) ident.Label   { return must(ident.ParseLabel(s)) }
func room() ident.Label            { return shared.Public.Document.Chat.Rooms[0].Name }

// urls are the client URLs of a region.
func urls(name string) []string {
	r, ok := shared.Public.Document.Region(region(name))
	if !ok {
		panic("no region " + name)
	}
	return r.URLs
}

// user is a credential and whose it is.
type user struct {
	what  string // for messages
	token string
	key   *keystore.Key
}

func (u user) nkey() ident.UserKey { return must(ident.ParseUserKey(u.key.Public())) }

func (u user) seed(t *testing.T) []byte {
	t.Helper()
	seed, err := u.key.Seed()
	if err != nil {
		t.Fatal(err)
	}
	return seed
}

// holder is the user of a creds file.
func holder(t *testing.T, what, path string) user {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	c, err := natsconn.ParseCreds(data)
	if err != nil {
		t.Fatal(err)
	}
	return user{what, c.Token, c.Key}
}

// The credentials that are given out: to anyone, to an issuer and to a registrar.
func guest(t *testing.T) user {
	t.Helper()
	return holder(t, "guest", filepath.Join(dir().Public(), platform.GuestFile))
}

func issuerOf(t *testing.T, r string) user {
	t.Helper()
	return holder(t, "issuer of "+r, filepath.Join(dir().Issuer(region(r)), platform.AuthCreds))
}

func registrarOf(t *testing.T, r string) user {
	t.Helper()
	return holder(t, "registrar of "+r, filepath.Join(dir().Registrar(region(r)), platform.LedgerCreds))
}

func systemOf(t *testing.T, r string) user {
	t.Helper()
	return holder(t, "system user of "+r, filepath.Join(dir().Registrar(region(r)), platform.SystemCreds))
}

// member obtains a credential as everyone does.
func member(t *testing.T, in, prefix string) (user, ident.Name) {
	t.Helper()
	name := shared.Name(prefix)
	key, err := keystore.Generate(keystore.User)
	if err != nil {
		t.Fatal(err)
	}
	c, err := shared.Public.Obtain(bound(t), urls(in), key, client.Wish{Name: name})
	if err != nil {
		t.Fatalf("obtaining a credential for %s: %v", name, err)
	}
	return user{"member " + name.String(), c.JWT, key}, name
}

// minted is a user of any role, as the holder of operator/ can make one.
func minted(t *testing.T, account, role string) user {
	t.Helper()
	u, err := shared.Up.Platform.Mint(account, role, time.Now(), 5*time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	return user{account + "/" + role, u.Token, u.Key}
}

// connect gives a connection of nats.go, made as the platform's programs do.
func connect(t *testing.T, u user, in, inbox string) *nats.Conn {
	t.Helper()
	nc, err := natsconn.Dial(bound(t), natsconn.Options{
		URLs: urls(in), Name: "test", InboxPrefix: inbox, Credential: natsconn.Static{Token: u.token, Key: u.key},
	})
	if err != nil {
		t.Fatalf("%s: %v", u.what, err)
	}
	t.Cleanup(nc.Close)
	return nc
}

// attach connects a service or a tool, whose inbox is its own.
func attach(t *testing.T, u user, in string) *nats.Conn {
	t.Helper()
	return connect(t, u, in, subject.ServiceInboxPrefix(u.nkey()))
}

// rolePath is where the platform keeps the key of a role.
func rolePath(account, role string) string {
	return filepath.Join(dir().Operator(), "roles", account+"."+role+".nk")
}

// forge signs user claims, whatever they are.
func forge(t *testing.T, signer *keystore.Key, change func(*jwt.UserClaims)) user {
	t.Helper()
	key, err := keystore.Generate(keystore.User)
	if err != nil {
		t.Fatal(err)
	}
	chat, _ := shared.Public.Document.Account(label(platform.ChatIn))
	c := jwt.UserClaims{}
	c.Subject, c.Issuer, c.IssuerAccount = key.Public(), signer.Public(), chat.Key.String()
	c.Name, c.IssuedAt, c.Expires = "mallory", time.Now().Unix(), time.Now().Add(time.Minute).Unix()
	c.Tags.Add(trust.TagIdentity + "open")
	c.Type, c.Version = jwt.UserClaim, 2
	change(&c)
	token, err := trust.EncodeJWT(&c, signer)
	if err != nil {
		t.Fatal(err)
	}
	return user{"forged", token, key}
}

func load(t *testing.T, path string, kind keystore.Kind) *keystore.Key {
	t.Helper()
	k, err := keystore.Load(path, kind)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// asking is a request for a credential as it goes over the wire.
type asking struct {
	key    *keystore.Key
	body   []byte
	proof  string
	opener *keystore.Key // of the answer; nil: not sealed
}

func (a asking) headers() []byte { return header(wire.HeaderProof, a.proof) }

// newAsking makes a request that is all right, but for what change does.
func newAsking(t *testing.T, name ident.Name, seal bool, change func(*wire.Request)) asking {
	t.Helper()
	key, err := keystore.Generate(keystore.User)
	if err != nil {
		t.Fatal(err)
	}
	a := asking{key: key}
	r := wire.Request{
		UserKey: must(ident.ParseUserKey(key.Public())), Time: time.Now(), Nonce: must(wire.NewNonce(rand.Reader)),
		Name: name, Identity: wire.Proof{Type: wire.ProofOpen},
	}
	if seal {
		if a.opener, err = keystore.Generate(keystore.Curve); err != nil {
			t.Fatal(err)
		}
		r.ReplyKey = must(ident.ParseSealKey(a.opener.Public()))
	}
	if change != nil {
		change(&r)
	}
	if a.body, err = r.Encode(); err != nil {
		t.Fatal(err)
	}
	a.sign(t)
	return a
}

func (a *asking) sign(t *testing.T) {
	t.Helper()
	var err error
	if a.proof, err = wire.Prove(a.key, a.body); err != nil {
		t.Fatal(err)
	}
}

// refusal is the code of an answer in the clear; empty for a success.
func refusal(t *testing.T, m msg) wire.Code {
	t.Helper()
	if m.get(wire.HeaderErrorCode) == "" {
		return ""
	}
	e, err := wire.DecodeError(m.body)
	if err != nil {
		t.Fatalf("an error answer that cannot be read: %v: %q", err, m.body)
	}
	return e.Code
}

// readerOf and homeOf are the other credentials of a registrar; homeOf is home's alone.
func readerOf(t *testing.T, r string) user {
	t.Helper()
	return holder(t, "reader of "+r, filepath.Join(dir().Registrar(region(r)), platform.ReaderCreds))
}

func homeOf(t *testing.T, r string) user {
	t.Helper()
	return holder(t, "home's registrar of "+r, filepath.Join(dir().Registrar(region(r)), platform.HomeCreds))
}

// entry is what home's bucket holds of a key, as its leader has it; 0 is nothing.
func entry(ctx context.Context, t *testing.T, key string) (token string, revision uint64) {
	t.Helper()
	k, err := ledger.ParseKey(key)
	if err != nil {
		t.Fatal(err)
	}
	nc := attach(t, minted(t, platform.Ledger, platform.RoleHome), "ams")
	defer nc.Close()
	token, revision, err = must(jetstream.NewDecisions(nc)).Get(ctx, k)
	if err != nil && !errors.Is(err, ledger.ErrNotFound) {
		t.Fatalf("reading %s: %v", key, err)
	}
	return token, revision
}

// opener opens entries as every service does.
func opener() ledger.Opener {
	return ledger.Opener{Operator: shared.Public.Operator, Now: time.Now}
}

// logger writes where the platform's services do.
func logger() *slog.Logger { return slog.New(slog.NewJSONHandler(&logs, nil)) }

// accountTokens are the JWTs of all accounts, the system account's first.
func accountTokens() []string {
	tokens, err := shared.Up.Platform.Tokens()
	if err != nil {
		panic(err)
	}
	return tokens
}
