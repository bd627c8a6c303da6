package goals

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestRowsAreRepeatedWhileTheirSpreadCrossesTheGoal(t *testing.T) {
	late := time.Now().Add(time.Hour)
	for _, c := range []struct {
		name      string
		noRepeats time.Time
		atLeast   bool
		ours      []float64 // of 10 on the other side; the last one stays
		want      int       // repetitions
		met       bool
	}{
		{"all reach it", late, true, []float64{8, 9, 7.1}, 3, true},
		{"none reaches it", late, true, []float64{5, 6.9, 2}, 3, false},
		{"crossed once", late, true, []float64{9, 6, 8, 9}, 9, true},
		{"crossed, the median misses", late, true, []float64{9, 6, 5}, 9, false},
		{"crossed, and no time left", time.Now().Add(-time.Second), true, []float64{9, 6, 8}, 3, true},
		{"a greatest value, all reach it", late, false, []float64{5, 6.9, 2}, 3, true},
		{"a greatest value, none does", late, false, []float64{8, 9, 7.1}, 3, false},
		{"a greatest value, crossed", late, false, []float64{8, 3, 4}, 9, true},
	} {
		r := &Row{Name: c.name, Goal: 0.7, AtLeast: c.atLeast}
		other := &Row{Goal: 1}
		p := Plan{Repetitions: 3, Rounds: 3, NoRepeats: c.noRepeats}
		Measure(t.Context(), p, io.Discard, []*Row{r, other}, func(_ context.Context, i int) ([]Repetition, error) {
			return []Repetition{Ratio(c.ours[min(i, len(c.ours)-1)], 10), {Value: 0.5}}, nil
		})
		if len(r.Repetitions) != c.want || len(other.Repetitions) != c.want || r.Met != c.met || !other.Met {
			t.Errorf("%s: %d repetitions, met %v; want %d, %v", c.name, len(r.Repetitions), r.Met, c.want, c.met)
		}
		if line := r.String(); strings.HasPrefix(line, "MET ") != c.met || strings.HasPrefix(line, "MISSED ") == c.met {
			t.Errorf("%s: %q", c.name, line)
		}
	}
}

func TestTheValueIsTheRatioOfTheMedians(t *testing.T) {
	r := &Row{Goal: 1, Sides: "%.0f against %.0f"}
	all := []Repetition{Ratio(1, 10), Ratio(30, 20), Ratio(20, 40)}
	Measure(t.Context(), Plan{Repetitions: 3, Rounds: 1}, io.Discard, []*Row{r}, func(_ context.Context, i int) ([]Repetition, error) {
		return all[i : i+1], nil
	})
	if r.Measured != 1 { // 20 of 20: not 0.5, the median of the ratios
		t.Errorf("measured %v", r.Measured)
	}
	if !strings.Contains(r.String(), "20 against 20, 3 repetitions, 0.1 to 1.5") {
		t.Error(r)
	}
	if m := Median([]float64{4, 1, 3, 2}); m != 2.5 {
		t.Errorf("median %v", m)
	}
}

// One charge in three storms is a charge, and no median hides it.
func TestWhatMustNeverHappenIsNotOutvoted(t *testing.T) {
	for _, c := range []struct {
		atLeast bool
		goal    float64
		values  []float64
		want    float64
		met     bool
	}{
		{false, 0, []float64{0, 0, 0}, 0, true},
		{false, 0, []float64{0, 1, 0}, 1, false},
		{false, 30, []float64{9, 31, 8}, 31, false},
		{true, 5, []float64{6, 5, 9}, 5, true},
		{true, 5, []float64{6, 4, 9}, 4, false},
	} {
		r := &Row{Goal: c.goal, AtLeast: c.atLeast, Each: true}
		p := Plan{Repetitions: len(c.values), Rounds: 3, NoRepeats: time.Now().Add(time.Hour)}
		Measure(t.Context(), p, io.Discard, []*Row{r}, func(_ context.Context, i int) ([]Repetition, error) {
			return []Repetition{{Value: c.values[i]}}, nil
		})
		if r.Measured != c.want || r.Met != c.met || len(r.Repetitions) != len(c.values) {
			t.Errorf("%v: measured %v, met %v after %d repetitions", c.values, r.Measured, r.Met, len(r.Repetitions))
		}
	}
}

func TestARowThatFailsIsNotMet(t *testing.T) {
	for _, at := range []int{0, 1, 2} { // the last in the second round, after one that met the goal
		r := &Row{Goal: 1}
		p := Plan{Repetitions: 2, Rounds: 2, NoRepeats: time.Now().Add(time.Hour)}
		Measure(t.Context(), p, io.Discard, []*Row{r}, func(_ context.Context, i int) ([]Repetition, error) {
			if i == at {
				return nil, errors.New("engine\nburnt down")
			}
			return []Repetition{{Value: 0.1 + 1.7*float64(i)}}, nil
		})
		if line := r.String(); !strings.HasPrefix(line, "MISSED") || !strings.Contains(line, "engine; burnt down") {
			t.Errorf("%q", line)
		}
	}
}

func TestTheReportHasMachineCommitAndRepetitions(t *testing.T) {
	rep := NewReport(t.Context())
	rep.Rows = []*Row{{Name: "a", Repetitions: []Repetition{Ratio(1, 2)}}}
	file := filepath.Join(t.TempDir(), "bin", "r.json")
	if err := rep.Write(file); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var back Report
	if err := json.Unmarshal(b, &back); err != nil || back.Machine.Cores < 1 || back.Machine.Kernel == "" || back.Rows[0].Repetitions[0].Value != 0.5 {
		t.Errorf("%v: %s", err, b)
	}
}
