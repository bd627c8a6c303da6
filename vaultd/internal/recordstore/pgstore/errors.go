package pgstore

import (
	"errors"

	"github.com/jackc/pgx/v5/pgconn"
)

// Errors of this store, beside those of recordstore.
var (
	// ErrNoStore says that there is no record store in the database's schema, and
	// that Open was not told to create one.
	ErrNoStore = errors.New("no record store in this database")

	// ErrFormat says that the schema holds something else than a record store of
	// this version.
	ErrFormat = errors.New("not a record store of this version")

	// ErrUnsafe says that the server is set so that it acknowledges commits which
	// it can lose, or hides that it did.
	ErrUnsafe = errors.New("this PostgreSQL does not keep what it acknowledges")

	// ErrOtherStore says that the servers hold another store than the one that was
	// opened.
	ErrOtherStore = errors.New("the database no longer holds this record store")

	// ErrUnavailable says that no primary answered in time.
	ErrUnavailable = errors.New("PostgreSQL did not answer in time")

	// ErrNoSpace says that the server's disk is full. The swap was not stored.
	ErrNoSpace = errors.New("PostgreSQL's disk is full")
)

// SQLSTATEs.
const (
	stateNoSpace    = "53100" // disk_full
	stateReadOnly   = "25006" // read_only_sql_transaction
	stateNoTable    = "42P01" // undefined_table
	stateNoSchema   = "3F000" // invalid_schema_name
	stateDenied     = "42501" // insufficient_privilege
	stateNoDatabase = "3D000" // invalid_catalog_name
)

// refusals are SQLSTATEs with which a statement ends before its commit: nothing was
// stored. It is a list of what is certain, not of all that is: 40003, for instance,
// is PostgreSQL's own "completion unknown".
var refusals = map[string]bool{
	"40001": true, // serialization_failure
	"40P01": true, // deadlock_detected
	"53200": true, // out_of_memory
	"55P03": true, // lock_not_available
	"57014": true, // query_canceled: also by statement_timeout, which is off once the commit begins

	stateNoSpace: true, stateReadOnly: true, stateNoSchema: true,
}

// refused says whether the server certainly did not store. A FATAL or PANIC says
// nothing: the session may have died in its commit.
func refused(err error) bool {
	var e *pgconn.PgError
	if !errors.As(err, &e) || e.SeverityUnlocalized != "ERROR" || len(e.Code) != 5 {
		return false
	}
	switch e.Code[:2] {
	case "22", "23", "42": // data, constraints, names and rights
		return true
	}
	return refusals[e.Code]
}

// hopeless is what no new attempt changes, until somebody does something about it.
func hopeless(err error) bool {
	if errors.Is(err, ErrUnsafe) || errors.Is(err, ErrOtherStore) || errors.Is(err, ErrFormat) || errors.Is(err, errFiles) {
		return true
	}
	var e *pgconn.PgError
	if !errors.As(err, &e) || len(e.Code) != 5 {
		return false
	}
	switch e.Code[:2] {
	case "22", "23", "28", "42": // 28: login refused
		return true
	}
	return e.Code == stateNoDatabase || e.Code == stateNoSchema
}

// errFiles: the files of TLS or the password cannot be used.
var errFiles = errors.New("cannot log in")

func hasState(err error, states ...string) bool {
	var e *pgconn.PgError
	if !errors.As(err, &e) {
		return false
	}
	for _, s := range states {
		if e.Code == s {
			return true
		}
	}
	return false
}
