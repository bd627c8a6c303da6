package etcdstore

import (
	"errors"
	"strings"
	"testing"

	mvccpb "go.etcd.io/etcd/api/v3/mvccpb"

	"chatvault/vaultd/internal/recordstore"
	"chatvault/vaultd/internal/recordstore/remote"
)

func TestParse(t *testing.T) {
	for in, want := range map[string]Spec{
		"etcd:127.0.0.1:2379":                {[]string{"127.0.0.1:2379"}, DefaultPrefix},
		"etcd:a.example:1,b.example:65535":   {[]string{"a.example:1", "b.example:65535"}, DefaultPrefix},
		"etcd:[::1]:2379,localhost:2379/eu1": {[]string{"[::1]:2379", "localhost:2379"}, "eu1"},
	} {
		got, err := Parse(in)
		if err != nil || got.String() != want.String() || got.String() != in {
			t.Errorf("Parse(%q) = %+v, %v; want %+v", in, got, err, want)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	for _, in := range []string{
		"", "etcd:", "etcd:h", "h:1", "postgres:h:1", "etcd:h:0", "etcd:h:01", "etcd:h:65536", "etcd::1", "etcd:h:1,",
		"etcd:h:1,h:1", "etcd:h:1/", "etcd:h:1/chatvault", "etcd:h:1/A", "etcd:h:1/a/b", "etcd:h:1/1a", "etcd:h:1/a b",
		"etcd:http://h:1", "etcd:u@h:1", "etcd:::1:2379", "etcd:[h]:1", "etcd:[fe80::1%eth0]:1", "etcd:.h:1", "etcd:h.:1", "etcd:h:+1",
		"etcd:" + strings.Repeat("h:1,", remote.MaxEndpoints) + "h:2", "etcd:h:1/" + strings.Repeat("a", 64),
	} {
		if got, err := Parse(in); !errors.Is(err, remote.ErrSpec) {
			t.Errorf("Parse(%q) = %+v, %v; want ErrSpec", in, got, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{
		"etcd:127.0.0.1:2379", "etcd:a.example:1,b.example:65535/eu1", "etcd:[::1]:2379", "etcd:h:01", "etcd:h:1/chatvault", "etcd:h:1/",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, in string) {
		s, err := Parse(in)
		if err != nil {
			return
		}
		if s.String() != in {
			t.Errorf("%q came back as %q", in, s.String())
		}
		if len(s.Endpoints) == 0 || s.Prefix == "" || strings.Contains(s.Prefix, "/") {
			t.Errorf("%q: %+v", in, s)
		}
	})
}

func FuzzParseRecord(f *testing.F) {
	f.Add(int64(1), appendRecord(nil, 1, []byte("x")))
	f.Add(int64(2), appendRecord(nil, 1, []byte("x")))
	f.Add(int64(-1), appendRecord(nil, 1<<64-1, []byte("x")))
	f.Add(int64(1), []byte{0, 0, 0, 0, 0, 0, 0, 1})
	f.Fuzz(func(t *testing.T, version int64, value []byte) {
		data, v, err := parseRecord(&mvccpb.KeyValue{Version: version, Value: value})
		if err != nil {
			if !errors.Is(err, ErrFormat) {
				t.Error(err)
			}
			return
		}
		if int64(v) != version || v < 1 || len(data) == 0 || len(data) > recordstore.MaxData {
			t.Errorf("version %d of %d bytes, from etcd's %d", v, len(data), version)
		}
		if string(appendRecord(nil, v, data)) != string(value) {
			t.Errorf("%x does not come back", value)
		}
	})
}

// The ranges of records: the last id is inside, the description is not.
func TestKeys(t *testing.T) {
	k := makeKeys("p")
	var last recordstore.ID
	for i := range last {
		last[i] = 0xff
	}
	if r := k.record(last); r >= k.recordsEnd || k.after(last) >= k.recordsEnd || k.record(recordstore.ID{}) < k.records {
		t.Error("ids reach out of the range of records")
	}
	if k.meta >= k.records && k.meta < k.recordsEnd {
		t.Error("the description is among the records")
	}
}
