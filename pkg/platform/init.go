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
	"github.com/herald-nats/herald/pkg/platform/claims"
	"github.com/herald-nats/herald/pkg/platform/manifest"
	"github.com/herald-nats/herald/pkg/platform/plan"
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
	return Create(ctx, dir, NewFile(s), now, nil)
}

// Create makes a platform of a file in dir as Init does. bring, if not nil, puts keys that
// there are already into the operator's folder first: what it brings is used, and the
// rest is made.
func Create(ctx context.Context, dir string, f *manifest.File, now time.Time, bring func(Dir) error) (*Platform, error) {
	return create(ctx, dir, f, now, bring, func(string) {})
}

// create tells step of each step before it is taken.
func create(ctx context.Context, dir string, f *manifest.File, now time.Time, bring func(Dir) error, step func(string)) (*Platform, error) {
	if problems := f.Check(); len(problems) > 0 {
		return nil, manifest.Problems(problems)
	}
	step("make the folder")
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
	step("make the folder in which it is built")
	stage, err := os.MkdirTemp(dir, staging+"*")
	if err != nil {
		return nil, undo(fmt.Errorf("preparing %s: %w", dir, err), "")
	}
	if bring != nil {
		if err := bring(Dir(stage)); err != nil {
			return nil, undo(err, stage)
		}
	}
	if err := build(Dir(stage), f, now, step); err != nil {
		return nil, undo(err, stage)
	}
	if err := ctx.Err(); err != nil {
		return nil, undo(err, stage)
	}
	parts := initParts()
	for i, part := range parts {
		step("put " + part + " in its place")
		if err := os.Rename(filepath.Join(stage, part), filepath.Join(dir, part)); err != nil {
			for _, p := range parts[:i] {
				err = errors.Join(err, os.RemoveAll(filepath.Join(dir, p)))
			}
			return nil, undo(fmt.Errorf("putting %s in place: %w", part, err), stage)
		}
	}
	step("tidy up")
	if err := os.Remove(stage); err != nil {
		return nil, fmt.Errorf("tidying up: %w", err)
	}
	return open(dir, Dir(dir).File(), func() time.Time { return now })
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

// emptyDir accepts a folder that is empty but for what an init left that was killed, and
// removes that. Until the platform file is in its place, which comes last, nobody was told
// of the platform: its parts go, those that were put in place already too.
func emptyDir(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("looking into the platform folder: %w", err)
	}
	left := map[string]bool{} // parts that a killed init put in place
	var stages []string
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), staging) || !e.IsDir() {
			continue
		}
		stages = append(stages, e.Name())
		// The platform file is there until the last rename.
		if _, err := os.Lstat(filepath.Join(dir, e.Name(), FileName)); err != nil {
			continue
		}
		for _, part := range initParts() {
			if _, err := os.Lstat(filepath.Join(dir, e.Name(), part)); errors.Is(err, fs.ErrNotExist) {
				left[part] = true
			}
		}
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), staging) && !left[e.Name()] {
			return fmt.Errorf("%s: %w", dir, ErrExists)
		}
	}
	// What was put in place goes first: without the stage it could not be told from
	// somebody's own.
	for _, e := range entries {
		if left[e.Name()] {
			if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
				return fmt.Errorf("removing what an earlier init left: %w", err)
			}
		}
	}
	for _, s := range stages {
		if err := os.RemoveAll(filepath.Join(dir, s)); err != nil {
			return fmt.Errorf("removing what an earlier init left: %w", err)
		}
	}
	return nil
}

// initParts are the parts of a platform folder in the order in which they are put in place.
// The platform file comes last: a folder without it is no platform.
func initParts() []string { return []string{"public", "issuers", "registrars", "operator", FileName} }

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

// build makes the whole platform under d.
func build(d Dir, f *manifest.File, now time.Time, step func(string)) error {
	step("make keys")
	root, err := keystore.LoadOrCreate(d.operatorKey(), keystore.Operator)
	if err != nil {
		return err
	}
	p := &Platform{Dir: d, File: f, now: func() time.Time { return now }}
	keys, err := p.MakeKeys()
	if err != nil {
		return err
	}
	pubs, tool, err := d.signing(f)
	if err != nil {
		return err
	}
	step("sign")
	system := keys.Accounts[label(System)]
	operator, err := trust.NewOperator(f.Name.String(), root, pubs, system)
	if err != nil {
		return err
	}
	if p.Operator, err = trust.ParseOperator(operator); err != nil {
		return err
	}
	want, err := plan.Want(claims.New(f, keys), root.Public())
	if err != nil {
		return err
	}
	s := Signer{tool}
	var tokens []string
	for _, name := range want.Order {
		token, err := s.Account(want.Accounts[name], 1, now)
		if err != nil {
			return fmt.Errorf("signing account %s: %w", name, err)
		}
		tokens = append(tokens, token)
	}
	doc := want.Document
	doc.Public.Version = trust.Version{Epoch: 1, Number: 1}
	if doc.Public.EpochProof, err = trust.SignEpoch(root, 1, doc.Public.Home, now); err != nil {
		return err
	}
	full, err := s.Document(doc, now)
	if err != nil {
		return err
	}
	step("write what was signed")
	if err := errors.Join(
		keystore.WriteSecret(filepath.Join(d.Operator(), OperatorFile), []byte(operator+"\n")),
		keystore.WriteSecret(d.File(), f.Render()),
		keystore.WriteSecret(filepath.Join(d.Operator(), appliedFile), f.Render()),
	); err != nil {
		return err
	}
	if err := errors.Join(p.Use(full, tokens, now), p.SaveBase(plan.BaseOf(want))); err != nil {
		return err
	}
	step("write the folders of services")
	return p.welcome(f.Regions, now)
}

// creds is a creds file of a service and whose it is.
type creds struct{ file, account, role string }

// registrarCreds are those of a region's registrars.
func registrarCreds(home, region ident.Region) []creds {
	c := []creds{{LedgerCreds, Ledger, RoleRegistrar}, {ReaderCreds, Readers, RoleReader}, {SystemCreds, System, RoleRegistrar}}
	if region == home {
		c = append(c, creds{HomeCreds, Ledger, RoleHome})
	}
	return c
}

func serviceFile(service, region string) []byte {
	return []byte("# What `provisioner run --config` of this file runs. All that it needs is in this folder.\n" +
		"service: " + service + "\nregion: " + region + "\n")
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
