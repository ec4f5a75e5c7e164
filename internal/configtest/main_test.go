package configtest

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/herald-nats/herald/internal/cli"
	"github.com/herald-nats/herald/internal/cli/nscsetup"
	"github.com/herald-nats/herald/internal/uptest"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/platform/manifest"
)

// asNscsetup has this test's own program be nscsetup: the hook runs a program of that name.
const asNscsetup = "HERALD_TEST_AS_NSCSETUP"

func TestMain(m *testing.M) {
	if os.Getenv(asNscsetup) != "" {
		os.Exit(nscsetup.Run(context.Background(), cli.IO{In: os.Stdin, Out: os.Stdout, Err: os.Stderr}, os.Args[1:]))
	}
	os.Exit(m.Run())
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func label(s string) ident.Label { return must(ident.ParseLabel(s)) }

// read gives a file of the repository.
func read(t testing.TB, path ...string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(append([]string{must(uptest.Root())}, path...)...))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// examples are the names of the files in configs/identities.
func examples(t testing.TB) []string {
	t.Helper()
	var names []string
	for _, e := range must(os.ReadDir(filepath.Join(must(uptest.Root()), "configs", "identities"))) {
		names = append(names, e.Name())
	}
	if len(names) < 10 {
		t.Fatalf("only %d examples", len(names))
	}
	return names
}

// parsed is an example in a platform file: the minimal one, with the example's grants in
// place of its own.
func parsed(t testing.TB, example string) *manifest.File {
	t.Helper()
	head, _, ok := strings.Cut(read(t, "configs", "platform-minimal.yaml"), "\ngrants:")
	if !ok {
		t.Fatal("configs/platform-minimal.yaml has no grants")
	}
	f, err := manifest.Parse(example, []byte(head+"\n"+read(t, "configs", "identities", example)))
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func fromJSON[T any](t testing.TB, text string) T {
	t.Helper()
	var v T
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return v
}
