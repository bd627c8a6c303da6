package count

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
)

func TestSet(t *testing.T) {
	var s Set
	s.Add("b")
	s.Add("a")
	s.Add("b")
	if s.Get("b") != 2 || s.Get("c") != 0 {
		t.Errorf("b %d, c %d", s.Get("b"), s.Get("c"))
	}
	var out bytes.Buffer
	slog.New(slog.NewTextHandler(&out, nil)).Info("x", "n", &s)
	if !strings.Contains(out.String(), "n.a=1 n.b=2") {
		t.Error(out.String())
	}
}
