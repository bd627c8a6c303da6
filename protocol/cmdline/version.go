package cmdline

import (
	"encoding/json"
	"fmt"
	"runtime"
	"runtime/debug"
	"strings"
)

// Version is what a binary knows about itself. Revision and Time are empty
// when it was not built inside its repository.
type Version struct {
	Program  string `json:"program"`
	Version  string `json:"version"`            // the module's, "(devel)" outside a release
	Revision string `json:"revision,omitempty"` // the commit
	Time     string `json:"time,omitempty"`     // of the commit, RFC 3339
	Modified bool   `json:"modified,omitempty"` // the checkout had changes
	Go       string `json:"go"`
	Platform string `json:"platform"`
}

// commit is set by "make build", with -dirty when the checkout had changes: a go
// command that was told not to look (-buildvcs=false) stamps none.
var commit string

// VersionOf reads the build information of the running binary.
func VersionOf(program string) Version {
	v := Version{Program: program, Version: "(devel)", Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}
	v.Revision, v.Modified = strings.CutSuffix(commit, "-dirty")
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return v
	}
	if info.Main.Version != "" {
		v.Version = info.Main.Version
	}
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			v.Revision = s.Value
		case "vcs.time":
			v.Time = s.Value
		case "vcs.modified":
			v.Modified = s.Value == "true"
		}
	}
	return v
}

// String is one line for people.
func (v Version) String() string {
	s := v.Program + " " + v.Version
	if v.Revision != "" {
		s += " " + v.Revision[:min(12, len(v.Revision))]
		if v.Modified {
			s += " (modified)"
		}
	}
	return s + " " + v.Go + " " + v.Platform
}

// VersionCmd is the version command.
type VersionCmd struct {
	JSON bool `name:"json" help:"Print one JSON object."`
}

// Run prints the version of the app that it is part of.
func (c VersionCmd) Run(app App) error {
	v := VersionOf(app.Name)
	if c.JSON {
		return json.NewEncoder(app.IO.Out).Encode(v)
	}
	_, err := fmt.Fprintln(app.IO.Out, v)
	return err
}
