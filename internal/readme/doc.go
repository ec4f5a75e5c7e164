// Package readme holds the test that runs what README.md tells a newcomer to
// type.
package readme
