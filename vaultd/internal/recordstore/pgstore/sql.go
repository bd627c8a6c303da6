package pgstore

import "strings"

// format is the version of the tables.
const format = 1

// statements are the SQL of one store. $schema is quoted already.
type statements struct {
	load, insert, update, scan, position, barrier string
	exists, describe, hasRecords, persistence     string
	create, initialise                            string
}

func makeStatements(schema string) statements {
	in := func(sql string) string { return strings.ReplaceAll(sql, "$schema", `"`+schema+`"`) }
	return statements{
		load: in(`SELECT version, data FROM $schema.records WHERE id = $1`),

		// Each done swap takes one number of the sequence: RETURNING is evaluated
		// for rows that were written, and for no others.
		insert: in(`INSERT INTO $schema.records (id, version, data) VALUES ($1, 1, $2)
			ON CONFLICT (id) DO NOTHING RETURNING version, nextval('$schema.swaps')`),
		update: in(`UPDATE $schema.records SET version = version + 1, data = $3
			WHERE id = $1 AND version = $2 RETURNING version, nextval('$schema.swaps')`),

		scan: in(`SELECT id FROM $schema.records WHERE id > $1 ORDER BY id LIMIT $2`),

		// A write, so that its commit waits as a swap's does: for the disk and for
		// the synchronous standbys. When it returns, all that was visible before it
		// is as durable as itself, because the log has one order.
		barrier: in(`UPDATE $schema.store SET barriers = barriers + 1 RETURNING store_id`),
		position: in(`UPDATE $schema.store SET barriers = barriers + 1
			RETURNING (SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM $schema.swaps)`),

		exists:     in(`SELECT to_regclass('$schema.store') IS NOT NULL`),
		describe:   in(`SELECT format, store_id FROM $schema.store`),
		hasRecords: in(`SELECT EXISTS (SELECT FROM $schema.records)`),
		persistence: in(`SELECT count(*) FROM pg_class
			WHERE oid IN ('$schema.records'::regclass, '$schema.store'::regclass, '$schema.swaps'::regclass) AND relpersistence = 'p'`),
		create:     DDL(schema),
		initialise: in(`INSERT INTO $schema.store (format, store_id) VALUES ($1, $2) ON CONFLICT (one) DO NOTHING`),
	}
}

// DDL is what Open does to a database that has no store, for administrators who let
// no service create tables. The role that vaultd uses then needs USAGE on the
// schema and on the sequence, SELECT on the sequence, and SELECT, INSERT and UPDATE
// on both tables; never DELETE or TRUNCATE.
func DDL(schema string) string {
	return strings.ReplaceAll(ddl, "$schema", `"`+schema+`"`)
}

const ddl = `CREATE SCHEMA IF NOT EXISTS $schema;

-- Sealed records. Half of each page stays free for the next version of its rows.
CREATE TABLE IF NOT EXISTS $schema.records (
    id      bytea  PRIMARY KEY CHECK (octet_length(id) = 16),
    version bigint NOT NULL CHECK (version > 0),
    data    bytea  NOT NULL CHECK (octet_length(data) BETWEEN 1 AND 16384)
) WITH (fillfactor = 50);

-- Sealed bytes do not compress.
ALTER TABLE $schema.records ALTER COLUMN data SET STORAGE EXTERNAL;

-- How many swaps there were, or more.
CREATE SEQUENCE IF NOT EXISTS $schema.swaps;

-- The one row that names the store.
CREATE TABLE IF NOT EXISTS $schema.store (
    one      boolean PRIMARY KEY DEFAULT true CHECK (one),
    format   integer NOT NULL,
    store_id bytea   NOT NULL CHECK (octet_length(store_id) = 16),
    barriers bigint  NOT NULL DEFAULT 0
);
`
