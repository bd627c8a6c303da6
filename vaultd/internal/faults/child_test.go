package faults

import (
	"context"
	"path/filepath"
	"testing"
	"time"
)

// What a killed process leaves behind in its pipe must not be taken for the word of
// the one that is started next: that one was waited for without an end.
func TestANodeThatIsStartedAtOnceServes(t *testing.T) {
	node := NewChild(filepath.Join(t.TempDir(), "store"), sound)
	t.Cleanup(func() { node.Kill() })
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for n := range uint64(12) {
		if err := node.Start(); err != nil {
			t.Fatal(err)
		}
		if _, err := node.Do(ctx, &Op{Kind: Status, Account: n + 1, Device: 1}); err != nil {
			t.Fatal(err)
		}
		if err := node.Kill(); err != nil {
			t.Fatal(err)
		}
	}
}
