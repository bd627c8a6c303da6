package stack

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
)

// programs are what Build makes, with the value of CGO_ENABLED of each.
var programs = []struct{ name, pkg, cgo string }{
	{"chatd", "chatvault/chatd", "0"},
	{"vaultd", "chatvault/vaultd", "1"},
	{"backupctl", "chatvault/client/cmd/backupctl", "0"},
}

// Build compiles chatd, vaultd and backupctl into dir, with further flags of
// "go build"; -race makes all three race-detecting. The working directory must
// be in the module, as it is in a test.
func Build(ctx context.Context, dir string, flags ...string) error {
	for _, p := range programs {
		args := slices.Concat([]string{"build", "-o", filepath.Join(dir, p.name)}, flags, []string{p.pkg})
		cmd := exec.CommandContext(ctx, "go", args...)
		if slices.Contains(flags, "-race") {
			p.cgo = "1" // the race detector needs it
		}
		cmd.Env = append(cmd.Environ(), "CGO_ENABLED="+p.cgo)
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("build %s: %w\n%s", p.name, err, out)
		}
	}
	return nil
}
