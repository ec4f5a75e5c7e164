// Package permtest holds pkg/permission, and the matching of pkg/subject, against a real
// server: random templates, users, subjects and queue groups, and for each what the
// package says beside what the server does. It has no code but its tests.
//
// A server tells nobody that something was allowed. That nothing was refused, and that
// nothing more is delivered, is shown by the answer to a PING that was sent behind it.
package permtest
