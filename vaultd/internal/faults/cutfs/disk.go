// Package cutfs is a file system whose power can be cut: after that it holds what
// was synced, and nothing else. A kill -9 cannot show a missing fsync, because the
// kernel keeps what a dead process wrote; this can. Nothing shipped links it.
//
// It keeps to what POSIX promises, which is less than most disks do: a file's
// bytes and length are durable when the file was synced, a name in a directory
// when the directory was. One thing it leaves out: what is durable becomes so in
// the order of the calls, and no synced byte is ever damaged. With Journal it is as
// forgiving as the usual file systems.
package cutfs

import (
	"maps"
	"math/rand/v2"
	"sync"
	"syscall"
)

// Disk is what outlives a power cut. It is in memory.
type Disk struct {
	// Journal has every sync make all names durable, those of other directories
	// too, as committing the journal of ext4 or xfs does. Set it before Mount.
	Journal bool

	// Owner is the user and the group to whom everything belongs. Set it before
	// Mount.
	Owner [2]uint32

	mu    sync.Mutex // guards all below, and all nodes
	root  *node
	inos  uint64
	off   bool
	syncs int
	fault func() error // of a sync
}

// node is a file or a directory.
type node struct {
	ino uint64
	dir bool

	// of a directory
	names, durableNames map[string]*node

	// of a file
	data, durable []byte
	from, to      int64 // all that may differ between the two is in [from, to)
}

// New returns an empty disk.
func New() *Disk {
	d := &Disk{}
	d.root = d.node(true)
	return d
}

func (d *Disk) node(dir bool) *node {
	d.inos++
	n := &node{ino: d.inos, dir: dir}
	if dir {
		n.names, n.durableNames = make(map[string]*node), make(map[string]*node)
	}
	return n
}

// Cut cuts the power: from now on every call fails, until the disk is restored.
func (d *Disk) Cut() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.off = true
}

// sectorSize is what a disk writes in one go.
const sectorSize = 512

// Restore brings the power back, once everything that had files open is dead and
// the disk unmounted. What was not synced is gone; with torn, each sector of it is
// there or not by chance, as with a disk that was writing when the power went.
func (d *Disk) Restore(torn *rand.Rand) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.root.restore(torn)
	d.off = false
}

func (n *node) restore(torn *rand.Rand) {
	if n.dir {
		n.names = maps.Clone(n.durableNames)
		for _, child := range n.names {
			child.restore(torn)
		}
		return
	}
	if torn != nil {
		n.tear(torn)
	}
	n.data = append([]byte(nil), n.durable...)
	n.from, n.to = 0, 0
}

// tear makes some of what was not synced durable. The length is the old one or
// the new one.
func (n *node) tear(rng *rand.Rand) {
	if len(n.data) > len(n.durable) && rng.IntN(2) == 0 {
		n.durable = append(n.durable, make([]byte, len(n.data)-len(n.durable))...)
	}
	end := min(n.to, int64(len(n.data)), int64(len(n.durable)))
	for at := n.from / sectorSize * sectorSize; at < end; at += sectorSize {
		if rng.IntN(2) == 0 {
			stop := min(at+sectorSize, end)
			copy(n.durable[at:stop], n.data[at:stop])
		}
	}
}

// OnSync has f called before each sync: it may take time, and what it returns
// other than nil is what the sync fails with, nothing being durable. Nil: none.
func (d *Disk) OnSync(f func() error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.fault = f
}

// SyncAll makes everything durable: what stands on the disk when a test begins.
func (d *Disk) SyncAll() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.root.syncAll()
}

func (n *node) syncAll() {
	n.sync()
	for _, child := range n.names {
		child.syncAll()
	}
}

// Syncs is how many syncs there were.
func (d *Disk) Syncs() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.syncs
}

// enter locks the disk, if it has power.
func (d *Disk) enter() syscall.Errno {
	d.mu.Lock()
	if d.off {
		d.mu.Unlock()
		return syscall.EIO
	}
	return 0
}

func (d *Disk) sync(n *node) syscall.Errno {
	d.mu.Lock()
	fault := d.fault
	d.mu.Unlock()
	if fault != nil && fault() != nil {
		return syscall.EIO
	}
	if errno := d.enter(); errno != 0 {
		return errno
	}
	defer d.mu.Unlock()
	d.syncs++
	n.sync()
	if d.Journal {
		d.root.syncNames()
	}
	return 0
}

func (n *node) syncNames() {
	if !n.dir {
		return
	}
	n.sync()
	for _, child := range n.names {
		child.syncNames()
	}
}

func (n *node) sync() {
	if n.dir {
		n.durableNames = maps.Clone(n.names)
		return
	}
	size := len(n.data)
	if size > len(n.durable) {
		n.durable = append(n.durable, make([]byte, size-len(n.durable))...)
	}
	n.durable = n.durable[:size]
	if to := min(n.to, int64(size)); n.from < to {
		copy(n.durable[n.from:to], n.data[n.from:to])
	}
	n.from, n.to = 0, 0
}

// touch notes that bytes may differ from what is durable.
func (n *node) touch(from, to int64) {
	if n.from == n.to {
		n.from, n.to = from, to
		return
	}
	n.from, n.to = min(n.from, from), max(n.to, to)
}

func (n *node) write(b []byte, at int64) {
	end := at + int64(len(b))
	if end > int64(len(n.data)) {
		n.resize(end)
	}
	copy(n.data[at:], b)
	n.touch(at, end)
}

func (n *node) resize(size int64) {
	old := int64(len(n.data))
	if size > old {
		n.data = append(n.data, make([]byte, size-old)...)
	} else {
		n.data = n.data[:size]
	}
	n.touch(min(old, size), max(old, size))
}
