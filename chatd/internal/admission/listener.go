package admission

import (
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
)

// Kernel buffers of a client's socket. With the defaults, a client that sends
// and never reads holds 4.6 MB of kernel memory; with these, under 100 KB.
const (
	sendBuffer    = 32 << 10
	receiveBuffer = 16 << 10
)

// Listener accepts TCP connections, with small kernel buffers, and closes at
// once those beyond Max: what a stranger can make the relay hold is bounded
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
		if tcp, ok := conn.(*net.TCPConn); ok {
			tcp.SetWriteBuffer(sendBuffer)
			tcp.SetReadBuffer(receiveBuffer)
		}
		return &counted{Conn: conn, open: &l.open}, nil
	}
}

// counted gives its place back when it is closed.
type counted struct {
	net.Conn
	open *atomic.Int64
	once sync.Once
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
	c.once.Do(func() { c.open.Add(-1) })
	return c.Conn.Close()
}
