package client

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
)

// Target has the addresses of one Kiosk's parts, and its administrator.
type Target struct {
	Front     string // URL of the front door
	Gateway   string // URL of OpenFaaS's gateway
	GRPC      string // host:port of the gRPC facade
	Mail      string // URL of the SMTP sink's API
	NATS      string // URL
	Telemetry string // URL of the sink of traces and metrics

	AdminEmail    string
	AdminPassword string
}

// FromEnv returns the target that the environment names. KIOSK_URL is the front
// door, by default the local box's. The other parts are on the same host at their
// default ports, unless KIOSK_GATEWAY, KIOSK_GRPC, KIOSK_MAIL, KIOSK_NATS or
// KIOSK_TELEMETRY is set. The administrator is ADMIN_EMAIL with ADMIN_PASSWORD, or
// with the password in DATA_DIR that a local box has made. FromEnv fails without a
// password, or if KIOSK_URL is not an address.
func FromEnv() (Target, error) {
	front := strings.TrimRight(cmp.Or(os.Getenv("KIOSK_URL"), "http://127.0.0.1:8000"), "/")
	u, err := url.Parse(front)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" {
		return Target{}, fmt.Errorf("KIOSK_URL is %q: it must be an address such as http://127.0.0.1:8000", front)
	}
	at := func(scheme, port string) string { return scheme + net.JoinHostPort(u.Hostname(), port) }
	t := Target{
		Front:      front,
		Gateway:    strings.TrimRight(cmp.Or(os.Getenv("KIOSK_GATEWAY"), at("http://", "8080")), "/"),
		GRPC:       cmp.Or(os.Getenv("KIOSK_GRPC"), at("", "50051")),
		Mail:       strings.TrimRight(cmp.Or(os.Getenv("KIOSK_MAIL"), at("http://", "8025")), "/"),
		Telemetry:  strings.TrimRight(cmp.Or(os.Getenv("KIOSK_TELEMETRY"), at("http://", "4318")), "/"),
		NATS:       cmp.Or(os.Getenv("KIOSK_NATS"), at("nats://", "4222")),
		AdminEmail: cmp.Or(os.Getenv("ADMIN_EMAIL"), "admin@kiosk.local"),
	}
	t.AdminPassword, err = adminPassword()
	return t, err
}

func adminPassword() (string, error) {
	if password := os.Getenv("ADMIN_PASSWORD"); password != "" {
		return password, nil
	}
	path := filepath.Join(cmp.Or(os.Getenv("DATA_DIR"), ".data"), "admin-password")
	password, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "", fmt.Errorf("the administrator's password is neither in ADMIN_PASSWORD nor in %s: start a box with `make run`, or set DATA_DIR to that of a running box", path)
	case err != nil:
		return "", fmt.Errorf("the administrator's password: %w", err)
	}
	return strings.TrimSpace(string(password)), nil
}
