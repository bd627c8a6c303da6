package ask

import (
	"errors"
	"io"
	"strings"
	"testing"
)

// What is typed ahead belongs to the next question.
func TestReadLineTakesOneLine(t *testing.T) {
	in := strings.NewReader("first\r\n\nlast")
	for _, want := range []string{"first", "", "last"} {
		if got, err := readLine(in); err != nil || string(got) != want {
			t.Errorf("%q, %v; want %q", string(got), err, want)
		}
	}
	if _, err := readLine(in); !errors.Is(err, io.EOF) {
		t.Errorf("at the end: %v", err)
	}
	if _, err := readLine(strings.NewReader(strings.Repeat("x", maxLine+1) + "\n")); err == nil {
		t.Error("a line longer than the longest was taken")
	}
	if got, err := readLine(strings.NewReader(strings.Repeat("x", maxLine) + "\n")); err != nil || len(got) != maxLine {
		t.Errorf("the longest line: %d, %v", len(got), err)
	}
}

func TestNoInputAsksNobody(t *testing.T) {
	a := Asker{NoInput: true}
	_, hidden := a.Hidden(t.Context(), "?")
	_, shown := a.Shown(t.Context(), "?")
	if !errors.Is(hidden, ErrNoTerminal) || !errors.Is(shown, ErrNoTerminal) || a.Can() {
		t.Errorf("%v, %v, can %v", hidden, shown, a.Can())
	}
}
