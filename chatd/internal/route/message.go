package route

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"strconv"
	"strings"
)

// What relays say to one another on their channels. Any other message is
// dropped.
const (
	ringMessage    = 0x01 // account 32
	replaceMessage = 0x02 // account 32 ‖ device 16 ‖ epoch u64
)

var errMessage = errors.New("not a message of a relay")

// message is a notice, or with an epoch a replacement.
type message struct {
	account Account
	device  Device
	epoch   Epoch // 0: ring
}

func (m message) encode() string {
	if m.epoch == 0 {
		return string(append([]byte{ringMessage}, m.account[:]...))
	}
	b := append([]byte{replaceMessage}, m.account[:]...)
	b = append(b, m.device[:]...)
	return string(binary.BigEndian.AppendUint64(b, uint64(m.epoch)))
}

func parseMessage(s string) (m message, err error) {
	b := []byte(s)
	switch {
	case len(b) == 33 && b[0] == ringMessage:
		m.account = Account(b[1:])
		return m, nil
	case len(b) == 57 && b[0] == replaceMessage:
		m.account, m.device = Account(b[1:33]), Device(b[33:49])
		if m.epoch = Epoch(binary.BigEndian.Uint64(b[49:])); m.epoch > 0 {
			return m, nil
		}
	}
	return message{}, errMessage
}

// parseField reads one entry of a presence.
func parseField(field, value string) (relay string, dev Device, lapses int64, ok bool) {
	relay, name, two := strings.Cut(field, ":")
	_, end, timed := strings.Cut(value, ":")
	id, err := hex.DecodeString(name)
	lapses, bad := strconv.ParseInt(end, 10, 64)
	if !two || !timed || err != nil || bad != nil || len(id) != len(dev) || len(relay) != 16 {
		return "", dev, 0, false
	}
	return relay, Device(id), lapses, true
}
