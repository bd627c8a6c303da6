package docker

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// compose is all of the compose format that our file may use: whatever is not
// here is a slip.
type compose struct {
	Name     string             `yaml:"name"`
	Services map[string]service `yaml:"services"`
	Networks map[string]struct {
		Internal bool `yaml:"internal"`
		IPAM     struct {
			Config []struct {
				Subnet string `yaml:"subnet"`
			} `yaml:"config"`
		} `yaml:"ipam"`
	} `yaml:"networks"`
	Volumes map[string]struct{} `yaml:"volumes"`
}

type service struct {
	Build *struct {
		Context    string            `yaml:"context"`
		Dockerfile string            `yaml:"dockerfile"`
		Target     string            `yaml:"target"`
		Args       map[string]string `yaml:"args"`
	} `yaml:"build"`
	Image      string   `yaml:"image"`
	Entrypoint []string `yaml:"entrypoint"`
	Command    []string `yaml:"command"`
	DependsOn  map[string]struct {
		Condition string `yaml:"condition"`
	} `yaml:"depends_on"`
	User        string   `yaml:"user"`
	ReadOnly    bool     `yaml:"read_only"`
	Tmpfs       []string `yaml:"tmpfs"`
	NetworkMode string   `yaml:"network_mode"`
	Networks    []string `yaml:"networks"`
	Ports       []string `yaml:"ports"`
	CapDrop     []string `yaml:"cap_drop"`
	SecurityOpt []string `yaml:"security_opt"`
	Restart     string   `yaml:"restart"`
	StopGrace   string   `yaml:"stop_grace_period"`
	Volumes     []string `yaml:"volumes"`
}

func parseCompose(t *testing.T) compose {
	t.Helper()
	var c compose
	readYAML(t, "compose.yaml", &c, true)
	return c
}

func readYAML(t *testing.T, file string, to any, strict bool) {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	d := yaml.NewDecoder(f)
	d.KnownFields(strict)
	if err := d.Decode(to); err != nil {
		t.Fatalf("%s: %v", file, err)
	}
}

// mounted says whether a volume or a folder of the host is at path.
func mounted(s service, path string) bool {
	return slices.ContainsFunc(s.Volumes, func(v string) bool {
		parts := strings.Split(v, ":")
		return len(parts) > 1 && parts[1] == path
	})
}

func TestComposeNamesWhatIsThere(t *testing.T) {
	c := parseCompose(t)
	if len(c.Services) != 4 {
		t.Errorf("%d services", len(c.Services))
	}
	for name, s := range c.Services {
		for other, d := range s.DependsOn {
			if _, ok := c.Services[other]; !ok || !slices.Contains([]string{"service_started", "service_completed_successfully"}, d.Condition) {
				t.Errorf("%s depends on %s, %s", name, other, d.Condition)
			}
		}
		for _, n := range s.Networks {
			if _, ok := c.Networks[n]; !ok {
				t.Errorf("%s: there is no network %s", name, n)
			}
		}
		for _, v := range s.Volumes {
			source, _, _ := strings.Cut(v, ":")
			if strings.HasPrefix(source, ".") {
				if _, err := os.Stat(source); err != nil {
					t.Errorf("%s mounts: %v", name, err)
				}
			} else if _, ok := c.Volumes[source]; !ok {
				t.Errorf("%s: there is no volume %s", name, source)
			}
		}
		checkImage(t, name, s)
	}
}

func checkImage(t *testing.T, name string, s service) {
	t.Helper()
	if s.Build == nil {
		if _, tag, ok := strings.Cut(s.Image, ":"); !ok || tag == "latest" {
			t.Errorf("%s: image %q has no version", name, s.Image)
		}
		return
	}
	if abs, err := filepath.Abs(s.Build.Context); err != nil || abs != absRoot(t) {
		t.Errorf("%s: build context %s is not the repository", name, s.Build.Context)
	}
	stages := parseDockerfile(t, filepath.Join(root, s.Build.Dockerfile))
	for _, arg := range stages[0].args {
		if s.Build.Args[arg] != "${"+arg+":-}" {
			t.Errorf("%s: the build's %s is %q", name, arg, s.Build.Args[arg])
		}
	}
	if len(s.Build.Args) != len(stages[0].args) {
		t.Errorf("%s: builds with %v, want %v", name, s.Build.Args, stages[0].args)
	}
	target := stages[len(stages)-1]
	if s.Build.Target != "" {
		i := slices.IndexFunc(stages, func(st stage) bool { return st.name == s.Build.Target })
		if i < 0 {
			t.Fatalf("%s: %s has no stage %s", name, s.Build.Dockerfile, s.Build.Target)
		}
		target = stages[i]
	}
	if s.User != target.user {
		t.Errorf("%s runs as %s, the image's files are for %s", name, s.User, target.user)
	}
}

// Nothing runs as root, writes to its image, or gains a privilege; only chatd
// can be reached, and the uplink leads nowhere else.
func TestComposeGivesNoMoreThanNeeded(t *testing.T) {
	c := parseCompose(t)
	for name, s := range c.Services {
		uid, _, _ := strings.Cut(s.User, ":")
		if uid == "" || uid == "0" || uid == "root" || !s.ReadOnly ||
			!slices.Equal(s.CapDrop, []string{"ALL"}) || !slices.Contains(s.SecurityOpt, "no-new-privileges:true") {
			t.Errorf("%s: user %q, read-only %v, drops %v, %v", name, s.User, s.ReadOnly, s.CapDrop, s.SecurityOpt)
		}
		if (len(s.Ports) > 0) != (name == "chatd") {
			t.Errorf("%s publishes %v", name, s.Ports)
		}
	}
	if !c.Networks["uplink"].Internal || !c.Networks["redis"].Internal {
		t.Error("uplink and redis must be internal networks")
	}
	if !slices.Equal(c.Services["vaultd"].Networks, []string{"uplink"}) {
		t.Errorf("vaultd is on %v", c.Services["vaultd"].Networks)
	}
	for _, name := range []string{"chatd", "redis"} {
		for _, secret := range []string{"/var/lib/chatvault/vault", "/var/lib/chatvault/app", "/var/lib/chatvault", "/var/lib/vaultd"} {
			if mounted(c.Services[name], secret) {
				t.Errorf("%s sees %s", name, secret)
			}
		}
	}
}

// The commands of our own services, with the files that they mount, are good
// command lines of the real programs.
func TestComposeCommandsParse(t *testing.T) {
	c := parseCompose(t)
	for _, name := range []string{"chatd", "vaultd"} {
		s := c.Services[name]
		if len(s.Command) != 3 || s.Command[0] != "serve" || s.Command[1] != "--config" {
			t.Fatalf("%s: command %q", name, s.Command)
		}
		i := slices.IndexFunc(s.Volumes, func(v string) bool { return strings.Split(v, ":")[1] == s.Command[2] })
		if i < 0 {
			t.Fatalf("%s: %s is not mounted", name, s.Command[2])
		}
		host, _, _ := strings.Cut(s.Volumes[i], ":")
		if out, err := run(name, append(checks[name][1:], localised(t, host))...); err != nil {
			t.Errorf("%s: %v: %s", name, err, out)
		}
	}
}

func absRoot(t *testing.T) string {
	t.Helper()
	abs, err := filepath.Abs(root)
	if err != nil {
		t.Fatal(err)
	}
	return abs
}
