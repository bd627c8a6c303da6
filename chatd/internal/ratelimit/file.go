package ratelimit

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"go.yaml.in/yaml/v3"

	"chatvault/protocol/cmdline"
)

// A limits file names the limits that differ from the defaults, and for whom:
//
//	OpensPerAccount:
//	  burst: 60          # at once
//	  count: 30          # in each period, in the long run
//	  period: 1m
//	  overrides:         # the narrowest that fits is taken
//	    - issuer: load   # by its configured name
//	      off: true
//	    - issuer: app    # with sub: one account
//	      sub: u-1234
//	      burst: 6
//	      count: 3
//	      period: 1m
//	ConnectionsPerIP:    # without numbers of its own: as by default
//	  overrides:
//	    - network: 192.0.2.0/24
//	      burst: 500
//	      count: 100
//	      period: 1s
//
// An override changes the limit of each address, account, device or connection
// that it covers; they do not share one.
type file map[limitName]fileLimit

// limitName is a key of the file: a limit that there is.
type limitName string

// UnmarshalText implements encoding.TextUnmarshaler.
func (n *limitName) UnmarshalText(text []byte) error {
	*n = limitName(text)
	if _, ok := definition(string(text)); !ok {
		return errNoSuchLimit(string(text))
	}
	return nil
}

// numbers are a limit, or that there is none.
type numbers struct {
	Off    bool          `yaml:"off,omitempty"`
	Burst  int           `yaml:"burst,omitempty"`
	Count  int           `yaml:"count,omitempty"`
	Period time.Duration `yaml:"period,omitempty"`
}

type fileLimit struct {
	numbers   `yaml:",inline"`
	Overrides []fileOverride `yaml:"overrides,omitempty"`

	line int
}

type fileOverride struct {
	Issuer  string  `yaml:"issuer,omitempty"`
	Sub     string  `yaml:"sub,omitempty"`
	Network network `yaml:"network,omitempty"`
	numbers `yaml:",inline"`

	line int
}

// UnmarshalYAML notes the line.
func (l *fileLimit) UnmarshalYAML(n *yaml.Node) error {
	type plain fileLimit
	l.line = n.Line
	return n.Decode((*plain)(l))
}

// UnmarshalYAML notes the line.
func (o *fileOverride) UnmarshalYAML(n *yaml.Node) error {
	type plain fileOverride
	o.line = n.Line
	return n.Decode((*plain)(o))
}

// network is a range of addresses.
type network struct{ netip.Prefix }

var errNetwork = errors.New("want the first address of a range and its length, as 192.0.2.0/24 or 2001:db8::/48; one address is 192.0.2.7/32")

// UnmarshalText implements encoding.TextUnmarshaler.
func (n *network) UnmarshalText(text []byte) error {
	p, err := netip.ParsePrefix(string(text))
	if err != nil || p != p.Masked() || p.Addr().Is4In6() {
		return errNetwork
	}
	n.Prefix = p
	return nil
}

// ReadFile reads a limits file. What is wrong is a *cmdline.ConfigError that
// names the line, and what to write there.
func ReadFile(path string) (*Rules, error) {
	f := file{}
	if err := cmdline.ReadYAML(path, &f); err != nil {
		return nil, err
	}
	return f.rules(path)
}

// Parse does what ReadFile does with what was read; name is the file's, in
// errors.
func Parse(name string, b []byte) (*Rules, error) {
	f := file{}
	if err := cmdline.DecodeYAML(name, b, &f); err != nil {
		return nil, err
	}
	return f.rules(name)
}

func (f file) rules(path string) (*Rules, error) {
	r := &Rules{Set: Defaults(), lines: map[string]int{}, overrides: map[string]*overrides{}}
	wrong := func(line int, name string, err error) error {
		return &cmdline.ConfigError{File: path, Line: line, Reason: name + ": " + err.Error()}
	}
	for _, d := range definitions { // in this order, so that errors come in one
		entry, ok := f[limitName(d.Name)]
		if !ok {
			continue
		}
		switch {
		case entry.numbers != numbers{}:
			l, err := entry.limit()
			if err != nil {
				return nil, wrong(entry.line, d.Name, err)
			}
			r.Set[d.Name], r.lines[d.Name] = l, entry.line
		case len(entry.Overrides) == 0:
			return nil, wrong(entry.line, d.Name, errNumbers)
		}
		for _, o := range entry.Overrides {
			if err := r.override(d, o); err != nil {
				return nil, wrong(o.line, d.Name, err)
			}
		}
	}
	return r, nil
}

var errNumbers = errors.New("write burst, count and period, all three, or off: true")

func (n numbers) limit() (Limit, error) {
	l := Limit{Burst: n.Burst, Count: n.Count, Period: n.Period}
	switch {
	case n.Off && l != Off:
		return l, errors.New("off goes without burst, count and period: remove it, or them")
	case n.Off:
		return Off, nil
	case l.Burst == 0 || l.Count == 0 || l.Period == 0:
		return l, errNumbers
	}
	return l, l.Check()
}

// override adds one.
func (r *Rules) override(d Definition, o fileOverride) error {
	l, err := o.limit()
	if err != nil {
		return err
	}
	if err := o.suits(d); err != nil {
		return err
	}
	list := r.overrides[d.Name]
	if list == nil {
		list = &overrides{accounts: map[[32]byte]*override{}, issuers: map[string]*override{}}
		r.overrides[d.Name] = list
	}
	f := &override{limit: l, line: o.line, issuer: o.Issuer, subject: o.Sub, network: o.Network.Prefix}
	if before := list.add(f); before != nil {
		return fmt.Errorf("%s has an override in line %d already: keep one", f, before.line)
	}
	return nil
}

// suits says whether the limit can tell whom the override names.
func (o fileOverride) suits(d Definition) error {
	network, account := o.Network.IsValid(), o.Issuer != ""
	switch {
	case o.Sub != "" && !account:
		return errors.New("sub goes with issuer: the same sub of two issuers is two accounts")
	case network == account:
		return errors.New("an override names either a network, or an issuer, with sub for one of its accounts")
	case d.by == byNothing:
		return errors.New("this limit has no overrides: it acts before anybody has said who they are; remove them")
	case d.by == byNetwork && !network:
		return errors.New("this limit is for addresses: name a network")
	case d.by == byAccount && !account:
		return errors.New("this limit is for accounts: name an issuer, with sub for one account")
	}
	if network && !o.Network.Addr().Is4() {
		// Addresses of one count must not have different limits.
		if most := d.bits(); o.Network.Bits() > most {
			return fmt.Errorf("%s is counted for each IPv6 /%d: name a network of at most /%d", d.Name, most, most)
		}
	} else if network && d.Name == ConnectionsPerIPv6Range {
		return errors.New("this limit is for IPv6: name an IPv6 network")
	}
	return nil
}

// bits is how much of an IPv6 address a limit of addresses looks at.
func (d Definition) bits() int {
	if d.Name == ConnectionsPerIPv6Range {
		return 48
	}
	return 64
}

// Encode writes all limits as a file, in the order of Definitions. What Parse
// makes of it are the same rules.
func (r *Rules) Encode() []byte {
	var b bytes.Buffer
	for _, d := range definitions {
		fmt.Fprintf(&b, "# %s per %s\n%s:\n", d.What, d.Per, d.Name)
		writeLimit(&b, "  ", r.Set[d.Name])
		o := r.overrides[d.Name]
		if o == nil {
			continue
		}
		b.WriteString("  overrides:\n")
		for _, f := range o.all() {
			switch {
			case f.network.IsValid():
				fmt.Fprintf(&b, "    - network: %q\n", f.network.String())
			case f.subject == "":
				fmt.Fprintf(&b, "    - issuer: %s\n", strconv.QuoteToASCII(f.issuer))
			default:
				fmt.Fprintf(&b, "    - issuer: %s\n      sub: %s\n", strconv.QuoteToASCII(f.issuer), strconv.QuoteToASCII(f.subject))
			}
			writeLimit(&b, "      ", f.limit)
		}
	}
	return slices.Clip(b.Bytes())
}

func writeLimit(b *bytes.Buffer, indent string, l Limit) {
	if l == Off {
		fmt.Fprintf(b, "%soff: true\n", indent)
		return
	}
	fmt.Fprintf(b, "%sburst: %d\n%scount: %d\n%speriod: %v\n", indent, l.Burst, indent, l.Count, indent, l.Period)
}
