package phones

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"time"
)

// maxAddresses bounds --local-addrs.
const maxAddresses = 4096

// Dialer makes TCP connections from several source addresses in turn: one
// address has about 28,000 ports for one target.
type Dialer struct {
	Addresses []netip.Addr // none: the system chooses
	next      atomic.Uint64
}

// ParseAddresses reads a list of addresses and ranges such as
// 127.0.0.2,127.0.0.10-127.0.0.20.
func ParseAddresses(text string) ([]netip.Addr, error) {
	var out []netip.Addr
	for part := range strings.SplitSeq(text, ",") {
		first, last, isRange := strings.Cut(part, "-")
		from, err := netip.ParseAddr(first)
		if err != nil {
			return nil, fmt.Errorf("%q is no address or range such as 127.0.0.2-127.0.0.9", part)
		}
		to := from
		if isRange {
			if to, err = netip.ParseAddr(last); err != nil || to.Less(from) || to.BitLen() != from.BitLen() {
				return nil, fmt.Errorf("%q is no range such as 127.0.0.2-127.0.0.9", part)
			}
		}
		for a := from; ; a = a.Next() {
			if len(out) == maxAddresses {
				return nil, fmt.Errorf("more than %d addresses", maxAddresses)
			}
			out = append(out, a)
			if a == to {
				break
			}
		}
	}
	return out, nil
}

// Dial is net.Dialer's DialContext from the next source address.
func (d *Dialer) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	// No keep-alive: what stays open unheard is measured here.
	dialer := net.Dialer{KeepAlive: -1 * time.Second}
	if n := uint64(len(d.Addresses)); n > 0 {
		a := d.Addresses[(d.next.Add(1)-1)%n]
		dialer.LocalAddr = &net.TCPAddr{IP: a.AsSlice(), Zone: a.Zone()}
	}
	return dialer.DialContext(ctx, network, address)
}
