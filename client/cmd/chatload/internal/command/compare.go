package command

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"chatvault/client/cmd/chatload/internal/load"
	"chatvault/client/cmd/chatload/internal/result"
	"chatvault/protocol/cmdline"
)

type compareCmd struct {
	Before        string  `arg:"" help:"A result.json, or the folder that run wrote."`
	After         string  `arg:"" help:"Another one, of the same scenario."`
	MaxRegression float64 `placeholder:"PERCENT" help:"Exit with 99 when a rate, p50 or p99 by schedule is worse by more than this."`
}

// Run compares two results.
func (c compareCmd) Run(io cmdline.IO) error {
	if c.MaxRegression < 0 {
		return cmdline.Usagef("--max-regression: not negative")
	}
	before, err := readResult(c.Before)
	if err != nil {
		return err
	}
	after, err := readResult(c.After)
	if err != nil {
		return err
	}
	if before.Scenario != after.Scenario {
		return cmdline.Usagef("the first is of scenario %s, the second of %s", before.Scenario, after.Scenario)
	}
	all := result.Compare(before, after)
	if err := result.WriteDifferences(io.Out, all); err != nil {
		return err
	}
	for _, other := range result.OtherSettings(before, after) {
		fmt.Fprintf(io.Out, "warning: they were not asked for the same: %s\n", other)
	}
	if c.MaxRegression == 0 {
		return nil
	}
	var worse []string
	for _, d := range all {
		if (d.Metric == "rate" || d.Metric == "p50" || d.Metric == "p99") && d.Worse*100 > c.MaxRegression {
			worse = append(worse, fmt.Sprintf("%s.%s by %.1f%%", d.Op, d.Metric, d.Worse*100))
		}
	}
	if len(worse) > 0 {
		return cmdline.ExitError{Code: exitMissed, Err: fmt.Errorf("worse: %s", strings.Join(worse, ", "))}
	}
	return nil
}

type mergeCmd struct {
	Out   string   `required:"" placeholder:"DIR" help:"Folder for the merged result.json, report.html and .hgrm files."`
	Files []string `arg:"" help:"The result.json of each generator, or its folder."`
	SLO   []string `name:"slo" sep:"none" placeholder:"OBJECTIVE" help:"Hold the merged result against this, as run does. May be given again."`
}

// Run merges results.
func (c mergeCmd) Run(io cmdline.IO) error {
	if err := mayWrite(c.Out); err != nil {
		return cmdline.Usagef("--out: %w", err)
	}
	var all []*result.Result
	for _, file := range c.Files {
		r, err := readResult(file)
		if err != nil {
			return err
		}
		all = append(all, r)
	}
	merged, err := result.Merge(all...)
	if err != nil {
		return err
	}
	scenario, err := load.Find(merged.Scenario)
	if err != nil {
		return err
	}
	slos, err := parseSLOs(c.SLO, scenario)
	if err != nil {
		return err
	}
	kept := judge(merged, slos)
	if err := errors.Join(writeAll(c.Out, merged), summary(io.Out, merged)); err != nil {
		return err
	}
	return verdict(kept)
}

// parseSLOs reads objectives on what the scenario measures: another name is a typo,
// which nobody wants to learn at the end of a long run.
func parseSLOs(texts []string, scenario load.Scenario) (slos []result.SLO, err error) {
	for _, text := range texts {
		s, err := result.ParseSLO(text)
		if err != nil {
			return nil, cmdline.Usagef("--slo: %w", err)
		}
		if !slices.Contains(scenario.Ops, s.Op()) {
			return nil, cmdline.Usagef("--slo %s: %s measures %s", s, scenario.Name, strings.Join(scenario.Ops, ", "))
		}
		slos = append(slos, s)
	}
	return slos, nil
}

// judge holds a result against all objectives, and says whether all were kept.
func judge(r *result.Result, slos []result.SLO) (kept bool) {
	kept = true
	for _, s := range slos {
		v := s.Judge(r)
		kept = kept && v.Kept
		r.Verdicts = append(r.Verdicts, v)
	}
	return kept
}

func verdict(kept bool) error {
	if !kept {
		return cmdline.ExitError{Code: exitMissed, Err: fmt.Errorf("an objective was missed")}
	}
	return nil
}
