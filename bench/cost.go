package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/kiosk-shop/kiosk/bench/load"
	"github.com/kiosk-shop/kiosk/faasd/acceptance/client"
)

// cost is the processor time per order, from placing to letter.
type cost struct {
	Orders int                `json:"orders"`
	Box    map[string]float64 `json:"box_ms"` // per order, by program
	Total  float64            `json:"total_ms"`
	// The load generator's, which is not in Total.
	Generator float64 `json:"generator_ms"`
	Seconds   float64 `json:"seconds"` // from the first order to the last letter
}

// orderCost places exactly n orders, waits until all are settled and every letter has
// arrived, and returns the box's processor time for that.
func (s *shop) orderCost(ctx context.Context, clients, n int) (cost, error) {
	if s.box == nil {
		return cost{}, errors.New("processor time can only be measured in a box of its own: unset KIOSK_URL")
	}
	if err := s.settled(ctx); err != nil {
		return cost{}, err
	}
	if err := s.clearLetters(ctx); err != nil {
		return cost{}, err
	}
	before, ownBefore, err := s.usage()
	if err != nil {
		return cost{}, err
	}
	began := time.Now()
	r := load.Exactly(ctx, clients, n, s.ordering(client.FrontDoor, false, s.tracker.place))
	if r.Done != n {
		return cost{}, fmt.Errorf("%d of %d orders were placed: %w", r.Done, n, r.Failure)
	}
	ownAfter := own()
	if err := s.settled(ctx); err != nil {
		return cost{}, err
	}
	took := time.Since(began)
	after, _, err := s.usage()
	if err != nil {
		return cost{}, err
	}
	spent, err := after.since(before)
	if err != nil {
		return cost{}, err
	}
	letters, err := s.confirmations(ctx)
	if err != nil {
		return cost{}, err
	}
	if len(letters) != n {
		return cost{}, fmt.Errorf("%d orders had %d letters", n, len(letters))
	}
	c := cost{Orders: n, Box: map[string]float64{}, Seconds: took.Seconds(), Generator: milliseconds(ownAfter-ownBefore) / float64(n)}
	for name, d := range spent {
		c.Box[name] = milliseconds(d) / float64(n)
	}
	c.Total = total(c.Box)
	return c, nil
}

// letter is a confirmation in the mail sink.
type letter struct {
	Subject    string    `json:"subject"`
	Text       string    `json:"text"`
	ReceivedAt time.Time `json:"received_at"`
}

// clearLetters empties the sink, so that reading it stays cheap.
func (s *shop) clearLetters(ctx context.Context) error {
	return s.sink(ctx, "DELETE", nil)
}

// confirmations returns when the letter of each order has arrived in the sink.
func (s *shop) confirmations(ctx context.Context) (map[string]time.Time, error) {
	var letters []letter
	if err := s.sink(ctx, "GET", &letters); err != nil {
		return nil, err
	}
	arrived := map[string]time.Time{}
	for _, l := range letters {
		if l.Subject != client.Confirmation {
			continue
		}
		if _, after, ok := strings.Cut(l.Text, "\nOrder "); ok {
			arrived[strings.TrimSpace(strings.SplitN(after, "\n", 2)[0])] = l.ReceivedAt
		}
	}
	return arrived, nil
}
