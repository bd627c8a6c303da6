//go:build linux

package main

import (
	"net"
	"sync"
)

// weather is what a link does with what is sent through it.
type weather int

const (
	fair weather = iota
	// dark delivers nothing, in either direction, and tells nobody: as a link
	// that loses every packet. What was sent arrives when it is fair again.
	dark
	// cut ends every connection and takes no new one.
	cut
)

// link is a stretch of network that can fail: a TCP proxy.
type link struct {
	listener net.Listener
	targets  func() []string // to be tried in this order, for each connection

	mu      sync.Mutex
	changed *sync.Cond
	now     weather
	closed  bool
	ends    map[net.Conn]struct{}
	running sync.WaitGroup
}

func newLink(targets func() []string) (*link, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	l := &link{listener: ln, targets: targets, ends: map[net.Conn]struct{}{}}
	l.changed = sync.NewCond(&l.mu)
	l.running.Go(l.accept)
	return l, nil
}

func (l *link) addr() string { return l.listener.Addr().String() }

// set changes the weather.
func (l *link) set(w weather) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.now = w
	if w == cut {
		l.endAll()
	}
	l.changed.Broadcast()
}

// endAll is called with mu held.
func (l *link) endAll() {
	for c := range l.ends {
		c.Close()
	}
}

func (l *link) close() {
	l.listener.Close()
	l.mu.Lock()
	l.closed = true
	l.endAll()
	l.changed.Broadcast()
	l.mu.Unlock()
	l.running.Wait()
}

func (l *link) accept() {
	for {
		c, err := l.listener.Accept()
		if err != nil {
			return
		}
		if l.keep(c) {
			l.running.Go(func() { l.serve(c) })
		}
	}
}

// keep notes an end, or closes it when the link is cut.
func (l *link) keep(c net.Conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed || l.now == cut {
		c.Close()
		return false
	}
	l.ends[c] = struct{}{}
	return true
}

func (l *link) drop(c net.Conn) {
	c.Close()
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.ends, c)
}

// clear waits until it is not dark, and reports false when the link is closed.
func (l *link) clear() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for l.now == dark && !l.closed {
		l.changed.Wait()
	}
	return !l.closed
}

func (l *link) serve(near net.Conn) {
	defer l.drop(near)
	if !l.clear() {
		return
	}
	var far net.Conn
	for _, target := range l.targets() {
		c, err := net.Dial("tcp", target)
		if err == nil {
			far = c
			break
		}
	}
	if far == nil || !l.keep(far) {
		return
	}
	defer l.drop(far)
	var back sync.WaitGroup
	back.Go(func() { l.copy(near, far) })
	l.copy(far, near)
	back.Wait()
}

// copy carries bytes until an end is gone, which ends the other.
func (l *link) copy(to, from net.Conn) {
	defer to.Close()
	defer from.Close()
	buf := make([]byte, 16<<10)
	for {
		n, err := from.Read(buf)
		if !l.clear() {
			return
		}
		if n > 0 {
			if _, err := to.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}
