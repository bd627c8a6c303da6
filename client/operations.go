package client

import (
	"context"
	"errors"

	"chatvault/protocol/secret"
)

var errSoon = errors.New("client: behaviour follows")

// Client talks to the vault for one account on one device. Its operations may
// be called from any goroutine; they run one after the other.
type Client struct{ cfg Config }

// New checks the configuration and reads the Store. It does not connect.
func New(cfg Config) (*Client, error) {
	cfg, err := cfg.check()
	if err != nil {
		return nil, err
	}
	return &Client{cfg: cfg}, nil
}

// Close ends the connection. Operations in flight and later ones fail with
// ErrClosed.
func (c *Client) Close() error { return nil }

// Status asks what stands under the account.
func (c *Client) Status(ctx context.Context) (Status, error) { return Status{}, errSoon }

// CheckReceipt asks for the status and compares it with what this device
// registered or recovered last. Call it before each backup: a *StoryError says
// that the backup key in hand may not be the one that the vault keeps. The
// status is returned beside a StoryError too. ErrNotRegistered: this device
// has registered or recovered nothing.
func (c *Client) CheckReceipt(ctx context.Context, accept ...Story) (Status, error) {
	return Status{}, errSoon
}

// Register stores key under the password, where nothing live is registered
// (ErrConflict otherwise). The password is the person's, as typed.
func (c *Client) Register(ctx context.Context, password secret.Bytes, key BackupKey, opts RegisterOptions) (Receipt, error) {
	return Receipt{}, errSoon
}

// Replace registers anew over a live record without its password: by the owner
// device (a forgotten password while the phone is still here, at most three
// times in 24 hours), or by a device whose replace claim is ripe (ErrPending
// before). ErrNotOwner: make a Claim first.
func (c *Client) Replace(ctx context.Context, newPassword secret.Bytes, key BackupKey, opts RegisterOptions) (Receipt, error) {
	return Receipt{}, errSoon
}

// Recover fetches the backup key with the password. Each new wrong password
// costs one of ten attempts; the same one typed again after a broken
// connection, also after a restart, goes on with the same attempt.
//
// ErrWrongPassword comes with AttemptsLeft. A success gives all attempts back
// and makes this device the owner.
func (c *Client) Recover(ctx context.Context, password secret.Bytes) (Recovered, error) {
	return Recovered{}, errSoon
}

// Changed is what ChangePassword brings back.
type Changed struct {
	Receipt Receipt
	// Key is what the new password stands for now: the old backup key, or a
	// fresh one if newKey was asked for.
	Key BackupKey
	// OldKey is the key that the old password stood for: backups made so far
	// open with it.
	OldKey BackupKey
}

// ChangePassword proves the old password, as Recover does with the same
// attempts, and registers the backup key under the new one. With newKey a fresh
// backup key is registered instead: after a compromise.
func (c *Client) ChangePassword(ctx context.Context, oldPassword, newPassword secret.Bytes, newKey bool, opts RegisterOptions) (Changed, error) {
	return Changed{}, errSoon
}

// Delete destroys the record: by the owner device, or one whose delete claim is
// ripe. ErrNotRegistered: nothing live was there.
func (c *Client) Delete(ctx context.Context) error { return errSoon }

// DeleteWithPassword is Delete for a device that owns nothing but knows the
// password; a wrong one costs an attempt.
func (c *Client) DeleteWithPassword(ctx context.Context, password secret.Bytes) error { return errSoon }

// Claim asks for the right to replace or delete a record that another device
// owns and whose password is lost. It ripens after the fleet's delay (72 h)
// unless somebody objects; then call Replace or Delete.
func (c *Client) Claim(ctx context.Context, what ClaimKind) (Claim, error) { return Claim{}, errSoon }

// Cancel removes a claim: the owner's objection, or any ticketed device's.
func (c *Client) Cancel(ctx context.Context, id ClaimID) error { return errSoon }

// Watch keeps a connection to the relay, reconnecting as needed, until the
// context ends, so that Config.Notice hears the doorbells. It returns when the
// relay refuses for good, or with the context's error.
func (c *Client) Watch(ctx context.Context) error { return errSoon }
