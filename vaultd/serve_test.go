package main

import "testing"

func TestSweepLeavesHalfOfTheHSMToPeople(t *testing.T) {
	for sessions, want := range map[int]int{1: 1, 2: 1, 3: 1, 8: 4, 16: 8, 64: 8} {
		c := serveCmd{HSMSessions: sessions}
		if got := c.sweepers(); got != want {
			t.Errorf("%d sessions: %d shards swept at a time, want %d", sessions, got, want)
		}
	}
}
