package cutfs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"

	"chatvault/vaultd/internal/recordstore/engines/proc"
)

// source begins the name under which a disk stands in the table of mounts; the id
// of the process that serves it follows.
const source = "cutfs-"

// endLimit is how long a server may take to end once its mount is gone.
const endLimit = 10 * time.Second

// Mount mounts the disk. It needs /dev/fuse and root; where there is none it fails.
//
// unmount never waits for anybody who has files open there: their calls fail from
// then on. It may be called when the disk has no power, and twice.
func (d *Disk) Mount(dir string) (unmount func() error, err error) {
	options := fuse.MountOptions{
		DirectMount: true, DirectMountStrict: true, AllowOther: true,
		FsName: source + strconv.Itoa(os.Getpid()), Name: "cutfs", MaxWrite: 1 << 20,
	}
	// go-fuse opens /dev/fuse without O_CLOEXEC. A process that inherited it would
	// keep a mount alive whose server is dead, and whoever calls such a mount waits
	// for ever, deaf to signal 9. So nobody may fork until the flag is set.
	syscall.ForkLock.RLock()
	server, err := fs.Mount(dir, &inode{disk: d, node: d.root}, &fs.Options{MountOptions: options})
	errFlag := closeOnExec()
	syscall.ForkLock.RUnlock()
	if err != nil {
		return nil, fmt.Errorf("mounting a FUSE file system (needs /dev/fuse and root): %w", err)
	}
	unmount = sync.OnceValue(func() error { return end(dir, server) })
	if errFlag != nil {
		return nil, errors.Join(errFlag, unmount())
	}
	return unmount, nil
}

// end takes a mount away: forced, so that calls under way fail, and detached, so
// that open files do not keep it.
func end(dir string, server *fuse.Server) error {
	if err := syscall.Unmount(dir, syscall.MNT_FORCE|syscall.MNT_DETACH); err != nil {
		return fmt.Errorf("unmounting %s: %w", dir, err)
	}
	ended := make(chan struct{})
	go func() {
		server.Wait()
		close(ended)
	}()
	select {
	case <-ended:
		return nil
	case <-time.After(endLimit):
		return fmt.Errorf("the server of %s does not end", dir)
	}
}

// closeOnExec marks every connection to FUSE of this process as not to be inherited.
func closeOnExec() error {
	const fds = "/proc/self/fd"
	list, err := os.ReadDir(fds)
	if err != nil {
		return err
	}
	for _, entry := range list {
		target, err := os.Readlink(filepath.Join(fds, entry.Name()))
		if err != nil || target != "/dev/fuse" {
			continue // closed meanwhile, or something else
		}
		fd, err := strconv.Atoi(entry.Name())
		if err != nil {
			return err
		}
		syscall.CloseOnExec(fd)
	}
	return nil
}

// UnmountAll takes all mounts away that are served by this process or by one that
// is dead, and returns where they were. Nobody waits for them any more.
func UnmountAll() (were []string, err error) {
	table, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(table)) {
		fields := strings.Fields(line)
		if len(fields) < 3 || fields[2] != "fuse.cutfs" {
			continue
		}
		pid, err := strconv.Atoi(strings.TrimPrefix(fields[0], source))
		if err == nil && pid != os.Getpid() && proc.Alive(pid) {
			continue // another run's
		}
		if err := syscall.Unmount(fields[1], syscall.MNT_FORCE|syscall.MNT_DETACH); err != nil {
			return were, fmt.Errorf("unmounting %s: %w", fields[1], err)
		}
		were = append(were, fields[1])
	}
	return were, nil
}

// inode is a node as the kernel knows it.
type inode struct {
	fs.Inode
	disk *Disk
	node *node
}

var (
	_ fs.NodeLookuper  = (*inode)(nil)
	_ fs.NodeReaddirer = (*inode)(nil)
	_ fs.NodeCreater   = (*inode)(nil)
	_ fs.NodeMkdirer   = (*inode)(nil)
	_ fs.NodeUnlinker  = (*inode)(nil)
	_ fs.NodeRmdirer   = (*inode)(nil)
	_ fs.NodeRenamer   = (*inode)(nil)
	_ fs.NodeLinker    = (*inode)(nil)
	_ fs.NodeGetattrer = (*inode)(nil)
	_ fs.NodeSetattrer = (*inode)(nil)
	_ fs.NodeOpener    = (*inode)(nil)
	_ fs.NodeReader    = (*inode)(nil)
	_ fs.NodeWriter    = (*inode)(nil)
	_ fs.NodeFsyncer   = (*inode)(nil)
)

func (n *node) mode() uint32 {
	if n.dir {
		return syscall.S_IFDIR | 0o700
	}
	return syscall.S_IFREG | 0o600
}

func (i *inode) fill(n *node, out *fuse.Attr) {
	out.Uid, out.Gid = i.disk.Owner[0], i.disk.Owner[1]
	out.Mode, out.Ino, out.Nlink = n.mode(), n.ino, 1
	out.Size = uint64(len(n.data))
	out.Blocks, out.Blksize = (out.Size+sectorSize-1)/sectorSize, 4096
}

// show gives a node to the kernel.
func (i *inode) show(ctx context.Context, n *node, out *fuse.EntryOut) *fs.Inode {
	i.fill(n, &out.Attr)
	return i.NewInode(ctx, &inode{disk: i.disk, node: n}, fs.StableAttr{Mode: n.mode(), Ino: n.ino})
}

func (i *inode) Lookup(ctx context.Context, name string, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	if errno := i.disk.enter(); errno != 0 {
		return nil, errno
	}
	defer i.disk.mu.Unlock()
	n, ok := i.node.names[name]
	if !ok {
		return nil, syscall.ENOENT
	}
	return i.show(ctx, n, out), 0
}

func (i *inode) Readdir(context.Context) (fs.DirStream, syscall.Errno) {
	if errno := i.disk.enter(); errno != 0 {
		return nil, errno
	}
	defer i.disk.mu.Unlock()
	var list []fuse.DirEntry
	for name, n := range i.node.names {
		list = append(list, fuse.DirEntry{Name: name, Mode: n.mode(), Ino: n.ino})
	}
	return fs.NewListDirStream(list), 0
}

// add makes a file or a directory.
func (i *inode) add(ctx context.Context, name string, dir bool, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	if errno := i.disk.enter(); errno != 0 {
		return nil, errno
	}
	defer i.disk.mu.Unlock()
	if i.node.names[name] != nil {
		return nil, syscall.EEXIST
	}
	n := i.disk.node(dir)
	i.node.names[name] = n
	return i.show(ctx, n, out), 0
}

func (i *inode) Create(ctx context.Context, name string, _, _ uint32, out *fuse.EntryOut) (*fs.Inode, fs.FileHandle, uint32, syscall.Errno) {
	made, errno := i.add(ctx, name, false, out)
	return made, nil, 0, errno
}

func (i *inode) Mkdir(ctx context.Context, name string, _ uint32, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	return i.add(ctx, name, true, out)
}

func (i *inode) Unlink(_ context.Context, name string) syscall.Errno {
	if errno := i.disk.enter(); errno != 0 {
		return errno
	}
	defer i.disk.mu.Unlock()
	delete(i.node.names, name)
	return 0
}

func (i *inode) Rmdir(_ context.Context, name string) syscall.Errno {
	if errno := i.disk.enter(); errno != 0 {
		return errno
	}
	defer i.disk.mu.Unlock()
	if n := i.node.names[name]; n != nil && len(n.names) > 0 {
		return syscall.ENOTEMPTY
	}
	delete(i.node.names, name)
	return 0
}

func (i *inode) Rename(_ context.Context, name string, to fs.InodeEmbedder, newName string, flags uint32) syscall.Errno {
	if flags != 0 {
		return syscall.EINVAL
	}
	if errno := i.disk.enter(); errno != 0 {
		return errno
	}
	defer i.disk.mu.Unlock()
	n, ok := i.node.names[name]
	if !ok {
		return syscall.ENOENT
	}
	delete(i.node.names, name)
	to.(*inode).node.names[newName] = n
	return 0
}

// Link gives a file a second name. It does not count a file's names.
func (i *inode) Link(ctx context.Context, target fs.InodeEmbedder, name string, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	if errno := i.disk.enter(); errno != 0 {
		return nil, errno
	}
	defer i.disk.mu.Unlock()
	if i.node.names[name] != nil {
		return nil, syscall.EEXIST
	}
	n := target.(*inode).node
	i.node.names[name] = n
	return i.show(ctx, n, out), 0
}

func (i *inode) Getattr(_ context.Context, _ fs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	if errno := i.disk.enter(); errno != 0 {
		return errno
	}
	defer i.disk.mu.Unlock()
	i.fill(i.node, &out.Attr)
	return 0
}

// Setattr changes the size; owners, modes and times are not kept.
func (i *inode) Setattr(_ context.Context, _ fs.FileHandle, in *fuse.SetAttrIn, out *fuse.AttrOut) syscall.Errno {
	if errno := i.disk.enter(); errno != 0 {
		return errno
	}
	defer i.disk.mu.Unlock()
	if size, ok := in.GetSize(); ok {
		i.node.resize(int64(size))
	}
	i.fill(i.node, &out.Attr)
	return 0
}

func (i *inode) Open(context.Context, uint32) (fs.FileHandle, uint32, syscall.Errno) {
	if errno := i.disk.enter(); errno != 0 {
		return nil, 0, errno
	}
	defer i.disk.mu.Unlock()
	return nil, 0, 0
}

func (i *inode) Read(_ context.Context, _ fs.FileHandle, dest []byte, at int64) (fuse.ReadResult, syscall.Errno) {
	if errno := i.disk.enter(); errno != 0 {
		return nil, errno
	}
	defer i.disk.mu.Unlock()
	if at >= int64(len(i.node.data)) {
		return fuse.ReadResultData(nil), 0
	}
	return fuse.ReadResultData(dest[:copy(dest, i.node.data[at:])]), 0
}

func (i *inode) Write(_ context.Context, _ fs.FileHandle, data []byte, at int64) (uint32, syscall.Errno) {
	if errno := i.disk.enter(); errno != 0 {
		return 0, errno
	}
	defer i.disk.mu.Unlock()
	i.node.write(data, at)
	return uint32(len(data)), 0
}

func (i *inode) Fsync(context.Context, fs.FileHandle, uint32) syscall.Errno {
	return i.disk.sync(i.node)
}
