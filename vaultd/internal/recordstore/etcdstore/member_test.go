package etcdstore

import (
	"net"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/connectivity"
)

func makeLink(t *testing.T, address string) *link {
	t.Helper()
	m := newMember(t.Context(), address, Options{}, time.Second)
	l, err := m.made(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.close)
	return l
}

// Whether a request went out decides between "certainly not stored" and "maybe".
func TestSent(t *testing.T) {
	put := txn{writes: true, then: []clientv3.Op{clientv3.OpPut("k", "v")}}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	down := listener.Addr().String()
	if err := listener.Close(); err != nil {
		t.Fatal(err)
	}
	if _, sent, err := makeLink(t, down).send(t.Context(), put); err == nil || sent {
		t.Errorf("to a closed port: sent %t, %v", sent, err)
	}

	listener, err = net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer() // knows no method
	go server.Serve(listener)
	t.Cleanup(server.Stop)
	l := makeLink(t, listener.Addr().String())
	if _, sent, err := l.send(t.Context(), put); err == nil || !sent {
		t.Errorf("to a server that refuses: sent %t, %v", sent, err)
	}
	server.Stop()
	if !l.conn.WaitForStateChange(t.Context(), connectivity.Ready) {
		t.Fatal("the end of the connection went unnoticed")
	}
	if _, sent, err := l.send(t.Context(), put); err == nil || sent {
		t.Errorf("to a server that was stopped: sent %t, %v", sent, err)
	}
}
