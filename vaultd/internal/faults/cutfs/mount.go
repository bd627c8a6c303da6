package cutfs

import (
	"context"
	"fmt"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
)

// Mount mounts the disk. It needs /dev/fuse, and root or fusermount3; where there
// is none it fails. Unmount the disk when nothing has files open there.
func (d *Disk) Mount(dir string) (unmount func() error, err error) {
	server, err := fs.Mount(dir, &inode{disk: d, node: d.root}, &fs.Options{
		MountOptions: fuse.MountOptions{DirectMount: true, FsName: "cutfs", Name: "cutfs", MaxWrite: 1 << 20},
	})
	if err != nil {
		return nil, fmt.Errorf("mounting a FUSE file system (needs /dev/fuse, and root or the package fuse3): %w", err)
	}
	return func() error {
		// Forced: calls under way fail, so that nothing waits for a disk without
		// power. Where only fusermount3 may unmount, it does so below.
		if syscall.Unmount(dir, syscall.MNT_FORCE) != nil {
			return server.Unmount()
		}
		server.Wait()
		return nil
	}, nil
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

func (n *node) fill(out *fuse.Attr) {
	out.Mode, out.Ino, out.Nlink = n.mode(), n.ino, 1
	out.Size = uint64(len(n.data))
	out.Blocks, out.Blksize = (out.Size+sectorSize-1)/sectorSize, 4096
}

// show gives a node to the kernel.
func (i *inode) show(ctx context.Context, n *node, out *fuse.EntryOut) *fs.Inode {
	n.fill(&out.Attr)
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
	n := i.node.names[name]
	delete(i.node.names, name)
	to.(*inode).node.names[newName] = n
	return 0
}

func (i *inode) Getattr(_ context.Context, _ fs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	if errno := i.disk.enter(); errno != 0 {
		return errno
	}
	defer i.disk.mu.Unlock()
	i.node.fill(&out.Attr)
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
	i.node.fill(&out.Attr)
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
