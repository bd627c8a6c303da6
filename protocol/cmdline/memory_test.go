package cmdline

import (
	"testing"
	"testing/fstest"
)

func TestMemoryLimit(t *testing.T) {
	file := func(s string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(s)} }
	v2 := fstest.MapFS{
		"proc/self/cgroup":                                    file("0::/system.slice/chatd.service\n"),
		"sys/fs/cgroup/system.slice/memory.max":               file("1000000\n"),
		"sys/fs/cgroup/memory.max":                            file("3000000\n"),
		"sys/fs/cgroup/system.slice/chatd.service/memory.max": file("max\n"),
	}
	v1 := fstest.MapFS{
		"proc/self/cgroup": file("12:cpu,cpuacct:/x\n4:memory:/docker/abc\n0::/\n"),
		"sys/fs/cgroup/memory/docker/abc/memory.limit_in_bytes": file("2000000"),
		"sys/fs/cgroup/memory/memory.limit_in_bytes":            file("9223372036854771712"),
	}
	// In a container the cgroup is the root of what is mounted.
	container := fstest.MapFS{"proc/self/cgroup": file("0::/\n"), "sys/fs/cgroup/memory.max": file("500\n")}
	for name, c := range map[string]struct {
		want  Size
		env   string
		root  fstest.MapFS
		bytes int64
		from  string
	}{
		"the environment":        {want: 5, env: "1GiB", root: v2, bytes: 0, from: "GOMEMLIMIT"},
		"the configuration":      {want: 5, root: v2, bytes: 5, from: "memory-limit"},
		"a cgroup around this":   {root: v2, bytes: 900_000, from: "cgroup"},
		"version 1":              {root: v1, bytes: 1_800_000, from: "cgroup"},
		"a container":            {root: container, bytes: 450, from: "cgroup"},
		"no limit":               {root: fstest.MapFS{"proc/self/cgroup": file("0::/a\n"), "sys/fs/cgroup/a/memory.max": file("max\n")}, from: "nothing sets one"},
		"no cgroups":             {root: fstest.MapFS{}, from: "nothing sets one"},
		"what is no cgroup file": {root: fstest.MapFS{"proc/self/cgroup": file("nonsense\n\n::\n")}, from: "nothing sets one"},
	} {
		if bytes, from := memoryLimit(c.want, c.env, c.root); bytes != c.bytes || from != c.from {
			t.Errorf("%s: %d from %s, want %d from %s", name, bytes, from, c.bytes, c.from)
		}
	}
}
