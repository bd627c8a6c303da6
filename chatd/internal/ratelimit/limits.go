package ratelimit

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// The limits by name: what REFUSE and the configuration call them.
const (
	ConnectionsPerIP        = "ConnectionsPerIP"        // an IPv4 address, an IPv6 /64
	ConnectionsPerIPv6Range = "ConnectionsPerIPv6Range" // an IPv6 /48
	ConnectionsPerAccount   = "ConnectionsPerAccount"   // shared by all relays
	OpensPerAccount         = "OpensPerAccount"         // vault sessions; shared by all relays
	AttachesPerConnection   = "AttachesPerConnection"
	AuthsPerConnection      = "AuthsPerConnection"
	FramesPerConnection     = "FramesPerConnection" // frames, pings and pongs; beyond it the connection is closed
)

// Set holds a limit per name.
type Set map[string]Limit

// Defaults returns every limit there is, as it stands when nothing is
// configured.
func Defaults() Set {
	return Set{
		ConnectionsPerIP:        {Burst: 50, Count: 10, Period: time.Second},
		ConnectionsPerIPv6Range: {Burst: 200, Count: 40, Period: time.Second},
		ConnectionsPerAccount:   {Burst: 60, Count: 60, Period: time.Minute},
		OpensPerAccount:         {Burst: 60, Count: 30, Period: time.Minute},
		AttachesPerConnection:   {Burst: 8, Count: 1, Period: time.Second},
		AuthsPerConnection:      {Burst: 4, Count: 4, Period: time.Minute},
		FramesPerConnection:     {Burst: 200, Count: 50, Period: time.Second},
	}
}

// Override returns Defaults with what changes says in its place.
func Override(changes map[string]Limit) (Set, error) {
	set := Defaults()
	for name, l := range changes {
		if _, ok := set[name]; !ok {
			return nil, fmt.Errorf("limit %q: there is none of that name", name)
		}
		if err := l.Check(); err != nil {
			return nil, fmt.Errorf("limit %s: %w", name, err)
		}
		set[name] = l
	}
	return set, nil
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
