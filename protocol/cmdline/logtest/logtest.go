// Package logtest reads the log of a program that a test runs.
package logtest

import (
	"bytes"
	"encoding/json"
	"sync"
	"testing"
	"time"
)

// patience is how long a test waits for what must be said.
const patience = 30 * time.Second

// Log takes what a program logs, lines of JSON. Its methods may be called from
// any goroutine.
type Log struct {
	mu    sync.Mutex
	text  bytes.Buffer
	lines []map[string]any
	part  []byte        // of a line that has no end yet
	more  chan struct{} // closed, and replaced, when there is more to see
	ended bool
}

// New returns an empty Log.
func New() *Log { return &Log{more: make(chan struct{})} }

// Write implements io.Writer. It never fails.
func (l *Log) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.text.Write(b)
	l.part = append(l.part, b...)
	for {
		line, rest, whole := bytes.Cut(l.part, []byte("\n"))
		if !whole {
			break
		}
		m := map[string]any{}
		json.Unmarshal(line, &m) // another line, such as a panic's, has no msg
		l.lines, l.part = append(l.lines, m), rest
	}
	l.changed()
	return len(b), nil
}

// End says that nothing follows: who waits for a line fails.
func (l *Log) End() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ended = true
	l.changed()
}

func (l *Log) changed() {
	close(l.more)
	l.more = make(chan struct{})
}

// String is all that was written.
func (l *Log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// Await returns the first line with this msg.
func (l *Log) Await(t testing.TB, msg string) map[string]any {
	t.Helper()
	return l.AwaitNth(t, msg, 1)
}

// AwaitNth returns the nth line with this msg, counted from 1.
func (l *Log) AwaitNth(t testing.TB, msg string, n int) map[string]any {
	t.Helper()
	late := time.After(patience)
	for {
		line, more, ended := l.nth(msg, n)
		switch {
		case line != nil:
			return line
		case ended:
			t.Fatalf("the program ended and had not said %q %d times:\n%s", msg, n, l)
		}
		select {
		case <-more:
		case <-late:
			t.Fatalf("the program did not say %q %d times:\n%s", msg, n, l)
		}
	}
}

// nth returns the nth line with this msg, nil if there is none yet; more is
// closed when it is worth asking again.
func (l *Log) nth(msg string, n int) (line map[string]any, more <-chan struct{}, ended bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, line := range l.lines {
		if line["msg"] == msg {
			if n--; n == 0 {
				return line, nil, l.ended
			}
		}
	}
	return nil, l.more, l.ended
}
