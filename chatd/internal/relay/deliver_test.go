package relay

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"chatvault/chatd/internal/chatdtest"
	"chatvault/protocol/frame"
)

// A status that chatd does not know goes to the client as it is, and adds nothing
// to the names of what is counted: a vault must not make as many as it likes.
func TestAStatusOfTheVaultThatNobodyKnows(t *testing.T) {
	h, vault := simple(t, nil)
	c := h.phone("alice")
	s := c.Open(1, "x")
	session, _ := vault.Session(s)
	for _, status := range []frame.Status{frame.Busy, 999, 1000} {
		session.Link.Send(session.Number, frame.Refuse{Refused: frame.TData, Session: s, Status: status})
		if r := chatdtest.Expect[frame.Refuse](c); r.Status != status || r.Session != s {
			t.Errorf("%+v, want status %d", r, status)
		}
	}
	all := h.relay.Counts.All()
	maps.DeleteFunc(all, func(name string, _ int64) bool { return !strings.HasPrefix(name, "vault_refused_") })
	if len(all) != 2 || all["vault_refused_busy"] != 1 || all["vault_refused_unknown"] != 2 {
		t.Errorf("counted %v", slices.Collect(maps.Keys(all)))
	}
}
