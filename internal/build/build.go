// Package build says what this program was built from, as far as the build noted it.
package build

import (
	"regexp"
	"runtime"
	"runtime/debug"
	"strings"
)

// Info is what a build noted. What it did not is empty.
type Info struct {
	Version  string            `json:"version"` // such as v1.2.3, a pseudo-version, or (devel)
	Commit   string            `json:"commit,omitempty"`
	Time     string            `json:"time,omitempty"` // of the commit
	Modified bool              `json:"modified"`       // whether it was built from more than the commit
	Go       string            `json:"go"`
	Platform string            `json:"platform"` // such as linux/amd64
	Modules  map[string]string `json:"modules"`  // the version of each module in it, by path
}

// Read gives what this program's build noted.
func Read() Info {
	r := Info{Version: "unknown", Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH, Modules: map[string]string{}}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return r
	}
	if info.Main.Version != "" {
		r.Version = info.Main.Version
	}
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			r.Commit = s.Value
		case "vcs.time":
			r.Time = s.Value
		case "vcs.modified":
			r.Modified = s.Value == "true"
		}
	}
	for _, m := range info.Deps {
		r.Modules[m.Path] = m.Version
		if m.Replace != nil {
			r.Modules[m.Path] = m.Replace.Version + " (replaced)"
		}
	}
	return r
}

// semantic is what a NATS service may have as its version: semver.org's own expression.
var semantic = regexp.MustCompile(`^(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(-[0-9A-Za-z-]+(\.[0-9A-Za-z-]+)*)?(\+[0-9A-Za-z-]+(\.[0-9A-Za-z-]+)*)?$`)

// Semantic is the version as NATS services must give it: without a v, and 0.0.0-devel where
// the build noted none.
func (i Info) Semantic() string {
	if v := strings.TrimPrefix(i.Version, "v"); semantic.MatchString(v) {
		return v
	}
	return "0.0.0-devel"
}
