package hsm

import (
	"fmt"
	"strings"
)

// CheckResult is the outcome of one thing tried on a module.
type CheckResult struct {
	Name   string `json:"name"`   // what was tried
	OK     bool   `json:"ok"`     // whether it worked
	Detail string `json:"detail"` // what was seen, or what went wrong

	// Advisory: worth knowing when it fails, but a vault works without.
	Advisory bool `json:"advisory,omitempty"`
}

// Report says whether a module can carry a vault.
type Report struct {
	Module string        `json:"module"` // manufacturer, library, version
	Token  string        `json:"token"`  // label, model and serial number
	Checks []CheckResult `json:"checks"`
}

// Fit is true if something was tried and everything needed worked.
func (r Report) Fit() bool { return len(r.Checks) > 0 && len(r.Missing()) == 0 }

// Missing names what a vault cannot do without and the module lacks.
func (r Report) Missing() []string {
	var names []string
	for _, c := range r.Checks {
		if !c.OK && !c.Advisory {
			names = append(names, c.Name)
		}
	}
	return names
}

// Why says in one line what is missing, with the details.
func (r Report) Why() string {
	var parts []string
	for _, c := range r.Checks {
		if !c.OK && !c.Advisory {
			parts = append(parts, c.Name+": "+c.Detail)
		}
	}
	return strings.Join(parts, "; ")
}

// String is the report for people, one line per check.
func (r Report) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "module  %s\ntoken   %s\n", r.Module, r.Token)
	for _, c := range r.Checks {
		mark := "ok     "
		switch {
		case !c.OK && c.Advisory:
			mark = "weak   "
		case !c.OK:
			mark = "MISSING"
		}
		fmt.Fprintf(&b, "%s %-34s %s\n", mark, c.Name, c.Detail)
	}
	if r.Fit() {
		b.WriteString("this module fits\n")
	} else {
		fmt.Fprintf(&b, "this module does not fit: %s\n", strings.Join(r.Missing(), ", "))
	}
	return b.String()
}
