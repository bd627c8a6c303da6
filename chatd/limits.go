package main

import (
	"fmt"
	"io"
	"net/netip"
	"strings"
	"text/tabwriter"

	"chatvault/chatd/internal/admission"
	"chatvault/chatd/internal/ratelimit"
	"chatvault/protocol/cmdline"
	"chatvault/protocol/ticket"
)

// readLimits returns the limits of a configuration: the defaults, then the
// file, then the flags.
func readLimits(cfg *Config) (*ratelimit.Rules, error) {
	if cfg.Limits == "" {
		return ratelimit.NewRules(cfg.Limit)
	}
	rules, err := ratelimit.ReadFile(cfg.Limits)
	if err != nil {
		return nil, err
	}
	return rules.With(cfg.Limit)
}

type limitsCmd struct {
	Check    limitsCheckCmd    `cmd:"" help:"Check a file of limits and print what holds; exit code 2 if it is wrong."`
	Defaults limitsDefaultsCmd `cmd:"" help:"Print the defaults as such a file."`
}

type limitsDefaultsCmd struct{}

// Run prints the defaults.
func (limitsDefaultsCmd) Run(std cmdline.IO) error {
	rules, err := ratelimit.NewRules(nil)
	if err == nil {
		_, err = std.Out.Write(rules.Encode())
	}
	return err
}

type limitsCheckCmd struct {
	File    string     `arg:"" placeholder:"FILE" help:"The file of limits."`
	IP      netip.Addr `name:"ip" placeholder:"ADDRESS" help:"Say what holds for a client of this address."`
	Account string     `placeholder:"ISSUER/SUB" help:"Say what holds for this account: the issuer's configured name, and the sub of its tickets."`
}

// Run checks the file and explains it.
func (c limitsCheckCmd) Run(std cmdline.IO) error {
	rules, err := ratelimit.ReadFile(c.File)
	if err != nil {
		return cmdline.Usagef("%w", err)
	}
	who := ratelimit.Who{Addr: c.IP.Unmap()}
	if c.Account != "" {
		issuer, sub, found := strings.Cut(c.Account, "/")
		if !found || issuer == "" || sub == "" {
			return cmdline.Usagef("--account: want the issuer's name and the sub, as app/u-1234")
		}
		who.Issuer, who.Account = issuer, ticket.Account{Issuer: issuer, Subject: sub}.Hash()
	}
	return c.print(std.Out, rules, who)
}

// print writes a row for each limit: as it stands for who, and why.
func (c limitsCheckCmd) print(to io.Writer, rules *ratelimit.Rules, who ratelimit.Who) error {
	table := tabwriter.NewWriter(to, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "LIMIT\tBURST\tTHEN\tOF\tPER\tCOUNTED\tFROM")
	for _, d := range ratelimit.Definitions() {
		l, from := rules.Explain(d.Name, who)
		per := d.Per
		if key := c.counted(d.Name); key != "" {
			per += " (" + key + ")"
		}
		burst, then := "off", ""
		if l != ratelimit.Off {
			burst, then = fmt.Sprint(l.Burst), fmt.Sprintf("%d in %v", l.Count, l.Period)
		}
		counted := "by each chatd"
		if d.Shared {
			counted = "in Redis"
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", d.Name, burst, then, d.What, per, counted, c.from(from, rules.Overrides(d.Name)))
	}
	return table.Flush()
}

// counted is what an address counts as.
func (c limitsCheckCmd) counted(limit string) string {
	if !c.IP.IsValid() {
		return ""
	}
	narrow, wide := admission.LimitKeys(c.IP.Unmap())
	switch limit {
	case ratelimit.ConnectionsPerIP:
		return narrow
	case ratelimit.ConnectionsPerIPv6Range:
		if wide == "" {
			return "none: IPv4"
		}
		return wide
	}
	return ""
}

func (c limitsCheckCmd) from(s ratelimit.Source, overrides int) string {
	text := "default"
	if s.Line > 0 {
		text = fmt.Sprintf("%s:%d", c.File, s.Line)
	}
	if s.Override != "" {
		return text + ", for " + s.Override
	}
	if overrides > 0 {
		text += fmt.Sprintf("; overrides for others: %d", overrides)
	}
	return text
}
