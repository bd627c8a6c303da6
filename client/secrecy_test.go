package client_test

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"

	"chatvault/client"
	"chatvault/protocol/frame"
	"chatvault/protocol/vaultmsg"
)

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

// Planted secrets appear in no log and no error; but for the ticket in AUTH,
// in no frame; and neither password nor key in the Store.
func TestSecretsStayInside(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fakeRelay) {
		logs := &lockedBuffer{}
		var stored bytes.Buffer
		p := f.phone(func(c *client.Config) {
			c.Logger = slog.New(slog.NewTextHandler(logs, &slog.HandlerOptions{Level: slog.LevelDebug}))
		})
		var wire bytes.Buffer
		n := 0
		f.hook(func(d direction, fr frame.Frame) fate {
			if _, ok := fr.(frame.Auth); !ok {
				wire.Write(fr.Append(nil))
			}
			if n++; n%11 == 0 {
				return cut // plenty of reasons to log
			}
			return pass
		})
		const right, wrong = "canary password", "canary wrong password"
		key, _ := p.register(t, right)
		snapshot := func() {
			blob, err := p.cfg.Store.Load()
			if err != nil {
				t.Fatal(err)
			}
			stored.Write(blob)
		}
		snapshot()
		_, err := p.Recover(t.Context(), []byte(wrong))
		wantError(t, err, client.ErrWrongPassword)
		got, err2 := p.Recover(t.Context(), []byte(right))
		if err2 != nil {
			t.Fatal(err2)
		}
		f.vault.do(func() {
			f.vault.after = func(_ vaultmsg.Request, r *vaultmsg.Reply) { r.Status = frame.Malformed }
		})
		_, err3 := p.Recover(t.Context(), []byte(right))
		snapshot()
		f.hook(nil)
		f.vault.do(func() { f.vault.after = nil })

		tkt, err4 := p.cfg.Tickets(t.Context())
		if err4 != nil {
			t.Fatal(err4)
		}
		pem, err5 := p.cfg.Device.MarshalPEM()
		if err5 != nil {
			t.Fatal(err5)
		}
		said := logs.b.String() + fmt.Sprintf("%v %+v %#v %v %+v %v %+v", err, err, err, err3, p.Client, got, p.cfg)
		places := map[string]string{"logs and errors": said, "wire": wire.String(), "store": stored.String()}
		secrets := map[string]string{
			"password": right, "wrong password": wrong, "ticket's signature": tkt[len(tkt)-40:], "device key": string(pem[40:80]),
			"backup key": string(key.B[:]), "backup key in hex": hex.EncodeToString(key.B[:]),
			"backup key in base64": base64.StdEncoding.EncodeToString(key.B[:])[:40],
			"recovery key":         string(client.FormatRecoveryKey(key)[:40]),
		}
		for place, text := range places {
			if len(text) < 100 {
				t.Errorf("%s: only %d bytes seen", place, len(text))
			}
			for name, secret := range secrets {
				if strings.Contains(text, secret) {
					t.Errorf("%s in %s", name, place)
				}
			}
		}
	})
}
