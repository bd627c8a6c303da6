package stack

import (
	"encoding/json"
	"sync"
)

// address is where a daemon listens: any free port of loopback at first, then
// always the one that it got.
type address struct {
	mu   sync.Mutex
	addr string
}

func (a *address) get() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.addr == "" {
		return "127.0.0.1:0"
	}
	return a.addr
}

// learn finds the line of a daemon's log that says that it listens.
func (a *address) learn(line []byte) bool {
	m := said(line)
	if m.Msg != "listening" || m.Address == "" {
		return false
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.addr = m.Address
	return true
}

// message is a line of a daemon's log that tells an address.
type message struct {
	Msg     string `json:"msg"`
	Address string `json:"address"`
}

// said reads such a line; any other is an empty message.
func said(line []byte) (m message) {
	if json.Unmarshal(line, &m) != nil {
		return message{}
	}
	return m
}
