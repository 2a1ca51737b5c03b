package front

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"time"

	"github.com/kiosk-shop/kiosk/faasd/edge/internal/budget"
	"github.com/kiosk-shop/kiosk/faasd/edge/internal/gateway"
)

const (
	// maxBodies bounds the bytes of bodies in memory, in all, from their arrival
	// until the function has answered. What is small is not counted.
	maxBodies = 8 << 20
	// maxExcess is how much of a refused body is read and discarded: a
	// client that is cut off while it still sends may never see why, least of all
	// one behind a proxy.
	maxExcess = 8 << 20
	// patience is how long a body may pause, and what it has beside minRate.
	patience = 5 * time.Second
	// minRate is how fast a body has to arrive, in bytes a second.
	minRate = 16 << 10
	// longest is how long a body may take in any case, so that there is time left
	// for its answer.
	longest = 40 * time.Second
)

// readBody returns the request's body, whole, or the answer to one that is too
// large, too slow, or too much on top of all the others.
func (f *Handler) readBody(w http.ResponseWriter, r *http.Request, limit int64, client string) (*budget.Bytes, *gateway.Answer) {
	if r.ContentLength == 0 {
		return &budget.Bytes{}, nil
	}
	paced := &pacedReader{body: r.Body, controller: http.NewResponseController(w), start: time.Now()}
	if r.ContentLength > limit {
		return nil, f.discard(w, r, paced, tooLarge(limit))
	}
	body, err := f.bodies.Read(paced, r.ContentLength, limit, client)
	switch {
	case err == nil:
		_ = paced.controller.SetReadDeadline(time.Time{}) // else the call would end with it
		return body, nil
	case errors.Is(err, budget.ErrTooLarge):
		return nil, f.discard(w, r, paced, tooLarge(limit))
	case errors.Is(err, budget.ErrFull):
		slog.Warn("too many request bytes in progress", "limit", maxBodies, "client", client)
		return nil, f.discard(w, r, paced, gateway.Unavailable("too many large requests are in progress: try again", time.Second))
	case errors.Is(err, os.ErrDeadlineExceeded):
		w.Header().Set("Connection", "close")
		return nil, gateway.NewProblem(http.StatusRequestTimeout, fmt.Sprintf("the request body arrived too slowly: send it without pauses of more than %s, and at %d bytes a second or faster", patience, minRate))
	default:
		return nil, gateway.NewProblem(http.StatusBadRequest, "the request body is incomplete")
	}
}

// discard reads the rest of a body for the client to see the answer, unless
// that is too much, or the client waits for leave to send it.
func (f *Handler) discard(w http.ResponseWriter, r *http.Request, body *pacedReader, answer *gateway.Answer) *gateway.Answer {
	if r.ContentLength > maxExcess || body.read == 0 && r.Header.Get("Expect") != "" {
		w.Header().Set("Connection", "close")
	} else if n, err := io.Copy(io.Discard, io.LimitReader(body, maxExcess+1)); err != nil || n > maxExcess {
		w.Header().Set("Connection", "close")
	}
	return answer
}

func tooLarge(limit int64) *gateway.Answer {
	return gateway.NewProblem(http.StatusRequestEntityTooLarge, fmt.Sprintf("the request body is larger than %d bytes", limit))
}

// pacedReader fails when a body pauses, or trickles.
type pacedReader struct {
	body       io.Reader
	controller *http.ResponseController
	start      time.Time
	read       int64
}

func (p *pacedReader) Read(b []byte) (int, error) {
	deadline := p.start.Add(min(patience+time.Duration(p.read)*time.Second/minRate, longest))
	if pause := time.Now().Add(patience); pause.Before(deadline) {
		deadline = pause
	}
	_ = p.controller.SetReadDeadline(deadline) // an answer that is only recorded has no connection
	n, err := p.body.Read(b)
	p.read += int64(n)
	return n, err
}
