package natsconn

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"

	"github.com/nats-io/nats.go"

	"github.com/herald-nats/herald/pkg/certs"
	"github.com/herald-nats/herald/pkg/keystore"
)

// ErrTLS: a server was reached and not believed, or did not believe us, or has no TLS
// although its URL says so.
var ErrTLS = errors.New("no secure connection")

// TLS says who is trusted to be a server, and what is shown to one that asks who we are.
// Whether there is TLS at all is said by the URLs, tls:// or wss://, and by the server. Both
// functions are called at each connect, so that what was renewed is used without a restart.
type TLS struct {
	// Authorities sign for servers. Nil, or if it gives none: those that the system trusts.
	Authorities func() (*x509.CertPool, error)
	// Certificate is ours; nil, or an empty one: none.
	Certificate func() (tls.Certificate, error)
}

// TLSFiles is what lies in a folder under the names of pkg/certs. Each of the files may be
// missing; a bundle that cannot be read is an error, and not taken for none.
func TLSFiles(dir string) TLS {
	return TLS{
		Authorities: func() (*x509.CertPool, error) {
			data, err := readBounded(filepath.Join(dir, certs.AuthoritiesFile))
			if errors.Is(err, fs.ErrNotExist) {
				return nil, nil // those of the system
			}
			if err != nil {
				return nil, err
			}
			b, err := certs.ParseBundle(data)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", filepath.Join(dir, certs.AuthoritiesFile), err)
			}
			return b.Pool(), nil
		},
		Certificate: func() (tls.Certificate, error) {
			cert, err := readBounded(filepath.Join(dir, certs.ClientFile))
			if errors.Is(err, fs.ErrNotExist) {
				return tls.Certificate{}, nil
			}
			if err != nil {
				return tls.Certificate{}, err
			}
			key, err := keystore.ReadSecret(filepath.Join(dir, certs.ClientKeyFile))
			if err != nil {
				return tls.Certificate{}, fmt.Errorf("the key of our certificate: %w", err)
			}
			pair, err := certs.ParsePair(cert, key)
			if err != nil {
				return tls.Certificate{}, fmt.Errorf("%s: %w", filepath.Join(dir, certs.ClientFile), err)
			}
			return pair, nil
		},
	}
}

// TLSTrust trusts the authorities of a bundle; if there are none, those of the system.
func TLSTrust(b certs.Bundle) TLS {
	if len(b.Certificates()) == 0 {
		return TLS{}
	}
	return TLS{Authorities: func() (*x509.CertPool, error) { return b.Pool(), nil }}
}

// apply puts t into the options of a connection.
func (t TLS) apply(o *nats.Options, urls []string) {
	for _, u := range urls {
		// nats.go takes the functions themselves for the wish to have TLS, on websockets.
		if strings.HasPrefix(strings.ToLower(u), "ws://") {
			return
		}
	}
	o.RootCAsCB, o.TLSCertCB = t.Authorities, t.Certificate
}

// explain tells that it is TLS that failed, and how.
func explain(err error) error {
	// Under TLS 1.3 a server refuses a client after the handshake, by an alert.
	var alert *net.OpError
	refused := errors.As(err, &alert) && alert.Op == "remote error"
	if refused || errors.Is(err, nats.ErrTLS) || errors.Is(err, nats.ErrSecureConnWanted) || errors.Is(err, nats.ErrSecureConnRequired) {
		return fmt.Errorf("%w: %w", ErrTLS, err)
	}
	return err
}

// maxFile bounds what is read of certificates; a bundle has a few KiB.
const maxFile = 256 << 10

func readBounded(path string) ([]byte, error) {
	f, err := os.Open(path) // #nosec G304 -- a fixed name in the caller's folder
	if err != nil {
		return nil, fmt.Errorf("reading certificates: %w", err)
	}
	defer func() { _ = f.Close() }() // read only: closing cannot lose anything
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, fmt.Errorf("reading certificates: %w", err)
	}
	return data, nil // one that is too long is refused by who parses it
}
