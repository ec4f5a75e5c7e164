// Package configtest holds the examples in configs/identities and configs/pre-commit
// against the code and against docs/identities.md: that each is accepted, that tokens of
// the shape that the page describes get what the example grants, and that the hook stops a
// commit. It has no code but its tests.
package configtest
