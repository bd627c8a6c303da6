package relay

import (
	"crypto/sha256"
	"testing"

	"chatvault/chatd/internal/chatdtest"
	"chatvault/protocol/frame"
	"chatvault/protocol/ticket"
)

func TestASessionFromOpenToClose(t *testing.T) {
	h, vault := simple(t, nil)
	device := chatdtest.NewDevice(t)
	c := h.login("alice", device)
	if c.Hello.BundleEpoch != 7 {
		t.Errorf("HELLO names epoch %d", c.Hello.BundleEpoch)
	}
	s := c.Open(3, "message 1")
	if s.Node() != vault.Hello.Node {
		t.Errorf("session %x is on another node", s)
	}
	for n := uint32(1); n <= 20; n++ {
		c.Echo(s, n, "payload")
	}
	thumb := device.Thumbprint()
	want := sha256.Sum256(append(ticket.Account{Issuer: "app", Subject: "alice"}.Bytes(), thumb[:]...))
	if session, ok := vault.Session(s); !ok || session.Peer != want {
		t.Errorf("the vault was told another peer: %+v", session)
	}
	c.Send(frame.Close{Session: s, Status: frame.OK})
	vault.Await("CLOSE", func(s *chatdtest.VaultState) bool { return len(s.Sessions) == 0 })
	c.Send(frame.Data{Session: s, Sequence: 21, Payload: []byte("late")})
	if r := chatdtest.Expect[frame.Refuse](c); r.Status != frame.NoSession || r.Session != s || r.Refused != frame.TData {
		t.Errorf("DATA after CLOSE: %+v", r)
	}
}
