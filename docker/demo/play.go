package main

import (
	"context"
	"fmt"
	"io"
	"path/filepath"
	"time"

	"chatvault/docker/stack"
)

// refresh is how often play mints a ticket; one is good for an hour.
const refresh = 30 * time.Minute

// play waits until the context ends, and keeps a ticket fresh meanwhile.
func play(ctx context.Context, w *world) error {
	const phone = "phone"
	if err := w.newPhone(ctx, phone); err != nil {
		return err
	}
	ctl := filepath.Join(w.stack.BinDir, "backupctl")
	key, err := filepath.Rel(w.dir, w.stack.IssuerKeyFile)
	if err != nil {
		return err
	}
	fmt.Fprintf(w.out, `
The stack runs until Ctrl-C, which removes everything.

  URL     %s
  pins    %s
  ticket  %s (minted anew every %.0f minutes)
  logs    %s

Try next, from another terminal:

  cd %s
  %s register --config phone.yaml
  %[7]s backup ANY-FOLDER backup.cvb --config phone.yaml
  %[7]s status --config phone.yaml
  %[8]s run echo --url %[1]s --fleet pins.json --issuer-key %[9]s --iss %[10]s --connections 20 --rate 50 --out load
`, w.stack.URL(), w.path("pins.json"), w.path(ticketOf(phone)), refresh.Minutes(), w.path("servers/*.log"), w.dir, ctl,
		filepath.Join(w.stack.BinDir, "chatload"), key, stack.Issuer)
	ticker := time.NewTicker(refresh)
	defer ticker.Stop()
	w.out = io.Discard
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
			if err := w.mint(ctx, phone); err != nil {
				return err
			}
		}
	}
}
