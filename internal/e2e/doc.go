// Package e2e tests Herald's programs through the front door: as processes with
// arguments, files, signals and terminals, against real servers. What a program
// promises to whoever runs it stands here as a script in testdata/script; what
// needs a screen, or the moment at which something happens, stands here as Go.
//
// The package has no code but tests, and the tests look at nothing that a user
// could not see: no test here reaches into a program.
package e2e
