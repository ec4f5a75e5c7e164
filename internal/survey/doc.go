// Package survey asks a running platform how it is, over a connection in SYS (services:
// in ADMIN), and gives what servers say as plain data of pkg/doctor/seen. It names those
// who did not answer, and takes no longer than it is given.
//
// It only looks. It pushes nothing, and asks nothing that changes a server: the pages
// that make a server load an account (connections by account) are asked only of those
// that have it in memory. Account JWTs are believed by the rules of pkg/registrar alone,
// whose look at resolvers this package uses.
package survey
