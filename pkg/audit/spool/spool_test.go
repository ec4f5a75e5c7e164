package spool_test

import (
	"errors"
	"testing"

	"github.com/herald-nats/herald/pkg/audit/spool"
)

// Two writers of one file would write over each other's blocks.
func TestInUse(t *testing.T) {
	dir := t.TempDir()
	first, err := spool.Open(dir, spool.Most)
	if err != nil {
		t.Fatal(err)
	}
	if err := first.Add([]byte("a block")); err != nil {
		t.Fatal(err)
	}
	if _, err := spool.Open(dir, spool.Most); !errors.Is(err, spool.ErrInUse) {
		t.Errorf("the second: got %v, want ErrInUse", err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	second, err := spool.Open(dir, spool.Most)
	if err != nil {
		t.Fatal(err)
	}
	if data, err := second.First(); err != nil || string(data) != "a block" {
		t.Errorf("what waited is %q, %v", data, err)
	}
	if err := second.Close(); err != nil {
		t.Fatal(err)
	}
}
