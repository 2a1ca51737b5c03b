package main

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"testing"
)

func TestCallbacks(t *testing.T) {
	names := map[string][]netip.Addr{
		"hooks.example.com": {netip.MustParseAddr("203.0.113.9"), netip.MustParseAddr("2001:db8::9")},
		"localhost":         {netip.MustParseAddr("::1"), netip.MustParseAddr("127.0.0.1")},
		"two.example.com":   {netip.MustParseAddr("203.0.113.9"), netip.MustParseAddr("169.254.169.254")},
	}
	for _, test := range []struct{ allowed, url, refused string }{
		{"", "http://hooks.example.com/done", ""},
		{"", "https://203.0.113.9", ""},
		{"", "http://127.0.0.1:9000/", ""},
		{"", "http://localhost:9000/", ""},
		{"", "http://[::1]:9000/", ""},
		{"", "http://user:word@localhost:8080/function/next", ""},
		{"10.62.0.1", "http://10.62.0.1:9000/", ""},
		{"10.0.0.0/8, fd00::/8", "http://[fd00::5]/", ""},

		{"", "", "not an absolute"},
		{"", "/relative", "not an absolute"},
		{"", "file:///etc/passwd", "not an absolute"},
		{"", "ftp://hooks.example.com/", "not an absolute"},
		{"", "http://:9000/", "not an absolute"},
		{"", "http://hooks.example.com:99999/", "not an absolute"},
		{"", "http://nowhere.example.com/", "cannot be resolved"},
		{"", "http://2130706433/", "cannot be resolved"}, // 127.0.0.1 for inet_aton
		{"", "http://127.0.0.1:6379/", "belongs to the box"},
		{"", "http://localhost:6379/", "belongs to the box"},
		{"", "http://[::ffff:127.0.0.1]:6379/", "belongs to the box"},
		{"127.0.0.1", "http://127.0.0.1:6379/", "belongs to the box"},
		{"none", "http://127.0.0.1:9000/", "is not public"},
		{"none", "http://localhost:9000/", "is not public"},
		{"10.62.0.1", "http://127.0.0.1:9000/", "is not public"},
		{"10.62.0.1", "http://10.62.0.2:9000/", "is not public"},
		{"", "http://169.254.169.254/latest/user-data", "is not public"},
		{"", "http://[::ffff:169.254.169.254]/", "is not public"},
		{"", "http://[64:ff9b::a9fe:a9fe]/", "is not public"},
		{"", "http://[2002:a9fe:a9fe::1]/", "is not public"},
		{"", "http://[fe80::1%25eth0]/", "is not public"},
		{"", "http://[fd00::5]/", "is not public"},
		{"", "http://0.0.0.0:9000/", "is not public"},
		{"", "http://[::]:9000/", "is not public"},
		{"", "http://10.0.0.7/", "is not public"},
		{"", "http://172.20.0.7/", "is not public"},
		{"", "http://192.168.1.1/", "is not public"},
		{"", "http://100.64.1.1/", "is not public"},
		{"", "http://224.0.0.1/", "is not public"},
		{"", "http://255.255.255.255/", "is not public"},
		{"", "http://two.example.com/", "is not public"},
	} {
		c, err := newCallbacks(test.allowed, "27017,6379")
		if err != nil {
			t.Fatal(err)
		}
		c.resolve = func(_ context.Context, host string) ([]netip.Addr, error) {
			if addresses, ok := names[host]; ok {
				return addresses, nil
			}
			return nil, errors.New("no such host")
		}
		u, err := c.parse(t.Context(), test.url)
		switch {
		case test.refused == "" && (err != nil || u.String() != test.url):
			t.Errorf("CALLBACK_NETWORKS=%s: %s: %v, %v", test.allowed, test.url, u, err)
		case test.refused != "" && (err == nil || !strings.Contains(err.Error(), test.refused)):
			t.Errorf("CALLBACK_NETWORKS=%s: %s: %v, want %q", test.allowed, test.url, err, test.refused)
		}
	}
	for allowed, closed := range map[string]string{"here": "", "10.0.0.0/40": "", "": "redis"} {
		if _, err := newCallbacks(allowed, closed); err == nil {
			t.Errorf("%q and %q are taken", allowed, closed)
		}
	}
}
