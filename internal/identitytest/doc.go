// Package identitytest holds the ways to show who asks against a running platform: three
// regions with their issuers and registrars, asked over NATS by pkg/client and by requests
// that no client would send. It has no code but its tests.
package identitytest
