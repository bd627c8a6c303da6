package main

import (
	"errors"
	"io"
	"net"
	"sync"
	"time"
)

// delayProxy is a TCP proxy that hands on what it gets after a fixed time, in both
// directions: distance without loss or narrowness.
type delayProxy struct {
	target string
	oneWay time.Duration
	l      net.Listener

	mu    sync.Mutex
	conns map[net.Conn]struct{} // guarded by mu; nil once closed
	wg    sync.WaitGroup
}

func newDelayProxy(target string, oneWay time.Duration) (*delayProxy, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	p := &delayProxy{target: target, oneWay: oneWay, l: l, conns: make(map[net.Conn]struct{})}
	p.wg.Go(p.accept)
	return p, nil
}

func (p *delayProxy) addr() string { return p.l.Addr().String() }

func (p *delayProxy) accept() {
	for {
		c, err := p.l.Accept()
		if err != nil {
			return // it was closed
		}
		p.wg.Go(func() { p.serve(c) })
	}
}

func (p *delayProxy) serve(from net.Conn) {
	defer from.Close()
	to, err := net.Dial("tcp", p.target)
	if err != nil {
		return // the member is not up yet, and will be asked again
	}
	defer to.Close()
	if !p.track(from, to) {
		return
	}
	defer p.untrack(from, to)
	var both sync.WaitGroup
	both.Go(func() { p.pass(to, from) })
	both.Go(func() { p.pass(from, to) })
	both.Wait()
}

func (p *delayProxy) track(conns ...net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.conns == nil {
		return false
	}
	for _, c := range conns {
		p.conns[c] = struct{}{}
	}
	return true
}

func (p *delayProxy) untrack(conns ...net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range conns {
		delete(p.conns, c)
	}
}

// piece is what came in one read, and when it is due.
type piece struct {
	b   []byte
	due time.Time
}

// pass hands bytes on in one direction. Reading goes on while earlier pieces wait:
// else the delay would narrow the link too.
func (p *delayProxy) pass(dst, src net.Conn) {
	pieces := make(chan piece, 4096)
	var writer sync.WaitGroup
	writer.Go(func() {
		// Whatever ends the one direction ends the other, after what is under way.
		defer dst.Close()
		defer src.Close()
		for q := range pieces {
			time.Sleep(time.Until(q.due))
			if _, err := dst.Write(q.b); err != nil {
				break
			}
		}
		for range pieces {
			// so that the reader does not wait for us
		}
	})
	for {
		b := make([]byte, 32<<10)
		n, err := src.Read(b)
		if n > 0 {
			pieces <- piece{b[:n], time.Now().Add(p.oneWay)}
		}
		if err != nil {
			break
		}
	}
	close(pieces)
	writer.Wait()
}

// close ends the proxy and all that goes through it.
func (p *delayProxy) close() error {
	err := p.l.Close()
	p.mu.Lock()
	for c := range p.conns {
		c.Close()
	}
	p.conns = nil
	p.mu.Unlock()
	p.wg.Wait()
	return err
}

// roundTrip measures one through a proxy of its own, from a byte to its echo.
func roundTrip(oneWay time.Duration) (time.Duration, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	go func() {
		if c, err := l.Accept(); err == nil {
			io.Copy(c, c)
			c.Close()
		}
	}()
	p, err := newDelayProxy(l.Addr().String(), oneWay)
	if err != nil {
		return 0, err
	}
	c, err := net.Dial("tcp", p.addr())
	if err != nil {
		return 0, errors.Join(err, p.close())
	}
	began := time.Now()
	if _, err = c.Write([]byte{1}); err == nil {
		_, err = io.ReadFull(c, make([]byte, 1))
	}
	took := time.Since(began)
	return took, errors.Join(err, c.Close(), p.close())
}
