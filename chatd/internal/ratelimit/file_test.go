package ratelimit

import (
	"bytes"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"chatvault/protocol/ticket"
)

const good = `# limits
OpensPerAccount:
  burst: 6
  count: 3
  period: 1m
  overrides:
    - issuer: load
      off: true
    - issuer: app
      sub: "u-1234"
      burst: 1
      count: 1
      period: 1h
ConnectionsPerIP:
  overrides:
    - network: 10.0.0.0/8
      off: true
    - network: 10.1.0.0/16
      burst: 2
      count: 1
      period: 1s
    - network: 2001:db8::/48
      burst: 3
      count: 1
      period: 1s
FramesPerConnection: {off: true}
`

func parseGood(t *testing.T) *Rules {
	t.Helper()
	r, err := Parse("limits.yaml", []byte(good))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestTheNarrowestOverrideHolds(t *testing.T) {
	r := parseGood(t)
	addr := netip.MustParseAddr
	for _, c := range []struct {
		name string
		who  Who
		want string
		src  Source
	}{
		{OpensPerAccount, Who{}, "6/3/1m0s", Source{3, ""}},
		{OpensPerAccount, Who{Issuer: "app"}, "6/3/1m0s", Source{3, ""}},
		{OpensPerAccount, Who{Issuer: "load", Account: ticket.Account{Issuer: "load", Subject: "x"}.Hash()}, "off", Source{7, "issuer load"}},
		{OpensPerAccount, Who{Issuer: "app", Account: ticket.Account{Issuer: "app", Subject: "u-1234"}.Hash()}, "1/1/1h0m0s", Source{9, "account app/u-1234"}},
		{OpensPerDevice, Who{Issuer: "load"}, Defaults()[OpensPerDevice].String(), Source{}},
		{ConnectionsPerIP, Who{Addr: addr("192.0.2.1")}, Defaults()[ConnectionsPerIP].String(), Source{}},
		{ConnectionsPerIP, Who{Addr: addr("10.2.0.1")}, "off", Source{16, "network 10.0.0.0/8"}},
		{ConnectionsPerIP, Who{Addr: addr("10.1.2.3")}, "2/1/1s", Source{18, "network 10.1.0.0/16"}},
		{ConnectionsPerIP, Who{Addr: addr("2001:db8:0:5::1")}, "3/1/1s", Source{22, "network 2001:db8::/48"}},
		{FramesPerConnection, Who{Issuer: "app"}, "off", Source{26, ""}},
	} {
		l, src := r.Explain(c.name, c.who)
		if l.String() != c.want || src != c.src || r.For(c.name, c.who) != l {
			t.Errorf("%s for %+v: %v %+v, want %s %+v", c.name, c.who, l, src, c.want, c.src)
		}
	}
	with, err := r.With(map[string]Limit{OpensPerAccount: Off})
	if err != nil {
		t.Fatal(err)
	}
	if l, src := with.Explain(OpensPerAccount, Who{}); l != Off || src != (Source{}) {
		t.Errorf("a flag over the file: %v, %+v", l, src)
	}
	if l := with.For(OpensPerAccount, Who{Issuer: "app", Account: ticket.Account{Issuer: "app", Subject: "u-1234"}.Hash()}); l.Burst != 1 {
		t.Errorf("a flag has removed an override: %v", l)
	}
	if r.Set[OpensPerAccount] == Off {
		t.Error("With has changed the rules that it came from")
	}
}

func TestFindingALimitAllocatesNothing(t *testing.T) {
	r := parseGood(t)
	who := Who{Addr: netip.MustParseAddr("10.1.2.3"), Issuer: "app"}
	if n := testing.AllocsPerRun(100, func() {
		r.For(ConnectionsPerIP, who)
		r.For(OpensPerAccount, who)
		r.For(FramesPerConnection, who)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// Each error names its line and what to write there.
func TestWhatIsWrongInAFileIsSaid(t *testing.T) {
	for name, c := range map[string]struct{ text, want string }{
		"an unknown limit":            {"ConnectionsPerIP: {off: true}\nOpens: {off: true}", `limits.yaml:2: Opens: limit "Opens": there is none of that name; there are ConnectionsPerIP, `},
		"a misspelt field":            {"OpensPerAccount:\n  bursts: 3", `limits.yaml:2: unknown setting "bursts"; did you mean "burst"?`},
		"a limit twice":               {"OpensPerAccount: {off: true}\nOpensPerAccount: {off: true}", "limits.yaml:2: OpensPerAccount stands in line 1 already"},
		"a limit without numbers":     {"OpensPerAccount: {}", "limits.yaml:1: OpensPerAccount: write burst, count and period, all three, or off: true"},
		"half a limit":                {"OpensPerAccount: {burst: 3, period: 1m}", "all three"},
		"nothing allowed":             {"OpensPerAccount: {burst: 0, count: 1, period: 1m}", "all three"},
		"a negative burst":            {"OpensPerAccount: {burst: -1, count: 1, period: 1m}", "burst -1: want 1 to 1000000"},
		"off with numbers":            {"OpensPerAccount: {off: true, burst: 3}", "remove it, or them"},
		"a period without a unit":     {"OpensPerAccount: {burst: 1, count: 1, period: 60}", "limits.yaml:1: OpensPerAccount.period: want a duration"},
		"a burst that is half":        {"OpensPerAccount: {burst: 1.5, count: 1, period: 1m}", "want a whole number"},
		"faster than a microsecond":   {"OpensPerAccount: {burst: 1, count: 2000, period: 1ms}", "faster than one a microsecond"},
		"a burst of years":            {"OpensPerAccount: {burst: 1000, count: 1, period: 24h}", "takes longer than"},
		"no value":                    {"OpensPerAccount:", "OpensPerAccount: has no value"},
		"a list":                      {"- OpensPerAccount", "want settings"},
		"an alias":                    {"OpensPerAccount: &a {off: true}\nOpensPerDevice: *a", "anchors"},
		"an override of nobody":       {"OpensPerAccount:\n  overrides:\n    - {off: true}", "limits.yaml:3: OpensPerAccount: an override names either a network, or an issuer"},
		"an override of both":         {"OpensPerAccount:\n  overrides:\n    - {issuer: app, network: 10.0.0.0/8, off: true}", "either a network, or an issuer"},
		"an override without numbers": {"OpensPerAccount:\n  overrides:\n    - {issuer: app}", "limits.yaml:3: OpensPerAccount: write burst"},
		"a sub without an issuer":     {"OpensPerAccount:\n  overrides:\n    - {sub: alice, off: true}", "sub goes with issuer"},
		"a network for an account":    {"OpensPerAccount:\n  overrides:\n    - {network: 10.0.0.0/8, off: true}", "this limit is for accounts"},
		"an account for an address":   {"ConnectionsPerIP:\n  overrides:\n    - {issuer: app, off: true}", "this limit is for addresses"},
		"an override before identity": {"AuthsPerConnection:\n  overrides:\n    - {issuer: app, off: true}", "has no overrides"},
		"IPv4 for an IPv6 range":      {"ConnectionsPerIPv6Range:\n  overrides:\n    - {network: 10.0.0.0/8, off: true}", "name an IPv6 network"},
		"less than a /64":             {"ConnectionsPerIP:\n  overrides:\n    - {network: '2001:db8::/65', off: true}", "at most /64"},
		"less than a /48":             {"ConnectionsPerIPv6Range:\n  overrides:\n    - {network: '2001:db8::/64', off: true}", "at most /48"},
		"an address":                  {"ConnectionsPerIP:\n  overrides:\n    - {network: 10.0.0.1, off: true}", "one address is 192.0.2.7/32"},
		"a network with host bits":    {"ConnectionsPerIP:\n  overrides:\n    - {network: 10.0.0.1/8, off: true}", "first address of a range"},
		"an issuer twice":             {"OpensPerAccount:\n  overrides:\n    - {issuer: app, off: true}\n    - {issuer: app, off: true}", "limits.yaml:4: OpensPerAccount: issuer app has an override in line 3 already: keep one"},
		"an account twice":            {"OpensPerAccount:\n  overrides:\n    - {issuer: app, sub: a, off: true}\n    - {issuer: app, sub: a, off: true}", "account app/a has an override in line 3"},
		"a network twice":             {"ConnectionsPerIP:\n  overrides:\n    - {network: 10.0.0.0/8, off: true}\n    - {network: 10.0.0.0/8, off: true}", "network 10.0.0.0/8 has an override in line 3"},
	} {
		if _, err := Parse("limits.yaml", []byte(c.text)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v; want %q", name, err, c.want)
		}
	}
}

func TestReadFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "limits.yaml")
	if _, err := ReadFile(path); err == nil {
		t.Error("a file that is not there was read")
	}
	if err := os.WriteFile(path, []byte("# nothing yet\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	r, err := ReadFile(path)
	if err != nil || r.Set[OpensPerAccount] != Defaults()[OpensPerAccount] {
		t.Errorf("an empty file: %v, %v", r, err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(good))
	f.Add([]byte("OpensPerAccount:\n  overrides:\n    - {issuer: \"\\u00fc\\x07\", sub: 'a/b', burst: 1, count: 1, period: 1h}\n"))
	f.Add([]byte("ConnectionsPerIP: {burst: 9, count: 9, period: 9ms, overrides: [{network: '::/0', off: true}, {network: 0.0.0.0/0, off: true}]}"))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := Parse("f", b)
		if err != nil {
			return
		}
		text := r.Encode()
		again, err := Parse("f", text)
		if err != nil {
			t.Fatalf("%v in\n%s", err, text)
		}
		if got := again.Encode(); !bytes.Equal(got, text) {
			t.Fatalf("written and read again:\n%s\nbefore:\n%s", got, text)
		}
		for name, l := range r.Set {
			if _, wait := l.Spend(0, time.Now().UnixMicro()); wait != 0 {
				t.Fatalf("%s: %v refuses the first", name, l)
			}
		}
	})
}
