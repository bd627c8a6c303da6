package main

import (
	"crypto/tls"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"chatvault/chatd/internal/chatdtest"
	"chatvault/protocol/frame"
)

// BenchmarkIdleConnection measures what an idle client costs a chatd of its
// own: each has authenticated and echoed one frame through a vault session that
// it closed. It waits until chatd says that all are parked.
func BenchmarkIdleConnection(b *testing.B) {
	for _, secure := range []bool{false, true} {
		b.Run(fmt.Sprintf("tls=%v", secure), func(b *testing.B) { idle(b, 3000, secure) })
	}
}

func idle(b *testing.B, connections int, secure bool) {
	s := newSite(b)
	s.settings["admin"], s.settings["admin-pprof"] = "127.0.0.1:0", true
	s.settings["ping"] = "10m"
	s.settings["limit"] = map[string]string{"ConnectionsPerIP": "off"}
	s.settings["drain"] = "0s"
	s.settings["redis"] = chatdtest.StartRedis(b, "").URL() // else its keys would count
	d, scheme := (*websocket.Dialer)(nil), "ws://"
	if secure {
		s.settings["tls-cert"], s.settings["tls-key"] = s.pki.Issue("127.0.0.1")
		d, scheme = &websocket.Dialer{TLSClientConfig: &tls.Config{RootCAs: s.pki.Pool()}}, "wss://"
	}
	p := s.serve()
	device := chatdtest.NewDevice(b)
	for range b.N {
		p.get("/debug/pprof/heap?gc=1")
		_, body := p.get("/metrics")
		before, liveBefore := p.rss(), inUse(b, body)
		for i := range connections {
			c := chatdtest.Dial(b, d, scheme+p.addr)
			c.Send(c.Auth(device, s.issuer.Ticket(time.Now(), "account-"+strconv.Itoa(i), device)))
			chatdtest.Expect[frame.Ready](c)
			session := c.Open(1, "x")
			c.Echo(session, 1, strings.Repeat("x", 256))
			c.Send(frame.Close{Session: session})
		}
		parked := fmt.Sprintf("\nchatd_connections{state=\"parked\"} %d\n", connections)
		tick := time.NewTicker(100 * time.Millisecond)
		for late := time.After(time.Minute); ; <-tick.C {
			if _, body = p.get("/metrics"); strings.Contains(body, parked) {
				break
			}
			select {
			case <-late:
				b.Fatal("they do not park")
			default:
			}
		}
		tick.Stop()
		p.get("/debug/pprof/heap?gc=1")
		p.get("/debug/pprof/heap?gc=1")
		_, body = p.get("/metrics")
		b.ReportMetric((inUse(b, body)-liveBefore)/1024/float64(connections), "KB-live/conn")
		b.ReportMetric(value(b, body, "go_goroutines"), "goroutines")
		b.ReportMetric(value(b, body, `chatd_connections{state="parked"}`), "parked")
		b.ReportMetric(float64(p.rss()-before)/float64(connections), "KB-RSS/conn")
	}
}

// inUse is what Go's heap and stacks hold, in bytes.
func inUse(t testing.TB, metrics string) float64 {
	return value(t, metrics, "go_memstats_heap_alloc_bytes") + value(t, metrics, "go_memstats_stack_inuse_bytes")
}

// rss is the resident memory of the program, in KB.
func (p *program) rss() int {
	p.t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		p.t.Fatal(err)
	}
	_, after, _ := strings.Cut(string(status), "VmRSS:")
	kb, err := strconv.Atoi(strings.Fields(after)[0])
	if err != nil {
		p.t.Fatal(err)
	}
	return kb
}

// value is that of one line of /metrics.
func value(t testing.TB, metrics, name string) float64 {
	t.Helper()
	_, after, ok := strings.Cut(metrics, "\n"+name+" ")
	if !ok {
		t.Fatalf("no metric %s", name)
	}
	v, err := strconv.ParseFloat(strings.Fields(after)[0], 64)
	if err != nil {
		t.Fatal(err)
	}
	return v
}
