package platform

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"time"

	"github.com/nats-io/jwt/v2"

	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/keystore"
	"github.com/herald-nats/herald/pkg/platform/manifest"
	"github.com/herald-nats/herald/pkg/trust"
)

// Adoption is an operator that was there before its platform: what it keeps.
type Adoption struct {
	File *manifest.File
	// Operator are its claims. Signing keys in them stay, beside Herald's own; the system
	// account is the platform's SYS, and from now on only signing keys sign accounts.
	Operator *jwt.OperatorClaims
	// Key is its own key, and Signing those signing keys whose seeds there are.
	Key     *keystore.Key
	Signing []*keystore.Key
	// Accounts and Roles keep these keys; the others get new ones.
	Accounts map[ident.Label]*keystore.Key
	Roles    map[manifest.RoleRef]*keystore.Key
	// Revocations are in the accounts' first JWTs, and stay in force.
	Revocations map[ident.Label]jwt.RevocationList
	Users       []AdoptedUser
}

// AdoptedUser is a static user that keeps its key and its credential.
type AdoptedUser struct {
	Role  manifest.RoleRef
	Name  ident.Name
	Token string // the user JWT
	Key   *keystore.Key
}

// Steps is how many steps Adopt takes.
func (a Adoption) Steps() int {
	batches := func(n int) int { return (n + adoptBatch - 1) / adoptBatch }
	return 8 + batches(1+len(a.Signing)+len(a.Accounts)+len(a.Roles)) + batches(len(a.Users))
}

// neverEnds stands in the record of a user for a credential that has no end, so that
// nobody takes it for one that is over: the last second of the year 9999.
const neverEnds = 253402300799

// Adopt makes a platform of an operator that was there before, in dir, which must not
// exist or be empty (ErrExists). step is told of each step before it is taken; nil tells
// nobody.
//
// dir appears at once and complete, and all of it is on the disk then. Until that it is
// made in a folder beside it, .NAME.adopting, of which a killed run leaves a part; the
// next one clears it.
func Adopt(ctx context.Context, dir string, a Adoption, now time.Time, step func(what string)) (*Platform, error) {
	if step == nil {
		step = func(string) {}
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("finding the platform folder: %w", err)
	}
	if err := emptyOrNone(dir); err != nil {
		return nil, err
	}
	step("make the folder beside it")
	stage := filepath.Join(filepath.Dir(dir), "."+filepath.Base(dir)+".adopting")
	release, err := claimStage(stage, step)
	if err != nil {
		return nil, err
	}
	defer release()
	made := filepath.Join(stage, "platform")
	if err := adopt(ctx, made, a, now, step); err != nil {
		return nil, errors.Join(err, os.RemoveAll(stage))
	}
	step("bring all of it to the disk")
	if err := syncTree(made); err != nil {
		return nil, errors.Join(err, os.RemoveAll(stage))
	}
	step("put it in its place")
	// Not os.Rename, which refuses an empty folder.
	if err := syscall.Rename(made, dir); err != nil {
		if errors.Is(err, syscall.ENOTEMPTY) || errors.Is(err, syscall.EEXIST) {
			err = ErrExists
		}
		return nil, errors.Join(fmt.Errorf("putting the platform in %s: %w", dir, err), os.RemoveAll(stage))
	}
	step("tidy up")
	if err := errors.Join(os.Remove(stage), syncDir(filepath.Dir(dir))); err != nil {
		return nil, fmt.Errorf("tidying up: %w", err)
	}
	return open(dir, Dir(dir).File(), func() time.Time { return now })
}

// emptyOrNone refuses a folder that holds something. What a run left beside it that was
// killed once all was done is removed.
func emptyOrNone(dir string) error {
	entries, err := os.ReadDir(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("looking into the platform folder: %w", err)
	case len(entries) > 0:
		stage := filepath.Join(filepath.Dir(dir), "."+filepath.Base(dir)+".adopting")
		_ = os.Remove(stage) // if it is there and empty
		return fmt.Errorf("%s: %w", dir, ErrExists)
	}
	return nil
}

// claimStage makes an empty folder that is this process's alone until release, or clears
// what a killed one left in it.
func claimStage(path string, step func(string)) (release func(), err error) {
	if err := os.Mkdir(path, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("making the platform folder: %w", err)
	}
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_DIRECTORY, 0) // #nosec G304 -- beside the folder that the user named
	if err != nil {
		return nil, fmt.Errorf("opening the platform folder: %w", err)
	}
	release = func() { _ = f.Close() } // nothing was written through it
	fail := func(err error) (func(), error) {
		release()
		return nil, err
	}
	// Held by the open folder: it ends with the process, however that ends.
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil { // #nosec G115 -- a descriptor is small
		return fail(fmt.Errorf("%s: another run is at work: %w", path, ErrExists))
	}
	info, err := f.Stat()
	if err != nil {
		return fail(fmt.Errorf("looking at %s: %w", path, err))
	}
	// Its parent may be open to others, such as /tmp, and seeds are going to be in it.
	if st, ok := info.Sys().(*syscall.Stat_t); !ok || int(st.Uid) != os.Geteuid() || info.Mode().Perm()&0o077 != 0 {
		return fail(fmt.Errorf("%s is not yours alone: %w", path, fs.ErrPermission))
	}
	step("clear what another run left")
	names, err := f.Readdirnames(-1)
	for _, name := range names {
		err = errors.Join(err, os.RemoveAll(filepath.Join(path, name)))
	}
	if err != nil {
		return fail(fmt.Errorf("removing what another run left: %w", err))
	}
	return release, nil
}

// adopt makes the platform in a folder that nobody sees yet.
func adopt(ctx context.Context, dir string, a Adoption, now time.Time, step func(string)) error {
	p, err := Create(ctx, dir, a.File, now, func(d Dir) error { return a.keys(d, step) })
	if err != nil {
		return err
	}
	step("sign the operator")
	if err := p.adoptOperator(a, now); err != nil {
		return err
	}
	step("sign accounts with their revocations")
	tokens, err := p.revoked(a.Revocations, now)
	if err != nil {
		return err
	}
	step("give all parties the operator and the accounts")
	if err := p.Use(p.FullToken, tokens, now); err != nil {
		return err
	}
	for users := range slices.Chunk(a.Users, adoptBatch) {
		step("keep users, from " + users[0].Name.String() + " of " + users[0].Role.String() + " on")
		if err := concurrently(len(users), func(i int) error { return p.adoptUser(users[i]) }); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// adoptBatch is how many files are written between two steps, several at a time: each
// waits for the disk.
const adoptBatch = 256

// keys puts the keys that are kept where Create looks for them.
func (a Adoption) keys(d Dir, step func(string)) error {
	if a.Key.Public() != a.Operator.Subject {
		return fmt.Errorf("the operator is %s, and the seed that of %s: %w", a.Operator.Subject, a.Key.Public(), keystore.ErrKind)
	}
	all := map[string]*keystore.Key{d.operatorKey(): a.Key}
	for i, k := range a.Signing {
		all[d.signingKey("imported-"+strconv.Itoa(i+1))] = k
	}
	for name, k := range a.Accounts {
		all[d.accountKey(name.String())] = k
	}
	for ref, k := range a.Roles {
		all[d.roleKey(ref.Account.String(), ref.Role.String())] = k
	}
	for paths := range slices.Chunk(slices.Sorted(maps.Keys(all)), adoptBatch) {
		step("keep keys, from " + filepath.Base(paths[0]) + " on")
		if err := concurrently(len(paths), func(i int) error { return keystore.Save(paths[i], all[paths[i]]) }); err != nil {
			return err
		}
	}
	return nil
}

// adoptOperator signs the operator anew, with all that it was beside what Herald needs.
func (p *Platform) adoptOperator(a Adoption, now time.Time) error {
	made, err := jwt.DecodeOperatorClaims(p.Operator.Token())
	if err != nil {
		return fmt.Errorf("reading the operator: %w", err)
	}
	c := *a.Operator
	c.SigningKeys = nil
	c.SigningKeys.Add(made.SigningKeys...)
	c.SigningKeys.Add(a.Operator.SigningKeys...)
	slices.Sort(c.SigningKeys)
	c.SystemAccount, c.StrictSigningKeyUsage = made.SystemAccount, true
	c.Type, c.Version = jwt.OperatorClaim, 2
	c.Issuer, c.IssuedAt = c.Subject, now.Unix()
	c.ID = trust.ID(c.Subject, c.SystemAccount, strconv.FormatInt(c.IssuedAt, 10))
	token, err := trust.EncodeJWT(&c, a.Key)
	if err != nil {
		return fmt.Errorf("signing the operator: %w", err)
	}
	if p.Operator, err = trust.ParseOperator(token); err != nil {
		return err
	}
	return keystore.ReplaceSecret(filepath.Join(p.Dir.Operator(), OperatorFile), []byte(token+"\n"))
}

// revoked are the JWTs of accounts with revocations, in the version that Create made.
func (p *Platform) revoked(all map[ident.Label]jwt.RevocationList, now time.Time) ([]string, error) {
	signer, err := p.Signer()
	if err != nil {
		return nil, err
	}
	var tokens []string
	for _, h := range p.Held() {
		name, err := ident.ParseLabel(h.Name)
		if err != nil {
			return nil, err
		}
		if len(all[name]) == 0 {
			continue
		}
		_, c, err := p.Claims(h)
		if err != nil {
			return nil, err
		}
		token, err := signer.Account(WithRevocations(c, all[name]), h.Version, now)
		if err != nil {
			return nil, fmt.Errorf("signing account %s: %w", name, err)
		}
		tokens = append(tokens, token)
	}
	return tokens, nil
}

// WithRevocations gives an account's claims with more revocations: of each user the later
// time. c is not changed; nil lists are none.
//
// Whoever signs base claims anew passes on what he knows of revocations: what servers
// hold is joined to it, and servers may have lost all that they held.
func WithRevocations(c *jwt.AccountClaims, more ...jwt.RevocationList) *jwt.AccountClaims {
	all := maps.Clone(c.Revocations)
	for _, list := range more {
		for key, at := range list {
			if all == nil {
				all = jwt.RevocationList{}
			}
			if have, ok := all[key]; !ok || at > have {
				all[key] = at
			}
		}
	}
	out := *c
	out.Revocations = all
	return &out
}

// Revocations are those of an account that this folder last had in force; nil if it has no
// such account, or none is revoked.
func (p *Platform) Revocations(account string) (jwt.RevocationList, error) {
	h, ok := p.Account(account)
	if !ok {
		return nil, nil
	}
	_, c, err := p.Claims(h)
	if err != nil {
		return nil, err
	}
	return c.Revocations, nil
}

// adoptUser puts a static user on record, with the credential that it has.
func (p *Platform) adoptUser(u AdoptedUser) error {
	c, err := jwt.DecodeUserClaims(u.Token)
	if err != nil {
		return fmt.Errorf("user %s of %s: %w", u.Name, u.Role, err)
	}
	key, err := ident.ParseUserKey(c.Subject)
	if err != nil || c.Subject != u.Key.Public() {
		return errors.Join(fmt.Errorf("user %s of %s: the seed is that of %s: %w", u.Name, u.Role, u.Key.Public(), keystore.ErrKind), err)
	}
	data, err := credsFile(u.Token, u.Key)
	if err != nil {
		return err
	}
	expires := c.Expires
	if expires == 0 {
		expires = neverEnds
	}
	record := StaticUser{
		Account: u.Role.Account, Role: u.Role.Role, Name: u.Name, Key: key, Tags: slices.Clone(c.Tags),
		Creds:  filepath.Join(filepath.Base(p.Dir.usersDir()), userFile(u.Role, u.Name)+".creds"),
		Issued: []Issued{{ID: c.ID, At: c.IssuedAt, Expires: expires}},
	}
	text, err := json.MarshalIndent(record, "", "  ")
	if err != nil {
		return fmt.Errorf("encoding a static user: %w", err)
	}
	return errors.Join(
		keystore.WriteSecret(p.Dir.CredsFile(record), data),
		keystore.WriteSecret(p.Dir.userRecord(u.Role, u.Name), append(text, '\n')),
	)
}

// Seeds are all keys of the operator, of accounts and of roles whose seeds this folder has:
// also those that were put aside, and the signing keys of registrars that were not given
// away. Those of users are in their creds files.
func (p *Platform) Seeds() ([]*keystore.Key, error) {
	kinds := map[string]keystore.Kind{}
	add := func(pattern string, kind keystore.Kind) error {
		paths, err := filepath.Glob(pattern)
		if err != nil {
			return fmt.Errorf("looking for keys: %w", err)
		}
		for _, path := range paths {
			kinds[path] = kind
		}
		return nil
	}
	op := p.Dir.Operator()
	if err := errors.Join(
		add(p.Dir.operatorKey(), keystore.Operator),
		add(filepath.Join(op, "signing", "*.nk"), keystore.Operator),
		add(filepath.Join(string(p.Dir), "registrars", "*", SigningFile), keystore.Operator),
		add(filepath.Join(op, "accounts", "*.nk"), keystore.Account),
		add(filepath.Join(op, "roles", "*.nk"), keystore.Account),
		add(filepath.Join(op, "retired", "*.nk"), keystore.Account),
	); err != nil {
		return nil, err
	}
	paths := slices.Sorted(maps.Keys(kinds))
	keys := make([]*keystore.Key, len(paths))
	err := onAll(len(paths), func(i int) error {
		var err error
		keys[i], err = keystore.Load(paths[i], kinds[paths[i]])
		return err
	})
	return keys, err
}

// Credential gives the user JWT of a static user, and its key.
func (p *Platform) Credential(u StaticUser) (token string, key *keystore.Key, err error) {
	path := p.Dir.CredsFile(u)
	data, err := keystore.ReadSecret(path)
	if err != nil {
		return "", nil, err
	}
	if token, err = jwt.ParseDecoratedJWT(data); err != nil {
		return "", nil, fmt.Errorf("%s holds no user JWT: %w", path, ErrNotPlatform)
	}
	pair, err := jwt.ParseDecoratedUserNKey(data)
	if err != nil {
		return "", nil, fmt.Errorf("%s holds no user seed: %w", path, ErrNotPlatform) // what the library says may quote it
	}
	seed, err := pair.Seed()
	if err != nil {
		return "", nil, fmt.Errorf("%s holds no user seed: %w", path, ErrNotPlatform)
	}
	key, err = keystore.Parse(keystore.User, seed)
	if err != nil {
		return "", nil, fmt.Errorf("%s: %w", path, err)
	}
	return token, key, nil
}

// syncTree brings the names of all files below a folder to the disk; what is in them is
// there.
func syncTree(dir string) error {
	return filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.IsDir() {
			return err
		}
		return syncDir(path)
	})
}

func syncDir(path string) error {
	f, err := os.Open(path) // #nosec G304 -- a folder that was made here, or the one above it
	if err != nil {
		return fmt.Errorf("bringing a folder to the disk: %w", err)
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("bringing a folder to the disk: %w", err)
	}
	return nil
}

// Placed gives a spec whose first port is chosen, where it is 0, as Init chooses it.
func Placed(ctx context.Context, s Spec) (Spec, error) {
	if s.Port != 0 {
		return s, nil
	}
	var err error
	s.Port, err = freeBlock(ctx, s.Ports())
	return s, err
}
