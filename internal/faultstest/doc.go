// Package faultstest holds the ledger to its promises while regions are cut off, and
// servers and registrars are killed: real servers, real services, and links that are
// cut and healed. It has tests only.
package faultstest
