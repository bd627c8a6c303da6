package relay

import (
	"fmt"
	"os"
	"sync"
	"syscall"
	"time"

	"chatvault/chatd/internal/ratelimit"
)

// poller waits for the sockets of parked connections, in an epoll set of its
// own beside that of the Go runtime: one goroutine for all of them.
type poller struct {
	// static after construction
	file *os.File
	done chan struct{}
	read nowait // owned by run

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

// gather is how long the poller lets sockets become readable together, once they
// do so more often than that: to wake for each of a crowd of pongs took a quarter of
// a ping's CPU.
const gather = time.Millisecond

const (
	readable = syscall.EPOLLIN
	over     = syscall.EPOLLRDHUP | syscall.EPOLLERR | syscall.EPOLLHUP
	edge     = 1 << 31 // EPOLLET, which syscall has as a negative number
)

// watch tells of whatever comes from a parked connection, each time, until
// rest. The caller holds c.mu.
func (p *poller) watch(c *conn) error {
	err := os.ErrClosed
	if closed := c.raw.Control(func(fd uintptr) { err = p.add(c, int32(fd)) }); closed != nil {
		return closed
	}
	return err
}

func (p *poller) add(c *conn, fd int32) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.fd < 0 {
		return os.ErrClosed
	}
	for int(fd) >= len(p.parked) {
		p.parked = append(p.parked, make([]*conn, max(64, len(p.parked)))...)
	}
	op := syscall.EPOLL_CTL_MOD
	if c.fd == 0 { // it was not here yet
		op = syscall.EPOLL_CTL_ADD
	}
	// What is there already counts as new.
	if err := p.control(op, fd, readable|over|edge); err != nil {
		return err
	}
	p.parked[fd], c.fd = c, fd
	return nil
}

func (p *poller) control(op int, fd int32, events uint32) error {
	return syscall.EpollCtl(p.fd, op, int(fd), &syscall.EpollEvent{Events: events, Fd: fd})
}

// rest ends that: the connection has a reader. The socket stays in the set, and
// costs nothing there. The caller holds c.mu.
func (p *poller) rest(c *conn) {
	c.raw.Control(func(fd uintptr) { // not if it is closed: then it is in no set
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.fd >= 0 {
			p.control(syscall.EPOLL_CTL_MOD, int32(fd), edge)
		}
	})
}

// forget drops a connection that has ended. The kernel has dropped its socket
// when that was closed.
func (p *poller) forget(c *conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if int(c.fd) < len(p.parked) && p.parked[c.fd] == c {
		p.parked[c.fd] = nil
	}
}

// run hears parked connections until close. An event that was meant for a former
// owner of the descriptor goes to the present one, of which there is nothing to
// read.
func (p *poller) run(raw syscall.RawConn) {
	defer close(p.done)
	p.read.init(make([]byte, readBuffer))
	var events [128]syscall.EpollEvent
	for last := time.Now(); ; last = time.Now() {
		n := 0
		err := raw.Read(func(fd uintptr) bool {
			var err error
			n, err = syscall.EpollWait(int(fd), events[:], 0)
			return n > 0 || err != nil && err != syscall.EINTR
		})
		if err != nil || n < 0 {
			return
		}
		crowd := n < len(events) && time.Since(last) < gather
		for _, e := range events[:n] {
			p.mu.Lock()
			c := p.parked[e.Fd]
			p.mu.Unlock()
			if c != nil {
				c.onEvent(&p.read, e.Events == readable)
			}
		}
		if crowd {
			time.Sleep(gather)
		}
	}
}

// onEvent is called by the poller when something has come from a connection,
// which may be parked no more; bytes says that it is bytes, and not its end. It
// does not wait. What is not pings and pongs goes to a reader, with what was read
// of it; so does all that comes by TLS.
func (c *conn) onEvent(in *nowait, bytes bool) {
	c.mu.Lock()
	if !c.parked {
		c.mu.Unlock()
		return
	}
	if !c.plain() || c.ended || !bytes {
		c.resumeLocked()
		c.mu.Unlock()
		return
	}
	b, ok := in.readFrom(c.raw)
	if !ok || len(b) == len(in.b) || !onlyControls(b) {
		c.prepend(b)
		c.resumeLocked()
		c.mu.Unlock()
		return
	}
	wait, queued := c.hearLocked(b)
	c.mu.Unlock()
	if wait > 0 {
		c.refuseAndEnd(limited(0, ratelimit.FramesPerConnection, wait))
	} else if !queued {
		c.end(slowConsumer)
	}
}

func (p *poller) close() {
	p.mu.Lock()
	p.fd = -1
	p.mu.Unlock()
	p.file.Close()
	<-p.done
}
