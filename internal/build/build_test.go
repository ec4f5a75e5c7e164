package build_test

import (
	"runtime"
	"testing"

	"github.com/herald-nats/herald/internal/build"
)

func TestRead(t *testing.T) {
	if i := build.Read(); i.Version == "" || i.Go != runtime.Version() || i.Platform != runtime.GOOS+"/"+runtime.GOARCH || i.Modules == nil {
		t.Errorf("%+v", i)
	}
}

func TestSemantic(t *testing.T) {
	for version, want := range map[string]string{
		"v1.2.3":                               "1.2.3",
		"v0.0.0-20261121151312-0a1b2c3d4e5f":   "0.0.0-20261121151312-0a1b2c3d4e5f",
		"v0.3.1-rc.1+dirty":                    "0.3.1-rc.1+dirty",
		"v0.0.0-20261121151312-0a1b2c3d+dirty": "0.0.0-20261121151312-0a1b2c3d+dirty",
		"(devel)":                              "0.0.0-devel",
		"unknown":                              "0.0.0-devel",
		"":                                     "0.0.0-devel",
		"v1.2":                                 "0.0.0-devel",
		"v1.2.3 x":                             "0.0.0-devel",
	} {
		if got := (build.Info{Version: version}).Semantic(); got != want {
			t.Errorf("%q: %q, and not %q", version, got, want)
		}
	}
}
