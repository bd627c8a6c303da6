package command

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"

	"chatvault/client"
	"chatvault/client/cmd/backupctl/internal/state"
	"chatvault/protocol/cmdline"
	"chatvault/protocol/secret"
)

// maxCA bounds the file of --tls-ca, in bytes.
const maxCA = 1 << 20

// sdk is what the commands use of client.Client, which tests stand in for.
type sdk interface {
	Status(context.Context) (client.Status, error)
	CheckReceipt(context.Context, ...client.Story) (client.Status, error)
	Register(context.Context, secret.Bytes, client.BackupKey, client.RegisterOptions) (client.Receipt, error)
	Replace(context.Context, secret.Bytes, client.BackupKey, client.RegisterOptions) (client.Receipt, error)
	Recover(context.Context, secret.Bytes) (client.Recovered, error)
	ChangePassword(ctx context.Context, oldPassword, newPassword secret.Bytes, newKey bool, opts client.RegisterOptions) (client.Changed, error)
	Delete(context.Context) error
	DeleteWithPassword(context.Context, secret.Bytes) error
	Claim(context.Context, client.ClaimKind) (client.Claim, error)
	Cancel(context.Context, client.ClaimID) error
	Close() error
}

func newSDK(cfg client.Config) (sdk, error) { return client.New(cfg) }

// vault is the state and the SDK over it, for one command.
type vault struct {
	sdk
	dir  state.Dir
	keys state.Keys
}

// withVault runs do with the SDK. The state is locked meanwhile.
func (s *session) withVault(ctx context.Context, do func(v *vault) (result, error)) (result, error) {
	cfg, err := s.sdkConfig()
	if err != nil {
		return nil, err
	}
	v := &vault{}
	if v.dir, err = s.dir(); err != nil {
		return nil, err
	}
	if cfg.Device, err = v.dir.Device(); err != nil { // before Lock makes the folder
		return nil, err
	}
	unlock, err := v.dir.Lock()
	if err != nil {
		return nil, err
	}
	defer unlock()
	if v.keys, err = v.dir.Keys(); err != nil {
		return nil, err
	}
	if cfg.Store, err = v.dir.Store(); err != nil {
		return nil, err
	}
	if v.sdk, err = s.newSDK(cfg); err != nil {
		return nil, asUsage(err)
	}
	defer v.Close()
	r, err := do(v)
	if err != nil && ctx.Err() != nil && errors.Is(err, client.ErrUnreachable) {
		return nil, fmt.Errorf("%w: %w", context.Canceled, err) // not the network's fault
	}
	return r, err
}

// sdkConfig is what the flags say of the vault.
func (s *session) sdkConfig() (client.Config, error) {
	cfg := client.Config{URL: s.URL, ConnectWait: s.ConnectWait}
	for _, flag := range []struct{ name, value string }{
		{"--url URL", s.URL}, {"--fleet FILE", s.Fleet}, {"--ticket-file FILE", s.TicketFile},
	} {
		if flag.value == "" {
			return cfg, cmdline.Usagef("this command talks to the vault: give %s (or put it into the file of --config)", flag.name)
		}
	}
	pins, err := s.pins()
	if err != nil {
		return cfg, err
	}
	cfg.Pins = pins
	// The SDK asks again when a ticket has ended: whoever keeps the file
	// fresh has put another one there by then.
	cfg.Tickets = func(context.Context) (string, error) { return readTicket(s.TicketFile) }
	if s.TLSCA != "" {
		pem, err := readSmall(s.TLSCA, maxCA)
		if err != nil {
			return cfg, fmt.Errorf("reading the CA: %w", err)
		}
		roots := x509.NewCertPool()
		if !roots.AppendCertsFromPEM(pem) {
			return cfg, cmdline.Usagef("--tls-ca: %s holds no certificate in PEM", s.TLSCA)
		}
		cfg.TLS = &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
	}
	return cfg, nil
}

// asUsage: what New refuses is a setting, unless the store is broken.
func asUsage(err error) error {
	if errors.Is(err, client.ErrStore) {
		return err
	}
	return cmdline.Usagef("%w", err)
}

// current is the key in use, made and saved if there is none: it must be safe
// on disk before a vault holds it or a backup is encrypted under it.
func (v *vault) current(s *session) (client.BackupKey, error) {
	return currentKey(s, v.dir, &v.keys)
}

func currentKey(s *session, dir state.Dir, keys *state.Keys) (client.BackupKey, error) {
	if key, ok := keys.Current(); ok {
		return key.Backup, nil
	}
	key := client.NewBackupKey()
	*keys = keys.With(key, 0, s.now())
	return key, dir.SaveKeys(*keys)
}

// adopt notes that the registration of this generation holds key, and that
// this is the key that encrypts.
func (v *vault) adopt(s *session, key client.BackupKey, generation uint64) error {
	v.keys = v.keys.With(key, generation, s.now())
	return v.dir.SaveKeys(v.keys)
}
