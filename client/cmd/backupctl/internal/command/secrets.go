package command

import (
	"context"
	"errors"
	"io"
	"os"
	"strings"

	"chatvault/client"
	"chatvault/client/cmd/backupctl/internal/report"
	"chatvault/protocol/cmdline"
	"chatvault/protocol/password"
	"chatvault/protocol/secret"
)

// passwordFlags is how a command gets the password: a file, or the person.
type passwordFlags struct {
	PasswordFile string `placeholder:"FILE" help:"Read the password from a file of mode 0600, without asking."`
}

// existing gets a password that was chosen before.
func (s *session) existingPassword(ctx context.Context, file, prompt string) (secret.Bytes, error) {
	raw, err := s.secretText(ctx, file, prompt)
	if err != nil {
		return nil, err
	}
	return normal(raw)
}

// newPassword gets a password that is chosen now: typed twice, because a slip
// would be found out only when it is too late.
func (s *session) newPassword(ctx context.Context, file, what string) (secret.Bytes, error) {
	first, err := s.existingPassword(ctx, file, what+": ")
	if err != nil || file != "" {
		return first, err
	}
	second, err := s.existingPassword(ctx, "", what+", again: ")
	if err != nil {
		first.Wipe()
		return nil, err
	}
	defer second.Wipe()
	if !first.Equal(second) {
		first.Wipe()
		return nil, failure(report.Usage, "passwords_differ", "Nothing was sent. Run the command again.", "the two passwords differ")
	}
	return first, nil
}

func (s *session) secretText(ctx context.Context, file, prompt string) (secret.Bytes, error) {
	if file != "" {
		return cmdline.ReadSecretFile(file)
	}
	return s.asker().Hidden(ctx, prompt)
}

// normal normalises before anything is sent, so that an unfit password is
// refused by its own words. raw is wiped.
func normal(raw secret.Bytes) (secret.Bytes, error) {
	defer raw.Wipe()
	p, err := password.Normalize(raw)
	if err != nil {
		return nil, err
	}
	return p.Bytes(), nil
}

// recoveryKeyFlags is how a command gets a recovery key: a file, or the
// person. There is no flag for the key itself: other processes see flags.
type recoveryKeyFlags struct {
	RecoveryKeyFile string `placeholder:"FILE" xor:"key" help:"Read the recovery key from a file."`
	AskRecoveryKey  bool   `xor:"key" help:"Ask for the recovery key, instead of using the state's."`
}

const recoveryPrompt = "Recovery key, 64 digits and the check group (an empty line ends it):\n"

// maxRecoveryFile bounds a file with a recovery key, in bytes.
const maxRecoveryFile = 4 << 10

// recoveryKey reads the key that a person kept.
func (s *session) recoveryKey(ctx context.Context, file string) (client.BackupKey, error) {
	var text secret.Bytes
	var err error
	if file != "" {
		text, err = readSmall(file, maxRecoveryFile)
	} else {
		text, err = s.typedRecoveryKey(ctx)
	}
	if err != nil {
		return client.BackupKey{}, err
	}
	defer text.Wipe()
	key, checked, err := client.ParseRecoveryKey(string(text))
	if err == nil && !checked {
		s.warn("the recovery key came without its check group, so a mistyped digit cannot be told from a wrong key")
	}
	return key, err
}

// typedRecoveryKey reads lines until all digits are there, or an empty one.
func (s *session) typedRecoveryKey(ctx context.Context) (secret.Bytes, error) {
	const digits = 64 + 4
	var text secret.Bytes
	for prompt := recoveryPrompt; ; prompt = "" {
		line, err := s.asker().Shown(ctx, prompt)
		if errors.Is(err, io.EOF) && len(text) > 0 {
			return text, nil
		}
		if err != nil {
			return nil, err
		}
		text = append(append(text, line...), '\n')
		typed := strings.NewReplacer(" ", "", "-", "", "\n", "").Replace(string(text))
		if len(strings.TrimSpace(string(line))) == 0 || len(typed) >= digits {
			return text, nil
		}
	}
}

// readSmall reads a file of at most limit bytes.
func readSmall(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(b)) > limit {
		clear(b)
		return nil, cmdline.Usagef("%s: larger than %d bytes", path, limit)
	}
	return b, nil
}
