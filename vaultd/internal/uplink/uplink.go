package uplink

import (
	"bufio"
	"crypto/tls"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"chatvault/protocol/frame"
	"chatvault/vaultd/internal/session"
)

// uplink is one established connection to a chatd.
type uplink struct {
	// static after construction
	server *Server
	conn   *tls.Conn
	out    *queue

	// owned by the read loop
	lines map[uint32]*session.Line // by chatd's number, from PEER to GONE
}

// errProtocol is a frame that its sender may not send, or not now.
var errProtocol = errors.New("a frame out of place")

func newUplink(s *Server, conn *tls.Conn) *uplink {
	return &uplink{
		server: s, conn: conn,
		out: newQueue(s.cfg.QueueBytes, func(why Event) {
			s.counts.add(why) // before the other side can know
			conn.NetConn().Close()
		}),
		lines: make(map[uint32]*session.Line),
	}
}

// run serves the uplink to its end and says why it ended.
func (u *uplink) run() Event {
	var writing sync.WaitGroup
	writing.Go(u.write)
	err := u.read()
	u.out.stop(reasonOf(err)) // unless the write side gave a reason before
	writing.Wait()
	for _, l := range u.lines {
		l.Gone()
	}
	return u.out.why()
}

// reasonOf tells the ways apart in which reading ends.
func reasonOf(err error) Event {
	switch {
	case errors.Is(err, frame.ErrMalformed), errors.Is(err, errProtocol):
		return EndedMalformed
	case errors.Is(err, errTooMany):
		return EndedTooMany
	case errors.Is(err, os.ErrDeadlineExceeded):
		return EndedSilent
	}
	return EndedByPeer
}

var errTooMany = errors.New("too many connections on one uplink")

// read takes envelopes until something ends it; it never returns nil.
func (u *uplink) read() error {
	r := bufio.NewReaderSize(u.conn, 64<<10)
	buf := make([]byte, frame.MaxFrame)
	timeout, moved := u.server.cfg.HandshakeTimeout, time.Time{}
	for {
		// Moved by whole envelopes, not by bytes; not for each of thousands a second.
		if now := time.Now(); now.Sub(moved) > timeout/16 {
			if err := u.conn.SetReadDeadline(now.Add(timeout)); err != nil {
				return err
			}
			moved = now
		}
		number, raw, err := frame.ReadEnvelope(r, buf)
		if err != nil {
			return err
		}
		if timeout != u.server.cfg.DeadAfter {
			timeout, moved = u.server.cfg.DeadAfter, time.Time{}
		}
		f, err := frame.ParseUplink(raw)
		if err != nil {
			return err
		}
		if number == 0 {
			err = u.own(f)
		} else {
			err = u.client(number, f)
		}
		if err != nil {
			return err
		}
	}
}

// own acts on a frame of the uplink itself.
func (u *uplink) own(f frame.Frame) error {
	switch f.(type) {
	case frame.UplinkPing:
		u.out.send(0, frame.UplinkPong{})
	case frame.UplinkPong: // it lives: the read deadline has been moved
	default:
		return fmt.Errorf("%w: %T on connection 0", errProtocol, f)
	}
	return nil
}

// client acts on a frame of one client's connection.
func (u *uplink) client(number uint32, f frame.Frame) error {
	line := u.lines[number]
	switch f := f.(type) {
	case frame.UplinkPeer:
		return u.peer(number, f)
	case frame.UplinkGone:
		// A connection that never named its peer has nothing here.
		if line != nil {
			line.Gone()
			delete(u.lines, number)
		}
		return nil
	case frame.Data:
		if line == nil {
			u.out.send(number, frame.Close{Session: f.Session, Status: frame.NoSession})
			return nil
		}
		line.Data(f)
		return nil
	case frame.Close:
		if line != nil {
			line.Close(f)
		}
		return nil
	case frame.UplinkCredit:
		if line != nil {
			line.Credit(f)
		}
		return nil
	case frame.Open:
		if line != nil {
			line.Open(f)
			return nil
		}
	case frame.Attach:
		if line != nil {
			line.Attach(f)
			return nil
		}
	}
	return fmt.Errorf("%w: %T on a client's connection, peer known: %t", errProtocol, f, line != nil)
}

func (u *uplink) peer(number uint32, p frame.UplinkPeer) error {
	if u.lines[number] != nil {
		return fmt.Errorf("%w: a second peer of one connection", errProtocol)
	}
	if len(u.lines) >= u.server.cfg.MaxConnections {
		return errTooMany
	}
	out := u.out
	u.lines[number] = u.server.cfg.Sessions.NewLine(p.Hash, func(f frame.Frame) { out.send(number, f) })
	return nil
}

// write writes what is queued, in as few writes as it can, and pings. It ends when
// the queue is stopped, or finished and empty.
func (u *uplink) write() {
	ping := time.NewTicker(u.server.cfg.PingEvery)
	defer ping.Stop()
	var spare []byte
	for {
		select {
		case <-u.out.ready:
		case <-ping.C:
			u.out.send(0, frame.UplinkPing{})
			continue
		}
		batch, last := u.out.take(spare)
		if len(batch) > 0 {
			if err := u.writeBatch(batch); err != nil {
				u.out.stop(EndedWriteFailed)
				last = true
			}
		}
		if last {
			u.hangUp()
			return
		}
		spare = batch[:0]
	}
}

func (u *uplink) writeBatch(b []byte) error {
	if err := u.conn.SetWriteDeadline(time.Now().Add(u.server.cfg.WriteTimeout)); err != nil {
		return err
	}
	_, err := u.conn.Write(b)
	return err
}

// lingers is how long chatd may take to hang up, after we have.
const lingers = 2 * time.Second

// hangUp says that nothing more will come, and leaves it to chatd to close: if we
// closed with something unread, chatd might never see our last frames.
func (u *uplink) hangUp() {
	if u.out.why() != EndedShutdown {
		return // the connection is closed already
	}
	u.conn.CloseWrite()
	if raw, ok := u.conn.NetConn().(interface{ CloseWrite() error }); ok {
		raw.CloseWrite()
	}
	time.AfterFunc(lingers, func() { u.out.stop(EndedShutdown) })
}
