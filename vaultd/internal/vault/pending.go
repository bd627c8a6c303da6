package vault

import (
	"sync"
	"time"

	"chatvault/protocol/ticket"
	"chatvault/vaultd/internal/hsm"
	"chatvault/vaultd/internal/rules"

	"chatvault/protocol/vaultmsg"
)

// started is a registration between RegistrationRequest and RegisterFinish: a
// fresh OPRF key that has evaluated one element and is stored nowhere yet.
type started struct {
	rules.Registration
	account ticket.Account
	wrapped [hsm.WrappedSize]byte
	public  [hsm.PointSize]byte
	ends    time.Time
}

// maxPerAccount bounds how many registrations an account has in progress.
const maxPerAccount = 4

// pending holds the registrations in progress on this node, in memory only.
type pending struct {
	keep time.Duration
	max  int

	mu   sync.Mutex // guards byID
	byID map[vaultmsg.RegistrationID]started
}

func newPending(keep time.Duration, max int) *pending {
	return &pending{keep: keep, max: max, byID: make(map[vaultmsg.RegistrationID]started)}
}

// add keeps a started registration. When the account has too many, its oldest
// goes; when the node has, add says no.
func (p *pending) add(s started, now time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	s.ends = now.Add(p.keep)
	var oldest vaultmsg.RegistrationID
	n := 0
	for id, other := range p.byID {
		if !now.Before(other.ends) {
			delete(p.byID, id)
			continue
		}
		if other.account == s.account {
			if n++; n == 1 || other.ends.Before(p.byID[oldest].ends) {
				oldest = id
			}
		}
	}
	if n >= maxPerAccount {
		delete(p.byID, oldest)
	}
	if len(p.byID) >= p.max {
		return false
	}
	p.byID[s.ID] = s
	return true
}

// get returns a registration of this account and device.
func (p *pending) get(id vaultmsg.RegistrationID, account ticket.Account, device vaultmsg.Thumbprint, now time.Time) (started, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	s, ok := p.byID[id]
	if !ok || s.account != account || s.Device != device || !now.Before(s.ends) {
		return started{}, false
	}
	return s, true
}

func (p *pending) drop(id vaultmsg.RegistrationID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.byID, id)
}
