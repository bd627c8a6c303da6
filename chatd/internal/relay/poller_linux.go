package relay

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"
	"time"
)

// poller waits for the sockets of parked connections, in an epoll set of its
// own beside that of the Go runtime: one goroutine for all of them.
type poller struct {
	// static after construction
	file *os.File
	done chan struct{}

	mu     sync.Mutex // guards what follows; taken while a conn's mu is held
	fd     int        // -1 when closed
	parked []*conn    // by descriptor; may name connections that are parked no more
}

func newPoller() (*poller, error) {
	fd, err := syscall.EpollCreate1(syscall.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("epoll: %w", err)
	}
	// Non-blocking: then the runtime's own poller waits for ours, and no thread
	// is spent on it.
	if err := syscall.SetNonblock(fd, true); err != nil {
		syscall.Close(fd)
		return nil, fmt.Errorf("epoll: %w", err)
	}
	p := &poller{file: os.NewFile(uintptr(fd), "epoll"), fd: fd, done: make(chan struct{})}
	raw, err := p.file.SyscallConn()
	if err == nil {
		err = p.file.SetReadDeadline(time.Time{}) // fails if the runtime cannot wait for it
	}
	if err != nil {
		p.file.Close()
		return nil, fmt.Errorf("epoll: %w", err)
	}
	go p.run(raw)
	return p, nil
}

// watch has the connection resumed as soon as its socket can be read, has
// ended or has failed: once. The caller holds c.mu and the descriptor.
func (p *poller) watch(c *conn, fd int) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.fd < 0 {
		return os.ErrClosed
	}
	for fd >= len(p.parked) {
		p.parked = append(p.parked, make([]*conn, max(64, len(p.parked)))...)
	}
	p.parked[fd], c.fd = c, fd
	event := syscall.EpollEvent{Events: syscall.EPOLLIN | syscall.EPOLLRDHUP | syscall.EPOLLONESHOT, Fd: int32(fd)}
	err := syscall.EpollCtl(p.fd, syscall.EPOLL_CTL_MOD, fd, &event)
	if errors.Is(err, syscall.ENOENT) {
		err = syscall.EpollCtl(p.fd, syscall.EPOLL_CTL_ADD, fd, &event)
	}
	return err
}

// forget drops a connection that has ended. The kernel has dropped its socket
// when that was closed.
func (p *poller) forget(c *conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if c.fd < len(p.parked) && p.parked[c.fd] == c {
		p.parked[c.fd] = nil
	}
}

// run resumes connections until close. An event that was meant for a former
// owner of the descriptor resumes the present one: that one finds nothing to
// read and parks again.
func (p *poller) run(raw syscall.RawConn) {
	defer close(p.done)
	var events [128]syscall.EpollEvent
	for {
		n := 0
		err := raw.Read(func(fd uintptr) bool {
			var err error
			n, err = syscall.EpollWait(int(fd), events[:], 0)
			return n > 0 || err != nil && err != syscall.EINTR
		})
		if err != nil || n < 0 {
			return
		}
		for _, e := range events[:n] {
			p.mu.Lock()
			c := p.parked[e.Fd]
			p.mu.Unlock()
			if c != nil {
				c.resume()
			}
		}
	}
}

func (p *poller) close() {
	p.mu.Lock()
	p.fd = -1
	p.mu.Unlock()
	p.file.Close()
	<-p.done
}
