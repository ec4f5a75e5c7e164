package platform

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/nats-io/jwt/v2"
	"golang.org/x/sync/errgroup"

	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/keystore"
	"github.com/herald-nats/herald/pkg/platform/claims"
	"github.com/herald-nats/herald/pkg/platform/plan"
	"github.com/herald-nats/herald/pkg/trust"
)

// Held is an account as this folder last had it in force: what is looked at most, so that
// ten thousand JWTs need not be verified to find the one that changed. Claims gives the
// rest.
type Held struct {
	Name  string                      `json:"name"`
	Key   ident.AccountKey            `json:"key"`
	Roles map[string]ident.AccountKey `json:"roles"`
	// Beside has, of a role whose key is being replaced, the other one.
	Beside  map[string]ident.AccountKey `json:"beside,omitempty"`
	Version uint64                      `json:"version"` // of the base claims
	Closed  bool                        `json:"closed,omitempty"`
	Digest  string                      `json:"digest"` // of the content, as plan.Digest gives it
	// Size and Modified are the file's, by which it is seen whether it is still the one that
	// was verified.
	Size     int64 `json:"size"`
	Modified int64 `json:"modified"` // ns since 1970

	path string
}

// indexFile keeps what was read from the account JWTs. It is a copy: without it they are
// read, and verified, again.
const indexFile = "index.json"

// Held are the accounts that this folder last had in force; SYS is the first.
func (p *Platform) Held() []Held { return p.held }

// Account finds an account that this folder last had in force by its name.
func (p *Platform) Account(name string) (Held, bool) {
	i := slices.IndexFunc(p.held, func(h Held) bool { return h.Name == name })
	if i < 0 {
		return Held{}, false
	}
	return p.held[i], true
}

// Claims reads an account's JWT and verifies it up to the operator.
func (p *Platform) Claims(h Held) (token string, c *jwt.AccountClaims, err error) {
	token, err = readPart(h.path)
	if err != nil {
		return "", nil, err
	}
	token = strings.TrimSpace(token)
	if c, err = p.Operator.VerifyAccount(token); err != nil {
		return "", nil, fmt.Errorf("%s: %w: %w", h.path, ErrNotPlatform, err)
	}
	return token, c, nil
}

// Tokens are the JWTs of all accounts that this folder last had in force, SYS's first.
func (p *Platform) Tokens() ([]string, error) {
	tokens := make([]string, len(p.held))
	err := onAll(len(p.held), func(i int) error {
		var err error
		tokens[i], _, err = p.Claims(p.held[i])
		return err
	})
	return tokens, err
}

// onAll calls f for 0 to n-1 on all processors.
func onAll(n int, f func(i int) error) error {
	var g errgroup.Group
	workers := runtime.GOMAXPROCS(0)
	for w := range workers {
		g.Go(func() error {
			for i := w; i < n; i += workers {
				if err := f(i); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return g.Wait()
}

// readHeld reads a folder's accounts, by its index where that fits.
func (p *Platform) readHeld() error {
	dir := filepath.Join(p.Dir.Operator(), "accounts")
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("reading the accounts: %w", err)
	}
	known := map[string]Held{}
	for _, h := range p.readIndex() {
		known[h.Name] = h
	}
	var names []string
	for _, e := range entries {
		if name, ok := strings.CutSuffix(e.Name(), ".jwt"); ok && !strings.HasPrefix(name, ".") {
			names = append(names, name)
		}
	}
	held := make([]Held, len(names))
	stale := make([]bool, len(names))
	if err := onAll(len(names), func(i int) error {
		path := filepath.Join(dir, names[i]+".jwt")
		info, err := os.Stat(path)
		if err != nil {
			return fmt.Errorf("reading the accounts: %w", err)
		}
		if h, ok := known[names[i]]; ok && h.Size == info.Size() && h.Modified == info.ModTime().UnixNano() {
			h.path = path
			held[i] = h
			return nil
		}
		stale[i] = true
		held[i], err = p.look(path, info)
		return err
	}); err != nil {
		return err
	}
	p.held = held
	p.inUse()
	p.sortHeld()
	if slices.Contains(stale, true) || len(known) != len(held) {
		// Best effort: a folder that cannot be written to is read the longer way.
		_ = p.writeIndex()
	}
	return nil
}

// look reads and verifies one account.
func (p *Platform) look(path string, info fs.FileInfo) (Held, error) {
	h := Held{path: path, Size: info.Size(), Modified: info.ModTime().UnixNano()}
	_, c, err := p.Claims(h)
	if err != nil {
		return h, err
	}
	if h.Key, err = ident.ParseAccountKey(c.Subject); err != nil {
		return h, fmt.Errorf("%s: %w", path, err)
	}
	h.Name, h.Version, h.Closed, h.Digest = c.Name, trust.BaseVersion(c.Tags), claims.IsClosed(c), plan.Digest(c)
	h.Roles = map[string]ident.AccountKey{}
	for pub, scope := range c.SigningKeys {
		s, ok := scope.(*jwt.UserScope)
		if !ok || s == nil {
			continue
		}
		key, err := ident.ParseAccountKey(pub)
		if err != nil {
			return h, fmt.Errorf("%s: %w", path, err)
		}
		if other, twice := h.Roles[s.Role]; twice {
			if h.Beside == nil {
				h.Beside = map[string]ident.AccountKey{}
			}
			h.Beside[s.Role] = other
		}
		h.Roles[s.Role] = key
	}
	if want := h.Name + ".jwt"; filepath.Base(path) != want {
		return h, fmt.Errorf("%s is that of account %s: %w", path, h.Name, ErrNotPlatform)
	}
	return h, nil
}

// inUse has Held.Roles name, of two keys of a role, the one that the platform document says is
// in use.
func (p *Platform) inUse() {
	for i, h := range p.held {
		if len(h.Beside) == 0 {
			continue
		}
		for _, a := range p.Document.Accounts {
			if a.Key != h.Key {
				continue
			}
			for _, r := range a.Roles {
				if name := r.Name.String(); h.Beside[name] == r.Key {
					p.held[i].Roles[name], p.held[i].Beside[name] = r.Key, h.Roles[name]
				}
			}
		}
	}
}

// sortHeld brings the system account to the front.
func (p *Platform) sortHeld() {
	slices.SortFunc(p.held, func(a, b Held) int {
		switch system := p.Operator.System(); {
		case a.Key == b.Key:
			return 0
		case a.Key == system:
			return -1
		case b.Key == system:
			return 1
		}
		return strings.Compare(a.Name, b.Name)
	})
}

// holdAll takes accounts that were just written.
func (p *Platform) holdAll(paths []string) error {
	fresh := make([]Held, len(paths))
	if err := onAll(len(paths), func(i int) error {
		info, err := os.Stat(paths[i])
		if err != nil {
			return fmt.Errorf("reading the accounts: %w", err)
		}
		fresh[i], err = p.look(paths[i], info)
		return err
	}); err != nil {
		return err
	}
	at := make(map[string]int, len(p.held))
	for i, h := range p.held {
		at[h.Name] = i
	}
	for _, h := range fresh {
		if i, ok := at[h.Name]; ok {
			p.held[i] = h
		} else {
			at[h.Name] = len(p.held)
			p.held = append(p.held, h)
		}
	}
	p.sortHeld()
	return p.writeIndex()
}

// concurrently calls f for 0 to n-1, several at a time: a disk that is asked for many
// files at once syncs them together.
func concurrently(n int, f func(i int) error) error {
	var g errgroup.Group
	g.SetLimit(16)
	for i := range n {
		g.Go(func() error { return f(i) })
	}
	return g.Wait()
}

func (p *Platform) readIndex() []Held {
	data, err := os.ReadFile(filepath.Join(p.Dir.Operator(), indexFile))
	if err != nil {
		return nil
	}
	var index struct {
		Operator string `json:"operator"` // by whom the accounts were verified
		Accounts []Held `json:"accounts"`
	}
	if json.Unmarshal(data, &index) != nil || index.Operator != p.Operator.Token() {
		return nil
	}
	return index.Accounts
}

func (p *Platform) writeIndex() error {
	data, err := json.Marshal(map[string]any{"operator": p.Operator.Token(), "accounts": p.held})
	if err != nil {
		return fmt.Errorf("encoding the index: %w", err)
	}
	return keystore.ReplaceSecret(filepath.Join(p.Dir.Operator(), indexFile), data)
}

// ReadAccounts reads the account JWTs of a folder and verifies each up to the
// operator; the system account is the first.
func ReadAccounts(dir string, op *trust.Operator) ([]string, error) {
	names, err := accountFiles(dir, ".jwt")
	if err != nil {
		return nil, fmt.Errorf("reading the accounts: %w", err)
	}
	var tokens []string
	for _, name := range names {
		token, err := readPart(filepath.Join(dir, name+".jwt"))
		if err != nil {
			return nil, err
		}
		token = strings.TrimSpace(token)
		c, err := op.VerifyAccount(token)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("%s.jwt: %w", name, ErrNotPlatform), err)
		}
		if c.Subject == op.System().String() {
			tokens = append([]string{token}, tokens...)
		} else {
			tokens = append(tokens, token)
		}
	}
	return tokens, nil
}

// SystemJWT is the system account's JWT, which every server is started with.
func (p *Platform) SystemJWT() (string, error) {
	h, ok := p.Account(System)
	if !ok {
		return "", fmt.Errorf("%s has no account %s: %w", p.Dir.Operator(), System, ErrNotPlatform)
	}
	token, _, err := p.Claims(h)
	return token, err
}
