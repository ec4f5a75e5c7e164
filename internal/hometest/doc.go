// Package hometest moves home on a whole platform, and takes the former one back.
package hometest
