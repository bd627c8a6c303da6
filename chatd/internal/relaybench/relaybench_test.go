//go:build linux

package main

import (
	"bufio"
	"bytes"
	"go/parser"
	"go/token"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"chatvault/protocol/frame"
)

// TestMain lets the test binary be the processes that the benchmark starts.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && !strings.HasPrefix(os.Args[1], "-") {
		main()
		return
	}
	os.Exit(m.Run())
}

// The whole way, with the real chatd, Redis, uplink and floors, but next to nothing
// is measured.
func TestTheBenchmarkRuns(t *testing.T) {
	runtime.LockOSThread() // see start
	w, err := newWorld(t.Context(), "")
	defer w.close()
	if err != nil {
		t.Fatal(err)
	}
	p := quickPlan()
	for _, g := range groups(w, p) {
		if g.Name == "pings" || g.Name == "memory" || g.Name == "stuck" {
			continue // they wait for tens of seconds, of whatever little they measure
		}
		for _, r := range g.Measure(t.Context()) {
			if r.Error != "" || len(r.Repetitions) == 0 {
				t.Errorf("%v", r)
			}
			for _, m := range r.Repetitions {
				if strings.HasSuffix(r.Unit, "tuned echo") && m.More["raw TCP echo"] <= 0 {
					t.Errorf("%s: no TCP echo beside it: %+v", r.Name, m)
				}
				mayBeNone := g.Name == "hop" || r.Unit == "x crypto/tls"
				if r.Sides != "" && (m.Floor <= 0 || !mayBeNone && m.Ours <= 0) {
					t.Errorf("%s: nothing was measured: %+v", r.Name, m)
				}
			}
			if strings.HasPrefix(r.Name, "reconnect") && !r.Met {
				t.Errorf("%v", r)
			}
		}
	}
	dir := w.dir
	w.close()
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("%s is still there (%v)", dir, err)
	}
}

func TestWhatVerifiesSignaturesIsFoundInTheSource(t *testing.T) {
	for name, head := range verifies {
		text, err := os.ReadFile(filepath.Join("../../../protocol/ticket", name))
		if err != nil {
			t.Fatal(err)
		}
		out, err := withoutSignatures(name, string(text))
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(out, head+"\treturn nil\n") {
			t.Errorf("%s still verifies", name)
		}
		if _, err := parser.ParseFile(token.NewFileSet(), name, out, 0); err != nil {
			t.Error(err)
		}
	}
	if _, err := withoutSignatures("token.go", "package ticket"); err == nil {
		t.Error("a file that verifies nothing was accepted")
	}
}

func TestGaugesAreRead(t *testing.T) {
	if n, err := parseRSS("00400000-7ffd [rollup]\nRss:               12345 kB\nPss:    1 kB\n"); err != nil || n != 12345<<10 {
		t.Errorf("RSS %d, %v", n, err)
	}
	if _, err := parseRSS("Pss: 1 kB\n"); err == nil {
		t.Error("no Rss was read as one")
	}
	text := "# TYPE go_goroutines gauge\ngo_goroutines 21\ngo_goroutines_other 7\n"
	if v, err := parseMetric(text, "go_goroutines"); err != nil || v != 21 {
		t.Errorf("metric %v, %v", v, err)
	}
	if _, err := parseMetric(text, "go_gorout"); err == nil {
		t.Error("a part of a name was taken for it")
	}
	sockets := "0 0 127.0.0.1:1 127.0.0.1:2\n\t skmem:(r100,rb131072,t7,tb87040,f3000,w20,o0,bl1,d0)\n" +
		"0 0 127.0.0.1:1 127.0.0.1:3 skmem:(r0,rb1,t0,tb1,f0,w5,o2,bl0,d9)\n"
	if n := parseSockets([]byte(sockets)); n != 100+3000+20+1+5+2 {
		t.Errorf("sockets hold %d", n)
	}
	stats := "# Commandstats\r\ncmdstat_info:calls=9,usec=1\r\ncmdstat_zadd:calls=4,usec=1\r\ncmdstat_evalsha:calls=30,usec=2\r\n"
	if n := calls(stats); n != 34 {
		t.Errorf("%d calls", n)
	}
}

func TestTheClockOfAProcessIsItsOwn(t *testing.T) {
	runtime.LockOSThread() // see start
	p, err := start("sleep", false, 0, "sleep", "60")
	if err != nil {
		t.Fatal(err)
	}
	defer p.kill()
	before, err := p.cpu()
	if err != nil {
		t.Fatal(err)
	}
	for begin := time.Now(); time.Since(begin) < 500*time.Millisecond; { // we work, it does not
		bytes.Repeat([]byte{1}, 1024)
	}
	if after, err := p.cpu(); err != nil || after-before > 100*time.Millisecond {
		t.Errorf("a process that sleeps spent %v, %v", after-before, err)
	}
	if rss, err := p.rss(); err != nil || rss < 4096 {
		t.Errorf("RSS %d, %v", rss, err)
	}
}

func TestAPhoneSpeaksWebSocket(t *testing.T) {
	pongs := make(chan string, 1)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		up := websocket.Upgrader{Subprotocols: []string{frame.Subprotocol}}
		c, err := up.Upgrade(w, r, nil)
		if err != nil {
			return
		}
		defer c.Close()
		c.SetPongHandler(func(s string) error { pongs <- s; return nil })
		c.WriteControl(websocket.PingMessage, []byte("there?"), time.Now().Add(time.Minute))
		for {
			kind, b, err := c.ReadMessage()
			if err != nil || c.WriteMessage(kind, b) != nil {
				return
			}
		}
	}))
	defer server.Close()
	p, err := new(clients).dial(t.Context(), order{Addr: server.Listener.Addr().String(), Kind: kindWS}, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer p.conn.Close()
	for range 3 {
		if err := p.roundTrip(); err != nil {
			t.Fatal(err)
		}
	}
	if got := <-pongs; got != "there?" {
		t.Errorf("pong %q", got)
	}
	if len(p.want) != frameSize {
		t.Errorf("%d bytes are echoed", len(p.want))
	}
	p.want = bytes.Repeat([]byte{1}, frameSize)
	if p.roundTrip() == nil {
		t.Error("another answer was taken for the echo")
	}
}

func TestTheVaultWorksOnceForASequenceNumber(t *testing.T) {
	v := &vault{node: frame.NodeID{1}, sessions: map[frame.SessionID]*flow{}}
	near, far := net.Pipe()
	defer near.Close()
	go v.uplink(far)
	in, buf := bufio.NewReader(near), make([]byte, frame.MaxFrame)
	ask := func(f frame.Frame) frame.Frame {
		t.Helper()
		near.SetDeadline(time.Now().Add(10 * time.Second))
		if f != nil {
			if _, err := near.Write(frame.AppendEnvelope(nil, 7, f)); err != nil {
				t.Fatal(err)
			}
		}
		_, raw, err := frame.ReadEnvelope(in, buf)
		if err != nil {
			t.Fatal(err)
		}
		got, err := frame.ParseUplink(bytes.Clone(raw))
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	if h, ok := ask(nil).(frame.UplinkHello); !ok || h.Node != v.node {
		t.Fatalf("it began with %+v", h)
	}
	a := ask(frame.Open{Tag: 1, Payload: []byte("x")}).(frame.Attach)
	ask(nil) // DATA 0
	for _, step := range []struct {
		sequence uint32
		work     int64
	}{{1, 2}, {1, 2}, {2, 3}, {1, 3}} {
		d, ok := ask(frame.Data{Session: a.Session, Sequence: step.sequence, Payload: []byte("y")}).(frame.Data)
		if !ok || d.Sequence != step.sequence || v.work.Load() != step.work {
			t.Errorf("sequence %d: %+v, work %d, want %d", step.sequence, d, v.work.Load(), step.work)
		}
	}
	if r, ok := ask(frame.Data{Payload: []byte("z")}).(frame.Refuse); !ok || r.Status != frame.NoSession {
		t.Errorf("an unknown session: %+v", r)
	}
}

func TestWholeEnvelopesOnlyAreRead(t *testing.T) {
	b := frame.AppendEnvelope(nil, 1, frame.Notice{})
	for n := range len(b) + 1 {
		in := bufio.NewReader(io.MultiReader(bytes.NewReader(b[:n]), bytes.NewReader(nil)))
		in.Peek(len(b)) // fills it
		if whole(in) != (n == len(b)) {
			t.Errorf("%d of %d bytes: whole %v", n, len(b), whole(in))
		}
	}
}

func TestTheStormsLastOneCounts(t *testing.T) {
	s := &storm{clients: &clients{phones: make([]*phone, 2)}, lost: time.Now().Add(-3 * time.Second)}
	s.changed.L = &s.mu
	s.came()
	if a, err := s.wait(0); err != nil || a.Back != 1 {
		t.Errorf("%+v, %v", a, err)
	}
	s.came()
	if a, err := s.wait(time.Minute); err != nil || a.Back != 2 || a.Seconds < 3 {
		t.Errorf("%+v, %v", a, err)
	}
}

func TestEveryPlanMeasuresSomething(t *testing.T) {
	for _, p := range []plan{fullPlan(), quickPlan()} {
		if p.Repetitions < 1 || p.Rounds < 1 || p.memory < 1 || p.storms < 1 || len(p.connections) == 0 || p.phones > accounts || p.phones < 2 {
			t.Errorf("%+v", p)
		}
	}
	if p := fullPlan(); p.Repetitions < 5 || p.memory < 3 || p.storms < 5 || p.phones != 15_000 || !slices.Equal(p.connections, []int{64, 1000}) {
		t.Errorf("%+v is not what is promised", p)
	}
}
