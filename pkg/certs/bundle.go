package certs

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"time"
)

// Names of the files that every party finds beside its other ones.
const (
	AuthoritiesFile = "ca.pem"     // whom to trust to be a server
	ClientFile      = "client.crt" // what it shows to servers that ask
	ClientKeyFile   = "client.key"
)

const (
	blockCertificate = "CERTIFICATE"
	maxBundle        = 256 << 10 // bytes that are looked at; a certificate has about 700
	maxCertificates  = 64
)

// Bundle are the authorities that somebody trusts. While one is being replaced it has both.
type Bundle struct{ certs []*x509.Certificate }

// ParseBundle reads the PEM certificates of authorities, one or several, with any text
// between them. What is no certificate of an authority is refused: it would be passed over in
// silence elsewhere, and whoever trusts too few is cut off at the next rotation.
func ParseBundle(data []byte) (Bundle, error) {
	all, err := Parse(data)
	if err != nil {
		return Bundle{}, err
	}
	var b Bundle
	for _, c := range all {
		if !c.cert.IsCA {
			return Bundle{}, fmt.Errorf("%s is not the certificate of an authority: %w", c.Name(), ErrInvalid)
		}
		b.certs = append(b.certs, c.cert)
	}
	return b, nil
}

// NewBundle is the authorities given, each once.
func NewBundle(authorities ...Certificate) Bundle {
	var b Bundle
	for _, a := range authorities {
		if !slices.ContainsFunc(b.certs, a.cert.Equal) {
			b.certs = append(b.certs, a.cert)
		}
	}
	return b
}

// PEM is the bundle as every NATS client and server reads it.
func (b Bundle) PEM() []byte {
	var out bytes.Buffer
	for _, c := range b.certs {
		// Quoted: a name may have line ends, and more behind them.
		fmt.Fprintf(&out, "# %.80q until %s\n", c.Subject.CommonName, c.NotAfter.UTC().Format(time.DateOnly))
		out.Write(encodeCertificate(c.Raw))
	}
	return out.Bytes()
}

// Pool is the bundle as crypto/tls wants it; a new one each time.
func (b Bundle) Pool() *x509.CertPool {
	pool := x509.NewCertPool()
	for _, c := range b.certs {
		pool.AddCert(c)
	}
	return pool
}

// Certificates are those of the authorities.
func (b Bundle) Certificates() []Certificate {
	all := make([]Certificate, len(b.certs))
	for i, c := range b.certs {
		all[i] = Certificate{c}
	}
	return all
}

// Verify tells whether who trusts the bundle believes a certificate for a purpose, as of
// now, under each of the hosts given. The error wraps ErrUnverified, and ErrExpired where time is the reason.
func (b Bundle) Verify(c Certificate, p Purpose, now time.Time, hosts ...string) error {
	return b.verify(c, nil, p, now, hosts)
}

// VerifyChain is Verify of the first of several certificates, the others being those of
// authorities between it and the bundle.
func (b Bundle) VerifyChain(chain []Certificate, p Purpose, now time.Time, hosts ...string) error {
	if len(chain) == 0 {
		return fmt.Errorf("no certificate at all: %w", ErrUnverified)
	}
	return b.verify(chain[0], chain[1:], p, now, hosts)
}

func (b Bundle) verify(c Certificate, between []Certificate, p Purpose, now time.Time, hosts []string) error {
	pool := x509.NewCertPool()
	for _, i := range between {
		pool.AddCert(i.cert)
	}
	// Both usages of a peer are needed; x509 is content with one of those it is asked for.
	usages := p.usages()
	if len(usages) == 0 {
		return fmt.Errorf("%s: purpose %.20q: %w", c.Name(), p, ErrPurpose)
	}
	for _, usage := range usages {
		_, err := c.cert.Verify(x509.VerifyOptions{
			Roots: b.Pool(), Intermediates: pool, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{usage},
		})
		if err != nil {
			return unverified(c, err)
		}
	}
	for _, h := range hosts {
		if err := c.cert.VerifyHostname(h); err != nil {
			return unverified(c, err)
		}
	}
	return nil
}

func unverified(c Certificate, err error) error {
	var invalid x509.CertificateInvalidError
	if errors.As(err, &invalid) && invalid.Reason == x509.Expired {
		return fmt.Errorf("%s: %w: %w: %w", c.Name(), ErrUnverified, ErrExpired, err)
	}
	return fmt.Errorf("%s: %w: %w", c.Name(), ErrUnverified, err)
}

// Certificate is a certificate that was read. It has no key and is no secret.
type Certificate struct{ cert *x509.Certificate }

// Of is a certificate as crypto/tls gives it, such as the first that a server has shown.
func Of(c *x509.Certificate) Certificate { return Certificate{c} }

// Parse reads all PEM certificates in data, at least one, in their order. Blocks of
// another type, keys above all, are refused: a file that is handed out has none.
func Parse(data []byte) ([]Certificate, error) {
	if len(data) > maxBundle {
		return nil, fmt.Errorf("%d bytes of certificates: %w", len(data), ErrInvalid)
	}
	var all []Certificate
	for {
		var block *pem.Block
		if block, data = pem.Decode(data); block == nil {
			break
		}
		if block.Type != blockCertificate {
			return nil, fmt.Errorf("a block of type %.40q among certificates: %w", block.Type, ErrInvalid)
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("certificate %d: %w: %w", len(all)+1, ErrInvalid, err)
		}
		if all = append(all, Certificate{c}); len(all) > maxCertificates {
			return nil, fmt.Errorf("more than %d certificates: %w", maxCertificates, ErrInvalid)
		}
	}
	// A begin line without its end is passed over by pem.Decode, and with it all it holds.
	if bytes.HasPrefix(data, []byte("-----BEGIN")) || bytes.Contains(data, []byte("\n-----BEGIN")) {
		return nil, fmt.Errorf("a block that is cut off or damaged: %w", ErrInvalid)
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("no PEM certificate: %w", ErrInvalid)
	}
	return all, nil
}

// Name is what the certificate calls its holder, for people.
func (c Certificate) Name() string {
	if n := c.cert.Subject.CommonName; n != "" {
		return n
	}
	return c.cert.Subject.String()
}

// Issuer is what it calls its authority, for people.
func (c Certificate) Issuer() string {
	if n := c.cert.Issuer.CommonName; n != "" {
		return n
	}
	return c.cert.Issuer.String()
}

// Authority tells whether it is the certificate of an authority.
func (c Certificate) Authority() bool { return c.cert.IsCA }

// Hosts are the DNS names and IP addresses that it is for, as Hosts gives them.
func (c Certificate) Hosts() []string {
	hosts := slices.Clone(c.cert.DNSNames)
	for _, ip := range c.cert.IPAddresses {
		hosts = append(hosts, ip.String())
	}
	slices.Sort(hosts)
	return slices.Compact(hosts)
}

// Purpose is what it is for; "" where it says something else than Herald's do.
func (c Certificate) Purpose() Purpose {
	for _, p := range []Purpose{Server, Peer, Client} {
		if !c.cert.IsCA && slices.Equal(c.cert.ExtKeyUsage, p.usages()) {
			return p
		}
	}
	return ""
}

// Permits are the hosts that an authority may sign for; none means any.
func (c Certificate) Permits() []string {
	all := slices.Clone(c.cert.PermittedDNSDomains)
	for _, n := range c.cert.PermittedIPRanges {
		all = append(all, n.String())
	}
	return all
}

// NotBefore is when it begins.
func (c Certificate) NotBefore() time.Time { return c.cert.NotBefore }

// NotAfter is the last second in which it is good.
func (c Certificate) NotAfter() time.Time { return c.cert.NotAfter }

// Serial is its number in hexadecimal digits, which its authority gave to no other.
func (c Certificate) Serial() string { return c.cert.SerialNumber.Text(16) }

// Fingerprint is the SHA-256 of the certificate in hexadecimal digits, as openssl shows it.
func (c Certificate) Fingerprint() string {
	sum := sha256.Sum256(c.cert.Raw)
	return hex.EncodeToString(sum[:])
}

// Algorithm is that of its key, such as ECDSA.
func (c Certificate) Algorithm() string { return c.cert.PublicKeyAlgorithm.String() }

// IssuedBy tells whether that authority signed it.
func (c Certificate) IssuedBy(a Certificate) bool { return c.cert.CheckSignatureFrom(a.cert) == nil }

// Equal tells whether both are the same certificate.
func (c Certificate) Equal(d Certificate) bool { return c.cert.Equal(d.cert) }

// PEM is the certificate for others to read.
func (c Certificate) PEM() []byte { return encodeCertificate(c.cert.Raw) }

// Due tells whether it is time to renew it: two thirds of its life have passed, or it is
// not good yet.
func (c Certificate) Due(now time.Time) bool {
	return now.Before(c.cert.NotBefore) || !now.Before(c.RenewAt())
}

// RenewAt is when two thirds of its life have passed.
func (c Certificate) RenewAt() time.Time {
	return c.cert.NotBefore.Add(c.cert.NotAfter.Sub(c.cert.NotBefore) / 3 * 2)
}
