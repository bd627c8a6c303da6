package relay

import (
	"context"
	"slices"
	"testing"
	"time"

	"chatvault/chatd/internal/chatdtest"
	"chatvault/chatd/internal/uplink"
	"chatvault/protocol/frame"
	"chatvault/protocol/ticket"
)

// waiting starts one more that waits in a lane, and tells of it when its turn
// has come.
func (g *gate) waiting(t *testing.T, l lane, turns chan<- lane) {
	t.Helper()
	n := func() int {
		g.mu.Lock()
		defer g.mu.Unlock()
		return g.lanes[l].Len()
	}
	before := n()
	go func() {
		if g.enter(t.Context(), l, time.Minute) {
			turns <- l
		}
	}()
	poll(t, "waiting", func() bool { return n() == before+1 })
}

// Who has begun goes first, but not for ever.
func TestWhoHasBegunGoesFirst(t *testing.T) {
	g := &gate{free: 1, room: 10}
	if !g.enter(t.Context(), wantsToBegin, 0) {
		t.Fatal("an empty gate")
	}
	turns := make(chan lane, 100)
	for range 2 {
		g.waiting(t, wantsToBegin, turns)
	}
	for range fairly + 2 {
		g.waiting(t, hasBegun, turns)
	}
	var order []lane
	for range fairly + 4 {
		g.leave()
		order = append(order, <-turns)
	}
	want := slices.Concat(slices.Repeat([]lane{hasBegun}, fairly-1), []lane{wantsToBegin},
		slices.Repeat([]lane{hasBegun}, 3), []lane{wantsToBegin})
	if !slices.Equal(order, want) {
		t.Errorf("%v, want %v", order, want)
	}
	if g.leave(); g.free != 1 {
		t.Errorf("%d places are free", g.free)
	}
}

func TestNobodyWaitsWhereThereIsNoRoom(t *testing.T) {
	g := &gate{free: 1, room: 1}
	g.enter(t.Context(), wantsToBegin, 0)
	turns := make(chan lane, 1)
	g.waiting(t, wantsToBegin, turns)
	if g.enter(t.Context(), wantsToBegin, time.Hour) {
		t.Error("two are inside")
	}
	if g.enter(t.Context(), hasBegun, time.Millisecond) {
		t.Error("there was a place")
	}
	over, cancel := context.WithCancel(t.Context())
	cancel()
	if g.enter(over, hasBegun, time.Hour) {
		t.Error("there was a place")
	}
	g.leave()
	<-turns // those that gave up are not in the way
	if g.leave(); g.free != 1 {
		t.Errorf("%d places are free", g.free)
	}
}

// While the keys of one issuer are fetched, others get in, however many wait.
func TestFetchingKeysKeepsNobodyOut(t *testing.T) {
	asked, answer := make(chan struct{}), make(chan struct{})
	defer close(answer)
	pki, issuer := chatdtest.NewPKI(t), chatdtest.NewIssuer(t)
	slow := ticket.IssuerConfig{Name: "slow", Issuers: []string{"https://slow.example"}, JWKSURL: "https://slow.example/jwks"}
	tickets, err := ticket.NewVerifier(append(issuer.Config, slow), []string{chatdtest.Fleet}, ticket.Options{
		Fetch: func(context.Context, string) ([]byte, error) {
			close(asked)
			<-answer
			return nil, context.Canceled
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	vault := chatdtest.StartVault(t, pki, 1, uplink.VaultRole)
	h := newHouse(t, pki, issuer, func(s *setup) { s.vaults, s.tickets = []*chatdtest.Vault{vault}, tickets })
	device := chatdtest.NewDevice(t)
	for i := range h.relay.gate.free + 1 {
		c := h.dial()
		claims := h.issuer.Claims(h.clock.Now(), "alice", device)
		claims.Issuer = "https://slow.example"
		c.Send(c.Auth(device, h.issuer.Mint(claims)))
		if i == 0 {
			<-asked
		}
	}
	c := h.phone("alice")
	c.Send(frame.Open{Tag: 1, Payload: []byte("x")})
	chatdtest.Expect[frame.Attach](c)
}
