package pgstore

import (
	"fmt"
	"strings"

	"chatvault/vaultd/internal/recordstore/remote"
)

// Scheme begins the value of --store.
const Scheme = "postgres:"

// DefaultSchema holds the tables.
const DefaultSchema = "chatvault"

// Spec is the value of --store:
//
//	postgres:user@host:port[,host:port…]/database[?schema=name]
//
// Of several hosts the one that is the primary is used. There is no place for a
// password: command lines are read by everybody on the machine.
type Spec struct {
	User      string
	Endpoints []string
	Database  string
	Schema    string
}

const wantSpec = "want " + Scheme + "user@host:port,…/database?schema=name"

// Parse parses the value of --store. Errors wrap remote.ErrSpec and do not repeat
// the user, after whom somebody may have written a password. Whatever parses is
// what String gives back.
func Parse(s string) (Spec, error) {
	rest, ok := strings.CutPrefix(s, Scheme)
	user, rest, ok2 := strings.Cut(rest, "@")
	hosts, rest, ok3 := strings.Cut(rest, "/")
	if !ok || !ok2 || !ok3 || strings.HasPrefix(user, "//") {
		return Spec{}, fmt.Errorf("%w: %s", remote.ErrSpec, wantSpec)
	}
	if strings.Contains(user, ":") {
		return Spec{}, fmt.Errorf("%w: put the password into a file: command lines are read by everybody on the machine", remote.ErrSpec)
	}
	database, query, hasQuery := strings.Cut(rest, "?")
	schema := DefaultSchema
	if hasQuery {
		schema, ok = strings.CutPrefix(query, "schema=")
		if !ok || !remote.ValidName(schema) || schema == DefaultSchema {
			return Spec{}, fmt.Errorf("%w: after the database only ?schema= and a name of a-z 0-9 _, if not %s", remote.ErrSpec, DefaultSchema)
		}
	}
	if !validIdent(user) || !validIdent(database) {
		return Spec{}, fmt.Errorf("%w: user and database have 1 to 63 of A-Z a-z 0-9 _ . -", remote.ErrSpec)
	}
	endpoints, err := remote.ParseEndpoints(hosts)
	if err != nil {
		return Spec{}, err
	}
	return Spec{User: user, Endpoints: endpoints, Database: database, Schema: schema}, nil
}

func validIdent(s string) bool {
	if s == "" || len(s) > 63 {
		return false
	}
	return strings.IndexFunc(s, func(r rune) bool {
		return (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && !strings.ContainsRune("_.-", r)
	}) < 0
}

// String writes the specification as Parse reads it.
func (s Spec) String() string {
	out := Scheme + s.User + "@" + strings.Join(s.Endpoints, ",") + "/" + s.Database
	if s.Schema != DefaultSchema {
		out += "?schema=" + s.Schema
	}
	return out
}
