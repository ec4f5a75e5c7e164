// Package client is for programs that need credentials of a Herald platform:
// it obtains one, keeps it fresh and keeps a connection alive on it. The seed
// of a user is made by its holder and never leaves; what issuers answer is
// believed only after it was verified up to the operator that one was given.
package client

import (
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/nats-io/jwt/v2"

	"github.com/herald-nats/herald/internal/natsconn"
	"github.com/herald-nats/herald/pkg/certs"
	"github.com/herald-nats/herald/pkg/trust"
)

// ErrContext: a folder or file that says nothing usable about a platform.
var ErrContext = errors.New("not a Herald context")

// ErrOlder: a platform document that is older than the one that is known. Somebody
// may be showing what held before a key was taken away.
var ErrOlder = errors.New("an older platform document than the one that was seen before")

// maxContext bounds a context file; one has about 6 KiB.
const maxContext = 1 << 20

// Platform is what a client is given of a platform: all of it public. It does not
// change; Update gives another.
type Platform struct {
	Operator *trust.Operator
	Document *trust.Platform
	document string // as signed
	guest    natsconn.Static
	creds    string // the guest's creds, as given
	trusted  certs.Bundle
	ca       string // the same, as given; "" if none are
	shown    func() (tls.Certificate, error)
	now      func() time.Time
}

// Authorities are those that sign for the platform's servers, as they came with the
// platform. None means those that the system trusts. They are as much to be believed as
// who gave the folder or the file: unlike the rest, no key of the platform signs them.
func (p *Platform) Authorities() []certs.Certificate { return p.trusted.Certificates() }

// WithCertificate is the same platform seen by a client that shows a certificate to servers
// that ask for one. It is asked for at each connect.
func (p *Platform) WithCertificate(certificate func() (tls.Certificate, error)) *Platform {
	q := *p
	q.shown = certificate
	return &q
}

// TLS is what connections to the platform need: how servers are verified, and what this client
// shows them.
func (p *Platform) TLS() natsconn.TLS {
	t := natsconn.TLSTrust(p.trusted)
	t.Certificate = p.shown
	return t
}

// WithClock is the same platform seen by a client whose clock is another than
// the machine's: for tests of clocks that are off.
func (p *Platform) WithClock(now func() time.Time) *Platform {
	q := *p
	q.now = now
	return &q
}

// Token is the platform document as it was signed.
func (p *Platform) Token() string { return p.document }

// Update is the platform as a document says that auth.v1.info or anybody else showed:
// p itself if that is the version that p has, another Platform if it is newer. An
// older one is ErrOlder, one that is not this platform's trust.ErrUntrusted. What
// counts first is the version's epoch, which takes the operator key to set.
func (p *Platform) Update(document string) (*Platform, error) {
	document = strings.TrimSpace(document)
	doc, err := p.Operator.OpenPlatform(document)
	if err != nil {
		return nil, err
	}
	switch have, got := p.Document.Version, doc.Version; {
	case got.Rank() < have.Rank():
		return nil, fmt.Errorf("version %s, and version %s is known: %w", got, have, ErrOlder)
	case got.Rank() == have.Rank():
		return p, nil
	}
	q := *p
	q.Document, q.document = doc, document
	return &q, nil
}

// context is the one file that `nscsetup context export` writes. The guest's
// creds are in it because anyone may be the guest.
type contextFile struct {
	Version     int    `json:"herald_context"`
	Operator    string `json:"operator"`
	Platform    string `json:"platform"`
	Guest       string `json:"guest_creds"`
	Authorities string `json:"ca,omitempty"` // PEM: whom to trust to be a server
}

// LoadPlatform reads a public/ folder or a context file and verifies it.
func LoadPlatform(path string) (*Platform, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("looking for the platform: %w", err)
	}
	if !info.IsDir() {
		data, err := readBounded(path)
		if err != nil {
			return nil, err
		}
		p, err := ParseContext(data)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		return p, nil
	}
	var parts [3]string
	for i, name := range []string{"operator.jwt", "platform.jwt", "guest.creds"} {
		data, err := readBounded(filepath.Join(path, name))
		if errors.Is(err, os.ErrNotExist) {
			return nil, fmt.Errorf("%s has no %s: %w", path, name, ErrContext)
		}
		if err != nil {
			return nil, err
		}
		parts[i] = string(data)
	}
	ca, err := readBounded(filepath.Join(path, certs.AuthoritiesFile))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	if err == nil && len(ca) == 0 {
		// A mistake, and not the system's authorities.
		return nil, fmt.Errorf("%s in %s is empty: %w", certs.AuthoritiesFile, path, ErrContext)
	}
	p, err := newPlatform(contextFile{Operator: parts[0], Platform: parts[1], Guest: parts[2], Authorities: string(ca)})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return p, nil
}

// ParseContext reads the content of a context file and verifies it.
func ParseContext(data []byte) (*Platform, error) {
	var c contextFile
	if len(data) > maxContext || json.Unmarshal(data, &c) != nil || c.Version != 1 {
		return nil, fmt.Errorf("it is not a context file of version 1: %w", ErrContext)
	}
	return newPlatform(c)
}

// Export gives the content of a context file.
func (p *Platform) Export() ([]byte, error) {
	data, err := json.MarshalIndent(contextFile{1, p.Operator.Token(), p.document, p.creds, p.ca}, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("writing a context: %w", err)
	}
	return append(data, '\n'), nil
}

func newPlatform(c contextFile) (*Platform, error) {
	op, err := trust.ParseOperator(c.Operator)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrContext, err)
	}
	document := strings.TrimSpace(c.Platform)
	doc, err := op.OpenPlatform(document)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrContext, err)
	}
	guest, err := natsconn.ParseCreds([]byte(c.Guest))
	if err != nil {
		return nil, fmt.Errorf("%w: the guest: %w", ErrContext, err)
	}
	if _, err := jwt.DecodeUserClaims(guest.Token); err != nil {
		return nil, fmt.Errorf("%w: the guest: %w", ErrContext, err)
	}
	p := &Platform{Operator: op, Document: doc, document: document, guest: guest, creds: c.Guest, ca: c.Authorities, now: time.Now}
	if c.Authorities != "" {
		if p.trusted, err = certs.ParseBundle([]byte(c.Authorities)); err != nil {
			return nil, fmt.Errorf("%w: whom to trust to be a server: %w", ErrContext, err)
		}
	}
	return p, nil
}

func readBounded(path string) ([]byte, error) {
	f, err := os.Open(path) // #nosec G304 -- the file that the user named
	if err != nil {
		return nil, fmt.Errorf("reading the platform: %w", err)
	}
	defer func() { _ = f.Close() }() // read only: closing cannot lose anything
	data, err := io.ReadAll(io.LimitReader(f, maxContext+1))
	if err != nil {
		return nil, fmt.Errorf("reading the platform: %w", err)
	}
	return data, nil
}
