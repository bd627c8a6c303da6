package uplink

import (
	"bufio"
	"errors"
	"net"
	"testing"
	"time"

	"chatvault/chatd/internal/chatdtest"
	"chatvault/chatd/internal/clock"
	"chatvault/chatd/internal/wheel"
	"chatvault/protocol/frame"
)

// pipeLink is a link whose other end is in the test's hands.
func pipeLink(t *testing.T, c clock.Clock) (*Link, net.Conn) {
	t.Helper()
	here, there := net.Pipe()
	t.Cleanup(func() { here.Close(); there.Close() })
	w := wheel.New(c)
	t.Cleanup(w.Stop)
	heard := newPulse(here, w)
	return newLink(w, "pipe", heard, bufio.NewReader(heard), frame.NodeID{1}), there
}

func TestWhoSendsWaitsWhileTheNodeDoesNotRead(t *testing.T) {
	l, there := pipeLink(t, clock.System{})
	ended := make(chan error, 1)
	go func() { ended <- l.run(func() {}) }()
	p := newPeer()
	s, err := l.Join(p, [32]byte{})
	if err != nil {
		t.Fatal(err)
	}
	frames := make(chan int)
	go func() {
		raw := frame.Data{Payload: make([]byte, frame.MaxPayload)}.Append(nil)
		sent := 0
		for ; s.Send(raw) == nil; sent++ {
			if sent == 3*maxPending/len(raw) {
				break
			}
		}
		frames <- sent
	}()
	chatdtest.Await(t, "the sender waits", func() bool { return l.pendingBytes() > maxPending })
	if n := l.pendingBytes(); n > maxPending+frame.MaxEnvelope {
		t.Errorf("%d bytes wait", n)
	}
	s.SendNow(frame.Close{}) // never waits
	go func() {
		in, buf := bufio.NewReader(there), make([]byte, frame.MaxFrame)
		for {
			if _, _, err := frame.ReadEnvelope(in, buf); err != nil {
				return
			}
		}
	}()
	if n := <-frames; n != 3*maxPending/(frame.MaxFrame) {
		t.Errorf("%d frames were sent", n)
	}
	chatdtest.Await(t, "the burst has left memory", func() bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		return len(l.pending) == 0 && cap(l.pending) <= keptBuffer
	})
	there.Close()
	if err := <-ended; !errors.Is(err, ErrLost) {
		t.Errorf("it ended with %v", err)
	}
	<-p.lost
}

func TestALostLinkWakesWhoWaits(t *testing.T) {
	l, there := pipeLink(t, clock.System{})
	go l.run(func() {})
	s, err := l.Join(newPeer(), [32]byte{})
	if err != nil {
		t.Fatal(err)
	}
	result := make(chan error)
	go func() {
		raw := frame.Data{Payload: make([]byte, frame.MaxPayload)}.Append(nil)
		for {
			if err := s.Send(raw); err != nil {
				result <- err
				return
			}
		}
	}()
	chatdtest.Await(t, "the sender waits", func() bool { return l.pendingBytes() > maxPending })
	there.Close()
	if err := <-result; !errors.Is(err, ErrLost) {
		t.Errorf("sending: %v", err)
	}
}

func (l *Link) pendingBytes() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.pending)
}

func TestNumbersAreNeverUsedTwice(t *testing.T) {
	l, _ := pipeLink(t, clock.System{})
	l.next = 1<<32 - 2
	s, err := l.Join(newPeer(), [32]byte{})
	if err != nil || s.number != 1<<32-1 {
		t.Fatalf("%d, %v", s.number, err)
	}
	if _, err := l.Join(newPeer(), [32]byte{}); !errors.Is(err, ErrLost) || !errors.Is(l.dead, errExhausted) {
		t.Errorf("%v; the link: %v", err, l.dead)
	}
}

func TestTheHeirIsForgottenAfterAWhile(t *testing.T) {
	fake := clock.NewFake(time.Unix(1_700_000_000, 0))
	l, _ := pipeLink(t, fake)
	join := func() Stream {
		t.Helper()
		s, err := l.Join(newPeer(), [32]byte{})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	heir := newPeer()
	s := join()
	s.Leave(heir)
	notice := frame.Notice{}.Append(nil)
	if err := l.deliver(s.number, notice); err != nil || len(heir.frames) != 1 {
		t.Errorf("%v, %d frames", err, len(heir.frames))
	}
	fake.Advance(rememberFor)
	join().Leave(newPeer())
	if err := l.deliver(s.number, notice); err != nil || len(heir.frames) != 1 {
		t.Errorf("after a while: %v, %d frames", err, len(heir.frames))
	}
	for range maxGone + 100 {
		join().Leave(heir)
	}
	if len(l.gone) > maxGone || len(l.peers) > maxGone {
		t.Errorf("%d are remembered", len(l.peers))
	}
}
