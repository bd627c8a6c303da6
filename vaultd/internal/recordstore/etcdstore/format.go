package etcdstore

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"

	mvccpb "go.etcd.io/etcd/api/v3/mvccpb"

	"chatvault/vaultd/internal/recordstore"
)

// formatName is the beginning of a store's description; the store id follows.
const formatName = "chatvault records in etcd, format 1\n"

// maxVersion is where etcd's own count of a key's puts would overflow.
const maxVersion = math.MaxInt64 - 1

// versionSize is the length of the version before a record's data.
const versionSize = 8

// keys are the keys of one store.
type keys struct {
	meta       string // the store's description
	records    string // prefix of all records
	recordsEnd string // the least key after all records
}

func makeKeys(prefix string) keys {
	return keys{meta: prefix + "/store", records: prefix + "/r/", recordsEnd: prefix + "/r0"} // '0' follows '/'
}

func (k keys) record(id recordstore.ID) string { return k.records + string(id[:]) }

// after is the least key that a record with an id above this one can have.
func (k keys) after(id recordstore.ID) string { return k.record(id) + "\x00" }

func (k keys) parseID(key []byte) (recordstore.ID, error) {
	id, ok := bytes.CutPrefix(key, []byte(k.records))
	if !ok || len(id) != recordstore.IDSize {
		return recordstore.ID{}, fmt.Errorf("%w: key %q among the records", ErrFormat, key)
	}
	return recordstore.ID(id), nil
}

func metaValue(id recordstore.StoreID) string { return formatName + string(id[:]) }

func parseMeta(b []byte) (recordstore.StoreID, error) {
	id, ok := bytes.CutPrefix(b, []byte(formatName))
	if !ok || len(id) != len(recordstore.StoreID{}) {
		return recordstore.StoreID{}, fmt.Errorf("%w: its description is of another kind or version", ErrFormat)
	}
	return recordstore.StoreID(id), nil
}

func appendRecord(b []byte, v recordstore.Version, data []byte) []byte {
	return append(binary.BigEndian.AppendUint64(b, uint64(v)), data...)
}

// parseRecord checks that the version in the value is etcd's own count of puts.
// The two part when somebody else wrote the key: put an old value back, deleted it
// and made it anew, or copied it from another cluster.
func parseRecord(kv *mvccpb.KeyValue) ([]byte, recordstore.Version, error) {
	if len(kv.Value) <= versionSize || len(kv.Value) > versionSize+recordstore.MaxData {
		return nil, 0, fmt.Errorf("%w: record of %d bytes", ErrFormat, len(kv.Value))
	}
	v := binary.BigEndian.Uint64(kv.Value)
	if kv.Version < 1 || uint64(kv.Version) != v {
		return nil, 0, fmt.Errorf("%w: etcd counts %d puts of a record of version %d", ErrFormat, kv.Version, v)
	}
	return kv.Value[versionSize:], recordstore.Version(v), nil
}
