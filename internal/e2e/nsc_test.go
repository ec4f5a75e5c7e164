package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats.go"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/herald-nats/herald/internal/apply"
	"github.com/herald-nats/herald/pkg/keystore"
	"github.com/herald-nats/herald/pkg/nscstore"
	"github.com/herald-nats/herald/pkg/platform"
	"github.com/herald-nats/herald/pkg/registrar"
)

// nscMaker makes a store of nsc: operator Acme with accounts APP and "two words".
type nscMaker struct {
	s      nscstore.Store
	signer *keystore.Key
}

func (m *nscMaker) key(ts *testscript.TestScript, kind keystore.Kind) *keystore.Key {
	k, err := keystore.Generate(kind)
	ts.Check(err)
	m.s.Keys[k.Public()] = k
	return k
}

// add signs an account.
func (m *nscMaker) add(ts *testscript.TestScript, c *jwt.AccountClaims, users ...nscstore.User) {
	token, err := c.Encode(m.signer.Pair())
	ts.Check(err)
	a, err := nscstore.ParseAccount(token)
	ts.Check(err)
	slices.SortFunc(users, func(a, b nscstore.User) int { return strings.Compare(a.Name(), b.Name()) })
	a.Users = users
	m.s.Accounts = append(m.s.Accounts, a)
}

// user makes a user of an account with a creds file.
func (m *nscMaker) user(ts *testscript.TestScript, c *jwt.AccountClaims, name string, by *keystore.Key) nscstore.User {
	key := m.key(ts, keystore.User)
	u := jwt.NewUserClaims(key.Public())
	u.Name = name
	if by.Public() != c.Subject {
		u.IssuerAccount = c.Subject
	}
	if scope, ok := c.SigningKeys[by.Public()]; ok && scope != nil {
		u.SetScoped(true)
	}
	token, err := u.Encode(by.Pair())
	ts.Check(err)
	out, err := nscstore.ParseUser(token)
	ts.Check(err)
	out.Creds = key
	return out
}

// nscStore makes a store as nsc would. With "plain" all of it can go along; without, there
// is something of whatever cannot.
func nscStore(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, len(args) == 1 || len(args) == 2 && args[1] == "plain", "nscstore DIR [plain]")
	m := &nscMaker{s: nscstore.Store{Name: "Acme", Keys: map[string]*keystore.Key{}}}
	op := m.key(ts, keystore.Operator)
	m.signer = m.key(ts, keystore.Operator)
	sys := jwt.NewAccountClaims(m.key(ts, keystore.Account).Public())
	sys.Name = "SYS"
	oc := jwt.NewOperatorClaims(op.Public())
	oc.Name, oc.SystemAccount = "Acme", sys.Subject
	oc.SigningKeys.Add(m.signer.Public())
	token, err := oc.Encode(op.Pair())
	ts.Check(err)
	m.s.Operator, err = nscstore.ParseOperator(token)
	ts.Check(err)

	role := func(c *jwt.AccountClaims, name string) *keystore.Key {
		key := m.key(ts, keystore.Account)
		s := jwt.NewUserScope()
		s.Key, s.Role = key.Public(), name
		s.Template.Pub.Allow.Add("app.>")
		s.Template.Sub.Allow.Add("app.>", "_INBOX_{{subject()}}.>")
		c.SigningKeys.AddScopedSigner(s)
		return key
	}
	app := jwt.NewAccountClaims(m.key(ts, keystore.Account).Public())
	app.Name, app.Description = "APP", "an application"
	app.Limits.DiskStorage, app.Limits.Streams = 64<<20, 5
	svc := role(app, "svc")
	users := []nscstore.User{m.user(ts, app, "good", svc), m.user(ts, app, "revoked", svc), m.user(ts, app, "cut", svc)}
	ts.Setenv("GOOD", users[0].Key())
	ts.Setenv("CUT", users[2].Key())
	app.Revoke(users[1].Key())
	words := jwt.NewAccountClaims(m.key(ts, keystore.Account).Public())
	words.Name = "WORDS"
	if len(args) == 1 {
		words.Name = "two words"
		plain := m.key(ts, keystore.Account)
		app.SigningKeys.Add(plain.Public())
		users = append(users, m.user(ts, app, "own", m.s.Keys[app.Subject]), m.user(ts, app, "plain", plain))
		scope, ok := app.SigningKeys[svc.Public()].(*jwt.UserScope)
		if !ok {
			ts.Fatalf("no scope")
		}
		scope.Template.Sub.Allow.Add("_INBOX.>")
	}
	app.Exports.Add(&jwt.Export{Name: "news", Subject: "app.news.>", Type: jwt.Stream})
	words.Imports.Add(&jwt.Import{Name: "news", Account: app.Subject, Subject: "app.news.>", LocalSubject: "news.>", Type: jwt.Stream})
	reader := role(words, "reader")
	m.add(ts, app, users...)
	m.add(ts, sys)
	m.add(ts, words, m.user(ts, words, "Reader One", reader))
	slices.SortFunc(m.s.Accounts, func(a, b nscstore.Account) int { return strings.Compare(a.Name(), b.Name()) })
	ts.Check(nscstore.Write(ts.MkAbs(args[0]), nscstore.Home, &m.s))
	ts.Setenv("OPERATOR", op.Public())
	ts.Setenv("APP", app.Subject)
}

// connects has whoever holds a creds file connect to the servers of a region of three that
// begins at a port: to each of them. With !, none may let it in, for want of rights.
func connects(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 2 {
		ts.Fatalf("usage: [!] connects CREDS PORT")
	}
	first, err := strconv.Atoi(args[1])
	ts.Check(err)
	for node := range 3 {
		// The region's gateway is first; each node has three ports, and clients the first.
		url := "nats://" + net.JoinHostPort("127.0.0.1", strconv.Itoa(first+1+3*node))
		nc, err := nats.Connect(url, nats.UserCredentials(ts.MkAbs(args[0])), nats.Timeout(10*time.Second))
		if err == nil {
			nc.Close()
		}
		switch {
		case !neg && err != nil:
			ts.Fatalf("%s: %v", url, err)
		case neg && !errors.Is(err, nats.ErrAuthorization) && !errors.Is(err, nats.ErrAuthRevoked):
			ts.Fatalf("%s: %v; it should be refused", url, err)
		}
	}
}

// cutoff pushes a revocation to the servers alone, as a registrar would: the platform
// folder knows nothing of it.
func cutoff(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, len(args) == 3, "cutoff DIR ACCOUNT KEY")
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	p, err := platform.Open(ts.MkAbs(args[0]))
	ts.Check(err)
	h, ok := p.Account(args[1])
	if !ok {
		ts.Fatalf("no account %s", args[1])
	}
	_, c, err := p.Claims(h)
	ts.Check(err)
	signer, err := p.Signer()
	ts.Check(err)
	more := jwt.RevocationList{args[2]: time.Now().Unix()}
	token, err := signer.Account(platform.WithRevocations(c, more), h.Version, time.Now())
	ts.Check(err)
	t := &apply.Tool{Platform: p, Now: time.Now}
	nc, err := t.Dial(ctx, platform.System, platform.RoleSetup)
	ts.Check(err)
	defer nc.Close()
	rep, err := registrar.NewResolver(nc, p.Operator, signer.Key(), time.Now).Converge(ctx, []string{token}, nil)
	ts.Check(errors.Join(err, rep.Err()))
}

// revokedIn looks into a store of nsc for a revocation.
func revokedIn(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 3 {
		ts.Fatalf("usage: [!] revokedin DIR ACCOUNT KEY")
	}
	d, err := nscstore.Locate(ts.MkAbs(args[0]))
	ts.Check(err)
	names, err := nscstore.Operators(d)
	ts.Check(err)
	s, err := nscstore.Read(d, names[0])
	ts.Check(err)
	i := slices.IndexFunc(s.Accounts, func(a nscstore.Account) bool { return a.Name() == args[1] })
	if i < 0 {
		ts.Fatalf("no account %s", args[1])
	}
	if _, ok := s.Accounts[i].Claims().Revocations[args[2]]; ok == neg {
		ts.Fatalf("revoked: %v", ok)
	}
}

// sameStore holds two stores of nsc against each other: the same accounts, which say the
// same, the same users with the same credentials, and of the first all keys in the second.
func sameStore(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, len(args) == 2, "samestore DIR DIR")
	var texts []string
	for _, dir := range args {
		d, err := nscstore.Locate(ts.MkAbs(dir))
		ts.Check(err)
		names, err := nscstore.Operators(d)
		ts.Check(err)
		s, err := nscstore.Read(d, names[0])
		ts.Check(err)
		var b strings.Builder
		fmt.Fprintln(&b, s.Operator.Key(), s.Operator.Claims().Name, s.Operator.Claims().SystemAccount)
		for _, a := range s.Accounts {
			if slices.Contains(a.Claims().Tags, "herald:own") {
				continue
			}
			c := *a.Claims()
			c.ClaimsData = jwt.ClaimsData{Name: c.Name, Subject: c.Subject}
			data, err := json.Marshal(&c)
			ts.Check(err)
			fmt.Fprintf(&b, "%s\n", data)
			for _, u := range a.Users {
				fmt.Fprintln(&b, " ", u.Name(), u.Token(), u.Creds)
			}
		}
		texts = append(texts, b.String())
	}
	if texts[0] != texts[1] {
		ts.Fatalf("one is\n%s\nthe other\n%s", texts[0], texts[1])
	}
}
