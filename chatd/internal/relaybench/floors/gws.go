package main

import (
	"net/http"

	"github.com/lxzan/gws"
)

// gwsEcho echoes with lxzan/gws.
type gwsEcho struct{ gws.BuiltinEventHandler }

// OnMessage implements gws.Event.
func (gwsEcho) OnMessage(c *gws.Conn, m *gws.Message) {
	defer m.Close()
	c.WriteMessage(m.Opcode, m.Bytes())
}

func newGWS() http.HandlerFunc {
	up := gws.NewUpgrader(gwsEcho{}, &gws.ServerOption{ReadBufferSize: 512, ReadMaxPayloadSize: maxMessage})
	return func(w http.ResponseWriter, r *http.Request) {
		if c, err := up.Upgrade(w, r); err == nil {
			go c.ReadLoop()
		}
	}
}
