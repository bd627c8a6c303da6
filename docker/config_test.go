package docker

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// checks is how each file in config is checked without serving.
var checks = map[string][]string{
	"chatd":  {"chatd", "check-config", "--config"},
	"limits": {"chatd", "limits", "check"},
	"vaultd": {"vaultd", "serve", "--check-config", "--config"},
}

// localised copies a shipped file, with the paths inside the container replaced
// by those of this machine, and returns the copy.
func localised(t *testing.T, file string, extra ...string) string {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	config, err := filepath.Abs("config") // mounted at /etc/chatvault
	if err != nil {
		t.Fatal(err)
	}
	text := strings.NewReplacer("/var/lib/chatvault", base, "/etc/chatvault", config).Replace(string(b)) + strings.Join(extra, "\n")
	copied := filepath.Join(t.TempDir(), filepath.Base(file))
	if err := os.WriteFile(copied, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return copied
}

func TestEveryShippedConfigIsGood(t *testing.T) {
	files, err := filepath.Glob("config/*")
	if err != nil || len(files) != len(checks) {
		t.Fatalf("shipped: %v, %v", files, err)
	}
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".yaml")
		check, ok := checks[name]
		if !ok {
			t.Errorf("%s: no program reads it", file)
			continue
		}
		program, args := check[0], check[1:]
		if out, err := run(program, append(args, localised(t, file))...); err != nil {
			t.Errorf("%s: %v: %s", file, err, out)
		}
		// The same check must see what is wrong.
		if out, err := run(program, append(args, localised(t, file, "\nno-such-setting: 1\n"))...); err == nil || !strings.Contains(out, "no-such-setting") {
			t.Errorf("%s with an unknown setting: %v: %s", file, err, out)
		}
	}
}

// What the configurations say of each other must agree.
func TestShippedConfigsFitTogether(t *testing.T) {
	c := parseCompose(t)
	var chatd struct {
		Listen      string   `yaml:"listen"`
		BehindProxy []string `yaml:"behind-proxy"`
		Host        []string `yaml:"host"`
		Fleet       string   `yaml:"fleet"`
		Vault       []string `yaml:"vault"`
		Redis       string   `yaml:"redis"`
	}
	var vaultd struct {
		Listen string `yaml:"listen"`
		Fleet  string `yaml:"fleet"`
		Store  string `yaml:"store"`
	}
	readYAML(t, "config/chatd.yaml", &chatd, false)
	readYAML(t, "config/vaultd.yaml", &vaultd, false)
	port := func(addr string) string { return addr[strings.LastIndex(addr, ":")+1:] }

	if chatd.Fleet != vaultd.Fleet {
		t.Errorf("fleets: %q and %q", chatd.Fleet, vaultd.Fleet)
	}
	if len(chatd.Vault) != 1 || chatd.Vault[0] != "vaultd:"+port(vaultd.Listen) {
		t.Errorf("chatd dials %v, vaultd listens on %s", chatd.Vault, vaultd.Listen)
	}
	published := c.Services["chatd"].Ports
	if len(published) != 1 || published[0] != "127.0.0.1:8080:"+port(chatd.Listen) || chatd.Host[0] != "127.0.0.1:8080" {
		t.Errorf("published %v, listens on %s, is called %v", published, chatd.Listen, chatd.Host)
	}
	subnet := c.Networks["public"].IPAM.Config[0].Subnet
	if len(chatd.BehindProxy) != 1 || chatd.BehindProxy[0] != subnet {
		t.Errorf("chatd believes in %v, clients come through %s", chatd.BehindProxy, subnet)
	}
	if !strings.HasPrefix(chatd.Redis, "redis://redis:") {
		t.Errorf("chatd's Redis is %s", chatd.Redis)
	}
	if !mounted(c.Services["vaultd"], strings.TrimPrefix(vaultd.Store, "pebble:")) {
		t.Errorf("vaultd's records in %s would not survive its container", vaultd.Store)
	}
}
