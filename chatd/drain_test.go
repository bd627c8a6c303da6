package main

import (
	"fmt"
	"testing"
	"time"

	"chatvault/chatd/internal/chatdtest"
	"chatvault/protocol/frame"
)

// A drain does not send everybody away at once, nor back at once: a hundred a
// second are told, each to come back at a time of its own within a second.
func TestADrainSpreadsThoseWhoLeave(t *testing.T) {
	s := newSite(t)
	s.settings["drain"] = "30s"
	p := s.serve()
	const n = 40
	var all []*chatdtest.Client
	for i := range n {
		all = append(all, s.login(p, fmt.Sprint("person-", i)))
	}
	began := time.Now()
	p.stop()
	times := map[uint32]bool{}
	for _, c := range all {
		g := chatdtest.Expect[frame.Goaway](c)
		if g.Status != frame.Draining || g.ReconnectMillis > 1000 {
			t.Errorf("%+v", g)
		}
		times[g.ReconnectMillis] = true
		if _, code := c.Closed(); code != frame.Draining.CloseCode() {
			t.Errorf("closed with %d", code)
		}
	}
	// Never earlier, however busy the machine is.
	if took, want := time.Since(began), (n-1)*10*time.Millisecond; took < want {
		t.Errorf("the last one was told after %v, not %v", took, want)
	}
	if len(times) < n/2 {
		t.Errorf("%d are to come back at only %d times", n, len(times))
	}
	if code := p.exited(); code != 0 {
		t.Errorf("exit code %d:\n%s", code, p.text())
	}
}
