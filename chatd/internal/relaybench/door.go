//go:build linux

package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	_ "net/http/pprof" // for --profiles
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/gorilla/websocket"

	"chatvault/chatd/internal/admission"
	"chatvault/chatd/internal/chatdtest"
	"chatvault/chatd/internal/clock"
	"chatvault/chatd/internal/count"
	"chatvault/chatd/internal/ratelimit"
	"chatvault/chatd/internal/relay"
	"chatvault/chatd/internal/route"
	"chatvault/chatd/internal/uplink"
	"chatvault/chatd/internal/wheel"
	"chatvault/protocol/frame"
	"chatvault/protocol/ticket"
)

// The way from a TCP connection to READY is measured without what is the same
// for every relay: TLS, Redis, and the signatures. Two servers are linked into
// this program, without TLS and without Redis: chatd's own relay package behind
// its own listener, and net/http with gorilla/websocket as its examples have it,
// which exchanges the same three frames and asks the same verifier. Both run as
// processes of a build of this program in which package ticket parses everything
// and believes every signature: "go build -overlay" lets the two functions that
// verify one return at once.

// verifies are, by file of package ticket, the functions that verify a signature.
var verifies = map[string]string{
	"token.go": "func (t token) verifySignature(key crypto.PublicKey) error {\n",
	"proof.go": "func verifyProof(pub, proof []byte, digest [32]byte) error {\n",
}

// withoutSignatures is the text of a file that believes every signature.
func withoutSignatures(name, text string) (string, error) {
	head := verifies[name]
	if n := strings.Count(text, head); n != 1 {
		return "", fmt.Errorf("protocol/ticket/%s: %q stands there %d times, want once", name, head, n)
	}
	return strings.Replace(text, head, head+"\treturn nil\n", 1), nil
}

// buildDoor builds this program so.
func buildDoor(ctx context.Context, dir, to string) error {
	source, err := packageDir(ctx, "chatvault/protocol/ticket")
	if err != nil {
		return err
	}
	replace := map[string]string{}
	for name := range verifies {
		path := filepath.Join(source, name)
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		changed, err := withoutSignatures(name, string(text))
		if err != nil {
			return err
		}
		replace[path] = filepath.Join(dir, "unsigned-"+name)
		if err := os.WriteFile(replace[path], []byte(changed), 0o600); err != nil {
			return err
		}
	}
	overlay, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		return err
	}
	file := filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(file, overlay, 0o600); err != nil {
		return err
	}
	return build(ctx, nil, "", to, "-overlay", file, "chatvault/chatd/internal/relaybench")
}

// runDoor serves as one of the two, ours or the floor. The key file is the issuer's.
func runDoor(ours bool, keyFile string) error {
	issuers := []ticket.IssuerConfig{{Name: "app", Issuers: []string{"https://app.example"}, KeyFile: keyFile}}
	verifier, err := ticket.NewVerifier(issuers, []string{chatdtest.Fleet}, ticket.Options{})
	if err != nil {
		return err
	}
	config := net.ListenConfig{KeepAlive: -1}
	if ours {
		config.Control = admission.Control
	}
	l, err := config.Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	hosts, err := admission.LoopbackHosts(l.Addr())
	if err != nil {
		return err
	}
	admin, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	go http.Serve(admin, nil) // until the process ends
	fmt.Printf("{\"msg\":\"listening\",\"address\":%q,\"admin\":%q}\n", l.Addr(), admin.Addr())
	if ours {
		front := relay.NewFront(newDoor(verifier, hosts), nil)
		return front.Serve(&admission.Listener{Listener: l, Max: 1 << 20, Refused: func() {}})
	}
	server := &http.Server{Handler: &plainDoor{verifier, hosts}, ReadHeaderTimeout: 5 * time.Second, ErrorLog: log.New(io.Discard, "", 0)}
	return server.Serve(l)
}

// newDoor is chatd's relay with no vault and no Redis.
func newDoor(v *ticket.Verifier, hosts admission.Names) *relay.Relay {
	limits := ratelimit.Defaults()
	limits[ratelimit.ConnectionsPerIP] = ratelimit.Limit{Burst: 1_000_000, Count: 1_000_000, Period: time.Minute}
	limits[ratelimit.ConnectionsPerAccount] = limits[ratelimit.ConnectionsPerIP]
	limits[ratelimit.ConnectionsPerDevice] = limits[ratelimit.ConnectionsPerIP]
	local := ratelimit.NewLocal(clock.System{})
	quiet := slog.New(slog.DiscardHandler)
	turning := wheel.New(clock.System{})
	return relay.New(relay.Config{
		Hosts: hosts, Limits: &ratelimit.Rules{Set: limits}, BundleEpoch: 1,
		MaxConnections: 1 << 20, MaxQueuedBytes: 64 << 20, MaxSessionsPerConnection: 4, AuthTimeout: 10 * time.Second, Ping: 10 * time.Minute,
	}, relay.Parts{
		Tickets: v, Vaults: uplink.NewPool(uplink.Config{Fleet: chatdtest.Fleet, Clock: clock.System{}, Wheel: turning, Log: quiet}),
		Directory: route.New(route.Options{Clock: clock.System{}, Change: func(error) {}, Count: func(string) {}}),
		Shared:    ratelimit.NewFailOpen(nil, local, clock.System{}, func(error) {}),
		Local:     local, Clock: clock.System{}, Wheel: turning, Log: quiet, Counts: new(count.Set),
	})
}

// plainDoor is the floor.
type plainDoor struct {
	tickets *ticket.Verifier
	hosts   admission.Names
}

// ServeHTTP upgrades, exchanges HELLO, AUTH and READY, and stays.
func (d *plainDoor) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	up := websocket.Upgrader{Subprotocols: []string{frame.Subprotocol}}
	c, err := up.Upgrade(w, r, nil)
	if err != nil {
		return
	}
	defer c.Close()
	hello := frame.Hello{Version: frame.Version, BundleEpoch: 1}
	rand.Read(hello.Nonce[:])
	if c.WriteMessage(websocket.BinaryMessage, hello.Append(nil)) != nil {
		return
	}
	_, b, err := c.ReadMessage()
	if err != nil {
		return
	}
	f, err := frame.Parse(b)
	a, ok := f.(frame.Auth)
	if err != nil || !ok || !d.hosts.Has(a.Host) {
		return
	}
	v, err := d.tickets.Verify(r.Context(), a.Ticket, a.DeviceKey[:], time.Now())
	if err != nil || ticket.VerifyRelayAuth(a.DeviceKey[:], a.Signature[:], hello.Nonce, a.Host, v.TicketHash) != nil {
		return
	}
	ready := frame.Ready{TicketEnds: uint64(v.Expires.Unix()), PingMillis: 30_000}
	if c.WriteMessage(websocket.BinaryMessage, ready.Append(nil)) != nil {
		return
	}
	for {
		if _, _, err := c.ReadMessage(); err != nil {
			return
		}
	}
}
