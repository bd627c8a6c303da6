// Package frame is the outer wire: all that the relay may know.
//
// One WebSocket binary message is one frame: a type byte, then the body.
// Integers are big-endian; lp(x) is a u16 length, then x. A body of the wrong
// length is malformed: nothing is skipped, nothing is padded.
//
// The flow, from a client's first byte:
//
//	phone                          chatd                         vaultd
//	  | GET /v1/ws, chatvault.v1     |                              |
//	  |<------------------- HELLO ---| fresh nonce                  |
//	  |--- AUTH -------------------->| verifies ticket and proof    |
//	  |<------------------- READY ---|                              |
//	  |--- OPEN (message 1) -------->|--- OPEN -------------------->| makes the id
//	  |<------------------ ATTACH ---|<------------------ ATTACH ---|
//	  |<-- DATA 0 (message 2) -------|<-- DATA 0 -------------------|
//	  |--- DATA n ------------------>|--- DATA n ------------------>| n = 1, 2, …
//	  |<------------------ DATA n ---|<------------------ DATA n ---|
//	  |--- CLOSE ------------------->|--- CLOSE ------------------->|
//
// A client that lost its connection authenticates on a new one, to any chatd,
// and sends ATTACH with the session id; then it repeats its last DATA frame.
package frame

// The endpoint that a relay serves, and the WebSocket subprotocol on it.
// permessage-deflate is off: the payloads are ciphertext.
const (
	Path        = "/v1/ws"
	FleetPath   = "/v1/fleet"
	Subprotocol = "chatvault.v1"
	Version     = 1
)

// Type is the first byte of a frame.
type Type uint8

// Every frame there is. c = client, r = relay.
const (
	THello  Type = 0x01 // r→c  version u8 ‖ nonce 32 ‖ bundle epoch u32
	TAuth   Type = 0x02 // c→r  device key 65 ‖ signature 64 ‖ lp(host) ‖ lp(ticket)
	TReady  Type = 0x03 // r→c  ticket ends u64 (Unix s) ‖ ping every u32 (ms)
	TOpen   Type = 0x04 // c→r  tag u32 ‖ handshake message 1 (1 to 4096)
	TAttach Type = 0x05 // both tag u32 ‖ session id 20
	TData   Type = 0x06 // both session id 20 ‖ sequence u32 ‖ payload (1 to 4096)
	TClose  Type = 0x07 // both session id 20 ‖ status u16
	TNotice Type = 0x08 // r→c  (empty) an operation on this account has ended; ask `status`
	TGoaway Type = 0x09 // r→c  status u16 ‖ reconnect in u32 (ms)
	TRefuse Type = 0x0a // r→c  refused type u8 ‖ tag u32 ‖ session id 20 ‖ status u16 ‖ retry in u32 (ms) ‖ lp(limit)
)

// Sizes, in bytes.
const (
	NonceSize     = 32
	DeviceKeySize = 65 // P-256, uncompressed
	SignatureSize = 64 // ES256, r ‖ s
	SessionIDSize = 20 // vault node 4 ‖ random 16

	MaxTicket  = 2048
	MaxHost    = 255
	MaxLimit   = 32   // the name of a limit in REFUSE, ASCII
	MaxPayload = 4096 // of OPEN and DATA

	dataHeader = 1 + SessionIDSize + 4
	// MaxFrame is the largest frame, type byte included: a full DATA frame.
	MaxFrame = dataHeader + MaxPayload
)

// NodeID names a vault node within its fleet.
type NodeID [4]byte

// SessionID names a vault session. vaultd makes it; its first four bytes say
// where the session lives.
type SessionID [SessionIDSize]byte

// Node returns the vault node on which the session lives.
func (s SessionID) Node() NodeID { return NodeID(s[:4]) }

// Hello opens a connection.
type Hello struct {
	Version     uint8
	Nonce       [NonceSize]byte
	BundleEpoch uint32
}

// Auth proves, over Hello's nonce, that the client holds the ticket's device
// key. It is sent again on the live connection before the ticket ends, over
// the same nonce.
type Auth struct {
	DeviceKey [DeviceKeySize]byte
	Signature [SignatureSize]byte
	Host      string // the host that the client dialled, 1 to 255 bytes
	Ticket    string // 1 to 2,048 bytes
}

// Ready accepts an Auth.
type Ready struct {
	TicketEnds uint64 // Unix seconds
	PingMillis uint32 // how often a silent client should ping
}

// Open asks for a new vault session. Tag is the client's own number for it,
// until it learns the session id.
type Open struct {
	Tag     uint32
	Payload []byte
}

// Attach asks to continue a session on this connection (client), or says that
// the session is now attached to it (relay).
type Attach struct {
	Tag     uint32
	Session SessionID
}

// Data carries one opaque payload of a session. Sequence 0 is the handshake.
type Data struct {
	Session  SessionID
	Sequence uint32
	Payload  []byte
}

// Close ends a session, with the reason.
type Close struct {
	Session SessionID
	Status  Status
}

// Notice is an empty doorbell.
type Notice struct{}

// Goaway asks the client to reconnect elsewhere, after the delay.
type Goaway struct {
	Status          Status
	ReconnectMillis uint32
}

// Refuse answers a frame that was not acted upon. Nothing was charged because
// of it. Tag and Session are those of the refused frame, or zero.
type Refuse struct {
	Refused     Type
	Tag         uint32
	Session     SessionID
	Status      Status
	RetryMillis uint32
	Limit       string // the limit that was hit, or empty
}

// Frame is one of the ten types above.
type Frame interface {
	Type() Type
	// Append appends the frame as it goes on the wire. It panics when a field
	// is outside of its limits: that is a bug of the caller.
	Append(b []byte) []byte
}

// Type implements Frame.
func (Hello) Type() Type  { return THello }
func (Auth) Type() Type   { return TAuth }
func (Ready) Type() Type  { return TReady }
func (Open) Type() Type   { return TOpen }
func (Attach) Type() Type { return TAttach }
func (Data) Type() Type   { return TData }
func (Close) Type() Type  { return TClose }
func (Notice) Type() Type { return TNotice }
func (Goaway) Type() Type { return TGoaway }
func (Refuse) Type() Type { return TRefuse }
