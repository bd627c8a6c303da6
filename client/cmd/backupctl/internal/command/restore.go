package command

import (
	"archive/tar"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"

	"chatvault/client"
	"chatvault/client/cmd/backupctl/internal/report"
	"chatvault/client/cmd/backupctl/internal/state"
	"chatvault/protocol/backupfile"
	"chatvault/protocol/backupfile/archive"
)

type restoreCmd struct {
	File   string `arg:"" placeholder:"FILE|-" help:"The backup, or - for standard input."`
	Target string `arg:"" placeholder:"FOLDER|-" help:"Folder to make, which must not exist or be empty; or - for standard output."`
	recoveryKeyFlags
}

// Help implements kong.HelpProvider.
func (restoreCmd) Help() string {
	return `Decrypts with the keys of the state, or with the recovery key, which needs no vault. The folder appears under its name only when everything is verified and written. On standard output, trust what came only after exit code 0.

	backupctl restore photos.cvb photos
	backupctl restore photos.cvb photos --ask-recovery-key
	backupctl restore photos.cvb photos --recovery-key-file key.txt
	backupctl restore chats.cvb - | psql chats`
}

type restoreResult struct {
	report.Outcome
	Target     string `json:"target"`
	BackupID   string `json:"backup_id"`
	PlainBytes int64  `json:"plain_bytes"`
	Files      int64  `json:"files"`
	Folders    int64  `json:"folders"`
	Links      int64  `json:"links"`
}

// text says nothing: standard output may be the content. The remark does.
func (r *restoreResult) text(io.Writer) {}

// Run restores.
func (c *restoreCmd) Run(ctx context.Context, s *session) error { return s.done(c.run(ctx, s)) }

func (c *restoreCmd) run(ctx context.Context, s *session) (result, error) {
	if c.Target == std {
		if err := s.checkStdoutText(); err != nil {
			return nil, err
		}
	}
	b, err := s.openBackup(ctx, c.File, c.recoveryKeyFlags, "Restoring")
	if err != nil {
		return nil, err
	}
	defer b.close()
	r := &restoreResult{Target: c.Target, BackupID: b.id()}
	if c.Target == std {
		_, err = io.Copy(s.io.Out, b)
	} else {
		err = c.restoreFolder(b, r)
	}
	b.bar.done()
	if err != nil {
		return nil, fmt.Errorf("restoring %s: %w", c.File, err)
	}
	r.PlainBytes = b.n
	if c.Target == std {
		s.remark("Restored %s.", size(r.PlainBytes))
	} else {
		s.remark("Restored %s into %s.", tree(r.Files, r.Folders, r.Links), c.Target)
	}
	return r, nil
}

// checkStdoutText: what comes out may be text, which a terminal can show.
func (s *session) checkStdoutText() error {
	if s.JSON {
		return s.checkStdout()
	}
	return nil
}

func (c *restoreCmd) restoreFolder(b *opened, r *restoreResult) error {
	stats, err := archive.Restore(b, c.Target, archive.Options{})
	if b.err == nil && stats.Dirs == 0 && notFolder(err) {
		return failure(report.Failed, "not_a_folder", "It was made from standard input: backupctl restore FILE - > content",
			"the backup does not hold a folder")
	}
	r.Files, r.Folders, r.Links = stats.Files, stats.Dirs, stats.Links
	return err
}

// notFolder says whether the content is not an archive at all.
func notFolder(err error) bool {
	_, entry := errors.AsType[*archive.EntryError](err)
	return entry || errors.Is(err, tar.ErrHeader) || errors.Is(err, archive.ErrIncomplete)
}

type verifyCmd struct {
	File string `arg:"" placeholder:"FILE|-" help:"The backup, or - for standard input."`
	recoveryKeyFlags
}

// Help implements kong.HelpProvider.
func (verifyCmd) Help() string {
	return `Decrypts everything, writes nothing, and says whether the file is whole (exit code 0), corrupt and where (7), or of another key (9).

	backupctl verify photos.cvb
	backupctl verify photos.cvb --recovery-key-file key.txt --json | jq .plain_bytes
	ssh host 'cat photos.cvb' | backupctl verify -`
}

type verifyResult struct {
	report.Outcome
	BackupID   string `json:"backup_id"`
	PlainBytes int64  `json:"plain_bytes"`
	Content    string `json:"content"` // folder, or stream
	Files      int64  `json:"files"`
	Folders    int64  `json:"folders"`
	Links      int64  `json:"links"`
}

func (r *verifyResult) text(w io.Writer) {
	if r.Content == "folder" {
		fmt.Fprintf(w, "The backup is whole: %s, %s.\n", tree(r.Files, r.Folders, r.Links), size(r.PlainBytes))
		return
	}
	fmt.Fprintf(w, "The backup is whole: %s.\n", size(r.PlainBytes))
}

// Run verifies.
func (c *verifyCmd) Run(ctx context.Context, s *session) error { return s.done(c.run(ctx, s)) }

func (c *verifyCmd) run(ctx context.Context, s *session) (result, error) {
	b, err := s.openBackup(ctx, c.File, c.recoveryKeyFlags, "Verifying")
	if err != nil {
		return nil, err
	}
	defer b.close()
	// Content that is not the archive of a folder is a stream, and read to its
	// end all the same.
	stats, notArchive := archive.Check(b, archive.Options{})
	_, err = io.Copy(io.Discard, b)
	b.bar.done()
	if err != nil {
		return nil, fmt.Errorf("verifying %s: %w", c.File, err)
	}
	r := &verifyResult{BackupID: b.id(), PlainBytes: b.n, Content: "stream"}
	if notArchive == nil {
		r.Content, r.Files, r.Folders, r.Links = "folder", stats.Files, stats.Dirs, stats.Links
	}
	return r, nil
}

// opened is a backup being read. Its errors are those of the backup.
type opened struct {
	r    *backupfile.Reader
	file *os.File // nil for standard input
	bar  bar
	n    int64 // plaintext so far
	err  error // the last one, but io.EOF
}

func (o *opened) Read(p []byte) (int, error) {
	n, err := o.r.Read(p)
	o.n += int64(n)
	if err != nil && err != io.EOF {
		o.err = err
	}
	return n, err
}

func (o *opened) close() {
	o.bar.done()
	if o.file != nil {
		o.file.Close()
	}
}

func (o *opened) id() string {
	id := o.r.Header().ID
	return hex.EncodeToString(id[:])
}

// openBackup opens a file and finds its key.
func (s *session) openBackup(ctx context.Context, path string, flags recoveryKeyFlags, doing string) (*opened, error) {
	o, total := &opened{}, int64(-1)
	var from io.Reader
	if path == std {
		from = stoppableReader(ctx, s.io.In)
	} else {
		file, err := os.Open(path)
		if err != nil {
			return nil, err
		}
		info, err := file.Stat()
		if err == nil && info.IsDir() {
			err = fmt.Errorf("%s is a folder, not a backup", path)
		}
		if err != nil {
			file.Close()
			return nil, err
		}
		o.file, from = file, stoppableFile{ctx, file}
		if info.Mode().IsRegular() {
			total = info.Size()
		}
	}
	if err := s.open(ctx, o, from, flags, doing, total); err != nil {
		o.close()
		return nil, fmt.Errorf("opening %s: %w", path, err)
	}
	return o, nil
}

func (s *session) open(ctx context.Context, o *opened, from io.Reader, flags recoveryKeyFlags, doing string, total int64) error {
	header, err := backupfile.ReadHeader(from)
	if err != nil {
		return err
	}
	raw, err := header.Encode()
	if err != nil {
		return err
	}
	key, err := s.keyFor(ctx, header, flags) // asks before the bar is drawn
	if err != nil {
		return err
	}
	o.bar = s.bar(doing, total)
	at := backupfile.Checkpoint{FileOffset: int64(len(raw))}
	o.r, err = backupfile.ResumeReader(o.bar.reader(from), key, header, at, backupfile.ReaderOptions{})
	return err
}

// keyFor finds the key that a backup was made with: the recovery key if one is
// given, else the state's keys, of which older backups may need older ones.
func (s *session) keyFor(ctx context.Context, h backupfile.Header, flags recoveryKeyFlags) (client.BackupKey, error) {
	if flags.RecoveryKeyFile != "" || flags.AskRecoveryKey {
		return s.checkedRecoveryKey(ctx, h, flags.RecoveryKeyFile)
	}
	dir, err := s.dir()
	if err != nil {
		return client.BackupKey{}, err
	}
	keys, err := dir.Keys()
	if err != nil {
		return client.BackupKey{}, err
	}
	for _, key := range keys.All() {
		if backupfile.CheckKey(h, key.Backup) == nil {
			return key.Backup, nil
		}
	}
	if _, has := keys.Current(); has {
		return client.BackupKey{}, failure(report.WrongKey, "wrong_recovery_key",
			"Get the account's key with the password (backupctl recover), or give the recovery key (--ask-recovery-key, --recovery-key-file).",
			"none of the %d keys in %s: %w", len(keys.All()), dir.Path(), backupfile.ErrWrongKey)
	}
	if s.asker().Can() {
		s.remark("There is no backup key in %s.", dir.Path())
		return s.checkedRecoveryKey(ctx, h, "")
	}
	return client.BackupKey{}, noKey(dir)
}

func (s *session) checkedRecoveryKey(ctx context.Context, h backupfile.Header, file string) (client.BackupKey, error) {
	key, err := s.recoveryKey(ctx, file)
	if err != nil {
		return key, err
	}
	if err := backupfile.CheckKey(h, key); err != nil {
		return key, failure(report.WrongKey, "wrong_recovery_key",
			"The file is not damaged here: it was made with another key. Look for another recovery key, or another file.", "recovery key: %w", err)
	}
	return key, nil
}

func noKey(dir state.Dir) error {
	return failure(report.Failed, "no_backup_key",
		"Get it with the password (backupctl recover), or give the recovery key (--ask-recovery-key, --recovery-key-file).",
		"no backup key in %s", dir.Path())
}
