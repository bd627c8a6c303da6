package frame

// Flow control on the uplink: in either direction a session has a window of DATA
// frames. Whoever sends one takes from it; the other side gives back with
// UPLINK_CREDIT what it has used. Both count what is on a session's connection
// from the ATTACH that the vault sends on, which fills both windows.
const (
	// Window is how many DATA frames of a session may be on their way in one
	// direction, not given back.
	Window = 64
	// CreditBatch is how many used frames are given back as soon as there are so
	// many: a sender that has run out of its window will hear of it.
	CreditBatch = 32
)

// SendWindow counts what may be sent. The zero value is a full window.
type SendWindow struct{ out uint16 }

// Take takes one frame from the window, if there is one left.
func (w *SendWindow) Take() bool {
	if w.out == Window {
		return false
	}
	w.out++
	return true
}

// Credit puts n frames back; false: more than were taken, which breaks the rule.
func (w *SendWindow) Credit(n uint16) bool {
	if n > w.out {
		return false
	}
	w.out -= n
	return true
}

// ReceiveWindow counts what came. The zero value is a full window.
type ReceiveWindow struct{ out, used uint16 }

// Take counts a frame that came; false: the peer had none left, which breaks the
// rule.
func (w *ReceiveWindow) Take() bool {
	if w.out == Window {
		return false
	}
	w.out++
	return true
}

// Use says that n frames which came have been used, and returns how many to give
// back now: 0 until CreditBatch of them are together.
func (w *ReceiveWindow) Use(n int) (credit uint16) {
	if w.used += uint16(n); w.used < CreditBatch {
		return 0
	}
	credit = w.used
	w.out, w.used = w.out-credit, 0
	return credit
}

// ParseCredit reads an UPLINK_CREDIT frame without allocating.
func ParseCredit(b []byte) (UplinkCredit, error) {
	if len(b) != 1+SessionIDSize+2 || Type(b[0]) != TUplinkCredit {
		return UplinkCredit{}, errCredit
	}
	c := UplinkCredit{Session: SessionID(b[1 : 1+SessionIDSize]), Frames: be.Uint16(b[1+SessionIDSize:])}
	if c.Frames < 1 || c.Frames > Window {
		return UplinkCredit{}, errCredit
	}
	return c, nil
}
