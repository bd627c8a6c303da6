package main

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

// What the demo shows hangs on look seeing every difference.
func TestLookSeesEveryDifference(t *testing.T) {
	root := filepath.Join(t.TempDir(), "planted")
	if err := plant(root); err != nil {
		t.Fatal(err)
	}
	before, err := look(root)
	if err != nil {
		t.Fatal(err)
	}
	if before.bytes < 50e6 || before.files < 600 || before.links != 3 {
		t.Errorf("planted %v", before)
	}
	in := func(name string) string { return filepath.Join(root, name) }
	for _, change := range []struct {
		name string
		do   func() error
	}{
		{"nothing", func() error { return nil }},
		{"content", func() error {
			info, err := os.Stat(in("run.sh"))
			if err != nil {
				return err
			}
			if err := os.WriteFile(in("run.sh"), []byte("#!/bin/sh\necho hellO\n"), 0); err != nil {
				return err
			}
			return os.Chtimes(in("run.sh"), info.ModTime(), info.ModTime()) // nothing else shows it
		}},
		{"mode", func() error { return os.Chmod(in("run.sh"), 0o700) }},
		{"time", func() error { return os.Chtimes(in("empty.file"), time.Time{}, born.Add(1)) }},
		{"a folder less", func() error { return os.Remove(in("empty folder/also empty")) }},
		{"another link", func() error {
			if err := os.Remove(in("dangling")); err != nil {
				return err
			}
			return os.Symlink("elsewhere", in("dangling"))
		}},
		{"another name", func() error { return os.Rename(in("names/cafe\u0301.txt"), in("names/caf\u00e9.txt")) }},
	} {
		if err := change.do(); err != nil {
			t.Fatalf("%s: %v", change.name, err)
		}
		after, err := look(root)
		if err != nil {
			t.Fatal(err)
		}
		if (after.sum == before.sum) != (change.name == "nothing") {
			t.Errorf("%s: the sum says otherwise", change.name)
		}
		before = after
	}
}

func TestPlantIsTheSameEachTime(t *testing.T) {
	var sums [2][32]byte
	for i := range sums {
		root := filepath.Join(t.TempDir(), "planted")
		if err := plant(root); err != nil {
			t.Fatal(err)
		}
		got, err := look(root)
		if err != nil {
			t.Fatal(err)
		}
		sums[i] = got.sum
	}
	if sums[0] != sums[1] {
		t.Error("two runs differ: the gardener is not deterministic")
	}
}
