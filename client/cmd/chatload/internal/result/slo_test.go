package result

import (
	"errors"
	"testing"
)

func TestJudge(t *testing.T) {
	r := made("echo", 1, 2, 3, 400)
	op := r.Op("echo")
	op.Offered, op.Done, op.Failed, op.Missed = 10, 6, 2, 4
	for _, c := range []struct {
		text string
		kept bool
		was  string
	}{
		{"echo.p50<5ms", true, "4ms"},
		{"echo.p50<4ms", false, "4ms"},
		{"echo.service.p50<=3ms", true, "2ms"},
		{"echo.p99<800ms", false, "800ms"},
		{"echo.p99.9<1s", true, "800ms"},
		{"echo.max>1m", false, "800ms"},
		{"echo.mean>200ms", true, "203ms"},
		{"echo.errors<1%", false, "20%"},
		{"echo.errors<=20%", true, "20%"},
		{"echo.errors<3", true, "2"},
		{"echo.missed<=4", true, "4"},
		{"echo.missed<10%", false, "40%"},
		{"echo.rate>=9", true, "9"},
		{"echo.count>=4", true, "4"},
		{"recover.p99<1h", false, "not measured"},
	} {
		s, err := ParseSLO(c.text)
		if err != nil {
			t.Errorf("%s: %v", c.text, err)
			continue
		}
		if v := s.Judge(r); v.Kept != c.kept || v.Was != c.was || v.SLO != c.text {
			t.Errorf("%s: %+v, want %v, was %s", c.text, v, c.kept, c.was)
		}
	}
}

// An operation that never ended well keeps no objective on its latency.
func TestJudgeNothingMeasured(t *testing.T) {
	r := made("echo")
	for _, text := range []string{"echo.p99<1h", "echo.max<1h", "echo.service.mean<1h", "echo.errors<1%", "echo.rate>=0"} {
		s, err := ParseSLO(text)
		if err != nil {
			t.Fatal(err)
		}
		if v := s.Judge(r); v.Kept || v.Was != "not measured" {
			t.Errorf("%s: %+v", text, v)
		}
	}
}

func TestParseSLORefuses(t *testing.T) {
	for _, text := range []string{
		"", "echo", "echo.p99", "echo.p99=5ms", "echo<5ms", ".p99<5ms", "Echo.p99<5ms", "echo.p99<5", "echo.p99<-5ms",
		"echo.p100<5ms", "echo.p0<5ms", "echo.p<5ms", "echo.p1e1<5ms", "echo.p99<", "echo.p99<<5ms", "echo.p99 <5ms",
		"echo.service.errors<1", "echo.service.service.p99<1ms", "echo.errors<x%", "echo.errors<-1", "echo.errors<NaN",
		"echo.rate>Inf", "echo.rate>1%", "echo.median<5ms", "echo.p99<5ms ",
	} {
		if s, err := ParseSLO(text); !errors.Is(err, ErrSLO) {
			t.Errorf("%q: %+v, %v", text, s, err)
		}
	}
}

func FuzzParseSLO(f *testing.F) {
	for _, text := range []string{"recover.p99<800ms", "echo.service.p99.9<=5ms", "register.errors<1%", "connect.rate>=90", "a.missed>1e3", "<", "a.p1.2.3<1s"} {
		f.Add(text)
	}
	r := made("echo", 1, 2)
	f.Fuzz(func(t *testing.T, text string) {
		s, err := ParseSLO(text)
		if err != nil {
			if !errors.Is(err, ErrSLO) {
				t.Fatalf("an error of another kind: %v", err)
			}
			return
		}
		if s.String() != text {
			t.Fatalf("%q comes back as %q", text, s.String())
		}
		if v := s.Judge(r); v.SLO != text {
			t.Fatalf("%+v", v)
		}
	})
}
