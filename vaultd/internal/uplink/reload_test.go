package uplink_test

import (
	"crypto/tls"
	"testing"

	"chatvault/vaultd/internal/pki"
)

// New certificates are for new uplinks; those there are go on.
func TestSetTLS(t *testing.T) {
	w := newWorld(t, nil)
	c, old := w.dial(), w.clientTLS()
	p := w.open(c, 1, alice)
	w.dir = t.TempDir()
	if err := pki.Generate(w.dir, pki.Options{}); err != nil {
		t.Fatal(err)
	}
	config, err := pki.ServerTLS(w.path(pki.VaultdCert), w.path(pki.VaultdKey), w.path(pki.CACert))
	if err != nil {
		t.Fatal(err)
	}
	w.server.SetTLS(config)
	if conn, err := tls.Dial("tcp", w.addr, old); err == nil {
		conn.Close()
		t.Error("a chatd of the old authority reached a vault of the new one")
	}
	q := w.open(w.dial(), 1, alice)
	c.send(p.conn, p.seal("old"))
	p.reply("re:old")
	q.chatd.send(q.conn, q.seal("new"))
	q.reply("re:new")
}
