package up

import (
	"context"
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

	"github.com/herald-nats/herald/internal/supercluster"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/keystore"
	"github.com/herald-nats/herald/pkg/platform"
	"github.com/herald-nats/herald/pkg/platform/manifest"
	"github.com/herald-nats/herald/pkg/platform/serverconf"
	"github.com/herald-nats/herald/pkg/trust"
)

// servers writes every server's configuration to data/config and starts them from it.
func (u *Up) servers(ctx context.Context, c Config) error {
	p := u.Platform
	in, err := ServerInput(p, time.Now())
	if err != nil {
		return err
	}
	abs, err := filepath.Abs(string(p.Dir))
	if err != nil {
		return fmt.Errorf("finding the platform folder: %w", err)
	}
	dir := platform.Dir(abs)
	in.Folders = func(r ident.Region, n ident.Name) serverconf.Folders {
		return serverconf.Folders{TLS: dir.NodeTLS(r, n), Data: filepath.Join(dir.Data(), r.String(), n.String())}
	}
	some := firstNodes(p.File, c.Nodes)
	if err := dir.HasTLS(some); err != nil {
		return err
	}
	files, err := supercluster.Write(dir.Data(), some, in)
	if err != nil {
		return fmt.Errorf("rendering the servers' configuration: %w", err)
	}
	if u.Cluster, err = supercluster.StartFiles(ctx, supercluster.Files{Paths: files, WAN: c.WAN, Log: c.Log}); err != nil {
		return fmt.Errorf("starting the servers: %w", err)
	}
	return nil
}

// firstNodes is the description with no more than n nodes in each region; 0 is all.
func firstNodes(f *manifest.File, n int) *manifest.File {
	if n <= 0 {
		return f
	}
	small := *f
	small.Regions = slices.Clone(f.Regions)
	for i := range small.Regions {
		r := &small.Regions[i]
		r.Nodes = r.Nodes[:min(n, len(r.Nodes))]
	}
	return &small
}

// ServerInput is what the configuration of a platform's servers needs beside its
// description. Where platform.yaml names a default_sentinel whose JWT is not made yet, it
// is made, and with it keys that are missing; it needs the role's key from operator/ then.
func ServerInput(p *platform.Platform, now time.Time) (serverconf.Input, error) {
	system, err := preload(p)
	if err != nil {
		return serverconf.Input{}, fmt.Errorf("the system account: %w", err)
	}
	in := serverconf.Input{Operator: p.Operator, System: system}
	if ref := p.File.Sentinel(); !ref.IsZero() {
		if in.Sentinel, err = sentinel(p, now); err != nil {
			return serverconf.Input{}, fmt.Errorf("default_sentinel %s: %w", ref, err)
		}
	}
	if p.File.Callout {
		// For servers of others, and clients that name it themselves.
		return in, p.Publish(platform.SentinelFile, in.Sentinel)
	}
	return in, nil
}

// preloadFile has the system account's JWT as the servers' configuration has it.
const preloadFile = "preload.jwt"

// preload is the system account's JWT for servers that have none yet. The account is
// signed anew now and then and says the same: that must not change the configuration of
// every server, so the JWT that was given out first is kept as long as it says the same.
func preload(p *platform.Platform) (string, error) {
	token, err := p.SystemJWT()
	if err != nil {
		return "", err
	}
	path := filepath.Join(p.Dir.Operator(), preloadFile)
	data, err := os.ReadFile(path) // #nosec G304 -- a fixed name in the platform folder
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("reading its JWT for servers: %w", err)
	}
	old := strings.TrimSpace(string(data))
	if same, err := sameAccount(p.Operator, old, token); err != nil || same {
		return old, err
	}
	err = keystore.ReplaceSecret(path, []byte(token+"\n"))
	if errors.Is(err, os.ErrPermission) || errors.Is(err, syscall.EROFS) {
		err = nil // a folder that may only be read: what it has is as good
	}
	return token, err
}

// sameAccount tells whether old is a JWT that servers would take, and says what token does.
func sameAccount(op *trust.Operator, old, token string) (bool, error) {
	now, err := op.OpenAccount(token)
	if err != nil {
		return false, err
	}
	was, err := op.OpenAccount(old)
	if err != nil {
		return false, nil //nolint:nilerr // none, damaged, or of a key that was taken away: a new one is needed
	}
	a, err := was.Content()
	if err != nil {
		return false, err
	}
	b, err := now.Content()
	return err == nil && a.Equal(b), err
}

// sentinelFile has the JWT of the default sentinel, so that it is the same in every
// server's configuration and each time that is rendered. Whoever connects is that user: no secret,
// but nobody's to change.
const sentinelFile = platform.SentinelFile

// sentinel is the JWT of the user that stands for whoever has no credentials. Nobody has
// its key: its role is one of bearers.
func sentinel(p *platform.Platform, now time.Time) (string, error) {
	keys, err := p.MakeKeys()
	if err != nil {
		return "", err
	}
	ref := p.File.Sentinel()
	account, role := keys.Accounts[ref.Account], keys.Roles[ref]
	path := filepath.Join(p.Dir.Operator(), sentinelFile)
	data, err := os.ReadFile(path) // #nosec G304 -- a fixed name in the platform folder
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("reading its JWT: %w", err)
	}
	// One that belongs to another role, or to a key that was replaced, is made anew.
	token := strings.TrimSpace(string(data))
	if c, err := jwt.DecodeUserClaims(token); err == nil && c.Issuer == role.String() && c.IssuerAccount == account.String() {
		return token, nil
	}
	key, err := keystore.Load(filepath.Join(p.Dir.Operator(), "roles", ref.Account.String()+"."+ref.Role.String()+".nk"), keystore.Account)
	if err != nil {
		return "", fmt.Errorf("the key of its role: %w", err)
	}
	if key.Public() != role.String() {
		return "", fmt.Errorf("the key in operator/ is not its role's: %w", platform.ErrNotPlatform)
	}
	user, err := keystore.Generate(keystore.User)
	if err != nil {
		return "", err
	}
	// Permissions are the role's, that it is a bearer as well.
	c := jwt.UserClaims{}
	c.Subject, c.Issuer, c.IssuerAccount = user.Public(), key.Public(), account.String()
	c.Name, c.IssuedAt, c.Type, c.Version = "anyone", now.Unix(), jwt.UserClaim, 2
	c.ID = trust.ID(c.Subject, c.Issuer, strconv.FormatInt(now.UnixNano(), 10))
	if token, err = trust.EncodeJWT(&c, key); err != nil {
		return "", err
	}
	return token, keystore.ReplaceSecret(path, []byte(token+"\n"))
}
