// Package registrar decides names in home and brings account JWTs to every
// server. It answers issuers and administrators, never the public.
package registrar
