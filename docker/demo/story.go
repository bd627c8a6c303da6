package main

import (
	"context"
	"fmt"
	"os"
	"time"
)

// Files of the story; the passwords lie in files because nobody types here.
const (
	oldPhone = "old-phone"
	newPhone = "new-phone"
	files    = "files"
	backup   = "cloud/alice.cvb"
	paper    = "recovery-key.txt"

	right, wrong, changed = "password", "wrong-password", "new-password"
)

// tell is the whole story. It ends at the first thing that does not happen as
// told.
func tell(ctx context.Context, w *world) error {
	for file, text := range map[string]string{right: "correct horse battery staple", wrong: "incorrect horse", changed: "ὀρθὸς ἵππος 🐎"} {
		if err := w.password(file, text); err != nil {
			return err
		}
	}
	before, err := backUp(ctx, w)
	if err != nil {
		return err
	}
	for _, chapter := range []func(context.Context, *world, tree) error{
		getBack, guessOnce, changePassword, withoutVault, destroy,
	} {
		if err := chapter(ctx, w, before); err != nil {
			return err
		}
	}
	return nil
}

func backUp(ctx context.Context, w *world) (tree, error) {
	w.chapter("Files of many kinds: text, noise, holes, deep folders, links, empty and oddly named ones")
	if err := plant(w.path(files)); err != nil {
		return tree{}, err
	}
	before, err := look(w.path(files))
	if err != nil {
		return tree{}, err
	}
	w.say("%s", before)
	w.say("SHA-256 over every name, mode, time, link and byte: %x", before.sum)

	w.chapter("The old phone registers a backup key behind a password, and backs up")
	if err := w.newPhone(ctx, oldPhone); err != nil {
		return before, err
	}
	if err := w.backupctl(ctx, expect{says: []string{`\bGeneration 1\b.*\bten attempts\b`}},
		"register", "--config", oldPhone+".yaml", "--password-file", right); err != nil {
		return before, err
	}
	if err := w.backupctlTo(ctx, paper, expect{}, "key", "show", "--config", oldPhone+".yaml"); err != nil {
		return before, err
	}
	if err := os.Mkdir(w.path("cloud"), 0o700); err != nil {
		return before, err
	}
	return before, timed(w, func() error {
		return w.backupctl(ctx, expect{}, "backup", files, backup, "--config", oldPhone+".yaml")
	})
}

func getBack(ctx context.Context, w *world, before tree) error {
	w.chapter("The phone falls into the lake, with all its files; a new one gets everything back")
	if err := w.lose(oldPhone, oldPhone+".yaml", ticketOf(oldPhone), files); err != nil {
		return err
	}
	if err := w.newPhone(ctx, newPhone); err != nil {
		return err
	}
	if err := w.recover(ctx, recovered(1), right); err != nil {
		return err
	}
	return w.restores(ctx, before, "restored", "--config", newPhone+".yaml")
}

func guessOnce(ctx context.Context, w *world, _ tree) error {
	w.chapter("A wrong password costs one of ten attempts; the right one gives all of them back")
	if err := w.recover(ctx, wrongPassword(9), wrong); err != nil {
		return err
	}
	return w.recover(ctx, recovered(1), right)
}

func changePassword(ctx context.Context, w *world, _ tree) error {
	w.chapter("A new password; the old one opens nothing any more")
	if err := w.backupctl(ctx, expect{says: []string{`\bGeneration 2\b.*\bten attempts\b`}}, "change-password", "--config", newPhone+".yaml",
		"--password-file", right, "--new-password-file", changed); err != nil {
		return err
	}
	if err := w.recover(ctx, wrongPassword(9), right); err != nil {
		return err
	}
	return w.recover(ctx, recovered(2), changed)
}

func withoutVault(ctx context.Context, w *world, before tree) error {
	w.chapter("The vault is switched off; the recovery key, kept on paper, needs none")
	if err := w.stack.Vault.Stop(ctx); err != nil {
		return err
	}
	w.say("vaultd has ended.")
	if err := w.recover(ctx, expect{exit: 8}, changed); err != nil {
		return err
	}
	if err := w.restores(ctx, before, "restored-by-paper", "--recovery-key-file", paper, "--state", "nobodys-phone"); err != nil {
		return err
	}
	if err := w.stack.Vault.Start(ctx); err != nil {
		return err
	}
	w.say("vaultd runs again, on the same token and the same records.")
	return nil
}

func destroy(ctx context.Context, w *world, _ tree) error {
	w.chapter("Ten wrong passwords destroy the key for good")
	for guess := 1; guess <= 10; guess++ {
		file := fmt.Sprintf("guess-%d", guess)
		if err := w.password(file, file); err != nil {
			return err
		}
		e := wrongPassword(10 - guess)
		e.short = guess > 1 && guess < 10
		if err := w.recover(ctx, e, file); err != nil {
			return err
		}
	}
	w.say("")
	w.say("Now the right password:")
	if err := w.recover(ctx, expect{exit: 5}, changed); err != nil {
		return err
	}
	return w.backupctl(ctx, expect{says: []string{`(?m)^registration +destroyed\b`}}, "status", "--config", newPhone+".yaml")
}

// recover asks the vault for the key, on the new phone.
func (w *world) recover(ctx context.Context, e expect, passwordFile string) error {
	return w.backupctl(ctx, e, "recover", "--config", newPhone+".yaml", "--password-file", passwordFile)
}

// recovered is how the right password ends.
func recovered(generation int) expect {
	return expect{says: []string{fmt.Sprintf(`\bgeneration %d\b`, generation), `\bAttempts left: 10\b`}}
}

// wrongPassword is how a wrong one ends. The parenthesis is the vault's number.
func wrongPassword(left int) expect {
	return expect{exit: 4, says: []string{fmt.Sprintf(`\(%d attempts? left\)`, left)}}
}

// restores restores the backup into a new folder and compares it with what was
// lost.
func (w *world) restores(ctx context.Context, before tree, folder string, flags ...string) error {
	err := timed(w, func() error {
		return w.backupctl(ctx, expect{}, append([]string{"restore", backup, folder}, flags...)...)
	})
	if err != nil {
		return err
	}
	after, err := look(w.path(folder))
	if err != nil {
		return err
	}
	w.say("SHA-256 before: %x  %s", before.sum, before)
	w.say("SHA-256 now:    %x  %s", after.sum, after)
	if after != before {
		return fmt.Errorf("%s is not what was backed up", folder)
	}
	return nil
}

func timed(w *world, f func() error) error {
	began := time.Now()
	if err := f(); err != nil {
		return err
	}
	w.say("  (%.1f seconds)", time.Since(began).Seconds())
	return nil
}
