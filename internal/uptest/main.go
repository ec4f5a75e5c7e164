package uptest

import (
	"errors"
	"fmt"
	"os"
)

// Main runs the tests of a package that share what start starts, in a folder that goes away,
// and gives their exit code. stop is called when they are over; then nothing may be left
// running.
func Main(tests interface{ Run() int }, start func(dir string) (stop func() error, err error)) (code int) {
	fail := func(err error) {
		if err != nil {
			fmt.Fprintln(os.Stderr, "FAIL:", err)
			code = 1
		}
	}
	dir, err := os.MkdirTemp("", "herald-test-*")
	if err != nil {
		fail(err)
		return code
	}
	defer func() { fail(os.RemoveAll(dir)) }()
	stop, err := start(dir)
	if err != nil {
		fail(err)
		return code
	}
	code = tests.Run()
	fail(errors.Join(stop(), Leaks()))
	return code
}
