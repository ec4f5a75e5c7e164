package platform

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/nats-io/jwt/v2"

	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/keystore"
	"github.com/herald-nats/herald/pkg/ledger"
	"github.com/herald-nats/herald/pkg/platform/manifest"
	"github.com/herald-nats/herald/pkg/trust"
)

// ErrNotPlatform: the folder is not a platform folder, or part of one is missing.
var ErrNotPlatform = errors.New("not a Herald platform folder")

// Names of files in the folders of a platform.
const (
	OperatorFile = "operator.jwt"     // the root that each party is given
	DocumentFile = "platform.jwt"     // the platform document's public part, for clients
	FullFile     = "document.jwt"     // the platform document, for services
	GuestFile    = "guest.creds"      // public: anyone may be this user
	ServiceFile  = "provisioner.yaml" // what `provisioner run --config` reads
	SealKeyFile  = "region.nk"
	// SealKeyBeside is the other region key while one is being replaced.
	SealKeyBeside = "region.other.nk"
	// CalloutKeyFile is the one key that opens passwords: it is in operator/ and with issuers.
	CalloutKeyFile = "callout.nk"
	// SentinelFile is public: whoever connects without credentials is that user.
	SentinelFile = "sentinel.jwt"
	SigningFile  = "signing.nk"
	AuthCreds    = "auth.creds" // #nosec G101 -- a file's name
	LedgerCreds  = "ledger.creds"
	HomeCreds    = "home.creds" // of home's registrars alone
	ReaderCreds  = "readers.creds"
	SystemCreds  = "sys.creds" // #nosec G101 -- a file's name
)

// Dir is a platform folder. Each party gets one part of it and needs no other:
//
//	public/               all that a client needs
//	issuers/<region>/     all that an issuer of the region needs
//	registrars/<region>/  all that a registrar of the region needs
//	operator/             all private keys: for nscsetup, kept offline
//	data/                 what the servers of `nscsetup up` store
type Dir string

// File is the path of the platform file.
func (d Dir) File() string { return filepath.Join(string(d), FileName) }

// Public is the folder for clients.
func (d Dir) Public() string { return filepath.Join(string(d), "public") }

// Issuer is the folder of a region's issuers.
func (d Dir) Issuer(r ident.Region) string { return filepath.Join(string(d), "issuers", r.String()) }

// Registrar is the folder of a region's registrars.
func (d Dir) Registrar(r ident.Region) string {
	return filepath.Join(string(d), "registrars", r.String())
}

// Operator is the folder with the private keys.
func (d Dir) Operator() string { return filepath.Join(string(d), "operator") }

// Data is where the servers of `nscsetup up` store.
func (d Dir) Data() string { return filepath.Join(string(d), "data") }

// Platform is a platform folder that was opened: what nscsetup works on.
type Platform struct {
	Dir  Dir
	File *manifest.File // what the operator describes; it may not be in force yet
	// What follows is what this folder last put in force.
	Operator *trust.Operator
	Document *trust.Platform  // the public part of Full
	Full     *ledger.Document // the platform document as a registrar puts it into the ledger
	// FullToken is Full as it was signed.
	FullToken string

	held []Held
	now  func() time.Time
	text []byte // of the platform file
}

// Open reads a platform folder and verifies what is in it up to its operator.
// A folder that is none is ErrNotPlatform; a platform file with mistakes is
// manifest.ErrInvalid; unreadable files keep their fs error.
func Open(dir string) (*Platform, error) { return open(dir, Dir(dir).File(), time.Now) }

// OpenApplied is Open, with the platform file as it was applied last, for those who look at
// a platform, or heal it, while somebody is changing the file. It is not to be applied.
func OpenApplied(dir string) (*Platform, error) {
	return open(dir, filepath.Join(Dir(dir).Operator(), appliedFile), time.Now)
}

func open(dir, path string, now func() time.Time) (*Platform, error) {
	p, err := load(dir, path, now)
	if err != nil {
		return nil, err
	}
	if err := p.fixed(); err != nil {
		return nil, err
	}
	return p, nil
}

// load is open, whatever of the file cannot be changed.
func load(dir, path string, now func() time.Time) (*Platform, error) {
	d := Dir(dir)
	data, err := readFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s has no %s: %w", dir, FileName, ErrNotPlatform)
	}
	if err != nil {
		return nil, fmt.Errorf("reading the platform file: %w", err)
	}
	// Parsing and verifying are the work of opening a large platform; they know nothing of
	// each other.
	file := make(chan error, 1)
	p := &Platform{Dir: d, now: now, text: data}
	go func() {
		var err error
		p.File, err = manifest.Parse(path, data)
		file <- err
	}()
	err = p.open()
	if ferr := <-file; ferr != nil {
		return nil, ferr
	}
	if err != nil {
		return nil, err
	}
	return p, nil
}

// readFile reads a file that is one: a pipe would be waited for.
func readFile(path string) ([]byte, error) {
	switch info, err := os.Stat(path); {
	case err != nil:
		return nil, err
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("%s: %w: it is no file", path, ErrNotPlatform)
	}
	return os.ReadFile(path) // #nosec G304 -- of the platform folder
}

// fixed refuses what cannot be changed in a platform that there is: clients keep their
// keys under its name, and the names that home decided are in home's bucket.
func (p *Platform) fixed() error {
	if err := p.fixedName(); err != nil {
		return err
	}
	return p.stays("home", p.File.Home.String(), p.Document.Home.String(), "leave it as it is; if its region is gone for good, move it with 'nscsetup home move'")
}

func (p *Platform) fixedName() error {
	return p.stays("name", p.File.Name.String(), p.Document.Name, "leave it as it is, or make a new platform with 'nscsetup init'")
}

func (p *Platform) stays(key, have, was, hint string) error {
	if have == was {
		return nil
	}
	return manifest.Problems{p.File.Problem(key, key+" is "+was+", and cannot become "+have, hint)}
}

// open reads what the folder last put in force.
func (p *Platform) open() error {
	d := p.Dir
	op, err := readPart(filepath.Join(d.Operator(), OperatorFile))
	if err != nil {
		return err
	}
	if p.Operator, err = trust.ParseOperator(op); err != nil {
		return fmt.Errorf("%s: %w: %w", d.Operator(), ErrNotPlatform, err)
	}
	doc, err := readPart(filepath.Join(d.Operator(), FullFile))
	if err != nil {
		return err
	}
	p.FullToken = strings.TrimSpace(doc)
	if p.Full, err = openFull(p.Operator, p.FullToken, p.now); err != nil {
		return fmt.Errorf("%s: %w: %w", d.Operator(), ErrNotPlatform, err)
	}
	p.Document = p.Full.Public
	return p.readHeld()
}

// openFull verifies a platform document as every reader of the ledger does.
func openFull(op *trust.Operator, token string, now func() time.Time) (*ledger.Document, error) {
	e, err := ledger.Opener{Operator: op, Now: now}.Open(ledger.PlatformKey().String(), token)
	if err != nil {
		return nil, err
	}
	d, ok := e.Body.(*ledger.Document)
	if !ok {
		return nil, fmt.Errorf("the platform document has a body of type %T", e.Body)
	}
	return d, nil
}

func readPart(path string) (string, error) {
	data, err := os.ReadFile(path) // #nosec G304 -- a fixed name in the folder that the user named
	if errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("%s is missing: %w", path, ErrNotPlatform)
	}
	if err != nil {
		return "", fmt.Errorf("reading a part of the platform: %w", err)
	}
	return string(data), nil
}

// credsFile is a creds file as every NATS client reads it.
func credsFile(token string, key *keystore.Key) ([]byte, error) {
	seed, err := key.Seed()
	if err != nil {
		return nil, err
	}
	data, err := jwt.FormatUserConfig(token, seed)
	if err != nil {
		return nil, fmt.Errorf("formatting creds: %w", err)
	}
	return data, nil
}
