package stack

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"go.yaml.in/yaml/v3"

	"chatvault/protocol/ticket"
)

// The files of a stack, beside <daemon>.yaml and <daemon>.log.
const (
	unsignedFile = "bundle.unsigned"
	bundleFile   = "bundle"
	pinsFile     = "pins.json"
	pkiDir       = "pki"
)

// provision does what an operator does once for a new fleet.
func (s *Stack) provision(ctx context.Context) (err error) {
	if s.token, err = newToken(ctx, s.Dir); err != nil {
		return err
	}
	s.PINFile = s.token.pinFile
	unsigned, err := s.vaultd(ctx, "init", "--fleet", Fleet, "--hsm", s.token.uri, "--pin-file", s.token.pinFile)
	if err != nil {
		return err
	}
	if err := s.signBundle(ctx, unsigned); err != nil {
		return err
	}
	if _, err := s.vaultd(ctx, "pki", "--discard-ca-key", "--out", s.file(pkiDir)); err != nil {
		return err
	}
	s.IssuerKeyFile = s.file("issuer.key")
	s.issuer, err = newIssuer(s.IssuerKeyFile, s.file("issuer.pem"))
	return err
}

// signBundle plays both signers, and writes the signed bundle and the pins.
func (s *Stack) signBundle(ctx context.Context, bundle []byte) error {
	var public []string
	for _, name := range []string{"first", "second"} {
		key := s.file("signer-" + name + ".key")
		out, err := s.vaultd(ctx, "fleet", "signer", name+".dev", "--out", key)
		if err != nil {
			return err
		}
		public = append(public, strings.TrimSpace(string(out)))
		if err := os.WriteFile(s.file(unsignedFile), bundle, 0o600); err != nil {
			return err
		}
		if bundle, err = s.vaultd(ctx, "fleet", "sign", "--key", key, s.file(unsignedFile)); err != nil {
			return err
		}
	}
	pins, err := s.vaultd(ctx, "fleet", "pins", "--fleet", Fleet, public[0], public[1])
	if err != nil {
		return err
	}
	s.PinsFile = s.file(pinsFile)
	if err := os.WriteFile(s.PinsFile, pins, 0o600); err != nil {
		return err
	}
	return os.WriteFile(s.file(bundleFile), bundle, 0o600)
}

// vaultd runs one of its commands and returns what it prints.
func (s *Stack) vaultd(ctx context.Context, args ...string) ([]byte, error) {
	var out, errOut bytes.Buffer
	cmd := exec.CommandContext(ctx, filepath.Join(s.BinDir, "vaultd"), args...)
	cmd.Env = s.token.environment()
	cmd.Stdout, cmd.Stderr = &out, &errOut
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("vaultd %s: %w: %s", args[0], err, bytes.TrimSpace(errOut.Bytes()))
	}
	return out.Bytes(), nil
}

func (s *Stack) writeVaultConfig(o Options) error {
	config := map[string]any{
		"fleet":        Fleet,
		"hsm":          s.token.uri,
		"pin-file":     s.token.pinFile,
		"store":        "pebble:" + s.file("records"),
		"create-store": true,
		"pacing":       o.Pacing,
		"tls-ca":       s.file(pkiDir + "/ca.crt"),
		"tls-cert":     s.file(pkiDir + "/vaultd.crt"),
		"tls-key":      s.file(pkiDir + "/vaultd.key"),
		"issuers":      s.issuers(),
	}
	if !o.Pacing {
		config["max-charges-per-account"] = 0 // few people, who recover all the time
	}
	return s.writeConfig("vaultd.yaml", config)
}

func (s *Stack) writeChatdConfig(redis string) error {
	vaults := []string{s.VaultAddr()}
	if s.Second != nil {
		vaults = append(vaults, s.nextAddr.get())
	}
	return s.writeConfig("chatd.yaml", map[string]any{
		"fleet":        Fleet,
		"fleet-bundle": s.file(bundleFile),
		"vault":        vaults,
		"vault-ca":     s.file(pkiDir + "/ca.crt"),
		"vault-cert":   s.file(pkiDir + "/chatd.crt"),
		"vault-key":    s.file(pkiDir + "/chatd.key"),
		"redis":        redis,
		"issuers":      s.issuers(),
	})
}

func (s *Stack) issuers() []ticket.IssuerConfig {
	return []ticket.IssuerConfig{{Name: App, Issuers: []string{Issuer}, KeyFile: s.file("issuer.pem")}}
}

func (s *Stack) writeConfig(name string, settings map[string]any) error {
	b, err := yaml.Marshal(settings)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return os.WriteFile(s.file(name), b, 0o600)
}
