package frame_test

import (
	"errors"
	"testing"

	"chatvault/protocol/frame"
)

func TestNoCreditAndMoreThanAWindowAreMalformed(t *testing.T) {
	b := frame.UplinkCredit{Frames: 1}.Append(nil)
	for _, n := range []byte{0, frame.Window + 1, 255} {
		b[len(b)-1] = n
		if f, err := frame.ParseUplink(b); !errors.Is(err, frame.ErrMalformed) {
			t.Errorf("a credit of %d: %+v, %v", n, f, err)
		}
	}
	if _, err := frame.ParseCredit(frame.Notice{}.Append(nil)); !errors.Is(err, frame.ErrMalformed) {
		t.Errorf("a NOTICE: %v", err)
	}
}

func TestCreditIsReadAndWrittenWithoutAllocating(t *testing.T) {
	var scratch [32]byte
	out := make([]byte, 0, frame.MaxEnvelope)
	if n := testing.AllocsPerRun(100, func() {
		b := frame.UplinkCredit{Session: frame.SessionID{1}, Frames: 32}.Append(scratch[:0])
		out = frame.AppendRawEnvelope(out[:0], 1, b)
		if c, err := frame.ParseCredit(b); err != nil || c.Frames != 32 {
			t.Fatal(c, err)
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// Whatever the order in which frames and credits travel, the two ends never count
// differently, and a sender that waits is given credit as soon as all is used.
func FuzzWindows(f *testing.F) {
	f.Add([]byte{0, 1, 2, 3})
	f.Add(make([]byte, 200))
	f.Add([]byte("0001112223330001112223330123012301230123"))
	f.Fuzz(func(t *testing.T, steps []byte) {
		var sender frame.SendWindow
		var receiver frame.ReceiveWindow
		onTheWay, unused, credits := 0, 0, []uint16(nil)
		step := func(s byte) {
			switch s % 4 {
			case 0:
				if sender.Take() {
					onTheWay++
				}
			case 1:
				if onTheWay > 0 {
					onTheWay--
					unused++
					if !receiver.Take() {
						t.Fatal("a sender that keeps to its window was found beyond it")
					}
				}
			case 2:
				if unused > 0 {
					unused--
					if n := receiver.Use(1); n > 0 {
						credits = append(credits, n)
					}
				}
			case 3:
				if len(credits) > 0 {
					if !sender.Credit(credits[0]) {
						t.Fatal("more was given back than was taken")
					}
					credits = credits[1:]
				}
			}
			if onTheWay+unused > frame.Window {
				t.Fatalf("%d frames are held", onTheWay+unused)
			}
		}
		for _, s := range steps {
			step(s)
		}
		for onTheWay+unused+len(credits) > 0 {
			step(1)
			step(2)
			step(3)
		}
		if !sender.Take() {
			t.Fatal("all is used, and the sender waits for ever")
		}
	})
}

func TestAPeerBeyondItsWindow(t *testing.T) {
	var s frame.SendWindow
	var r frame.ReceiveWindow
	if s.Credit(1) {
		t.Error("credit for nothing was taken")
	}
	for range frame.Window {
		if !s.Take() || !r.Take() {
			t.Fatal("the window is too small")
		}
	}
	if s.Take() || r.Take() {
		t.Error("the window is too large")
	}
	if n := r.Use(frame.CreditBatch - 1); n != 0 {
		t.Errorf("%d were given back one by one", n)
	}
	if n := r.Use(1); n != frame.CreditBatch || !s.Credit(n) || !r.Take() {
		t.Errorf("%d were given back", n)
	}
}
