package ticket

import (
	"os/exec"
	"strings"
	"testing"
)

// Vaults link this package and dial nobody: HTTP stands in jwksurl.
func TestLinksNoHTTPAndNothingElseOfTheRepository(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(out), "chatvault/protocol/secret\n") {
		t.Fatalf("not a list of imports: %s", out)
	}
	for _, dep := range strings.Fields(string(out)) {
		own := strings.HasPrefix(dep, "chatvault/") && dep != "chatvault/protocol/secret" && dep != "chatvault/protocol/ticket"
		if own || dep == "net/http" {
			t.Errorf("links %s", dep)
		}
	}
}
