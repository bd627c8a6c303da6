package command

import (
	"fmt"
	"io"

	"chatvault/client/cmd/backupctl/internal/report"
	"chatvault/protocol/cmdline"
	"chatvault/protocol/ticket"
)

type deviceCmd struct {
	New  deviceNewCmd  `cmd:"" help:"Make the device key of this phone."`
	Show deviceShowCmd `cmd:"" help:"Print the thumbprint of the device key."`
}

type deviceResult struct {
	report.Outcome
	Thumbprint string `json:"thumbprint"` // a ticket's cnf.jkt
	State      string `json:"state"`
}

func (r *deviceResult) text(w io.Writer) { fmt.Fprintln(w, r.Thumbprint) }

type deviceNewCmd struct{}

// Help implements kong.HelpProvider.
func (deviceNewCmd) Help() string {
	return `Makes a P-256 key in the state and prints its thumbprint, which the app's backend puts into tickets as cnf.jkt. A key that is there already is never replaced.

	backupctl device new --state phone1`
}

// Run makes the key.
func (deviceNewCmd) Run(s *session) error {
	return s.done(s.device(true))
}

type deviceShowCmd struct{}

// Help implements kong.HelpProvider.
func (deviceShowCmd) Help() string {
	return `Prints the RFC 7638 thumbprint (SHA-256, base64url) of the device key: what a ticket for this device has in cnf.jkt.

	backupctl device show --state phone1
	curl -d device="$(backupctl device show)" https://app.example.com/backup-ticket > ticket.jwt`
}

// Run shows the thumbprint.
func (deviceShowCmd) Run(s *session) error {
	return s.done(s.device(false))
}

func (s *session) device(make bool) (result, error) {
	dir, err := s.dir()
	if err != nil {
		return nil, err
	}
	var key ticket.DeviceKey
	if make {
		key, err = dir.NewDevice()
	} else {
		key, err = dir.Device()
	}
	if err != nil {
		return nil, err
	}
	return &deviceResult{Thumbprint: key.Thumbprint().String(), State: dir.Path()}, nil
}

type versionCmd struct{}

type versionResult struct {
	report.Outcome
	cmdline.Version
}

func (r *versionResult) text(w io.Writer) { fmt.Fprintln(w, r.Version) }

// Run prints the version.
func (versionCmd) Run(s *session) error {
	return s.done(&versionResult{Version: cmdline.VersionOf(name)}, nil)
}
