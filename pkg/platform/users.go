package platform

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/nats-io/jwt/v2"

	"github.com/herald-nats/herald/internal/wait"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/keystore"
	"github.com/herald-nats/herald/pkg/ledger"
	"github.com/herald-nats/herald/pkg/permission"
	"github.com/herald-nats/herald/pkg/platform/manifest"
	"github.com/herald-nats/herald/pkg/trust"
)

// StaticUser is a user that the operator made by hand, for one of the few programs that
// cannot ask an issuer. It is what is on record about it: all of it is public.
type StaticUser struct {
	Account ident.Label   `json:"account"`
	Role    ident.Label   `json:"role"`
	Name    ident.Name    `json:"name"`
	Key     ident.UserKey `json:"key"`
	Region  ident.Region  `json:"region,omitzero"`
	Tags    []string      `json:"tags,omitempty"` // as key:value, beside that of the region
	// Creds is the file with its seed and its credential; a relative path is below the
	// operator's folder.
	Creds string `json:"creds"`
	// Issued are its credentials that may hold still, and the last one, oldest first.
	Issued []Issued `json:"issued"`
	// Unfinished is what a run was cut off at, or empty: UnfinishedNew or
	// UnfinishedRenewal. The same command, run again, finishes it.
	Unfinished string `json:"unfinished,omitempty"`
}

// What a run may have been cut off at.
const (
	UnfinishedNew     = "new"     // the file may not be there
	UnfinishedRenewal = "renewal" // the file may have the credential before the last
)

// Issued is one credential of a static user.
type Issued struct {
	ID      string `json:"id"`      // the JWT's jti
	At      int64  `json:"at"`      // seconds since 1970
	Expires int64  `json:"expires"` // seconds since 1970
}

// Of is the user's role.
func (u StaticUser) Of() manifest.RoleRef { return manifest.RoleRef{Account: u.Account, Role: u.Role} }

// Last is the credential that was issued last.
func (u StaticUser) Last() Issued {
	if len(u.Issued) == 0 {
		return Issued{}
	}
	return u.Issued[len(u.Issued)-1]
}

// AllTags are the tags in the user's JWT.
func (u StaticUser) AllTags() []string {
	if u.Region.IsZero() {
		return slices.Clone(u.Tags)
	}
	return append([]string{trust.TagRegion + u.Region.String()}, u.Tags...)
}

// NewUser is what a static user is made from.
type NewUser struct {
	Of     manifest.RoleRef
	Name   ident.Name
	Life   time.Duration
	Region ident.Region // may be zero
	Tags   []string     // as key:value
	Creds  string       // the file to write; empty: one in the operator's folder
}

// MadeUser is a static user that has a new credential.
type MadeUser struct {
	StaticUser
	// File is where its credential is.
	File string
	// Ignored are lines of its role's template that have no effect for it, such as those
	// that ask for a tag that it does not have.
	Ignored []permission.Ignored
	// Granted tells that issuers give the role to people and programs, too.
	Granted bool
}

// MaxStaticLife is the longest life of a static user's credential. It is that of any
// other: what is known of revocations is kept for that long, and whoever had a longer
// one would be back when its revocation is forgotten.
const MaxStaticLife = ledger.MaxLife

// StaticUsers are the static users of a platform folder.
type StaticUsers struct {
	Platform *Platform
	Now      func() time.Time
	// Step is told of each step before it is taken; nil tells nobody. Tests end the
	// process there.
	Step func(what string)
}

// Errors of Add and Renew.
var (
	// ErrNoRole: neither what is in force nor the platform file has the role.
	ErrNoRole = errors.New("there is no such role")
	// ErrNotInForce: the platform file has the role, and it is not in force yet.
	ErrNotInForce = errors.New("the role is not in force")
	// ErrReserved: the role is for Herald's own services or for guests.
	ErrReserved = errors.New("the role is Herald's own")
	// ErrUserExists: there is a user of that role and name, or its file is taken.
	ErrUserExists = errors.New("it is there already")
	// ErrNoUser: there is no user of that role and name.
	ErrNoUser = errors.New("there is no such static user")
	// ErrUserInvalid: what was asked for cannot be: a lifetime, a tag, a region.
	ErrUserInvalid = errors.New("a user cannot be made so")
	// ErrUsersBusy: another run works on the static users of this folder.
	ErrUsersBusy = errors.New("another nscsetup works on the static users of this platform folder")
)

// connectRest is what a CONNECT has beside the JWT, in bytes: the signature of the nonce,
// and what the client says of itself, with a name of up to 256 bytes.
const connectRest = 86 + 256 + 410

// usersDir has a record of each static user, and their creds unless they are elsewhere.
func (d Dir) usersDir() string { return filepath.Join(d.Operator(), "users") }

// userFile is the name of a user's files without what they end in. Neither an account
// nor a role has a dot in it, so no two users have one.
func userFile(of manifest.RoleRef, name ident.Name) string {
	return of.Account.String() + "." + of.Role.String() + "." + name.String()
}

func (d Dir) userRecord(of manifest.RoleRef, name ident.Name) string {
	return filepath.Join(d.usersDir(), userFile(of, name)+".json")
}

// CredsFile is the path of the file with a static user's credential.
func (d Dir) CredsFile(u StaticUser) string {
	if filepath.IsAbs(u.Creds) {
		return u.Creds
	}
	return filepath.Join(d.Operator(), u.Creds)
}

// All are the static users that are on record, by account, role and name.
func (s StaticUsers) All() ([]StaticUser, error) {
	dir := s.Platform.Dir.usersDir()
	names, err := accountFiles(dir, ".json")
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading the static users: %w", err)
	}
	users := make([]StaticUser, len(names))
	err = onAll(len(names), func(i int) error {
		var err error
		users[i], err = readUser(filepath.Join(dir, names[i]+".json"))
		return err
	})
	return users, err
}

// Get gives a static user. ErrNoUser.
func (s StaticUsers) Get(of manifest.RoleRef, name ident.Name) (StaticUser, error) {
	u, err := readUser(s.Platform.Dir.userRecord(of, name))
	if errors.Is(err, fs.ErrNotExist) {
		return u, fmt.Errorf("user %s of %s: %w", name, of, ErrNoUser)
	}
	return u, err
}

func readUser(path string) (StaticUser, error) {
	var u StaticUser
	data, err := os.ReadFile(path) // #nosec G304 -- a fixed name in the platform folder
	if err != nil {
		return u, fmt.Errorf("reading a static user: %w", err)
	}
	if err := json.Unmarshal(data, &u); err != nil {
		return u, fmt.Errorf("%s: %w: %w", path, ErrNotPlatform, err)
	}
	if u.Account.IsZero() || u.Role.IsZero() || u.Name.IsZero() || u.Key.IsZero() || u.Creds == "" || len(u.Issued) == 0 {
		return u, fmt.Errorf("%s lacks what a user has: %w", path, ErrNotPlatform)
	}
	if want := userFile(u.Of(), u.Name) + ".json"; filepath.Base(path) != want {
		return u, fmt.Errorf("%s is the record of %s: %w", path, want, ErrNotPlatform)
	}
	return u, nil
}

// Add makes a static user: a key made here, and a credential by the role's key, both
// in a creds file that only its owner may read. Nothing is overwritten.
//
// It may be killed at any point. First the record says what is about to be, so that no
// credential is ever unknown; then the file is put in its place as a whole. The next run
// finishes what it finds, or begins anew: a seed that was in no file had no holder.
//
// ErrNoRole, ErrNotInForce, ErrReserved, ErrUserExists, ErrUserInvalid, ErrUsersBusy, and
// permission.ErrRefused where servers would take nobody with this role and these tags.
func (s StaticUsers) Add(ctx context.Context, n NewUser) (MadeUser, error) {
	p := s.Platform
	r, err := p.staticRole(n.Of)
	if err != nil {
		return MadeUser{}, err
	}
	if err := p.checkUser(n); err != nil {
		return MadeUser{}, err
	}
	unlock, err := p.lockUsers(ctx)
	if err != nil {
		return MadeUser{}, err
	}
	defer unlock()
	if m, done, err := s.finish(n, r); done || err != nil {
		return m, err
	}
	u := StaticUser{
		Account: n.Of.Account, Role: n.Of.Role, Name: n.Name, Region: n.Region, Tags: n.Tags, Unfinished: UnfinishedNew,
	}
	if u.Creds, err = p.credsPath(n); err != nil {
		return MadeUser{}, err
	}
	key, err := keystore.Generate(keystore.User)
	if err != nil {
		return MadeUser{}, err
	}
	if u.Key, err = ident.ParseUserKey(key.Public()); err != nil {
		return MadeUser{}, err
	}
	return s.issue(r, u, key, n.Life, placeSecret)
}

// Renew gives a static user a new credential for the key that it has, in the file that it
// has; creds, if not empty, says where that is now. The rest stays as it was made.
// ErrNoUser, and the errors of Add.
//
// It may be killed at any point: the file has the old credential or the new one.
func (s StaticUsers) Renew(ctx context.Context, of manifest.RoleRef, name ident.Name, life time.Duration, creds string) (MadeUser, error) {
	p := s.Platform
	if err := checkLife(life); err != nil {
		return MadeUser{}, err
	}
	unlock, err := p.lockUsers(ctx)
	if err != nil {
		return MadeUser{}, err
	}
	defer unlock()
	u, err := s.Get(of, name)
	if err != nil {
		return MadeUser{}, err
	}
	r, err := p.staticRole(of)
	if err != nil {
		return MadeUser{}, err
	}
	if creds != "" {
		if u.Creds, err = p.relative(creds); err != nil {
			return MadeUser{}, err
		}
	}
	held, err := readCreds(p.Dir.CredsFile(u))
	if err != nil {
		return MadeUser{}, err
	}
	if held.key.Public() != u.Key.String() {
		return MadeUser{}, fmt.Errorf("%s holds the key %s, and user %s of %s has %s: %w",
			p.Dir.CredsFile(u), held.key.Public(), name, of, u.Key, ErrUserInvalid)
	}
	u.Unfinished = UnfinishedRenewal
	return s.issue(r, u, held.key, life, replaceCreds)
}

// issue gives a user a credential: first on record, then in its file, as put does that.
func (s StaticUsers) issue(r staticRole, u StaticUser, key *keystore.Key, life time.Duration, put func(path, public string, data []byte) error) (MadeUser, error) {
	m, token, err := r.sign(u, life, s.Now())
	if err != nil {
		return m, err
	}
	data, err := credsFile(token, key)
	if err != nil {
		return m, err
	}
	s.step("record")
	if err := s.save(m.StaticUser); err != nil {
		return m, err
	}
	s.step("creds")
	m.File = s.Platform.Dir.CredsFile(u)
	if err := put(m.File, key.Public(), data); err != nil {
		return m, err
	}
	s.step("done")
	m.Unfinished = ""
	return m, s.save(m.StaticUser)
}

func (s StaticUsers) step(what string) {
	if s.Step != nil {
		s.Step(what)
	}
}

// staticRole is a role that static users may have, with what signs for it.
type staticRole struct {
	ref     manifest.RoleRef
	account permission.Account
	scope   *jwt.UserScope
	key     *keystore.Key
	granted bool
}

// staticRole finds a role, and its key.
func (p *Platform) staticRole(ref manifest.RoleRef) (staticRole, error) {
	r := staticRole{ref: ref}
	if err := reserved(ref); err != nil {
		return r, err
	}
	if p.isTurning(ref) {
		// What is made now is in nobody's records, and the key that it is made by may go.
		return r, fmt.Errorf("%s: %w", ref, ErrTurning)
	}
	account, scope, err := p.RoleInForce(ref)
	if err != nil {
		return r, err
	}
	r.account, r.scope = account, scope
	if r.key, err = keystore.Load(p.Dir.roleKey(ref.Account.String(), ref.Role.String()), keystore.Account); err != nil {
		return r, fmt.Errorf("the key of role %s: %w", ref, err)
	}
	if r.key.Public() != scope.Key {
		return r, fmt.Errorf("role %s has the key %s in force, and %s in %s: %w", ref, scope.Key, r.key.Public(), p.Dir.Operator(), ErrNotPlatform)
	}
	for _, o := range p.Full.Policy.Offers {
		r.granted = r.granted || o.Account == ref.Account && o.Role == ref.Role
	}
	return r, nil
}

// RoleInForce gives a role as this folder last had it in force, and the account that it
// is in. ErrNoRole, ErrNotInForce.
func (p *Platform) RoleInForce(ref manifest.RoleRef) (permission.Account, *jwt.UserScope, error) {
	h, ok := p.Account(ref.Account.String())
	key, there := h.Roles[ref.Role.String()]
	if !ok || h.Closed || !there {
		return permission.Account{}, nil, p.absent(ref)
	}
	_, c, err := p.Claims(h)
	if err != nil {
		return permission.Account{}, nil, err
	}
	scope, ok := c.SigningKeys[key.String()].(*jwt.UserScope)
	if !ok || scope == nil {
		return permission.Account{}, nil, p.absent(ref)
	}
	account, err := permission.AccountOf(c, h.Key == p.Operator.System())
	return account, scope, err
}

// absent says why a role is not in force.
func (p *Platform) absent(ref manifest.RoleRef) error {
	for _, a := range p.File.AllAccounts() {
		if a.Name != ref.Account {
			continue
		}
		if _, ok := a.Role(ref.Role); ok {
			return fmt.Errorf("%s: %w", ref, ErrNotInForce)
		}
	}
	return fmt.Errorf("%s: %w", ref, ErrNoRole)
}

// reserved refuses roles whose users are made elsewhere.
func reserved(ref manifest.RoleRef) error {
	switch account := ref.Account.String(); account {
	case System, Ledger, Readers, Auth:
		// One that nobody renews, watches or takes away would have the rights of a service
		// or of the set-up tool: to push accounts, to write the ledger, to read every record.
		return fmt.Errorf("%s is for services, whose credentials come with their folders, and for nscsetup, which makes its own: %w", ref, ErrReserved)
	case Guest:
		return fmt.Errorf("whoever is in %s is the one guest of public/%s: %w", account, GuestFile, ErrReserved)
	}
	return nil
}

func checkLife(life time.Duration) error {
	if life < time.Second || life > MaxStaticLife {
		return fmt.Errorf("a lifetime of %s; it is one second to %s: %w", life, manifest.Duration(MaxStaticLife), ErrUserInvalid)
	}
	return nil
}

func (p *Platform) checkUser(n NewUser) error {
	if err := checkLife(n.Life); err != nil {
		return err
	}
	if _, ok := p.Document.Region(n.Region); !ok && !n.Region.IsZero() {
		return fmt.Errorf("no region %s is in force: %w", n.Region, ErrUserInvalid)
	}
	for i, t := range n.Tags {
		if err := manifest.CheckTag(t); err != nil {
			return fmt.Errorf("%w: %w", err, ErrUserInvalid)
		}
		key, _, _ := strings.Cut(t, ":")
		switch {
		case slices.Contains(manifest.OwnTags(), key):
			return fmt.Errorf("the tag %s is Herald's own: %w", key, ErrUserInvalid)
		case slices.Contains(n.Tags[:i], t):
			return fmt.Errorf("the tag %s is there twice: %w", t, ErrUserInvalid)
		}
	}
	return nil
}

// credsPath is where a new user's credential will be: nothing may be there.
func (p *Platform) credsPath(n NewUser) (string, error) {
	path := filepath.Join("users", userFile(n.Of, n.Name)+".creds")
	if n.Creds != "" {
		var err error
		if path, err = p.relative(n.Creds); err != nil {
			return "", err
		}
	}
	full := p.Dir.CredsFile(StaticUser{Creds: path})
	switch _, err := os.Lstat(full); {
	case err == nil:
		return "", fmt.Errorf("%s: %w", full, ErrUserExists)
	case !errors.Is(err, fs.ErrNotExist):
		return "", fmt.Errorf("looking where the credential will be: %w", err)
	}
	if n.Creds == "" {
		return path, nil
	}
	// A folder that is made because its name was mistyped is not found again.
	if _, err := os.Stat(filepath.Dir(full)); err != nil {
		return "", fmt.Errorf("looking where the credential will be: %w", err)
	}
	return path, nil
}

// relative gives a path as records have it, so that the platform folder may be moved.
func (p *Platform) relative(path string) (string, error) {
	full, err := filepath.Abs(path)
	if err != nil {
		return "", fmt.Errorf("finding %s: %w", path, err)
	}
	operator, err := filepath.Abs(p.Dir.Operator())
	if err != nil {
		return "", fmt.Errorf("finding %s: %w", p.Dir.Operator(), err)
	}
	if below, err := filepath.Rel(operator, full); err == nil && filepath.IsLocal(below) {
		return below, nil
	}
	return full, nil
}

// finish looks for a run that was cut off. done is that its user has its file, and that
// the record says so now.
func (s StaticUsers) finish(n NewUser, r staticRole) (m MadeUser, done bool, err error) {
	u, err := s.Get(n.Of, n.Name)
	if errors.Is(err, ErrNoUser) {
		return m, false, nil
	}
	if err != nil {
		return m, false, err
	}
	if u.Unfinished != UnfinishedNew {
		return m, false, fmt.Errorf("user %s of %s: %w", n.Name, n.Of, ErrUserExists)
	}
	file := s.Platform.Dir.CredsFile(u)
	staged := stagedSecret(file, u.Key.String())
	held, err := readCreds(file)
	if errors.Is(err, fs.ErrNotExist) {
		// It never was in its file. What was to become it is of no use to anybody.
		return m, false, removeIf(staged)
	}
	if err != nil || held.claims.ID != u.Last().ID || held.key.Public() != u.Key.String() {
		return m, false, errors.Join(fmt.Errorf("%s: %w", file, ErrUserExists), err)
	}
	u.Unfinished = ""
	m = MadeUser{StaticUser: u, File: file, Granted: r.granted}
	if m.Ignored, err = r.rights(u); err != nil {
		return m, false, err
	}
	return m, true, errors.Join(removeIf(staged), s.save(u))
}

// rights gives what of the role has no effect for a user. permission.ErrRefused.
func (r staticRole) rights(u StaticUser) ([]permission.Ignored, error) {
	rights, err := permission.For(r.scope.Template, permission.User{Key: u.Key, Name: u.Name.String(), Tags: u.AllTags(), Account: r.account})
	if err != nil {
		return nil, fmt.Errorf("user %s of %s: %w", u.Name, r.ref, err)
	}
	return rights.Ignored(), nil
}

// sign gives a user a credential, and takes note of it.
func (r staticRole) sign(u StaticUser, life time.Duration, now time.Time) (MadeUser, string, error) {
	m := MadeUser{StaticUser: u, Granted: r.granted}
	var err error
	if m.Ignored, err = r.rights(u); err != nil {
		return m, "", err
	}
	c := jwt.UserClaims{}
	c.Subject, c.Issuer, c.IssuerAccount = u.Key.String(), r.key.Public(), r.account.Key.String()
	c.Name, c.IssuedAt, c.Expires = u.Name.String(), now.Unix(), now.Add(life).Unix()
	c.Type, c.Version = jwt.UserClaim, 2
	c.Tags.Add(u.AllTags()...)
	c.ID = trust.ID(c.Subject, c.Issuer, strconv.FormatInt(now.UnixNano(), 10))
	token, err := trust.EncodeJWT(&c, r.key)
	if err != nil {
		return m, "", err
	}
	if n := len(token) + connectRest; n > manifest.MaxConnect {
		return m, "", fmt.Errorf("user %s of %s: a CONNECT of %d bytes, where servers read %d: %w", u.Name, r.ref, n, manifest.MaxConnect, ErrUserInvalid)
	}
	m.Issued = slices.DeleteFunc(slices.Clone(u.Issued), func(i Issued) bool { return i.Expires <= now.Unix() })
	m.Issued = append(m.Issued, Issued{c.ID, c.IssuedAt, c.Expires})
	return m, token, nil
}

func (s StaticUsers) save(u StaticUser) error {
	data, err := json.MarshalIndent(u, "", "  ")
	if err != nil {
		return fmt.Errorf("encoding a static user: %w", err)
	}
	return keystore.ReplaceSecret(s.Platform.Dir.userRecord(u.Of(), u.Name), append(data, '\n'))
}

// usersWait is how long another run is waited for. One takes some milliseconds.
const usersWait = 5 * time.Second

// lockUsers keeps two runs apart, so that of two with one name one is refused. It ends
// with the process, however that ends.
func (p *Platform) lockUsers(ctx context.Context) (func(), error) {
	if err := os.MkdirAll(p.Dir.usersDir(), 0o700); err != nil {
		return nil, fmt.Errorf("making the folder of static users: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(p.Dir.usersDir(), ".lock"), os.O_CREATE|os.O_RDWR, 0o600) // #nosec G304 -- a fixed name in the platform folder
	if err != nil {
		return nil, fmt.Errorf("locking the static users: %w", err)
	}
	wctx, cancel := context.WithTimeout(ctx, usersWait)
	defer cancel()
	for {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) // #nosec G115 -- a descriptor is small
		if err == nil {
			return func() { _ = f.Close() }, nil // it held nothing but the lock
		}
		if wait.For(wctx, 10*time.Millisecond) != nil {
			return nil, errors.Join(ctx.Err(), fmt.Errorf("%s: %w", p.Dir, ErrUsersBusy), f.Close())
		}
	}
}

// userCreds is a creds file that was read.
type userCreds struct {
	key    *keystore.Key
	claims *jwt.UserClaims
}

func readCreds(path string) (userCreds, error) {
	var c userCreds
	data, err := keystore.ReadSecret(path)
	if err != nil {
		return c, err
	}
	none := func(what string) (userCreds, error) {
		return c, fmt.Errorf("%s holds no %s: %w", path, what, ErrNotPlatform) // what a library says of it may quote it
	}
	token, err := jwt.ParseDecoratedJWT(data)
	if err != nil {
		return none("user JWT")
	}
	if c.claims, err = jwt.DecodeUserClaims(token); err != nil {
		return none("user JWT")
	}
	pair, err := jwt.ParseDecoratedUserNKey(data)
	if err != nil {
		return none("user seed")
	}
	seed, err := pair.Seed()
	if err != nil {
		return none("user seed")
	}
	if c.key, err = keystore.Parse(keystore.User, seed); err != nil {
		return none("user seed")
	}
	return c, nil
}

// stagedSecret is where a secret is written before it is put in its place.
func stagedSecret(path, public string) string {
	return filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+"."+public[1:9])
}

// placeSecret writes the creds file of a new user with this public key: nobody ever sees a
// part of it, and what is there is not overwritten.
func placeSecret(path, public string, data []byte) error {
	staged := stagedSecret(path, public)
	if err := keystore.WriteSecret(staged, data); err != nil {
		return err
	}
	err := os.Link(staged, path)
	if errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.ENOTSUP) || errors.Is(err, syscall.ENOSYS) {
		err = keystore.WriteSecret(path, data) // a file system without links, such as a stick's
	}
	if errors.Is(err, fs.ErrExist) {
		err = fmt.Errorf("%s: %w", path, ErrUserExists)
	} else if err != nil {
		err = fmt.Errorf("writing %s: %w", path, err)
	}
	return errors.Join(err, removeIf(staged))
}

// replaceCreds writes a creds file that is there anew, and removes what runs left beside it
// that were killed while they did so.
func replaceCreds(path, _ string, data []byte) error {
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil {
		return fmt.Errorf("looking beside %s: %w", path, err)
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), "."+filepath.Base(path)+"-") { // as keystore calls it
			if err := removeIf(filepath.Join(filepath.Dir(path), e.Name())); err != nil {
				return err
			}
		}
	}
	return keystore.ReplaceSecret(path, data)
}

// removeIf removes a file if it is there.
func removeIf(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("tidying up: %w", err)
	}
	return nil
}
