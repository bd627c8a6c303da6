package command

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"chatvault/client"
	"chatvault/client/cmd/backupctl/internal/files"
	"chatvault/client/cmd/backupctl/internal/report"
	"chatvault/client/cmd/backupctl/internal/state"
	"chatvault/protocol/backupfile"
	"chatvault/protocol/backupfile/archive"
	"chatvault/protocol/cmdline"
)

// std names standard input as a source, standard output as a target.
const std = "-"

type backupCmd struct {
	Source     string `arg:"" placeholder:"FOLDER|-" help:"Folder to back up, or - for standard input."`
	Target     string `arg:"" placeholder:"FILE|-" help:"Backup to write, or - for standard output."`
	Force      bool   `short:"f" help:"Replace the file if it exists, at once and only by a complete backup."`
	NoCompress bool   `help:"Store without zstd: for data that is compressed already, or where its size must tell nothing."`
	Offline    bool   `help:"Do not ask the vault first whether it still holds this backup key."`
	storyFlags
}

// Help implements kong.HelpProvider.
func (backupCmd) Help() string {
	return `Encrypts under the backup key of the state, which is made if there is none. The file appears under its name only when it is complete. With --url, the vault is asked first whether the password still opens this key.

	backupctl backup photos photos.cvb
	backupctl backup chats chats.cvb --force --config backupctl.yaml
	pg_dump chats | backupctl backup - chats.cvb
	backupctl backup photos - | ssh host 'cat > photos.cvb'`
}

type skippedField struct {
	Name string `json:"name"`
	Why  string `json:"why"`
}

type backupResult struct {
	report.Outcome
	File       string         `json:"file"`
	BackupID   string         `json:"backup_id"`
	FileBytes  int64          `json:"file_bytes"`
	PlainBytes int64          `json:"plain_bytes"` // what was encrypted: content, and for a folder its archive
	Files      int64          `json:"files"`
	Folders    int64          `json:"folders"`
	Links      int64          `json:"links"`
	Skipped    []skippedField `json:"skipped"`
	Checked    bool           `json:"vault_checked"` // the vault said that it holds the key
	Generation uint64         `json:"generation"`    // of the key, 0 if no vault is known to hold it
}

// text says nothing: standard output may be the backup. The remark does.
func (r *backupResult) text(io.Writer) {}

// Run makes a backup.
func (c *backupCmd) Run(ctx context.Context, s *session) error { return s.done(c.run(ctx, s)) }

func (c *backupCmd) run(ctx context.Context, s *session) (result, error) {
	if err := c.check(s); err != nil {
		return nil, err
	}
	dir, err := s.dir()
	if err != nil {
		return nil, err
	}
	r := &backupResult{File: c.Target, Skipped: []skippedField{}}
	key, err := c.key(ctx, s, dir, r)
	if err != nil {
		return nil, err
	}
	if err := c.write(ctx, s, key, r); err != nil {
		return nil, err
	}
	for _, skipped := range r.Skipped {
		s.warn("left out %q: %s", skipped.Name, skipped.Why)
	}
	s.remark("Backed up %s into %s (%s).", amount(r), c.Target, size(r.FileBytes))
	return r, nil
}

func amount(r *backupResult) string {
	if r.Folders == 0 {
		return size(r.PlainBytes)
	}
	return tree(r.Files, r.Folders, r.Links) + ", " + size(r.PlainBytes)
}

// tree writes what a folder holds, for people; the folder itself counts.
func tree(counts ...int64) string {
	var words []string
	for i, one := range []string{"file", "folder", "link"} {
		switch n := counts[i]; {
		case n == 1:
			words = append(words, "1 "+one)
		case n > 1 || one == "file":
			words = append(words, fmt.Sprintf("%d %ss", n, one))
		}
	}
	return strings.Join(words, ", ")
}

// check refuses what cannot work before a key is made or the vault is asked.
func (c *backupCmd) check(s *session) error {
	if c.Target == std {
		if err := s.checkStdout(); err != nil {
			return err
		}
	} else if err := files.CheckTarget(c.Target, c.Force); err != nil {
		return err
	}
	if c.Source == std {
		return nil
	}
	info, err := os.Stat(c.Source)
	if err != nil {
		return err
	}
	if !info.IsDir() {
		return cmdline.Usagef("%s is not a folder; a single file goes through standard input: backupctl backup - %s < %s", c.Source, c.Target, c.Source)
	}
	if c.Target != std && within(c.Source, filepath.Dir(c.Target)) {
		return cmdline.Usagef("%s lies in %s: a backup cannot hold itself; name a file elsewhere", c.Target, c.Source)
	}
	if dir, err := s.dir(); err == nil && within(c.Source, dir.Path()) {
		s.warn("%s holds the state %s, so the device key gets into the backup; two phones must not share one", c.Source, dir.Path())
	}
	return nil
}

// checkStdout keeps standard output to one thing: the bytes, which no terminal
// can show.
func (s *session) checkStdout() error {
	if s.JSON {
		return cmdline.Usagef("--json and - both need standard output: name a file")
	}
	if isTerminal(s.io.Out) {
		return cmdline.Usagef("standard output is a terminal: redirect it, or name a file")
	}
	return nil
}

// within says whether path lies in folder, links resolved.
func within(folder, path string) bool {
	absolute := func(p string) string {
		if real, err := filepath.EvalSymlinks(p); err == nil {
			p = real
		}
		abs, err := filepath.Abs(p)
		if err != nil {
			return p
		}
		return abs
	}
	rel, err := filepath.Rel(absolute(folder), absolute(path))
	return err == nil && rel != ".." && !strings.HasPrefix(rel, ".."+string(filepath.Separator))
}

// key is the key to encrypt under, after the vault was asked whether a
// registration holds it. A backup under a key that nobody keeps is lost with
// the phone.
func (c *backupCmd) key(ctx context.Context, s *session, dir state.Dir, r *backupResult) (client.BackupKey, error) {
	keys, err := dir.Keys()
	if err != nil {
		return client.BackupKey{}, err
	}
	if s.URL != "" && !c.Offline {
		return c.checkedKey(ctx, s, r)
	}
	current, ok := keys.Current()
	switch {
	case !ok:
		s.warn("made a new backup key, which no vault holds: keep its recovery key (backupctl key show), or register it (backupctl register)")
	case current.Generation == 0:
		s.warn("no vault is known to hold this backup key: keep its recovery key (backupctl key show), or register it (backupctl register)")
	default:
		r.Generation = current.Generation
		s.warn("the vault was not asked whether it still holds this backup key; if not, the password will not open this backup (give --url, --fleet and --ticket-file to ask)")
	}
	return currentKey(s, dir, &keys)
}

// checkedKey is key with the vault asked.
func (c *backupCmd) checkedKey(ctx context.Context, s *session, r *backupResult) (key client.BackupKey, err error) {
	_, err = s.withVault(ctx, func(v *vault) (result, error) {
		current, has := v.keys.Current()
		st, err := v.CheckReceipt(ctx, report.Stories(c.Accept)...)
		switch {
		case errors.Is(err, client.ErrNotRegistered):
			if st.State == client.StateLive && !has {
				return nil, failure(report.Failed, "not_recovered", "Get it first: backupctl recover. To encrypt under a new key instead: --offline",
					"the vault holds a backup key for this account, and this phone has none")
			}
			if st.State == client.StateLive {
				s.warn("the vault holds a backup key for this account that this phone did not register; it may be another one: backupctl recover")
			}
			s.warn("this phone has registered no backup key: keep the recovery key (backupctl key show), or register (backupctl register)")
		case err != nil:
			return nil, err
		case has && st.State == client.StateLive && current.Generation == st.Generation:
			r.Checked, r.Generation = true, st.Generation
		case has && c.goesOn():
			s.warn("the vault does not hold this backup key: the password will not open this backup")
		default:
			return nil, failure(report.Failed, "key_unknown", "Get the key that the password opens: backupctl recover",
				"the vault holds generation %d, and the key in this state is of generation %d: an operation was interrupted, or the state restored", st.Generation, current.Generation)
		}
		key, err = v.current(s)
		return nil, err
	})
	return key, err
}

// goesOn says whether the person accepts a key that the vault does not hold.
func (c *backupCmd) goesOn() bool {
	return slices.Contains(c.Accept, report.Accept(client.StoryReplaced)) || slices.Contains(c.Accept, report.Accept(client.StoryGone))
}

// write writes the backup, whole or not at all; what went to standard output
// before an error does not verify.
func (c *backupCmd) write(ctx context.Context, s *session, key client.BackupKey, r *backupResult) error {
	if c.Target == std {
		return c.encrypt(ctx, s, key, s.io.Out, r)
	}
	file, err := files.Create(c.Target, c.Force)
	if err != nil {
		return err
	}
	if err := c.encrypt(ctx, s, key, file, r); err != nil {
		return errors.Join(err, file.Discard())
	}
	return file.Commit()
}

func (c *backupCmd) encrypt(ctx context.Context, s *session, key client.BackupKey, to io.Writer, r *backupResult) error {
	counted := &counter{w: to}
	opts := backupfile.Options{}
	if c.NoCompress {
		opts.Compression = backupfile.None
	}
	enc, err := client.EncryptTo(counted, key, opts)
	if err != nil {
		return err
	}
	plain := &counter{w: enc}
	id := enc.Header().ID
	r.BackupID = hex.EncodeToString(id[:])
	if err := c.feed(ctx, s, plain, r); err != nil {
		enc.Abort()
		return err
	}
	if err := enc.Close(); err != nil {
		return err
	}
	r.FileBytes, r.PlainBytes = counted.n, plain.n
	return stopped(ctx)
}

// feed writes what is backed up.
func (c *backupCmd) feed(ctx context.Context, s *session, to io.Writer, r *backupResult) error {
	to = stoppableWriter{ctx, to}
	if c.Source == std {
		bar := s.bar("Backing up", -1)
		defer bar.done()
		if _, err := io.Copy(to, bar.reader(stoppableReader(ctx, s.io.In))); err != nil {
			return fmt.Errorf("backing up standard input: %w", err)
		}
		return nil
	}
	bar := s.bar("Backing up", s.folderSize(ctx, c.Source))
	defer bar.done()
	stats, err := archive.Write(to, c.Source, archive.Options{Progress: func(st archive.Stats) { bar.set(st.Bytes) }})
	r.Files, r.Folders, r.Links = stats.Files, stats.Dirs, stats.Links
	for _, skipped := range stats.Skipped {
		r.Skipped = append(r.Skipped, skippedField{skipped.Name, skipped.Err.Error()})
	}
	if err != nil {
		return fmt.Errorf("backing up %s: %w", c.Source, err)
	}
	return nil
}

// size writes a number of bytes for people.
func size(n int64) string {
	for _, u := range []struct {
		name string
		unit int64
	}{{"GB", 1e9}, {"MB", 1e6}, {"kB", 1e3}} {
		if n >= u.unit {
			return fmt.Sprintf("%.1f %s", float64(n)/float64(u.unit), u.name)
		}
	}
	return fmt.Sprintf("%d bytes", n)
}

// throttle is how often a progress bar is drawn.
const throttle = 100 * time.Millisecond
