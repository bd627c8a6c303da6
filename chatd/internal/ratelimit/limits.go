package ratelimit

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// The limits by name: what REFUSE and the configuration call them.
const (
	ConnectionsPerIP        = "ConnectionsPerIP"
	ConnectionsPerIPv6Range = "ConnectionsPerIPv6Range"
	ConnectionsPerAccount   = "ConnectionsPerAccount"
	ConnectionsPerDevice    = "ConnectionsPerDevice"
	OpensPerAccount         = "OpensPerAccount"
	OpensPerDevice          = "OpensPerDevice"
	AttachesPerConnection   = "AttachesPerConnection"
	AuthsPerConnection      = "AuthsPerConnection"
	FramesPerConnection     = "FramesPerConnection"
)

// selector is what an override may name.
type selector uint8

const (
	byNothing selector = iota // whoever it is, nobody knows yet
	byNetwork
	byAccount // or its issuer
)

// Definition is what a limit is about.
type Definition struct {
	Name    string
	Default Limit
	// What is counted, and for each what.
	What, Per string
	// Shared says that all relays count together, in Redis.
	Shared bool
	by     selector
}

// definitions are all limits there are, in the order in which a client meets
// them. A device has less than its account, so that one device of an account
// cannot keep its others out.
var definitions = []Definition{
	{ConnectionsPerIP, Limit{50, 10, time.Second}, "requests to connect", "IPv4 address or IPv6 /64", false, byNetwork},
	{ConnectionsPerIPv6Range, Limit{200, 40, time.Second}, "requests to connect", "IPv6 /48", false, byNetwork},
	{AuthsPerConnection, Limit{4, 4, time.Minute}, "AUTHs", "connection", false, byNothing},
	{ConnectionsPerAccount, Limit{120, 120, time.Minute}, "first AUTHs", "account", true, byAccount},
	{ConnectionsPerDevice, Limit{60, 60, time.Minute}, "first AUTHs", "account and device", true, byAccount},
	{OpensPerAccount, Limit{60, 30, time.Minute}, "vault sessions opened", "account", true, byAccount},
	{OpensPerDevice, Limit{40, 20, time.Minute}, "vault sessions opened", "account and device", true, byAccount},
	{AttachesPerConnection, Limit{8, 1, time.Second}, "ATTACHes", "connection", false, byAccount},
	// Beyond it the connection is closed.
	{FramesPerConnection, Limit{200, 50, time.Second}, "frames, pings and pongs", "connection", false, byAccount},
}

// Definitions lists all limits there are.
func Definitions() []Definition { return append([]Definition(nil), definitions...) }

func definition(name string) (Definition, bool) {
	for _, d := range definitions {
		if d.Name == name {
			return d, true
		}
	}
	return Definition{}, false
}

// errNoSuchLimit says which names there are.
func errNoSuchLimit(name string) error {
	var names []string
	for _, d := range definitions {
		names = append(names, d.Name)
	}
	return fmt.Errorf("limit %q: there is none of that name; there are %s", name, strings.Join(names, ", "))
}

// Set holds a limit per name.
type Set map[string]Limit

// Defaults returns every limit there is, as it stands when nothing is
// configured.
func Defaults() Set {
	set := Set{}
	for _, d := range definitions {
		set[d.Name] = d.Default
	}
	return set
}

// UnmarshalText reads burst/count/period, as in 50/10/1s, or off.
func (l *Limit) UnmarshalText(text []byte) error {
	if string(text) == "off" {
		*l = Off
		return nil
	}
	parts := strings.Split(string(text), "/")
	if len(parts) != 3 {
		return fmt.Errorf("limit %q: want burst/count/period, as in 50/10/1s, or off", text)
	}
	burst, err1 := strconv.Atoi(parts[0])
	count, err2 := strconv.Atoi(parts[1])
	period, err3 := time.ParseDuration(parts[2])
	if err1 != nil || err2 != nil || err3 != nil {
		return fmt.Errorf("limit %q: want burst/count/period, as in 50/10/1s, or off", text)
	}
	got := Limit{Burst: burst, Count: count, Period: period}
	if got == Off {
		return fmt.Errorf("limit %q: write off to allow everything", text)
	}
	if err := got.Check(); err != nil {
		return fmt.Errorf("limit %q: %w", text, err)
	}
	*l = got
	return nil
}

// MarshalText writes what UnmarshalText reads.
func (l Limit) MarshalText() ([]byte, error) { return []byte(l.String()), nil }
