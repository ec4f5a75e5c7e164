// Package hometest moves home on a whole platform, takes the former one back, and moves it there again.
package hometest
