package redisconn

import (
	"errors"
	"reflect"
	"strings"
	"testing"
)

func TestParse(t *testing.T) {
	for text, want := range map[string]Address{
		"embedded":                                {Kind: Embedded},
		"redis://localhost":                       {Kind: Single, Hosts: []string{"localhost:6379"}},
		"rediss://chatd@r.example:7000/3":         {Kind: Single, TLS: true, User: "chatd", Hosts: []string{"r.example:7000"}, DB: 3},
		"redis://a%40b@[::1]:1/":                  {Kind: Single, User: "a@b", Hosts: []string{"[::1]:1"}},
		"redis://[::1]":                           {Kind: Single, Hosts: []string{"[::1]:6379"}},
		"unix:///run/redis/s":                     {Kind: Single, Socket: "/run/redis/s"},
		"redis-sentinel://a,b:1,[::1]:2/mymaster": {Kind: Sentinel, Hosts: []string{"a:26379", "b:1", "[::1]:2"}, Master: "mymaster"},
		"rediss-sentinel://u@a/m/2":               {Kind: Sentinel, TLS: true, User: "u", Hosts: []string{"a:26379"}, Master: "m", DB: 2},
		"redis-cluster://a:1,b":                   {Kind: Cluster, Hosts: []string{"a:1", "b:6379"}},
		"rediss-cluster://a/0":                    {Kind: Cluster, TLS: true, Hosts: []string{"a:6379"}},
	} {
		if got, err := Parse(text); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %+v, %v; want %+v", text, got, err, want)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	for text, want := range map[string]string{
		"":                              "want embedded",
		"localhost:6379":                "want embedded",
		"http://localhost":              "want embedded",
		"redis://":                      "host:port",
		"redis://a:0":                   "host:port",
		"redis://a:65536":               "host:port",
		"redis://a:b":                   "host:port",
		"redis://a,b":                   "redis-sentinel://",
		"redis://a/x":                   "number",
		"redis://a/-1":                  "number",
		"redis://a?skip_verify=true":    "question mark",
		"rediss://a/0?password=hunter2": "question mark",
		"redis://:hunter2@a":            "password",
		"redis://u:hunter2@a":           "password",
		"redis://@a":                    "user",
		"redis://%zz@a":                 "user",
		"redis-cluster://u:hunter2@a,b": "password",
		"redis-cluster://a/1":           "database but 0",
		"redis-sentinel://a,b":          "master's name",
		"redis-sentinel://a,,b/m":       "host:port",
		"unix://relative":               "whole path",
		"unix://hunter2@/run/s":         "password",
	} {
		_, err := Parse(text)
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: %v; want %q", text, err, want)
		}
		if want == "password" && !errors.Is(err, ErrPassword) {
			t.Errorf("%s: not the error that says where passwords belong", text)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add("redis://chatd@r.example:7000/3")
	f.Add("redis-sentinel://a,b:1,[::1]:2/mymaster/1")
	f.Add("rediss-cluster://u%20x@a,b")
	f.Add("unix:///run/redis/s")
	f.Fuzz(func(t *testing.T, text string) {
		a, err := Parse(text)
		if err != nil {
			return
		}
		if a.Kind != Embedded && a.Socket == "" && len(a.Hosts) == 0 {
			t.Errorf("%q leads nowhere", text)
		}
		if a.Kind == Sentinel && a.Master == "" || a.Kind == Cluster && a.DB != 0 || a.DB < 0 {
			t.Errorf("%q: %+v", text, a)
		}
	})
}
