package service

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/ledger"
)

// Checked is a configuration in force: with what it leaves out, and what its folder holds.
// There is no secret in it.
type Checked struct {
	Config  string       `json:"config"`
	Service string       `json:"service"`
	Region  ident.Region `json:"region"`
	Home    ident.Region `json:"home"`
	URLs    []string     `json:"urls"`
	State   string       `json:"state"`
	// Defaults are the keys of the file that it does not have.
	Defaults []string `json:"defaults"`
	// Warnings are what a start would say and go on.
	Warnings []string `json:"warnings"`

	Operator    string              `json:"operator"`
	Document    string              `json:"document"` // the version of the folder's; a newer one may be in force
	User        string              `json:"user"`
	Credentials []CheckedCredential `json:"credentials"`
	RegionKey   string              `json:"region_key,omitempty"`
	RoleKeys    []string            `json:"role_keys,omitempty"` // ACCOUNT/role of those that the document has
	SigningKey  string              `json:"signing_key,omitempty"`
	Accounts    int                 `json:"accounts,omitempty"`
	TLS         CheckedTLS          `json:"tls"`
}

// CheckedCredential is a creds file, by its name in the folder.
type CheckedCredential struct {
	File    string    `json:"file"`
	User    string    `json:"user"`
	Expires time.Time `json:"expires,omitzero"` // zero: never
}

// CheckedTLS is what the folder has for TLS; servers say whether there is any.
type CheckedTLS struct {
	Authorities bool `json:"authorities"` // false: those that the system trusts
	Certificate bool `json:"certificate"`
}

// Check reads and verifies all that a start would, as far as that is possible without a
// server, and changes nothing. Errors are those of Load and of a start.
func (c *Config) Check() (Checked, error) {
	f, err := c.files()
	if err != nil {
		return Checked{}, err
	}
	k := Checked{
		Config: c.path, Service: c.Service, Region: c.Region, Home: c.platform.Home, URLs: c.URLs, State: c.State,
		Operator: c.operator.Key(), Document: c.platform.Version.String(), User: f.self.String(), Accounts: len(f.accounts),
		Defaults: []string{}, Warnings: []string{},
	}
	if k.TLS.Authorities, k.TLS.Certificate, err = c.tls(); err != nil {
		return Checked{}, err
	}
	if len(c.given.urls) == 0 {
		k.Defaults = append(k.Defaults, "urls")
	}
	if c.given.state == "" {
		k.Defaults = append(k.Defaults, "state")
	}
	for file, cred := range f.creds {
		k.Credentials = append(k.Credentials, CheckedCredential{file, cred.user.String(), cred.expires})
	}
	slices.SortFunc(k.Credentials, func(a, b CheckedCredential) int { return cmp.Compare(a.File, b.File) })
	if r, _ := c.platform.Region(c.Region); len(f.keys.Region) > 0 {
		for _, key := range r.SealKeys() { // the one in use first, if it is here
			if f.keys.Region[key] != nil {
				k.RegionKey = key.String()
				break
			}
		}
	}
	if f.signing != nil {
		k.SigningKey = f.signing.Public()
	}
	k.RoleKeys = c.roleNames(f)
	if err := writable(c.State); err != nil {
		k.Warnings = append(k.Warnings, fmt.Sprintf("the state folder cannot be written: each start reads the ledger anew, and none works without JetStream: %v", err))
	}
	return k, nil
}

// roleNames are the roles of the document whose keys are in the folder.
func (c *Config) roleNames(f files) []string {
	var names []string
	d, ok := c.entry.Body.(*ledger.Document)
	if !ok {
		return nil
	}
	for _, a := range d.Public.Accounts {
		for _, role := range a.Roles {
			if f.keys.Roles[role.Key] != nil {
				names = append(names, a.Name.String()+"/"+role.Name.String())
			}
		}
	}
	slices.Sort(names)
	return names
}

// writable tells whether a folder can be written, or be made: without trying to, because
// nothing is to change.
func writable(dir string) error {
	for {
		info, err := os.Stat(dir)
		switch parent := filepath.Dir(dir); {
		case errors.Is(err, fs.ErrNotExist) && parent != dir:
			dir = parent
			continue
		case err != nil:
			return fmt.Errorf("looking at the state folder: %w", err)
		case !info.IsDir():
			return fmt.Errorf("%s: %w", dir, syscall.ENOTDIR)
		}
		const write, enter = 2, 1 // W_OK and X_OK
		if err := syscall.Access(dir, write|enter); err != nil {
			return fmt.Errorf("%s: %w", dir, err)
		}
		return nil
	}
}
