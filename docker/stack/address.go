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
	var said struct {
		Msg     string `json:"msg"`
		Address string `json:"address"`
	}
	if json.Unmarshal(line, &said) != nil || said.Msg != "listening" || said.Address == "" {
		return false
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.addr = said.Address
	return true
}
