//go:build !linux

package relay

import "syscall"

// poller does not exist here: connections keep their goroutine.
type poller struct{}

func newPoller() (*poller, error) { return nil, nil }

func (*poller) watch(*conn) error { panic("no poller") }
func (*poller) rest(*conn)        { panic("no poller") }
func (*poller) forget(*conn)      {}
func (*poller) close()            {}

// writeNow leaves everything to the writer.
func writeNow(syscall.RawConn, []byte) int { return 0 }
