//go:build !linux

package relay

// poller does not exist here: connections keep their goroutine.
type poller struct{}

func newPoller() (*poller, error) { return nil, nil }

func (*poller) watch(*conn, int) error { panic("no poller") }
func (*poller) forget(*conn)           {}
func (*poller) close()                 {}
