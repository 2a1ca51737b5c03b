package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
)

// routes is the HTTP API.
func routes(box *mailbox, faults *faults) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("OK\n")) })
	mux.HandleFunc("GET /api/messages", func(w http.ResponseWriter, r *http.Request) {
		limit := maxKept
		if text := r.URL.Query().Get("limit"); text != "" {
			n, err := strconv.Atoi(text)
			if err != nil || n < 1 {
				http.Error(w, "limit must be an integer of at least 1.", http.StatusBadRequest)
				return
			}
			limit = n
		}
		answerList(w, box.list(limit, r.URL.Query().Get("to")))
	})
	mux.HandleFunc("DELETE /api/messages", func(w http.ResponseWriter, _ *http.Request) {
		box.clear()
		w.WriteHeader(http.StatusNoContent)
	})

	// Faults are for tests of senders, so they can only be set from this machine.
	local := func(pattern string, h http.HandlerFunc) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			host, _, err := net.SplitHostPort(r.RemoteAddr)
			if ip := net.ParseIP(host); err != nil || ip == nil || !ip.IsLoopback() {
				http.Error(w, "Faults can only be set from this machine.", http.StatusForbidden)
				return
			}
			h(w, r)
		})
	}
	show := func(w http.ResponseWriter, _ *http.Request) {
		mode, count := faults.get()
		answer(w, fault{mode, &count})
	}
	local("GET /api/faults", show)
	local("PUT /api/faults", func(w http.ResponseWriter, r *http.Request) {
		var f fault
		decoder := json.NewDecoder(http.MaxBytesReader(w, r.Body, 4096))
		decoder.DisallowUnknownFields()
		if err := decoder.Decode(&f); err != nil {
			http.Error(w, "The request body is not valid: "+err.Error(), http.StatusBadRequest)
			return
		}
		count := 1
		if f.Count != nil {
			count = *f.Count
		}
		if !slices.Contains(modes, f.Mode) || count < 1 {
			http.Error(w, fmt.Sprintf("mode must be one of %s, and count an integer of at least 1.", strings.Join(modes, ", ")), http.StatusBadRequest)
			return
		}
		faults.set(f.Mode, count)
		show(w, r)
	})
	local("DELETE /api/faults", func(w http.ResponseWriter, _ *http.Request) {
		faults.set("", 0)
		w.WriteHeader(http.StatusNoContent)
	})
	return mux
}

// fault is a mode of failure, and how many of the next messages it affects.
type fault struct {
	Mode  string `json:"mode"`
	Count *int   `json:"count,omitempty"`
}

func answer(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(v); err != nil {
		slog.Warn("response not written", "error", err)
	}
}

// answerList writes the messages as an array, one by one: all of them as one text would
// take several times the mailbox's memory.
func answerList(w http.ResponseWriter, messages []Message) {
	w.Header().Set("Content-Type", "application/json")
	out := bufio.NewWriter(w)
	encoder := json.NewEncoder(out)
	_ = out.WriteByte('[') // an error stays until Flush
	for i, m := range messages {
		if i > 0 {
			_ = out.WriteByte(',')
		}
		if encoder.Encode(m) != nil {
			break
		}
	}
	_, _ = out.WriteString("]\n")
	if err := out.Flush(); err != nil {
		slog.Warn("response not written", "error", err)
	}
}
