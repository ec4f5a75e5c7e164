package supercluster

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"os"
	"strings"

	"github.com/nats-io/nats-server/v2/conf"
)

// gatewayFiles are the certificate, the key and the trusted authorities of a server's
// gateways, as its configuration names them.
type gatewayFiles struct{ cert, key, ca string }

// readGatewayFiles gives those of a configuration file; nil if its gateways have no TLS.
func readGatewayFiles(config string) (*gatewayFiles, error) {
	all, err := conf.ParseFile(config)
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrConfig, config, err)
	}
	block, _ := entry(all, "gateway").(map[string]any)
	if block, _ = entry(block, "tls").(map[string]any); block == nil {
		return nil, nil // no TLS is no error
	}
	var f gatewayFiles
	for name, to := range map[string]*string{"cert_file": &f.cert, "key_file": &f.key, "ca_file": &f.ca} {
		if *to, _ = entry(block, name).(string); *to == "" {
			return nil, fmt.Errorf("%w: %s: gateway.tls has no %s, and both sides of a gateway need it", ErrConfig, config, name)
		}
	}
	return &f, nil
}

// entry is one of a block, whose names have no case.
func entry(block map[string]any, name string) any {
	for k, v := range block {
		if strings.EqualFold(k, name) {
			return v
		}
	}
	return nil
}

// load reads the files, anew for each connection, as a server that is told to reload has
// read them.
func (f *gatewayFiles) load() (tls.Certificate, *x509.CertPool, error) {
	cert, err := tls.LoadX509KeyPair(f.cert, f.key)
	if err != nil {
		return tls.Certificate{}, nil, fmt.Errorf("reading the certificate of a gateway: %w", err)
	}
	data, err := os.ReadFile(f.ca)
	if err != nil {
		return tls.Certificate{}, nil, fmt.Errorf("reading the authorities of a gateway: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(data) {
		return tls.Certificate{}, nil, fmt.Errorf("%w: %s has no certificate", ErrConfig, f.ca)
	}
	return cert, pool, nil
}

// accepted is the connection of who dialed, behind TLS where the gateways have it. The
// relay is the region's address, so it shows the region's certificate; and who dials must
// show one too, as to a gateway. In the gateway protocol TLS comes before everything else.
func (r *relay) accepted(ctx context.Context, conn net.Conn) (net.Conn, error) {
	if r.shows == nil {
		return conn, nil
	}
	cert, pool, err := r.shows.load()
	if err != nil {
		return nil, err
	}
	return shaken(ctx, tls.Server(conn, &tls.Config{
		Certificates: []tls.Certificate{cert}, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert, MinVersion: tls.VersionTLS12,
	}))
}

// dialed is the connection to a node, likewise. To the node the relay is another region,
// which knows it under the region's address and no other.
func (r *relay) dialed(ctx context.Context, conn net.Conn) (net.Conn, error) {
	if r.shows == nil {
		return conn, nil
	}
	as := r.passesFor
	if as == nil {
		as = r.shows
	}
	cert, pool, err := as.load()
	if err != nil {
		return nil, err
	}
	host, _, err := splitHostPort(r.at.addr)
	if err != nil {
		return nil, err
	}
	return shaken(ctx, tls.Client(conn, &tls.Config{
		Certificates: []tls.Certificate{cert}, RootCAs: pool, ServerName: host, MinVersion: tls.VersionTLS12,
	}))
}

// shaken is a connection after its handshake.
func shaken(ctx context.Context, conn *tls.Conn) (net.Conn, error) {
	if err := conn.HandshakeContext(ctx); err != nil {
		return nil, fmt.Errorf("shaking hands: %w", err)
	}
	return conn, nil
}
