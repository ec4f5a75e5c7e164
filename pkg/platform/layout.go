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

func (d Dir) roleKey(account, role string) string {
	return filepath.Join(d.Operator(), "roles", account+"."+role+".nk")
}

// Platform is a platform folder that was opened: what nscsetup works on.
type Platform struct {
	Dir      Dir
	File     *File
	Operator *trust.Operator
	Document *trust.Platform  // the public part of Full
	Full     *ledger.Document // the platform document as a registrar puts it into the ledger
	// FullToken is Full as it was signed.
	FullToken string
	Accounts  []string // the account JWTs, verified; SYS is the first
}

// Open reads a platform folder and verifies what is in it up to its operator.
// A folder that is none is ErrNotPlatform; unreadable files keep their fs error.
func Open(dir string) (*Platform, error) { return open(dir, time.Now) }

func open(dir string, now func() time.Time) (*Platform, error) {
	d := Dir(dir)
	data, err := os.ReadFile(d.File())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s has no %s: %w", dir, FileName, ErrNotPlatform)
	}
	if err != nil {
		return nil, fmt.Errorf("reading the platform file: %w", err)
	}
	p := &Platform{Dir: d}
	if p.File, err = Parse(data); err != nil {
		return nil, fmt.Errorf("%s: %w: %w", d.File(), ErrInvalidFile, err)
	}
	op, err := readPart(filepath.Join(d.Operator(), OperatorFile))
	if err != nil {
		return nil, err
	}
	if p.Operator, err = trust.ParseOperator(op); err != nil {
		return nil, fmt.Errorf("%s: %w: %w", d.Operator(), ErrNotPlatform, err)
	}
	doc, err := readPart(filepath.Join(d.Operator(), FullFile))
	if err != nil {
		return nil, err
	}
	p.FullToken = strings.TrimSpace(doc)
	if p.Full, err = openFull(p.Operator, p.FullToken, now); err != nil {
		return nil, fmt.Errorf("%s: %w: %w", d.Operator(), ErrNotPlatform, err)
	}
	p.Document = p.Full.Public
	if err := p.agree(); err != nil {
		return nil, err
	}
	p.Accounts, err = ReadAccounts(filepath.Join(d.Operator(), "accounts"), p.Operator)
	return p, err
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

// ErrInvalidFile is wrapped around what Parse found.
var ErrInvalidFile = errors.New("the platform file is invalid")

// agree holds the platform file against the signed document: clients believe
// the document, so a change of addresses in the file alone would leave them
// looking where nobody listens.
func (p *Platform) agree() error {
	differ := p.File.Name.String() != p.Document.Name || p.File.Home != p.Document.Home || len(p.File.Regions) != len(p.Document.Regions)
	for _, r := range p.File.Regions {
		dr, ok := p.Document.Region(r.Name)
		urls := r.URLs()
		differ = differ || !ok || len(dr.URLs) != len(urls)
		if differ {
			break
		}
		for i := range urls {
			differ = differ || urls[i] != dr.URLs[i]
		}
	}
	if differ {
		return fmt.Errorf("%s: %w: name, home, regions and client addresses are those that init signed, and this version cannot change them later", p.Dir.File(), ErrInvalidFile)
	}
	return nil
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

// ReadAccounts reads the account JWTs of a folder and verifies each up to the
// operator; the system account is the first.
func ReadAccounts(dir string, op *trust.Operator) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("reading the accounts: %w", err)
	}
	var tokens []string
	for _, e := range entries {
		if filepath.Ext(e.Name()) != ".jwt" {
			continue
		}
		token, err := readPart(filepath.Join(dir, e.Name()))
		if err != nil {
			return nil, err
		}
		c, err := op.VerifyAccount(token)
		if err != nil {
			return nil, fmt.Errorf("%s: %w: %w", e.Name(), ErrNotPlatform, err)
		}
		if c.Subject == op.System().String() {
			tokens = append([]string{token}, tokens...)
		} else {
			tokens = append(tokens, token)
		}
	}
	return tokens, nil
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
