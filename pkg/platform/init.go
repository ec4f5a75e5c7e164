package platform

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/nats-io/jwt/v2"

	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/keystore"
	"github.com/herald-nats/herald/pkg/ledger"
	"github.com/herald-nats/herald/pkg/trust"
)

// ServiceLife is how long the credential of a service lives; `nscsetup up`
// renews those that have less than half of it left.
const ServiceLife = 30 * 24 * time.Hour

// Errors of Init.
var (
	// ErrExists: the folder holds something; nothing was changed.
	ErrExists = errors.New("the folder is not empty")
	// ErrNoPorts: no block of ports is free.
	ErrNoPorts = errors.New("no free block of ports")
)

// staging is where Init builds, inside the folder: a crash leaves nothing that
// looks like a platform.
const staging = ".init-"

// Init makes a platform in dir: keys, accounts, documents and folders for each
// party. dir is made, or must be empty. After an error nothing is left of it.
func Init(ctx context.Context, dir string, s Spec, now time.Time) (*Platform, error) {
	if s.Port == 0 {
		port, err := freeBlock(ctx, s.Ports())
		if err != nil {
			return nil, err
		}
		s.Port = port
	}
	f := NewFile(s)
	if err := f.check(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalidFile, err)
	}
	made, release, err := claimDir(dir)
	if err != nil {
		return nil, err
	}
	defer release()
	undo := func(err error, stage string) error {
		if stage != "" {
			err = errors.Join(err, os.RemoveAll(stage))
		}
		if made {
			err = errors.Join(err, os.Remove(dir))
		}
		return err
	}
	stage, err := os.MkdirTemp(dir, staging+"*")
	if err != nil {
		return nil, undo(fmt.Errorf("preparing %s: %w", dir, err), "")
	}
	if err := build(Dir(stage), f, now); err != nil {
		return nil, undo(err, stage)
	}
	if err := ctx.Err(); err != nil {
		return nil, undo(err, stage)
	}
	// The platform file comes last: a folder without it is no platform.
	parts := []string{"public", "issuers", "registrars", "operator", FileName}
	for i, part := range parts {
		if err := os.Rename(filepath.Join(stage, part), filepath.Join(dir, part)); err != nil {
			for _, p := range parts[:i] {
				err = errors.Join(err, os.RemoveAll(filepath.Join(dir, p)))
			}
			return nil, undo(fmt.Errorf("putting %s in place: %w", part, err), stage)
		}
	}
	if err := os.Remove(stage); err != nil {
		return nil, fmt.Errorf("tidying up: %w", err)
	}
	return open(dir, func() time.Time { return now })
}

// claimDir makes dir 0700, or accepts it if it is empty, and holds it until
// release, so that of two inits at once one works and the other is refused.
// What an init that was killed left is removed.
func claimDir(dir string) (made bool, release func(), err error) {
	switch err := os.Mkdir(dir, 0o700); {
	case err == nil:
		made = true
	case !errors.Is(err, fs.ErrExist):
		return false, nil, fmt.Errorf("making the platform folder: %w", err)
	}
	f, err := os.Open(dir) // #nosec G304 -- the folder that the user named
	if err != nil {
		return false, nil, fmt.Errorf("opening the platform folder: %w", err)
	}
	release = func() { _ = f.Close() } // nothing was written through it
	// Held by the open folder: it ends with the process, however that ends.
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil { // #nosec G115 -- a descriptor is small
		release()
		return false, nil, fmt.Errorf("%s: another init is at work: %w", dir, ErrExists)
	}
	if err := emptyDir(dir); err != nil {
		release()
		return false, nil, err
	}
	return made, release, nil
}

func emptyDir(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("looking into the platform folder: %w", err)
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), staging) {
			return fmt.Errorf("%s: %w", dir, ErrExists)
		}
	}
	for _, e := range entries {
		if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
			return fmt.Errorf("removing what an earlier init left: %w", err)
		}
	}
	return nil
}

// freeBlock finds ports that nobody listens on now. It looks below the range
// from which systems take ports for outgoing connections, so that none of these
// is found taken later by a passing connection.
func freeBlock(ctx context.Context, n int) (int, error) {
	const from, to, blocks = 10240, 32768, 64
	if n > (to-from)/2 {
		return 0, fmt.Errorf("%d ports in a row between %d and %d: %w", n, from, to, ErrNoPorts)
	}
	for range blocks {
		first := from + rand.IntN((to-from-n)/64)*64 // #nosec G404 -- which ports are used is no secret
		if allFree(ctx, first, n) {
			return first, nil
		}
	}
	return 0, fmt.Errorf("%d ports in a row between %d and %d: %w", n, from, to, ErrNoPorts)
}

func allFree(ctx context.Context, first, n int) bool {
	var lc net.ListenConfig
	for port := first; port < first+n; port++ {
		l, err := lc.Listen(ctx, "tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
		if err != nil {
			return false
		}
		if err := l.Close(); err != nil {
			return false
		}
	}
	return true
}

func makeKeys(f *File) (*keys, error) {
	k := &keys{
		signing: map[string]*keystore.Key{}, accounts: map[string]*keystore.Key{},
		roles: map[string]*keystore.Key{}, regions: map[ident.Region]*keystore.Key{},
	}
	var errs []error
	key := func(kind keystore.Kind) *keystore.Key {
		kp, err := keystore.Generate(kind)
		errs = append(errs, err)
		return kp
	}
	k.operator, k.guest = key(keystore.Operator), key(keystore.User)
	// One for each registrar and one for nscsetup, so that each can be taken
	// away; and a spare, because servers read the operator JWT only at start.
	for _, r := range f.Regions {
		k.signing[r.Name.String()] = key(keystore.Operator)
		k.regions[r.Name] = key(keystore.Curve)
	}
	k.signing["nscsetup"], k.signing["spare"] = key(keystore.Operator), key(keystore.Operator)
	for _, a := range accounts(f) {
		k.accounts[a.name] = key(keystore.Account)
		for _, r := range a.roles {
			k.roles[a.name+"."+r.name] = key(keystore.Account)
		}
	}
	return k, errors.Join(errs...)
}

// build makes the whole platform under d.
func build(d Dir, f *File, now time.Time) error {
	k, err := makeKeys(f)
	if err != nil {
		return err
	}
	system, err := ident.ParseAccountKey(k.accounts[System].Public())
	if err != nil {
		return err
	}
	var signing []string
	for _, s := range k.signing {
		signing = append(signing, s.Public())
	}
	operator, err := trust.NewOperator(f.Name.String(), k.operator, signing, system)
	if err != nil {
		return err
	}
	full, public, err := document(f, k, operator, now)
	if err != nil {
		return err
	}
	w := &writer{}
	jwts := map[string]string{}
	for _, a := range accounts(f) {
		c, err := a.claims(k)
		if err != nil {
			return err
		}
		if jwts[a.name], err = c.Encode(k.signing["nscsetup"].Pair()); err != nil {
			return fmt.Errorf("signing account %s: %w", a.name, err)
		}
	}
	root := func(dir string) {
		w.secret(filepath.Join(dir, OperatorFile), []byte(operator+"\n"))
		w.secret(filepath.Join(dir, FullFile), []byte(full+"\n"))
	}

	// public/: the one folder that anyone may read.
	w.public(filepath.Join(d.Public(), OperatorFile), []byte(operator+"\n"))
	w.public(filepath.Join(d.Public(), DocumentFile), []byte(public+"\n"))
	w.public(filepath.Join(d.Public(), GuestFile), w.creds(k, Guest, RoleGuest, k.guest, "guest", "", now, 0))

	for _, r := range f.Regions {
		name := r.Name.String()
		w.issuer(d.Issuer(r.Name), f, k, name, now)
		root(d.Issuer(r.Name))
		dir := d.Registrar(r.Name)
		root(dir)
		w.key(filepath.Join(dir, SigningFile), k.signing[name])
		for _, c := range registrarCreds(f, r.Name) {
			w.newCreds(filepath.Join(dir, c.file), k, c.account, c.role, "registrar-"+name, name, now)
		}
		w.secret(filepath.Join(dir, ServiceFile), serviceFile("registrar", name))
		for a, token := range jwts {
			w.secret(filepath.Join(dir, "accounts", a+".jwt"), []byte(token))
		}
	}

	op := d.Operator()
	root(op)
	w.key(filepath.Join(op, "operator.nk"), k.operator)
	w.key(filepath.Join(op, "signing", "nscsetup.nk"), k.signing["nscsetup"])
	w.key(filepath.Join(op, "signing", "spare.nk"), k.signing["spare"])
	for a, key := range k.accounts {
		w.key(filepath.Join(op, "accounts", a+".nk"), key)
		w.secret(filepath.Join(op, "accounts", a+".jwt"), []byte(jwts[a]))
	}
	for r, key := range k.roles {
		w.key(filepath.Join(op, "roles", r+".nk"), key)
	}
	w.secret(d.File(), f.Render())
	return w.err
}

// creds is a creds file of a service and whose it is.
type creds struct{ file, account, role string }

// registrarCreds are those of a region's registrars.
func registrarCreds(f *File, region ident.Region) []creds {
	c := []creds{{LedgerCreds, Ledger, RoleRegistrar}, {ReaderCreds, Readers, RoleReader}, {SystemCreds, System, RoleRegistrar}}
	if region == f.Home {
		c = append(c, creds{HomeCreds, Ledger, RoleHome})
	}
	return c
}

// document signs the platform document, and gives it and its public part.
func document(f *File, k *keys, operator string, now time.Time) (full, public string, err error) {
	part, err := publicPart(f, k, now)
	if err != nil {
		return "", "", err
	}
	pol, err := offers(f)
	if err != nil {
		return "", "", err
	}
	full, err = ledger.SignDocument(ledger.KeySigner{Key: k.signing["nscsetup"]}, part, pol, ledger.DefaultNameRules(), now)
	if err != nil {
		return "", "", err
	}
	// Nothing is written that would not be read.
	op, err := trust.ParseOperator(operator)
	if err != nil {
		return "", "", err
	}
	d, err := openFull(op, full, func() time.Time { return now })
	if err != nil {
		return "", "", err
	}
	return full, d.PublicToken, nil
}

func (w *writer) issuer(dir string, f *File, k *keys, region string, now time.Time) {
	w.newCreds(filepath.Join(dir, AuthCreds), k, Auth, RoleIssuer, "issuer-"+region, region, now)
	w.secret(filepath.Join(dir, ServiceFile), serviceFile("issuer", region))
	for _, r := range f.Regions {
		if r.Name.String() == region {
			w.key(filepath.Join(dir, SealKeyFile), k.regions[r.Name])
		}
	}
	for _, a := range accounts(f) {
		for _, r := range a.roles {
			if r.open {
				w.key(filepath.Join(dir, "roles", a.name+"."+r.name+".nk"), k.roles[a.name+"."+r.name])
			}
		}
	}
}

func serviceFile(service, region string) []byte {
	return []byte("# What `provisioner run --config` of this file runs. All that it needs is in this folder.\n" +
		"service: " + service + "\nregion: " + region + "\n")
}

// writer writes files until the first error.
type writer struct{ err error }

func (w *writer) secret(path string, data []byte) {
	if w.err == nil {
		w.err = keystore.WriteSecret(path, data)
	}
}

func (w *writer) key(path string, k *keystore.Key) {
	if w.err == nil {
		w.err = keystore.Save(path, k)
	}
}

func (w *writer) public(path string, data []byte) {
	if w.err != nil {
		return
	}
	// #nosec G301 G306 -- public/ is what everyone is given
	if w.err = os.MkdirAll(filepath.Dir(path), 0o755); w.err == nil {
		w.err = os.WriteFile(path, data, 0o644)
	}
}

func (w *writer) newCreds(path string, k *keys, account, role, name, region string, now time.Time) {
	if w.err != nil {
		return
	}
	user, err := keystore.Generate(keystore.User)
	if err != nil {
		w.err = err
		return
	}
	w.secret(path, w.creds(k, account, role, user, name, region, now, ServiceLife))
}

func (w *writer) creds(k *keys, account, role string, user *keystore.Key, name, region string, now time.Time, life time.Duration) []byte {
	if w.err != nil {
		return nil
	}
	token, err := serviceJWT(k.roles[account+"."+role], k.accounts[account].Public(), user.Public(), name, region, now, life)
	if err == nil {
		var data []byte
		if data, err = credsFile(token, user); err == nil {
			return data
		}
	}
	w.err = err
	return nil
}

// serviceJWT signs the user JWT of a service or a guest. A life of 0 is for
// ever: the guest's, which lets anyone do no more than ask.
func serviceJWT(roleKey *keystore.Key, account, user, name, region string, now time.Time, life time.Duration) (string, error) {
	c := jwt.UserClaims{}
	c.Subject, c.Issuer, c.IssuerAccount = user, roleKey.Public(), account
	c.Name, c.IssuedAt = name, now.Unix()
	c.Type, c.Version = jwt.UserClaim, 2
	if life > 0 {
		c.Expires = now.Add(life).Unix()
	}
	if region != "" {
		c.Tags.Add(trust.TagRegion + region)
	}
	c.ID = trust.ID(c.Subject, c.Issuer, strconv.FormatInt(now.UnixNano(), 10))
	return trust.EncodeJWT(&c, roleKey)
}
