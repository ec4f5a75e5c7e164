// Package registrar keeps what the platform decided and who has been denied. In home it
// decides names and invitations (Home) and tells regions what their mirrors lack
// (Mirrors). In every region it writes suspensions and revocations and keeps regions
// equal (Denials), knows which users an identity holds (Records), and brings account
// JWTs to every server (Resolver). It answers issuers and administrators, never the
// public.
package registrar
