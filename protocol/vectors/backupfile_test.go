package vectors

func init() {
	add("backupfile.json", 33, names(BackupFiles, func(c BackupFile) Source { return c.Source }))
	add("backupfile_recoverykey.json", 15, names(RecoveryKeys, func(c RecoveryKey) Source { return c.Source }))
}
