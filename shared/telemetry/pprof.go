package telemetry

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"time"
)

// Profile serves Go's profiler at an address of its own, such as 127.0.0.1:6060,
// until stop; an empty address is none. Whoever can reach it can stop the world
// and read memory, so an address of all interfaces is an error.
func Profile(address string) (stop func(), err error) {
	if address == "" {
		return func() {}, nil
	}
	host, _, err := net.SplitHostPort(address)
	if err != nil || host == "" {
		return nil, errors.New("PPROF_ADDR is not an address such as 127.0.0.1:6060")
	}
	if ip := net.ParseIP(host); ip != nil && ip.IsUnspecified() {
		return nil, errors.New("PPROF_ADDR names all interfaces: name one that only you can reach, such as 127.0.0.1:6060")
	}
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("PPROF_ADDR: %w", err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second, WriteTimeout: 2 * time.Minute, MaxHeaderBytes: 16 << 10}
	go func() { _ = server.Serve(listener) }() // it ends with stop
	slog.Info("profiler listening", "address", listener.Addr().String())
	return func() { _ = server.Close() }, nil
}
