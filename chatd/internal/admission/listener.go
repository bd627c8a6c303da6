package admission

import (
	"errors"
	"net"
	"sync/atomic"
	"syscall"
	"time"
)

// Kernel buffers of a client's socket. With the defaults, a client that sends
// and never reads holds 4.6 MB of kernel memory; with these, under 100 KB.
const (
	sendBuffer    = 32 << 10
	receiveBuffer = 16 << 10
)

// userTimeout is how long what was sent may wait to be acknowledged by a client:
// beyond it the kernel gives the connection up, also one that was closed here
// and still holds what the client does not take.
const userTimeout = 30 * time.Second

// Control is that of a net.ListenConfig: it sets on the listening socket what
// every accepted one inherits, without a system call for each.
func Control(_, _ string, c syscall.RawConn) error {
	var failed error
	err := c.Control(func(fd uintptr) {
		failed = errors.Join(
			syscall.SetsockoptInt(handle(fd), syscall.SOL_SOCKET, syscall.SO_SNDBUF, sendBuffer),
			syscall.SetsockoptInt(handle(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, receiveBuffer),
			setUserTimeout(handle(fd), userTimeout),
		)
	})
	return errors.Join(err, failed)
}

// Listener accepts TCP connections and closes at once those beyond Max: what a stranger can make the relay hold is bounded
// before a byte was read.
type Listener struct {
	net.Listener
	// Max is how many may be open at a time.
	Max int64
	// Refused hears of each one beyond.
	Refused func()

	open atomic.Int64
}

// Accept implements net.Listener.
func (l *Listener) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if l.open.Add(1) > l.Max {
			l.open.Add(-1)
			conn.Close()
			l.Refused()
			continue
		}
		return &counted{Conn: conn, open: &l.open}, nil
	}
}

// counted gives its place back when it is closed.
type counted struct {
	net.Conn
	open   *atomic.Int64
	closed atomic.Bool // small: there is one for each connection
}

// SyscallConn implements syscall.Conn: parked connections wait in an epoll set.
func (c *counted) SyscallConn() (syscall.RawConn, error) {
	s, ok := c.Conn.(syscall.Conn)
	if !ok {
		return nil, errors.ErrUnsupported
	}
	return s.SyscallConn()
}

func (c *counted) Close() error {
	if !c.closed.Swap(true) {
		c.open.Add(-1)
	}
	return c.Conn.Close()
}
