package vectors

// BackupFile is one backup file and what reading it must say. Files, salts and
// nonces are random, so these are vectors for readers.
type BackupFile struct {
	Source
	Key  Hex `json:"key"`  // the backup key to read with
	File Hex `json:"file"` // the whole file

	// Of a file that opens; absent otherwise.
	Plaintext Hex `json:"plaintext,omitempty"` // absent for an empty backup too
	ID        Hex `json:"backup_id,omitempty"`
	KeyCheck  Hex `json:"key_check_value,omitempty"`
	FileKey   Hex `json:"file_key,omitempty"`
	// LastAAD is the associated data of the closing part.
	LastAAD Hex `json:"closing_part_aad,omitempty"`

	// Error is the class of the failure, empty for a file that opens:
	// not_a_backup, version, wrong_key, or a kind of corruption: header,
	// truncated, trailing, order, framing, authentication, content.
	Error string `json:"error,omitempty"`
	// Offset is the byte of the file that a corruption is reported at.
	Offset int64 `json:"offset,omitempty"`
}

// RecoveryKey is one text that a person types.
type RecoveryKey struct {
	Source
	Text       string `json:"text"`
	Key        Hex    `json:"key,omitempty"`         // the backup key
	CheckGroup string `json:"check_group,omitempty"` // of the key
	Checked    bool   `json:"checked,omitempty"`     // the text holds the check group
	Canonical  bool   `json:"canonical,omitempty"`   // the text is what writing the key gives

	Error    string `json:"error,omitempty"`    // length, character or check_group
	Digits   int    `json:"digits,omitempty"`   // of a wrong length: how many there are
	Position int    `json:"position,omitempty"` // of a wrong character: from 1
}

// BackupFiles returns the backup files of backupfile.json.
func BackupFiles() []BackupFile { return load[BackupFile]("backupfile.json") }

// RecoveryKeys returns the texts of backupfile_recoverykey.json.
func RecoveryKeys() []RecoveryKey { return load[RecoveryKey]("backupfile_recoverykey.json") }
