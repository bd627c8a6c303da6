package relay

import "chatvault/protocol/frame"

// Reason says why a connection ended. Each is counted as "closed_" + its name.
type Reason uint8

// Every reason there is.
const (
	clientLeft Reason = iota
	oversized
	wsProtocol
	silent
	malformed
	authTimeout
	notAuthorised
	wrongHost
	ticketExpired
	rateLimited
	slowConsumer
	draining
	replaced
	internal
)

// noStatus: the connection is closed without a close frame of ours, because
// the client has gone, or because gorilla/websocket sent one already (1009 for
// an oversized message, 1002 for broken WebSocket framing).
const noStatus = frame.Status(0)

var reasons = map[Reason]struct {
	name   string
	status frame.Status
}{
	clientLeft:    {"client_left", noStatus},
	oversized:     {"oversized", noStatus},
	wsProtocol:    {"websocket_protocol", noStatus},
	silent:        {"silent", noStatus},
	malformed:     {"malformed", frame.Malformed},
	authTimeout:   {"auth_timeout", frame.AuthTimeout},
	notAuthorised: {"not_authorised", frame.NotAuthorised},
	wrongHost:     {"wrong_host", frame.WrongHost},
	ticketExpired: {"ticket_expired", frame.TicketExpired},
	rateLimited:   {"rate_limited", frame.RateLimited},
	slowConsumer:  {"slow_consumer", frame.SlowConsumer},
	draining:      {"draining", frame.Draining},
	replaced:      {"replaced", frame.Replaced},
	internal:      {"internal", frame.Internal},
}

func (r Reason) String() string { return reasons[r].name }

// reasonOf is the reason to close with after a refusal with status.
func reasonOf(s frame.Status) Reason {
	for r, row := range reasons {
		if row.status == s && s != noStatus {
			return r
		}
	}
	return internal
}
