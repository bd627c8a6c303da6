package load

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"chatvault/client"
	"chatvault/client/cmd/chatload/internal/measure"
	"chatvault/client/cmd/chatload/internal/phones"
	"chatvault/client/internal/relay"
	"chatvault/protocol/fleet"
	"chatvault/protocol/frame"
	"chatvault/protocol/opaque"
	"chatvault/protocol/ticket"
)

func TestCodes(t *testing.T) {
	for _, c := range []struct {
		err  error
		want string
	}{
		{nil, "ok"},
		{&client.Error{Code: frame.RateLimited, AttemptsLeft: client.Unknown}, "rate_limited"},
		{&client.Error{Err: fmt.Errorf("%w: %w", client.ErrUnreachable, syscall.EMFILE)}, CodeNoDescriptors},
		{&client.Error{Err: fmt.Errorf("%w: %w", client.ErrUnreachable, syscall.ECONNREFUSED)}, codeRefused},
		{fmt.Errorf("dial: %w", syscall.EADDRNOTAVAIL), CodeNoPorts},
		{phones.ErrUsedUp, CodeNoPhones},
		{&relay.Refusal{Status: frame.Busy}, "busy"},
		{&relay.Ended{Status: frame.SessionEnded}, "session_ended"},
		{&websocket.CloseError{Code: frame.Draining.CloseCode()}, "draining"},
		{&websocket.CloseError{Code: frame.Malformed.CloseCode()}, "malformed"},
		{&websocket.CloseError{Code: websocket.CloseMessageTooBig}, "close_1009"},
		{&websocket.CloseError{Code: websocket.CloseAbnormalClosure}, codeLost},
		{status("wrong_host"), "wrong_host"},
		{io.EOF, codeLost},
		{context.DeadlineExceeded, codeTimeout},
		{os.ErrDeadlineExceeded, codeTimeout},
		{frame.ErrMalformed, codeProtocol},
		{&client.StoryError{What: client.StoryAccount}, "story"},
		{errors.New("a stranger's text"), codeOther},
	} {
		if got := codeOf(c.err); got != c.want {
			t.Errorf("%v: %s, want %s", c.err, got, c.want)
		}
	}
}

func good() Config {
	return Config{
		URLs: []string{"ws://127.0.0.1:1/v1/ws"}, Rate: 10, Duration: time.Second, MaxInFlight: 1, Timeout: time.Second,
		Connections: 1, Every: time.Second, CutWithin: time.Second, KSF: opaque.DefaultArgon2id,
	}
}

func TestCheck(t *testing.T) {
	if err := good().Check(); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*Config){
		"no url":      func(c *Config) { c.URLs = nil },
		"http":        func(c *Config) { c.URLs = []string{"http://a/v1/ws"} },
		"path":        func(c *Config) { c.URLs = []string{"ws://a/"} },
		"query":       func(c *Config) { c.URLs = []string{"ws://a/v1/ws?x"} },
		"rate":        func(c *Config) { c.Rate = -1 },
		"fast":        func(c *Config) { c.Rate = 1e9 },
		"duration":    func(c *Config) { c.Duration = 48 * time.Hour },
		"connections": func(c *Config) { c.Connections = 0 },
		"in flight":   func(c *Config) { c.MaxInFlight = 0 },
		"timeout":     func(c *Config) { c.Timeout = 0 },
		"probe":       func(c *Config) { c.ProbeRate = -1 },
		"ksf":         func(c *Config) { c.KSF.MemoryKiB = 1 },
	} {
		cfg := good()
		change(&cfg)
		if cfg.Check() == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestScenariosAreFound(t *testing.T) {
	for _, s := range Scenarios() {
		if got, err := Find(s.Name); err != nil || got.About == "" || len(got.Ops) == 0 {
			t.Errorf("%s: %v", s.Name, err)
		}
		for _, name := range s.Ops {
			if !slices.ContainsFunc(Operations(), func(op Operation) bool { return op.Name == name && op.About != "" }) {
				t.Errorf("%s measures %s, which nobody explains", s.Name, name)
			}
		}
	}
	if _, err := Find("nonsense"); err == nil {
		t.Error("nonsense was found")
	}
}

// All connections are opened, at the rate, whatever the numbers.
func TestOpening(t *testing.T) {
	for _, rate := range []float64{0.3, 1, 7, 33.3, 1000} {
		for _, n := range []int{1, 2, 10, 997} {
			e := &Env{cfg: Config{Rate: rate, Connections: n, Duration: time.Second}}
			s := e.opening()
			want := float64(n) / rate
			if got := s.Span().Seconds(); s.Count() != n || got < want-0.001 || got > want+0.001 {
				t.Errorf("%d at %v a second: %d in %v s", n, rate, s.Count(), got)
			}
		}
	}
}

// The verdicts on wrong passwords: what must not be is told from what may.
func TestJudgesAttempts(t *testing.T) {
	wrong := func(left int) error { return &client.Error{Code: frame.WrongPassword, AttemptsLeft: left} }
	for _, c := range []struct {
		name   string
		wrong  int
		vague  bool
		err    error
		code   string
		failed bool
	}{
		{"first", 1, false, wrong(9), "wrong_password", false},
		{"miscounted", 3, false, wrong(9), codeWrongLeft, true},
		{"after one that is not known", 3, true, wrong(8), "wrong_password", false},
		{"last", 10, false, &client.Error{Code: frame.Destroyed, AttemptsLeft: 0}, "destroyed", false},
		{"destroyed too early", 4, false, &client.Error{Code: frame.Destroyed, AttemptsLeft: 0}, codeWrongLeft, true},
		{"opened", 2, false, nil, codeOpened, true},
		{"relay gone", 2, false, &client.Error{Err: client.ErrUnreachable, AttemptsLeft: client.Unknown}, "unreachable", true},
	} {
		a := &account{wrong: c.wrong, vague: c.vague}
		if got := a.judge(c.err); got.Code != c.code || got.Failed != c.failed {
			t.Errorf("%s: %+v, want %s, failed %v", c.name, got, c.code, c.failed)
		}
		if c.name == "relay gone" && !a.vague {
			t.Error("an unknown outcome counts as known")
		}
	}
}

// fakeRelay accepts connections and never says a word, nor closes them.
func fakeRelay(t *testing.T) (url string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var all []net.Conn
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			all = append(all, c)
		}
	}()
	t.Cleanup(func() {
		l.Close()
		<-done
		for _, c := range all {
			c.Close()
		}
	})
	return "ws://" + l.Addr().String() + frame.Path
}

// A relay that lets half-open sockets be is found out.
func TestHalfOpenNotCut(t *testing.T) {
	cfg := good()
	cfg.URLs, cfg.Dialer, cfg.CutWithin = []string{fakeRelay(t)}, &phones.Dialer{}, 20*time.Millisecond
	e := &Env{cfg: cfg, run: measure.New(time.Now(), time.Second), stageEnd: time.Now().Add(time.Minute)}
	for i, want := range []string{"not_cut_connected", "not_cut_request"} {
		if got := e.doHalfOpen(t.Context(), i); got.Code != want || !got.Failed {
			t.Errorf("%+v, want %s", got, want)
		}
	}
	e.stageEnd = time.Now()
	if got := e.doHalfOpen(t.Context(), 0); got.Code != "open_connected" || got.Failed {
		t.Errorf("at the end of the run: %+v", got)
	}
}

// A relay that says nothing is waited for no longer than the time of an
// operation.
func TestSilentRelay(t *testing.T) {
	cfg := good()
	cfg.URLs, cfg.Dialer, cfg.Timeout = []string{fakeRelay(t)}, &phones.Dialer{}, 30*time.Millisecond
	cfg.Phones = onePhone{}
	e := &Env{cfg: cfg, run: measure.New(time.Now(), time.Second)}
	device, err := ticket.NewDeviceKey()
	if err != nil {
		t.Fatal(err)
	}
	e.keys = fleet.Keys{Fleet: "dev", Noise: device.Public()} // any point: nobody gets as far
	c := newCrowd(e)
	c.places(1)
	defer c.close()
	for name, do := range map[string]func(context.Context, int) measure.Outcome{
		"connect": c.open, "storm": c.again, "slow": e.doSlow, "garbage": e.doGarbage, "echo": newEchoes(e, 1).do,
	} {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		got := do(ctx, 0)
		if ctx.Err() != nil || !got.Failed || got.Code != codeTimeout && got.Code != codeLost {
			t.Errorf("%s: %+v, context %v", name, got, ctx.Err())
		}
		cancel()
	}
	if err := e.fetchBundle(t.Context()); codeOf(err) != codeTimeout {
		t.Errorf("bundle: %v", err)
	}
}

// onePhone is a source whose phones nobody authenticates.
type onePhone struct{}

func (onePhone) New() (phones.Phone, error) {
	return phones.Phone{Subject: "a", Ticket: func(context.Context) (string, error) { return "", errors.New("no ticket") }}, nil
}
func (o onePhone) Again(phones.Phone) (phones.Phone, error) { return o.New() }
func (onePhone) Left() int                                  { return -1 }
