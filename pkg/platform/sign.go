package platform

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/nats-io/jwt/v2"

	"github.com/herald-nats/herald/pkg/keystore"
	"github.com/herald-nats/herald/pkg/ledger"
	"github.com/herald-nats/herald/pkg/platform/plan"
	"github.com/herald-nats/herald/pkg/trust"
)

// Signer signs what the set-up tool decides.
type Signer struct{ key *keystore.Key }

// Signer loads the set-up tool's operator signing key.
func (p *Platform) Signer() (Signer, error) {
	k, err := keystore.Load(p.Dir.signingKey(holderTool), keystore.Operator)
	if err != nil {
		return Signer{}, fmt.Errorf("the set-up tool's signing key: %w", err)
	}
	return Signer{k}, nil
}

// Key is the operator signing key.
func (s Signer) Key() *keystore.Key { return s.key }

// Account signs base claims as a version of theirs. c is not changed.
func (s Signer) Account(c *jwt.AccountClaims, version uint64, now time.Time) (string, error) {
	return trust.SignAccount(c, version, s.key, now)
}

// Document signs a platform document as a version.
func (s Signer) Document(d *ledger.Document, now time.Time) (string, error) {
	return d.Sign(ledger.KeySigner{Key: s.key}, now)
}

// baseFile is where a folder keeps what it knows of its own doing.
const baseFile = "applied.json"

// appliedFile is the platform file as it was applied last.
const appliedFile = "applied.yaml"

// Base is what this folder knows of its own doing.
func (p *Platform) Base() (plan.Base, error) {
	var b plan.Base
	data, err := os.ReadFile(filepath.Join(p.Dir.Operator(), baseFile))
	if err == nil {
		err = json.Unmarshal(data, &b)
	}
	if err != nil {
		return b, fmt.Errorf("reading what this folder put in force: %w", err)
	}
	return b, nil
}

// SaveFile keeps the platform file as it is applied now; see OpenApplied.
func (p *Platform) SaveFile() error {
	return keystore.ReplaceSecret(filepath.Join(p.Dir.Operator(), appliedFile), p.text)
}

// SaveBase keeps it.
func (p *Platform) SaveBase(b plan.Base) error {
	data, err := json.Marshal(b)
	if err != nil {
		return fmt.Errorf("encoding what this folder put in force: %w", err)
	}
	return keystore.ReplaceSecret(filepath.Join(p.Dir.Operator(), baseFile), data)
}

// retired is where a key is put aside, by its file name without .nk.
func (p *Platform) retired(name string, key *keystore.Key) string {
	return p.retiredAs(name, key.Public())
}

func (p *Platform) retiredAs(name, public string) string {
	return filepath.Join(p.Dir.Operator(), "retired", name+"."+public+".nk")
}

// isRetired tells whether a role's key, by its file name, was put aside.
func (p *Platform) isRetired(file string, key *keystore.Key) bool {
	_, err := os.Stat(p.retired(strings.TrimSuffix(file, ".nk"), key))
	return err == nil
}

// Retire puts the keys of an account's roles aside that are not to stay. No seed is ever
// removed.
func (p *Platform) Retire(account string, stays func(role string) bool) error {
	dir := filepath.Join(p.Dir.Operator(), "roles")
	names, err := accountFiles(dir, ".nk")
	if err != nil {
		return fmt.Errorf("retiring role keys: %w", err)
	}
	for _, name := range names {
		role, ok := strings.CutPrefix(name, account+".")
		if !ok || stays(role) {
			continue
		}
		from := filepath.Join(dir, name+".nk")
		key, err := keystore.Load(from, keystore.Account)
		if err != nil {
			return fmt.Errorf("retiring role %s/%s: %w", account, role, err)
		}
		to := p.retired(name, key)
		if err := os.MkdirAll(filepath.Dir(to), 0o700); err != nil {
			return fmt.Errorf("retiring role %s/%s: %w", account, role, err)
		}
		if err := os.Rename(from, to); err != nil {
			return fmt.Errorf("retiring role %s/%s: %w", account, role, err)
		}
	}
	return nil
}
