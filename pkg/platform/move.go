package platform

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"time"

	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/keystore"
	"github.com/herald-nats/herald/pkg/platform/manifest"
)

// OpenMoving is Open for who moves home to a region: the platform file may say so already, or
// still where home was.
func OpenMoving(dir string, home ident.Region) (*Platform, error) {
	p, err := load(dir, Dir(dir).File(), time.Now)
	if err != nil {
		return nil, err
	}
	if p.File.Home != home {
		return p, p.fixed()
	}
	if err := p.fixedName(); err != nil {
		return nil, err
	}
	return p, nil
}

// OperatorKey loads the operator key: from the folder, or from where it is kept otherwise.
func (p *Platform) OperatorKey(path string) (*keystore.Key, error) {
	if path == "" {
		path = p.Dir.operatorKey()
	}
	k, err := keystore.Load(path, keystore.Operator)
	if err != nil {
		return nil, fmt.Errorf("the operator key: %w", err)
	}
	if k.Public() != p.Operator.Key() {
		return nil, fmt.Errorf("%s is not the operator key of this platform, %s: %w", path, p.Operator.Key(), ErrNotPlatform)
	}
	return k, nil
}

// homeLine is where the platform file says which region is home.
var homeLine = regexp.MustCompile(`(?m)^home:[ \t]*("[^"\n]*"|'[^'\n]*'|[^\s#]+)`)

// MoveHome brings the folder after a platform document by which home is another region: the
// platform file, what home's registrars need, and what is in force. It may be called again after
// it was cut off. accounts are the JWTs that changed.
func (p *Platform) MoveHome(full string, accounts []string, now time.Time) error {
	doc, err := openFull(p.Operator, full, func() time.Time { return now })
	if err != nil {
		return err
	}
	was, home := p.Document.Home, doc.Public.Home
	for _, path := range []string{filepath.Join(p.Dir.Operator(), appliedFile), p.Dir.File()} {
		if err := rehome(path, home); err != nil {
			return err
		}
	}
	p.File.Home = home
	path := filepath.Join(p.Dir.Registrar(home), HomeCreds)
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		data, err := p.newCreds(Ledger, RoleHome, "registrar-"+home.String(), home.String(), now, ServiceLife)
		if err != nil {
			return err
		}
		if err := keystore.WriteSecret(path, data); err != nil {
			return err
		}
	}
	// Whose folder it is finds out by itself that it does not decide any more.
	if was != home {
		if err := os.Remove(filepath.Join(p.Dir.Registrar(was), HomeCreds)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("taking the former home's credential: %w", err)
		}
	}
	return p.Use(full, accounts, now)
}

// rehome has a platform file say where home is, and leaves everything else as it is written.
func rehome(path string, home ident.Region) error {
	data, err := readFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("reading the platform file: %w", err)
	}
	f, err := manifest.Parse(path, data)
	if err != nil {
		return err
	}
	if f.Home == home {
		return nil
	}
	text := homeLine.ReplaceAll(data, []byte("home: "+home.String()))
	if f, err = manifest.Parse(path, text); err != nil || f.Home != home {
		return fmt.Errorf("%s: it has no line of its own for home: write 'home: %s' into it: %w", path, home, ErrNotPlatform)
	}
	return keystore.ReplaceSecret(path, text)
}
