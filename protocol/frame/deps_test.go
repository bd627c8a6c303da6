package frame_test

import (
	"os/exec"
	"strings"
	"testing"
)

// TestLinksNoCryptography: the outer wire is all that the relay may know, and needs
// no key to be read. Standard library only.
func TestLinksNoCryptography(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	paths := strings.Fields(string(out))
	if len(paths) < 10 {
		t.Fatalf("go list named only %v", paths)
	}
	for _, path := range paths {
		first, _, _ := strings.Cut(path, "/")
		if first == "crypto" || strings.Contains(first, ".") || first == "chatvault" && path != "chatvault/protocol/frame" {
			t.Errorf("links %s", path)
		}
	}
}
