package frame

import "fmt"

// Status says how an operation ended, on the outer wire and inside a vault
// session: one table, so that every layer means the same by a word.
type Status uint16

// Outer: said by the relay, or by vaultd to the relay. Nothing is charged when
// one of these answers a frame, but a client believes no number in them.
const (
	OK                 Status = 0
	Malformed          Status = 1
	UnsupportedVersion Status = 2
	AuthTimeout        Status = 3
	NotAuthorised      Status = 4
	TicketExpired      Status = 5
	RateLimited        Status = 6
	Busy               Status = 7
	NoVault            Status = 8
	NoSession          Status = 9
	SessionEnded       Status = 10
	Draining           Status = 11
	Replaced           Status = 12
	SlowConsumer       Status = 13
	WrongHost          Status = 14
	Internal           Status = 15
)

// Inner: said by the vault inside a vault session.
const (
	WrongPassword Status = 32
	Locked        Status = 33
	NotRegistered Status = 34
	Destroyed     Status = 35
	Conflict      Status = 36
	Paced         Status = 37
	Pending       Status = 38
	NotOwner      Status = 39
	TooMany       Status = 40
	Unavailable   Status = 41
	NoAttempt     Status = 42
	WrongFleet    Status = 43
	NoClaim       Status = 44
)

// statusRow is one line of the table that SPEC.md mirrors.
type statusRow struct {
	name      string
	retryable bool
	meaning   string
}

var statuses = map[Status]statusRow{
	OK:                 {"ok", false, "done"},
	Malformed:          {"malformed", false, "a frame or message of the wrong type, length or form"},
	UnsupportedVersion: {"unsupported_version", false, "the peer speaks another version of the protocol"},
	AuthTimeout:        {"auth_timeout", true, "AUTH did not come in time"},
	NotAuthorised:      {"not_authorised", false, "the ticket or a proof of possession was not accepted"},
	TicketExpired:      {"ticket_expired", true, "the ticket has ended; fetch a fresh one"},
	RateLimited:        {"rate_limited", true, "a limit was hit; wait as told"},
	Busy:               {"busy", true, "too many connections or sessions; wait as told"},
	NoVault:            {"no_vault", true, "no vault node can be reached"},
	NoSession:          {"no_session", true, "no such vault session here; open a new one"},
	SessionEnded:       {"session_ended", true, "the vault session was idle too long or was closed"},
	Draining:           {"draining", true, "this node is going away; reconnect"},
	Replaced:           {"replaced", false, "a newer connection took over"},
	SlowConsumer:       {"slow_consumer", true, "frames were not read in time"},
	WrongHost:          {"wrong_host", false, "AUTH names a host that this relay does not serve"},
	Internal:           {"internal", true, "a fault on this side"},

	WrongPassword: {"wrong_password", false, "the attempt failed; the charge stands"},
	Locked:        {"locked", false, "no attempts are left"},
	NotRegistered: {"not_registered", false, "nothing is registered for this account"},
	Destroyed:     {"destroyed", false, "the key was destroyed; nothing can bring it back"},
	Conflict:      {"conflict", false, "another registration came first, or this one differs from what was stored"},
	Paced:         {"paced", true, "too many attempts, by other devices or in this fleet; wait until the time told"},
	Pending:       {"pending", true, "a claim is waiting to ripen"},
	NotOwner:      {"not_owner", false, "only the owner device may do this at once; claim first"},
	TooMany:       {"too_many", false, "a limit of the record: claims, or replacements in 24 hours"},
	Unavailable:   {"unavailable", true, "storage or HSM failed; whether an attempt was charged is told"},
	NoAttempt:     {"no_attempt", true, "no attempt is in progress in this session; start anew with the same blind"},
	WrongFleet:    {"wrong_fleet", false, "the ticket names another fleet"},
	NoClaim:       {"no_claim", false, "no such claim"},
}

// Known says whether s stands in the table.
func (s Status) Known() bool { _, ok := statuses[s]; return ok }

// String is the code that documents, --json and metrics use.
func (s Status) String() string {
	if row, ok := statuses[s]; ok {
		return row.name
	}
	return fmt.Sprintf("status_%d", uint16(s))
}

// Retryable says whether the same request may succeed later, unchanged.
func (s Status) Retryable() bool { return statuses[s].retryable }

// Meaning is the table's sentence for people.
func (s Status) Meaning() string {
	if row, ok := statuses[s]; ok {
		return row.meaning
	}
	return "a status that this version does not know"
}

// Statuses lists the table in the order of its numbers.
func Statuses() []Status {
	var out []Status
	for s := Status(0); len(out) < len(statuses); s++ {
		if s.Known() {
			out = append(out, s)
		}
	}
	return out
}

// CloseCode maps a status to the WebSocket close code that carries it: 4000 +
// status asks the client to reconnect, 4500 + status is final.
func (s Status) CloseCode() int {
	if s.Retryable() {
		return 4000 + int(s)
	}
	return 4500 + int(s)
}
