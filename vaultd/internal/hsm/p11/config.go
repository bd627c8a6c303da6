// Package p11 is the hsm.Module over PKCS#11, for SoftHSM and for hardware.
// It uses cgo, and a software module keeps its keys in the process that loads
// it: so nothing but the program that owns the HSM imports this package.
package p11

import (
	"fmt"
	"log/slog"

	"chatvault/protocol/cmdline"
	"chatvault/protocol/secret"
	"chatvault/vaultd/internal/hsm"
	"chatvault/vaultd/internal/hsm/pkcs11uri"
)

// Defaults of Config.
const (
	DefaultSessions     = 8
	DefaultRecycleAfter = 500_000
	DefaultPrefix       = "chatvault"
)

// Config names a token and says how to use it.
type Config struct {
	// URI names the module, the token and the file with the PIN, see
	// pkcs11uri. Its object attribute is the prefix of the keys' labels:
	// "PREFIX.seal-01". Without it the prefix is DefaultPrefix. Anything that
	// does not parse is ErrConfig.
	URI string

	// PINFile is the file with the user's PIN, of mode 0600 or less, when URI
	// has no pin-source. Neither or both is ErrConfig, as is a file that
	// cmdline.ReadSecretFile refuses. It is read once.
	PINFile string

	// Sessions is how many HSM sessions there are, and so how many calls the
	// module works on at a time. 0 means DefaultSessions.
	Sessions int

	// RecycleAfter is after how many session objects the module is finalised
	// and initialised again in a quiet moment, because SoftHSM does not free
	// them before (270 to 400 bytes each). 0 means DefaultRecycleAfter.
	RecycleAfter int

	// Log hears of recoveries; nil discards.
	Log *slog.Logger
}

// settings are a Config that was checked.
type settings struct {
	uri          pkcs11uri.URI
	pin          secret.Bytes
	sessions     int
	recycleAfter int64
	log          *slog.Logger
	load         loader
}

func (c Config) settings() (settings, error) {
	s := settings{sessions: c.Sessions, recycleAfter: int64(c.RecycleAfter), log: c.Log, load: load}
	var err error
	if s.uri, err = pkcs11uri.Parse(c.URI); err != nil {
		return settings{}, fmt.Errorf("%w: %w", hsm.ErrConfig, err)
	}
	if s.uri.Object == "" {
		s.uri.Object = DefaultPrefix
	}
	if s.sessions < 0 || s.recycleAfter < 0 {
		return settings{}, fmt.Errorf("%w: a negative number of sessions or objects", hsm.ErrConfig)
	}
	if s.sessions == 0 {
		s.sessions = DefaultSessions
	}
	if s.recycleAfter == 0 {
		s.recycleAfter = DefaultRecycleAfter
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	file := c.PINFile
	switch {
	case s.uri.PINSource == "" && file == "":
		return settings{}, fmt.Errorf("%w: no file with the PIN is named; add pin-source=file:/… to the URI", hsm.ErrConfig)
	case s.uri.PINSource != "" && file != "":
		return settings{}, fmt.Errorf("%w: two files with the PIN are named", hsm.ErrConfig)
	case file == "":
		file = s.uri.PINSource
	}
	if s.pin, err = cmdline.ReadSecretFile(file); err != nil {
		return settings{}, fmt.Errorf("%w: PIN: %w", hsm.ErrConfig, err)
	}
	return s, nil
}

// label is the CKA_LABEL of a key.
func (s *settings) label(key hsm.Key) string { return s.uri.Object + "." + string(key) }
