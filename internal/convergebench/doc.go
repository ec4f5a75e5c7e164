// Package convergebench measures how fast accounts are brought to all servers of a
// supercluster, confirmed on each, against what the servers themselves can take. It is a
// package of its own because it starts and stops several superclusters, each with a folder
// and a disk's worth of accounts; it holds nothing but that benchmark.
package convergebench
