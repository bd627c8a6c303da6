// Package softhsm finds the SoftHSM of this machine, for demos and tests.
package softhsm

import "os"

// Install is the command that brings the module and softhsm2-util.
const Install = "apt-get install -y softhsm2"

// modulePaths are the usual places of the PKCS#11 module.
var modulePaths = []string{
	"/usr/lib/softhsm/libsofthsm2.so",
	"/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so",
	"/usr/lib/aarch64-linux-gnu/softhsm/libsofthsm2.so",
	"/usr/lib64/softhsm/libsofthsm2.so",
	"/usr/lib64/pkcs11/libsofthsm2.so",
	"/usr/local/lib/softhsm/libsofthsm2.so",
	"/opt/homebrew/lib/softhsm/libsofthsm2.so",
}

// Module is the path of the PKCS#11 module, empty if it is nowhere.
func Module() string {
	for _, path := range modulePaths {
		if _, err := os.Stat(path); err == nil {
			return path
		}
	}
	return ""
}
