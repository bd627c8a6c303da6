//go:build linux

package main

import (
	"bufio"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"chatvault/client"
	"chatvault/protocol/frame"
)

// What grows is found, what breathes is not.
func TestGrown(t *testing.T) {
	before := state{pid: 1, sockets: 14, memory: 40 << 20, heap: 2 << 20, goroutines: 21}
	for _, c := range []struct {
		want   string // empty: nothing grew
		change func(s *state)
	}{
		{"", func(*state) {}},
		{"", func(s *state) { s.sockets, s.goroutines, s.heap, s.memory = 18, 25, 5<<19, 60<<20 }},
		{"", func(s *state) { *s = state{pid: 1} }},
		{"21 to 60 goroutines", func(s *state) { s.goroutines = 60 }},
		{"14 to 40 descriptors", func(s *state) { s.sockets = 40 }},
		{"bytes of live heap", func(s *state) { s.heap = 8 << 20 }},
		{"bytes of memory", func(s *state) { s.memory = 140 << 20 }},
	} {
		after := before
		c.change(&after)
		got := errors.Join(grown("chatd", before, after)...)
		if (got == nil) != (c.want == "") || got != nil && !strings.Contains(got.Error(), c.want) {
			t.Errorf("want %q, got %v", c.want, got)
		}
	}
}

func TestNumber(t *testing.T) {
	page := []byte("# HeapAlloc = 123\ngo_goroutines 21\nchatd_connections{state=\"active\"} 3\n")
	for prefix, want := range map[string]float64{
		"# HeapAlloc = ": 123, "go_goroutines ": 21, `chatd_connections{state="active"} `: 3, "missing ": -1,
	} {
		if got := number(page, prefix); got != want {
			t.Errorf("%s%v, want %v", prefix, got, want)
		}
	}
}

func TestDescriptors(t *testing.T) {
	before, err := descriptors(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	local, err := net.Listen("unix", "@chatvault-soak-test")
	if err != nil {
		t.Fatal(err)
	}
	defer local.Close()
	if after, err := descriptors(os.Getpid()); err != nil || after != before+1 {
		t.Errorf("%d descriptors, then %d, %v; want one more: Unix sockets do not count", before, after, err)
	}
}

// upper answers each line in capitals.
func upper(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				for lines := bufio.NewScanner(c); lines.Scan(); {
					io.WriteString(c, strings.ToUpper(lines.Text())+"\n")
				}
			}()
		}
	}()
	return ln.Addr().String()
}

// A link delivers when it is fair, holds back when it is dark, and ends
// everything when it is cut.
func TestLink(t *testing.T) {
	target := upper(t)
	l, err := newLink(func() []string { return []string{"127.0.0.1:1", target} }) // the first one refuses
	if err != nil {
		t.Fatal(err)
	}
	defer l.close()
	dial := func() (net.Conn, *bufio.Reader) {
		c, err := net.Dial("tcp", l.addr())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c, bufio.NewReader(c)
	}
	read := func(c net.Conn, r *bufio.Reader, wait time.Duration) (string, error) {
		c.SetReadDeadline(time.Now().Add(wait))
		return r.ReadString('\n')
	}
	c, r := dial()
	io.WriteString(c, "fair\n")
	if got, err := read(c, r, time.Minute); got != "FAIR\n" {
		t.Fatalf("%q, %v", got, err)
	}
	l.set(dark)
	io.WriteString(c, "dark\n")
	if got, err := read(c, r, 100*time.Millisecond); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("in the dark: %q, %v", got, err)
	}
	l.set(fair)
	if got, err := read(c, r, time.Minute); got != "DARK\n" {
		t.Fatalf("afterwards: %q, %v", got, err)
	}
	l.set(cut)
	if got, err := read(c, r, time.Minute); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("cut: %q, %v", got, err)
	}
	c, r = dial()
	if got, err := read(c, r, time.Minute); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a new one while it is cut: %q, %v", got, err)
	}
}

// Each fault comes once before any comes again, each is mended, the same seed
// brings the same, and what cannot be mended ends it.
func TestWreck(t *testing.T) {
	fast := tempo{0, time.Millisecond, 0, time.Millisecond}
	errTorn := errors.New("torn")
	run := func(seed uint64, most int, torn error) (order string, broken int, err error) {
		stop := make(chan struct{})
		var all []fault
		for _, name := range []string{"a", "b", "c", "d"} {
			all = append(all, fault{name, func(context.Context) error {
				broken++
				if order += name; len(order) == most {
					close(stop)
				}
				return nil
			}, func(context.Context) error {
				broken--
				return torn
			}})
		}
		_, err = wreck(t.Context(), all, fast, rand.New(rand.NewPCG(seed, 0)), stop, t.Logf)
		return order, broken, err
	}
	order, broken, err := run(1, 8, nil)
	if len(order) != 8 || broken != 0 || err != nil {
		t.Errorf("%s, %d broken, %v", order, broken, err)
	}
	for _, pass := range []string{order[:4], order[4:]} {
		for _, name := range []string{"a", "b", "c", "d"} {
			if strings.Count(pass, name) != 1 {
				t.Errorf("%s in %s", name, order)
			}
		}
	}
	if again, _, _ := run(1, 8, nil); again != order {
		t.Errorf("%s, then %s", order, again)
	}
	if order, _, err := run(1, 8, errTorn); !errors.Is(err, errTorn) || len(order) != 1 {
		t.Errorf("%s, %v", order, err)
	}
}

// Only what leaves the outcome open is tried again.
func TestVerdictless(t *testing.T) {
	for _, c := range []struct {
		err  error
		want bool
	}{
		{&client.Error{Err: client.ErrUnreachable}, true},
		{&client.Error{Code: frame.Busy}, true},
		{&client.Error{Code: frame.Unavailable}, true},
		{&client.Error{Code: frame.WrongPassword}, false},
		{&client.Error{Code: frame.Locked}, false},
		{&client.StoryError{What: client.StoryAccount}, false},
		{&client.Error{Err: client.ErrProtocol}, false},
	} {
		if got := verdictless(c.err); got != c.want {
			t.Errorf("%v: %v", c.err, got)
		}
	}
}

// Abusers that end by themselves are found out.
func TestIdleAbusers(t *testing.T) {
	s := &swarm{}
	for range abusers {
		c := exec.Command("sleep", "60")
		done, err := startBound(c)
		if err != nil {
			t.Fatal(err)
		}
		s.all, s.ended = append(s.all, c), append(s.ended, done)
	}
	defer s.end()
	if err := s.idle(); err != nil {
		t.Errorf("they are all there: %v", err)
	}
	if err := s.all[2].Process.Kill(); err != nil {
		t.Fatal(err)
	}
	<-s.ended[2]
	if err := s.idle(); err == nil || !strings.HasPrefix(err.Error(), abusers[2][0]+" ended") || strings.Contains(err.Error(), "\n") {
		t.Errorf("one has gone: %v", err)
	}
}

// Faults that interrupt nobody show nothing; a few may.
func TestFaultsInVain(t *testing.T) {
	if vain(manyFaults, 0) == nil || vain(manyFaults, 1) != nil || vain(3, 0) != nil {
		t.Error("what is in vain is not told from what is not")
	}
}

// A result of chatload is read, and what is not one is no measurement.
func TestMeasured(t *testing.T) {
	var m measured
	err := m.read([]byte(`{"ops":[{"name":"authorise","failed":1,"errors":{"busy":1},"schedule":{}},{"name":"echo","missed":2,"schedule":{"p50_ms":1,"p99_ms":7.5}}],
		"servers":[{"rss_max":300000000,"cpu_seconds":2,"events":{"chatd_ratelimited_total{limit=\"ConnectionsPerIP\"}":5,"chatd_frames_total{dir=\"in\"}":9}}]}`))
	if err != nil || m.p99 != 7.5 || m.failed != 3 || m.refused["ConnectionsPerIP"] != 5 || len(m.refused) != 1 || m.errors["authorise busy"] != 1 {
		t.Errorf("%+v, %v", m, err)
	}
	if got := errors.Join(m.problems("abused", true)...); got == nil || strings.Count(got.Error(), "\n") != 5 {
		t.Errorf("good clients refused, too much memory, nobody there, three who did nothing: %v", got)
	}
	if got := (measured{refused: m.refused}).problems("quiet", false); len(got) != 0 {
		t.Errorf("nobody abuses a quiet run: %v", got)
	}
	there := measured{swarm: leastSwarm, refused: map[string]float64{"malformed": 1, "FramesPerConnection": 1, "ConnectionsPerAccount": 1}}
	if got := there.problems("abused", true); len(got) != 0 {
		t.Errorf("all were there: %v", got)
	}
	for _, bad := range []string{"", "{}", `{"servers":[{}],"ops":[]}`} {
		if (&measured{}).read([]byte(bad)) == nil {
			t.Errorf("%q is a measurement", bad)
		}
	}
	if got := p99([]measured{{p99: 9}, {p99: 1}, {p99: 3}, {p99: 2}, {p99: 8}}, 4); got != 2 {
		t.Errorf("best quarter %v, want 2", got)
	}
	if got := p99([]measured{{p99: 9}, {p99: 1}, {p99: 3}}, 2); got != 3 {
		t.Errorf("median %v", got)
	}
}
