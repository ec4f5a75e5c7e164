// Package planbench measures the set-up tool on a platform of ten thousand accounts. It
// has benchmarks only.
package planbench
