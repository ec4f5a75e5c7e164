// Package certs is a small certificate authority for the servers, services and clients
// of one platform, and what is to be known about a certificate that was found somewhere.
// It works on bytes: who keeps them where is for others to say (pkg/certs/certdir).
//
// Keys are ECDSA on P-256. Ed25519, which everything else of Herald uses, is taken by
// nats-server and nats.go, but by no browser, and not by the TLS of .NET and older Java
// clients; P-256 is taken by all of them, and is quicker than RSA.
//
// Two authorities stand side by side, because to a route or a gateway every certificate
// of the authority that it trusts is a server of the cluster, which sees all accounts:
// one signs for servers alone, the other for clients alone. An authority refuses
// to sign what it is not for, and nobody believes it if it did: its own certificate says
// what it is for.
//
// There is no revocation: nats-server asks for OCSP alone, and few of its clients do.
// Certificates live for months at most; a stolen key of an authority is replaced with the
// authority.
package certs

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// Errors that callers tell apart.
var (
	// ErrInvalid: the bytes are not what they are taken for.
	ErrInvalid = errors.New("not a usable certificate")
	// ErrPurpose: the authority does not sign for that.
	ErrPurpose = errors.New("the authority is not for that")
	// ErrHost: a host that cannot stand in a certificate, or that the authority was made
	// not to sign for.
	ErrHost = errors.New("no certificate for this host")
	// ErrUnverified: who trusts these authorities does not believe this certificate.
	ErrUnverified = errors.New("the certificate is not believed")
	// ErrExpired: the authority has ended, or the certificate has.
	ErrExpired = errors.New("the certificate has expired")
)

// Purpose is what a certificate is for.
type Purpose string

// The purposes.
const (
	// Server is a listener that clients, leafnodes or browsers connect to.
	Server Purpose = "server"
	// Peer is a listener of servers among themselves, routes and gateways: each side
	// shows it to the other, whoever dialed.
	Peer Purpose = "peer"
	// Client is a program that shows who it is to a server.
	Client Purpose = "client"
)

// Signers says which of the two authorities signs for a purpose.
func (p Purpose) Signers() Signers {
	if p == Client {
		return ForClients
	}
	return ForServers
}

func (p Purpose) usages() []x509.ExtKeyUsage {
	switch p {
	case Server:
		return []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	case Peer:
		return []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	case Client:
		return []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	}
	return nil
}

// Signers is one of the two authorities.
type Signers string

// The two authorities.
const (
	ForServers Signers = "servers"
	ForClients Signers = "clients"
)

func (s Signers) usages() []x509.ExtKeyUsage {
	if s == ForClients {
		return Client.usages()
	}
	return Peer.usages()
}

// Lifetimes where nothing else is asked for.
const (
	// AuthorityLife: who changes an authority changes it everywhere, so seldom.
	AuthorityLife = 10 * 365 * 24 * time.Hour
	// LeafLife is what public authorities give, and what renewals are practised at.
	LeafLife = 90 * 24 * time.Hour
	// Backdate is how far before now a certificate begins: clocks are off.
	Backdate = time.Hour
)

// Authority signs certificates. It is safe for concurrent use. Printing one shows its
// certificate's name and no key.
type Authority struct {
	cert *x509.Certificate
	key  func() *ecdsa.PrivateKey // behind a function: fmt follows pointers
	of   Signers
}

// Terms are what an authority is made from.
type Terms struct {
	// Name is told to people who look at a certificate's issuer. An authority that
	// replaces another must have another name: some verifiers find issuers by name alone.
	Name string
	For  Signers
	// Life is how long it may sign; 0 is AuthorityLife.
	Life time.Duration
	// Permit, if there is any, are the only hosts that it may sign for: DNS names, each with
	// all below it, IP addresses and networks (10.0.0.0/8). It bounds what a thief of the key can be in a
	// browser that trusts the authority; it also binds the operator.
	Permit []string
}

// NewAuthority makes an authority and its key.
func NewAuthority(t Terms, now time.Time) (*Authority, error) {
	if t.For != ForServers && t.For != ForClients {
		return nil, fmt.Errorf("an authority for %.20q: %w", t.For, ErrPurpose)
	}
	life := t.Life
	if life == 0 {
		life = AuthorityLife
	}
	if life < 0 {
		return nil, fmt.Errorf("an authority that lives for %s: %w", life, ErrInvalid)
	}
	c := &x509.Certificate{
		Subject:               pkix.Name{CommonName: CommonName(t.Name)},
		NotBefore:             now.Add(-Backdate).Truncate(time.Second),
		NotAfter:              now.Add(life).Truncate(time.Second),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		ExtKeyUsage:           t.For.usages(), // of all that it signs
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLenZero:        true, // it signs no authorities
	}
	if err := permit(c, t.Permit); err != nil {
		return nil, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("making the key of an authority: %w", err)
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("making authority %q: %w", t.Name, err)
	}
	return newAuthority(der, key)
}

// ParseAuthority reads what CertificatePEM and KeyPEM gave.
func ParseAuthority(certificate, key []byte) (*Authority, error) {
	pair, err := ParsePair(certificate, key)
	if err != nil {
		return nil, err
	}
	k, ok := pair.PrivateKey.(*ecdsa.PrivateKey)
	if !ok || len(pair.Certificate) != 1 {
		return nil, fmt.Errorf("an authority has one certificate and an ECDSA key: %w", ErrInvalid)
	}
	return newAuthority(pair.Certificate[0], k)
}

func newAuthority(der []byte, key *ecdsa.PrivateKey) (*Authority, error) {
	c, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	if !c.IsCA || c.CheckSignatureFrom(c) != nil {
		return nil, fmt.Errorf("%s is not the certificate of an authority that signed itself: %w", c.Subject.CommonName, ErrInvalid)
	}
	a := &Authority{cert: c, key: func() *ecdsa.PrivateKey { return key }}
	for _, of := range []Signers{ForServers, ForClients} {
		if slices.Equal(c.ExtKeyUsage, of.usages()) {
			a.of = of
			return a, nil
		}
	}
	return nil, fmt.Errorf("%s is an authority neither for servers nor for clients alone: %w", c.Subject.CommonName, ErrInvalid)
}

// For is what it signs for.
func (a *Authority) For() Signers { return a.of }

// Certificate is its own.
func (a *Authority) Certificate() Certificate { return Certificate{a.cert} }

// String is its name.
func (a *Authority) String() string { return a.cert.Subject.CommonName }

// GoString is String, for %#v.
func (a *Authority) GoString() string { return "certs.Authority(" + a.String() + ")" }

// CertificatePEM is its certificate, for those who are to trust it.
func (a *Authority) CertificatePEM() []byte { return encodeCertificate(a.cert.Raw) }

// KeyPEM is its key. Whoever calls this answers for where it goes.
func (a *Authority) KeyPEM() ([]byte, error) { return encodeKey(a.key()) }

// Request is what a certificate is to say.
type Request struct {
	// Name is told to people, and to servers that map certificates to users.
	Name    string
	Purpose Purpose
	// Hosts are the DNS names and IP addresses under which others connect. Certificates of
	// servers need one at least; those of clients have none.
	Hosts []string
	// Life is how long it is good for; 0 is LeafLife. It ends with its authority at the latest.
	Life time.Duration
}

// Pair is a certificate and its key.
type Pair struct {
	certificate []byte
	key         func() []byte // behind a function, as that of an authority
}

// CertificatePEM is the certificate, with what is chained behind it.
func (p Pair) CertificatePEM() []byte { return p.certificate }

// KeyPEM is the key. Whoever calls this answers for where it goes.
func (p Pair) KeyPEM() []byte { return p.key() }

// Issue makes a key and signs a certificate for it. The errors wrap ErrPurpose, ErrHost
// or ErrExpired (the authority has ended); what it gives has been verified.
func (a *Authority) Issue(r Request, now time.Time) (Pair, error) {
	refuse := func(err error) (Pair, error) {
		return Pair{}, fmt.Errorf("a certificate for %s: %w", r.Name, err)
	}
	usages := r.Purpose.usages()
	switch {
	case usages == nil || r.Purpose.Signers() != a.of:
		return refuse(fmt.Errorf("%s signs for %s, not for purpose %.20q: %w", a, a.of, r.Purpose, ErrPurpose))
	case (r.Purpose == Client) != (len(r.Hosts) == 0):
		return refuse(fmt.Errorf("purpose %s with %d hosts: %w", r.Purpose, len(r.Hosts), ErrHost))
	case !now.Before(a.cert.NotAfter):
		return refuse(fmt.Errorf("%s ended at %s: %w", a, a.cert.NotAfter.Format(time.DateOnly), ErrExpired))
	}
	hosts, err := Hosts(r.Hosts)
	if err != nil {
		return refuse(err)
	}
	life := r.Life
	if life == 0 {
		life = LeafLife
	}
	if life < time.Minute {
		return refuse(fmt.Errorf("a life of %s: %w", life, ErrInvalid))
	}
	c := &x509.Certificate{
		Subject:               pkix.Name{CommonName: CommonName(r.Name)},
		NotBefore:             now.Add(-Backdate).Truncate(time.Second),
		NotAfter:              now.Add(life).Truncate(time.Second),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           usages,
		BasicConstraintsValid: true,
	}
	// A chain is good only while all of it is.
	if c.NotAfter.After(a.cert.NotAfter) {
		c.NotAfter = a.cert.NotAfter
	}
	if c.NotBefore.Before(a.cert.NotBefore) {
		c.NotBefore = a.cert.NotBefore
	}
	for _, h := range hosts {
		if ip := net.ParseIP(h); ip != nil {
			c.IPAddresses = append(c.IPAddresses, ip)
		} else {
			c.DNSNames = append(c.DNSNames, h)
		}
	}
	return a.sign(c, r.Purpose, now)
}

func (a *Authority) sign(c *x509.Certificate, p Purpose, now time.Time) (Pair, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return Pair{}, fmt.Errorf("making a key: %w", err)
	}
	der, err := x509.CreateCertificate(rand.Reader, c, a.cert, key.Public(), a.key())
	if err != nil {
		return Pair{}, fmt.Errorf("signing a certificate for %s: %w", c.Subject.CommonName, err)
	}
	made, err := x509.ParseCertificate(der)
	if err != nil {
		return Pair{}, fmt.Errorf("signing a certificate for %s: %w", c.Subject.CommonName, err)
	}
	// Nothing is given away that nobody would believe: this also holds the hosts against
	// what the authority is permitted.
	if err := (Bundle{[]*x509.Certificate{a.cert}}).Verify(Certificate{made}, p, now); err != nil {
		var bounds x509.CertificateInvalidError
		if errors.As(err, &bounds) && bounds.Reason == x509.CANotAuthorizedForThisName {
			return Pair{}, fmt.Errorf("%s: %w: %s", c.Subject.CommonName, ErrHost, bounds.Detail)
		}
		return Pair{}, err
	}
	secret, err := encodeKey(key)
	if err != nil {
		return Pair{}, err
	}
	return Pair{encodeCertificate(der), func() []byte { return secret }}, nil
}

// Hosts are hosts in the one form and order in which certificates have them: lower case,
// sorted, each once. What cannot stand in a certificate wraps ErrHost.
func Hosts(hosts []string) ([]string, error) {
	var all []string
	for _, h := range hosts {
		if ip, err := netip.ParseAddr(h); err == nil && ip.Zone() == "" {
			all = append(all, ip.Unmap().String())
			continue
		}
		h = strings.ToLower(strings.TrimSuffix(h, "."))
		if !dnsName(h) {
			return nil, fmt.Errorf("%.80q is neither a DNS name nor an IP address: %w", h, ErrHost)
		}
		all = append(all, h)
	}
	slices.Sort(all)
	return slices.Compact(all), nil
}

// dnsName tells whether s can be dialed by name: no wildcard, and no number, which dialers
// take for an address.
func dnsName(s string) bool {
	if len(s) == 0 || len(s) > 253 {
		return false
	}
	labels := strings.Split(s, ".")
	for _, l := range labels {
		if l == "" || len(l) > 63 || l[0] == '-' || l[len(l)-1] == '-' {
			return false
		}
		for _, c := range []byte(l) {
			if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' && c != '_' {
				return false
			}
		}
	}
	return strings.Trim(labels[len(labels)-1], "0123456789") != ""
}

// permit writes down which hosts may be signed for. Each kind of host is bounded as soon
// as one is: by itself a bound on names would leave all addresses open.
func permit(c *x509.Certificate, hosts []string) error {
	if len(hosts) == 0 {
		return nil
	}
	c.PermittedDNSDomainsCritical = true
	for _, h := range hosts {
		prefix, err := netip.ParsePrefix(h)
		if addr, aerr := netip.ParseAddr(h); aerr == nil {
			prefix, err = addr.Prefix(addr.BitLen())
		}
		if err == nil {
			bits := prefix.Addr().BitLen()
			c.PermittedIPRanges = append(c.PermittedIPRanges, &net.IPNet{
				IP: prefix.Masked().Addr().AsSlice(), Mask: net.CIDRMask(prefix.Bits(), bits),
			})
			continue
		}
		names, err := Hosts([]string{h})
		if err != nil {
			return err
		}
		c.PermittedDNSDomains = append(c.PermittedDNSDomains, names...)
	}
	if len(c.PermittedIPRanges) == 0 {
		c.ExcludedIPRanges = []*net.IPNet{
			{IP: net.IPv4zero.To4(), Mask: net.CIDRMask(0, 32)}, {IP: net.IPv6zero, Mask: net.CIDRMask(0, 128)},
		}
	}
	if len(c.PermittedDNSDomains) == 0 {
		c.ExcludedDNSDomains = []string{""} // which is all names
	}
	return nil
}

// CommonName is a name as certificates have it: cut to what X.509 has room for.
func CommonName(s string) string {
	const most = 64
	return strings.ToValidUTF8(s[:min(len(s), most)], "")
}

// ParsePair reads a certificate, with what is chained behind it, and its key, and sees
// that they belong together. The error never holds the key.
func ParsePair(certificate, key []byte) (tls.Certificate, error) {
	c, err := tls.X509KeyPair(certificate, key)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	return c, nil
}

func encodeCertificate(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: blockCertificate, Bytes: der})
}

func encodeKey(key *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encoding a key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}
