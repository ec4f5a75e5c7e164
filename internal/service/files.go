package service

import (
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/herald-nats/herald/internal/natsconn"
	"github.com/herald-nats/herald/pkg/callout"
	"github.com/herald-nats/herald/pkg/certs"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/keystore"
	"github.com/herald-nats/herald/pkg/platform"
	"github.com/herald-nats/herald/pkg/provision"
	"github.com/herald-nats/herald/pkg/trust"
)

// files are what a service's folder holds beside its configuration and the documents, read
// and verified: what a start needs, a check looks at, and a reload compares.
type files struct {
	creds map[string]credential // by the name of the file
	self  ident.UserKey         // the service's own nkey, which it goes by

	// Of an issuer.
	keys provision.Keys
	// callout is the callout key; nil: nobody comes in by auth callout here.
	callout *callout.Key

	// Of a registrar.
	signing  *keystore.Key
	accounts []string // JWTs
}

// credential is a creds file that was found to be the service's own.
type credential struct {
	file    natsconn.FileCredential
	user    ident.UserKey
	token   string
	expires time.Time
}

// attachment is one of the credentials that a service connects with.
type attachment struct{ file, account, role string }

// attachments are those of a service; the first one's nkey is what it goes by.
func (c *Config) attachments() []attachment {
	if c.Service == Issuer {
		return []attachment{{platform.AuthCreds, platform.Auth, platform.RoleIssuer}}
	}
	all := []attachment{
		{platform.LedgerCreds, platform.Ledger, platform.RoleRegistrar},
		{platform.ReaderCreds, platform.Readers, platform.RoleReader},
		{platform.SystemCreds, platform.System, platform.RoleRegistrar},
	}
	if c.Region == c.platform.Home {
		all = append(all, attachment{platform.HomeCreds, platform.Ledger, platform.RoleHome})
	}
	return all
}

// files reads and verifies them all.
func (c *Config) files() (files, error) {
	f := files{creds: map[string]credential{}}
	var err error
	if c.Service == Issuer {
		err = c.issuerFiles(&f)
	} else {
		err = c.registrarFiles(&f)
	}
	if err != nil {
		return files{}, err
	}
	for i, a := range c.attachments() {
		cred, err := c.credential(a)
		if err != nil {
			return files{}, err
		}
		f.creds[a.file] = cred
		if i == 0 {
			f.self = cred.user
		}
	}
	return f, nil
}

func (c *Config) issuerFiles(f *files) error {
	var err error
	if f.callout, err = c.calloutKey(); err != nil {
		return err
	}
	f.keys, err = c.keys()
	return err
}

func (c *Config) registrarFiles(f *files) error {
	var err error
	if f.signing, err = keystore.Load(filepath.Join(c.dir, platform.SigningFile), keystore.Operator); err != nil {
		return fmt.Errorf("the operator signing key: %w", err)
	}
	if !c.operator.Signs(f.signing.Public()) {
		return fmt.Errorf("%s: %w: %s is not an operator signing key of this platform", c.dir, ErrConfig, f.signing.Public())
	}
	f.accounts, err = platform.ReadAccounts(filepath.Join(c.dir, "accounts"), c.operator)
	return err
}

// credential refuses creds of another platform, account or role before they are shown to
// any server.
func (c *Config) credential(a attachment) (credential, error) {
	cred := credential{file: natsconn.FileCredential{Path: filepath.Join(c.dir, a.file)}}
	var err error
	if cred.token, err = cred.file.JWT(); err != nil {
		return cred, err
	}
	u, err := c.platform.VerifyUser(cred.token, c.now())
	if errors.Is(err, trust.ErrExpired) {
		return cred, fmt.Errorf("%s: %w", cred.file.Path, err)
	}
	if err != nil {
		return cred, fmt.Errorf("%s: %w: %w", cred.file.Path, ErrConfig, err)
	}
	if u.Account.String() != a.account || u.Role.String() != a.role {
		return cred, fmt.Errorf("%s: %w: it is for %s/%s, not for %s/%s", cred.file.Path, ErrConfig, u.Account, u.Role, a.account, a.role)
	}
	cred.user, cred.expires = u.Key, u.Expires
	return cred, nil
}

// tls reads what is used at each connect, to see that it can be.
func (c *Config) tls() (authorities, certificate bool, err error) {
	t := natsconn.TLSFiles(c.dir)
	pool, err := t.Authorities()
	if err != nil {
		return false, false, err
	}
	pair, err := t.Certificate()
	if err != nil {
		return false, false, err
	}
	if pair.Leaf != nil && !c.now().Before(pair.Leaf.NotAfter) {
		return false, false, fmt.Errorf("%s: %w", filepath.Join(c.dir, certs.ClientFile), certs.ErrExpired)
	}
	return pool != nil, len(pair.Certificate) > 0, nil
}
