package load

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"syscall"

	"github.com/gorilla/websocket"

	"chatvault/client"
	"chatvault/client/cmd/chatload/internal/measure"
	"chatvault/client/cmd/chatload/internal/phones"
	"chatvault/client/internal/relay"
	"chatvault/protocol/frame"
)

// Codes of this side. The others are the wire's statuses, "http_" and a status,
// or "close_" and a WebSocket close code.
const (
	CodeOK            = "ok"
	CodeNoDescriptors = "no_descriptors" // the generator has no more
	CodeNoPorts       = "no_ports"       // its source addresses have no more
	CodeNoPhones      = "no_phones"      // its file of tickets has no more
	codeTimeout       = "timeout"
	codeInterrupted   = "interrupted" // the run was, and this with it
	codeRefused       = "connection_refused"
	codeLost          = "connection_lost"
	codeProtocol      = "protocol"
	codeOther         = "other"
)

// CodeNotAuthorised is the wire's, for tickets that are not accepted.
var CodeNotAuthorised = frame.NotAuthorised.String()

// status is a refusal that a relay expressed on the wire.
type status string

func (s status) Error() string { return string(s) }

// codeOf is the word for an error.
func codeOf(err error) string {
	if err == nil {
		return CodeOK
	}
	if s, ok := errors.AsType[status](err); ok {
		return string(s)
	}
	// What the operating system refuses first: the SDK's errors hold it too.
	switch {
	case errors.Is(err, syscall.EMFILE), errors.Is(err, syscall.ENFILE):
		return CodeNoDescriptors
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return CodeNoPorts
	case errors.Is(err, phones.ErrUsedUp):
		return CodeNoPhones
	}
	if c, ok := errors.AsType[*client.Error](err); ok && c.Code != frame.OK {
		return c.Code.String()
	}
	if r, ok := errors.AsType[*relay.Refusal](err); ok {
		return r.Status.String()
	}
	if r, ok := errors.AsType[*relay.Ended](err); ok {
		return r.Status.String()
	}
	if c, ok := errors.AsType[*websocket.CloseError](err); ok {
		return closeCode(c.Code)
	}
	if _, ok := errors.AsType[*client.StoryError](err); ok {
		return client.CodeName(err)
	}
	return networkCode(err)
}

func networkCode(err error) string {
	timeout, isNet := errors.AsType[net.Error](err)
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return codeRefused
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, context.Canceled):
		return codeTimeout
	case isNet && timeout.Timeout():
		return codeTimeout
	case errors.Is(err, relay.ErrProtocol), errors.Is(err, client.ErrProtocol), errors.Is(err, frame.ErrMalformed):
		return codeProtocol
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNRESET),
		errors.Is(err, syscall.EPIPE), errors.Is(err, net.ErrClosed), errors.Is(err, relay.ErrLost):
		return codeLost
	}
	if name := client.CodeName(err); name != "error" {
		return name
	}
	return codeOther
}

// closeCode is the wire's status that a WebSocket close code carries, or its
// number.
func closeCode(code int) string {
	for _, base := range []int{4500, 4000} {
		if s := frame.Status(code - base); code > base && s.Known() && s.CloseCode() == code {
			return s.String()
		}
	}
	if code == websocket.CloseAbnormalClosure {
		return codeLost
	}
	return "close_" + strconv.Itoa(code)
}

// httpCode is the word for a refused upgrade.
func httpCode(resp *http.Response) string {
	switch resp.StatusCode {
	case http.StatusTooManyRequests:
		return frame.RateLimited.String()
	case http.StatusServiceUnavailable:
		return frame.Busy.String()
	}
	return "http_" + strconv.Itoa(resp.StatusCode)
}

// outcome is the outcome that an error, or none, is.
func outcome(err error) measure.Outcome {
	return measure.Outcome{Code: codeOf(err), Failed: err != nil}
}
