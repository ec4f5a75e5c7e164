// Package nsctest puts pkg/nscstore, and `nscsetup nsc import` and `export`, before the
// real nsc: an operator that nsc made is read and written without a byte's difference, it
// becomes a platform, and nsc works on what a platform becomes. It has tests only.
//
// They are built with the tag nsc, and need HERALD_NSC, the path of an nsc: `make
// test-nsc` runs them. Nothing else needs nsc; pkg/nscstore's and pkg/nscmap's own tests
// hold the same without it. nsc gets a home of its own, and is asked nothing that would go
// online.
package nsctest
