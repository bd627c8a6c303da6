//go:build fault

package faults

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"

	"chatvault/vaultd/internal/faults/cutfs"
	"chatvault/vaultd/internal/recordstore/engines/proc"
)

// A run that is killed leaves mounts, networks, directories and stopped processes.
// They bear the id of its process: the next run clears away what is nobody's.
func init() {
	clearAway = func() error {
		_, err := cutfs.UnmountAll()
		return errors.Join(err, removeNetworks(false), proc.RemoveLeftovers())
	}
	letGo = func() {
		where, err := cutfs.UnmountAll()
		fmt.Fprintln(os.Stderr, "unmounted", where, errors.Join(err, removeNetworks(true)))
	}
}

var networkName = regexp.MustCompile(`^cv([0-9]+)x`)

// removeNetworks removes the namespaces of networks whose process is dead, and with
// ours those of this one.
func removeNetworks(ours bool) error {
	out, err := exec.Command("ip", "netns", "list").Output()
	if err != nil {
		return fmt.Errorf("network namespaces (need root and iproute2): %w", err)
	}
	var failed []error
	for line := range strings.Lines(string(out)) {
		name, _, _ := strings.Cut(strings.TrimSpace(line), " ")
		m := networkName.FindStringSubmatch(name)
		if m == nil {
			continue
		}
		if pid, err := strconv.Atoi(m[1]); err != nil || pid != os.Getpid() && proc.Alive(pid) || pid == os.Getpid() && !ours {
			continue
		}
		// The cable to this machine goes with the namespace that has its other end.
		failed = append(failed, exec.Command("ip", "netns", "del", name).Run())
	}
	return errors.Join(failed...)
}
