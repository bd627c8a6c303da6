package command

import (
	"net/netip"
	"net/url"
	"os"
	"runtime"
	"slices"
	"syscall"

	"chatvault/client/cmd/chatload/internal/load"
	"chatvault/protocol/cmdline"
)

// part is one of several generators; the zero value is the only one.
type part struct{ Index, Of int }

// share is this part of n things.
func (p part) share(n int) int {
	if p.Of < 2 {
		return n
	}
	out := n / p.Of
	if p.Index < n%p.Of {
		out++
	}
	return out
}

// fits says when one process cannot hold the connections that are asked for.
func (c runCmd) fits(cfg load.Config) error {
	limit := descriptors() - reservedDescriptors
	if !load.Holds(c.Scenario) || limit <= 0 || c.Processes > 1 && c.part.Of == 0 || cfg.Connections <= limit {
		return nil
	}
	return cmdline.Usagef("--connections %d: a process may have %d descriptors here; raise the limit (ulimit -n), or spread the load with --processes %d",
		c.Connections, descriptors(), c.Connections/limit+1)
}

// addresses are those of this part: every part has its own, unless there are
// fewer than parts. On Linux the parts have one each of loopback by themselves.
func (c runCmd) addresses(all []netip.Addr) []netip.Addr {
	if c.part.Of < 2 {
		return all
	}
	if len(all) == 0 && runtime.GOOS == "linux" && !slices.ContainsFunc(c.URL, func(u string) bool { return !loopback(u) }) {
		return []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 1, byte(1 + c.part.Index)})}
	}
	if len(all) < c.part.Of {
		return all
	}
	var own []netip.Addr
	for i := c.part.Index; i < len(all); i += c.part.Of {
		own = append(own, all[i])
	}
	return own
}

// loopback says whether a relay is at 127.0.0.0/8.
func loopback(relayURL string) bool {
	u, err := url.Parse(relayURL)
	if err != nil {
		return false
	}
	a, err := netip.ParseAddr(u.Hostname())
	return err == nil && a.Is4() && a.IsLoopback()
}

// mayDrain says when there is no such process as --drain-pid, or it is not ours to
// signal.
func (c runCmd) mayDrain() error {
	if c.DrainPID == 0 {
		return nil
	}
	p, err := os.FindProcess(c.DrainPID)
	if err != nil {
		return err
	}
	return p.Signal(syscall.Signal(0))
}

// drain tells the relay's process to drain. Of several generators one does; for
// the others it begins at the same moment.
func (c runCmd) drain() func() error {
	if c.DrainPID == 0 {
		return nil
	}
	return func() error {
		if c.part.Index > 0 {
			return nil
		}
		p, err := os.FindProcess(c.DrainPID)
		if err != nil {
			return err
		}
		return p.Signal(syscall.SIGTERM)
	}
}
