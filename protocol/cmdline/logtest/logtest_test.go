package logtest

import (
	"io"
	"testing"
)

// A program's lines come in any pieces.
func TestLinesComeInPieces(t *testing.T) {
	l := New()
	const text = "{\"msg\":\"a\",\"n\":1}\npanic: no JSON\n{\"msg\":\"b\"}\n{\"msg\":\"a\",\"n\":2}\n{\"msg\":\"a\""
	for i := range len(text) {
		io.WriteString(l, text[i:i+1])
	}
	for n := 1; n <= 2; n++ {
		if line := l.AwaitNth(t, "a", n); line["n"] != float64(n) {
			t.Errorf("line %d: %v", n, line)
		}
	}
	if l.String() != text {
		t.Errorf("%q", l)
	}
	line, more, ended := l.nth("a", 3)
	if line != nil || ended {
		t.Errorf("a line without an end: %v, %v", line, ended)
	}
	l.End()
	<-more
	if _, _, ended := l.nth("a", 3); !ended {
		t.Error("who waits does not learn of the end")
	}
}

// Await returns as soon as the line is there.
func TestAwaitWaits(t *testing.T) {
	l := New()
	go io.WriteString(l, "{\"msg\":\"late\"}\n")
	l.Await(t, "late")
}
