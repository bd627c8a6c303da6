package client_test

import (
	"context"
	"errors"
	"fmt"
	"log"

	"chatvault/client"
	"chatvault/protocol/fleet"
	"chatvault/protocol/ticket"
)

func Example() {
	var (
		pins      fleet.Pins                                    // compiled into the app
		deviceKey ticket.DeviceKey                              // made once, kept in the phone's key store
		getTicket func(ctx context.Context) (string, error)     // asks the app's own backend
		dir       = "/data/app/vault"                           // private to the app
		typed     = []byte("what the person typed, as it came") // no trimming, no folding
	)
	store, err := client.NewFileStore(dir)
	if err != nil {
		log.Fatal(err)
	}
	c, err := client.New(client.Config{
		URL: "wss://vault.example.com/v1/ws", Pins: pins, Device: deviceKey, Tickets: getTicket, Store: store,
	})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()

	got, err := c.Recover(context.Background(), typed)
	if e, ok := errors.AsType[*client.Error](err); ok && errors.Is(err, client.ErrWrongPassword) {
		fmt.Printf("Wrong password. %d attempts are left.\n", e.AttemptsLeft)
		return
	}
	if err != nil {
		log.Fatal(err)
	}
	_ = got.Key // opens the backups: client.DecryptFrom
}
